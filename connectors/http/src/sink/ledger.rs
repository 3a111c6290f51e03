//! What was answered and is not committed yet. It outlives a task that fails and is opened again in this process, so that the receiver does not get again
//! what it has taken, and so that a receiver that takes little at a time is got through at last. A crash forgets it: then records repeat.

use super::identity::Place;
use aqueduct_core::{Record, TaskId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// Of records behind `next`, whether they were taken; of those before, which were not. What was refused is sent again: its dead letter is not
    /// committed, and someone may have mended what was wrong.
    answered: FxHashMap<(i64, u32), bool>,
}

impl Ledger {
    pub(super) fn assigned(&mut self, partition: Arc<str>, offset: i64) {
        self.partitions.insert(partition, Progress { from: offset, next: offset, answered: FxHashMap::default() });
    }

    pub(super) fn revoked(&mut self, partition: &str) {
        self.partitions.remove(partition);
    }

    /// No commit was tried for what was answered last.
    pub(super) fn is_open(&self) -> bool {
        !self.told.load(Relaxed) && self.partitions.values().any(|progress| progress.next > progress.from)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
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

    /// It needs not be sent.
    pub(super) fn is_taken(&self, place: &Place) -> bool {
        let Some(progress) = self.partitions.get(&place.partition) else { return false };
        let answered = progress.answered.get(&(place.offset, place.ordinal)).copied();
        answered.unwrap_or(place.offset < progress.next)
    }

    pub(super) fn note(&mut self, place: &Place, taken: bool) {
        if let Some(progress) = self.partitions.get_mut(&place.partition) {
            progress.answered.insert((place.offset, place.ordinal), taken);
        }
    }

    /// Everything up to here was answered.
    pub(super) fn passed(&mut self, partition: &str, next: i64) {
        if let Some(progress) = self.partitions.get_mut(partition) {
            progress.next = progress.next.max(next);
            progress.answered.retain(|(offset, _), taken| *offset >= next || !*taken);
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

    /// What a predecessor knew of partitions that go on exactly where it stood: at what it passed, where that was committed, else where it began. An
    /// operator's reset is a jump to elsewhere, also where that lies between the two: then nothing of it counts, and all is sent again.
    fn adopt(&mut self, former: Ledger, committed: bool) {
        let mut letters: Vec<Letter> = former.given.into_iter().chain(former.letters).collect();
        for (partition, former) in former.partitions {
            if let Some(progress) = self.partitions.get_mut(&partition)
                && progress.from == if committed { former.next } else { former.from }
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
    /// What was called: a connector that calls something else now begins anew.
    target: u64,
    ledger: Ledger,
    /// Until when the receiver asked to be left alone.
    wait_until: Option<Instant>,
    /// The worker committed what was passed, after it was kept.
    committed: bool,
}

/// For the successor of this task.
pub(super) fn keep(task: &TaskId, target: u64, ledger: Ledger, wait_until: Option<Instant>) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    kept.retain(|_, kept| now - kept.at < KEPT_MAX || kept.wait_until.is_some_and(|until| until > now));
    kept.insert(task.clone(), Kept { at: now, target, ledger, wait_until, committed: false });
}

/// The worker commits for this task, whose ledger is kept.
pub(super) fn committed(task: &TaskId) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = kept.get_mut(task) {
        kept.committed = true;
    }
}

/// From the predecessor of this task: until when to wait.
pub(super) fn take(task: &TaskId, target: u64, ledger: &mut Ledger) -> Option<Instant> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(task)?;
    if kept.target != target {
        return None;
    }
    ledger.adopt(kept.ledger, kept.committed);
    kept.wait_until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: i64) -> Place {
        Place { partition: "id:0".into(), offset, ordinal: 0 }
    }

    fn at(offset: i64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.assigned("id:0".into(), offset);
        ledger
    }

    /// Put 10 to 14, of which 12 was refused; then of 15 to 19, 15 and 17 were answered.
    fn failed() -> Ledger {
        let mut ledger = at(10);
        ledger.note(&place(12), false);
        ledger.passed("id:0", 15);
        ledger.note(&place(15), true);
        ledger.note(&place(17), false);
        ledger
    }

    #[test]
    fn a_successor_sends_only_what_was_not_answered() {
        let mut next = at(10);
        next.adopt(failed(), false);
        let sent: Vec<i64> = (10..20).filter(|offset| !next.is_taken(&place(*offset))).collect();
        assert_eq!(sent, [12, 16, 17, 18, 19]);
        assert!(next.is_open());
    }

    #[test]
    fn a_reset_sends_all_again() {
        for (committed, stood) in [(false, 10), (true, 15)] {
            for elsewhere in (0..20).filter(|offset| *offset != stood) {
                let mut next = at(elsewhere);
                next.adopt(failed(), committed);
                let taken: Vec<i64> = (elsewhere..20).filter(|offset| next.is_taken(&place(*offset))).collect();
                assert!(taken.is_empty(), "reset from {stood} to {elsewhere}: {taken:?}");
            }
        }
    }

    #[test]
    fn a_commit_after_the_failure_moves_where_it_stood() {
        let mut next = at(15);
        next.adopt(failed(), true);
        let sent: Vec<i64> = (15..20).filter(|offset| !next.is_taken(&place(*offset))).collect();
        assert_eq!(sent, [16, 17, 18, 19]);
        let (task, mut back) = (TaskId::new("ledger-committed", 0), at(10));
        keep(&task, 1, failed(), None);
        committed(&task);
        take(&task, 1, &mut back);
        assert!(!back.is_taken(&place(10)), "15 was committed, and 10 is a reset");
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let mut ledger = failed();
        ledger.told();
        ledger.begin();
        let progress = &ledger.partitions["id:0"];
        assert_eq!((progress.from, progress.next, progress.answered.len()), (15, 15, 2));
        assert!(!ledger.is_open());
    }

    #[test]
    fn it_goes_to_the_successor_alone() {
        let (task, until) = (TaskId::new("ledger-test", 0), Instant::now() + Duration::from_secs(9));
        let mut other = at(10);
        keep(&task, 1, failed(), Some(until));
        assert_eq!(take(&task, 2, &mut other), None, "it calls something else");
        keep(&task, 1, failed(), Some(until));
        assert_eq!(take(&TaskId::new("ledger-test", 1), 1, &mut other), None);
        assert_eq!(take(&task, 1, &mut other), Some(until));
        assert!(other.is_taken(&place(10)));
        assert_eq!(take(&task, 1, &mut other), None);
    }
}
