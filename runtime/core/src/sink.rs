//! What a sink is to the worker.

use crate::{Batch, LogPosition, Rejects, Result, TaskContext, TopicPartition};
use async_trait::async_trait;

/// What `put` promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// This batch and everything put before it is durable in the target. Cumulative.
    Durable,
    /// Taken, but only `flush` makes it durable.
    Buffered,
}

/// How often a record is in the target when everything has gone wrong that may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    ExactlyOnce,
    /// Why not exactly once, for people.
    AtLeastOnce(String),
}

/// One task of a sink connector.
///
/// The worker commits a log position only after `Durable` or a `flush` (invariant 2), and then stores [`SinkTask::metadata`] with it, in the
/// same commit. So an exactly-once sink has two ways: keep the position in the target and return it from `assigned`, or keep the target's
/// state (such as a file's length) as metadata, and on `assigned` bring the target back to it.
#[async_trait]
pub trait SinkTask: Send {
    /// These partitions are this task's from now on (not: all that it has). Returns where to start, for those partitions where the target
    /// itself knows; the others start at the position given.
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        let _ = partitions;
        Ok(Vec::new())
    }

    /// These partitions go to another task. What was put of them was flushed and committed before.
    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        Ok(())
    }

    /// Writes a batch, in its order. Records that the target cannot take go to `rejects` and the call goes on.
    ///
    /// # Errors
    /// `Retriable`: the task is closed and reopened from the committed positions: what was put after them is put again.
    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack>;

    /// Makes all that was put durable. Called before each commit that follows a `Buffered` (`offset.flush.interval.ms`).
    async fn flush(&mut self) -> Result<()>;

    /// What to keep with this partition's position in the commit that follows a `Durable` or `flush`.
    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        let _ = partition;
        None
    }

    /// What this task promises with its settings: the status tells it.
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce(
            "the sink keeps no position with what it writes: what was put and not committed is put again after a crash"
                .to_owned(),
        )
    }

    /// Releases what `open` took. Called once; the task is dropped after it. Needs not flush.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
