//! `http-sink`: a request for each record, or for a batch of them; in order for each key, at least once, each repeat by the same idempotency key.
//!
//! A put is worked off as a whole: it is prepared (`batch.rs`: targets, idempotency keys), cut into chains of requests (`plan.rs`), and these are sent, several at
//! once (`flight.rs`). It is durable when every request was answered, so the worker commits nothing that was not.

mod batch;
mod breaker;
mod config;
mod fields;
mod flight;
mod identity;
mod json;
mod ledger;
mod outcome;
mod plan;
mod receipt;
mod status;

pub use config::Config;

use crate::client::Client;
use aqueduct_config::SinkConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    Ack, Batch, Delivery, Error, Issue, LogPosition, Plugin, Record, RecordRef, Rejects, Report, Result, SinkTask, Stage,
    TaskContext, TaskId, TaskSpec, TopicPartition, Unfinished,
};
use async_trait::async_trait;
use batch::Prepared;
use breaker::Breaker;
use config::Settings;
use flight::Flight;
use identity::{Identity, Place};
use ledger::Ledger;
use rustc_hash::FxHashMap;
use status::Status;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const NAME: &str = "http-sink";

pub fn plugin() -> Plugin {
    aqueduct_config::plugin::sink::<HttpSinkConnector>()
}

pub struct HttpSinkConnector;

#[async_trait]
impl SinkConnector for HttpSinkConnector {
    type Config = Config;
    type Task = HttpSink;
    const NAME: &'static str = NAME;
    const ALIASES: &'static [&'static str] =
        &["io.aiven.kafka.connect.http.HttpSinkConnector", "io.confluent.connect.http.HttpSinkConnector", "HttpSinkConnector"];
    const SUMMARY: &'static str =
        "Calls a web API for each record or batch of records, in the order of each key, with idempotency keys.";

    fn validate(config: &Config) -> Vec<Issue> {
        let mut issues = Vec::new();
        config.check(&mut issues);
        issues
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(config: Config, _: TaskSpec) -> Result<HttpSink> {
        let settings = config.settings().map_err(|issues| invalid(&issues))?;
        let client = Client::open(settings.client.clone()).await?;
        let breaker = Breaker::new(settings.breaker_failures, settings.breaker_open);
        let mut parts = SinkParts {
            settings,
            client,
            breaker,
            identity: Identity::default(),
            ledger: Ledger::default(),
            status: Status::new(),
            wait_until: None,
            task: None,
            portion: 0,
            lingering: Mutex::default(),
        };
        parts.portion = parts.portion_min();
        Ok(HttpSink(parts))
    }
}

pub struct HttpSink(SinkParts);

struct SinkParts {
    settings: Settings,
    client: Client,
    breaker: Breaker,
    identity: Identity,
    ledger: Ledger,
    status: Status,
    /// The receiver asked to be left alone until then.
    wait_until: Option<Instant>,
    /// Who this is, since the first put: what a predecessor knew was asked for then.
    task: Option<TaskId>,
    /// Records of a put: as many as it does in a short time.
    portion: usize,
    /// Since when the partitions wait for a batch to be full, and from which offset on.
    lingering: Mutex<FxHashMap<Arc<TopicPartition>, (i64, Instant)>>,
}

/// A put that takes less than this may be larger; one that takes longer than the other must be smaller, or it looks as if it hung.
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(5);
const PORTION_MAX: usize = 1 << 20;
/// What lies so near is due.
const MOMENT: Duration = Duration::from_millis(5);

