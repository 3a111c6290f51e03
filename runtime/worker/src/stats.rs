//! What one task does, as it does it: counters and the progress clock. Written by the task, read by statuses, metrics and stall detection.

use crate::admin::{ExactlyOnce, TaskProgress};
use crate::signals::SignalSender;
use crate::timing::{Progress, Timing};
use aqueduct_core::{Measure, Report};
use parking_lot::Mutex;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds of this process's monotonic clock, from 1 on: 0 means never.
fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}

#[derive(Debug, Default)]
pub struct TaskStats {
    pub records_in: AtomicU64,
    pub records_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub records_filtered: AtomicU64,
    pub records_dead_lettered: AtomicU64,
    pub records_skipped: AtomicU64,
    pub errors_logged: AtomicU64,
    /// What the source says was gone before it could be read.
    pub source_lost_bytes: AtomicU64,
    pub retries: AtomicU64,
    pub restarts: AtomicU64,
    pub batches: AtomicU64,
    pub batch_records_max: AtomicU64,
    pub commits: AtomicU64,
    pub commit_failures: AtomicU64,
    pub commit_ms_sum: AtomicU64,
    pub commit_ms_max: AtomicU64,
    /// Taken in and not yet [`TaskStats::settled`].
    pub records_active: AtomicI64,
    /// In flight when a try ended: the next one takes them in again.
    pub records_abandoned: AtomicU64,
    pub partitions: AtomicU64,
    /// Of a sink that runs: a lag that nobody updates would be a lie.
    lag: Mutex<Option<i64>>,
    /// The task recovers by itself, within `errors.retry.timeout`.
    retrying: AtomicBool,
    pub timing: Timing,
    /// Of the present attempt.
    pub opened: AtomicBool,
    moved_ms: AtomicU64,
    call: AtomicU8,
    call_started_ms: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// Of a source that has opened its writer; see [`TaskStats::promises`].
    exactly_once: Mutex<Option<(ExactlyOnce, Option<String>)>>,
    /// Of a source that runs: an old one would be a lie.
    report: Mutex<Option<Report>>,
    /// Of its transforms.
    transforms: Mutex<Vec<Measure>>,
    /// Of a source that runs.
    signals: Mutex<Option<SignalSender>>,
}

/// What became of records that were taken in. Counted once, when it is durable, so that at any time
/// `in = out + filtered + skipped + dead-lettered + in flight + abandoned` (I12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub out: u64,
    pub filtered: u64,
    pub skipped: u64,
    pub dead_lettered: u64,
}

impl Fate {
    /// Of `taken` records that left `passed` and `rejected` ones, of which `letters` go to the dead letter queue.
    pub fn new(taken: usize, passed: usize, rejected: usize, letters: usize) -> Self {
        let (taken, rejected, letters) = (taken as u64, rejected as u64, letters as u64);
        let out = (passed as u64).min(taken.saturating_sub(rejected));
        Self {
            out,
            filtered: taken.saturating_sub(out + rejected),
            skipped: rejected.saturating_sub(letters),
            dead_lettered: letters,
        }
    }

    pub fn records(&self) -> u64 {
        self.out + self.filtered + self.skipped + self.dead_lettered
    }
}

impl std::ops::AddAssign for Fate {
    fn add_assign(&mut self, more: Self) {
        self.out += more.out;
        self.filtered += more.filtered;
        self.skipped += more.skipped;
        self.dead_lettered += more.dead_lettered;
    }
}

/// A call that a task waits for. Its age tells a stall (invariant 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    None = 0,
    Open = 1,
    Poll = 2,
    Put = 3,
    Flush = 4,
    Commit = 5,
    Close = 6,
    Assigned = 7,
    Transform = 8,
    /// Waiting for the log: an append, a commit, a topic.
    Log = 9,
    Signal = 10,
}

impl Call {
    pub fn name(self) -> &'static str {
        ["", "open", "poll", "put", "flush", "commit", "close", "assigned", "transform", "log", "signal"][self as usize]
    }

    fn from_u8(value: u8) -> Self {
        use Call::*;
        [None, Open, Poll, Put, Flush, Commit, Close, Assigned, Transform, Log, Signal][value as usize % 11]
    }
}

impl TaskStats {
    /// Something moved.
    pub fn moved(&self) {
        self.moved_ms.store(now_ms(), Relaxed);
    }

    /// Runs a connector's call on the progress clock.
    pub async fn time<T>(&self, call: Call, future: impl Future<Output = T>) -> T {
        self.call_started_ms.store(now_ms(), Relaxed);
        self.call.store(call as u8, Relaxed);
        let began = Instant::now();
        let out = future.await;
        self.call.store(Call::None as u8, Relaxed);
        let took = || began.elapsed().as_millis() as u64;
        match call {
            Call::Poll => self.timing.polls.add(took()),
            Call::Put => self.timing.puts.add(took()),
            _ => {}
        }
        out
    }

    /// A batch got so far.
    pub fn made(&self, progress: Progress) {
        self.timing.made(progress, now_ms());
    }

