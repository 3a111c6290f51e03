//! Looks at a data directory that no worker uses: nothing is changed, everything wrong is told.

use super::EmbeddedOptions;
use super::behind::Writes;
use super::home;
use super::recover::read_state;
use super::resync::{Found, Place, Walk};
use super::segment::{cleaned_path, offset_entries, partition_dir, segment_file};
use super::state::{PartitionState, State};
use crate::disk::{Disk, DiskFile, Open, RealDisk};
use crate::record_batch::{Compression, Damage, HEADER_BYTES, Header, decode_into};
use aqueduct_core::{Batch, Bytes, Error, Result, TopicPartition};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub topics: usize,
    pub partitions: usize,
    pub segments: usize,
    pub batches: u64,
    pub records: u64,
    /// Of sound batches.
    pub bytes: u64,
    /// Empty when all is well.
    pub damage: Vec<Damaged>,
    /// Bytes behind the last commit, which the next start cuts off: no damage.
    pub uncommitted_bytes: u64,
}

/// One place that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// `None` for the journal and its checkpoint.
    pub topic: Option<String>,
    pub partition: Option<i32>,
    /// The first offset that is not there.
    pub offset: Option<i64>,
    /// The first offset behind it that can be read again, or that follows the segment.
    pub until: Option<i64>,
    /// Below the data directory.
    pub file: String,
    pub position: u64,
    pub what: String,
}

/// Reads all committed batches of a stopped log. `progress` is told the bytes done and to do. Blocks.
///
/// # Errors
/// `log.locked` when a worker runs on it; `log.io`. Damage is no error: see [`Report::damage`].
pub fn verify(dir: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
    let _lock = locked(dir)?;
    let disk = RealDisk::new(dir);
    let mut report = Report::default();
    let (state, carried) = match read_state(&disk, &EmbeddedOptions::default()) {
        Err(error) if error.code() == "log.corrupt" => {
            let file = super::journal::DIR.to_owned();
            let what = error.message().to_owned();
            report.damage.push(Damaged { topic: None, partition: None, offset: None, until: None, file, position: 0, what });
            return Ok(report);
        }
        other => other?,
    };
    let total = partitions(&state).flat_map(|(.., partition)| &partition.segments).map(|segment| segment.len).sum();
    report.topics = state.topics.len();
    let mut done = 0;
    for (id, topic, p, partition) in partitions(&state) {
        report.partitions += 1;
        for index in 0..partition.segments.len() {
            let owed = carried.get(&(id, p, partition.segments[index].base));
            Check::new(&disk, topic, p, partition, index, owed).run(&mut report)?;
            done += partition.segments[index].len;
            progress(done, total);
        }
    }
    Ok(report)
}

/// A batch as [`dump`] shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DumpedBatch {
    pub position: u64,
    pub bytes: usize,
    pub base_offset: i64,
    pub last_offset: i64,
    pub records: u32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub compression: Option<Compression>,
    pub crc: u32,
    /// Why its records cannot be shown.
    pub damage: Option<String>,
}

/// Shows the batches of a segment file (`<20 digits>.log`) with their records, until `each` says false. Blocks. Reads what is there, committed or not.
///
/// # Errors
/// `log.io`; `log.corrupt` where no batch can be found any more.
pub fn dump(file: &Path, mut each: impl FnMut(&DumpedBatch, &Batch) -> bool) -> Result<()> {
    let (dir, name) = (file.parent().unwrap_or(Path::new("")), file.file_name().unwrap_or_default().to_string_lossy());
    let failed = |error: io::Error| super::journal::io_error(&file.display().to_string(), "read", &error);
    let opened = RealDisk::new(dir).open(&name, Open::Read).map_err(failed)?;
    let len = opened.len().map_err(failed)?;
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    let (topic, partition) =
        folder.rsplit_once('-').and_then(|(topic, p)| Some((topic, p.parse().ok()?))).unwrap_or((&*folder, 0));
    let tp = Arc::new(TopicPartition::new(topic, partition));
    let mut batches = Batches { file: opened, position: 0, len };
    while let Some(found) = batches.next().map_err(failed)? {
        let (header, bytes) = found.map_err(|damage| {
            let message = format!("{} at byte {}: {damage}", file.display(), batches.position);
            Error::fatal("log.corrupt", message).fix("run `aqueduct log verify` to see what is lost")
        })?;
        let mut records = Batch::new();
        let damage = decode_into(&bytes, 0, &tp, 0, &mut records).err().map(|damage| damage.to_string());
        let shown = DumpedBatch {
            position: batches.position - header.bytes as u64,
            bytes: header.bytes,
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            records: header.records,
            base_timestamp: header.base_timestamp,
            max_timestamp: header.max_timestamp,
            compression: header.compression().ok(),
            crc: header.crc,
            damage,
        };
        if !each(&shown, &records) {
            break;
        }
    }
    Ok(())
}

fn locked(dir: &Path) -> Result<std::fs::File> {
    if !dir.join("format").exists() {
        return Err(
            Error::fatal("log.no_data", format!("there is no log in {}", dir.display())).fix("name the data.dir of a worker")
        );
    }
    home::lock(dir)
}

