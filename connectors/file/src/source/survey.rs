//! What a scan means for the files that are being read: new ones, renamed ones, gone ones, and in which order they are to be read.

use super::copies::Origin;
use super::family::bases;
use super::identity::{Kind, Stat};
use super::position::{Position, Remembered, Stored, file_partition, literal_partition};
use super::reader::{Codec, Reader};
use super::scan::{Found, Problem, find_inode, scan};
use super::settings::Pattern;
use super::tailer::{Ghost, Tailer};
use super::tracked::{Key, Tracked};
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two scans are at least this far apart, and five times what one takes: names may change faster than we can look.
const SCAN_GAP: Duration = Duration::from_millis(50);
/// Paths that files were rotated from; without them only the order of rotated files may be lost.
const BASES_MAX: usize = 100_000;
/// How long a copy of what was cut off may take to turn up: two scans at the default `poll.interval`.
const COPY_WAIT: Duration = Duration::from_secs(10);
/// Paths that a warning was given for.
const WARNED_MAX: usize = 10_000;

impl Tailer {
    /// What the stored offsets say, as far as it is this task's share.
    pub(crate) fn restore(&mut self, resume: &[SourceOffset]) {
        let settings = self.settings.clone();
        for offset in resume {
            if offset.partition.contains_key("read.from") {
                let since = offset.offset.as_ref().and_then(|offset| offset.get("since")).and_then(Value::as_i64);
                self.since = [self.since, since].into_iter().flatten().min();
                continue;
            }
            let Some(stored) = Stored::parse(offset) else { continue };
            if settings.single().is_some_and(|path| path != stored.filename) {
                continue;
            }
            // By the path where it was first: wherever it is now, all tasks come to the same answer.
            if !settings.has(&stored.filename) {
                for (id, file) in stored.chain.iter().filter_map(|file| Some((file.id?, file))) {
                    self.note_stored(id, file.at.head, file.at.head_len);
                }
                continue;
            }
            let last = stored.chain.len().saturating_sub(1);
            for (index, file) in stored.chain.iter().enumerate() {
                // An operator who set a position gave nothing else.
                let Some(id) = file.id.or(stored.first_id) else {
                    self.legacy.insert(stored.filename.clone(), (stored.partition.clone(), file.clone()));
                    continue;
                };
                let partition = if index == last { stored.partition.clone() } else { file_partition(&stored.filename, id) };
                if file.gone.is_some() {
                    self.ghosts.insert(id, Ghost { partition, file: file.clone() });
                } else {
                    let key = self.track(Tracked::restored(partition, stored.filename.clone(), id, file));
                    self.restored.extend(id.born.map(|born| ((id.ino, born), key)));
                }
            }
        }
    }

