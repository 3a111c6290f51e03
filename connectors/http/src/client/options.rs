//! The options that http-source and http-sink have in common, and what they come to when they are checked.

use super::auth::{self, Credentials};
use super::body::Bounds;
use super::failure::Codes;
use super::guard::Guard;
use super::template::Template;
use super::{pace, tls};
use aqueduct_config::{ByteSize, Family, List, Millis, PathText, Secret};
use aqueduct_core::Issue;
use reqwest::Url;
use reqwest::header::{self, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthType {
    #[default]
    None,
    Basic,
    Bearer,
    #[serde(rename = "api-key", alias = "apikey", alias = "api_key")]
    ApiKey,
    OAuth2,
    Static,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ApiKeyIn {
    #[default]
    Header,
    Query,
}

/// Aiven says URL where the RFC says body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    #[default]
    Header,
    #[serde(alias = "url")]
    Body,
}

/// Everything that both connectors may be told, unchecked.
#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
    pub(crate) headers: List<String>,
    pub(crate) header: Family<String>,
    pub(crate) auth_type: AuthType,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) token: Option<Secret>,
    pub(crate) api_key: Option<Secret>,
    pub(crate) api_key_name: String,
    pub(crate) api_key_in: ApiKeyIn,
    pub(crate) authorization: Option<Secret>,
    pub(crate) token_url: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret: Option<Secret>,
    pub(crate) scope: Option<String>,
    pub(crate) client_auth: ClientAuth,
    pub(crate) token_params: Family<String>,
    pub(crate) token_property: String,
    pub(crate) token_early: Millis,
    pub(crate) authorities: Option<PathText>,
    pub(crate) identity: Option<PathText>,
    pub(crate) key: Option<PathText>,
    pub(crate) trust_all: bool,
    pub(crate) proxy_host: Option<String>,
    pub(crate) proxy_port: u16,
    pub(crate) proxy_user: Option<String>,
    pub(crate) proxy_password: Option<Secret>,
    pub(crate) connect_timeout: Millis,
    pub(crate) read_timeout: Millis,
    pub(crate) request_timeout: Millis,
    pub(crate) body_max: ByteSize,
    pub(crate) body_ratio: u32,
    pub(crate) redirects_max: u32,
    pub(crate) hosts: List<String>,
    pub(crate) private: bool,
    pub(crate) retry_codes: List<String>,
    pub(crate) retries: u32,
    pub(crate) backoff: Millis,
    pub(crate) backoff_max: Millis,
    pub(crate) retry_after_max: Millis,
}

