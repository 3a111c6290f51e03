//! The reading: files in turn, one block at a time, into one batch. Blocking; the task runs it beside the worker.

use super::copies::Waiting;
use super::foreign::Foreign;
use super::identity::{FileId, Kind};
use super::lines::{Block, ENTRY_BYTES, Emit, Flush, split};
use super::position::{Remembered, chain_json, literal_partition};
use super::reader::{Buffer, Codec, POOL_BYTES, Reader};
use super::settings::{Settings, line_too_long};
use super::tracked::{Key, Tracked};
use super::watch::Watch;
use aqueduct_core::{Batch, Bytes, Error, JsonMap, Polled, Result, SourceOffset, Span};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// One read: large enough that the call does not count, small enough for the processor's cache.
const BLOCK_BYTES: usize = 1 << 20;
/// Below this a block is not worth a read when the batch holds records already.
const ROOM_MIN: usize = 4096;
/// Until another file is closed.
const BLOCKED_WAIT: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) records: usize,
}

pub(crate) struct Tailer {
    pub(crate) settings: Arc<Settings>,
    pub(crate) files: FxHashMap<Key, Tracked>,
    pub(crate) by_inode: FxHashMap<(u64, u64), Key>,
    pub(crate) by_path: FxHashMap<PathBuf, Key>,
    /// Every path where a file was.
    pub(crate) bases: FxHashSet<PathBuf>,
    /// Files that may have something to read, each once.
    queue: VecDeque<Key>,
    /// Files that have something to do when time has passed.
    pub(crate) pending: FxHashSet<Key>,
    /// Open files, least recently used first, more or less.
    open: VecDeque<Key>,
    /// Files whose offset is part of the next batch.
    pub(crate) touched: FxHashSet<Key>,
    pub(crate) offsets: Vec<SourceOffset>,
    /// Bytes that were gone before they could be read.
    pub(crate) lost: Arc<AtomicU64>,
    /// Files that are gone.
    pub(crate) ghosts: FxHashMap<FileId, Ghost>,
    /// Of a single path: the last file, when it is gone.
    pub(crate) last: Option<Remembered>,
    /// Offsets of Kafka Connect, that know only a path.
    pub(crate) legacy: FxHashMap<PathBuf, (JsonMap, Remembered)>,
    /// New files of which is not known yet what they are, by inode; and those of the last scan.
    pub(crate) waiting: FxHashMap<(u64, u64), Waiting>,
    pub(crate) seen_waiting: FxHashSet<(u64, u64)>,
    /// Heads of other tasks' files; and compressed files that are theirs, with size and time of modification.
    pub(crate) foreign: FxHashMap<FileId, Foreign>,
    pub(crate) skipped: FxHashMap<FileId, (u64, i64)>,
    /// By inode and time of birth, what the offsets told of files that are there: the number of their device may be another one now.
    pub(crate) restored: FxHashMap<(u64, i64), Key>,
    /// Of the files that the last scan found.
    pub(crate) devices: FxHashSet<u64>,
    pub(crate) watch: Watch,
    pub(crate) next_key: Key,
    pub(crate) scans: u64,
    pub(crate) scan_wanted: bool,
    pub(crate) scan_due: Instant,
    pub(crate) scan_earliest: Instant,
    /// Milliseconds since the epoch of the first start, with `read.from: end`.
    pub(crate) since: Option<i64>,
    pub(crate) warned: FxHashSet<PathBuf>,
    due: Option<Instant>,
    failed: Option<Error>,
    /// Of the records read lately: bytes for one, and what a byte of content costs in a batch.
    line_bytes: usize,
    cost: f64,
}

/// A file that is gone: a copy of it may turn up.
pub(crate) struct Ghost {
    pub(crate) partition: JsonMap,
    pub(crate) file: Remembered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    More,
    Idle,
    /// Too many files are open.
    Blocked,
    /// The next record finds no room in this batch.
    Full,
}

