//! The circuit breaker: a receiver that is down is asked by one request at a time. Pure over time.

use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) struct Breaker {
    /// 0: never opens.
    threshold: u32,
    open_for: Duration,
    state: State,
    /// How often it opened.
    pub(super) opened: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Failures in a row.
    Closed(u32),
    Open(Instant),
    /// One request at a time may try.
    HalfOpen,
}

impl Breaker {
    /// Half open: a task that is opened again after failures begins with a probe.
    pub(super) fn new(threshold: u32, open_for: Duration) -> Self {
        let state = if threshold == 0 { State::Closed(0) } else { State::HalfOpen };
        Self { threshold, open_for, state, opened: 0 }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// How many requests may be on their way now.
    pub(super) fn limit(&mut self, max: usize, now: Instant) -> usize {
        if matches!(self.state, State::Open(until) if now >= until) {
            self.state = State::HalfOpen;
        }
        match self.state {
            State::Closed(_) => max,
            State::HalfOpen => 1,
            State::Open(_) => 0,
        }
    }

    /// When an open circuit is probed next.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open(until) => Some(until),
            _ => None,
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.state = State::Closed(0);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed(failures) if self.threshold == 0 || failures + 1 < self.threshold => {
                State::Closed(failures.saturating_add(1))
            }
            State::Closed(_) | State::HalfOpen => {
                self.opened += 1;
                State::Open(now + self.open_for)
            }
            // What was on its way when it opened.
            open @ State::Open(_) => open,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let (start, open_for) = (Instant::now(), Duration::from_secs(5));
        let mut breaker = Breaker::new(3, open_for);
        assert_eq!(breaker.limit(8, start), 1, "it begins with a probe");
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed(start);
        }
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed(start);
            assert_eq!(breaker.limit(8, start), 8);
        }
        breaker.failed(start);
        assert_eq!((breaker.limit(8, start), breaker.opened), (0, 1));
        assert_eq!(breaker.probe_at(), Some(start + open_for));
        breaker.failed(start + open_for / 2);
        assert_eq!((breaker.probe_at(), breaker.opened), (Some(start + open_for), 1), "late failures do not prolong it");
        assert_eq!(breaker.limit(8, start + open_for), 1);
        breaker.failed(start + open_for);
        assert_eq!((breaker.limit(8, start + open_for), breaker.opened), (0, 2));
        assert_eq!(breaker.limit(8, start + 2 * open_for), 1);
        breaker.succeeded();
        assert_eq!(breaker.limit(8, start + 2 * open_for), 8);
    }

    #[test]
    fn zero_is_never() {
        let mut breaker = Breaker::new(0, Duration::from_secs(5));
        for _ in 0..1000 {
            breaker.failed(Instant::now());
        }
        assert_eq!(breaker.limit(8, Instant::now()), 8);
    }
}
