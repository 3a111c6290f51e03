//! The task that owns the replication socket: it reads ahead within a budget of bytes, answers keep-alives at once whatever the connector is doing,
//! and tells the server what is confirmed.

use super::wire::{Socket, Way, Wire, refusal};
use crate::connection::{Connect, Refusal};
use aqueduct_core::{Error, Result};
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::frontend::{self, CopyData};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// One read of the socket. Large enough that a busy server costs few calls, small enough that a handful of them is a small queue.
const READ_BYTES: usize = 256 << 10;

/// A row is at most 1 GiB in Postgres; one that does not fit here could not be appended to a log either (64 MiB a record).
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A read that brought less found nothing more. Asking again would find the next message, just sent, and so on: a walsender pays most for what is read
/// while it sends (23 µs of its time for a transaction of one row, 13 to 18 where it was left alone in between).
const REMNANT_BYTES: usize = 16 << 10;

/// A walsender sends each message by itself: whoever reads at once wakes up for every other row and commits a handful at a time. Where less than
/// this much was there, more is let come before the next read, which the receive buffer holds without stopping the server.
const LITTLE_BYTES: usize = 128 << 10;

/// What a change may wait for the ones behind it. Small beside an fdatasync on a disk in use.
const REST: Duration = Duration::from_millis(2);

/// The buffer of a Unix socket is the sender's and holds some 70 small transactions: then it waits.
const REST_UNIX: Duration = Duration::from_millis(1);

/// On one machine the kernel does the receiver's work in the sender's call, for each message: unless the window is full, or as much as the congestion
/// window allows is not acknowledged. Then a message is only put behind the others in the sender's buffer, and all go as one when the window opens.
/// Reading seldom gets there: 10 to 14 µs of a walsender's time for a transaction, where it is 24 with [`REST`] or with 5 ms.
const REST_BUSY: Duration = Duration::from_millis(20);

/// Of a server that is busy: some 15,000 small transactions a second, or a large one. Those wait [`REST_BUSY`], others never do.
const BUSY_BYTES_PER_SECOND: u128 = 4 << 20;

/// A moved confirmation is told within this time; more often would be a packet for each commit.
const CONFIRM_WITHIN: Duration = Duration::from_millis(100);

/// The least a block takes of the budget, so that their number is bounded too.
const BLOCK_COST_MIN: usize = 4 << 10;

/// A server that says nothing for this long, though asked to, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Whole backend messages, as they came.
pub struct Block {
    pub bytes: Bytes,
    /// What it takes of the queue's budget, given back when the block is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

/// The reading end. Dropping it ends the socket's task.
pub struct Feed {
    blocks: mpsc::Receiver<Result<Block>>,
    confirmed: watch::Sender<u64>,
    stop: CancellationToken,
    task: Option<AbortOnDropHandle<()>>,
}

pub struct FeedOptions {
    /// `status.update.interval.ms`, made shorter where the server's `wal_sender_timeout` asks for it.
    pub status_interval: Duration,
    /// What may be read ahead, in bytes (invariant 6).
    pub queue_bytes: usize,
    /// What is confirmed already.
    pub confirmed: u64,
}

impl Feed {
    /// Takes over a connection on which the server began to stream.
    pub fn spawn(wire: Wire, options: &FeedOptions) -> Self {
        let room = options.queue_bytes.clamp(READ_BYTES, u32::MAX as usize);
        // One place more than the budget has room for, and one for the error at the end: sending never waits, so keep-alives are never late.
        let (sender, blocks) = mpsc::channel(room / BLOCK_COST_MIN + 2);
        let (confirmed, told) = watch::channel(options.confirmed);
        let stop = CancellationToken::new();
        let io = Io {
            wire,
            blocks: sender,
            told,
            stop: stop.clone(),
            interval: options.status_interval,
            room: Arc::new(Semaphore::new(room)),
            room_bytes: room,
            received: options.confirmed,
            last_status: Instant::now(),
            last_told: 0,
            heard: Instant::now(),
            gathered: 0,
            drained: Instant::now(),
            rest: None,
        };
        #[allow(clippy::disallowed_methods, reason = "the feed owns the handle, ends it in close and aborts it when dropped")]
        let task = tokio::spawn(io.run());
        Self { blocks, confirmed, stop, task: Some(AbortOnDropHandle::new(task)) }
    }

    /// The next block; `None` once the socket's task has ended and its error was handed over. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Block>> {
        self.blocks.recv().await
    }

