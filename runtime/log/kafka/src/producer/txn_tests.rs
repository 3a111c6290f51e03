//! The transaction against a broker that is a model: whatever it refuses, what it committed is what was appended, in order.

use super::place::{self, Target};
use super::txn::{Action, Ask, Boundary, Identity, Limits, Mode, Txn};
use super::verdict::{Verdict, Why};
use crate::cluster::{PartitionMeta, TopicMeta};
use aqueduct_core::{Batch, Error, PayloadRef, Record, Result, TopicPartition};
use aqueduct_log::Appended;
use aqueduct_log::record_batch::{Compression, Header, decode_into};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

const PARTITIONS: usize = 3;

fn limits(boundary: Boundary) -> Limits {
    Limits {
        in_flight: 5,
        request_bytes: 2000,
        linger: Duration::ZERO,
        buffer_bytes: 1 << 20,
        delivery: Duration::from_secs(120),
        transaction: Duration::from_secs(3600),
        boundary,
        compression: Compression::None,
    }
}

fn target(brokers: i32) -> Arc<Target> {
    let partitions = (0..PARTITIONS as i32).map(|i| PartitionMeta { leader: Some(i % brokers), epoch: 0, replicas: 1 }).collect();
    let meta = TopicMeta { name: "t".into(), id: Uuid::from_u128(1), is_internal: false, partitions };
    Arc::new(Target { meta: Arc::new(meta), max_bytes: 2000, batch_bytes: 1000 })
}

/// A broker and its log, as far as a producer can tell.
#[derive(Default)]
struct Broker {
    epoch: i16,
    sequences: BTreeMap<i32, i32>,
    /// Values written by the open transaction, and committed ones, by partition.
    open: BTreeMap<i32, Vec<String>>,
    committed: BTreeMap<i32, Vec<String>>,
}

impl Broker {
    fn write(&mut self, partition: i32, bytes: &bytes::Bytes, transactional: bool) -> Verdict {
        let header = Header::parse(bytes).unwrap().unwrap();
        assert_eq!(header.producer_epoch, self.epoch, "written with an epoch that is over");
        assert_eq!(header.attributes & 16 != 0, transactional);
        let sequence = self.sequences.entry(partition).or_insert(0);
        if header.base_sequence != *sequence {
            return Verdict::Again(Why::OutOfOrder);
        }
        *sequence += header.records as i32;
        let mut batch = Batch::default();
        decode_into(bytes, 0, &Arc::new(TopicPartition::new("t", partition)), 0, &mut batch).expect("sound, by its CRC");
        self.open.entry(partition).or_default().extend(batch.iter().map(|record| value(record.value())));
        Verdict::Done
    }

    fn end(&mut self, commit: bool) {
        let open = std::mem::take(&mut self.open);
        if commit {
            for (partition, values) in open {
                self.committed.entry(partition).or_default().extend(values);
            }
        }
    }
}

