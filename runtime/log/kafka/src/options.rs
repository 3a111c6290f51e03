//! Options of the log and of its clients, by Kafka's names.

mod names;
mod parse;
mod security;

use aqueduct_config::settings::ClientOverrides;
use aqueduct_config::worker_config::{ClientOptions, ExactlyOnceSource, KafkaSettings, StorageTopic};
use aqueduct_core::{Error, Issue, Options, Result};
use aqueduct_log::record_batch::Compression;
use krafka::__private::network::{ConnectionConfig, ConnectionPool};
use krafka::auth::AuthConfig;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Of worker.yaml.
    pub settings: KafkaSettings,
    /// `group.id` of the workers: begins every transactional id.
    pub group_id: String,
}

impl KafkaOptions {
    /// With the defaults of worker.yaml.
    pub fn new(bootstrap_servers: &str, group_id: &str) -> Self {
        let storage = |name: &str, partitions| StorageTopic {
            topic: format!("{group_id}-{name}"),
            partitions,
            replication_factor: None,
            configs: BTreeMap::new(),
        };
        let settings = KafkaSettings {
            bootstrap_servers: bootstrap_servers.split(',').map(|server| server.trim().to_owned()).collect(),
            config_topic: storage("configs", 1),
            offset_topic: storage("offsets", 25),
            status_topic: storage("status", 5),
            exactly_once: ExactlyOnceSource::Enabled,
            common: ClientOptions::default(),
            producer: ClientOptions::default(),
            consumer: ClientOptions::default(),
            admin: ClientOptions::default(),
        };
        Self { settings, group_id: group_id.to_owned() }
    }

    /// `overrides` are a connector's, over the worker's.
    ///
    /// # Errors
    /// `kafka.config` (fatal) naming the option that cannot be mapped; never its value when it may be a secret (invariant 9).
    pub(crate) fn client(&self, kind: ClientKind, client_id: &str, overrides: &Options) -> Result<ClientConfig> {
        let of_kind = match kind {
            ClientKind::Producer => &self.settings.producer,
            ClientKind::Consumer => &self.settings.consumer,
            ClientKind::Admin => &self.settings.admin,
        };
        let mut options = self.settings.common.0.clone();
        for layer in [&of_kind.0, overrides] {
            options.extend(layer.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        ClientConfig::parse(kind, client_id, &options)
    }

    /// What is wrong with the options of clients in worker.yaml: the first of each kind of client.
    pub fn worker_issues(&self) -> Vec<Issue> {
        let kinds = [
            ("producer", ClientKind::Producer, &self.settings.producer),
            ("consumer", ClientKind::Consumer, &self.settings.consumer),
            ("admin", ClientKind::Admin, &self.settings.admin),
        ];
        let mut issues: Vec<Issue> = Vec::new();
        for (client, kind, own) in kinds {
            let Err(error) = self.client(kind, client, &Options::new()) else { continue };
            let of_kind = |name: &str| own.0.contains_key(name).then(|| format!("{client}.{name}"));
            let issue = issue(&error, |name| of_kind(name).unwrap_or_else(|| name.to_owned()));
            if !issues.contains(&issue) {
                issues.push(issue);
            }
        }
        issues
    }

    /// What is wrong with a connector's `producer.override.…`, `consumer.override.…` and `admin.override.…`, each option by its whole name. Opens
    /// nothing but the certificates that they name.
    pub fn issues(&self, connector: &Options) -> Vec<Issue> {
        let overrides = ClientOverrides::of(connector);
        let clients = [
            ("producer", ClientKind::Producer, &overrides.producer),
            ("consumer", ClientKind::Consumer, &overrides.consumer),
            ("admin", ClientKind::Admin, &overrides.admin),
        ];
        let mut issues = Vec::new();
        for (client, kind, own) in clients.into_iter().filter(|(.., own)| !own.is_empty()) {
            let of_client = |error: Error| issue(&error, |name| format!("{client}.override.{name}"));
            let before = issues.len();
            issues.extend(ClientConfig::check_names(kind, own).into_iter().map(of_client));
            if issues.len() > before {
                continue;
            }
            let config = self.client(kind, client, own).and_then(|config| match kind {
                ClientKind::Producer => {
                    let transactional = self.settings.exactly_once == ExactlyOnceSource::Enabled;
                    crate::producer::acks(config.producer.acks, transactional).map(drop)
                }
                _ => Ok(()),
            });
            issues.extend(config.err().map(of_client));
        }
        issues
    }
}

/// Errors of options begin with the option's name.
fn issue(error: &Error, path: impl Fn(&str) -> String) -> Issue {
    let (name, message) = error.message().split_once(": ").unwrap_or(("", error.message()));
    let issue = Issue::error(path(name), error.code(), message);
    match error.hint() {
        Some(fix) => issue.fix(fix),
        None => issue,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Producer,
    Consumer,
    Admin,
}

/// What one client does.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub(crate) client_id: String,
    pub(crate) security: AuthConfig,
    /// `request.timeout.ms`
    pub(crate) request_timeout: Duration,
    /// `socket.connection.setup.timeout.ms`
    pub(crate) connect_timeout: Duration,
    /// `default.api.timeout.ms`
    pub(crate) api_timeout: Duration,
    /// `retry.backoff.ms`, `retry.backoff.max.ms`
    pub(crate) backoff: (Duration, Duration),
    /// `connections.max.idle.ms`
    pub(crate) max_idle: Duration,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) receive_buffer: Option<usize>,
    /// `client.rack`
    pub(crate) rack: String,
    pub(crate) producer: ProducerConfig,
    pub(crate) consumer: ConsumerConfig,
}

#[derive(Clone, Debug)]
pub(crate) struct ProducerConfig {
    pub(crate) acks: Acks,
    pub(crate) compression: Compression,
    /// `batch.size`, `buffer.memory`, `max.request.size`: bytes.
    pub(crate) batch_bytes: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) max_request_bytes: usize,
    pub(crate) linger: Duration,
    /// `max.in.flight.requests.per.connection`: 1 to 5.
    pub(crate) in_flight: usize,
    /// `transaction.timeout.ms`, `delivery.timeout.ms`
    pub(crate) transaction_timeout: Duration,
    pub(crate) delivery_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    None,
    Leader,
    All,
}

