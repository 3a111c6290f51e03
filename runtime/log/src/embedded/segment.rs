//! Segment files and their sparse indexes, named and laid out as Kafka's.

use super::journal::read_file;
use super::resync::{Found, Place, Slices, Walk};
use crate::disk::{Disk, DiskFile, Open};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub(crate) const TOPICS: &str = "topics";
/// Kafka's `log.index.interval.bytes`.
const INDEX_INTERVAL_BYTES: u64 = 4096;

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
    /// The committed bytes and the offset behind them, as of one moment.
    end: Mutex<Place>,
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
            end: Mutex::new(Place { position: len, offset: base }),
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

    /// After a commit, before anybody sees it.
    pub(crate) fn publish(&self, len: u64, end: i64, max_timestamp: i64) {
        *self.end.lock() = Place { position: len, offset: end };
        self.max_timestamp.store(max_timestamp, Ordering::Relaxed);
        self.len.store(len, Ordering::Release);
    }

    /// Where the batches go on behind the damaged one at `at`: at worst where the segment ends.
    pub(crate) fn resync(&self, files: &Files, at: Place) -> io::Result<Place> {
        let end = *self.end.lock();
        if at.position >= end.position {
            return Ok(end);
        }
        let resync = || {
            let hints = self.with_index(files, |index| index.behind(at.position))?;
            Walk::new(&*files.get(self)?, at, end, self.base, &hints).resync()
        };
        match resync() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(end),
            other => other,
        }
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
        let end = *self.end.lock();
        let mut index = match slot.take() {
            Some(index) => index,
            // The files are those of the segment that it replaces.
            None if self.cleaned.load(Ordering::Acquire) => SparseIndex::new(self.base),
            None => SparseIndex::load(&*files.disk, &*files.get(self)?, &self.dir, self.base, end.position)?,
        };
        if index.at.position < end.position {
            index.scan(&*files.get(self)?, self.base, end)?;
        }
        let answer = ask(&index);
        *slot = Some(index);
        Ok(answer)
    }

    /// The index led astray: the next lookup makes a new one from the segment itself.
    pub(crate) fn distrust_index(&self) {
        let mut slot = self.index.lock();
        let hints = slot.take().map(SparseIndex::into_hints).unwrap_or_default();
        *slot = Some(SparseIndex { hints, ..SparseIndex::new(self.base) });
    }

    /// Notes batches that were appended: position, bytes, last offset, latest timestamp of each. An index that is unknown, or that a reader holds,
    /// is left as it is: lookups scan what is missing.
    pub(crate) fn note(&self, batches: impl IntoIterator<Item = (u64, u64, i64, i64)>) {
        let Some(mut slot) = self.index.try_lock() else { return };
        let Some(index) = slot.as_mut() else { return };
        for (position, bytes, last_offset, max_timestamp) in batches {
            if index.at.position == position {
                index.note(self.base, position, bytes, last_offset, max_timestamp);
            }
        }
    }

    /// Writes the index files, when the index is known and whole. They are hints: not synced, an error only costs a scan later.
    pub(crate) fn write_index(&self, disk: &dyn Disk) {
        let Some(slot) = self.index.try_lock() else { return };
        let Some(index) = slot.as_ref().filter(|index| index.at.position == self.len() && !index.entries.is_empty()) else {
            return;
        };
        let write = |suffix: &str, bytes: Vec<u8>| -> io::Result<()> {
            disk.open(&segment_file(&self.dir, self.base, suffix), Open::Create)?.write_all_at(&bytes, 0)
        };
        let offsets = index.entries.iter().flat_map(|(offset, position)| [offset.to_be_bytes(), position.to_be_bytes()].concat());
        let times = index.times.iter().flat_map(|(ts, offset)| [&ts.to_be_bytes()[..], &offset.to_be_bytes()].concat());
        if let Err(error) = write("index", offsets.collect()).and_then(|()| write("timeindex", times.collect())) {
            tracing::debug!(segment = self.path(), %error, "index not written");
        }
        self.indexed.store(index.at.position, Ordering::Relaxed);
    }
}

