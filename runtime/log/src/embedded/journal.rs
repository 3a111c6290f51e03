//! The commit journal and its checkpoints: `journal/<seq>.checkpoint` holds the state, `journal/<seq>.journal` the commits after it.
//!
//! A frame is a magic number, the length and the CRC32C of its payload, and the payload: JSON, or the length of the JSON, the JSON, and the record
//! batches that a small commit carries. The CRC begins with the journal's salt, so that no record can hold what looks like a frame.
//! Behind the last frame there may be zeros: room that was written ahead, since a sync that changes no file's length costs half as much.

use super::state::{Change, State};
use crate::disk::{Disk, DiskFile, Open};
use aqueduct_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub(crate) const DIR: &str = "journal";
const FRAME_MAGIC: &[u8; 4] = b"AQjf";
/// Of a frame that carries record batches. No flipped bit makes one of the other.
const CARRYING_MAGIC: &[u8; 4] = b"AQjw";
const CHECKPOINT_MAGIC: &[u8; 4] = b"AQck";
const HEADER_BYTES: usize = 12;
/// Far above what one round can hold; a length beyond is damage.
const FRAME_MAX_BYTES: usize = 1 << 30;

pub(crate) fn journal_path(seq: u64) -> String {
    format!("{DIR}/{seq:020}.journal")
}

pub(crate) fn checkpoint_path(seq: u64) -> String {
    format!("{DIR}/{seq:020}.checkpoint")
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame<'a> {
    /// The commit's number; a seal repeats the last one.
    pub(crate) n: u64,
    /// All commits up to this number were durable when the frame was written.
    pub(crate) d: u64,
    /// The journal was synced up to this position when the frame was written: damage below is no torn tail.
    pub(crate) s: u64,
    pub(crate) c: Cow<'a, [Change]>,
}

impl Frame<'_> {
    /// `carried`: the bytes of all appends of the frame in their order, or nothing.
    fn encode<'a>(&self, salt: u32, carried: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut carried = carried.peekable();
        if carried.peek().is_none() {
            return sealed(FRAME_MAGIC, salt, |out| json(out, self));
        }
        sealed(CARRYING_MAGIC, salt, |out| {
            let at = out.len();
            out.extend([0; 4]);
            json(out, self);
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
            carried.for_each(|bytes| out.extend_from_slice(bytes));
        })
    }

    /// How many bytes its appends have.
    fn appended(&self) -> u64 {
        let bytes = |change: &Change| if let Change::Append(append) = change { append.to.saturating_sub(append.from) } else { 0 };
        self.c.iter().map(bytes).sum()
    }
}

fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("the state has string keys only and a Vec cannot fail");
}

fn sealed(magic: &[u8; 4], salt: u32, payload: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    payload(&mut out);
    let length = (out.len() - HEADER_BYTES) as u32;
    let crc = crc(salt, length, &out[HEADER_BYTES..]);
    out[..4].copy_from_slice(magic);
    out[4..8].copy_from_slice(&length.to_be_bytes());
    out[8..12].copy_from_slice(&crc.to_be_bytes());
    out
}

fn crc(salt: u32, length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &length.to_be_bytes()), payload)
}

/// The payload of what begins here, when it is whole and undamaged.
fn payload<'a>(magic: &[u8; 4], salt: u32, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let header = bytes.get(..HEADER_BYTES)?;
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = field(4);
    if header[..4] != magic[..] || length as usize > FRAME_MAX_BYTES {
        return None;
    }
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length as usize)?;
    (crc(salt, length, payload) == field(8)).then_some(payload)
}

/// The frame that begins at the start of these bytes, when it is whole and undamaged: its JSON and what it carries.
fn split(salt: u32, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(payload) = payload(FRAME_MAGIC, salt, bytes) {
        return Some((payload, &[]));
    }
    let (length, rest) = payload(CARRYING_MAGIC, salt, bytes)?.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The journal that is written to.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) path: String,
    /// All of it is synced.
    pub(crate) len: u64,
    salt: u32,
    /// To here the file has frames or zeros.
    filled: u64,
    fill_bytes: u64,
}

impl Journal {
    /// An empty one. `fill_bytes`: so much room is written ahead.
    pub(crate) fn create(disk: &dyn Disk, seq: u64, salt: u32, fill_bytes: u64) -> io::Result<Self> {
        let path = journal_path(seq);
        Ok(Self { file: Some(disk.open(&path, Open::Create)?), path, len: 0, salt, filled: 0, fill_bytes })
    }