    /// A block that is there already.
    pub fn ready(&mut self) -> Option<Result<Block>> {
        self.blocks.try_recv().ok()
    }

    /// Everything before `lsn` is durable in the log (invariant 1). Never goes back.
    pub fn confirm(&self, lsn: u64) {
        self.confirmed.send_if_modified(|known| {
            let newer = lsn > *known;
            *known = lsn.max(*known);
            newer
        });
    }

    /// Tells the server what is confirmed, and ends the session in order.
    pub async fn close(mut self) {
        self.stop.cancel();
        self.blocks.close();
        if let Some(task) = self.task.take() {
            // The server may be frozen: the socket is not waited for longer than a moment.
            let _ = tokio::time::timeout(Duration::from_secs(2), task).await;
        }
    }
}

struct Io {
    wire: Wire,
    blocks: mpsc::Sender<Result<Block>>,
    told: watch::Receiver<u64>,
    stop: CancellationToken,
    interval: Duration,
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// The last position heard of: what is reported as written.
    received: u64,
    last_status: Instant,
    last_told: u64,
    heard: Instant,
    /// Bytes that were read since the last time that none were there.
    gathered: usize,
    /// When none were there last.
    drained: Instant,
    /// Nothing is read before.
    rest: Option<Instant>,
}

enum Next {
    Stop,
    Due,
    Told,
    Read(usize),
    /// Nothing is there to be read any more.
    Drained,
    Rested,
    Room(OwnedSemaphorePermit),
    Failed(Error),
}

impl Io {
    async fn run(mut self) {
        if let Err(error) = self.stream().await {
            // Whoever would read it may have gone.
            let _ = self.blocks.send(Err(error)).await;
        }
    }

    async fn stream(&mut self) -> Result<()> {
        let mut waiting: Option<Bytes> = None;
        loop {
            if waiting.is_none() {
                waiting = self.take_whole()?;
                if waiting.is_some() {
                    self.note(waiting.as_deref().unwrap_or_default()).await?;
                }
            }
            match self.next(waiting.as_ref().map(Bytes::len)).await {
                Next::Stop => return self.finish().await,
                Next::Due => {
                    let quiet = waiting.is_none() && self.heard.elapsed() >= self.interval;
                    if quiet && self.heard.elapsed() > SILENCE_MAX.max(self.interval * 4) {
                        return Err(self.wire.connect.unreachable(format!("no word for {} s", self.heard.elapsed().as_secs())));
                    }
                    self.status(quiet).await?;
                }
                Next::Told => self.status(false).await?,
                Next::Read(0) => return Err(self.wire.connect.unreachable("the server closed the connection")),
                Next::Read(len) => {
                    self.heard = Instant::now();
                    self.gathered += len;
                    // What TLS hands over ends with what it has read itself.
                    if len < REMNANT_BYTES && !self.wire.socket.is_tls() {
                        self.drained();
                    }
                }
                Next::Drained => self.drained(),
                Next::Rested => self.rest = None,
                Next::Room(permit) => {
                    let block = waiting.take().map(|bytes| Block { bytes, _room: Some(permit) });
                    if let Some(block) = block
                        && self.blocks.send(Ok(block)).await.is_err()
                    {
                        return self.finish().await;
                    }
                    // Time that was spent waiting for room is no silence of the server's.
                    self.heard = Instant::now();
                }
                Next::Failed(error) => return Err(error),
            }
        }
    }

    fn drained(&mut self) {
        let now = Instant::now();
        if let Some(rest) = rest(self.wire.socket.way(), self.gathered, now - self.drained) {
            self.rest = Some(now + rest);
            self.wire.socket.hush();
        }
        (self.gathered, self.drained) = (0, now);
    }