impl Tailer {
    pub(crate) fn new(settings: Settings, resume: &[SourceOffset]) -> Self {
        let now = Instant::now();
        let mut tailer = Self {
            settings: Arc::new(settings),
            files: FxHashMap::default(),
            by_inode: FxHashMap::default(),
            by_path: FxHashMap::default(),
            bases: FxHashSet::default(),
            queue: VecDeque::new(),
            pending: FxHashSet::default(),
            open: VecDeque::new(),
            touched: FxHashSet::default(),
            offsets: Vec::new(),
            lost: Arc::default(),
            ghosts: FxHashMap::default(),
            last: None,
            legacy: FxHashMap::default(),
            waiting: FxHashMap::default(),
            seen_waiting: FxHashSet::default(),
            foreign: FxHashMap::default(),
            skipped: FxHashMap::default(),
            restored: FxHashMap::default(),
            devices: FxHashSet::default(),
            watch: Watch::new(),
            next_key: 0,
            scans: 0,
            scan_wanted: true,
            scan_due: now,
            scan_earliest: now,
            since: None,
            warned: FxHashSet::default(),
            due: None,
            failed: None,
            line_bytes: 100,
            cost: 1.6,
        };
        tailer.restore(resume);
        tailer
    }

    /// One batch, or `None` when there is nothing now.
    pub(crate) fn round(&mut self, limits: Limits) -> Result<Option<Polled>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let limits = Limits { records: limits.records.min(self.settings.batch_records), ..limits };
        self.hear();
        self.scan_if_due()?;
        let mut batch = Batch::new();
        let outcome = self.turns(&mut batch, limits);
        let resume = self.resume();
        match outcome {
            // What was read before the error counts; the error comes with the next call.
            Err(error) if !batch.is_empty() || !resume.is_empty() => self.failed = Some(error),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok((!batch.is_empty() || !resume.is_empty()).then_some(Polled { batch, resume }))
    }

    /// When there is something to do even if no news comes.
    pub(crate) fn next_due(&self) -> Instant {
        let scan = if self.scan_wanted { self.scan_earliest.min(self.scan_due) } else { self.scan_due };
        self.due.map_or(scan, |due| due.min(scan))
    }

    /// Whether a round could find something.
    pub(crate) fn is_due(&self) -> bool {
        self.failed.is_some() || !self.queue.is_empty() || !self.watch.news.is_empty() || Instant::now() >= self.next_due()
    }

    fn hear(&mut self) {
        let changed = self.watch.news.take();
        self.scan_wanted |= changed.names;
        for path in changed.paths {
            if let Some(key) = self.by_path.get(&path).copied() {
                self.enqueue(key);
            }
        }
    }

    pub(crate) fn enqueue(&mut self, key: Key) {
        if let Some(file) = self.files.get_mut(&key)
            && !std::mem::replace(&mut file.queued, true)
        {
            self.queue.push_back(key);
        }
    }

    fn turns(&mut self, batch: &mut Batch, limits: Limits) -> Result<()> {
        let mut blocked = 0;
        while has_room(batch, limits) {
            let Some(key) = self.queue.pop_front() else {
                return self.deadlines(batch, limits);
            };
            let Some(file) = self.files.get_mut(&key) else { continue };
            file.queued = false;
            match self.turn(key, batch, limits)? {
                Turn::More => {
                    self.enqueue(key);
                    blocked = 0;
                }
                Turn::Idle => {
                    self.pending.insert(key);
                    blocked = 0;
                }
                Turn::Full => {
                    self.enqueue(key);
                    return Ok(());
                }
                Turn::Blocked => {
                    self.enqueue(key);
                    blocked += 1;
                    if blocked > self.queue.len() {
                        return self.deadlines(batch, limits);
                    }
                }
            }
        }
        Ok(())
    }

    /// One block of this file, or of one that comes before it (invariant 3): whoever wrote to both wrote all of that one before what this
    /// one has *now*, so its end is looked for after this one's size was taken.
    fn turn(&mut self, key: Key, batch: &mut Batch, limits: Limits) -> Result<Turn> {
        let Some(file) = self.files.get_mut(&key) else { return Ok(Turn::Idle) };
        if file.found == self.scans {
            return Ok(Turn::Blocked);
        }
        if file.before.is_empty() {
            return self.read(key, None, Flush::Nothing, batch, limits);
        }
        let before = file.before.clone();
        let limit = match &file.reader {
            Some(reader) => reader.stat().map(|stat| stat.size),
            None => std::fs::metadata(&file.path).map(|meta| meta.len()),
        };
        for earlier in before {
            let Some(file) = self.files.get_mut(&earlier).filter(|file| !file.settled) else { continue };
            // Not opened only to see that it has nothing.
            if file.reader.is_none()
                && file.is_exhausted()
                && file.stat().is_some_and(|stat| !file.observe(&stat, Instant::now()))
            {
                continue;
            }
            match self.read(earlier, None, Flush::Nothing, batch, limits)? {
                Turn::Idle => _ = self.pending.insert(earlier),
                turn => return Ok(turn),
            }
            if !has_room(batch, limits) {
                return Ok(Turn::More);
            }
        }
        self.read(key, limit.ok(), Flush::Nothing, batch, limits)
    }

