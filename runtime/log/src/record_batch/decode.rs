use super::*;
use aqueduct_core::{Batch, Bytes, ChunkBuilder, Payload, Span, TopicPartition, failpoint};
use std::sync::Arc;

/// A record of nothing: length, attributes, two deltas, two lengths, no headers.
const MIN_RECORD_BYTES: usize = 7;
/// Names of headers repeat from record to record; this many are looked through before a name is allocated anew.
const NAMES_MAX: usize = 32;

/// Appends the records of the batch at `start` as one chunk: those at or above `from_offset`, with `tp` as origin and partition. Spans point into a
/// slice of `buffer`, or into the decompressed bytes. Transaction markers have no records.
///
/// Returns the bytes of the batch, whether or not it had records to take: the next batch is at `start` plus this.
///
/// # Errors
/// Any damage, [`Damage::Crc`] first; `out` is then as before.
pub fn decode_into(
    buffer: &Bytes,
    start: usize,
    tp: &Arc<TopicPartition>,
    from_offset: i64,
    out: &mut Batch,
) -> Result<usize, Damage> {
    let bytes = buffer.get(start..).unwrap_or_default();
    let header = if failpoint::planted(failpoint::bug::CRC_UNCHECKED) { whole(bytes)? } else { verify(bytes)? };
    let compression = header.compression()?;
    if header.is_control() || header.records == 0 || header.last_offset() < from_offset {
        return Ok(header.bytes);
    }
    let batch = buffer.slice(start..start + header.bytes);
    let (body, at) = match compression {
        Compression::None => (batch, HEADER_BYTES),
        compression => (Bytes::from(compress::expand(compression, &batch[HEADER_BYTES..])?), 0),
    };
    if header.records as usize > (body.len() - at) / MIN_RECORD_BYTES {
        return Err(Damage::Malformed("more records than bytes for them"));
    }
    let mut builder = ChunkBuilder::new(tp.topic.clone()).partition(Some(tp.partition)).origin(Some(tp.clone()));
    builder.reserve(header.records as usize);
    records(&header, &body, at, from_offset, &mut builder)?;
    out.push_chunk(builder.finish(body));
    Ok(header.bytes)
}

fn records(header: &Header, body: &Bytes, at: usize, from_offset: i64, builder: &mut ChunkBuilder) -> Result<(), Damage> {
    let mut cursor = Cursor { bytes: body, at };
    let append_time = header.attributes & LOG_APPEND_TIME != 0;
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut last = -1;
    for _ in 0..header.records {
        let length = cursor.varint()?;
        let end = usize::try_from(length).ok().and_then(|length| cursor.at.checked_add(length));
        let end = end.filter(|&end| end <= body.len()).ok_or(Damage::Malformed("a record ends after its batch"))?;
        cursor.byte()?;
        let timestamp = header.base_timestamp.wrapping_add(cursor.varint()?);
        let delta = cursor.varint()?;
        if delta <= last || delta > i64::from(header.last_offset_delta) {
            return Err(Damage::Malformed("offsets do not ascend within the batch"));
        }
        last = delta;
        let offset = header.base_offset + delta;
        let key = cursor.span()?;
        let value = cursor.span()?;
        let headers = cursor.varint()?;
        if offset < from_offset {
            cursor.at = end;
            continue;
        }
        let timestamp = if append_time { header.max_timestamp } else { timestamp };
        builder.push_span(key, value, (timestamp != NO_TIMESTAMP).then_some(timestamp), offset);
        if headers != 0 {
            cursor.headers(headers, body, &mut names, builder)?;
        }
        if cursor.at != end {
            return Err(Damage::Malformed("a record is not as long as it says"));
        }
    }
    if cursor.at != body.len() {
        return Err(Damage::Malformed("bytes after the last record"));
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Damage> {
        let byte = *self.bytes.get(self.at).ok_or(Damage::Malformed("a record ends early"))?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<i64, Damage> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(unzigzag(u64::from(first)));
        }
        self.long_varint(first)
    }

    #[inline]
    fn long_varint(&mut self, first: u8) -> Result<i64, Damage> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(unzigzag(value));
            }
        }
        Err(Damage::Malformed("a number of more than 64 bits"))
    }

    /// A length and so many bytes; `None` for a negative length.
    #[inline]
    fn span(&mut self) -> Result<Option<Span>, Damage> {
        let length = self.varint()?;
        if length < 0 {
            return Ok(None);
        }
        let (start, rest) = (self.at, self.bytes.len() - self.at);
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= rest)
            .ok_or(Damage::Malformed("a payload ends after its batch"))?;
        self.at += length;
        // Lossless: a body has at most 64 MiB.
        Ok(Some(Span { start: start as u32, len: length as u32 }))
    }

    fn headers(&mut self, count: i64, body: &Bytes, names: &mut Vec<Arc<str>>, builder: &mut ChunkBuilder) -> Result<(), Damage> {
        if count < 0 || count as usize > self.bytes.len() - self.at {
            return Err(Damage::Malformed("an impossible number of headers"));
        }
        for _ in 0..count {
            let name = self.span()?.ok_or(Damage::Malformed("a header without a name"))?;
            let name = intern(names, &body[range(name)]);
            let value = self.span()?.map_or(Payload::Null, |span| Payload::Bytes(body.slice(range(span))));
            builder.header(name, value);
        }
        Ok(())
    }
}

fn intern(names: &mut Vec<Arc<str>>, name: &[u8]) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| known.as_bytes() == name) {
        return known.clone();
    }
    let new: Arc<str> = String::from_utf8_lossy(name).into();
    if names.len() < NAMES_MAX {
        names.push(new.clone());
    }
    new
}

fn range(span: Span) -> std::ops::Range<usize> {
    span.start as usize..span.start as usize + span.len as usize
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
