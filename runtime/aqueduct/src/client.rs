//! REST calls: to a running worker, or to a log of a stopped one through the same routes in this process.

use crate::failure::{Failure, Outcome};
use axum::Router;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::time::Duration;

/// The worker's own bound is 90 s.
const TIMEOUT: Duration = Duration::from_secs(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What may stand unescaped in a segment of a path (RFC 3986's unreserved characters).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the worker is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Remote {
    /// The worker's REST address.
    #[arg(long, env = "AQUEDUCT_URL", default_value = "http://127.0.0.1:8083", hide_env_values = true, value_name = "URL")]
    pub(crate) url: String,
}

pub(crate) enum Api {
    Worker { base: String, http: reqwest::Client },
    Log(Router),
}

impl Remote {
    pub(crate) fn api(&self) -> Outcome<Api> {
        let base = self.url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            let why = format!("--url {base} is not a worker's address");
            return Err(Failure::usage(why).fix("http://HOST:PORT, such as http://127.0.0.1:8083"));
        }
        // The HTTP connectors have TLS compiled into reqwest, which then wants a provider even where it speaks plain HTTP. An error: there is one.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        // A worker is near: a proxy for the internet would not know it.
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build();
        Ok(Api::Worker { base, http: http.map_err(|error| Failure::failed(error.to_string()))? })
    }
}

/// `path` has its variables escaped: see [`segment`].
impl Api {
    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        self.call("GET", path, None).await
    }

    /// The answer's JSON; `null` for none.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Outcome<Value> {
        let body = body.map(|body| body.to_string().into_bytes());
        let (status, answer) = match self {
            Api::Worker { base, http } => remote(http, base, method, path, body).await?,
            Api::Log(router) => aqueduct_rest::call(router, method, path, body).await?,
        };
        let json: Value = if answer.is_empty() { Value::Null } else { parse(&answer)? };
        if (200..300).contains(&status) { Ok(json) } else { Err(refused(status, &json)) }
    }
}

async fn remote(http: &reqwest::Client, base: &str, method: &str, path: &str, body: Option<Vec<u8>>) -> Outcome<(u16, Vec<u8>)> {
    let method = method.parse().map_err(|_| Failure::failed(format!("{method} is no HTTP method")))?;
    let mut request = http.request(method, format!("{base}{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let unreachable = |error: reqwest::Error| {
        let why = root_cause(&error);
        Failure::unreachable(format!("no worker answers at {base}: {why}"))
            .fix("start one with `aqueduct worker`, or name another with --url or AQUEDUCT_URL")
    };
    let answer = request.send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await.map_err(unreachable)?.to_vec()))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn parse(answer: &[u8]) -> Outcome<Value> {
    serde_json::from_slice(answer).map_err(|_| {
        let start: String = String::from_utf8_lossy(answer).chars().take(80).collect();
        Failure::unreachable(format!("what answers is no worker: {start:?}")).fix("check --url")
    })
}

/// The message may be a trace: the fix is its line of that name.
fn refused(status: u16, json: &Value) -> Failure {
    let message = json["message"].as_str().map_or_else(|| format!("HTTP {status}: {json}"), str::to_owned);
    let (fixes, lines): (Vec<&str>, Vec<&str>) = message.lines().partition(|line| line.starts_with("Fix: "));
    let failure = match status {
        404 => Failure::not_found(lines.join("\n")),
        503 => Failure::unreachable(lines.join("\n")),
        _ => Failure::failed(lines.join("\n")),
    };
    match fixes.first() {
        Some(fix) => failure.fix(fix.trim_start_matches("Fix: ")),
        None => failure,
    }
}

/// One segment of a path, escaped.
pub(crate) fn segment(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, SEGMENT)
}

/// Runs one command on this thread.
pub(crate) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_have_their_exit_code_and_fix() {
        let failure = refused(404, &json!({"error_code": 404, "message": "Connector x not found"}));
        assert!(failure.is_not_found());
        let failure = refused(500, &json!({"message": "log.io: disk\nCaused by: EIO\nFix: look at dmesg"}));
        assert_eq!(failure.text(), "log.io: disk\nCaused by: EIO\n  fix: look at dmesg");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_unreachable() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let api = Remote { url: format!("http://{closed}/") }.api().unwrap();
        let failure = api.get("/").await.unwrap_err();
        assert!(failure.is_unreachable() && failure.text().contains("aqueduct worker"), "{}", failure.text());
        assert!(Remote { url: "localhost:8083".into() }.api().is_err());
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(segment("a/b ->é").to_string(), "a%2Fb%20-%3E%C3%A9");
    }
}
