//! `/metrics`: made from the state at each scrape, so that no gauge can drift away from it.
//!
//! Names follow what the usual JMX exporter rules make of Kafka Connect's MBeans (`kafka.connect<type=source-task-metrics, …>`): the same
//! dashboards work.

mod tasks;

use crate::admin::{ConnectorType, ExactlyOnce, State};
use crate::task::Startups;
use crate::timing::ratio;
use crate::worker::{Health, Worker};
use aqueduct_core::MeasureKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tasks::Families;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    connector: String,
    task: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectorLabels {
    connector: String,
    class: String,
    kind: String,
    status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    connector: String,
    task: u32,
    status: String,
}

type Counters<L> = Family<L, Counter>;
type Gauges<L> = Family<L, Gauge>;

pub(crate) fn render(worker: &Worker) -> String {
    let mut registry = Registry::with_prefix("kafka_connect");
    let mut counts = WorkerCounts::default();
    let connectors: Gauges<ConnectorLabels> =
        register(&mut registry, "connector_metrics_status", "1 for the connector's present status");
    let statuses: Gauges<StatusLabels> =
        register(&mut registry, "connector_task_metrics_status", "1 for the task's present status");
    let mut tasks = Families::new(&mut registry);
    for (name, view, kind, class, _) in worker.views() {
        counts.connectors += 1;
        let labels = ConnectorLabels { connector: name.clone(), class, kind: lower(&kind), status: lower(&view.state) };
        connectors.get_or_create(&labels).set(1);
        for (task, view) in view.tasks.iter().enumerate() {
            let state = view.state_now();
            counts.count(state);
            statuses.get_or_create(&StatusLabels { connector: name.clone(), task: task as u32, status: lower(&state) }).set(1);
            tasks.task(&TaskLabels { connector: name.clone(), task: task as u32 }, kind, view);
        }
    }
    counts.register(&mut registry);
    startups(&mut registry, worker.startups());
    rebalances(&mut registry);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    let mut own = Registry::with_prefix("aqueduct");
    own_metrics(&mut own, worker);
    let mut own_text = String::new();
    let _ = prometheus_client::encoding::text::encode(&mut own_text, &own);
    text.truncate(text.len() - text.ends_with("# EOF\n") as usize * 6);
    text + &own_text
}

fn register<M: prometheus_client::registry::Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// `RUNNING` → `running`, as Kafka Connect's metrics spell states.
fn lower<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_lowercase())).unwrap_or_default()
}

/// connect-worker-metrics
#[derive(Default)]
struct WorkerCounts {
    connectors: i64,
    tasks: i64,
    running: i64,
    paused: i64,
    failed: i64,
    unassigned: i64,
    restarting: i64,
}

impl WorkerCounts {
    fn count(&mut self, state: State) {
        self.tasks += 1;
        match state {
            State::Running => self.running += 1,
            State::Paused => self.paused += 1,
            State::Failed => self.failed += 1,
            State::Unassigned => self.unassigned += 1,
            State::Restarting => self.restarting += 1,
            State::Stopped => {}
        }
    }

    fn register(&self, registry: &mut Registry) {
        let counts = [
            ("connector_count", self.connectors),
            ("task_count", self.tasks),
            ("connector_running_task_count", self.running),
            ("connector_paused_task_count", self.paused),
            ("connector_failed_task_count", self.failed),
            ("connector_unassigned_task_count", self.unassigned),
            ("connector_restarting_task_count", self.restarting),
        ];
        for (name, value) in counts {
            register::<Gauge>(registry, &format!("connect_worker_metrics_{name}"), "As Kafka Connect's connect-worker-metrics")
                .set(value);
        }
    }
}

/// Kafka Connect's `connector-startup-*` and `task-startup-*`, since the worker started, of connectors that are gone too.
fn startups(registry: &mut Registry, startups: &Startups) {
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    let connectors = [&startups.connector_attempts, &startups.connector_successes, &startups.connector_failures].map(of);
    let tasks = [&startups.task_attempts, &startups.task_successes, &startups.task_failures].map(of);
    for (what, [attempts, successes, failures]) in [("connector", connectors), ("task", tasks)] {
        let name = |suffix: &str| format!("connect_worker_metrics_{what}_startup_{suffix}");
        for (suffix, count) in [("attempts", attempts), ("success", successes), ("failure", failures)] {
            register::<Counter>(registry, &name(suffix), "Starts, those that succeeded, those that failed").inc_by(count);
        }
        for (suffix, part) in [("success_percentage", successes), ("failure_percentage", failures)] {
            let share: Gauge<f64, AtomicU64> = register(registry, &name(suffix), "From 0 to 1, as Kafka Connect has it");
            share.set(ratio(part, successes + failures));
        }
    }
}

