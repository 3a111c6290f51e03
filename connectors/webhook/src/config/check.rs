//! Options to settings: what types alone cannot say, every issue of it.

use super::{AuthKind, Config, Content, Scheme, ValueFormat};
use crate::auth::Auth;
use crate::signature::Signature;
use crate::template::{self, Part};
use crate::tls::TlsFiles;
use aqueduct_config::Secret;
use aqueduct_config::list::split_list;
use aqueduct_core::{Issue, offset::is_valid_topic_name};
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(crate) struct Settings {
    pub(crate) address: Address,
    pub(crate) connections_max: usize,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) paths: Vec<String>,
    pub(crate) methods: Vec<Method>,
    /// For `Allow`.
    pub(crate) allowed: HeaderValue,
    pub(crate) topic: Vec<Part>,
    pub(crate) key: Key,
    pub(crate) content: Content,
    pub(crate) value: ValueFormat,
    /// Lower case; a `*` at the end is any end.
    pub(crate) headers: Vec<String>,
    pub(crate) event_id: EventId,
    pub(crate) ids_max: usize,
    pub(crate) ids_ttl: Duration,
    pub(crate) auth: Auth,
    pub(crate) signature: Option<Signature>,
    pub(crate) challenge: Challenge,
    pub(crate) status: StatusCode,
    pub(crate) response: Bytes,
    pub(crate) response_type: HeaderValue,
    pub(crate) response_timeout: Duration,
    pub(crate) body_max: usize,
    pub(crate) record_max: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) body_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    pub(crate) tls: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.socket)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    None,
    Header(HeaderName),
    Pointer(String),
    Capture(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EventId {
    None,
    /// The first that is there.
    Headers(Vec<HeaderName>),
    Pointer(String),
    /// `source` and `id`, which CloudEvents says are unique together.
    CloudEvent,
}

pub(crate) struct Challenge {
    pub(crate) slack: bool,
    /// Meta's.
    pub(crate) token: Option<String>,
}

/// They carry what no topic may hold (invariant 9).
const NEVER_COPIED: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "stripe-signature",
    "webhook-signature",
    "svix-signature",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-slack-signature",
];

pub(crate) fn never_copied(name: &str) -> bool {
    NEVER_COPIED.contains(&name)
}

const RESPONSE_MAX: usize = 4096;
/// Each costs an HMAC of every body.
const SECRETS_MAX: usize = 8;

impl Config {
    /// # Errors
    /// Every issue, warnings too.
    pub(crate) fn settings(&self) -> Result<(Settings, Vec<Issue>), Vec<Issue>> {
        let mut issues = Vec::new();
        let address = self.address(&mut issues);
        let tls = self.tls(address, &mut issues);
        let captures = self.captures(&mut issues);
        let topic = self.topic(&captures, &mut issues);
        let key = self.key(&captures, &mut issues);
        let methods = self.methods(&mut issues);
        let headers = self.headers(&mut issues);
        let event_id = self.event_id(&mut issues);
        let auth = self.auth(&mut issues);
        let signature = self.signature(&mut issues);
        let (status, response_type) = self.response(&mut issues);
        if let Some(address) = address
            && !address.socket.ip().is_loopback()
            && !self.allow_unauthenticated
            && self.auth == AuthKind::None
            && self.scheme == Scheme::None
            && self.client_ca.is_none()
        {
            let message = format!("{} can be reached from other machines, and anyone may send", address.socket);
            let issue = Issue::error("listener", "webhook.unauthenticated", message);
            issues.push(
                issue.fix(
                    "set signature.scheme, auth or ssl.ca.location; listen on 127.0.0.1; or set allow.unauthenticated: true",
                ),
            );
        }
        if self.body_max > self.queue_max {
            let message = format!(
                "{} is less than body.max.bytes, which is {}: such a body finds no room ever",
                self.queue_max, self.body_max
            );
            issues
                .push(Issue::error("queue.max.bytes", "webhook.limits", message).fix("raise it to several times body.max.bytes"));
        }
        let (Some(address), false) = (address, issues.iter().any(Issue::is_error)) else { return Err(issues) };
        let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let settings = Settings {
            address,
            connections_max: self.connections_max as usize,
            tls,
            paths: self.path.0.clone(),
            allowed: HeaderValue::try_from(allowed).expect("names of methods are text"),
            methods,
            topic,
            key,
            content: self.content,
            value: self.value,
            headers,
            event_id,
            ids_max: self.ids_max as usize,
            ids_ttl: self.ids_ttl.duration(),
            auth,
            signature,
            challenge: Challenge {
                slack: self.scheme == Scheme::Slack,
                token: self.verify_token.as_ref().map(|token| token.expose().to_owned()),
            },
            status,
            response: Bytes::from(self.response.clone()),
            response_type,
            response_timeout: self.response_timeout.duration(),
            body_max: self.body_max.as_usize(),
            record_max: self.record_max.as_usize(),
            queue_bytes: self.queue_max.as_usize(),
            body_timeout: self.body_timeout.duration(),
        };
        Ok((settings, issues))
    }

