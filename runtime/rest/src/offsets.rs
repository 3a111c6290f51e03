//! `/connectors/{c}/offsets` (KIP-875).

use crate::body::{Body, Names};
use crate::{ApiError, ApiResult, Ready};
use aqueduct_worker::ConnectorOffsets;
use axum::Json;
use serde_json::{Value, json};

pub(crate) async fn show(Ready(worker): Ready, Names(name): Names<String>) -> ApiResult<Json<ConnectorOffsets>> {
    Ok(Json(worker.offsets(&name).await?))
}

/// An offset of null resets its partition.
pub(crate) async fn alter(
    ready: Ready,
    Names(name): Names<String>,
    Body(request): Body<ConnectorOffsets>,
) -> ApiResult<Json<Value>> {
    if request.offsets.is_empty() {
        return Err(ApiError::bad_request("Partitions / offsets need to be provided for an alter offsets request"));
    }
    let message = ready.change(|worker| async move { worker.alter_offsets(&name, request.offsets).await }).await?;
    Ok(Json(json!({ "message": message })))
}

pub(crate) async fn reset(ready: Ready, Names(name): Names<String>) -> ApiResult<Json<Value>> {
    let message = ready.change(|worker| async move { worker.reset_offsets(&name).await }).await?;
    Ok(Json(json!({ "message": message })))
}