fn value(payload: PayloadRef<'_>) -> String {
    match payload {
        PayloadRef::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

struct Sim {
    rng: fastrand::Rng,
    txn: Txn,
    mode: Mode,
    boundary: Boundary,
    broker: Broker,
    target: Arc<Target>,
    now: Instant,
    flights: VecDeque<Action>,
    replies: Vec<oneshot::Receiver<Result<Appended>>>,
    appended: BTreeMap<i32, Vec<String>>,
    transactions: usize,
    settled: usize,
}

impl Sim {
    fn new(seed: u64, mode: Mode, boundary: Boundary) -> Self {
        let now = Instant::now();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            txn: Txn::new(mode, limits(boundary), Identity { id: 7, epoch: 0 }, now),
            mode,
            boundary,
            broker: Broker::default(),
            target: target(2),
            now,
            flights: VecDeque::new(),
            replies: Vec::new(),
            appended: BTreeMap::new(),
            transactions: 0,
            settled: 0,
        }
    }

    fn limit(&mut self, change: impl FnOnce(&mut Limits)) {
        let mut limits = limits(Boundary::Poll);
        limits.boundary = self.boundary;
        change(&mut limits);
        self.txn = Txn::new(self.mode, limits, Identity { id: 7, epoch: 0 }, self.now);
    }

    fn append(&mut self, records: usize) {
        let number = self.replies.len();
        let partition = self.rng.i32(0..PARTITIONS as i32);
        let values: Vec<String> = (0..records).map(|i| format!("{number}.{i} {}", "x".repeat(self.rng.usize(0..120)))).collect();
        let records =
            values.iter().map(|value| Record { partition: Some(partition), ..Record::new("t", value.clone()) }).collect();
        let records = place::place(records, |_| Ok(self.target.clone()), 0, Compression::None).unwrap();
        self.appended.entry(partition).or_default().extend(values);
        let (reply, committed) = oneshot::channel();
        let ask = Ask { records, offsets: Vec::new(), positions: None, bytes: 100, reply, room: Box::new(()) };
        self.txn.gather(ask, self.now);
        self.replies.push(committed);
    }

    fn act(&mut self) {
        while let Some(action) = self.txn.next(self.now) {
            self.flights.push_back(action);
        }
    }

    /// The broker answers what it was asked first.
    fn answer(&mut self, refusals: f64) {
        let Some(action) = self.flights.pop_front() else { return };
        let refuse = |rng: &mut fastrand::Rng| rng.f64() < refusals;
        match action {
            Action::Produce(broker, shipments) => {
                self.txn.answered(broker);
                for shipment in shipments {
                    let lane = &self.txn.lanes[shipment.lane];
                    let (partition, is_next) = (lane.partition, self.rng.bool());
                    let verdict = if refuse(&mut self.rng) {
                        Verdict::Again(if is_next { Why::Moved } else { Why::Busy })
                    } else {
                        self.broker.write(partition, &shipment.bytes, self.mode.is_transactional())
                    };
                    let offset = self.broker.committed.get(&partition).map_or(0, Vec::len)
                        + self.broker.open.get(&partition).map_or(0, Vec::len);
                    let count = Header::parse(&shipment.bytes).unwrap().unwrap().records as usize;
                    self.txn.produced(shipment.lane, shipment.serial, verdict, offset.saturating_sub(count) as i64, self.now);
                }
                if !self.mode.is_transactional() {
                    self.broker.end(true);
                }
            }
            Action::Register(lanes) => {
                let verdict = if refuse(&mut self.rng) { Verdict::Again(Why::Concurrent) } else { Verdict::Done };
                self.txn.registered(&lanes, verdict, self.now);
            }
            Action::Look(lane) => {
                let refused = || Error::retriable("kafka.no_leader", "none");
                let leader = if refuse(&mut self.rng) { Err(refused()) } else { Ok(self.rng.i32(0..2)) };
                self.txn.looked(lane, leader, self.now);
            }
            Action::End { commit } => {
                let verdict = if refuse(&mut self.rng) { Verdict::Again(Why::Coordinator) } else { Verdict::Done };
                if matches!(verdict, Verdict::Done) {
                    self.broker.end(commit);
                    self.transactions += 1;
                    if self.mode == (Mode::Transactional { v2: true }) {
                        self.broker.epoch += 1;
                        self.broker.sequences.clear();
                    }
                }
                let next = Identity { id: 7, epoch: self.broker.epoch };
                self.txn.ended(verdict, next, self.now);
            }
            Action::Settle => {
                self.settled += 1;
                self.txn.settled();
            }
            Action::Positions(_) => unreachable!("none was appended"),
        }
    }

    /// Time passes to when there is something to do, at most to `limit`.
    fn finish(&mut self, refusals: f64) {
        for _ in 0..100_000 {
            self.act();
            if self.flights.is_empty() {
                match self.txn.wake_at(self.now) {
                    Some(at) => self.now = at,
                    None => return,
                }
            } else {
                self.answer(refusals);
            }
        }
        panic!("it never ends");
    }

    fn outcomes(&mut self) -> Vec<Option<Result<Appended>>> {
        std::mem::take(&mut self.replies).into_iter().map(|mut reply| reply.try_recv().ok()).collect()
    }
}

const MODES: [Mode; 3] = [Mode::Transactional { v2: true }, Mode::Transactional { v2: false }, Mode::Plain { idempotent: true }];

#[test]
fn whatever_is_refused_everything_is_committed_once_and_in_order() {
    for seed in 0..300 {
        for mode in MODES {
            for boundary in [Boundary::Poll, Boundary::Interval(Duration::from_millis(30)), Boundary::Connector] {
                let mut sim = Sim::new(seed, mode, boundary);
                for _ in 0..40 {
                    for _ in 0..sim.rng.usize(0..4) {
                        let records = sim.rng.usize(0..30);
                        sim.append(records);
                    }
                    sim.act();
                    for _ in 0..sim.rng.usize(0..4) {
                        sim.answer(0.15);
                        sim.act();
                    }
                    sim.now += Duration::from_millis(sim.rng.u64(0..50));
                }
                sim.finish(0.15);
                assert!(sim.txn.is_idle(), "seed {seed} {mode:?} {boundary:?}");
                sim.appended.retain(|_, values| !values.is_empty());
                assert_eq!(sim.broker.committed, sim.appended, "seed {seed} {mode:?} {boundary:?}");
                let mut ends = BTreeMap::new();
                for outcome in sim.outcomes() {
                    for (tp, first, next) in outcome.expect("resolved").expect("committed").ranges {
                        let end = ends.insert(tp.partition, next).unwrap_or(0);
                        assert_eq!(first, end, "seed {seed} {mode:?} {boundary:?}: offsets in the order of append");
                    }
                }
            }
        }
    }
}

#[test]
fn after_an_outcome_that_nobody_knows_nothing_is_sent() {
    for seed in 0..500 {
        let mut sim = Sim::new(seed, MODES[seed as usize % 3], Boundary::Poll);
        let fatal_at = sim.rng.usize(0..60);
        for step in 0..100 {
            let records = sim.rng.usize(1..20);
            sim.append(records);
            sim.act();
            if step == fatal_at {
                sim.txn.fail(&Error::retriable("kafka.unreachable", "timed out"));
            }
            sim.answer(0.1);
        }
        assert!(sim.txn.is_over());
        let before = sim.flights.len();
        sim.act();
        assert_eq!(sim.flights.len(), before, "seed {seed}: sent after the producer was given up");
        // Those that were committed are; from the first that failed on all failed.
        let mut outcomes = sim.outcomes().into_iter().map(|outcome| outcome.map(|result| result.is_ok()));
        assert!(outcomes.by_ref().take_while(|outcome| *outcome == Some(true)).count() <= fatal_at + 1);
        assert!(outcomes.all(|outcome| outcome != Some(true)), "seed {seed}");
    }
}

#[test]
fn a_refusal_for_good_aborts_and_fails_what_is_open() {
    let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
    sim.append(3);
    sim.act();
    let Some(Action::Produce(broker, shipments)) = sim.flights.pop_front() else { panic!("{:?}", sim.flights) };
    sim.append(3);
    sim.act();
    sim.txn.answered(broker);
    let error = Error::fatal("log.record_too_large", "too large");
    sim.txn.produced(shipments[0].lane, shipments[0].serial, Verdict::Abort(error), -1, sim.now);
    for outcome in sim.outcomes() {
        assert_eq!(outcome.expect("resolved").unwrap_err().code(), "log.record_too_large");
    }
    // What else is in flight is awaited first.
    while let Some(action) = sim.flights.pop_front() {
        if let Action::Produce(broker, _) = action {
            sim.txn.answered(broker);
        }
    }
    assert!(matches!(sim.txn.next(sim.now), Some(Action::End { commit: false })));
    sim.txn.ended(Verdict::Done, Identity { id: 7, epoch: 1 }, sim.now);
    assert!(sim.txn.is_over() && sim.txn.next(sim.now).is_none());
}

#[test]
fn what_gathers_while_a_transaction_ends_is_one_transaction() {
    let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
    sim.append(1);
    sim.act();
    for _ in 0..20 {
        sim.append(1);
    }
    // The produce, and those that joined it meanwhile.
    sim.finish(0.0);
    assert!(sim.transactions <= 2, "{}", sim.transactions);
    let mut sim = Sim::new(1, MODES[0], Boundary::Connector);
    (0..5).for_each(|_| sim.append(1));
    sim.finish(0.0);
    assert_eq!((sim.transactions, sim.settled), (5, 5));
}

/// Who appends waits when its budget is in flight: an interval that waits for more would be waited for in turn.
#[test]
fn an_interval_ends_when_half_of_the_budget_is_in_it() {
    let mut sim = Sim::new(1, MODES[0], Boundary::Interval(Duration::from_secs(30)));
    // An append counts for 100 bytes.
    sim.limit(|limits| limits.buffer_bytes = 1000);
    let began = sim.now;
    for _ in 0..10 {
        (0..5).for_each(|_| sim.append(1));
        sim.finish(0.0);
    }
    assert_eq!(sim.transactions, 10);
    assert!(sim.now - began < Duration::from_secs(1), "{:?}", sim.now - began);
    sim.append(1);
    sim.finish(0.0);
    assert!(sim.now - began >= Duration::from_secs(29), "below half of it the interval stands: {:?}", sim.now - began);
}

#[test]
fn refusals_are_borne_for_so_long() {
    let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
    sim.append(1);
    let began = sim.now;
    for _ in 0..10_000 {
        sim.act();
        sim.answer(1.0);
        if sim.txn.why().is_some() {
            let waited = sim.now - began;
            assert!((Duration::from_secs(119)..Duration::from_secs(125)).contains(&waited), "{waited:?}");
            let outcome = sim.outcomes().remove(0).expect("resolved");
            assert!(outcome.unwrap_err().is_retriable());
            return;
        }
        if sim.flights.is_empty() {
            sim.now = sim.txn.wake_at(sim.now).expect("asked again");
        }
    }
    panic!("borne for ever");
}

/// A transaction that is refused for long is given up before the coordinator aborts it, however long refusals are borne otherwise.
#[test]
fn refusals_are_not_borne_longer_than_the_transaction_lives() {
    for (boundary, seconds) in [(Boundary::Poll, 55), (Boundary::Interval(Duration::from_secs(30)), 55)] {
        let mut sim = Sim::new(1, MODES[0], boundary);
        sim.limit(|limits| limits.transaction = Duration::from_secs(60));
        sim.append(1);
        let began = sim.now;
        for _ in 0..10_000 {
            sim.act();
            if sim.txn.why().is_some() {
                break;
            }
            if sim.flights.is_empty() {
                sim.now = sim.txn.wake_at(sim.now).expect("asked again");
                continue;
            }
            // Its records are taken late; its end is refused.
            let is_end = matches!(sim.flights.front(), Some(Action::End { .. }));
            sim.answer(if is_end || sim.now < began + Duration::from_secs(29) { 1.0 } else { 0.0 });
        }
        let waited = (sim.now - began).as_secs();
        assert!((seconds..seconds + 3).contains(&waited), "{boundary:?}: {waited} s");
        assert!(sim.outcomes().remove(0).expect("resolved").unwrap_err().is_retriable());
        assert!(sim.txn.is_left_open());
    }
}

#[test]
fn an_epoch_that_is_refused_after_the_transactions_time_is_not_a_fence() {
    let fenced = || Verdict::Lost(super::verdict::fenced("x"));
    for (stood_still, code) in [(59, "log.fenced"), (61, "kafka.transaction_timed_out")] {
        for mode in [MODES[0], MODES[1]] {
            let mut sim = Sim::new(1, mode, Boundary::Poll);
            sim.limit(|limits| limits.transaction = Duration::from_secs(60));
            sim.append(1);
            sim.act();
            if mode == MODES[1] {
                sim.answer(0.0);
                sim.act();
            }
            let Some(Action::Produce(broker, shipments)) = sim.flights.pop_front() else { panic!("{:?}", sim.flights) };
            sim.now += Duration::from_secs(stood_still);
            sim.txn.answered(broker);
            sim.txn.produced(shipments[0].lane, shipments[0].serial, fenced(), -1, sim.now);
            let error = sim.outcomes().remove(0).expect("resolved").unwrap_err();
            assert_eq!((error.code(), error.is_retriable()), (code, code != "log.fenced"), "{mode:?}");
            assert!(sim.txn.is_over() && sim.txn.is_left_open());
        }
        // And to EndTxn.
        let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
        sim.limit(|limits| limits.transaction = Duration::from_secs(60));
        sim.append(1);
        sim.act();
        sim.answer(0.0);
        sim.act();
        assert!(matches!(sim.flights.pop_front(), Some(Action::End { commit: true })));
        sim.now += Duration::from_secs(stood_still);
        sim.txn.ended(fenced(), Identity { id: 7, epoch: 0 }, sim.now);
        assert_eq!(sim.outcomes().remove(0).expect("resolved").unwrap_err().code(), code);
    }
}

#[test]
fn only_a_transaction_that_was_begun_and_not_ended_is_left_open() {
    let lost = || Error::retriable("kafka.unreachable", "timed out");
    let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
    sim.txn.fail(&lost());
    assert!(!sim.txn.is_left_open(), "nothing was begun");
    let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
    sim.append(1);
    sim.finish(0.0);
    sim.txn.fail(&lost());
    assert!(!sim.txn.is_left_open(), "it was committed");
    for (verdict, left) in [(Verdict::Done, false), (Verdict::Lost(lost()), true)] {
        let mut sim = Sim::new(1, MODES[0], Boundary::Poll);
        sim.append(1);
        sim.act();
        let Some(Action::Produce(broker, shipments)) = sim.flights.pop_front() else { panic!("{:?}", sim.flights) };
        sim.txn.answered(broker);
        sim.txn.produced(shipments[0].lane, shipments[0].serial, Verdict::Abort(lost()), -1, sim.now);
        sim.act();
        assert!(matches!(sim.flights.pop_front(), Some(Action::End { commit: false })));
        sim.txn.ended(verdict, Identity { id: 7, epoch: 1 }, sim.now);
        assert_eq!(sim.txn.is_left_open(), left);
    }
}

/// Partitions come and go: none keeps a lane, and the numbers of its batches go on where the epoch does.
#[test]
fn a_partition_that_is_not_written_any_more_is_forgotten_but_for_its_sequence() {
    for mode in MODES {
        let mut sim = Sim::new(1, mode, Boundary::Poll);
        for _ in 0..100 {
            sim.append(2);
            sim.finish(0.1);
            assert!(sim.txn.lanes.len() <= 2, "{mode:?}: {}", sim.txn.lanes.len());
        }
        assert_eq!(sim.broker.committed, sim.appended, "{mode:?}");
    }
}
