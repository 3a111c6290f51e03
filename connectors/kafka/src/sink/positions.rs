//! Reads the positions that the target keeps.

use super::config::Settings;
use super::position::Position;
use crate::error;
use aqueduct_core::{Error, Result};
use bytes::Bytes;
use krafka::admin::{AdminClient, ListOffsetsOptions, OffsetSpec, TopicPartition};
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use krafka::{Kafka, KrafkaError};
use rustc_hash::FxHashMap;
use std::time::Duration;
use tokio::time::Instant;

/// The last committed position of each of `wanted`, by key. To be called after their predecessors were fenced: then nothing of theirs is undecided.
///
/// # Errors
/// `kafka_sink.undecided` (retriable): another writer's transaction stays open at the end of the topic.
pub(super) async fn read(
    kafka: &Kafka,
    admin: &AdminClient,
    settings: &Settings,
    partitions: i32,
    wanted: &[Bytes],
) -> Result<FxHashMap<Bytes, Position>> {
    let topic = settings.positions_topic.as_str();
    let failed = |failed: &KrafkaError| error::from(&format!("read the positions in topic {topic} of the target"), failed);
    let ask = |spec| {
        admin.list_offsets((0..partitions).map(move |one| (TopicPartition::new(topic, one), spec)), ListOffsetsOptions::default())
    };
    let (low, high) = tokio::try_join!(ask(OffsetSpec::Earliest), ask(OffsetSpec::Latest)).map_err(|error| failed(&error))?;
    let consumer = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::None)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(10_000)
        .max_buffered_records(10_000)
        .fetch_max_wait(Duration::from_millis(100))
        .metrics_push(false)
        .build()
        .await
        .map_err(|error| failed(&error))?;
    consumer.assign(topic, (0..partitions).collect()).await.map_err(|error| failed(&error))?;
    let mut ends = Vec::new();
    for one in 0..partitions {
        let at = TopicPartition::new(topic, one);
        let offset =
            |of: &std::collections::HashMap<TopicPartition, krafka::Result<krafka::admin::ListedOffset>>| match of.get(&at) {
                Some(Ok(listed)) => Ok(listed.offset),
                Some(Err(error)) => Err(failed(error)),
                None => Err(Error::retriable("kafka.broker", format!("no answer about {topic}-{one}"))),
            };
        let (low, high) = (offset(&low)?, offset(&high)?);
        consumer.seek(topic, one, low).await.map_err(|error| failed(&error))?;
        ends.push((one, high));
    }
    // A writer that died is aborted by the target after its transaction timeout, if nobody fences it before.
    let deadline = Instant::now() + settings.transaction_timeout + Duration::from_secs(15);
    let mut found = FxHashMap::default();
    loop {
        let mut behind = false;
        for (one, end) in &ends {
            behind |= consumer.position(topic, *one).await.is_none_or(|position| position < *end);
        }
        if !behind {
            break;
        }
        for record in consumer.poll(Duration::from_millis(200)).await.map_err(|error| failed(&error))? {
            let Some(key) = record.key.filter(|key| wanted.contains(key)) else { continue };
            match record.value {
                None => drop(found.remove(&key)),
                Some(value) => {
                    let position: Position = serde_json::from_slice(&value).map_err(|error| {
                        let message = format!("{topic}-{} offset {} is no position", record.partition, record.offset);
                        Error::fatal("kafka_sink.position", message)
                            .because(error)
                            .fix("name another positions.topic: somebody else writes there")
                    })?;
                    found.insert(key, position);
                }
            }
        }
        if Instant::now() >= deadline {
            let message = format!("a transaction at the end of topic {topic} of the target stays undecided");
            return Err(Error::retriable("kafka_sink.undecided", message).fix(
                "kafka-transactions.sh find-hanging shows whose it is; abort that producer's other partitions first, this topic last",
            ));
        }
    }
    let _ = consumer.close().await;
    Ok(found)
}
