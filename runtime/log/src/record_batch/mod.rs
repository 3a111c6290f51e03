//! Kafka's record batch, version 2: the format of a segment on disk.
//!
//! Hand-written because it is the hot path (docs/adr/0002): one pass, nothing allocated for each record. Never panics on foreign bytes.
//!
//! Kafka's CRC covers a batch from its attributes on. The base offset, the length and the leader epoch stand before it, so that a broker can stamp
//! them; whoever reads a segment must check that base offsets follow each other.

mod compress;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::decode_into;
pub use encode::{BatchSummary, encode, encode_sparse};

use serde::{Deserialize, Serialize};
use std::fmt;

/// From the base offset to the record count.
pub const HEADER_BYTES: usize = 61;
/// The base offset and the batch length, which the batch length does not count.
pub const PREFIX_BYTES: usize = 12;
/// Of a whole batch, compressed or not. As large as the largest record, so that one fits where many do not; a larger length is damage and is never
/// allocated.
pub const MAX_BATCH_BYTES: usize = 64 << 20;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const LAST_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const SEQUENCE_AT: usize = 53;
const COUNT_AT: usize = 57;

const MAGIC: u8 = 2;
const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const CONTROL: i16 = 1 << 5;
/// Kafka's "no timestamp".
const NO_TIMESTAMP: i64 = -1;

/// `compression.type`. The embedded log's topics do without gzip and snappy; Kafka's have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl std::str::FromStr for Compression {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" | "uncompressed" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(()),
        }
    }
}

/// The first 61 bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub base_offset: i64,
    /// Of the whole batch, with the 12 bytes of the prefix; between 61 and [`MAX_BATCH_BYTES`].
    pub bytes: usize,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    /// The last offset is `base_offset + last_offset_delta`, also when compaction removed that record.
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// How many records the batch says it has.
    pub records: u32,
}

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The batch ends after the bytes that are there: a torn tail, at the end of a segment.
    Torn {
        have: usize,
        need: usize,
    },
    /// The length is impossible.
    Length(i32),
    Magic(u8),
    Crc {
        stored: u32,
        computed: u32,
    },
    /// Sound, but not for us.
    Unsupported(&'static str),
    /// Would decompress to more than any batch may have, or far more than its size makes likely.
    Bomb {
        limit: usize,
    },
    Decompress(String),
    /// The header or a record contradicts itself.
    Malformed(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Torn { have, need } => write!(f, "the batch ends early: {have} of {need} bytes"),
            Damage::Length(length) => write!(f, "impossible batch length {length}"),
            Damage::Magic(magic) => write!(f, "record batch version {magic}; only version 2 is known"),
            Damage::Crc { stored, computed } => write!(f, "CRC mismatch: stored {stored:08x}, computed {computed:08x}"),
            Damage::Unsupported(what) => write!(f, "{what} compression is not supported"),
            Damage::Bomb { limit } => write!(f, "the batch decompresses to more than {limit} bytes"),
            Damage::Decompress(why) => write!(f, "cannot decompress the batch: {why}"),
            Damage::Malformed(what) => write!(f, "malformed batch: {what}"),
        }
    }
}

impl std::error::Error for Damage {}

impl Header {
    /// `None` when there are fewer than 61 bytes. The bytes behind the header need not be there yet.
    ///
    /// # Errors
    /// [`Damage::Magic`], [`Damage::Length`], [`Damage::Malformed`]. Nothing about the CRC: see [`verify`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Damage> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(array(head, LENGTH_AT));
        let size = usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX_BYTES));
        let size = size.filter(|size| (HEADER_BYTES..=MAX_BATCH_BYTES).contains(size)).ok_or(Damage::Length(length))?;
        if head[MAGIC_AT] != MAGIC {
            return Err(Damage::Magic(head[MAGIC_AT]));
        }
        let header = Header {
            base_offset: i64::from_be_bytes(array(head, 0)),
            bytes: size,
            leader_epoch: i32::from_be_bytes(array(head, EPOCH_AT)),
            crc: u32::from_be_bytes(array(head, CRC_AT)),
            attributes: i16::from_be_bytes(array(head, CRC_FROM)),
            last_offset_delta: i32::from_be_bytes(array(head, LAST_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(array(head, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(array(head, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(array(head, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(array(head, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(array(head, SEQUENCE_AT)),
            records: u32::from_be_bytes(array(head, COUNT_AT)),
        };
        header.check()?;
        Ok(Some(header))
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// # Errors
    /// [`Damage::Unsupported`] names what it is.
    pub fn compression(&self) -> Result<Compression, Damage> {
        match self.attributes & COMPRESSION_MASK {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            _ => Err(Damage::Unsupported("an unknown")),
        }
    }

    /// A transaction marker of Kafka: no records of anybody.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    fn check(&self) -> Result<(), Damage> {
        if self.base_offset < 0 || self.last_offset_delta < 0 || self.base_offset > i64::MAX - i64::from(i32::MAX) - 1 {
            return Err(Damage::Malformed("offsets out of range"));
        }
        // Offsets are distinct, so there cannot be more records than offsets.
        if i64::from(self.records) > i64::from(self.last_offset_delta) + 1 {
            return Err(Damage::Malformed("more records than offsets"));
        }
        Ok(())
    }
}

/// The header of a whole, undamaged batch at the start of `bytes`; bytes after the batch are ignored.
///
/// # Errors
/// [`Damage::Torn`] when `bytes` end before the batch does, [`Damage::Crc`], and those of [`Header::parse`].
pub fn verify(bytes: &[u8]) -> Result<Header, Damage> {
    let header = whole(bytes)?;
    let computed = crc32c::crc32c(&bytes[CRC_FROM..header.bytes]);
    if computed != header.crc {
        return Err(Damage::Crc { stored: header.crc, computed });
    }
    Ok(header)
}

/// Makes `offset` the offset of the batch's first record. The CRC does not cover it.
///
/// # Panics
/// When `batch` is shorter than 8 bytes: a bug of the caller.
pub fn stamp_base_offset(batch: &mut [u8], offset: i64) {
    batch[..8].copy_from_slice(&offset.to_be_bytes());
}

fn whole(bytes: &[u8]) -> Result<Header, Damage> {
    let header = Header::parse(bytes)?.ok_or(Damage::Torn { have: bytes.len(), need: HEADER_BYTES })?;
    if bytes.len() < header.bytes {
        return Err(Damage::Torn { have: bytes.len(), need: header.bytes });
    }
    Ok(header)
}

fn array<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[at..at + N]);
    out
}