    /// Other calls while one is under way; the clock of that one then goes on.
    pub async fn meanwhile<T>(&self, future: impl Future<Output = T>) -> T {
        let (call, started_ms) = (self.call.load(Relaxed), self.call_started_ms.load(Relaxed));
        let out = future.await;
        self.call_started_ms.store(started_ms, Relaxed);
        self.call.store(call, Relaxed);
        out
    }

    /// The call under way and its age.
    pub fn calling(&self) -> Option<(Call, Duration)> {
        let call = Call::from_u8(self.call.load(Relaxed));
        let age = now_ms().saturating_sub(self.call_started_ms.load(Relaxed));
        (call != Call::None).then(|| (call, Duration::from_millis(age)))
    }

    /// A task starts: it is opening until `open` is through (invariant 7).
    pub fn task_starts(&self) {
        self.call_started_ms.store(now_ms(), Relaxed);
        self.call.store(Call::Open as u8, Relaxed);
        self.retrying.store(false, Relaxed);
    }

    pub fn task_ended(&self) {
        self.try_ended();
        self.retrying.store(false, Relaxed);
    }

    /// What was in flight is taken in again; nobody knows the lag any more.
    fn try_ended(&self) {
        self.call.store(Call::None as u8, Relaxed);
        let in_flight = self.records_active.swap(0, Relaxed);
        self.records_abandoned.fetch_add(in_flight.max(0) as u64, Relaxed);
        self.partitions.store(0, Relaxed);
        *self.lag.lock() = None;
        *self.report.lock() = None;
        self.transforms.lock().clear();
        *self.signals.lock() = None;
    }

    /// The task tries again by itself: still RUNNING, with its error visible.
    pub fn retries_after(&self, trace: &str) {
        self.try_ended();
        self.retrying.store(true, Relaxed);
        self.retries.fetch_add(1, Relaxed);
        self.failed(trace);
    }

    pub fn is_retrying(&self) -> bool {
        self.retrying.load(Relaxed)
    }