    /// Writes a frame at the end; it does not sync. The file to sync.
    ///
    /// # Errors
    /// Then the journal is not to be used any more.
    pub(crate) fn write<'a>(
        &mut self,
        n: u64,
        durable: u64,
        changes: Vec<Change>,
        carried: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let Some(file) = self.file.clone() else { return Err(io::Error::other("there is no journal")) };
        let frame = Frame { n, d: durable, s: self.len, c: changes.into() }.encode(self.salt, carried);
        let end = self.len + frame.len() as u64;
        if end > self.filled && self.fill_bytes > 0 {
            let (from, to) = (self.filled.max(self.len), end.next_multiple_of(self.fill_bytes));
            // Only speed is at stake: a full disk is told by the frame itself.
            let _ = file.write_all_at(&vec![0; (to - from) as usize], from).map(|()| self.filled = to);
        }
        file.write_all_at(&frame, self.len)?;
        self.len = end;
        Ok(file)
    }
}

/// A journal as it was found.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) frames: Vec<FoundFrame>,
    /// Where the last valid frame ends; what follows is a torn tail.
    pub(crate) end: u64,
}

#[derive(Debug)]
pub(crate) struct FoundFrame {
    pub(crate) position: u64,
    pub(crate) frame: Frame<'static>,
    /// The bytes of its appends, in the journal's; `None` when they are in the segments only.
    pub(crate) carried: Option<Range<usize>>,
}

/// Reads a journal.
///
/// # Errors
/// `log.corrupt` when a frame is damaged that had been synced before a later, valid one was written.
pub(crate) fn replay(path: &str, salt: u32, bytes: &[u8]) -> Result<Replay> {
    let mut frames = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let Some((json, carried)) = split(salt, &bytes[position..]) else { break };
        let frame: Frame<'static> =
            serde_json::from_slice(json).map_err(|error| corrupt(path, position, &format!("an unreadable frame ({error})")))?;
        let carries = bytes[position..].starts_with(CARRYING_MAGIC);
        if carries && frame.appended() != carried.len() as u64 {
            return Err(corrupt(path, position, "a frame carries other bytes than it names"));
        }
        let end = position + HEADER_BYTES + if carries { 4 } else { 0 } + json.len() + carried.len();
        let carried = carries.then(|| end - carried.len()..end);
        frames.push(FoundFrame { position: position as u64, frame, carried });
        position = end;
    }
    if later_frame(salt, &bytes[position..]).is_some_and(|later| later > position as u64) {
        return Err(corrupt(path, position, "a damaged frame with sound ones behind it"));
    }
    Ok(Replay { frames, end: position as u64 })
}

/// The furthest position that a sound frame in these bytes says was synced before it.
fn later_frame(salt: u32, bytes: &[u8]) -> Option<u64> {
    let mut furthest = None;
    for at in memchr::memmem::find_iter(bytes, &FRAME_MAGIC[..3]) {
        if let Some((json, _)) = split(salt, &bytes[at..]) {
            let frame: Option<Frame<'static>> = serde_json::from_slice(json).ok();
            furthest = furthest.max(frame.map(|frame| frame.s));
        }
    }
    furthest
}

pub(crate) fn corrupt(path: &str, position: usize, what: &str) -> Error {
    Error::fatal("log.corrupt", format!("{path} at byte {position}: {what}"))
        .fix("restore the data directory from a copy; `aqueduct log verify` lists all damage")
}

#[derive(Serialize, Deserialize)]
struct Checkpoint<'a> {
    seq: u64,
    /// Nothing was committed after it, and no file has a tail to cut.
    clean: bool,
    /// Of the journal with the same number.
    #[serde(default)]
    salt: u32,
    state: Cow<'a, State>,
}

pub(crate) fn encode_checkpoint(seq: u64, clean: bool, salt: u32, state: &State) -> Vec<u8> {
    sealed(CHECKPOINT_MAGIC, 0, |out| json(out, &Checkpoint { seq, clean, salt, state: Cow::Borrowed(state) }))
}

/// What a start finds.
pub(crate) struct Loaded {
    pub(crate) seq: u64,
    pub(crate) clean: bool,
    pub(crate) salt: u32,
    pub(crate) state: State,
}

/// The newest checkpoint; `None` in a new directory.
///
/// # Errors
/// `log.corrupt` when it is damaged: it was durable before it got its name, and it replaced the one before.
pub(crate) fn load_checkpoint(disk: &dyn Disk) -> Result<Option<Loaded>> {
    let names = disk.list(DIR).map_err(|error| io_error(DIR, "list", &error))?;
    let seqs = names.iter().filter_map(|name| name.strip_suffix(".checkpoint")?.parse::<u64>().ok());
    let Some(seq) = seqs.max() else { return Ok(None) };
    let path = checkpoint_path(seq);
    let bytes = read_file(disk, &path).map_err(|error| io_error(&path, "read", &error))?;
    let payload = payload(CHECKPOINT_MAGIC, 0, &bytes).ok_or_else(|| corrupt(&path, 0, "the checkpoint is damaged"))?;
    let checkpoint: Checkpoint<'static> =
        serde_json::from_slice(payload).map_err(|error| corrupt(&path, 0, &format!("unreadable ({error})")))?;
    if checkpoint.seq != seq {
        return Err(corrupt(&path, 0, "this checkpoint has another number than its file"));
    }
    let mut state = checkpoint.state.into_owned();
    state.index_names();
    Ok(Some(Loaded { seq, clean: checkpoint.clean, salt: checkpoint.salt, state }))
}

