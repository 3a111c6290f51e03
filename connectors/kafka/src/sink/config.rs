//! The options of `kafka-sink`.

use crate::client::{ClientOptions, TargetClient, request_timeout};
use crate::format::TopicFormat;
use aqueduct_config::{ByteSize, Millis};
use aqueduct_core::Issue;
use aqueduct_core::offset::is_valid_topic_name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Guarantee {
    #[default]
    ExactlyOnce,
    AtLeastOnce,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    #[serde(flatten)]
    client: TargetClient,
    /// What a topic is called there: `${topic}` is its name here.
    #[serde(rename = "topic.format", default = "same")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-aliases" = ["topic.rename.format"]))]
    topic_format: String,
    /// A record goes to the partition of the same number: the topic there needs as many. `false`: by key, as Kafka's clients do (murmur2); records
    /// without a key have no order then.
    #[serde(rename = "topic.preserve.partitions", default = "yes")]
    #[schemars(extend("x-group" = "Records"))]
    preserve_partitions: bool,
    /// `exactly_once` writes records and where they were read in one transaction of the target. `at_least_once` needs no transactions there.
    #[serde(rename = "delivery.guarantee", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Guarantee"))]
    guarantee: Guarantee,
    /// With `exactly_once`: the compacted topic of the target that keeps where the sink stands. Many connectors may share it.
    #[serde(rename = "positions.topic", default = "positions")]
    #[schemars(extend("x-group" = "Guarantee"))]
    positions_topic: String,
    /// With `exactly_once`: transactional ids are `<prefix><connector>-<topic>-<partition>`. Connectors of the same name in two installations that
    /// write to one target need different prefixes.
    #[serde(rename = "transactional.id.prefix", default = "prefix")]
    #[schemars(extend("x-group" = "Guarantee"))]
    prefix: String,
    /// The target aborts a transaction that is open for longer: more than `offset.flush.interval.ms`.
    #[serde(rename = "transaction.timeout.ms", default = "one_minute")]
    #[schemars(range(min = 5000, max = 900_000), extend("x-importance" = "low", "x-group" = "Guarantee"))]
    transaction_timeout: Millis,
    /// Creates topics that the target does not have.
    #[serde(rename = "topic.auto.create", default = "yes")]
    #[schemars(extend("x-group" = "Topics"))]
    auto_create: bool,
    /// Partitions of topics that the sink creates; -1 is the target's default.
    #[serde(rename = "topic.create.partitions", default = "minus_one")]
    #[schemars(range(min = -1, max = 100_000), extend("x-group" = "Topics"))]
    partitions: i32,
    /// Replicas of topics that the sink creates; -1 is the target's default.
    #[serde(rename = "topic.create.replication.factor", default = "minus_one_short")]
    #[schemars(range(min = -1, max = 100), extend("x-group" = "Topics"))]
    replication: i16,
    /// Of what is sent.
    #[serde(rename = "compression.type", default)]
    #[schemars(extend("x-group" = "Producing", "x-aliases" = ["producer.compression.type"]))]
    compression: Compression,
    /// The most bytes of a batch.
    #[serde(rename = "batch.size", default = "batch_size")]
    #[schemars(range(min = 1024, max = 16_777_216), extend("x-importance" = "low", "x-group" = "Producing", "x-aliases" = ["producer.batch.size"]))]
    batch_size: ByteSize,
    /// A batch waits this long for more records.
    #[serde(rename = "linger.ms", default = "linger")]
    #[schemars(range(min = 0, max = 10_000), extend("x-importance" = "low", "x-group" = "Producing", "x-aliases" = ["producer.linger.ms"]))]
    linger: Millis,
    /// The largest record, before compression: a larger one is refused, as is one above `max.message.bytes` of its topic (`errors.tolerance` decides).
    #[serde(rename = "max.request.size", default = "one_mib")]
    #[schemars(range(min = 1024, max = 67_108_864), extend("x-group" = "Producing", "x-aliases" = ["producer.max.request.size"]))]
    max_request: ByteSize,
    /// How long a broker may take to answer.
    #[serde(rename = "request.timeout.ms", default = "request_timeout")]
    #[schemars(range(min = 1000, max = 100_000), extend("x-importance" = "low", "x-group" = "Cluster"))]
    request_timeout: Millis,
}

fn yes() -> bool {
    true
}
fn same() -> String {
    "${topic}".to_owned()
}
fn positions() -> String {
    "aqueduct-sink-positions".to_owned()
}
fn prefix() -> String {
    "aqueduct-".to_owned()
}
fn one_minute() -> Millis {
    Millis::from_secs(60)
}
fn minus_one() -> i32 {
    -1
}
fn minus_one_short() -> i16 {
    -1
}
/// Not Kafka's 16 KiB: records come in batches, and the client has one request for a partition on its way.
fn batch_size() -> ByteSize {
    ByteSize::kib(512)
}
fn linger() -> Millis {
    Millis::from_millis(5)
}
fn one_mib() -> ByteSize {
    ByteSize::mib(1)
}

/// What the task needs; checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) client: ClientOptions,
    pub(super) format: TopicFormat,
    pub(super) preserve_partitions: bool,
    pub(super) guarantee: Guarantee,
    pub(super) positions_topic: String,
    pub(super) prefix: String,
    pub(super) transaction_timeout: Duration,
    pub(super) auto_create: bool,
    pub(super) partitions: i32,
    pub(super) replication: i16,
    pub(super) compression: krafka::Compression,
    pub(super) batch_size: usize,
    pub(super) linger: Duration,
    pub(super) max_request: usize,
    pub(super) request_timeout: Duration,
}

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        let client = self.client.options();
        let mut issues = client.issues();
        let format = TopicFormat::parse(&self.topic_format, None).map_err(|reason| {
            let issue = Issue::error("topic.format", "kafka.topic_format", reason);
            issues.push(issue.fix("use ${topic}, and letters, digits, `.`, `_` and `-` around it"));
        });
        if !is_valid_topic_name(&self.positions_topic) {
            let message = format!("{:?} is not a topic name", self.positions_topic);
            issues.push(
                Issue::error("positions.topic", "config.topic", message).fix("use 1 to 249 letters, digits, `.`, `_` and `-`"),
            );
        }
        for (option, number) in
            [("topic.create.partitions", self.partitions), ("topic.create.replication.factor", self.replication.into())]
        {
            if number == 0 {
                issues
                    .push(Issue::error(option, "config.range", "0 is no number of these").fix("use -1 for the target's default"));
            }
        }
        match format {
            Ok(format) if issues.is_empty() => Ok(Settings {
                client,
                format,
                preserve_partitions: self.preserve_partitions,
                guarantee: self.guarantee,
                positions_topic: self.positions_topic.clone(),
                prefix: self.prefix.clone(),
                transaction_timeout: self.transaction_timeout.duration(),
                auto_create: self.auto_create,
                partitions: self.partitions,
                replication: self.replication,
                compression: match self.compression {
                    Compression::None => krafka::Compression::None,
                    Compression::Gzip => krafka::Compression::Gzip,
                    Compression::Snappy => krafka::Compression::Snappy,
                    Compression::Lz4 => krafka::Compression::Lz4,
                },
                batch_size: self.batch_size.as_usize(),
                linger: self.linger.duration(),
                max_request: self.max_request.as_usize(),
                request_timeout: self.request_timeout.duration(),
            }),
            _ => Err(issues),
        }
    }
}
