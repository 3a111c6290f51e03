//! Topics for sources: `topic.creation.*` as KIP-158 has it.

use crate::policy::DeadLetterQueue;
use aqueduct_core::{Batch, Chunk, Error, Rejects, Result, Stage, Topic};
use aqueduct_log::{Log, LogWriter, RecordLimit, TopicInfo, TopicSpec};
use regex::Regex;
use std::collections::{HashMap, HashSet};

/// The rules of one connector, and the topics that one task knows to exist.
#[derive(Clone, Debug, Default)]
pub struct TopicCreation {
    /// `topic.creation.enable` of the worker.
    pub enabled: bool,
    /// In order; the first whose `include` matches (and no `exclude`) wins.
    pub groups: Vec<TopicGroup>,
    pub default: TopicSpec,
    /// With the size that a record may have there.
    known: HashMap<Topic, RecordLimit>,
}

/// The log as one task sees it.
pub struct TaskLog<'a> {
    pub connector: &'a str,
    pub log: &'a dyn Log,
    pub writer: &'a mut dyn LogWriter,
}

#[derive(Clone, Debug)]
pub struct TopicGroup {
    pub include: Vec<Regex>,
    pub exclude: Vec<Regex>,
    pub spec: TopicSpec,
}

impl TopicCreation {
    pub fn new(enabled: bool, default: TopicSpec, groups: Vec<TopicGroup>) -> Self {
        Self { enabled, groups, default, known: HashMap::new() }
    }

