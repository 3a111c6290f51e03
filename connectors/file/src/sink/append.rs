//! One file, one task, all partitions: the file's length is kept with the positions, and what lies behind it is cut.

use super::disk;
use super::encode::{Encoder, refuse};
use super::output::{self, Compression, Disk, End, Output, WRITE_BYTES};
use aqueduct_core::{Batch, Error, LogPosition, Rejects, Result, TopicPartition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What is kept with the position of each partition; the same in all of them but for `topic_id`, since the file is theirs together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Kept {
    file: String,
    length: u64,
    crc: u32,
    records: u64,
    topic_id: Uuid,
}

/// Beside the file until its length is known from a commit: where it stood when the first record was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Note {
    length: u64,
    crc: u32,
    positions: Vec<Start>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Start {
    topic: String,
    topic_id: Uuid,
    partition: i32,
    offset: i64,
}

pub(super) struct Append {
    path: PathBuf,
    note: PathBuf,
    compression: Compression,
    encoder: Encoder,
    partitions: BTreeMap<TopicPartition, Uuid>,
    open: Option<Open>,
}

struct Open {
    output: Output,
    /// The length at the start of this session: nothing before it can be missing.
    from: u64,
    /// As of the last flush (or the start).
    durable: End,
    durable_records: u64,
    records: u64,
    /// Not committed yet, as far as we know.
    noted: Option<Note>,
    flushed: bool,
}

impl Append {
    pub(super) fn new(path: &Path, encoder: Encoder, compression: Compression) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let note = path.with_file_name(format!(".{name}.start"));
        Self { path: path.to_owned(), note, compression, encoder, partitions: BTreeMap::new(), open: None }
    }

    pub(super) async fn assigned(&mut self, positions: &[LogPosition]) -> Result<()> {
        let kept = latest(&self.path, positions);
        let open = match self.open.take() {
            None => self.open(kept, positions).await?,
            Some(open) => self.join(open, kept, positions).await?,
        };
        self.open = Some(open);
        self.partitions.extend(positions.iter().map(|position| (position.topic_partition(), position.topic_id)));
        Ok(())
    }

    pub(super) async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for partition in partitions {
            self.partitions.remove(partition);
        }
        if self.partitions.is_empty() {
            self.close().await;
        }
        Ok(())
    }

    pub(super) async fn put(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<()> {
        let open = self.open.as_mut().ok_or_else(not_assigned)?;
        if open.flushed && open.noted.take().is_some() {
            // The worker commits after each flush, or closes us. So the length is known from now on, and were an operator to reset the
            // positions later, the note must not have us cut what was committed.
            disk::remove(&self.note)?;
        }
        open.flushed = false;
        for chunk in batch.chunks() {
            for record in chunk.iter() {
                match self.encoder.encode(record, &mut open.output.buffer) {
                    Ok(()) => open.records += 1,
                    Err(error) => refuse(record, error, rejects),
                }
                if open.output.buffer.len() >= WRITE_BYTES {
                    open.output.write().await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.durable = open.output.sync().await?;
        open.durable_records = open.records;
        open.flushed = true;
        Ok(())
    }

    pub(super) fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        let (open, topic_id) = (self.open.as_ref()?, *self.partitions.get(partition)?);
        let End { length, crc } = open.durable;
        let kept = Kept { file: name(&self.path), length, crc, records: open.durable_records, topic_id };
        serde_json::to_string(&kept).ok()
    }

    pub(super) async fn close(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.output.close().await;
        }
    }

    async fn open(&self, kept: Option<Kept>, positions: &[LogPosition]) -> Result<Open> {
        let (path, compression, committed) = (self.path.clone(), self.compression, kept.as_ref().map_or(0, |kept| kept.length));
        let mut disk = disk::blocking(move || {
            if committed > 0 && path.try_exists().is_ok_and(|exists| !exists) {
                // An empty file in its place would hide that it is gone.
                return Err(output::lost(&path, 0, committed));
            }
            disk::create_dirs(disk::parent(&path))?;
            let disk = Disk::open(&path, compression, None)?;
            // Durable before a commit can name it; also after a commit of length 0, when no note is written.
            disk::sync_dir(disk::parent(&path))?;
            Ok(disk)
        })
        .await?;
        // Whoever held it may have written until now, so its length counts only from here on.
        disk::lock(disk.file(), &self.path).await?;
        let (note, starts) = (self.note.clone(), starts(positions));
        disk::blocking(move || {
            disk.refresh()?;
            let noted = recover(&mut disk, &note, kept.as_ref(), starts)?;
            disk.check_compression()?;
            let durable = disk.end()?;
            let records = kept.map_or(0, |kept| kept.records);
            let on_a_new_line = disk.ends_in_line_feed()?;
            let mut output = Output::new(disk);
            if !on_a_new_line {
                output.buffer.push(b'\n');
            }
            Ok(Open { output, from: durable.length, durable, durable_records: records, records, noted, flushed: false })
        })
        .await
        .map(|mut open| {
            if open.from == 0 {
                self.encoder.begin(&mut open.output.buffer);
            }
            open
        })
    }

    /// More partitions for the open file.
    async fn join(&self, mut open: Open, kept: Option<Kept>, positions: &[LogPosition]) -> Result<Open> {
        if let Some(kept) = kept.filter(|kept| kept.length > open.from) {
            let message =
                format!("{} was cut back to {} bytes, but {} were committed", self.path.display(), open.from, kept.length);
            return Err(
                Error::fatal("file_sink.lost", message).fix("set the connector's offsets back to have the records written again")
            );
        }
        if let Some(note) = &mut open.noted {
            renew(&mut note.positions, starts(positions));
            let (path, text) = (self.note.clone(), to_json(note));
            disk::blocking(move || disk::write_note(&path, &text)).await?;
        }
        Ok(open)
    }
}

/// Brings the file to what was committed. Without a commit: to where it stood when these positions were first written from, or, if that is
/// not known, leaves it as it is; then the note is returned.
fn recover(disk: &mut Disk, path: &Path, kept: Option<&Kept>, starts: Vec<Start>) -> Result<Option<Note>> {
    if let Some(kept) = kept {
        disk.cut(End { length: kept.length, crc: kept.crc })?;
        disk::remove(path)?;
        return Ok(None);
    }
    let mut positions = Vec::new();
    if let Some(note) = disk::read_note::<Note>(path)?.filter(|note| is_restart(note, &starts)) {
        disk.cut(End { length: note.length, crc: note.crc })?;
        positions = note.positions;
    }
    renew(&mut positions, starts);
    let End { length, crc } = disk.end()?;
    let note = Note { length, crc, positions };
    disk::write_note(path, &to_json(&note))?;
    Ok(Some(note))
}

/// Nothing of these partitions was committed since the note was written.
fn is_restart(note: &Note, starts: &[Start]) -> bool {
    let known: Vec<_> =
        starts.iter().filter_map(|now| Some((now, note.positions.iter().find(|then| then.same_partition(now))?))).collect();
    !known.is_empty() && known.iter().all(|(now, then)| now == then)
}

/// Replaces what is known of these partitions, and keeps the others.
fn renew(positions: &mut Vec<Start>, starts: Vec<Start>) {
    positions.retain(|old| !starts.iter().any(|new| new.same_partition(old)));
    positions.extend(starts);
}

impl Start {
    fn same_partition(&self, other: &Start) -> bool {
        (&self.topic, self.partition) == (&other.topic, other.partition)
    }
}

/// Every commit names the length in all partitions that were assigned then, and the file only grows: the longest is the latest.
fn latest(path: &Path, positions: &[LogPosition]) -> Option<Kept> {
    let kept = positions.iter().filter_map(|position| {
        let kept: Kept = serde_json::from_str(position.metadata.as_deref()?).ok()?;
        (kept.topic_id == position.topic_id && kept.file == name(path)).then_some(kept)
    });
    kept.max_by_key(|kept| kept.length)
}

fn starts(positions: &[LogPosition]) -> Vec<Start> {
    let start = |position: &LogPosition| Start {
        topic: position.topic.to_string(),
        topic_id: position.topic_id,
        partition: position.partition,
        offset: position.offset,
    };
    positions.iter().map(start).collect()
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn to_json(note: &Note) -> String {
    serde_json::to_string(note).expect("numbers and text are always JSON")
}

fn not_assigned() -> Error {
    Error::fatal("file_sink.not_assigned", "records came before their partitions were assigned").fix("report this as a bug")
}
