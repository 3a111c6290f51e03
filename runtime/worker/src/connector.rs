//! The supervisor of one connector: it carries out what [`crate::lifecycle::next`] says, and is the only writer of the connector's state.
//!
//! Runs on the control plane; plans and tasks run on the data plane, so a connector that hangs cannot stop it (invariant 10).

use crate::admin::{State, TargetState};
use crate::lifecycle::{self, Action, Desired, Observed, Phase, Plan, Task};
use crate::spec::{ConnectorSpec, Secrets, TaskParts};
use crate::stats::{Call, TaskStats};
use crate::task::{ActiveTopics, Startups, panicked};
use aqueduct_core::{Error, Result, TaskId, TaskSpec, blocking};
use aqueduct_log::Log;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What REST and the folder want; written there, read here.
#[derive(Clone)]
pub struct Wanted {
    pub lifecycle: Desired,
    /// The typed config, or why it is none (a plugin that is gone, say).
    pub spec: Arc<Result<ConnectorSpec>>,
}

/// What the supervisor publishes.
#[derive(Clone, Debug)]
pub struct View {
    pub state: State,
    pub trace: Option<String>,
    pub tasks: Vec<TaskView>,
    /// No task is alive and none is about to be.
    pub settled: bool,
    /// The tasks are those of this generation of the config.
    pub generation: Option<u64>,
    /// While the connector itself cannot start.
    pub plan: PlanAttempts,
}

/// Failures in a row of a connector to say which tasks it has.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanAttempts {
    pub attempt: u32,
    pub next_attempt: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct TaskView {
    pub state: State,
    pub trace: Option<String>,
    pub live: bool,
    pub spec: TaskSpec,
    pub stats: Arc<TaskStats>,
    /// Failures in a row.
    pub attempt: u32,
    pub next_attempt: Option<Instant>,
}

