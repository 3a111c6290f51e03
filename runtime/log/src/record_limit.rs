//! How large a record may be, as its log counts it.

use crate::TopicInfo;
use crate::record_batch::{self, Compression, HEADER_BYTES};
use crate::topic_config::TopicConfig;
use aqueduct_core::{Chunk, PayloadRef, RecordRef};

/// Of one topic, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLimit {
    /// Of key, value and headers.
    Record(usize),
    /// Of a whole record batch that holds this record alone, compressed as the writer does: Kafka's `max.message.bytes`.
    Batch { bytes: usize, compression: Compression },
}

/// Lengths, deltas, attributes and the count of headers of one record, rounded up.
pub const RECORD_OVERHEAD: usize = 32;
/// Two lengths of a header.
pub const HEADER_OVERHEAD: usize = 10;

impl RecordLimit {
    /// `max.message.bytes` as it was set on the topic, or the default: for logs that count the record alone.
    pub fn of(topic: &TopicInfo) -> Self {
        let set = topic.configs.get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        Self::Record(set.unwrap_or_else(|| TopicConfig::default().max_message_bytes))
    }

    pub fn bytes(self) -> usize {
        let (Self::Record(bytes) | Self::Batch { bytes, .. }) = self;
        bytes
    }

    /// False when no record of the chunk can be too large: mostly that decides, without encoding any.
    pub fn may_refuse(self, chunk: &Chunk) -> bool {
        match self {
            // No record is larger than all of them together.
            Self::Record(bytes) => chunk.bytes() > bytes && chunk.iter().any(|record| size(record) > bytes),
            Self::Batch { bytes, .. } => chunk.iter().any(|record| most(record) > bytes),
        }
    }

    /// The size of a record that is too large; `None` for one that fits.
    pub fn excess(self, record: RecordRef<'_>) -> Option<usize> {
        let size = match self {
            Self::Record(_) => size(record),
            Self::Batch { bytes, .. } if most(record) <= bytes => return None,
            // What may be too large is encoded, once, to know.
            Self::Batch { compression, .. } => record_batch::encode([record], 0, compression, &mut Vec::new())
                .map_or_else(|_| most(record), |summary| summary.bytes),
        };
        (size > self.bytes()).then_some(size)
    }
}

fn len(payload: PayloadRef<'_>) -> usize {
    if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 }
}

fn size(record: RecordRef<'_>) -> usize {
    let headers: usize = record.headers().iter().map(|header| header.name.len() + len(header.value.as_ref())).sum();
    len(record.key()) + len(record.value()) + headers
}

/// An upper bound of the record's batch, uncompressed.
fn most(record: RecordRef<'_>) -> usize {
    HEADER_BYTES + RECORD_OVERHEAD + size(record) + record.headers().len() * HEADER_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Batch, Header, Payload, Record};

    fn excess(limit: RecordLimit, record: Record) -> Option<usize> {
        let batch: Batch = [record].into_iter().collect();
        let found = batch.iter().next().and_then(|record| limit.excess(record));
        assert!(found.is_none() || batch.chunks().iter().any(|chunk| limit.may_refuse(chunk)));
        found
    }

    fn record(bytes: usize) -> Record {
        Record { timestamp: Some(0), ..Record::new("t", Payload::Bytes(vec![b'x'; bytes].into())) }
    }

    #[test]
    fn a_batch_is_counted_with_its_overhead_to_the_byte() {
        let limit = RecordLimit::Batch { bytes: 1000, compression: Compression::None };
        let largest = (1..1000).rev().find(|&bytes| excess(limit, record(bytes)).is_none()).unwrap();
        assert!((915..1000 - HEADER_BYTES).contains(&largest), "{largest}");
        assert_eq!(excess(limit, record(largest + 1)), Some(1001));
        assert_eq!(excess(RecordLimit::Record(1000), record(1000)), None);
        assert_eq!(excess(RecordLimit::Record(1000), record(1001)), Some(1001));
    }

    #[test]
    fn headers_count_and_compression_too() {
        let headers: Vec<Header> = (0..90).map(|_| Header { name: "n".into(), value: Payload::Null }).collect();
        let many = || Record { headers: headers.clone(), ..record(700) };
        let limit = |compression| RecordLimit::Batch { bytes: 1000, compression };
        assert!(excess(limit(Compression::None), many()).is_some());
        assert_eq!(excess(limit(Compression::Lz4), record(5000)), None, "it shrinks");
        assert!(excess(limit(Compression::Lz4), record(5_000_000)).is_some_and(|size| size < 100_000));
    }
}
