//! A file that is being read.

use super::identity::{ANCHOR_BYTES, FileId, HEAD_BYTES, Stat, fnv};
use super::lines::{Flush, Split};
use super::position::{Position, Remembered};
use super::reader::{Codec, Reader};
use super::settings::Settings;
use super::tailer::{Turn, cannot_read};
use aqueduct_core::{Error, JsonMap, Result};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) type Key = u32;

pub(crate) struct Tracked {
    pub(crate) partition: JsonMap,
    /// Where it is now, as far as we know.
    pub(crate) path: PathBuf,
    /// Where a pattern found it last.
    pub(crate) home: PathBuf,
    pub(crate) id: FileId,
    pub(crate) at: Position,
    /// The position before the file was truncated: a copy of that content may turn up.
    pub(crate) former: Option<Position>,
    /// Hash and length of the head of a file of which nothing was read yet: its copy may come before its turn does.
    pub(crate) probed: Option<(u64, u64)>,
    /// The content's first bytes, while it has less than 1 KiB of them.
    head: Vec<u8>,
    /// The up to 64 bytes before the position: read again with each block, so that a file that was rewritten is noticed.
    pub(crate) tail: Vec<u8>,
    pub(crate) reader: Option<Reader>,
    /// `head` and `tail` are loaded, and the content up to the position is what was read.
    pub(crate) trusted: bool,
    pub(crate) size: u64,
    /// The largest size since its beginning was read.
    seen: u64,
    /// What was cut off before it was read, and when: lost, if no copy turns up.
    pub(crate) unread: Option<(u64, Instant)>,
    pub(crate) modified: i64,
    /// Also by `chmod`, `touch` and `rename`: nanoseconds since the epoch.
    pub(crate) touched: i64,
    /// When size or time of modification changed.
    pub(crate) changed: Instant,
    /// With this size and time of modification there was nothing more to read.
    pub(crate) exhausted: Option<(u64, i64)>,
    /// What was flushed since it changed.
    pub(crate) flushed: Flush,
    /// The last scan in which a pattern found it.
    pub(crate) scan: u64,
    /// The scan that found it.
    pub(crate) found: u64,
    /// No pattern finds it any more: it was renamed or deleted.
    pub(crate) missing: Option<Instant>,
    /// Another file took its place.
    pub(crate) rotated: bool,
    /// Rotated, and nothing more is expected of it.
    pub(crate) settled: bool,
    pub(crate) refused: bool,
    /// Compressed, and its end is not clean: it may be in the making.
    pub(crate) unsettled: bool,
    /// A warning was given: it ends too early.
    pub(crate) cut: bool,
    pub(crate) queued: bool,
    /// The files whose lines come before the lines of this one.
    pub(crate) before: Vec<Key>,
}

impl Tracked {
    pub(crate) fn new(partition: JsonMap, path: PathBuf, stat: &Stat, at: Position) -> Self {
        Self {
            partition,
            home: path.clone(),
            path,
            id: stat.id,
            at,
            former: None,
            probed: None,
            head: Vec::new(),
            tail: Vec::new(),
            reader: None,
            trusted: false,
            size: stat.size,
            seen: stat.size,
            unread: None,
            modified: stat.modified,
            touched: stat.touched,
            changed: Instant::now(),
            exhausted: None,
            flushed: Flush::Nothing,
            scan: 0,
            found: 0,
            missing: None,
            rotated: false,
            settled: false,
            refused: false,
            unsettled: false,
            cut: false,
            queued: false,
            before: Vec::new(),
        }
    }

    pub(crate) fn restored(partition: JsonMap, path: PathBuf, id: FileId, stored: &Remembered) -> Self {
        let stat = Stat {
            id,
            size: stored.size,
            modified: stored.modified,
            touched: stored.modified,
            kind: super::identity::Kind::File,
        };
        let mut file = Self::new(partition, path, &stat, stored.at.clone());
        file.former.clone_from(&stored.former);
        if file.at.offset == 0 {
            (file.at.head, file.at.head_len) = (0, 0);
        }
        let read = stored.at.done || (!stored.at.compressed && stored.at.offset == stored.size);
        file.exhausted = read.then_some((stored.size, stored.modified));
        file
    }

