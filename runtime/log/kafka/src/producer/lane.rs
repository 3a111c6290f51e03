//! One partition of a transaction: batches in order, each answered before it is forgotten.

use super::place::{Piece, Placed, Target};
use super::txn::{Identity, Limits, Mode};
use aqueduct_core::{Result, TopicPartition};
use aqueduct_log::record_batch;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use uuid::Uuid;

/// Batches of one partition on their way, as Kafka's brokers remember the last five of a producer.
const IN_FLIGHT_MAX: usize = 5;

pub(crate) struct Lane {
    pub(crate) target: Arc<Target>,
    pub(crate) partition: i32,
    pub(crate) leader: Option<i32>,
    pub(crate) looking: bool,
    /// `AddPartitionsToTxn` was answered, for this transaction.
    pub(crate) registered: bool,
    /// Of the offsets topic: not told in `Appended`.
    pub(crate) hidden: bool,
    pub(crate) not_before: Option<Instant>,
    pub(crate) failing_since: Option<Instant>,
    pub(crate) failures: u32,
    pending: VecDeque<(u64, Piece)>,
    batches: VecDeque<(State, Sealed)>,
    /// Of the next batch: as long as the epoch is the same, it goes on.
    pub(crate) sequence: i32,
    serial: u64,
    /// The broker took a batch of this run: others may follow without waiting for each other.
    confirmed: bool,
    used: bool,
}

/// An encoded batch.
pub(crate) struct Sealed {
    pub(crate) bytes: Bytes,
    pub(crate) records: i64,
    /// Whose records: number of the append, offset of the first record and of the next after the last, in the batch.
    pub(crate) spans: Vec<(u64, i64, i64)>,
    serial: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Refused,
}

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct Shipment {
    pub(crate) lane: usize,
    pub(crate) serial: u64,
    pub(crate) bytes: Bytes,
}

impl Lane {
    pub(crate) fn new(target: Arc<Target>, partition: i32) -> Self {
        Self {
            leader: target.meta.partition(partition).and_then(|meta| meta.leader),
            target,
            partition,
            looking: false,
            registered: false,
            hidden: false,
            not_before: None,
            failing_since: None,
            failures: 0,
            pending: VecDeque::new(),
            batches: VecDeque::new(),
            sequence: 0,
            serial: 0,
            confirmed: false,
            used: false,
        }
    }

    pub(crate) fn key(&self) -> (Uuid, i32) {
        (self.target.meta.id, self.partition)
    }

    pub(crate) fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.target.meta.name.clone(), self.partition)
    }

    pub(crate) fn add(&mut self, number: u64, placed: Placed) {
        self.hidden = placed.hidden;
        self.used = true;
        self.target = placed.target;
        self.pending.extend(placed.pieces.into_iter().map(|piece| (number, piece)));
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.batches.is_empty()
    }

    pub(crate) fn wants_registration(&self) -> bool {
        !self.registered && !self.is_drained()
    }

    pub(crate) fn wants_leader(&self, now: Instant) -> bool {
        self.leader.is_none() && !self.looking && !self.is_drained() && self.is_due(now)
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.batches.iter().any(|(state, _)| *state == State::Refused)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// The next batch, when one may be sent and has at most `room` bytes. In order: behind a refused one nothing goes, and it goes
    /// again when every later one is answered too (invariant 3).
    pub(crate) fn ship(
        &mut self,
        at: usize,
        now: Instant,
        mode: Mode,
        identity: Identity,
        limits: &Limits,
        room: usize,
    ) -> Result<Option<Shipment>> {
        let sent = self.batches.iter().filter(|(state, _)| *state == State::Sent).count();
        // Until the broker took one of the producer's batches, a second would be out of order when the first is refused.
        let most = if self.confirmed && mode != (Mode::Plain { idempotent: false }) { IN_FLIGHT_MAX } else { 1 };
        if sent >= most || !self.is_due(now) {
            return Ok(None);
        }
        if self.has_refused() {
            if sent > 0 {
                return Ok(None);
            }
            self.batches.iter_mut().for_each(|(state, _)| *state = State::Waiting);
        }
        let waiting = match self.batches.iter().position(|(state, _)| *state == State::Waiting) {
            Some(waiting) => waiting,
            None if self.pending.is_empty() => return Ok(None),
            None => {
                let sealed = self.seal(mode, identity, limits)?;
                self.batches.push_back((State::Waiting, sealed));
                self.batches.len() - 1
            }
        };
        let (state, sealed) = &mut self.batches[waiting];
        if sealed.bytes.len() > room {
            return Ok(None);
        }
        *state = State::Sent;
        Ok(Some(Shipment { lane: at, serial: sealed.serial, bytes: sealed.bytes.clone() }))
    }

    fn seal(&mut self, mode: Mode, identity: Identity, limits: &Limits) -> Result<Sealed> {
        let (mut taken, mut pieces, mut spans, mut records) = (0, Vec::new(), Vec::new(), 0i64);
        while let Some((number, piece)) = self.pending.front_mut() {
            let Some(part) = piece.take(&mut taken, self.target.batch_bytes) else { break };
            let to = records + part.len() as i64;
            match spans.last_mut() {
                Some((last, _, end)) if *last == *number => *end = to,
                _ => spans.push((*number, records, to)),
            }
            records = to;
            pieces.push(part);
            if piece.len() > 0 {
                break;
            }
            self.pending.pop_front();
        }
        let mut bytes = Vec::with_capacity(taken + record_batch::HEADER_BYTES);
        record_batch::encode(pieces.iter().flat_map(Piece::records), now_ms(), limits.compression, &mut bytes)?;
        if mode != (Mode::Plain { idempotent: false }) {
            stamp_producer(&mut bytes, identity, self.sequence, mode.is_transactional());
            // As Kafka's clients: after the largest comes 0.
            self.sequence = ((i64::from(self.sequence) + records) & i64::from(i32::MAX)) as i32;
        }
        self.serial += 1;
        Ok(Sealed { bytes: bytes.into(), records, spans, serial: self.serial })
    }

    /// The batch, when it is the oldest: the broker takes a producer's batches in order.
    pub(crate) fn acknowledged(&mut self, serial: u64) -> Option<Sealed> {
        match self.batches.front() {
            Some((State::Sent, sealed)) if sealed.serial == serial => {}
            _ => return None,
        }
        self.confirmed = true;
        (self.failures, self.failing_since, self.not_before) = (0, None, None);
        let (_, sealed) = self.batches.pop_front()?;
        if self.is_drained() {
            self.confirmed = false;
        }
        Some(sealed)
    }

    pub(crate) fn refuse(&mut self, serial: u64) {
        if let Some((state, _)) = self.batches.iter_mut().find(|(_, sealed)| sealed.serial == serial) {
            *state = State::Refused;
            // The next brokers, or this one after a while, must take one before others follow.
            self.confirmed = false;
        }
    }

    /// For the next transaction. False when the lane was not used in this one and may be forgotten, but for its `sequence`.
    pub(crate) fn renew(&mut self, bumped: bool) -> bool {
        let used = std::mem::take(&mut self.used);
        (self.registered, self.confirmed) = (false, false);
        if bumped {
            self.sequence = 0;
        }
        used
    }
}