    fn address(&self, issues: &mut Vec<Issue>) -> Option<Address> {
        let parsed = || {
            let (scheme, rest) = self.listener.trim().split_once("://").ok_or("is not a URL")?;
            let tls = match scheme {
                "http" => false,
                "https" => true,
                _ => return Err("is neither http:// nor https://"),
            };
            let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or("has no port")?;
            let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or("has no valid port")?;
            let ip = match host.trim_start_matches('[').trim_end_matches(']') {
                "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                host => host.parse().map_err(|_| "has no address of this machine, as 127.0.0.1 or 0.0.0.0, in it")?,
            };
            Ok(Address { socket: SocketAddr::new(ip, port), tls })
        };
        match parsed() {
            Ok(address) => Some(address),
            Err(why) => {
                let issue = Issue::error("listener", "webhook.listener", format!("{:?} {why}", self.listener));
                issues.push(issue.fix("use http://127.0.0.1:8088"));
                None
            }
        }
    }

    fn tls(&self, address: Option<Address>, issues: &mut Vec<Issue>) -> Option<TlsFiles> {
        let address = address?;
        if !address.tls {
            for (name, given) in [
                ("ssl.certificate.location", self.certificate.is_some()),
                ("ssl.key.location", self.private_key.is_some()),
                ("ssl.ca.location", self.client_ca.is_some()),
            ] {
                if given {
                    let issue = Issue::error(name, "webhook.tls", format!("means nothing: the listener is {address}"));
                    issues.push(issue.fix("write https:// in listener"));
                }
            }
            return None;
        }
        for (name, given) in
            [("ssl.certificate.location", self.certificate.is_some()), ("ssl.key.location", self.private_key.is_some())]
        {
            if !given {
                issues.push(Issue::error(name, "config.missing", "https needs it").fix(format!("add `{name}: /etc/ssl/….pem`")));
            }
        }
        let path = |file: &aqueduct_config::PathText| file.as_path().to_owned();
        Some(TlsFiles {
            certificate: path(self.certificate.as_ref()?),
            key: path(self.private_key.as_ref()?),
            client_ca: self.client_ca.as_ref().map(path),
        })
    }

    /// The names that every path has.
    fn captures(&self, issues: &mut Vec<Issue>) -> Vec<String> {
        let mut router = matchit::Router::new();
        let mut common: Option<Vec<String>> = None;
        if self.path.is_empty() {
            issues.push(Issue::error("path", "config.missing", "no path is given").fix("add `path: /orders`"));
        }
        for path in self.path.iter() {
            let mut refuse = |why: &str| {
                let issue = Issue::error("path", "webhook.path", format!("{path:?} {why}"));
                issues.push(issue.fix("use /orders, or /hooks/{shop}/orders"));
            };
            if !path.starts_with('/') {
                refuse("does not begin with /");
                continue;
            }
            if path.contains(['?', '#', ' ']) || path.bytes().any(|byte| byte.is_ascii_control()) || path.contains("{*") {
                refuse("is no path: only segments and names in braces");
                continue;
            }
            if let Err(error) = router.insert(path.clone(), ()) {
                refuse(&format!("cannot stand here: {error}"));
                continue;
            }
            let names: Vec<String> = match template::parse(path) {
                Ok(parts) => template::names(&parts).map(str::to_owned).collect(),
                Err(_) => Vec::new(),
            };
            common = Some(match common {
                Some(before) => before.into_iter().filter(|name| names.contains(name)).collect(),
                None => names,
            });
        }
        common.unwrap_or_default()
    }