#[derive(Clone, Debug)]
pub(crate) struct ConsumerConfig {
    /// `fetch.max.bytes`, `max.partition.fetch.bytes`, `fetch.min.bytes`
    pub(crate) fetch_bytes: usize,
    pub(crate) partition_bytes: usize,
    pub(crate) min_bytes: usize,
    /// `fetch.max.wait.ms`
    pub(crate) fetch_wait: Duration,
    /// `max.poll.interval.ms`: how long a rebalance waits for a sink.
    pub(crate) max_poll_interval: Duration,
    pub(crate) offset_reset: OffsetReset,
}

/// `auto.offset.reset`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetReset {
    Earliest,
    Latest,
    /// `none`: a partition without a position is an error.
    Refuse,
}

impl ClientConfig {
    /// # Errors
    /// `kafka.config` (fatal): certificates that cannot be read.
    pub(crate) async fn pool(&self) -> Result<Arc<ConnectionPool>> {
        let unfit = |error: krafka::KrafkaError| crate::error::connection("security", &error);
        let mut config = ConnectionConfig::builder()
            .client_id(&self.client_id)
            .request_timeout(self.request_timeout.max(self.connect_timeout))
            .connect_timeout(self.connect_timeout)
            .max_in_flight_requests(self.producer.in_flight.max(IN_FLIGHT_MIN))
            .socket_send_buffer(self.send_buffer)
            .socket_receive_buffer(self.receive_buffer)
            .auth(self.security.clone())
            .build()
            .map_err(unfit)?;
        config.init_tls().await.map_err(unfit)?;
        let pool = Arc::new(ConnectionPool::new(config).with_max_idle(Some(self.max_idle)));
        pool.start_idle_evictor();
        Ok(pool)
    }

    /// The pause after so many failures: doubles up to the maximum, and is spread by a fifth so that clients do not come all at once.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let (first, most) = self.backoff;
        first.saturating_mul(1 << failures.min(16)).min(most).mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

/// Metadata and coordination go beside the producer's requests on their own connections; ten is the default of krafka.
const IN_FLIGHT_MIN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn issues(kafka: &KafkaOptions, pairs: &[(&str, &str)]) -> Vec<String> {
        let connector = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        kafka.issues(&connector).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_override_is_checked_by_its_name_and_value() {
        let mut kafka = KafkaOptions::new("localhost:9092", "g");
        let good = [
            ("producer.override.compression.type", "zstd"),
            ("consumer.override.client.id", "mine"),
            ("admin.override.request.timeout.ms", "1000"),
            ("topic", "t"),
        ];
        assert_eq!(issues(&kafka, &good), Vec::<String>::new());
        let bad = issues(
            &kafka,
            &[
                ("producer.override.compresion.type", "zstd"),
                ("producer.override.partitioner.class", "x.Y"),
                ("consumer.override.acks", "all"),
                ("admin.override.request.timeout.ms", "soon"),
            ],
        );
        assert_eq!(bad.len(), 4, "{bad:#?}");
        assert!(
            bad[0].starts_with("producer.override.compresion.type: ") && bad[0].contains("did you mean compression.type?"),
            "{bad:?}"
        );
        assert!(bad[1].starts_with("producer.override.partitioner.class: cannot be mapped"), "{bad:?}");
        assert!(bad[2].starts_with("consumer.override.acks: is no option of consumers"), "{bad:?}");
        assert!(bad[3].starts_with("admin.override.request.timeout.ms: ") && bad[3].contains("soon"), "{bad:?}");

        let acks = [("producer.override.acks", "1")];
        assert!(issues(&kafka, &acks)[0].starts_with("producer.override.acks: 1 cannot promise exactly once"));
        kafka.settings.exactly_once = ExactlyOnceSource::Disabled;
        assert_eq!(issues(&kafka, &acks), Vec::<String>::new());
    }

    #[test]
    fn the_workers_own_options_are_checked_with_theirs() {
        let mut kafka = KafkaOptions::new("localhost:9092", "g");
        kafka.settings.common.0.insert("security.protocol".to_owned(), "SASL".to_owned());
        let path = |kafka: &KafkaOptions| kafka.worker_issues().iter().map(|issue| issue.path.clone()).collect::<Vec<_>>();
        assert_eq!(path(&kafka), ["security.protocol"]);
        kafka.settings.common.0.clear();
        kafka.settings.producer.0.insert("linger.ms".to_owned(), "-1".to_owned());
        assert_eq!(path(&kafka), ["producer.linger.ms"]);
        // What the worker says and what the connector says must go together.
        kafka.settings.producer.0.clear();
        kafka.settings.common.0.insert("security.protocol".to_owned(), "SASL_PLAINTEXT".to_owned());
        assert!(!issues(&kafka, &[("producer.override.sasl.mechanism", "GSSAPI")]).is_empty());
    }
}