/// The struct with the shared options behind the connector's own, so that each has its place, kind and default in the reference; serde's `flatten`
/// would lose all of that.
macro_rules! with_client_options {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub struct $name {
            $($own)*
            /// Headers of each request, as `Name: value, Name: value`. Values may hold `${…}`.
            #[serde(rename = "http.request.headers", default)]
            #[schemars(extend("x-group" = "Request", "x-aliases" = ["http.headers.additional"], "x-example" = "Accept: application/json"))]
            headers: aqueduct_config::List<String>,
            /// One header, whose value may hold commas and `${…}`: `http.request.header.X-Trace: a, b`.
            #[serde(rename = "http.request.header.*")]
            #[schemars(extend("x-importance" = "low", "x-group" = "Request"))]
            header: aqueduct_config::Family<String>,
            /// How requests are authenticated. `static` sends `http.headers.authorization` as it is.
            #[serde(rename = "http.auth.type", default)]
            #[schemars(extend("x-importance" = "high", "x-group" = "Authentication", "x-aliases" = ["http.authorization.type", "auth.type"]))]
            auth_type: $crate::client::AuthType,
            /// The user of `basic`.
            #[serde(rename = "http.auth.user", default)]
            #[schemars(extend("x-group" = "Authentication", "x-aliases" = ["connection.user"]))]
            user: Option<String>,
            /// The password of `basic`.
            #[serde(rename = "http.auth.password", default)]
            #[schemars(extend("x-group" = "Authentication", "x-aliases" = ["connection.password"]))]
            password: Option<aqueduct_config::Secret>,
            /// The token of `bearer`.
            #[serde(rename = "http.auth.token", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            token: Option<aqueduct_config::Secret>,
            /// The key of `api-key`.
            #[serde(rename = "http.auth.api.key", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            api_key: Option<aqueduct_config::Secret>,
            /// The header, or parameter, of the key.
            #[serde(rename = "http.auth.api.key.name", default = "crate::client::defaults::api_key_name")]
            #[schemars(extend("x-group" = "Authentication"))]
            api_key_name: String,
            /// Where the key stands.
            #[serde(rename = "http.auth.api.key.in", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Authentication"))]
            api_key_in: $crate::client::ApiKeyIn,
            /// The whole value of `Authorization`, for `static`.
            #[serde(rename = "http.headers.authorization", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            authorization: Option<aqueduct_config::Secret>,
            /// Where `oauth2` gets its tokens (client credentials).
            #[serde(rename = "oauth2.access.token.url", default)]
            #[schemars(extend("x-group" = "Authentication", "x-aliases" = ["oauth2.token.url"], "x-example" = "https://login.example.com/oauth2/token"))]
            token_url: Option<String>,
            /// The client of `oauth2`.
            #[serde(rename = "oauth2.client.id", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            client_id: Option<String>,
            /// Its secret.
            #[serde(rename = "oauth2.client.secret", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            client_secret: Option<aqueduct_config::Secret>,
            /// The scopes to ask for, with spaces between them.
            #[serde(rename = "oauth2.client.scope", default)]
            #[schemars(extend("x-group" = "Authentication"))]
            scope: Option<String>,
            /// Where the client's id and secret stand: in the header (basic), or in the body of the form.
            #[serde(rename = "oauth2.client.authorization.mode", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Authentication", "x-aliases" = ["oauth2.client.auth.mode"]))]
            client_auth: $crate::client::ClientAuth,
            /// More fields of the token request: `oauth2.token.params.audience: https://api.example.com`.
            #[serde(rename = "oauth2.token.params.*")]
            #[schemars(extend("x-importance" = "low", "x-group" = "Authentication"))]
            token_params: aqueduct_config::Family<String>,
            /// The field of the answer that is the token.
            #[serde(rename = "oauth2.response.token.property", default = "crate::client::defaults::access_token")]
            #[schemars(extend("x-importance" = "low", "x-group" = "Authentication", "x-aliases" = ["oauth2.token.property"]))]
            token_property: String,
            /// How long before its end a token is replaced.
            #[serde(rename = "oauth2.token.refresh.early.ms", default = "crate::client::defaults::token_early")]
            #[schemars(range(max = 86_400_000), extend("x-importance" = "low", "x-group" = "Authentication"))]
            token_early: aqueduct_config::Millis,
            /// The certificates to trust, as a PEM file; those of the system if not given.
            #[serde(rename = "https.ssl.truststore.location", default)]
            #[schemars(extend("x-group" = "TLS"))]
            authorities: Option<aqueduct_config::PathText>,
            /// The client's own certificate chain, as a PEM file, with or without its key.
            #[serde(rename = "https.ssl.keystore.location", default)]
            #[schemars(extend("x-group" = "TLS"))]
            identity: Option<aqueduct_config::PathText>,
            /// The key of that certificate, as a PEM file, where it is not in the same file.
            #[serde(rename = "https.ssl.keystore.key.location", default)]
            #[schemars(extend("x-group" = "TLS"))]
            key: Option<aqueduct_config::PathText>,
            /// Trusts any certificate and any name: whoever is on the way can read and change everything.
            #[serde(rename = "http.ssl.trust.all.certs", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "TLS"))]
            trust_all: bool,
            /// An HTTP proxy; none if not given, whatever the environment says.
            #[serde(rename = "http.client.proxy.host", default)]
            #[schemars(extend("x-group" = "Connection", "x-aliases" = ["http.proxy.host"]))]
            proxy_host: Option<String>,
            /// Its port.
            #[serde(rename = "http.client.proxy.port", default = "crate::client::defaults::proxy_port")]
            #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Connection", "x-aliases" = ["http.proxy.port"]))]
            proxy_port: u16,
            /// Who logs in at the proxy.
            #[serde(rename = "http.client.proxy.username", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Connection", "x-aliases" = ["http.proxy.user"]))]
            proxy_user: Option<String>,
            /// The password for the proxy.
            #[serde(rename = "http.client.proxy.password", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Connection", "x-aliases" = ["http.proxy.password"]))]
            proxy_password: Option<aqueduct_config::Secret>,
            /// How long a connection may take to open, TLS included.
            #[serde(rename = "http.client.connection.timeout.millis", default = "crate::client::defaults::ten_seconds")]
            #[schemars(range(min = 1, max = 600_000), extend("x-group" = "Connection", "x-aliases" = ["http.connect.timeout.ms"]))]
            connect_timeout: aqueduct_config::Millis,
            /// How long the server may send nothing.
            #[serde(rename = "http.client.read.timeout.millis", default = "crate::client::defaults::thirty_seconds")]
            #[schemars(range(min = 1, max = 3_600_000), extend("x-group" = "Connection"))]
            read_timeout: aqueduct_config::Millis,
            /// How long a request may take as a whole, with its redirects and its body.
            #[serde(rename = "http.client.request.timeout.millis", default = "crate::client::defaults::one_minute")]
            #[schemars(range(min = 1, max = 3_600_000), extend("x-group" = "Connection", "x-aliases" = ["http.request.timeout.ms"]))]
            request_timeout: aqueduct_config::Millis,
            /// The largest body of a response, decompressed.
            #[serde(rename = "http.response.max.bytes", default = "crate::client::defaults::body_max")]
            #[schemars(range(min = 1024, max = 1_073_741_824), extend("x-group" = "Connection"))]
            body_max: aqueduct_config::ByteSize,
            /// How many times larger than what was sent a body may become, beyond its first MiB.
            #[serde(rename = "http.response.max.ratio", default = "crate::client::defaults::body_ratio")]
            #[schemars(range(min = 1, max = 100_000), extend("x-importance" = "low", "x-group" = "Connection"))]
            body_ratio: u32,
            /// How many redirects are followed in a row. Credentials and own headers stay with the first host.
            #[serde(rename = "http.redirect.max", default = "crate::client::defaults::redirects_max")]
            #[schemars(range(max = 50), extend("x-importance" = "low", "x-group" = "Connection"))]
            redirects_max: u32,
            /// The only hosts that may be called, by redirects and next pages too: names, `*.names`, addresses, networks such as `10.0.0.0/8`, each with
            /// or without `:port`. Every public one if not given. A host that stands here may be on this machine or in a private network.
            #[serde(rename = "http.allowed.hosts", default)]
            #[schemars(extend("x-group" = "Connection", "x-example" = "api.example.com,localhost:8080"))]
            hosts: aqueduct_config::List<String>,
            /// Whether this machine and private networks may be called without being listed. Link-local addresses (metadata of clouds) never are.
            #[serde(rename = "http.allow.private.addresses", default)]
            #[schemars(extend("x-group" = "Connection"))]
            private: bool,
            /// The statuses that are tried again; others above 399 end the task.
            #[serde(rename = "http.retry.codes", default = "crate::client::defaults::retry_codes")]
            #[schemars(extend("x-group" = "Retries", "x-aliases" = ["retry.on.status.codes"]))]
            retry_codes: aqueduct_config::List<String>,
            /// How often in a row a request is tried again. After that the worker starts the task again, with pauses that grow.
            #[serde(rename = "max.retries", default = "crate::client::defaults::ten")]
            #[schemars(range(max = 1_000_000), extend("x-group" = "Retries"))]
            retries: u32,
            /// The first pause is random up to this; each one after it up to twice as much.
            #[serde(rename = "retry.backoff.ms", default = "crate::client::defaults::one_second")]
            #[schemars(range(max = 3_600_000), extend("x-group" = "Retries"))]
            backoff: aqueduct_config::Millis,
            /// The longest such pause.
            #[serde(rename = "retry.backoff.max.ms", default = "crate::client::defaults::one_minute")]
            #[schemars(range(max = 86_400_000), extend("x-importance" = "low", "x-group" = "Retries"))]
            backoff_max: aqueduct_config::Millis,
            /// The longest pause that a server may ask for by `Retry-After`.
            #[serde(rename = "http.retry.after.max.ms", default = "crate::client::defaults::one_hour")]
            #[schemars(range(max = 604_800_000), extend("x-importance" = "low", "x-group" = "Retries"))]
            retry_after_max: aqueduct_config::Millis,
        }

        impl $name {
            pub(crate) fn client(&self) -> $crate::client::ClientOptions {
                $crate::client::with_client_options!(@copy self,
                    headers header auth_type user password token api_key api_key_name api_key_in authorization token_url client_id
                    client_secret scope client_auth token_params token_property token_early authorities identity key trust_all proxy_host
                    proxy_port proxy_user proxy_password connect_timeout read_timeout request_timeout body_max body_ratio redirects_max
                    hosts private retry_codes retries backoff backoff_max retry_after_max)
            }
        }
    };
    (@copy $from:ident, $($field:ident)*) => { $crate::client::ClientOptions { $($field: $from.$field.clone()),* } };
}
pub(crate) use with_client_options;

