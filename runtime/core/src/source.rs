//! What a source is to the worker.

use crate::{Batch, Result, SourceOffset, TaskContext};
use async_trait::async_trait;
use std::collections::BTreeMap;

/// The share of one task: what `plan` gave it. Flat strings, as Kafka Connect's task configs are, since REST shows them.
pub type TaskSpec = BTreeMap<String, String>;

/// One batch and where to resume *after* it. An empty batch may carry offsets too (what was read held no records).
#[derive(Debug, Default)]
pub struct Polled {
    pub batch: Batch,
    pub resume: Vec<SourceOffset>,
}

/// One task of a source connector. The worker owns it and calls it from one place; no method is called while another one runs.
#[async_trait]
pub trait SourceTask: Send {
    /// Returns within `cx.wait_max`, maybe empty. Never dropped midway, but for a shutdown that ran out of time.
    ///
    /// # Errors
    /// `Retriable`: the task is closed and reopened from the stored offsets; nothing of the failed call counts.
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled>;

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

    /// Releases what `open` took. Called once; the task is dropped after it.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
