//! The certificates of `https://` listeners, under Kafka Connect's names: `listeners.https.ssl.…`, and `admin.listeners.https.ssl.…` for those of
//! `/admin`.

use crate::types::{PathText, Secret};
use aqueduct_core::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct TlsOptions {
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

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AdminTlsOptions {
    /// `PEM`, the only type there is.
    #[serde(rename = "admin.listeners.https.ssl.keystore.type", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    keystore_type: Option<String>,
    /// A PEM file with the private key, not encrypted, and the chain of certificates of `https://` addresses in `admin.listeners`. If none of
    /// these options is set, `listeners.https.…` count for them too.
    #[serde(rename = "admin.listeners.https.ssl.keystore.location", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    keystore: Option<PathText>,
    /// The chain, in PEM, instead of a file: `${file:…}`, say.
    #[serde(rename = "admin.listeners.https.ssl.keystore.certificate.chain", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    chain: Option<String>,
    /// Its private key, in PEM.
    #[serde(rename = "admin.listeners.https.ssl.keystore.key", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    key: Option<Secret>,
    /// `PEM`, the only type there is.
    #[serde(rename = "admin.listeners.https.ssl.truststore.type", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    truststore_type: Option<String>,
    /// A PEM file with the authorities that sign clients' certificates.
    #[serde(rename = "admin.listeners.https.ssl.truststore.location", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    truststore: Option<PathText>,
    /// Whether clients have certificates: `none`, `requested` or `required`.
    #[serde(rename = "admin.listeners.https.ssl.client.auth", default)]
    #[schemars(extend("x-group" = "REST", "x-importance" = "low"))]
    client_auth: Option<ClientAuth>,
}

fn pem() -> String {
    "PEM".to_owned()
}

impl TlsOptions {
    pub(super) fn settings(self, issues: &mut Vec<Issue>) -> Option<TlsSettings> {
        self.checked("listeners.https.ssl.", issues)
    }

    /// `None`, and no issue, where nothing is set.
    fn checked(self, prefix: &str, issues: &mut Vec<Issue>) -> Option<TlsSettings> {
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
                issues.push(Issue::error(format!("{prefix}{key}"), "config.keystore_type", message).fix(convert));
            }
        }
        let path = |path: &PathText| path.to_path_buf();
        let keystore = match (&self.keystore, self.chain, self.key) {
            (Some(file), None, None) => Some(Keystore::File(path(file))),
            (None, Some(chain), Some(key)) => Some(Keystore::Inline { chain, key }),
            (None, None, None) => None,
            (Some(_), ..) => {
                let issue = Issue::error(format!("{prefix}keystore.location"), "config.conflict", "stands beside a chain or key");
                issues.push(issue.fix("write the file, or keystore.certificate.chain and keystore.key"));
                None
            }
            (None, chain, _) => {
                let (there, missing) = if chain.is_some() { ("certificate.chain", "key") } else { ("key", "certificate.chain") };
                let issue = Issue::error(
                    format!("{prefix}keystore.{there}"),
                    "config.conflict",
                    format!("stands without keystore.{missing}"),
                );
                issues.push(issue.fix(format!("add {prefix}keystore.{missing}")));
                None
            }
        };
        if self.client_auth != ClientAuth::None && self.truststore.is_none() {
            let issue = Issue::error(
                format!("{prefix}client.auth"),
                "config.missing",
                "needs the authorities that sign clients' certificates",
            );
            issues.push(issue.fix(format!("set {prefix}truststore.location")));
        }
        Some(TlsSettings { keystore: keystore?, truststore: self.truststore.as_ref().map(path), client_auth: self.client_auth })
    }
}

impl AdminTlsOptions {
    /// `None` where nothing is set: all or nothing, as in Kafka Connect.
    pub(super) fn settings(self, issues: &mut Vec<Issue>) -> Option<TlsSettings> {
        const PREFIX: &str = "admin.listeners.https.ssl.";
        let others = self.keystore_type.is_some() || self.truststore_type.is_some() || self.truststore.is_some();
        let others = others || self.client_auth.is_some();
        if others && self.keystore.is_none() && self.chain.is_none() && self.key.is_none() {
            let message = "is missing: the certificate of `listeners` does not count where another option of these is set";
            let issue = Issue::error(format!("{PREFIX}keystore.location"), "config.missing", message);
            issues.push(issue.fix(format!("set {PREFIX}keystore.location to a PEM file with a key and its chain")));
        }
        let options = TlsOptions {
            keystore_type: self.keystore_type.unwrap_or_else(pem),
            keystore: self.keystore,
            chain: self.chain,
            key: self.key,
            truststore_type: self.truststore_type.unwrap_or_else(pem),
            truststore: self.truststore,
            client_auth: self.client_auth.unwrap_or_default(),
        };
        options.checked(PREFIX, issues)
    }
}
