//! What is done about errors: tolerance, dead letter queue, back-off. Connectors classify, this decides.

use crate::stats::TaskStats;
use aqueduct_config::providers::Resolved;
use aqueduct_core::{Batch, Chunk, Error, Header, LogPosition, Payload, Record, Reject, Result, TaskId, Topic};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Policy {
    pub task: TaskId,
    /// `errors.tolerance`: `all` goes on after bad records, `none` fails the task at the first.
    pub tolerate: bool,
    pub log_errors: bool,
    pub log_messages: bool,
    pub dead_letter_queue: Option<DeadLetterQueue>,
    /// Whose secrets stay out of statuses, logs and dead letters (invariant 9).
    pub secrets: Resolved,
}

#[derive(Clone, Debug)]
pub struct DeadLetterQueue {
    pub topic: Topic,
    pub replication_factor: i16,
    pub context_headers: bool,
}

impl Policy {
    /// Decides on refused records: the dead letters to write (empty without a queue), or the error that the task fails with.
    ///
    /// Nothing is counted here: that is due when it is durable. `raw` is what a sink read: dead letters carry the bytes of the log, not what converters and transforms made of them.
    pub fn decide(&self, rejects: Vec<Reject>, raw: Option<&Batch>, stats: &TaskStats) -> Result<Batch> {
        let mut letters = Vec::new();
        for reject in rejects {
            stats.failed(&self.secrets.redact(reject.error.trace()));
            if self.log_errors || !self.tolerate {
                self.log(&reject, stats);
            }
            if !self.tolerate {
                return Err(self.intolerable(reject));
            }
            if let Some(queue) = &self.dead_letter_queue {
                letters.push(self.letter(queue, reject, raw));
            }
        }
        Ok(letters.into_iter().collect())
    }

    fn log(&self, reject: &Reject, stats: &TaskStats) {
        stats.errors_logged.fetch_add(1, Relaxed);
        let at = place(&reject.record);
        if self.log_messages {
            let value = format!("{:.200?}", reject.record.value);
            tracing::error!(task = %self.task, stage = reject.stage.name(), by = reject.refused_by, at, value, "bad record: {}", self.secrets.redact(reject.error.to_string()));
        } else {
            tracing::error!(task = %self.task, stage = reject.stage.name(), by = reject.refused_by, at, "bad record: {}", self.secrets.redact(reject.error.to_string()));
        }
    }

    fn intolerable(&self, reject: Reject) -> Error {
        let message = format!(
            "Tolerance exceeded in error handler: {} refused a record{} in stage {}: {}",
            reject.refused_by,
            place(&reject.record),
            reject.stage.name(),
            reject.error
        );
        Error::fatal(reject.error.code().to_owned(), message)
            .fix("mend the record's producer, or set errors.tolerance: all with errors.deadletterqueue.topic.name to keep such records aside")
    }

    /// As `DeadLetterQueueReporter.populateContextHeaders` of Kafka Connect writes it.
    fn letter(&self, queue: &DeadLetterQueue, reject: Reject, raw: Option<&Batch>) -> Record {
        let mut letter = raw.and_then(|raw| original(raw, &reject.record)).unwrap_or_else(|| reject.record.clone());
        let source_topic = letter.topic.clone();
        if queue.context_headers {
            let mut add = |name: &str, value: String| {
                letter.headers.push(Header { name: format!("__connect.errors.{name}").into(), value: value.into() });
            };
            let origin = reject.record.origin.as_ref();
            add("topic", origin.map_or(&*source_topic, |origin| &*origin.partition.topic).to_owned());
            if let Some(origin) = origin {
                add("partition", origin.partition.partition.to_string());
                add("offset", origin.offset.to_string());
            }
            add("connector.name", self.task.connector.to_string());
            add("task.id", self.task.task.to_string());
            add("stage", reject.stage.name().to_owned());
            add("class.name", reject.refused_by.clone());
            add("exception.class.name", reject.error.code().to_owned());
            add("exception.message", self.secrets.redact(reject.error.message().to_owned()));
            add("exception.stacktrace", self.secrets.redact(reject.error.trace()));
        }
        for payload in
            [&mut letter.key, &mut letter.value].into_iter().chain(letter.headers.iter_mut().map(|header| &mut header.value))
        {
            if let Payload::Data(data) = payload {
                *payload = aqueduct_transforms::json::text(data).into();
            }
        }
        // The origin is for errors about the letter; the log ignores it.
        Record { topic: queue.topic.clone(), partition: None, ..letter }
    }
}

fn place(record: &Record) -> String {
    match &record.origin {
        Some(origin) => format!(" at {} offset {}", origin.partition, origin.offset),
        None => format!(" for topic {}", record.topic),
    }
}