    fn track(&mut self, file: Tracked) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        self.by_inode.insert(file.id.inode(), key);
        self.by_path.insert(file.path.clone(), key);
        // A file that was renamed has left the path where the next one will be, perhaps after the next scan.
        if self.bases.len() < BASES_MAX {
            self.bases.insert(file.path.clone());
        }
        self.files.insert(key, file);
        self.pending.insert(key);
        key
    }

    pub(crate) fn scan_if_due(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.scan_due && !(self.scan_wanted && now >= self.scan_earliest) {
            return Ok(());
        }
        self.scan_wanted = false;
        let first = self.scans == 0;
        if first && self.settings.from_end {
            self.mark_start();
        }
        // A file that is renamed during a scan may be missed by it. It is older than what the scan found, and is to be read before it
        // (invariant 3): so what is new is read only after one more scan.
        if self.scan(first, now)? && self.scan(first, now)? {
            self.scan_wanted = true;
        }
        if !self.restored.is_empty() {
            self.restored.retain(|_, key| self.files.get(key).is_some_and(|file| file.scan == 0));
        }
        self.forget_ghosts();
        self.forget_foreign();
        self.count_lost();
        self.waiting.retain(|inode, _| self.seen_waiting.contains(inode));
        let after = Instant::now();
        self.scan_earliest = after + SCAN_GAP.max(5 * (after - now));
        let waiting = self.waiting_due().map(|due| due.max(self.scan_earliest));
        self.scan_due = (after + self.settings.poll_interval).min(waiting.unwrap_or(after + self.settings.poll_interval));
        Ok(())
    }

    /// True when there are new files.
    fn scan(&mut self, first: bool, now: Instant) -> Result<bool> {
        let found = scan(&self.settings);
        self.seen_waiting.clear();
        if self.watch.follow(&found.dirs) {
            self.scan_wanted = true;
        }
        for (path, problem) in found.problems {
            self.report(path, problem)?;
        }
        self.scans += 1;
        if !self.restored.is_empty() {
            self.devices = found.files.iter().map(|file| file.stat.id.dev).collect();
        }
        let (mut changed, keys) = (false, self.next_key);
        for file in found.files {
            changed |= self.meet(file, first, now)?;
        }
        if self.scans == 1 {
            self.name_missing();
        }
        let scans = self.scans;
        let missed: Vec<Key> = self.files.iter().filter(|(_, file)| file.scan != scans).map(|(key, _)| *key).collect();
        for key in missed {
            changed |= self.miss(key, now);
        }
        if changed {
            self.families();
        }
        Ok(self.next_key != keys)
    }

    /// A path that was mistyped looks like a file that will come.
    fn name_missing(&self) {
        for pattern in &self.settings.patterns {
            if let Pattern::Literal(path) = pattern
                && self.settings.has(path)
                && !path.exists()
            {
                tracing::warn!(file = %path.display(), "file.missing: it is not there yet, and is read as soon as it is");
            }
        }
    }

    fn mark_start(&mut self) {
        let marker: JsonMap = [("read.from".to_owned(), json!("end"))].into_iter().collect();
        if self.since.is_none() {
            let since: JsonMap = [("since".to_owned(), json!(now_millis()))].into_iter().collect();
            self.offsets.push(SourceOffset { partition: marker, offset: Some(since) });
        }
    }

    /// A pattern found a file. True when a path changed hands.
    fn meet(&mut self, found: Found, first: bool, now: Instant) -> Result<bool> {
        let Found { path, stat } = found;
        if let Some(key) = self.by_inode.get(&stat.id.inode()).copied() {
            if self.files.get(&key).is_some_and(|file| file.id.is(stat.id)) {
                return Ok(self.meet_again(key, path, &stat, now));
            }
            // Its inode belongs to another file now.
            self.retire(key)?;
        }
        if let Some(ghost) = self.ghosts.remove(&stat.id) {
            let remembered = Remembered { gone: None, ..ghost.file };
            let key = self.track(Tracked::restored(ghost.partition, path.clone(), stat.id, &remembered));
            self.meet_again(key, path, &stat, now);
            return Ok(true);
        }
        if let Some(key) = self.on_another_device(&path, &stat) {
            self.meet_again(key, path, &stat, now);
            return Ok(true);
        }
        if !self.is_mine(&path, &stat) {
            return Ok(false);
        }
        // What is there at the first start is passed over: whose copy it may be does not matter.
        let passed = first && self.settings.from_end && self.since.is_none();
        let origin = if passed { Origin::New } else { self.origin(&path, &stat) };
        let key = match origin {
            Origin::Wait => {
                self.seen_waiting.insert(stat.id.inode());
                return Ok(false);
            }
            Origin::New => self.adopt(path, &stat, first),
            Origin::Copy { partition, at } => {
                let key = self.track(Tracked::new(partition, path, &stat, at));
                self.touched.insert(key);
                key
            }
        };
        if let Some(file) = self.files.get_mut(&key) {
            file.scan = self.scans;
            file.found = self.scans;
            if self.settings.share.1 > 1 {
                file.probe();
            }
        }
        self.enqueue(key);
        Ok(true)
    }

    /// A file of the offsets whose device has another number since the machine started again: same inode, time of birth and content, and at the
    /// same path or on a device in the place of one that is gone.
    fn on_another_device(&mut self, path: &Path, stat: &Stat) -> Option<Key> {
        let key = self.restored.get(&(stat.id.ino, stat.id.born?)).copied()?;
        let file = self.files.get(&key).filter(|file| file.scan == 0)?;
        let (there, at) = (file.path == path, &file.at);
        if !there && (self.devices.contains(&file.id.dev) || at.offset == 0) {
            return None;
        }
        if at.offset > 0 && (at.anchor.is_some() || !there) {
            let mut reader = Reader::open(path, self.settings.decompress).ok()?;
            let same = reader.has_head(at.head, at.head_len).ok()? && reader.has_anchor(at.offset, at.anchor).ok()?;
            same.then_some(())?;
        }
        let file = self.files.get_mut(&key)?;
        let old = std::mem::replace(&mut file.id, stat.id);
        if self.by_inode.get(&old.inode()) == Some(&key) {
            self.by_inode.remove(&old.inode());
        }
        self.by_inode.insert(stat.id.inode(), key);
        self.touched.insert(key);
        Some(key)
    }

    fn meet_again(&mut self, key: Key, path: PathBuf, stat: &Stat, now: Instant) -> bool {
        let scans = self.scans;
        let Some(file) = self.files.get_mut(&key) else { return false };
        file.scan = scans;
        if self.settings.share.1 > 1 {
            file.probe();
        }
        let news = file.observe(stat, now) | (file.reader.is_none() && !file.is_exhausted()) | std::mem::take(&mut file.refused);
        let came_back = file.missing.take().is_some();
        let moved = file.path != path;
        file.home.clone_from(&path);
        if moved {
            let old = std::mem::replace(&mut file.path, path.clone());
            if self.by_path.get(&old) == Some(&key) {
                self.by_path.remove(&old);
            }
        }
        self.by_path.insert(path, key);
        if news || moved {
            if let Some(file) = self.files.get_mut(&key).filter(|_| news) {
                file.exhausted = None;
            }
            self.enqueue(key);
        }
        moved || came_back || scans == 1
    }

    /// A new file: where to begin.
    fn adopt(&mut self, path: PathBuf, stat: &Stat, first: bool) -> Key {
        if let Some((partition, file)) = self.legacy.remove(&path) {
            return self.track(Tracked::new(partition, path, stat, file.at));
        }
        let partition = match self.settings.single() {
            Some(path) => literal_partition(path),
            None => file_partition(&path, stat.id),
        };
        let born = stat.id.born.unwrap_or(stat.modified) / 1_000_000;
        let old = self.settings.from_end && self.since.map_or(first, |since| born <= since);
        // A compressed file's content is not known without reading it.
        let opaque = old && Reader::open(&path, self.settings.decompress).is_ok_and(|reader| reader.codec() != Codec::Plain);
        let offset = if old && !opaque { stat.size } else { 0 };
        let at = Position { offset, done: opaque, compressed: opaque, ..Position::default() };
        let mut file = Tracked::new(partition, path, stat, at);
        file.exhausted = opaque.then_some((stat.size, stat.modified));
        let key = self.track(file);
        if old {
            self.touched.insert(key);
        }
        key
    }

    /// No pattern finds it: it was renamed to another place, or deleted. What was written to it is read all the same.
    fn miss(&mut self, key: Key, now: Instant) -> bool {
        let Some(file) = self.files.get_mut(&key) else { return false };
        let fresh = file.missing.is_none();
        file.missing.get_or_insert(now);
        if file.reader.is_none()
            && file.stat().is_none()
            && let Some(path) = find_inode(file.home.parent().unwrap_or(Path::new("")), file.id.inode())
        {
            file.path = path;
            file.exhausted = None;
        } else if !fresh {
            return false;
        }
        if fresh || file.exhausted.is_none() {
            file.exhausted = None;
            self.enqueue(key);
            self.pending.insert(key);
        }
        fresh
    }

    /// Nothing more is expected of a file that was rotated or deleted.
    pub(crate) fn finish(&mut self, key: Key) -> Result<()> {
        let Some(file) = self.files.get_mut(&key) else { return Ok(()) };
        if file.missing.is_some() {
            return self.retire(key);
        }
        file.settled = true;
        Ok(())
    }

    fn retire(&mut self, key: Key) -> Result<()> {
        let Some(mut file) = self.files.remove(&key) else { return Ok(()) };
        self.forget_open(key);
        self.pending.remove(&key);
        self.touched.remove(&key);
        if self.by_inode.get(&file.id.inode()) == Some(&key) {
            self.by_inode.remove(&file.id.inode());
        }
        for path in [&file.path, &file.home] {
            if self.by_path.get(path) == Some(&key) {
                self.by_path.remove(path);
            }
        }
        let unread = match file.is_plain() {
            _ if file.at.done => 0,
            true => file.size.saturating_sub(file.at.offset),
            false => file.size,
        };
        file.at.done = true;
        if let Some((head, len)) = file.probed.filter(|_| file.at.offset == 0) {
            (file.at.head, file.at.head_len) = (head, len);
        }
        let remembered = Remembered { gone: Some(now_millis()), ..file.remember() };
        if self.settings.single().is_some() {
            self.last = Some(Remembered { gone: None, ..remembered });
            self.touched.insert(key);
        } else {
            let offset = Some(remembered.to_json());
            self.offsets.push(SourceOffset { partition: file.partition.clone(), offset });
            self.ghosts.insert(file.id, Ghost { partition: file.partition, file: remembered });
        }
        // A copy that was compressed meanwhile has the rest; of one of which no byte was read, only the name tells it.
        let copied = self.waiting.values().any(|waiting| waiting.original == Some(key))
            || (self.settings.decompress && file.at.offset == 0 && unread > 0 && has_compressed_copy(&file.home));
        let cut = file.unread.map_or(0, |(bytes, _)| bytes);
        let lost = cut + if copied { 0 } else { unread };
        self.lost.fetch_add(lost, Relaxed);
        if unread > 0 && !copied {
            tracing::warn!(file = %file.home.display(), unread, "file.lost: it vanished before it was read to its end");
            if self.settings.fail_on_lost {
                let message = format!("{} vanished, {unread} bytes before it was read to its end", file.home.display());
                return Err(Error::fatal("file.lost", message).fix("restore the file, or set lost.policy to warn"));
            }
        }
        Ok(())
    }

    /// What was cut off a file unread is lost when no copy of it has turned up: logrotate makes the copy first.
    fn count_lost(&mut self) {
        let wait = COPY_WAIT.max(2 * self.settings.quiet);
        for (key, file) in &mut self.files {
            let copied = || self.waiting.values().any(|waiting| waiting.original == Some(*key));
            if let Some((bytes, _)) = file.unread.take_if(|(_, since)| since.elapsed() >= wait && !copied()) {
                tracing::warn!(file = %file.path.display(), bytes, "file.lost: cut off before it was read");
                self.lost.fetch_add(bytes, Relaxed);
            }
        }
    }

    fn forget_ghosts(&mut self) {
        let limit = now_millis() - self.settings.forget_after.as_millis() as i64;
        let offsets = &mut self.offsets;
        self.ghosts.retain(|_, ghost| {
            let keep = ghost.file.gone.is_none_or(|gone| gone > limit);
            if !keep {
                offsets.push(SourceOffset { partition: ghost.partition.clone(), offset: None });
            }
            keep
        });
    }

    /// Which files come before which: `app.log.2`, `app.log.1`, and what was `app.log` before it was renamed or deleted, come before `app.log`.
    fn families(&mut self) {
        let mut families: FxHashMap<PathBuf, Vec<(i64, Key)>> = FxHashMap::default();
        for (key, file) in &self.files {
            let base = match file.missing {
                Some(_) => Some(file.home.clone()),
                None => self.base(&file.path),
            };
            if let Some(base) = base {
                families.entry(base).or_default().push((file.id.born.unwrap_or(file.modified), *key));
            }
        }
        for file in self.files.values_mut() {
            file.before.clear();
            file.rotated = false;
        }
        for (base, mut members) in families {
            members.sort_unstable();
            let members: Vec<Key> = members.into_iter().map(|(_, key)| key).collect();
            for (index, key) in members.iter().enumerate() {
                if let Some(file) = self.files.get_mut(key) {
                    file.rotated = true;
                    self.pending.insert(*key);
                }
                let earlier: Vec<Key> = members[..index].iter().copied().filter(|key| self.is_open_ended(*key)).collect();
                if let Some(file) = self.files.get_mut(key) {
                    file.before = earlier;
                }
            }
            let earlier: Vec<Key> = members.iter().copied().filter(|key| self.is_open_ended(*key)).collect();
            let base = self.by_path.get(&base).copied().filter(|key| !members.contains(key));
            if let Some(file) = base.and_then(|key| self.files.get_mut(&key)) {
                file.before = earlier;
            }
        }
    }

    fn is_open_ended(&self, key: Key) -> bool {
        self.files.get(&key).is_some_and(|file| !file.settled)
    }

    /// The path that `path` was rotated from: a file is there, or was, and the rest of the name looks like it.
    pub(crate) fn base(&self, path: &Path) -> Option<PathBuf> {
        bases(path)
            .map(|base| path.with_file_name(base))
            .find(|base| self.by_path.contains_key(base) || self.bases.contains(base))
    }

    fn report(&mut self, path: PathBuf, problem: Problem) -> Result<()> {
        match problem {
            Problem::NotAFile(kind) => {
                let what = if kind == Kind::Directory { "a directory" } else { "a pipe, a socket or a device" };
                let what = format!("{} is not a file but {what}", path.display());
                Err(Error::fatal("file.not_a_file", what).fix("name a file, or a pattern such as folder/*.log"))
            }
            Problem::Io(error) => self.refused(path, error),
        }
    }

    /// A file cannot be opened. If it is the only one, the task fails and is tried again; otherwise the others go on.
    pub(crate) fn refused(&mut self, path: PathBuf, error: io::Error) -> Result<()> {
        let only = matches!(self.settings.patterns.as_slice(), [Pattern::Literal(_)]);
        let starved = matches!(error.raw_os_error(), Some(23 | 24));
        if only || starved {
            let failed = Error::retriable("file.open", format!("cannot open {}", path.display())).because(error);
            return Err(if starved {
                failed.fix("raise the limit of open files (ulimit -n), or lower max.open.files")
            } else {
                failed
            });
        }
        if self.warned.len() < WARNED_MAX && self.warned.insert(path.clone()) {
            tracing::warn!(file = %path.display(), %error, "file.open: cannot be read, will be tried again");
        }
        Ok(())
    }
}

fn has_compressed_copy(path: &Path) -> bool {
    let copy =
        |extension: &&str| path.file_name().map(|name| path.with_file_name([name, OsStr::new(extension)].join(OsStr::new("."))));
    ["gz", "zst", "gzip", "zstd"].iter().filter_map(copy).any(|copy| copy.exists())
}

fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
