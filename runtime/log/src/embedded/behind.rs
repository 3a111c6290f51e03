//! What is durable in the journal only: small commits are synced there alone, with the record batches in their frame.
//!
//! Their bytes are in the segments too, where readers find them, but nobody has synced those. They are synced together, before the journal may go: with a
//! later commit when they become many, or before a checkpoint. After a power cut recovery writes them back from the journal.

use super::plan::Run;
use super::segment::Segment;
use crate::disk::{Disk, DiskFile, Open, SyncTarget};
use aqueduct_core::failpoint::point;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// Each holds a file open; a process may have 1,024 by default.
const SEGMENTS_MAX: usize = 128;

#[derive(Default)]
pub(crate) struct Behind {
    /// By [`Segment::key`].
    segments: BTreeMap<u64, Unsynced>,
    bytes: usize,
}

struct Unsynced {
    topic: Uuid,
    segment: Arc<Segment>,
    /// The one that was written to: it is told when the system could not write what it holds.
    file: Arc<dyn DiskFile>,
    /// To be written once more when a sync failed.
    writes: Writes,
}

/// Bytes and the positions they begin at; what adjoins is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes(Vec<(u64, Vec<u8>)>);

impl Writes {
    pub(crate) fn push(&mut self, position: u64, bytes: &[u8]) {
        match self.0.last_mut() {
            Some((from, before)) if *from + before.len() as u64 == position => before.extend_from_slice(bytes),
            _ => self.0.push((position, bytes.to_vec())),
        }
    }

    pub(crate) fn write_to(&self, file: &dyn DiskFile) -> io::Result<()> {
        self.iter().try_for_each(|(position, bytes)| file.write_all_at(bytes, position))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(position, bytes)| (*position, bytes.as_slice()))
    }

    /// Where the last one ends.
    pub(crate) fn end(&self) -> u64 {
        self.iter().map(|(position, bytes)| position + bytes.len() as u64).max().unwrap_or(0)
    }
}

impl Behind {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// True when it is time to sync the segments.
    pub(crate) fn is_due(&self, bytes_max: usize) -> bool {
        self.bytes > bytes_max || self.segments.len() > SEGMENTS_MAX
    }

    /// Notes what a commit wrote, after its frame is durable.
    pub(crate) fn add(&mut self, run: &Run, file: Arc<dyn DiskFile>, bytes: &[u8]) {
        let fresh = || Unsynced { topic: run.append.t, segment: run.segment.clone(), file, writes: Writes::default() };
        let unsynced = self.segments.entry(run.segment.key).or_insert_with(fresh);
        self.bytes += bytes.len();
        unsynced.writes.push(run.append.from, bytes);
    }

    /// The segment was synced, or it is no part of the log any more.
    pub(crate) fn forget(&mut self, segment: &Segment) {
        if let Some(gone) = self.segments.remove(&segment.key) {
            self.bytes -= gone.writes.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: Uuid) {
        let gone: Vec<_> = self.segments.values().filter(|unsynced| unsynced.topic == topic).map(|u| u.segment.clone()).collect();
        gone.iter().for_each(|segment| self.forget(segment));
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = SyncTarget> {
        self.segments.values().map(|unsynced| SyncTarget::File(unsynced.file.clone(), point::LOG_DATA_SYNC))
    }

    /// After a failed sync nobody knows what the files hold, and only what is written anew is synced for certain. All are tried.
    pub(crate) fn write_anew(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let mut outcome = Ok(());
        for unsynced in self.segments.values_mut() {
            let file = disk.open(&unsynced.segment.path(), Open::Write);
            let written = file.and_then(|file| unsynced.writes.write_to(&*file).map(|()| unsynced.file = file));
            outcome = outcome.and(written);
        }
        outcome
    }
}
