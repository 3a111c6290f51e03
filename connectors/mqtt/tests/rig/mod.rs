//! The plugins as the worker drives them.
#![allow(dead_code, reason = "each test program uses its part")]

use aqueduct_connector_mqtt::plugins;
use aqueduct_core::{
    Batch, Error, LogPosition, Options, Payload, Plugin, Record, Reject, Rejects, Result, SinkTask, SourceOffset, SourceTask,
    TaskContext, TaskId, TopicPartition,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// On a loaded machine.
pub const SOON: Duration = Duration::from_secs(60);
pub const TOPIC_ID: Uuid = Uuid::from_u128(7);

pub fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn context() -> TaskContext {
    TaskContext {
        task: TaskId::new("rig", 0),
        wait_max: Duration::from_millis(50),
        max_bytes: 1 << 20,
        max_records: 1000,
        interrupt: CancellationToken::new(),
    }
}

pub struct Source {
    pub task: Box<dyn SourceTask>,
    /// The last, as the log has them.
    pub offsets: Vec<SourceOffset>,
}

impl Source {
    pub async fn open(options: &Options) -> Result<Self> {
        Self::resume(options, 1, 0, Vec::new()).await
    }

    pub async fn resume(options: &Options, tasks: u32, index: usize, offsets: Vec<SourceOffset>) -> Result<Self> {
        let Some(Plugin::Source(plugin)) = plugins().into_iter().next() else { panic!("a source") };
        let spec = plugin.plan(options, tasks).await?.remove(index);
        let task = plugin.open(options, spec, offsets.clone()).await?;
        Ok(Self { task, offsets })
    }

    /// Opened and subscribed.
    pub async fn ready(options: &Options) -> Self {
        let mut source = Self::open(options).await.unwrap();
        source.subscribed().await;
        source
    }

    /// Polls until the first offset came, which tells that the broker has taken the subscription.
    pub async fn subscribed(&mut self) {
        let begin = Instant::now();
        while self.offsets.is_empty() {
            assert!(self.step().await.unwrap().is_empty());
            assert!(begin.elapsed() < SOON, "no subscription");
        }
    }

    /// One poll, durable at once.
    pub async fn step(&mut self) -> Result<Vec<Record>> {
        let polled = self.task.poll(&context()).await?;
        self.store(&polled.resume);
        self.task.commit(&polled.resume).await?;
        Ok(polled.batch.into_records().collect())
    }

    pub fn store(&mut self, resume: &[SourceOffset]) {
        for offset in resume {
            self.offsets.retain(|old| old.partition != offset.partition);
            self.offsets.push(offset.clone());
        }
    }

    pub async fn take(&mut self, count: usize) -> Vec<Record> {
        let (mut records, begin) = (Vec::new(), Instant::now());
        while records.len() < count {
            records.extend(self.step().await.unwrap());
            assert!(begin.elapsed() < SOON, "{} of {count} records", records.len());
        }
        assert_eq!(records.len(), count, "{records:?}");
        records
    }

    /// Until it fails.
    pub async fn failure(&mut self) -> Error {
        let begin = Instant::now();
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
            assert!(begin.elapsed() < SOON, "it does not fail");
        }
    }

    /// Nothing comes any more.
    pub async fn quiet(&mut self) {
        for _ in 0..6 {
            let records = self.step().await.unwrap();
            assert!(records.is_empty(), "{records:?}");
        }
    }
}

pub fn text(payload: &Payload) -> String {
    match payload {
        Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

pub fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| text(&record.value)).collect()
}

pub struct Sink(pub Box<dyn SinkTask>);

impl Sink {
    pub async fn open(options: &Options) -> Result<Self> {
        let Some(Plugin::Sink(plugin)) = plugins().into_iter().nth(1) else { panic!("a sink") };
        let spec = plugin.plan(options, 1).await?.remove(0);
        let mut task = plugin.open(options, spec).await?;
        let position = LogPosition { topic: "orders".into(), topic_id: TOPIC_ID, partition: 0, offset: 0, metadata: None };
        task.assigned(&[position]).await?;
        Ok(Self(task))
    }

    pub async fn put(&mut self, records: Vec<Record>) -> Result<Vec<Reject>> {
        let origin = Arc::new(TopicPartition::new("orders", 0));
        let with_origin = records.into_iter().zip(0..).map(|(record, offset)| Record {
            origin: Some(aqueduct_core::Origin { partition: origin.clone(), offset }),
            ..record
        });
        let batch: Batch = with_origin.collect();
        let mut rejects = Rejects::default();
        self.0.put(&batch, &mut rejects, &context()).await?;
        Ok(rejects.take())
    }
}
