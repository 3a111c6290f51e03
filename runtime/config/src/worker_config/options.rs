//! The options of worker.yaml: their documentation is the reference.

use crate::settings::{PLAIN_CONVERTER, SIMPLE_HEADER_CONVERTER};
use crate::types::{Family, List, Millis, PathText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "families are read by their prefix")]
pub(super) struct WorkerOptions {
    /// Where the REST API listens: `http://HOST:PORT` or `https://HOST:PORT`, separated by commas. On an address that is not loopback, it wants
    /// `https` and `rest.users` or clients' certificates.
    #[serde(default = "listeners")]
    #[schemars(extend("x-group" = "REST"))]
    pub listeners: List<String>,
    /// A name of this machine that clients may use in `Host`.
    #[serde(rename = "rest.advertised.host.name", default)]
    #[schemars(extend("x-group" = "REST"))]
    pub advertised_host: Option<String>,
    /// Origins whose pages may call the REST API: `*`, or separated by commas. None if empty.
    #[serde(rename = "access.control.allow.origin", default)]
    #[schemars(extend("x-group" = "REST"))]
    pub allow_origin: String,
    /// Methods that they may use, separated by commas. `GET,POST,HEAD` if empty.
    #[serde(rename = "access.control.allow.methods", default)]
    #[schemars(extend("x-group" = "REST"))]
    pub allow_methods: String,
    /// Where the embedded log keeps its topics, offsets and connectors. One worker to a folder.
    #[serde(rename = "data.dir", default = "data_dir")]
    #[schemars(extend("x-group" = "Storage", "x-importance" = "high"))]
    pub data_dir: PathText,
    /// `embedded` is in the worker's process, under `data.dir`.
    #[serde(default)]
    #[schemars(extend("x-group" = "Storage"))]
    log: Log,
    /// Apache Kafka is the log: `host:port` of some of its brokers, separated by commas. The embedded log if not set.
    #[serde(rename = "bootstrap.servers", default)]
    #[schemars(extend("x-group" = "Storage", "x-importance" = "high"))]
    pub bootstrap_servers: Option<List<String>>,
    /// How long records are kept where a topic does not say; 7 days if not set, -1 for ever.
    #[serde(rename = "log.retention.ms", default)]
    #[schemars(extend("x-group" = "Storage"))]
    retention_ms: Option<String>,
    /// How many bytes of a partition are kept where a topic does not say; -1, the default, has no bound.
    #[serde(rename = "log.retention.bytes", default)]
    #[schemars(extend("x-group" = "Storage"))]
    retention_bytes: Option<String>,
    /// A segment file is this large where a topic does not say; 1 GiB if not set.
    #[serde(rename = "log.segment.bytes", default)]
    #[schemars(extend("x-group" = "Storage"))]
    segment_bytes: Option<String>,
    /// A segment file is at most this old before the next is begun; 7 days if not set.
    #[serde(rename = "log.roll.ms", default)]
    #[schemars(extend("x-group" = "Storage"))]
    roll_ms: Option<String>,
    /// `delete` drops old segments, `compact` keeps the last record of each key.
    #[serde(rename = "log.cleanup.policy", default)]
    #[schemars(extend("x-group" = "Storage"))]
    cleanup_policy: Option<String>,
    /// How batches are compressed where a topic does not say: `none`, `lz4` or `zstd`.
    #[serde(rename = "log.compression.type", default)]
    #[schemars(extend("x-group" = "Storage"))]
    compression: Option<String>,
    /// A folder of connector files that is watched. None if not set.
    #[serde(rename = "connectors.dir", default)]
    #[schemars(extend("x-group" = "Connectors", "x-importance" = "high"))]
    pub connectors_dir: Option<PathText>,
    /// Delete a connector when its file is removed.
    #[serde(rename = "connectors.dir.prune", default)]
    #[schemars(extend("x-group" = "Connectors"))]
    pub connectors_dir_prune: bool,
    /// Folders with plugins: every `*.wasm` in them.
    #[serde(rename = "plugin.path", default)]
    #[schemars(extend("x-group" = "Connectors"))]
    pub plugin_path: List<PathText>,
    /// What a plugin of `plugin.path` is granted, which is nothing else by default: `plugins.<name>.sha256`, `.trusted`, `.allow.http`, `.allow.private.networks`,
    /// `.allow.env`, `.allow.files`, `.allow.secrets.<name>`, `.limits.memory` (64 MiB), `.limits.call.timeout` (1 s). plugins/README.md says more.
    #[serde(rename = "plugins.*")]
    #[schemars(extend("x-group" = "Connectors"))]
    plugins: Family,
    /// The name of the worker's group. On Kafka it begins the names of the internal topics and of transactional ids.
    #[serde(rename = "group.id", default = "group_id")]
    #[schemars(extend("x-group" = "Common", "x-importance" = "low"))]
    pub group_id: String,
    /// How often a sink commits its position. Sources store their offsets together with each batch.
    #[serde(rename = "offset.flush.interval.ms", default = "flush_interval")]
    #[schemars(range(min = 1, max = 3_600_000), extend("x-group" = "Common"))]
    pub flush_interval: Millis,
    /// How long tasks may take to drain and commit when they stop; then they are aborted.
    #[serde(rename = "task.shutdown.graceful.timeout.ms", default = "shutdown_timeout")]
    #[schemars(range(min = 0, max = 3_600_000), extend("x-group" = "Common"))]
    pub shutdown_timeout: Millis,
    /// The converter of keys for connectors that name none.
    #[serde(rename = "key.converter", default = "string_converter")]
    #[schemars(extend("x-group" = "Converters", "x-format" = "class"))]
    pub key_converter: String,
    /// The converter of values for connectors that name none.
    #[serde(rename = "value.converter", default = "string_converter")]
    #[schemars(extend("x-group" = "Converters", "x-format" = "class"))]
    pub value_converter: String,
    /// The converter of header values for connectors that name none.
    #[serde(rename = "header.converter", default = "header_converter")]
    #[schemars(extend("x-group" = "Converters", "x-format" = "class"))]
    pub header_converter: String,
    /// Its options.
    #[serde(rename = "key.converter.*")]
    #[schemars(extend("x-group" = "Converters"))]
    key_converter_options: Family,
    /// Its options.
    #[serde(rename = "value.converter.*")]
    #[schemars(extend("x-group" = "Converters"))]
    value_converter_options: Family,
    /// Its options.
    #[serde(rename = "header.converter.*")]
    #[schemars(extend("x-group" = "Converters"))]
    header_converter_options: Family,
    /// Create topics that sources write to and that are not there.
    #[serde(rename = "topic.creation.enable", default = "yes")]
    #[schemars(extend("x-group" = "Topics"))]
    pub topic_creation: bool,
    /// How such topics are created where the connector does not say: `partitions`, `retention.ms`, `cleanup.policy`, ….
    #[serde(rename = "topic.creation.default.*")]
    #[schemars(extend("x-group" = "Topics"))]
    topic_default: Family,
    /// Remember which topics a connector uses.
    #[serde(rename = "topic.tracking.enable", default = "yes")]
    #[schemars(extend("x-group" = "Topics", "x-importance" = "low"))]
    pub topic_tracking: bool,
    /// Allow to forget them by `PUT /connectors/{name}/topics/reset`.
    #[serde(rename = "topic.tracking.allow.reset", default = "yes")]
    #[schemars(extend("x-group" = "Topics", "x-importance" = "low"))]
    pub topic_tracking_reset: bool,
    /// The providers of references such as `${env:NAME}`. If not set: those of `env`, `file` and `dir` that have an allow-list below.
    #[serde(rename = "config.providers", default)]
    #[schemars(extend("x-group" = "Secrets"))]
    providers: List<String>,
    /// `config.providers.env.param.allowlist.pattern`: a regular expression over the whole names of variables that may be read;
    /// `config.providers.file.param.allowed.paths`, `config.providers.dir.param.allowed.paths`: folders, separated by commas.
    #[serde(rename = "config.providers.*")]
    #[schemars(extend("x-group" = "Secrets"))]
    provider_options: Family,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Log {
    #[default]
    Embedded,
}

fn listeners() -> List<String> {
    List(vec!["http://127.0.0.1:8083".to_owned()])
}

fn data_dir() -> PathText {
    PathText::from(std::path::PathBuf::from("data"))
}

fn group_id() -> String {
    "aqueduct".to_owned()
}

/// Not Kafka's minute: a commit is cheap here, and it bounds what a sink without exactly-once repeats after a crash.
fn flush_interval() -> Millis {
    Millis::from_secs(1)
}

fn shutdown_timeout() -> Millis {
    Millis::from_secs(5)
}

fn string_converter() -> String {
    PLAIN_CONVERTER.to_owned()
}

fn header_converter() -> String {
    SIMPLE_HEADER_CONVERTER.to_owned()
}

fn yes() -> bool {
    true
}
