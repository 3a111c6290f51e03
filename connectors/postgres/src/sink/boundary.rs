//! Where transactions of the source end, as far as their events tell.
//!
//! No event says that it is the last of its transaction: the first of another does. So the end of a partition waits for that, a bounded time.

use super::change::Fields;
use aqueduct_core::{Batch, Data, PayloadRef, RecordRef, TopicPartition, Unfinished};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A task's first ends wait this many times longer, counted from its start: who wrote them may have been killed with it, and needs to come back.
const PATIENCE_AT_START: u32 = 10;

/// What a task knows of its source's transactions.
#[derive(Debug)]
pub(super) struct Boundaries {
    wait: Duration,
    start: Instant,
    /// Of each partition, the transaction that was put last.
    last: BTreeMap<TopicPartition, (&'static str, Data)>,
    parts: u64,
}

/// Which transaction an event is of: the field that says so, and what it says.
type Id<'a> = (&'static str, &'a Data);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen<'a> {
    Of(Id<'a>),
    /// A tombstone: what the event before it is of.
    Silent,
    /// A snapshot's row, a flat record, anything else: whole as it is.
    Alone,
}

/// In Debezium's `source`: of Postgres and Oracle, of MySQL with GTIDs, of SQL Server and Db2. Not the block `transaction` first: Postgres' id there
/// has the LSN of the event in it.
const IN_SOURCE: [&str; 3] = ["txId", "gtid", "commit_lsn"];

/// All that is looked at in an event's `source` here.
pub(super) fn looked_at() -> impl Iterator<Item = &'static str> {
    IN_SOURCE.into_iter().chain(["snapshot"])
}

fn seen(record: RecordRef<'_>) -> Seen<'_> {
    let value = match record.value() {
        PayloadRef::Null => return Seen::Silent,
        PayloadRef::Bytes(_) => return Seen::Alone,
        data => Fields::of(data),
    };
    let Some(source) = value.fields_of("source") else { return Seen::Alone };
    let of_snapshot = source.get("snapshot").is_some_and(|(_, snapshot)| match snapshot {
        Data::String(text) => text != "false",
        other => *other == Data::Boolean(true),
    });
    if of_snapshot {
        return Seen::Alone;
    }
    let in_source = IN_SOURCE.iter().find_map(|name| Some((*name, value_of(&source, name)?)));
    let id = in_source.or_else(|| Some(("id", value_of(&value.fields_of("transaction")?, "id")?)));
    id.map_or(Seen::Alone, Seen::Of)
}

fn value_of<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a Data> {
    fields.get(name).map(|(_, id)| id).filter(|id| !id.is_null())
}

struct Tail<'a> {
    partition: &'a Arc<TopicPartition>,
    id: Option<Id<'a>>,
    from: i64,
    done: bool,
}

impl Boundaries {
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, start: Instant::now(), last: BTreeMap::new(), parts: 0 }
    }

    /// Of each partition, the events of its last transaction.
    pub(super) fn unfinished(&self, batch: &Batch) -> Vec<Unfinished> {
        if self.wait.is_zero() {
            return Vec::new();
        }
        let wait = self.wait.max((self.wait * PATIENCE_AT_START).saturating_sub(self.start.elapsed()));
        let tails = tails(batch).into_iter().filter(|tail| tail.id.is_some());
        tails.map(|tail| Unfinished { partition: tail.partition.clone(), from: tail.from, wait }).collect()
    }

    /// To be told of each batch that is put: warns of transactions that come in parts.
    pub(super) fn put(&mut self, batch: &Batch) {
        if self.wait.is_zero() {
            return;
        }
        let before = self.parts;
        let mut begun: Vec<&TopicPartition> = Vec::new();
        for chunk in batch.chunks() {
            let Some(partition) = chunk.origin.as_deref() else { continue };
            if !begun.contains(&partition) {
                begun.push(partition);
                let first = chunk.iter().map(seen).find(|seen| *seen != Seen::Silent);
                let goes_on =
                    matches!((first, self.last.get(partition)), (Some(Seen::Of(id)), Some((name, last))) if id == (*name, last));
                self.parts += u64::from(goes_on);
            }
            match (0..chunk.len()).rev().map(|index| seen(chunk.get(index))).find(|seen| *seen != Seen::Silent) {
                Some(Seen::Of((name, id))) => drop(self.last.insert(partition.clone(), (name, id.clone()))),
                Some(_) => drop(self.last.remove(partition)),
                None => {}
            }
        }
        // Each time that there are twice as many.
        if self.parts.checked_ilog2() > before.checked_ilog2() {
            tracing::warn!(
                times = self.parts,
                "a transaction of the source is written in parts: it is larger than aqueduct.buffer.bytes, or its end came later than source.transaction.wait.ms"
            );
        }
    }

    pub(super) fn revoked(&mut self, partition: &TopicPartition) {
        self.last.remove(partition);
    }
}

