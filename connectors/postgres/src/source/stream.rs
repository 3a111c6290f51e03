//! The stream: blocks from the feed become batches, and the position moves along.

use super::feed::{Block, Feed, FeedOptions, Frame, Frames, judge};
use super::monitor::HEARTBEAT;
use super::pgoutput::{self, Message, Old};
use super::position::{self, Kind, Origin, Position, Stored, Tracker};
use super::shape::{At, Known, Row, Shape};
use super::slot;
use super::wire::Wire;
use crate::connection::Connect;
use crate::snapshot::{BATCH_BYTES, Mark, ReadRow, Room, Snapshots};
use crate::source::options::Options;
use crate::table::Cell;
use aqueduct_core::{BatchBuilder, Error, JsonMap, Polled, Result, SourceOffset, TaskContext};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Read ahead of the connector where `max.queue.size.in.bytes` does not say (invariant 6): some 100 ms of a fast server.
const QUEUE_BYTES: usize = 8 << 20;

/// A position that moved without records (other tables, keep-alives) is stored this often: each is an append to the log.
const BARE_OFFSET_EVERY: Duration = Duration::from_secs(1);

pub struct Stream {
    connect: Connect,
    options: Arc<Options>,
    feed: Feed,
    block: Option<Reading>,
    relations: FxHashMap<u32, Known>,
    tracker: Tracker,
    transaction: Option<Transaction>,
    offsets: Offsets,
    /// A batch whose last transaction has not come whole yet.
    held: Option<Gather>,
    /// Of the batch before.
    last_bytes: usize,
    /// Transactions that were too large for one batch.
    split: u64,
    /// What ended the stream behind the last batch.
    failed: Option<Error>,
}

/// What a batch is made with, and who wants to know of changes.
pub struct Desk<'a> {
    pub shape: &'a mut Shape,
    pub snapshots: &'a mut Snapshots,
}

struct Reading {
    block: Block,
    /// Of the next message.
    at: usize,
}

#[derive(Clone, Copy)]
struct Transaction {
    xid: u32,
    /// Of the commit, in microseconds since 1970.
    time: i64,
}

/// What is written as the offset.
struct Offsets {
    partition: JsonMap,
    origin: Origin,
    /// Keys of others in the offset, carried on.
    carried: JsonMap,
    xid: Option<u32>,
    time: Option<i64>,
    moved: bool,
    last: Instant,
}

/// Where and how to begin.
pub struct Start {
    pub position: Position,
    /// What may be told to the server: stored already. 0: nothing.
    pub confirmed: u64,
    pub stored: Option<Stored>,
    pub origin: Origin,
    /// `wal_sender_timeout`; zero: never.
    pub sender_timeout: Duration,
}

impl Stream {
    /// Starts streaming on `wire`.
    ///
    /// # Errors
    /// As [`Wire::start`]: `postgres.in_use` while something else reads the slot.
    pub async fn start(mut wire: Wire, options: Arc<Options>, start: Start) -> Result<Self> {
        let params = options.slot_stream_params.as_deref().map_or(Ok(Vec::new()), slot::stream_params);
        let params = params.map_err(|why| Error::fatal("config.value", format!("slot.stream.params: {why}")))?;
        let publications = [options.publication.clone()];
        let sql = slot::start(&options.slot, start.position.commit, &publications, &params, wire.version);
        wire.start(&sql).await.map_err(|error| taken(error, &options.slot))?;
        let connect = wire.connect.clone();
        let interval = match start.sender_timeout {
            Duration::ZERO => options.status_interval.duration(),
            timeout => options.status_interval.duration().min(timeout / 3),
        };
        let queue = options.queue_bytes.as_usize();
        let feed = FeedOptions {
            status_interval: interval.max(Duration::from_millis(100)),
            queue_bytes: if queue == 0 { QUEUE_BYTES } else { queue },
            confirmed: start.confirmed,
        };
        tracing::info!(slot = options.slot, from = position::lsn(start.position.commit), "streaming");
        let partition = position::partition(&options.topic_prefix);
        let carried = start.stored.map_or_else(JsonMap::new, |stored| carried(&stored.raw));
        Ok(Self {
            feed: Feed::spawn(wire, &feed),
            block: None,
            relations: FxHashMap::default(),
            tracker: Tracker::new(start.position),
            transaction: None,
            offsets: Offsets {
                partition,
                origin: start.origin,
                carried,
                xid: None,
                time: None,
                moved: false,
                last: Instant::now(),
            },
            held: None,
            last_bytes: 0,
            split: 0,
            failed: None,
            connect,
            options,
        })
    }

