//! What http-source and http-sink share. The interface:
//!
//! ```text
//! with_client_options! { #[derive(Debug, Deserialize, JsonSchema)] pub struct Config { /* the connector's own options */ } }
//!     The struct with the shared options (auth, TLS, proxy, time-outs, bounds, retries, hosts) behind the own ones, and
//!     `fn client(&self) -> ClientOptions`. Use it as `use crate::client::with_client_options;`. The shared fields' names (headers, header, user,
//!     password, token, key, identity, hosts, retries, …: see options.rs) are taken.
//! ClientOptions::settings(&self, issues: &mut Vec<Issue>) -> Settings       pure; every issue is pushed; Settings is Clone
//! Settings { headers: Vec<(HeaderName, Template)>, retry: Retry, .. }
//!     headers: `http.request.headers`, which the connector renders for each request
//!     retry: Retry { attempts_max: u32, first: Duration, longest: Duration, codes: Codes, after_max: Duration }
//!         Retry::wait(attempt: u32 from 0, after: Option<Duration>) -> Option<Duration>: the pause before the next attempt; None: give up
//! Settings::check_url(&self, option: &str, url: &Template, issues)          what can be said of a URL's host without resolving it
//! Client::open(Settings) -> Result<Client>                                  reads the PEM files; Clone, cheap; `&self` methods, any number at once
//! client.send(Request { method, url, headers, body: Bytes }) -> Result<Reply, Failure>;  send_within(request, limit: Duration)
//!     adds credentials, follows redirects, reads the whole body within its bounds, decompresses it. Never retries but for one
//!     fresh OAuth2 token after a 401. 2xx and 304 are replies; everything else is a Failure.
//! Reply { status: StatusCode, headers: HeaderMap, body: Bytes, url: Url (after redirects) }
//! Failure { status: Option<StatusCode>, after: Option<Duration> (Retry-After) }, with the beginning of what the server says in its error
//!     .is_retriable() -> bool; .into_error() -> aqueduct_core::Error (also From); .error() -> &Error; never holds a secret
//! Template::{url, query, header, body, json}(text) -> Result<Template, String>: where it stands decides how values are put into it
//!     template.render(|name| -> Option<Value>) -> Result<String, Refused>;  render_bytes(..) -> Result<Vec<u8>, Refused> (bodies)
//!     Value::{Text(Cow<str>) (escaped as the place needs), Raw(Cow<[u8]>) (as it is, bodies only)}; Refused: Display, a sentence's end
//!     template.names() -> impl Iterator<Item = &str>; `${name!default}`, `${name!'default'}`; `$${` is a literal `${`
//! pace::full_jitter(attempt, first, longest, random 0..1) -> Duration; pace::Bucket::new(per_second, burst, now), .take(now) -> Duration to wait
//! ```

mod auth;
mod body;
mod failure;
mod guard;
mod options;
pub(crate) mod pace;
mod template;
mod tls;
mod told;

pub(crate) use auth::Credentials;
pub(crate) use failure::{Codes, Failure};
pub(crate) use options::{ApiKeyIn, AuthType, ClientAuth, ClientOptions, Settings, defaults, with_client_options};
pub(crate) use template::{ENCODED, Refused, Template, Value};

use aqueduct_config::Secret;
use aqueduct_core::{Error, Result};
use bytes::Bytes;
use guard::Resolver;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Decompressed.
    pub(crate) body: Bytes,
    /// After redirects.
    pub(crate) url: Url,
}

/// Cheap to clone: connections, the token and settings are shared.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    settings: Settings,
    auth: auth::Auth,
    /// Headers that the operator gave.
    own: Vec<HeaderName>,
    /// What the proxy is sent.
    login: Option<Secret>,
}

/// What came of one request.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Headers that go along to another host: nothing of them can be a credential.
const HARMLESS: [HeaderName; 4] = [header::ACCEPT, header::ACCEPT_ENCODING, header::CONTENT_TYPE, header::USER_AGENT];

