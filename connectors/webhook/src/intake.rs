//! Between requests and the task: what waits to be polled, what waits for its commit, and which events are known.
//!
//! The lock is held for a push or a take, never while a request waits: requests that arrive together share a commit.

use crate::answer::Refusal;
use crate::ids::{Id, Ids};
use aqueduct_core::{Batch, BatchBuilder, Record, SourceOffset};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot};

/// What a request costs beside its bytes: its place in the queue, its channel, its headers.
const REQUEST_BYTES: usize = 512;
/// What a record costs beside its bytes.
const RECORD_BYTES: usize = 256;

pub(crate) struct Intake {
    state: Mutex<State>,
    arrived: Notify,
    memory: Arc<Memory>,
    /// Of one poll, and so of one request: what is stored in one commit.
    max_records: AtomicUsize,
    pub(crate) counts: Counts,
}

struct State {
    /// False once the task is closed: nothing is taken any more.
    open: bool,
    queue: VecDeque<Arrival>,
    /// With so many in the queue the task is called.
    call_at: usize,
    ids: Ids,
    /// Events between their arrival and their commit, and who waits for them beside the request that brought them.
    in_flight: HashMap<Id, Vec<oneshot::Sender<()>>>,
}

/// Of the connector's life in this process.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) stored: AtomicU64,
    pub(crate) repeats: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A request's records, on their way to a commit.
struct Arrival {
    records: Vec<(Record, Option<Id>)>,
    /// What they take in a batch, at most.
    bytes: usize,
    settled: Settled,
}

/// What is done once a request is durable.
pub(crate) struct Settled {
    ids: SmallVec<[Id; 1]>,
    answer: oneshot::Sender<()>,
    _held: Held,
}

/// The records of one body, with the id of each where it has one.
pub(crate) struct Parsed {
    pub(crate) records: Vec<(Record, Option<Id>)>,
    /// Of the request as a whole, in place of its records'.
    pub(crate) request_id: Option<Id>,
}

/// What a request waits for. An error means that the task ended: nobody knows whether the records are stored.
pub(crate) struct Waiting(SmallVec<[oneshot::Receiver<()>; 1]>);

impl Future for Waiting {
    type Output = Result<(), Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(one) = self.0.last_mut() {
            match Pin::new(one).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Refusal::unavailable())),
                Poll::Ready(Ok(())) => drop(self.0.pop()),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What one poll takes.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) batch: Batch,
    pub(crate) settled: Vec<Settled>,
    /// The changes of the known ids.
    pub(crate) offsets: Vec<SourceOffset>,
}

impl Intake {
    pub(crate) fn new(queue_bytes: usize, ids: Ids) -> Self {
        let state = State { open: true, queue: VecDeque::new(), call_at: 1, ids, in_flight: HashMap::new() };
        let memory = Arc::new(Memory { used: AtomicUsize::new(0), limit: queue_bytes });
        let max_records = AtomicUsize::new(usize::MAX);
        Self { state: Mutex::new(state), arrived: Notify::new(), memory, max_records, counts: Counts::default() }
    }

    /// Room for one request; grows with its body.
    pub(crate) fn hold(&self) -> Result<Held, Refusal> {
        // Counted with the body, or with the records: a count that all connections share is touched as seldom as can be.
        let held = Held { memory: self.memory.clone(), bytes: 0, owed: REQUEST_BYTES };
        if self.memory.used.load(Relaxed) + REQUEST_BYTES > self.memory.limit { Err(Refusal::no_room()) } else { Ok(held) }
    }

