//! When the next records are due.

use crate::dice::Dice;
use std::time::Duration;
use tokio::time::Instant;

/// Records that are due at nearly the same time come in one batch: a batch for each record would cost more than the records, in fsyncs above all.
const BATCH_EVERY: Duration = Duration::from_millis(50);
/// A source that was held up makes up for this much, not for hours.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Pace {
    Unlimited,
    /// Record `first` was due at `since`; `rate` a second.
    Steady {
        rate: f64,
        since: Instant,
        first: u64,
    },
    /// Record `number` is due at `next`, the one after it a random time later.
    Random {
        max: Duration,
        seed: u64,
        next: Instant,
        number: u64,
    },
}

impl Pace {
    pub(crate) fn new(rate: f64, max_interval: Option<Duration>, seed: u64, n: u64, now: Instant) -> Self {
        match max_interval {
            Some(max) if !max.is_zero() => Self::Random { max, seed, next: now, number: n },
            _ if rate <= 0.0 => Self::Unlimited,
            _ => Self::Steady { rate, since: now, first: n },
        }
    }

    /// How many records from `n` on are due, at least one; or when to ask again.
    pub(crate) fn due(&mut self, n: u64, now: Instant) -> Result<u64, Instant> {
        match self {
            Pace::Unlimited => Ok(u64::MAX),
            Pace::Steady { rate, since, first } => {
                let due_at = |number: u64| *since + Duration::from_secs_f64(number.saturating_sub(*first) as f64 / *rate);
                if now > due_at(n) + CATCH_UP_MAX {
                    (*since, *first) = (now - CATCH_UP_MAX, n);
                }
                let batch = ((*rate * BATCH_EVERY.as_secs_f64()) as u64).max(1);
                let at = *since + Duration::from_secs_f64((n + batch - 1 - *first) as f64 / *rate);
                if now < at {
                    return Err(at);
                }
                let due = *first + (now.saturating_duration_since(*since).as_secs_f64() * *rate) as u64 + 1;
                // At its very time a record may seem not to be due yet: floats.
                Ok(due.saturating_sub(n).max(batch))
            }
            Pace::Random { max, seed, next, number } => {
                if now > *next + CATCH_UP_MAX {
                    *next = now - CATCH_UP_MAX;
                }
                // Batches may have ended before what was due: those records are due now.
                let late = number.saturating_sub(n);
                let mut due = late;
                while *next <= now {
                    *next += Duration::from_micros(Dice::new(!*seed, *number).below(max.as_micros() as u64 + 1).max(1));
                    *number += 1;
                    due += 1;
                }
                if due > 0 { Ok(due) } else { Err(*next) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of `seconds`, and how many batches they came in, taken as soon as they are due.
    fn run(mut pace: Pace, start: Instant, seconds: u64) -> (u64, u64) {
        let (mut n, mut batches, mut now) = (100, 0, start);
        while now < start + Duration::from_secs(seconds) {
            match pace.due(n, now) {
                Ok(due) => (n, batches) = (n + due, batches + 1),
                Err(at) => {
                    assert!(at > now, "it would spin");
                    now = at;
                }
            }
        }
        (n - 100, batches)
    }

    #[test]
    fn the_rate_is_kept_in_few_batches() {
        let now = Instant::now();
        assert_eq!(run(Pace::new(10.0, None, 0, 100, now), now, 60), (600, 600));
        let (records, batches) = run(Pace::new(123_456.0, None, 0, 100, now), now, 10);
        assert!((1_233_000..1_236_000).contains(&records), "{records}");
        assert!(batches <= 201, "{batches}");
        let (records, _) = run(Pace::new(0.5, None, 0, 100, now), now, 60);
        assert_eq!(records, 30);
        let (records, _) = run(Pace::new(10.0, Some(Duration::from_millis(100)), 3, 100, now), now, 60);
        assert!((1100..1300).contains(&records), "{records}");
    }

    #[test]
    fn a_long_halt_is_not_made_up_for() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3600);
        for mut pace in [Pace::new(1000.0, None, 0, 0, now), Pace::new(0.0, Some(Duration::from_millis(2)), 0, 0, now)] {
            let due = pace.due(0, later).unwrap();
            assert!((900..1200).contains(&due), "{due}");
        }
    }
}
