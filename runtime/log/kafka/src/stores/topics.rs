//! Kafka Connect's internal topics: created as it creates them, refused as it refuses them.

use super::Internal;
use aqueduct_config::worker_config::{KafkaSettings, StorageTopic};
use aqueduct_core::{Error, Result};
use aqueduct_log::TopicSpec;

/// What Kafka Connect asks for where nothing is said, and takes less of from no cluster; a cluster with fewer brokers has as many copies as it can.
const REPLICATION: i16 = 3;

struct Kind {
    /// The option that names it.
    option: &'static str,
    /// What it holds, for messages.
    holds: &'static str,
}

const CONFIG: Kind = Kind { option: "config.storage.topic", holds: "connector configurations" };
const OFFSET: Kind = Kind { option: "offset.storage.topic", holds: "source connector offsets" };
const STATUS: Kind = Kind { option: "status.storage.topic", holds: "connector and task statuses" };

pub(super) async fn ensure(settings: &KafkaSettings, log: &dyn Internal) -> Result<()> {
    let partitions = ensure_one(&CONFIG, &settings.config_topic.topic, &settings.config_topic, log).await?;
    if partitions != 1 {
        let message = format!(
            "Topic '{}' supplied via the '{}' property is required to have a single partition in order to guarantee consistency of \
             connector configurations, but found {partitions} partitions.",
            settings.config_topic.topic, CONFIG.option
        );
        return Err(
            Error::fatal("kafka.internal_topic", message).fix("name another topic, or one that is not there yet: it is created")
        );
    }
    ensure_one(&OFFSET, &settings.offset_topic.topic, &settings.offset_topic, log).await?;
    ensure_one(&STATUS, &settings.status_topic.topic, &settings.status_topic, log).await?;
    Ok(())
}

/// `topic` is the worker's or a connector's own.
pub(super) async fn ensure_offsets(topic: &str, like: &StorageTopic, log: &dyn Internal) -> Result<i32> {
    ensure_one(&OFFSET, topic, like, log).await
}

/// How many partitions it has.
async fn ensure_one(kind: &Kind, topic: &str, like: &StorageTopic, log: &dyn Internal) -> Result<i32> {
    if let Some(shape) = log.shape(topic).await? {
        return compacted(kind, topic, shape);
    }
    let replication_factor = match like.replication_factor {
        Some(factor) => factor,
        None => {
            let brokers = i16::try_from(log.brokers().await?).unwrap_or(i16::MAX).max(1);
            if brokers < REPLICATION {
                tracing::warn!(topic, brokers, "there are fewer than {REPLICATION} brokers: the topic has one copy on each");
            }
            brokers.min(REPLICATION)
        }
    };
    let mut configs = like.configs.clone();
    configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
    let spec = TopicSpec { partitions: like.partitions, replication_factor, configs };
    match log.create(topic, &spec).await {
        Ok(()) => tracing::info!(topic, replication_factor, "created the topic for {}", kind.holds),
        Err(error) if error.code() == "log.topic_exists" => {}
        Err(error) => return Err(error),
    }
    match log.shape(topic).await? {
        Some(shape) => compacted(kind, topic, shape),
        None => Err(Error::retriable("kafka.internal_topic", format!("topic {topic} was created and cannot be seen yet"))),
    }
}

/// Kafka Connect's words.
fn compacted(kind: &Kind, topic: &str, (partitions, policy): (i32, Option<String>)) -> Result<i32> {
    match policy.as_deref().map(str::trim) {
        None | Some("compact") => Ok(partitions),
        Some(policy) => {
            let Kind { option, holds } = kind;
            let message = format!(
                "Topic '{topic}' supplied via the '{option}' property is required to have 'cleanup.policy=compact' to guarantee consistency and \
                 durability of {holds}, but found the topic currently has 'cleanup.policy={policy}'. Continuing would likely result in eventually \
                 losing {holds} and problems restarting this Connect cluster in the future."
            );
            Err(Error::fatal("kafka.internal_topic", message).fix(format!(
                "set cleanup.policy=compact (kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=compact), or name another topic in {option}"
            )))
        }
    }
}
