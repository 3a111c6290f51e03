//! The options of worker.yaml that concern Apache Kafka as the log: Kafka Connect's names, and the clients' own.

use crate::settings::{OverridePolicy, below};
use crate::types::{Family, List};
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Issue, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Where the log is, when it is Kafka.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `host:port`, at least one.
    pub bootstrap_servers: Vec<String>,
    pub config_topic: StorageTopic,
    pub offset_topic: StorageTopic,
    pub status_topic: StorageTopic,
    pub exactly_once: ExactlyOnceSource,
    /// For every client: `security.protocol`, `ssl.…`, `sasl.…`, and what else stands in worker.yaml under a client's name.
    pub common: ClientOptions,
    /// For the writers of sources, the readers of sinks and the admin client of connectors, over `common`: what follows `producer.`, ….
    pub producer: ClientOptions,
    pub consumer: ClientOptions,
    pub admin: ClientOptions,
}

/// One of Kafka Connect's internal topics, as it is created when it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageTopic {
    pub topic: String,
    /// -1: the broker's default.
    pub partitions: i32,
    /// -1: the broker's default. `None`: 3, or as many as there are brokers.
    pub replication_factor: Option<i16>,
    /// Beside `cleanup.policy=compact`, which always holds.
    pub configs: BTreeMap<String, String>,
}

/// Options of a Kafka client by Kafka's names. Its `Debug` shows no value: there are secrets among them (invariant 9).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientOptions(pub Options);

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `exactly.once.source.support`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExactlyOnceSource {
    Disabled,
    Preparing,
    #[default]
    Enabled,
}

/// Options of clients that Kafka Connect takes at the top of worker.yaml, beside the families `ssl.` and `sasl.`
const CLIENT_OPTIONS: [&str; 18] = [
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "default.api.timeout.ms",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "receive.buffer.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "security.protocol",
    "security.providers",
    "send.buffer.bytes",
    "socket.connection.setup.timeout.ms",
];

pub(super) fn is_client_option(key: &str) -> bool {
    CLIENT_OPTIONS.contains(&key) || key.starts_with("ssl.") || key.starts_with("sasl.")
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "families are read by their prefix")]
pub(super) struct KafkaOptions {
    /// The compacted topic, of one partition, with the connectors' configs. `<group.id>-configs` if not set.
    #[serde(rename = "config.storage.topic", default)]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "high"))]
    config_topic: Option<String>,
    /// Of that topic, when it is created; -1 is the broker's default. If not set: 3, or as many as there are brokers.
    #[serde(rename = "config.storage.replication.factor", default)]
    #[schemars(range(min = -1), extend("x-group" = "Kafka"))]
    config_replication: Option<i16>,
    /// Further configs of that topic, under Kafka's names.
    #[serde(rename = "config.storage.*")]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "low"))]
    config_configs: Family,
    /// The compacted topic with the offsets of sources. `<group.id>-offsets` if not set.
    #[serde(rename = "offset.storage.topic", default)]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "high"))]
    offset_topic: Option<String>,
    /// Of that topic, when it is created; -1 is the broker's default.
    #[serde(rename = "offset.storage.partitions", default = "twenty_five")]
    #[schemars(range(min = -1, max = 10_000), extend("x-group" = "Kafka"))]
    offset_partitions: i32,
    /// Of that topic, when it is created; -1 is the broker's default. If not set: 3, or as many as there are brokers.
    #[serde(rename = "offset.storage.replication.factor", default)]
    #[schemars(range(min = -1), extend("x-group" = "Kafka"))]
    offset_replication: Option<i16>,
    /// Further configs of that topic, under Kafka's names.
    #[serde(rename = "offset.storage.*")]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "low"))]
    offset_configs: Family,
    /// The compacted topic with the states of connectors and tasks. `<group.id>-status` if not set.
    #[serde(rename = "status.storage.topic", default)]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "high"))]
    status_topic: Option<String>,
    /// Of that topic, when it is created; -1 is the broker's default.
    #[serde(rename = "status.storage.partitions", default = "five")]
    #[schemars(range(min = -1, max = 10_000), extend("x-group" = "Kafka"))]
    status_partitions: i32,
    /// Of that topic, when it is created; -1 is the broker's default. If not set: 3, or as many as there are brokers.
    #[serde(rename = "status.storage.replication.factor", default)]
    #[schemars(range(min = -1), extend("x-group" = "Kafka"))]
    status_replication: Option<i16>,
    /// Further configs of that topic, under Kafka's names.
    #[serde(rename = "status.storage.*")]
    #[schemars(extend("x-group" = "Kafka", "x-importance" = "low"))]
    status_configs: Family,
    /// `enabled`: records and source offsets are one transaction. `disabled` and `preparing`: offsets are written after the records (at least once).
    #[serde(rename = "exactly.once.source.support", default)]
    #[schemars(extend("x-group" = "Kafka"))]
    exactly_once: ExactlyOnceSource,
    /// Which `producer.override.…`, `consumer.override.…` and `admin.override.…` connectors may set: `All`, `None`, `Principal` (who they are) or
    /// `Allowlist`.
    #[serde(rename = "connector.client.config.override.policy", default = "all")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    policy: String,
    /// What they may set with the policy `Allowlist`.
    #[serde(rename = "connector.client.config.override.allowlist", default)]
    #[schemars(extend("x-group" = "Kafka Clients", "x-importance" = "low"))]
    allowlist: List<String>,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    #[serde(rename = "security.protocol", default)]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    security_protocol: Option<String>,
    /// TLS, under the names of Kafka's clients: `ssl.truststore.location`, `ssl.keystore.location`, ….
    #[serde(rename = "ssl.*")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    ssl: Family,
    /// SASL, under the names of Kafka's clients: `sasl.mechanism`, `sasl.jaas.config`, ….
    #[serde(rename = "sasl.*")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    sasl: Family,
    /// Options of the producers that write the records of sources.
    #[serde(rename = "producer.*")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    producer: Family,
    /// Options of the consumers that read for sinks.
    #[serde(rename = "consumer.*")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    consumer: Family,
    /// Options of the admin client that creates the topics of connectors.
    #[serde(rename = "admin.*")]
    #[schemars(extend("x-group" = "Kafka Clients"))]
    admin: Family,
}

