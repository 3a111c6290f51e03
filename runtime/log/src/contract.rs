//! What a log promises. Mostly contract, little code.

use crate::RecordLimit;
use aqueduct_core::{Batch, LogPosition, Options, Result, SourceOffset, TaskId, Topic, TopicPartition, Topics};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use uuid::Uuid;

/// Shared by every task of the worker. Every method may be called at any time from any task; none blocks the calling thread.
///
/// Errors of every method: `log.closed` (fatal), `log.disk_full`, `log.io` (retriable), and those named.
///
/// A call that failed has changed nothing that can be seen. Where the disk failed at the sync, and the process or the power goes before the next
/// commit, recovery may find the commit whole after all: with its source offsets, so that who resumes from them neither loses nor repeats.
#[async_trait]
pub trait Log: Send + Sync {
    /// Opening a writer for a task fences every older writer of that task: their appends fail with `log.fenced` (fatal), also those in
    /// flight that are not durable yet (invariant 5).
    async fn writer(&self, task: &TaskId) -> Result<Box<dyn LogWriter>>;

    /// Joins the consumer group. The group's partitions are shared out among its members, evenly and with as little movement as can be.
    /// Joining twice with one `member` fences the older reader: its commits and its `next` fail with `log.fenced`.
    /// A partition without a committed position starts at the log start (`earliest`, Kafka Connect's default for sinks).
    async fn reader(&self, group: &str, member: &str, topics: &Topics) -> Result<Box<dyn LogReader>>;

    /// # Errors
    /// `log.topic_exists`, `log.topic_name`, `log.topic_config`: fatal.
    async fn create_topic(&self, name: &str, spec: &TopicSpec) -> Result<TopicInfo>;

    /// As [`Log::create_topic`], for a connector and with its rights: see [`ConnectorOptions::admin`].
    async fn create_topic_for(&self, _connector: &str, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
        self.create_topic(name, spec).await
    }

    /// Deletes a topic with its records and every group's positions in it. A reader that has it assigned is told `Revoked`.
    ///
    /// # Errors
    /// `log.unknown_topic`: fatal.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// All topics, by name.
    async fn topics(&self) -> Result<Vec<TopicInfo>>;

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>>;

    /// Reads without a group, from an offset on, at most about `max_bytes` but at least one record where there is one. Waits for a first record
    /// for at most `wait_max`. Empty at the end. From below the log start it reads from the log start on.
    ///
    /// # Errors
    /// `log.unknown_topic`; `log.corrupt` (fatal) with topic, partition and offset when stored bytes are damaged: they are never served.
    async fn fetch(&self, partition: &TopicPartition, from: i64, max_bytes: usize, wait_max: Duration) -> Result<Batch>;

