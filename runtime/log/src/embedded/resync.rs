//! Where the log goes on behind a damaged batch.
//!
//! The trap: a record may hold bytes that are a sound batch with fitting offsets, placed by whoever wrote it. So a batch that is found by looking
//! through bytes is no evidence; what is taken up again is proven to begin where the damaged one ends:
//!
//! 1. The CRC does not cover the length. Where the damaged batch, cut off at the bytes of the offset that must follow it, has the CRC that its header
//!    says *and* decodes to the records that its header counts, only its prefix was hit, and its end is known. A forgery cannot pass: it lies within a
//!    record, which then ends after its batch.
//! 2. Where nothing has that CRC, what it covers was hit. Then the length stands, if the rest of the prefix does and a sound batch begins there.
//! 3. Else the batch of the next index entry, which the log noted when it appended it; else the end of the segment.
//!
//! Cost: at most [`MAX_BATCH_BYTES`] are searched, in slices, with one CRC that goes along; [`DECODES_MAX`] times a batch is decoded, [`HINTS_MAX`]
//! times an index entry's batch is looked at. So linear, whatever the bytes.

use crate::disk::DiskFile;
use crate::record_batch::{Damage, HEADER_BYTES, Header, MAX_BATCH_BYTES, PREFIX_BYTES, decode_into};
use aqueduct_core::{Batch, Bytes, TopicPartition};
use std::io;
use std::sync::Arc;

/// One read: no more of a segment is in memory, but for a batch that is decoded.
const SLICE_BYTES: usize = 1 << 20;
/// A CRC is right by accident once in 4 billion times; only who makes them so meets this.
const DECODES_MAX: usize = 8;
/// Entries whose header looks right but whose batch is not: damage of so many index intervals.
const HINTS_MAX: usize = 64;
/// Kafka's layout: the CRC covers what follows it.
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_FROM: u64 = 21;
const MAGIC: u8 = 2;

/// A batch with this first offset begins at this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) offset: i64,
}

/// What [`Walk::next`] met.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its CRC is right and so is its offset.
    Batch(Header),
    /// What it is; the walk goes on at `until`.
    Damaged { damage: Damage, until: Place },
}

/// All batches of a segment, one after the other, on behind damage.
pub(crate) struct Walk<'a> {
    slices: Slices<'a>,
    /// Where it goes on.
    pub(crate) at: Place,
    end: Place,
    base: i64,
    /// Index entries (last offset relative to `base`, position), ascending.
    hints: &'a [(i32, u32)],
}