    pub fn spec_for(&self, topic: &str) -> &TopicSpec {
        let matches = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(topic));
        self.groups
            .iter()
            .find(|group| matches(&group.include) && !matches(&group.exclude))
            .map_or(&self.default, |group| &group.spec)
    }

    /// Creates what a batch needs and is not there.
    pub async fn ensure(&mut self, batch: &Batch, to: &mut TaskLog<'_>) -> Result<()> {
        for chunk in batch.chunks() {
            if !self.known.contains_key(&chunk.topic) {
                let info = self.ensure_topic(&chunk.topic, to.connector, to.log).await?;
                self.known.insert(chunk.topic.clone(), to.writer.record_limit(&info).await?);
            }
        }
        Ok(())
    }

    /// Creates the dead letter queue, unless it is there.
    pub async fn ensure_queue(&mut self, queue: &DeadLetterQueue, to: &mut TaskLog<'_>) -> Result<RecordLimit> {
        if let Some(limit) = self.known.get(&queue.topic) {
            return Ok(*limit);
        }
        let info = queue_topic(queue, to.connector, to.log).await?;
        let limit = to.writer.record_limit(&info).await?;
        self.known.insert(queue.topic.clone(), limit);
        Ok(limit)
    }

    /// Takes out the records that are above `max.message.bytes` of their topic: the log would refuse the whole append. The topics are those of
    /// [`TopicCreation::ensure`].
    pub async fn reject_too_large(&mut self, batch: &mut Batch, rejects: &mut Rejects, to: &mut TaskLog<'_>) -> Result<()> {
        let suspects: HashSet<Topic> =
            batch.chunks().iter().filter(|chunk| self.may_refuse(chunk)).map(|chunk| chunk.topic.clone()).collect();
        if suspects.is_empty() {
            return Ok(());
        }
        // It may have been raised meanwhile.
        for topic in &suspects {
            if let Some(info) = to.log.topic(topic).await? {
                self.known.insert(topic.clone(), to.writer.record_limit(&info).await?);
            }
        }
        batch.retain(|record| {
            let limit = self.known.get(record.topic()).filter(|_| suspects.contains(record.topic()));
            let Some((limit, size)) = limit.and_then(|limit| Some((limit, limit.excess(record)?))) else { return true };
            let (topic, limit) = (record.topic(), limit.bytes());
            let message = format!("a record of {size} bytes for topic {topic}; max.message.bytes is {limit}");
            let error = Error::fatal("log.record_too_large", message)
                .fix("raise max.message.bytes of the topic, or send smaller records");
            rejects.push(record.to_record(), Stage::KafkaProduce, "log", error);
            false
        });
        Ok(())
    }

    /// Whether a limit is no longer what is known here.
    pub async fn limits_changed(&self, to: &mut TaskLog<'_>) -> Result<bool> {
        for (topic, known) in &self.known {
            if let Some(info) = to.log.topic(topic).await?
                && to.writer.record_limit(&info).await? != *known
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn may_refuse(&self, chunk: &Chunk) -> bool {
        self.known.get(&chunk.topic).is_some_and(|limit| limit.may_refuse(chunk))
    }

    async fn ensure_topic(&self, topic: &Topic, connector: &str, log: &dyn Log) -> Result<TopicInfo> {
        if let Some(info) = log.topic(topic).await? {
            return Ok(info);
        }
        if !self.enabled {
            return Err(Error::fatal(
                "worker.unknown_topic",
                format!("topic {topic} does not exist and topic.creation.enable is false"),
            )
            .fix("create the topic, or set topic.creation.enable: true in worker.yaml"));
        }
        create(topic, self.spec_for(topic), connector, log).await
    }
}

/// The dead letter queue of a connector, created if it is missing: by whoever has a first letter, as Kafka Connect does with one partition.
pub async fn queue_topic(queue: &DeadLetterQueue, connector: &str, log: &dyn Log) -> Result<TopicInfo> {
    match log.topic(&queue.topic).await? {
        Some(info) => Ok(info),
        None => {
            let spec = TopicSpec { replication_factor: queue.replication_factor, ..TopicSpec::default() };
            create(&queue.topic, &spec, connector, log).await
        }
    }
}

async fn create(topic: &Topic, spec: &TopicSpec, connector: &str, log: &dyn Log) -> Result<TopicInfo> {
    match log.create_topic_for(connector, topic, spec).await {
        Ok(info) => {
            tracing::info!(%topic, partitions = info.partitions.len(), "topic created");
            Ok(info)
        }
        // Another task was first.
        Err(error) if error.code() == "log.topic_exists" => log.topic(topic).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Record;
    use aqueduct_log::memory::MemoryLog;

    #[tokio::test]
    async fn only_what_is_above_its_topics_limit_is_taken_out_and_the_order_stays() {
        let log = MemoryLog::new();
        let spec = TopicSpec { configs: [("max.message.bytes".to_owned(), "10".to_owned())].into(), ..TopicSpec::default() };
        log.create_topic("small", &spec).await.unwrap();
        let mut topics = TopicCreation::new(true, TopicSpec::default(), Vec::new());
        let record = |topic: &str, bytes: usize| Record::new(topic, "x".repeat(bytes));
        let mut batch: Batch =
            [record("small", 1), record("small", 11), record("large", 11), record("small", 10)].into_iter().collect();
        let mut writer = log.writer(&aqueduct_core::TaskId::new("c", 0)).await.unwrap();
        let mut to = TaskLog { connector: "c", log: &log, writer: &mut *writer };
        topics.ensure(&batch, &mut to).await.unwrap();
        let mut rejects = Rejects::default();
        topics.reject_too_large(&mut batch, &mut rejects, &mut to).await.unwrap();
        let left: Vec<_> = batch.iter().map(|record| (record.topic().to_string(), record.to_record().value.size())).collect();
        assert_eq!(left, [("small".to_owned(), 1), ("large".to_owned(), 11), ("small".to_owned(), 10)]);
        let refused = rejects.take();
        assert_eq!((refused.len(), refused[0].stage, refused[0].error.code()), (1, Stage::KafkaProduce, "log.record_too_large"));
        assert!(!topics.limits_changed(&mut to).await.unwrap());
        log.delete_topic("small").await.unwrap();
        log.create_topic("small", &TopicSpec::default()).await.unwrap();
        assert!(topics.limits_changed(&mut to).await.unwrap());
    }

    #[test]
    fn the_first_group_that_includes_and_does_not_exclude_wins() {
        let spec = |partitions| TopicSpec { partitions, ..TopicSpec::default() };
        let group = |include: &str, exclude: &[&str], partitions| TopicGroup {
            include: vec![Regex::new(&format!("^(?:{include})$")).unwrap()],
            exclude: exclude.iter().map(|e| Regex::new(&format!("^(?:{e})$")).unwrap()).collect(),
            spec: spec(partitions),
        };
        let creation = TopicCreation::new(true, spec(1), vec![group("shop.*", &["shop-x"], 3), group(".*-x", &[], 5)]);
        let of = |topic| creation.spec_for(topic).partitions;
        assert_eq!((of("shop1"), of("shop-x"), of("other")), (3, 5, 1));
    }
}
