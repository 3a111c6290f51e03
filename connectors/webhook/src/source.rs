//! The task: what arrived becomes a batch, and its commit the answers.

use crate::config::{Config, Settings};
use crate::ids::{self, Ids, count_of, count_offset};
use crate::intake::{Intake, Settled, Taken};
use crate::listener::{self, Place};
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{Error, Issue, Measure, Polled, Report, Result, SourceOffset, SourceTask, TaskContext, TaskSpec};
use async_trait::async_trait;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

pub struct WebhookSource;

#[async_trait]
impl SourceConnector for WebhookSource {
    type Config = Config;
    type Task = WebhookSourceTask;
    const NAME: &'static str = "webhook-source";
    const SUMMARY: &'static str = "Takes HTTP requests and answers 2xx only after the log holds them.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings().map_or_else(|issues| issues, |(_, warnings)| warnings)
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        ids::check(offset)
    }

    /// One listener, one task: a port has one owner, and requests are served by all threads whatever the number of tasks.
    async fn plan(config: &Config, _tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        Ok(vec![TaskSpec::new()])
    }

    async fn open(config: Config, _task: TaskSpec, resume: Vec<SourceOffset>) -> Result<WebhookSourceTask> {
        let (settings, _) = config.settings().map_err(|issues| invalid(&issues))?;
        WebhookSourceTask::open(settings, &resume).await
    }
}

/// A poll whose commit is awaited.
struct Pending {
    count: u64,
    settled: Vec<Settled>,
}

pub struct WebhookSourceTask {
    intake: Arc<Intake>,
    /// Its paths on the listener; given up when it is dropped.
    place: Option<Place>,
    url: String,
    /// Requests that were handed over, in all the connector's life.
    count: u64,
    pending: VecDeque<Pending>,
    /// How many requests were here at once lately: that waited to be taken, or for their commit.
    crowd: usize,
    /// Of the batch that is being gathered.
    until: Option<Instant>,
}

/// Each commit costs an fdatasync, whatever it holds: where many clients call at once, a batch waits so long for others of them. One that calls alone is not
/// kept waiting.
const GATHER_MAX: Duration = Duration::from_millis(2);

/// How many requests a batch waits for: half of the crowd, so that it comes in two turns, of which one is served while the other is being stored.
fn wanted(crowd: usize) -> usize {
    (crowd / 2).max(1)
}

/// What was here at once, or nearly what was before: a client that left is forgotten within some batches.
fn crowd(before: usize, here: usize) -> usize {
    here.max(before - before.div_ceil(8))
}

impl WebhookSourceTask {
    async fn open(settings: Settings, resume: &[SourceOffset]) -> Result<Self> {
        let ttl = u32::try_from(settings.ids_ttl.as_secs()).unwrap_or(u32::MAX);
        let intake = Arc::new(Intake::new(settings.queue_bytes, Ids::load(resume, settings.ids_max, ttl)));
        let count = resume.iter().filter_map(count_of).max().unwrap_or(0);
        let url = format!("{}{}", settings.address, settings.paths.join(", "));
        let place = listener::open(Arc::new(settings), intake.clone()).await?;
        tracing::info!("listening on {url}");
        Ok(Self { intake, place: Some(place), url, count, pending: VecDeque::new(), crowd: 0, until: None })
    }

    /// Requests that were handed over and wait for their commit.
    fn waiting(&self) -> usize {
        self.pending.iter().map(|pending| pending.settled.len()).sum()
    }

    fn take(&mut self, cx: &TaskContext) -> Polled {
        let Taken { batch, settled, offsets } = self.intake.take(cx.max_records, cx.max_bytes);
        if settled.is_empty() {
            return Polled::default();
        }
        self.count += settled.len() as u64;
        let mut resume = vec![count_offset(self.count)];
        resume.extend(offsets);
        self.pending.push_back(Pending { count: self.count, settled });
        Polled { batch, resume }
    }
}

#[async_trait]
impl SourceTask for WebhookSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        if self.place.as_ref().is_some_and(Place::is_lost) {
            return Err(Error::retriable("webhook.listener_lost", format!("the listener of {} ended", self.url)));
        }
        let (waiting, wanted) = (self.waiting(), wanted(self.crowd));
        let patience = if waiting > 0 || wanted > 1 { GATHER_MAX.min(cx.wait_max) } else { cx.wait_max };
        let until = *self.until.get_or_insert_with(|| Instant::now() + patience);
        tokio::select! {
            biased;
            // A commit resolved, as a rule: it is heard of at once, and the gathering goes on.
            () = cx.interrupt.cancelled() => if waiting > 0 && self.intake.queued() < wanted { return Ok(Polled::default()) },
            () = self.intake.arrived(wanted) => {}
            () = tokio::time::sleep_until(until) => {}
        }
        self.until = None;
        let polled = self.take(cx);
        self.crowd = crowd(self.crowd, self.waiting());
        Ok(polled)
    }

    /// Invariant 1: only here a request hears that it is stored.
    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let Some(count) = durable.iter().filter_map(count_of).max() else { return Ok(()) };
        let mut settled = Vec::new();
        while self.pending.front().is_some_and(|pending| pending.count <= count) {
            settled.extend(self.pending.pop_front().into_iter().flat_map(|pending| pending.settled));
        }
        self.intake.settle(settled);
        Ok(())
    }

    fn report(&self) -> Report {
        let counts = &self.intake.counts;
        let (stored, repeats, refused) =
            (counts.stored.load(Relaxed), counts.repeats.load(Relaxed), counts.refused.load(Relaxed));
        let (used, ids) = (self.intake.used_bytes(), self.intake.known_ids());
        let connections = self.place.as_ref().map_or(0, Place::connections);
        let detail = json!({
            "requests_stored": stored, "repeats": repeats, "refused": refused, "queue_bytes": used, "known_ids": ids, "connections": connections,
        });
        let gauge = |name: &'static str, help: &'static str, value: f64| Measure::new(name, help, value);
        Report {
            summary: format!("{}: {stored} requests stored, {repeats} repeats, {refused} refused", self.url),
            detail: detail.as_object().cloned().unwrap_or_default(),
            measures: vec![
                gauge("webhook_refused", "Requests that were not answered with 2xx, since the task started", refused as f64),
                gauge("webhook_repeats", "Records that were known already, since the task started", repeats as f64),
                gauge("webhook_queue_bytes", "Bytes of requests that wait in memory", used as f64),
                gauge("webhook_connections", "Open connections of the listener", connections as f64),
            ],
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.place = None;
        self.intake.close();
        Ok(())
    }
}

impl Drop for WebhookSourceTask {
    fn drop(&mut self) {
        // The paths first, so that no request comes to a closed door.
        self.place = None;
        self.intake.close();
    }
}

#[cfg(test)]
mod tests {
    use super::{crowd, wanted};

    #[test]
    fn a_batch_waits_for_half_of_a_crowd_and_for_nobody_where_there_is_none() {
        for (crowd, expected) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (64, 32)] {
            assert_eq!(wanted(crowd), expected, "{crowd}");
        }
        assert_eq!((crowd(0, 40), crowd(40, 64), crowd(64, 60)), (40, 64, 60));
        // All but one have gone.
        let batches = std::iter::successors(Some(64), |before| Some(crowd(*before, 1))).take_while(|crowd| wanted(*crowd) > 1);
        assert!(batches.count() < 20);
    }
}
