//! The two offsets, never confused: [`SourceOffset`] belongs to the external system, [`LogPosition`] to the log.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

pub type JsonMap = serde_json::Map<String, serde_json::Value>;

/// The name of a topic. Shared, since every chunk of every batch carries it.
pub type Topic = Arc<str>;

/// Where to resume in one partition of an external system, as Kafka Connect stores it: both halves are flat JSON objects that only the
/// connector understands. `offset: None` forgets the partition (a tombstone).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceOffset {
    pub partition: JsonMap,
    pub offset: Option<JsonMap>,
}

impl SourceOffset {
    /// A text that is equal exactly for equal partitions, whatever the order of their keys.
    pub fn partition_key(&self) -> String {
        canonical(&serde_json::Value::Object(self.partition.clone()))
    }
}

/// JSON with sorted keys and no spaces.
pub fn canonical(value: &serde_json::Value) -> String {
    fn write(value: &serde_json::Value, out: &mut String) {
        match value {
            serde_json::Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_by(|a, b| a.0.cmp(b.0));
                out.push('{');
                for (i, (key, value)) in keys.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::String(key.clone()).to_string());
                    out.push(':');
                    write(value, out);
                }
                out.push('}');
            }
            serde_json::Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Topic>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

/// `orders-0`, as Kafka prints it.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A consumer position: `offset` is the *next* record to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPosition {
    pub topic: Topic,
    /// Differs between a topic and its re-creation under the same name: what a sink remembered of the old one is void.
    pub topic_id: Uuid,
    pub partition: i32,
    pub offset: i64,
    /// What the sink asked to keep with the position (Kafka's offset metadata): see [`crate::SinkTask::metadata`]. `None` after an
    /// operator's reset. At most 4,096 bytes, Kafka's default limit.
    pub metadata: Option<Arc<str>>,
}

impl LogPosition {
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition: self.partition }
    }
}

/// The topics that a sink reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    Names(Vec<Topic>),
    /// A regular expression over whole names; topics that appear later are picked up.
    Regex(String),
}

/// `connector-0`. One live task for each id (invariant 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    pub connector: Arc<str>,
    pub task: u32,
}

impl TaskId {
    pub fn new(connector: impl Into<Arc<str>>, task: u32) -> Self {
        Self { connector: connector.into(), task }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.connector, self.task)
    }
}

/// Kafka's rule for topic names (`org.apache.kafka.common.internals.Topic`): 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
pub fn is_valid_topic_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 249
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_key_ignores_the_order_of_keys() {
        let a = SourceOffset {
            partition: serde_json::from_str(r#"{"b":1,"a":{"d":[1,{"y":1,"x":2}],"c":null}}"#).unwrap(),
            offset: None,
        };
        let b = SourceOffset {
            partition: serde_json::from_str(r#"{"a":{"c":null,"d":[1,{"x":2,"y":1}]},"b":1}"#).unwrap(),
            offset: None,
        };
        assert_eq!(a.partition_key(), b.partition_key());
        assert_eq!(a.partition_key(), r#"{"a":{"c":null,"d":[1,{"x":2,"y":1}]},"b":1}"#);
    }
}
