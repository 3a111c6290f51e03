//! One client of the cluster: its name, its connections, whom to ask what, and when to ask again.

use crate::cluster::{Cluster, TopicMeta};
use crate::error::{self, At};
use crate::options::ClientConfig;
use aqueduct_core::{Error, Result, Topic, TopicPartition};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::{Decodable, Message, Request, StrBytes};
use krafka::__private::network::{BrokerConnection, ConnectionPool};
use krafka::__private::protocol::ApiKey;
use krafka::KrafkaError;
use krafka::error::ProtocolErrorKind;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) type Connection = Arc<BrokerConnection>;

/// When one address does not answer, the next is tried beside it after this time.
const STAGGER: Duration = Duration::from_millis(500);

/// Cheap to share. Requests on one connection are answered in order, so what polls long has a client of its own.
pub(crate) struct Client {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) config: ClientConfig,
    pool: Arc<ConnectionPool>,
    /// `host:port` of group and transaction coordinators.
    coordinators: Mutex<FxHashMap<(CoordinatorOf, String), String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CoordinatorOf {
    Group,
    Transaction,
}

/// Whom to ask about a partition.
#[derive(Clone)]
pub(crate) struct Leader {
    pub(crate) broker: i32,
    pub(crate) epoch: i32,
    pub(crate) topic: Arc<TopicMeta>,
}

impl Client {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// `kafka.config` (fatal): certificates that cannot be read.
    pub(crate) async fn open(cluster: Arc<Cluster>, config: ClientConfig) -> Result<Self> {
        let pool = config.pool().await?;
        Ok(Self { cluster, config, pool, coordinators: Mutex::default() })
    }

    /// One request, one response. What the response says of errors is the caller's to read.
    ///
    /// # Errors
    /// `kafka.unreachable`, `kafka.protocol` (retriable); `kafka.unsupported` (fatal) where the broker has no such request.
    pub(crate) async fn send<R: Request>(&self, connection: &BrokerConnection, request: &R) -> Result<R::Response> {
        self.send_patiently(connection, request, Duration::ZERO).await
    }

    /// For a request that the broker may hold back for `wait`.
    pub(crate) async fn send_patiently<R: Request>(
        &self,
        connection: &BrokerConnection,
        request: &R,
        wait: Duration,
    ) -> Result<R::Response> {
        let (key, versions) = (ApiKey::from_i16(R::KEY), <R as Message>::VERSIONS);
        let address = connection.address();
        let version = connection.negotiate_api_version(key, versions.max, versions.min).ok_or_else(|| {
            Error::fatal("kafka.unsupported", format!("{address}: no common version of {key}"))
                .fix("use Apache Kafka 3.9 or later")
        })?;
        let encode = |buffer: &mut bytes::BytesMut| {
            request.encode(buffer, version).map_err(|error| {
                KrafkaError::protocol_kind(ProtocolErrorKind::InvalidValue, format!("{key} v{version}: {error}"))
            })
        };
        let sent = connection.send_request_with_timeout(key, version, self.config.request_timeout + wait, encode).await;
        let mut bytes = sent.map_err(|error| error::connection(address, &error))?;
        R::Response::decode(&mut bytes, version)
            .map_err(|error| Error::retriable("kafka.protocol", format!("{address}: {key} v{version}: {error}")))
    }

    /// A connection to some broker.
    ///
    /// # Errors
    /// `kafka.unreachable` naming every address; `kafka.authentication`.
    pub(crate) async fn any(&self) -> Result<Connection> {
        let mut addresses = self.cluster.addresses().into_iter();
        let mut dials = FuturesUnordered::new();
        let dial = |address: Arc<str>| async move { (self.pool.get_connection(&address).await, address) };
        dials.extend(addresses.next().map(dial));
        let mut failed = Vec::new();
        loop {
            tokio::select! {
                biased;
                dialed = dials.next() => match dialed {
                    Some((Ok(connection), _)) => return Ok(connection),
                    Some((Err(error), address)) => {
                        failed.push(error::connection(&address, &error));
                        dials.extend(addresses.next().map(dial));
                    }
                    None => return Err(self.unreachable(failed)),
                },
                () = sleep(STAGGER), if addresses.len() > 0 => dials.extend(addresses.next().map(dial)),
            }
        }
    }

    fn unreachable(&self, mut failed: Vec<Error>) -> Error {
        if let Some(at) = failed.iter().position(|error| !error.is_retriable()) {
            return failed.swap_remove(at);
        }
        let tried: Vec<_> = failed.iter().map(Error::message).collect();
        let message = format!("no broker of {} answers: {}", self.cluster.bootstrap.join(","), tried.join("; "));
        Error::retriable("kafka.unreachable", message)
            .fix("correct bootstrap.servers (and security.protocol) in worker.yaml, or start the broker")
    }

    /// The connection to one broker, for everything that is answered at once.
    pub(crate) async fn broker(&self, id: i32) -> Result<Connection> {
        if self.cluster.address(id).is_none() {
            self.look(&[]).await?;
        }
        let address = self
            .cluster
            .address(id)
            .ok_or_else(|| Error::retriable("kafka.unreachable", format!("broker {id} is not there at the moment")))?;
        self.pool.get_connection_by_id(id, &address).await.map_err(|error| error::connection(&address, &error))
    }

    /// What a broker says of these topics now. An unknown one is `None`.
    pub(crate) async fn look(&self, names: &[&str]) -> Result<Vec<(Topic, Option<Arc<TopicMeta>>)>> {
        let topics = names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect();
        let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
        let connection = self.any().await?;
        self.look_with(&connection, &request).await
    }

