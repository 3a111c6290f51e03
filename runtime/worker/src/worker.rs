//! The handle that REST, the command line and the config folder hold.

mod plugins;

use crate::admin::*;
use crate::clock::Reported;
use crate::connector::{Command, PlanAttempts, Plane, Supervisor, View, Wanted};
use crate::lifecycle::Desired;
use crate::registry::Registry;
use crate::spec::{ConnectorSpec, Defaults};
use crate::stats::Call;
use crate::store::{self, Entries, FolderMark, Stored};
use crate::task::{ActiveTopics, Startups};
use aqueduct_config::check::UnknownKeys;
use aqueduct_core::{
    Descriptor, Error, Issue, JsonMap, Plugin, PluginKind, Report, Result, Signal, SourceOffset, TopicPartition,
};
use aqueduct_log::Log;
use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap to clone. Every method answers from memory or writes one small commit to the log; none waits for a connector (invariant 10).
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

pub struct WorkerOptions {
    /// `host:port` of the REST listener.
    pub worker_id: String,
    pub cluster_id: String,
    /// `task.shutdown.graceful.timeout.ms`
    pub shutdown_timeout: Duration,
    pub defaults: Arc<Defaults>,
    /// `topic.tracking.enable`, `topic.tracking.allow.reset`
    pub topic_tracking: bool,
    pub topic_tracking_reset: bool,
    /// Where plans and tasks run. The worker's own tasks run where `start` is called: the control plane.
    pub data: tokio::runtime::Handle,
}

struct Inner {
    options: WorkerOptions,
    registry: Registry,
    log: Arc<dyn Log>,
    connectors: RwLock<BTreeMap<String, Handle>>,
    /// Deleted connectors whose tasks are still stopping: a new one of the same name waits for them (invariant 5).
    ending: Mutex<Vec<(String, Handle)>>,
    /// Writers of desired state, one at a time. Held over one commit to the log, never over a connector's call.
    admin: tokio::sync::Mutex<()>,
    health: RwLock<Health>,
    folder_issues: Mutex<Vec<Issue>>,
    startups: Arc<Startups>,
    /// See [`store::Loaded::deleted`].
    deleted_marks: Mutex<BTreeMap<String, FolderMark>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// One connector as the worker holds it.
struct Handle {
    stored: Stored,
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<View>,
    commands: mpsc::Sender<Command>,
    active_topics: Arc<ActiveTopics>,
    kind: ConnectorType,
    version: String,
    /// Cancelled when the supervisor has ended.
    ended: CancellationToken,
}

pub type AdminResult<T> = Result<T, AdminError>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy(String),
    Starting(String),
    Unhealthy(String),
}

/// REST answers a create or an update once the connector has shared out its tasks, or after this time: clients expect to see the tasks at once,
/// but a plugin that hangs must not hold the answer.
const PLAN_WAIT: Duration = Duration::from_secs(1);

/// As long as REST's clients wait for an answer, with room to tell why there is none.
const OFFSETS_WAIT: Duration = Duration::from_secs(10);