    fn topic(&self, captures: &[String], issues: &mut Vec<Issue>) -> Vec<Part> {
        let parts = match template::parse(&self.topic) {
            Ok(parts) => parts,
            Err(why) => {
                issues.push(Issue::error("topic", "webhook.topic", why).fix("use orders, or orders-{shop}"));
                return Vec::new();
            }
        };
        for name in template::names(&parts).filter(|name| !captures.iter().any(|known| known == name)) {
            let issue = Issue::error("topic", "webhook.topic", format!("not every path has a segment {{{name}}}"));
            issues.push(issue.fix(format!("write /…/{{{name}}} in path")));
        }
        let filled: String = parts.iter().map(|part| if let Part::Literal(text) = part { text } else { "x" }).collect();
        if !is_valid_topic_name(&filled) {
            let message = format!("{:?} is no name of a topic: 1 to 249 of a-z A-Z 0-9 . _ -", self.topic);
            issues.push(Issue::error("topic", "webhook.topic", message).fix("use orders, or orders-{shop}"));
        }
        parts
    }

    fn key(&self, captures: &[String], issues: &mut Vec<Issue>) -> Key {
        let Some(text) = self.key.as_deref() else { return Key::None };
        let parsed = match text.split_once(':') {
            Some(("path", name)) if captures.iter().any(|known| known == name) => Ok(Key::Capture(name.to_owned())),
            Some(("path", name)) => Err(format!("not every path has a segment {{{name}}}")),
            _ => header_or_pointer(text).map(|found| match found {
                Found::Header(name) => Key::Header(name),
                Found::Pointer(pointer) => Key::Pointer(pointer),
            }),
        };
        parsed.unwrap_or_else(|why| {
            issues.push(Issue::error("key", "webhook.key", why).fix("use header:NAME, json:/pointer or path:NAME"));
            Key::None
        })
    }

    fn methods(&self, issues: &mut Vec<Issue>) -> Vec<Method> {
        let mut methods = Vec::new();
        for name in self.methods.iter() {
            match name.to_ascii_uppercase().as_str() {
                "POST" => methods.push(Method::POST),
                "PUT" => methods.push(Method::PUT),
                "PATCH" => methods.push(Method::PATCH),
                _ => issues.push(
                    Issue::error("methods", "webhook.method", format!("{name:?} is not taken")).fix("use POST, PUT, PATCH"),
                ),
            }
        }
        if methods.is_empty() && self.methods.is_empty() {
            issues.push(Issue::error("methods", "webhook.method", "no method is given").fix("remove the option, or name POST"));
        }
        methods
    }

