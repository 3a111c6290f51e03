//! The options themselves: their documentation is the reference.

use crate::types::{ByteSize, Family, List, Millis, Patience, Regex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of sources and sinks.
#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "some keys of Kafka Connect are checked and then have no effect here")]
pub(super) struct CommonOptions {
    /// The connector's name, unique in the worker.
    #[schemars(extend("x-group" = "Common", "x-example" = "my-connector"))]
    pub name: String,
    /// The plugin: its name, or the Java class or short name that it stands for.
    #[serde(rename = "connector.class")]
    #[schemars(extend("x-group" = "Common", "x-format" = "class", "x-example" = "file-source"))]
    pub class: String,
    /// Which version of a plugin of `plugin.path`: `1.0`, or a range such as `[1.0,2.0)`; the newest if not set. A connector starts again with a newer one
    /// that it takes once that is installed. Of built-in plugins there is one version, and this has no effect.
    #[serde(rename = "connector.plugin.version", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low", "x-example" = "[1.0,2.0)"))]
    plugin_version: Option<String>,
    /// At most this many tasks run for the connector.
    #[serde(rename = "tasks.max", default = "one")]
    #[schemars(range(min = 1, max = 1000), extend("x-group" = "Common", "x-importance" = "high"))]
    pub tasks_max: u32,
    /// Fail when a plugin makes more tasks than `tasks.max`.
    #[serde(rename = "tasks.max.enforce", default = "yes")]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low"))]
    pub tasks_max_enforce: bool,
    /// How keys are written to the log and read from it: `string`, `bytes`, `json`, or a Java class. The worker's if not set.
    #[serde(rename = "key.converter", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low", "x-format" = "class"))]
    pub key_converter: Option<String>,
    /// How values are written to the log and read from it. The worker's if not set.
    #[serde(rename = "value.converter", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low", "x-format" = "class"))]
    pub value_converter: Option<String>,
    /// How header values are written to the log and read from it. The worker's if not set.
    #[serde(rename = "header.converter", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low", "x-format" = "class"))]
    pub header_converter: Option<String>,
    /// Names of the transforms, in the order in which they apply; each has its options under `transforms.<name>.`.
    #[serde(default)]
    #[schemars(extend("x-group" = "Transforms", "x-importance" = "low", "x-example" = "route"))]
    transforms: List<String>,
    /// Names of the predicates that transforms may use; each has its options under `predicates.<name>.`.
    #[serde(default)]
    #[schemars(extend("x-group" = "Predicates", "x-importance" = "low", "x-example" = "is-order"))]
    predicates: List<String>,
    /// What to do when a secret of `${file:…}` or `${dir:…}` changes, which is looked for every few seconds. `restart`: the tasks that use it start
    /// again with the new one. `none`: they keep the one that they started with.
    #[serde(rename = "config.action.reload", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low"))]
    pub reload: Reload,
    /// `none`: the task fails at the first bad record. `all`: bad records are kept aside or skipped, and counted.
    #[serde(rename = "errors.tolerance", default)]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub tolerance: Tolerance,
    /// How long a task that failed retriably tries again by itself while it stays RUNNING, in ms, since its first failure without progress in between;
    /// then it is FAILED and `aqueduct.restart.*` decides. 0 is not at all, -1 for ever.
    #[serde(rename = "errors.retry.timeout", default = "no_time")]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub retry_timeout: Patience,
    /// The longest pause between two such tries; it begins at 300 ms and doubles with each, and a random part of it is waited.
    #[serde(rename = "errors.retry.delay.max.ms", default = "a_minute")]
    #[schemars(range(min = 1), extend("x-group" = "Error Handling"))]
    pub retry_delay_max: Millis,
    /// Write each error to the worker's log also where it is tolerated.
    #[serde(rename = "errors.log.enable", default)]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub log_errors: bool,
    /// With the record itself: it may hold what should not stand in a log.
    #[serde(rename = "errors.log.include.messages", default)]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub log_messages: bool,
    /// The topic that bad records go to, byte for byte; with `errors.tolerance: all`.
    #[serde(rename = "errors.deadletterqueue.topic.name", default)]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub dlq_topic: Option<String>,
    /// Of that topic, when it is created. Only Kafka heeds it; -1 is the broker's default.
    #[serde(rename = "errors.deadletterqueue.topic.replication.factor", default = "three")]
    #[schemars(range(min = -1), extend("x-group" = "Error Handling"))]
    pub dlq_replication: i16,
    /// Say in headers `__connect.errors.*` what went wrong.
    #[serde(rename = "errors.deadletterqueue.context.headers.enable", default)]
    #[schemars(extend("x-group" = "Error Handling"))]
    pub dlq_headers: bool,
    /// A task that failed retriably starts again by itself at most so often in a row, without progress in between. No limit if not set.
    #[serde(rename = "aqueduct.restart.max.attempts", default)]
    #[schemars(extend("x-group" = "Restarts"))]
    pub restart_attempts: Option<u32>,
    /// The pause before the first such restart; it doubles with each, and a random part of it is waited.
    #[serde(rename = "aqueduct.restart.backoff.initial.ms", default = "a_second")]
    #[schemars(range(min = 1, max = 86_400_000), extend("x-group" = "Restarts"))]
    pub restart_initial: Millis,
    /// The longest such pause.
    #[serde(rename = "aqueduct.restart.backoff.max.ms", default = "five_minutes")]
    #[schemars(range(min = 1, max = 86_400_000), extend("x-group" = "Restarts"))]
    pub restart_max: Millis,
    /// What one task may hold in memory: appends in flight of a source; of a sink the read-ahead, and as much again of dead letters until their commit.
    /// If not set 8 MiB; where Kafka is the log 32 MiB, since a transaction takes longer than a sync of the disk.
    #[serde(rename = "aqueduct.buffer.bytes", default)]
    #[schemars(range(min = 4096, max = 1_073_741_824), extend("x-group" = "Limits"))]
    pub buffer_bytes: Option<ByteSize>,
    /// A batch holds about so many bytes at most; a single larger record still passes.
    #[serde(rename = "aqueduct.batch.max.bytes", default = "batch")]
    #[schemars(range(min = 1024, max = 67_108_864), extend("x-group" = "Limits"))]
    pub batch_bytes: ByteSize,
    /// A batch holds so many records at most.
    #[serde(rename = "aqueduct.batch.max.records", default = "records")]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-group" = "Limits"))]
    pub batch_records: u32,
    /// A call of the plugin that takes longer makes the task FAILED, and it starts again.
    #[serde(rename = "aqueduct.stall.timeout.ms", default = "a_minute")]
    #[schemars(range(min = 100, max = 86_400_000), extend("x-group" = "Limits"))]
    pub stall_timeout: Millis,
    /// How often a sink commits its position. The worker's if not set.
    #[serde(rename = "offset.flush.interval.ms", default)]
    #[schemars(range(min = 1, max = 3_600_000), extend("x-group" = "Limits"))]
    pub flush_interval: Option<Millis>,
    /// An option of Kafka's producer, where `connector.client.config.override.policy` allows it; no effect with the embedded log.
    #[serde(rename = "producer.override.*")]
    #[schemars(extend("x-group" = "Kafka Clients", "x-importance" = "low", "x-example" = "client.id=me"))]
    producer: Family,
    /// An option of Kafka's consumer, likewise.
    #[serde(rename = "consumer.override.*")]
    #[schemars(extend("x-group" = "Kafka Clients", "x-importance" = "low", "x-example" = "client.id=me"))]
    consumer: Family,
    /// An option of Kafka's admin client, likewise.
    #[serde(rename = "admin.override.*")]
    #[schemars(extend("x-group" = "Kafka Clients", "x-importance" = "low", "x-example" = "client.id=me"))]
    admin: Family,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "some keys of Kafka Connect are checked and then have no effect here")]
