//! `/`, `/health`, `/metrics`.

use crate::{App, KAFKA_VERSION, Ready};
use aqueduct_worker::Health;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What `GET /` answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    /// Of Kafka Connect: clients switch features on by it. Aqueduct's own is in `/aqueduct/v1/summary`.
    #[schema(example = "4.1.0")]
    version: &'static str,
    commit: &'static str,
    /// Of the Kafka cluster, or of the data directory.
    kafka_cluster_id: String,
}

/// What `GET /health` answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct HealthStatus {
    /// `healthy`, `starting` or `unhealthy`.
    #[schema(value_type = HealthWord)]
    status: &'static str,
    message: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "stands for the texts of `describe` in the document")]
enum HealthWord {
    Healthy,
    Starting,
    Unhealthy,
}

/// The version of Kafka Connect that this worker answers as
#[utoipa::path(get, path = "/", operation_id = "version", tag = "Worker",
    responses((status = 200, description = "The version, and the id of the cluster", body = Version)))]
pub(crate) async fn version(Ready(worker): Ready) -> Json<Version> {
    let commit = option_env!("AQUEDUCT_COMMIT").unwrap_or("unknown");
    Json(Version { version: KAFKA_VERSION, commit, kafka_cluster_id: worker.cluster_id().to_owned() })
}

/// Whether the worker is well
///
/// Answers also before the worker has started (KIP-1017).
#[utoipa::path(get, path = "/health", operation_id = "health", tag = "Worker", responses(
    (status = 200, description = "It is healthy", body = HealthStatus),
    (status = 500, description = "It is unhealthy; the message says why", body = HealthStatus),
    (status = 503, description = "It starts", body = HealthStatus)))]
pub(crate) async fn health(State(app): State<App>) -> Response {
    let worker = app.worker.borrow().clone();
    let starting = || {
        let why = app.options.starting.as_ref().and_then(|starting| starting.borrow().clone());
        Health::Starting(
            why.map_or_else(|| "Worker is still starting up.".into(), |why| format!("Worker is still starting up: {why}")),
        )
    };
    let health = worker.map_or_else(starting, |worker| worker.health());
    let (code, status, message) = describe(health);
    (code, Json(HealthStatus { status, message })).into_response()
}

/// What moved, lags and failed, for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "Worker", responses((status = 200,
    description = "Metrics in Prometheus' text format", content((String = "application/openmetrics-text"), (String = "text/plain")))))]
pub(crate) async fn metrics(Ready(worker): Ready) -> impl IntoResponse {
    let text = worker.metrics();
    // `prometheus-client` ends its OpenMetrics text so; Prometheus' older format has no end mark.
    let open = text.trim_end().ends_with("# EOF");
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(CONTENT_TYPE, kind)], text)
}

fn describe(health: Health) -> (StatusCode, &'static str, String) {
    match health {
        Health::Healthy(message) => (StatusCode::OK, "healthy", message),
        Health::Starting(message) => (StatusCode::SERVICE_UNAVAILABLE, "starting", message),
        Health::Unhealthy(message) => (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_kip_1017s_codes() {
        let codes =
            [Health::Healthy(String::new()), Health::Starting(String::new()), Health::Unhealthy(String::new())].map(|health| {
                let (code, status, _) = describe(health);
                (code.as_u16(), status)
            });
        assert_eq!(codes, [(200, "healthy"), (503, "starting"), (500, "unhealthy")]);
    }
}
