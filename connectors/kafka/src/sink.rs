//! `kafka-sink`: records of the log to topics of another cluster, exactly once.

mod config;
mod lane;
mod position;
mod positions;
mod record;
mod target;

pub use config::Config;

use crate::error;
use aqueduct_config::SinkConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    Ack, Batch, Chunk, Delivery, Error, Issue, LogPosition, Rejects, Result, SinkTask, TaskContext, TaskSpec, TopicPartition,
};
use async_trait::async_trait;
use config::{Guarantee, Settings};
use futures_util::future::{join_all, try_join_all};
use krafka::Kafka;
use krafka::admin::AdminClient;
use krafka::producer::{DeliveryHandle, Producer};
use lane::Lane;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use target::{Target, TargetTopic};
use uuid::Uuid;

pub struct KafkaSinkConnector;

#[async_trait]
impl SinkConnector for KafkaSinkConnector {
    type Config = Config;
    type Task = KafkaSink;
    const NAME: &'static str = "kafka-sink";
    const SUMMARY: &'static str =
        "Writes records exactly once to topics of another Kafka cluster, in the order of their partition.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings().err().unwrap_or_default()
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(config: Config, _: TaskSpec) -> Result<KafkaSink> {
        let settings = config.settings().map_err(|issues| invalid(&issues))?;
        let kafka = settings.client.connect("aqueduct-kafka-sink", settings.request_timeout).await?;
        let admin = || kafka.admin().default_api_timeout(settings.request_timeout).metrics_push(false);
        let writer = match settings.guarantee {
            Guarantee::ExactlyOnce => Writer::Exactly { assigned: BTreeMap::new(), lanes: BTreeMap::new() },
            Guarantee::AtLeastOnce => {
                let producer = lane::builder(&kafka, &settings).build().await;
                let producer = producer.map_err(|failed| error::from("open a producer", &failed))?;
                Writer::AtLeast { producer: Box::new(producer), sent: Vec::new() }
            }
        };
        Ok(KafkaSink { target: Target::new(admin()), admin: admin(), kafka, writer, settings })
    }
}

pub struct KafkaSink {
    settings: Settings,
    kafka: Kafka,
    admin: AdminClient,
    target: Target,
    writer: Writer,
}

enum Writer {
    Exactly {
        assigned: BTreeMap<TopicPartition, LogPosition>,
        /// Made when the first record of the partition comes: until then nothing is to be fenced.
        lanes: BTreeMap<TopicPartition, Lane>,
    },
    AtLeast {
        producer: Box<Producer>,
        /// Without an outcome yet.
        sent: Vec<DeliveryHandle>,
    },
}

/// More records than this are not left without an outcome.
const SENT_MAX: usize = 50_000;

