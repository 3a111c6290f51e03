//! The REST API: Kafka Connect's paths, codes and JSON exactly (compat.md); what is ours is under `/aqueduct/v1`.
//!
//! The only crate that knows REST JSON. No call here waits for a connector (invariant 10).

mod access;
mod body;
mod call;
mod connectors;
mod error;
mod failures;
mod guard;
mod headers;
mod listen;
mod listeners;
mod loggers;
mod offsets;
mod openapi;
mod page;
mod plugins;
mod rates;
mod root;
mod schemas;
mod signals;
mod spans;
mod summary;
mod tls;
mod topics;
mod users;

pub use access::Role;
pub use call::call;
pub use error::ApiError;
pub use listen::{Bound, bind, serve};
pub use listeners::{Listener, Serves, check_listeners, listener_names};
pub use loggers::{LogLine, LoggerLevel, Logging};
pub use openapi::openapi;
pub use plugins::OtherPlugin;
pub use rates::Rates;
pub use tls::Tls;
pub use users::{Users, password_line, token_line};

use aqueduct_config::worker_config::HeaderRule;
use aqueduct_log::{Log, LogWriter};
use aqueduct_worker::{AdminError, AdminResult, Worker};
use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::middleware::{from_fn, from_fn_with_state};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Kafka Connect's default request timeout (`RestServer`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// A config of 1 MiB is far beyond any real one; the bound keeps a client from filling the memory.
const BODY_MAX_BYTES: usize = 1 << 20;
/// The version of Kafka Connect whose API this is: clients parse it and switch features on by it.
pub const KAFKA_VERSION: &str = "4.1.0";

/// From worker.yaml, under Kafka Connect's names.
#[derive(Clone, Default)]
pub struct RestOptions {
    /// `rest.advertised.host.name`: also allowed in `Host`.
    pub advertised_host: Option<String>,
    /// Names of this machine in `listeners`: allowed in `Host` too.
    pub listener_names: Vec<String>,
    /// `response.http.headers.config`
    pub headers: Vec<HeaderRule>,
    /// `access.control.allow.origin`: `*`, or origins separated by commas; empty switches CORS off.
    pub allow_origin: String,
    /// `access.control.allow.methods`: separated by commas; empty is Kafka Connect's default `GET,POST,HEAD`.
    pub allow_methods: String,
    /// `rest.users`: every call says who it is from. `None`: none does.
    pub users: Option<Arc<Users>>,
    /// `rest.health.public`
    pub health_public: bool,
    /// `rest.rate.limit`
    pub rates: Option<Arc<Rates>>,
    /// What `GET /connector-plugins?connectorsOnly=false` lists beside the connectors.
    pub other_plugins: Option<fn() -> Vec<OtherPlugin>>,
    /// The worker's own log.
    pub logging: Option<Arc<dyn Logging>>,
    /// A span for each call: the binary has set OpenTelemetry's provider.
    pub traced: bool,
    /// Why the worker is not there yet, where there is something to say: then calls are refused with it instead of waiting.
    pub starting: Option<watch::Receiver<Option<String>>>,
}

/// The whole API. `worker` is empty while the worker starts: `/health` then says `starting` and every other call waits for it.
pub fn router(worker: watch::Receiver<Option<Worker>>, options: RestOptions) -> Router {
    let options = Arc::new(options);
    let app = App { worker, log: None, options: options.clone(), writer: Arc::default() };
    let routes = routes()
        .split_for_parts()
        .0
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::not_found)
        .with_state(app)
        .layer(from_fn_with_state(options.clone(), access::authorize));
    let routes = if options.traced { routes.layer(from_fn(spans::traced)) } else { routes };
    guard::guarded(routes, options)
}

/// `/aqueduct/v1/topics` over a log without a worker: what `aqueduct topics --data-dir` talks to, in its own process.
pub fn log_router(log: Arc<dyn Log>) -> Router {
    let app = App { worker: watch::channel(None).1, log: Some(log), options: Arc::default(), writer: Arc::default() };
    topic_routes().split_for_parts().0.with_state(app)
}