    /// The first offset whose record has this timestamp (ms) or a later one; `None` when there is none.
    async fn offset_for_timestamp(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>>;

    /// What a connector's config says of its writers and readers: holds for those that are opened from now on. Only Kafka heeds it.
    ///
    /// # Errors
    /// `kafka.config` (fatal), naming the option.
    async fn configure(&self, _connector: &str, _options: ConnectorOptions) -> Result<()> {
        Ok(())
    }

    /// Every stored source offset of a connector.
    async fn source_offsets(&self, connector: &str) -> Result<Vec<SourceOffset>>;

    /// Sets (or, with `offset: None`, forgets) source offsets, all or none, durable on return. Only for an operator's reset of a stopped connector
    /// (invariant 4); running sources move theirs with [`LogWriter::append`].
    async fn alter_source_offsets(&self, connector: &str, offsets: &[SourceOffset]) -> Result<()>;

    /// The committed positions of a group. A group that never committed has none.
    async fn group_positions(&self, group: &str) -> Result<Vec<LogPosition>>;

    /// Sets committed positions of a group (`Some`) or forgets them (`None`), durable on return. Metadata is dropped.
    ///
    /// # Errors
    /// `log.group_active` (fatal) when the group has members; `log.unknown_topic`.
    async fn alter_group(&self, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()>;

    /// All entries of one of the worker's stores, by key.
    async fn load(&self, store: Store) -> Result<BTreeMap<String, Vec<u8>>>;

    /// Writes (`Some`) or removes (`None`) entries of a store: all or none, durable on return.
    async fn save(&self, store: Store, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<()>;

    /// Resolves when another worker has taken over, for good: with `log.fenced`, as everything is refused from then on (invariant 5).
    async fn fenced(&self) -> aqueduct_core::Error {
        std::future::pending().await
    }

    /// Figures for metrics and health.
    fn stats(&self) -> LogStats;

    /// Waits for what is in flight, then releases files and locks. Later calls fail with `log.closed`.
    async fn close(&self) -> Result<()>;
}

/// Appends of one task. Dropping it abandons nothing: what was appended becomes durable or fails as always.
#[async_trait]
pub trait LogWriter: Send {
    /// Waits only for room (bytes in flight), not for the disk. The records and the source offsets become durable and visible *together*, or not
    /// at all (invariant 1); commits of one writer resolve in the order of append. When one append fails, so do those after it, until
    /// a new writer is opened: a retry never overtakes (invariant 3).
    ///
    /// Records without a partition are placed by key as Kafka's default partitioner does (murmur2); keyless ones stay together
    /// in one partition for each call, taking turns. Records without a timestamp get the time of the append. A record's `origin` is ignored.
    /// An empty batch with offsets is a commit too.
    ///
    /// # Errors
    /// `log.unknown_topic` (fatal): create it first. `log.unknown_partition`, `log.record_too_large` (fatal). A commit that is dropped
    /// still happens.
    async fn append(&mut self, batch: EncodedBatch, resume: Vec<SourceOffset>) -> Result<Commit>;

    /// How large a record of this topic may be, as it holds now: larger ones make [`LogWriter::append`] fail.
    async fn record_limit(&mut self, topic: &TopicInfo) -> Result<RecordLimit> {
        Ok(RecordLimit::of(topic))
    }

    /// Why this writer cannot promise that records and source offsets are there together, exactly once.
    fn degraded(&self) -> Option<String> {
        None
    }
}

/// One member of a consumer group.
#[async_trait]
pub trait LogReader: Send {
    /// The next thing that happened, waiting at most `wait_max`; woken without polling when records are committed. At most about `max_bytes` of
    /// records; one call's records are in order for each partition. Only committed records (I16).
    ///
    /// Never call it again before the records of the last call are handled: after [`Fetch::Revoked`] the next call gives the partitions up.
    /// Dropping the future loses nothing.
    async fn next(&mut self, max_bytes: usize, wait_max: Duration) -> Result<Fetch>;

    /// Reads on from here. For partitions that are assigned.
    ///
    /// # Errors
    /// `log.not_assigned` (fatal).
    async fn seek(&mut self, partition: &TopicPartition, offset: i64) -> Result<()>;

    /// Stores positions with their metadata and appends `letters` (records for any topic, placed as by [`LogWriter::append`]; mostly none), all or
    /// none, durable on return. Who is fenced writes neither (invariant 5). A commit that is dropped may still happen, as a whole.
    ///
    /// # Errors
    /// `log.fenced` when another member took this name; `log.not_assigned`; for the letters `log.unknown_topic`, `log.unknown_partition` and
    /// `log.record_too_large` (fatal).
    async fn commit(&mut self, positions: &[LogPosition], letters: EncodedBatch) -> Result<()>;

    /// For each assigned partition, how many records lie between what was handed out and the end of the log.
    fn lag(&self) -> Vec<(TopicPartition, i64)>;

    /// Leaves the group: the others get its partitions.
    async fn close(&mut self) -> Result<()>;
}

/// Of one connector, with references resolved: there may be secrets in it (invariant 9).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectorOptions {
    /// What follows `producer.override.`, ….
    pub producer: Options,
    pub consumer: Options,
    pub admin: Options,
    pub transaction_boundary: TransactionBoundary,
    /// `aqueduct.buffer.bytes`: when so many are appended and not durable, their writer waits. A transaction must have ended by then.
    pub buffer_bytes: Option<usize>,
    /// `offsets.storage.topic`; `None` is the worker's.
    pub offsets_topic: Option<String>,
}

/// `transaction.boundary`: where a source's transactions end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionBoundary {
    #[default]
    Poll,
    Interval(Duration),
    Connector,
}

#[derive(Debug)]
pub enum Fetch {
    /// These partitions are this member's from now on, at their committed positions. Records of them come from the next call on.
    Assigned(Vec<LogPosition>),
    /// To give up: flush, commit, and call `next` again, which gives them up. (A deleted topic's partitions need no commit.)
    Revoked(Vec<TopicPartition>),
    /// Chunks with `origin` and `partition` set; at least one record.
    Records(Batch),
    /// Nothing within `wait_max`.
    Idle,
}

/// Resolves when the append is durable, or failed. Owned by the caller, independent of the writer.
pub type Commit = Pin<Box<dyn Future<Output = Result<Appended>> + Send>>;

/// What a commit wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// For each partition touched: the offset of the first record and the next offset after the last.
    pub ranges: Vec<(TopicPartition, i64, i64)>,
    /// Bytes written to the log, framing included.
    pub bytes: usize,
}

