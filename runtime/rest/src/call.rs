//! One call of a router in this process, without a socket.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Uri};
use tower::ServiceExt as _;

/// The status and the body of the answer. `body` is JSON.
///
/// # Errors
/// When `path` is no path of a URL.
pub async fn call(router: &Router, method: &str, path: &str, body: Option<Vec<u8>>) -> aqueduct_core::Result<(u16, Vec<u8>)> {
    let bad =
        |error: axum::http::Error| aqueduct_core::Error::fatal("rest.call", format!("`{method} {path}` is no request: {error}"));
    let uri: Uri = path.parse().map_err(|error: axum::http::uri::InvalidUri| bad(error.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(CONTENT_TYPE, "application/json")
        .body(body.map_or_else(Body::empty, Body::from))
        .map_err(bad)?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    // Our own answers, each bounded where it is made.
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    Ok((status, body.to_vec()))
}
