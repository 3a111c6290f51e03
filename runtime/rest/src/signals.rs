//! `POST /aqueduct/v1/connectors/{connector}/signals`: Debezium's signals over REST.

use crate::body::{Body, Names};
use crate::{ApiError, ApiResult, Ready};
use aqueduct_core::Signal;
use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendSignal {
    /// Made up if it is not given; what the connector tells of the signal names it.
    id: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Value,
}

/// 202 once every task has taken it. 400: refused; 404: no such connector; 409: it does not run, or does not take it in time.
pub(crate) async fn send(
    Ready(worker): Ready,
    Names(name): Names<String>,
    Body(signal): Body<SendSignal>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    // Ids become keys of rows in the signal table, which Debezium makes 42 characters wide.
    let id = signal.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    if id.is_empty() || id.len() > 128 {
        return Err(ApiError::bad_request("`id` must have 1 to 128 characters"));
    }
    let signal = Signal { id, kind: signal.kind, data: signal.data };
    let answer = json!({ "id": signal.id, "type": signal.kind });
    worker.signal(&name, signal).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
