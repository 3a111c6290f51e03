//! Which records go into a request together, and which requests wait for one another. Pure.

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

/// A record on its way into a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Equal for records that must keep their order: those of a key, or of a partition where they have none.
    pub(super) order: u64,
    /// Requests differ where this does: the number of the method, URL and headers.
    pub(super) target: u32,
    /// What it adds to a body, about.
    pub(super) bytes: usize,
    /// Must be alone in its request.
    pub(super) alone: bool,
}

/// How requests are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    pub(super) in_flight: usize,
    /// A target depends on topic, partition and key alone: then records of other keys may be put aside for another request, and nothing is reordered.
    pub(super) by_key: bool,
}

/// A request: records by their number, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) records: SmallVec<[u32; 1]>,
    /// The job that waits for this one.
    pub(super) next: Option<u32>,
}

/// Chains of jobs: one of a chain is on its way at a time (invariant 3).
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) jobs: Vec<Job>,
    /// The jobs that wait for none, in the order of their first records.
    pub(super) ready: VecDeque<u32>,
}

impl Plan {
    pub(super) fn new(items: &[Item], limits: Limits) -> Self {
        let mut plan = Self::default();
        if limits.records_max <= 1 {
            plan.singles(items, limits)
        } else {
            plan.batches(items, limits)
        }
        plan
    }

    fn singles(&mut self, items: &[Item], limits: Limits) {
        self.jobs.reserve(items.len());
        let mut last: FxHashMap<u64, u32> = FxHashMap::default();
        for (number, item) in (0..).zip(items) {
            // One at a time is one after the other, whatever the keys.
            let chain = if limits.in_flight == 1 { 0 } else { item.order };
            self.push(smallvec![number], last.insert(chain, number));
        }
    }

    /// As many lanes as there are requests to make, each with the keys that fall to it.
    fn batches(&mut self, items: &[Item], limits: Limits) {
        let mut lanes: Vec<Lane> = (0..lanes(items, limits)).map(|_| Lane::default()).collect();
        let count = lanes.len() as u64;
        for (number, item) in (0..).zip(items) {
            // The high bits: the low ones of a hash may be poor.
            let lane = &mut lanes[((u128::from(item.order) * u128::from(count)) >> 64) as usize];
            lane.add(number, item, limits, self);
        }
        self.ready.make_contiguous().sort_unstable_by_key(|job| self.jobs[*job as usize].records[0]);
    }

    fn push(&mut self, records: SmallVec<[u32; 1]>, after: Option<u32>) -> u32 {
        let job = self.jobs.len() as u32;
        self.jobs.push(Job { records, next: None });
        match after {
            Some(before) => self.jobs[before as usize].next = Some(job),
            None => self.ready.push_back(job),
        }
        job
    }

    /// The second half becomes a job of its own, behind this one.
    pub(super) fn split(&mut self, job: u32) {
        let added = self.jobs.len() as u32;
        let first = &mut self.jobs[job as usize];
        let half = first.records.len() / 2;
        let (records, next) = (first.records.drain(half..).collect(), first.next.replace(added));
        self.jobs.push(Job { records, next });
    }
}

/// More targets than this side by side are few records for each: the oldest takes no more.
const OPEN_MAX: usize = 32;

#[derive(Default)]
struct Lane {
    last: Option<u32>,
    /// Not full: target, job, bytes.
    open: Vec<(u32, u32, usize)>,
}

impl Lane {
    fn add(&mut self, number: u32, item: &Item, limits: Limits, plan: &mut Plan) {
        if item.alone || (!limits.by_key && self.open.last().is_some_and(|(target, ..)| *target != item.target)) {
            self.open.clear();
        }
        let open = self.open.iter_mut().find(|(target, ..)| *target == item.target);
        if let Some((_, job, bytes)) = open {
            let records = &mut plan.jobs[*job as usize].records;
            if records.len() < limits.records_max && *bytes + item.bytes <= limits.bytes_max {
                records.push(number);
                *bytes += item.bytes;
                return;
            }
        }
        self.open.retain(|(target, ..)| *target != item.target);
        let job = plan.push(smallvec![number], self.last);
        self.last = Some(job);
        if !item.alone {
            if self.open.len() == OPEN_MAX {
                self.open.remove(0);
            }
            self.open.push((item.target, job, item.bytes));
        }
    }
}

