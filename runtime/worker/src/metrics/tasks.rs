//! connector-task-metrics, source-task-metrics, sink-task-metrics and task-error-metrics: Kafka Connect's names, and ours where it has none.

use super::{Counters, Gauges, TaskLabels, register};
use crate::admin::ConnectorType;
use crate::connector::TaskView;
use crate::stats::TaskStats;
use crate::timing::ratio;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

type Measures = Family<TaskLabels, Gauge<f64, AtomicU64>>;

/// Families by name, registered when the first task has a value for them.
pub(super) struct Families<'a> {
    registry: &'a mut Registry,
    counters: HashMap<&'static str, Counters<TaskLabels>>,
    gauges: HashMap<&'static str, Gauges<TaskLabels>>,
    measures: HashMap<&'static str, Measures>,
}

/// Sets the values of one task.
struct One<'a, 'b> {
    families: &'a mut Families<'b>,
    labels: &'a TaskLabels,
}

impl<'a> Families<'a> {
    pub(super) fn new(registry: &'a mut Registry) -> Self {
        Self { registry, counters: HashMap::new(), gauges: HashMap::new(), measures: HashMap::new() }
    }

    pub(super) fn task(&mut self, labels: &TaskLabels, kind: ConnectorType, task: &TaskView) {
        let mut one = One { families: self, labels };
        match kind {
            ConnectorType::Sink => one.sink(&task.stats),
            _ => one.source(&task.stats),
        }
        one.every(&task.stats);
        one.errors(&task.stats);
    }
}

impl One<'_, '_> {
    /// The exporter appends `_total` to its name.
    fn count(&mut self, name: &'static str, help: &str, value: &AtomicU64) {
        let registry = &mut *self.families.registry;
        let family = self.families.counters.entry(name).or_insert_with(|| register(registry, name, help));
        family.get_or_create(self.labels).inc_by(value.load(Relaxed));
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: i64) {
        let registry = &mut *self.families.registry;
        let family = self.families.gauges.entry(name).or_insert_with(|| register(registry, name, help));
        family.get_or_create(self.labels).set(value);
    }

    fn measure(&mut self, name: &'static str, help: &str, value: f64) {
        let registry = &mut *self.families.registry;
        let family = self.families.measures.entry(name).or_insert_with(|| register(registry, name, help));
        family.get_or_create(self.labels).set(value);
    }

    fn source(&mut self, stats: &TaskStats) {
        let timing = &stats.timing;
        self.count("source_task_metrics_source_record_poll", "Records polled from the source", &stats.records_in);
        self.count("source_task_metrics_source_record_write", "Records durable in the log", &stats.records_out);
        let active = stats.records_active.load(Relaxed);
        self.gauge("source_task_metrics_source_record_active_count", "Records polled and not yet durable in the log", active);
        self.gauge("source_task_metrics_source_record_active_count_max", "The most of them so far", timing.active_most());
        let help = "The mean of them, looked at once a second";
        self.measure("source_task_metrics_source_record_active_count_avg", help, timing.active_mean());
        let most = timing.polls.most() as i64;
        self.gauge("source_task_metrics_poll_batch_max_time_ms", "The longest poll, waiting included", most);
        self.measure("source_task_metrics_poll_batch_avg_time_ms", "The mean poll, waiting included", timing.polls.mean());
        let appends = &timing.appends;
        self.gauge("source_task_metrics_transaction_size_min", "Records of the smallest append", appends.least() as i64);
        self.gauge("source_task_metrics_transaction_size_max", "Records of the largest append", appends.most() as i64);
        self.measure("source_task_metrics_transaction_size_avg", "Records of the mean append", appends.mean());
    }

    fn sink(&mut self, stats: &TaskStats) {
        let timing = &stats.timing;
        self.count("sink_task_metrics_sink_record_read", "Records read from the log", &stats.records_in);
        let help = "Records durable in the target, their position committed";
        self.count("sink_task_metrics_sink_record_send", help, &stats.records_out);
        if let Some(lag) = stats.lag() {
            let help = "Records between the sink and the end of the log; only while it runs";
            self.gauge("sink_task_metrics_sink_record_lag", help, lag);
            self.gauge("sink_task_metrics_sink_record_lag_max", "The same, by Kafka Connect's name", lag);
            let mean_bytes = ratio(stats.bytes_in.load(Relaxed), stats.records_in.load(Relaxed));
            let help = "Bytes of them, by the mean size of the records that were read";
            self.measure("sink_task_metrics_sink_lag_bytes", help, lag.max(0) as f64 * mean_bytes);
            let behind = if lag > 0 { timing.behind() } else { Some(std::time::Duration::ZERO) };
            if let Some(behind) = behind {
                let help = "Seconds from the newest committed record to now; 0 for a sink that has all";
                self.measure("sink_task_metrics_sink_lag_seconds", help, behind.as_secs_f64());
            }
        }
        if let Some(fresh) = timing.freshness() {
            let help = "Seconds from the timestamp of the newest committed record to its commit";
            self.measure("sink_task_metrics_sink_freshness_seconds", help, fresh.as_secs_f64());
        }
        self.gauge("sink_task_metrics_partition_count", "Partitions assigned", stats.partitions.load(Relaxed) as i64);
        let active = stats.records_active.load(Relaxed);
        self.gauge("sink_task_metrics_sink_record_active_count", "Records read and not yet committed", active);
        self.gauge("sink_task_metrics_sink_record_active_count_max", "The most of them so far", timing.active_most());
        let help = "The mean of them, looked at once a second";
        self.measure("sink_task_metrics_sink_record_active_count_avg", help, timing.active_mean());
        self.gauge("sink_task_metrics_put_batch_max_time_ms", "The longest put", timing.puts.most() as i64);
        self.measure("sink_task_metrics_put_batch_avg_time_ms", "The mean put", timing.puts.mean());
        let commits = stats.commits.load(Relaxed) as i64;
        self.gauge("sink_task_metrics_offset_commit_seq_no", "Commits of positions so far", commits);
        self.count("sink_task_metrics_offset_commit_completion", "Commits of positions", &stats.commits);
    }