    /// Hands the records over, but for those whose event is known. All or none.
    pub(crate) fn admit(&self, parsed: Parsed, mut held: Held) -> Result<Waiting, Refusal> {
        let max = self.max_records.load(Relaxed);
        if parsed.records.len() > max {
            let message = format!("{} records in one body; at most {max} (aqueduct.batch.max.records)", parsed.records.len());
            return Err(Refusal::too_large(message));
        }
        held.grow(parsed.records.len() * RECORD_BYTES)?;
        let (answer, own) = oneshot::channel();
        let (mut records, mut ids, mut waiting) = (parsed.records, SmallVec::new(), SmallVec::new());
        let all = records.len();
        let now = now_seconds();
        let mut state = self.state.lock();
        if !state.open {
            return Err(Refusal::unavailable());
        }
        let state = &mut *state;
        let mut is_new = |id: Id, waiting: &mut SmallVec<_>| {
            if let Some(others) = state.in_flight.get_mut(&id) {
                // Others come and go: who hung up waits no more.
                others.retain(|other| !other.is_closed());
                let (other, receiver) = oneshot::channel();
                others.push(other);
                waiting.push(receiver);
                return false;
            }
            let new = !state.ids.contains(&id, now);
            if new {
                state.in_flight.insert(id, Vec::new());
                ids.push(id);
            }
            new
        };
        match parsed.request_id {
            Some(id) if !is_new(id, &mut waiting) => records.clear(),
            Some(_) => {}
            None => records.retain(|(_, id)| id.is_none_or(|id| is_new(id, &mut waiting))),
        }
        if records.len() < all {
            self.counts.repeats.fetch_add((all - records.len()) as u64, Relaxed);
        }
        if !records.is_empty() {
            waiting.push(own);
            let bytes = records.iter().map(|(record, _)| size(record)).sum();
            state.queue.push_back(Arrival { records, bytes, settled: Settled { ids, answer, _held: held } });
            // Once: those that come behind wait with them.
            if state.queue.len() == state.call_at {
                self.arrived.notify_one();
            }
        }
        Ok(Waiting(waiting))
    }

    /// Whole requests, as many as fit; at least one, unless there is none.
    pub(crate) fn take(&self, max_records: usize, max_bytes: usize) -> Taken {
        let mut taken = Taken::default();
        let now = now_seconds();
        self.max_records.store(max_records, Relaxed);
        let (mut arrivals, mut all, mut bytes) = (Vec::new(), 0, 0);
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            arrivals.reserve(state.queue.len());
            while let Some(next) = state.queue.front() {
                let records = next.records.len();
                if all > 0 && (all + records > max_records || bytes + next.bytes > max_bytes) {
                    break;
                }
                let Some(arrival) = state.queue.pop_front() else { break };
                if records > max_records {
                    // It came before the bound was known: told to come again, and then why not.
                    arrival.settled.ids.iter().for_each(|id| drop(state.in_flight.remove(id)));
                    continue;
                }
                (all, bytes) = (all + records, bytes + arrival.bytes);
                arrival.settled.ids.iter().for_each(|id| state.ids.add(*id, now));
                arrivals.push(arrival);
            }
            taken.offsets = state.ids.take_changes();
        }
        // Without the lock, so that who comes meanwhile need not wait.
        let mut builder = BatchBuilder::new();
        taken.settled.reserve(arrivals.len());
        for arrival in arrivals {
            arrival.records.into_iter().for_each(|(record, _)| builder.push(record));
            taken.settled.push(arrival.settled);
        }
        taken.batch = builder.finish();
        taken
    }

    /// How many requests wait to be taken.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Until so many requests wait to be taken.
    pub(crate) async fn arrived(&self, requests: usize) {
        while self.wants(requests) {
            self.arrived.notified().await;
        }
    }

    fn wants(&self, requests: usize) -> bool {
        let mut state = self.state.lock();
        state.call_at = requests;
        state.queue.len() < requests
    }

    /// The log holds them: answers, also to those who brought the same events meanwhile.
    pub(crate) fn settle(&self, settled: Vec<Settled>) {
        let mut others = Vec::new();
        if settled.iter().any(|one| !one.ids.is_empty()) {
            let mut state = self.state.lock();
            for id in settled.iter().flat_map(|one| &one.ids) {
                others.extend(state.in_flight.remove(id).unwrap_or_default());
            }
        }
        self.counts.stored.fetch_add(settled.len() as u64, Relaxed);
        // Whoever hung up hears nothing; the next try is a repeat.
        for one in settled {
            let _ = one.answer.send(());
        }
        for other in others {
            let _ = other.send(());
        }
    }

    /// Whoever waits hears that nobody knows.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.queue.clear();
        state.in_flight.clear();
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.memory.used.load(Relaxed)
    }

    pub(crate) fn known_ids(&self) -> usize {
        self.state.lock().ids.len()
    }
}

/// In a batch, at most.
fn size(record: &Record) -> usize {
    let headers = record.headers.iter().map(|header| header.name.len() + header.value.size() + 64);
    record.key.size() + record.value.size() + headers.sum::<usize>() + RECORD_BYTES
}

pub(crate) fn now_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Invariant 6: bodies as far as they came, and what is not durable yet.
struct Memory {
    used: AtomicUsize,
    limit: usize,
}

/// A share of it, given back when it is dropped.
pub(crate) struct Held {
    memory: Arc<Memory>,
    /// Counted.
    bytes: usize,
    /// To be counted with the next that is.
    owed: usize,
}

