//! `blackhole-sink`: takes every record, counts it and forgets it. For demos and benchmarks.

use aqueduct_config::{Millis, SinkConnector};
use aqueduct_core::{Ack, Batch, PayloadRef, Plugin, Rejects, Result, SinkTask, TaskContext, TaskSpec};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::{Duration, Instant};

pub fn plugins() -> Vec<Plugin> {
    vec![aqueduct_config::plugin::sink::<BlackholeSink>()]
}

pub struct BlackholeSink;

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// How often each task writes what it has counted to the worker's log, while records come; 0 is never.
    #[serde(rename = "log.interval.ms", default = "ten_seconds")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Counts"))]
    pub log_interval: Millis,
}

fn ten_seconds() -> Millis {
    Millis::from_secs(10)
}

#[async_trait]
impl SinkConnector for BlackholeSink {
    type Config = Config;
    type Task = BlackholeTask;
    const NAME: &'static str = "blackhole-sink";
    const ALIASES: &'static [&'static str] = &["blackhole"];
    const SUMMARY: &'static str = "Counts records and forgets them.";

    async fn open(config: Config, _: TaskSpec) -> Result<BlackholeTask> {
        let log_every = Duration::from_millis(config.log_interval.as_millis());
        Ok(BlackholeTask { records: 0, bytes: 0, log_every, logged: Instant::now(), records_logged: 0 })
    }
}

#[derive(Debug)]
pub struct BlackholeTask {
    records: u64,
    bytes: u64,
    log_every: Duration,
    logged: Instant,
    records_logged: u64,
}

impl BlackholeTask {
    /// Since the task was opened.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Of keys and values that are bytes, since the task was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn log(&mut self, cx: &TaskContext) {
        let elapsed = self.logged.elapsed();
        if self.log_every.is_zero() || elapsed < self.log_every {
            return;
        }
        let per_second = ((self.records - self.records_logged) as f64 / elapsed.as_secs_f64()).round();
        tracing::info!(task = %cx.task, records = self.records, bytes = self.bytes, per_second, "records taken and forgotten");
        (self.logged, self.records_logged) = (Instant::now(), self.records);
    }
}

#[async_trait]
impl SinkTask for BlackholeTask {
    /// Durable at once: there is nothing that could be lost.
    async fn put(&mut self, batch: &Batch, _: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        self.records += batch.len() as u64;
        self.bytes += batch.iter().map(|record| size(record.key()) + size(record.value())).sum::<u64>();
        self.log(cx);
        Ok(Ack::Durable)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn size(payload: PayloadRef<'_>) -> u64 {
    match payload {
        PayloadRef::Bytes(bytes) => bytes.len() as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Record, TaskId};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn it_counts() {
        let mut task = BlackholeSink::open(Config { log_interval: Millis::from_millis(1) }, TaskSpec::new()).await.unwrap();
        let cx = TaskContext {
            task: TaskId::new("b", 0),
            wait_max: Duration::ZERO,
            max_bytes: 1,
            max_records: 1,
            interrupt: CancellationToken::new(),
        };
        let batch: Batch = [Record { key: "k".into(), ..Record::new("t", "value") }, Record::new("t", "x")].into_iter().collect();
        for _ in 0..2 {
            assert_eq!(task.put(&batch, &mut Rejects::default(), &cx).await.unwrap(), Ack::Durable);
        }
        assert_eq!((task.records(), task.bytes()), (4, 14));
    }
}
