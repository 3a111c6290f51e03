//! When to send: back-off and rate limit, pure over time.

use std::time::Duration;
use tokio::time::Instant;

/// Uniform between 0 and the step, which doubles with each attempt (from 0): many clients that failed together do not come back together.
/// `random` is in 0..1.
pub(crate) fn full_jitter(attempt: u32, first: Duration, longest: Duration, random: f64) -> Duration {
    let step = first.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(longest);
    step.mul_f64(random.clamp(0.0, 1.0))
}

/// A token bucket: `burst` requests at once, `per_second` in the long run.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full. `per_second` above 0, `burst` at least 1.
    pub(crate) fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Self { per_second, burst: burst.max(1.0), tokens: burst.max(1.0), at: now }
    }

    /// Takes a token, now or ahead of time: how long to wait before what it is for.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst) - 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        let at = |attempt, random| full_jitter(attempt, first, longest, random);
        assert_eq!([at(0, 1.0), at(1, 1.0), at(3, 0.5), at(6, 1.0), at(500, 1.0)].map(|d| d.as_secs()), [1, 2, 4, 60, 60]);
        assert_eq!(at(5, 0.0), Duration::ZERO);
    }

    proptest! {
        /// Whatever the arrivals, no window sees more than burst + rate × window.
        #[test]
        fn the_rate_holds(per_second in 0.5f64..50.0, burst in 1u32..10, gaps in proptest::collection::vec(0u64..500, 1..80)) {
            let start = Instant::now();
            let mut bucket = Bucket::new(per_second, f64::from(burst), start);
            let mut now = start;
            let sent: Vec<f64> = gaps.iter().map(|gap| {
                now += Duration::from_millis(*gap);
                now += bucket.take(now);
                (now - start).as_secs_f64()
            }).collect();
            for (i, from) in sent.iter().enumerate() {
                for (j, to) in sent.iter().enumerate().skip(i) {
                    prop_assert!((j - i + 1) as f64 <= f64::from(burst) + per_second * (to - from) + 0.001);
                }
            }
        }
    }
}