impl Held {
    /// # Errors
    /// 429 when there is no room.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes + std::mem::take(&mut self.owed);
        let before = self.memory.used.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        if before + bytes > self.memory.limit { Err(Refusal::no_room()) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;

    fn intake() -> Intake {
        Intake::new(1 << 20, Ids::load(&[], 1000, 1000))
    }

    fn send(intake: &Intake, events: &[Option<u32>]) -> Result<Waiting, Refusal> {
        let record = |n: &Option<u32>| (Record::new("t", format!("{n:?}")), n.map(|n| id("", &n.to_string())));
        let parsed = Parsed { records: events.iter().map(record).collect(), request_id: None };
        intake.hold().and_then(|held| intake.admit(parsed, held))
    }

    async fn told(waiting: Waiting) -> u16 {
        let told = tokio::time::timeout(std::time::Duration::from_millis(1), waiting).await;
        told.map_or(504, |told| told.map_or_else(|refusal| refusal.status.as_u16(), |()| 200))
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_waits_for_the_first_and_is_stored_once() {
        let intake = intake();
        let (first, repeat, other) =
            (send(&intake, &[Some(1)]).unwrap(), send(&intake, &[Some(1)]).unwrap(), send(&intake, &[Some(1), Some(2)]).unwrap());
        let taken = intake.take(100, 1 << 20);
        assert_eq!((taken.batch.len(), taken.settled.len(), taken.offsets.len()), (2, 2, 1));
        assert_eq!(told(send(&intake, &[Some(2)]).unwrap()).await, 504, "taken is not durable");
        let mut settled = taken.settled;
        let second = settled.split_off(1);
        intake.settle(settled);
        assert_eq!((told(first).await, told(repeat).await), (200, 200));
        assert_eq!(told(send(&intake, &[Some(1)]).unwrap()).await, 200, "a repeat of what is durable");
        intake.settle(second);
        assert_eq!(told(other).await, 200);
        assert_eq!(intake.queued(), 0);
        assert_eq!(intake.used_bytes(), 0);
        assert_eq!(intake.counts.repeats.load(Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn one_event_twice_in_a_body_is_stored_once() {
        let intake = intake();
        let waiting = send(&intake, &[Some(1), Some(1), None, None]).unwrap();
        let taken = intake.take(100, 1 << 20);
        assert_eq!(taken.batch.len(), 3);
        intake.settle(taken.settled);
        assert_eq!(told(waiting).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_when_the_task_ends_is_told_to_try_again() {
        let intake = intake();
        let (queued, repeat) = (send(&intake, &[Some(1)]).unwrap(), send(&intake, &[Some(1)]).unwrap());
        intake.close();
        assert_eq!((told(queued).await, told(repeat).await), (503, 503));
        assert_eq!(send(&intake, &[Some(2)]).err().unwrap().status, 503);
        assert_eq!(intake.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_is_called_when_as_many_wait_as_it_asked_for() {
        let intake = intake();
        let called = async |requests| {
            let wait = std::time::Duration::from_millis(1);
            tokio::time::timeout(wait, intake.arrived(requests)).await.is_ok()
        };
        let mut waiting = Vec::new();
        for (wanted, sent, expected) in [(1, 0, false), (1, 1, true), (3, 0, false), (3, 1, false), (3, 1, true), (2, 0, true)] {
            waiting.extend((0..sent).map(|_| send(&intake, &[None]).unwrap()));
            assert_eq!(called(wanted).await, expected, "{wanted} wanted, {} there", waiting.len());
        }
        intake.take(100, 1 << 20);
        // While it waits, as a request comes.
        let (called, _) = tokio::join!(called(2), async {
            tokio::task::yield_now().await;
            waiting.extend((0..2).map(|_| send(&intake, &[None]).unwrap()));
        });
        assert!(called);
    }

    #[test]
    fn polls_take_whole_requests_and_memory_is_bounded() {
        let intake = intake();
        for _ in 0..3 {
            send(&intake, &[None; 3]).map(|_| ()).unwrap();
        }
        assert_eq!(intake.take(7, 1 << 20).batch.len(), 6);
        assert_eq!(intake.take(7, 1 << 20).batch.len(), 3);
        assert_eq!(send(&intake, &[None; 8]).err().unwrap().status, 413);
        let full = (0..10_000).find_map(|_| send(&intake, &[None]).err()).expect("a bound");
        assert_eq!(full.status, 429);
        assert!(intake.used_bytes() <= 1 << 20);
        let mut held = intake.hold();
        assert!(held.is_err() || held.as_mut().unwrap().grow(1 << 20).is_err());
    }
}
