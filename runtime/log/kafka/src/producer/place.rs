//! Where the records of a batch go, and what one record batch holds of them.

use crate::cluster::TopicMeta;
use crate::error;
use aqueduct_core::{Batch, Chunk, Error, PayloadRef, RecordRef, Result};
use aqueduct_log::RecordLimit;
use aqueduct_log::partitioner::partition_for_key;
use aqueduct_log::record_batch::Compression;
use aqueduct_log::record_limit::{HEADER_OVERHEAD, RECORD_OVERHEAD};
use std::sync::Arc;

/// A topic as a producer knows it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) meta: Arc<TopicMeta>,
    /// Bytes of a whole record batch: the least of `max.message.bytes`, `max.request.size` and, but for one record, `batch.size`.
    pub(crate) max_bytes: usize,
    pub(crate) batch_bytes: usize,
}

/// What one append adds to one partition.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) target: Arc<Target>,
    pub(crate) partition: i32,
    pub(crate) pieces: Vec<Piece>,
    /// Not told in `Appended`: of the offsets topic.
    pub(crate) hidden: bool,
}

/// Records of one chunk, in order.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    batch: Arc<Batch>,
    chunk: usize,
    rows: Rows,
    /// Rows before it are taken.
    from: usize,
}

#[derive(Clone, Debug)]
enum Rows {
    All,
    Some(Arc<[u32]>),
}

impl Piece {
    pub(crate) fn len(&self) -> usize {
        self.rows() - self.from
    }

    fn rows(&self) -> usize {
        match &self.rows {
            Rows::All => self.batch.chunks()[self.chunk].len(),
            Rows::Some(rows) => rows.len(),
        }
    }

    fn get(&self, index: usize) -> RecordRef<'_> {
        let chunk = &self.batch.chunks()[self.chunk];
        match &self.rows {
            Rows::All => chunk.get(index),
            Rows::Some(rows) => chunk.get(rows[index] as usize),
        }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        (self.from..self.rows()).map(|index| self.get(index))
    }

    /// Takes records from the front until `taken` bytes would be more than `max`; at least one when `taken` is 0.
    pub(crate) fn take(&mut self, taken: &mut usize, max: usize) -> Option<Self> {
        let begin = self.from;
        while self.from < self.rows() {
            let size = size_of(self.get(self.from));
            if *taken > 0 && *taken + size > max {
                break;
            }
            *taken += size;
            self.from += 1;
        }
        if self.from == begin {
            return None;
        }
        let rows = match &self.rows {
            Rows::All if begin == 0 && self.from == self.rows() => Rows::All,
            Rows::All => Rows::Some((begin as u32..self.from as u32).collect()),
            Rows::Some(rows) => Rows::Some(rows[begin..self.from].into()),
        };
        Some(Self { batch: self.batch.clone(), chunk: self.chunk, rows, from: 0 })
    }
}

/// Places every record: by its partition, else by its key, else all keyless ones of this call in partition `turn`.
///
/// # Errors
/// `log.unknown_topic`, `log.unknown_partition`, `log.record_too_large` (fatal).
pub(crate) fn place(
    batch: Batch,
    target: impl Fn(&str) -> Result<Arc<Target>>,
    turn: usize,
    compression: Compression,
) -> Result<Vec<Placed>> {
    let batch = Arc::new(batch);
    let mut placed: Vec<Placed> = Vec::new();
    for (index, chunk) in batch.chunks().iter().enumerate() {
        if chunk.is_empty() {
            continue;
        }
        let target = match placed.last() {
            Some(last) if last.target.meta.name == chunk.topic => last.target.clone(),
            _ => target(&chunk.topic)?,
        };
        check_sizes(chunk, &target, compression)?;
        for (partition, rows) in partitions(chunk, &target, turn)? {
            let piece = Piece { batch: batch.clone(), chunk: index, rows, from: 0 };
            match placed.iter_mut().find(|known| known.partition == partition && known.target.meta.id == target.meta.id) {
                Some(known) => known.pieces.push(piece),
                None => placed.push(Placed { target: target.clone(), partition, pieces: vec![piece], hidden: false }),
            }
        }
    }
    Ok(placed)
}

