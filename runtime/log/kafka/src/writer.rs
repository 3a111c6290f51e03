//! Appends of one task: a transactional producer whose id is the task's, or one without transactions.

use crate::log::Shared;
use crate::producer::{Boundary, Identity, Mode, Producer, ProducerOptions};
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
    let turn = shared.opening(&name).await?;
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
        budget: connector.buffer_bytes,
        overrides: &connector.producer,
        after: None,
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
    let own = Arc::new(Own { shared: shared.clone(), name, turn });
    Ok(Box::new(KafkaWriter { producer, offsets, degraded, own: Some(own), failed: None }))
}

/// Records in transactions of this id, without source offsets. `after`: only when nobody took over from this producer.
pub(crate) async fn transactional(shared: &Arc<Shared>, id: &str, after: Option<Identity>) -> Result<KafkaWriter> {
    // The worker's `acks` is for its connectors.
    let overrides = Options::from([("acks".to_owned(), "all".into())]);
    let options = ProducerOptions {
        transactional_id: Some(id.to_owned()),
        client_id: id.to_owned(),
        boundary: Boundary::Poll,
        budget: None,
        overrides: &overrides,
        after,
    };
    let producer = Producer::open(shared, options).await?;
    Ok(KafkaWriter { producer, offsets: None, degraded: None, own: None, failed: None })
}

const NO_V2: &str = "the cluster has not finalised transaction.version 2 (KIP-890), without which the delayed end of a transaction can hit the next one; \
    upgrade the brokers to 4.0 or later, then kafka-features.sh upgrade --feature transaction.version=2";
const SWITCHED_OFF: &str =
    "exactly.once.source.support is not enabled in worker.yaml: offsets are stored after the records (at least once)";

pub(crate) struct KafkaWriter {
    producer: Producer,
    /// The connector, and `offset.storage.topic`.
    offsets: Option<(Arc<str>, Topic)>,
    degraded: Option<&'static str>,
    /// Of a task.
    own: Option<Arc<Own>>,
    failed: Option<Error>,
}

/// The task of a writer, to know what a fence means.
struct Own {
    shared: Arc<Shared>,
    name: String,
    turn: u64,
}

impl Own {
    async fn told_apart(&self, error: Error) -> Error {
        // A later writer of the task in this process.
        if error.code() != "log.fenced" || self.shared.is_opened_again(&self.name, self.turn) {
            return error;
        }
        self.shared.fenced_or_late(&self.name).await
    }
}

impl KafkaWriter {
    pub(crate) fn identity(&self) -> Identity {
        self.producer.identity()
    }

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
        if let Some(own) = &self.own
            && let Err(error) = own.shared.confirmed().await
        {
            self.failed = Some(crate::producer::again(&error));
            return Err(error);
        }
        let offsets = self.records(&resume);
        match self.producer.append(batch, offsets, None).await {
            Ok(committed) => {
                let own = self.own.clone();
                Ok(Box::pin(async move {
                    match (committed.await.unwrap_or_else(|_| Err(crate::error::closed())), own) {
                        (Err(error), Some(own)) => Err(own.told_apart(error).await),
                        (result, _) => result,
                    }
                }))
            }
            Err(error) => {
                let error = match &self.own {
                    Some(own) => own.told_apart(error).await,
                    None => error,
                };
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