    /// All topics that this client may see.
    pub(crate) async fn look_at_all(&self) -> Result<Vec<Arc<TopicMeta>>> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let connection = self.any().await?;
        Ok(self.look_with(&connection, &request).await?.into_iter().filter_map(|(_, topic)| topic).collect())
    }

    pub(crate) async fn look_with(
        &self,
        connection: &BrokerConnection,
        request: &MetadataRequest,
    ) -> Result<Vec<(Topic, Option<Arc<TopicMeta>>)>> {
        let response = self.send(connection, request).await?;
        let of_named = request.topics.is_some();
        let mut topics = Vec::new();
        for (name, topic) in self.cluster.update(response) {
            match topic {
                Ok(topic) => topics.push((name, Some(topic))),
                Err(ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException) => topics.push((name, None)),
                Err(error) if of_named => {
                    return Err(At::new("look up topic", &name, "--operation Describe --topic").error(error, None));
                }
                Err(_) => {}
            }
        }
        Ok(topics)
    }

    /// As it was last seen, else as a broker says.
    pub(crate) async fn topic(&self, name: &str) -> Result<Option<Arc<TopicMeta>>> {
        match self.cluster.topic(name) {
            Some(topic) => Ok(Some(topic)),
            None => Ok(self.look(&[name]).await?.pop().and_then(|(_, topic)| topic)),
        }
    }

    /// As it was last seen.
    pub(crate) fn known_leader(&self, tp: &TopicPartition) -> Option<Leader> {
        leader_in(&self.cluster.topic(&tp.topic)?, tp.partition)
    }

    /// # Errors
    /// `log.unknown_topic`, `log.unknown_partition` (fatal); `kafka.no_leader` (retriable).
    pub(crate) async fn leader(&self, tp: &TopicPartition) -> Result<Leader> {
        let known = self.topic(&tp.topic).await?.ok_or_else(|| error::unknown_topic(&tp.topic))?;
        if let Some(leader) = leader_in(&known, tp.partition) {
            return Ok(leader);
        }
        // Partitions may have been added, a leader elected.
        self.cluster.forget(&tp.topic);
        let topic = self.topic(&tp.topic).await?.ok_or_else(|| error::unknown_topic(&tp.topic))?;
        match (leader_in(&topic, tp.partition), topic.partition(tp.partition)) {
            (Some(leader), _) => Ok(leader),
            (None, None) => Err(error::unknown_partition(&tp.topic, tp.partition)),
            (None, Some(_)) => {
                self.cluster.forget(&tp.topic);
                Err(Error::retriable("kafka.no_leader", format!("{tp} has no leader at the moment")))
            }
        }
    }

    /// A connection to the coordinator that nothing else waits on.
    pub(crate) async fn coordinator(&self, of: CoordinatorOf, key: &str) -> Result<Connection> {
        let known = self.coordinators.lock().get(&(of, key.to_owned())).cloned();
        let address = match known {
            Some(address) => address,
            None => {
                let address = self.find_coordinator(of, key).await?;
                self.coordinators.lock().insert((of, key.to_owned()), address.clone());
                address
            }
        };
        self.pool.get_coordinator_connection(&address).await.map_err(|error| {
            self.coordinator_lost(of, key);
            error::connection(&address, &error)
        })
    }

    /// To be told when a response says so, or when the connection to it breaks.
    pub(crate) fn coordinator_lost(&self, of: CoordinatorOf, key: &str) {
        self.coordinators.lock().remove(&(of, key.to_owned()));
    }

    async fn find_coordinator(&self, of: CoordinatorOf, key: &str) -> Result<String> {
        let (kind, at) = match of {
            CoordinatorOf::Group => (0, At::new("find the coordinator of group", key, "--operation Read --group")),
            CoordinatorOf::Transaction => {
                (1, At::new("find the coordinator of transactional id", key, "--operation Write --transactional-id"))
            }
        };
        let connection = self.any().await?;
        let name = StrBytes::from_string(key.to_owned());
        let version = connection.negotiate_api_version(ApiKey::FindCoordinator, 6, 0).unwrap_or_default();
        let request = FindCoordinatorRequest::default().with_key_type(kind);
        let request = if version >= 4 { request.with_coordinator_keys(vec![name]) } else { request.with_key(name) };
        let response = self.send(&connection, &request).await?;
        let (code, message, host, port) = match response.coordinators.first() {
            Some(one) => (one.error_code, &one.error_message, &one.host, one.port),
            None => (response.error_code, &response.error_message, &response.host, response.port),
        };
        at.check(code, message.as_deref())?;
        Ok(format!("{host}:{port}"))
    }

    /// Tries again what may work later, with pauses that grow, until `default.api.timeout.ms` is over: then the last error stands.
    pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl FnMut() -> F) -> Result<T> {
        self.retry_until(Instant::now() + self.config.api_timeout, attempt).await
    }

    pub(crate) async fn retry_until<T, F: Future<Output = Result<T>>>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T> {
        let mut last = None;
        for failures in 0.. {
            match timeout_at(deadline, attempt()).await {
                Ok(Err(error)) if error.is_retriable() => last = Some(error),
                Ok(result) => return result,
                Err(_) => break,
            }
            if timeout_at(deadline, sleep(self.config.backoff(failures))).await.is_err() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| {
            let message = format!("no broker of {} answered in time", self.cluster.bootstrap.join(","));
            Error::retriable("kafka.unreachable", message)
                .fix("look whether the brokers run; default.api.timeout.ms is how long to wait")
        }))
    }

    /// Closes every connection; requests that are open fail.
    pub(crate) async fn close(&self) {
        self.pool.close_all().await;
    }
}

fn leader_in(topic: &Arc<TopicMeta>, partition: i32) -> Option<Leader> {
    let meta = topic.partition(partition)?;
    Some(Leader { broker: meta.leader?, epoch: meta.epoch, topic: topic.clone() })
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
