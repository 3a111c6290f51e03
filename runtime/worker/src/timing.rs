//! Time in what a task does: how long its calls take, when it last got how far, how fresh a sink is. Written by the task, read by statuses and metrics.

use crate::admin::{Clocks, State};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a batch has come. Each has a clock: the one that stands still says where a task hangs (invariant 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The source polled records, the sink read some from the log.
    Polled = 0,
    /// They were appended to the log, or put into the target.
    HandedOn = 1,
    /// The log, or the target, holds them.
    Acknowledged = 2,
    /// The source was told, the sink's positions are stored.
    Committed = 3,
}

/// Sizes or durations: how many, their sum, the least and the largest.
#[derive(Debug, Default)]
pub struct Sizes {
    count: AtomicU64,
    sum: AtomicU64,
    /// Plus one, so that 0 means none yet.
    least: AtomicU64,
    most: AtomicU64,
}

impl Sizes {
    pub fn add(&self, size: u64) {
        let first = self.count.fetch_add(1, Relaxed) == 0;
        self.sum.fetch_add(size, Relaxed);
        if first || size + 1 < self.least.load(Relaxed) {
            self.least.store(size + 1, Relaxed);
        }
        self.most.fetch_max(size, Relaxed);
    }

    pub fn mean(&self) -> f64 {
        ratio(self.sum.load(Relaxed), self.count.load(Relaxed))
    }

    pub fn least(&self) -> u64 {
        self.least.load(Relaxed).saturating_sub(1)
    }

    pub fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }
}

/// 0 of nothing.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[derive(Debug, Default)]
pub struct Timing {
    /// Milliseconds, waiting included: as Kafka Connect measures `poll()`.
    pub polls: Sizes,
    pub puts: Sizes,
    /// Records of one append.
    pub appends: Sizes,
    /// When each [`Progress`] was made last, on the clock of [`crate::stats`]; 0: never.
    clocks: [AtomicU64; 4],
    /// Looks of [`Timing::looked`], and how many of them found it so.
    looks: AtomicU64,
    running: AtomicU64,
    paused: AtomicU64,
    active_sum: AtomicU64,
    active_most: AtomicI64,
    /// Wall clock, in milliseconds; 0: no error yet.
    last_error_ms: AtomicU64,
    pub failures: AtomicU64,
    pub letters_failed: AtomicU64,
    /// Of the newest record that was committed, where it has a timestamp.
    newest_ms: AtomicI64,
    /// How old that record was when it was committed; negative: none was.
    freshness_ms: AtomicI64,
}

impl Timing {
    pub(crate) fn made(&self, progress: Progress, now_ms: u64) {
        self.clocks[progress as usize].store(now_ms, Relaxed);
    }

    pub(crate) fn clocks(&self, now_ms: u64) -> Clocks {
        let since = |progress: Progress| match self.clocks[progress as usize].load(Relaxed) {
            0 => None,
            at => Some(now_ms.saturating_sub(at)),
        };
        Clocks {
            polled_ms: since(Progress::Polled),
            handed_on_ms: since(Progress::HandedOn),
            acknowledged_ms: since(Progress::Acknowledged),
            committed_ms: since(Progress::Committed),
        }
    }

    /// The worker looks at every task once a second: what part of its life it ran, and how many records were in flight.
    pub(crate) fn looked(&self, state: State, active: i64) {
        self.looks.fetch_add(1, Relaxed);
        match state {
            State::Running => self.running.fetch_add(1, Relaxed),
            State::Paused => self.paused.fetch_add(1, Relaxed),
            _ => 0,
        };
        self.active_sum.fetch_add(active.max(0) as u64, Relaxed);
    }

    pub(crate) fn active(&self, active: i64) {
        self.active_most.fetch_max(active, Relaxed);
    }

    pub fn running_ratio(&self) -> f64 {
        ratio(self.running.load(Relaxed), self.looks.load(Relaxed))
    }

    pub fn pause_ratio(&self) -> f64 {
        ratio(self.paused.load(Relaxed), self.looks.load(Relaxed))
    }

    pub fn active_mean(&self) -> f64 {
        ratio(self.active_sum.load(Relaxed), self.looks.load(Relaxed))
    }