/// A batch without structured data: what converters make. Checked once, here.
#[derive(Clone, Debug, Default)]
pub struct EncodedBatch(Batch);

impl EncodedBatch {
    /// # Errors
    /// `log.not_encoded` (fatal) when a payload is structured: a converter is missing.
    pub fn new(batch: Batch) -> Result<Self> {
        if batch.chunks().iter().any(aqueduct_core::Chunk::has_data) {
            return Err(aqueduct_core::Error::fatal(
                "log.not_encoded",
                "a record with structured data reached the log without a converter",
            ));
        }
        Ok(Self(batch))
    }

    pub fn batch(&self) -> &Batch {
        &self.0
    }

    pub fn into_batch(self) -> Batch {
        self.0
    }
}

/// The worker's stores. On Kafka they are Kafka Connect's config and status topics; keys and values are Kafka Connect's in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Store {
    Config,
    Status,
}

/// How to create a topic. `configs` has Kafka's names; the embedded log knows `retention.ms` (-1: for ever), `retention.bytes` (of a partition; -1),
/// `segment.bytes`, `segment.ms`, `cleanup.policy` (`delete`, `compact`, or both), `compression.type` (`none`, `lz4`, `zstd`),
/// `max.message.bytes`, `delete.retention.ms`, `min.cleanable.dirty.ratio`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// 1 to 10,000.
    pub partitions: i32,
    /// Only Kafka heeds it; -1 is the broker's default.
    pub replication_factor: i16,
    pub configs: BTreeMap<String, String>,
}

impl Default for TopicSpec {
    fn default() -> Self {
        Self { partitions: 1, replication_factor: -1, configs: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    pub name: Topic,
    /// Differs between a topic and its re-creation.
    pub id: Uuid,
    pub partitions: Vec<PartitionInfo>,
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInfo {
    pub partition: i32,
    /// The oldest offset that can be read.
    pub start: i64,
    /// The next offset to be written; all before it is committed.
    pub end: i64,
    /// On disk.
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogStats {
    /// `embedded`, `memory`, `kafka`.
    pub kind: &'static str,
    pub commits: u64,
    /// Rounds of group commit, each with its fdatasyncs.
    pub syncs: u64,
    pub records: u64,
    pub bytes: u64,
    /// Of appends that are not durable yet.
    pub bytes_in_flight: u64,
    /// Why writers stand still, when they do: `log.disk_full: …`.
    pub stopped: Option<String>,
}