fn twenty_five() -> i32 {
    25
}

fn five() -> i32 {
    5
}

fn all() -> String {
    "All".to_owned()
}

impl KafkaOptions {
    /// What needs more than one key is in `issues`.
    pub(super) fn settings(self, servers: &[String], group_id: &str, given: &Options, issues: &mut Vec<Issue>) -> KafkaSettings {
        let topic = |prefix: &str, name: Option<String>, default: &str, partitions: i32, replication_factor: Option<i16>| {
            let mut configs = below(given, prefix);
            configs.retain(|key, _| !matches!(key.as_str(), "topic" | "partitions" | "replication.factor" | "cleanup.policy"));
            let topic = name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("{group_id}-{default}"));
            StorageTopic { topic, partitions, replication_factor, configs }
        };
        let settings = KafkaSettings {
            bootstrap_servers: servers.to_vec(),
            config_topic: topic("config.storage.", self.config_topic, "configs", 1, self.config_replication),
            offset_topic: topic("offset.storage.", self.offset_topic, "offsets", self.offset_partitions, self.offset_replication),
            status_topic: topic("status.storage.", self.status_topic, "status", self.status_partitions, self.status_replication),
            exactly_once: self.exactly_once,
            common: ClientOptions(
                given.iter().filter(|(key, _)| is_client_option(key)).map(|(key, value)| (key.clone(), value.clone())).collect(),
            ),
            producer: ClientOptions(below(given, "producer.")),
            consumer: ClientOptions(below(given, "consumer.")),
            admin: ClientOptions(below(given, "admin.")),
        };
        issues.extend(server_issues(servers));
        settings.issues(given, issues);
        settings
    }

    pub(super) fn override_policy(&self) -> Result<OverridePolicy, Box<Issue>> {
        let short = self.policy.trim().rsplit('.').next().unwrap_or_default();
        let short = short.strip_suffix("ConnectorClientConfigOverridePolicy").unwrap_or(short);
        match short.to_ascii_lowercase().as_str() {
            "all" => Ok(OverridePolicy::All),
            "none" => Ok(OverridePolicy::None),
            "principal" => Ok(OverridePolicy::Principal),
            "allowlist" => Ok(OverridePolicy::Allowlist(self.allowlist.iter().cloned().collect())),
            _ => {
                let message = format!("{:?} is no policy", self.policy);
                let issue = Issue::error("connector.client.config.override.policy", "config.enum", message);
                Err(Box::new(issue.fix("use All, None, Principal or Allowlist")))
            }
        }
    }
}

impl KafkaSettings {
    fn topics(&self) -> [(&'static str, &StorageTopic); 3] {
        [
            ("config.storage.", &self.config_topic),
            ("offset.storage.", &self.offset_topic),
            ("status.storage.", &self.status_topic),
        ]
    }

    fn issues(&self, given: &Options, issues: &mut Vec<Issue>) {
        let mut seen = BTreeMap::new();
        for (prefix, storage) in self.topics() {
            let path = format!("{prefix}topic");
            if !is_valid_topic_name(&storage.topic) {
                let issue = Issue::error(&path, "config.topic", format!("{:?} is not a topic name", storage.topic));
                issues.push(issue.fix("use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"));
            }
            if let Some(other) = seen.insert(storage.topic.clone(), prefix) {
                let message = format!("{} is also {other}topic: each has a topic of its own", storage.topic);
                issues.push(Issue::error(&path, "config.conflict", message).fix("name another topic"));
            }
            for (key, zero) in
                [("replication.factor", storage.replication_factor == Some(0)), ("partitions", storage.partitions == 0)]
            {
                if zero {
                    let issue = Issue::error(format!("{prefix}{key}"), "config.range", "0 is not allowed here");
                    issues.push(issue.fix("write 1 or more, or -1 for the broker's default"));
                }
            }
            let path = format!("{prefix}cleanup.policy");
            if given.get(&path).is_some_and(|policy| policy.trim() != "compact") {
                let message = "must be compact: with another policy configs, offsets or states would be lost";
                issues.push(Issue::error(path, "config.conflict", message).fix("remove the line"));
            }
        }
        if given.get("config.storage.partitions").is_some_and(|partitions| partitions.trim() != "1") {
            let message = "must be 1: the order of configs is the order of one partition";
            issues.push(Issue::error("config.storage.partitions", "config.range", message).fix("remove the line"));
        }
    }
}

fn server_issues(servers: &[String]) -> Vec<Issue> {
    let fix = "write `bootstrap.servers: host:9092`, or several with commas";
    if servers.is_empty() {
        return vec![Issue::error("bootstrap.servers", "config.range", "is empty").fix(fix)];
    }
    let bad = servers.iter().filter(|server| {
        // Kafka's clients take `PLAINTEXT://host:9092` too.
        let address = server.split_once("://").map_or(server.as_str(), |(_, address)| address);
        address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err() || port == "0")
    });
    bad.map(|server| Issue::error("bootstrap.servers", "config.address", format!("{server:?} is no host:port")).fix(fix))
        .collect()
}
