//! What was answered and is not committed yet. It outlives a task that fails and is opened again in this process, so that the receiver does not get again
//! what it has taken, and so that a receiver that takes little at a time is got through at last. A crash forgets it: then records repeat.

use super::identity::Place;
use aqueduct_core::{Record, TaskId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a record was refused: it must be refused again until its dead letter is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) why: String,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    partitions: FxHashMap<Arc<str>, Progress>,
    /// Receipts that the worker did not take yet.
    letters: Vec<Letter>,
    /// Those that it took, and may not have committed.
    given: Vec<Letter>,
    /// The worker commits what was put. Another put follows only when that succeeded.
    told: AtomicBool,
}

/// A receipt, and the partition of what it is for.
type Letter = (Arc<str>, Record);

#[derive(Debug)]
struct Progress {
    /// Committed, or where the assignment began.
    from: i64,
    /// Behind the last put that was answered as a whole.
    next: i64,
    /// Of records behind `next`, what was answered; of those before, what was refused.
    answered: FxHashMap<(i64, u32), Option<Refusal>>,
}

impl Ledger {
    pub(super) fn assigned(&mut self, partition: Arc<str>, offset: i64) {
        self.partitions.insert(partition, Progress { from: offset, next: offset, answered: FxHashMap::default() });
    }

    pub(super) fn revoked(&mut self, partition: &str) {
        self.partitions.remove(partition);
    }

    /// The worker asked for what goes with its commit.
    pub(super) fn told(&self) {
        self.told.store(true, Relaxed);
    }

    /// A put begins.
    pub(super) fn begin(&mut self) {
        if self.told.swap(false, Relaxed) {
            self.given.clear();
            for progress in self.partitions.values_mut() {
                let next = progress.next;
                progress.from = next;
                progress.answered.retain(|(offset, _), _| *offset >= next);
            }
        }
    }

    /// `None`: it is to be sent. `Some(None)`: it was taken.
    pub(super) fn answer(&self, place: &Place) -> Option<Option<&Refusal>> {
        let progress = self.partitions.get(&place.partition)?;
        match progress.answered.get(&(place.offset, place.ordinal)) {
            Some(answer) => Some(answer.as_ref()),
            None => (place.offset < progress.next).then_some(None),
        }
    }

    pub(super) fn note(&mut self, place: &Place, refusal: Option<Refusal>) {
        if let Some(progress) = self.partitions.get_mut(&place.partition) {
            progress.answered.insert((place.offset, place.ordinal), refusal);
        }
    }

    /// Everything up to here was answered.
    pub(super) fn passed(&mut self, partition: &str, next: i64) {
        if let Some(progress) = self.partitions.get_mut(partition) {
            progress.next = progress.next.max(next);
            progress.answered.retain(|(offset, _), refusal| *offset >= next || refusal.is_some());
        }
    }

    pub(super) fn write(&mut self, place: &Place, letter: Record) {
        self.letters.push((place.partition.clone(), letter));
    }

    pub(super) fn take_letters(&mut self) -> Vec<Record> {
        let letters = std::mem::take(&mut self.letters);
        let records = letters.iter().map(|(_, letter)| letter.clone()).collect();
        self.given.extend(letters);
        records
    }

    /// What a predecessor knew of partitions that go on where it stood. An operator's reset is a jump to elsewhere: then nothing of it counts.
    fn adopt(&mut self, former: Ledger) {
        let mut letters: Vec<Letter> = former.given.into_iter().chain(former.letters).collect();
        for (partition, former) in former.partitions {
            if let Some(progress) = self.partitions.get_mut(&partition)
                && (former.from..=former.next).contains(&progress.from)
                && progress.next == progress.from
            {
                progress.next = former.next;
                progress.answered = former.answered;
            } else {
                letters.retain(|(of, _)| *of != partition);
            }
        }
        self.letters.extend(letters);
    }
}

/// Of tasks that failed. Each is taken by its successor; those without one go after a time.
static KEPT: Mutex<BTreeMap<TaskId, Kept>> = Mutex::new(BTreeMap::new());
const KEPT_MAX: Duration = Duration::from_secs(3600);

struct Kept {
    at: Instant,
    ledger: Ledger,
    /// Until when the receiver asked to be left alone.
    wait_until: Option<Instant>,
}

/// For the successor of this task.
pub(super) fn keep(task: &TaskId, ledger: Ledger, wait_until: Option<Instant>) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    kept.retain(|_, kept| now - kept.at < KEPT_MAX || kept.wait_until.is_some_and(|until| until > now));
    kept.insert(task.clone(), Kept { at: now, ledger, wait_until });
}

/// From the predecessor of this task: until when to wait.
pub(super) fn take(task: &TaskId, ledger: &mut Ledger) -> Option<Instant> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(task)?;
    ledger.adopt(kept.ledger);
    kept.wait_until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: i64) -> Place {
        Place { partition: "id:0".into(), offset, ordinal: 0 }
    }

    fn refusal() -> Refusal {
        Refusal { code: "http_sink.refused", why: "no".to_owned() }
    }

    fn at(offset: i64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.assigned("id:0".into(), offset);
        ledger
    }

    /// Put 10 to 14, of which 12 was refused; then of 15 to 19, 15 and 17 were answered.
    fn failed() -> Ledger {
        let mut ledger = at(10);
        ledger.note(&place(12), Some(refusal()));
        ledger.passed("id:0", 15);
        ledger.note(&place(15), None);
        ledger.note(&place(17), Some(refusal()));
        ledger
    }

    #[test]
    fn a_successor_sends_only_what_was_not_answered() {
        let mut next = at(10);
        next.adopt(failed());
        let sent: Vec<i64> = (10..20).filter(|offset| next.answer(&place(*offset)).is_none()).collect();
        assert_eq!(sent, [16, 18, 19]);
        let refused: Vec<i64> = (10..20).filter(|offset| matches!(next.answer(&place(*offset)), Some(Some(_)))).collect();
        assert_eq!(refused, [12, 17], "their dead letters were not committed");
    }

    #[test]
    fn a_reset_sends_all_again() {
        for elsewhere in [0, 9, 16, 100] {
            let mut next = at(elsewhere);
            next.adopt(failed());
            assert_eq!(next.answer(&place(elsewhere.max(15))), None, "{elsewhere}");
        }
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let mut ledger = failed();
        ledger.told();
        ledger.begin();
        let progress = &ledger.partitions["id:0"];
        assert_eq!((progress.from, progress.next, progress.answered.len()), (15, 15, 2));
    }

    #[test]
    fn it_goes_to_the_successor_alone() {
        let (task, until) = (TaskId::new("ledger-test", 0), Instant::now() + Duration::from_secs(9));
        keep(&task, failed(), Some(until));
        let mut other = at(10);
        assert_eq!(take(&TaskId::new("ledger-test", 1), &mut other), None);
        assert_eq!(take(&task, &mut other), Some(until));
        assert!(other.answer(&place(10)).is_some());
        assert_eq!(take(&task, &mut other), None);
    }
}
