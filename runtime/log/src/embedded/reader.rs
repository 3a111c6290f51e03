//! One member of a consumer group.

use super::encode::{self, Part};
use super::groups::Groups;
use super::request::{Ask, NewPosition, Queue};
use super::shared::{Shared, closed};
use super::state::Position;
use super::view::PartitionView;
use crate::contract::{EncodedBatch, Fetch, LogReader};
use crate::group::Event;
use aqueduct_core::{Batch, Error, LogPosition, Result, TopicPartition, Topics};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Kafka's `offset.metadata.max.bytes`.
const METADATA_MAX_BYTES: usize = 4096;

pub(crate) struct EmbeddedReader {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    group: Arc<str>,
    member: Arc<str>,
    epoch: u64,
    waker: Arc<Notify>,
    /// The group's version when it had no news.
    seen: Option<u64>,
    /// Given by the group, not told yet.
    given: Vec<(TopicPartition, Uuid)>,
    reading: Vec<Reading>,
    /// Which is asked first, so that none starves.
    turn: usize,
    /// Where the next keyless letters go.
    letters_turn: usize,
}

#[derive(Clone)]
struct Reading {
    view: Arc<PartitionView>,
    next: i64,
}

impl EmbeddedReader {
    pub(crate) fn join(shared: Arc<Shared>, queue: Arc<Queue>, group: &str, member: &str, topics: &Topics) -> Result<Self> {
        shared.open()?;
        let (group, member, waker): (Arc<str>, Arc<str>, _) = (group.into(), member.into(), Arc::new(Notify::new()));
        let epoch = shared.groups.lock().join(&group, &member, topics, &shared.catalogue.read(), waker.clone())?;
        let (given, reading) = (Vec::new(), Vec::new());
        Ok(Self { shared, queue, group, member, epoch, waker, seen: None, given, reading, turn: 0, letters_turn: 0 })
    }

    /// Asks the group first.
    async fn news(&mut self) -> Result<Option<Fetch>> {
        loop {
            if !self.given.is_empty() {
                let assigned = self.assigned().await?;
                if !assigned.is_empty() {
                    return Ok(Some(Fetch::Assigned(assigned)));
                }
            }
            let mut groups = self.shared.groups.lock();
            let Some(news) = groups.poll(&self.group, &self.member, self.epoch, self.seen)? else { return Ok(None) };
            if news.released {
                let owned = groups.owned(&self.group, &self.member, self.epoch)?;
                let (kept, given_up) = std::mem::take(&mut self.reading)
                    .into_iter()
                    .partition(|reading| owned.get(&*reading.view.tp) == Some(&reading.view.topic));
                self.reading = kept;
                let given_up: Vec<Reading> = given_up;
                given_up.iter().for_each(|reading| reading.view.forget_waiter(&self.waker));
            }
            match news.event {
                Some(Event::Revoked(mut partitions)) => {
                    self.seen = None;
                    // Of a topic that was deleted before it was told: nobody has it.
                    partitions.retain(|tp| self.reading.iter().any(|reading| *reading.view.tp == *tp));
                    if partitions.is_empty() {
                        continue;
                    }
                    return Ok(Some(Fetch::Revoked(partitions)));
                }
                Some(Event::Assigned(partitions)) => {
                    self.seen = None;
                    self.given = partitions;
                }
                None => {
                    self.seen = Some(news.version);
                    return Ok(None);
                }
            }
        }
    }

    /// Positions are read behind a barrier: the last owner's commits are in, or refused.
    async fn assigned(&mut self) -> Result<Vec<LogPosition>> {
        self.queue.ask(|reply| Ask::Barrier { reply }).await?;
        let mut positions = Vec::new();
        for (tp, id) in std::mem::take(&mut self.given) {
            // A topic that was deleted meanwhile is revoked next.
            let Some(view) = self.shared.view_by_id(id, tp.partition) else { continue };
            let state = self.shared.state.read();
            let stored = state.groups.get(&*self.group).and_then(|topics| topics.get(&id)?.get(&tp.partition)).cloned();
            drop(state);
            let (start, ..) = view.bounds();
            let next = stored.as_ref().map_or(start, |position| position.o.max(start));
            view.wake_on_commit(&self.waker);
            self.reading.push(Reading { view, next });
            let metadata = stored.and_then(|position| position.m);
            positions.push(LogPosition { topic: tp.topic, topic_id: id, partition: tp.partition, offset: next, metadata });
        }
        Ok(positions)
    }