/// Makes an encoded batch this producer's. The CRC covers all but the first 21 bytes.
fn stamp_producer(batch: &mut [u8], identity: Identity, sequence: i32, transactional: bool) {
    const TRANSACTIONAL: u8 = 1 << 4;
    if transactional {
        batch[22] |= TRANSACTIONAL;
    }
    batch[43..51].copy_from_slice(&identity.id.to_be_bytes());
    batch[51..53].copy_from_slice(&identity.epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use super::super::txn::Boundary;
    use super::*;
    use crate::cluster::{PartitionMeta, TopicMeta};
    use aqueduct_core::{Batch, Payload, Record};
    use aqueduct_log::record_batch::{Compression, HEADER_BYTES};
    use std::time::Duration;

    const MAX: usize = 100_000;

    fn lane(batch: Batch, compression: Compression) -> (Lane, Limits) {
        let meta = TopicMeta {
            name: "t".into(),
            id: Uuid::from_u128(1),
            is_internal: false,
            partitions: vec![PartitionMeta { leader: Some(1), epoch: 0, replicas: 1 }],
        };
        let target = Arc::new(Target { meta: Arc::new(meta), max_bytes: MAX, batch_bytes: MAX - HEADER_BYTES });
        let mut lane = Lane::new(target.clone(), 0);
        for placed in place::place(batch, |_| Ok(target.clone()), 0, compression).unwrap() {
            lane.add(0, placed);
        }
        let limits = Limits {
            in_flight: 5,
            request_bytes: MAX,
            linger: Duration::ZERO,
            buffer_bytes: 1 << 20,
            delivery: Duration::from_secs(120),
            transaction: Duration::from_secs(60),
            boundary: Boundary::Poll,
            compression,
        };
        (lane, limits)
    }

    fn ship(lane: &mut Lane, limits: &Limits) -> Option<Shipment> {
        let (mode, identity) = (Mode::Transactional { v2: true }, Identity { id: 7, epoch: 0 });
        lane.ship(0, Instant::now(), mode, identity, limits, usize::MAX).unwrap()
    }

    /// What compression makes larger is sent as it is: never more than `max.message.bytes`.
    #[test]
    fn no_batch_is_larger_than_the_topic_allows() {
        let mut rng = fastrand::Rng::with_seed(1);
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip] {
            for of_each in [MAX - HEADER_BYTES - 32, (MAX - HEADER_BYTES) / 3 - 32, 1000] {
                let mut noise = || Payload::Bytes((0..of_each).map(|_| rng.u8(..)).collect::<Vec<u8>>().into());
                let batch: Batch = (0..6).map(|_| Record { value: noise(), ..Record::new("t", Payload::Null) }).collect();
                let (mut lane, limits) = lane(batch, compression);
                let mut records = 0;
                while let Some(shipment) = ship(&mut lane, &limits) {
                    assert!(shipment.bytes.len() <= MAX, "{compression:?} {of_each}: {}", shipment.bytes.len());
                    records += lane.acknowledged(shipment.serial).unwrap().records;
                }
                assert_eq!(records, 6, "{compression:?} {of_each}");
            }
        }
    }

    #[test]
    fn after_a_refusal_one_batch_goes_alone_until_it_is_taken() {
        let batch: Batch = (0..8).map(|_| Record::new("t", "x".repeat(60_000))).collect();
        let (mut lane, limits) = lane(batch, Compression::None);
        let first = ship(&mut lane, &limits).unwrap();
        assert!(ship(&mut lane, &limits).is_none(), "the first goes alone");
        lane.acknowledged(first.serial).unwrap();
        let flying: Vec<_> = (0..3).map(|_| ship(&mut lane, &limits).unwrap().serial).collect();
        flying.iter().for_each(|&serial| lane.refuse(serial));
        assert_eq!(ship(&mut lane, &limits).unwrap().serial, flying[0]);
        assert!(ship(&mut lane, &limits).is_none(), "alone again");
        lane.acknowledged(flying[0]).unwrap();
        assert_eq!(ship(&mut lane, &limits).unwrap().serial, flying[1]);
        assert_eq!(ship(&mut lane, &limits).unwrap().serial, flying[2]);
    }
}
