//! The commit journal and its checkpoints: `journal/<seq>.checkpoint` holds the state, `journal/<seq>.journal` the commits after it.
//!
//! A frame is a magic number, the length and the CRC32C of its payload, and the payload (JSON).

use super::state::{Change, State};
use crate::disk::{Disk, Open};
use aqueduct_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

pub(crate) const DIR: &str = "journal";
const FRAME_MAGIC: &[u8; 4] = b"AQjf";
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
    pub(crate) fn encode(&self) -> Vec<u8> {
        sealed(FRAME_MAGIC, self)
    }
}

fn sealed(magic: &[u8; 4], payload: &impl Serialize) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut out, payload).expect("the state has string keys only and a Vec cannot fail");
    let length = (out.len() - HEADER_BYTES) as u32;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length.to_be_bytes()), &out[HEADER_BYTES..]);
    out[..4].copy_from_slice(magic);
    out[4..8].copy_from_slice(&length.to_be_bytes());
    out[8..12].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The payload of the frame that begins here, when it is whole and undamaged.
fn payload<'a>(magic: &[u8; 4], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let header = bytes.get(..HEADER_BYTES)?;
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = field(4);
    if header[..4] != magic[..] || length as usize > FRAME_MAX_BYTES {
        return None;
    }
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length as usize)?;
    (crc32c::crc32c_append(crc32c::crc32c(&length.to_be_bytes()), payload) == field(8)).then_some(payload)
}

/// A journal as it was found.
#[derive(Debug)]
pub(crate) struct Replay {
    /// With the position at which each begins.
    pub(crate) frames: Vec<(u64, Frame<'static>)>,
    /// Where the last valid frame ends; what follows is a torn tail.
    pub(crate) end: u64,
}

/// Reads a journal.
///
/// # Errors
/// `log.corrupt` when a frame is damaged that had been synced before a later, valid one was written.
pub(crate) fn replay(path: &str, bytes: &[u8]) -> Result<Replay> {
    let mut frames = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let Some(payload) = payload(FRAME_MAGIC, &bytes[position..]) else { break };
        let frame = serde_json::from_slice(payload)
            .map_err(|error| corrupt(path, position, &format!("an unreadable frame ({error})")))?;
        frames.push((position as u64, frame));
        position += HEADER_BYTES + payload.len();
    }
    if later_frame(&bytes[position..]).is_some_and(|later| later > position as u64) {
        return Err(corrupt(path, position, "a damaged frame with sound ones behind it"));
    }
    Ok(Replay { frames, end: position as u64 })
}

/// The furthest position that a sound frame in these bytes says was synced before it.
fn later_frame(bytes: &[u8]) -> Option<u64> {
    let mut furthest = None;
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], FRAME_MAGIC) {
        at += found;
        if let Some(payload) = payload(FRAME_MAGIC, &bytes[at..]) {
            let frame: Option<Frame<'static>> = serde_json::from_slice(payload).ok();
            furthest = furthest.max(frame.map(|frame| frame.s));
            at += HEADER_BYTES + payload.len();
        } else {
            at += 1;
        }
    }
    furthest
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
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
    state: Cow<'a, State>,
}

pub(crate) fn encode_checkpoint(seq: u64, clean: bool, state: &State) -> Vec<u8> {
    sealed(CHECKPOINT_MAGIC, &Checkpoint { seq, clean, state: Cow::Borrowed(state) })
}

/// What a start finds.
pub(crate) struct Loaded {
    pub(crate) seq: u64,
    pub(crate) clean: bool,
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
    let payload = payload(CHECKPOINT_MAGIC, &bytes).ok_or_else(|| corrupt(&path, 0, "the checkpoint is damaged"))?;
    let checkpoint: Checkpoint<'static> =
        serde_json::from_slice(payload).map_err(|error| corrupt(&path, 0, &format!("unreadable ({error})")))?;
    if checkpoint.seq != seq {
        return Err(corrupt(&path, 0, "this checkpoint has another number than its file"));
    }
    let mut state = checkpoint.state.into_owned();
    state.index_names();
    Ok(Some(Loaded { seq, clean: checkpoint.clean, state }))
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

    fn journal() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for n in 1..=4 {
            starts.push(bytes.len());
            let changes = vec![Change::Epoch { task: "a-0".into(), epoch: n }];
            let frame = Frame { n, d: n - 1, s: bytes.len() as u64, c: changes.into() };
            bytes.extend(frame.encode());
        }
        starts.push(bytes.len());
        (bytes, starts)
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
        bytes.extend(frame.encode());
        assert_eq!(replay("j", &bytes).unwrap().end as usize, hole);
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