impl TaskView {
    /// RUNNING is shown once `open` is through: before that nothing moves (invariant 7). A task that retries by itself stays RUNNING for as long as
    /// the operator allows (`errors.retry.timeout`).
    pub fn state_now(&self) -> State {
        match (self.state, self.stats.calling()) {
            (State::Running, Some((Call::Open, _))) if !self.stats.is_retrying() => State::Unassigned,
            (state, _) => state,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Plan anew: what `restart` of the connector itself means.
    RestartConnector,
    RestartTask(u32),
    RestartFailed,
    RestartAll,
    /// The clock of a task stands still.
    Stalled(u32, String),
}

/// What every supervisor shares.
#[derive(Clone)]
pub struct Plane {
    pub log: Arc<dyn Log>,
    /// The cluster's id.
    pub cluster: Arc<str>,
    /// The data plane.
    pub data: tokio::runtime::Handle,
    pub shutdown_timeout: Duration,
    pub startups: Arc<Startups>,
}

pub struct Supervisor {
    name: Arc<str>,
    plane: Plane,
    wanted: watch::Receiver<Wanted>,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    active_topics: Arc<ActiveTopics>,
    observed: Observed,
    slots: Vec<Slot>,
    /// A trace without secrets.
    plan_error: Option<String>,
    plan_attempts: u32,
    plans: JoinSet<Result<Vec<TaskSpec>>>,
    /// The plan whose outcome counts: what older ones say, or how they panic, does not matter any more.
    planning: Option<Id>,
    runs: JoinSet<Result<()>>,
    /// The slot of each run; a run that was given up is not in here.
    running: HashMap<Id, usize>,
    /// What the plan that failed was made with.
    plan_secrets: Arc<Secrets>,
    /// One at a time looks whether secrets have changed.
    looks: JoinSet<Option<u64>>,
    look_at: Option<Instant>,
    /// What it saw: a file that is written at this moment looks otherwise the next time.
    seen: Option<u64>,
    /// Of all tasks of the connector, over all its restarts.
    blocking: Arc<Semaphore>,
    /// Runs of its tasks since this worker started: the number of one is the `epoch` of its log lines, so that those of a run that was left behind are
    /// told from those of the run after it.
    epoch: u64,
    /// Tasks that earlier generations had, in this worker or one before it.
    former: BTreeSet<u32>,
    /// Another worker has taken over.
    fenced: bool,
    ended: bool,
}

/// One task's place.
struct Slot {
    spec: TaskSpec,
    stats: Arc<TaskStats>,
    run: Option<Run>,
    /// The trace of the last failure, without secrets.
    error: Option<String>,
    /// Failures in a row.
    attempts: u32,
    /// Why it is being stopped, when that counts as a failure.
    stalled: Option<Error>,
    /// What the last run was made with.
    secrets: Arc<Secrets>,
    /// Of the last run: every line about it says which connector, which task and which epoch.
    span: Span,
}

struct Run {
    id: Id,
    stop: CancellationToken,
    abort: AbortHandle,
    /// Which config it runs: it knows the secrets that must not be shown.
    spec: ConnectorSpec,
    /// When it started: progress resets `attempts`, and so does a long life.
    records_settled: u64,
    since: Instant,
    deadline: Option<Instant>,
    aborted: bool,
}

/// After an abort a task gets this long to reach its next await; then it is left behind, fenced by the next one's epoch (invariant 5).
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// Blocking calls of one connector at a time, of the 64 threads that all share: a connector on a mount that hangs takes a quarter of them at most,
/// and the others, the log and the folder go on (invariant 10, I14). More at once make no disk faster.
const BLOCKING_CALLS_MAX: usize = 16;
/// A task in back-off is RESTARTING for this many attempts, then FAILED: a short hiccup should not page anybody.
const QUIET_ATTEMPTS: u32 = 3;
/// Between two looks whether secrets have changed: they change rarely, and 1,000 connectors may have some. Two looks must agree.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

impl Supervisor {
    pub fn new(
        name: Arc<str>,
        plane: Plane,
        wanted: watch::Receiver<Wanted>,
        commands: mpsc::Receiver<Command>,
        view: watch::Sender<View>,
        active_topics: Arc<ActiveTopics>,
        former: BTreeSet<u32>,
    ) -> Self {
        Self {
            name,
            plane,
            wanted,
            commands,
            view,
            active_topics,
            observed: Observed::default(),
            slots: Vec::new(),
            plan_error: None,
            plan_attempts: 0,
            plans: JoinSet::new(),
            planning: None,
            plan_secrets: Arc::default(),
            looks: JoinSet::new(),
            look_at: None,
            seen: None,
            epoch: 0,
            blocking: Arc::new(Semaphore::new(BLOCKING_CALLS_MAX)),
            runs: JoinSet::new(),
            running: HashMap::new(),
            former,
            fenced: false,
            ended: false,
        }
    }

    /// Ends when the connector is deleted or the worker shuts down, with every task stopped.
    pub async fn run(mut self) {
        let log = self.plane.log.clone();
        let mut fenced = log.fenced();
        loop {
            let wake = self.act();
            self.publish();
            if self.ended {
                return;
            }
            self.look();
            let look_at = self.look_at.filter(|_| self.looks.is_empty());
            let wake = [wake, self.next_deadline(), look_at].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return; // the worker is gone
                    }
                }
                Some(command) = self.commands.recv() => self.command(command),
                Some(planned) = self.plans.join_next_with_id() => self.planned(planned),
                Some(done) = self.runs.join_next_with_id() => self.run_ended(done),
                Some(looked) = self.looks.join_next() => self.looked(looked.ok().flatten()),
                error = &mut fenced, if !self.fenced => self.fence(&error),
                () = sleep => self.enforce_deadlines(),
            }
        }
    }

    /// Carries out what the lifecycle says; returns when to look again.
    fn act(&mut self) -> Option<Instant> {
        let wanted = self.wanted.borrow_and_update().clone();
        let mut wake: Option<Instant> = None;
        for action in lifecycle::next(&wanted.lifecycle, &self.observed, Instant::now()) {
            match action {
                Action::Plan => self.plan(&wanted),
                Action::Start(index) => self.start(index, &wanted),
                Action::Stop(index) => self.stop(index),
                Action::DropTasks => {
                    self.observed = Observed::default();
                    self.slots.clear();
                    self.plan_error = None;
                }
                Action::WakeAt(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                Action::End => self.ended = true,
            }
        }
        wake
    }

    fn plan(&mut self, wanted: &Wanted) {
        let generation = wanted.lifecycle.generation;
        self.observed.tasks.clear();
        self.observed.plan = Plan::Running { generation };
        self.plan_error = None;
        if let Err(error) = wanted.spec.as_ref() {
            self.plan_failed(generation, Error::new(error.class(), error.code().to_owned(), error.message()), None);
            return;
        }
        let (spec, name, log, former) = (wanted.spec.clone(), self.name.clone(), self.plane.log.clone(), self.former.clone());
        self.plan_secrets = Arc::default();
        let secrets = self.plan_secrets.clone();
        let plan = async move {
            match spec.as_ref() {
                Ok(spec) => {
                    let tasks = spec.plan(&secrets).await?;
                    let gone = former.into_iter().filter(|task| *task as usize >= tasks.len()).collect();
                    spec.fence_former(&name, gone, &*log).await?;
                    Ok(tasks)
                }
                Err(error) => Err(Error::fatal(error.code().to_owned(), error.message())),
            }
        };
        self.plane.startups.connector_attempts.fetch_add(1, Relaxed);
        self.planning = Some(self.plans.spawn_on(blocking::limited(self.blocking.clone(), plan), &self.plane.data).id());
    }

    fn planned(&mut self, planned: Result<(Id, Result<Vec<TaskSpec>>), JoinError>) {
        let (id, planned) = match planned {
            Ok((id, planned)) => (id, planned),
            Err(error) => (error.id(), Err(join_error(error))),
        };
        let Plan::Running { generation } = self.observed.plan else { return };
        if self.planning != Some(id) {
            return; // the config changed meanwhile
        }
        match planned {
            Ok(specs) => {
                self.plan_attempts = 0;
                self.plane.startups.connector_successes.fetch_add(1, Relaxed);
                self.former = (0..specs.len() as u32).collect();
                self.observed.plan = Plan::Done { generation };
                self.observed.tasks = vec![Task::default(); specs.len()];
                let mut old: Vec<Slot> = std::mem::take(&mut self.slots);
                self.slots = specs.into_iter().map(Slot::new).collect();
                // Counters belong to the task id, not to one generation of its config.
                for (slot, old) in self.slots.iter_mut().zip(old.drain(..)) {
                    slot.stats = old.stats;
                }
            }
            Err(error) => {
                self.plan_attempts += 1;
                self.plane.startups.connector_failures.fetch_add(1, Relaxed);
                let wanted = self.wanted.borrow().clone();
                let policy = wanted.spec.as_ref().as_ref().map(|spec| spec.restart).unwrap_or_default();
                let retry = policy.delay(self.plan_attempts, &error, fastrand::f64()).map(|delay| Instant::now() + delay);
                self.plan_failed(generation, error, retry);
            }
        }
    }

    fn plan_failed(&mut self, generation: u64, error: Error, retry_at: Option<Instant>) {
        let wanted = self.wanted.borrow().clone();
        let redact = |text: String| wanted.spec.as_ref().as_ref().map_or(text.clone(), |spec| spec.redact(text));
        tracing::error!(connector = %self.name, "the connector cannot start: {}", redact(error.to_string()));
        self.observed.plan = Plan::Failed { generation, retry_at };
        self.plan_error = Some(redact(error.trace()));
        self.slots.clear();
    }

    fn start(&mut self, index: usize, wanted: &Wanted) {
        let Ok(spec) = wanted.spec.as_ref() else { return };
        let slot = &mut self.slots[index];
        let stop = CancellationToken::new();
        // Its own: a run that was left behind may still write its number some day.
        slot.secrets = Arc::default();
        let parts = TaskParts {
            secrets: slot.secrets.clone(),
            id: TaskId::new(self.name.clone(), index as u32),
            spec: slot.spec.clone(),
            log: self.plane.log.clone(),
            cluster: self.plane.cluster.clone(),
            stats: slot.stats.clone(),
            active_topics: self.active_topics.clone(),
            startups: self.plane.startups.clone(),
            stop: stop.clone(),
        };
        slot.stats.task_starts();
        let runs = spec.clone();
        self.epoch += 1;
        // At a level that no filter leaves out: every line of a task says whose it is.
        slot.span = tracing::error_span!("task", connector = %self.name, task = index, epoch = self.epoch);
        let run = async move { runs.run(parts).await }.instrument(slot.span.clone());
        let abort = self.runs.spawn_on(blocking::limited(self.blocking.clone(), run), &self.plane.data);
        if slot.error.is_some() {
            slot.stats.restarts.fetch_add(1, Relaxed);
        }
        slot.stalled = None;
        self.running.insert(abort.id(), index);
        let records_settled = slot.stats.records_settled();
        let (id, spec, since) = (abort.id(), spec.clone(), Instant::now());
        slot.run = Some(Run { id, stop, abort, spec, records_settled, since, deadline: None, aborted: false });
        self.observed.tasks[index] = Task { phase: Phase::Live { stopping: false }, restart: false };
    }

    fn stop(&mut self, index: usize) {
        if let Some(run) = &mut self.slots[index].run {
            run.stop.cancel();
            run.deadline = Some(Instant::now() + self.plane.shutdown_timeout);
            self.observed.tasks[index].phase = Phase::Live { stopping: true };
        }
    }

    fn run_ended(&mut self, done: Result<(Id, Result<()>), JoinError>) {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(join_error(error))),
        };
        // A run that was left behind ends some day; its slot has gone on.
        if let Some(index) = self.running.remove(&id) {
            self.slot_ended(index, result);
        }
    }

    fn slot_ended(&mut self, index: usize, result: Result<()>) {
        let wanted = self.wanted.borrow().clone();
        let policy = wanted.spec.as_ref().as_ref().map(|spec| spec.restart).unwrap_or_default();
        let (slot, task) = (&mut self.slots[index], &mut self.observed.tasks[index]);
        let run = slot.run.take();
        let redact = |text: String| run.as_ref().map_or(text.clone(), |run| run.spec.redact(text));
        slot.stats.task_ended();
        let stopping = task.phase == Phase::Live { stopping: true };
        let error = match (slot.stalled.take(), result) {
            (Some(stalled), _) => stalled,
            (None, Err(error)) if !stopping => error,
            (None, result) => {
                if let Err(error) = result {
                    tracing::warn!(parent: &slot.span, "while stopping: {}", redact(error.to_string()));
                }
                slot.error = None;
                slot.attempts = 0;
                task.phase = Phase::Idle;
                return;
            }
        };
        let healthy = |run: &Run| slot.stats.records_settled() > run.records_settled || run.since.elapsed() > policy.max;
        slot.attempts = match run.as_ref().is_some_and(healthy) {
            true => 1,
            // The log heals by itself and every task waits for it: that does not use up their restarts.
            false if error.code().starts_with("log.") => slot.attempts.max(1),
            false => slot.attempts + 1,
        };
        let trace = redact(error.trace());
        slot.stats.failed(&trace);
        let phase = match policy.delay(slot.attempts, &error, fastrand::f64()) {
            Some(delay) => {
                tracing::warn!(parent: &slot.span, attempt = slot.attempts, ?delay, "task restarts after: {}", redact(error.to_string()));
                slot.stats.retries.fetch_add(1, Relaxed);
                Phase::Backoff { until: Instant::now() + delay }
            }
            None => {
                tracing::error!(parent: &slot.span, "task failed: {}", redact(error.to_string()));
                Phase::Failed
            }
        };
        *task = Task { phase, restart: false };
        slot.error = Some(trace);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::RestartConnector => {
                if let Plan::Failed { generation, .. } = self.observed.plan {
                    self.observed.plan = Plan::Failed { generation, retry_at: Some(Instant::now()) };
                }
            }
            Command::RestartTask(id) => self.restart(|index, _| index == id as usize),
            Command::RestartAll => self.restart(|_, _| true),
            Command::RestartFailed => self.restart(|_, task| matches!(task.phase, Phase::Failed | Phase::Backoff { .. })),
            Command::Stalled(id, why) => {
                let index = id as usize;
                if let (Some(task), Some(slot)) = (self.observed.tasks.get_mut(index), self.slots.get_mut(index))
                    && task.phase == (Phase::Live { stopping: false })
                    && slot.stalled.is_none()
                {
                    tracing::error!(parent: &slot.span, "{why}");
                    slot.stalled = Some(
                        Error::retriable("worker.stalled", why)
                            .fix("the plugin or what it talks to hangs; the worker restarts the task"),
                    );
                    task.restart = true;
                }
            }
        }
    }

    /// By an operator: what failed before is forgotten.
    fn restart(&mut self, which: impl Fn(usize, &Task) -> bool) {
        for (index, (task, slot)) in self.observed.tasks.iter_mut().zip(&mut self.slots).enumerate() {
            if which(index, task) {
                task.restart = true;
                slot.attempts = 0;
            }
        }
    }

    /// Another worker has taken over: every task stops, and none starts again (invariant 5).
    fn fence(&mut self, error: &Error) {
        self.fenced = true;
        for index in 0..self.slots.len() {
            let (slot, task) = (&mut self.slots[index], &mut self.observed.tasks[index]);
            match task.phase {
                Phase::Live { stopping } => {
                    slot.stalled = Some(Error::fatal(error.code().to_owned(), error.message()));
                    if !stopping {
                        self.stop(index);
                    }
                }
                Phase::Idle | Phase::Backoff { .. } => {
                    slot.error = Some(error.trace());
                    *task = Task { phase: Phase::Failed, restart: false };
                }
                Phase::Failed => {}
            }
        }
    }

    /// Begins to look whether secrets have changed, when it is time to.
    fn look(&mut self) {
        let wanted = self.wanted.borrow().clone();
        let started = wanted.lifecycle.target == TargetState::Started && !wanted.lifecycle.ending && !self.fenced;
        let Ok(spec) = wanted.spec.as_ref() else { return self.look_at = None };
        if !started || !spec.follows_secrets() {
            return self.look_at = None;
        }
        let now = Instant::now();
        let due = *self.look_at.get_or_insert(now + LOOK_PAUSE);
        if now < due || !self.looks.is_empty() {
            return;
        }
        self.look_at = Some(now + LOOK_PAUSE);
        let spec = spec.clone();
        // Files may lie on a mount that hangs: as a plan, it takes no thread of others.
        let look = async move { spec.secrets_now().await };
        self.looks.spawn_on(blocking::limited(self.blocking.clone(), look), &self.plane.data);
    }

    /// The tasks that were made with other secrets start again; what failed with others, or for want of them, tries again.
    fn looked(&mut self, now: Option<u64>) {
        let Some(now) = now else { return self.seen = None };
        if self.seen.replace(now) != Some(now) {
            return;
        }
        for (task, slot) in self.observed.tasks.iter_mut().zip(&mut self.slots) {
            let changed = match task.phase {
                Phase::Live { stopping: false } => slot.secrets.number() != 0 && slot.secrets.number() != now && !task.restart,
                Phase::Failed => slot.secrets.number() != now && !task.restart,
                _ => false,
            };
            if changed {
                tracing::info!(parent: &slot.span, "a secret has changed: the task starts again with the new one");
                task.restart = true;
                slot.attempts = 0;
            }
        }
        if let Plan::Failed { generation, retry_at: None } = self.observed.plan
            && self.plan_secrets.number() != now
        {
            tracing::info!(connector = %self.name, "a secret has changed: the connector is tried again with the new one");
            self.observed.plan = Plan::Failed { generation, retry_at: Some(Instant::now()) };
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| slot.run.as_ref()?.deadline).min()
    }

    /// One deadline for a stop; then abort; then leave behind.
    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            let Slot { run, span, .. } = &mut self.slots[index];
            let Some(run) = run.as_mut().filter(|run| run.deadline.is_some_and(|at| now >= at)) else { continue };
            if run.aborted {
                self.leave_behind(index);
            } else {
                tracing::warn!(parent: &*span, timeout = ?self.plane.shutdown_timeout, "the task did not stop in time; aborted");
                run.abort.abort();
                run.aborted = true;
                run.deadline = Some(now + ABORT_GRACE);
            }
        }
    }

    /// The task does not let go of its thread. It may still wake up some day: it is fenced, so that nothing of it counts then (invariant 5), and only
    /// after that its place is free. It does not restart by itself, since each attempt could take one more thread from the others.
    fn leave_behind(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        tracing::error!(parent: &slot.span, "the task does not let go of its thread; it is left behind, fenced");
        let Some(run) = &mut slot.run else { return };
        self.running.remove(&run.id);
        slot.stats = Arc::new(slot.stats.successor());
        slot.stalled = slot.stalled.take().map(|error| {
            Error::fatal("worker.stalled", error.message())
                .fix("it holds a thread until the worker restarts; mend what it waits for, then restart the task")
        });
        let (spec, log, id) = (run.spec.clone(), self.plane.log.clone(), TaskId::new(self.name.clone(), index as u32));
        let fence = async move { spec.fence(&id, &*log).await };
        let abort = self.runs.spawn_on(fence, &tokio::runtime::Handle::current());
        self.running.insert(abort.id(), index);
        (run.id, run.abort, run.deadline) = (abort.id(), abort, None);
    }

    fn publish(&self) {
        let wanted = self.wanted.borrow().clone();
        let target = wanted.lifecycle.target;
        // A plugin may have put a resolved secret into a task's share.
        let shown = |spec: &TaskSpec| match wanted.spec.as_ref() {
            Ok(known) => spec.iter().map(|(key, value)| (key.clone(), known.redact(value.clone()))).collect(),
            Err(_) => TaskSpec::new(),
        };
        let tasks = self.observed.tasks.iter().zip(&self.slots).map(|(task, slot)| {
            let state = task_state(task.phase, target, slot);
            let trace = slot.error.clone().or_else(|| slot.stalled.as_ref().map(Error::trace));
            TaskView {
                state,
                trace: trace.filter(|_| state != State::Running),
                live: task.is_live(),
                spec: shown(&slot.spec),
                stats: slot.stats.clone(),
                attempt: slot.attempts,
                next_attempt: match task.phase {
                    Phase::Backoff { until } => Some(until),
                    _ => None,
                },
            }
        });
        let state = match (target, self.observed.plan) {
            (TargetState::Stopped, _) => State::Stopped,
            (TargetState::Paused, _) => State::Paused,
            (_, Plan::Failed { .. }) => State::Failed,
            (_, Plan::None | Plan::Running { .. }) => State::Unassigned,
            (_, Plan::Done { .. }) => State::Running,
        };
        let generation = match self.observed.plan {
            Plan::Done { generation } | Plan::Failed { generation, .. } => Some(generation),
            _ => None,
        };
        let settled = !self.observed.tasks.iter().any(|task| task.is_live()) && target != TargetState::Started;
        let trace = self.plan_error.clone().filter(|_| state == State::Failed);
        let plan = match self.observed.plan {
            Plan::Failed { retry_at, .. } => PlanAttempts { attempt: self.plan_attempts, next_attempt: retry_at },
            _ => PlanAttempts::default(),
        };
        self.view.send_replace(View { state, trace, tasks: tasks.collect(), settled, generation, plan });
    }
}

impl Slot {
    fn new(spec: TaskSpec) -> Self {
        Self {
            spec,
            stats: Arc::default(),
            run: None,
            error: None,
            attempts: 0,
            stalled: None,
            secrets: Arc::default(),
            span: Span::none(),
        }
    }
}

fn task_state(phase: Phase, target: TargetState, slot: &Slot) -> State {
    match (phase, target) {
        (Phase::Live { .. }, _) if slot.stalled.is_some() => State::Failed,
        // On its way out. Kafka Connect's tasks are never STOPPED: clients with closed enums do not read that.
        (_, TargetState::Stopped) => State::Unassigned,
        (Phase::Failed, _) => State::Failed,
        (_, TargetState::Paused) => State::Paused,
        (Phase::Live { stopping: false }, _) => State::Running,
        (Phase::Live { stopping: true }, _) => State::Restarting,
        (Phase::Idle, _) => State::Unassigned,
        (Phase::Backoff { .. }, _) if slot.attempts > QUIET_ATTEMPTS => State::Failed,
        (Phase::Backoff { .. }, _) => State::Restarting,
    }
}

fn join_error(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(payload) => panicked(payload),
        Err(_) => Error::retriable("worker.task_aborted", "the task was aborted because it did not stop in time"),
    }
}