impl SinkParts {
    fn refuse(&mut self, record: RecordRef<'_>, place: &Place, (code, why): (&'static str, &str), rejects: &mut Rejects) {
        self.status.refused();
        let error = Error::fatal(code, why);
        if let Some(letter) = receipt::of_refusal(&self.settings.receipts, record, code, why) {
            self.ledger.write(place, letter);
        }
        rejects.push(record.to_record(), Stage::TaskPut, NAME, error);
        self.ledger.note(place, false);
    }

    /// As many records as there are requests at once.
    fn portion_min(&self) -> usize {
        self.settings.in_flight.saturating_mul(self.settings.cut.records_max)
    }

    fn adapt(&mut self, took: Duration, records: usize) {
        let min = self.portion_min();
        if took > LONG {
            self.portion = (self.portion / 2).max(min);
        } else if took < SHORT && records >= self.portion / 2 {
            let more = if took < SHORT / 16 { 8 } else { 2 };
            self.portion = self.portion.saturating_mul(more).clamp(min, PORTION_MAX.max(min));
        }
    }

    async fn send(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<()> {
        if self.task.is_none() {
            self.wait_until = ledger::take(&cx.task, self.settings.target, &mut self.ledger);
            self.task = Some(cx.task.clone());
        }
        self.ledger.begin();
        let (prepared, refused) = Prepared::new(batch, self)?;
        for (record, place, why) in refused {
            self.refuse(record, &place, ("http_sink.record", &why), rejects);
        }
        Flight::new(self, &cx.task, &prepared, rejects).run(&cx.interrupt).await?;
        for chunk in batch.chunks() {
            let last = chunk.iter().filter_map(|record| record.origin()).map(|(_, offset)| offset).max();
            if let (Some(origin), Some(last)) = (&chunk.origin, last) {
                self.ledger.passed(&self.identity.partition(origin)?, last + 1);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SinkTask for HttpSink {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        self.0.identity.assigned(partitions);
        for position in partitions {
            let partition = self.0.identity.partition(&position.topic_partition())?;
            self.0.ledger.assigned(partition, position.offset);
        }
        Ok(Vec::new())
    }

    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for partition in partitions {
            self.0.ledger.revoked(&self.0.identity.partition(partition)?);
        }
        self.0.identity.revoked(partitions);
        Ok(())
    }

    fn reads_from(&mut self, cluster: &str) {
        self.0.identity.of_cluster(cluster);
    }

    /// One by one, as many as it can do in a short time: where a key's records stand one behind the other, only many records have other keys to go on with.
    fn put_records(&self) -> usize {
        let wanted = if self.0.settings.cut.records_max > 1 { self.0.portion_min() } else { self.0.portion };
        wanted.min(PORTION_MAX)
    }

    fn put_records_max(&self) -> usize {
        self.0.portion
    }

    /// `batch.linger.ms`: less than a batch waits for more, since its first record was there.
    fn unfinished(&self, batch: &Batch) -> Vec<Unfinished> {
        let settings = &self.0.settings;
        let mut lingering = self.0.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *lingering);
        let full = batch.len() >= settings.cut.records_max || batch.bytes() >= settings.cut.bytes_max;
        if settings.linger.is_zero() || full {
            return Vec::new();
        }
        let now = Instant::now();
        for chunk in batch.chunks() {
            let (Some(partition), Some((_, from))) = (&chunk.origin, chunk.iter().next().and_then(|record| record.origin()))
            else {
                return Vec::new();
            };
            if !lingering.contains_key(partition) {
                let since = before.get(partition).filter(|(first, _)| *first == from).map_or(now, |(_, since)| *since);
                lingering.insert(partition.clone(), (from, since));
            }
        }
        let wait = |since: Instant| (since + settings.linger).saturating_duration_since(now);
        // When one is due, all go with it.
        if lingering.values().any(|(_, since)| wait(*since) < MOMENT) {
            lingering.clear();
        }
        lingering
            .iter()
            .map(|(partition, (from, since))| Unfinished { partition: partition.clone(), from: *from, wait: wait(*since) })
            .collect()
    }

    fn take_letters(&mut self) -> Vec<Record> {
        self.0.ledger.take_letters()
    }

    fn reports(&self) -> Option<watch::Receiver<Report>> {
        Some(self.0.status.watch())
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        let began = Instant::now();
        let sent = self.0.send(batch, rejects, cx).await;
        self.0.adapt(began.elapsed(), batch.len());
        self.0.status.tell();
        // Invariant 2: every record was answered for, or is among the rejects.
        sent.map(|()| Ack::Durable)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Nothing; but the worker asks when it commits.
    fn metadata(&self, _: &TopicPartition) -> Option<String> {
        self.0.ledger.told();
        // After a put that failed the ledger is with those of tasks that ended.
        if let Some(task) = self.0.task.as_ref().filter(|_| self.0.ledger.is_empty()) {
            ledger::committed(task);
        }
        None
    }

    /// What was answered and not committed, as where a refused record failed the task, is not sent again by who goes on.
    async fn close(&mut self) -> Result<()> {
        if let Some(task) = self.0.task.take().filter(|_| self.0.ledger.is_open()) {
            ledger::keep(&task, self.0.settings.target, std::mem::take(&mut self.0.ledger), None);
        }
        Ok(())
    }

    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce(match self.0.settings.key_header {
            Some(_) => {
                "a request may be sent again after a crash or a time-out; the receiver can tell a repeat by its Idempotency-Key"
                    .to_owned()
            }
            None => "a request may be sent again after a crash or a time-out, and idempotency.key.enabled is false".to_owned(),
        })
    }
}
