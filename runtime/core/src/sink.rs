//! What a sink is to the worker.

use crate::{Batch, Data, LogPosition, Record, Rejects, Report, Result, Schema, TaskContext, TopicPartition};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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

/// The end of one partition's records in a batch: it belongs together with what may follow, and so waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub partition: Arc<TopicPartition>,
    /// The offset of the first record that waits.
    pub from: i64,
    /// For so long after the partition's last record was read, then it is put as it is.
    pub wait: Duration,
}

/// What a sink looks at in one field of a record's value, where it is a small part: a converter leaves out the rest.
#[derive(Clone, Debug)]
pub struct Projection {
    /// A field that is a struct or a map, such as `source` in Debezium's envelope.
    pub field: &'static str,
    /// Its own fields that are looked at. The others are null in a struct, and not there in a map.
    pub kept: Vec<String>,
    /// Whether a value that was decoded so is one of those that are meant. One that is not is decoded whole. Pure, and cheap.
    pub applies: fn(Option<&Arc<Schema>>, &Data) -> bool,
}

/// One task of a sink connector.
///
/// The worker commits a log position only after `Durable` or a `flush` (invariant 2), and then stores [`SinkTask::metadata`] with it, in the
/// same commit. So an exactly-once sink has two ways: keep the position in the target and return it from `assigned`, or keep the target's
/// state (such as a file's length) as metadata, and on `assigned` bring the target back to it.
#[async_trait]
pub trait SinkTask: Send {
    /// Called once, before all others: the id of the cluster (or of the embedded log) that it reads.
    fn reads_from(&mut self, cluster: &str) {
        let _ = cluster;
    }

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

    /// What of a batch is not whole yet, for sinks that show what belongs together in one piece (a transaction of the source). Asked with what was
    /// read, before transforms; what is named is put with the next records of its partition, or when its `wait` is over, or when all that waits
    /// exceeds `aqueduct.buffer.bytes`. Until then its position is not committed. Pure, and cheap: it is asked for each batch.
    fn unfinished(&self, batch: &Batch) -> Vec<Unfinished> {
        let _ = batch;
        Vec::new()
    }

    /// What it does not look at. Asked once, before the first `put`; transforms see values whole.
    fn projection(&self) -> Option<Projection> {
        None
    }

    /// So many records are worth one `put`: the worker gathers up to that, while earlier ones are put, from what the log has at once, within
    /// `aqueduct.buffer.bytes`. It never waits for more.
    fn put_records(&self) -> usize {
        1
    }

    /// A put is given no more records than this, so that a slow sink returns in time all the same (`aqueduct.stall.timeout.ms`). Asked before each.
    fn put_records_max(&self) -> usize {
        usize::MAX
    }

    /// Writes a batch, in its order. Records that the target cannot take go to `rejects` and the call goes on.
    ///
    /// # Errors
    /// `Retriable`: the task is closed and reopened from the committed positions: what was put after them is put again.
    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack>;

    /// Records that came of the last put: receipts, answers. With bytes alone, for any topics (which are created if they are missing); the worker
    /// writes them in the commit that passes what was put, so that there is one exactly for each that is not put again. Asked after each put.
    fn take_letters(&mut self) -> Vec<Record> {
        Vec::new()
    }

    /// Makes all that was put durable. Called before each commit that follows a `Buffered` (`offset.flush.interval.ms`).
    async fn flush(&mut self) -> Result<()>;

    /// What to keep with this partition's position in the commit that follows a `Durable` or `flush`.
    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        let _ = partition;
        None
    }

    /// What it tells of itself, at any time, also while a put is under way. Asked once.
    fn reports(&self) -> Option<watch::Receiver<Report>> {
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