/// The record as it stands in the log.
fn original(raw: &Batch, record: &Record) -> Option<Record> {
    let origin = record.origin.as_ref()?;
    let offset_at = |chunk: &Chunk, index: usize| chunk.get(index).origin().map_or(-1, |(_, offset)| offset);
    let chunks = raw.chunks().iter().filter(|chunk| chunk.origin.as_deref() == Some(&*origin.partition));
    chunks.into_iter().find_map(|chunk| {
        // Offsets grow within a chunk.
        let (mut low, mut high) = (0, chunk.len());
        while low < high {
            let middle = low.midpoint(high);
            if offset_at(chunk, middle) < origin.offset { low = middle + 1 } else { high = middle }
        }
        (low < chunk.len() && offset_at(chunk, low) == origin.offset).then(|| chunk.get(low).to_record())
    })
}

/// How often a task that failed retriably starts again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    pub initial: Duration,
    pub max: Duration,
    /// In a row, without progress in between; then the task stays FAILED.
    pub attempts_max: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(300), attempts_max: u32::MAX }
    }
}

/// The log heals by itself (a full disk gets free): look again soon, since every connector waits.
const LOG_RETRY_MAX: Duration = Duration::from_secs(3);

/// Somebody is about to create it: to look costs one request, and whoever created it is not to wait for minutes.
const MISSING_RETRY_MAX: Duration = Duration::from_secs(10);

impl RestartPolicy {
    /// When to start again after the `attempt`-th failure in a row (from 1); `None`: not by itself. Full jitter: `random` is in [0, 1).
    pub fn delay(&self, attempt: u32, error: &Error, random: f64) -> Option<Duration> {
        if !error.is_retriable() || attempt > self.attempts_max {
            return None;
        }
        Some(jitter(self.initial, self.max, attempt, error, random))
    }
}

/// For how long a task that failed retriably tries again by itself, still RUNNING (`errors.retry.*`, after KIP-298); then it fails and
/// [`RestartPolicy`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Since the first failure without progress in between. `None`: for ever; zero: not at all.
    pub timeout: Option<Duration>,
    pub delay_max: Duration,
}

/// Failures of one task in a row, without progress in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    count: u32,
    /// Of the first.
    since: Option<Instant>,
}

/// As Kafka Connect's first pause (`RetryWithToleranceOperator.RETRIES_DELAY_MIN_MS`).
const RETRY_DELAY_MIN: Duration = Duration::from_millis(300);

impl Failures {
    pub fn add(&mut self, progressed: bool, now: Instant) {
        if progressed {
            *self = Self::default();
        }
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert(now);
    }
}

impl RetryPolicy {
    /// The pause before the next try; `None`: the task fails. Full jitter: `random` is in [0, 1). The last try is at the end of the timeout.
    pub fn delay(&self, failures: &Failures, error: &Error, now: Instant, random: f64) -> Option<Duration> {
        if !error.is_retriable() {
            return None;
        }
        let elapsed = failures.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let left = match self.timeout {
            Some(timeout) if elapsed >= timeout => return None,
            Some(timeout) => timeout - elapsed,
            None => Duration::MAX,
        };
        Some(jitter(RETRY_DELAY_MIN, self.delay_max, failures.count, error, random).min(left))
    }
}

/// A random part of a pause that doubles with each attempt (from 1).
fn jitter(initial: Duration, max: Duration, attempt: u32, error: &Error, random: f64) -> Duration {
    let ceiling = initial.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX)).min(max);
    let ceiling = match error.code() {
        code if code.starts_with("log.") => ceiling.min(LOG_RETRY_MAX),
        code if code.ends_with(".unknown_topic") => ceiling.min(MISSING_RETRY_MAX),
        _ => ceiling,
    };
    ceiling.mul_f64(random.clamp(0.0, 1.0))
}

