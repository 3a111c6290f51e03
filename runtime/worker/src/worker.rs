//! The handle that REST, the command line and the config folder hold.

use crate::admin::*;
use aqueduct_core::{Descriptor, SourceOffset};
use aqueduct_log::Log;
use std::sync::Arc;

/// Cheap to clone. Every method answers from memory or writes one small commit to the log; none waits for a connector (invariant 10).
#[derive(Clone)]
pub struct Worker {}

pub type AdminResult<T> = Result<T, AdminError>;

impl Worker {
    /// `host:port` of the REST listener, as `worker_id` stands in statuses.
    pub fn worker_id(&self) -> &str { todo!() }
    /// A stable id of the data directory (Kafka's cluster id on Kafka), for `GET /`.
    pub fn cluster_id(&self) -> &str { todo!() }
    /// `Ok` when healthy; `Err(why)` when starting (`starting: …`) or unhealthy.
    pub fn health(&self) -> Health { todo!() }
    pub fn log(&self) -> &Arc<dyn Log> { todo!() }
    /// Sorted by name.
    pub fn connectors(&self) -> Vec<String> { todo!() }
    pub fn connector(&self, name: &str) -> AdminResult<ConnectorInfo> { let _ = name; todo!() }
    pub fn status(&self, name: &str) -> AdminResult<ConnectorStatus> { let _ = name; todo!() }
    /// The resolved-by-plan configs of the tasks: `(id, config)`. Secrets stay references.
    pub fn tasks(&self, name: &str) -> AdminResult<Vec<(ConnectorTaskId, ConfigMap)>> { let _ = name; todo!() }
    /// Conflict when it exists.
    pub async fn create(&self, name: &str, config: ConfigMap, initial: TargetState) -> AdminResult<ConnectorInfo> { let _ = (name, config, initial); todo!() }
    /// True when it was created by this call.
    pub async fn put_config(&self, name: &str, config: ConfigMap) -> AdminResult<(bool, ConnectorInfo)> { let _ = (name, config); todo!() }
    /// KIP-477: `None` deletes a key.
    pub async fn patch_config(&self, name: &str, patch: indexmap::IndexMap<String, Option<String>>) -> AdminResult<ConnectorInfo> { let _ = (name, patch); todo!() }
    pub async fn delete(&self, name: &str) -> AdminResult<()> { let _ = name; todo!() }
    pub async fn set_target(&self, name: &str, target: TargetState) -> AdminResult<()> { let _ = (name, target); todo!() }
    /// Restarts the connector, and (with `include_tasks`) its tasks, all or only the failed. The status shows RESTARTING for what is restarted.
    pub async fn restart(&self, name: &str, include_tasks: bool, only_failed: bool) -> AdminResult<ConnectorStatus> { let _ = (name, include_tasks, only_failed); todo!() }
    /// NotFound for an unknown task; Conflict when the connector is stopped.
    pub async fn restart_task(&self, name: &str, task: u32) -> AdminResult<()> { let _ = (name, task); todo!() }
    /// Topics that the connector used since it was created or reset.
    pub fn active_topics(&self, name: &str) -> AdminResult<Vec<String>> { let _ = name; todo!() }
    pub async fn reset_active_topics(&self, name: &str) -> AdminResult<()> { let _ = name; todo!() }
    /// Sinks answer `{kafka_topic, kafka_partition}` → `{kafka_offset}`.
    pub async fn offsets(&self, name: &str) -> AdminResult<ConnectorOffsets> { let _ = name; todo!() }
    /// BadRequest when not STOPPED or when empty. Returns the message for the user.
    pub async fn alter_offsets(&self, name: &str, offsets: Vec<SourceOffset>) -> AdminResult<String> { let _ = (name, offsets); todo!() }
    pub async fn reset_offsets(&self, name: &str) -> AdminResult<String> { let _ = name; todo!() }
    /// Every connector plugin, by name.
    pub fn plugins(&self) -> Vec<Descriptor> { todo!() }
    /// By full or simple name, `Connector` optional.
    pub fn plugin(&self, class: &str) -> AdminResult<Descriptor> { let _ = class; todo!() }
    /// Pure: touches nothing outside.
    pub fn validate(&self, class: &str, config: &ConfigMap) -> AdminResult<Validation> { let _ = (class, config); todo!() }
    /// Prometheus' text format (version 0.0.4 / OpenMetrics as `prometheus-client` writes it).
    pub fn metrics(&self) -> String { todo!() }
    /// What is wrong with files in `connectors.dir`, for `aqueduct status` and `/aqueduct/v1/folder`.
    pub fn folder_issues(&self) -> Vec<aqueduct_core::Issue> { todo!() }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy(String),
    Starting(String),
    Unhealthy(String),
}