/// Lanes that are full on the whole, with room for those that get more than their share of the keys.
fn lanes(items: &[Item], limits: Limits) -> usize {
    let bytes: usize = items.iter().map(|item| item.bytes).sum();
    if items.len() <= limits.records_max && bytes <= limits.bytes_max {
        return 1;
    }
    let by_records = (items.len() * 5).div_ceil(limits.records_max.saturating_mul(4));
    let by_bytes = bytes.saturating_mul(5).div_ceil(limits.bytes_max.saturating_mul(4).max(1));
    by_records.max(by_bytes).clamp(1, limits.in_flight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(records_max: usize, in_flight: usize) -> Limits {
        Limits { records_max, bytes_max: usize::MAX, in_flight, by_key: true }
    }

    fn items(orders: &[u64]) -> Vec<Item> {
        orders
            .iter()
            .map(|order| Item { order: order.wrapping_mul(0x9e37_79b9_7f4a_7c15), target: 0, bytes: 1, alone: false })
            .collect()
    }

    /// As the sink works them off, with the ready ones taken from either end.
    fn worked_off(mut plan: Plan, from_the_back: bool) -> Vec<u32> {
        let mut done = Vec::new();
        while let Some(job) = if from_the_back { plan.ready.pop_back() } else { plan.ready.pop_front() } {
            let Job { records, next } = plan.jobs[job as usize].clone();
            done.extend(records);
            plan.ready.extend(next);
        }
        done
    }

    #[test]
    fn one_key_is_a_chain_and_others_need_not_wait() {
        let plan = Plan::new(&items(&[1, 2, 1, 3, 1]), limits(1, 8));
        assert_eq!(plan.ready, [0, 1, 3]);
        assert_eq!(plan.jobs[0].next, Some(2));
        assert_eq!(plan.jobs[2].next, Some(4));
        let plan = Plan::new(&items(&[1, 2, 3]), limits(1, 1));
        assert_eq!(plan.ready, [0], "one in flight keeps the order of all");
    }

    #[test]
    fn few_records_are_one_request_and_many_are_shared_out() {
        let plan = Plan::new(&items(&(0..100).collect::<Vec<_>>()), limits(500, 16));
        assert_eq!(plan.jobs.len(), 1);
        let plan = Plan::new(&items(&(0..10_000).collect::<Vec<_>>()), limits(1000, 16));
        assert!((10..=16).contains(&plan.jobs.len()), "{}", plan.jobs.len());
    }

    #[test]
    fn a_split_stays_in_its_chain() {
        let mut plan = Plan::new(&items(&[1, 1, 1, 1, 1, 1]), limits(5, 4));
        plan.split(0);
        assert_eq!(plan.jobs[0].records.as_slice(), [0, 1]);
        assert_eq!(plan.jobs[2].records.as_slice(), [2, 3, 4]);
        assert_eq!((plan.jobs[0].next, plan.jobs[2].next), (Some(2), Some(1)));
        assert_eq!(worked_off(plan, false), [0, 1, 2, 3, 4, 5]);
    }

    proptest! {
        #[test]
        fn every_record_once_and_the_order_of_each_key_whatever_comes_first(
            records in proptest::collection::vec((0u64..12, 0u32..3, any::<bool>(), 1usize..40), 0..200),
            records_max in 1usize..20,
            bytes_max in 40usize..400,
            in_flight in 1usize..8,
            by_key in any::<bool>(),
            from_the_back in any::<bool>(),
        ) {
            let mut items = Vec::new();
            for (order, target, alone, bytes) in records {
                let order = order.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                // By the key: the same target for the same key.
                let target = if by_key { (order % 3) as u32 } else { target };
                items.push(Item { order, target, bytes, alone: alone && bytes < 5 });
            }
            let plan = Plan::new(&items, Limits { records_max, bytes_max, in_flight, by_key });
            for job in &plan.jobs {
                prop_assert!(job.records.len() <= records_max);
                let first = &items[job.records[0] as usize];
                prop_assert!(job.records.iter().all(|record| items[*record as usize].target == first.target));
                prop_assert!(job.records.len() == 1 || job.records.iter().all(|record| !items[*record as usize].alone));
                prop_assert!(job.records.iter().map(|record| items[*record as usize].bytes).sum::<usize>() <= bytes_max);
            }
            let done = worked_off(plan, from_the_back);
            prop_assert_eq!(done.len(), items.len());
            let mut places = vec![usize::MAX; items.len()];
            for (place, record) in done.iter().enumerate() {
                places[*record as usize] = place;
            }
            for (first, a) in items.iter().enumerate() {
                for (second, b) in items.iter().enumerate().skip(first + 1) {
                    prop_assert!(a.order != b.order || places[first] < places[second], "{} overtook {}", second, first);
                }
            }
        }
    }
}
