//! The options of worker.yaml that say who reaches the REST API, and how: `listeners.https.…` under Kafka Connect's names, `rest.…` ours.

use super::headers::{self, HeaderRule};
use crate::types::{List, PathText, Secret};
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
    /// Where `/admin` is answered, and nothing else; empty: nowhere. `None`: on every listener.
    pub admin_listeners: Option<Vec<String>>,
    /// Headers of every answer.
    pub headers: Vec<HeaderRule>,
    /// The port under which clients know this worker, where it is not that of a listener.
    pub advertised_port: Option<u16>,
    /// Which listener clients know: the first with TLS, or the first without. `None`: the first.
    pub advertised_tls: Option<bool>,
}

#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub keystore: Keystore,
    /// Authorities, in PEM, that sign clients' certificates. There is one unless `client_auth` is `None`.
    pub truststore: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

#[derive(Clone, Debug)]
pub enum Keystore {
    /// A PEM file with the key and the chain.
    File(PathBuf),
    Inline {
        chain: String,
        key: Secret,
    },
}

/// `ssl.client.auth`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    #[default]
    None,
    /// A client may have a certificate.
    Requested,
    /// A client without one is not spoken to.
    Required,
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
    /// `PEM`, the only type there is.
    #[serde(rename = "listeners.https.ssl.keystore.type", default = "pem")]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    keystore_type: String,
    /// A PEM file with the private key, not encrypted, and the chain of certificates of `https://` listeners. A change counts within seconds.
    #[serde(rename = "listeners.https.ssl.keystore.location", default)]
    #[schemars(extend("x-group" = "REST"))]
    keystore: Option<PathText>,
    /// The chain, in PEM, instead of a file: `${file:…}`, say.
    #[serde(rename = "listeners.https.ssl.keystore.certificate.chain", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    chain: Option<String>,
    /// Its private key, in PEM.
    #[serde(rename = "listeners.https.ssl.keystore.key", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    key: Option<Secret>,
    /// `PEM`, the only type there is.
    #[serde(rename = "listeners.https.ssl.truststore.type", default = "pem")]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    truststore_type: String,
    /// A PEM file with the authorities that sign clients' certificates.
    #[serde(rename = "listeners.https.ssl.truststore.location", default)]
    #[schemars(extend("x-group" = "REST"))]
    truststore: Option<PathText>,
    /// Whether clients have certificates: `none`, `requested` or `required`. With `required` and without `rest.users`, whoever has one is an admin.
    #[serde(rename = "listeners.https.ssl.client.auth", default)]
    #[schemars(extend("x-group" = "REST"))]
    client_auth: ClientAuth,
}

fn pem() -> String {
    "PEM".to_owned()
}

const PREFIX: &str = "listeners.https.ssl.";

impl RestOptions {
    pub(super) fn settings(self, issues: &mut Vec<Issue>) -> RestSettings {
        for (key, kind) in [("keystore.type", &self.keystore_type), ("truststore.type", &self.truststore_type)] {
            if !kind.eq_ignore_ascii_case("PEM") {
                let message = format!("{kind:?} is not supported: keys and certificates are in PEM");
                let convert = match key {
                    "keystore.type" => {
                        "for a JKS, first `keytool -importkeystore -srckeystore store.jks -destkeystore store.p12 -deststoretype PKCS12`; \
                         then `openssl pkcs12 -in store.p12 -nodes -out store.pem`, and set PEM"
                    }
                    _ => {
                        "`keytool -list -rfc -keystore store.jks > store.pem`, or `openssl pkcs12 -in store.p12 -nokeys -out store.pem`; set PEM"
                    }
                };
                issues.push(Issue::error(format!("{PREFIX}{key}"), "config.keystore_type", message).fix(convert));
            }
        }
        let path = |path: &PathText| path.to_path_buf();
        let keystore = match (&self.keystore, self.chain, self.key) {
            (Some(file), None, None) => Some(Keystore::File(path(file))),
            (None, Some(chain), Some(key)) => Some(Keystore::Inline { chain, key }),
            (None, None, None) => None,
            (Some(_), ..) => {
                let issue = Issue::error(format!("{PREFIX}keystore.location"), "config.conflict", "stands beside a chain or key");
                issues.push(issue.fix("write the file, or keystore.certificate.chain and keystore.key"));
                None
            }
            (None, chain, _) => {
                let (there, missing) = if chain.is_some() { ("certificate.chain", "key") } else { ("key", "certificate.chain") };
                let issue = Issue::error(
                    format!("{PREFIX}keystore.{there}"),
                    "config.conflict",
                    format!("stands without keystore.{missing}"),
                );
                issues.push(issue.fix(format!("add {PREFIX}keystore.{missing}")));
                None
            }
        };
        if self.client_auth != ClientAuth::None && self.truststore.is_none() {
            let issue = Issue::error(
                format!("{PREFIX}client.auth"),
                "config.missing",
                "needs the authorities that sign clients' certificates",
            );
            issues.push(issue.fix(format!("set {PREFIX}truststore.location")));
        }
        let headers = headers::read(&self.headers, issues);
        RestSettings {
            admin_listeners: self.admin_listeners.map(|listeners| listeners.0),
            headers,
            advertised_port: self.advertised_port,
            advertised_tls: self.advertised_listener.map(|scheme| scheme == Scheme::Https),
            users: self.users.as_ref().map(path),
            allow_plaintext: self.allow_plaintext,
            health_public: self.health_public,
            tls: keystore.map(|keystore| TlsSettings {
                keystore,
                truststore: self.truststore.as_ref().map(path),
                client_auth: self.client_auth,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker_config::WorkerConfig;

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
    fn what_cannot_be_says_what_to_do() {
        for (text, says) in [
            ("listeners.https.ssl.keystore.type: JKS", "keytool -importkeystore"),
            ("listeners.https.ssl.truststore.type: PKCS12", "-nokeys"),
            ("listeners.https.ssl.keystore.key: x", "add listeners.https.ssl.keystore.certificate.chain"),
            ("listeners.https.ssl.keystore.location: a\nlisteners.https.ssl.keystore.key: x", "stands beside"),
            ("listeners.https.ssl.client.auth: required", "set listeners.https.ssl.truststore.location"),
            ("listeners.https.ssl.client.auth: maybe", "required"),
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
