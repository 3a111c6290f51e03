//! The shapes of other crates' types in the OpenAPI document: they are serialized there, and know nothing of OpenAPI.
//!
//! The test `answers_have_the_shapes_of_the_document` compares them with real answers.

#![allow(dead_code, reason = "read by the derives alone: they describe values of other crates")]

use serde::Serialize;
use std::collections::HashMap;
use utoipa::{IntoParams, ToSchema};

/// A connector of the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ConnectorPath {
    /// The connector's name, percent-encoded: `a%2Fb` for `a/b`.
    #[param(example = "orders")]
    connector: String,
}

/// A task of a connector.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TaskPath {
    /// The connector's name, percent-encoded: `a%2Fb` for `a/b`.
    #[param(example = "orders")]
    connector: String,
    /// The task's number, from 0.
    #[param(minimum = 0, maximum = 4_294_967_295_u32, example = 0)]
    task: u32,
}

/// A plugin of the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PluginPath {
    /// A plugin by its name, the Java class that it stands for, or the last part of that.
    #[param(example = "file-source")]
    plugin: String,
}

/// A logger of the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct LoggerPath {
    /// `root`, or a module of the worker: `aqueduct_worker::source`. Any other name can be set, too.
    #[param(example = "root")]
    logger: String,
}

/// A topic of the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct TopicPath {
    /// The topic's name.
    #[param(example = "orders")]
    topic: String,
}

/// Options by their dotted names, exactly as they were put; references to secrets stay references.
#[derive(ToSchema)]
pub(crate) struct ConnectorConfig(HashMap<String, String>);

/// Options by their dotted names. A number or a boolean becomes the text that was sent.
#[derive(ToSchema)]
#[schema(example = json!({"connector.class": "datagen-source", "template": "orders", "topic": "orders", "rate": 10}))]
pub(crate) struct NewConfig(HashMap<String, Scalar>);

/// As `NewConfig`, and an option may be null, which is as if it were not there.
#[derive(ToSchema)]
#[schema(example = json!({"rate": 20, "seed": null}))]
pub(crate) struct PatchConfig(HashMap<String, ScalarOrNull>);

#[derive(ToSchema)]
pub(crate) struct ScalarOrNull(Option<Scalar>);

/// A text, a number or a boolean: options are texts in the end.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(example = "orders")]
pub(crate) enum Scalar {
    Text(String),
    Number(f64),
    Flag(bool),
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConnectorType {
    Source,
    Sink,
    Unknown,
}

#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum State {
    Unassigned,
    Running,
    Paused,
    Stopped,
    Failed,
    Restarting,
}

/// A connector as it was put.
#[derive(ToSchema)]
pub(crate) struct ConnectorInfo {
    name: String,
    config: ConnectorConfig,
    tasks: Vec<ConnectorTaskId>,
    #[serde(rename = "type")]
    kind: ConnectorType,
}

#[derive(ToSchema)]
pub(crate) struct ConnectorTaskId {
    connector: String,
    #[schema(minimum = 0)]
    task: u32,
}

/// How a connector and its tasks are.
#[derive(ToSchema)]
pub(crate) struct ConnectorStatus {
    name: String,
    connector: ConnectorState,
    tasks: Vec<TaskStatus>,
    #[serde(rename = "type")]
    kind: ConnectorType,
}

#[derive(ToSchema)]
pub(crate) struct ConnectorState {
    state: State,
    /// `host:port` of the worker.
    worker_id: String,
    /// Why it failed.
    #[schema(nullable = false)]
    trace: Option<String>,
    /// Of the plugin.
    version: String,
    /// While it cannot start.
    #[schema(nullable = false)]
    aqueduct: Option<ConnectorAttempts>,
}

#[derive(ToSchema)]
pub(crate) struct ConnectorAttempts {
    /// Failures in a row.
    attempt: u32,
    /// Milliseconds until it is tried again; absent when it waits for an operator.
    #[schema(nullable = false)]
    next_attempt_ms: Option<u64>,
}

#[derive(ToSchema)]
pub(crate) struct TaskStatus {
    #[schema(minimum = 0)]
    id: u32,
    state: State,
    /// `host:port` of the worker.
    worker_id: String,
    /// Why it failed.
    #[schema(nullable = false)]
    trace: Option<String>,
    /// Of the plugin.
    version: String,
    aqueduct: TaskProgress,
}

/// What a task has done since it was first started on this worker.
#[derive(ToSchema)]
pub(crate) struct TaskProgress {
    /// Polled by a source, read from the log by a sink.
    records_in: u64,
    /// Durable in the log (source), durable in the target (sink).
    records_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    records_filtered: u64,
    records_dead_lettered: u64,
    records_skipped: u64,
    /// Taken in, and what becomes of them is not durable yet.
    records_in_flight: u64,
    /// In flight when a try of the task ended: taken in again by the next.
    records_abandoned: u64,
    retries: u64,
    restarts: u64,
    /// Records between the sink's position and the end of the log; null for sources and for a sink that does not run.
    #[schema(required = true)]
    lag: Option<i64>,
    /// Milliseconds since something moved last; null when nothing has yet.
    #[schema(required = true)]
    idle_ms: Option<u64>,
    /// The last error, also when the task has recovered from it.
    #[schema(required = true)]
    last_error: Option<String>,
    /// Failures in a row; 0 when the last start went well.
    attempt: u32,
    /// Milliseconds until the task starts again by itself.
    #[schema(nullable = false)]
    next_attempt_ms: Option<u64>,
    clocks: Clocks,
    /// Of a sink: seconds from the timestamp of the newest committed record to its commit.
    #[schema(nullable = false)]
    freshness_seconds: Option<f64>,
    /// Whether the log promises the records and offsets of a source together, or a sink each record once in its target.
    #[schema(nullable = false)]
    exactly_once: Option<ExactlyOnce>,
    /// Why it is degraded.
    #[schema(nullable = false)]
    exactly_once_reason: Option<String>,
    #[schema(nullable = false)]
    report: Option<Report>,
}