/// For the macro, which stands in other modules.
pub(crate) mod defaults {
    use super::{ByteSize, List, Millis};

    pub(crate) fn api_key_name() -> String {
        "X-API-Key".to_owned()
    }
    pub(crate) fn access_token() -> String {
        "access_token".to_owned()
    }
    pub(crate) fn token_early() -> Millis {
        Millis::from_secs(30)
    }
    pub(crate) fn proxy_port() -> u16 {
        3128
    }
    pub(crate) fn one_second() -> Millis {
        Millis::from_secs(1)
    }
    pub(crate) fn ten_seconds() -> Millis {
        Millis::from_secs(10)
    }
    pub(crate) fn thirty_seconds() -> Millis {
        Millis::from_secs(30)
    }
    pub(crate) fn one_minute() -> Millis {
        Millis::from_secs(60)
    }
    pub(crate) fn one_hour() -> Millis {
        Millis::from_secs(3600)
    }
    /// As the hard limit of a record.
    pub(crate) fn body_max() -> ByteSize {
        ByteSize::mib(64)
    }
    pub(crate) fn body_ratio() -> u32 {
        100
    }
    pub(crate) fn redirects_max() -> u32 {
        5
    }
    pub(crate) fn ten() -> u32 {
        10
    }
    pub(crate) fn retry_codes() -> List<String> {
        ["408", "425", "429", "500..599"].into_iter().map(str::to_owned).collect()
    }
}

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) retry: Retry,
    pub(crate) guard: Guard,
    pub(crate) auth: Credentials,
    pub(crate) tls: tls::Files,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) body: Bounds,
    pub(crate) redirects_max: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) login: Option<(String, Secret)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) attempts_max: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    pub(crate) codes: Codes,
    /// Of Retry-After.
    pub(crate) after_max: Duration,
}