    /// Waits for the first thing to do. With a block at hand it waits for room instead of reading: that is the backpressure.
    async fn next(&mut self, waiting: Option<usize>) -> Next {
        let due = self.last_status + self.interval;
        let soon = self.last_status + CONFIRM_WITHIN;
        let untold = *self.told.borrow() > self.last_told;
        let need = waiting.unwrap_or(0).clamp(BLOCK_COST_MIN, self.room_bytes) as u32;
        let gathered = self.gathered;
        let input = &mut self.wire.input;
        if waiting.is_none() && input.capacity() - input.len() < READ_BYTES / 4 {
            input.reserve(READ_BYTES);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Next::Stop,
            permit = self.room.clone().acquire_many_owned(need), if waiting.is_some() => match permit {
                Ok(permit) => Next::Room(permit),
                Err(_) => Next::Stop,
            },
            () = tokio::time::sleep_until(soon), if untold => Next::Told,
            () = tokio::time::sleep_until(due) => Next::Due,
            changed = self.told.changed(), if !untold => if changed.is_err() { Next::Stop } else { Next::Told },
            () = tokio::time::sleep_until(self.rest.unwrap_or(due)), if self.rest.is_some() && waiting.is_none() => Next::Rested,
            read = read(&mut self.wire.socket, input, gathered > 0), if waiting.is_none() && self.rest.is_none() => match read {
                Some(Ok(len)) => Next::Read(len),
                Some(Err(error)) => Next::Failed(self.wire.connect.unreachable(error)),
                None => Next::Drained,
            },
        }
    }

    /// The whole messages at the front of what was read, without a copy.
    fn take_whole(&mut self) -> Result<Option<Bytes>> {
        let input = &mut self.wire.input;
        let mut end = 0;
        while let Some(header) = Header::parse(&input[end..]).map_err(|error| broken(&self.wire.connect, error))? {
            let len = header.len().cast_unsigned() as usize + 1;
            if len > MESSAGE_BYTES_MAX {
                let what = format!(
                    "{}: a change of {} MiB; {} MiB is the limit",
                    self.wire.connect.place(),
                    len >> 20,
                    MESSAGE_BYTES_MAX >> 20
                );
                return Err(Error::fatal("postgres.row_too_large", what)
                    .fix("Leave the large column out of the publication, or the table out of table.include.list."));
            }
            if input.len() - end < len {
                if end == 0 {
                    input.reserve(len - input.len());
                }
                break;
            }
            end += len;
        }
        Ok((end > 0).then(|| input.split_to(end).freeze()))
    }

    /// Looks only at what this task must act on: keep-alives and the position.
    async fn note(&mut self, block: &[u8]) -> Result<()> {
        let mut reply = false;
        for message in Frames(block) {
            match message {
                Frame::Data { lsn, .. } => self.received = self.received.max(lsn),
                Frame::KeepAlive { lsn, reply: wanted } => {
                    self.received = self.received.max(lsn);
                    reply |= wanted;
                }
                Frame::Other { .. } => {}
            }
        }
        if reply { self.status(false).await } else { Ok(()) }
    }

    async fn status(&mut self, ask: bool) -> Result<()> {
        let confirmed = *self.told.borrow_and_update();
        self.last_told = confirmed;
        let mut body = BytesMut::with_capacity(34);
        body.extend_from_slice(b"r");
        for lsn in [self.received.max(confirmed), confirmed, confirmed] {
            body.extend_from_slice(&lsn.to_be_bytes());
        }
        let micros =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64) - 946_684_800_000_000;
        body.extend_from_slice(&micros.to_be_bytes());
        body.extend_from_slice(&[u8::from(ask)]);
        let mut output = BytesMut::with_capacity(48);
        let copy = CopyData::new(body.freeze()).map_err(|error| self.wire.connect.unreachable(error))?;
        copy.write(&mut output);
        let sent = async {
            self.wire.socket.write_all(&output).await?;
            self.wire.socket.flush().await
        };
        sent.await.map_err(|error| self.wire.connect.unreachable(error))?;
        self.last_status = Instant::now();
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.status(false).await?;
        let mut output = BytesMut::new();
        frontend::copy_done(&mut output);
        frontend::terminate(&mut output);
        // The server may have gone first.
        let _ = self.wire.socket.write_all(&output).await;
        let _ = self.wire.socket.shutdown().await;
        Ok(())
    }
}

/// How long the socket is left alone after nothing was there any more. `gathered`: bytes in the time `since` nothing was there before.
fn rest(way: Way, gathered: usize, since: Duration) -> Option<Duration> {
    let busy = gathered as u128 * 1_000_000 >= BUSY_BYTES_PER_SECOND * since.as_micros();
    match way {
        Way::Local => Some(if busy { REST_BUSY } else { REST }),
        Way::Unix => (gathered < LITTLE_BYTES).then_some(REST_UNIX),
        Way::Net => (gathered < LITTLE_BYTES).then_some(REST),
    }
}

