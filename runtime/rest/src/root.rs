//! `/`, `/health`, `/metrics`.

use crate::{App, KAFKA_VERSION, Ready};
use aqueduct_worker::Health;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Kafka Connect's version, since clients switch features on by it; ours is in `/aqueduct/v1/summary`.
pub(crate) async fn version(Ready(worker): Ready) -> Json<Value> {
    let commit = option_env!("AQUEDUCT_COMMIT").unwrap_or("unknown");
    Json(json!({ "version": KAFKA_VERSION, "commit": commit, "kafka_cluster_id": worker.cluster_id() }))
}

/// KIP-1017. The one call that answers before the worker has started.
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
    (code, Json(json!({ "status": status, "message": message }))).into_response()
}

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
