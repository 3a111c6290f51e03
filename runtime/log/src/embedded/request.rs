//! What is asked of the commit thread, and the queue to it.

use super::compact::Cleaned;
use super::encode::Part;
use super::shared::{again, closed};
use super::state::Position;
use crate::Store;
use crate::contract::Appended;
use aqueduct_core::{Error, Result, SourceOffset, TaskId, TopicPartition};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

pub(crate) struct Request {
    pub(crate) ask: Ask,
    /// Given back when the request is resolved. `None`: from the log itself.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

pub(crate) enum Ask {
    Append {
        link: Arc<Link>,
        parts: Vec<Part>,
        resume: Vec<SourceOffset>,
        reply: Reply<Appended>,
    },
    Writer {
        task: TaskId,
        reply: Reply<u64>,
    },
    CreateTopic {
        id: Uuid,
        name: String,
        partitions: i32,
        configs: BTreeMap<String, String>,
        reply: Reply<()>,
    },
    DeleteTopic {
        name: String,
        reply: Reply<()>,
    },
    SourceOffsets {
        connector: Arc<str>,
        offsets: Vec<SourceOffset>,
        reply: Reply<()>,
    },
    /// By a member of the group, or by the operator.
    Positions {
        group: Arc<str>,
        member: Option<(Arc<str>, u64)>,
        positions: Vec<NewPosition>,
        /// Dead letters of the records that the positions pass.
        letters: Vec<Part>,
        reply: Reply<()>,
    },
    Entries {
        store: Store,
        entries: Vec<(String, Option<Vec<u8>>)>,
        reply: Reply<()>,
    },
    /// `<base>.log.cleaned` is written and synced, and is to take the place of these segments.
    Compacted {
        topic: Uuid,
        partition: i32,
        cleaned: Cleaned,
        reply: Reply<()>,
    },
    CleanedTo {
        topic: Uuid,
        partition: i32,
        offset: i64,
        reply: Reply<()>,
    },
    /// Resolves when everything before it is.
    Barrier {
        reply: Reply<()>,
    },
}

pub(crate) struct NewPosition {
    pub(crate) tp: TopicPartition,
    /// Which topic of that name is meant, where it matters.
    pub(crate) topic: Option<Uuid>,
    pub(crate) at: Option<Position>,
}

/// Between a writer and its appends in flight.
pub(crate) struct Link {
    pub(crate) task: TaskId,
    pub(crate) key: Arc<str>,
    pub(crate) epoch: u64,
    failed: Mutex<Option<Error>>,
}

impl Link {
    pub(crate) fn new(task: TaskId, epoch: u64) -> Self {
        Self { key: task.to_string().into(), task, epoch, failed: Mutex::default() }
    }

    /// Invariant 3: after a failed append nothing of this writer is taken.
    pub(crate) fn poison(&self, error: &Error) {
        self.failed.lock().get_or_insert_with(|| again(error));
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.failed.lock().as_ref().map_or(Ok(()), |error| Err(again(error)))
    }
}

pub(crate) struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
    room: Arc<Semaphore>,
    room_bytes: usize,
}

#[derive(Default)]
struct Inner {
    requests: VecDeque<Request>,
    closed: bool,
}

/// The least that a request counts for: so their number is bounded too (invariant 6).
const REQUEST_MIN_BYTES: usize = 1 << 10;
/// One round takes no more than this, so that the next is encoded while it syncs.
const ROUND_MAX_BYTES: u64 = 16 << 20;
/// Each may be a file to hold open until it is synced; a process may have 1,024 by default.
const ROUND_MAX_PARTS: usize = 256;

impl Queue {
    pub(crate) fn new(room_bytes: usize) -> Self {
        let room_bytes = room_bytes.clamp(REQUEST_MIN_BYTES, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { inner: Mutex::default(), ready: Condvar::new(), room: Arc::new(Semaphore::new(room_bytes)), room_bytes }
    }

    /// Waits until so many bytes may be in flight; more than there is room for at all count as all of it.
    ///
    /// # Errors
    /// `log.closed`
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let bytes = bytes.clamp(REQUEST_MIN_BYTES, self.room_bytes) as u32;
        self.room.clone().acquire_many_owned(bytes).await.map_err(|_| closed())
    }

    /// # Errors
    /// `log.closed`
    pub(crate) fn push(&self, ask: Ask, room: impl Into<Option<OwnedSemaphorePermit>>) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(closed());
        }
        inner.requests.push_back(Request { ask, room: room.into() });
        self.ready.notify_one();
        Ok(())
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T> {
        let room = self.room(0).await?;
        let (reply, answer) = oneshot::channel();
        self.push(ask(reply), room)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// As [`Queue::ask`], for the log's own threads.
    pub(crate) fn ask_blocking<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.push(ask(reply), None)?;
        answer.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }

    pub(crate) fn bytes_in_flight(&self) -> u64 {
        (self.room_bytes - self.room.available_permits().min(self.room_bytes)) as u64
    }

    /// What the next round is to commit; waits for it until `deadline`. `None` when the queue is closed and empty.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Option<Vec<Request>> {
        let mut inner = self.inner.lock();
        while inner.requests.is_empty() && !inner.closed {
            match deadline {
                Some(deadline) if self.ready.wait_until(&mut inner, deadline).timed_out() => break,
                Some(_) => {}
                None => self.ready.wait(&mut inner),
            }
        }
        if inner.requests.is_empty() && inner.closed {
            return None;
        }
        let (mut bytes, mut parts) = (0, 0);
        let mut taken = Vec::new();
        while let Some(next) = inner.requests.front() {
            parts +=
                if let Ask::Append { parts, .. } | Ask::Positions { letters: parts, .. } = &next.ask { parts.len() } else { 0 };
            bytes += next.room.as_ref().map_or(0, |room| room.num_permits() as u64);
            if (bytes > ROUND_MAX_BYTES || parts > ROUND_MAX_PARTS) && !taken.is_empty() {
                break;
            }
            taken.extend(inner.requests.pop_front());
        }
        Some(taken)
    }

    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }

    /// Lets go of what nobody will answer any more.
    pub(crate) fn abandon(&self) {
        self.close();
        let abandoned = std::mem::take(&mut self.inner.lock().requests);
        drop(abandoned);
    }
}