    pub(crate) fn read(&mut self, key: Key, limit: Option<u64>, flush: Flush, batch: &mut Batch, limits: Limits) -> Result<Turn> {
        match self.ready(key, flush)? {
            Some(turn) => Ok(turn),
            None => self.read_block(key, limit, flush, batch, limits),
        }
    }

    fn read_block(&mut self, key: Key, limit: Option<u64>, flush: Flush, batch: &mut Batch, limits: Limits) -> Result<Turn> {
        let settings = self.settings.clone();
        let Some(file) = self.files.get_mut(&key) else { return Ok(Turn::Idle) };
        let room = limits.bytes.saturating_sub(batch.bytes());
        let mut most = ((room as f64 / self.cost) as usize).clamp(ROOM_MIN, BLOCK_BYTES);
        loop {
            let Some(reader) = &mut file.reader else { return Ok(Turn::Idle) };
            let stat = reader.stat().map_err(|error| cannot_read(&file.path, error))?;
            file.observe(&stat, Instant::now());
            if flush == Flush::Nothing && file.is_exhausted() {
                return Ok(Turn::Idle);
            }
            let Some(reader) = &mut file.reader else { return Ok(Turn::Idle) };
            let plain = reader.codec() == Codec::Plain;
            let end = if plain { stat.size.min(limit.unwrap_or(u64::MAX)) } else { u64::MAX };
            let want = end.saturating_sub(file.at.offset).min(most as u64) as usize;
            let text = file.path.to_string_lossy();
            let name = if settings.key_file { text.as_bytes() } else { &[] };
            let name = &name[..name.len().min(POOL_BYTES - BLOCK_BYTES - 64)];
            let (tail, from) = (file.tail.len(), name.len() + file.tail.len());
            let mut buffer = Buffer::new(from + want);
            let bytes = buffer.as_mut();
            bytes[..name.len()].copy_from_slice(name);
            let short = plain && stat.size < file.at.offset;
            let read =
                if short { Ok((0, false)) } else { reader.read_some(&mut bytes[name.len()..], file.at.offset - tail as u64) };
            let (read, broken) = read.map_err(|error| cannot_read(&file.path, error))?;
            if broken && read <= tail {
                let error = reader.failure();
                return file.not_whole(error, flush, &settings);
            }
            if short || read < tail || bytes[name.len()..from] != file.tail[..] {
                tracing::warn!(file = %text, position = file.at.offset, size = stat.size, "file.truncated: reading from its start");
                file.restart();
                self.touched.insert(key);
                continue;
            }
            let at_end = !broken && (read - tail < want || (plain && file.at.offset + want as u64 >= end));
            let limited = plain && end < stat.size;
            buffer.truncate(name.len() + read);
            let flush_wanted = flush;
            let flush = match () {
                () if !at_end || limited => Flush::Nothing,
                () if !plain && file.is_quiet(&settings) => Flush::All,
                () => flush,
            };
            let key_span = (!name.is_empty()).then_some(Span { start: 0, len: name.len() as u32 });
            let mut emit = Emit::new(&settings, buffer.as_ref(), key_span, &text);
            emit.reserve(((read - tail) / self.line_bytes.max(1) + 16).min(limits.records));
            let block = Block {
                path: &text,
                bytes: buffer.as_ref(),
                from,
                offset: file.at.offset,
                line: file.at.line,
                skip: file.at.skip,
                flush,
                max_records: limits.records.saturating_sub(batch.len()),
                max_bytes: room,
                alone: batch.is_empty(),
            };
            let split = split(&block, &mut emit);
            let (consumed, records) = (split.end - from, emit.len());
            if split.dropped > 0 {
                tracing::warn!(file = %text, lines = split.dropped, "file.line_too_long: longer than max.line.bytes");
            }
            if broken && consumed == 0 && !split.full && split.too_long.is_none() {
                drop(text);
                let error = file.reader.as_mut().and_then(Reader::failure);
                return file.not_whole(error, flush_wanted, &settings);
            }
            if consumed == 0 && !split.full && !at_end && split.too_long.is_none() {
                // The record is larger than the block.
                most = (most * 4).min(settings.max_block());
                continue;
            }
            drop(text);
            if consumed > 0 {
                file.advance(&buffer.as_ref()[from..split.end], &split);
                self.touched.insert(key);
                buffer.truncate(split.end);
                let (chunk, dead) = emit.finish(&Bytes::from_owner(buffer));
                batch.push_chunk(chunk);
                dead.into_iter().for_each(|dead| batch.push_chunk(dead));
            }
            if let Some(bytes) = consumed.checked_div(records) {
                self.line_bytes = bytes.max(1);
                self.cost = 1.05 * (consumed + records * ENTRY_BYTES) as f64 / consumed.max(1) as f64;
            }
            if let Some(offset) = split.too_long {
                return Err(line_too_long(&file.path.to_string_lossy(), offset, settings.max_line));
            }
            if split.full && consumed == 0 {
                return Ok(Turn::Full);
            }
            if !at_end || limited || split.full {
                return Ok(Turn::More);
            }
            file.exhausted = Some((stat.size, stat.modified));
            if !plain {
                // What may be appended is another gzip member or zstd frame: for a new decoder.
                _ = file.reader.as_mut().and_then(Reader::failure);
                file.unsettled = consumed + tail < read;
                file.at.done &= !file.unsettled;
            }
            if !plain && !file.at.done && !file.unsettled {
                file.at.done = true;
                file.at.compressed = true;
                self.touched.insert(key);
            }
            return Ok(Turn::Idle);
        }
    }

