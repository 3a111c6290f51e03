//! Compaction: of each key the last record stays. Sealed segments are written anew, one by one, oldest first.

use super::encode::BATCH_TARGET_BYTES;
use super::segment::{Segment, cleaned_path};
use super::shared::{Shared, closed};
use super::state::{PartitionState, State};
use super::verify::Batches;
use super::view::PartitionView;
use crate::disk::Open;
use crate::record_batch::{Compression, Damage, Header, decode_into, encode_sparse};
use crate::topic_config::TopicConfig;
use aqueduct_core::{Batch, Bytes, Error, PayloadRef, RecordRef, Result};
use rustc_hash::FxHashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use uuid::Uuid;

/// Keys of one pass: 24 bytes each and the table's slack, 64 MiB at most. What is beyond is left to the next pass.
const KEYS_MAX: usize = 1 << 20;

/// One pass over one partition.
pub(crate) struct Job {
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
    view: Arc<PartitionView>,
    config: TopicConfig,
    compression: Compression,
    /// With committed bytes and the offset at which each ends.
    segments: Vec<(Arc<Segment>, u64, i64)>,
    cleaned_to: i64,
    now_ms: i64,
}

/// What a pass did to one segment: its new file is written and synced.
pub(crate) struct Cleaned {
    pub(crate) base: i64,
    pub(crate) from_len: u64,
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
            .filter_map(sealed)
            .collect();
        let (compression, cleaned_to, now_ms) = (config.compression, partition.cleaned_to, shared.now_ms());
        Some(Job { topic, partition: p, view, config, compression, segments, cleaned_to, now_ms })
    }

    /// Writes what stays of each segment and hands it over: `swap` commits it. Returns the offset up to which keys are unique now.
    ///
    /// # Errors
    /// `log.corrupt`: a damaged segment is left as it is. `log.io`, and those of `swap`.
    pub(crate) fn run(&self, shared: &Shared, mut swap: impl FnMut(Cleaned) -> Result<()>) -> Result<i64> {
        let (keys, cleaned_to) = self.last_offsets(shared)?;
        for (segment, len, _) in &self.segments {
            if segment.base >= cleaned_to {
                break;
            }
            if let Some(cleaned) = self.rewrite(shared, segment, *len, &keys)? {
                swap(cleaned)?;
            }
        }
        Ok(cleaned_to)
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

    /// `None` when all of it stays.
    fn rewrite(&self, shared: &Shared, segment: &Segment, from_len: u64, keys: &Keys) -> Result<Option<Cleaned>> {
        let path = cleaned_path(&segment.dir, segment.base);
        let failed = |error: std::io::Error| super::journal::io_error(&path, "write", &error);
        let disk = &*shared.files.disk;
        let file = disk.open(&path, Open::Create).map_err(failed)?;
        let (mut out, mut len, mut removed) = (Vec::new(), 0, 0);
        let mut group: Option<(i64, i64, Batch)> = None;
        let mut flush = |group: &mut Option<(i64, i64, Batch)>| -> Result<()> {
            let Some((base, last, batch)) = group.take() else { return Ok(()) };
            out.clear();
            let records = batch.iter().filter_map(|record| Some((record.origin()?.1, record)));
            encode_sparse(base, last, records, self.compression, &mut out)?;
            file.write_all_at(&out, len).map_err(failed)?;
            len += out.len() as u64;
            Ok(())
        };
        self.batches(shared, segment, from_len, |header, mut batch| {
            let before = batch.len();
            batch.retain(|record| self.stays(record, keys));
            removed += before - batch.len();
            let (last, bytes) = (header.last_offset(), batch.iter().map(payload).sum::<usize>());
            match &mut group {
                Some((base, end, gathered))
                    if gathered.iter().map(payload).sum::<usize>() + bytes <= BATCH_TARGET_BYTES
                        && last - *base < i64::from(i32::MAX) =>
                {
                    *end = last;
                    gathered.append(batch);
                }
                _ => {
                    flush(&mut group)?;
                    group = Some((header.base_offset, last, batch));
                }
            }
            Ok(true)
        })?;
        flush(&mut group)?;
        if removed == 0 {
            super::core::warn(&path, disk.unlink(&path));
            return Ok(None);
        }
        file.sync_data().and_then(|()| disk.sync_dir(&segment.dir)).map_err(failed)?;
        Ok(Some(Cleaned { base: segment.base, from_len, len }))
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

fn payload(record: RecordRef<'_>) -> usize {
    let len = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.len() } else { 0 };
    len(record.key())
        + len(record.value())
        + record.headers().iter().map(|h| h.name.len() + len(h.value.as_ref())).sum::<usize>()
        + 16
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