pub(super) struct SourceOptions {
    /// Names of topic groups, each with its options under `topic.creation.<group>.`; the first whose `include` matches a new topic says how it
    /// is created, else `topic.creation.default.`.
    #[serde(rename = "topic.creation.groups", default)]
    #[schemars(extend("x-group" = "Topic Creation", "x-importance" = "low", "x-example" = "compacted"))]
    groups: List<String>,
    /// Partitions of topics that the connector creates; -1 is the default: 1, or the broker's on Kafka.
    #[serde(rename = "topic.creation.default.partitions", default)]
    #[schemars(range(min = -1, max = 10_000), extend("x-group" = "Topic Creation", "x-example" = "1"))]
    partitions: Option<i32>,
    /// Only Kafka heeds it; -1 is the broker's default.
    #[serde(rename = "topic.creation.default.replication.factor", default)]
    #[schemars(range(min = -1), extend("x-group" = "Topic Creation", "x-example" = "-1"))]
    replication: Option<i16>,
    /// Any config of a topic, under Kafka's name: `cleanup.policy`, `compression.type`, `retention.ms`, `retention.bytes`, `segment.bytes`, ….
    #[serde(rename = "topic.creation.default.*")]
    #[schemars(extend("x-group" = "Topic Creation", "x-example" = "retention.ms=7 days"))]
    configs: Family,
    /// `required` fails where the worker cannot store records and source offsets together. The embedded log always does.
    #[serde(rename = "exactly.once.support", default)]
    #[schemars(extend("x-group" = "Exactly Once Support"))]
    pub exactly_once: ExactlyOnce,
    /// Where a transaction ends: after each `poll`, after an `interval`, or where the `connector` says. The embedded log commits each batch.
    #[serde(rename = "transaction.boundary", default)]
    #[schemars(extend("x-group" = "Exactly Once Support"))]
    pub transaction_boundary: TransactionBoundary,
    /// With the boundary `interval`. The worker's `offset.flush.interval.ms` if not set.
    #[serde(rename = "transaction.boundary.interval.ms", default)]
    #[schemars(range(min = 0), extend("x-group" = "Exactly Once Support", "x-importance" = "low"))]
    pub transaction_interval: Option<Millis>,
    /// A topic of its own for the source's offsets, in Kafka. The embedded log stores them beside the records.
    #[serde(rename = "offsets.storage.topic", default)]
    #[schemars(extend("x-group" = "Offsets", "x-importance" = "low"))]
    pub offsets_topic: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct SinkOptions {
    /// The topics to read. Either this or `topics.regex`.
    #[serde(default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "high", "x-example" = "my-topic"))]
    pub topics: List<String>,
    /// A regular expression over whole names of topics; topics that appear later are read too.
    #[serde(rename = "topics.regex", default)]
    #[schemars(extend("x-group" = "Common", "x-importance" = "high", "x-example" = "shop\\..*"))]
    pub topics_regex: Option<Regex>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tolerance {
    #[default]
    None,
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExactlyOnce {
    #[default]
    Requested,
    Required,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransactionBoundary {
    #[default]
    Poll,
    Connector,
    Interval,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reload {
    None,
    #[default]
    Restart,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn three() -> i16 {
    3
}

fn no_time() -> Patience {
    Patience(Some(Millis::from_millis(0)))
}

fn a_second() -> Millis {
    Millis::from_secs(1)
}

fn a_minute() -> Millis {
    Millis::from_secs(60)
}

fn five_minutes() -> Millis {
    Millis::from_secs(300)
}

/// 8 batches: enough to keep appends in flight over an fdatasync. 32 over a transaction of Kafka's: measured, file → Kafka is 1.3 times as fast.
pub(super) fn buffer(on_kafka: bool) -> ByteSize {
    ByteSize::mib(if on_kafka { 32 } else { 8 })
}

/// Large enough that the cost of a batch is spread over thousands of records, small enough to stay in a CPU's cache.
fn batch() -> ByteSize {
    ByteSize::mib(1)
}

/// Bytes bound a batch first; this bounds the tables of empty records.
fn records() -> u32 {
    50_000
}
