//! What the REST API, the command line and the config folder ask of the worker, in Kafka Connect's terms.

use aqueduct_core::{Error, Issue, Report, SourceOffset};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// A connector config as it was put: flat, unresolved, in order.
pub type ConfigMap = IndexMap<String, String>;

/// What an operator wants of a connector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    #[default]
    #[serde(rename = "STARTED", alias = "RUNNING")]
    Started,
    #[serde(rename = "PAUSED")]
    Paused,
    #[serde(rename = "STOPPED")]
    Stopped,
}

/// The states that exist on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    Unassigned,
    Running,
    Paused,
    Stopped,
    Failed,
    Restarting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectorType {
    Source,
    Sink,
    Unknown,
}

/// `GET /connectors/{c}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorInfo {
    pub name: String,
    pub config: ConfigMap,
    pub tasks: Vec<ConnectorTaskId>,
    #[serde(rename = "type")]
    pub kind: ConnectorType,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorTaskId {
    pub connector: String,
    pub task: u32,
}

/// `GET /connectors/{c}/status`; what is ours is in `aqueduct`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectorStatus {
    pub name: String,
    pub connector: ConnectorStateInfo,
    pub tasks: Vec<TaskStatus>,
    #[serde(rename = "type")]
    pub kind: ConnectorType,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorStateInfo {
    pub state: State,
    pub worker_id: String,
    /// Of a `FAILED` connector never empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    pub version: String,
    /// Ours: while it cannot start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aqueduct: Option<ConnectorAttempts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorAttempts {
    /// Failures in a row.
    pub attempt: u32,
    /// Milliseconds until it is tried again; none when it waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub id: u32,
    pub state: State,
    pub worker_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    pub version: String,
    /// Ours: what the task has done since it was first started here.
    pub aqueduct: TaskProgress,
}

/// Figures beside a task's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    /// Polled by a source, read from the log by a sink.
    pub records_in: u64,
    /// Durable in the log (source), durable in the target (sink).
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_filtered: u64,
    pub records_dead_lettered: u64,
    pub records_skipped: u64,
    /// Taken in, and what becomes of them is not durable yet.
    #[serde(default)]
    pub records_in_flight: u64,
    /// In flight when a try of the task ended: taken in again by the next.
    #[serde(default)]
    pub records_abandoned: u64,
    pub retries: u64,
    pub restarts: u64,
    /// Records between the sink's position and the end of the log; none for sources and for a sink that does not run.
    pub lag: Option<i64>,
    /// Milliseconds since something moved last; `None` when nothing has yet.
    pub idle_ms: Option<u64>,
    /// The last error, also when the task has recovered from it.
    pub last_error: Option<String>,
    /// Failures in a row; 0 when the last start went well.
    #[serde(default)]
    pub attempt: u32,
    /// Milliseconds until the task starts again by itself; none when it runs, or waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_ms: Option<u64>,
    /// How far its batches come: the clock that stands still says where it hangs.
    #[serde(default)]
    pub clocks: Clocks,
    /// Of a sink: seconds from the timestamp of the newest committed record to its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness_seconds: Option<f64>,
    /// Of a source: whether the log promises its records and offsets together. Of a sink: whether it promises each record once in its target. None
    /// before the task was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exactly_once: Option<ExactlyOnce>,
    /// Why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exactly_once_reason: Option<String>,
    /// What a running source tells of itself: how far a snapshot is, how much its server retains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// Milliseconds since a batch last got so far; none when no batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// Polled from the source, or read from the log.
    pub polled_ms: Option<u64>,
    /// Appended to the log, or put into the target.
    pub handed_on_ms: Option<u64>,
    /// Durable there.
    pub acknowledged_ms: Option<u64>,
    /// The source was told, or the sink's positions are stored.
    pub committed_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExactlyOnce {
    Promised,
    Degraded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectorOffsets {
    pub offsets: Vec<SourceOffset>,
}

/// `PUT /connector-plugins/{p}/config/validate`, before it is put into Kafka Connect's shape by the REST crate.
#[derive(Clone, Debug)]
pub struct Validation {
    pub class: String,
    pub kind: ConnectorType,
    /// The connector's options and the worker's common ones, in order.
    pub options: Vec<aqueduct_core::OptionSpec>,
    pub issues: Vec<Issue>,
}

/// Why the worker refused. The REST crate maps each to Kafka Connect's status code.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// 404
    #[error("{0}")]
    NotFound(String),
    /// 403
    #[error("{0}")]
    Forbidden(String),
    /// 409
    #[error("{0}")]
    Conflict(String),
    /// 400
    #[error("{0}")]
    BadRequest(String),
    /// 400, with Kafka Connect's list text.
    #[error("{}", invalid_config_text(.0))]
    InvalidConfig(Vec<Issue>),
    /// 500
    #[error("{0}")]
    Internal(#[from] Error),
}

/// Kafka Connect's text (`AbstractHerder.maybeAddConfigErrors`).
fn invalid_config_text(issues: &[Issue]) -> String {
    let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
    format!(
        "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
        errors.len(),
        errors.join("\n")
    )
}