    fn headers(&self, issues: &mut Vec<Issue>) -> Vec<String> {
        let mut patterns = Vec::new();
        for name in self.headers.iter() {
            let lower = name.trim().to_ascii_lowercase();
            let stem = lower.strip_suffix('*').unwrap_or(&lower);
            if !stem.is_empty() && HeaderName::try_from(stem).is_err() {
                let issue = Issue::error("headers", "webhook.header", format!("{name:?} is no name of a header"));
                issues.push(issue.fix("use names as content-type, and x-github-* for all that begin so"));
            } else if never_copied(&lower) || self.signature_header.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&lower)) {
                let message = format!("{name:?} carries a credential or a signature, which no topic may hold");
                issues.push(Issue::error("headers", "webhook.header", message).fix("remove it"));
            } else {
                patterns.push(lower);
            }
        }
        patterns
    }

    fn event_id(&self, issues: &mut Vec<Issue>) -> EventId {
        let headers = |names: &[&'static str]| EventId::Headers(names.iter().map(|name| HeaderName::from_static(name)).collect());
        match self.idempotency.as_str() {
            "none" => EventId::None,
            "auto" => match self.scheme {
                _ if self.content == Content::CloudEvents => EventId::CloudEvent,
                Scheme::Github => headers(&["x-github-delivery"]),
                Scheme::Stripe => EventId::Pointer("/id".to_owned()),
                Scheme::Slack => EventId::Pointer("/event_id".to_owned()),
                Scheme::StandardWebhooks => headers(&["webhook-id", "svix-id"]),
                Scheme::None | Scheme::Custom => headers(&["webhook-id", "idempotency-key", "x-github-delivery"]),
            },
            text => match header_or_pointer(text) {
                Ok(Found::Header(name)) => EventId::Headers(vec![name]),
                Ok(Found::Pointer(pointer)) => EventId::Pointer(pointer),
                Err(why) => {
                    let issue = Issue::error("idempotency.key", "webhook.idempotency", why);
                    issues.push(issue.fix("use auto, none, header:NAME or json:/pointer"));
                    EventId::None
                }
            },
        }
    }

    fn auth(&self, issues: &mut Vec<Issue>) -> Auth {
        let mut unused = |name: &str, given: bool| {
            if given {
                let kind = format!("{:?}", self.auth).to_lowercase();
                issues.push(
                    Issue::error(name, "webhook.auth", format!("means nothing with auth: {kind}")).fix("remove it, or set auth"),
                );
            }
        };
        if self.auth != AuthKind::Bearer {
            unused("auth.token", self.token.is_some());
        }
        if self.auth != AuthKind::Basic {
            unused("auth.username", self.username.is_some());
            unused("auth.password", self.password.is_some());
        }
        match self.auth {
            AuthKind::None => Auth::None,
            AuthKind::Bearer => Auth::bearer(&secrets("auth.token", self.token.as_ref(), issues)),
            AuthKind::Basic => {
                if self.username.is_none() {
                    issues.push(
                        Issue::error("auth.username", "config.missing", "auth: basic needs it").fix("add `auth.username: …`"),
                    );
                }
                let passwords = secrets("auth.password", self.password.as_ref(), issues);
                Auth::basic(self.username.as_deref().unwrap_or_default(), &passwords)
            }
        }
    }

    fn signature(&self, issues: &mut Vec<Issue>) -> Option<Signature> {
        if self.scheme != Scheme::Custom {
            for (name, given) in [
                ("signature.header", self.signature_header.is_some()),
                ("signature.prefix", !self.prefix.is_empty()),
                ("signature.content", self.signed != "{body}"),
                ("signature.timestamp.header", self.timestamp_header.is_some()),
            ] {
                if given {
                    let issue = Issue::error(name, "webhook.signature", "only signature.scheme: custom reads it");
                    issues.push(issue.fix("remove it, or set signature.scheme: custom"));
                }
            }
        }
        if self.scheme == Scheme::None {
            if self.secret.is_some() {
                let issue =
                    Issue::error("signature.secret", "webhook.signature", "nothing is verified without a signature.scheme");
                issues.push(issue.fix("set signature.scheme"));
            }
            return None;
        }
        let secrets = secrets("signature.secret", self.secret.as_ref(), issues);
        if self.scheme != Scheme::Custom {
            let made = Signature::of(self.scheme, &secrets, self.tolerance.duration());
            return made
                .map_err(|why| {
                    issues.push(
                        Issue::error("signature.secret", "webhook.signature", why).fix("use the secret as the sender shows it"),
                    )
                })
                .ok();
        }
        let mut header = |name: &'static str, text: Option<&String>| {
            let parsed = HeaderName::try_from(text?.as_str());
            parsed
                .map_err(|_| {
                    issues.push(Issue::error(name, "webhook.header", "is no name of a header").fix("use a name as x-signature"))
                })
                .ok()
        };
        let timestamp = header("signature.timestamp.header", self.timestamp_header.as_ref());
        let Some(name) = header("signature.header", self.signature_header.as_ref()) else {
            if self.signature_header.is_none() {
                issues.push(
                    Issue::error("signature.header", "config.missing", "signature.scheme: custom needs it")
                        .fix("add `signature.header: x-signature`"),
                );
            }
            return None;
        };
        let made = template::parse(&self.signed).and_then(|content| {
            let timestamp = (timestamp, self.tolerance.duration());
            Signature::custom((name, &self.prefix), (self.encoding, self.algorithm), &content, timestamp, &secrets)
        });
        made.map_err(|why| {
            issues.push(Issue::error("signature.content", "webhook.signature", why).fix("use {body}, or {timestamp}.{body}"))
        })
        .ok()
    }

    fn response(&self, issues: &mut Vec<Issue>) -> (StatusCode, HeaderValue) {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        if ![200, 201, 202, 204].contains(&self.status) {
            issues.push(Issue::error("response.status", "webhook.response", "is none of 200, 201, 202, 204").fix("use 200"));
        }
        if self.response.len() > RESPONSE_MAX {
            issues.push(
                Issue::error("response.body", "webhook.response", format!("has more than {RESPONSE_MAX} bytes"))
                    .fix("shorten it"),
            );
        }
        if self.status == 204 && !self.response.is_empty() {
            issues.push(
                Issue::error("response.body", "webhook.response", "an answer of status 204 has no body")
                    .fix("use response.status: 200"),
            );
        }
        let content_type = HeaderValue::try_from(&self.response_type).unwrap_or_else(|_| {
            issues
                .push(Issue::error("response.content.type", "webhook.response", "is no value of a header").fix("use text/plain"));
            HeaderValue::from_static("text/plain")
        });
        (status, content_type)
    }
}

