//! `/aqueduct/v1/summary` and `/folder`: what `aqueduct status` shows.

use crate::access::Caller;
use crate::{ApiResult, KAFKA_VERSION, Ready};
use aqueduct_core::Issue;
use aqueduct_worker::Health;
use axum::Json;
use serde_json::{Value, json};

/// `{worker: {…}, log: LogStats, connectors: [{name, class, status}], folder: [Issue]}`
/// One who is limited to some connectors sees those, and no errors of files.
pub(crate) async fn summary(Ready(worker): Ready, caller: Caller) -> ApiResult<Json<Value>> {
    let mut connectors = Vec::new();
    for name in worker.connectors().into_iter().filter(|name| caller.sees(name)) {
        let (Ok(info), Ok(status)) = (worker.connector(&name), worker.status(&name)) else { continue };
        let topics = worker.active_topics(&name).unwrap_or_default();
        connectors.push(json!({ "name": name, "class": info.config.get("connector.class"), "topics": topics, "status": status }));
    }
    let (health, message) = match worker.health() {
        Health::Healthy(message) => ("healthy", message),
        Health::Starting(message) => ("starting", message),
        Health::Unhealthy(message) => ("unhealthy", message),
    };
    let about = json!({
        "id": worker.worker_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "kafka_version": KAFKA_VERSION,
        "cluster_id": worker.cluster_id(),
        "health": health,
        "message": message,
    });
    let folder = if caller.is_limited() { Vec::new() } else { worker.folder_issues() };
    Ok(Json(json!({ "worker": about, "log": worker.log().stats(), "connectors": connectors, "folder": folder })))
}

/// What is wrong with the files in `connectors.dir`.
pub(crate) async fn folder(Ready(worker): Ready) -> Json<Value> {
    let issues: Vec<Issue> = worker.folder_issues();
    Json(json!({ "issues": issues }))
}
