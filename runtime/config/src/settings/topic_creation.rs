//! `topic.creation.*`: how topics that a source writes to are created (KIP-158).

use super::{ConnectorDefaults, below, full};
use crate::list::split_list;
use crate::nearest::nearest;
use crate::types::{ByteSize, Millis};
use aqueduct_core::{Issue, Options};
use regex::Regex;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct TopicCreation {
    /// In order; the first whose `include` matches and whose `exclude` does not wins.
    pub groups: Vec<TopicGroup>,
    pub default: TopicSettings,
}

#[derive(Clone, Debug)]
pub struct TopicGroup {
    pub name: String,
    /// Over whole names.
    pub include: Vec<Regex>,
    pub exclude: Vec<Regex>,
    pub topic: TopicSettings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// -1: the broker's.
    pub partitions: i32,
    /// -1: the broker's.
    pub replication_factor: i16,
    /// Durations and sizes as plain numbers.
    pub configs: BTreeMap<String, String>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { partitions: 1, replication_factor: -1, configs: BTreeMap::new() }
    }
}

const PREFIX: &str = "topic.creation.";

impl TopicCreation {
    /// # Errors
    /// Every issue under `topic.creation.`.
    pub(crate) fn parse(options: &Options, defaults: &ConnectorDefaults) -> Result<Self, Vec<Issue>> {
        let mut issues = Vec::new();
        let kafka = defaults.kafka.is_some();
        let mut default = TopicSettings::of(kafka);
        // Worker.yaml is checked when it is read.
        default.read(&defaults.topic, PREFIX, kafka, &mut Vec::new());
        default.read(&below(options, "topic.creation.default."), "topic.creation.default.", kafka, &mut issues);
        let names = options.get("topic.creation.groups").map(|text| split_list(text)).unwrap_or_default();
        let groups = names.iter().map(|name| group(name, options, &default, kafka, &mut issues)).collect();
        for key in ["include", "exclude"] {
            let path = format!("topic.creation.default.{key}");
            if options.contains_key(&path) {
                issues
                    .push(Issue::error(path, "config.unknown_key", "the default group takes every topic").fix("remove the line"));
            }
        }
        if issues.is_empty() { Ok(Self { groups, default }) } else { Err(issues) }
    }
}

fn group(name: &str, options: &Options, default: &TopicSettings, kafka: bool, issues: &mut Vec<Issue>) -> TopicGroup {
    let path = format!("{PREFIX}{name}.");
    let own = below(options, &path);
    if name == "default" {
        let issue =
            Issue::error("topic.creation.groups", "config.conflict", "default is always there and cannot stand in the list");
        issues.push(issue.fix("remove it from the list"));
    } else if !own.contains_key("include") {
        let issue = Issue::error(format!("{path}include"), "config.missing", "is required and has no default");
        issues.push(issue.fix(format!("add `{path}include: …`, a list of regular expressions over topic names")));
    }
    let mut patterns = |key: &str| -> Vec<Regex> {
        let texts = own.get(key).map(|text| split_list(text)).unwrap_or_default();
        let compiled = texts.into_iter().filter_map(|text| match full(text) {
            Some(regex) => Some((*regex).clone()),
            None => {
                let reason = crate::types::Regex::parse(text).err().unwrap_or_else(|| format!("{text:?} is too large"));
                issues.push(Issue::error(format!("{path}{key}"), "config.regex", reason).fix("correct the pattern"));
                None
            }
        });
        compiled.collect()
    };
    let (include, exclude) = (patterns("include"), patterns("exclude"));
    let mut topic = default.clone();
    topic.read(&own, &path, kafka, issues);
    TopicGroup { name: name.to_owned(), include, exclude, topic }
}

/// What the embedded log heeds.
const CONFIGS: [&str; 9] = [
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "max.message.bytes",
    "min.cleanable.dirty.ratio",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.ms",
];
/// What only Kafka heeds: without effect on the embedded log.
const KAFKA_CONFIGS: [&str; 26] = [
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.zstd.level",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "index.interval.bytes",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "message.downconversion.enable",
    "message.format.version",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "segment.index.bytes",
    "segment.jitter.ms",
    "unclean.leader.election.enable",
];

/// Whether Kafka has a topic config of this name.
pub fn is_topic_config(name: &str) -> bool {
    CONFIGS.contains(&name) || KAFKA_CONFIGS.contains(&name)
}

impl TopicSettings {
    /// What holds for a topic of which nothing is said.
    pub(crate) fn of(kafka: bool) -> Self {
        if kafka { Self { partitions: -1, ..Self::default() } } else { Self::default() }
    }

