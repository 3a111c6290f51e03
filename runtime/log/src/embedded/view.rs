//! A partition as readers see it: committed bytes only, verified before anything is handed out (I10, I16).

use super::buffers;
use super::journal::io_error;
use super::resync::Place;
use super::segment::{Files, Segment, partition_dir};
use super::state::PartitionState;
use crate::record_batch::{Damage, Header, decode_into};
use aqueduct_core::{Batch, Bytes, Error, Result, TopicPartition};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use uuid::Uuid;

/// The least that is read at once: a header and its records come with one call.
const READ_MIN_BYTES: usize = 16 << 10;
/// The most: larger reads gain nothing and hold memory.
const READ_MAX_BYTES: usize = 16 << 20;
/// As many readers of one partition go on where they were without a look at the index.
const HINTS: usize = 8;

pub(crate) struct PartitionView {
    pub(crate) tp: Arc<TopicPartition>,
    pub(crate) topic: Uuid,
    readable: RwLock<Readable>,
    hints: Mutex<Vec<Hint>>,
    waiters: Mutex<Vec<Weak<Notify>>>,
}

#[derive(Default)]
struct Readable {
    start: i64,
    end: i64,
    segments: Vec<Arc<Segment>>,
    deleted: bool,
}

/// The batch with `offset` first begins at `position` of the segment `key`.
#[derive(Clone, Copy)]
struct Hint {
    offset: i64,
    key: u64,
    position: u64,
}

/// So often the index is asked: it, and the one that is made in its place.
const LOOKUPS: usize = 2;

/// What must be true of the next batch's header: Kafka's CRC does not cover the base offset.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    First(i64),
    Last(i64),
}

impl PartitionView {
    pub(crate) fn new(topic: &str, partition: i32, id: Uuid) -> Self {
        Self {
            tp: Arc::new(TopicPartition::new(topic, partition)),
            topic: id,
            readable: RwLock::default(),
            hints: Mutex::default(),
            waiters: Mutex::default(),
        }
    }

    /// First offset, next offset, bytes.
    pub(crate) fn bounds(&self) -> (i64, i64, u64) {
        let readable = self.readable.read();
        (readable.start, readable.end, readable.segments.iter().map(|segment| segment.len()).sum())
    }

    pub(crate) fn end(&self) -> i64 {
        self.readable.read().end
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.readable.read().deleted
    }

    pub(crate) fn segment(&self, base: i64) -> Option<Arc<Segment>> {
        self.readable.read().segments.iter().rev().find(|segment| segment.base == base).cloned()
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.readable.read().segments.clone()
    }

    /// Shows what was committed. `fresh` are segments that are new, also in the place of one with the same base. Returns those that are
    /// no part of the log any more; with `true` when another has taken their place and name.
    pub(crate) fn publish(&self, state: &PartitionState, fresh: &[Arc<Segment>]) -> Vec<(Arc<Segment>, bool)> {
        let dir = partition_dir(&self.tp.topic, self.tp.partition);
        let mut gone = Vec::new();
        let mut readable = self.readable.write();
        let mut old = std::mem::take(&mut readable.segments).into_iter().peekable();
        for (index, segment) in state.segments.iter().enumerate() {
            while let Some(before) = old.next_if(|old| old.base < segment.base) {
                gone.push((before, false));
            }
            let known = old.next_if(|old| old.base == segment.base);
            let shown = match (fresh.iter().find(|fresh| fresh.base == segment.base), known) {
                (Some(fresh), known) => {
                    gone.extend(known.filter(|known| known.key != fresh.key).map(|known| (known, true)));
                    fresh.clone()
                }
                (None, Some(known)) => known,
                (None, None) => Arc::new(Segment::new(&dir, segment.base, segment.len, segment.ts)),
            };
            shown.publish(segment.len, state.segment_end(index), segment.ts);
            readable.segments.push(shown);
        }
        gone.extend(old.map(|old| (old, false)));
        (readable.start, readable.end) = (state.start, state.end);
        gone
    }

