//! `/aqueduct/v1/summary` and `/folder`: what `aqueduct status` shows.

use crate::access::Caller;
use crate::schemas;
use crate::{ApiResult, KAFKA_VERSION, Ready};
use aqueduct_core::Issue;
use aqueduct_log::LogStats;
use aqueduct_worker::{ConnectorStatus, Health};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// What `aqueduct status` shows.
#[derive(Serialize, ToSchema)]
pub(crate) struct Summary {
    worker: AboutWorker,
    #[schema(value_type = schemas::LogStats)]
    log: LogStats,
    connectors: Vec<OneConnector>,
    /// What is wrong with the files in `connectors.dir`.
    #[schema(value_type = Vec<schemas::Issue>)]
    folder: Vec<Issue>,
}

#[derive(Serialize, ToSchema)]
struct AboutWorker {
    /// `host:port`
    id: String,
    /// Aqueduct's.
    version: &'static str,
    /// The version of Kafka Connect that it answers as.
    kafka_version: &'static str,
    cluster_id: String,
    /// `healthy`, `starting` or `unhealthy`.
    health: &'static str,
    message: String,
}

#[derive(Serialize, ToSchema)]
struct OneConnector {
    name: String,
    #[schema(required = true)]
    class: Option<String>,
    /// That its tasks wrote to or read from.
    topics: Vec<String>,
    #[schema(value_type = schemas::ConnectorStatus)]
    status: ConnectorStatus,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FolderIssues {
    #[schema(value_type = Vec<schemas::Issue>)]
    issues: Vec<Issue>,
}

/// The worker, its log and all connectors at once
///
/// One who is limited to some connectors sees those, and no errors of files.
#[utoipa::path(get, path = "/aqueduct/v1/summary", operation_id = "summary", tag = "Worker",
    responses((status = 200, description = "The summary", body = Summary)))]
pub(crate) async fn summary(Ready(worker): Ready, caller: Caller) -> ApiResult<Json<Summary>> {
    let mut connectors = Vec::new();
    for name in worker.connectors().into_iter().filter(|name| caller.sees(name)) {
        let (Ok(info), Ok(status)) = (worker.connector(&name), worker.status(&name)) else { continue };
        let topics = worker.active_topics(&name).unwrap_or_default();
        let class = info.config.get("connector.class").cloned();
        connectors.push(OneConnector { name, class, topics, status });
    }
    let (health, message) = match worker.health() {
        Health::Healthy(message) => ("healthy", message),
        Health::Starting(message) => ("starting", message),
        Health::Unhealthy(message) => ("unhealthy", message),
    };
    let about = AboutWorker {
        id: worker.worker_id().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        kafka_version: KAFKA_VERSION,
        cluster_id: worker.cluster_id().to_owned(),
        health,
        message,
    };
    let folder = if caller.is_limited() { Vec::new() } else { worker.folder_issues() };
    Ok(Json(Summary { worker: about, log: worker.log().stats(), connectors, folder }))
}

/// What is wrong with the files in `connectors.dir`
#[utoipa::path(get, path = "/aqueduct/v1/folder", operation_id = "folder", tag = "Worker",
    responses((status = 200, description = "Nothing, or the issues of each file", body = FolderIssues)))]
pub(crate) async fn folder(Ready(worker): Ready) -> Json<FolderIssues> {
    Json(FolderIssues { issues: worker.folder_issues() })
}
