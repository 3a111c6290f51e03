//! Segment files and their sparse indexes, named and laid out as Kafka's.

use super::journal::read_file;
use crate::disk::{Disk, DiskFile, Open};
use crate::record_batch::{HEADER_BYTES, Header};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub(crate) const TOPICS: &str = "topics";
/// Kafka's `log.index.interval.bytes`.
const INDEX_INTERVAL_BYTES: u64 = 4096;
/// One read while headers are scanned.
const SCAN_BYTES: usize = 1 << 20;

pub(crate) fn partition_dir(topic: &str, partition: i32) -> String {
    format!("{TOPICS}/{topic}-{partition}")
}

pub(crate) fn segment_file(dir: &str, base: i64, suffix: &str) -> String {
    format!("{dir}/{base:020}.{suffix}")
}

pub(crate) fn cleaned_path(dir: &str, base: i64) -> String {
    segment_file(dir, base, "log.cleaned")
}

/// The base offset in a segment file's name, and its suffix.
pub(crate) fn parse_file(name: &str) -> Option<(i64, &str)> {
    let (base, suffix) = name.split_once('.')?;
    (base.len() == 20).then(|| base.parse().ok().map(|base| (base, suffix)))?
}

/// A segment as readers see it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Tells it from every other one in this process, also from one of the same name.
    pub(crate) key: u64,
    pub(crate) dir: String,
    pub(crate) base: i64,
    /// Committed bytes. Nothing behind them is ever read.
    pub(crate) len: AtomicU64,
    pub(crate) max_timestamp: AtomicI64,
    /// Compacted, and its file has not taken its place yet: see [`cleaned_path`].
    pub(crate) cleaned: AtomicBool,
    /// How far the index files go.
    pub(crate) indexed: AtomicU64,
    /// Of the segment that is appended to; closed ones have theirs in files.
    pub(crate) index: Mutex<Option<SparseIndex>>,
}

impl Segment {
    pub(crate) fn new(dir: &str, base: i64, len: u64, max_timestamp: i64) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        Self {
            key: KEYS.fetch_add(1, Ordering::Relaxed),
            dir: dir.to_owned(),
            base,
            len: AtomicU64::new(len),
            max_timestamp: AtomicI64::new(max_timestamp),
            cleaned: AtomicBool::new(false),
            indexed: AtomicU64::new(0),
            index: Mutex::new(None),
        }
    }

    pub(crate) fn path(&self) -> String {
        segment_file(&self.dir, self.base, "log")
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Where to look for `offset`: the position of a batch at or before it, and that batch's last offset (`None` at the segment's start).
    pub(crate) fn lookup(&self, files: &Files, offset: i64) -> io::Result<(u64, Option<i64>)> {
        self.with_index(files, |index| index.floor(self.base, offset))
    }

    /// The position from which to look for the first record of this time or later.
    pub(crate) fn lookup_time(&self, files: &Files, timestamp: i64) -> io::Result<(u64, Option<i64>)> {
        self.with_index(files, |index| match index.times.iter().rev().find(|(ts, _)| *ts < timestamp) {
            Some((_, relative)) => index.floor(self.base, self.base + i64::from(*relative)),
            None => (0, None),
        })
    }

    fn with_index<T>(&self, files: &Files, ask: impl FnOnce(&SparseIndex) -> T) -> io::Result<T> {
        let mut slot = self.index.lock();
        let len = self.len();
        let mut index = match slot.take() {
            Some(index) => index,
            None => SparseIndex::load(&*files.disk, &self.dir, self.base, len),
        };
        let complete = index.scanned == len;
        if !complete {
            index.scan(&*files.get(self)?, self.base, len)?;
        }
        let answer = ask(&index);
        *slot = Some(index);
        Ok(answer)
    }

    /// The index led astray: the next lookup makes a new one from the segment itself.
    pub(crate) fn distrust_index(&self) {
        *self.index.lock() = Some(SparseIndex::new());
    }

    /// Notes batches that were appended: position, bytes, last offset, latest timestamp of each. An index that is unknown, or that a reader holds,
    /// is left as it is: lookups scan what is missing.
    pub(crate) fn note(&self, batches: impl IntoIterator<Item = (u64, u64, i64, i64)>) {
        let Some(mut slot) = self.index.try_lock() else { return };
        let Some(index) = slot.as_mut() else { return };
        for (position, bytes, last_offset, max_timestamp) in batches {
            if index.scanned == position {
                index.note(self.base, position, bytes, last_offset, max_timestamp);
            }
        }
    }

    /// Writes the index files, when the index is known and whole. They are hints: not synced, an error only costs a scan later.
    pub(crate) fn write_index(&self, disk: &dyn Disk) {
        let Some(slot) = self.index.try_lock() else { return };
        let Some(index) = slot.as_ref().filter(|index| index.scanned == self.len() && !index.entries.is_empty()) else { return };
        let write = |suffix: &str, bytes: Vec<u8>| -> io::Result<()> {
            disk.open(&segment_file(&self.dir, self.base, suffix), Open::Create)?.write_all_at(&bytes, 0)
        };
        let offsets = index.entries.iter().flat_map(|(offset, position)| [offset.to_be_bytes(), position.to_be_bytes()].concat());
        let times = index.times.iter().flat_map(|(ts, offset)| [&ts.to_be_bytes()[..], &offset.to_be_bytes()].concat());
        if let Err(error) = write("index", offsets.collect()).and_then(|()| write("timeindex", times.collect())) {
            tracing::debug!(segment = self.path(), %error, "index not written");
        }
        self.indexed.store(index.scanned, Ordering::Relaxed);
    }
}

