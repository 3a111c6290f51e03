//! Who may do what: roles, the connectors that a user is limited to, and the one place that decides.

use crate::{ApiError, RestOptions, Serves};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use globset::GlobSet;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything but secrets; may validate a config.
    Read,
    /// Pauses, resumes, stops and restarts.
    Operate,
    /// Everything: creates, changes and deletes connectors, offsets, topics and levels of loggers.
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let roles = [Role::Read, Role::Operate, Role::Admin];
        roles.into_iter().find(|role| role.name() == text).ok_or_else(|| format!("`{text}` is no role: read, operate or admin"))
    }
}

/// The role that a call needs, by its route. What is not named here changes something that an admin answers for, a new route too.
pub(crate) fn needed(method: &Method, route: Option<&str>) -> Role {
    let route = route.unwrap_or_default();
    match (method.as_str(), route) {
        ("GET" | "HEAD" | "OPTIONS", _) | ("PUT", "/connector-plugins/{plugin}/config/validate") => Role::Read,
        ("PUT", "/connectors/{connector}/pause" | "/connectors/{connector}/resume" | "/connectors/{connector}/stop")
        | ("POST", "/connectors/{connector}/restart" | "/connectors/{connector}/tasks/{task}/restart") => Role::Operate,
        _ => Role::Admin,
    }
}

/// Who calls. Without credentials to ask for (a loopback listener), everybody is [`Caller::anybody`].
#[derive(Clone)]
pub(crate) struct Caller {
    name: Arc<str>,
    role: Role,
    /// `None`: all.
    connectors: Option<Arc<GlobSet>>,
}

impl Caller {
    pub(crate) fn new(name: &str, role: Role, connectors: Option<Arc<GlobSet>>) -> Self {
        Self { name: name.into(), role, connectors }
    }

    pub(crate) fn anybody() -> Self {
        Self::new("-", Role::Admin, None)
    }

    pub(crate) fn sees(&self, connector: &str) -> bool {
        self.connectors.as_ref().is_none_or(|globs| globs.is_match(connector))
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.connectors.is_some()
    }

    /// # Errors
    /// 403, whether there is such a connector or not: the answer depends on the name alone, so it tells nothing about names that one may not
    /// see, and unlike 404 it says what is wrong.
    pub(crate) fn check(&self, connector: &str) -> Result<(), ApiError> {
        if self.sees(connector) {
            return Ok(());
        }
        Err(ApiError::new(403, format!("the user {} is limited to other connectors than `{connector}`", self.name)))
    }

    fn decide(&self, method: &Method, route: Option<&str>, connector: Option<&str>) -> Result<(), ApiError> {
        let needed = needed(method, route);
        if self.role < needed {
            let message = format!("the user {} has the role {}; {method} here needs {needed}", self.name, self.role);
            return Err(ApiError::new(403, message));
        }
        match connector {
            _ if !self.is_limited() => Ok(()),
            Some(connector) => self.check(connector),
            None if is_for_limited(method, route) => Ok(()),
            None => Err(ApiError::new(403, format!("the user {} is limited to some connectors; this is about all", self.name))),
        }
    }
}

/// Routes without a connector in their path that show one who is limited nothing of others: they are filtered, or the same for everybody. A new
/// route is closed to them.
fn is_for_limited(method: &Method, route: Option<&str>) -> bool {
    let Some(route) = route else { return true };
    match method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => {
            matches!(
                route,
                "/" | "/health"
                    | "/connectors"
                    | "/admin/loggers"
                    | "/admin/loggers/{logger}"
                    | "/aqueduct/v1/summary"
                    | "/aqueduct/v1/plugins"
                    | "/aqueduct/v1/openapi.json"
                    | "/aqueduct/v1/docs"
            ) || route.starts_with("/connector-plugins")
        }
        // The name is in the body: `connectors::create` checks it.
        "POST" => route == "/connectors",
        "PUT" => route == "/connector-plugins/{plugin}/config/validate",
        _ => false,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Routes without the layer below are those of a log without a worker, in the process of who asks.
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::anybody))
    }
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// `None`: a call in this process.
    pub(crate) address: Option<SocketAddr>,
    /// SHA-256 of the certificate that the client showed, which an authority of the trust store signed.
    pub(crate) certificate: Option<[u8; 32]>,
    /// What the listener is for.
    pub(crate) serves: Serves,
}

/// Whom a request turned out to be from: told to the audit log, which stands before everything else.
#[derive(Clone, Default)]
struct Known(Arc<OnceLock<Caller>>);

