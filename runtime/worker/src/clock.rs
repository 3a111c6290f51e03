//! The worker's two regular looks at all connectors: tasks that stand still, and statuses to store.

use crate::connector::Command;
use crate::stats::Call;
use crate::store;
use crate::worker::Worker;
use std::collections::HashMap;
use std::time::Duration;

/// Often enough for a truthful status, rare enough to cost nothing with 1,000 connectors (a few atomic loads each).
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Invariant 7: a task whose call has not returned in time is not RUNNING, whatever the plugin says.
pub(crate) async fn watch_clocks(worker: &Worker) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for (name, view, ..) in worker.views() {
            for (task, view) in view.tasks.iter().enumerate().filter(|(_, task)| task.live) {
                let (Some((call, age)), Some(limit)) = (view.stats.calling(), worker.stall_timeout(&name)) else { continue };
                // A poll may wait for `wait_max` by contract; the limit is far above it.
                if age > limit && call != Call::None {
                    let why = format!(
                        "`{}` has not returned for {} s (aqueduct.stall.timeout.ms is {} ms)",
                        call.name(),
                        age.as_secs(),
                        limit.as_millis()
                    );
                    // A full command queue: the next look tries again.
                    let _ = worker.command(&name, Command::Stalled(task as u32, why));
                }
            }
        }
    }
}

/// Stores statuses that changed, all of one look in one commit. They are for others to read; nothing here depends on them.
pub(crate) async fn keep_statuses(worker: &Worker) {
    let mut stored: HashMap<String, Vec<u8>> = HashMap::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut current = HashMap::new();
        for (name, view, _, _, generation) in worker.views() {
            let value = |state, trace: Option<&str>| store::status_value(state, trace, worker.worker_id(), generation);
            current.insert(store::status_key(&name, None), value(view.state, view.trace.as_deref()));
            for (task, view) in view.tasks.iter().enumerate() {
                current.insert(store::status_key(&name, Some(task as u32)), value(view.state_now(), view.trace.as_deref()));
            }
        }
        let mut changes: store::Entries = current
            .iter()
            .filter(|(key, value)| stored.get(*key) != Some(value))
            .map(|(k, v)| (k.clone(), Some(v.clone())))
            .collect();
        changes.extend(stored.keys().filter(|key| !current.contains_key(*key)).map(|key| (key.clone(), None)));
        if changes.is_empty() {
            continue;
        }
        match worker.log().save(aqueduct_log::Store::Status, changes).await {
            Ok(()) => stored = current,
            Err(error) => tracing::debug!("statuses are not stored: {error}"),
        }
    }
}