impl Retry {
    /// The pause before the next attempt, after this many (from 0) have failed before; `None` when there is none. What the server asked for is
    /// kept to, with jitter on top, within its bound.
    pub(crate) fn wait(&self, attempt: u32, after: Option<Duration>) -> Option<Duration> {
        (attempt < self.attempts_max).then(|| self.pause(attempt, after, fastrand::f64()))
    }

    fn pause(&self, attempt: u32, after: Option<Duration>, random: f64) -> Duration {
        let jitter = pace::full_jitter(attempt, self.first, self.longest, random);
        match after {
            // Everyone who was told the same second would come at once.
            Some(after) => after.min(self.after_max) + jitter.min(self.first),
            None => jitter,
        }
    }
}

/// Headers that the connection owns: setting them would make two messages of one (smuggling).
const OWNED: [HeaderName; 6] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, header::TE];

impl ClientOptions {
    /// Every issue is pushed; the settings are good for something only without an error among them.
    pub(crate) fn settings(&self, issues: &mut Vec<Issue>) -> Settings {
        let proxy = self.proxy(issues);
        let guard =
            Guard::new(&self.hosts, self.private, proxy.as_ref().map(|proxy| proxy.host.as_str())).unwrap_or_else(|reason| {
                issues.push(
                    Issue::error("http.allowed.hosts", "http.hosts", reason).fix("use hosts alone, without http:// and paths"),
                );
                Guard::closed()
            });
        let codes = Codes::parse(&self.retry_codes).unwrap_or_else(|reason| {
            issues.push(Issue::error("http.retry.codes", "http.codes", reason).fix("use 429, 500..599 or 500-599, with commas"));
            Codes::default()
        });
        if self.trust_all {
            let issue = Issue::warning("http.ssl.trust.all.certs", "http.trust_all", "certificates are not checked");
            issues.push(issue.fix("use https.ssl.truststore.location for a certificate authority of your own"));
        }
        if self.key.is_some() && self.identity.is_none() {
            let issue = Issue::error("https.ssl.keystore.key.location", "http.tls", "a key without a certificate");
            issues.push(issue.fix("add https.ssl.keystore.location"));
        }
        let settings = Settings {
            headers: self.headers(issues),
            retry: Retry {
                attempts_max: self.retries,
                first: self.backoff.duration(),
                longest: self.backoff_max.duration().max(self.backoff.duration()),
                codes,
                after_max: self.retry_after_max.duration(),
            },
            guard,
            auth: auth::credentials(self, issues),
            tls: tls::Files {
                authorities: self.authorities.clone(),
                identity: self.identity.clone(),
                key: self.key.clone(),
                trust_all: self.trust_all,
            },
            proxy,
            connect_timeout: self.connect_timeout.duration(),
            read_timeout: self.read_timeout.duration(),
            request_timeout: self.request_timeout.duration(),
            body: Bounds { bytes_max: self.body_max.as_usize(), ratio_max: self.body_ratio as usize },
            redirects_max: self.redirects_max,
        };
        if let Credentials::OAuth2(client) = &settings.auth {
            settings.check_host("oauth2.access.token.url", &client.url, issues);
        }
        settings
    }