    pub fn taken_in(&self, records: usize, bytes: usize) {
        let active = self.records_active.fetch_add(records as i64, Relaxed) + records as i64;
        self.records_in.fetch_add(records as u64, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        if records > 0 {
            self.batches.fetch_add(1, Relaxed);
            self.batch_records_max.fetch_max(records as u64, Relaxed);
            self.timing.active(active);
            self.made(Progress::Polled);
        }
    }

    pub fn settled(&self, fate: Fate) {
        self.records_active.fetch_sub(fate.records() as i64, Relaxed);
        self.records_out.fetch_add(fate.out, Relaxed);
        self.records_filtered.fetch_add(fate.filtered, Relaxed);
        self.records_skipped.fetch_add(fate.skipped, Relaxed);
        self.records_dead_lettered.fetch_add(fate.dead_lettered, Relaxed);
        if fate.skipped + fate.dead_lettered > 0 {
            self.timing.erred();
        }
        self.retrying.store(false, Relaxed);
        self.moved();
    }

    /// How many records are done with, whatever became of them: where it grows there is progress.
    pub fn records_settled(&self) -> u64 {
        let counters = [&self.records_out, &self.records_filtered, &self.records_skipped, &self.records_dead_lettered];
        counters.into_iter().map(|counter| counter.load(Relaxed)).sum()
    }

    pub fn set_lag(&self, lag: i64) {
        *self.lag.lock() = Some(lag);
    }

    pub fn lag(&self) -> Option<i64> {
        *self.lag.lock()
    }

    /// The same counters on a clock of its own: for the successor of a task that was left behind and may yet write to this one.
    pub fn successor(&self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Relaxed));
        Self {
            records_in: copy(&self.records_in),
            records_out: copy(&self.records_out),
            bytes_in: copy(&self.bytes_in),
            bytes_out: copy(&self.bytes_out),
            records_filtered: copy(&self.records_filtered),
            records_dead_lettered: copy(&self.records_dead_lettered),
            records_skipped: copy(&self.records_skipped),
            errors_logged: copy(&self.errors_logged),
            source_lost_bytes: copy(&self.source_lost_bytes),
            retries: copy(&self.retries),
            restarts: copy(&self.restarts),
            batches: copy(&self.batches),
            batch_records_max: copy(&self.batch_records_max),
            commits: copy(&self.commits),
            commit_failures: copy(&self.commit_failures),
            commit_ms_sum: copy(&self.commit_ms_sum),
            commit_ms_max: copy(&self.commit_ms_max),
            records_abandoned: AtomicU64::new(
                self.records_abandoned.load(Relaxed) + self.records_active.load(Relaxed).max(0) as u64,
            ),
            timing: self.timing.successor(),
            moved_ms: copy(&self.moved_ms),
            last_error: Mutex::new(self.last_error.lock().clone()),
            exactly_once: Mutex::new(self.exactly_once()),
            ..Self::default()
        }
    }

    pub fn failed(&self, trace: &str) {
        *self.last_error.lock() = Some(trace.to_owned());
        self.timing.failures.fetch_add(1, Relaxed);
        self.timing.erred();
    }

    /// What the log promises to a source's task, or a sink's task of itself; why it is less than exactly once.
    pub fn promises(&self, degraded: Option<String>) {
        let promise = if degraded.is_some() { ExactlyOnce::Degraded } else { ExactlyOnce::Promised };
        *self.exactly_once.lock() = Some((promise, degraded));
    }

    pub fn exactly_once(&self) -> Option<(ExactlyOnce, Option<String>)> {
        self.exactly_once.lock().clone()
    }

    /// A report that says nothing counts as none.
    pub fn reports(&self, report: Report) {
        *self.report.lock() = Some(report).filter(|report| *report != Report::default());
    }

    pub fn transforms_measured(&self, measures: Vec<Measure>) {
        let mut kept = self.transforms.lock();
        if !(measures.is_empty() && kept.is_empty()) {
            *kept = measures;
        }
    }

    /// What the connector and its transforms measure of themselves.
    pub fn measures(&self) -> Vec<Measure> {
        let mut measures = self.report().map(|report| report.measures).unwrap_or_default();
        measures.extend(self.transforms.lock().iter().cloned());
        measures
    }

    pub fn report(&self) -> Option<Report> {
        self.report.lock().clone()
    }

    /// From now on the task takes signals, until it ends.
    pub(crate) fn takes_signals(&self, sender: SignalSender) {
        *self.signals.lock() = Some(sender);
    }

    pub(crate) fn signals(&self) -> Option<SignalSender> {
        self.signals.lock().clone()
    }

    pub fn commit_took(&self, took: Duration) {
        let ms = took.as_millis() as u64;
        self.commits.fetch_add(1, Relaxed);
        self.commit_ms_sum.fetch_add(ms, Relaxed);
        self.commit_ms_max.fetch_max(ms, Relaxed);
    }

    pub fn progress(&self) -> TaskProgress {
        let (exactly_once, exactly_once_reason) = self.exactly_once().map_or((None, None), |(promise, why)| (Some(promise), why));
        let moved = self.moved_ms.load(Relaxed);
        TaskProgress {
            records_in: self.records_in.load(Relaxed),
            records_out: self.records_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            records_filtered: self.records_filtered.load(Relaxed),
            records_dead_lettered: self.records_dead_lettered.load(Relaxed),
            records_skipped: self.records_skipped.load(Relaxed),
            records_in_flight: self.records_active.load(Relaxed).max(0) as u64,
            records_abandoned: self.records_abandoned.load(Relaxed),
            retries: self.retries.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            lag: self.lag(),
            idle_ms: (moved > 0).then(|| now_ms().saturating_sub(moved)),
            last_error: self.last_error.lock().clone(),
            attempt: 0,
            next_attempt_ms: None,
            clocks: self.timing.clocks(now_ms()),
            freshness_seconds: self.timing.freshness().map(|fresh| fresh.as_secs_f64()),
            exactly_once,
            exactly_once_reason,
            report: self.report(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_one_fate() {
        let fate = Fate::new(10, 6, 3, 2);
        assert_eq!(fate, Fate { out: 6, filtered: 1, skipped: 1, dead_lettered: 2 });
        assert_eq!(fate.records(), 10);
        // A transform that makes two of one, and a sink that refuses all.
        assert_eq!(Fate::new(10, 20, 0, 0).records(), 10);
        assert_eq!(Fate::new(3, 0, 3, 0), Fate { skipped: 3, ..Fate::default() });
    }

    #[test]
    fn in_is_what_settled_what_is_in_flight_and_what_was_abandoned() {
        let stats = TaskStats::default();
        stats.taken_in(10, 100);
        stats.set_lag(5);
        stats.settled(Fate::new(4, 2, 1, 1));
        let sum = |stats: &TaskStats| {
            stats.records_settled() + stats.records_active.load(Relaxed) as u64 + stats.records_abandoned.load(Relaxed)
        };
        assert_eq!((sum(&stats), stats.records_active.load(Relaxed), stats.lag()), (10, 6, Some(5)));
        let successor = stats.successor();
        assert_eq!((sum(&successor), successor.lag()), (10, None));
        assert_eq!(stats.progress().exactly_once, None);
        stats.promises(Some("no".to_owned()));
        let progress = stats.successor().progress();
        assert_eq!((progress.exactly_once, progress.exactly_once_reason.as_deref()), (Some(ExactlyOnce::Degraded), Some("no")));
        stats.reports(Report::default());
        assert_eq!(stats.progress().report, None);
        stats.reports(Report { summary: "half".to_owned(), ..Report::default() });
        assert_eq!(stats.progress().report.map(|report| report.summary).as_deref(), Some("half"));
        stats.task_ended();
        assert_eq!((sum(&stats), stats.records_active.load(Relaxed), stats.lag()), (10, 0, None));
        assert_eq!(stats.progress().report, None);
    }
}