/// Every route. What a handler says of itself in `#[utoipa::path]` is its route and its part of the OpenAPI document: neither can be without the other.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(root::version))
        .routes(routes!(root::health))
        .routes(routes!(root::metrics))
        .routes(routes!(connectors::list, connectors::create))
        .routes(routes!(connectors::info, connectors::delete))
        .routes(routes!(connectors::config, connectors::put_config, connectors::patch_config))
        .routes(routes!(connectors::status))
        .routes(routes!(connectors::pause))
        .routes(routes!(connectors::resume))
        .routes(routes!(connectors::stop))
        .routes(routes!(connectors::restart))
        .routes(routes!(connectors::tasks))
        .routes(routes!(connectors::task_status))
        .routes(routes!(connectors::restart_task))
        .routes(routes!(connectors::topics))
        .routes(routes!(connectors::reset_topics))
        .routes(routes!(offsets::show, offsets::alter, offsets::reset))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::config))
        .routes(routes!(plugins::validate))
        .routes(routes!(loggers::list))
        .routes(routes!(loggers::show, loggers::set))
        .routes(routes!(loggers::recent))
        .routes(routes!(signals::send))
        .routes(routes!(summary::summary))
        .routes(routes!(summary::folder))
        .routes(routes!(plugins::descriptors))
        .routes(routes!(openapi::document))
        .routes(routes!(openapi::docs))
        .merge(topic_routes())
}

fn topic_routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(topics::list, topics::create))
        .routes(routes!(topics::describe, topics::delete))
        .routes(routes!(topics::read, topics::write))
}

#[derive(Clone)]
struct App {
    worker: watch::Receiver<Option<Worker>>,
    /// Only where there is a log and no worker.
    log: Option<Arc<dyn Log>>,
    options: Arc<RestOptions>,
    /// Of `POST …/records`: one for all calls, since a second writer of the same name would fence the first (invariant 5).
    writer: Arc<Mutex<Option<Box<dyn LogWriter>>>>,
}

/// The worker, once it has started.
struct Ready(Worker);

impl FromRequestParts<App> for Ready {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut worker = app.worker.clone();
        let trouble = trouble(app.options.starting.clone());
        tokio::select! {
            biased;
            started = worker.wait_for(Option::is_some) => match started.ok().and_then(|worker| worker.clone()) {
                Some(worker) => Ok(Ready(worker)),
                None => Err(ApiError::new(503, "the worker did not start, or is shutting down")),
            },
            why = trouble => Err(ApiError::new(503, format!("the worker is still starting: {why}"))),
        }
    }
}

/// Waits until there is something to say about a start that takes long.
async fn trouble(starting: Option<watch::Receiver<Option<String>>>) -> String {
    if let Some(mut starting) = starting
        && let Ok(why) = starting.wait_for(Option::is_some).await
        && let Some(why) = &*why
    {
        return why.clone();
    }
    std::future::pending().await
}

/// The log, of the worker or alone.
struct TheLog(Arc<dyn Log>);

impl FromRequestParts<App> for TheLog {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match &app.log {
            Some(log) => Ok(TheLog(log.clone())),
            None => Ready::from_request_parts(parts, app).await.map(|Ready(worker)| TheLog(worker.log().clone())),
        }
    }
}

impl Ready {
    /// Runs a call that changes something to its end, also when the client hangs up in the middle.
    async fn change<T, F>(self, call: impl FnOnce(Worker) -> F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = AdminResult<T>> + Send + 'static,
    {
        to_the_end(call(self.0)).await.map_err(ApiError::from)
    }
}

async fn to_the_end<T: Send + 'static, E: From<aqueduct_core::Error> + Send + 'static>(
    call: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    #[allow(
        clippy::disallowed_methods,
        reason = "owned by the request, and ends with one commit; dropping the request must not cut it"
    )]
    let task = tokio::spawn(call);
    task.await.unwrap_or_else(|panic| {
        let error = aqueduct_core::Error::fatal("rest.internal", "the call failed inside the worker").because(panic);
        Err(E::from(error))
    })
}

type ApiResult<T> = Result<T, ApiError>;