fn partitions(state: &State) -> impl Iterator<Item = (Uuid, &str, i32, &PartitionState)> {
    state
        .topics
        .iter()
        .flat_map(|(id, topic)| (0..).zip(&topic.partitions).map(|(p, partition)| (*id, topic.name.as_str(), p, partition)))
}

/// One segment.
struct Check<'a> {
    disk: &'a RealDisk,
    tp: Arc<TopicPartition>,
    path: String,
    /// Index entries: where batches are expected.
    hints: Vec<(i32, u32)>,
    base: i64,
    len: u64,
    end: i64,
    last: bool,
    /// What the next start writes to it.
    owed: Option<&'a Writes>,
}

impl<'a> Check<'a> {
    fn new(disk: &'a RealDisk, topic: &str, p: i32, partition: &PartitionState, index: usize, owed: Option<&'a Writes>) -> Self {
        let (dir, segment) = (partition_dir(topic, p), &partition.segments[index]);
        let cleaned = cleaned_path(&dir, segment.base);
        let swap = segment.swap && disk.open(&cleaned, Open::Read).is_ok();
        Self {
            disk,
            tp: Arc::new(TopicPartition::new(topic, p)),
            path: if swap { cleaned } else { segment_file(&dir, segment.base, "log") },
            hints: if swap { Vec::new() } else { offset_entries(disk, &dir, segment.base, segment.len) },
            base: segment.base,
            len: segment.len,
            end: partition.segment_end(index),
            last: index + 1 == partition.segments.len(),
            owed,
        }
    }

    fn run(self, report: &mut Report) -> Result<()> {
        report.segments += 1;
        let failed = |error: io::Error| super::journal::io_error(&self.path, "read", &error);
        let start = Place { position: 0, offset: self.base };
        let file = match self.disk.open(&self.path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.damage.push(self.damaged(start, self.end, "the file is missing"));
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        let file = match self.owed {
            Some(writes) => Arc::new(Patched { file, writes: writes.clone() }),
            None => file,
        };
        let found = file.len().map_err(failed)?;
        if self.last {
            report.uncommitted_bytes += found.saturating_sub(self.len);
        }
        let end = Place { position: self.len.min(found), offset: self.end };
        let mut walk = Walk::new(&*file, start, end, self.base, &self.hints);
        while let Some((at, found)) = walk.next().map_err(failed)? {
            match found {
                Found::Batch(header) => {
                    report.batches += 1;
                    report.records += u64::from(header.records);
                    report.bytes += header.bytes as u64;
                }
                Found::Damaged { damage, until } => report.damage.push(self.damaged(at, until.offset, &damage.to_string())),
            }
        }
        if walk.at.offset != self.end {
            let short = found < self.len;
            let what =
                if short { "the file is shorter than what was committed" } else { "the segment ends before the next one begins" };
            report.damage.push(self.damaged(walk.at, self.end, what));
        }
        Ok(())
    }

    fn damaged(&self, at: Place, until: i64, what: &str) -> Damaged {
        Damaged {
            topic: Some(self.tp.topic.to_string()),
            partition: Some(self.tp.partition),
            offset: Some(at.offset),
            until: Some(until),
            file: self.path.clone(),
            position: at.position,
            what: what.to_owned(),
        }
    }
}

/// A segment as it will be when recovery has written to it what only the journal holds. Read only.
struct Patched {
    file: Arc<dyn DiskFile>,
    writes: Writes,
}

impl DiskFile for Patched {
    fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let (begin, end) = (out.len(), self.len()?.min(position + len as u64));
        self.file.read_at(position, len, out)?;
        out.resize(begin + end.saturating_sub(position) as usize, 0);
        for (at, bytes) in self.writes.iter() {
            let (from, to) = (at.max(position), (at + bytes.len() as u64).min(end));
            if from < to {
                let there = begin + (from - position) as usize;
                out[there..there + (to - from) as usize].copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.max(self.writes.end()))
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The batches of a file, one after the other, unchecked but for their headers.
pub(crate) struct Batches {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) position: u64,
    pub(crate) len: u64,
}

impl Batches {
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<(Header, Bytes), Damage>>> {
        let rest = self.len - self.position;
        if rest == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.file.read_at(self.position, HEADER_BYTES.min(usize::try_from(rest).unwrap_or(HEADER_BYTES)), &mut bytes)?;
        let header = match Header::parse(&bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Some(Err(Damage::Torn { have: bytes.len(), need: HEADER_BYTES }))),
            Err(damage) => return Ok(Some(Err(damage))),
        };
        if header.bytes as u64 > rest {
            return Ok(Some(Err(Damage::Torn { have: usize::try_from(rest).unwrap_or(usize::MAX), need: header.bytes })));
        }
        self.file.read_at(self.position + HEADER_BYTES as u64, header.bytes - HEADER_BYTES, &mut bytes)?;
        self.position += header.bytes as u64;
        Ok(Some(Ok((header, bytes.into()))))
    }
}