    /// As `SourceTask::poll`.
    ///
    /// # Errors
    /// `postgres.*`
    pub async fn poll(&mut self, cx: &TaskContext, desk: &mut Desk<'_>) -> Result<Polled> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let deadline = Instant::now() + cx.wait_max;
        let mut out = self.held.take().unwrap_or_else(|| Gather::new(cx, self.last_bytes));
        while !out.is_full() {
            let outcome = match self.next_block(&out, deadline, cx, desk).await {
                Ok(true) => self.consume(&mut out, desk).await,
                Ok(false) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return self.whole_before(error, out, desk);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        if out.open.is_some() {
            if !out.is_full() {
                // The server sends a transaction in one go once it is committed: its end is on the way. Half of it is not handed over.
                self.held = Some(out);
                return Ok(Polled::default());
            }
            self.split += 1;
        }
        self.read_beside(&mut out, desk).await?;
        if let Some(heartbeat) = desk.shape.heartbeat() {
            out.batch.push(heartbeat);
            // Who asks for heartbeats wants to see offsets that move, as Debezium's do.
            self.offsets.moved = true;
        }
        self.offsets.moved |= desk.snapshots.take_paused_changed();
        let mut resume = desk.snapshots.take_offsets();
        let (bare, now) = (out.batch.is_empty() && resume.is_empty(), Instant::now());
        if self.offsets.moved && (!bare || now - self.offsets.last >= BARE_OFFSET_EVERY) {
            self.offsets.moved = false;
            self.offsets.last = now;
            resume.push(self.offset(desk.snapshots, desk.shape));
        }
        let batch = out.batch.finish();
        self.last_bytes = batch.bytes();
        Ok(Polled { batch, resume })
    }

    /// What came before a fault: its transactions that are whole are not lost with it, and of the last one no half is handed over. The stream has ended.
    fn whole_before(&mut self, error: Error, out: Gather, desk: &mut Desk<'_>) -> Result<Polled> {
        let mut batch = out.batch.finish();
        if let Some(open) = out.open {
            batch = batch.slice(0..open.records);
            (self.offsets.xid, self.offsets.time) = (open.xid, open.time);
            self.tracker.back();
        }
        if batch.is_empty() {
            return Err(error);
        }
        self.failed = Some(error);
        let mut resume = desk.snapshots.take_offsets();
        resume.push(self.offset(desk.snapshots, desk.shape));
        Ok(Polled { batch, resume })
    }

    /// Transactions so far that were handed over in more than one batch.
    pub fn split(&self) -> u64 {
        self.split
    }

    /// Rows of chunks that may follow what was streamed so far.
    async fn read_beside(&mut self, out: &mut Gather, desk: &mut Desk<'_>) -> Result<()> {
        let (records, bytes) = (out.max_records.saturating_sub(1), out.bytes);
        if out.batch.len() >= records || out.batch.bytes() >= bytes || self.failed.is_some() {
            return Ok(());
        }
        let position = self.tracker.position().commit;
        desk.shape.tick();
        desk.shape.last_commit = Some(self.tracker.last_commit());
        let at = ReadRow { mark: Mark::Incremental, lsn: position, xid: None, time_micros: desk.shape.now_micros() };
        desk.snapshots.advance(position, at, desk.shape, Room { bytes, records }, &mut out.batch).await
    }

    /// Between two transactions, with nothing to skip.
    pub fn is_between(&self) -> bool {
        self.tracker.idle()
    }

    /// The log holds everything up to these (invariant 1). Returns what that confirms.
    pub fn commit(&mut self, durable: &[SourceOffset]) -> Option<u64> {
        let ours = durable.iter().rev().find(|offset| offset.partition == self.offsets.partition)?;
        let commit = Stored::read(ours.offset.as_ref()?).position.commit;
        if self.options.confirms() {
            self.feed.confirm(commit);
        }
        Some(commit)
    }

    /// Where the stream stands: everything before was returned by [`Stream::poll`].
    pub fn offset(&self, snapshots: &Snapshots, shape: &Shape) -> SourceOffset {
        let Offsets { partition, origin, carried, xid, time, .. } = &self.offsets;
        let mut offset = position::offset(self.tracker.position(), *xid, *time, origin);
        for (key, value) in carried {
            offset.entry(key.clone()).or_insert_with(|| value.clone());
        }
        if self.tracker.position().inside.is_some() {
            offset.extend(shape.transaction_offset());
        }
        snapshots.decorate(&mut offset);
        SourceOffset { partition: partition.clone(), offset: Some(offset) }
    }

    /// Tells the server what is confirmed and ends the session.
    pub async fn close(self) {
        self.feed.close().await;
    }

    /// True when there is a block to read; false when the batch should be handed over as it is.
    async fn next_block(&mut self, out: &Gather, deadline: Instant, cx: &TaskContext, desk: &mut Desk<'_>) -> Result<bool> {
        if self.block.is_some() {
            return Ok(true);
        }
        let open = out.open.is_some();
        let next = match self.feed.ready() {
            Some(block) => Some(block),
            None if !out.batch.is_empty() && !open => return Ok(false),
            None => tokio::select! {
                biased;
                block = self.feed.next() => block,
                () = cx.interrupt.cancelled() => return Ok(false),
                () = desk.snapshots.changed(), if !open => return Ok(false),
                () = tokio::time::sleep_until(deadline) => return Ok(false),
            },
        };
        let block = next.unwrap_or_else(|| Err(self.connect.unreachable("the stream has ended")))?;
        self.block = Some(Reading { block, at: 0 });
        Ok(true)
    }

    /// Reads the block at hand to its end, or until the batch is full.
    async fn consume(&mut self, out: &mut Gather, desk: &mut Desk<'_>) -> Result<()> {
        let Some(mut reading) = self.block.take() else { return Ok(()) };
        desk.shape.tick();
        let bytes = reading.block.bytes.clone();
        let mut frames = Frames(&bytes[reading.at..]);
        while !out.is_full() {
            let Some(frame) = frames.next() else { return Ok(()) };
            match frame {
                Frame::Data { lsn, body } => {
                    let message = pgoutput::decode(body, false).map_err(|bad| self.malformed(&bad))?;
                    match message {
                        Message::Relation(relation) => {
                            let known = desk.shape.describe(&relation).await?;
                            if known.is_captured() {
                                desk.snapshots.learn(&known.table);
                            }
                            self.relations.insert(relation.oid, known);
                        }
                        Message::Begin { .. } => {
                            let open = out.begin(&self.offsets);
                            self.apply(lsn, message, out, desk)?;
                            // Of one that is skipped, or was begun before a restart, there is nothing to keep together.
                            out.open = self.tracker.is_new().then_some(open);
                        }
                        Message::Commit { .. } => {
                            self.apply(lsn, message, out, desk)?;
                            out.open = None;
                        }
                        message => {
                            if let Message::Insert { relation, new } | Message::Update { relation, new, .. } = &message
                                && let Some(known) = self.relations.get_mut(relation)
                                && known.has_new_label(new)
                            {
                                desk.shape.relabel(known, new).await?;
                            }
                            self.apply(lsn, message, out, desk)?;
                        }
                    }
                }
                Frame::KeepAlive { lsn, .. } => {
                    if self.tracker.keep_alive(lsn) {
                        self.offsets.moved = true;
                    }
                }
                Frame::Other { tag, message } => judge(&self.connect, tag, message)?,
            }
            reading.at = bytes.len() - frames.0.len();
        }
        self.block = (reading.at < bytes.len()).then_some(reading);
        Ok(())
    }

    fn malformed(&self, bad: &pgoutput::Malformed) -> Error {
        Error::fatal("postgres.protocol", format!("{}: {bad}", self.connect.place()))
            .fix("Check slot.stream.params; if there are none, this is a fault of Aqueduct: please report it.")
    }

    fn apply(&mut self, lsn: u64, message: Message<'_>, out: &mut Gather, desk: &mut Desk<'_>) -> Result<()> {
        let row = |kind, old, new| Row { kind, old, new };
        match message {
            Message::Begin { final_lsn, time, xid } => {
                self.transaction = Some(Transaction { xid, time });
                desk.shape.no_origin();
                let new = self.tracker.begin(lsn, final_lsn, xid);
                if self.tracker.follows() {
                    let at = self.at(lsn);
                    desk.shape.begin(xid, &at, out.batch_if(new));
                }
                self.take(new);
            }
            Message::Commit { end_lsn, .. } => {
                let at = self.at(end_lsn);
                let new = self.tracker.commit(end_lsn);
                desk.shape.commit(&at, out.batch_if(new));
                self.take(new);
                self.transaction = None;
            }
            Message::Insert { relation, new } => self.row(lsn, relation, &row(Kind::Insert, None, Some(&new)), out, desk)?,
            Message::Update { relation, old, new } => {
                self.row(lsn, relation, &row(Kind::Update, cells(&old), Some(&new)), out, desk)?;
            }
            Message::Delete { relation, old } => self.row(lsn, relation, &row(Kind::Delete, cells(&old), None), out, desk)?,
            Message::Truncate { relations, .. } => {
                let new = self.tracker.event(lsn, Kind::Truncate);
                for relation in relations {
                    self.change(lsn, relation, &row(Kind::Truncate, None, None), out.batch_if(new), desk)?;
                }
                self.take(new);
            }
            Message::Logical { transactional, lsn: message_lsn, prefix, content } => {
                let new = if transactional { self.tracker.event(lsn, Kind::Message) } else { self.tracker.lone_message(lsn) };
                if prefix != HEARTBEAT && (new || desk.shape.counts()) {
                    let at = self.at(message_lsn);
                    desk.shape.message(prefix, content, &at, out.batch_if(new));
                }
                self.take(new);
            }
            // An enum may have new labels: it is read again for the Relation that follows.
            Message::Type { oid } => desk.shape.forget_type(oid),
            Message::Origin { lsn, name } => desk.shape.came_from(name, lsn),
            Message::Relation(_) => {}
            Message::StreamStart { .. } | Message::StreamStop | Message::StreamCommit { .. } | Message::StreamAbort { .. } => {
                return Err(self.malformed(&pgoutput::Malformed::Unknown(b'S')));
            }
        }
        Ok(())
    }

    fn row(&mut self, lsn: u64, relation: u32, row: &Row<'_>, out: &mut Gather, desk: &mut Desk<'_>) -> Result<()> {
        let new = self.tracker.event(lsn, row.kind);
        self.change(lsn, relation, row, out.batch_if(new), desk)?;
        self.take(new);
        Ok(())
    }

    /// `out`: where the change is new.
    fn change(
        &mut self,
        lsn: u64,
        relation: u32,
        row: &Row<'_>,
        out: Option<&mut BatchBuilder>,
        desk: &mut Desk<'_>,
    ) -> Result<()> {
        let at = self.at(lsn);
        let known = self.relations.get(&relation).ok_or_else(|| unknown(&self.connect, relation))?;
        let xid = at.xid.unwrap_or(0);
        if known.is_captured() {
            match row.kind {
                Kind::Truncate => desk.snapshots.truncate(&known.table, xid),
                _ => desk.snapshots.change(&known.table, xid, row.old, row.new),
            }
        }
        if known.signals && out.is_some() && row.kind == Kind::Insert {
            signal(desk.snapshots, row.new.unwrap_or_default());
        }
        if out.is_some() || desk.shape.counts() {
            desk.shape.change(known, row, &at, out)?;
        }
        Ok(())
    }

    /// The position moves with an event that is new.
    fn take(&mut self, new: bool) {
        if new {
            self.offsets.moved = true;
            self.offsets.xid = self.transaction.map(|transaction| transaction.xid);
            self.offsets.time = self.transaction.map(|transaction| transaction.time);
        }
    }

    fn at(&self, lsn: u64) -> At {
        At {
            lsn,
            last_commit: Some(self.tracker.last_commit()).filter(|lsn| *lsn != 0),
            xid: self.transaction.map(|transaction| transaction.xid),
            time_micros: self.transaction.map(|transaction| transaction.time),
        }
    }
}

struct Gather {
    batch: BatchBuilder,
    /// From here on it ends between two transactions.
    bytes: usize,
    /// From here on it ends within one (invariant 6). A transaction of half of this always comes whole.
    max_bytes: usize,
    max_records: usize,
    /// The transaction that goes on, where its beginning is in this batch.
    open: Option<Open>,
}

struct Open {
    /// Of the batch, before it.
    records: usize,
    xid: Option<u32>,
    time: Option<i64>,
}

/// A change of a primary key makes three records: a delete, a tombstone, an insert. They stay together.
const RECORDS_OF_AN_EVENT: usize = 3;

impl Gather {
    fn new(cx: &TaskContext, likely_bytes: usize) -> Self {
        let bytes = cx.max_bytes.min(BATCH_BYTES);
        let max_bytes = (2 * bytes).min(cx.max_bytes);
        Self {
            batch: BatchBuilder::with_capacity(likely_bytes.min(max_bytes)),
            bytes,
            max_bytes,
            max_records: cx.max_records,
            open: None,
        }
    }

    /// For the records of an event that is new.
    fn batch_if(&mut self, new: bool) -> Option<&mut BatchBuilder> {
        new.then_some(&mut self.batch)
    }

    fn is_full(&self) -> bool {
        let records = self.batch.len();
        let bytes = if self.open.is_some() { self.max_bytes } else { self.bytes };
        records > 0 && (records + RECORDS_OF_AN_EVENT > self.max_records || self.batch.bytes() >= bytes)
    }

    fn begin(&self, before: &Offsets) -> Open {
        Open { records: self.batch.len(), xid: before.xid, time: before.time }
    }
}

fn cells<'a, 'b>(old: &'b Old<'a>) -> Option<&'b [Cell<'a>]> {
    match old {
        Old::None => None,
        Old::Key(cells) | Old::Full(cells) => Some(cells),
    }
}

/// A row of the signal table: `(id, type, data)`.
fn signal(snapshots: &mut Snapshots, row: &[Cell<'_>]) {
    let text = |index: usize| match row.get(index) {
        Some(Cell::Text(text)) => String::from_utf8_lossy(text),
        _ => "".into(),
    };
    snapshots.signal_row(&text(0), &text(1), &text(2));
}

fn unknown(connect: &Connect, relation: u32) -> Error {
    Error::retriable(
        "postgres.protocol",
        format!("{}: a change of the relation {relation}, which was not announced", connect.place()),
    )
}

/// Keys that other parts keep in the offset.
fn carried(raw: &JsonMap) -> JsonMap {
    let others = |key: &str| key.starts_with("incremental_snapshot_");
    raw.iter().filter(|(key, _)| others(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn taken(error: Error, slot: &str) -> Error {
    if error.code() != "postgres.in_use" {
        return error;
    }
    Error::retriable("postgres.in_use", error.message().to_owned()).fix(format!(
        "One connector per slot: find the other reader (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}';) and stop it, or give this \
         connector another slot.name. A reader that crashed is let go after the server's wal_sender_timeout."
    ))
}
