use super::*;
use aqueduct_core::{Error, Header, PayloadRef, RecordRef, Result};
use std::ops::Range;

/// What [`encode`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    pub records: usize,
    /// Milliseconds; -1 when there is no record or none has a timestamp.
    pub max_timestamp: i64,
    /// Of the whole batch.
    pub bytes: usize,
}

/// Appends one batch with these records to `out`: base offset 0 (see [`stamp_base_offset`]), one offset for each record, no producer.
/// Records without a timestamp get `now_ms`. A batch that compression would not shrink, or would shrink so much that a reader must take it for a
/// bomb, is written uncompressed.
///
/// # Errors
/// `log.record_too_large` when the batch would exceed [`MAX_BATCH_BYTES`] uncompressed; `log.not_encoded` for structured data. `out` is then as
/// before.
pub fn encode<'a>(
    records: impl IntoIterator<Item = RecordRef<'a>>,
    now_ms: i64,
    compression: Compression,
    out: &mut Vec<u8>,
) -> Result<BatchSummary> {
    let mut encoder = Encoder::begin(out);
    for record in records {
        let delta = encoder.records as i64;
        if let Err(error) = encoder.push(delta, record, now_ms) {
            return Err(encoder.abandon(error));
        }
    }
    let last_delta = (encoder.records as i64 - 1).max(0);
    encoder.finish(0, last_delta, compression)
}

/// As [`encode`], for what compaction left: records at their own offsets, ascending, all in `base_offset..=last_offset`, which is the range that the
/// batch stands for (it may be empty). Records without a timestamp stay so.
///
/// # Errors
/// Those of [`encode`], and `log.offset_order` for offsets that do not ascend within the range.
pub fn encode_sparse<'a>(
    base_offset: i64,
    last_offset: i64,
    records: impl IntoIterator<Item = (i64, RecordRef<'a>)>,
    compression: Compression,
    out: &mut Vec<u8>,
) -> Result<BatchSummary> {
    let mut encoder = Encoder::begin(out);
    let span = last_offset.checked_sub(base_offset).filter(|span| (0..=i64::from(i32::MAX)).contains(span) && base_offset >= 0);
    let Some(span) = span else { return Err(encoder.abandon(offset_order(base_offset, last_offset))) };
    let mut next = base_offset;
    for (offset, record) in records {
        if offset < next || offset > last_offset {
            return Err(encoder.abandon(offset_order(offset, last_offset)));
        }
        if let Err(error) = encoder.push(offset - base_offset, record, NO_TIMESTAMP) {
            return Err(encoder.abandon(error));
        }
        next = offset + 1;
    }
    encoder.finish(base_offset, span, compression)
}

fn offset_order(offset: i64, last: i64) -> Error {
    Error::fatal("log.offset_order", format!("offset {offset} is out of order in a batch that ends at {last}"))
}

