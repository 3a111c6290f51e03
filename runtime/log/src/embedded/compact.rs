//! Compaction: of each key the last record stays. Sealed segments are written anew, oldest first, as many adjacent ones into one file as
//! `segment.bytes` allows.

use super::encode::BATCH_TARGET_BYTES;
use super::segment::{Segment, cleaned_path};
use super::shared::{Shared, closed};
use super::state::{PartitionState, State};
use super::verify::Batches;
use super::view::PartitionView;
use crate::disk::{Disk, DiskFile, Open};
use crate::record_batch::{Compression, Damage, HEADER_BYTES, Header, decode_into, encode_sparse};
use crate::topic_config::TopicConfig;
use aqueduct_core::{Batch, Bytes, Error, PayloadRef, RecordRef, Result};
use rustc_hash::FxHashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uuid::Uuid;

/// Keys of one pass: 24 bytes each and the table's slack, 64 MiB at most. What is beyond is left to the next pass.
const KEYS_MAX: usize = 1 << 20;

/// Source bytes that the records of one batch to be hold in memory: of many a batch few records may stay.
const HELD_MAX_BYTES: usize = 64 * BATCH_TARGET_BYTES;

/// Segments that one file replaces: the commit thread unlinks them, which it does with so many in about 10 ms.
const MERGED_MAX: usize = 128;

/// One pass over one partition.
pub(crate) struct Job {
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
    view: Arc<PartitionView>,
    config: TopicConfig,
    compression: Compression,
    segments: Vec<Sealed>,
    cleaned_to: i64,
    now_ms: i64,
}

/// With committed bytes and the offset at which it ends.
type Sealed = (Arc<Segment>, u64, i64);

/// What a pass did to adjacent segments: `<base>.log.cleaned` is written and synced.
pub(crate) struct Cleaned {
    pub(crate) base: i64,
    /// Base offset and length of each segment that it is to replace.
    pub(crate) from: Vec<(i64, u64)>,
    pub(crate) len: u64,
}

impl Job {
    /// The partition that gains the most, if one is due.
    pub(crate) fn next(shared: &Shared, state: &State) -> Option<Job> {
        let catalogue = shared.catalogue.read();
        let damaged = shared.damaged.lock();
        let mut best: Option<(u64, Uuid, i32)> = None;
        for (id, topic) in state.topics.iter().filter(|(id, _)| catalogue.by_id.get(id).is_some_and(|view| view.config.compact)) {
            let ratio = catalogue.by_id[id].config.min_cleanable_dirty_ratio;
            for (p, partition) in (0..).zip(&topic.partitions) {
                let (dirty, all) = dirty_bytes(partition);
                if dirty > 0
                    && !damaged.contains(&(*id, p))
                    && dirty as f64 >= ratio * all as f64
                    && best.is_none_or(|(most, ..)| dirty > most)
                {
                    best = Some((dirty, *id, p));
                }
            }
        }
        let (_, topic, p) = best?;
        let (view, config) = (catalogue.by_id[&topic].partition(p).ok()?.clone(), catalogue.by_id[&topic].config.clone());
        let partition = state.partition(topic, p)?;
        let sealed = |(index, segment): (usize, &super::state::SegmentState)| {
            Some((view.segment(segment.base)?, segment.len, partition.segment_end(index)))
        };
        let segments = partition
            .segments
            .iter()
            .enumerate()
            .take_while(|(_, segment)| segment.sealed && !segment.swap)
            .map_while(sealed)
            .collect();
        let (compression, cleaned_to, now_ms) = (config.compression, partition.cleaned_to, shared.now_ms());
        Some(Job { topic, partition: p, view, config, compression, segments, cleaned_to, now_ms })
    }

    /// Writes what stays of the segments and hands it over: `swap` commits it. Returns the offset up to which keys are unique now.
    ///
    /// # Errors
    /// `log.corrupt`: a damaged segment is left as it is. `log.io`, and those of `swap`.
    pub(crate) fn run(&self, shared: &Shared, mut swap: impl FnMut(Cleaned) -> Result<()>) -> Result<i64> {
        let (keys, cleaned_to) = self.last_offsets(shared)?;
        let upto = self.segments.partition_point(|(segment, ..)| segment.base < cleaned_to);
        let mut rest = &self.segments[..upto];
        while !rest.is_empty() {
            let (taken, cleaned) = self.rewrite(shared, rest, &keys, cleaned_to)?;
            if let Some(cleaned) = cleaned {
                let base = cleaned.base;
                swap(cleaned)?;
                self.index(shared, base);
            }
            rest = &rest[taken..];
        }
        Ok(cleaned_to)
    }

