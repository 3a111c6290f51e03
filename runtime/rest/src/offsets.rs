//! `/connectors/{c}/offsets` (KIP-875).

use crate::body::{Body, Names};
use crate::schemas::{self, ConnectorPath, Message};
use crate::{ApiError, ApiResult, Ready};
use aqueduct_core::{JsonMap, SourceOffset};
use aqueduct_worker::{ConnectorOffsets, ConnectorType};
use axum::Json;
use serde::Deserialize;
use utoipa::ToSchema;

/// Where a stopped connector shall go on.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "offsets": [{"partition": {"kafka_topic": "orders", "kafka_partition": 0}, "offset": {"kafka_offset": 17}}]
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct AlterOffsets {
    #[serde(default)]
    #[schema(required = true, nullable = false, min_items = 1)]
    offsets: Option<Vec<AlterOffset>>,
}

/// An offset of null forgets its partition. Of a sink: `{"kafka_topic": …, "kafka_partition": …}` and `{"kafka_offset": …}`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AlterOffset {
    #[serde(default)]
    #[schema(required = true, nullable = false, value_type = HashMap<String, serde_json::Value>)]
    partition: Option<JsonMap>,
    #[serde(default)]
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>)]
    offset: Option<JsonMap>,
}

/// How far a connector is
#[utoipa::path(get, path = "/connectors/{connector}/offsets", operation_id = "get_offsets", tag = "Offsets", params(ConnectorPath), responses(
    (status = 200, description = "The stored offsets", body = schemas::ConnectorOffsets),
    (status = 404, description = "No such connector")))]
pub(crate) async fn show(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorOffsets>> {
    Ok(Json(worker.offsets(&name).await?))
}

/// Move a stopped connector
///
/// Partitions that are not named stay as they are (KIP-875).
#[utoipa::path(patch, path = "/connectors/{connector}/offsets", operation_id = "alter_offsets", tag = "Offsets",
    params(ConnectorPath), request_body = AlterOffsets, responses(
    (status = 200, description = "They are changed", body = Message),
    (status = 400, description = "The connector is not stopped, or cannot take these offsets"),
    (status = 404, description = "No such connector"),
    (status = 409, description = "Its tasks still end: try again")))]
pub(crate) async fn alter(
    ready: Ready,
    Names(name): Names<String>,
    Body(request): Body<AlterOffsets>,
) -> ApiResult<Json<Message>> {
    let given = request.offsets.unwrap_or_default();
    if given.is_empty() {
        return Err(ApiError::bad_request("Partitions / offsets need to be provided for an alter offsets request"));
    }
    let sink = ready.0.connector(&name)?.kind == ConnectorType::Sink;
    let no_partition = if sink {
        "The partition for a sink connector offset cannot be null or missing"
    } else {
        "Partition objects cannot be null"
    };
    let whole = |AlterOffset { partition, offset }| {
        let partition = partition.ok_or_else(|| ApiError::bad_request(no_partition))?;
        Ok(SourceOffset { partition, offset })
    };
    let offsets = given.into_iter().map(whole).collect::<ApiResult<Vec<_>>>()?;
    let message = ready.change(|worker| async move { worker.alter_offsets(&name, offsets).await }).await?;
    Ok(Json(Message { message }))
}

/// Let a stopped connector begin anew
#[utoipa::path(delete, path = "/connectors/{connector}/offsets", operation_id = "reset_offsets", tag = "Offsets", params(ConnectorPath), responses(
    (status = 200, description = "They are forgotten", body = Message),
    (status = 400, description = "The connector is not stopped"),
    (status = 404, description = "No such connector"),
    (status = 409, description = "Its tasks still end: try again")))]
pub(crate) async fn reset(ready: Ready, Names(name): Names<String>) -> ApiResult<Json<Message>> {
    let message = ready.change(|worker| async move { worker.reset_offsets(&name).await }).await?;
    Ok(Json(Message { message }))
}