    pub fn active_most(&self) -> i64 {
        self.active_most.load(Relaxed)
    }

    pub(crate) fn erred(&self) {
        self.last_error_ms.store(wall_ms(), Relaxed);
    }

    /// Wall clock, in milliseconds; 0: none yet.
    pub fn last_error_ms(&self) -> u64 {
        self.last_error_ms.load(Relaxed)
    }

    /// Records up to this timestamp were committed.
    pub(crate) fn committed(&self, newest_ms: i64) {
        let now = wall_ms() as i64;
        self.newest_ms.fetch_max(newest_ms, Relaxed);
        // A clock that is ahead of ours makes no record younger than now.
        self.freshness_ms.store((now - newest_ms).max(0) + 1, Relaxed);
    }

    /// From a record's timestamp to the commit that passed it, of the newest record of the last commit.
    pub fn freshness(&self) -> Option<Duration> {
        match self.freshness_ms.load(Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms as u64 - 1)),
        }
    }

    /// How far the newest committed record lies behind now; `None` before the first.
    pub fn behind(&self) -> Option<Duration> {
        match self.newest_ms.load(Relaxed) {
            0 => None,
            newest => Some(Duration::from_millis((wall_ms() as i64 - newest).max(0) as u64)),
        }
    }

    /// The same figures for the successor of a task that was left behind and may yet write to this one.
    pub(crate) fn successor(&self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Relaxed));
        let sizes = |sizes: &Sizes| Sizes {
            count: copy(&sizes.count),
            sum: copy(&sizes.sum),
            least: copy(&sizes.least),
            most: copy(&sizes.most),
        };
        Self {
            polls: sizes(&self.polls),
            puts: sizes(&self.puts),
            appends: sizes(&self.appends),
            clocks: std::array::from_fn(|clock| copy(&self.clocks[clock])),
            looks: copy(&self.looks),
            running: copy(&self.running),
            paused: copy(&self.paused),
            active_sum: copy(&self.active_sum),
            active_most: AtomicI64::new(self.active_most()),
            last_error_ms: copy(&self.last_error_ms),
            failures: copy(&self.failures),
            letters_failed: copy(&self.letters_failed),
            newest_ms: AtomicI64::new(self.newest_ms.load(Relaxed)),
            freshness_ms: AtomicI64::new(self.freshness_ms.load(Relaxed)),
        }
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_know_their_extremes() {
        let sizes = Sizes::default();
        assert_eq!((sizes.least(), sizes.most(), sizes.mean()), (0, 0, 0.0));
        for size in [3, 0, 9] {
            sizes.add(size);
        }
        assert_eq!((sizes.least(), sizes.most(), sizes.mean()), (0, 9, 4.0));
    }

    #[test]
    fn a_clock_tells_how_long_ago() {
        let timing = Timing::default();
        timing.made(Progress::HandedOn, 40);
        let clocks = timing.clocks(100);
        assert_eq!((clocks.polled_ms, clocks.handed_on_ms, clocks.committed_ms), (None, Some(60), None));
        assert_eq!(timing.successor().clocks(100).handed_on_ms, Some(60));
    }

    #[test]
    fn shares_of_a_life_are_counted_by_looks() {
        let timing = Timing::default();
        for (state, active) in [(State::Running, 4), (State::Running, 0), (State::Paused, 0), (State::Failed, -1)] {
            timing.looked(state, active);
        }
        assert_eq!((timing.running_ratio(), timing.pause_ratio(), timing.active_mean()), (0.5, 0.25, 1.0));
    }

    #[test]
    fn freshness_is_the_age_at_the_commit() {
        let timing = Timing::default();
        assert_eq!((timing.freshness(), timing.behind()), (None, None));
        timing.committed(wall_ms() as i64 - 5_000);
        let fresh = timing.freshness().unwrap();
        assert!(fresh >= Duration::from_secs(5) && fresh < Duration::from_secs(60), "{fresh:?}");
        assert!(timing.behind().unwrap() >= fresh);
        // A record of tomorrow.
        timing.committed(wall_ms() as i64 + 86_400_000);
        assert_eq!(timing.freshness(), Some(Duration::ZERO));
        assert_eq!(timing.behind(), Some(Duration::ZERO));
    }
}
