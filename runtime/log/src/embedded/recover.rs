//! Opening: the checkpoint, the commits after it, and the tails cut back to the last of them.

use super::EmbeddedOptions;
use super::behind::{Behind, Writes};
use super::core::{Core, warn};
use super::journal::{self, FoundFrame, Frame, Journal, Loaded, Replay, corrupt, io_error, journal_path};
use super::segment::{TOPICS, cleaned_path, parse_file, partition_dir, segment_file};
use super::shared::Shared;
use super::state::{Append, Change, PartitionState, State};
use crate::disk::{Disk, Open, SyncTarget};
use crate::record_batch::{HEADER_BYTES, Header, verify};
use aqueduct_core::Result;
use aqueduct_core::failpoint::{self, bug, point};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

impl Core {
    /// Recovers what the disk holds, and begins a new journal. Doing it again, also after a crash in the midst, gives the same.
    ///
    /// # Errors
    /// `log.corrupt` when commits that were durable cannot be known any more; `log.io`. A full disk is no error: reading works.
    pub(crate) fn open(disk: Arc<dyn Disk>, options: EmbeddedOptions) -> Result<Core> {
        prepare(&*disk).map_err(|error| io_error("data.dir", "prepare", &error))?;
        let mut recovery = Recovery { disk: &*disk, options: &options };
        let (mut state, clean) = recovery.load()?;
        // A process that ended well may still owe the rename of a compacted segment.
        let owes = |partition: &PartitionState| partition.segments.iter().any(|segment| segment.swap);
        if !clean || state.topics.values().flat_map(|topic| &topic.partitions).any(owes) {
            recovery.sweep(&mut state).map_err(|error| io_error(TOPICS, "clean up", &error))?;
        }
        let seq = last_seq(&*disk).map_err(|error| io_error(journal::DIR, "list", &error))?;
        let shared = Arc::new(Shared::new(disk.clone(), options, state));
        let (journal, behind) = (Journal::default(), Behind::default());
        let mut core = Core { shared, disk, journal, seq, broken: None, sealed: true, pending: Vec::new(), behind };
        if let Err(error) = core.checkpoint(false)
            && error.code() != "log.disk_full"
        {
            return Err(error);
        }
        Ok(core)
    }
}

fn prepare(disk: &dyn Disk) -> io::Result<()> {
    disk.create_dir(journal::DIR)?;
    disk.create_dir(TOPICS)?;
    disk.sync_dir("")
}

/// Also of attempts that failed: no name is used twice.
fn last_seq(disk: &dyn Disk) -> io::Result<u64> {
    let names = disk.list(journal::DIR)?;
    Ok(names.iter().filter_map(|name| name.split_once('.')?.0.parse().ok()).max().unwrap_or(0))
}

/// Files that are open at once while the last commit is written anew.
const REWRITE_FILES: usize = 128;

struct Recovery<'a> {
    disk: &'a dyn Disk,
    options: &'a EmbeddedOptions,
}

/// The state as it is on disk, without changing anything: for [`super::verify`] too. With what the journal would write back to the segments.
///
/// # Errors
/// `log.corrupt`, `log.io`.
pub(crate) fn read_state(disk: &dyn Disk, options: &EmbeddedOptions) -> Result<(State, Carried)> {
    let recovery = Recovery { disk, options };
    let Some(loaded) = journal::load_checkpoint(disk)? else { return Ok(<_>::default()) };
    recovery.replay(loaded, false)
}

/// By topic, partition and base offset of the segment: what of it the journal holds.
pub(crate) type Carried = BTreeMap<(Uuid, i32, i64), Writes>;

