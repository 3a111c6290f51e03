//! REST calls: to a running worker, or to a log of a stopped one through the same routes in this process.

use crate::failure::{Failure, Outcome};
use axum::Router;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The worker's own bound is 90 s.
const TIMEOUT: Duration = Duration::from_secs(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What may stand unescaped in a segment of a path (RFC 3986's unreserved characters).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the worker is.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Remote {
    /// The worker's REST address.
    #[arg(long, env = "AQUEDUCT_URL", default_value = "http://127.0.0.1:8083", hide_env_values = true, value_name = "URL")]
    pub(crate) url: String,
    /// A user of the worker's rest.users; the password comes from AQUEDUCT_PASSWORD.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    pub(crate) user: Option<String>,
    /// A file with a token of the worker's rest.users. The token itself may be in AQUEDUCT_TOKEN.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities, in PEM, one of which signed the worker's certificate; those of the system if not given.
    #[arg(long, env = "AQUEDUCT_CA_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Our own certificate and its key, in PEM, for a worker that wants one.
    #[arg(long, env = "AQUEDUCT_CERT_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) cert_file: Option<PathBuf>,
}

pub(crate) enum Api {
    Worker { base: String, http: reqwest::Client, credential: Option<Credential> },
    Log(Router),
}

impl Remote {
    pub(crate) fn api(&self) -> Outcome<Api> {
        let base = self.url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            let why = format!("--url {base} is not a worker's address");
            return Err(Failure::usage(why).fix("http://HOST:PORT or https://HOST:PORT, such as http://127.0.0.1:8083"));
        }
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credential = self.credential(env("AQUEDUCT_PASSWORD"), env("AQUEDUCT_TOKEN"))?;
        // The HTTP connectors have TLS compiled into reqwest, which then wants a provider even where it speaks plain HTTP. An error: there is one.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        // A worker is near: a proxy for the internet would not know it.
        let mut http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        // A worker does not redirect: who does would be sent our credential.
        http = http.redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &self.ca_file {
            let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|error| not_pem(path, &error))?;
            if authorities.is_empty() {
                return Err(Failure::usage(format!("{}: there is no certificate in PEM", path.display())));
            }
            http = http.tls_certs_only(authorities);
        }
        if let Some(path) = &self.cert_file {
            http = http.identity(reqwest::Identity::from_pem(&read(path)?).map_err(|error| not_pem(path, &error))?);
        }
        let http = http.build().map_err(|error| Failure::failed(root_cause(&error)))?;
        Ok(Api::Worker { base, http, credential })
    }

    /// What is said on the command line wins over the environment.
    fn credential(&self, password: Option<String>, token: Option<String>) -> Outcome<Option<Credential>> {
        if let Some(path) = &self.token_file {
            let token = String::from_utf8_lossy(&read(path)?).trim().to_owned();
            return Ok(Some(Credential::Token(token)));
        }
        match (&self.user, token) {
            (Some(user), _) => {
                let password = password.ok_or_else(|| {
                    Failure::usage(format!("there is no password for {user}"))
                        .fix("put it into AQUEDUCT_PASSWORD, or give a --token-file")
                })?;
                Ok(Some(Credential::Password(user.clone(), password)))
            }
            (None, token) => Ok(token.map(Credential::Token)),
        }
    }
}

/// Without Debug: it is a secret (invariant 9).
pub(crate) enum Credential {
    Password(String, String),
    Token(String),
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn not_pem(path: &Path, error: &reqwest::Error) -> Failure {
    Failure::usage(format!("{} is not what is needed in PEM: {}", path.display(), root_cause(error)))
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
            Api::Worker { base, http, credential } => remote(http, base, credential.as_ref(), method, path, body).await?,
            Api::Log(router) => aqueduct_rest::call(router, method, path, body).await?,
        };
        let json: Value = if answer.is_empty() { Value::Null } else { parse(&answer)? };
        if (200..300).contains(&status) { Ok(json) } else { Err(refused(status, &json)) }
    }
}

async fn remote(
    http: &reqwest::Client,
    base: &str,
    credential: Option<&Credential>,
    method: &str,
    path: &str,
    body: Option<Vec<u8>>,
) -> Outcome<(u16, Vec<u8>)> {
    let method = method.parse().map_err(|_| Failure::failed(format!("{method} is no HTTP method")))?;
    let mut request = http.request(method, format!("{base}{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    match credential {
        Some(Credential::Password(user, password)) => request = request.basic_auth(user, Some(password)),
        Some(Credential::Token(token)) => request = request.bearer_auth(token),
        None => {}
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
        401 => Failure::failed(lines.join("\n")).fix("give --user with AQUEDUCT_PASSWORD, or --token-file, or AQUEDUCT_TOKEN"),
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
        let api = Remote { url: format!("http://{closed}/"), ..Remote::default() }.api().unwrap();
        let failure = api.get("/").await.unwrap_err();
        assert!(failure.is_unreachable() && failure.text().contains("aqueduct worker"), "{}", failure.text());
        assert!(Remote { url: "localhost:8083".into(), ..Remote::default() }.api().is_err());
    }

    #[test]
    fn a_credential_comes_from_where_it_was_said() {
        let remote = |user: Option<&str>| Remote { user: user.map(str::to_owned), ..Remote::default() };
        let text = |value: &str| Some(value.to_owned());
        assert!(matches!(remote(None).credential(text("p"), None), Ok(None)));
        assert!(matches!(remote(None).credential(None, text("t")), Ok(Some(Credential::Token(token))) if token == "t"));
        let named = remote(Some("ann")).credential(text("p"), text("t"));
        assert!(matches!(named, Ok(Some(Credential::Password(user, password))) if user == "ann" && password == "p"));
        assert!(remote(Some("ann")).credential(None, text("t")).is_err());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t"), "secret\n").unwrap();
        let of_file = Remote { token_file: Some(dir.path().join("t")), ..Remote::default() };
        assert!(matches!(of_file.credential(None, text("t")), Ok(Some(Credential::Token(token))) if token == "secret"));
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(segment("a/b ->é").to_string(), "a%2Fb%20-%3E%C3%A9");
    }
}