/// Kafka Connect answers for connectors that it does not know as if they had no topics.
fn known<T: Default>(result: AdminResult<T>) -> ApiResult<T> {
    match result {
        Err(AdminError::NotFound(_)) => Ok(T::default()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, Request};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    /// Without a worker: what needs none is answered, the rest is 503.
    async fn call(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, HeaderMap, Value) {
        let options =
            RestOptions { allow_origin: "https://ui.example".into(), allow_methods: "GET,PUT".into(), ..RestOptions::default() };
        let router = router(watch::channel(None).1, options);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:8083");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn health_says_starting_before_the_worker_is_there() {
        for path in ["/health", "/health/"] {
            let (status, _, body) = call("GET", path, &[], "").await;
            assert_eq!((status, &body["status"]), (503, &json!("starting")), "{path}");
        }
    }

    #[tokio::test]
    async fn a_start_that_takes_long_says_why_and_holds_no_call() {
        let (publish, published) = watch::channel(None);
        let (say, starting) = watch::channel(None);
        let router = router(published, RestOptions { starting: Some(starting), ..RestOptions::default() });
        let get = |path: &'static str| {
            let request = Request::get(path).header("host", "localhost:8083").body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request);
            async move {
                let (parts, body) = response.await.unwrap().into_parts();
                let body: Value = serde_json::from_slice(&to_bytes(body, 1 << 20).await.unwrap()).unwrap();
                (parts.status.as_u16(), body["message"].as_str().unwrap_or_default().to_owned())
            }
        };
        assert_eq!(get("/health").await, (503, "Worker is still starting up.".to_owned()));
        let waiting = get("/connectors");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        say.send_replace(Some("kafka.unreachable: no broker".to_owned()));
        let expected = (503, "the worker is still starting: kafka.unreachable: no broker".to_owned());
        assert_eq!(waiting.await, expected);
        let (status, message) = get("/health").await;
        assert!(status == 503 && message.contains("kafka.unreachable: no broker"), "{message}");
        drop(publish);
    }

    #[tokio::test]
    async fn every_error_has_the_json_body_with_its_status() {
        let big = "x".repeat(BODY_MAX_BYTES + 1);
        let json = ("content-type", "application/json");
        for (method, path, headers, body, expected) in [
            ("GET", "/nothing", &[][..], "", 404),
            ("GET", "/connectors/a/tasks/x/status", &[], "", 503),
            ("DELETE", "/connectors", &[], "", 405),
            ("PATCH", "/", &[], "", 405),
            ("GET", "/connectors", &[], "", 503),
            ("PUT", "/connectors/a%2Fb/pause/", &[], "", 503),
            ("POST", "/connectors", &[json], &big, 503),
            ("GET", "/connectors", &[("host", "evil.example")], "", 403),
            ("PUT", "/connectors/a/pause", &[("origin", "https://evil.example")], "", 403),
            ("POST", "/connectors", &[("sec-fetch-site", "cross-site")], "", 403),
            ("PUT", "/connectors/a/pause", &[("origin", "https://ui.example")], "", 503),
        ] {
            let (status, headers, answer) = call(method, path, headers, body).await;
            assert_eq!(status, expected, "{method} {path}: {answer}");
            assert_eq!(answer["error_code"], expected, "{method} {path}: {answer}");
            assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}");
            assert_eq!(headers["content-type"], "application/json");
        }
    }

    #[tokio::test]
    async fn a_refused_long_body_ends_the_connection_and_says_so() {
        let big = "x".repeat(BODY_MAX_BYTES + 1);
        let length = big.len().to_string();
        let (_, headers, _) = call("PUT", "/nothing", &[("content-length", &length)], &big).await;
        assert_eq!(headers["connection"], "close");
        let (_, headers, _) = call("PUT", "/nothing", &[("content-length", "2")], "{}").await;
        assert!(!headers.contains_key("connection"));
    }

    #[tokio::test]
    async fn a_wrong_method_names_the_right_ones() {
        let (_, headers, _) = call("PATCH", "/connectors", &[], "").await;
        assert_eq!(headers["allow"], "GET,HEAD,POST");
    }

    #[tokio::test]
    async fn cors_answers_the_origins_that_the_operator_named() {
        let ask = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
        let (status, headers, _) = call("OPTIONS", "/connectors/a/pause", &ask("https://ui.example"), "").await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (200, &"https://ui.example".parse().unwrap()));
        assert_eq!(headers["access-control-allow-methods"], "GET,PUT");
        let (_, headers, _) = call("OPTIONS", "/connectors/a/pause", &ask("https://evil.example"), "").await;
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}
