//! The options of the connection to the other cluster, by Kafka's names; and the connection.

use crate::error;
use crate::security;
use aqueduct_config::options::invalid;
use aqueduct_config::{KafkaSecurity, Millis, Secret};
use aqueduct_core::{Issue, Options, Result};
use krafka::Kafka;
use std::fmt;
use std::time::Duration;

/// Texts only: they are read through `#[serde(flatten)]`, which knows no numbers in text. All are judged in [`ClientOptions::issues`].
macro_rules! client_options {
    ($name:ident, $prefix:literal) => {
        /// The connection to the other cluster.
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        pub struct $name {
            /// Brokers of the other cluster to begin with, as `host:port,…`. Required.
            #[serde(rename = "bootstrap.servers", default)]
            #[schemars(extend("x-importance" = "high", "x-group" = "Cluster", "x-example" = "broker1:9092,broker2:9092", "x-aliases" = [concat!($prefix, "bootstrap.servers")]))]
            bootstrap_servers: Option<String>,
            /// What the brokers' logs and quotas know this client by.
            #[serde(rename = "client.id", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Cluster", "x-aliases" = [concat!($prefix, "client.id")]))]
            client_id: Option<String>,
            /// `PLAINTEXT` (the default), `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
            #[serde(rename = "security.protocol", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "security.protocol")]))]
            security_protocol: Option<String>,
            /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
            #[serde(rename = "sasl.mechanism", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.mechanism")]))]
            sasl_mechanism: Option<String>,
            /// User and password as Kafka's clients have them: `org.apache.kafka.common.security.plain.PlainLoginModule required username="…" password="…";`, or `scram.ScramLoginModule`.
            #[serde(rename = "sasl.jaas.config", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.jaas.config")]))]
            sasl_jaas_config: Option<Secret>,
            /// With `OAUTHBEARER`: the URL where an OpenID provider gives tokens.
            #[serde(rename = "sasl.oauthbearer.token.endpoint.url", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.oauthbearer.token.endpoint.url")]))]
            sasl_oauthbearer_url: Option<String>,
            /// With `OAUTHBEARER`: the id that the provider knows this client by; or `clientId` in `sasl.jaas.config`.
            #[serde(rename = "sasl.oauthbearer.client.credentials.client.id", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.oauthbearer.client.credentials.client.id")]))]
            sasl_oauthbearer_id: Option<String>,
            /// The secret of that id; or `clientSecret` in `sasl.jaas.config`.
            #[serde(rename = "sasl.oauthbearer.client.credentials.client.secret", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.oauthbearer.client.credentials.client.secret")]))]
            sasl_oauthbearer_secret: Option<Secret>,
            /// The scope that is asked for.
            #[serde(rename = "sasl.oauthbearer.scope", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.oauthbearer.scope")]))]
            sasl_oauthbearer_scope: Option<String>,
            /// A PEM file with the authorities that sign the brokers' certificates; the system's if not given.
            #[serde(rename = "ssl.truststore.location", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.truststore.location")]))]
            ssl_truststore_location: Option<String>,
            /// The same as PEM text in place of a file.
            #[serde(rename = "ssl.truststore.certificates", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.truststore.certificates")]))]
            ssl_truststore_certificates: Option<String>,
            /// A PEM file with this client's certificate and private key, where the brokers want one.
            #[serde(rename = "ssl.keystore.location", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.keystore.location")]))]
            ssl_keystore_location: Option<String>,
            /// The client's certificate as PEM text, with `ssl.keystore.key`.
            #[serde(rename = "ssl.keystore.certificate.chain", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.keystore.certificate.chain")]))]
            ssl_keystore_certificate_chain: Option<String>,
            /// The client's private key as PEM text.
            #[serde(rename = "ssl.keystore.key", default)]
            #[schemars(extend("x-importance" = "low", "x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.keystore.key")]))]
            ssl_keystore_key: Option<Secret>,
            /// Of the private key, where it is encrypted.
            #[serde(rename = "ssl.key.password", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "ssl.key.password")]))]
            ssl_key_password: Option<Secret>,
        }

        impl $name {
            pub(crate) fn options(&self) -> $crate::client::ClientOptions {
                let text = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
                let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
                let security = [
                    ("security.protocol", self.security_protocol.clone()),
                    ("sasl.mechanism", self.sasl_mechanism.clone()),
                    ("sasl.jaas.config", secret(&self.sasl_jaas_config)),
                    ("sasl.oauthbearer.token.endpoint.url", self.sasl_oauthbearer_url.clone()),
                    ("sasl.oauthbearer.client.credentials.client.id", self.sasl_oauthbearer_id.clone()),
                    ("sasl.oauthbearer.client.credentials.client.secret", secret(&self.sasl_oauthbearer_secret)),
                    ("sasl.oauthbearer.scope", self.sasl_oauthbearer_scope.clone()),
                    ("ssl.truststore.location", self.ssl_truststore_location.clone()),
                    ("ssl.truststore.certificates", self.ssl_truststore_certificates.clone()),
                    ("ssl.keystore.location", self.ssl_keystore_location.clone()),
                    ("ssl.keystore.certificate.chain", self.ssl_keystore_certificate_chain.clone()),
                    ("ssl.keystore.key", secret(&self.ssl_keystore_key)),
                    ("ssl.key.password", secret(&self.ssl_key_password)),
                ];
                $crate::client::ClientOptions {
                    bootstrap_servers: text(&self.bootstrap_servers).unwrap_or_default(),
                    client_id: text(&self.client_id),
                    security: security.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
                }
            }
        }
    };
}

