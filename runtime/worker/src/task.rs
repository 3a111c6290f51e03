//! What one task is given to run, and what every task does alike.

use crate::policy::Policy;
use crate::stats::{Call, TaskStats};
use aqueduct_core::{
    Batch, Error, Options, Rejects, Result, SinkPlugin, SourcePlugin, TaskContext, TaskId, TaskSpec, Topic, Topics, Transform,
};
use aqueduct_log::Log;
use aqueduct_transforms::{Chain, Converters};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The kind of task and the plugin to open it with.
#[derive(Clone)]
pub enum Role {
    Source(Arc<dyn SourcePlugin>, crate::topics::TopicCreation),
    Sink(Arc<dyn SinkPlugin>, Topics),
}

/// One attempt of one task. Runs on the data plane and ends when `stop` is cancelled or something fails.
pub struct TaskRun {
    pub id: TaskId,
    pub role: Role,
    pub spec: TaskSpec,
    /// With secrets resolved: never logged, never stored (invariant 9).
    pub options: Options,
    pub limits: Limits,
    pub chain: Chain,
    pub converters: Arc<Converters>,
    pub policy: Policy,
    /// `exactly.once.support: required`
    pub exactly_once_required: bool,
    pub log: Arc<dyn Log>,
    /// The cluster's id.
    pub cluster: Arc<str>,
    pub stats: Arc<TaskStats>,
    pub active_topics: Arc<ActiveTopics>,
    pub startups: Arc<Startups>,
    pub stop: CancellationToken,
}

/// Bounds of one task (invariant 6); the reference names each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub batch_max_bytes: usize,
    pub batch_max_records: usize,
    /// Of appends in flight (source) or of the read-ahead (sink).
    pub buffer_bytes: usize,
    pub wait_max: Duration,
    /// How often a sink's position is committed.
    pub flush_interval: Duration,
}

/// Of the whole worker since it started, also of connectors that are gone: Kafka Connect's connect-worker-metrics.
#[derive(Debug, Default)]
pub struct Startups {
    pub connector_attempts: AtomicU64,
    pub connector_successes: AtomicU64,
    pub connector_failures: AtomicU64,
    pub task_attempts: AtomicU64,
    pub task_successes: AtomicU64,
    pub task_failures: AtomicU64,
}

/// The topics that a connector wrote to or read from (KIP-558).
#[derive(Debug, Default)]
pub struct ActiveTopics(Mutex<BTreeSet<Topic>>);

impl ActiveTopics {
    pub fn add(&self, topic: &Topic) {
        let mut topics = self.0.lock();
        if !topics.contains(topic) {
            topics.insert(topic.clone());
        }
    }

    pub fn list(&self) -> Vec<String> {
        self.0.lock().iter().map(ToString::to_string).collect()
    }

    pub fn reset(&self) {
        self.0.lock().clear();
    }
}

impl TaskRun {
    pub async fn run(self) -> Result<()> {
        match self.role.clone() {
            Role::Source(plugin, topics) => crate::source::run(self, plugin, topics).await,
            Role::Sink(plugin, topics) => crate::sink::run(self, plugin, topics).await,
        }
    }

    /// The plugin's `open` is through.
    pub fn opened(&mut self) {
        self.stats.opened.store(true, Relaxed);
        self.startups.task_successes.fetch_add(1, Relaxed);
    }

    pub fn context(&self, interrupt: CancellationToken) -> TaskContext {
        TaskContext {
            task: self.id.clone(),
            wait_max: self.limits.wait_max,
            max_bytes: self.limits.batch_max_bytes,
            max_records: self.limits.batch_max_records,
            interrupt,
        }
    }

    pub async fn transform(&mut self, batch: Batch, rejects: &mut Rejects) -> Result<Batch> {
        if self.chain.is_empty() {
            return Ok(batch);
        }
        let batch = self.stats.time(Call::Transform, self.chain.apply(batch, rejects)).await?;
        self.stats.transforms_measured(self.chain.measures());
        Ok(batch)
    }
}

/// The error of a task whose code panicked (DESIGN §11: it fails its own task alone).
pub fn panicked(payload: Box<dyn std::any::Any + Send>) -> Error {
    let text =
        payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
    Error::fatal("worker.task_panicked", format!("the task panicked: {}", text.unwrap_or_else(|| "no message".to_owned())))
        .fix("report this as a bug; restart the task to go on")
}