/// Kafka's offset and time index of one segment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SparseIndex {
    /// The last offset of a batch (relative to the base) and the batch's position.
    pub(crate) entries: Vec<(i32, u32)>,
    /// The latest timestamp so far and the last offset (relative) of the batch that has it.
    pub(crate) times: Vec<(i64, i32)>,
    /// Everything before is indexed.
    pub(crate) at: Place,
    /// For the next scan: entries of an index that is not trusted any more, still the best guess where batches begin behind damage.
    hints: Vec<(i32, u32)>,
    since_entry: u64,
    latest: (i64, i32),
}

impl SparseIndex {
    pub(crate) fn new(base: i64) -> Self {
        let (entries, times, hints) = (Vec::new(), Vec::new(), Vec::new());
        Self { entries, times, at: Place { position: 0, offset: base }, hints, since_entry: 0, latest: (-1, 0) }
    }

    fn into_hints(self) -> Vec<(i32, u32)> {
        if self.entries.is_empty() { self.hints } else { self.entries }
    }

    /// The entries from this position on.
    fn behind(&self, position: u64) -> Vec<(i32, u32)> {
        self.entries[self.entries.partition_point(|(_, at)| u64::from(*at) < position)..].to_vec()
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
        self.at = Place { position: position + bytes, offset: last_offset + 1 };
    }

    fn floor(&self, base: i64, offset: i64) -> (u64, Option<i64>) {
        let at = self.entries.partition_point(|(relative, _)| base + i64::from(*relative) <= offset);
        match at.checked_sub(1).map(|at| self.entries[at]) {
            Some((relative, position)) => (u64::from(position), Some(base + i64::from(relative))),
            None => (0, None),
        }
    }

    /// From the files, as far as they make sense; [`SparseIndex::scan`] does the rest.
    fn load(disk: &dyn Disk, file: &dyn DiskFile, dir: &str, base: i64, len: u64) -> io::Result<Self> {
        let mut index = Self::new(base);
        index.entries = offset_entries(disk, dir, base, len);
        // The batch of the last entry is scanned again, and put in again.
        while let Some((last, position)) = index.entries.pop() {
            let header = Slices::new(file, len).sound(u64::from(position), len)?;
            let Some(header) = header.ok().filter(|header| header.last_offset() == base + i64::from(last)) else {
                if index.hints.is_empty() {
                    index.hints = offset_entries(disk, dir, base, len);
                }
                continue;
            };
            index.at = Place { position: u64::from(position), offset: header.base_offset };
            index.since_entry = INDEX_INTERVAL_BYTES + 1;
            for entry in read_file(disk, &segment_file(dir, base, "timeindex")).unwrap_or_default().chunks_exact(12) {
                let (ts, relative) = (int(&entry[..8]) as i64, int(&entry[8..]) as i32);
                if relative >= last || index.times.last().is_some_and(|(before, _)| ts <= *before) {
                    break;
                }
                index.times.push((ts, relative));
                index.latest = (ts, relative);
            }
            break;
        }
        Ok(index)
    }

    /// Goes through the batches up to `end`, and on behind damage: a read there will say what is wrong.
    pub(crate) fn scan(&mut self, file: &dyn DiskFile, base: i64, end: Place) -> io::Result<()> {
        let hints = std::mem::take(&mut self.hints);
        let mut walk = Walk::new(file, self.at, end, base, &hints);
        let mut next = walk.next();
        while let Ok(Some((at, found))) = next {
            match found {
                Found::Batch(header) => {
                    self.note(base, at.position, header.bytes as u64, header.last_offset(), header.max_timestamp);
                }
                Found::Damaged { until, .. } => {
                    self.at = until;
                    // An entry as soon as there is a batch again: who reads on behind the damage does not meet it.
                    self.since_entry = INDEX_INTERVAL_BYTES + 1;
                }
            }
            next = walk.next();
        }
        next.map(drop)
    }
}

/// The entries of an offset index file, as far as they make sense.
pub(crate) fn offset_entries(disk: &dyn Disk, dir: &str, base: i64, len: u64) -> Vec<(i32, u32)> {
    let mut entries: Vec<(i32, u32)> = Vec::new();
    for entry in read_file(disk, &segment_file(dir, base, "index")).unwrap_or_default().chunks_exact(8) {
        let (relative, position) = (int(&entry[..4]) as i32, int(&entry[4..]) as u32);
        let ascends = entries.last().is_none_or(|(r, p)| relative > *r && position > *p);
        if relative < 0 || u64::from(position) >= len || !ascends {
            break;
        }
        entries.push((relative, position));
    }
    entries
}

fn int(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
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