/// What a sink commits: the position after the last record put, for each partition.
pub fn position_after(position: &LogPosition, next: i64, metadata: Option<String>) -> LogPosition {
    LogPosition { offset: next, metadata: metadata.map(Into::into), ..position.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Origin, Stage, TopicPartition};
    use std::sync::Arc;

    fn policy(tolerate: bool, queue: Option<&str>) -> Policy {
        Policy {
            task: TaskId::new("c", 3),
            tolerate,
            log_errors: false,
            log_messages: false,
            dead_letter_queue: queue.map(|topic| DeadLetterQueue {
                topic: topic.into(),
                replication_factor: -1,
                context_headers: true,
            }),
            secrets: Resolved::default(),
        }
    }

    fn reject(value: &'static str, offset: i64) -> Reject {
        let origin = Some(Origin { partition: Arc::new(TopicPartition::new("in", 2)), offset });
        let record = Record { origin, ..Record::new("renamed", value) };
        Reject { record, stage: Stage::ValueConverter, refused_by: "X".into(), error: Error::fatal("json.syntax", "no") }
    }

    #[test]
    fn a_dead_letter_has_the_bytes_of_the_log_and_kafka_connects_headers() {
        let raw_record = Record { origin: reject("", 7).record.origin, ..Record::new("in", "raw") };
        let raw: Batch = [raw_record].into_iter().collect();
        let stats = TaskStats::default();
        let letters = policy(true, Some("dlq")).decide(vec![reject("changed", 7)], Some(&raw), &stats).unwrap();
        let letter = letters.into_records().next().unwrap();
        assert_eq!((&*letter.topic, &letter.value), ("dlq", &Payload::from("raw")));
        let header = |name: &str| match letter.header(name) {
            Some(Payload::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(header("__connect.errors.topic"), "in");
        assert_eq!(header("__connect.errors.partition"), "2");
        assert_eq!(header("__connect.errors.offset"), "7");
        assert_eq!(header("__connect.errors.stage"), "VALUE_CONVERTER");
        assert_eq!(header("__connect.errors.task.id"), "3");
    }

    #[test]
    fn without_tolerance_the_first_bad_record_fails_the_task() {
        let error = policy(false, Some("dlq")).decide(vec![reject("x", 1)], None, &TaskStats::default()).unwrap_err();
        assert!(!error.is_retriable());
        assert!(error.message().contains("in-2 offset 1"), "{error}");
    }

    #[test]
    fn delays_grow_to_the_maximum_and_stop_at_the_budget() {
        let policy = RestartPolicy { attempts_max: 20, ..RestartPolicy::default() };
        let error = Error::retriable("http.503", "busy");
        let delays: Vec<_> = (1..=12).map(|attempt| policy.delay(attempt, &error, 1.0).unwrap().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(policy.delay(21, &error, 1.0), None);
        assert_eq!(policy.delay(1, &Error::fatal("x", "y"), 1.0), None);
        assert_eq!(policy.delay(12, &Error::retriable("log.disk_full", ""), 1.0), Some(LOG_RETRY_MAX));
        let missing = Error::retriable("kafka.unknown_topic", "topic orders is not in the source");
        assert_eq!(
            (policy.delay(2, &missing, 1.0), policy.delay(12, &missing, 1.0)),
            (Some(Duration::from_secs(2)), Some(MISSING_RETRY_MAX))
        );
        assert_eq!(policy.delay(40, &error, 0.0), None);
    }

    /// How long a task that never gets anywhere tries, and how often.
    fn tries(policy: RetryPolicy, random: f64, most: usize) -> (Duration, usize, Vec<u64>) {
        let start = Instant::now();
        let (mut now, mut failures, mut delays) = (start, Failures::default(), Vec::new());
        while delays.len() < most {
            failures.add(false, now);
            let Some(delay) = policy.delay(&failures, &Error::retriable("http.503", "busy"), now, random) else { break };
            delays.push(delay.as_millis() as u64);
            now += delay;
        }
        (now - start, delays.len(), delays)
    }

    #[test]
    fn tries_double_from_300_ms_to_the_maximum_and_end_with_the_timeout() {
        let policy = RetryPolicy { timeout: Some(Duration::from_secs(10)), delay_max: Duration::from_secs(2) };
        let (took, _, delays) = tries(policy, 1.0, 100);
        assert_eq!(delays, [300, 600, 1200, 2000, 2000, 2000, 1900]);
        assert_eq!(took, Duration::from_secs(10));
        let (_, none, _) = tries(RetryPolicy { timeout: Some(Duration::ZERO), ..policy }, 0.5, 100);
        assert_eq!(none, 0);
        let (_, for_ever, _) = tries(RetryPolicy { timeout: None, ..policy }, 0.5, 5000);
        assert_eq!(for_ever, 5000);
    }

    proptest::proptest! {
        #[test]
        fn tries_never_exceed_the_timeout_nor_a_pause_the_maximum(timeout in 1u64..100_000, max in 1u64..90_000, random in 0.01f64..1.0) {
            let policy = RetryPolicy { timeout: Some(Duration::from_millis(timeout)), delay_max: Duration::from_millis(max) };
            let (took, _, delays) = tries(policy, random, 20_000);
            assert!(took <= Duration::from_millis(timeout), "{took:?}");
            assert!(delays.iter().all(|delay| *delay <= max));
        }
    }

    #[test]
    fn progress_starts_the_clock_anew_and_fatal_errors_are_not_retried() {
        let policy = RetryPolicy { timeout: Some(Duration::from_secs(1)), delay_max: Duration::from_secs(60) };
        let (busy, start) = (Error::retriable("http.503", "busy"), Instant::now());
        let mut failures = Failures::default();
        failures.add(false, start);
        let later = start + Duration::from_secs(5);
        failures.add(false, later);
        assert_eq!(policy.delay(&failures, &busy, later, 1.0), None);
        failures.add(true, later);
        assert_eq!(policy.delay(&failures, &busy, later, 1.0), Some(RETRY_DELAY_MIN));
        assert_eq!(policy.delay(&failures, &Error::fatal("x", "y"), later, 1.0), None);
    }
}