    async fn records(&mut self, max_bytes: usize) -> Result<Option<Batch>> {
        let count = self.reading.len().max(1);
        let order = (0..self.reading.len()).map(|index| (index + self.turn) % count);
        let ready: Vec<(usize, Reading)> = order
            .map(|index| (index, self.reading[index].clone()))
            .filter(|(_, reading)| reading.next < reading.view.end())
            .collect();
        if ready.is_empty() {
            return Ok(None);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || read(&shared, ready, max_bytes)).await;
        let (moved, batch) = read.map_err(|error| Error::retriable("log.io", "a read was cut off").because(error))??;
        for (index, next) in moved {
            self.reading[index].next = next;
        }
        self.turn = self.turn.wrapping_add(1);
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn encode(&mut self, letters: &EncodedBatch) -> Result<Vec<Part>> {
        let shared = &self.shared;
        let topic = |name: &str| shared.catalogue.read().by_name(name).cloned();
        self.letters_turn = self.letters_turn.wrapping_add(1);
        encode::parts(letters, topic, self.letters_turn, shared.now_ms(), || shared.buffer())
    }

    fn leave(&mut self) {
        for reading in self.reading.drain(..) {
            reading.view.forget_waiter(&self.waker);
        }
        let mut groups = self.shared.groups.lock();
        Groups::leave(&mut groups, &self.group, &self.member, self.epoch);
    }
}

type Moved = Vec<(usize, i64)>;

fn read(shared: &Shared, ready: Vec<(usize, Reading)>, max_bytes: usize) -> Result<(Moved, Batch)> {
    let (mut moved, mut out) = (Vec::new(), Batch::new());
    for (index, reading) in ready {
        if out.bytes() >= max_bytes && !moved.is_empty() {
            break;
        }
        match reading.view.read(&shared.files, reading.next, max_bytes - out.bytes().min(max_bytes)) {
            Ok((batch, next)) => {
                moved.push((index, next));
                out.append(batch);
            }
            // The group tells.
            Err(_) if reading.view.is_deleted() => {}
            // What was read of the others first; the error stays where it is.
            Err(_) if !out.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok((moved, out))
}

#[async_trait]
impl LogReader for EmbeddedReader {
    async fn next(&mut self, max_bytes: usize, wait_max: Duration) -> Result<Fetch> {
        let deadline = deadline(wait_max);
        loop {
            self.shared.open()?;
            if let Some(news) = self.news().await? {
                return Ok(news);
            }
            if let Some(batch) = self.records(max_bytes).await? {
                return Ok(Fetch::Records(batch));
            }
            if self.reading.iter().any(|reading| !reading.view.is_deleted() && reading.next < reading.view.end()) {
                continue;
            }
            // A commit or news since the look above has left a permit.
            if timeout_at(deadline, self.waker.notified()).await.is_err() {
                return Ok(Fetch::Idle);
            }
        }
    }

    async fn seek(&mut self, partition: &TopicPartition, offset: i64) -> Result<()> {
        self.shared.groups.lock().owned(&self.group, &self.member, self.epoch)?;
        let reading = self.reading.iter_mut().find(|reading| *reading.view.tp == *partition);
        reading.ok_or_else(|| super::plan::not_assigned(partition))?.next = offset.max(0);
        Ok(())
    }

    async fn commit(&mut self, positions: &[LogPosition], letters: EncodedBatch) -> Result<()> {
        self.shared.open()?;
        let too_long =
            |position: &&LogPosition| position.metadata.as_ref().is_some_and(|metadata| metadata.len() > METADATA_MAX_BYTES);
        if let Some(position) = positions.iter().find(too_long) {
            let message = format!("metadata of {} has more than {METADATA_MAX_BYTES} bytes", position.topic_partition());
            return Err(Error::fatal("log.metadata_too_large", message));
        }
        let position = |position: &LogPosition| NewPosition {
            tp: position.topic_partition(),
            topic: Some(position.topic_id),
            at: Some(Position { o: position.offset, m: position.metadata.clone() }),
        };
        let positions = positions.iter().map(position).collect();
        let (group, member) = (self.group.clone(), Some((self.member.clone(), self.epoch)));
        // Before anything waits or is encoded; the planner asks again, when it counts.
        self.shared.groups.lock().owned(&self.group, &self.member, self.epoch)?;
        let room = self.queue.room(letters.batch().bytes()).await?;
        let letters = self.encode(&letters)?;
        let (reply, answer) = oneshot::channel();
        self.queue.push(Ask::Positions { group, member, positions, letters, reply }, room)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn lag(&self) -> Vec<(TopicPartition, i64)> {
        let alive = self.reading.iter().filter(|reading| !reading.view.is_deleted());
        alive
            .map(|reading| {
                let (start, end, _) = reading.view.bounds();
                (TopicPartition::clone(&reading.view.tp), (end - reading.next.max(start)).max(0))
            })
            .collect()
    }

    async fn close(&mut self) -> Result<()> {
        self.leave();
        Ok(())
    }
}

/// A task that was aborted must not keep its partitions.
impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        self.leave();
    }
}

/// At most a year: `Duration::MAX` would overflow the clock.
pub(crate) fn deadline(wait_max: Duration) -> Instant {
    Instant::now() + wait_max.min(Duration::from_secs(365 * 24 * 3600))
}

/// Committed records of one partition, without a group.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    tp: &TopicPartition,
    from: i64,
    max_bytes: usize,
    wait_max: Duration,
) -> Result<Batch> {
    let (_, view) = shared.view(tp)?;
    let (deadline, waker) = (deadline(wait_max), Arc::new(Notify::new()));
    let mut from = from;
    loop {
        if from < view.end() || view.is_deleted() {
            let (view, shared) = (view.clone(), shared.clone());
            let read = tokio::task::spawn_blocking(move || view.read(&shared.files, from, max_bytes)).await;
            let (batch, next) = read.map_err(|error| Error::retriable("log.io", "a read was cut off").because(error))??;
            if !batch.is_empty() {
                return Ok(batch);
            }
            from = next;
            continue;
        }
        view.wake_on_commit(&waker);
        if from < view.end() {
            continue;
        }
        if shared.open().is_err() {
            return Err(closed());
        }
        let woken = timeout_at(deadline, waker.notified()).await;
        view.forget_waiter(&waker);
        if woken.is_err() {
            return Ok(Batch::new());
        }
    }
}