impl KafkaSink {
    /// Lanes for the partitions that have none: fences all, then asks where the target stands.
    async fn make_lanes(&mut self, batch: &Batch, connector: &str) -> Result<()> {
        let Writer::Exactly { assigned, lanes } = &mut self.writer else { return Ok(()) };
        let mut new: Vec<&LogPosition> = Vec::new();
        for chunk in batch.chunks() {
            let origin = origin(chunk)?;
            if !lanes.contains_key(&**origin) && !new.iter().any(|position| position.topic_partition() == **origin) {
                let position = assigned.get(&**origin);
                new.push(
                    position.ok_or_else(|| Error::retriable("kafka_sink.not_assigned", format!("{origin} is not assigned")))?,
                );
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let partitions = self.target.positions(&self.settings).await?;
        let producers =
            try_join_all(new.iter().map(|position| lane::fence(&self.kafka, &self.settings, connector, position))).await?;
        let keys: Vec<_> = new.iter().map(|position| position::key(connector, position)).collect();
        let found = positions::read(&self.kafka, &self.admin, &self.settings, partitions, &keys).await?;
        for ((position, producer), key) in new.into_iter().zip(producers).zip(keys) {
            let start = position::resolve(position, found.get(&key), Uuid::new_v4())?;
            tracing::info!(partition = %position.topic_partition(), log = position.offset, target = start.offset, "where the target stands");
            lanes.insert(position.topic_partition(), Lane::new(producer, key, start));
        }
        Ok(())
    }

    async fn put_chunk(&mut self, chunk: &Chunk, rejects: &mut Rejects) -> Result<()> {
        let origin = origin(chunk)?;
        let partition = self.settings.preserve_partitions.then(|| chunk.partition.unwrap_or(origin.partition));
        let topic = self.target.topic(&chunk.topic, partition, &self.settings).await?;
        match &mut self.writer {
            Writer::Exactly { lanes, .. } => {
                let Some(lane) = lanes.get_mut(&**origin) else {
                    return Err(Error::retriable("kafka_sink.not_assigned", format!("{origin} is not assigned")));
                };
                put_exactly(lane, chunk, partition, &topic, &self.settings, rejects).await
            }
            Writer::AtLeast { producer, sent } => {
                for record in chunk.iter() {
                    let Some(record) = record::record(record, partition, &topic, &self.settings, rejects) else { continue };
                    if sent.len() >= SENT_MAX {
                        outcomes(sent).await?;
                    }
                    sent.push(producer.enqueue(record).await.map_err(|failed| error::from("write to the target", &failed))?);
                }
                Ok(())
            }
        }
    }
}

/// What the target has is judged again, since the log did not store what was refused of it; but it is not written again.
async fn put_exactly(
    lane: &mut Lane,
    chunk: &Chunk,
    partition: Option<i32>,
    topic: &TargetTopic,
    settings: &Settings,
    rejects: &mut Rejects,
) -> Result<()> {
    let written = lane.next();
    for from in chunk.iter() {
        let Some(record) = record::record(from, partition, topic, settings, rejects) else { continue };
        if from.origin().is_none_or(|(_, offset)| offset >= written) {
            lane.send(record).await?;
        }
    }
    Ok(())
}

fn origin(chunk: &Chunk) -> Result<&Arc<TopicPartition>> {
    chunk
        .origin
        .as_ref()
        .ok_or_else(|| Error::fatal("kafka_sink.origin", "a record says not where it was read: a transform took it away"))
}

async fn outcomes(sent: &mut Vec<DeliveryHandle>) -> Result<()> {
    for handle in sent.drain(..) {
        let _ = handle.await.map_err(|failed| error::from("write to the target", &failed))?;
    }
    Ok(())
}

#[async_trait]
impl SinkTask for KafkaSink {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        if let Writer::Exactly { assigned, lanes } = &mut self.writer {
            for position in partitions {
                let partition = position.topic_partition();
                if let Some(lane) = lanes.remove(&partition) {
                    lane.close(&self.settings.positions_topic).await;
                }
                assigned.insert(partition, position.clone());
            }
        }
        // The log's positions stand: what the target has beyond them is read again, for the sake of dead letters, and not written.
        Ok(Vec::new())
    }

    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        if let Writer::Exactly { assigned, lanes } = &mut self.writer {
            for partition in partitions {
                assigned.remove(partition);
                if let Some(lane) = lanes.remove(partition) {
                    lane.close(&self.settings.positions_topic).await;
                }
            }
        }
        Ok(())
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        self.make_lanes(batch, &cx.task.connector).await?;
        for chunk in batch.chunks() {
            self.put_chunk(chunk, rejects).await?;
        }
        if let Writer::Exactly { lanes, .. } = &mut self.writer {
            // One record may have become several: only behind the whole batch is its last offset passed.
            let mut last = FxHashMap::default();
            for chunk in batch.chunks() {
                let end = chunk.iter().filter_map(|record| record.origin()).map(|(_, offset)| offset).max();
                if let (Some(partition), Some(end)) = (&chunk.origin, end) {
                    let passed: &mut i64 = last.entry(&**partition).or_insert(end);
                    *passed = end.max(*passed);
                }
            }
            for (partition, end) in last {
                if let Some(lane) = lanes.get_mut(partition) {
                    lane.passed(end);
                }
            }
        }
        Ok(Ack::Buffered)
    }

    async fn flush(&mut self) -> Result<()> {
        match &mut self.writer {
            Writer::Exactly { lanes, .. } => {
                let positions = self.settings.positions_topic.as_str();
                // All of them to their end: a commit that is dropped midway has an unknown outcome.
                join_all(lanes.values_mut().map(|lane| lane.commit(positions))).await.into_iter().collect()
            }
            Writer::AtLeast { sent, .. } => outcomes(sent).await,
        }
    }

    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        let Writer::Exactly { assigned, lanes } = &self.writer else { return None };
        match lanes.get(partition) {
            Some(lane) => Some(lane.metadata()),
            None => assigned.get(partition)?.metadata.as_deref().map(str::to_owned),
        }
    }

    fn delivery(&self) -> Delivery {
        match &self.writer {
            Writer::Exactly { .. } => Delivery::ExactlyOnce,
            Writer::AtLeast { .. } => Delivery::AtLeastOnce("delivery.guarantee is at_least_once".to_owned()),
        }
    }

    async fn close(&mut self) -> Result<()> {
        match &mut self.writer {
            Writer::Exactly { lanes, .. } => {
                let closing = std::mem::take(lanes).into_values().map(|lane| lane.close(&self.settings.positions_topic));
                join_all(closing).await;
            }
            Writer::AtLeast { producer, .. } => {
                let _ = producer.close_with(krafka::CloseOptions::new().timeout(std::time::Duration::from_secs(5))).await;
            }
        }
        Ok(())
    }
}
