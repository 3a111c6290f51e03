//! The transaction as a state machine: what gathers, what may be sent next, what an answer changes. Pure but for the answers it hands to appends.

use super::lane::{Lane, Shipment};
use super::place::Placed;
use super::verdict::{Verdict, Why};
use crate::log::Counters;
use aqueduct_core::{Class, Error, Result, TopicPartition};
use aqueduct_log::Appended;
use aqueduct_log::record_batch::Compression;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// While records keep coming, a transaction is ended after this time at the latest. Between two transactions the broker takes nothing for 5 to 30 ms
/// (it writes the markers): a quarter of a second keeps that below a tenth.
const AGE_MAX: Duration = Duration::from_millis(250);
/// The pause before the same is asked again. The markers of a transaction are written in milliseconds.
const CONCURRENT_PAUSE: Duration = Duration::from_millis(2);
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// `transaction.boundary`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// As soon as everything that came is written.
    Poll,
    Interval(Duration),
    /// One append, one transaction.
    Connector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Exactly once, with the epoch raised at each end (KIP-890) or not.
    Transactional { v2: bool },
    /// At least once: offsets after the records are acknowledged. `idempotent` with `acks=all`.
    Plain { idempotent: bool },
}

impl Mode {
    pub(crate) fn is_transactional(self) -> bool {
        matches!(self, Mode::Transactional { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests on their way to one broker.
    pub(crate) in_flight: usize,
    pub(crate) request_bytes: usize,
    pub(crate) linger: Duration,
    /// `buffer.memory`, or the connector's budget where that is less: a transaction is ended after half of it whatever its boundary, so that nobody
    /// waits for room until its interval is over.
    pub(crate) buffer_bytes: usize,
    /// How long refusals are borne: `delivery.timeout.ms`.
    pub(crate) delivery: Duration,
    /// `transaction.timeout.ms`: then the coordinator aborts.
    pub(crate) transaction: Duration,
    pub(crate) boundary: Boundary,
    pub(crate) compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// Positions of a consumer group, to be stored with the records of the same append.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions {
    pub(crate) group: String,
    /// Generation, or member epoch (KIP-848).
    pub(crate) generation: i32,
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    /// Topic and partition, next offset, metadata.
    pub(crate) offsets: Vec<(TopicPartition, i64, String)>,
}

/// One append.
pub(crate) struct Ask {
    pub(crate) records: Vec<Placed>,
    /// Records of the offsets topic.
    pub(crate) offsets: Vec<Placed>,
    pub(crate) positions: Option<Positions>,
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Appended>>,
    /// Room in the buffer, given back when the append is resolved.
    pub(crate) room: Box<dyn Send>,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// One request to this broker.
    Produce(i32, Vec<Shipment>),
    /// `AddPartitionsToTxn`: topic name and partition of these lanes. Not with KIP-890.
    Register(Vec<usize>),
    Positions(Positions),
    /// Find the leader of this lane.
    Look(usize),
    End {
        commit: bool,
    },
    /// Wait until the markers of the transaction are written: then it is visible.
    Settle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    /// Everything is written, EndTxn is on its way (or to be sent again).
    Ending {
        asked: bool,
    },
    /// Committed for good, the markers are being written: until then the broker takes nothing of the next transaction.
    Settling {
        asked: bool,
    },
    /// As `Ending`, to abort.
    Aborting {
        asked: bool,
    },
    Over,
}

pub(crate) struct Txn {
    mode: Mode,
    limits: Limits,
    identity: Identity,
    phase: Phase,
    gathered: VecDeque<Ask>,
    gathered_bytes: usize,
    gathered_since: Option<Instant>,
    open: VecDeque<Open>,
    /// Number of `open[0]` since the producer began.
    first: u64,
    began: Instant,
    /// Bytes admitted, and whether anything was to be written at all.
    bytes: usize,
    wrote: bool,
    pub(super) lanes: Vec<Lane>,
    index: FxHashMap<(Uuid, i32), usize>,
    /// Of partitions that have no lane: where their sequences go on, under the same epoch.
    sequences: FxHashMap<(Uuid, i32), i32>,
    /// Requests on their way, by broker.
    flights: FxHashMap<i32, usize>,
    /// Where the search for something to send begins, so that every lane has its turn.
    turn: usize,
    positions: VecDeque<Positions>,
    positions_asked: bool,
    registering: bool,
    /// Of what concerns the coordinator: refusals in a row, since when, and not before when.
    failures: u32,
    failing_since: Option<Instant>,
    not_before: Option<Instant>,
    closing: bool,
    left_open: bool,
    why: Option<Error>,
    /// Committed since they were taken: appends, records, bytes.
    counters: Arc<Counters>,
}

struct Open {
    reply: oneshot::Sender<Result<Appended>>,
    room: Box<dyn Send>,
    appended: Appended,
    /// In plain mode: to be written when the records are.
    offsets: Vec<Placed>,
}

impl Txn {
    pub(crate) fn new(mode: Mode, limits: Limits, identity: Identity, now: Instant) -> Self {
        Self {
            mode,
            limits,
            identity,
            phase: Phase::Idle,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            gathered_since: None,
            open: VecDeque::new(),
            first: 0,
            began: now,
            bytes: 0,
            wrote: false,
            lanes: Vec::new(),
            index: FxHashMap::default(),
            sequences: FxHashMap::default(),
            flights: FxHashMap::default(),
            turn: 0,
            positions: VecDeque::new(),
            positions_asked: false,
            registering: false,
            failures: 0,
            failing_since: None,
            not_before: None,
            closing: false,
            left_open: false,
            why: None,
            counters: Arc::default(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Why the producer was given up.
    pub(crate) fn why(&self) -> Option<&Error> {
        self.why.as_ref()
    }

    /// The transaction was begun, and nobody has said that it is ended.
    pub(crate) fn is_left_open(&self) -> bool {
        self.left_open
    }

    /// Where commits are counted: before they resolve, so that who waited for one sees it counted.
    pub(crate) fn count_in(&mut self, counters: &Arc<Counters>) {
        self.counters = counters.clone();
    }

    pub(crate) fn gather(&mut self, ask: Ask, now: Instant) {
        self.gathered_since.get_or_insert(now);
        self.gathered_bytes += ask.bytes;
        self.gathered.push_back(ask);
    }

    /// Nothing more will be gathered: what is there is written without waiting for more.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Nothing is in flight and nothing gathers, or nothing may be done any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Over || (self.phase == Phase::Idle && self.gathered.is_empty())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// What to do now, to be asked again until there is nothing.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Action> {
        self.admit(now);
        match self.phase {
            Phase::Open => self.next_open(now),
            Phase::Ending { asked: false } if self.is_due(now) => {
                self.phase = Phase::Ending { asked: true };
                Some(Action::End { commit: true })
            }
            Phase::Settling { asked: false } => {
                self.phase = Phase::Settling { asked: true };
                Some(Action::Settle)
            }
            Phase::Aborting { asked: false }
                if self.is_due(now) && self.flights.values().all(|&flights| flights == 0) && !self.coordinating() =>
            {
                self.phase = Phase::Aborting { asked: true };
                Some(Action::End { commit: false })
            }
            _ => None,
        }
    }

    /// When to ask [`Txn::next`] again though nothing happened.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let linger = self.gathered_since.filter(|_| self.phase == Phase::Idle).map(|since| since + self.limits.linger);
        let end = match (self.phase, self.limits.boundary) {
            (Phase::Open, Boundary::Interval(interval)) => Some(self.began + interval),
            _ => None,
        };
        let lanes = self.lanes.iter().filter_map(|lane| lane.not_before);
        lanes.chain([linger, end, self.not_before].into_iter().flatten()).filter(|&at| at > now).min()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn coordinating(&self) -> bool {
        self.positions_asked || self.registering
    }

    /// Group commit: whatever gathered joins, until the transaction is large or old enough.
    fn admit(&mut self, now: Instant) {
        while let Some(ask) = self.gathered.front() {
            let age = now.saturating_duration_since(self.began);
            let room = self.bytes + ask.bytes <= self.limits.buffer_bytes;
            let joins = match (self.phase, self.limits.boundary) {
                (Phase::Idle, _) => self.has_lingered(now),
                (Phase::Open, Boundary::Poll) => age < AGE_MAX && room,
                (Phase::Open, Boundary::Interval(interval)) => age < interval && room,
                _ => false,
            };
            if !joins {
                return;
            }
            if self.phase == Phase::Idle {
                self.phase = Phase::Open;
                self.began = now;
            }
            let Some(ask) = self.gathered.pop_front() else { return };
            self.gathered_bytes -= ask.bytes;
            if self.gathered.is_empty() {
                self.gathered_since = None;
            }
            self.take(ask);
        }
    }

    fn has_lingered(&self, now: Instant) -> bool {
        self.closing
            || self.gathered_bytes >= self.limits.request_bytes
            || self.gathered_since.is_none_or(|since| now >= since + self.limits.linger)
    }

    fn take(&mut self, ask: Ask) {
        let number = self.first + self.open.len() as u64;
        self.bytes += ask.bytes;
        let mut later = Vec::new();
        for placed in ask.records {
            self.add(number, placed);
        }
        // Invariant 1: without a transaction the offsets wait for the acknowledgement of the records.
        if self.mode.is_transactional() {
            ask.offsets.into_iter().for_each(|placed| self.add(number, placed));
        } else {
            later = ask.offsets;
        }
        if let Some(positions) = ask.positions {
            self.wrote = true;
            self.positions.push_back(positions);
        }
        self.open.push_back(Open { reply: ask.reply, room: ask.room, appended: Appended::default(), offsets: later });
    }

    fn add(&mut self, number: u64, placed: Placed) {
        self.wrote = true;
        let key = (placed.target.meta.id, placed.partition);
        let lane = *self.index.entry(key).or_insert_with(|| {
            let mut lane = Lane::new(placed.target.clone(), placed.partition);
            lane.sequence = self.sequences.remove(&key).unwrap_or(0);
            self.lanes.push(lane);
            self.lanes.len() - 1
        });
        self.lanes[lane].add(number, placed);
    }

    fn next_open(&mut self, now: Instant) -> Option<Action> {
        if self.is_due(now) && !self.registering && self.mode == (Mode::Transactional { v2: false }) {
            let lanes: Vec<usize> = (0..self.lanes.len()).filter(|&lane| self.lanes[lane].wants_registration()).collect();
            if !lanes.is_empty() {
                self.registering = true;
                return Some(Action::Register(lanes));
            }
        }
        if let Some(positions) = self.positions.front().filter(|_| self.is_due(now) && !self.positions_asked).cloned() {
            self.positions_asked = true;
            return Some(Action::Positions(positions));
        }
        if let Some(lane) = self.lanes.iter().position(|lane| lane.wants_leader(now)) {
            self.lanes[lane].looking = true;
            return Some(Action::Look(lane));
        }
        self.ship(now).or_else(|| self.end(now))
    }

    /// One request: what the lanes of one broker have to send, up to a request's bytes.
    fn ship(&mut self, now: Instant) -> Option<Action> {
        let explicit = self.mode == Mode::Transactional { v2: false };
        let mut to: Option<(i32, Vec<Shipment>, usize)> = None;
        for step in 0..self.lanes.len() {
            let at = (self.turn + step) % self.lanes.len();
            let lane = &mut self.lanes[at];
            let Some(broker) = lane.leader.filter(|_| !explicit || lane.registered) else { continue };
            if to.as_ref().is_some_and(|(chosen, ..)| *chosen != broker)
                || self.flights.get(&broker).is_some_and(|&flights| flights >= self.limits.in_flight)
            {
                continue;
            }
            let room = self.limits.request_bytes - to.as_ref().map_or(0, |(.., bytes)| *bytes);
            // The first is as large as it is; others only join where they fit.
            let first = to.is_none();
            match lane.ship(at, now, self.mode, self.identity, &self.limits, if first { usize::MAX } else { room }) {
                Ok(Some(shipment)) => {
                    let (_, shipments, bytes) = to.get_or_insert_with(|| (broker, Vec::new(), 0));
                    *bytes += shipment.bytes.len();
                    shipments.push(shipment);
                    if *bytes >= self.limits.request_bytes {
                        break;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    self.fail(&error);
                    return None;
                }
            }
        }
        let (broker, shipments, _) = to?;
        self.turn = shipments.last().map_or(0, |last| last.lane + 1);
        *self.flights.entry(broker).or_default() += 1;
        Some(Action::Produce(broker, shipments))
    }

    fn end(&mut self, now: Instant) -> Option<Action> {
        let drained = self.lanes.iter().all(Lane::is_drained) && self.positions.is_empty() && !self.coordinating();
        let waits = match self.limits.boundary {
            Boundary::Interval(interval) => {
                !self.closing
                    && now < self.began + interval
                    && (self.gathered.is_empty() && self.bytes < self.limits.buffer_bytes / 2)
            }
            Boundary::Poll | Boundary::Connector => false,
        };
        if !drained || waits {
            return None;
        }
        if !self.mode.is_transactional() {
            let first = self.first;
            let later: Vec<_> = self.open.iter_mut().map(|open| std::mem::take(&mut open.offsets)).collect();
            for (number, offsets) in (first..).zip(later) {
                offsets.into_iter().for_each(|placed| self.add(number, placed));
            }
            if !self.lanes.iter().all(Lane::is_drained) {
                return self.ship(now);
            }
        }
        if self.mode.is_transactional() && self.wrote {
            self.phase = Phase::Ending { asked: false };
        } else {
            self.committed();
        }
        self.next(now)
    }

    /// Everything is answered: no flight names a lane.
    fn renew(&mut self, bumped: bool) {
        if bumped {
            self.sequences.clear();
        }
        let sequences = &mut self.sequences;
        self.lanes.retain_mut(|lane| {
            let used = lane.renew(bumped);
            if !used && lane.sequence != 0 {
                sequences.insert(lane.key(), lane.sequence);
            }
            used
        });
        self.index = self.lanes.iter().enumerate().map(|(at, lane)| (lane.key(), at)).collect();
    }

    fn committed(&mut self) {
        if !self.mode.is_transactional() {
            self.renew(false);
        }
        self.first += self.open.len() as u64;
        // Commits resolve in the order of append, each when it is counted and its room is free.
        for Open { reply, room, appended, .. } in self.open.drain(..) {
            let records = appended.ranges.iter().map(|(_, first, next)| (next - first) as u64).sum();
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
            self.counters.records.fetch_add(records, Ordering::Relaxed);
            self.counters.bytes.fetch_add(appended.bytes as u64, Ordering::Relaxed);
            drop(room);
            let _ = reply.send(Ok(appended));
        }
        self.phase = Phase::Idle;
        (self.bytes, self.wrote) = (0, false);
    }

    pub(crate) fn looked(&mut self, lane: usize, leader: Result<i32>, now: Instant) {
        self.lanes[lane].looking = false;
        match leader {
            Ok(leader) => self.lanes[lane].leader = Some(leader),
            Err(error) if error.is_retriable() => {
                self.refused_lane(lane, Why::Busy, now);
                self.give_up_when_too_long(lane, &error, now);
            }
            Err(error) => self.abort(&error),
        }
    }

    /// A Produce request to `broker` was answered, or not sent at all; [`Txn::produced`] is told of each shipment after it.
    pub(crate) fn answered(&mut self, broker: i32) {
        if let Some(flights) = self.flights.get_mut(&broker) {
            *flights = flights.saturating_sub(1);
        }
    }

    pub(crate) fn produced(&mut self, lane: usize, serial: u64, verdict: Verdict, base_offset: i64, now: Instant) {
        match verdict {
            Verdict::Done => match self.lanes[lane].acknowledged(serial) {
                Some(sealed) => self.wrote(lane, &sealed, base_offset),
                None => self.fail(&Error::retriable("kafka.protocol", "batches of a partition were acknowledged out of order")),
            },
            Verdict::Again(Why::OutOfOrder) if !self.lanes[lane].has_refused() => {
                let tp = self.lanes[lane].tp();
                self.fail(&Error::retriable(
                    "kafka.transaction_lost",
                    format!("{tp}: the broker misses a batch (OUT_OF_ORDER_SEQUENCE_NUMBER)"),
                ));
            }
            Verdict::Again(why) => {
                self.lanes[lane].refuse(serial);
                self.refused_lane(lane, why, now);
                let tp = self.lanes[lane].tp();
                let error =
                    Error::retriable("kafka.broker", format!("{tp}: refused for longer than delivery.timeout.ms ({why:?})"));
                self.give_up_when_too_long(lane, &error, now);
            }
            Verdict::Abort(error) => {
                self.lanes[lane].refuse(serial);
                self.abort(&error);
            }
            Verdict::Lost(error) => self.lose(error, now),
        }
    }

    fn wrote(&mut self, lane: usize, sealed: &super::lane::Sealed, base_offset: i64) {
        let tp = self.lanes[lane].tp();
        for (number, from, to) in &sealed.spans {
            let Some(open) = number.checked_sub(self.first).and_then(|at| self.open.get_mut(at as usize)) else { continue };
            open.appended.bytes += sealed.bytes.len() * (to - from) as usize / sealed.records.max(1) as usize;
            if self.lanes[lane].hidden {
                continue;
            }
            let (first, next) = (base_offset + from, base_offset + to);
            match open.appended.ranges.iter_mut().find(|(known, ..)| *known == tp) {
                Some((_, _, end)) => *end = next,
                None => open.appended.ranges.push((tp.clone(), first, next)),
            }
        }
    }

    fn refused_lane(&mut self, lane: usize, why: Why, now: Instant) {
        let lane = &mut self.lanes[lane];
        if why == Why::Moved {
            lane.leader = None;
        }
        lane.failing_since.get_or_insert(now);
        lane.not_before = Some(now + pause(why, lane.failures));
        lane.failures += 1;
    }

    fn give_up_when_too_long(&mut self, lane: usize, error: &Error, now: Instant) {
        if self.lanes[lane].failing_since.is_some_and(|since| self.is_too_long(since, now)) {
            self.abort(error);
        }
    }

    pub(crate) fn registered(&mut self, lanes: &[usize], verdict: Verdict, now: Instant) {
        self.registering = false;
        match verdict {
            Verdict::Done => lanes.iter().for_each(|&lane| self.lanes[lane].registered = true),
            other => return self.refused(other, now),
        }
        self.recovered();
    }

    pub(crate) fn positioned(&mut self, verdict: Verdict, now: Instant) {
        self.positions_asked = false;
        match verdict {
            Verdict::Done => drop(self.positions.pop_front()),
            other => return self.refused(other, now),
        }
        self.recovered();
    }

    /// `next` is the identity of the next transaction.
    pub(crate) fn ended(&mut self, verdict: Verdict, next: Identity, now: Instant) {
        match (self.phase, verdict) {
            (Phase::Ending { .. }, Verdict::Done) => {
                let bumped = next != self.identity;
                self.identity = next;
                self.renew(bumped);
                self.phase = Phase::Settling { asked: false };
                self.recovered();
            }
            (Phase::Ending { .. }, again @ Verdict::Again(_)) => {
                self.phase = Phase::Ending { asked: false };
                self.refused(again, now);
            }
            (Phase::Ending { .. }, Verdict::Abort(error) | Verdict::Lost(error)) => self.lose(error, now),
            (Phase::Aborting { .. }, again @ Verdict::Again(_)) => {
                self.phase = Phase::Aborting { asked: false };
                self.refused(again, now);
            }
            (_, verdict) => {
                self.left_open &= !matches!(verdict, Verdict::Done);
                self.phase = Phase::Over;
            }
        }
    }

    /// What was committed can be read.
    pub(crate) fn settled(&mut self) {
        if matches!(self.phase, Phase::Settling { .. }) {
            self.committed();
        }
    }

    /// Given up before the coordinator does (`transaction.timeout.ms`): what it says then looks like another writer's fence.
    fn is_too_long(&self, since: Instant, now: Instant) -> bool {
        let expiring = matches!(self.phase, Phase::Open | Phase::Ending { .. })
            && self.mode.is_transactional()
            && now >= self.began + self.limits.transaction.saturating_sub(expiry_margin(self.limits.transaction));
        now >= since + self.limits.delivery || expiring
    }

    /// Nothing may be sent any more. An epoch that was refused is another writer's, or was raised by the coordinator when it aborted a transaction that had been
    /// open for too long (a process that stood still): then it is not known who writes, and the InitProducerId of the next writer finds out.
    fn lose(&mut self, error: Error, now: Instant) {
        let late = matches!(self.phase, Phase::Open | Phase::Ending { .. }) && now >= self.began + self.limits.transaction;
        if late && self.mode.is_transactional() && error.code() == "log.fenced" {
            let message = format!("{} (open for longer than transaction.timeout.ms)", error.message());
            return self.fail(&Error::retriable("kafka.transaction_timed_out", message));
        }
        self.fail(&error);
    }

    fn refused(&mut self, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Done => {}
            Verdict::Again(why) => {
                let since = *self.failing_since.get_or_insert(now);
                self.not_before = Some(now + pause(why, self.failures));
                self.failures += 1;
                if self.is_too_long(since, now) {
                    self.fail(&Error::retriable(
                        "kafka.broker",
                        format!("the coordinator refused for longer than delivery.timeout.ms ({why:?})"),
                    ));
                }
            }
            Verdict::Abort(error) => self.abort(&error),
            Verdict::Lost(error) => self.lose(error, now),
        }
    }

    fn recovered(&mut self) {
        (self.failures, self.failing_since, self.not_before) = (0, None, None);
    }

    /// Everything fails, and the transaction is aborted so that readers need not wait for its time limit.
    fn abort(&mut self, error: &Error) {
        if matches!(self.phase, Phase::Aborting { .. }) {
            return;
        }
        let opened = self.phase == Phase::Open;
        self.fail(error);
        if opened && self.mode.is_transactional() {
            self.phase = Phase::Aborting { asked: false };
            self.recovered();
        }
    }

    /// Every append that is not resolved fails, and nothing more is sent: not even what would be fine (invariant 3).
    pub(crate) fn fail(&mut self, error: &Error) {
        if self.phase == Phase::Over {
            return;
        }
        self.left_open |= self.wrote && matches!(self.phase, Phase::Open | Phase::Ending { .. });
        self.phase = Phase::Over;
        self.why.get_or_insert_with(|| again(error));
        for open in self.open.drain(..) {
            let _ = open.reply.send(Err(again(error)));
        }
        for ask in self.gathered.drain(..) {
            let _ = ask.reply.send(Err(again(error)));
        }
        self.positions.clear();
    }
}

/// Before a transaction times out it is given up: time for one abort.
pub(crate) fn expiry_margin(transaction: Duration) -> Duration {
    Duration::from_secs(5).min(transaction / 2)
}

fn pause(why: Why, failures: u32) -> Duration {
    match why {
        Why::Concurrent => CONCURRENT_PAUSE,
        _ => PAUSE.0.saturating_mul(1 << failures.min(6)).min(PAUSE.1),
    }
}

/// The same error once more.
pub(crate) fn again(error: &Error) -> Error {
    let class = if error.is_retriable() { Class::Retriable } else { Class::Fatal };
    let copy = Error::new(class, error.code().to_owned(), error.message().to_owned());
    match error.hint() {
        Some(fix) => copy.fix(fix.to_owned()),
        None => copy,
    }
}
