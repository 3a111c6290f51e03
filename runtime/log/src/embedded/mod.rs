//! The log in the worker's own process, under `data.dir`.
//!
//! One thread commits: it takes all that is queued, writes the data, then one frame of the journal that names the new ends, the source offsets and
//! whatever else belongs to the commits, syncs both, and only then shows and acknowledges them (invariants 1 and 2). While it syncs, writers encode what comes next.
//! A small commit has its data in the frame too: then the journal alone is synced, and the segments later (behind.rs).
//! What lies behind the last frame is no part of the log: recovery cuts it.
//!
//! ```text
//! format, cluster_id, lock         what this directory is, and who uses it
//! journal/<seq>.checkpoint         the state: topics, segments, offsets, groups, stores, epochs (journal.rs)
//! journal/<seq>.journal            the commits after it, one frame each
//! topics/<topic>-<p>/<base>.log    record batches in Kafka's format; <base> is the first offset in 20 digits
//! topics/<topic>-<p>/<base>.index  and .timeindex: Kafka's sparse indexes, hints only: made anew where they are missing or wrong
//! ```

mod behind;
mod buffers;
mod compact;
mod core;
mod encode;
#[cfg(test)]
mod fault_tests;
mod groups;
mod home;
mod journal;
mod plan;
mod reader;
mod recover;
mod request;
mod resync;
mod retain;
mod segment;
mod shared;
mod state;
mod stepper;
#[cfg(test)]
mod tests;
pub mod verify;
mod view;
mod writer;

pub use stepper::Stepper;

use self::core::Core;
use crate::contract::*;
use crate::disk::{Disk, RealDisk};
use crate::topic_config::check_topic;
use aqueduct_core::{Batch, Error, LogPosition, Result, SourceOffset, TaskId, TopicPartition, Topics};
use async_trait::async_trait;
use home::Home;
use parking_lot::Mutex;
use request::{Ask, NewPosition, Queue};
use shared::Shared;
use state::Position;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use uuid::Uuid;

#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Of appends that are not durable yet; who appends more waits.
    pub in_flight_bytes: usize,
    /// Segment files that are kept open.
    pub open_files: usize,
    /// A journal above this is replaced by a checkpoint.
    pub journal_bytes: u64,
    /// So much of the journal is written ahead, as zeros: a sync that changes no file's length costs half as much. 0: nothing.
    pub journal_fill_bytes: u64,
    /// A commit whose batches have no more bytes in all carries them in its frame, so that one sync makes it durable. 0: none does.
    pub carry_bytes: u64,
    /// With so many bytes that frames carried, the segments are synced along with the next commit.
    pub behind_bytes: usize,
    /// How often retention looks for what is too old.
    pub maintenance_interval: Duration,
    /// Without a commit for so long, the journal notes that the last one is durable.
    pub seal_after: Duration,
    /// Milliseconds since the epoch.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Ids of new topics.
    pub new_id: Arc<dyn Fn() -> Uuid + Send + Sync>,
    /// Planted bugs of `aqueduct_core::failpoint::bug`, for this log alone. Without effect in release builds.
    pub bugs: Vec<&'static str>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            in_flight_bytes: 64 << 20,
            open_files: 512,
            journal_bytes: 16 << 20,
            journal_fill_bytes: 1 << 20,
            // What is carried is written and summed up twice: with 64 KiB a change feed at full speed was a tenth slower.
            carry_bytes: 16 << 10,
            behind_bytes: 4 << 20,
            maintenance_interval: Duration::from_secs(30),
            seal_after: Duration::from_millis(200),
            now_ms: Arc::new(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64)),
            new_id: Arc::new(Uuid::new_v4),
            bugs: Vec::new(),
        }
    }
}

pub struct EmbeddedLog {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    cluster_id: String,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// True when the last commit is done and the lock is free.
    ended: watch::Receiver<bool>,
}

impl EmbeddedLog {
    /// Recovers the log under `dir`, or begins a new one.
    ///
    /// # Errors
    /// `log.locked` (fatal) when another process has it; `log.format` when a later version wrote it; `log.world_writable`;
    /// `log.corrupt`; `log.io`.
    pub async fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self> {
        let dir = dir.to_owned();
        let open = move || {
            let home = Home::open(&dir)?;
            let cluster_id = home.cluster_id.clone();
            let core = Core::open(Arc::new(RealDisk::new(&dir)), options)?;
            Self::start(core, Some(home), cluster_id)
        };
        tokio::task::spawn_blocking(open)
            .await
            .unwrap_or_else(|error| Err(Error::fatal("log.io", "opening the log failed").because(error)))
    }

    /// A log on any disk, without a thread: nothing happens but by the [`Stepper`].
    ///
    /// # Errors
    /// Those of [`EmbeddedLog::open`].
    pub fn stepped(disk: Arc<dyn Disk>, options: EmbeddedOptions) -> Result<(Self, Stepper)> {
        let core = Core::open(disk, options)?;
        let (log, stepper, ended) = Self::parts(core, String::new());
        // Nobody to wait for.
        let _ = ended.send(true);
        Ok((log, stepper))
    }

    fn start(core: Core, home: Option<Home>, cluster_id: String) -> Result<Self> {
        let (log, stepper, ended) = Self::parts(core, cluster_id);
        let run = move || {
            stepper.run();
            drop(home);
            let _ = ended.send(true);
        };
        let thread = std::thread::Builder::new().name("log-commit".into()).spawn(run);
        *log.thread.lock() = Some(thread.map_err(|error| Error::retriable("log.io", format!("no thread for the log: {error}")))?);
        Ok(log)
    }