impl Worker {
    /// A worker that knows its plugins but has not read its stores yet: REST may answer already. Call [`Worker::start`] next.
    pub fn new(options: WorkerOptions, registry: Registry, log: Arc<dyn Log>) -> Self {
        Self(Arc::new(Inner {
            options,
            registry,
            log,
            connectors: RwLock::default(),
            ending: Mutex::default(),
            admin: tokio::sync::Mutex::new(()),
            health: RwLock::new(Health::Starting("Worker is starting up.".to_owned())),
            folder_issues: Mutex::default(),
            startups: Arc::default(),
            deleted_marks: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// Reads the stores and starts what they say.
    ///
    /// # Errors
    /// When a stored entry cannot be read, or the log fails.
    pub async fn start(&self) -> Result<()> {
        let loaded = store::load(&*self.0.log).await?;
        let mut former = store::former_tasks(&*self.0.log).await?;
        *self.0.deleted_marks.lock() = loaded.deleted;
        for (name, stored) in loaded.connectors {
            let spec = self.spec(&name, &stored.config);
            if let Err(error) = &spec {
                tracing::error!(connector = name, "the stored config no longer works: {error}");
            }
            let former = former.remove(&name).unwrap_or_default();
            self.spawn(&name, stored, spec, Vec::new(), former);
        }
        *self.0.health.write() = Health::Healthy("Worker has completed startup and is ready to handle requests.".to_owned());
        let clock = self.clone();
        self.own("progress-clock", async move { crate::clock::watch_clocks(&clock).await });
        let statuses = self.clone();
        self.own("status-store", async move { crate::clock::keep_statuses(&statuses).await });
        Ok(())
    }

    /// Stops every task (drain, commit, close; one deadline) and then the log. Target states stay as they are.
    pub async fn shutdown(&self) -> Result<()> {
        *self.0.health.write() = Health::Unhealthy("Worker is shutting down.".to_owned());
        let _admin = self.0.admin.lock().await;
        for handle in self.0.connectors.read().values() {
            handle.wanted.send_modify(|wanted| wanted.lifecycle.ending = true);
        }
        let mut ends: Vec<_> = self.0.connectors.read().values().map(|handle| handle.ended.clone()).collect();
        ends.extend(self.0.ending.lock().iter().map(|(_, handle)| handle.ended.clone()));
        for end in ends {
            end.cancelled().await;
        }
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.log.close().await
    }

    /// Runs a task of the worker's own until it ends or the worker shuts down.
    #[allow(clippy::disallowed_methods, reason = "the tracker owns it, and it ends with `shutdown`")]
    pub(crate) fn own(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.0.shutdown.clone();
        self.0.tasks.spawn(async move {
            if shutdown.run_until_cancelled(future).await.is_some() {
                tracing::debug!(name, "task ended");
            }
        });
    }

    fn spec(&self, name: &str, config: &ConfigMap) -> Result<ConnectorSpec> {
        // A stored config was accepted once; keys that a newer version no longer knows must not stop it.
        ConnectorSpec::build(name, config, &self.0.registry, &self.0.options.defaults, UnknownKeys::Warn).map_err(|issues| {
            let lines: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
            Error::fatal("worker.invalid_config", lines.join("; "))
                .fix("correct the config with PUT /connectors/{name}/config or in its file")
        })
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the tracker owns the supervisor; it ends when the connector is deleted or the worker shuts down"
    )]
    fn spawn(
        &self,
        name: &str,
        stored: Stored,
        spec: Result<ConnectorSpec>,
        predecessors: Vec<CancellationToken>,
        former: BTreeSet<u32>,
    ) {
        let inner = &self.0;
        let (kind, version) = self.kind_of(&stored.config, &spec);
        let lifecycle = Desired { generation: 1, target: stored.target, ending: false };
        let (wanted, wanted_rx) = watch::channel(Wanted { lifecycle, spec: Arc::new(spec) });
        let state = match stored.target {
            TargetState::Started => State::Unassigned,
            TargetState::Paused => State::Paused,
            TargetState::Stopped => State::Stopped,
        };
        let first =
            View { state, trace: None, tasks: Vec::new(), settled: false, generation: None, plan: PlanAttempts::default() };
        let (view_tx, view) = watch::channel(first);
        // 64 commands: an operator's restarts; more of them at once are refused.
        let (commands, commands_rx) = mpsc::channel(64);
        let active_topics = Arc::new(ActiveTopics::default());
        let plane = Plane {
            log: inner.log.clone(),
            cluster: inner.options.cluster_id.as_str().into(),
            data: inner.options.data.clone(),
            shutdown_timeout: inner.options.shutdown_timeout,
            startups: inner.startups.clone(),
        };
        let supervisor = Supervisor::new(name.into(), plane, wanted_rx, commands_rx, view_tx, active_topics.clone(), former);
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        inner.tasks.spawn(async move {
            for predecessor in predecessors {
                predecessor.cancelled().await;
            }
            supervisor.run().await;
            drop(ends);
        });
        let handle = Handle { stored, wanted, view, commands, active_topics, kind, version, ended };
        inner.connectors.write().insert(name.to_owned(), handle);
    }

    /// Of the plugin that it runs; without one, of what its class means.
    fn kind_of(&self, config: &ConfigMap, spec: &Result<ConnectorSpec>) -> (ConnectorType, String) {
        let of = |plugin: &Plugin| (kind(plugin.descriptor()), plugin.descriptor().version.clone());
        match spec {
            Ok(spec) => of(spec.plugin()),
            Err(_) => {
                let plugin = config.get("connector.class").and_then(|class| self.0.registry.find(class));
                plugin.map_or((ConnectorType::Unknown, "unknown".to_owned()), |plugin| of(&plugin))
            }
        }
    }

    /// `host:port` of the REST listener, as `worker_id` stands in statuses.
    pub fn worker_id(&self) -> &str {
        &self.0.options.worker_id
    }

    /// A stable id of the data directory (Kafka's cluster id on Kafka), for `GET /`.
    pub fn cluster_id(&self) -> &str {
        &self.0.options.cluster_id
    }

    pub fn health(&self) -> Health {
        let health = self.0.health.read().clone();
        match (&health, self.0.log.stats().stopped) {
            (Health::Healthy(_), Some(why)) => Health::Unhealthy(format!("the log stands still: {why}")),
            _ => health,
        }
    }

    pub(crate) fn startups(&self) -> &Startups {
        &self.0.startups
    }

    pub fn log(&self) -> &Arc<dyn Log> {
        &self.0.log
    }

    /// Sorted by name.
    pub fn connectors(&self) -> Vec<String> {
        self.0.connectors.read().keys().cloned().collect()
    }

    pub fn connector(&self, name: &str) -> AdminResult<ConnectorInfo> {
        self.with(name, |handle| ConnectorInfo {
            name: name.to_owned(),
            config: handle.stored.config.clone(),
            tasks: (0..handle.view.borrow().tasks.len())
                .map(|task| ConnectorTaskId { connector: name.to_owned(), task: task as u32 })
                .collect(),
            kind: handle.kind,
        })
    }

    pub fn status(&self, name: &str) -> AdminResult<ConnectorStatus> {
        self.with(name, |handle| self.status_of(name, handle))
    }

    fn status_of(&self, name: &str, handle: &Handle) -> ConnectorStatus {
        let view = handle.view.borrow();
        let wanted = handle.wanted.borrow();
        let shown = |progress: TaskProgress| match (progress.report, wanted.spec.as_ref()) {
            (Some(report), Ok(spec)) => TaskProgress { report: redacted(report, |text| spec.redact(text)), ..progress },
            (report, _) => TaskProgress { report, ..progress },
        };
        let until = |at: Instant| at.saturating_duration_since(Instant::now()).as_millis() as u64;
        let attempts = (view.plan.attempt > 0)
            .then(|| ConnectorAttempts { attempt: view.plan.attempt, next_attempt_ms: view.plan.next_attempt.map(until) });
        let task = |(id, task): (usize, &crate::connector::TaskView)| TaskStatus {
            id: id as u32,
            state: task.state_now(),
            worker_id: self.worker_id().to_owned(),
            trace: task.trace.clone(),
            version: handle.version.clone(),
            aqueduct: TaskProgress {
                attempt: task.attempt,
                next_attempt_ms: task.next_attempt.map(until),
                ..shown(task.stats.progress())
            },
        };
        ConnectorStatus {
            name: name.to_owned(),
            connector: ConnectorStateInfo {
                state: view.state,
                worker_id: self.worker_id().to_owned(),
                trace: view.trace.clone(),
                version: handle.version.clone(),
                aqueduct: attempts,
            },
            tasks: view.tasks.iter().enumerate().map(task).collect(),
            kind: handle.kind,
        }
    }

    pub(crate) fn views(&self) -> Vec<(String, View, ConnectorType, String, u64)> {
        let connectors = self.0.connectors.read();
        let view = |(name, handle): (&String, &Handle)| {
            let class = handle.stored.config.get("connector.class").cloned().unwrap_or_default();
            let generation = handle.wanted.borrow().lifecycle.generation;
            let view = handle.view.borrow().clone();
            (name.clone(), view, handle.kind, class, generation)
        };
        connectors.iter().map(view).collect()
    }

    /// Once a second: what every task is doing, for its ratios.
    pub(crate) fn look(&self) {
        for handle in self.0.connectors.read().values() {
            for task in &handle.view.borrow().tasks {
                task.stats.timing.looked(task.state_now(), task.stats.records_active.load(Relaxed));
            }
        }
    }

    /// Tasks whose call has been under way for longer than their connector allows.
    pub(crate) fn overdue(&self) -> Vec<(String, u32, Call, Duration, Duration)> {
        let mut overdue = Vec::new();
        for (name, handle) in self.0.connectors.read().iter() {
            let limit = handle.wanted.borrow().spec.as_ref().as_ref().map(|spec| spec.stall_timeout).ok();
            let Some(limit) = limit else { continue };
            for (task, view) in handle.view.borrow().tasks.iter().enumerate().filter(|(_, task)| task.live) {
                if let Some((call, age)) = view.stats.calling().filter(|(_, age)| *age > limit) {
                    overdue.push((name.clone(), task as u32, call, age, limit));
                }
            }
        }
        overdue
    }

    /// The connectors whose status is not `known`; those that are gone, with `None`.
    pub(crate) fn changed_statuses(&self, known: &BTreeMap<String, Reported>) -> Vec<(String, Option<Reported>)> {
        let connectors = self.0.connectors.read();
        let gone = known.keys().filter(|name| !connectors.contains_key(*name)).map(|name| (name.clone(), None));
        let mut changed: Vec<_> = gone.collect();
        for (name, handle) in connectors.iter() {
            let generation = handle.wanted.borrow().lifecycle.generation;
            let view = handle.view.borrow();
            if !known.get(name).is_some_and(|known| known.is_of(&view, generation)) {
                changed.push((name.clone(), Some(Reported::of(&view, generation))));
            }
        }
        changed
    }

    pub(crate) fn command(&self, name: &str, command: Command) -> AdminResult<()> {
        self.with(name, |handle| handle.commands.try_send(command))?
            .map_err(|_| AdminError::Conflict(format!("Connector {name} is busy; try again")))
    }

    /// Hands a signal to every task of a source, and waits until each has taken it, within a deadline (invariant 10).
    ///
    /// NotFound for an unknown connector; Conflict when its tasks do not run, or do not take it in time; BadRequest when one refuses it.
    pub async fn signal(&self, name: &str, signal: Signal) -> AdminResult<()> {
        let (kind, tasks) = self.with(name, |handle| {
            let tasks: Vec<_> = handle.view.borrow().tasks.iter().map(|task| (task.state_now(), task.stats.signals())).collect();
            (handle.kind, tasks)
        })?;
        if kind == ConnectorType::Sink {
            return Err(AdminError::BadRequest(format!("Connector {name} is a sink; only sources take signals")));
        }
        if tasks.is_empty() {
            return Err(AdminError::Conflict(format!("Connector {name} has no running task; only running tasks take signals")));
        }
        let mut senders = Vec::new();
        for (id, task) in tasks.into_iter().enumerate() {
            match task {
                (State::Running, Some(sender)) => senders.push((format!("Task {name}-{id}"), sender)),
                (state, _) => {
                    return Err(AdminError::Conflict(format!("Task {name}-{id} is {state:?}; only running tasks take signals")));
                }
            }
        }
        for (task, sender) in senders {
            crate::signals::send(&task, sender, signal.clone()).await?;
        }
        Ok(())
    }

    /// The configs of the tasks: `(id, config)`. Secrets stay references.
    pub fn tasks(&self, name: &str) -> AdminResult<Vec<(ConnectorTaskId, ConfigMap)>> {
        self.with(name, |handle| {
            let view = handle.view.borrow();
            let config = |(task, view): (usize, &crate::connector::TaskView)| {
                let mut config = handle.stored.config.clone();
                config.extend(view.spec.iter().map(|(key, value)| (key.clone(), value.clone())));
                (ConnectorTaskId { connector: name.to_owned(), task: task as u32 }, config)
            };
            view.tasks.iter().enumerate().map(config).collect()
        })
    }

    /// Conflict when it exists.
    pub async fn create(&self, name: &str, config: ConfigMap, initial: TargetState) -> AdminResult<ConnectorInfo> {
        let admin = self.0.admin.lock().await;
        if self.0.connectors.read().contains_key(name) {
            return Err(AdminError::Conflict(format!("Connector {name} already exists")));
        }
        self.put(name, config, Some(initial), None, UnknownKeys::Warn).await?;
        drop(admin);
        self.planned(name).await
    }

    /// True when it was created by this call.
    pub async fn put_config(&self, name: &str, config: ConfigMap) -> AdminResult<(bool, ConnectorInfo)> {
        let admin = self.0.admin.lock().await;
        let created = !self.0.connectors.read().contains_key(name);
        self.put(name, config, None, None, UnknownKeys::Warn).await?;
        drop(admin);
        Ok((created, self.planned(name).await?))
    }

    /// KIP-477: `None` deletes a key.
    pub async fn patch_config(&self, name: &str, patch: IndexMap<String, Option<String>>) -> AdminResult<ConnectorInfo> {
        let admin = self.0.admin.lock().await;
        let mut config = self.with(name, |handle| handle.stored.config.clone())?;
        for (key, value) in patch {
            match value {
                Some(value) => config.insert(key, value),
                None => config.shift_remove(&key),
            };
        }
        self.put(name, config, None, None, UnknownKeys::Warn).await?;
        drop(admin);
        self.planned(name).await
    }

    /// From a file of `connectors.dir`: unknown keys are errors there.
    pub(crate) async fn put_from_folder(&self, name: &str, config: ConfigMap, mark: FolderMark) -> AdminResult<()> {
        let _admin = self.0.admin.lock().await;
        self.put(name, config, None, Some(mark), UnknownKeys::Error).await
    }

    /// What of which file was applied last, by connector; and the same of connectors that were deleted over REST.
    pub(crate) fn folder_marks(&self) -> (BTreeMap<String, FolderMark>, BTreeMap<String, FolderMark>) {
        let connectors = self.0.connectors.read();
        let marks = connectors.iter().filter_map(|(name, handle)| Some((name.clone(), handle.stored.folder.clone()?))).collect();
        (marks, self.0.deleted_marks.lock().clone())
    }

    /// The file is gone too: when it comes back, so does the connector.
    pub(crate) async fn forget_mark(&self, name: &str) -> AdminResult<()> {
        let _admin = self.0.admin.lock().await;
        if self.0.deleted_marks.lock().remove(name).is_some() {
            self.0.log.save(aqueduct_log::Store::Config, vec![store::folder_tombstone(name)]).await?;
        }
        Ok(())
    }

    /// Validates, stores, and only then changes what runs: a bad edit never touches it. The caller holds `admin`.
    async fn put(
        &self,
        name: &str,
        mut config: ConfigMap,
        target: Option<TargetState>,
        mark: Option<FolderMark>,
        unknown_keys: UnknownKeys,
    ) -> AdminResult<()> {
        if name.is_empty() || name.chars().any(char::is_control) {
            let what = if name.is_empty() { "String may not be empty" } else { "String may not contain control sequences" };
            let issue = Issue::error("name", "config.name", what).fix("give it a name of printable characters");
            return Err(AdminError::InvalidConfig(vec![issue]));
        }
        match config.get("name") {
            Some(given) if given != name => {
                return Err(AdminError::BadRequest(format!(
                    "Connector name configuration ({given}) doesn't match connector name in the URL ({name})"
                )));
            }
            Some(_) => {}
            None => {
                config.insert("name".to_owned(), name.to_owned());
            }
        }
        let spec = self.checked_spec(name, &config, unknown_keys)?;
        let before = self.0.connectors.read().get(name).map(|handle| (handle.stored.clone(), handle.ended.clone()));
        let stored = Stored {
            config,
            target: target.or(before.as_ref().map(|(stored, _)| stored.target)).unwrap_or_default(),
            folder: mark
                .or_else(|| before.as_ref().and_then(|(stored, _)| stored.folder.clone()))
                .or_else(|| self.0.deleted_marks.lock().get(name).cloned()),
        };
        let mut entries: Entries = vec![store::config_entry(name, &stored.config)?];
        if before.as_ref().map(|(stored, _)| stored.target) != Some(stored.target) {
            entries.push(store::target_entry(name, stored.target)?);
        }
        if let Some(mark) = &stored.folder {
            entries.push(store::folder_entry(name, mark)?);
        }
        self.0.log.save(aqueduct_log::Store::Config, entries).await?;
        self.0.deleted_marks.lock().remove(name);
        let works = self.with(name, |handle| handle.wanted.borrow().spec.is_ok()).unwrap_or(false);
        if works && before.as_ref().is_some_and(|(before, _)| before.config == stored.config) {
            // The same config again: nothing to restart (Strimzi and Terraform put often).
            if let Some(handle) = self.0.connectors.write().get_mut(name) {
                handle.stored = stored;
            }
        } else if before.is_some() {
            self.replace(name, stored, spec);
        } else {
            let predecessors = self.ending(name);
            self.spawn(name, stored, Ok(spec), predecessors, BTreeSet::new());
        }
        Ok(())
    }

    fn replace(&self, name: &str, stored: Stored, spec: ConnectorSpec) {
        let spec = Ok(spec);
        let (kind, version) = self.kind_of(&stored.config, &spec);
        if let Some(handle) = self.0.connectors.write().get_mut(name) {
            (handle.stored, handle.kind, handle.version) = (stored, kind, version);
            handle.wanted.send_modify(|wanted| {
                wanted.lifecycle.generation += 1;
                wanted.spec = Arc::new(spec);
            });
        }
    }

    fn checked_spec(&self, name: &str, config: &ConfigMap, unknown_keys: UnknownKeys) -> AdminResult<ConnectorSpec> {
        let class = config.get("connector.class").map(String::as_str).unwrap_or_default();
        if class.is_empty() {
            // The keys only: values may be secrets (invariant 9).
            let keys: Vec<&str> = config.keys().map(String::as_str).collect();
            return Err(AdminError::BadRequest(format!("Connector config {{{}}} contains no connector type", keys.join(", "))));
        }
        if self.0.registry.find(class).is_none() {
            return Err(AdminError::BadRequest(self.unknown_class(class)));
        }
        let defaults = &self.0.options.defaults;
        ConnectorSpec::build(name, config, &self.0.registry, defaults, unknown_keys)
            .map_err(|issues| AdminError::InvalidConfig(issues.into_iter().filter(Issue::is_error).collect()))
    }

    /// A deleted connector of this name may still be stopping.
    fn ending(&self, name: &str) -> Vec<CancellationToken> {
        self.0.ending.lock().iter().filter(|(of, _)| of == name).map(|(_, handle)| handle.ended.clone()).collect()
    }

    /// The connector, once it has shared out its tasks. Not under `admin`: a plugin that hangs must not hold up the others (invariant 10).
    async fn planned(&self, name: &str) -> AdminResult<ConnectorInfo> {
        self.wait_planned(name).await;
        self.connector(name)
    }

    async fn wait_planned(&self, name: &str) {
        let Ok((mut view, generation, target)) = self.with(name, |handle| {
            let wanted = handle.wanted.borrow();
            (handle.view.clone(), wanted.lifecycle.generation, wanted.lifecycle.target)
        }) else {
            return;
        };
        if target == TargetState::Started {
            // A time-out is fine: the status tells how far it is.
            let _ = tokio::time::timeout(PLAN_WAIT, view.wait_for(|view| view.generation == Some(generation))).await;
        }
    }

    /// A connector that came from a file stays deleted until the file changes.
    pub async fn delete(&self, name: &str) -> AdminResult<()> {
        let _admin = self.0.admin.lock().await;
        let mark = self.with(name, |handle| handle.stored.folder.clone())?;
        self.0.log.save(aqueduct_log::Store::Config, store::tombstones(name)).await?;
        // Before the connector is gone: a look at the folder in between must not bring it back.
        if let Some(mark) = mark {
            self.0.deleted_marks.lock().insert(name.to_owned(), mark);
        }
        self.end(name);
        Ok(())
    }

    /// Because its file is gone.
    pub(crate) async fn delete_from_folder(&self, name: &str) -> AdminResult<()> {
        let _admin = self.0.admin.lock().await;
        self.with(name, |_| ())?;
        let mut entries = store::tombstones(name);
        entries.push(store::folder_tombstone(name));
        self.0.log.save(aqueduct_log::Store::Config, entries).await?;
        self.end(name);
        Ok(())
    }

    /// Its tasks drain while it is no longer seen.
    fn end(&self, name: &str) {
        if let Some(handle) = self.0.connectors.write().remove(name) {
            handle.wanted.send_modify(|wanted| wanted.lifecycle.ending = true);
            let mut ending = self.0.ending.lock();
            ending.retain(|(_, handle)| !handle.ended.is_cancelled());
            ending.push((name.to_owned(), handle));
        }
    }

    pub async fn set_target(&self, name: &str, target: TargetState) -> AdminResult<()> {
        let _admin = self.0.admin.lock().await;
        if self.with(name, |handle| handle.stored.target)? == target {
            return Ok(());
        }
        self.0.log.save(aqueduct_log::Store::Config, vec![store::target_entry(name, target)?]).await?;
        if let Some(handle) = self.0.connectors.write().get_mut(name) {
            handle.stored.target = target;
            handle.wanted.send_modify(|wanted| wanted.lifecycle.target = target);
        }
        Ok(())
    }

    /// Restarts the connector, and (with `include_tasks`) its tasks, all or only the failed. The status shows RESTARTING for what is restarted.
    pub async fn restart(&self, name: &str, include_tasks: bool, only_failed: bool) -> AdminResult<ConnectorStatus> {
        let mut status = self.status(name)?;
        self.mend(name);
        self.command(name, Command::RestartConnector)?;
        if !only_failed || status.connector.state == State::Failed {
            status.connector.state = State::Restarting;
        }
        if include_tasks {
            self.command(name, if only_failed { Command::RestartFailed } else { Command::RestartAll })?;
            for task in status.tasks.iter_mut().filter(|task| !only_failed || task.state == State::Failed) {
                task.state = State::Restarting;
            }
        }
        Ok(status)
    }

    /// A config that could not be used when it was read (a secret or a plugin was missing) may be usable now.
    fn mend(&self, name: &str) {
        let Ok(config) = self.with(name, |handle| handle.wanted.borrow().spec.is_err().then(|| handle.stored.config.clone()))
        else {
            return;
        };
        if let Some(spec) = config.map(|config| self.spec(name, &config)) {
            // The admin lock is not needed: a put that comes between replaces the spec again.
            let _ = self.with(name, |handle| {
                handle.wanted.send_modify(|wanted| {
                    if wanted.spec.is_err() {
                        wanted.lifecycle.generation += 1;
                        wanted.spec = Arc::new(spec);
                    }
                });
            });
        }
    }

    /// NotFound for an unknown task; Conflict when the connector is stopped.
    pub async fn restart_task(&self, name: &str, task: u32) -> AdminResult<()> {
        let (tasks, target, tasks_max) = self.with(name, |handle| {
            let tasks_max = handle.wanted.borrow().spec.as_ref().as_ref().map_or(u32::MAX, ConnectorSpec::tasks_max);
            (handle.view.borrow().tasks.len(), handle.stored.target, tasks_max)
        })?;
        if target == TargetState::Stopped && task < tasks_max {
            return Err(AdminError::Conflict(format!("Connector {name} is stopped; resume it to run its tasks")));
        }
        if task as usize >= tasks {
            return Err(AdminError::NotFound(format!("Unknown task: {name}-{task}")));
        }
        self.command(name, Command::RestartTask(task))
    }

    /// Topics that the connector used since it was created or reset.
    pub fn active_topics(&self, name: &str) -> AdminResult<Vec<String>> {
        if !self.0.options.topic_tracking {
            return Err(AdminError::Forbidden("Topic tracking is disabled.".to_owned()));
        }
        self.with(name, |handle| handle.active_topics.list())
    }

    pub async fn reset_active_topics(&self, name: &str) -> AdminResult<()> {
        if !self.0.options.topic_tracking || !self.0.options.topic_tracking_reset {
            return Err(AdminError::Forbidden("Topic tracking reset is disabled.".to_owned()));
        }
        self.with(name, |handle| handle.active_topics.reset())
    }

    /// Sinks answer `{kafka_topic, kafka_partition}` → `{kafka_offset}`.
    pub async fn offsets(&self, name: &str) -> AdminResult<ConnectorOffsets> {
        let kind = self.with(name, |handle| handle.kind)?;
        if kind != ConnectorType::Sink {
            // A transaction that hangs in the offsets topic holds up its readers for longer than anybody waits for an answer.
            let Ok(offsets) = tokio::time::timeout(OFFSETS_WAIT, self.0.log.source_offsets(name)).await else {
                let message = format!("the offsets of {name} could not be read within {} s", OFFSETS_WAIT.as_secs());
                return Err(Error::retriable("log.timeout", message)
                    .fix("the worker's log says what it waits for: mostly a hanging transaction in the offsets topic")
                    .into());
            };
            return Ok(ConnectorOffsets { offsets: offsets? });
        }
        let positions = self.0.log.group_positions(&crate::sink::group(name)).await?;
        let offset = |position: aqueduct_core::LogPosition| SourceOffset {
            partition: object([("kafka_partition", position.partition.into()), ("kafka_topic", (*position.topic).into())]),
            offset: Some(object([("kafka_offset", position.offset.into())])),
        };
        Ok(ConnectorOffsets { offsets: positions.into_iter().map(offset).collect() })
    }

    /// BadRequest when not STOPPED or when empty. Returns the message for the user.
    pub async fn alter_offsets(&self, name: &str, offsets: Vec<SourceOffset>) -> AdminResult<String> {
        self.wait_settled(name).await;
        let _admin = self.0.admin.lock().await;
        let kind = self.settled(name)?;
        if offsets.is_empty() {
            return Err(AdminError::BadRequest(
                "Partitions / offsets need to be provided for an alter offsets request".to_owned(),
            ));
        }
        if kind == ConnectorType::Sink {
            let positions = offsets.iter().map(sink_position).collect::<AdminResult<Vec<_>>>()?;
            self.0.log.alter_group(&crate::sink::group(name), &positions).await?;
        } else {
            self.check_offsets(name, &offsets)?;
            self.0.log.alter_source_offsets(name, &offsets).await?;
        }
        Ok("The offsets for this connector have been altered successfully".to_owned())
    }

    /// By the source itself, which alone knows what its offsets look like. Any may be removed, also those that it would not take.
    fn check_offsets(&self, name: &str, offsets: &[SourceOffset]) -> AdminResult<()> {
        let spec = self.with(name, |handle| handle.wanted.borrow().spec.clone())?;
        let Some(Plugin::Source(source)) = spec.as_ref().as_ref().ok().map(ConnectorSpec::plugin) else { return Ok(()) };
        let mut given = offsets.iter().filter(|offset| offset.offset.is_some());
        let checked = given.try_for_each(|offset| source.check_offset(offset));
        let text =
            |error: Error| error.hint().map_or_else(|| error.message().to_owned(), |fix| format!("{}; {fix}", error.message()));
        checked.map_err(|error| AdminError::BadRequest(text(error)))
    }

    pub async fn reset_offsets(&self, name: &str) -> AdminResult<String> {
        self.wait_settled(name).await;
        let _admin = self.0.admin.lock().await;
        if self.settled(name)? == ConnectorType::Sink {
            let group = crate::sink::group(name);
            let positions = self.0.log.group_positions(&group).await?;
            let none: Vec<_> = positions.iter().map(|position| (position.topic_partition(), None)).collect();
            self.0.log.alter_group(&group, &none).await?;
        } else {
            let mut offsets = self.0.log.source_offsets(name).await?;
            offsets.iter_mut().for_each(|offset| offset.offset = None);
            self.0.log.alter_source_offsets(name, &offsets).await?;
        }
        Ok("The offsets for this connector have been reset successfully".to_owned())
    }

    /// Who stops a connector and moves its offsets in the next breath waits for its tasks to end, rather than being told to stop it.
    async fn wait_settled(&self, name: &str) {
        let Ok((mut view, TargetState::Stopped)) = self.with(name, |handle| (handle.view.clone(), handle.stored.target)) else {
            return;
        };
        // A task that hangs is aborted and left behind within this time.
        let limit = self.0.options.shutdown_timeout + Duration::from_secs(3);
        let _ = tokio::time::timeout(limit, view.wait_for(|view| view.settled)).await;
    }

    /// Invariant 4: offsets are moved by hand only while no task of the connector lives.
    fn settled(&self, name: &str) -> AdminResult<ConnectorType> {
        let (target, settled, kind) =
            self.with(name, |handle| (handle.stored.target, handle.view.borrow().settled, handle.kind))?;
        if target != TargetState::Stopped || !settled {
            return Err(AdminError::BadRequest(format!(
                "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
            )));
        }
        Ok(kind)
    }

    /// Prometheus' text format.
    pub fn metrics(&self) -> String {
        crate::metrics::render(self)
    }

    /// What is wrong with files in `connectors.dir`.
    pub fn folder_issues(&self) -> Vec<Issue> {
        self.0.folder_issues.lock().clone()
    }

    pub(crate) fn set_folder_issues(&self, issues: Vec<Issue>) {
        *self.0.folder_issues.lock() = issues;
    }

    fn with<T>(&self, name: &str, read: impl FnOnce(&Handle) -> T) -> AdminResult<T> {
        let connectors = self.0.connectors.read();
        let handle = connectors.get(name).ok_or_else(|| AdminError::NotFound(format!("Connector {name} not found")))?;
        Ok(read(handle))
    }
}

fn kind(descriptor: &Descriptor) -> ConnectorType {
    match descriptor.kind {
        PluginKind::Source => ConnectorType::Source,
        PluginKind::Sink => ConnectorType::Sink,
    }
}

/// A connector that puts a secret into its report must not show it (invariant 9).
fn redacted(report: Report, redact: impl Fn(String) -> String) -> Option<Report> {
    let text = serde_json::to_string(&report).ok()?;
    serde_json::from_str(&redact(text)).ok()
}

fn object<const N: usize>(entries: [(&str, serde_json::Value); N]) -> JsonMap {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Kafka Connect's texts (`SinkUtils.parseSinkConnectorOffsets`).
fn sink_position(offset: &SourceOffset) -> AdminResult<(TopicPartition, Option<i64>)> {
    let bad = AdminError::BadRequest;
    let number = |value: &serde_json::Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (Some(topic), Some(partition)) = (offset.partition.get("kafka_topic"), offset.partition.get("kafka_partition")) else {
        return Err(bad(
            "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'".into()
        ));
    };
    let no_partition = || {
        bad(format!(
            "Failed to parse the following Kafka partition value in the provided offsets: '{}'. Partition values for sink connectors need to be integers.",
            plain(partition)
        ))
    };
    let partition =
        number(partition).and_then(|number| i32::try_from(number).ok()).filter(|number| *number >= 0).ok_or_else(no_partition)?;
    let position = match &offset.offset {
        None => None,
        Some(offset) => {
            let value = offset.get("kafka_offset").ok_or_else(|| {
                bad("The offset for a sink connector should either be null or contain the key 'kafka_offset'".into())
            })?;
            let no_offset = || {
                bad(format!(
                    "Failed to parse the following Kafka offset value in the provided offsets: '{}'. Offset values for sink connectors need to be integers.",
                    plain(value)
                ))
            };
            Some(number(value).filter(|number| *number >= 0).ok_or_else(no_offset)?)
        }
    };
    Ok((TopicPartition::new(plain(topic), partition), position))
}