enum Found {
    Header(HeaderName),
    Pointer(String),
}

fn header_or_pointer(text: &str) -> Result<Found, String> {
    match text.split_once(':') {
        Some(("header", name)) => {
            let parsed = HeaderName::try_from(name.trim()).map_err(|_| format!("{name:?} is no name of a header"))?;
            if never_copied(parsed.as_str()) {
                return Err(format!("{name:?} carries a credential or a signature"));
            }
            Ok(Found::Header(parsed))
        }
        Some(("json", pointer)) if pointer.starts_with('/') => Ok(Found::Pointer(pointer.to_owned())),
        Some(("json", pointer)) => Err(format!("{pointer:?} is no JSON pointer: it begins with /")),
        _ => Err(format!("{text:?} says not where to look")),
    }
}

/// A comma list; never echoed.
fn secrets(name: &'static str, given: Option<&Secret>, issues: &mut Vec<Issue>) -> Vec<String> {
    let Some(given) = given else {
        issues.push(
            Issue::error(name, "config.missing", "there is nothing to compare with").fix(format!("add `{name}: \"${{env:…}}\"`")),
        );
        return Vec::new();
    };
    let list: Vec<String> = split_list(given.expose()).into_iter().filter(|one| !one.is_empty()).map(str::to_owned).collect();
    if list.is_empty() || list.len() > SECRETS_MAX {
        let message = format!("holds {} secrets; 1 to {SECRETS_MAX} are allowed", list.len());
        issues.push(Issue::error(name, "webhook.secret", message).fix("list those that are in use, with commas between"));
    }
    list
}

#[cfg(test)]
mod tests {
    use aqueduct_core::Options;

