//! The options of worker.yaml that say who reaches the REST API, and how: `listeners.https.…` under Kafka Connect's names, `rest.…` ours.

use super::headers::{self, HeaderRule};
use super::tls::{AdminTlsOptions, TlsOptions, TlsSettings};
use crate::types::{List, PathText};
use aqueduct_core::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who reaches the REST API.
#[derive(Clone, Debug, Default)]
pub struct RestSettings {
    /// The file of users; `None`: nobody is asked.
    pub users: Option<PathBuf>,
    /// Passwords and tokens may come over plain http from other machines.
    pub allow_plaintext: bool,
    pub health_public: bool,
    /// `None`: no https.
    pub tls: Option<TlsSettings>,
    /// Of `admin_listeners`: their own, or those of the others.
    pub admin_tls: Option<TlsSettings>,
    /// Calls in a second of one user at one address; 0: any number.
    pub rate_limit: u32,
    /// Where `/admin` is answered, and nothing else; empty: nowhere. `None`: on every listener.
    pub admin_listeners: Option<Vec<String>>,
    /// Headers of every answer.
    pub headers: Vec<HeaderRule>,
    /// The port under which clients know this worker, where it is not that of a listener.
    pub advertised_port: Option<u16>,
    /// Which listener clients know: the first with TLS, or the first without. `None`: the first.
    pub advertised_tls: Option<bool>,
}

impl RestSettings {
    /// As the listeners of `/admin` have it.
    pub fn of_admin(&self) -> Self {
        Self { tls: self.admin_tls.clone(), ..self.clone() }
    }
}

/// `rest.advertised.listener`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RestOptions {
    /// Where `/admin` (levels of loggers) is answered, and nothing else is, as `listeners`: then they do not answer it. If empty, nobody does. If not
    /// set, every listener does.
    #[serde(rename = "admin.listeners", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    admin_listeners: Option<List<String>>,
    /// Headers of every answer: `set`, `add`, `setDate` or `addDate`, name and value, separated by commas; an entry with a comma in double quotes.
    /// `set X-Frame-Options: DENY, "add Cache-Control: no-cache, no-store"`.
    #[serde(rename = "response.http.headers.config", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    headers: String,
    /// The port under which clients know this worker, where it is not that of its listener.
    #[serde(rename = "rest.advertised.port", default)]
    #[schemars(range(min = 1), extend("x-group" = "REST", "x-importance" = "low"))]
    advertised_port: Option<u16>,
    /// Whose port clients know: the first listener with `http`, or the first with `https`. The first of all if not set.
    #[serde(rename = "rest.advertised.listener", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    advertised_listener: Option<Scheme>,
    /// Who may call the REST API: a file with one user a line, `name:HASH:role[:connector-glob,…]`, as `aqueduct rest-user` writes them. Roles are
    /// `read`, `operate` and `admin`. Only its owner may read it. A change counts within seconds. If not set, nobody is asked for credentials,
    /// and listeners are on loopback.
    #[serde(rename = "rest.users", default)]
    #[schemars(extend("x-group" = "REST"))]
    users: Option<PathText>,
    /// Listen with `http://` on addresses that are not loopback, because a proxy in front of the worker speaks TLS. Passwords and tokens are
    /// readable on the way from it.
    #[serde(rename = "rest.allow.plaintext", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    allow_plaintext: bool,
    /// Answer `GET /health` without credentials, for probes.
    #[serde(rename = "rest.health.public", default)]
    #[schemars(extend("x-group" = "REST"))]
    health_public: bool,
    /// How many calls one user may make in a second, at one address and over longer; twice as many at once. What is beyond is answered with 429 and
    /// `Retry-After`. 0 is no limit. Without `rest.users` and certificates there is none either: only this machine calls.
    #[serde(rename = "rest.rate.limit", default = "rate_limit")]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    rate_limit: u32,
}

/// A user interface that asks for each of 1,000 connectors every two seconds.
fn rate_limit() -> u32 {
    500
}