    /// Opens the file and makes sure that it is the one. `Some`: not now.
    pub(crate) fn ready(&mut self, key: Key, flush: Flush) -> Result<Option<Turn>> {
        let settings = self.settings.clone();
        if self.files.get(&key).is_some_and(|file| file.reader.is_none()) {
            if self.open.len() >= settings.max_open && !self.evict(key) {
                return Ok(Some(Turn::Blocked));
            }
            if let Some(turn) = self.open_file(key)? {
                return Ok(Some(turn));
            }
        }
        let Some(file) = self.files.get_mut(&key) else { return Ok(Some(Turn::Idle)) };
        let Some(reader) = &mut file.reader else { return Ok(Some(Turn::Idle)) };
        if file.at.offset == 0 && settings.decompress && !reader.settle().map_err(|error| cannot_read(&file.path, error))? {
            file.exhausted = Some((file.size, file.modified));
            return Ok(Some(Turn::Idle));
        }
        if file.trusted {
            return Ok(None);
        }
        match file.verify(&settings) {
            Ok(true) => {
                file.trusted = true;
                // It stays like this until there is something to read: so it is worth a commit.
                if settings.from_end && file.at.offset > 0 {
                    self.touched.insert(key);
                }
            }
            Ok(false) => {
                tracing::warn!(file = %file.path.display(), position = file.at.offset, "file.replaced: other content, reading from its start");
                file.restart();
                self.touched.insert(key);
            }
            Err(error) => return file.not_whole(Some(error), flush, &settings).map(Some),
        }
        Ok(None)
    }

    /// `Some`: it cannot be read now.
    fn open_file(&mut self, key: Key) -> Result<Option<Turn>> {
        let Some(file) = self.files.get_mut(&key) else { return Ok(Some(Turn::Idle)) };
        let opened = Reader::open(&file.path, self.settings.decompress).and_then(|reader| Ok((reader.stat()?, reader)));
        match opened {
            Ok((stat, reader)) if stat.kind == Kind::File && file.id.is(stat.id) => {
                file.reader = Some(reader);
                if std::mem::take(&mut file.refused) {
                    // Nothing of it was read, whatever its size and time say.
                    file.exhausted = None;
                }
                self.open.push_back(key);
                return Ok(None);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = file.path.clone();
                file.refused = true;
                self.refused(path, error)?;
            }
            // It was renamed since the scan: what comes after it waits until the next one (invariant 3).
            _ if file.missing.is_none() => {
                self.scan_wanted = true;
                return Ok(Some(Turn::Blocked));
            }
            _ => {}
        }
        if let Some(file) = self.files.get_mut(&key) {
            file.exhausted = Some((file.size, file.modified));
        }
        Ok(Some(Turn::Idle))
    }