/// After routing, so that it decides by the route that will answer and not by a path that it reads in its own way; before any body is read.
pub(crate) async fn authorize(State(options): State<Arc<RestOptions>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    if options.health_public && route.as_deref() == Some("/health") && matches!(parts.method, Method::GET | Method::HEAD) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
    let caller = match &options.users {
        // Whoever has a certificate of the trust store, or reaches a loopback port, is the operator.
        None => match peer.certificate {
            Some(_) => Caller::new("certificate", Role::Admin, None),
            None => Caller::anybody(),
        },
        Some(users) => match users.caller(parts.headers.get(header::AUTHORIZATION), &peer).await {
            Ok(caller) => caller,
            Err(refusal) => return refusal.into_response(),
        },
    };
    if let Some(known) = parts.extensions.get::<Known>() {
        let _ = known.0.set(caller.clone());
    }
    let connector = match RawPathParams::from_request_parts(&mut parts, &()).await {
        Ok(params) => params.iter().find(|(name, _)| *name == "connector").map(|(_, value)| value.to_owned()),
        // Not UTF-8: no route takes it.
        Err(rejection) => return ApiError::bad_request(rejection.body_text()).into_response(),
    };
    // Who only reaches a loopback port is this machine's own business.
    let asked = options.users.is_some() || peer.certificate.is_some();
    if let Some(rates) = options.rates.as_ref().filter(|_| asked)
        && let Err(wait) = rates.take(&caller.name, peer.address.map(|address| address.ip()), Instant::now())
    {
        return too_many(&caller.name, wait);
    }
    if let Err(refused) = caller.decide(&parts.method, route.as_deref(), connector.as_deref()) {
        return refused.into_response();
    }
    parts.extensions.insert(caller);
    next.run(Request::from_parts(parts, body)).await
}

fn too_many(user: &str, wait: Duration) -> Response {
    // Whole seconds are all that the header can say; at least one.
    let seconds = wait.as_secs() + 1;
    tracing::debug!(user, "a call was refused: more than rest.rate.limit");
    let message =
        format!("HTTP 429 Too Many Requests: more calls than rest.rate.limit in worker.yaml allows; try again in {seconds} s");
    ([(header::RETRY_AFTER, HeaderValue::from(seconds))], ApiError::new(429, message)).into_response()
}

/// One line for each call that may change something, refused or not, and also when the client did not wait for the answer. Never a body, a query or
/// a credential (invariant 9).
pub(crate) async fn audit(mut request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let known = Known::default();
    request.extensions_mut().insert(known.clone());
    let mut line = Line {
        known,
        address: request.extensions().get::<Peer>().and_then(|peer| peer.address),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        status: None,
    };
    let response = next.run(request).await;
    line.status = Some(response.status().as_u16());
    response
}

struct Line {
    known: Known,
    address: Option<SocketAddr>,
    method: Method,
    path: String,
    /// `None`: the client hung up before.
    status: Option<u16>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let caller = self.known.0.get();
        let (user, role) = caller.map_or(("-", "-"), |caller| (&*caller.name, caller.role.name()));
        let address = self.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let status = self.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string());
        tracing::info!(target: "audit", user, role, %address, method = %self.method, path = self.path, status, "audit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSetBuilder};

    fn limited(role: Role) -> Caller {
        let globs = GlobSetBuilder::new().add(Glob::new("team-a-*").unwrap()).build().unwrap();
        Caller::new("ann", role, Some(Arc::new(globs)))
    }

    #[test]
    fn what_no_table_names_needs_an_admin() {
        for (method, route, role) in [
            ("GET", None, Role::Read),
            ("HEAD", Some("/connectors"), Role::Read),
            ("PUT", Some("/connectors/{connector}/stop"), Role::Operate),
            ("PUT", Some("/connectors/{connector}/config"), Role::Admin),
            ("POST", Some("/a/route/of/tomorrow"), Role::Admin),
            ("DELETE", None, Role::Admin),
            ("BREW", None, Role::Admin),
        ] {
            assert_eq!(needed(&method.parse().unwrap(), route), role, "{method} {route:?}");
        }
    }

    #[test]
    fn one_who_is_limited_sees_nothing_of_others() {
        let decide = |method: &Method, route, connector| {
            limited(Role::Admin).decide(method, Some(route), connector).map_err(|error| error.error_code)
        };
        assert_eq!(decide(&Method::PUT, "/connectors/{connector}/config", Some("team-a-1")), Ok(()));
        assert_eq!(decide(&Method::GET, "/connectors/{connector}/status", Some("team-b-1")), Err(403));
        assert_eq!(decide(&Method::GET, "/connectors", None), Ok(()));
        for route in
            ["/metrics", "/aqueduct/v1/folder", "/aqueduct/v1/topics", "/aqueduct/v1/topics/{topic}/records", "/tomorrow"]
        {
            assert_eq!(decide(&Method::GET, route, None), Err(403), "{route}");
        }
        assert_eq!(decide(&Method::PUT, "/admin/loggers/{logger}", None), Err(403));
    }
}
