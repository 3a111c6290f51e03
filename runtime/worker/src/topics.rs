//! Topics for sources: `topic.creation.*` as KIP-158 has it.

use aqueduct_core::{Batch, Error, Result, Topic};
use aqueduct_log::{Log, TopicSpec};
use regex::Regex;
use std::collections::HashSet;

/// The rules of one connector, and the topics that one task knows to exist.
#[derive(Clone, Debug, Default)]
pub struct TopicCreation {
    /// `topic.creation.enable` of the worker.
    pub enabled: bool,
    /// In order; the first whose `include` matches (and no `exclude`) wins.
    pub groups: Vec<TopicGroup>,
    pub default: TopicSpec,
    known: HashSet<Topic>,
}

#[derive(Clone, Debug)]
pub struct TopicGroup {
    pub name: String,
    pub include: Vec<Regex>,
    pub exclude: Vec<Regex>,
    pub spec: TopicSpec,
}

impl TopicCreation {
    pub fn new(enabled: bool, default: TopicSpec, groups: Vec<TopicGroup>) -> Self {
        Self { enabled, groups, default, known: HashSet::new() }
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
            if !self.known.contains(&chunk.topic) {
                self.ensure_topic(&chunk.topic, log).await?;
                self.known.insert(chunk.topic.clone());
            }
        }
        Ok(())
    }

    async fn ensure_topic(&self, topic: &Topic, log: &dyn Log) -> Result<()> {
        if log.topic(topic).await?.is_some() {
            return Ok(());
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
                Ok(())
            }
            Err(error) if error.code() == "log.topic_exists" => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_that_includes_and_does_not_exclude_wins() {
        let spec = |partitions| TopicSpec { partitions, ..TopicSpec::default() };
        let group = |name: &str, include: &str, exclude: &[&str], partitions| TopicGroup {
            name: name.to_owned(),
            include: vec![Regex::new(&format!("^(?:{include})$")).unwrap()],
            exclude: exclude.iter().map(|e| Regex::new(&format!("^(?:{e})$")).unwrap()).collect(),
            spec: spec(partitions),
        };
        let creation = TopicCreation::new(true, spec(1), vec![group("a", "shop.*", &["shop-x"], 3), group("b", ".*-x", &[], 5)]);
        let of = |topic| creation.spec_for(topic).partitions;
        assert_eq!((of("shop1"), of("shop-x"), of("other")), (3, 5, 1));
    }
}