/// Kafka's offset and time index of one segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SparseIndex {
    /// The last offset of a batch (relative to the base) and the batch's position.
    pub(crate) entries: Vec<(i32, u32)>,
    /// The latest timestamp so far and the last offset (relative) of the batch that has it.
    pub(crate) times: Vec<(i64, i32)>,
    /// Everything before is indexed.
    pub(crate) scanned: u64,
    since_entry: u64,
    latest: (i64, i32),
}

impl SparseIndex {
    pub(crate) fn new() -> Self {
        Self { latest: (-1, 0), ..Self::default() }
    }

    /// Notes the next batch.
    pub(crate) fn note(&mut self, base: i64, position: u64, bytes: u64, last_offset: i64, max_timestamp: i64) {
        let relative = i32::try_from(last_offset - base).unwrap_or(i32::MAX);
        if max_timestamp > self.latest.0 {
            self.latest = (max_timestamp, relative);
        }
        if self.since_entry > INDEX_INTERVAL_BYTES {
            self.entries.push((relative, u32::try_from(position).unwrap_or(u32::MAX)));
            if self.times.last().is_none_or(|(ts, _)| self.latest.0 > *ts) {
                self.times.push(self.latest);
            }
            self.since_entry = 0;
        }
        self.since_entry += bytes;
        self.scanned = position + bytes;
    }

    fn floor(&self, base: i64, offset: i64) -> (u64, Option<i64>) {
        let at = self.entries.partition_point(|(relative, _)| base + i64::from(*relative) <= offset);
        match at.checked_sub(1).map(|at| self.entries[at]) {
            Some((relative, position)) => (u64::from(position), Some(base + i64::from(relative))),
            None => (0, None),
        }
    }

    /// From the files, as far as they make sense; [`SparseIndex::scan`] does the rest.
    fn load(disk: &dyn Disk, dir: &str, base: i64, len: u64) -> Self {
        let file = |suffix| read_file(disk, &segment_file(dir, base, suffix)).unwrap_or_default();
        let (offsets, times) = (file("index"), file("timeindex"));
        let int = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let mut index = Self::new();
        for entry in offsets.chunks_exact(8) {
            let (relative, position) = (int(&entry[..4]) as i32, int(&entry[4..]) as u32);
            let ascends = index.entries.last().is_none_or(|(r, p)| relative > *r && position > *p);
            if relative < 0 || u64::from(position) >= len || !ascends {
                break;
            }
            index.entries.push((relative, position));
        }
        // The batch of the last entry is scanned again, and put in again.
        if let Some((last, position)) = index.entries.pop() {
            index.scanned = u64::from(position);
            index.since_entry = INDEX_INTERVAL_BYTES + 1;
            for entry in times.chunks_exact(12) {
                let (ts, relative) = (int(&entry[..8]) as i64, int(&entry[8..]) as i32);
                if relative >= last || index.times.last().is_some_and(|(before, _)| ts <= *before) {
                    break;
                }
                index.times.push((ts, relative));
                index.latest = (ts, relative);
            }
        }
        index
    }

    /// Reads headers up to `len`, or to the first that makes no sense: a read there will say what is wrong.
    pub(crate) fn scan(&mut self, file: &dyn DiskFile, base: i64, len: u64) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut start = self.scanned;
        while self.scanned < len {
            let at = (self.scanned - start) as usize;
            let header = buffer.get(at..).and_then(|bytes: &[u8]| Header::parse(bytes).transpose());
            match header {
                Some(Ok(header)) if self.scanned + header.bytes as u64 <= len => {
                    self.note(base, self.scanned, header.bytes as u64, header.last_offset(), header.max_timestamp);
                }
                Some(_) => break,
                None => {
                    start = self.scanned;
                    buffer.clear();
                    let want = SCAN_BYTES.min((len - start) as usize);
                    file.read_at(start, want, &mut buffer)?;
                    if buffer.len() < HEADER_BYTES {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Open segment files, at most so many: the least recently used is closed first.
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    max: usize,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    tick: u64,
    by_key: HashMap<u64, (Arc<dyn DiskFile>, u64)>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, max: usize) -> Self {
        Self { disk, max, open: Mutex::default() }
    }

    pub(crate) fn get(&self, segment: &Segment) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock();
        open.tick += 1;
        let tick = open.tick;
        if let Some((file, used)) = open.by_key.get_mut(&segment.key) {
            *used = tick;
            return Ok(file.clone());
        }
        drop(open);
        let cleaned = segment
            .cleaned
            .load(Ordering::Acquire)
            .then(|| self.disk.open(&cleaned_path(&segment.dir, segment.base), Open::Read));
        let file = match cleaned {
            Some(Ok(file)) => file,
            _ => self.disk.open(&segment.path(), Open::Write)?,
        };
        self.put(segment.key, file.clone());
        Ok(file)
    }

    pub(crate) fn put(&self, key: u64, file: Arc<dyn DiskFile>) {
        let mut open = self.open.lock();
        if open.by_key.len() >= self.max
            && let Some(oldest) = open.by_key.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            open.by_key.remove(&oldest);
        }
        open.tick += 1;
        let tick = open.tick;
        open.by_key.insert(key, (file, tick));
    }

    pub(crate) fn forget(&self, key: u64) {
        self.open.lock().by_key.remove(&key);
    }

    pub(crate) fn forget_all(&self) {
        self.open.lock().by_key.clear();
    }
}
