//! Topics of the target: made where they are missing; how large a record may be.

use super::config::Settings;
use crate::error;
use aqueduct_core::{Error, Result, Topic};
use krafka::KrafkaError;
use krafka::admin::{
    AdminClient, ConfigResource, CreateTopicsOptions, DescribeConfigsOptions, DescribeTopicsOptions, NewTopic, TopicDescription,
};
use krafka::error::ErrorCode;
use rustc_hash::FxHashMap;

#[derive(Clone, Debug)]
pub(super) struct TargetTopic {
    pub(super) name: Topic,
    pub(super) partitions: i32,
    /// A record, with the batch around it.
    pub(super) max_bytes: usize,
}

pub(super) struct Target {
    admin: AdminClient,
    /// By name in the log.
    known: FxHashMap<Topic, TargetTopic>,
}

/// Kafka's, where the brokers do not let us see it.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

impl Target {
    pub(super) fn new(admin: AdminClient) -> Self {
        Self { admin, known: FxHashMap::default() }
    }

    /// The topic for one of the log's.
    ///
    /// # Errors
    /// `kafka.unknown_topic`, `kafka.not_authorized`, `kafka.no_partition` (fatal).
    pub(super) async fn topic(&mut self, source: &Topic, partition: Option<i32>, settings: &Settings) -> Result<TargetTopic> {
        let fits = |topic: &TargetTopic| partition.is_none_or(|partition| partition < topic.partitions);
        if let Some(known) = self.known.get(source).filter(|known| fits(known)) {
            return Ok(known.clone());
        }
        let name = settings.format.apply(source);
        let topic = self.look_or_create(&name, settings).await?;
        self.known.insert(source.clone(), topic.clone());
        if let Some(partition) = partition.filter(|_| !fits(&topic)) {
            let message = format!(
                "topic {name} of the target has {} partitions, and {source}-{partition} is to go to the same number",
                topic.partitions
            );
            let fix = format!(
                "add partitions: kafka-topics.sh --alter --topic {name} --partitions {}; or set topic.preserve.partitions: false",
                partition + 1
            );
            return Err(Error::fatal("kafka.no_partition", message).fix(fix));
        }
        Ok(topic)
    }

    async fn look_or_create(&self, name: &Topic, settings: &Settings) -> Result<TargetTopic> {
        let described = match self.describe(name).await? {
            Some(described) => described,
            None if settings.auto_create => {
                let new = NewTopic::new(&**name, settings.partitions, settings.replication);
                self.create(name, new).await?;
                self.appeared(name).await?
            }
            None => {
                let error = Error::fatal("kafka.unknown_topic", format!("topic {name} is not in the target"));
                return Err(error.fix("create it, or set topic.auto.create: true"));
            }
        };
        let max_bytes = self.config(name, "max.message.bytes").await?.and_then(|bytes| bytes.parse().ok());
        Ok(TargetTopic {
            name: name.clone(),
            partitions: i32::try_from(described.partitions.len()).unwrap_or(i32::MAX),
            max_bytes: max_bytes.unwrap_or(MAX_MESSAGE_BYTES),
        })
    }

    /// The topic of positions: compacted, or what it forgets would be written again.
    ///
    /// # Errors
    /// `kafka_sink.not_compacted` (fatal).
    pub(super) async fn positions(&self, settings: &Settings) -> Result<i32> {
        let name: Topic = settings.positions_topic.as_str().into();
        let described = match self.describe(&name).await? {
            Some(described) => described,
            None => {
                // Small segments: compaction leaves the last one alone, and all of it is read at the start.
                let new = NewTopic::new(&*name, 1, settings.replication)
                    .map(|new| new.with_config("cleanup.policy", "compact").with_config("segment.bytes", "16777216"));
                self.create(&name, new).await?;
                self.appeared(&name).await?
            }
        };
        if let Some(policy) = self.config(&name, "cleanup.policy").await?.filter(|policy| policy != "compact") {
            let message = format!("topic {name} of the target keeps positions, but its cleanup.policy is {policy}");
            let fix = format!(
                "kafka-configs.sh --alter --topic {name} --add-config cleanup.policy=compact, or name another positions.topic"
            );
            return Err(Error::fatal("kafka_sink.not_compacted", message).fix(fix));
        }
        Ok(i32::try_from(described.partitions.len()).unwrap_or(i32::MAX))
    }

    async fn create(&self, name: &Topic, new: krafka::Result<NewTopic>) -> Result<()> {
        let failed = |failed: &KrafkaError| error::from(&format!("create topic {name} in the target"), failed);
        let new = new.map_err(|error| failed(&error))?;
        let mut created =
            self.admin.create_topics([new], CreateTopicsOptions::default()).await.map_err(|error| failed(&error))?;
        match created.remove(&**name) {
            Some(Err(error)) if error::code_of(&error) != Some(ErrorCode::TopicAlreadyExists) => Err(failed(&error)),
            _ => {
                tracing::info!(topic = %name, "topic created in the target");
                Ok(())
            }
        }
    }

    /// It takes a moment until every broker knows of a new topic.
    async fn appeared(&self, name: &Topic) -> Result<TopicDescription> {
        for _ in 0..100 {
            if let Some(described) =
                self.describe(name).await?.filter(|topic| topic.partitions.iter().all(|one| one.leader.is_some()))
            {
                return Ok(described);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Err(Error::retriable("kafka.unknown_topic", format!("topic {name} was created, but has no leader yet")))
    }

    async fn describe(&self, name: &Topic) -> Result<Option<TopicDescription>> {
        let failed = |failed: &KrafkaError| error::from(&format!("look at topic {name} of the target"), failed);
        let mut described =
            self.admin.describe_topics([&**name], DescribeTopicsOptions::default()).await.map_err(|error| failed(&error))?;
        match described.remove(&**name) {
            Some(Ok(described)) => Ok(Some(described)),
            Some(Err(error)) if error::code_of(&error) != Some(ErrorCode::UnknownTopicOrPartition) => Err(failed(&error)),
            _ => Ok(None),
        }
    }

    /// `None` where we may not see it.
    async fn config(&self, topic: &Topic, name: &str) -> Result<Option<String>> {
        let resource = ConfigResource::topic(&**topic);
        let options = DescribeConfigsOptions::default().config_names(vec![name.to_owned()]);
        let mut configs = self
            .admin
            .describe_configs([resource.clone()], options)
            .await
            .map_err(|failed| error::from(&format!("look at the configs of topic {topic}"), &failed))?;
        match configs.remove(&resource) {
            Some(Ok(entries)) => Ok(entries.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.value)),
            _ => Ok(None),
        }
    }
}
