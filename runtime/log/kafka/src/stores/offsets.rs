//! The source offsets of a topic, by connector.

use super::codec::{offset_key, offset_value, read_offset_key, read_offset_value};
use super::table::{Reading, bytes};
use super::{Internal, Out};
use crate::producer::again;
use aqueduct_core::Error;
use aqueduct_core::{RecordRef, Result, SourceOffset, Topic};
use aqueduct_log::partitioner::partition_for_key;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::sync::Mutex;

/// Keys and values that are kept to answer for any connector (invariant 6): some hundred thousand offsets. With more, each question reads the topic anew and
/// keeps only what belongs to the connector.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// One reads what is new for all who wait: behind a transaction that hangs, N connectors would wait N times.
pub(super) struct SharedOffsets {
    /// Looks that were begun.
    begun: AtomicU64,
    /// Looks that ended badly.
    failed: AtomicU64,
    offsets: Mutex<Looked>,
}

struct Looked {
    offsets: Offsets,
    /// The last one, and why it failed.
    last: u64,
    error: Option<Error>,
}

/// What an earlier look says to who came when `begun` were begun and `failed` had failed.
#[derive(Debug, PartialEq, Eq)]
enum Earlier {
    /// It began after the question: as good as a new one.
    Answer,
    /// It ended badly after the question: so would the next.
    Failure,
    Nothing,
}

fn earlier(asked: (u64, u64), last: u64, failed: u64, is_error: bool) -> Earlier {
    match is_error {
        true if failed > asked.1 => Earlier::Failure,
        false if last > asked.0 => Earlier::Answer,
        _ => Earlier::Nothing,
    }
}

impl SharedOffsets {
    pub(super) fn new(topic: &str) -> Self {
        let looked = Looked { offsets: Offsets::new(topic), last: 0, error: None };
        Self { begun: AtomicU64::new(0), failed: AtomicU64::new(0), offsets: Mutex::new(looked) }
    }

    pub(super) async fn of(&self, connector: &str, log: &dyn Internal) -> Result<Vec<SourceOffset>> {
        let asked = (self.begun.load(SeqCst), self.failed.load(SeqCst));
        let mut looked = self.offsets.lock().await;
        match earlier(asked, looked.last, self.failed.load(SeqCst), looked.error.is_some()) {
            Earlier::Answer if looked.offsets.keeps_all() => return Ok(looked.offsets.kept_of(connector)),
            Earlier::Failure => return Err(looked.error.as_ref().map_or_else(crate::error::closed, again)),
            _ => {}
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let found = looked.offsets.of(connector, log).await;
        looked.last = number;
        looked.error = found.as_ref().err().map(again);
        if found.is_err() {
            self.failed.fetch_add(1, SeqCst);
        }
        found
    }

    pub(super) async fn records(&self, connector: &str, offsets: &[SourceOffset], log: &dyn Internal) -> Result<Vec<Out>> {
        self.offsets.lock().await.offsets.records(connector, offsets, log).await
    }

    #[cfg(test)]
    pub(super) async fn bound(&self, bytes: usize) {
        self.offsets.lock().await.offsets.bound(bytes);
    }

    #[cfg(test)]
    pub(super) async fn kept(&self) -> usize {
        self.offsets.lock().await.offsets.kept()
    }
}

/// The bytes of a key as they are in the topic → its offset. A partition may have several, since clients order its fields as they like.
type Known = BTreeMap<Vec<u8>, Stored>;

#[derive(Clone, Debug)]
struct Stored {
    offset: SourceOffset,
    timestamp: i64,
}

#[derive(Debug)]
struct Offsets {
    reading: Reading,
    kept: HashMap<String, Known>,
    kept_bytes: usize,
    kept_bytes_max: usize,
}

impl Offsets {
    fn new(topic: &str) -> Self {
        Self { reading: Reading::new(topic), kept: HashMap::new(), kept_bytes: 0, kept_bytes_max: KEPT_BYTES_MAX }
    }

    #[cfg(test)]
    fn bound(&mut self, bytes: usize) {
        *self = Self { kept_bytes_max: bytes, ..Self::new(&self.reading.topic.clone()) };
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.kept.len()
    }

    fn topic(&self) -> &Topic {
        &self.reading.topic
    }

