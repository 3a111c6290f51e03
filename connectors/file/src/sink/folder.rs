//! What is in the folder of one partition, and what of it counts. Decided here, done in `rolling`.
//!
//! A file is finished in this order: its bytes are durable, the note says where it ends, it gets its name, the name is durable. From the note
//! on it is never touched again. When the log's commit is behind, the records that it holds are read again, for their dead letters' sake, but
//! not written again.

use aqueduct_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use uuid::Uuid;

pub(super) const NOTE: &str = ".aqueduct";

/// The state of the folder that must be known without a commit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Note {
    pub(super) topic_id: Uuid,
    /// The position that the first record was written from; none once a commit is known to have followed.
    pub(super) from: Option<i64>,
    /// The file that was finished last.
    pub(super) done: Option<Done>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Done {
    pub(super) name: String,
    pub(super) start: i64,
    /// The offset after its last record.
    pub(super) end: i64,
    pub(super) length: u64,
    pub(super) crc: u32,
}

/// What is kept with the position in the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Kept {
    pub(super) file: String,
    pub(super) topic_id: Uuid,
    #[serde(flatten)]
    pub(super) open: Option<Part>,
}

/// A file that is not finished, up to what was committed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Part {
    pub(super) start: i64,
    pub(super) length: u64,
    pub(super) crc: u32,
    pub(super) records: u64,
    /// Bytes before compression.
    pub(super) text: u64,
    /// Milliseconds since the epoch.
    pub(super) opened: i64,
}

/// The files of a folder, by the offset in their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) note: Option<Note>,
    /// Names as they will be when finished.
    pub(super) parts: Vec<(i64, String)>,
    pub(super) finished: Vec<(i64, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    /// To be cut back to what was committed, and gone on with.
    pub(super) open: Option<(String, Part)>,
    /// Parts of which nothing was committed.
    pub(super) delete: Vec<String>,
    /// Records before this offset are in finished files.
    pub(super) skip_before: i64,
    pub(super) note: Note,
}

/// The finished name of a file.
pub(super) fn name(start: i64, extension: &str) -> String {
    format!("{start:020}.{extension}")
}

/// The name while it is written: hidden, so that no pattern such as `*.log*` finds it.
pub(super) fn part_name(name: &str) -> String {
    format!(".{name}.part")
}

impl Found {
    /// Sorts names in; those that are not ours are left alone.
    pub(super) fn add(&mut self, file: &str) {
        let (list, name) = match file.strip_prefix('.').and_then(|rest| rest.strip_suffix(".part")) {
            Some(name) => (&mut self.parts, name),
            None => (&mut self.finished, file),
        };
        let digits = name.split('.').next().unwrap_or_default();
        if digits.len() == 20
            && let Ok(start) = digits.parse()
        {
            list.push((start, name.to_owned()));
        }
    }
}

/// What to do with a folder of this topic when its partition is assigned at `offset`, with what the log kept for this very folder.
///
/// # Errors
/// `file_sink.lost`, `file_sink.exists` (both fatal).
pub(super) fn decide(dir: &Path, found: &Found, topic_id: Uuid, offset: i64, kept: Option<&Kept>) -> Result<Recovery> {
    let done = found.note.as_ref().and_then(|note| note.done.as_ref());
    let skip_before = done.map_or(i64::MIN, |done| done.end);
    if let Some(kept) = kept {
        let open = kept.open.as_ref().filter(|part| part.length > 0 && done.is_none_or(|done| done.start < part.start));
        let open = match open {
            Some(part) => {
                let (_, name) = found.parts.iter().find(|(start, _)| *start == part.start).ok_or_else(|| lost(dir, part))?;
                Some((name.clone(), part.clone()))
            }
            None => None,
        };
        let is_open = |name: &String| open.as_ref().is_some_and(|(open, _)| open == name);
        let delete = found.parts.iter().map(|(_, name)| name).filter(|name| !is_open(name)).cloned().collect();
        let note = Note { topic_id, from: None, done: done.cloned() };
        return Ok(Recovery { open, delete, skip_before, note });
    }
    let all_parts = || found.parts.iter().map(|(_, name)| name.clone()).collect();
    match &found.note {
        // Nothing was committed since the first record was written.
        Some(note) if note.from == Some(offset) => {
            Ok(Recovery { open: None, delete: all_parts(), skip_before, note: note.clone() })
        }
        // Our first time here, or an operator set the position.
        note => {
            let overlaps =
                |start: i64, name: &String| start >= offset || done.is_some_and(|done| done.name == *name && done.end > offset);
            if let Some((_, name)) = found.finished.iter().find(|(start, name)| overlaps(*start, name)) {
                return Err(exists(dir, name, offset));
            }
            // How much of a part counts is known only from the metadata that a reset drops. What will be read again may go.
            if let Some((_, name)) = found.parts.iter().find(|(start, _)| note.is_none() || *start < offset) {
                return Err(exists(dir, &part_name(name), offset));
            }
            let note = Note { topic_id, from: Some(offset), done: None };
            Ok(Recovery { open: None, delete: all_parts(), skip_before: i64::MIN, note })
        }
    }
}

