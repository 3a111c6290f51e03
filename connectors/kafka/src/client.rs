//! The options of the connection to the other cluster, by Kafka's names; and the connection.

use crate::error;
use crate::security;
use aqueduct_config::options::invalid;
use aqueduct_config::{Millis, Secret};
use aqueduct_core::{Issue, Result};
use krafka::Kafka;
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
            /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
            #[serde(rename = "sasl.mechanism", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.mechanism")]))]
            sasl_mechanism: Option<String>,
            /// User and password as Kafka's clients have them: `org.apache.kafka.common.security.plain.PlainLoginModule required username="…" password="…";`, or `scram.ScramLoginModule`.
            #[serde(rename = "sasl.jaas.config", default)]
            #[schemars(extend("x-group" = "Security", "x-aliases" = [concat!($prefix, "sasl.jaas.config")]))]
            sasl_jaas_config: Option<Secret>,
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
                let secret = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.expose().trim().is_empty());
                $crate::client::ClientOptions {
                    bootstrap_servers: text(&self.bootstrap_servers).unwrap_or_default(),
                    client_id: text(&self.client_id),
                    security_protocol: text(&self.security_protocol),
                    sasl_mechanism: text(&self.sasl_mechanism),
                    sasl_jaas_config: secret(&self.sasl_jaas_config),
                    ssl_truststore_location: text(&self.ssl_truststore_location),
                    ssl_truststore_certificates: text(&self.ssl_truststore_certificates),
                    ssl_keystore_location: text(&self.ssl_keystore_location),
                    ssl_keystore_certificate_chain: text(&self.ssl_keystore_certificate_chain),
                    ssl_keystore_key: secret(&self.ssl_keystore_key),
                    ssl_key_password: secret(&self.ssl_key_password),
                }
            }
        }
    };
}

client_options!(SourceClient, "source.cluster.");
client_options!(TargetClient, "target.cluster.");

#[derive(Clone, Debug, Default)]
pub(crate) struct ClientOptions {
    pub(crate) bootstrap_servers: String,
    pub(crate) client_id: Option<String>,
    pub(crate) security_protocol: Option<String>,
    pub(crate) sasl_mechanism: Option<String>,
    pub(crate) sasl_jaas_config: Option<Secret>,
    pub(crate) ssl_truststore_location: Option<String>,
    pub(crate) ssl_truststore_certificates: Option<String>,
    pub(crate) ssl_keystore_location: Option<String>,
    pub(crate) ssl_keystore_certificate_chain: Option<String>,
    pub(crate) ssl_keystore_key: Option<Secret>,
    pub(crate) ssl_key_password: Option<Secret>,
}

/// A broker that does not take a connection in this time is not there: a wrong address is told within ten seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn request_timeout() -> Millis {
    Millis::from_secs(30)
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
        security::check(self, &mut issues);
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