    fn every(&mut self, stats: &TaskStats) {
        let timing = &stats.timing;
        self.measure("connector_task_metrics_running_ratio", "Share of its life that it was RUNNING", timing.running_ratio());
        self.measure("connector_task_metrics_pause_ratio", "Share of its life that it was PAUSED", timing.pause_ratio());
        self.count("connector_task_metrics_bytes_in", "Bytes taken in", &stats.bytes_in);
        self.count("connector_task_metrics_bytes_out", "Bytes handed on, durable", &stats.bytes_out);
        let (batches, records) = (stats.batches.load(Relaxed), stats.records_in.load(Relaxed));
        let most = stats.batch_records_max.load(Relaxed) as i64;
        self.gauge("connector_task_metrics_batch_size_max", "Largest batch, in records", most);
        self.measure("connector_task_metrics_batch_size_avg", "Mean batch, in records", ratio(records, batches));
        self.count("connector_task_metrics_batches", "Batches", &stats.batches);
        self.count("connector_task_metrics_offset_commit_success", "Offset commits", &stats.commits);
        self.count("connector_task_metrics_offset_commit_failure", "Offset commits that failed", &stats.commit_failures);
        let (good, bad) = (stats.commits.load(Relaxed), stats.commit_failures.load(Relaxed));
        let help = "From 0 to 1, as Kafka Connect has it";
        self.measure("connector_task_metrics_offset_commit_success_percentage", help, ratio(good, good + bad));
        self.measure("connector_task_metrics_offset_commit_failure_percentage", help, ratio(bad, good + bad));
        self.count("connector_task_metrics_offset_commit_time_ms", "Milliseconds in offset commits", &stats.commit_ms_sum);
        let most = stats.commit_ms_max.load(Relaxed) as i64;
        self.gauge("connector_task_metrics_offset_commit_max_time_ms", "Longest offset commit", most);
        let mean = ratio(stats.commit_ms_sum.load(Relaxed), good);
        self.measure("connector_task_metrics_offset_commit_avg_time_ms", "Mean offset commit", mean);
        self.count("connector_task_metrics_records_filtered", "Records dropped by transforms", &stats.records_filtered);
        let help = "Records in flight when the task failed or stopped; taken in again by its next start";
        self.count("connector_task_metrics_records_abandoned", help, &stats.records_abandoned);
        self.count("connector_task_metrics_restarts", "Starts after a failure", &stats.restarts);
    }

    fn errors(&mut self, stats: &TaskStats) {
        let timing = &stats.timing;
        let help = "Bad records skipped: neither passed on nor in the dead letter queue";
        self.count("task_error_metrics_total_records_skipped", help, &stats.records_skipped);
        self.count("task_error_metrics_total_errors_logged", "Bad records logged", &stats.errors_logged);
        let (skipped, letters) = (stats.records_skipped.load(Relaxed), stats.records_dead_lettered.load(Relaxed));
        let bad = AtomicU64::new(skipped + letters);
        self.count("task_error_metrics_total_record_errors", "Bad records that were passed over", &bad);
        self.count("task_error_metrics_total_record_failures", "Failures that ended a try of the task", &timing.failures);
        let help = "Bad records written to the dead letter queue";
        self.count("task_error_metrics_deadletterqueue_produce_requests", help, &stats.records_dead_lettered);
        let help = "Times that dead letters could not be written: the task failed";
        self.count("task_error_metrics_deadletterqueue_produce_failures", help, &timing.letters_failed);
        self.count("task_error_metrics_total_retries", "Failures that the task recovers from by itself", &stats.retries);
        let at = timing.last_error_ms() as i64;
        self.gauge("task_error_metrics_last_error_timestamp", "Of the last error, in ms since 1970; 0: none", at);
    }
}