impl Client {
    /// # Errors
    /// `http.tls` (fatal): a certificate or key that cannot be read.
    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        let tls = tls::config(&settings.tls).await?;
        let refuse =
            |error: reqwest::Error| Error::fatal("http.client", "the HTTP client cannot be made").because(error.without_url());
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            // Environment variables do not decide where records go (reliability.md, 25).
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .http1_max_headers(100)
            .user_agent(concat!("aqueduct/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Resolver::new(settings.guard.clone()));
        if let Some(proxy) = &settings.proxy {
            let all = reqwest::Proxy::all(format!("http://{}:{}", proxy.host, proxy.port)).map_err(refuse)?;
            builder = builder.proxy(match &proxy.login {
                Some((user, password)) => all.basic_auth(user, password.expose()),
                None => all,
            });
        }
        let http = builder.build().map_err(refuse)?;
        let auth = auth::Auth::new(&settings.auth);
        let own = settings.headers.iter().map(|(name, _)| name.clone()).collect();
        let login = settings.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        let login = login.map(|(user, password)| auth::basic(user, password.expose()));
        Ok(Self(Arc::new(Inner { http, settings, auth, own, login })))
    }

    /// Sends and reads the whole answer, within `http.client.request.timeout.millis`.
    pub(crate) async fn send(&self, request: Request) -> Result<Reply, Failure> {
        self.send_within(request, Duration::MAX).await
    }

    /// As [`Client::send`], and within `limit`. One timer looks at all of it: each takes a lock that all requests share, twice.
    pub(crate) async fn send_within(&self, mut request: Request, limit: Duration) -> Result<Reply, Failure> {
        let limit = limit.min(self.0.settings.request_timeout);
        let deadline = Instant::now() + limit;
        let done = {
            // Pinned where it is made: it is large, and would be copied.
            let work = pin!(self.send_until(&mut request, deadline));
            timeout_at(deadline, work).await
        };
        done.unwrap_or_else(|_| Err(Failure::timeout(&request.url, limit)))
    }

    async fn send_until(&self, request: &mut Request, deadline: Instant) -> Result<Reply, Failure> {
        let again = self.0.auth.may_renew().then(|| request.clone());
        let first = self.follow(request, deadline).await;
        // The token ended early, or its key was changed: once with a new one.
        match (first, again) {
            (Err(failure), Some(again)) if failure.status == Some(StatusCode::UNAUTHORIZED) && self.0.auth.forget().await => {
                *request = again;
                self.follow(request, deadline).await
            }
            (done, _) => done,
        }
    }

    /// Follows redirects: each hop is checked as the first request was.
    async fn follow(&self, request: &mut Request, deadline: Instant) -> Result<Reply, Failure> {
        let settings = &self.0.settings;
        // Where the first request went, once another goes elsewhere.
        let mut home: Option<Url> = None;
        let mut hops = 0;
        loop {
            let trusted = home.as_ref().is_none_or(|home| same_origin(home, &request.url));
            let answer = self.exchange(request, trusted, deadline).await?;
            let Some(next) = redirect(&answer, &request.url)? else { return self.judge(answer, &request.url) };
            hops += 1;
            if hops > settings.redirects_max {
                let text = format!("{} redirects in a row, the last from {}", hops, shown(&request.url));
                return Err(Failure::fatal("http.redirects", text, "correct the URL, or raise http.redirects.max"));
            }
            if request.url.scheme() == "https" && next.scheme() != "https" {
                let text = format!("{} redirects to {}, which is not encrypted", shown(&request.url), shown(&next));
                return Err(Failure::fatal(
                    "http.redirects",
                    text,
                    "use the URL that it redirects to, if you trust the way there",
                ));
            }
            if !same_origin(&request.url, &next) {
                let kept = HARMLESS.into_iter().filter_map(|name| request.headers.get(&name).map(|value| (name, value.clone())));
                request.headers = kept.collect();
            }
            let see_other = answer.status == StatusCode::SEE_OTHER && request.method != Method::HEAD;
            let moved = matches!(answer.status.as_u16(), 301 | 302) && request.method == Method::POST;
            if see_other || moved {
                request.method = Method::GET;
                request.body = Bytes::new();
                request.headers.remove(header::CONTENT_TYPE);
            }
            let left = std::mem::replace(&mut request.url, next);
            home.get_or_insert(left);
        }
    }

    /// One request and its answer; `trusted` with credentials.
    async fn exchange(&self, request: &Request, trusted: bool, deadline: Instant) -> Result<Answer, Failure> {
        let Inner { http, settings, auth, own, login } = &*self.0;
        settings.guard.check_url(&request.url).map_err(|denied| denied.into_failure())?;
        let mut url = request.url.clone();
        let mut headers = request.headers.clone();
        headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static(body::ENCODINGS));
        if trusted {
            auth.sign(http, settings, &mut url, &mut headers, deadline).await?;
        }
        let told = told::told(&headers, own, settings.auth.secret_value(), login.as_ref());
        let broken = |error| Failure::of_transport(error, &request.url);
        let mut call = http.request(request.method.clone(), url).body(request.body.clone()).build().map_err(broken)?;
        // Moved in as a whole. What is there already is of a user in the URL that a redirect led to: ours go before it.
        let of_url = std::mem::replace(call.headers_mut(), headers);
        for (name, value) in &of_url {
            call.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        let mut response = http.execute(call).await.map_err(broken)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let body = body::read(response, &headers, settings.body, &request.url).await?;
        let refused = status.is_client_error() || status.is_server_error();
        let body = if refused { told::without(&body, &told) } else { body };
        Ok(Answer { status, headers, body })
    }

    fn judge(&self, Answer { status, headers, body }: Answer, url: &Url) -> Result<Reply, Failure> {
        let reply = Reply { status, headers, body, url: url.clone() };
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(reply);
        }
        Err(Failure::of_status(&reply, &self.0.settings.retry))
    }
}

/// Where the answer of `url` sends us; `None` when it is no redirect.
fn redirect(answer: &Answer, url: &Url) -> Result<Option<Url>, Failure> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    next.map(Some).ok_or_else(|| {
        let text = format!("{} redirects ({}) to nowhere", shown(url), answer.status.as_u16());
        Failure::fatal("http.redirects", text, "ask the operator of the server")
    })
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// A URL for people: without user, query and fragment, where secrets stand (invariant 9).
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url = Url::parse("https://me:pw@example.com:8443/a/b?token=secret#x").unwrap();
        assert_eq!(shown(&url), "https://example.com:8443/a/b");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(!same("https://a/", "http://a/") && !same("https://a/", "https://b/") && !same("https://a/", "https://a:444/"));
    }
}