pub(crate) fn read_file(disk: &dyn Disk, path: &str) -> std::io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = usize::try_from(file.len()?).map_err(std::io::Error::other)?;
    let mut bytes = Vec::new();
    file.read_at(0, len, &mut bytes)?;
    Ok(bytes)
}

/// `log.disk_full` or `log.io`: both retriable.
pub(crate) fn io_error(path: &str, what: &str, error: &std::io::Error) -> Error {
    let message = format!("cannot {what} {path}: {error}");
    match error.raw_os_error() {
        // ENOSPC, EDQUOT
        Some(28 | 122) => Error::retriable("log.disk_full", message).fix("free space in data.dir; writers go on by themselves"),
        Some(24 | 23) => Error::retriable("log.io", message).fix("raise the limit of open files (ulimit -n)"),
        _ => Error::retriable("log.io", message).fix("check the disk that holds data.dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 7;

    /// Every second frame carries what it appends.
    fn journal() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for n in 1..=4 {
            starts.push(bytes.len());
            let mut changes = vec![Change::Epoch { task: "a-0".into(), epoch: n }];
            if n % 2 == 0 {
                changes.push(Change::Append(append(5 * n, 5 * n + 5)));
            }
            let frame = Frame { n, d: n - 1, s: bytes.len() as u64, c: changes.into() };
            bytes.extend(frame.encode(SALT, (n % 2 == 0).then_some(&b"bytes"[..]).into_iter()));
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    fn append(from: u64, to: u64) -> super::super::state::Append {
        super::super::state::Append { t: uuid::Uuid::nil(), p: 0, base: 0, from, to, first: 0, next: 1, ts: 0, ms: 0, crc: 0 }
    }

    fn replay(path: &str, bytes: &[u8]) -> Result<Replay> {
        super::replay(path, SALT, bytes)
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_frames() {
        let (bytes, starts) = journal();
        for cut in 0..=bytes.len() {
            let replay = replay("j", &bytes[..cut]).unwrap();
            let whole = starts[1..].iter().filter(|end| **end <= cut).count();
            assert_eq!((replay.frames.len(), replay.end as usize), (whole, starts[whole]), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let (bytes, starts) = journal();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                match replay("j", &flipped) {
                    // In the last frame it cannot be told from a torn tail: that is what seals are for.
                    Ok(replay) => assert!(at >= starts[3] && replay.frames.len() == 3, "byte {at}: {replay:?}"),
                    Err(error) => assert!(at < starts[3] && error.code() == "log.corrupt", "byte {at}: {error}"),
                }
            }
        }
    }

    #[test]
    fn a_tail_that_was_never_synced_may_have_holes() {
        let (mut bytes, _) = journal();
        let hole = bytes.len();
        bytes.extend([0; 60]);
        let frame = Frame { n: 5, d: 4, s: hole as u64, c: Cow::Owned(Vec::new()) };
        bytes.extend(frame.encode(SALT, std::iter::empty()));
        assert_eq!(replay("j", &bytes).unwrap().end as usize, hole);
    }

    #[test]
    fn room_that_was_written_ahead_is_no_frame() {
        let (mut bytes, starts) = journal();
        bytes.extend([0; 4000]);
        let found = replay("j", &bytes).unwrap();
        assert_eq!((found.frames.len(), found.end as usize), (4, starts[4]));
        let carried: Vec<_> = found.frames.iter().map(|found| found.carried.clone().map(|range| &bytes[range])).collect();
        assert_eq!(carried, [None, Some(&b"bytes"[..]), None, Some(&b"bytes"[..])]);
    }

    #[test]
    fn a_record_that_looks_like_a_frame_is_none() {
        // Of another journal, whose frames somebody ships as records: in a torn tail it must not pass for a later commit.
        let foreign = Frame { n: 9, d: 9, s: u64::MAX, c: Cow::Owned(Vec::new()) }.encode(SALT + 1, std::iter::empty());
        let (mut bytes, starts) = journal();
        bytes.extend([1; 60]);
        bytes.extend(foreign);
        assert_eq!(replay("j", &bytes).unwrap().end as usize, starts[4]);
    }

    #[test]
    fn a_frame_that_carries_other_bytes_than_it_names_is_damage() {
        let frame = Frame { n: 1, d: 0, s: 0, c: vec![Change::Append(append(0, 4))].into() };
        let bytes = frame.encode(SALT, std::iter::once(&b"bytes"[..]));
        assert_eq!(replay("j", &bytes).unwrap_err().code(), "log.corrupt");
    }

    #[test]
    fn blobs_keep_every_byte() {
        let mut state = State::default();
        let value = super::super::state::Blob((0..=255).collect());
        state.apply(&Change::Entry { s: crate::Store::Config, k: "k".into(), v: Some(value) });
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