    /// `own` is what follows `path` in the connector's config.
    pub(crate) fn read(&mut self, own: &Options, path: &str, kafka: bool, issues: &mut Vec<Issue>) {
        for (name, text) in own {
            let at = format!("{path}{name}");
            match name.as_str() {
                "include" | "exclude" => {}
                "partitions" => match text.trim().parse::<i32>() {
                    Ok(-1) => self.partitions = Self::of(kafka).partitions,
                    Ok(partitions @ 1..=10_000) => self.partitions = partitions,
                    _ => issues.push(whole(&at, text, "1 to 10000, or -1 for the default")),
                },
                "replication.factor" => match text.trim().parse::<i16>() {
                    Ok(factor) if factor == -1 || factor > 0 => self.replication_factor = factor,
                    _ => issues.push(whole(&at, text, "1 or more, or -1 for the broker's default")),
                },
                name if KAFKA_CONFIGS.contains(&name) => {
                    if kafka {
                        self.configs.insert(name.to_owned(), text.trim().to_owned());
                    }
                }
                // The broker knows more codecs than the embedded log; it says which.
                "compression.type" if kafka => {
                    let codec = if text.trim() == "none" { "uncompressed" } else { text.trim() };
                    self.configs.insert(name.clone(), codec.to_owned());
                }
                name if CONFIGS.contains(&name) => match plain_config(name, text) {
                    Ok(plain) => {
                        self.configs.insert(name.to_owned(), plain);
                    }
                    Err((code, fix)) => issues.push(Issue::error(at, code, format!("{text:?} is not allowed here")).fix(fix)),
                },
                name => {
                    let known = ["partitions", "replication.factor", "include", "exclude"].into_iter().chain(CONFIGS);
                    let kafkas = KAFKA_CONFIGS.into_iter().filter(|_| kafka);
                    let issue = Issue::error(&at, "config.unknown_key", "is no config of a topic");
                    match nearest(name, known.chain(kafkas)) {
                        Some(near) => issues.push(issue.fix(format!("did you mean {path}{near}?"))),
                        // A broker may know more than this list.
                        None if kafka => drop(self.configs.insert(name.to_owned(), text.trim().to_owned())),
                        None => {
                            issues.push(issue.fix(format!("there are: partitions, replication.factor, {}", CONFIGS.join(", "))));
                        }
                    }
                }
            }
        }
    }
}

fn whole(at: &str, text: &str, range: &str) -> Issue {
    let code = if text.trim().parse::<i64>().is_ok() { "config.range" } else { "config.type" };
    Issue::error(at, code, format!("{text:?} is not allowed here")).fix(format!("write a whole number: {range}"))
}

/// A value as the log takes it; else the code and the fix.
fn plain_config(name: &str, text: &str) -> Result<String, (&'static str, String)> {
    let text = text.trim();
    let number = |min: i64| text.parse::<i64>().ok().map(|number| (number >= min).then(|| number.to_string()));
    let unbounded = matches!(name, "retention.ms" | "retention.bytes");
    let floor = match name {
        _ if unbounded => -1,
        // Kafka's floor, below which a segment is hardly more than its index.
        "segment.bytes" => 14,
        "segment.ms" => 1,
        _ => 0,
    };
    match name {
        "cleanup.policy" => {
            let good =
                !split_list(text).is_empty() && split_list(text).iter().all(|policy| matches!(*policy, "delete" | "compact"));
            good.then(|| split_list(text).join(",")).ok_or(("config.enum", "use delete, compact or both".to_owned()))
        }
        "compression.type" => {
            let allowed = ["none", "uncompressed", "producer", "lz4", "zstd"];
            let plain = if matches!(text, "uncompressed" | "producer") { "none" } else { text };
            allowed.contains(&text).then(|| plain.to_owned()).ok_or(("config.enum", "use none, lz4 or zstd".to_owned()))
        }
        "min.cleanable.dirty.ratio" => {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.map(|ratio| ratio.to_string()).ok_or(("config.range", "write a number from 0 to 1".to_owned()))
        }
        _ => {
            let in_ms = name.ends_with(".ms");
            let (code, unit) =
                if in_ms { ("config.duration", "a duration such as 7 days") } else { ("config.bytes", "a size such as 64 MiB") };
            let least = if unbounded { ", or -1 without limit".to_owned() } else { format!(", at least {floor}") };
            let parsed = match number(floor) {
                Some(plain) => plain,
                None if in_ms => Millis::parse(text).ok().map(|millis| millis.as_millis().to_string()),
                None => ByteSize::parse(text).ok().map(|size| size.get().to_string()),
            };
            parsed.ok_or_else(|| (code, format!("write {unit}{least}")))
        }
    }
}