impl RestOptions {
    pub(super) fn settings(self, tls: TlsOptions, admin_tls: AdminTlsOptions, issues: &mut Vec<Issue>) -> RestSettings {
        let tls = tls.settings(issues);
        let path = |path: &PathText| path.to_path_buf();
        let headers = headers::read(&self.headers, issues);
        RestSettings {
            admin_listeners: self.admin_listeners.map(|listeners| listeners.0),
            headers,
            advertised_port: self.advertised_port,
            advertised_tls: self.advertised_listener.map(|scheme| scheme == Scheme::Https),
            users: self.users.as_ref().map(path),
            allow_plaintext: self.allow_plaintext,
            health_public: self.health_public,
            admin_tls: admin_tls.settings(issues).or_else(|| tls.clone()),
            tls,
            rate_limit: self.rate_limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker_config::{ClientAuth, Keystore, WorkerConfig};

    fn load(text: &str) -> Result<RestSettings, String> {
        WorkerConfig::load(Some(("worker.yaml", text)), &[], [])
            .map(|config| config.rest)
            .map_err(|issues| issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn kafka_connects_names_are_taken() {
        let rest = load(
            "listeners: https://0.0.0.0:8443\nrest.users: /etc/users\nrest.health.public: true\n\
             listeners.https.ssl.keystore.location: /etc/key.pem\nlisteners.https.ssl.truststore.location: /etc/ca.pem\n\
             listeners.https.ssl.client.auth: requested\n",
        )
        .unwrap();
        let tls = rest.tls.unwrap();
        assert!(matches!(tls.keystore, Keystore::File(path) if path.as_os_str() == "/etc/key.pem"));
        assert_eq!((tls.client_auth, rest.health_public, rest.allow_plaintext), (ClientAuth::Requested, true, false));
        let rest = load("listeners.https.ssl.keystore.certificate.chain: a\nlisteners.https.ssl.keystore.key: b\n").unwrap();
        assert!(!format!("{:?}", rest.tls).contains("\"b\""));
        let none = load("").unwrap();
        assert!(none.tls.is_none() && none.admin_listeners.is_none() && none.headers.is_empty());
        let rest = load(
            "listeners: HTTP://localhost:1\nadmin.listeners: http://127.0.0.1:2\nrest.advertised.port: 80\n\
             rest.advertised.listener: https\nresponse.http.headers.config: 'set X-Frame-Options: DENY'\n",
        )
        .unwrap();
        assert_eq!(rest.admin_listeners.as_deref(), Some(&["http://127.0.0.1:2".to_owned()][..]));
        assert_eq!((rest.advertised_port, rest.advertised_tls, rest.headers.len()), (Some(80), Some(true), 1));
        assert_eq!(load("admin.listeners: ''").unwrap().admin_listeners, Some(Vec::new()));
    }

    #[test]
    fn the_listeners_of_admin_have_their_own_certificate_or_that_of_the_others() {
        let key = |tls: &Option<TlsSettings>| match &tls.as_ref().unwrap().keystore {
            Keystore::File(path) => path.to_str().unwrap().to_owned(),
            Keystore::Inline { .. } => panic!("a file was given"),
        };
        let both = "listeners.https.ssl.keystore.location: a.pem\nadmin.listeners: https://0.0.0.0:1\n";
        let rest = load(both).unwrap();
        assert_eq!((key(&rest.tls), key(&rest.admin_tls)), ("a.pem".to_owned(), "a.pem".to_owned()));
        let own = "admin.listeners.https.ssl.keystore.location: b.pem\nadmin.listeners.https.ssl.truststore.location: ca.pem\n\
                   admin.listeners.https.ssl.client.auth: required\n";
        let rest = load(&format!("{both}{own}")).unwrap();
        assert_eq!((key(&rest.tls), key(&rest.of_admin().tls)), ("a.pem".to_owned(), "b.pem".to_owned()));
        assert_eq!(rest.admin_tls.unwrap().client_auth, ClientAuth::Required);
        assert_eq!(rest.tls.unwrap().client_auth, ClientAuth::None);
        // Its own certificate does not serve the others.
        assert!(load(&format!("listeners: https://127.0.0.1:2\n{own}")).unwrap_err().contains("has no certificate"));
    }

    #[test]
    fn what_cannot_be_says_what_to_do() {
        for (text, says) in [
            ("listeners.https.ssl.keystore.type: JKS", "keytool -importkeystore"),
            ("listeners.https.ssl.truststore.type: PKCS12", "-nokeys"),
            ("listeners.https.ssl.keystore.key: x", "add listeners.https.ssl.keystore.certificate.chain"),
            ("listeners.https.ssl.keystore.location: a\nlisteners.https.ssl.keystore.key: x", "stands beside"),
            ("listeners.https.ssl.client.auth: required", "set listeners.https.ssl.truststore.location"),
            ("listeners.https.ssl.client.auth: maybe", "required"),
            ("admin.listeners.https.ssl.keystore.type: JKS", "admin.listeners.https.ssl.keystore.type"),
            ("admin.listeners.https.ssl.client.auth: required", "set admin.listeners.https.ssl.truststore.location"),
            ("admin.listeners.https.ssl.truststore.location: ca.pem", "set admin.listeners.https.ssl.keystore.location"),
            ("admin.listeners: https://127.0.0.1:1", "set admin.listeners.https.ssl.keystore.location"),
            ("rest.rate.limit: -1", "rest.rate.limit"),
            ("listeners: ftp://127.0.0.1:1", "not an address to listen on"),
            ("admin.listeners: 127.0.0.1:1", "admin.listeners: \"127.0.0.1:1\" is not an address to listen on"),
            ("rest.advertised.port: 0", "rest.advertised.port"),
            ("rest.advertised.listener: ftp", "https"),
            ("response.http.headers.config: put X", "none of set, add"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