fn tails(batch: &Batch) -> Vec<Tail<'_>> {
    let mut tails: Vec<Tail<'_>> = Vec::new();
    for chunk in batch.chunks().iter().rev() {
        let Some(partition) = &chunk.origin else { continue };
        let at = tails.iter().position(|tail| tail.partition == partition).unwrap_or_else(|| {
            tails.push(Tail { partition, id: None, from: 0, done: false });
            tails.len() - 1
        });
        let tail = &mut tails[at];
        let mut records = (0..chunk.len()).rev();
        while !tail.done
            && let Some(index) = records.next()
        {
            let record = chunk.get(index);
            match seen(record) {
                Seen::Silent => {}
                Seen::Of(id) if tail.id.is_none_or(|last| last == id) => {
                    tail.id = Some(id);
                    tail.from = record.origin().map_or(0, |(_, offset)| offset);
                }
                _ => tail.done = true,
            }
        }
    }
    tails
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Origin, Payload, Record};

    const WAIT: Duration = Duration::from_secs(3600);

    fn event(transaction: i64, snapshot: &str) -> Payload {
        let source = Data::object([("txId", Data::Int64(transaction)), ("snapshot", Data::from(snapshot))]);
        Payload::data(None, Data::object([("op", Data::from("u")), ("after", Data::Null), ("source", source)]))
    }

    fn batch(records: Vec<(&str, i64, Payload)>) -> Batch {
        let record = |(topic, offset, value): (&str, i64, Payload)| Record {
            origin: Some(Origin { partition: Arc::new(TopicPartition::new(topic, 0)), offset }),
            value,
            ..Record::new(topic, Payload::Null)
        };
        records.into_iter().map(record).collect()
    }

    fn from(batch: &Batch) -> Vec<(String, i64)> {
        let mut found: Vec<_> = Boundaries::new(WAIT)
            .unfinished(batch)
            .into_iter()
            .map(|tail| (tail.partition.topic.to_string(), tail.from))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_last_transaction_of_each_partition_waits_and_nothing_else() {
        let (one, two, three) = (event(1, "false"), event(2, "false"), event(3, "false"));
        let tail = |records| from(&batch(records));
        assert_eq!(tail(vec![("a", 1, one.clone()), ("a", 2, two.clone()), ("a", 3, two.clone())]), [("a".into(), 2)]);
        assert_eq!(
            tail(vec![("a", 1, one.clone()), ("b", 7, one.clone()), ("a", 2, one.clone())]),
            [("a".into(), 1), ("b".into(), 7)]
        );
        // A tombstone goes with the event before it, not with the one behind it.
        assert_eq!(tail(vec![("a", 1, two.clone()), ("a", 2, three.clone()), ("a", 3, Payload::Null)]), [("a".into(), 2)]);
        assert_eq!(tail(vec![("a", 1, two), ("a", 2, Payload::Null), ("a", 3, three.clone())]), [("a".into(), 3)]);
        // Behind a snapshot's row, a flat record or text there is nothing to wait for.
        for whole in [event(3, "true"), event(3, "last"), Payload::data(None, Data::object([("id", Data::Int64(1))])), "x".into()]
        {
            assert_eq!(tail(vec![("a", 1, three.clone()), ("a", 2, whole)]), []);
        }
        assert_eq!(tail(vec![("a", 1, Payload::Null)]), []);
        assert!(Boundaries::new(Duration::ZERO).unfinished(&batch(vec![("a", 1, one)])).is_empty());
    }

    #[test]
    fn parts_of_a_transaction_are_counted() {
        let mut boundaries = Boundaries::new(WAIT);
        let mut put = |records| {
            boundaries.put(&batch(records));
            boundaries.parts
        };
        assert_eq!(put(vec![("a", 1, event(1, "false")), ("b", 1, event(1, "false"))]), 0);
        assert_eq!(put(vec![("a", 2, event(2, "false")), ("a", 3, Payload::Null)]), 0);
        assert_eq!(put(vec![("a", 4, event(2, "false")), ("b", 2, event(1, "false"))]), 2);
        assert_eq!(put(vec![("a", 5, event(3, "false"))]), 2);
        assert_eq!(put(vec![("a", 6, event(3, "true"))]), 2);
        assert_eq!(put(vec![("a", 7, event(3, "false"))]), 2);
    }

    #[test]
    fn a_task_that_has_just_begun_has_more_patience() {
        let fresh = Boundaries::new(Duration::from_secs(10));
        let batch = batch(vec![("a", 1, event(1, "false"))]);
        assert!(fresh.unfinished(&batch)[0].wait > Duration::from_secs(50));
        let Some(start) = Instant::now().checked_sub(Duration::from_secs(200)) else { return };
        let old = Boundaries { start, ..fresh };
        assert_eq!(old.unfinished(&batch)[0].wait, Duration::from_secs(10));
    }
}