/// Kafka Connect's boards ask whether a group of workers is being shared out anew: one worker never is.
fn rebalances(registry: &mut Registry) {
    for (name, help) in [("rebalancing", "Never: there is one worker"), ("epoch", "There is one worker, and no group")] {
        register::<Gauge>(registry, &format!("connect_worker_rebalance_metrics_{name}"), help).set(0);
    }
    register::<Counter>(registry, "connect_worker_rebalance_metrics_completed_rebalances", "None: there is one worker");
}

/// A family of what tasks measure themselves.
enum Measured {
    Gauges(Family<Vec<(String, String)>, Gauge<f64, AtomicU64>>),
    Counters(Family<Vec<(String, String)>, Counter<f64, AtomicU64>>),
}

/// What tasks measure themselves: one family for each name, of the kind that it has first.
fn reported_metrics(registry: &mut Registry, worker: &Worker) {
    let mut families: BTreeMap<String, Measured> = BTreeMap::new();
    for (connector, view, kind, ..) in worker.views() {
        let of = if kind == ConnectorType::Source { "source" } else { "sink" };
        for (task, view) in view.tasks.iter().enumerate() {
            for measure in view.stats.measures() {
                if !measure.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                    continue;
                }
                let of_plugin = measure.name.starts_with("plugin_");
                let name = if of_plugin { measure.name.to_string() } else { format!("{of}_{}", measure.name) };
                let family = families.entry(name).or_insert_with_key(|name| match measure.kind {
                    MeasureKind::Gauge => Measured::Gauges(register(registry, name, &measure.help)),
                    MeasureKind::Counter => Measured::Counters(register(registry, name, &measure.help)),
                });
                let own = [("connector".to_owned(), connector.clone()), ("task".to_owned(), task.to_string())];
                let labels: Vec<_> = own.into_iter().chain(measure.labels).collect();
                match (family, measure.kind) {
                    (Measured::Gauges(family), MeasureKind::Gauge) => {
                        family.get_or_create(&labels).set(measure.value);
                    }
                    (Measured::Counters(family), MeasureKind::Counter) => {
                        family.get_or_create(&labels).inc_by(measure.value);
                    }
                    // Another task measures something else by this name.
                    _ => {}
                }
            }
        }
    }
}

fn own_metrics(registry: &mut Registry, worker: &Worker) {
    let lost: Counters<TaskLabels> =
        register(registry, "source_lost_bytes", "Bytes that were gone before the source could read them: truncated, deleted");
    let degraded: Gauges<TaskLabels> = register(
        registry,
        "source_exactly_once_degraded",
        "1 when the log cannot promise exactly once to the source's task; its status says why",
    );
    for (connector, view, ..) in worker.views().into_iter().filter(|(_, _, kind, ..)| *kind == ConnectorType::Source) {
        for (task, view) in (0..).zip(&view.tasks) {
            let labels = TaskLabels { connector: connector.clone(), task };
            if let Some((promise, _)) = view.stats.exactly_once() {
                degraded.get_or_create(&labels).set((promise == ExactlyOnce::Degraded).into());
            }
            lost.get_or_create(&labels).inc_by(view.stats.source_lost_bytes.load(Relaxed));
        }
    }
    reported_metrics(registry, worker);
    let stats = worker.log().stats();
    register::<Counter>(registry, "log_commits", "Commits of the log").inc_by(stats.commits);
    register::<Counter>(registry, "log_syncs", "Rounds of group commit, each with its fdatasyncs").inc_by(stats.syncs);
    register::<Counter>(registry, "log_records", "Records appended").inc_by(stats.records);
    register::<Counter>(registry, "log_bytes", "Bytes appended").inc_by(stats.bytes);
    register::<Gauge>(registry, "log_bytes_in_flight", "Bytes of appends that are not durable yet")
        .set(stats.bytes_in_flight as i64);
    register::<Gauge>(registry, "log_stopped", "1 while writers stand still (full disk, I/O errors)")
        .set(stats.stopped.is_some().into());
    register::<Gauge>(registry, "healthy", "1 when GET /health says healthy")
        .set(matches!(worker.health(), Health::Healthy(_)).into());
    register::<Gauge>(registry, "folder_issues", "Errors in files of connectors.dir")
        .set(worker.folder_issues().iter().filter(|issue| issue.is_error()).count() as i64);
}
