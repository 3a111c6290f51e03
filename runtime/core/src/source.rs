//! What a source is to the worker.

use crate::{Batch, Encoder, Error, JsonMap, Result, SourceOffset, TaskContext};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The share of one task: what `plan` gave it. Flat strings, as Kafka Connect's task configs are, since REST shows them.
pub type TaskSpec = BTreeMap<String, String>;

/// One batch and where to resume *after* it. An empty batch may carry offsets too (what was read held no records).
#[derive(Debug, Default)]
pub struct Polled {
    pub batch: Batch,
    pub resume: Vec<SourceOffset>,
}

/// What a task tells of itself beside the worker's counters. Never a secret (invariant 9).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One line for people: `snapshot of public.orders: 12,000 of about 40,000 rows, about 3 min left`. Empty: nothing to tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The same and more for programs; a few KiB at most, since every status carries it.
    #[serde(default, skip_serializing_if = "JsonMap::is_empty")]
    pub detail: JsonMap,
    /// Only in `/metrics`.
    #[serde(skip)]
    pub measures: Vec<Measure>,
}

/// One number: `/metrics` shows it as `aqueduct_source_<name>{connector, task, …labels}`, of a sink as `aqueduct_sink_<name>`, and as
/// `aqueduct_<name>` when its name begins with `plugin_`.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// `[a-z0-9_]`, with the unit: `lag_bytes`.
    pub name: Cow<'static, str>,
    pub help: Cow<'static, str>,
    pub labels: Vec<(String, String)>,
    pub kind: MeasureKind,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasureKind {
    Gauge,
    /// What was counted since the task started; `_total` is appended to its name.
    Counter,
}

impl Measure {
    /// A gauge.
    pub fn new(name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>, value: f64) -> Self {
        Self { name: name.into(), help: help.into(), labels: Vec::new(), kind: MeasureKind::Gauge, value }
    }

    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }
}

/// What an operator asks of a running source: Debezium's signals are the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    pub id: String,
    /// `execute-snapshot`
    pub kind: String,
    /// JSON; its shape depends on the kind.
    pub data: serde_json::Value,
}

/// One task of a source connector. The worker owns it and calls it from one place; no method is called while another one runs.
#[async_trait]
pub trait SourceTask: Send {
    /// Returns within `cx.wait_max`, maybe empty. Never dropped midway, but for a shutdown that ran out of time.
    ///
    /// # Errors
    /// `Retriable`: the task is closed and reopened from the stored offsets; nothing of the failed call counts.
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled>;

    /// Called at most once, before the first poll, and only where nothing between source and log looks at what is structured (no transform): then
    /// the source may write its records with `encoder` ([`crate::BatchBuilder::push_encoded`]) where it would hand them over as [`crate::Data`].
    fn encode_with(&mut self, encoder: Box<dyn Encoder>) {
        drop(encoder);
    }

    /// The log holds everything up to these, in the order of the polls: confirm the LSN, PUBACK, answer the webhook (invariant 1).
    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let _ = durable;
        Ok(())
    }

    /// Bytes that were gone before they could be read, as far as that is known, since this was asked last.
    /// The worker asks after each poll and shows the sum as `aqueduct_source_lost_bytes_total`.
    fn take_lost_bytes(&mut self) -> u64 {
        0
    }

    /// How far it is. Asked after polls, at most once a second; must not wait.
    fn report(&self) -> Report {
        Report::default()
    }

    /// Called between two polls. What it asks for may go on long after it was taken: then `report` tells how far it is, and the offsets carry it over
    /// a restart.
    ///
    /// # Errors
    /// Why the signal is refused, for the one who sent it; the task goes on.
    async fn signal(&mut self, signal: Signal) -> Result<()> {
        Err(Error::fatal("source.no_signals", format!("this connector takes no signals, and so not `{}`", signal.kind)))
    }

    /// Releases what `open` took. Called once; the task is dropped after it.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
