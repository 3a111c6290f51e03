//! The worker's two regular looks at all connectors: tasks that stand still, and statuses to store.

use crate::admin::State;
use crate::connector::{Command, View};
use crate::store;
use crate::worker::Worker;
use std::collections::BTreeMap;
use std::time::Duration;

/// Often enough for a truthful status, rare enough to cost nothing with 1,000 connectors (a few atomic loads each).
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Invariant 7: a task whose call has not returned in time is not RUNNING, whatever the plugin says.
pub(crate) async fn watch_clocks(worker: &Worker) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        worker.look();
        for (name, task, call, age, limit) in worker.overdue() {
            // A poll may wait for `wait_max` by contract; the limit is far above it.
            let why = format!(
                "`{}` has not returned for {} s (aqueduct.stall.timeout.ms is {} ms)",
                call.name(),
                age.as_secs(),
                limit.as_millis()
            );
            // A full command queue: the next look tries again.
            let _ = worker.command(&name, Command::Stalled(task, why));
        }
    }
}

/// What was stored last of one connector: its state and trace, and those of its tasks.
pub(crate) struct Reported {
    generation: u64,
    connector: (State, Option<String>),
    tasks: Vec<(State, Option<String>)>,
}

impl Reported {
    pub(crate) fn of(view: &View, generation: u64) -> Self {
        let tasks = view.tasks.iter().map(|task| (task.state_now(), task.trace.clone())).collect();
        Self { generation, connector: (view.state, view.trace.clone()), tasks }
    }

    pub(crate) fn is_of(&self, view: &View, generation: u64) -> bool {
        let mut tasks = self.tasks.iter().zip(&view.tasks);
        self.generation == generation
            && self.connector.0 == view.state
            && self.connector.1 == view.trace
            && self.tasks.len() == view.tasks.len()
            && tasks.all(|((state, trace), task)| *state == task.state_now() && *trace == task.trace)
    }

    /// As entries of the status store, in place of those of `before`.
    fn entries(now: Option<&Self>, before: Option<&Self>, name: &str, worker_id: &str) -> store::Entries {
        let mut entries = store::Entries::new();
        let value = |(state, trace): &(State, Option<String>), generation| {
            store::status_value(*state, trace.as_deref(), worker_id, generation)
        };
        entries.push((store::status_key(name, None), now.map(|now| value(&now.connector, now.generation))));
        let tasks = now.map_or(0, |now| now.tasks.len()).max(before.map_or(0, |before| before.tasks.len()));
        for task in 0..tasks {
            let state = now.and_then(|now| Some(value(now.tasks.get(task)?, now.generation)));
            entries.push((store::status_key(name, Some(task as u32)), state));
        }
        entries
    }
}

/// Stores statuses that changed, all of one look in one commit. They are for others to read; nothing here depends on them.
pub(crate) async fn keep_statuses(worker: &Worker) {
    let mut stored: BTreeMap<String, Reported> = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let changed = worker.changed_statuses(&stored);
        if changed.is_empty() {
            continue;
        }
        let entries =
            changed.iter().flat_map(|(name, now)| Reported::entries(now.as_ref(), stored.get(name), name, worker.worker_id()));
        match worker.log().save(aqueduct_log::Store::Status, entries.collect()).await {
            Ok(()) => changed.into_iter().for_each(|(name, now)| match now {
                Some(now) => drop(stored.insert(name, now)),
                None => drop(stored.remove(&name)),
            }),
            // They are the successor's now.
            Err(error) if error.code() == "log.fenced" => return,
            Err(error) => tracing::debug!("statuses are not stored: {error}"),
        }
    }
}