    pub(crate) fn publish_deleted(&self) {
        *self.readable.write() = Readable { deleted: true, ..Readable::default() };
    }

    pub(crate) fn wake(&self) {
        self.waiters.lock().retain(|waiter| waiter.upgrade().inspect(|waiter| waiter.notify_one()).is_some());
    }

    /// `waiter` keeps a permit from the next commit on, until it is dropped.
    pub(crate) fn wake_on_commit(&self, waiter: &Arc<Notify>) {
        self.waiters.lock().push(Arc::downgrade(waiter));
    }

    pub(crate) fn forget_waiter(&self, waiter: &Arc<Notify>) {
        let waiter = Arc::downgrade(waiter);
        self.waiters.lock().retain(|other| !other.ptr_eq(&waiter) && other.strong_count() > 0);
    }

    /// Committed records from `from` on (or the log start, if that is later): at most about `max_bytes`, at least one where there is one. And the
    /// offset to read on from, which compaction may have moved beyond the last record's. Blocks on the disk.
    ///
    /// # Errors
    /// `log.corrupt`, `log.io`; `log.unknown_topic` when it was deleted.
    pub(crate) fn read(&self, files: &Files, from: i64, max_bytes: usize) -> Result<(Batch, i64)> {
        loop {
            let (start, end, segments) = self.snapshot()?;
            let from = from.max(start);
            let mut out = Batch::new();
            let result = self.read_segments(files, &segments, from, end, max_bytes, &mut out);
            match result {
                // Compaction or retention may have taken the file away underneath: look again.
                Err(_) if self.changed(&segments) => continue,
                other => return other.map(|next| (out, next)),
            }
        }
    }

    /// The first record of this time or later.
    ///
    /// # Errors
    /// As [`PartitionView::read`].
    pub(crate) fn offset_for_timestamp(&self, files: &Files, timestamp: i64) -> Result<Option<i64>> {
        loop {
            let (start, _, segments) = self.snapshot()?;
            match self.find_timestamp(files, &segments, start, timestamp) {
                Err(_) if self.changed(&segments) => continue,
                other => return other,
            }
        }
    }

