//! What a client is told.

use crate::coding::ENCODINGS;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;
use std::borrow::Cow;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request is not stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    message: Cow<'static, str>,
    header: Option<(hyper::header::HeaderName, HeaderValue)>,
}

/// Seconds until a client whose request found no room may come again: by then the next commits made some.
const SOON: HeaderValue = HeaderValue::from_static("1");
/// The same of a connector that does not run.
const LATER: HeaderValue = HeaderValue::from_static("5");

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    pub(crate) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// With what is understood, as RFC 7694 has it.
    pub(crate) fn encoding() -> Self {
        let message = format!("a body in this content encoding is not taken; one of {ENCODINGS} is");
        let header = Some((ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS)));
        Self { header, ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message) }
    }

    /// Memory is full.
    pub(crate) fn no_room() -> Self {
        let message = "more requests wait than queue.max.bytes allows; send this one again";
        Self { header: Some((RETRY_AFTER, SOON)), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// The connector is paused, restarting or failed; or the log did not take the records.
    pub(crate) fn unavailable() -> Self {
        let message = "the connector does not run at the moment; send the request again";
        Self { header: Some((RETRY_AFTER, LATER)), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub(crate) fn timeout() -> Self {
        let message = "the records were not durable in time, and may become so yet; send the request again";
        Self { header: Some((RETRY_AFTER, LATER)), ..Self::new(StatusCode::GATEWAY_TIMEOUT, message) }
    }

    /// `scheme` is what the client is asked for: `Bearer`, `Basic realm="webhook"`.
    pub(crate) fn unauthorized(scheme: Option<&'static str>, message: impl Into<Cow<'static, str>>) -> Self {
        let header = scheme.map(|scheme| (WWW_AUTHENTICATE, HeaderValue::from_static(scheme)));
        Self { header, ..Self::new(StatusCode::UNAUTHORIZED, message) }
    }

    pub(crate) fn method(allowed: HeaderValue) -> Self {
        Self { header: Some((ALLOW, allowed)), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not taken here") }
    }

    /// `{error_code, message}`, as the REST API answers too.
    pub(crate) fn answer(&self) -> Answer {
        let body = json!({"error_code": self.status.as_u16(), "message": self.message}).to_string();
        let mut answer = answer(self.status, &HeaderValue::from_static("application/json"), Bytes::from(body));
        if let Some((name, value)) = &self.header {
            answer.headers_mut().insert(name, value.clone());
        }
        answer
    }
}

pub(crate) fn answer(status: StatusCode, content_type: &HeaderValue, body: Bytes) -> Answer {
    let empty = body.is_empty();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    if !empty {
        answer.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    answer
}
