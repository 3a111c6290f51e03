//! Appends of one task: a transactional producer whose id is the task's, or one without transactions.

use crate::log::Shared;
use crate::producer::{Boundary, Mode, Producer, ProducerOptions};
use crate::stores::{
    self,
    codec::{offset_key, offset_value},
};
use aqueduct_config::worker_config::ExactlyOnceSource;
use aqueduct_core::{Batch, Error, Options, Payload, Record, Result, SourceOffset, TaskId, Topic};
use aqueduct_log::{Commit, EncodedBatch, LogWriter, RecordLimit, TopicInfo, TransactionBoundary};
use async_trait::async_trait;
use std::sync::Arc;

pub(crate) async fn open(shared: &Arc<Shared>, task: &TaskId) -> Result<Box<dyn LogWriter>> {
    let options = &shared.options;
    let name = format!("{}-{task}", options.group_id);
    let exactly_once = options.settings.exactly_once == ExactlyOnceSource::Enabled;
    let connector = shared.stores.connector(&task.connector);
    let options = ProducerOptions {
        transactional_id: exactly_once.then(|| name.clone()),
        // Kafka Connect's name.
        client_id: format!("connector-producer-{task}"),
        boundary: match connector.transaction_boundary {
            TransactionBoundary::Poll => Boundary::Poll,
            TransactionBoundary::Interval(interval) => Boundary::Interval(interval),
            TransactionBoundary::Connector => Boundary::Connector,
        },
        overrides: &connector.producer,
    };
    let producer = Producer::open(shared, options).await?;
    let degraded = match producer.mode() {
        Mode::Transactional { v2: true } => None,
        Mode::Transactional { v2: false } => Some(NO_V2),
        Mode::Plain { .. } => Some(SWITCHED_OFF),
    };
    if let Some(why) = degraded {
        tracing::warn!(%task, "exactly once is degraded: {why}");
    }
    let (topic, _) = stores::offset_target(shared, &task.connector).await?;
    let offsets = Some((task.connector.clone(), topic));
    Ok(Box::new(KafkaWriter { producer, offsets, degraded, failed: None }))
}

/// Records in transactions of this id, without source offsets.
pub(crate) async fn transactional(shared: &Arc<Shared>, id: &str) -> Result<Box<dyn LogWriter>> {
    // The worker's `acks` is for its connectors.
    let overrides = Options::from([("acks".to_owned(), "all".into())]);
    let options = ProducerOptions {
        transactional_id: Some(id.to_owned()),
        client_id: id.to_owned(),
        boundary: Boundary::Poll,
        overrides: &overrides,
    };
    let producer = Producer::open(shared, options).await?;
    Ok(Box::new(KafkaWriter { producer, offsets: None, degraded: None, failed: None }))
}

const NO_V2: &str = "the cluster has not finalised transaction.version 2 (KIP-890), without which the delayed end of a transaction can hit the next one; \
    upgrade the brokers to 4.0 or later, then kafka-features.sh upgrade --feature transaction.version=2";
const SWITCHED_OFF: &str =
    "exactly.once.source.support is not enabled in worker.yaml: offsets are stored after the records (at least once)";

struct KafkaWriter {
    producer: Producer,
    /// The connector, and `offset.storage.topic`.
    offsets: Option<(Arc<str>, Topic)>,
    degraded: Option<&'static str>,
    failed: Option<Error>,
}

impl KafkaWriter {
    fn records(&self, resume: &[SourceOffset]) -> Option<Batch> {
        let (connector, topic) = self.offsets.as_ref().filter(|_| !resume.is_empty())?;
        let record = |offset: &SourceOffset| {
            let value = offset_value(offset.offset.as_ref()).map_or(Payload::Null, |value| Payload::Bytes(value.into()));
            let key = Payload::Bytes(offset_key(connector, &offset.partition).into());
            Record { key, value, ..Record::new(topic.clone(), Payload::Null) }
        };
        Some(resume.iter().map(record).collect())
    }
}

#[async_trait]
impl LogWriter for KafkaWriter {
    async fn append(&mut self, batch: EncodedBatch, resume: Vec<SourceOffset>) -> Result<Commit> {
        // Invariant 3: after a failed append nothing of this writer is taken.
        if let Some(error) = &self.failed {
            return Err(crate::producer::again(error));
        }
        let offsets = self.records(&resume);
        match self.producer.append(batch, offsets, None).await {
            Ok(committed) => Ok(Box::pin(async move { committed.await.unwrap_or_else(|_| Err(crate::error::closed())) })),
            Err(error) => {
                self.failed = Some(crate::producer::again(&error));
                Err(error)
            }
        }
    }

    async fn record_limit(&mut self, topic: &TopicInfo) -> Result<RecordLimit> {
        self.producer.record_limit(topic).await
    }

    fn degraded(&self) -> Option<String> {
        self.degraded.map(str::to_owned)
    }
}