    fn parts(core: Core, cluster_id: String) -> (Self, Stepper, watch::Sender<bool>) {
        let shared = core.shared.clone();
        let queue = Arc::new(Queue::new(shared.options.in_flight_bytes));
        let (sender, ended) = watch::channel(false);
        let stepper = Stepper::new(core, queue.clone());
        (Self { shared, queue, cluster_id, thread: Mutex::default(), ended }, stepper, sender)
    }

    /// Made when the log was first opened, and never changed.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// As [`Log::fetch`], at once and on this thread: for tests that have no runtime. With the offset to read on from.
    ///
    /// # Errors
    /// Those of [`Log::fetch`].
    pub fn read_now(&self, partition: &TopicPartition, from: i64, max_bytes: usize) -> Result<(Batch, i64)> {
        let (_, view) = self.shared.view(partition)?;
        view.read(&self.shared.files, from, max_bytes)
    }
}

impl Drop for EmbeddedLog {
    /// Waits for the last commit, so that the directory is free when the log is gone.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's commit thread panicked");
        }
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn writer(&self, task: &TaskId) -> Result<Box<dyn LogWriter>> {
        let epoch = self.queue.ask(|reply| Ask::Writer { task: task.clone(), reply }).await?;
        Ok(Box::new(writer::EmbeddedWriter::new(self.shared.clone(), self.queue.clone(), task.clone(), epoch)))
    }

    async fn reader(&self, group: &str, member: &str, topics: &Topics) -> Result<Box<dyn LogReader>> {
        let (shared, queue) = (self.shared.clone(), self.queue.clone());
        Ok(Box::new(reader::EmbeddedReader::join(shared, queue, group, member, topics)?))
    }

    async fn create_topic(&self, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
        check_topic(name, spec)?;
        let (id, configs) = ((self.shared.options.new_id)(), spec.configs.clone());
        let ask = |reply| Ask::CreateTopic { id, name: name.to_owned(), partitions: spec.partitions, configs, reply };
        self.queue.ask(ask).await?;
        self.topic(name).await?.ok_or_else(|| view::unknown_topic(name))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.queue.ask(|reply| Ask::DeleteTopic { name: name.to_owned(), reply }).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.shared.open()?;
        let _whole_commits = self.shared.state.read();
        Ok(self.shared.catalogue.read().by_name.values().map(|topic| topic.info()).collect())
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>> {
        self.shared.open()?;
        let _whole_commits = self.shared.state.read();
        Ok(self.shared.catalogue.read().by_name.get(name).map(|topic| topic.info()))
    }

    async fn fetch(&self, partition: &TopicPartition, from: i64, max_bytes: usize, wait_max: Duration) -> Result<Batch> {
        self.shared.open()?;
        reader::fetch(&self.shared, partition, from, max_bytes, wait_max).await
    }

    async fn offset_for_timestamp(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        self.shared.open()?;
        let (_, view) = self.shared.view(partition)?;
        let shared = self.shared.clone();
        let find = tokio::task::spawn_blocking(move || view.offset_for_timestamp(&shared.files, timestamp)).await;
        find.map_err(|error| Error::retriable("log.io", "a read was cut off").because(error))?
    }

    async fn source_offsets(&self, connector: &str) -> Result<Vec<SourceOffset>> {
        self.shared.open()?;
        let state = self.shared.state.read();
        Ok(state.source_offsets.get(connector).map(|offsets| offsets.values().cloned().collect()).unwrap_or_default())
    }

    async fn alter_source_offsets(&self, connector: &str, offsets: &[SourceOffset]) -> Result<()> {
        let (connector, offsets) = (connector.into(), offsets.to_vec());
        self.queue.ask(|reply| Ask::SourceOffsets { connector, offsets, reply }).await
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<LogPosition>> {
        self.shared.open()?;
        let state = self.shared.state.read();
        let mut positions = Vec::new();
        for (id, partitions) in state.groups.get(group).into_iter().flatten() {
            let Some(topic) = state.topics.get(id) else { continue };
            let name: aqueduct_core::Topic = topic.name.as_str().into();
            positions.extend(partitions.iter().map(|(partition, at)| LogPosition {
                topic: name.clone(),
                topic_id: *id,
                partition: *partition,
                offset: at.o,
                metadata: at.m.clone(),
            }));
        }
        positions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(positions)
    }

    async fn alter_group(&self, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
        let position = |(tp, offset): &(TopicPartition, Option<i64>)| NewPosition {
            tp: tp.clone(),
            topic: None,
            at: offset.map(|o| Position { o, m: None }),
        };
        let (group, positions) = (group.into(), positions.iter().map(position).collect());
        self.queue.ask(|reply| Ask::Positions { group, member: None, positions, letters: Vec::new(), reply }).await
    }

    async fn load(&self, store: Store) -> Result<BTreeMap<String, Vec<u8>>> {
        self.shared.open()?;
        let state = self.shared.state.read();
        let entries = state.stores.get(&store).into_iter().flatten();
        Ok(entries.map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }

    async fn save(&self, store: Store, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
        self.queue.ask(|reply| Ask::Entries { store, entries, reply }).await
    }

    fn stats(&self) -> LogStats {
        self.shared.stats(self.queue.bytes_in_flight())
    }

    async fn close(&self) -> Result<()> {
        self.queue.close();
        // An error means that the thread is gone, which is what we wait for.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
        Ok(())
    }
}
