//! When a batch ends the instance again and again: which batches those are, and the parts that it is halved into until the records stand alone.

use aqueduct_core::{Batch, Error, Reject, Rejects, TaskId, TopicPartition};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Fewer may be the machine's fault, or that of what the plugin speaks to.
pub(crate) const FAILURES: u32 = 3;
/// Of all parts of one batch together: a record that loops takes the whole limit of a call. Then the task starts again.
const PARTS_TIME: Duration = Duration::from_secs(60);
/// Of failures that are remembered: no more tasks than this fail at the same time.
const TASKS: usize = 1_000;

/// The call ended the instance, which says nothing of other records.
pub(crate) fn is_crash(error: &Error) -> bool {
    matches!(error.code(), "plugin.trap" | "plugin.timeout" | "plugin.memory")
}

/// What a record is refused with that ended its instance alone.
pub(crate) fn crashed(error: &Error) -> Error {
    Error::fatal(error.code().to_owned(), error.message().to_owned())
}

/// Those of a part count once all of it is done.
pub(crate) fn keep(from: &mut Rejects, to: &mut Rejects) {
    for Reject { record, stage, refused_by, error } in from.take() {
        to.push(record, stage, refused_by, error);
    }
}

/// The parts of a batch that are left to do, the earlier ones first: order holds (invariant 3).
pub(crate) struct Parts {
    left: Vec<Range<usize>>,
    until: Instant,
}

impl Parts {
    /// Of a batch that failed as a whole.
    pub(crate) fn of(records: usize) -> Self {
        let mut parts = Self { left: Vec::new(), until: Instant::now() + PARTS_TIME };
        if !parts.halve(0..records) {
            parts.left.push(0..records);
        }
        parts
    }

    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.left.pop()
    }

    /// False: it is one record.
    pub(crate) fn halve(&mut self, part: Range<usize>) -> bool {
        if part.len() < 2 {
            return false;
        }
        let middle = part.start + part.len() / 2;
        self.left.push(middle..part.end);
        self.left.push(part.start..middle);
        true
    }

    pub(crate) fn is_late(&self) -> bool {
        Instant::now() > self.until
    }
}

/// A range of offsets of each partition.
type Ranges = BTreeMap<TopicPartition, (i64, i64)>;

/// The batches at which a plugin's sinks failed, by task. It outlives the tasks, which are opened anew after each failure.
#[derive(Default)]
pub(crate) struct Failures(Mutex<BTreeMap<TaskId, (u32, Ranges)>>);

impl Failures {
    /// Another failure. After a restart a batch may begin and end elsewhere: it is the same when one of its records is.
    pub(crate) fn add(&self, task: &TaskId, batch: &Batch) {
        let (ranges, mut all) = (ranges(batch), self.0.lock());
        if all.len() >= TASKS && !all.contains_key(task) {
            all.clear();
        }
        let before = all.get(task).filter(|(_, known)| overlap(known, &ranges)).map_or(0, |(count, _)| *count);
        all.insert(task.clone(), (before + 1, ranges));
    }

    /// How often it failed with records of this batch.
    pub(crate) fn count(&self, task: &TaskId, batch: &Batch) -> u32 {
        let all = self.0.lock();
        let Some((count, known)) = all.get(task) else { return 0 };
        if overlap(known, &ranges(batch)) { *count } else { 0 }
    }

    /// It is done: what failed is forgotten up to its last record.
    pub(crate) fn done(&self, task: &TaskId, batch: &Batch) {
        let mut all = self.0.lock();
        let Some((_, known)) = all.get_mut(task) else { return };
        for (partition, (_, last)) in ranges(batch) {
            known.retain(|other, (_, until)| *other != partition || *until > last);
        }
        if known.is_empty() {
            all.remove(task);
        }
    }
}

fn ranges(batch: &Batch) -> Ranges {
    let mut ranges = Ranges::new();
    for chunk in batch.chunks() {
        let ends = [0, chunk.len().saturating_sub(1)].into_iter().filter(|at| *at < chunk.len());
        for (partition, offset) in ends.filter_map(|at| chunk.get(at).origin()) {
            let range = ranges.entry(TopicPartition::clone(partition)).or_insert((offset, offset));
            *range = (range.0.min(offset), range.1.max(offset));
        }
    }
    ranges
}

fn overlap(known: &Ranges, found: &Ranges) -> bool {
    found.iter().any(|(partition, (first, last))| known.get(partition).is_some_and(|(from, to)| first <= to && from <= last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Origin, Record};
    use std::sync::Arc;

    fn batch(offsets: Range<i64>) -> Batch {
        let origin = |offset| Some(Origin { partition: Arc::new(TopicPartition::new("t", 0)), offset });
        offsets.map(|offset| Record { origin: origin(offset), ..Record::new("t", "x") }).collect()
    }

    #[test]
    fn halves_come_in_order_until_a_record_stands_alone() {
        let (mut parts, mut done) = (Parts::of(5), Vec::new());
        while let Some(part) = parts.next() {
            // Record 3 ends every instance.
            if part.contains(&3) && parts.halve(part.clone()) {
                continue;
            }
            done.push(part);
        }
        assert_eq!(done, [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(Parts::of(1).next(), Some(0..1));
        assert!(!parts.is_late());
    }

    #[test]
    fn failures_are_counted_for_the_records_and_not_for_the_batch() {
        let (failures, task) = (Failures::default(), TaskId::new("c", 0));
        failures.add(&task, &batch(10..20));
        failures.add(&task, &batch(15..30));
        assert_eq!(failures.count(&task, &batch(29..40)), 2);
        assert_eq!(failures.count(&task, &batch(30..40)), 0);
        assert_eq!(failures.count(&TaskId::new("c", 1), &batch(15..30)), 0);
        failures.done(&task, &batch(15..29));
        assert_eq!(failures.count(&task, &batch(29..30)), 2, "its last record is not done");
        failures.done(&task, &batch(29..30));
        assert_eq!(failures.count(&task, &batch(29..30)), 0);
        failures.add(&task, &batch(10..20));
        failures.add(&task, &batch(50..60));
        assert_eq!(failures.count(&task, &batch(50..60)), 1, "another batch begins anew");
    }
}