fn partitions(chunk: &Chunk, target: &Target, turn: usize) -> Result<Vec<(i32, Rows)>> {
    let count = target.meta.partitions.len();
    if let Some(partition) = chunk.partition {
        return match target.meta.partition(partition) {
            Some(_) => Ok(vec![(partition, Rows::All)]),
            None => Err(error::unknown_partition(&chunk.topic, partition)),
        };
    }
    if count == 0 {
        return Err(Error::retriable("kafka.no_leader", format!("topic {} has no partitions at the moment", chunk.topic)));
    }
    if count == 1 || chunk.iter().all(|record| record.key().is_null()) {
        return Ok(vec![((turn % count) as i32, Rows::All)]);
    }
    let mut buckets = vec![Vec::new(); count];
    for (index, record) in chunk.iter().enumerate() {
        let partition = match record.key() {
            PayloadRef::Bytes(key) => partition_for_key(key, count as i32) as usize,
            _ => turn % count,
        };
        buckets[partition].push(index as u32);
    }
    let filled = buckets.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
    Ok(filled.map(|(partition, rows)| (partition as i32, Rows::Some(rows.into()))).collect())
}

fn check_sizes(chunk: &Chunk, target: &Target, compression: Compression) -> Result<()> {
    let limit = RecordLimit::Batch { bytes: target.max_bytes, compression };
    match chunk.iter().find_map(|record| limit.excess(record)) {
        None => Ok(()),
        Some(bytes) => {
            let message = format!("a record batch of {bytes} bytes for topic {}; the limit is {}", chunk.topic, target.max_bytes);
            Err(Error::fatal("log.record_too_large", message)
                .fix("raise max.message.bytes of the topic and producer.override.max.request.size, or send smaller records"))
        }
    }
}

/// An upper bound of a record's bytes in a batch.
fn size_of(record: RecordRef<'_>) -> usize {
    let len = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 };
    let headers: usize =
        record.headers().iter().map(|header| header.name.len() + len(header.value.as_ref()) + HEADER_OVERHEAD).sum();
    len(record.key()) + len(record.value()) + headers + RECORD_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::PartitionMeta;
    use aqueduct_core::{Payload, Record};
    use aqueduct_log::record_batch::HEADER_BYTES;
    use uuid::Uuid;

    pub(crate) fn target(partitions: usize, max_bytes: usize) -> Arc<Target> {
        let partition = PartitionMeta { leader: Some(1), epoch: 0, replicas: 1 };
        let meta =
            TopicMeta { name: "t".into(), id: Uuid::from_u128(1), is_internal: false, partitions: vec![partition; partitions] };
        Arc::new(Target { meta: Arc::new(meta), max_bytes, batch_bytes: max_bytes })
    }

    fn keyed(key: &str) -> Record {
        Record { key: key.to_owned().into(), ..Record::new("t", "v".to_owned()) }
    }

    #[test]
    fn keys_by_murmur2_and_keyless_in_turn() {
        let records = vec![keyed("21"), Record::new("t", "a".to_owned()), keyed("foobar"), Record::new("t", "b".to_owned())];
        let placed = place(records.into_iter().collect(), |_| Ok(target(10, 1000)), 3, Compression::None).unwrap();
        let of = |partition: i32| -> usize {
            placed.iter().filter(|placed| placed.partition == partition).flat_map(|placed| &placed.pieces).map(Piece::len).sum()
        };
        assert_eq!(
            of(3),
            2 + usize::from(partition_for_key(b"21", 10) == 3) + usize::from(partition_for_key(b"foobar", 10) == 3)
        );
        assert!(of(partition_for_key(b"21", 10)) >= 1 && of(partition_for_key(b"foobar", 10)) >= 1);
    }

    #[test]
    fn pieces_are_cut_at_the_limit_and_lose_nothing() {
        let batch: Batch = (0..10).map(|i| Record::new("t", format!("{i}{}", "x".repeat(99)))).collect();
        let mut piece = place(batch, |_| Ok(target(1, 1000)), 0, Compression::None).unwrap().remove(0).pieces.remove(0);
        let mut seen = Vec::new();
        while piece.len() > 0 {
            let taken = piece.take(&mut 0, 400).unwrap();
            assert!(taken.len() <= 3);
            seen.extend(taken.records().map(|record| match record.value() {
                PayloadRef::Bytes(bytes) => bytes[0] - b'0',
                other => panic!("{other:?}"),
            }));
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn too_large_is_told_to_the_byte() {
        let fits = |bytes: usize| {
            let record =
                Record { timestamp: Some(0), value: Payload::Bytes(vec![b'x'; bytes].into()), ..Record::new("t", String::new()) };
            place([record].into_iter().collect(), |_| Ok(target(1, 1000)), 0, Compression::None).is_ok()
        };
        let largest = (1..1000).rev().find(|&bytes| fits(bytes)).unwrap();
        assert!((915..1000 - HEADER_BYTES).contains(&largest), "{largest}");
        assert!(fits(10));
    }
}
