//! Predicates: which records a transform is for.

use crate::converters::{NoOptions, options as typed};
use crate::parts::{PartDescriptor, predicate};
use aqueduct_config::Regex;
use aqueduct_core::{Issue, Options, RecordRef, Result, Topic};
use schemars::JsonSchema;
use serde::Deserialize;

const HAS_HEADER_KEY: &str = "org.apache.kafka.connect.transforms.predicates.HasHeaderKey";
const RECORD_IS_TOMBSTONE: &str = "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone";
const TOPIC_NAME_MATCHES: &str = "org.apache.kafka.connect.transforms.predicates.TopicNameMatches";

#[derive(Debug, Deserialize, JsonSchema)]
struct HeaderKeyConfig {
    /// The header that a record must have.
    #[schemars(length(min = 1), extend("x-importance" = "medium", "x-group" = "Predicate"))]
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct TopicConfig {
    /// A regular expression over the topic's whole name.
    #[schemars(extend("x-importance" = "medium", "x-group" = "Predicate", "x-example" = "orders-.*"))]
    pattern: Regex,
}

pub(crate) fn parts() -> Vec<PartDescriptor> {
    vec![
        predicate::<HeaderKeyConfig>(HAS_HEADER_KEY, "Records that have a header of this name."),
        predicate::<NoOptions>(RECORD_IS_TOMBSTONE, "Records whose value is null."),
        predicate::<TopicConfig>(TOPIC_NAME_MATCHES, "Records of topics whose name matches."),
    ]
}

#[derive(Clone, Debug)]
pub(crate) enum Predicate {
    HasHeaderKey(String),
    RecordIsTombstone,
    TopicNameMatches(regex::Regex),
}

impl Predicate {
    pub(crate) fn new(class: &str, path: &str, own: &Options) -> Result<Self, Vec<Issue>> {
        Ok(match class {
            HAS_HEADER_KEY => Self::HasHeaderKey(typed::<HeaderKeyConfig>(path, own)?.name),
            TOPIC_NAME_MATCHES => {
                let config: TopicConfig = typed(path, own)?;
                Self::TopicNameMatches(
                    whole(&config.pattern).map_err(|why| vec![Issue::error(format!("{path}.pattern"), "config.regex", why)])?,
                )
            }
            _ => Self::RecordIsTombstone,
        })
    }
}

/// The pattern over the whole text, as Java's `matches`.
pub(crate) fn whole(pattern: &Regex) -> Result<regex::Regex, String> {
    Regex::parse(&format!(r"\A(?:{})\z", pattern.as_str())).map(|regex| (*regex).clone())
}

/// The predicate of a transform, if it has one, and whether it is negated.
#[derive(Debug)]
pub(crate) struct When {
    predicate: Option<Predicate>,
    negate: bool,
    /// The topic judged last: batches come in chunks of one topic.
    last: Option<(Topic, bool)>,
}

impl When {
    pub(crate) fn new(predicate: Option<Predicate>, negate: bool) -> Self {
        Self { predicate, negate, last: None }
    }

    pub(crate) fn selects(&mut self, record: RecordRef<'_>) -> bool {
        let found = match &self.predicate {
            None => return true,
            Some(Predicate::HasHeaderKey(name)) => record.headers().iter().any(|header| *header.name == **name),
            Some(Predicate::RecordIsTombstone) => is_tombstone(record),
            Some(Predicate::TopicNameMatches(_)) => return self.selects_topic(record.topic()).unwrap_or(true),
        };
        found != self.negate
    }

    /// Whether all records of the topic are selected, or none; `None` when that depends on the record.
    pub(crate) fn selects_topic(&mut self, topic: &Topic) -> Option<bool> {
        let found = match &self.predicate {
            None => return Some(true),
            Some(Predicate::TopicNameMatches(regex)) => match &self.last {
                Some((last, found)) if last == topic => *found,
                _ => {
                    let found = regex.is_match(topic);
                    self.last = Some((topic.clone(), found));
                    found
                }
            },
            Some(_) => return None,
        };
        Some(found != self.negate)
    }
}

fn is_tombstone(record: RecordRef<'_>) -> bool {
    match record.value() {
        aqueduct_core::PayloadRef::Null => true,
        aqueduct_core::PayloadRef::Data(value) => value.data.is_null(),
        aqueduct_core::PayloadRef::Bytes(_) => false,
    }
}
