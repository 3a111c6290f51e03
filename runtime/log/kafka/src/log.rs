//! The log that is a Kafka cluster.

use crate::client::Client;
use crate::cluster::Cluster;
use crate::fetch::Fetchers;
use crate::member::LocalMembers;
use crate::options::{ClientKind, KafkaOptions};
use crate::producer::LocalProducers;
use crate::stores::Stores;
use crate::{admin, error, fetch, reader, stores, writer};
use aqueduct_core::{Batch, Error, LogPosition, Options, Result, SourceOffset, TaskId, TopicPartition, Topics};
use aqueduct_log::{ConnectorOptions, Log, LogReader, LogStats, LogWriter, Store, TopicInfo, TopicSpec};
use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long [`KafkaLog::open`] tries: a wrong address is told before one loses patience.
const OPEN_MAX: Duration = Duration::from_secs(8);
/// How long `close` waits for what is in flight.
const CLOSE_MAX: Duration = Duration::from_secs(30);

/// Records, offsets and stores of the worker in an Apache Kafka cluster.
pub struct KafkaLog(Arc<Shared>);

/// What writers, readers and stores share.
pub(crate) struct Shared {
    pub(crate) options: KafkaOptions,
    pub(crate) cluster: Arc<Cluster>,
    /// For everything that is answered at once.
    pub(crate) admin: Client,
    pub(crate) fetchers: Fetchers,
    pub(crate) stores: Stores,
    pub(crate) counters: Arc<Counters>,
    pub(crate) members: LocalMembers,
    pub(crate) producers: LocalProducers,
    /// How often each writer and reader was opened, by transactional id or group and member.
    opened: Mutex<FxHashMap<String, u64>>,
    /// The log is closed: nothing new begins. Writers finish what is in flight.
    pub(crate) closed: CancellationToken,
    /// Every task that writers and readers spawn: `close` waits for them.
    pub(crate) tasks: TaskTracker,
}

/// For [`LogStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    /// Produce requests that were answered.
    pub(crate) syncs: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_in_flight: AtomicU64,
}

impl KafkaLog {
    /// Connects to the cluster once, to tell a wrong address or wrong credentials at once.
    ///
    /// # Errors
    /// `kafka.unreachable` (retriable) in less than 10 s, naming the addresses; `kafka.authentication`, `kafka.config` (fatal).
    pub async fn open(options: KafkaOptions) -> Result<Arc<Self>> {
        let cluster = Arc::new(Cluster::new(addresses(&options.settings.bootstrap_servers)));
        let config = options.client(ClientKind::Admin, &format!("{}-admin", options.group_id), &Options::new())?;
        // What worker.yaml says of producers is checked now, not when the first source writes.
        options.client(ClientKind::Producer, "check", &Options::new())?;
        let admin = Client::open(cluster.clone(), config).await?;
        admin.retry_until(Instant::now() + OPEN_MAX, || admin.look(&[])).await?;
        let fetchers = Fetchers::new(cluster.clone(), &options)?;
        let stores = Stores::new(&options.settings);
        let (counters, closed, tasks) = (Arc::new(Counters::default()), CancellationToken::new(), TaskTracker::new());
        // The stores open themselves at their first use: who only reads topics needs none of their rights.
        let shared = Arc::new(Shared {
            options,
            cluster,
            admin,
            fetchers,
            stores,
            counters,
            members: LocalMembers::default(),
            producers: LocalProducers::default(),
            opened: Mutex::default(),
            closed,
            tasks,
        });
        shared.tasks.spawn(stores::watch(shared.clone()));
        Ok(Arc::new(Self(shared)))
    }

    /// Kafka's id of the cluster, for `GET /`.
    pub fn cluster_id(&self) -> String {
        self.0.cluster.id().map_or_else(String::new, |id| id.to_string())
    }
}

/// `PLAINTEXT://host:9092` is `host:9092`, as Kafka's clients take it.
fn addresses(servers: &[String]) -> Vec<String> {
    servers.iter().map(|server| server.split_once("://").map_or(server.as_str(), |(_, address)| address).to_owned()).collect()
}