client_options!(SourceClient, "source.cluster.");
client_options!(TargetClient, "target.cluster.");

#[derive(Clone, Default)]
pub(crate) struct ClientOptions {
    pub(crate) bootstrap_servers: String,
    pub(crate) client_id: Option<String>,
    /// By Kafka's names, passwords among them (invariant 9).
    pub(crate) security: Options,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.security.keys().collect();
        f.debug_struct("ClientOptions").field("bootstrap_servers", &self.bootstrap_servers).field("security", &names).finish()
    }
}

/// A broker that does not take a connection in this time is not there: a wrong address is told within ten seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn request_timeout() -> Millis {
    Millis::from_secs(30)
}

fn told(issue: Issue) -> Issue {
    match issue.fix {
        Some(_) => issue,
        None => issue.fix("the README of the connector shows how logins and certificates are written"),
    }
}

impl ClientOptions {
    /// Pure.
    pub(crate) fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        let path = "bootstrap.servers";
        if self.bootstrap_servers.is_empty() {
            let issue = Issue::error(path, "config.missing", "is required and has no default");
            issues.push(issue.fix("add `bootstrap.servers: broker1:9092` (Brokers of the other cluster to begin with)"));
        }
        for address in self.bootstrap_servers.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let port =
                address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                let issue = Issue::error(path, "kafka.address", format!("{address:?} is not host:port"));
                issues.push(issue.fix("write `host:9092`, and a comma between several"));
            }
        }
        issues.extend(KafkaSecurity::issues(&self.security).into_iter().map(told));
        issues
    }

    /// Connects to one of the brokers.
    ///
    /// # Errors
    /// `kafka.unreachable` (retriable), `kafka.authentication`, `kafka.config`.
    pub(crate) async fn connect(&self, client_id: &str, request_timeout: Duration) -> Result<Kafka> {
        let issues = self.issues();
        if !issues.is_empty() {
            return Err(invalid(&issues));
        }
        let connect = Kafka::builder(self.bootstrap_servers.clone())
            .client_id(self.client_id.as_deref().unwrap_or(client_id))
            .security(security::auth(self).await?)
            .request_timeout(request_timeout.max(CONNECT_TIMEOUT))
            .connect_timeout(CONNECT_TIMEOUT)
            // Topics are looked at when they are due; one that is read must not be forgotten in between.
            .metadata_topic_cache_ttl(None)
            .connect();
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT * 2, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(krafka::KrafkaError::timeout("no broker answered")),
        };
        connected.map_err(|error| error::from(&format!("connect to {}", self.bootstrap_servers), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_config::parse;

    #[tokio::test]
    async fn every_login_is_made_of_the_options_under_either_name() {
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"a\" password=\"top-secret\";";
        let scram = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", login)];
        let bearer = [
            ("source.cluster.security.protocol", "SASL_SSL"),
            ("source.cluster.sasl.mechanism", "OAUTHBEARER"),
            ("source.cluster.sasl.oauthbearer.token.endpoint.url", "https://idp.example/token"),
            ("sasl.oauthbearer.client.credentials.client.id", "me"),
            ("sasl.oauthbearer.client.credentials.client.secret", "top-secret"),
        ];
        for (given, tls) in [(&scram[..], false), (&bearer[..], true)] {
            let pairs = given.iter().chain(&[("bootstrap.servers", "a:9092")]);
            let pairs: Options = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let options = parse::<SourceClient>(&pairs).unwrap().options();
            assert_eq!(options.issues(), []);
            assert!(!format!("{options:?}").contains("top-secret"), "{options:?}");
            let auth = security::auth(&options).await.unwrap();
            assert_eq!((auth.requires_sasl(), auth.requires_tls()), (true, tls));
            // Without its secret.
            let without: Options = pairs.into_iter().filter(|(_, value)| !value.contains("top-secret")).collect();
            let issues = parse::<SourceClient>(&without).unwrap().options().issues();
            assert!(issues.len() == 1 && issues[0].code == "kafka.config" && issues[0].fix.is_some(), "{issues:?}");
        }
    }
}
