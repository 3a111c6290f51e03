//! What stands before every route: limits, `Host` and `Origin` checks, CORS, trailing slashes, JSON errors.

use crate::access::{self, Peer};
use crate::headers::Headers;
use crate::{ApiError, REQUEST_TIMEOUT, RestOptions, Serves, error};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::normalize_path::NormalizePath;
use tower_http::timeout::TimeoutLayer;

/// `routes` behind the guards. The host check comes first: a page that rebinds DNS to this machine gets nothing else to see.
pub(crate) fn guarded(routes: Router, options: Arc<RestOptions>) -> Router {
    let mut router = Router::new()
        .fallback_service(NormalizePath::trim_trailing_slash(routes))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TimeoutLayer::with_status_code(StatusCode::INTERNAL_SERVER_ERROR, REQUEST_TIMEOUT));
    if let Some(cors) = cors(&options) {
        router = router.layer(cors);
    }
    let headers = Headers::new(&options.headers);
    router = router.layer(from_fn_with_state(options, check)).layer(from_fn(error::as_json)).layer(from_fn(access::audit));
    match headers {
        Some(headers) => router.layer(from_fn(move |request, next| headers.clone().apply(request, next))),
        None => router,
    }
}

async fn check(State(options): State<Arc<RestOptions>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).or(request.uri().authority().map(|a| a.as_str()));
    let host = host.unwrap_or_default().to_owned();
    let serves = request.extensions().get::<Peer>().map_or(Serves::All, |peer| peer.serves);
    if !serves.answers(request.uri().path()) {
        return error::not_found(request.uri().clone()).await.into_response();
    }
    let own: Vec<&str> = options.advertised_host.iter().chain(&options.listener_names).map(String::as_str).collect();
    if !proves_itself(&options, &request) && !host_allowed(&host, &own) {
        let message = format!("Host `{host}` is not allowed; use localhost, or set rest.advertised.host.name in worker.yaml");
        return ApiError::new(403, message).into_response();
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads && !origin_allowed(request.headers(), &host, &options.allow_origin) {
        let message = "a call from another site is refused; set access.control.allow.origin in worker.yaml to allow it";
        return ApiError::new(403, message).into_response();
    }
    if is_kafka_connects(request.uri().path()) && !takes_json(request.headers()) {
        return ApiError::new(406, "HTTP 406 Not Acceptable: answers are application/json").into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a request has to show something that a page of another site does not have. Then `Host` may be any name that leads here: the worker cannot
/// know them all, and a page that rebinds DNS gains nothing. It has no header to send, since browsers keep passwords by the name in the address
/// bar, which is not ours; and where a client's certificate is the proof, the browser first finds that our certificate is not of that name.
fn proves_itself(options: &RestOptions, request: &Request) -> bool {
    options.users.is_some() || request.extensions().get::<Peer>().is_some_and(|peer| peer.certificate.is_some())
}

/// Kafka Connect's own resources, which answer in JSON and in nothing else.
pub(crate) fn is_kafka_connects(path: &str) -> bool {
    ["/connectors", "/connector-plugins", "/admin"].iter().any(|own| path.starts_with(own))
}

/// A client that says nothing takes anything.
fn takes_json(headers: &HeaderMap) -> bool {
    let kinds = ["application/json", "application/*", "*/*"];
    let takes =
        |range: &str| kinds.iter().any(|kind| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind));
    let mut all = headers.get_all(ACCEPT).iter().peekable();
    all.peek().is_none()
        || all.any(|accept| accept.to_str().is_ok_and(|accept| accept.trim().is_empty() || accept.split(',').any(takes)))
}

/// `own`: what the operator calls this machine.
fn host_allowed(host: &str, own: &[&str]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.');
    let is_own = |own: &&str| !own.is_empty() && own.trim_matches(['[', ']']).trim_end_matches('.').eq_ignore_ascii_case(name);
    own.iter().any(is_own)
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a call that changes something comes from no page, from our own pages, or from one that the operator allowed.
fn origin_allowed(headers: &HeaderMap, host: &str, allowed: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let listed = |origin: &str| allowed.split(',').map(str::trim).any(|one| one == "*" || one.eq_ignore_ascii_case(origin));
    match (text(ORIGIN), headers.get(ORIGIN).is_some()) {
        (Some(origin), _) => {
            listed(origin) || origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        }
        (None, true) => false,
        (None, false) => text(HeaderName::from_static("sec-fetch-site")) != Some("cross-site"),
    }
}

/// Kafka Connect's CORS: off unless `access.control.allow.origin` is set.
fn cors(options: &RestOptions) -> Option<CorsLayer> {
    let list = |text: &str| text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let origins = list(&options.allow_origin);
    let origin = match origins.as_slice() {
        [] => return None,
        [any] if any == "*" => AllowOrigin::any(),
        some => AllowOrigin::list(some.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let mut methods: Vec<Method> =
        list(&options.allow_methods).iter().filter_map(|method| method.to_ascii_uppercase().parse().ok()).collect();
    if methods.is_empty() {
        methods = vec![Method::GET, Method::POST, Method::HEAD];
    }
    let mut headers = vec![header::CONTENT_TYPE, header::ACCEPT, header::ORIGIN, HeaderName::from_static("x-requested-with")];
    if options.users.is_some() {
        headers.push(header::AUTHORIZATION);
    }
    Some(CorsLayer::new().allow_origin(origin).allow_methods(methods).allow_headers(headers))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    tracing::error!(panic = text.as_deref().unwrap_or("unknown"), "a REST call panicked; this is a bug");
    ApiError::new(500, "rest.internal: the call failed inside the worker; its log says more").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine_are_allowed_and_no_other() {
        for good in
            ["localhost", "localhost:8083", "LOCALHOST:1", "127.0.0.1:8083", "[::1]:8083", "[::1]", "localhost.", "w1:8083"]
        {
            assert!(host_allowed(good, &["w0", "w1"]), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "10.0.0.1:8083", "127.0.0.1.nip.io", "[::2]:8083", "w2"] {
            assert!(!host_allowed(bad, &["w1"]), "{bad}");
        }
        assert!(!host_allowed("", &[""]));
    }

    #[test]
    fn calls_from_other_sites_change_nothing() {
        let check = |origin: Option<&str>, site: Option<&str>, allowed: &str| {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            if let Some(site) = site {
                headers.insert("sec-fetch-site", HeaderValue::from_str(site).unwrap());
            }
            origin_allowed(&headers, "localhost:8083", allowed)
        };
        assert!(check(None, None, ""));
        assert!(check(Some("http://localhost:8083"), Some("same-origin"), ""));
        assert!(check(Some("https://ui.example"), Some("cross-site"), "https://other.example, https://ui.example"));
        assert!(check(Some("https://ui.example"), None, "*"));
        assert!(!check(Some("https://evil.example"), None, ""));
        assert!(!check(Some("http://localhost:3000"), Some("same-site"), ""));
        assert!(!check(Some("null"), None, "https://ui.example"));
        assert!(!check(None, Some("cross-site"), ""));
    }
}