impl Recovery<'_> {
    /// True when the last process ended well, so that no file has a tail.
    fn load(&mut self) -> Result<(State, bool)> {
        let Some(loaded) = journal::load_checkpoint(self.disk)? else {
            // Never sweep away what a lost checkpoint does not name.
            let topics = self.disk.list(TOPICS).map_err(|error| io_error(TOPICS, "list", &error))?;
            return match topics.first() {
                None => Ok((State::default(), true)),
                Some(_) => Err(corrupt(journal::DIR, 0, "there are topics, but no checkpoint that names them")),
            };
        };
        let (commit, clean) = (loaded.state.commit, loaded.clean);
        let (state, carried) = self.replay(loaded, true)?;
        self.write_back(&state, &carried).map_err(|error| io_error(TOPICS, "write", &error))?;
        let clean = clean && state.commit == commit;
        Ok((state, clean))
    }

    /// The segments as the commits say, whatever the disk lost of what was synced in the journal only. Files that are missing are told when they are read.
    fn write_back(&self, state: &State, carried: &Carried) -> io::Result<()> {
        if self.bug(bug::NOT_WRITTEN_BACK) {
            return Ok(());
        }
        let mut targets = Vec::new();
        for ((topic, partition, base), writes) in carried {
            let Some(name) = state.topics.get(topic).map(|topic| &topic.name) else { continue };
            let path = segment_file(&partition_dir(name, *partition), *base, "log");
            let file = match self.disk.open(&path, Open::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            writes.write_to(&*file)?;
            targets.push(SyncTarget::File(file, point::LOG_DATA_SYNC));
            if targets.len() == REWRITE_FILES {
                self.disk.sync_all(&std::mem::take(&mut targets))?;
            }
        }
        self.disk.sync_all(&targets)
    }

    fn replay(&self, loaded: Loaded, repair: bool) -> Result<(State, Carried)> {
        let Loaded { seq, salt, mut state, .. } = loaded;
        let path = journal_path(seq);
        let bytes = journal::read_file(self.disk, &path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => corrupt(&path, 0, "the journal is missing"),
            _ => io_error(&path, "read", &error),
        })?;
        let Replay { mut frames, end } = journal::replay(&path, salt, &bytes)?;
        let end = usize::try_from(end).unwrap_or(bytes.len());
        let mut carried = Carried::new();
        if self.bug(bug::TAIL_LOST)
            && let Some(last) = frames.iter().rposition(|found| !found.frame.c.is_empty())
        {
            frames.truncate(last);
        }
        let durable = frames.iter().map(|found| found.frame.d).max().unwrap_or(0);
        for FoundFrame { position, frame, carried: carries } in &frames {
            let at = usize::try_from(*position).unwrap_or(usize::MAX);
            if frame.n == state.commit && frame.c.is_empty() {
                continue;
            }
            if frame.n != state.commit + 1 {
                let what = format!("commit {} follows commit {}", frame.n, state.commit);
                return Err(corrupt(&path, at, &what));
            }
            // Only the last can be in doubt: a round begins after the one before it is durable.
            if frame.n > durable {
                if carries.is_none() && !self.is_whole(&state, frame, repair)? {
                    tracing::warn!(commit = frame.n, "the last commit was torn: nothing of it is kept");
                    break;
                }
                if repair {
                    // The frame as its data: written and synced anew, before anybody sees what it commits.
                    let rewrite = || -> io::Result<()> {
                        let file = self.disk.open(&path, Open::Write)?;
                        file.write_all_at(&bytes[at..end], *position)?;
                        file.sync_data()
                    };
                    rewrite().map_err(|error| io_error(&path, "sync", &error))?;
                }
            }
            let mut rest = carries.clone().map(|range| &bytes[range]);
            for change in frame.c.iter() {
                if let Change::Append(append) = change {
                    if !continues(&state, append) {
                        return Err(corrupt(&path, at, "a commit does not go on where the one before it ended"));
                    }
                    if let Some(bytes) = rest.as_mut().and_then(|rest| rest.split_off(..(append.to - append.from) as usize)) {
                        carried.entry((append.t, append.p, append.base)).or_default().push(append.from, bytes);
                    }
                }
                state.apply(change);
                if matches!(change, Change::Compacted { .. } | Change::Start { .. } | Change::TopicDeleted { .. }) {
                    forget_replaced(&mut carried, &state);
                }
            }
            state.commit = frame.n;
        }
        Ok((state, carried))
    }

    /// True when all data of the frame is there. Then it is written once more and synced: what a process before could not sync may be in memory only,
    /// and only what is written anew is synced for certain.
    fn is_whole(&self, state: &State, frame: &Frame<'_>, repair: bool) -> Result<bool> {
        let mut whole = Vec::new();
        for change in frame.c.iter() {
            let Change::Append(append) = change else { continue };
            // What the same commit deletes may be gone from the disk already.
            let deleted = frame.c.iter().any(|change| matches!(change, Change::TopicDeleted { id } if *id == append.t));
            let Some(topic) = state.topics.get(&append.t).filter(|_| !deleted) else { continue };
            let dir = partition_dir(&topic.name, append.p);
            let path = segment_file(&dir, append.base, "log");
            let read = self.read_range(&path, append);
            match read.map_err(|error| io_error(&path, "read", &error))? {
                Some(bytes) if matches(append, &bytes) => whole.push((dir, path, append.from, bytes)),
                _ => return Ok(false),
            }
        }
        if repair {
            whole
                .chunks(REWRITE_FILES)
                .try_for_each(|some| self.rewrite(some))
                .map_err(|error| io_error(TOPICS, "sync", &error))?;
        }
        Ok(true)
    }

    fn rewrite(&self, ranges: &[(String, String, u64, Vec<u8>)]) -> io::Result<()> {
        let mut targets = vec![SyncTarget::Dir(TOPICS.to_owned())];
        for (dir, path, from, bytes) in ranges {
            let file = self.disk.open(path, Open::Write)?;
            file.write_all_at(bytes, *from)?;
            targets.push(SyncTarget::File(file, point::LOG_DATA_SYNC));
            targets.push(SyncTarget::Dir(dir.clone()));
        }
        self.disk.sync_all(&targets)
    }

    fn read_range(&self, path: &str, append: &Append) -> io::Result<Option<Vec<u8>>> {
        let file = match self.disk.open(path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Some(len) = append.to.checked_sub(append.from).filter(|_| append.to <= file.len().unwrap_or(0)) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.read_at(append.from, len as usize, &mut bytes)?;
        Ok((bytes.len() as u64 == len).then_some(bytes))
    }

    /// Removes what no commit names and cuts tails. A segment that is shorter than what was committed is closed: its damage is told when it is read.
    fn sweep(&self, state: &mut State) -> io::Result<()> {
        let mut known: BTreeMap<String, (Uuid, i32)> = BTreeMap::new();
        for (id, topic) in &state.topics {
            let dirs = (0..topic.partitions.len() as i32).map(|p| (partition_name(&topic.name, p), (*id, p)));
            known.extend(dirs);
        }
        for name in self.disk.list(TOPICS)? {
            let dir = format!("{TOPICS}/{name}");
            let Some((topic, partition)) = known.remove(&name) else {
                warn(&dir, self.disk.remove_dir_all(&dir));
                continue;
            };
            if let Some(partition) = state.partition_mut(topic, partition) {
                self.sweep_partition(&dir, partition)?;
            }
        }
        for (name, (topic, partition)) in known {
            let last = state.partition_mut(topic, partition).and_then(|partition| partition.segments.last_mut());
            if let Some(last) = last {
                tracing::error!(partition = name, "the directory of a partition is missing");
                last.sealed = true;
            }
        }
        Ok(())
    }

    fn sweep_partition(&self, dir: &str, partition: &mut PartitionState) -> io::Result<()> {
        for name in self.disk.list(dir)? {
            let path = format!("{dir}/{name}");
            let segment = parse_file(&name).and_then(|(base, suffix)| {
                let segment = partition.segments.iter_mut().find(|segment| segment.base == base)?;
                Some((segment, suffix))
            });
            match segment {
                Some((segment, "log.cleaned")) if segment.swap => {
                    self.disk.rename(&cleaned_path(dir, segment.base), &segment_file(dir, segment.base, "log"))?;
                }
                // Of the file that is replaced: as hints they would lead astray.
                Some((segment, "index" | "timeindex")) if segment.swap => warn(&path, self.disk.unlink(&path)),
                Some((_, "log" | "index" | "timeindex")) => {}
                _ => warn(&path, self.disk.unlink(&path)),
            }
        }
        if partition.segments.iter().any(|segment| segment.swap) {
            // Also a rename of the process before, which may be in memory only.
            self.disk.sync_dir(dir)?;
        }
        partition.segments.iter_mut().for_each(|segment| segment.swap = false);
        let Some(last) = partition.segments.last() else { return Ok(()) };
        let path = segment_file(dir, last.base, "log");
        let file = match self.disk.open(&path, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let len = file.as_ref().map_or(Ok(0), |file| file.len())?;
        if len < last.len {
            tracing::error!(path, committed = last.len, found = len, "a segment is shorter than what was committed");
            partition.segments.iter_mut().for_each(|segment| segment.sealed = true);
        } else if let Some(file) = file.filter(|_| len > last.len) {
            if self.bug(bug::TAIL_NOT_CUT) {
                return keep_tail(&*file, partition);
            }
            file.truncate(last.len)?;
        }
        Ok(())
    }

    fn bug(&self, name: &str) -> bool {
        cfg!(debug_assertions) && (failpoint::planted(name) || self.options.bugs.contains(&name))
    }
}

/// Segments that are gone, or whose file is to be another.
fn forget_replaced(carried: &mut Carried, state: &State) {
    carried.retain(|(topic, partition, base), _| {
        let segments = state.partition(*topic, *partition).map_or(&[][..], |partition| &partition.segments);
        segments.iter().any(|segment| segment.base == *base && !segment.swap)
    });
}

fn partition_name(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

fn continues(state: &State, append: &Append) -> bool {
    // A topic that a later change of the same commit deletes may be gone already.
    let Some(partition) = state.partition(append.t, append.p) else { return true };
    let from = partition.segments.last().filter(|last| last.base == append.base).map_or(0, |last| last.len);
    append.from == from && append.first == partition.end
}

/// True when these are the bytes that were committed.
fn matches(append: &Append, bytes: &[u8]) -> bool {
    let (mut at, mut crc, mut next) = (0, 0, append.first);
    while at < bytes.len() {
        let Ok(header) = verify(&bytes[at..]) else { return false };
        if header.base_offset != next {
            return false;
        }
        crc = crc32c::crc32c_append(crc, &bytes[at..at + HEADER_BYTES]);
        next = header.next_offset();
        at += header.bytes;
    }
    crc == append.crc && next == append.next
}

/// The planted bug: what lies behind the last commit is taken for committed.
fn keep_tail(file: &dyn crate::disk::DiskFile, partition: &mut PartitionState) -> io::Result<()> {
    let Some(last) = partition.segments.last_mut() else { return Ok(()) };
    let mut bytes = Vec::new();
    file.read_at(last.len, (file.len()? - last.len) as usize, &mut bytes)?;
    let mut at = 0;
    while let Ok(Some(header)) = Header::parse(&bytes[at..]) {
        if header.base_offset != partition.end || at + header.bytes > bytes.len() {
            break;
        }
        at += header.bytes;
        partition.end = header.next_offset();
        last.len += header.bytes as u64;
    }
    Ok(())
}
