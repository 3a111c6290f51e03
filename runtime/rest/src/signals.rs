//! `POST /aqueduct/v1/connectors/{connector}/signals`: Debezium's signals over REST.

use crate::body::{Body, Names};
use crate::schemas::ConnectorPath;
use crate::{ApiError, ApiResult, Ready};
use aqueduct_core::Signal;
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What a running source is asked to do: Debezium's signals.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendSignal {
    /// Made up if it is not given; what the connector tells of the signal names it.
    #[schema(min_length = 1, max_length = 128)]
    id: Option<String>,
    #[serde(rename = "type")]
    #[schema(example = "execute-snapshot")]
    kind: String,
    /// Its shape depends on the type.
    #[serde(default)]
    data: Value,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SignalTaken {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Tell a running source something
///
/// Answers once every task has taken it.
#[utoipa::path(post, path = "/aqueduct/v1/connectors/{connector}/signals", operation_id = "send_signal", tag = "Connectors",
    params(ConnectorPath), request_body = SendSignal, responses(
    (status = 202, description = "Every task took it", body = SignalTaken),
    (status = 400, description = "The connector refuses it"),
    (status = 404, description = "No such connector"),
    (status = 409, description = "It does not run, or does not take the signal in time")))]
pub(crate) async fn send(
    Ready(worker): Ready,
    Names(name): Names<String>,
    Body(signal): Body<SendSignal>,
) -> ApiResult<(StatusCode, Json<SignalTaken>)> {
    // Ids become keys of rows in the signal table, which Debezium makes 42 characters wide.
    let id = signal.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    if id.is_empty() || id.chars().count() > 128 {
        return Err(ApiError::bad_request("`id` must have 1 to 128 characters"));
    }
    let signal = Signal { id, kind: signal.kind, data: signal.data };
    let answer = SignalTaken { id: signal.id.clone(), kind: signal.kind.clone() };
    worker.signal(&name, signal).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
