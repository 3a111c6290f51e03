//! What writers, readers and the commit thread share. Only the commit thread changes what is committed.

use super::EmbeddedOptions;
use super::groups::Groups;
use super::segment::Files;
use super::state::{State, TopicState};
use super::view::{PartitionView, unknown_topic};
use crate::contract::{LogStats, PartitionInfo, TopicInfo};
use crate::disk::Disk;
use crate::topic_config::TopicConfig;
use aqueduct_core::{Class, Error, Result, Topic, TopicPartition};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use uuid::Uuid;

pub(crate) struct Shared {
    pub(crate) options: EmbeddedOptions,
    pub(crate) files: Files,
    /// As of the last commit. Views are published under its write lock, so who holds the read lock sees all of a commit or nothing.
    pub(crate) state: RwLock<State>,
    pub(crate) catalogue: RwLock<Catalogue>,
    pub(crate) groups: Mutex<Groups>,
    pub(crate) counters: Counters,
    pub(crate) closed: AtomicBool,
    /// Compaction shall end soon.
    pub(crate) stopping: AtomicBool,
    /// Partitions that compaction found damaged: they are left alone until the next start.
    pub(crate) damaged: Mutex<HashSet<(Uuid, i32)>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) stopped: Mutex<Option<String>>,
}

/// Topics as readers and writers see them.
#[derive(Default)]
pub(crate) struct Catalogue {
    pub(crate) by_name: BTreeMap<Topic, Arc<TopicView>>,
    pub(crate) by_id: HashMap<Uuid, Arc<TopicView>>,
}

pub(crate) struct TopicView {
    pub(crate) name: Topic,
    pub(crate) id: Uuid,
    pub(crate) config: TopicConfig,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) partitions: Vec<Arc<PartitionView>>,
}

/// Buffers that are kept for the next append: fresh memory costs page faults. 8 of at most 4 MiB.
const BUFFERS: usize = 8;
const BUFFER_MAX_BYTES: usize = 4 << 20;

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, options: EmbeddedOptions, state: State) -> Self {
        let mut catalogue = Catalogue::default();
        for (id, topic) in &state.topics {
            catalogue.add(TopicView::new(*id, topic));
        }
        Self {
            files: Files::new(disk, options.open_files),
            options,
            state: RwLock::new(state),
            catalogue: RwLock::new(catalogue),
            groups: Mutex::default(),
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            damaged: Mutex::default(),
            buffers: Mutex::default(),
        }
    }

    /// # Errors
    /// `log.closed`
    pub(crate) fn open(&self) -> Result<()> {
        if self.closed.load(Relaxed) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn view(&self, tp: &TopicPartition) -> Result<(Arc<TopicView>, Arc<PartitionView>)> {
        let topic = self.catalogue.read().by_name(&tp.topic)?.clone();
        let view = topic.partition(tp.partition)?.clone();
        Ok((topic, view))
    }

    pub(crate) fn view_by_id(&self, topic: Uuid, partition: i32) -> Option<Arc<PartitionView>> {
        self.catalogue.read().by_id.get(&topic)?.partition(partition).ok().cloned()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.options.now_ms)()
    }

    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().pop().unwrap_or_default()
    }

    pub(crate) fn recycle(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock();
        if buffers.len() < BUFFERS && buffer.capacity() <= BUFFER_MAX_BYTES {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    pub(crate) fn stats(&self, bytes_in_flight: u64) -> LogStats {
        let Counters { commits, syncs, records, bytes, stopped } = &self.counters;
        LogStats {
            kind: "embedded",
            commits: commits.load(Relaxed),
            syncs: syncs.load(Relaxed),
            records: records.load(Relaxed),
            bytes: bytes.load(Relaxed),
            bytes_in_flight,
            stopped: stopped.lock().clone(),
        }
    }
}

impl Catalogue {
    /// # Errors
    /// `log.unknown_topic`
    pub(crate) fn by_name(&self, name: &str) -> Result<&Arc<TopicView>> {
        self.by_name.get(name).ok_or_else(|| unknown_topic(name))
    }

    pub(crate) fn add(&mut self, view: TopicView) -> Arc<TopicView> {
        let view = Arc::new(view);
        self.by_name.insert(view.name.clone(), view.clone());
        self.by_id.insert(view.id, view.clone());
        view
    }

    pub(crate) fn remove(&mut self, id: Uuid) -> Option<Arc<TopicView>> {
        let view = self.by_id.remove(&id)?;
        self.by_name.remove(&view.name);
        Some(view)
    }
}

impl TopicView {
    pub(crate) fn new(id: Uuid, state: &TopicState) -> Self {
        let partition = |(index, partition): (usize, _)| {
            let view = PartitionView::new(&state.name, index as i32, id);
            view.publish(partition, &[]);
            Arc::new(view)
        };
        Self {
            name: state.name.as_str().into(),
            id,
            // Checked when it was created; a config that only a later version knows is no reason not to start.
            config: TopicConfig::parse(&state.configs).unwrap_or_default(),
            configs: state.configs.clone(),
            partitions: state.partitions.iter().enumerate().map(partition).collect(),
        }
    }

    /// # Errors
    /// `log.unknown_partition`
    pub(crate) fn partition(&self, partition: i32) -> Result<&Arc<PartitionView>> {
        let found = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index));
        found.ok_or_else(|| unknown_partition(&self.name, partition))
    }

    pub(crate) fn info(&self) -> TopicInfo {
        let partition = |view: &Arc<PartitionView>| {
            let (start, end, bytes) = view.bounds();
            PartitionInfo { partition: view.tp.partition, start, end, bytes }
        };
        TopicInfo {
            name: self.name.clone(),
            id: self.id,
            partitions: self.partitions.iter().map(partition).collect(),
            configs: self.configs.clone(),
        }
    }
}

pub(crate) fn unknown_partition(topic: &str, partition: i32) -> Error {
    Error::fatal("log.unknown_partition", format!("topic {topic} has no partition {partition}"))
}

pub(crate) fn closed() -> Error {
    Error::fatal("log.closed", "the log was closed")
}

/// The same error, for one more who waits for it.
pub(crate) fn again(error: &Error) -> Error {
    let class = if error.is_retriable() { Class::Retriable } else { Class::Fatal };
    let copy = Error::new(class, error.code().to_owned(), error.message().to_owned());
    match error.hint() {
        Some(fix) => copy.fix(fix.to_owned()),
        None => copy,
    }
}