/// `None`: nothing is there, and it is not to be waited for.
async fn read(socket: &mut Socket, input: &mut BytesMut, at_once: bool) -> Option<std::io::Result<usize>> {
    if at_once { poll_immediate(socket.read_buf(input)).await } else { Some(socket.read_buf(input).await) }
}

/// One message of a [`Block`].
#[derive(Debug, PartialEq)]
pub enum Frame<'a> {
    /// XLogData: where the change is, and the output plugin's message.
    Data { lsn: u64, body: &'a [u8] },
    KeepAlive {
        /// The server has sent everything before it.
        lsn: u64,
        reply: bool,
    },
    /// Anything else, with its header.
    Other { tag: u8, message: &'a [u8] },
}

/// Walks over the messages of a block. A message that is cut short ends the walk: blocks hold whole ones.
pub struct Frames<'a>(pub &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let header = Header::parse(self.0).ok().flatten()?;
        let (message, rest) = self.0.split_at_checked(header.len().cast_unsigned() as usize + 1)?;
        self.0 = rest;
        let number = |at: usize| message.get(at..at + 8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap_or_default()));
        Some(match (header.tag(), message.get(5)) {
            (b'd', Some(b'w')) if message.len() >= 30 => Frame::Data { lsn: number(6)?, body: &message[30..] },
            (b'd', Some(b'k')) if message.len() >= 23 => Frame::KeepAlive { lsn: number(6)?, reply: message[22] == 1 },
            (tag, _) => Frame::Other { tag, message },
        })
    }
}

/// What a message that is no data means to the stream: errors and the end of it.
///
/// # Errors
/// As [`Connect::refused`]; `postgres.unavailable` when the server ends the stream.
pub fn judge(connect: &Connect, tag: u8, message: &[u8]) -> Result<()> {
    match tag {
        b'E' => match Message::parse(&mut BytesMut::from(message)) {
            Ok(Some(Message::ErrorResponse(body))) => Err(stream_error(connect, &refusal(body.fields()))),
            _ => Err(broken(connect, "an error that cannot be read")),
        },
        // CopyDone: a server that shuts down in order ends the stream so.
        b'c' | b'C' => Err(Error::retriable("postgres.unavailable", format!("{} ended the stream", connect.place()))),
        _ => Ok(()),
    }
}

fn stream_error(connect: &Connect, refusal: &Refusal) -> Error {
    connect.refused("go on streaming", refusal)
}

fn broken(connect: &Connect, why: impl std::fmt::Display) -> Error {
    Error::retriable("postgres.protocol", format!("{} does not speak as a Postgres server does: {why}", connect.place()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        [vec![tag], ((body.len() + 4) as u32).to_be_bytes().to_vec(), body.to_vec()].concat()
    }

    #[test]
    fn frames_are_told_apart() {
        let data = frame(b'd', &[b"w".to_vec(), 7u64.to_be_bytes().to_vec(), vec![0; 16], b"Bxyz".to_vec()].concat());
        let alive = frame(b'd', &[b"k".to_vec(), 9u64.to_be_bytes().to_vec(), vec![0; 8], vec![1]].concat());
        let block = [data, alive, frame(b'N', b"x")].concat();
        let frames: Vec<_> = Frames(&block).collect();
        assert_eq!(frames[0], Frame::Data { lsn: 7, body: b"Bxyz" });
        assert_eq!(frames[1], Frame::KeepAlive { lsn: 9, reply: true });
        assert!(matches!(frames[2], Frame::Other { tag: b'N', .. }));
        assert_eq!(frames.len(), 3);
    }

    #[test]
    fn only_who_sends_much_on_one_machine_is_left_alone_for_long() {
        let ms = Duration::from_millis;
        assert_eq!(rest(Way::Local, 250, ms(10)), Some(REST));
        assert_eq!(rest(Way::Local, 20 << 10, ms(4)), Some(REST_BUSY));
        assert_eq!(rest(Way::Local, 1 << 20, ms(25)), Some(REST_BUSY));
        assert_eq!(rest(Way::Local, 1 << 20, ms(1000)), Some(REST));
        assert_eq!(rest(Way::Net, 100 << 10, ms(4)), Some(REST));
        assert_eq!((rest(Way::Net, 1 << 20, ms(4)), rest(Way::Unix, 1 << 20, ms(4))), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for frame in Frames(&bytes) {
                if let Frame::Data { body, .. } = frame {
                    prop_assert!(body.len() < bytes.len());
                }
            }
        }
    }
}