impl<'a> Walk<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, at: Place, end: Place, base: i64, hints: &'a [(i32, u32)]) -> Self {
        Self { slices: Slices { file, start: 0, bytes: Vec::new(), end: end.position }, at, end, base, hints }
    }

    /// The next batch, or damage, and where it begins.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Place, Found)>> {
        let at = self.at;
        if at.position >= self.end.position {
            return Ok(None);
        }
        let damage = match self.slices.sound(at.position, self.end.position)? {
            Ok(header) if header.base_offset == at.offset => {
                self.at = Place { position: at.position + header.bytes as u64, offset: header.next_offset() };
                return Ok(Some((at, Found::Batch(header))));
            }
            Ok(_) => Damage::Malformed("the batch has the wrong offset"),
            Err(damage) => damage,
        };
        self.at = self.resync()?;
        Ok(Some((at, Found::Damaged { damage, until: self.at })))
    }

    /// Where the batches go on behind the damaged one that begins here: at worst the end.
    pub(crate) fn resync(&mut self) -> io::Result<Place> {
        let limit = self.limit()?;
        let Place { position, offset } = self.at;
        let Ok(head) = <[u8; HEADER_BYTES]>::try_from(self.slices.get(position, HEADER_BYTES)?) else { return Ok(limit) };
        let length = i32::from_be_bytes([head[LENGTH_AT], head[LENGTH_AT + 1], head[LENGTH_AT + 2], head[LENGTH_AT + 3]]);
        let bytes = usize::try_from(length).ok().map(|length| length.saturating_add(PREFIX_BYTES));
        let claimed = bytes
            .filter(|bytes| (HEADER_BYTES..=MAX_BATCH_BYTES).contains(bytes))
            .map(|bytes| position + bytes as u64)
            .filter(|end| *end <= limit.position);
        if let Some(proven) = self.proven(&head, claimed, limit)? {
            return Ok(proven);
        }
        let prefix_stands = head[..LENGTH_AT] == offset.to_be_bytes() && head[MAGIC_AT] == MAGIC;
        let Some(end) = claimed.filter(|end| prefix_stands && *end < limit.position) else { return Ok(limit) };
        Ok(match self.slices.sound(end, limit.position)? {
            Ok(next) if next.base_offset > offset && next.next_offset() <= limit.offset => {
                Place { position: end, offset: next.base_offset }
            }
            _ => limit,
        })
    }

    /// The first index entry behind the damage whose batch is what it says, or the end.
    fn limit(&mut self) -> io::Result<Place> {
        let behind = self.hints.partition_point(|(_, position)| u64::from(*position) < self.at.position + HEADER_BYTES as u64);
        let mut tried = 0;
        for (last, position) in &self.hints[behind..] {
            let (last, position) = (self.base + i64::from(*last), u64::from(*position));
            if position >= self.end.position || tried == HINTS_MAX {
                break;
            }
            let header = Header::parse(self.slices.get(position, HEADER_BYTES)?).ok().flatten();
            let fits = header.is_some_and(|header| header.last_offset() == last && header.base_offset > self.at.offset);
            if !fits || last >= self.end.offset {
                continue;
            }
            tried += 1;
            if let Ok(header) = self.slices.sound(position, self.end.position)? {
                return Ok(Place { position, offset: header.base_offset });
            }
        }
        Ok(self.end)
    }

    /// The end of a batch of which only the prefix is damaged.
    fn proven(&mut self, head: &[u8; HEADER_BYTES], claimed: Option<u64>, limit: Place) -> io::Result<Option<Place>> {
        let at = self.at;
        let Some(header) = restored(head, at.offset, HEADER_BYTES) else { return Ok(None) };
        let next = header.next_offset();
        let window = limit.position.min(at.position + MAX_BATCH_BYTES as u64);
        let mut decodes = 0;
        if next >= limit.offset {
            let last = next == limit.offset && window == limit.position;
            let proven = last && self.slices.crc(at.position + CRC_FROM, window)? == Some(header.crc);
            return Ok((proven && self.decodes(window, &mut decodes)?).then_some(limit));
        }
        if let Some(end) = claimed.filter(|end| *end < limit.position)
            && self.slices.crc(at.position + CRC_FROM, end)? == Some(header.crc)
            && self.decodes(end, &mut decodes)?
        {
            return Ok(Some(Place { position: end, offset: next }));
        }
        let (mut crc, mut covered) = (0, at.position + CRC_FROM);
        let mut from = at.position + HEADER_BYTES as u64;
        let next_bytes = next.to_be_bytes();
        while from < window {
            // Into the next slice by so much that no match is missed.
            let want = SLICE_BYTES.min((window + next_bytes.len() as u64 - 1 - covered) as usize);
            let bytes = self.slices.get(covered, want)?;
            let (start, step) = (covered, bytes.len().saturating_sub(next_bytes.len() - 1));
            let mut matches = Vec::new();
            let mut done = 0;
            for found in from.saturating_sub(start) as usize..step {
                if bytes[found..found + next_bytes.len()] == next_bytes {
                    crc = crc32c::crc32c_append(crc, &bytes[done..found]);
                    done = found;
                    if crc == header.crc && matches.len() < DECODES_MAX {
                        matches.push(start + found as u64);
                    }
                }
            }
            crc = crc32c::crc32c_append(crc, bytes.get(done..step).unwrap_or_default());
            for end in matches {
                if self.decodes(end, &mut decodes)? {
                    return Ok(Some(Place { position: end, offset: next }));
                }
            }
            if decodes > DECODES_MAX {
                // Somebody made them so: then nothing is believed but the index.
                return Ok(Some(limit));
            }
            if step == 0 {
                break;
            }
            covered = start + step as u64;
            from = covered;
        }
        Ok(None)
    }

    /// True when the batch that begins here is whole and sound if it ends at `end`, whatever its prefix says.
    fn decodes(&self, end: u64, decodes: &mut usize) -> io::Result<bool> {
        *decodes += 1;
        if *decodes > DECODES_MAX {
            return Ok(false);
        }
        let len = (end - self.at.position) as usize;
        let mut bytes = Vec::new();
        self.slices.file.read_at(self.at.position, len, &mut bytes)?;
        if bytes.len() < len || len < HEADER_BYTES {
            return Ok(false);
        }
        restore(&mut bytes, self.at.offset, len);
        let nowhere = Arc::new(TopicPartition::new("", 0));
        Ok(decode_into(&Bytes::from(bytes), 0, &nowhere, 0, &mut Batch::new()).is_ok())
    }
}

