//! The options of `kafka-source`.

use crate::client::{ClientOptions, SourceClient, request_timeout};
use crate::format::TopicFormat;
use aqueduct_config::{ByteSize, List, Millis, Regex};
use aqueduct_core::Issue;
use aqueduct_core::offset::is_valid_topic_name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OffsetReset {
    Earliest,
    Latest,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Isolation {
    #[default]
    ReadCommitted,
    ReadUncommitted,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    client: SourceClient,
    /// The topics to read. Either this or `topics.regex`.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Topics", "x-example" = "orders,payments"))]
    topics: Option<List<String>>,
    /// A regular expression over whole names of topics; topics that appear later are read too, from their beginning.
    #[serde(rename = "topics.regex", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Topics", "x-example" = "shop\\..*"))]
    topics_regex: Option<Regex>,
    /// With `topics.regex`: regular expressions of topics that are not read. Internal topics of Kafka are never read.
    #[serde(rename = "topics.exclude", default = "excluded")]
    #[schemars(extend("x-group" = "Topics"))]
    topics_exclude: List<Regex>,
    /// How often to look for new topics and new partitions.
    #[serde(rename = "refresh.topics.interval.seconds", default = "one_minute")]
    #[schemars(range(min = 1, max = 86_400), extend("x-group" = "Topics"))]
    refresh_seconds: u32,
    /// A name for the other cluster, as in MirrorMaker: it goes into the offsets, and where `topic.format` says `${cluster}`. Do not change it
    /// later: the offsets are kept under it.
    #[serde(rename = "source.cluster.alias", default)]
    #[schemars(extend("x-group" = "Records"))]
    alias: Option<String>,
    /// What a topic is called here: `${topic}` is its name there. `${cluster}.${topic}` is what MirrorMaker's default replication policy does.
    #[serde(rename = "topic.format", default = "same")]
    #[schemars(extend("x-group" = "Records", "x-aliases" = ["topic.rename.format"]))]
    topic_format: String,
    /// A record goes to the partition of the same number: the topic here needs as many (`topic.creation.default.partitions`). `false`: partitions are
    /// chosen by key, and records without a key have no order.
    #[serde(rename = "topic.preserve.partitions", default = "yes")]
    #[schemars(extend("x-group" = "Records"))]
    preserve_partitions: bool,
    /// Adds the headers `__source.topic`, `__source.partition` and `__source.offset`, as text.
    #[serde(rename = "provenance.headers", default = "yes")]
    #[schemars(extend("x-group" = "Records"))]
    provenance: bool,
    /// Where a partition begins that has no offset yet; `earliest` if not given, and `none` fails. If it is given, it is also where reading goes on when
    /// the stored offset is gone, because the topic was truncated, re-created, or deleted by retention: with a warning. If it is not, the task fails then.
    #[serde(rename = "auto.offset.reset", default)]
    #[schemars(extend("x-group" = "Reading", "x-aliases" = ["consumer.auto.offset.reset"]))]
    reset: Option<OffsetReset>,
    /// `read_committed` leaves out what was aborted, and waits for what is not decided yet.
    #[serde(rename = "isolation.level", default)]
    #[schemars(extend("x-group" = "Reading", "x-aliases" = ["consumer.isolation.level"]))]
    isolation: Isolation,
    /// The most bytes that a broker sends at once. A task holds about twice that.
    #[serde(rename = "fetch.max.bytes", default = "fetch_max")]
    #[schemars(range(min = 1024, max = 1_073_741_824), extend("x-importance" = "low", "x-group" = "Reading", "x-aliases" = ["consumer.fetch.max.bytes"]))]
    fetch_bytes: ByteSize,
    /// The most bytes of one partition that a broker sends at once; a record batch that is larger comes alone.
    #[serde(rename = "max.partition.fetch.bytes", default = "partition_fetch_max")]
    #[schemars(range(min = 1024, max = 1_073_741_824), extend("x-importance" = "low", "x-group" = "Reading", "x-aliases" = ["consumer.max.partition.fetch.bytes"]))]
    partition_fetch_bytes: ByteSize,
    /// How long a broker may take to answer.
    #[serde(rename = "request.timeout.ms", default = "request_timeout")]
    #[schemars(range(min = 1000, max = 600_000), extend("x-importance" = "low", "x-group" = "Cluster"))]
    request_timeout: Millis,
}

fn yes() -> bool {
    true
}
fn same() -> String {
    "${topic}".to_owned()
}
fn one_minute() -> u32 {
    60
}
fn fetch_max() -> ByteSize {
    ByteSize::mib(16)
}
fn partition_fetch_max() -> ByteSize {
    ByteSize::mib(1)
}
/// MirrorMaker's.
fn excluded() -> List<Regex> {
    ["mm2.*\\.internal", ".*\\.replica", "__.*"].into_iter().filter_map(|pattern| Regex::parse(pattern).ok()).collect()
}

/// Which topics.
#[derive(Debug)]
pub(super) enum Wanted {
    Names(Vec<String>),
    Matching { include: regex::Regex, exclude: Vec<regex::Regex> },
}

/// What the task needs; checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) client: ClientOptions,
    pub(super) wanted: Wanted,
    pub(super) refresh: Duration,
    pub(super) alias: Option<String>,
    pub(super) format: TopicFormat,
    pub(super) preserve_partitions: bool,
    pub(super) provenance: bool,
    pub(super) reset: Option<OffsetReset>,
    pub(super) isolation: Isolation,
    pub(super) fetch_bytes: i32,
    pub(super) partition_fetch_bytes: i32,
    pub(super) request_timeout: Duration,
    /// This task's number and how many there are.
    pub(super) share: (u64, u64),
}

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self, share: (u64, u64)) -> Result<Settings, Vec<Issue>> {
        let client = self.client.options();
        let mut issues = client.issues();
        let wanted = self.wanted(&mut issues);
        let alias = self.alias.as_deref().map(str::trim).filter(|alias| !alias.is_empty()).map(str::to_owned);
        let format = TopicFormat::parse(&self.topic_format, alias.as_deref());
        let format = format
            .map_err(|reason| {
                let issue = Issue::error("topic.format", "kafka.topic_format", reason);
                issues.push(issue.fix("use ${topic}, and letters, digits, `.`, `_` and `-` around it"));
            })
            .ok();
        match (wanted, format) {
            (Some(wanted), Some(format)) if issues.is_empty() => Ok(Settings {
                client,
                wanted,
                refresh: Duration::from_secs(self.refresh_seconds.into()),
                alias,
                format,
                preserve_partitions: self.preserve_partitions,
                provenance: self.provenance,
                reset: self.reset,
                isolation: self.isolation,
                fetch_bytes: i32::try_from(self.fetch_bytes.get()).unwrap_or(i32::MAX),
                partition_fetch_bytes: i32::try_from(self.partition_fetch_bytes.get()).unwrap_or(i32::MAX),
                request_timeout: self.request_timeout.duration(),
                share,
            }),
            _ => Err(issues),
        }
    }

    fn wanted(&self, issues: &mut Vec<Issue>) -> Option<Wanted> {
        let names = self.topics.as_ref().filter(|topics| !topics.is_empty());
        match (names, &self.topics_regex) {
            (Some(_), Some(_)) => {
                let issue = Issue::error("topics.regex", "kafka.topics", "stands beside topics");
                issues.push(issue.fix("remove one of them"));
                None
            }
            (None, None) => {
                let issue = Issue::error("topics", "config.missing", "is required and has no default");
                issues.push(issue.fix("add `topics: orders`, or `topics.regex: …`"));
                None
            }
            (Some(names), None) => {
                for name in names.iter().filter(|name| !is_valid_topic_name(name)) {
                    let issue = Issue::error("topics", "config.topic", format!("{name:?} is not a topic name"));
                    issues.push(issue.fix("patterns go to topics.regex"));
                }
                Some(Wanted::Names(names.0.clone()))
            }
            (None, Some(pattern)) => {
                let whole = |pattern: &Regex| regex::Regex::new(&format!("^(?:{})$", pattern.as_str()));
                let include = whole(pattern);
                let exclude: Result<_, _> = self.topics_exclude.iter().map(whole).collect();
                match (include, exclude) {
                    (Ok(include), Ok(exclude)) => Some(Wanted::Matching { include, exclude }),
                    (Err(error), _) | (_, Err(error)) => {
                        issues.push(Issue::error("topics.regex", "config.regex", error.to_string()).fix("correct the pattern"));
                        None
                    }
                }
            }
        }
    }
}

impl Wanted {
    pub(super) fn matches(&self, topic: &str) -> bool {
        match self {
            Wanted::Names(names) => names.iter().any(|name| name == topic),
            Wanted::Matching { include, exclude } => {
                include.is_match(topic) && !exclude.iter().any(|exclude| exclude.is_match(topic))
            }
        }
    }
}
