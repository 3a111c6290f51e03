//! One member's side of a consumer group (KIP-848) as a pure state machine: what the coordinator wants, and what the reader still holds.

use aqueduct_core::Error;
use std::collections::BTreeSet;
use uuid::Uuid;

/// A partition as the coordinator names it: topic id and number.
pub(crate) type Share = (Uuid, i32);

#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// 0 until the coordinator has taken us in.
    pub(crate) epoch: i32,
    /// Told to the reader's caller, and not given up.
    owned: BTreeSet<Share>,
    /// What the coordinator wants us to have.
    target: BTreeSet<Share>,
    /// Goes up when it takes something back: what the reader was about to take may be another's by now.
    pub(crate) withdrawn: u64,
    /// Why this is no member any more.
    pub(crate) lost: Option<Error>,
    /// Heartbeats sent, and the number of the last one that was answered.
    pub(crate) begun: u64,
    pub(crate) answered: u64,
}

/// What the reader has to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// First, so that whoever gets them waits no longer than needed.
    Revoke(Vec<Share>),
    Assign(Vec<Share>),
    Nothing,
}

impl Membership {
    pub(crate) fn plan(&self) -> Plan {
        let revoked: Vec<Share> = self.owned.difference(&self.target).copied().collect();
        if !revoked.is_empty() {
            return Plan::Revoke(revoked);
        }
        let assigned: Vec<Share> = self.target.difference(&self.owned).copied().collect();
        if assigned.is_empty() { Plan::Nothing } else { Plan::Assign(assigned) }
    }

    /// The next heartbeat's number.
    pub(crate) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// An answer: `target` only when the coordinator sent one.
    pub(crate) fn answer(&mut self, number: u64, epoch: i32, target: Option<BTreeSet<Share>>) {
        self.answered = self.answered.max(number);
        self.epoch = epoch;
        if let Some(target) = target {
            if !self.target.is_subset(&target) {
                self.withdrawn += 1;
            }
            self.target = target;
        }
    }

    /// What was planned when `withdrawn` was so many. False when something was taken back since: then nothing is taken, and it is to be
    /// planned anew.
    pub(crate) fn took(&mut self, shares: &[Share], withdrawn: u64) -> bool {
        if self.withdrawn != withdrawn {
            return false;
        }
        self.owned.extend(shares);
        true
    }

    pub(crate) fn gave_up(&mut self, share: Share) {
        self.owned.remove(&share);
    }

    /// What a heartbeat says is ours. The coordinator gives to others at once what is not in it: so what the reader may take at any moment is in
    /// it too (invariant 5).
    pub(crate) fn claimed(&self) -> BTreeSet<Share> {
        self.owned.union(&self.target).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(partitions: &[i32]) -> BTreeSet<Share> {
        partitions.iter().map(|partition| (Uuid::from_u128(1), *partition)).collect()
    }

    fn list(partitions: &[i32]) -> Vec<Share> {
        shares(partitions).into_iter().collect()
    }

    #[test]
    fn revocations_come_before_assignments() {
        let mut member = Membership::default();
        assert_eq!(member.plan(), Plan::Nothing);
        let first = member.begin();
        member.answer(first, 1, Some(shares(&[0, 1])));
        assert_eq!(member.plan(), Plan::Assign(list(&[0, 1])));
        assert!(member.took(&list(&[0, 1]), member.withdrawn));
        assert_eq!(member.plan(), Plan::Nothing);
        let second = member.begin();
        member.answer(second, 2, Some(shares(&[1, 2])));
        assert_eq!(member.plan(), Plan::Revoke(list(&[0])));
        member.gave_up((Uuid::from_u128(1), 0));
        assert_eq!((member.plan(), member.claimed()), (Plan::Assign(list(&[2])), shares(&[1, 2])));
    }

    #[test]
    fn what_is_wanted_again_before_it_was_given_up_is_assigned_anew() {
        let mut member = Membership::default();
        member.answer(1, 1, Some(shares(&[0])));
        assert!(member.took(&list(&[0]), member.withdrawn));
        member.answer(2, 2, Some(shares(&[])));
        assert_eq!(member.plan(), Plan::Revoke(list(&[0])));
        // The caller was told; meanwhile the coordinator changed its mind.
        member.answer(3, 3, Some(shares(&[0])));
        member.gave_up((Uuid::from_u128(1), 0));
        assert_eq!(member.plan(), Plan::Assign(list(&[0])));
    }

    #[test]
    fn what_was_granted_is_claimed_before_it_is_taken_and_never_taken_after_it_was_withdrawn() {
        let mut member = Membership::default();
        assert!(member.claimed().is_empty());
        member.answer(1, 1, Some(shares(&[0, 1])));
        // The reader looks up positions; a heartbeat goes out meanwhile, and must not give them away.
        let planned = member.withdrawn;
        assert_eq!((member.plan(), member.claimed()), (Plan::Assign(list(&[0, 1])), shares(&[0, 1])));
        // Another member joined.
        member.answer(2, 1, Some(shares(&[0])));
        assert!(!member.took(&list(&[0, 1]), planned));
        assert_eq!((member.plan(), member.claimed()), (Plan::Assign(list(&[0])), shares(&[0])));
        // Granted again: its position may have moved.
        member.answer(3, 2, Some(shares(&[0, 1])));
        assert!(!member.took(&list(&[0, 1]), planned));
        assert!(member.took(&list(&[0, 1]), member.withdrawn));
        assert_eq!(member.plan(), Plan::Nothing);
    }

    #[test]
    fn an_answer_without_an_assignment_keeps_the_last() {
        let mut member = Membership::default();
        member.answer(1, 1, Some(shares(&[0])));
        member.answer(2, 1, None);
        assert_eq!((member.plan(), member.answered), (Plan::Assign(list(&[0])), 2));
        // An old answer does not turn the count back.
        member.answer(1, 1, None);
        assert_eq!(member.answered, 2);
    }
}