    fn proxy(&self, issues: &mut Vec<Issue>) -> Option<Proxy> {
        let host = self.proxy_host.as_deref().map(str::trim).filter(|host| !host.is_empty())?;
        if Url::parse(&format!("http://{host}:{}", self.proxy_port)).is_err() || host.contains(['/', '@', ':']) {
            issues.push(
                Issue::error("http.client.proxy.host", "http.proxy", format!("{host:?} is no host")).fix("give the host alone"),
            );
            return None;
        }
        let login = self.proxy_user.as_deref().filter(|user| !user.is_empty());
        let login = login.map(|user| (user.to_owned(), self.proxy_password.clone().unwrap_or_default()));
        Some(Proxy { host: host.to_owned(), port: self.proxy_port, login })
    }

    fn headers(&self, issues: &mut Vec<Issue>) -> Vec<(HeaderName, Template)> {
        let mut pairs: Vec<(String, String, &str)> = Vec::new();
        for entry in self.headers.iter().filter(|entry| !entry.trim().is_empty()) {
            match entry.split_once(':') {
                Some((name, value)) => pairs.push(("http.request.headers".into(), name.trim().to_owned(), value.trim())),
                None => {
                    let issue = Issue::error("http.request.headers", "http.header", "an entry without a colon");
                    issues.push(
                        issue.fix("use `Name: value, Name: value`; for a value with commas `http.request.header.Name: value`"),
                    );
                }
            }
        }
        pairs.extend(self.header.iter().map(|(name, value)| (format!("http.request.header.{name}"), name.clone(), value.trim())));
        let mut headers = Vec::new();
        for (option, name, value) in pairs {
            let parsed = HeaderName::try_from(name.as_str());
            match (parsed, Template::header(value)) {
                (Ok(name), _) if OWNED.contains(&name) => {
                    issues.push(Issue::error(option, "http.header", format!("{name} is set by the connection")).fix("remove it"));
                }
                (Ok(name), Ok(value)) => headers.push((name, value)),
                (Err(_), _) => {
                    let issue = Issue::error(option, "http.header", format!("{name:?} is no name of a header"));
                    issues.push(issue.fix("use letters, digits and dashes"));
                }
                (_, Err(reason)) => {
                    issues.push(Issue::error(option, "http.header", reason).fix("correct the value; `$${` is a literal `${`"))
                }
            }
        }
        headers
    }
}

impl Settings {
    /// What can be said of a URL without resolving its host: where the host stands in the template itself.
    pub(crate) fn check_url(&self, option: &str, template: &Template, issues: &mut Vec<Issue>) {
        let prefix = template.prefix();
        let rest = prefix.split_once("://").map_or("", |(_, rest)| rest);
        // With a variable in the host nothing can be said yet.
        if rest.contains(['/', '?', '#']) || template.names().next().is_none() {
            match Url::parse(prefix) {
                Ok(url) => self.check_host(option, &url, issues),
                Err(error) => {
                    let issue = Issue::error(option, "http.url", format!("is no URL: {error}"));
                    issues.push(issue.fix("use https://host/path"));
                }
            }
        }
    }

    fn check_host(&self, option: &str, url: &Url, issues: &mut Vec<Issue>) {
        if let Err(denied) = self.guard.check_url(url) {
            issues.push(Issue::error(option, "http.denied", denied.to_string()).fix(denied.fix()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_asks_for_is_kept_to_within_its_bound() {
        let seconds = Duration::from_secs;
        let retry =
            Retry { attempts_max: 2, first: seconds(1), longest: seconds(60), codes: Codes::default(), after_max: seconds(100) };
        assert_eq!(retry.pause(3, None, 0.5), seconds(4));
        assert_eq!(retry.pause(3, Some(seconds(30)), 0.5), seconds(31));
        assert_eq!(retry.pause(0, Some(seconds(9999)), 0.0), seconds(100));
        assert!(retry.wait(1, None).is_some() && retry.wait(2, None).is_none());
    }
}