    fn find_timestamp(&self, files: &Files, segments: &[Arc<Segment>], start: i64, timestamp: i64) -> Result<Option<i64>> {
        for segment in segments.iter().filter(|segment| segment.max_timestamp.load(Ordering::Relaxed) >= timestamp) {
            let find = |astray| {
                let found = if astray == LOOKUPS { Ok((0, None)) } else { segment.lookup_time(files, timestamp) };
                let (position, last) = found.map_err(|error| io_error(&segment.path(), "read", &error))?;
                let expect = last.map_or(Expect::First(segment.base), Expect::Last);
                Ok(Cursor { segment, position, expect, from: start, skip_before: timestamp })
            };
            let found = self.guided(segment, find, |cursor| {
                loop {
                    let mut out = Batch::new();
                    self.read_segment(files, cursor, READ_MIN_BYTES, &mut out)?;
                    if out.is_empty() {
                        return Ok(None);
                    }
                    let found = out.iter().find(|record| record.timestamp().is_some_and(|ts| ts >= timestamp));
                    if let Some((_, offset)) = found.and_then(|record| record.origin()) {
                        return Ok(Some(offset));
                    }
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Acts from where the index leads. It is only a hint: where it leads astray it is made anew, and then the segment's start is taken,
    /// where damage is told for certain.
    fn guided<'a, T>(
        &self,
        segment: &'a Segment,
        find: impl Fn(usize) -> Result<Cursor<'a>>,
        mut act: impl FnMut(&mut Cursor<'a>) -> Result<T>,
    ) -> Result<T> {
        let mut astray = 0;
        loop {
            let mut cursor = find(astray)?;
            match act(&mut cursor) {
                Err(_) if matches!(cursor.expect, Expect::Last(_)) && astray < LOOKUPS => {
                    segment.distrust_index();
                    astray += 1;
                }
                other => return other,
            }
        }
    }

    fn snapshot(&self) -> Result<(i64, i64, Vec<Arc<Segment>>)> {
        let readable = self.readable.read();
        if readable.deleted {
            return Err(unknown_topic(&self.tp.topic));
        }
        Ok((readable.start, readable.end, readable.segments.clone()))
    }

    fn changed(&self, seen: &[Arc<Segment>]) -> bool {
        let readable = self.readable.read();
        readable.deleted || seen.iter().any(|old| !readable.segments.iter().any(|new| new.key == old.key))
    }

    fn read_segments(
        &self,
        files: &Files,
        segments: &[Arc<Segment>],
        from: i64,
        end: i64,
        max_bytes: usize,
        out: &mut Batch,
    ) -> Result<i64> {
        let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1).min(segments.len());
        for segment in &segments[first..] {
            if from >= end {
                break;
            }
            let find = |astray| self.locate(files, segment, from, astray == LOOKUPS);
            let cursor = self.guided(segment, find, |cursor| {
                *out = Batch::new();
                self.read_segment(files, cursor, max_bytes, out)?;
                Ok(Cursor { ..*cursor })
            })?;
            if let (false, Expect::First(offset)) = (out.is_empty(), cursor.expect) {
                self.remember(from, Hint { offset, key: segment.key, position: cursor.position });
                return Ok(offset);
            }
        }
        Ok(from.max(end))
    }

    fn locate<'a>(&self, files: &Files, segment: &'a Segment, from: i64, no_index: bool) -> Result<Cursor<'a>> {
        let cursor = |position, expect| Cursor { segment, position, expect, from, skip_before: i64::MIN };
        if let Some(hint) = self.hints.lock().iter().find(|hint| hint.key == segment.key && hint.offset == from) {
            return Ok(cursor(hint.position, Expect::First(hint.offset)));
        }
        if from <= segment.base || no_index {
            return Ok(cursor(0, Expect::First(segment.base)));
        }
        let (position, last) = segment.lookup(files, from).map_err(|error| io_error(&segment.path(), "read", &error))?;
        Ok(cursor(position, last.map_or(Expect::First(segment.base), Expect::Last)))
    }

    fn remember(&self, from: i64, hint: Hint) {
        let mut hints = self.hints.lock();
        match hints.iter_mut().find(|old| old.offset == from && old.key == hint.key) {
            Some(old) => *old = hint,
            None => {
                if hints.len() == HINTS {
                    hints.remove(0);
                }
                hints.push(hint);
            }
        }
    }

    /// Decodes from the cursor on: one read's worth of batches, or as many reads as it takes to find a record. Moves the cursor behind them.
    fn read_segment(&self, files: &Files, cursor: &mut Cursor<'_>, max_bytes: usize, out: &mut Batch) -> Result<()> {
        let segment = cursor.segment;
        let limit = segment.len();
        let mut want = max_bytes.clamp(READ_MIN_BYTES, READ_MAX_BYTES);
        while cursor.position < limit && out.is_empty() {
            let len = want.min((limit - cursor.position) as usize);
            let mut bytes = buffers::with_room(len);
            let file = files.get(segment);
            if let Err(error) = file.and_then(|file| file.read_at(cursor.position, len, &mut bytes)) {
                if error.kind() != std::io::ErrorKind::NotFound {
                    return Err(io_error(&segment.path(), "read", &error));
                }
                self.pass(files, cursor, &"the file is missing")?;
                continue;
            }
            let short = bytes.len() < len;
            let buffer = buffers::share(bytes);
            let (mut at, mut damage) = (0, None);
            while out.is_empty() || out.bytes() < max_bytes {
                match self.read_batch(cursor, &buffer, at, out) {
                    Ok(None) => break,
                    Ok(Some(header)) => {
                        at += header.bytes;
                        cursor.position += header.bytes as u64;
                        cursor.expect = Expect::First(header.next_offset());
                    }
                    Err(found) => {
                        damage = Some(found);
                        break;
                    }
                }
            }
            // What is sound before the damage is handed out; the next read begins at it.
            if !out.is_empty() {
                break;
            }
            if let Some(damage) = damage {
                self.pass(files, cursor, &damage)?;
            } else if at == 0 && short {
                self.pass(files, cursor, &"the file is shorter than what was committed")?;
            } else if at == 0 {
                let header = Header::parse(&buffer).ok().flatten();
                want = header.map_or(usize::MAX, |header| header.bytes);
                if cursor.position.saturating_add(want as u64) > limit {
                    let torn = Damage::Torn { have: (limit - cursor.position) as usize, need: want };
                    self.pass(files, cursor, &torn)?;
                    want = READ_MIN_BYTES;
                }
            }
        }
        Ok(())
    }

    /// `None` when it is not whole in the buffer.
    fn read_batch(&self, cursor: &Cursor<'_>, buffer: &Bytes, at: usize, out: &mut Batch) -> Result<Option<Header>, Damage> {
        let Some(header) = Header::parse(&buffer[at..])?.filter(|header| at + header.bytes <= buffer.len()) else {
            return Ok(None);
        };
        cursor.check(&header)?;
        if header.last_offset() >= cursor.from && header.max_timestamp >= cursor.skip_before {
            decode_into(buffer, at, &self.tp, cursor.from, out)?;
        } else {
            // Where the next one begins is known only if this one is sound.
            decode_into(buffer, at, &self.tp, 0, &mut Batch::new())?;
        }
        Ok(Some(header))
    }

    /// Goes on behind damage, when what is damaged was not asked for.
    fn pass(&self, files: &Files, cursor: &mut Cursor<'_>, damage: &dyn std::fmt::Display) -> Result<()> {
        let path = cursor.segment.path();
        // Behind an index entry nothing is certain: see `guided`.
        let (at, until) = match cursor.expect {
            Expect::First(offset) => {
                let at = Place { position: cursor.position, offset };
                (at, cursor.segment.resync(files, at).map_err(|error| io_error(&path, "read", &error))?)
            }
            Expect::Last(_) => {
                (Place { position: cursor.position, offset: cursor.from }, Place { position: 0, offset: i64::MAX })
            }
        };
        if cursor.from >= until.offset {
            (cursor.position, cursor.expect) = (until.position, Expect::First(until.offset));
            return Ok(());
        }
        let (TopicPartition { topic, partition }, Place { position, offset }) = (&*self.tp, at);
        let next = until.offset;
        let message = format!(
            "topic {topic}, partition {partition}, offset {offset}: {damage} ({path} at byte {position}); the next good offset is {next}"
        );
        Err(Error::fatal("log.corrupt", message)
            .fix(format!("restore the file from a copy, or set the group's offset to {next}: what can be read goes on there")))
    }
}

struct Cursor<'a> {
    segment: &'a Segment,
    position: u64,
    expect: Expect,
    from: i64,
    /// Batches whose records are all older are not decoded.
    skip_before: i64,
}

impl Cursor<'_> {
    fn check(&self, header: &Header) -> Result<(), Damage> {
        let right = match self.expect {
            Expect::First(offset) => header.base_offset == offset,
            Expect::Last(offset) => header.last_offset() == offset,
        };
        if right { Ok(()) } else { Err(Damage::Malformed("the batch has the wrong offset")) }
    }
}

pub(crate) fn unknown_topic(topic: &str) -> Error {
    Error::fatal("log.unknown_topic", format!("there is no topic {topic:?}")).fix("create it, or correct the name")
}
