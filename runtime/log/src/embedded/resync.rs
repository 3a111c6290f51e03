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
    /// Sound: its offset, its CRC and its records.
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
            Ok(header) if header.base_offset != at.offset => Damage::Malformed("the batch has the wrong offset"),
            // The CRC alone does not tell where it ends: the length is not covered.
            Ok(header) => match decoded(self.slices.bytes(at.position, header.bytes)?) {
                Ok(_) => {
                    self.at = Place { position: at.position + header.bytes as u64, offset: header.next_offset() };
                    return Ok(Some((at, Found::Batch(header))));
                }
                Err(damage) => damage,
            },
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
    fn decodes(&mut self, end: u64, decodes: &mut usize) -> io::Result<bool> {
        *decodes += 1;
        if *decodes > DECODES_MAX {
            return Ok(false);
        }
        let len = (end - self.at.position) as usize;
        let mut bytes = self.slices.bytes(self.at.position, len)?;
        if bytes.len() < len || len < HEADER_BYTES {
            return Ok(false);
        }
        restore(&mut bytes, self.at.offset, len);
        Ok(decoded(bytes).is_ok())
    }
}

fn decoded(bytes: Vec<u8>) -> Result<usize, Damage> {
    let nowhere = Arc::new(TopicPartition::new("", 0));
    decode_into(&Bytes::from(bytes), 0, &nowhere, 0, &mut Batch::new())
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

    /// As [`Slices::get`], of any length and to keep.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        if len <= SLICE_BYTES {
            return Ok(self.get(position, len)?.to_vec());
        }
        let mut bytes = Vec::new();
        self.file.read_at(position, len, &mut bytes)?;
        Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::{Compression, encode, stamp_base_offset};
    use aqueduct_core::{Header as RecordHeader, Payload, Record};

    struct Bytes(Vec<u8>);

    impl DiskFile for Bytes {
        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
            let from = (position as usize).min(self.0.len());
            out.extend_from_slice(&self.0[from..(from + len).min(self.0.len())]);
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn truncate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A batch whose last bytes but `00`, or all but the last, are those of `inner`: a value, or the value of a header.
    fn batch(offset: i64, records: usize, inner: &[u8], in_header: bool, compression: Compression) -> Vec<u8> {
        let mut batch: Batch = (1..records).map(|n| Record::new("t", format!("record {n}"))).collect();
        let mut last = Record::new("t", "last");
        if in_header {
            last.headers.push(RecordHeader { name: "h".into(), value: Payload::Bytes(inner.to_vec().into()) });
        } else {
            last.value = Payload::Bytes(inner.to_vec().into());
        }
        batch.append([last].into_iter().collect());
        let mut out = Vec::new();
        encode(batch.iter(), 1000, compression, &mut out).unwrap();
        stamp_base_offset(&mut out, offset);
        out
    }

    /// Where each batch begins that is found; asserts that all of them are of the log.
    fn walk(bytes: &[u8], starts: &[(u64, i64)], hints: &[(i32, u32)], case: &str) -> Vec<usize> {
        let file = Bytes(bytes.to_vec());
        let end = starts[starts.len() - 1];
        let (start, end) = (Place { position: 0, offset: 0 }, Place { position: end.0, offset: end.1 });
        let mut walk = Walk::new(&file, start, end, 0, hints);
        let mut found = Vec::new();
        while let Some((at, what)) = walk.next().unwrap() {
            let index = starts.iter().position(|start| *start == (at.position, at.offset));
            let index = index.unwrap_or_else(|| panic!("{case}: {what:?} at {at:?}, which is none of {starts:?}"));
            if let Found::Batch(_) = what {
                found.push(index);
            }
        }
        assert_eq!(walk.at, end, "{case}");
        found
    }

    /// Batches of offsets 0..3, 3..7, 7..10, 10..12, the second with `inner`. With their places, and the end's.
    fn segment(inner: &[u8], in_header: bool, compression: Compression) -> (Vec<u8>, Vec<(u64, i64)>) {
        let (mut bytes, mut starts, mut offset) = (Vec::new(), Vec::new(), 0);
        for (index, records) in [3, 4, 3, 2].into_iter().enumerate() {
            starts.push((bytes.len() as u64, offset));
            let inner = if index == 1 { inner } else { b"plain" };
            bytes.extend(batch(offset, records, inner, in_header, compression));
            offset += records as i64;
        }
        starts.push((bytes.len() as u64, offset));
        (bytes, starts)
    }

    /// Batches that a record of offset 6 (in a batch 3..7) may hold: with every offset that could fit, also so long that the next real batch follows.
    fn forgeries() -> Vec<Vec<u8>> {
        let mut forged = Vec::new();
        for offset in 3..12 {
            for records in 1..4 {
                forged.push(batch(offset, records, b"forged", false, Compression::None));
            }
        }
        // Two that follow each other.
        forged
            .push([batch(5, 1, b"forged", false, Compression::None), batch(6, 1, b"forged", false, Compression::None)].concat());
        forged
    }

    #[test]
    fn a_forged_batch_within_a_damaged_one_is_never_taken() {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            for (forged, in_header) in forgeries().into_iter().flat_map(|f| [(f.clone(), true), (f, false)]) {
                let (bytes, starts) = segment(&forged, in_header, compression);
                let (from, to) = (starts[1].0 as usize, starts[2].0 as usize);
                let inner = bytes[from..to].windows(forged.len()).position(|window| window == forged);
                assert!(inner.is_some() || compression != Compression::None);
                // Any byte of the batch: all others are found.
                for at in from..to {
                    for bit in 0..if at - from < HEADER_BYTES { 8 } else { 1 } {
                        let mut damaged = bytes.clone();
                        damaged[at] ^= 1 << bit;
                        let expected: &[usize] = if (12..16).contains(&(at - from)) { &[0, 1, 2, 3] } else { &[0, 2, 3] };
                        let case = format!("{compression:?}, byte {} of {}, bit {bit}", at - from, to - from);
                        assert_eq!(walk(&damaged, &starts, &[], &case), expected, "{case}");
                    }
                }
                let Some(inner) = inner else { continue };
                // A length that leads to the forged batch, and headers of which nothing is left.
                let mut leads = bytes.clone();
                leads[from + 8..from + 12].copy_from_slice(&((inner - PREFIX_BYTES) as i32).to_be_bytes());
                assert_eq!(walk(&leads, &starts, &[], "a length"), [0, 2, 3]);
                let third = [((starts[3].1 - 1) as i32, starts[2].0 as u32)];
                for wiped in [0, 0xff, b'x'] {
                    for len in [4, 17, 30, HEADER_BYTES, inner.max(HEADER_BYTES)] {
                        for begin in [0, 8, 16] {
                            let mut damaged = bytes.clone();
                            damaged[from + begin..from + len.max(begin + 2)].fill(wiped);
                            // Without an index it may be that nothing behind can be trusted. `walk` asserts that nothing else is.
                            let found = walk(&damaged, &starts, &[], "wiped");
                            assert!(found == [0] || found == [0, 2, 3] || found == [0, 1, 2, 3], "{found:?}");
                            let found = walk(&damaged, &starts, &third, "wiped, with an index");
                            assert!(found == [0, 2, 3] || found == [0, 1, 2, 3], "{found:?}");
                        }
                    }
                }
            }
        }
    }

    /// What `f`, linear but for a constant as CRCs are, takes to `wanted`.
    fn solve(f: impl Fn(u32) -> u32, wanted: u32) -> u32 {
        let zero = f(0);
        let (mut goal, mut solution) = (wanted ^ zero, 0);
        let mut rows: Vec<(u32, u32)> = (0..32).map(|bit| (f(1 << bit) ^ zero, 1 << bit)).collect();
        for bit in 0..32 {
            let Some(pivot) = rows.iter().position(|(value, _)| value >> bit & 1 == 1) else { continue };
            let (value, mask) = rows.swap_remove(pivot);
            rows.iter_mut().filter(|(other, _)| other >> bit & 1 == 1).for_each(|row| *row = (row.0 ^ value, row.1 ^ mask));
            if goal >> bit & 1 == 1 {
                (goal, solution) = (goal ^ value, solution ^ mask);
            }
        }
        solution
    }

    /// The worst that a writer can do: the batch up to the forged one has the CRC of the whole.
    #[test]
    fn a_forged_batch_is_not_taken_when_the_crc_up_to_it_was_made_to_fit() {
        let forged = batch(7, 3, b"forged", false, Compression::None);
        let inner = [&forged[..], &[0; 4]].concat();
        let (bytes, starts) = segment(&inner, false, Compression::None);
        let (from, to) = (starts[1].0 as usize, starts[2].0 as usize);
        let at = from + bytes[from..to].windows(forged.len()).position(|window| window == forged).unwrap();
        // Four bytes behind the forged batch, and one of zeros for the record's headers, take the CRC back to what it was.
        let wanted = crc32c::crc32c(&bytes[from + 21..at]);
        let until_forged = crc32c::crc32c(&bytes[from + 21..at + forged.len()]);
        let patch = solve(|patch| crc32c::crc32c_append(crc32c::crc32c_append(until_forged, &patch.to_le_bytes()), &[0]), wanted);
        let inner = [&forged[..], &patch.to_le_bytes()].concat();
        let (bytes, starts) = segment(&inner, false, Compression::None);
        let stored = Header::parse(&bytes[from..]).unwrap().unwrap().crc;
        assert_eq!((crc32c::crc32c(&bytes[from + 21..at]), crc32c::crc32c(&bytes[from + 21..to])), (stored, stored));
        for length in [[0, 0, 0, 0], [0xff; 4], ((at - from - PREFIX_BYTES) as i32).to_be_bytes()] {
            let mut damaged = bytes.clone();
            damaged[from + 8..from + 12].copy_from_slice(&length);
            assert_eq!(walk(&damaged, &starts, &[], "a made CRC"), [0, 2, 3]);
        }
    }

    /// Eight megabytes of nothing but what a batch behind it would begin with.
    #[test]
    fn hostile_bytes_cost_no_more_than_their_length() {
        let inner = 7i64.to_be_bytes().repeat(1 << 20);
        let (bytes, starts) = segment(&inner, false, Compression::None);
        let from = starts[1].0 as usize;
        for at in [8, 9, 10, 11, 40, 100] {
            let mut damaged = bytes.clone();
            damaged[from + at] ^= 1;
            let began = std::time::Instant::now();
            assert_eq!(walk(&damaged, &starts, &[], "many candidates"), [0, 2, 3]);
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
        }
    }
}
