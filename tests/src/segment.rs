//! Reads a partition's segment files by Kafka's record batch v2 format, written from Kafka's documentation and not from our log's code.

use crate::checker::Stream;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// A record as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Every folder under `data_dir` that holds segments of `topic`: `(partition, folder)`.
///
/// # Errors
/// When a folder cannot be read.
pub fn partitions(data_dir: &Path, topic: &str) -> Result<Vec<(i32, PathBuf)>> {
    let mut found = Vec::new();
    let mut open = vec![data_dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match name.strip_prefix(topic).and_then(|rest| rest.strip_prefix('-')).and_then(|n| n.parse().ok()) {
                Some(partition) => found.push((partition, path)),
                None => open.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The segment files of a partition, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn segments(partition: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(partition)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// All records of a partition; offsets must be dense over batches and segments.
///
/// # Errors
/// Damage, with file and byte.
pub fn read_partition(partition: &Path) -> Result<Vec<Raw>> {
    let mut records: Vec<Raw> = Vec::new();
    for path in segments(partition)? {
        let bytes = fs::read(&path)?;
        for record in read_segment(&bytes).with_context(|| path.display().to_string())? {
            if let Some(last) = records.last() {
                ensure!(record.offset == last.offset + 1, "{}: offset {} follows {}", path.display(), record.offset, last.offset);
            }
            records.push(record);
        }
    }
    Ok(records)
}

/// The values of a topic, one stream for each partition.
///
/// # Errors
/// As [`read_partition`].
pub fn streams(data_dir: &Path, topic: &str) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for (partition, dir) in partitions(data_dir, topic)? {
        let mut bytes = Vec::new();
        for record in read_partition(&dir)? {
            bytes.extend_from_slice(record.value.as_deref().unwrap_or_default());
            bytes.push(b'\n');
        }
        streams.push(Stream { topic: Some(topic.to_owned()), ..Stream::new(format!("log {topic}-{partition}"), bytes) });
    }
    Ok(streams)
}

/// # Errors
/// Damage, with the byte where its batch begins. A preallocated tail of zeros is the end.
pub fn read_segment(bytes: &[u8]) -> Result<Vec<Raw>> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].iter().all(|byte| *byte == 0) {
            break;
        }
        let length = read_batch(&bytes[at..], &mut records).with_context(|| format!("the batch at byte {at}"))?;
        at += length;
    }
    Ok(records)
}

const HEADER: usize = 61;

fn read_batch(bytes: &[u8], records: &mut Vec<Raw>) -> Result<usize> {
    ensure!(bytes.len() >= HEADER, "{} bytes are less than a batch header", bytes.len());
    let i32_at = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (base, length, magic) = (i64_at(0), usize::try_from(i32_at(8))? + 12, bytes[16]);
    ensure!(magic == 2, "magic {magic}");
    ensure!(length >= HEADER && length <= bytes.len(), "a batch of {length} bytes where {} are left", bytes.len());
    let crc = u32::from_be_bytes(bytes[17..21].try_into().expect("four bytes"));
    ensure!(crc == crc32c(&bytes[21..length]), "the CRC does not match");
    let attributes = u16::from_be_bytes([bytes[21], bytes[22]]);
    ensure!(attributes & 7 == 0, "compressed: set compression.type to none in tests that read segments");
    let (last_delta, first_timestamp, count) = (i32_at(23), i64_at(27), i32_at(57));
    let mut input = Input(&bytes[HEADER..length]);
    for _ in 0..count {
        records.push(read_record(&mut input, base, first_timestamp)?);
    }
    ensure!(input.0.is_empty(), "{} bytes behind the last record", input.0.len());
    if let Some(last) = records.last() {
        ensure!(
            last.offset == base + i64::from(last_delta),
            "lastOffsetDelta {last_delta}, but the last offset is {}",
            last.offset
        );
    }
    Ok(length)
}

fn read_record(input: &mut Input<'_>, base: i64, first_timestamp: i64) -> Result<Raw> {
    let length = usize::try_from(input.varint()?)?;
    let mut record = Input(input.take(length)?);
    record.take(1)?; // attributes: none are defined
    let timestamp = first_timestamp + record.varint()?;
    let offset = base + record.varint()?;
    let (key, value) = (record.bytes()?, record.bytes()?);
    let mut headers = Vec::new();
    for _ in 0..record.varint()? {
        let name = record.bytes()?.context("a header without a name")?;
        headers.push((String::from_utf8(name)?, record.bytes()?));
    }
    ensure!(record.0.is_empty(), "bytes behind the headers of {offset}");
    Ok(Raw { offset, timestamp, key, value, headers })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        ensure!(n <= self.0.len(), "{n} bytes wanted, {} left", self.0.len());
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(taken)
    }

    /// Zigzag, 7 bits a byte, low first.
    fn varint(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        bail!("a varint of more than ten bytes")
    }

    /// Length and bytes; -1 is null.
    fn bytes(&mut self) -> Result<Option<Vec<u8>>> {
        match self.varint()? {
            -1 => Ok(None),
            n => Ok(Some(self.take(usize::try_from(n)?)?.to_vec())),
        }
    }
}

/// Castagnoli, table-driven: its own, so that a wrong polynomial in the log shows.
fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|i| (0..8).fold(i as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }))
    });
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_standard_text() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// A batch of two records as Kafka's producer writes it: offsets 5 and 6, key `k`, value `v1`/null, one header.
    fn batch() -> Vec<u8> {
        let first = [0u8, 0, 0, 2, b'k', 4, b'v', b'1', 2, 2, b'h', 1];
        let second = [0u8, 4, 2, 1, 1, 0];
        let mut body = vec![0u8, 0, 0, 0, 0, 1];
        body.extend(1000i64.to_be_bytes());
        body.extend(1002i64.to_be_bytes());
        body.extend([0xff; 14]);
        body.extend(2i32.to_be_bytes());
        for record in [&first[..], &second[..]] {
            body.push((record.len() * 2) as u8);
            body.extend(record);
        }
        let mut bytes = 5i64.to_be_bytes().to_vec();
        bytes.extend((body.len() as i32 + 9).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 2]);
        bytes.extend(crc32c(&body).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_batch_is_read_field_by_field() {
        let records = read_segment(&[batch(), vec![0; 40]].concat()).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[0],
            Raw {
                offset: 5,
                timestamp: 1000,
                key: Some(b"k".to_vec()),
                value: Some(b"v1".to_vec()),
                headers: vec![("h".to_owned(), None)]
            }
        );
        assert_eq!(records[1], Raw { offset: 6, timestamp: 1002, key: None, value: None, headers: vec![] });
    }

    #[test]
    fn every_flipped_bit_behind_the_crc_and_every_cut_is_found() {
        let whole = batch();
        for bit in 17 * 8..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read_segment(&bytes).is_err(), "bit {bit}");
        }
        for end in 13..whole.len() {
            assert!(read_segment(&whole[..end]).is_err(), "cut at {end}");
        }
    }
}