/// Milliseconds since a batch last got so far; null when none has.
#[derive(ToSchema)]
pub(crate) struct Clocks {
    /// Polled from the source, or read from the log.
    #[schema(required = true)]
    polled_ms: Option<u64>,
    /// Appended to the log, or put into the target.
    #[schema(required = true)]
    handed_on_ms: Option<u64>,
    /// Durable there.
    #[schema(required = true)]
    acknowledged_ms: Option<u64>,
    /// The source was told, or the sink's positions are stored.
    #[schema(required = true)]
    committed_ms: Option<u64>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExactlyOnce {
    Promised,
    Degraded,
}

/// What a running task tells of itself.
#[derive(ToSchema)]
pub(crate) struct Report {
    /// One line for people.
    #[schema(nullable = false)]
    summary: Option<String>,
    /// The same and more for programs; each connector has its own.
    #[schema(nullable = false)]
    detail: Option<HashMap<String, serde_json::Value>>,
}

/// How far a connector is.
#[derive(ToSchema)]
pub(crate) struct ConnectorOffsets {
    offsets: Vec<SourceOffset>,
}

/// One partition of an external system and the position in it. A sink's partition is `{"kafka_topic": …, "kafka_partition": …}`, its offset
/// `{"kafka_offset": …}`.
#[derive(ToSchema)]
pub(crate) struct SourceOffset {
    partition: HashMap<String, serde_json::Value>,
    #[schema(required = true)]
    offset: Option<HashMap<String, serde_json::Value>>,
}

/// A topic of the log.
#[derive(ToSchema)]
pub(crate) struct TopicInfo {
    name: String,
    /// A UUID that differs between a topic and its re-creation.
    id: String,
    partitions: Vec<PartitionInfo>,
    /// What was set; the rest has its defaults.
    configs: HashMap<String, String>,
}

#[derive(ToSchema)]
pub(crate) struct PartitionInfo {
    #[schema(minimum = 0)]
    partition: i32,
    /// The oldest offset that can be read.
    start: i64,
    /// The next offset to be written; all before it is committed.
    end: i64,
    /// On disk.
    bytes: u64,
}

/// What the log has done since the worker started.
#[derive(ToSchema)]
pub(crate) struct LogStats {
    /// `embedded`, `memory` or `kafka`.
    kind: String,
    commits: u64,
    /// Rounds of group commit, each with its fdatasyncs.
    syncs: u64,
    records: u64,
    bytes: u64,
    /// Of appends that are not durable yet.
    bytes_in_flight: u64,
    /// Why writers stand still, when they do.
    #[schema(required = true)]
    stopped: Option<String>,
}

/// Something that is wrong with a config.
#[derive(ToSchema)]
pub(crate) struct Issue {
    severity: Severity,
    /// The option that it is about; empty for the whole file.
    path: String,
    /// Stable and dotted: `config.unknown_key`.
    code: String,
    message: String,
    #[schema(nullable = false)]
    fix: Option<String>,
    #[schema(nullable = false)]
    location: Option<Location>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// 1-based line and column.
#[derive(ToSchema)]
pub(crate) struct Location {
    file: String,
    line: u64,
    column: u64,
}

/// Everything that a plugin says of itself.
#[derive(ToSchema)]
pub(crate) struct Descriptor {
    name: String,
    /// Java classes and short names that mean this connector.
    aliases: Vec<String>,
    kind: PluginKind,
    version: String,
    summary: String,
    options: Vec<OptionSpec>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PluginKind {
    Source,
    Sink,
}

#[derive(ToSchema)]
pub(crate) struct OptionSpec {
    /// Dotted. A name that ends in `.*` stands for a family of keys.
    name: String,
    kind: OptionKind,
    required: bool,
    #[schema(required = true)]
    default: Option<String>,
    importance: Importance,
    documentation: String,
    group: String,
    /// What the text must look like beyond its kind: `duration`, `bytes`, `regex`, …
    #[schema(required = true)]
    format: Option<String>,
    /// All allowed values, where they are few.
    allowed: Vec<String>,
    #[schema(required = true)]
    example: Option<String>,
}

/// Kafka's `ConfigDef.Type`.
#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OptionKind {
    Boolean,
    Class,
    Double,
    Int,
    List,
    Long,
    Password,
    Short,
    String,
}

#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Importance {
    High,
    Medium,
    Low,
}

/// What was done, in words.
#[derive(Serialize, ToSchema)]
pub(crate) struct Message {
    pub(crate) message: String,
}
