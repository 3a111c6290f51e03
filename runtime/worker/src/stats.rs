//! What one task does, as it does it: counters and the progress clock. Written by the task, read by statuses, metrics and stall detection.

use crate::admin::TaskProgress;
use parking_lot::Mutex;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
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
    pub records_active: AtomicI64,
    pub lag: AtomicI64,
    pub partitions: AtomicU64,
    moved_ms: AtomicU64,
    call: AtomicU8,
    call_started_ms: AtomicU64,
    last_error: Mutex<Option<String>>,
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
}

impl Call {
    pub fn name(self) -> &'static str {
        ["", "open", "poll", "put", "flush", "commit", "close", "assigned", "transform", "log"][self as usize]
    }

    fn from_u8(value: u8) -> Self {
        use Call::*;
        [None, Open, Poll, Put, Flush, Commit, Close, Assigned, Transform, Log][value as usize % 10]
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
        let out = future.await;
        self.call.store(Call::None as u8, Relaxed);
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
    }

    pub fn task_ended(&self) {
        self.call.store(Call::None as u8, Relaxed);
        self.records_active.store(0, Relaxed);
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
            lag: AtomicI64::new(self.lag.load(Relaxed)),
            moved_ms: copy(&self.moved_ms),
            last_error: Mutex::new(self.last_error.lock().clone()),
            ..Self::default()
        }
    }

    pub fn failed(&self, trace: &str) {
        *self.last_error.lock() = Some(trace.to_owned());
    }

    pub fn commit_took(&self, took: Duration) {
        let ms = took.as_millis() as u64;
        self.commits.fetch_add(1, Relaxed);
        self.commit_ms_sum.fetch_add(ms, Relaxed);
        self.commit_ms_max.fetch_max(ms, Relaxed);
    }

    pub fn batch(&self, records: usize) {
        self.batches.fetch_add(1, Relaxed);
        self.batch_records_max.fetch_max(records as u64, Relaxed);
    }

    pub fn progress(&self) -> TaskProgress {
        let moved = self.moved_ms.load(Relaxed);
        TaskProgress {
            records_in: self.records_in.load(Relaxed),
            records_out: self.records_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            records_filtered: self.records_filtered.load(Relaxed),
            records_dead_lettered: self.records_dead_lettered.load(Relaxed),
            records_skipped: self.records_skipped.load(Relaxed),
            retries: self.retries.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            lag: self.lag.load(Relaxed),
            idle_ms: (moved > 0).then(|| now_ms().saturating_sub(moved)),
            last_error: self.last_error.lock().clone(),
        }
    }
}