fn lost(dir: &Path, part: &Part) -> Error {
    let name = dir.join(format!(".{:020}.*.part", part.start));
    Error::fatal("file_sink.lost", format!("{} is gone, but {} records were committed to it", name.display(), part.records))
        .fix(format!("restore the file, or set the connector's offset back to {} to have them written again", part.start))
}

fn exists(dir: &Path, name: &str, offset: i64) -> Error {
    let message = format!("{} may hold records from offset {offset} on already", dir.join(name).display());
    Error::fatal("file_sink.exists", message)
        .fix("move the file away to have them written again, or set the connector's offset behind its records")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    /// `note`: from which position, and the start and end of the last finished file.
    #[allow(clippy::type_complexity, reason = "a table of cases")]
    fn found(files: &[&str], note: Option<(Option<i64>, Option<(i64, i64)>)>) -> Found {
        let mut found = Found::default();
        files.iter().for_each(|file| found.add(file));
        found.note = note.map(|(from, done)| {
            let done = done.map(|(start, end)| Done { name: name(start, "log"), start, end, length: 1, crc: 0 });
            Note { topic_id: ID, from, done }
        });
        found
    }

    fn kept(start: i64, length: u64) -> Kept {
        let open = Some(Part { start, length, crc: 0, records: 1, text: length, opened: 0 });
        Kept { file: "d".to_owned(), topic_id: ID, open }
    }

    fn run(found: &Found, offset: i64, kept: Option<&Kept>) -> Result<(Option<i64>, usize, i64), String> {
        let recovery = decide(Path::new("d"), found, ID, offset, kept).map_err(|error| error.code().to_owned())?;
        Ok((recovery.open.map(|(_, part)| part.start), recovery.delete.len(), recovery.skip_before))
    }

    const PART0: &str = ".00000000000000000000.log.part";
    const PART9: &str = ".00000000000000000009.log.part";
    const FILE0: &str = "00000000000000000000.log";
    const NONE: i64 = i64::MIN;

    #[test]
    fn the_committed_part_goes_on_and_later_ones_go() {
        assert_eq!(run(&found(&[PART0], Some((None, None))), 5, Some(&kept(0, 7))), Ok((Some(0), 0, NONE)));
        assert_eq!(run(&found(&[FILE0, PART9], Some((None, Some((0, 9))))), 12, Some(&kept(9, 7))), Ok((Some(9), 0, 9)));
        assert_eq!(run(&found(&[], Some((None, None))), 5, Some(&kept(0, 7))), Err("file_sink.lost".to_owned()));
        assert_eq!(run(&found(&[], Some((None, None))), 5, Some(&kept(0, 0))), Ok((None, 0, NONE)));
    }

    #[test]
    fn a_file_that_was_finished_after_the_commit_stays_and_its_records_are_skipped() {
        assert_eq!(run(&found(&[FILE0, PART9], Some((None, Some((0, 9))))), 5, Some(&kept(0, 7))), Ok((None, 1, 9)));
        assert_eq!(run(&found(&[FILE0, PART9], Some((Some(0), Some((0, 9))))), 0, None), Ok((None, 1, 9)), "before any commit");
        assert_eq!(run(&found(&[], Some((None, Some((0, 9))))), 5, Some(&kept(0, 7))), Ok((None, 0, 9)), "and was taken away");
    }

    #[test]
    fn an_operators_reset_never_overwrites() {
        let exists = Err("file_sink.exists".to_owned());
        assert_eq!(run(&found(&[FILE0], Some((None, Some((0, 9))))), 0, None), exists);
        assert_eq!(run(&found(&[FILE0], Some((None, Some((0, 9))))), 4, None), exists, "within the last file");
        assert_eq!(run(&found(&[FILE0], Some((None, Some((0, 9))))), 9, None), Ok((None, 0, NONE)));
        assert_eq!(run(&found(&[], Some((None, Some((0, 9))))), 0, None), Ok((None, 0, NONE)), "moved away: written again");
        assert_eq!(run(&found(&[PART0], Some((None, None))), 4, None), exists, "a part whose end is not known");
        assert_eq!(run(&found(&[PART9], Some((None, None))), 4, None), Ok((None, 1, NONE)));
    }

    #[test]
    fn files_of_others_are_left_alone() {
        assert_eq!(run(&found(&["readme", "1.log", ".x.part"], None), 0, None), Ok((None, 0, NONE)));
        assert_eq!(run(&found(&[FILE0], None), 0, None), Err("file_sink.exists".to_owned()));
        assert_eq!(run(&found(&[PART9], None), 0, None), Err("file_sink.exists".to_owned()));
    }
}