    /// Writes the index files of a new segment: who reads it need not scan it, and damage hides less of it.
    fn index(&self, shared: &Shared, base: i64) {
        let Some(segment) = self.view.segment(base) else { return };
        match segment.lookup(&shared.files, base) {
            Ok(_) => segment.write_index(&*shared.files.disk),
            Err(error) => tracing::debug!(segment = segment.path(), %error, "not indexed"),
        }
    }

    /// Of the keys that are new since the last pass, the last offset; and how far that goes.
    fn last_offsets(&self, shared: &Shared) -> Result<(Keys, i64)> {
        let mut keys = Keys::default();
        let mut upto = self.cleaned_to;
        for (segment, len, end) in self.segments.iter().filter(|(.., end)| *end > self.cleaned_to) {
            let mut full = false;
            self.batches(shared, segment, *len, |header, batch| {
                for record in batch.iter() {
                    let Some((_, offset)) = record.origin().filter(|(_, offset)| *offset >= self.cleaned_to) else { continue };
                    full = full || keys.len() >= KEYS_MAX;
                    if full {
                        return Ok(false);
                    }
                    keys.note(record, offset);
                    upto = offset + 1;
                }
                upto = upto.max(header.next_offset());
                Ok(true)
            })?;
            if full {
                return Ok((keys, upto));
            }
            upto = *end;
        }
        Ok((keys, upto))
    }

    /// Of the first of these segments, and of those behind it that fit in with it. Says how many that are; `None` when one stays as it is.
    /// What does not fit is cut off again and read once more as the first of the next file: so each is read and written twice at most.
    fn rewrite(&self, shared: &Shared, segments: &[Sealed], keys: &Keys, cleaned_to: i64) -> Result<(usize, Option<Cleaned>)> {
        let (first, base) = (&segments[0].0, segments[0].0.base);
        let disk = &*shared.files.disk;
        let mut output = Output::create(disk, cleaned_path(&first.dir, base), self.compression)?;
        let mut taken = 0;
        for (segment, from_len, end) in &segments[..segments.len().min(MERGED_MAX)] {
            // What is not clean to its end stays apart, or all of it would be dirty. Indexes have relative offsets of 31 bits.
            let apart = *end > cleaned_to || end - base > i64::from(i32::MAX) || output.bytes_max() >= self.config.segment_bytes;
            if taken > 0 && apart {
                break;
            }
            let mark = output.mark();
            let mut fits = true;
            self.batches(shared, segment, *from_len, |header, mut batch| {
                let (before, held) = (batch.len(), batch.iter().map(payload).sum());
                batch.retain(|record| self.stays(record, keys));
                output.removed += before - batch.len();
                output.push(header, batch, held)?;
                fits = taken == 0 || output.bytes_max() <= self.config.segment_bytes;
                Ok(fits)
            })?;
            if !fits {
                output.back_to(mark)?;
                break;
            }
            taken += 1;
        }
        if taken == 1 && output.removed == 0 {
            super::core::warn(&output.path, disk.unlink(&output.path));
            return Ok((1, None));
        }
        let len = output.finish()?;
        disk.sync_dir(&first.dir).map_err(|error| super::journal::io_error(&first.dir, "sync", &error))?;
        let from = segments[..taken].iter().map(|(segment, len, _)| (segment.base, *len)).collect();
        Ok((taken, Some(Cleaned { base, from, len })))
    }

    fn stays(&self, record: RecordRef<'_>, keys: &Keys) -> bool {
        let Some((_, offset)) = record.origin() else { return true };
        let Some(last) = keys.last(record) else { return true };
        let keeps_tombstone = || {
            let age = self.now_ms.saturating_sub(record.timestamp().unwrap_or(self.now_ms));
            !record.value().is_null() || age <= self.config.delete_retention_ms
        };
        offset > last || (offset == last && keeps_tombstone())
    }

    /// Every batch of a segment, checked, until `each` says false.
    fn batches(
        &self,
        shared: &Shared,
        segment: &Segment,
        len: u64,
        mut each: impl FnMut(&Header, Batch) -> Result<bool>,
    ) -> Result<()> {
        let corrupt = |offset: i64, damage: &Damage| {
            let (topic, p) = (&self.view.tp.topic, self.partition);
            Error::fatal("log.corrupt", format!("topic {topic}, partition {p}, offset {offset}: {damage} ({})", segment.path()))
        };
        let failed = |error: std::io::Error| super::journal::io_error(&segment.path(), "read", &error);
        let mut batches = Batches { file: shared.files.get(segment).map_err(failed)?, position: 0, len };
        let mut next = segment.base;
        while let Some(found) = batches.next().map_err(failed)? {
            let (header, bytes): (Header, Bytes) = found.map_err(|damage| corrupt(next, &damage))?;
            if header.base_offset != next {
                return Err(corrupt(next, &Damage::Malformed("the batch has the wrong offset")));
            }
            let mut batch = Batch::new();
            decode_into(&bytes, 0, &self.view.tp, 0, &mut batch).map_err(|damage| corrupt(next, &damage))?;
            next = header.next_offset();
            if shared.stopping.load(Relaxed) {
                return Err(closed());
            }
            if !each(&header, batch)? {
                break;
            }
        }
        Ok(())
    }
}