/// The header with the prefix that it should have, if it is one then.
fn restored(head: &[u8; HEADER_BYTES], offset: i64, len: usize) -> Option<Header> {
    let mut head = *head;
    restore(&mut head, offset, len);
    Header::parse(&head).ok().flatten()
}

fn restore(batch: &mut [u8], offset: i64, len: usize) {
    batch[..LENGTH_AT].copy_from_slice(&offset.to_be_bytes());
    batch[LENGTH_AT..PREFIX_BYTES].copy_from_slice(&((len - PREFIX_BYTES) as i32).to_be_bytes());
    batch[MAGIC_AT] = MAGIC;
}

/// A file, read in slices.
pub(crate) struct Slices<'a> {
    file: &'a dyn DiskFile,
    start: u64,
    bytes: Vec<u8>,
    /// Nothing behind is looked at.
    end: u64,
}

impl<'a> Slices<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, end: u64) -> Self {
        Self { file, start: 0, bytes: Vec::new(), end }
    }

    /// So many bytes (at most a slice), fewer at the end.
    fn get(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.end.saturating_sub(position)).unwrap_or(len));
        let held = position >= self.start && position + len as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            self.bytes.clear();
            self.start = position;
            let want = SLICE_BYTES.min(usize::try_from(self.end.saturating_sub(position)).unwrap_or(SLICE_BYTES));
            self.file.read_at(position, want, &mut self.bytes)?;
        }
        let at = (position - self.start) as usize;
        Ok(&self.bytes[at..(at + len).min(self.bytes.len())])
    }

    /// `None` when the file ends before.
    fn crc(&mut self, from: u64, to: u64) -> io::Result<Option<u32>> {
        let (mut crc, mut at) = (0, from);
        while at < to {
            let want = SLICE_BYTES.min((to - at) as usize);
            let bytes = self.get(at, want)?;
            if bytes.len() < want {
                return Ok(None);
            }
            crc = crc32c::crc32c_append(crc, bytes);
            at += want as u64;
        }
        Ok(Some(crc))
    }

    /// The batch at `position`, if it is one, with the right CRC, and ends by `limit`.
    pub(crate) fn sound(&mut self, position: u64, limit: u64) -> io::Result<Result<Header, Damage>> {
        let head = self.get(position, HEADER_BYTES)?;
        let have = head.len();
        let header = match Header::parse(head) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Err(Damage::Torn { have, need: HEADER_BYTES })),
            Err(damage) => return Ok(Err(damage)),
        };
        let torn = Damage::Torn { have: usize::try_from(limit - position).unwrap_or(usize::MAX), need: header.bytes };
        let end = position + header.bytes as u64;
        if end > limit {
            return Ok(Err(torn));
        }
        Ok(match self.crc(position + CRC_FROM, end)? {
            Some(computed) if computed == header.crc => Ok(header),
            Some(computed) => Err(Damage::Crc { stored: header.crc, computed }),
            None => Err(torn),
        })
    }
}