    /// `-` removes a key.
    fn judged(more: &[(&str, &str)]) -> Vec<(bool, String, String)> {
        let plugin = crate::plugins().remove(0);
        let mut options: Options = [("listener", "http://127.0.0.1:8088"), ("path", "/orders"), ("topic", "orders")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        options.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        options.retain(|_, value| value != "-");
        plugin.validate(&options).into_iter().map(|issue| (issue.is_error(), issue.path, issue.code)).collect()
    }

    #[test]
    fn what_is_right() {
        for more in [
            &[] as &[(&str, &str)],
            &[("path", "/a/{shop},/b/{shop}/x"), ("topic", "orders-{shop}"), ("key", "path:shop")],
            &[("listener", "http://0.0.0.0:80"), ("allow.unauthenticated", "true")],
            &[("listener", "http://[::]:80"), ("auth", "bearer"), ("auth.token", "a,b")],
            &[
                ("listener", "https://0.0.0.0:443"),
                ("ssl.certificate.location", "a"),
                ("ssl.key.location", "b"),
                ("ssl.ca.location", "c"),
            ],
            &[("signature.scheme", "github"), ("signature.secret", "x"), ("headers", "x-github-*,content-type")],
            &[("auth", "basic"), ("auth.username", "u"), ("auth.password", "p"), ("body.format", "cloudevents")],
            &[
                ("signature.scheme", "custom"),
                ("signature.secret", "x"),
                ("signature.header", "x-shopify-hmac-sha256"),
                ("signature.encoding", "base64"),
            ],
            &[("idempotency.key", "json:/id"), ("response.status", "202"), ("methods", "post,put")],
        ] {
            assert_eq!(judged(more), [], "{more:?}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (more, path, code) in [
            (&[("listener", "127.0.0.1:80")] as &[_], "listener", "webhook.listener"),
            (&[("listener", "http://example.com:80")], "listener", "webhook.listener"),
            (&[("listener", "http://127.0.0.1:0")], "listener", "webhook.listener"),
            (&[("listener", "http://0.0.0.0:80")], "listener", "webhook.unauthenticated"),
            (&[("listener", "https://127.0.0.1:80"), ("ssl.key.location", "k")], "ssl.certificate.location", "config.missing"),
            (&[("ssl.ca.location", "c")], "ssl.ca.location", "webhook.tls"),
            (&[("path", "orders")], "path", "webhook.path"),
            (&[("path", "/a/{x},/a/{y}")], "path", "webhook.path"),
            (&[("path", "/a/{*rest}")], "path", "webhook.path"),
            (&[("topic", "a b")], "topic", "webhook.topic"),
            (&[("topic", "a-{shop}")], "topic", "webhook.topic"),
            (&[("key", "id")], "key", "webhook.key"),
            (&[("key", "json:id")], "key", "webhook.key"),
            (&[("key", "header:authorization")], "key", "webhook.key"),
            (&[("methods", "GET")], "methods", "webhook.method"),
            (&[("headers", "Authorization")], "headers", "webhook.header"),
            (&[("idempotency.key", "maybe")], "idempotency.key", "webhook.idempotency"),
            (&[("auth", "bearer")], "auth.token", "config.missing"),
            (&[("auth.token", "x")], "auth.token", "webhook.auth"),
            (&[("signature.secret", "x")], "signature.secret", "webhook.signature"),
            (&[("signature.scheme", "stripe")], "signature.secret", "config.missing"),
            (&[("signature.scheme", "standard-webhooks"), ("signature.secret", "***")], "signature.secret", "webhook.signature"),
            (&[("signature.scheme", "custom"), ("signature.secret", "x")], "signature.header", "config.missing"),
            (
                &[
                    ("signature.scheme", "custom"),
                    ("signature.secret", "x"),
                    ("signature.header", "h"),
                    ("signature.content", "{x}"),
                ],
                "signature.content",
                "webhook.signature",
            ),
            (&[("signature.header", "h")], "signature.header", "webhook.signature"),
            (&[("response.status", "203")], "response.status", "webhook.response"),
            (&[("queue.max.bytes", "4096")], "queue.max.bytes", "webhook.limits"),
        ] {
            let found = judged(more);
            assert_eq!(found, [(true, path.to_owned(), code.to_owned())], "{more:?}");
        }
    }
}
