//! A compacted topic, read to its end and kept current.

use super::Internal;
use aqueduct_core::{Error, PayloadRef, RecordRef, Result, Topic, TopicPartition};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// An open transaction of another writer hides what was committed behind it. Kafka Connect waits for its end too; brokers end it after
/// `transaction.timeout.ms`, a minute by default.
const HIDDEN_MAX: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(90) };
/// Transactions last milliseconds, mostly.
const TELL_AFTER: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How far a topic was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) topic: Topic,
    id: Option<Uuid>,
    /// By partition.
    next: Vec<i64>,
}

impl Reading {
    pub(super) fn new(topic: &str) -> Self {
        Self { topic: topic.into(), id: None, next: Vec::new() }
    }

    /// What was written until now and is committed, in the order of each partition. Waits for the end of transactions that are open: behind one
    /// there may be records that are committed. True when the topic is another one than before: what was known of it is void.
    pub(super) async fn is_new(&mut self, log: &dyn Internal) -> Result<(bool, Vec<i64>)> {
        let (id, ends) = log.ends(&self.topic).await?;
        // By id: its successor may be longer than what was read.
        let is_new = self.id.replace(id).is_some_and(|before| before != id);
        if is_new {
            self.next.clear();
        }
        self.next.resize(ends.len(), 0);
        Ok((is_new, ends))
    }

    pub(super) async fn to(&mut self, ends: &[i64], log: &dyn Internal, mut apply: impl FnMut(RecordRef<'_>)) -> Result<()> {
        let (begin, mut told) = (Instant::now(), false);
        for (partition, end) in ends.iter().enumerate() {
            let tp = TopicPartition::new(self.topic.clone(), partition as i32);
            while self.next[partition] < *end {
                let (batch, next) = log.read(&tp, self.next[partition]).await?;
                if next <= self.next[partition] {
                    if begin.elapsed() > HIDDEN_MAX {
                        let (whose, waited) = (log.open_transactions(&tp).await, begin.elapsed().as_secs());
                        let message = format!(
                            "{tp} cannot be read to its end: a transaction is open since {waited} s, of {}",
                            known(&whose)
                        );
                        // This topic last: who waits for it goes on when it is free, and adds to what hangs elsewhere.
                        return Err(Error::retriable("kafka.transaction_open", message).fix(
                            "end it: kafka-transactions.sh find-hanging, then abort: that producer's other partitions first, this one last",
                        ));
                    }
                    if !told && begin.elapsed() > TELL_AFTER {
                        told = true;
                        tracing::warn!(
                            "{tp}: waiting for the end of a transaction of {}",
                            known(&log.open_transactions(&tp).await)
                        );
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                batch.iter().for_each(&mut apply);
                self.next[partition] = next.max(self.next[partition]);
            }
        }
        Ok(())
    }
}

fn known(whose: &str) -> &str {
    if whose.is_empty() { "an unknown producer" } else { whose }
}

/// The last value of each key.
#[derive(Debug)]
pub(super) struct Table {
    reading: Reading,
    pub(super) entries: BTreeMap<String, Vec<u8>>,
}

impl Table {
    pub(super) fn new(topic: &str) -> Self {
        Self { reading: Reading::new(topic), entries: BTreeMap::new() }
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.reading.topic
    }

    pub(super) async fn refresh(&mut self, log: &dyn Internal) -> Result<()> {
        let (is_new, ends) = self.reading.is_new(log).await?;
        if is_new {
            self.entries.clear();
        }
        let entries = &mut self.entries;
        let apply = |record: RecordRef<'_>| {
            let Some(key) = bytes(record.key()).and_then(|key| std::str::from_utf8(key).ok()) else { return };
            match bytes(record.value()) {
                Some(value) => entries.insert(key.to_owned(), value.to_vec()),
                None => entries.remove(key),
            };
        };
        self.reading.to(&ends, log, apply).await
    }

    pub(super) fn set(&mut self, records: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        for (key, value) in records {
            match value {
                Some(value) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        }
    }
}

pub(super) fn bytes(payload: PayloadRef<'_>) -> Option<&[u8]> {
    match payload {
        PayloadRef::Bytes(bytes) => Some(bytes),
        PayloadRef::Null | PayloadRef::Data(_) => None,
    }
}
