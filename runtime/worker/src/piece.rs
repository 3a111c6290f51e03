//! What a sink's task has read and not put: a piece that is read ahead, and the ends of partitions that wait for what follows.

use aqueduct_core::{Batch, Bytes, Payload, Record, RecordRef, Rejects, TopicPartition, Unfinished};
use aqueduct_transforms::Converters;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Read and decoded, not transformed.
#[derive(Default)]
pub(crate) struct Piece {
    /// As it was read: for dead letters and positions.
    pub(crate) raw: Batch,
    pub(crate) batch: Batch,
    pub(crate) rejects: Rejects,
}

impl Piece {
    pub(crate) fn decode(raw: Batch, converters: &Converters) -> Self {
        let mut rejects = Rejects::default();
        // Cheap: a batch is a few chunks over shared buffers.
        let batch = converters.decode(raw.clone(), &mut rejects);
        Self { raw, batch, rejects }
    }

    pub(crate) fn append(&mut self, more: Piece) {
        self.raw.append(more.raw);
        self.batch.append(more.batch);
        self.add(more.rejects);
    }

    fn add(&mut self, mut rejects: Rejects) {
        for reject in rejects.take() {
            self.rejects.push(reject.record, reject.stage, reject.refused_by, reject.error);
        }
    }
}

/// Ends of partitions that are not whole ([`Unfinished`]). They count as not read: neither put, nor transformed, nor passed by a position.
pub(crate) struct Held {
    /// Copied: a slice would hold the whole buffer that it was read into.
    raw: Batch,
    due: BTreeMap<TopicPartition, Instant>,
    /// Of all that is held (invariant 6).
    max_bytes: usize,
}

impl Held {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { raw: Batch::new(), due: BTreeMap::new(), max_bytes }
    }

    /// When the first has waited long enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Puts what was held before what was read since. `unfinished` is asked about both together, and what it names is held again.
    pub(crate) fn next(
        &mut self,
        new: Piece,
        converters: &Converters,
        now: Instant,
        unfinished: impl FnOnce(&Batch) -> Vec<Unfinished>,
    ) -> Piece {
        let fresh: BTreeSet<TopicPartition> =
            new.raw.chunks().iter().filter_map(|chunk| Some(TopicPartition::clone(chunk.origin.as_deref()?))).collect();
        let before = std::mem::take(&mut self.due);
        let mut piece = new;
        if !self.raw.is_empty() {
            let mut held = Piece::decode(std::mem::take(&mut self.raw), converters);
            held.append(piece);
            piece = held;
        }
        let mut from = BTreeMap::new();
        for Unfinished { partition, from: offset, wait } in unfinished(&piece.batch) {
            let due = before.get(&*partition).filter(|_| !fresh.contains(&*partition)).copied().unwrap_or(now + wait);
            if due > now {
                self.due.insert(TopicPartition::clone(&partition), due);
                from.insert(TopicPartition::clone(&partition), offset);
            }
        }
        self.hold(piece, &from)
    }

    fn hold(&mut self, mut piece: Piece, from: &BTreeMap<TopicPartition, i64>) -> Piece {
        if from.is_empty() {
            return piece;
        }
        let waits = |partition: &TopicPartition, offset: i64| from.get(partition).is_some_and(|from| offset >= *from);
        let waiting = |record: RecordRef<'_>| record.origin().is_some_and(|(partition, offset)| waits(partition, offset));
        let bytes: usize = piece.raw.iter().filter(|record| waiting(*record)).map(size).sum();
        if bytes > self.max_bytes {
            self.due.clear();
            return piece;
        }
        self.raw = piece.raw.iter().filter(|record| waiting(*record)).map(|record| owned(record.to_record())).collect();
        piece.raw.retain(|record| !waiting(record));
        piece.batch.retain(|record| !waiting(record));
        let mut rejects = std::mem::take(&mut piece.rejects);
        for reject in rejects.take() {
            if !reject.record.origin.as_ref().is_some_and(|origin| waits(&origin.partition, origin.offset)) {
                piece.rejects.push(reject.record, reject.stage, reject.refused_by, reject.error);
            }
        }
        piece
    }

    /// These partitions are another's: who gets them reads them again.
    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        self.due.retain(|partition, _| !partitions.contains(partition));
        self.raw.retain(|record| record.origin().is_some_and(|(partition, _)| !partitions.contains(partition)));
    }
}

