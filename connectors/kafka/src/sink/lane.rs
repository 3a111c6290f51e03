//! Exactly once for one partition of the log: its own transactional id, so that whoever has the partition next fences whoever had it.

use super::config::Settings;
use super::position::{Position, metadata};
use crate::error;
use aqueduct_core::{LogPosition, Result};
use bytes::Bytes;
use krafka::producer::{ProducerBuilder, TransactionalProducer};
use krafka::{CloseOptions, Kafka, Record};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

pub(super) struct Lane {
    producer: TransactionalProducer,
    /// Of the position in the target.
    key: Bytes,
    position: Position,
    /// A transaction is open.
    open: bool,
    /// The log was given the run, in a commit that is not known to have succeeded.
    told: AtomicBool,
}

/// A task that ends does not wait longer for a target that does not answer: its successor fences what is left open.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a lane holds of records that are not sent yet (invariant 6): enough for the requests on their way.
const BUFFER_BYTES: usize = 8 << 20;

pub(super) fn builder(kafka: &Kafka, settings: &Settings) -> ProducerBuilder {
    kafka
        .producer()
        .compression(settings.compression)
        .batch_size(settings.batch_size)
        .linger(settings.linger)
        // A request has more around the record.
        .max_request_size(settings.max_request.max(settings.batch_size) + 64 * 1024)
        .buffer_memory(BUFFER_BYTES.max(2 * settings.max_request))
        .max_block(settings.request_timeout)
        .delivery_timeout(settings.request_timeout + settings.linger)
        .metrics_push(false)
}

/// Fences every other producer for this partition, and ends what it left open.
///
/// # Errors
/// `kafka.unreachable`, `kafka.not_authorized`, …
pub(super) async fn fence(
    kafka: &Kafka,
    settings: &Settings,
    connector: &str,
    of: &LogPosition,
) -> Result<TransactionalProducer> {
    let id = format!("{}{connector}-{}-{}", settings.prefix, of.topic, of.partition);
    let producer = builder(kafka, settings).transaction_timeout(settings.transaction_timeout).build_transactional(&*id).await;
    producer.map_err(|failed| error::from(&format!("begin transactions as {id}"), &failed))
}

impl Lane {
    pub(super) fn new(producer: TransactionalProducer, key: Bytes, position: Position) -> Self {
        Self { producer, key, position, open: false, told: AtomicBool::new(false) }
    }

    /// The next offset of the log to write: what lies before is in the target.
    pub(super) fn next(&self) -> i64 {
        self.position.offset
    }

    /// What the log keeps with its position: the commit that follows is not known to succeed.
    pub(super) fn metadata(&self) -> String {
        self.told.store(true, Relaxed);
        metadata(self.position.run)
    }

    /// Another call follows a commit only when it succeeded: else the task is closed.
    fn confirm(&mut self) {
        self.position.confirmed |= self.told.load(Relaxed);
    }

    pub(super) async fn send(&mut self, record: Record) -> Result<()> {
        if !self.open {
            self.confirm();
            self.producer.begin().map_err(|failed| error::from("begin a transaction", &failed))?;
            self.open = true;
        }
        // Its outcome decides whether the transaction commits.
        let sent = self.producer.enqueue(record).await;
        drop(sent.map_err(|failed| error::from("write to the target", &failed))?);
        Ok(())
    }

    /// These were sent, or refused.
    pub(super) fn passed(&mut self, offset: i64) {
        self.position.offset = self.position.offset.max(offset + 1);
    }

    /// Records and position become visible together.
    pub(super) async fn commit(&mut self, positions: &str) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        let text = serde_json::to_vec(&self.position).unwrap_or_default();
        self.send(Record::new(positions, text).key(self.key.clone())).await?;
        self.producer.commit().await.map_err(|failed| error::from("commit a transaction", &failed))?;
        self.open = false;
        Ok(())
    }

    /// The last commit in the log is done, as far as the worker lets us know: from here on a position without a run is an operator's.
    pub(super) async fn close(mut self, positions: &str) {
        if !self.open && self.told.load(Relaxed) && !self.position.confirmed {
            self.confirm();
            self.open = self.producer.begin().is_ok();
            if let Err(failed) = tokio::time::timeout(CLOSE_TIMEOUT, self.commit(positions)).await.unwrap_or(Ok(())) {
                tracing::warn!("the target could not be told that the log knows its run: {failed}");
            }
        }
        // What is open is aborted.
        let closed = self.producer.close_with(CloseOptions::new().timeout(CLOSE_TIMEOUT)).await;
        if let Err(failed) = closed {
            tracing::debug!("closing a producer: {failed}");
        }
    }
}
