//! A sink's task as the worker has it.

use aqueduct_connector_http::sink;
use aqueduct_core::{
    Batch, CancellationToken, Header, LogPosition, Options, Origin, Payload, Plugin, Record, Reject, Rejects, Result, SinkTask,
    TaskContext, TaskId, TaskSpec, TopicPartition,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use uuid::Uuid;

pub const TOPIC_ID: Uuid = Uuid::from_u128(0xfeed);

pub fn options(url: &str, more: &[(&str, &str)]) -> Options {
    let mut options: Options = [
        ("http.url", url),
        ("http.allow.private.addresses", "true"),
        ("retry.backoff.ms", "1"),
        ("retry.backoff.max.ms", "5"),
        ("circuit.breaker.open.ms", "10"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    options.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    options
}

pub struct Rig {
    pub task: Box<dyn SinkTask>,
    pub cx: TaskContext,
    options: Options,
}

impl Rig {
    pub async fn new(url: &str, more: &[(&str, &str)]) -> Self {
        // A name for each, so that no test inherits from another.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = TaskId::new(format!("sink-{}", NEXT.fetch_add(1, Ordering::Relaxed)), 0);
        Self::open(options(url, more), id, 0).await
    }

    async fn open(options: Options, task: TaskId, from: i64) -> Self {
        let Plugin::Sink(plugin) = sink::plugin() else { panic!("it is a sink") };
        let mut sink = plugin.open(&options, TaskSpec::new()).await.unwrap_or_else(|error| panic!("{error:?}"));
        sink.reads_from("cluster-1");
        let position =
            |partition| LogPosition { topic: "rides".into(), topic_id: TOPIC_ID, partition, offset: from, metadata: None };
        sink.assigned(&[position(0), position(1)]).await.unwrap();
        let cx = TaskContext {
            task,
            wait_max: Duration::from_secs(5),
            max_bytes: 1 << 20,
            max_records: 10_000,
            interrupt: CancellationToken::new(),
        };
        Self { task: sink, cx, options }
    }

    /// Closed and opened again as the worker does after a failure, from this committed offset.
    pub async fn reopened(mut self, from: i64) -> Self {
        self.task.close().await.unwrap();
        drop(self.task);
        Self::open(self.options, self.cx.task, from).await
    }

    pub async fn put(&mut self, records: Vec<Record>) -> Result<Vec<Reject>> {
        let batch: Batch = records.into_iter().collect();
        let mut rejects = Rejects::default();
        self.task.put(&batch, &mut rejects, &self.cx).await?;
        Ok(rejects.take())
    }

    #[track_caller]
    pub fn all_good(put: Result<Vec<Reject>>) {
        let rejects = put.unwrap_or_else(|error| panic!("{error:?}"));
        assert!(rejects.is_empty(), "{rejects:?}");
    }
}

pub fn record(offset: i64, key: &str, value: impl Into<Payload>) -> Record {
    Record {
        key: if key.is_empty() { Payload::Null } else { key.to_owned().into() },
        partition: Some(0),
        origin: Some(Origin { partition: Arc::new(TopicPartition::new("rides", 0)), offset }),
        timestamp: Some(1_767_225_600_000 + offset),
        ..Record::new("rides", value)
    }
}

pub fn with_header(mut record: Record, name: &str, value: &'static str) -> Record {
    record.headers.push(Header { name: name.into(), value: value.into() });
    record
}

/// Offsets from 0, keys `k0`, `k1`, … in turn, the value `<key>:<n>`.
pub fn records(count: i64, keys: i64) -> Vec<Record> {
    let of = |offset| (format!("k{}", offset % keys), offset / keys);
    (0..count).map(|offset| (offset, of(offset))).map(|(offset, (key, n))| record(offset, &key, format!("{key}:{n}"))).collect()
}