    pub(crate) fn remember(&self) -> Remembered {
        Remembered {
            id: Some(self.id),
            at: self.at.clone(),
            former: self.former.clone(),
            size: self.size,
            modified: self.modified,
            gone: None,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.reader.as_ref().map_or(!self.at.compressed, |reader| reader.codec() == Codec::Plain)
    }

    pub(crate) fn probe(&mut self) {
        let known = self.probed.map_or(0, |(_, len)| len);
        if self.at.offset > 0 || known >= self.size.min(HEAD_BYTES as u64) {
            return;
        }
        let mut head = [0; HEAD_BYTES];
        let read = Reader::open(&self.path, false).and_then(|mut reader| reader.read(&mut head, 0));
        self.probed = read.ok().map(|len| (fnv(&head[..len]), len as u64)).or(self.probed);
    }

    /// What `stat` said just now; true when that is news.
    pub(crate) fn observe(&mut self, stat: &Stat, now: Instant) -> bool {
        let news = (self.size, self.modified) != (stat.size, stat.modified);
        if news {
            (self.size, self.modified, self.touched) = (stat.size, stat.modified, stat.touched);
            self.seen = self.seen.max(stat.size);
            self.changed = now;
            self.unsettled = false;
            self.flushed = Flush::Nothing;
            self.settled = false;
        }
        news
    }

    /// `None` when it is not there, or another file is.
    pub(crate) fn stat(&self) -> Option<Stat> {
        match &self.reader {
            Some(reader) => reader.stat().ok(),
            None => std::fs::metadata(&self.path).ok().map(|meta| Stat::from(&meta)).filter(|stat| self.id.is(stat.id)),
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted == Some((self.size, self.modified))
    }

    /// The content was replaced: what comes now has nothing to do with what was read.
    pub(crate) fn restart(&mut self) {
        let cut = if self.is_plain() { self.seen.saturating_sub(self.at.offset) } else { 0 };
        if cut > 0 {
            self.unread = Some((cut + self.unread.map_or(0, |(bytes, _)| bytes), Instant::now()));
        }
        self.seen = self.size;
        self.former = Some(self.at.clone()).filter(|at| at.anchor.is_some());
        self.at = Position { generation: self.at.generation + 1, ..Position::default() };
        self.head.clear();
        self.tail.clear();
        self.trusted = true;
        self.exhausted = None;
    }

    pub(crate) fn close(&mut self) {
        self.reader = None;
        self.trusted = false;
        self.head = Vec::new();
        self.tail = Vec::new();
    }

    /// `content` was emitted or thrown away.
    pub(crate) fn advance(&mut self, content: &[u8], split: &Split) {
        let room = HEAD_BYTES - self.at.head_len as usize;
        if room > 0 && !content.is_empty() {
            self.head.extend_from_slice(&content[..room.min(content.len())]);
            self.at.head = fnv(&self.head);
            self.at.head_len = self.head.len() as u64;
            if self.head.len() == HEAD_BYTES {
                self.head = Vec::new();
            }
        }
        let keep = ANCHOR_BYTES as usize;
        if content.len() >= keep {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&content[content.len().saturating_sub(keep)..]);
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        self.at.anchor = Some(fnv(&self.tail));
        self.at.offset += content.len() as u64;
        self.at.line += split.lines;
        self.at.skip = split.skip;
        self.at.done = false;
        self.at.compressed = !self.is_plain();
    }

    /// Loads what the position rests on. False when the content is not what was read: the file was rewritten, or is another one.
    pub(crate) fn verify(&mut self, settings: &Settings) -> io::Result<bool> {
        let Some(reader) = &mut self.reader else { return Ok(true) };
        if self.at.offset == 0 {
            return Ok(true);
        }
        let unknown = self.at.anchor.is_none();
        let mut head = vec![0; if unknown { self.at.offset.min(HEAD_BYTES as u64) } else { self.at.head_len } as usize];
        let mut tail = vec![0; self.at.offset.min(ANCHOR_BYTES) as usize];
        let before = self.at.offset - tail.len() as u64;
        if reader.read(&mut head, 0)? < head.len() || reader.read(&mut tail, before)? < tail.len() {
            return Ok(false);
        }
        if unknown {
            (self.at.head, self.at.head_len, self.at.anchor) = (fnv(&head), head.len() as u64, Some(fnv(&tail)));
            // Of `read.from: end`: the rest of a line that was there in part.
            self.at.skip = settings.from_end && !settings.delimiter.ends(&tail);
        } else if fnv(&head) != self.at.head || self.at.anchor != Some(fnv(&tail)) {
            return Ok(false);
        }
        self.head = if head.len() < HEAD_BYTES { head } else { Vec::new() };
        self.tail = tail;
        Ok(true)
    }

    /// Nothing changed for so long that a writer would have finished.
    pub(crate) fn is_quiet(&self, settings: &Settings) -> bool {
        self.changed.elapsed() >= settings.quiet || age(self.modified.max(self.touched)) >= settings.quiet
    }

    /// The decoder stopped before the end. What is being written looks like this; what nobody writes any more is damaged, or cut.
    pub(crate) fn not_whole(&mut self, error: Option<io::Error>, flush: Flush, settings: &Settings) -> Result<Turn> {
        let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        if error.raw_os_error().is_some() || !self.is_compressed() {
            return Err(cannot_read(&self.path, error));
        }
        self.exhausted = Some((self.size, self.modified));
        self.at.done = false;
        if flush != Flush::All && !self.is_quiet(settings) {
            self.unsettled = true;
            return Ok(Turn::Idle);
        }
        if error.kind() != io::ErrorKind::UnexpectedEof {
            return Err(cannot_decode(&self.path, error));
        }
        if !std::mem::replace(&mut self.cut, true) {
            tracing::warn!(file = %self.path.display(), position = self.at.offset, "file.cut: not whole, the rest is waited for");
        }
        Ok(Turn::Idle)
    }

    fn is_compressed(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.codec() != Codec::Plain)
    }

    /// There is content that is not emitted, and nothing says yet that it is a whole record.
    fn is_partial(&self) -> bool {
        self.is_plain() && self.size > self.at.offset
    }

    /// What becomes due when nothing came for how long.
    pub(crate) fn due(&self, settings: &Settings) -> Option<(Duration, Flush)> {
        let partial = self.is_partial();
        let groups = settings.multiline.as_ref().filter(|_| partial && self.flushed == Flush::Nothing);
        let rest = settings.partial_after.filter(|_| partial && self.flushed != Flush::All);
        let finish = (self.missing.is_some() || self.rotated) && !self.settled;
        let candidates = [
            groups.map(|multiline| (multiline.timeout, Flush::Groups)),
            rest.map(|wait| (wait, Flush::All)),
            (finish || self.unsettled).then_some((settings.quiet, Flush::All)),
        ];
        candidates.into_iter().flatten().min_by_key(|(wait, _)| *wait)
    }

    pub(crate) fn quiet_since(&self) -> Instant {
        self.missing.map_or(self.changed, |missing| missing.max(self.changed))
    }
}

/// Nanoseconds since the epoch, as time that passed; none when it is ahead of our clock.
pub(crate) fn age(nanos: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    Duration::from_nanos(now.saturating_sub(nanos).max(0) as u64)
}

fn cannot_decode(path: &Path, error: io::Error) -> Error {
    Error::fatal("file.decode", format!("{} is damaged: it cannot be decompressed", path.display()))
        .because(error)
        .fix("repair or remove the file, exclude it, or set compression to none")
}
