//! Kafka Connect's error body for every answer that is not 2xx.

use aqueduct_core::Error;
use aqueduct_worker::AdminError;
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every answer that is not 2xx.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiError {
    /// The status of the answer.
    pub error_code: u16,
    /// What is wrong, and what to do.
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { error_code: status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NotFound(message) => Self::new(404, message),
            AdminError::Forbidden(message) => Self::new(403, message),
            AdminError::Conflict(message) => Self::new(409, message),
            AdminError::BadRequest(message) => Self::new(400, message),
            AdminError::InvalidConfig(_) => Self::new(400, error.to_string()),
            AdminError::Internal(error) => Self::from(error),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            "log.unknown_topic" | "log.unknown_partition" => 404,
            "log.topic_exists" | "log.group_active" => 409,
            "log.topic_name" | "log.topic_config" | "log.record_too_large" => 400,
            "log.disk_full" => 507,
            _ => 500,
        };
        Self::new(status, error.trace())
    }
}

pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(format!("HTTP 404 Not Found: no resource at {}", uri.path()))
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(405, format!("HTTP 405 Method Not Allowed: {method} at {}", uri.path()))
}

/// Longer than what came with the headers, as far as one can tell.
fn body_is_long(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.map_or_else(|| headers.contains_key(TRANSFER_ENCODING), |length| length > 8192)
}

/// Gives the answers that axum and tower-http make in plain text (a body too large, a timeout, a panic, …) the JSON body.
pub(crate) async fn as_json(request: Request, next: Next) -> Response {
    let long = body_is_long(request.headers());
    let asks_for_methods = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if asks_for_methods
        && response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Some(methods) = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok())
    {
        let methods = format!("{methods},OPTIONS");
        return ([(ALLOW, methods.clone()), (CONTENT_TYPE, "text/plain".to_owned())], methods).into_response();
    }
    let status = response.status();
    if long && !status.is_success() {
        // The body was perhaps not read, and then the connection ends: the client must know, or its next call on it fails.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // 8 KiB: such texts are one line.
    let text = to_bytes(body, 8192).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let reason = status.canonical_reason().unwrap_or("error");
    let message = if text.trim().is_empty() { format!("HTTP {} {reason}", status.as_u16()) } else { text.trim().to_owned() };
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(&ApiError::new(status.as_u16(), message)).unwrap_or_default();
    Response::from_parts(parts, Body::from(body))
}