    /// Closes one file that can be opened again; first choice is one that has nothing to read.
    fn evict(&mut self, except: Key) -> bool {
        let reopenable = |key: &Key| *key != except && self.files.get(key).is_none_or(|file| file.missing.is_none());
        let idle = self.open.iter().position(|key| reopenable(key) && self.files.get(key).is_none_or(Tracked::is_exhausted));
        let Some(index) = idle.or_else(|| self.open.iter().position(reopenable)) else { return false };
        let Some(key) = self.open.remove(index) else { return false };
        if let Some(file) = self.files.get_mut(&key) {
            file.close();
        }
        true
    }

    pub(crate) fn forget_open(&mut self, key: Key) {
        self.open.retain(|open| *open != key);
    }

    /// What becomes due with time: flushes, and the end of files that were rotated or deleted.
    fn deadlines(&mut self, batch: &mut Batch, limits: Limits) -> Result<()> {
        let (settings, now) = (self.settings.clone(), Instant::now());
        self.due = None;
        for key in self.pending.iter().copied().collect::<Vec<_>>() {
            let Some((wait, flush)) = self.files.get(&key).and_then(|file| file.due(&settings)) else {
                self.pending.remove(&key);
                continue;
            };
            if !has_room(batch, limits) {
                self.due = Some(now);
                break;
            }
            let Some(file) = self.files.get_mut(&key) else { continue };
            let due = file.quiet_since() + wait;
            if now < due {
                self.due = Some(self.due.map_or(due, |earliest| earliest.min(due)));
                continue;
            }
            if let Some(stat) = file.stat()
                && file.observe(&stat, now)
            {
                self.enqueue(key);
                self.due = Some(now);
                continue;
            }
            let finish = (file.missing.is_some() || file.rotated) && now >= file.quiet_since() + settings.quiet;
            if !file.at.done && (!file.is_plain() || file.unsettled || file.at.offset < file.size) {
                match self.read(key, None, flush, batch, limits)? {
                    Turn::Idle => {}
                    Turn::More | Turn::Full => {
                        self.due = Some(now);
                        continue;
                    }
                    Turn::Blocked => {
                        let retry = now + BLOCKED_WAIT;
                        self.due = Some(self.due.map_or(retry, |due| due.min(retry)));
                        continue;
                    }
                }
            }
            let Some(file) = self.files.get_mut(&key) else { continue };
            file.flushed = flush;
            file.unsettled = false;
            if finish {
                self.finish(key)?;
            }
            self.due = Some(now);
        }
        Ok(())
    }

    fn resume(&mut self) -> Vec<SourceOffset> {
        let mut resume = std::mem::take(&mut self.offsets);
        if self.touched.is_empty() {
            return resume;
        }
        let Some(path) = self.settings.single() else {
            for key in self.touched.drain() {
                if let Some(file) = self.files.get(&key) {
                    resume.push(SourceOffset { partition: file.partition.clone(), offset: Some(file.remember().to_json()) });
                }
            }
            return resume;
        };
        self.touched.clear();
        let mut chain: Vec<(&Key, &Tracked)> = self.files.iter().collect();
        chain.sort_by_key(|(key, file)| (file.missing.is_none() && file.home == file.path, file.modified, **key));
        let mut chain: Vec<Remembered> = chain.into_iter().map(|(_, file)| file.remember()).collect();
        if chain.is_empty() {
            chain.extend(self.last.clone());
        }
        resume.extend(chain_json(&chain).map(|offset| SourceOffset { partition: literal_partition(path), offset: Some(offset) }));
        resume
    }
}

fn has_room(batch: &Batch, limits: Limits) -> bool {
    batch.is_empty() || (batch.len() < limits.records && batch.bytes() + ROOM_MIN <= limits.bytes)
}

pub(crate) fn cannot_read(path: &std::path::Path, error: io::Error) -> Error {
    Error::retriable("file.read", format!("cannot read {}", path.display())).because(error)
}
