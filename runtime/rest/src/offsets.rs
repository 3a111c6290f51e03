//! `/connectors/{c}/offsets` (KIP-875).

use crate::body::{Body, Names};
use crate::{ApiError, ApiResult, Ready};
use aqueduct_core::{JsonMap, SourceOffset};
use aqueduct_worker::{ConnectorOffsets, ConnectorType};
use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlterOffsets {
    #[serde(default)]
    offsets: Option<Vec<AlterOffset>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlterOffset {
    #[serde(default)]
    partition: Option<JsonMap>,
    #[serde(default)]
    offset: Option<JsonMap>,
}

pub(crate) async fn show(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorOffsets>> {
    Ok(Json(worker.offsets(&name).await?))
}

/// An offset of null resets its partition.
pub(crate) async fn alter(ready: Ready, Names(name): Names<String>, Body(request): Body<AlterOffsets>) -> ApiResult<Json<Value>> {
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
    Ok(Json(json!({ "message": message })))
}

pub(crate) async fn reset(ready: Ready, Names(name): Names<String>) -> ApiResult<Json<Value>> {
    let message = ready.change(|worker| async move { worker.reset_offsets(&name).await }).await?;
    Ok(Json(json!({ "message": message })))
}