struct Encoder<'o, 'r> {
    out: &'o mut Vec<u8>,
    start: usize,
    records: usize,
    base_timestamp: i64,
    max_timestamp: i64,
    /// The headers written last, and where: records of a source often share theirs.
    headers: Option<(&'r [Header], Range<usize>)>,
}

impl<'o, 'r> Encoder<'o, 'r> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        Self { out, start, records: 0, base_timestamp: NO_TIMESTAMP, max_timestamp: NO_TIMESTAMP, headers: None }
    }

    #[inline]
    fn push(&mut self, offset_delta: i64, record: RecordRef<'r>, now_ms: i64) -> Result<()> {
        let (key, value) = (bytes_of(record.key())?, bytes_of(record.value())?);
        let timestamp = record.timestamp().unwrap_or(now_ms);
        if self.records == 0 {
            self.base_timestamp = timestamp;
        }
        // Before anything is copied: 64 MiB of headers in one record are as wrong as a large value.
        let shared = self.headers.clone().filter(|(written, _)| std::ptr::eq(*written, record.headers()));
        let headers = shared.as_ref().map_or_else(|| headers_size(record), |(_, place)| Ok(place.len()))?;
        let payload = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers;
        if self.out.len() - self.start + payload + RECORD_OVERHEAD > MAX_BATCH_BYTES {
            return Err(too_large(payload));
        }
        let mut lead = Lead::default();
        lead.varint(timestamp.wrapping_sub(self.base_timestamp));
        lead.varint(offset_delta);
        lead.varint(key.map_or(-1, |key| key.len() as i64));
        let value_len = value.map_or(-1, |value| value.len() as i64);
        let header_count = record.headers().len() as i64;
        let size = 1 + lead.len + payload + varint_size(value_len) + if headers == 0 { varint_size(header_count) } else { 0 };
        let mut head = Lead::default();
        head.varint(size as i64);
        head.byte(0);
        head.lead(&lead);
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            self.out.extend_from_slice(head.bytes());
            self.out.extend_from_slice(key);
            head = Lead::default();
        }
        head.varint(value_len);
        self.out.extend_from_slice(head.bytes());
        self.out.extend_from_slice(value.unwrap_or_default());
        match shared {
            Some((_, place)) => self.out.extend_from_within(place),
            None => self.headers(record)?,
        }
        self.records += 1;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(())
    }

    fn headers(&mut self, record: RecordRef<'r>) -> Result<()> {
        let headers = record.headers();
        if headers.is_empty() {
            self.out.push(0);
            return Ok(());
        }
        let start = self.out.len();
        put_varint(self.out, headers.len() as i64);
        for header in headers {
            put_varint(self.out, header.name.len() as i64);
            self.out.extend_from_slice(header.name.as_bytes());
            let value = bytes_of(header.value.as_ref())?;
            put_varint(self.out, value.map_or(-1, |value| value.len() as i64));
            self.out.extend_from_slice(value.unwrap_or_default());
        }
        self.headers = Some((headers, start..self.out.len()));
        Ok(())
    }

    fn finish(self, base_offset: i64, last_delta: i64, compression: Compression) -> Result<BatchSummary> {
        let Self { out, start, records, base_timestamp, max_timestamp, .. } = self;
        let attributes = compress::in_place(compression, out, start + HEADER_BYTES);
        let bytes = out.len() - start;
        let batch = &mut out[start..];
        let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &base_offset.to_be_bytes());
        put(LENGTH_AT, &((bytes - PREFIX_BYTES) as i32).to_be_bytes());
        put(EPOCH_AT, &0i32.to_be_bytes());
        put(MAGIC_AT, &[MAGIC]);
        put(CRC_FROM, &attributes.to_be_bytes());
        put(LAST_DELTA_AT, &(last_delta as i32).to_be_bytes());
        put(BASE_TIMESTAMP_AT, &base_timestamp.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &max_timestamp.to_be_bytes());
        put(PRODUCER_ID_AT, &(-1i64).to_be_bytes());
        put(PRODUCER_EPOCH_AT, &(-1i16).to_be_bytes());
        put(SEQUENCE_AT, &(-1i32).to_be_bytes());
        put(COUNT_AT, &(records as u32).to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        Ok(BatchSummary { records, max_timestamp, bytes })
    }

    fn abandon(self, error: Error) -> Error {
        self.out.truncate(self.start);
        error
    }
}

/// Lengths, attributes, deltas and counts of one record: six varints and a byte, rounded up.
const RECORD_OVERHEAD: usize = 64;

/// The small fields of a record, gathered so that they are appended by one copy.
#[derive(Default)]
struct Lead {
    /// 10 + 5 + 4 of the deltas and the key, 4 + 1 + 4 of the lengths and the attributes.
    buffer: [u8; 32],
    len: usize,
}

impl Lead {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.buffer[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    fn varint(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    #[inline]
    fn lead(&mut self, other: &Lead) {
        self.buffer[self.len..self.len + other.len].copy_from_slice(other.bytes());
        self.len += other.len;
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

#[inline]
fn bytes_of(payload: PayloadRef<'_>) -> Result<Option<&[u8]>> {
    match payload {
        PayloadRef::Null => Ok(None),
        PayloadRef::Bytes(bytes) => Ok(Some(bytes)),
        PayloadRef::Data(_) => {
            Err(Error::fatal("log.not_encoded", "a record with structured data reached the log without a converter"))
        }
    }
}

/// The bytes of the headers with their count; 0 when there are none (the count is then one byte).
#[inline]
fn headers_size(record: RecordRef<'_>) -> Result<usize> {
    let headers = record.headers();
    if headers.is_empty() {
        return Ok(0);
    }
    let mut size = varint_size(headers.len() as i64);
    for header in headers {
        let value = bytes_of(header.value.as_ref())?;
        let (name, len) = (header.name.len(), value.map_or(0, <[u8]>::len));
        size += varint_size(name as i64) + name + varint_size(value.map_or(-1, |_| len as i64)) + len;
    }
    Ok(size)
}

fn too_large(bytes: usize) -> Error {
    Error::fatal(
        "log.record_too_large",
        format!("a record of {bytes} bytes does not fit into a batch of {MAX_BATCH_BYTES} bytes"),
    )
    .fix("make the source send smaller records")
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn varint_size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut lead = Lead::default();
    lead.varint(value);
    out.extend_from_slice(lead.bytes());
}
