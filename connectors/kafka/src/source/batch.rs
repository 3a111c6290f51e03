//! Records of a fetch to chunks: one for each topic, or for each partition where it is kept.

use super::config::Settings;
use aqueduct_core::{Batch, ChunkBuilder, Payload, Span, TaskContext, Topic};
use bytes::{BufMut, Bytes, BytesMut};
use krafka::ConsumerRecord;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) const TOPIC_HEADER: &str = "__source.topic";
pub(super) const PARTITION_HEADER: &str = "__source.partition";
pub(super) const OFFSET_HEADER: &str = "__source.offset";

/// What a chunk counts for a record beside its payloads: its entry, rounded up.
const ENTRY_BYTES: usize = 64;
/// What a chunk counts for a header beside name and value.
const HEADER_BYTES: usize = 48;

/// Names of headers and topics come again and again.
pub(super) struct Gather {
    names: FxHashMap<String, Arc<str>>,
    topics: FxHashMap<Arc<str>, Target>,
    /// `__source.topic`, `__source.partition`, `__source.offset`
    provenance: [Arc<str>; 3],
}

#[derive(Clone)]
struct Target {
    topic: Topic,
    /// The source's name as a header's value.
    name: Bytes,
}

/// More names than this are not kept: they are no names then, but values.
const NAMES_MAX: usize = 1024;

struct Open {
    chunk: ChunkBuilder,
    buffer: BytesMut,
}

impl Gather {
    pub(super) fn new() -> Self {
        let provenance = [TOPIC_HEADER, PARTITION_HEADER, OFFSET_HEADER].map(Arc::from);
        Self { names: FxHashMap::default(), topics: FxHashMap::default(), provenance }
    }

    /// Takes from the front of `pending` what one batch may hold, in its order for each partition; and the last offset taken of each.
    pub(super) fn batch(
        &mut self,
        pending: &mut VecDeque<ConsumerRecord>,
        settings: &Settings,
        cx: &TaskContext,
    ) -> (Batch, FxHashMap<(Arc<str>, i32), i64>) {
        let (count, bytes) = self.fitting(pending, settings, cx);
        let mut open: Vec<((Topic, Option<i32>), Open)> = Vec::new();
        let mut last = FxHashMap::default();
        let mut offsets = BytesMut::with_capacity(if settings.provenance { count * 12 } else { 0 });
        let mut at = usize::MAX;
        for record in pending.drain(..count) {
            let target = self.target(&record.topic, settings);
            let partition = settings.preserve_partitions.then_some(record.partition);
            let is = |((topic, kept), _): &((Topic, Option<i32>), Open)| *topic == target.topic && *kept == partition;
            if !open.get(at).is_some_and(is) {
                at = open.iter().position(is).unwrap_or_else(|| {
                    let chunk = ChunkBuilder::new(target.topic.clone()).partition(partition);
                    let room = if open.is_empty() { bytes } else { 0 };
                    open.push(((target.topic.clone(), partition), Open { chunk, buffer: BytesMut::with_capacity(room) }));
                    open.len() - 1
                });
            }
            let Open { chunk, buffer } = &mut open[at].1;
            let mut put = |payload: &Option<Bytes>| {
                payload.as_ref().map(|bytes| {
                    let span = Span { start: buffer.len() as u32, len: bytes.len() as u32 };
                    buffer.extend_from_slice(bytes);
                    span
                })
            };
            let (key, value) = (put(&record.key), put(&record.value));
            chunk.push_span(key, value, (record.timestamp >= 0).then_some(record.timestamp), -1);
            for (name, value) in record.headers {
                chunk.header(self.name(name), value.map_or(Payload::Null, Payload::Bytes));
            }
            if settings.provenance {
                let [topic, partition, offset] = &self.provenance;
                chunk.header(topic.clone(), Payload::Bytes(target.name));
                chunk.header(partition.clone(), Payload::Bytes(digits(&mut offsets, record.partition.into())));
                chunk.header(offset.clone(), Payload::Bytes(digits(&mut offsets, record.offset)));
            }
            last.insert((record.topic, record.partition), record.offset);
        }
        let mut batch = Batch::new();
        for (_, Open { chunk, buffer }) in open {
            batch.push_chunk(chunk.finish(buffer.freeze()));
        }
        (batch, last)
    }

    /// How many records, at least one; and the bytes of their keys and values.
    fn fitting(&self, pending: &VecDeque<ConsumerRecord>, settings: &Settings, cx: &TaskContext) -> (usize, usize) {
        let (mut count, mut total, mut bytes) = (0, 0, 0);
        for record in pending.iter().take(cx.max_records.max(1)) {
            let payload = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
            let header =
                |(name, value): &(String, Option<Bytes>)| HEADER_BYTES + name.len() + value.as_ref().map_or(0, Bytes::len);
            let mut size = payload + ENTRY_BYTES + record.headers.iter().map(header).sum::<usize>();
            if settings.provenance {
                // Two numbers of at most 20 digits.
                size += 3 * HEADER_BYTES + self.provenance.iter().map(|name| name.len()).sum::<usize>() + record.topic.len() + 40;
            }
            if count > 0 && total + size > cx.max_bytes {
                break;
            }
            (count, total, bytes) = (count + 1, total + size, bytes + payload);
        }
        (count, bytes)
    }

    fn target(&mut self, topic: &Arc<str>, settings: &Settings) -> Target {
        if let Some(target) = self.topics.get(topic) {
            return target.clone();
        }
        let target = Target { topic: settings.format.apply(topic), name: Bytes::copy_from_slice(topic.as_bytes()) };
        self.topics.insert(topic.clone(), target.clone());
        target
    }

    fn name(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.names.get(&name) {
            return known.clone();
        }
        let shared: Arc<str> = name.as_str().into();
        if self.names.len() < NAMES_MAX {
            self.names.insert(name, shared.clone());
        }
        shared
    }
}

/// A number as text, in a buffer that many share.
fn digits(buffer: &mut BytesMut, number: i64) -> Bytes {
    let mut text = [0u8; 20];
    let mut at = text.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        buffer.put_u8(b'-');
    }
    buffer.extend_from_slice(&text[at..]);
    buffer.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are() {
        let mut buffer = BytesMut::new();
        for number in [0, 7, 10, 1_234_567_890, i64::MAX, -5] {
            assert_eq!(digits(&mut buffer, number), number.to_string().as_bytes());
        }
    }
}