impl Shared {
    /// # Errors
    /// `log.closed` (fatal).
    pub(crate) fn open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(error::closed()) } else { Ok(()) }
    }

    /// To be called before a writer or reader is opened: which opening this is. What was open before may have been taken over by another worker while this
    /// one stood still or was cut off: to open it again would take it back (invariant 5).
    ///
    /// # Errors
    /// `log.fenced` (fatal) when another worker owns the stores.
    pub(crate) async fn opening(self: &Arc<Self>, name: &str) -> Result<u64> {
        self.confirmed().await?;
        let turn = {
            let mut opened = self.opened.lock();
            let turn = opened.entry(name.to_owned()).or_default();
            *turn += 1;
            *turn
        };
        if turn > 1 {
            self.stores.writer.prove(self).await?;
        }
        Ok(turn)
    }

    pub(crate) fn is_opened_again(&self, name: &str, turn: u64) -> bool {
        self.opened.lock().get(name).is_some_and(|&last| last > turn)
    }

    /// The coordinator says `fenced` of a transaction that timed out too: a worker that stood still, a broker that was away. It is that as long as this
    /// worker owns the stores.
    pub(crate) async fn fenced_or_late(self: &Arc<Self>, name: &str) -> Error {
        let late =
            || Error::retriable("kafka.transaction_lost", format!("{name}: the transaction timed out (transaction.timeout.ms)"));
        self.stores.writer.prove(self).await.map_or_else(|error| error, |()| late())
    }

    /// What `work` gives, unless the log is closed meanwhile.
    pub(crate) async fn unless_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.open()?;
        tokio::select! {
            result = work => result,
            () = self.closed.cancelled() => Err(error::closed()),
        }
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn writer(&self, task: &TaskId) -> Result<Box<dyn LogWriter>> {
        self.0.unless_closed(writer::open(&self.0, task)).await
    }

    async fn reader(&self, group: &str, member: &str, topics: &Topics) -> Result<Box<dyn LogReader>> {
        self.0.unless_closed(reader::open(&self.0, group, member, topics)).await
    }

    async fn create_topic(&self, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
        let created = self.0.unless_closed(admin::create_topic(&self.0.admin, name, spec)).await;
        self.0.members.topics_changed();
        created
    }

    async fn create_topic_for(&self, connector: &str, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
        let options = self.0.stores.connector(connector);
        if options.admin.is_empty() {
            return self.create_topic(name, spec).await;
        }
        let config = self.0.options.client(ClientKind::Admin, &format!("connector-adminclient-{connector}"), &options.admin)?;
        let created = self.0.unless_closed(async {
            let admin = Client::open(self.0.cluster.clone(), config).await?;
            let created = admin::create_topic(&admin, name, spec).await;
            admin.close().await;
            created
        });
        let created = created.await;
        self.0.members.topics_changed();
        created
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let deleted = self.0.unless_closed(admin::delete_topic(&self.0.admin, name)).await;
        self.0.members.topics_changed();
        deleted
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.0.unless_closed(admin::topics(&self.0.admin)).await
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>> {
        self.0.unless_closed(admin::topic(&self.0.admin, name)).await
    }

    async fn fetch(&self, partition: &TopicPartition, from: i64, max_bytes: usize, wait_max: Duration) -> Result<Batch> {
        self.0.unless_closed(fetch::fetch(&self.0, partition, from, max_bytes, wait_max)).await
    }

    async fn offset_for_timestamp(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        self.0.unless_closed(fetch::offset_for_timestamp(&self.0, partition, timestamp)).await
    }

    async fn configure(&self, connector: &str, options: ConnectorOptions) -> Result<()> {
        stores::configure(&self.0, connector, options)
    }

    async fn source_offsets(&self, connector: &str) -> Result<Vec<SourceOffset>> {
        self.0.unless_closed(stores::source_offsets(&self.0, connector)).await
    }

    async fn alter_source_offsets(&self, connector: &str, offsets: &[SourceOffset]) -> Result<()> {
        self.0.unless_closed(stores::alter_source_offsets(&self.0, connector, offsets)).await
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<LogPosition>> {
        self.0.unless_closed(admin::group_positions(&self.0.admin, group)).await
    }

    async fn alter_group(&self, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
        self.0.unless_closed(admin::alter_group(&self.0.admin, group, positions)).await
    }

    async fn load(&self, store: Store) -> Result<BTreeMap<String, Vec<u8>>> {
        self.0.unless_closed(stores::load(&self.0, store)).await
    }

    async fn save(&self, store: Store, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
        self.0.unless_closed(stores::save(&self.0, store, entries)).await
    }

    fn stats(&self) -> LogStats {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            kind: "kafka",
            commits: read(&counters.commits),
            syncs: read(&counters.syncs),
            records: read(&counters.records),
            bytes: read(&counters.bytes),
            bytes_in_flight: read(&counters.bytes_in_flight),
            stopped: self.0.stores.fence.is_raised().then(|| self.0.why_fenced().to_string()),
        }
    }

    async fn fenced(&self) -> Error {
        self.0.stores.fence.raised().await;
        self.0.why_fenced()
    }

    async fn close(&self) -> Result<()> {
        self.0.closed.cancel();
        self.0.tasks.close();
        let waited = tokio::time::timeout(CLOSE_MAX, self.0.tasks.wait()).await;
        self.0.fetchers.close().await;
        self.0.admin.close().await;
        waited.map_err(|_| Error::retriable("log.io", format!("what was in flight was not acknowledged within {CLOSE_MAX:?}")))
    }
}
