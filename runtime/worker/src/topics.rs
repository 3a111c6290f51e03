//! Topics for sources: `topic.creation.*` as KIP-158 has it.

use aqueduct_core::{Batch, Chunk, Error, PayloadRef, RecordRef, Rejects, Result, Stage, Topic};
use aqueduct_log::topic_config::TopicConfig;
use aqueduct_log::{Log, TopicInfo, TopicSpec};
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
    known: HashMap<Topic, usize>,
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
    pub async fn ensure(&mut self, batch: &Batch, log: &dyn Log) -> Result<()> {
        for chunk in batch.chunks() {
            if !self.known.contains_key(&chunk.topic) {
                let info = self.ensure_topic(&chunk.topic, log).await?;
                self.known.insert(chunk.topic.clone(), limit(&info));
            }
        }
        Ok(())
    }

    /// Takes out the records that are above `max.message.bytes` of their topic: the log would refuse the whole append. The topics are those of
    /// [`TopicCreation::ensure`].
    pub async fn reject_too_large(&mut self, batch: &mut Batch, rejects: &mut Rejects, log: &dyn Log) -> Result<()> {
        let suspects: HashSet<Topic> =
            batch.chunks().iter().filter(|chunk| self.has_too_large(chunk)).map(|chunk| chunk.topic.clone()).collect();
        if suspects.is_empty() {
            return Ok(());
        }
        // It may have been raised meanwhile.
        for topic in suspects {
            if let Some(info) = log.topic(&topic).await? {
                self.known.insert(topic, limit(&info));
            }
        }
        batch.retain(|record| {
            let (size, limit) = (size_of(record), self.limit(record.topic()));
            if size > limit {
                let message = format!("a record of {size} bytes for topic {}; max.message.bytes is {limit}", record.topic());
                let error = Error::fatal("log.record_too_large", message)
                    .fix("raise max.message.bytes of the topic, or send smaller records");
                rejects.push(record.to_record(), Stage::KafkaProduce, "log", error);
            }
            size <= limit
        });
        Ok(())
    }

    /// Whether a limit is no longer what is known here.
    pub async fn limits_changed(&self, log: &dyn Log) -> Result<bool> {
        let now = log.topics().await?;
        Ok(now.iter().any(|info| self.known.get(&info.name).is_some_and(|known| *known != limit(info))))
    }

    fn limit(&self, topic: &Topic) -> usize {
        self.known.get(topic).copied().unwrap_or(usize::MAX)
    }

    fn has_too_large(&self, chunk: &Chunk) -> bool {
        let limit = self.limit(&chunk.topic);
        // No record is larger than all of them together, mostly that decides.
        chunk.bytes() > limit && chunk.iter().any(|record| size_of(record) > limit)
    }

    async fn ensure_topic(&self, topic: &Topic, log: &dyn Log) -> Result<TopicInfo> {
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
        match log.create_topic(topic, self.spec_for(topic)).await {
            Ok(info) => {
                tracing::info!(%topic, partitions = info.partitions.len(), "topic created");
                Ok(info)
            }
            Err(error) if error.code() == "log.topic_exists" => log.topic(topic).await?.ok_or(error),
            Err(error) => Err(error),
        }
    }
}

fn limit(info: &TopicInfo) -> usize {
    let set = info.configs.get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
    set.unwrap_or_else(|| TopicConfig::default().max_message_bytes)
}

/// As the log counts it.
fn size_of(record: RecordRef<'_>) -> usize {
    let len = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 };
    let headers: usize = record.headers().iter().map(|header| header.name.len() + len(header.value.as_ref())).sum();
    len(record.key()) + len(record.value()) + headers
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
        topics.ensure(&batch, &log).await.unwrap();
        let mut rejects = Rejects::default();
        topics.reject_too_large(&mut batch, &mut rejects, &log).await.unwrap();
        let left: Vec<_> = batch.iter().map(|record| (record.topic().to_string(), size_of(record))).collect();
        assert_eq!(left, [("small".to_owned(), 1), ("large".to_owned(), 11), ("small".to_owned(), 10)]);
        let refused = rejects.take();
        assert_eq!((refused.len(), refused[0].stage, refused[0].error.code()), (1, Stage::KafkaProduce, "log.record_too_large"));
        assert!(!topics.limits_changed(&log).await.unwrap());
        log.delete_topic("small").await.unwrap();
        log.create_topic("small", &TopicSpec::default()).await.unwrap();
        assert!(topics.limits_changed(&log).await.unwrap());
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
