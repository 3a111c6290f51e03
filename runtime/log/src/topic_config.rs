//! The configs of a topic, checked and typed. Names, units and defaults are Kafka's.

use crate::TopicSpec;
use crate::record_batch::{Compression, MAX_BATCH_BYTES};
use aqueduct_core::{Error, Result};
use std::collections::BTreeMap;
use std::str::FromStr;

/// As Kafka limits what one request may create.
pub const PARTITIONS_MAX: i32 = 10_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What [`TopicSpec::configs`] means.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// `None`: for ever.
    pub retention_ms: Option<i64>,
    /// Of one partition; `None`: without bound.
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub delete: bool,
    pub compact: bool,
    pub compression: Compression,
    /// Of one record.
    pub max_message_bytes: usize,
    pub delete_retention_ms: i64,
    /// 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            delete: true,
            compact: false,
            compression: Compression::None,
            // Not Kafka's 1 MiB: there is no request here that a large record would block.
            max_message_bytes: MAX_BATCH_BYTES - 4096,
            delete_retention_ms: DAY_MS,
            min_cleanable_dirty_ratio: 0.5,
        }
    }
}

impl TopicConfig {
    /// # Errors
    /// `log.topic_config` (fatal) for an unknown name or a value out of range.
    pub fn parse(configs: &BTreeMap<String, String>) -> Result<Self> {
        let mut config = Self::default();
        for (name, value) in configs {
            config.set(name, value.trim()).map_err(|expected| {
                Error::fatal("log.topic_config", format!("{name}={value}: expected {expected}")).fix(format!("correct {name}"))
            })?;
        }
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "retention.ms" => self.retention_ms = unbounded(value, "milliseconds, or -1 for ever")?,
            "retention.bytes" => self.retention_bytes = unbounded(value, "bytes, or -1 without bound")?.map(|bytes| bytes as u64),
            // Kafka's floor, below which a segment is hardly more than its index; 2 GiB is its ceiling.
            "segment.bytes" => self.segment_bytes = within(value, 14, i64::from(i32::MAX), "14 to 2147483647 bytes")? as u64,
            "segment.ms" => self.segment_ms = within(value, 1, i64::MAX, "1 millisecond or more")?,
            "cleanup.policy" => {
                let policies: Vec<_> = value.split(',').map(str::trim).collect();
                if !policies.iter().all(|policy| matches!(*policy, "delete" | "compact")) {
                    return Err("delete, compact or both with a comma");
                }
                (self.delete, self.compact) = (policies.contains(&"delete"), policies.contains(&"compact"));
            }
            "compression.type" => self.compression = Compression::from_str(value).map_err(|()| "none, lz4 or zstd")?,
            "max.message.bytes" => {
                self.max_message_bytes =
                    within(value, 0, Self::default().max_message_bytes as i64, "0 to 67104768 bytes")? as usize;
            }
            "delete.retention.ms" => self.delete_retention_ms = within(value, 0, i64::MAX, "0 milliseconds or more")?,
            "min.cleanable.dirty.ratio" => {
                let ratio = f64::from_str(value).ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                self.min_cleanable_dirty_ratio = ratio.ok_or("a number from 0 to 1")?;
            }
            _ => return Err("a config that this log knows: see the reference of topic configs"),
        }
        Ok(())
    }
}

/// Checks a topic before it is created.
///
/// # Errors
/// `log.topic_name`, `log.topic_config`: fatal.
pub fn check_topic(name: &str, spec: &TopicSpec) -> Result<TopicConfig> {
    if !aqueduct_core::offset::is_valid_topic_name(name) {
        return Err(Error::fatal("log.topic_name", format!("{name:?} is not a topic name"))
            .fix("use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', but not . or .. alone"));
    }
    if !(1..=PARTITIONS_MAX).contains(&spec.partitions) {
        let message = format!("topic {name}: {} partitions; expected 1 to {PARTITIONS_MAX}", spec.partitions);
        return Err(Error::fatal("log.topic_config", message));
    }
    TopicConfig::parse(&spec.configs)
}

fn within(value: &str, min: i64, max: i64, expected: &'static str) -> Result<i64, &'static str> {
    i64::from_str(value).ok().filter(|number| (min..=max).contains(number)).ok_or(expected)
}

fn unbounded(value: &str, expected: &'static str) -> Result<Option<i64>, &'static str> {
    within(value, -1, i64::MAX, expected).map(|number| (number >= 0).then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<TopicConfig> {
        TopicConfig::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn values_are_typed() {
        assert_eq!(parse("retention.ms", "-1").unwrap().retention_ms, None);
        assert_eq!(parse("retention.bytes", "1000").unwrap().retention_bytes, Some(1000));
        let both = parse("cleanup.policy", "compact, delete").unwrap();
        assert!(both.compact && both.delete);
        assert!(!parse("cleanup.policy", "compact").unwrap().delete);
        assert_eq!(parse("compression.type", "zstd").unwrap().compression, Compression::Zstd);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (name, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "1d"),
            ("segment.bytes", "0"),
            ("cleanup.policy", "shred"),
            ("cleanup.policy", ""),
            ("compression.type", "gzip"),
            ("max.message.bytes", "67104769"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("retention", "1"),
        ] {
            let error = parse(name, value).unwrap_err();
            assert_eq!(error.code(), "log.topic_config");
            assert!(error.message().contains(name), "{error}");
        }
        assert_eq!(check_topic("a/b", &TopicSpec::default()).unwrap_err().code(), "log.topic_name");
        let none = TopicSpec { partitions: 0, ..TopicSpec::default() };
        assert_eq!(check_topic("a", &none).unwrap_err().code(), "log.topic_config");
    }
}
