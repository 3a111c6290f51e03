//! `/metrics`: made from the state at each scrape, so that no gauge can drift away from it.
//!
//! Names follow what the usual JMX exporter rules make of Kafka Connect's MBeans (`kafka.connect<type=source-task-metrics, …>`): the same
//! dashboards work.

use crate::admin::{ConnectorType, ExactlyOnce, State};
use crate::connector::TaskView;
use crate::worker::{Health, Worker};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
type Measures = Family<Vec<(String, String)>, Gauge<f64, AtomicU64>>;

pub(crate) fn render(worker: &Worker) -> String {
    let mut registry = Registry::with_prefix("kafka_connect");
    let mut counts = WorkerCounts::default();
    let connectors: Gauges<ConnectorLabels> =
        register(&mut registry, "connector_metrics_status", "1 for the connector's present status");
    let statuses: Gauges<StatusLabels> =
        register(&mut registry, "connector_task_metrics_status", "1 for the task's present status");
    let tasks = TaskMetrics::register(&mut registry);
    for (name, view, kind, class, _) in worker.views() {
        counts.connectors += 1;
        let labels = ConnectorLabels { connector: name.clone(), class, kind: lower(&kind), status: lower(&view.state) };
        connectors.get_or_create(&labels).set(1);
        for (task, view) in view.tasks.iter().enumerate() {
            let state = view.state_now();
            counts.count(state);
            statuses.get_or_create(&StatusLabels { connector: name.clone(), task: task as u32, status: lower(&state) }).set(1);
            tasks.set(&TaskLabels { connector: name.clone(), task: task as u32 }, kind, view);
        }
    }
    counts.register(&mut registry);
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

/// source-task-metrics, sink-task-metrics, connector-task-metrics, task-error-metrics
struct TaskMetrics {
    source_poll: Counters<TaskLabels>,
    source_write: Counters<TaskLabels>,
    sink_read: Counters<TaskLabels>,
    sink_send: Counters<TaskLabels>,
    sink_lag: Gauges<TaskLabels>,
    sink_partitions: Gauges<TaskLabels>,
    source_active: Gauges<TaskLabels>,
    sink_active: Gauges<TaskLabels>,
    bytes_in: Counters<TaskLabels>,
    bytes_out: Counters<TaskLabels>,
    batch_max: Gauges<TaskLabels>,
    batches: Counters<TaskLabels>,
    commits: Counters<TaskLabels>,
    commit_failures: Counters<TaskLabels>,
    commit_ms: Counters<TaskLabels>,
    commit_ms_max: Gauges<TaskLabels>,
    filtered: Counters<TaskLabels>,
    abandoned: Counters<TaskLabels>,
    skipped: Counters<TaskLabels>,
    errors_logged: Counters<TaskLabels>,
    dead_letters: Counters<TaskLabels>,
    retries: Counters<TaskLabels>,
    restarts: Counters<TaskLabels>,
}

impl TaskMetrics {
    fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            source_poll: register(r, "source_task_metrics_source_record_poll", "Records polled from the source"),
            source_write: register(r, "source_task_metrics_source_record_write", "Records durable in the log"),
            sink_read: register(r, "sink_task_metrics_sink_record_read", "Records read from the log"),
            sink_send: register(
                r,
                "sink_task_metrics_sink_record_send",
                "Records durable in the target, their position committed",
            ),
            sink_lag: register(
                r,
                "sink_task_metrics_sink_record_lag",
                "Records between the sink and the end of the log; only while it runs",
            ),
            sink_partitions: register(r, "sink_task_metrics_partition_count", "Partitions assigned"),
            source_active: register(
                r,
                "source_task_metrics_source_record_active_count",
                "Records polled and not yet durable in the log",
            ),
            sink_active: register(r, "sink_task_metrics_sink_record_active_count", "Records read and not yet committed"),
            bytes_in: register(r, "connector_task_metrics_bytes_in", "Bytes taken in"),
            bytes_out: register(r, "connector_task_metrics_bytes_out", "Bytes handed on, durable"),
            batch_max: register(r, "connector_task_metrics_batch_size_max", "Largest batch, in records"),
            batches: register(r, "connector_task_metrics_batches", "Batches"),
            commits: register(r, "connector_task_metrics_offset_commit_success", "Offset commits"),
            commit_failures: register(r, "connector_task_metrics_offset_commit_failure", "Offset commits that failed"),
            commit_ms: register(r, "connector_task_metrics_offset_commit_time_ms", "Milliseconds in offset commits"),
            commit_ms_max: register(r, "connector_task_metrics_offset_commit_max_time_ms", "Longest offset commit"),
            filtered: register(r, "connector_task_metrics_records_filtered", "Records dropped by transforms"),
            abandoned: register(
                r,
                "connector_task_metrics_records_abandoned",
                "Records in flight when the task failed or stopped; taken in again by its next start",
            ),
            skipped: register(
                r,
                "task_error_metrics_total_records_skipped",
                "Bad records skipped: neither passed on nor in the dead letter queue",
            ),
            errors_logged: register(r, "task_error_metrics_total_errors_logged", "Bad records logged"),
            dead_letters: register(
                r,
                "task_error_metrics_deadletterqueue_produce_requests",
                "Bad records written to the dead letter queue",
            ),
            retries: register(r, "task_error_metrics_total_retries", "Failures that the task recovers from by itself"),
            restarts: register(r, "connector_task_metrics_restarts", "Starts after a failure"),
        }
    }

    fn set(&self, labels: &TaskLabels, kind: ConnectorType, task: &TaskView) {
        let stats = &task.stats;
        let count = |family: &Counters<TaskLabels>, value: &AtomicU64| {
            family.get_or_create(labels).inc_by(value.load(Relaxed));
        };
        let gauge = |family: &Gauges<TaskLabels>, value: i64| {
            family.get_or_create(labels).set(value);
        };
        if kind == ConnectorType::Sink {
            count(&self.sink_read, &stats.records_in);
            count(&self.sink_send, &stats.records_out);
            if let Some(lag) = stats.lag() {
                gauge(&self.sink_lag, lag);
            }
            gauge(&self.sink_partitions, stats.partitions.load(Relaxed) as i64);
            gauge(&self.sink_active, stats.records_active.load(Relaxed));
        } else {
            count(&self.source_poll, &stats.records_in);
            count(&self.source_write, &stats.records_out);
            gauge(&self.source_active, stats.records_active.load(Relaxed));
        }
        count(&self.bytes_in, &stats.bytes_in);
        count(&self.bytes_out, &stats.bytes_out);
        gauge(&self.batch_max, stats.batch_records_max.load(Relaxed) as i64);
        count(&self.batches, &stats.batches);
        count(&self.commits, &stats.commits);
        count(&self.commit_failures, &stats.commit_failures);
        count(&self.commit_ms, &stats.commit_ms_sum);
        gauge(&self.commit_ms_max, stats.commit_ms_max.load(Relaxed) as i64);
        count(&self.filtered, &stats.records_filtered);
        count(&self.abandoned, &stats.records_abandoned);
        count(&self.skipped, &stats.records_skipped);
        count(&self.errors_logged, &stats.errors_logged);
        count(&self.dead_letters, &stats.records_dead_lettered);
        count(&self.retries, &stats.retries);
        count(&self.restarts, &stats.restarts);
    }
}

/// What tasks measure themselves: one family for each name.
fn reported_metrics(registry: &mut Registry, worker: &Worker) {
    let mut families: BTreeMap<String, Measures> = BTreeMap::new();
    for (connector, view, kind, ..) in worker.views() {
        let of = if kind == ConnectorType::Source { "source" } else { "sink" };
        for (task, view) in view.tasks.iter().enumerate() {
            for measure in view.stats.report().map(|report| report.gauges).unwrap_or_default() {
                if !measure.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                    continue;
                }
                let family = families
                    .entry(format!("{of}_{}", measure.name))
                    .or_insert_with_key(|name| register(registry, name, &measure.help));
                let own = [("connector".to_owned(), connector.clone()), ("task".to_owned(), task.to_string())];
                let labels: Vec<_> = own.into_iter().chain(measure.labels).collect();
                family.get_or_create(&labels).set(measure.value);
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