/// The bytes to look at, and all that could be compacted.
fn dirty_bytes(partition: &PartitionState) -> (u64, u64) {
    let (mut dirty, mut all) = (0, 0);
    for (index, segment) in partition.segments.iter().enumerate().take_while(|(_, segment)| segment.sealed && !segment.swap) {
        all += segment.len;
        if partition.segment_end(index) > partition.cleaned_to {
            dirty += segment.len;
        }
    }
    (dirty, all)
}

/// Bytes of a record, at least what it takes in a batch: six varints of 33 bytes in all, and two for each header.
fn payload(record: RecordRef<'_>) -> usize {
    let len = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 };
    len(record.key())
        + len(record.value())
        + record.headers().iter().map(|h| h.name.len() + len(h.value.as_ref()) + 10).sum::<usize>()
        + 33
}

/// The file that is written.
struct Output {
    file: Arc<dyn DiskFile>,
    path: String,
    compression: Compression,
    buffer: Vec<u8>,
    /// Written.
    len: u64,
    /// Records that did not stay.
    removed: usize,
    /// The next batch: all offsets that it stands for, and its records.
    group: Option<Group>,
}

#[derive(Clone)]
struct Group {
    base: i64,
    last: i64,
    batch: Batch,
    payload: usize,
    held: usize,
}

impl Output {
    fn create(disk: &dyn Disk, path: String, compression: Compression) -> Result<Self> {
        let file = disk.open(&path, Open::Create).map_err(|error| super::journal::io_error(&path, "write", &error))?;
        Ok(Self { file, path, compression, buffer: Vec::new(), len: 0, removed: 0, group: None })
    }

    fn push(&mut self, header: &Header, batch: Batch, held: usize) -> Result<()> {
        let (last, payload) = (header.last_offset(), batch.iter().map(payload).sum::<usize>());
        let held = if batch.is_empty() { 0 } else { held };
        match &mut self.group {
            Some(group)
                if group.payload + payload <= BATCH_TARGET_BYTES
                    && group.held + held <= HELD_MAX_BYTES
                    && last - group.base < i64::from(i32::MAX) =>
            {
                group.last = last;
                group.payload += payload;
                group.held += held;
                group.batch.append(batch);
            }
            _ => {
                self.flush()?;
                self.group = Some(Group { base: header.base_offset, last, batch, payload, held });
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(Group { base, last, batch, .. }) = self.group.take() else { return Ok(()) };
        self.buffer.clear();
        let records = batch.iter().filter_map(|record| Some((record.origin()?.1, record)));
        encode_sparse(base, last, records, self.compression, &mut self.buffer)?;
        self.file.write_all_at(&self.buffer, self.len).map_err(|error| self.failed(&error))?;
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// What it will have at most.
    fn bytes_max(&self) -> u64 {
        self.len + self.group.as_ref().map_or(0, |group| (HEADER_BYTES + group.payload) as u64)
    }

    fn mark(&self) -> (u64, usize, Option<Group>) {
        (self.len, self.removed, self.group.clone())
    }

    fn back_to(&mut self, (len, removed, group): (u64, usize, Option<Group>)) -> Result<()> {
        if len < self.len {
            self.file.truncate(len).map_err(|error| self.failed(&error))?;
        }
        (self.len, self.removed, self.group) = (len, removed, group);
        Ok(())
    }

    fn finish(&mut self) -> Result<u64> {
        self.flush()?;
        self.file.sync_data().map_err(|error| self.failed(&error))?;
        Ok(self.len)
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        super::journal::io_error(&self.path, "write", error)
    }
}

/// Keys by 128 bits of a hash that nobody outside can know: two keys that share it will not be met.
#[derive(Default)]
struct Keys {
    hashers: [RandomState; 2],
    last: FxHashMap<u128, i64>,
}

impl Keys {
    fn len(&self) -> usize {
        self.last.len()
    }

    fn hash(&self, record: RecordRef<'_>) -> Option<u128> {
        let PayloadRef::Bytes(key) = record.key() else { return None };
        let [high, low] = &self.hashers;
        Some(u128::from(high.hash_one(key)) << 64 | u128::from(low.hash_one(key)))
    }

    fn note(&mut self, record: RecordRef<'_>, offset: i64) {
        if let Some(hash) = self.hash(record) {
            self.last.insert(hash, offset);
        }
    }

    /// A record without a key stays for ever, and so does one whose key is not among them.
    fn last(&self, record: RecordRef<'_>) -> Option<i64> {
        self.last.get(&self.hash(record)?).copied()
    }
}
