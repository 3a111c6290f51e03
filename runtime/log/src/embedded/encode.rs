//! From a batch to record batches for each partition: on the writer's own task, so that it overlaps the disk.

use super::shared::TopicView;
use crate::contract::EncodedBatch;
use crate::partitioner::partition_for_key;
use crate::record_batch::encode;
use aqueduct_core::{Chunk, Error, PayloadRef, RecordRef, Result};
use std::iter::Peekable;
use std::sync::Arc;

/// Payload of one record batch: small enough that a reader of 1 MiB wastes little of each read, large enough that headers cost nothing.
pub(crate) const BATCH_TARGET_BYTES: usize = 256 << 10;

/// What one append adds to one partition: record batches whose base offsets are still to be stamped.
pub(crate) struct Part {
    pub(crate) topic: Arc<TopicView>,
    pub(crate) partition: i32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) batches: Vec<Wire>,
}

/// One record batch in [`Part::bytes`].
#[derive(Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) records: i64,
    pub(crate) max_timestamp: i64,
}

impl Part {
    pub(crate) fn records(&self) -> i64 {
        self.batches.iter().map(|wire| wire.records).sum()
    }
}

/// Places and encodes. `topic` finds a topic by name; `turn` decides where keyless records go; `buffer` gives empty buffers.
///
/// # Errors
/// `log.unknown_topic`, `log.unknown_partition`, `log.record_too_large`.
pub(crate) fn parts<'a>(
    batch: &'a EncodedBatch,
    topic: impl Fn(&str) -> Result<Arc<TopicView>>,
    turn: usize,
    now_ms: i64,
    mut buffer: impl FnMut() -> Vec<u8>,
) -> Result<Vec<Part>> {
    let mut runs: Vec<(Arc<TopicView>, i32, Vec<Run<'a>>)> = Vec::new();
    for chunk in batch.batch().chunks() {
        let topic = match runs.last() {
            Some((known, ..)) if known.name == chunk.topic => known.clone(),
            _ => topic(&chunk.topic)?,
        };
        let mut add = |partition: i32, run: Run<'a>| match runs.iter_mut().find(|(t, p, _)| *p == partition && t.id == topic.id) {
            Some((.., known)) => known.push(run),
            None => runs.push((topic.clone(), partition, vec![run])),
        };
        place(chunk, &topic, turn, &mut add)?;
    }
    runs.into_iter().map(|(topic, partition, runs)| encode_runs(topic, partition, &runs, now_ms, buffer())).collect()
}

fn place<'a>(chunk: &'a Chunk, topic: &TopicView, turn: usize, add: &mut impl FnMut(i32, Run<'a>)) -> Result<()> {
    let count = topic.partitions.len();
    if let Some(partition) = chunk.partition {
        topic.partition(partition)?;
        add(partition, Run::Whole(chunk));
    } else if count == 1 {
        add(0, Run::Whole(chunk));
    } else if chunk.iter().all(|record| record.key().is_null()) {
        add((turn % count) as i32, Run::Whole(chunk));
    } else {
        let mut buckets = vec![Vec::new(); count];
        for (index, record) in chunk.iter().enumerate() {
            let partition = match record.key() {
                PayloadRef::Bytes(key) => partition_for_key(key, count as i32) as usize,
                _ => turn % count,
            };
            buckets[partition].push(index as u32);
        }
        for (partition, indices) in buckets.into_iter().enumerate().filter(|(_, indices)| !indices.is_empty()) {
            add(partition as i32, Run::Some(chunk, indices));
        }
    }
    Ok(())
}

/// Records of one chunk that go to one partition.
enum Run<'a> {
    Whole(&'a Chunk),
    Some(&'a Chunk, Vec<u32>),
}

impl<'a> Run<'a> {
    fn len(&self) -> usize {
        match self {
            Run::Whole(chunk) => chunk.len(),
            Run::Some(_, indices) => indices.len(),
        }
    }

    #[inline]
    fn get(&self, index: usize) -> RecordRef<'a> {
        match self {
            Run::Whole(chunk) => chunk.get(index),
            Run::Some(chunk, indices) => chunk.get(indices[index] as usize),
        }
    }
}

fn encode_runs(topic: Arc<TopicView>, partition: i32, runs: &[Run<'_>], now_ms: i64, mut bytes: Vec<u8>) -> Result<Part> {
    let mut batches = Vec::new();
    let mut records = runs.iter().flat_map(|run| (0..run.len()).map(|index| run.get(index))).peekable();
    while records.peek().is_some() {
        let at = bytes.len();
        let mut limited = Limited { records: &mut records, taken: 0, max: topic.config.max_message_bytes, too_large: None };
        let summary = encode(&mut limited, now_ms, topic.config.compression, &mut bytes)?;
        if let Some(size) = limited.too_large {
            let message = format!("a record of {size} bytes for topic {}; max.message.bytes is {}", topic.name, limited.max);
            return Err(Error::fatal("log.record_too_large", message)
                .fix("raise max.message.bytes of the topic, or send smaller records"));
        }
        batches.push(Wire { at, len: summary.bytes, records: summary.records as i64, max_timestamp: summary.max_timestamp });
    }
    Ok(Part { topic, partition, bytes, batches })
}

/// As many records as fit into one batch.
struct Limited<'i, I: Iterator> {
    records: &'i mut Peekable<I>,
    taken: usize,
    max: usize,
    too_large: Option<usize>,
}

impl<'a, I: Iterator<Item = RecordRef<'a>>> Iterator for Limited<'_, I> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        let size = size_of(*self.records.peek()?);
        if size > self.max {
            self.too_large = Some(size);
            return None;
        }
        if self.taken > 0 && self.taken + size > BATCH_TARGET_BYTES {
            return None;
        }
        self.taken += size.max(1);
        self.records.next()
    }
}

#[inline]
fn size_of(record: RecordRef<'_>) -> usize {
    let len = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 };
    let headers: usize = record.headers().iter().map(|header| header.name.len() + len(header.value.as_ref())).sum();
    len(record.key()) + len(record.value()) + headers
}