    async fn known(&mut self, connector: &str, log: &dyn Internal) -> Result<Known> {
        if self.kept_bytes <= self.kept_bytes_max {
            let (is_new, ends) = self.reading.is_new(log).await?;
            if is_new {
                self.forget();
            }
            let (kept, size) = (&mut self.kept, &mut self.kept_bytes);
            let bound = self.kept_bytes_max;
            self.reading.to(&ends, log, |record| keep(record, kept, size, |_| true, bound)).await?;
            if self.kept_bytes <= self.kept_bytes_max {
                return Ok(self.kept.get(connector).cloned().unwrap_or_default());
            }
            tracing::warn!(topic = %self.topic(), "too many offsets to keep in memory: they are read for each connector");
            self.kept = HashMap::new();
        }
        let mut reading = Reading::new(self.topic());
        let (_, ends) = reading.is_new(log).await?;
        let (mut own, mut size) = (HashMap::new(), 0);
        reading.to(&ends, log, |record| keep(record, &mut own, &mut size, |name| name == connector, usize::MAX)).await?;
        Ok(own.remove(connector).unwrap_or_default())
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }

    fn keeps_all(&self) -> bool {
        self.kept_bytes <= self.kept_bytes_max
    }

    fn kept_of(&self, connector: &str) -> Vec<SourceOffset> {
        latest(self.kept.get(connector).cloned().unwrap_or_default())
    }

    async fn of(&mut self, connector: &str, log: &dyn Internal) -> Result<Vec<SourceOffset>> {
        Ok(latest(self.known(connector, log).await?))
    }

    /// The bytes under which the topic has a partition of the connector, the latest first.
    async fn keys(&mut self, connector: &str, log: &dyn Internal) -> Result<HashMap<String, Vec<Vec<u8>>>> {
        let mut known: Vec<_> = self.known(connector, log).await?.into_iter().collect();
        known.sort_by_key(|(_, stored)| std::cmp::Reverse(stored.timestamp));
        let mut keys: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
        for (key, stored) in known {
            keys.entry(stored.offset.partition_key()).or_default().push(key);
        }
        Ok(keys)
    }

    /// The records that set these offsets: under the key that is there already, so that compaction drops the old value; where there are several, the others
    /// are forgotten.
    async fn records(&mut self, connector: &str, offsets: &[SourceOffset], log: &dyn Internal) -> Result<Vec<Out>> {
        let partitions = log.ends(self.topic()).await?.1.len() as i32;
        let mut keys = self.keys(connector, log).await?;
        let mut records = Vec::with_capacity(offsets.len());
        for offset in offsets {
            let known = keys.remove(&offset.partition_key()).unwrap_or_default();
            let mut known = known.into_iter();
            let key = known.next().unwrap_or_else(|| offset_key(connector, &offset.partition));
            let record = |key: Vec<u8>, value| Out {
                topic: self.reading.topic.clone(),
                partition: partition_for_key(&key, partitions),
                key,
                value,
            };
            records.extend(known.map(|key| record(key, None)));
            records.push(record(key, offset_value(offset.offset.as_ref())));
        }
        Ok(records)
    }
}

/// One for each partition: the latest, where several keys mean the same.
fn latest(known: Known) -> Vec<SourceOffset> {
    let mut latest: BTreeMap<String, Stored> = BTreeMap::new();
    for stored in known.into_values() {
        let key = stored.offset.partition_key();
        if latest.get(&key).is_none_or(|other| other.timestamp <= stored.timestamp) {
            latest.insert(key, stored);
        }
    }
    latest.into_values().map(|stored| stored.offset).collect()
}

fn keep(record: RecordRef<'_>, kept: &mut HashMap<String, Known>, size: &mut usize, wanted: impl Fn(&str) -> bool, bound: usize) {
    let Some(key) = bytes(record.key()) else { return };
    let Some((connector, partition)) = read_offset_key(key).filter(|(connector, _)| wanted(connector)) else { return };
    let value = bytes(record.value());
    let Some(offset) = read_offset_value(partition, value) else { return };
    // What is beyond the bound is counted, and then dropped as a whole.
    if *size > bound {
        return;
    }
    let known = kept.entry(connector).or_default();
    // About what a key takes in memory: its bytes, and as a map.
    let cost = 3 * key.len() + 200;
    match &offset.offset {
        Some(_) => {
            let stored = Stored { offset, timestamp: record.timestamp().unwrap_or_default() };
            if known.insert(key.to_vec(), stored).is_none() {
                *size += cost;
            }
        }
        None => {
            if known.remove(key).is_some() {
                *size -= cost;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_that_began_later_answers_and_any_that_failed_later_refuses() {
        // Came during the first look.
        assert_eq!(earlier((1, 0), 1, 0, false), Earlier::Nothing);
        assert_eq!(earlier((1, 0), 2, 0, false), Earlier::Answer);
        assert_eq!(earlier((1, 0), 1, 1, true), Earlier::Failure);
        // A failure of before is nothing to who asks now.
        assert_eq!(earlier((1, 1), 1, 1, true), Earlier::Nothing);
        assert_eq!(earlier((0, 0), 0, 0, false), Earlier::Nothing);
    }
}