/// In the log, about; what a record is to the tables counts too.
fn size(record: RecordRef<'_>) -> usize {
    let of = |payload| match payload {
        aqueduct_core::PayloadRef::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    let headers: usize = record.headers().iter().map(|header| header.name.len() + header.value.size() + 64).sum();
    of(record.key()) + of(record.value()) + headers + 64
}

fn owned(mut record: Record) -> Record {
    let own = |payload: &mut Payload| {
        if let Payload::Bytes(bytes) = payload {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    };
    own(&mut record.key);
    own(&mut record.value);
    record.headers.iter_mut().for_each(|header| own(&mut header.value));
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Options, Origin};
    use std::sync::Arc;
    use std::time::Duration;

    const WAIT: Duration = Duration::from_millis(100);

    fn converters() -> Converters {
        Converters::new(&Options::new(), &Options::new()).unwrap()
    }

    /// A value is its transaction: `a1`, `a2`, `b1` are two of a and one of b.
    fn batch(records: &[(i32, i64, &'static str)]) -> Batch {
        let record = |(partition, offset, value): &(i32, i64, &'static str)| Record {
            origin: Some(Origin { partition: Arc::new(TopicPartition::new("t", *partition)), offset: *offset }),
            ..Record::new("t", *value)
        };
        records.iter().map(record).collect()
    }

    fn values(batch: &Batch) -> Vec<String> {
        let text = |record: RecordRef<'_>| match record.value() {
            aqueduct_core::PayloadRef::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        batch.iter().map(text).collect()
    }

    /// The last transaction of each partition is not known to be whole.
    fn last(batch: &Batch) -> Vec<Unfinished> {
        let mut tails = BTreeMap::<TopicPartition, (String, i64)>::new();
        for (record, value) in batch.iter().zip(values(batch)) {
            let (partition, offset) = record.origin().unwrap();
            let of = value[..1].to_owned();
            let tail = tails.entry(TopicPartition::clone(partition)).or_insert_with(|| (of.clone(), offset));
            if tail.0 != of {
                *tail = (of, offset);
            }
        }
        tails.into_iter().map(|(partition, (_, from))| Unfinished { partition: Arc::new(partition), from, wait: WAIT }).collect()
    }

    fn next(held: &mut Held, records: &[(i32, i64, &'static str)], now: Instant) -> Vec<String> {
        let converters = converters();
        let piece = held.next(Piece::decode(batch(records), &converters), &converters, now, last);
        assert_eq!(values(&piece.raw), values(&piece.batch));
        values(&piece.raw)
    }

    #[test]
    fn the_end_of_a_partition_waits_for_the_next_transaction_or_until_it_is_due() {
        let (mut held, start) = (Held::new(10_000), Instant::now());
        assert_eq!(next(&mut held, &[(0, 1, "a1"), (0, 2, "a2"), (0, 3, "b1")], start), ["a1", "a2"]);
        assert_eq!(held.due(), Some(start + WAIT));
        // The rest of b, and another partition.
        assert_eq!(next(&mut held, &[(0, 4, "b2"), (0, 5, "c1"), (1, 9, "x1")], start + WAIT / 2), ["b1", "b2"]);
        // What is new gives its own partition time, and no other.
        assert_eq!(next(&mut held, &[(1, 10, "x2")], start + WAIT), Vec::<String>::new());
        assert_eq!(held.due(), Some(start + WAIT / 2 + WAIT));
        assert_eq!(next(&mut held, &[], start + WAIT / 2 + WAIT), ["c1"]);
        assert_eq!(next(&mut held, &[], start + WAIT * 2), ["x1", "x2"]);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn what_waits_is_bounded_and_a_partition_that_goes_leaves_nothing() {
        let (mut held, start) = (Held::new(4 * 66), Instant::now());
        assert_eq!(next(&mut held, &[(0, 1, "a1"), (0, 2, "a2"), (1, 1, "x1")], start), Vec::<String>::new());
        held.forget(&[TopicPartition::new("t", 1)]);
        assert_eq!(next(&mut held, &[(0, 3, "a3"), (0, 4, "a4")], start), Vec::<String>::new());
        assert_eq!(next(&mut held, &[(0, 5, "a5")], start), ["a1", "a2", "a3", "a4", "a5"]);
        assert_eq!(held.due(), None);
    }
}
