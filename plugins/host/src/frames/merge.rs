//! What a transform returned, put beside what it was given.

use super::{HEADERS_MAX, Stretch, headers};
use crate::json;
use aqueduct_core::batch::INLINE_MAX_BYTES;
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{
    Batch, Bytes, Chunk, ChunkBuilder, Header, Payload, PayloadRef, Place, Record, RecordRef, Span, Topic, TopicPartition,
};
use aqueduct_plugin_frame::{Frame, Part, Record as Framed};
use std::ops::Range;
use std::sync::Arc;

/// What a transform may make beyond what it was given: records that say `same` cost it nothing, and us their bytes (invariant 6).
const MADE_BYTES_MAX: usize = 64 << 20;
/// Far from the 4 GiB that a span can name, whatever one record adds.
const BUFFER_MAX: usize = 1 << 30;

/// What a transform made of `input`; `None`: nothing, it is as it was.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn merge(input: &Batch, frame: Vec<u8>) -> Result<Option<Batch>, String> {
    let bytes = Bytes::from(frame);
    let frame = Frame::read(&bytes).map_err(|error| error.to_string())?;
    let count = input.len();
    // As many again for each record: more is a bomb, not a transform.
    if frame.len() > count.saturating_mul(1000) {
        return Err(format!("{} records of {count}", frame.len()));
    }
    if let Some(dropped) = dropped(input, &frame) {
        return Ok((!dropped.is_empty()).then(|| without(input.clone(), &dropped)));
    }
    let mut merging = Merging::new(input, &frame, &bytes);
    for record in frame.records() {
        merging.push(&record.map_err(|error| error.to_string())?)?;
    }
    Ok(Some(merging.finish()))
}

/// When all that the transform did is drop records (or nothing): which, in order. The buffers stay as they are.
fn dropped(input: &Batch, frame: &Frame<'_>) -> Option<Vec<Range<usize>>> {
    let (mut dropped, mut next, mut refs) = (Vec::new(), 0, input.iter());
    for record in frame.records() {
        let record = record.ok()?;
        let same = record.topic.is_none()
            && record.key == Part::Same
            && record.value == Part::Same
            && matches!(record.headers(), Ok(None));
        // In order, each at most once.
        let skipped = usize::try_from(record.offset).ok()?.checked_sub(next)?;
        if skipped > 0 {
            dropped.push(next..next + skipped);
        }
        if !same || refs.nth(skipped)?.timestamp() != record.timestamp {
            return None;
        }
        next += skipped + 1;
    }
    if next < input.len() {
        dropped.push(next..input.len());
    }
    Some(dropped)
}

fn without(mut batch: Batch, dropped: &[Range<usize>]) -> Batch {
    let (mut dropped, mut at) = (dropped.iter().peekable(), 0);
    batch.retain(|_| {
        while dropped.next_if(|range| range.end <= at).is_some() {}
        let keep = !dropped.peek().is_some_and(|range| range.contains(&at));
        at += 1;
        keep
    });
    batch
}

/// A key or a value of a record that is made.
enum Half<'a> {
    Null,
    /// In the frame.
    Framed(Range<usize>),
    /// Of the record that it came of.
    Copied(&'a [u8]),
    Own(Payload),
}

impl Half<'_> {
    fn size(&self) -> usize {
        match self {
            Half::Null => 0,
            Half::Framed(range) => range.len(),
            Half::Copied(bytes) => bytes.len(),
            Half::Own(payload) => payload.size(),
        }
    }
}

struct Merging<'a> {
    input: &'a Batch,
    /// How many records are before each chunk of the input.
    firsts: Vec<usize>,
    frame: &'a Frame<'a>,
    bytes: &'a Bytes,
    topics: Vec<Arc<str>>,
    room: usize,
    headers_left: usize,
    out: Batch,
    run: Made,
}

impl<'a> Merging<'a> {
    /// Of an input that has records.
    fn new(input: &'a Batch, frame: &'a Frame<'a>, bytes: &'a Bytes) -> Self {
        let firsts = input.chunks().iter().scan(0, |next, chunk| Some(std::mem::replace(next, *next + chunk.len())));
        let first = &input.chunks()[0];
        Self {
            input,
            firsts: firsts.collect(),
            frame,
            bytes,
            topics: frame.topics().iter().map(|(name, _)| Arc::from(*name)).collect(),
            room: input.bytes() + MADE_BYTES_MAX,
            headers_left: HEADERS_MAX,
            out: Batch::new(),
            run: Made::new(Target::of(first), (None, 0), false, frame.len().min(input.len())),
        }
    }

    fn push(&mut self, record: &Framed<'a>) -> Result<(), String> {
        let (chunk, place) = self.origin(record.offset)?;
        let of = self.input.chunks()[chunk].get(place);
        let key = half(record.key, record.key_range(), of.key(), || of.key_payload())?;
        let value = half(record.value, record.value_range(), of.value(), || of.value_payload())?;
        let own = headers(record, self.bytes, &mut self.headers_left)?;
        // Names and values of headers are shared with the record they came of.
        let count = own.as_ref().map_or(of.headers().len(), Vec::len);
        let size = size_of::<Record>() + key.size() + value.size() + count * size_of::<Header>();
        let room = self.room.checked_sub(size);
        self.room = room.ok_or_else(|| format!("more than {MADE_BYTES_MAX} bytes beyond what it was given"))?;
        let copies = matches!((&key, &value), (Half::Copied(_), _) | (_, Half::Copied(_)));
        self.turn_to(record.topic, chunk, copies)?;
        self.run.push(key, value, record.timestamp, of, self.bytes);
        match own {
            None => self.run.builder.headers_of(of),
            Some(own) => own.into_iter().for_each(|header| self.run.builder.header(header.name, header.value)),
        }
        Ok(())
    }

    /// The chunk of the input, and the place in it, of the record that this one came of.
    fn origin(&self, offset: i64) -> Result<(usize, usize), String> {
        let count = self.input.len();
        let index = usize::try_from(offset).ok().filter(|index| *index < count);
        let index = index.ok_or_else(|| format!("a record that came of record {offset}, where there are {count}"))?;
        let chunk = self.run.from.1;
        let near = index.checked_sub(self.firsts[chunk]).filter(|place| *place < self.input.chunks()[chunk].len());
        Ok(near.map_or_else(
            || {
                let chunk = self.firsts.partition_point(|first| *first <= index) - 1;
                (chunk, index - self.firsts[chunk])
            },
            |place| (chunk, place),
        ))
    }

    /// Ends the run unless a record of this topic (`None`: as it was), which came of a record in this chunk, goes on with it.
    fn turn_to(&mut self, topic: Option<u32>, chunk: usize, copies: bool) -> Result<(), String> {
        let from = (topic, chunk);
        let fits = self.run.copied.as_ref().map_or(!copies, |copied| copied.len() < BUFFER_MAX);
        if fits && self.run.from == from {
            return Ok(());
        }
        let mut target = Target::of(&self.input.chunks()[chunk]);
        if let Some(index) = topic {
            let (name, partition) = self.frame.topics()[index as usize];
            if !is_valid_topic_name(name) {
                return Err(format!("{:?} is no name of a topic", crate::error::clean(name, 300)));
            }
            (target.topic, target.partition) = (self.topics[index as usize].clone(), partition);
        }
        if fits && self.run.target == target {
            self.run.from = from;
            return Ok(());
        }
        let next = Made::new(target, from, copies, 0);
        self.out.push_chunk(std::mem::replace(&mut self.run, next).chunk(self.bytes));
        Ok(())
    }

    fn finish(mut self) -> Batch {
        self.out.push_chunk(self.run.chunk(self.bytes));
        self.out
    }
}

/// Where records go, and the partition that they were read from.
#[derive(Clone, PartialEq)]
struct Target {
    topic: Topic,
    partition: Option<i32>,
    origin: Option<Arc<TopicPartition>>,
}

impl Target {
    fn of(chunk: &Chunk) -> Self {
        Self { topic: chunk.topic.clone(), partition: chunk.partition, origin: chunk.origin.clone() }
    }
}

/// A chunk that is made: a part of the frame, until a record needs what is not in the frame; from there on another one, of copies.
struct Made {
    target: Target,
    /// The topic in the frame and the chunk of the input of its last record.
    from: (Option<u32>, usize),
    builder: ChunkBuilder,
    /// The buffer, where it is no part of the frame.
    copied: Option<Vec<u8>>,
    stretch: Stretch,
}

impl Made {
    fn new(target: Target, from: (Option<u32>, usize), copies: bool, records: usize) -> Self {
        let builder = ChunkBuilder::new(target.topic.clone()).partition(target.partition).origin(target.origin.clone());
        let mut made = Self { target, from, builder, copied: copies.then(Vec::new), stretch: Stretch::default() };
        made.builder.reserve(records);
        made
    }

    fn push(&mut self, key: Half<'_>, value: Half<'_>, timestamp: Option<i64>, of: RecordRef<'_>, frame: &Bytes) {
        let key = self.place(key, frame);
        let value = self.place(value, frame);
        self.builder.push(key, value, timestamp, of.origin().map_or(-1, |(_, offset)| offset));
    }

    fn place(&mut self, half: Half<'_>, frame: &Bytes) -> Place {
        let copied = match (half, &mut self.copied) {
            (Half::Null, _) => return Place::Null,
            (Half::Own(payload), _) => return Place::Own(payload),
            (Half::Framed(range), None) => return Place::Span(self.stretch.span(range)),
            (Half::Framed(range), Some(_)) if range.len() > INLINE_MAX_BYTES => {
                return Place::Own(Payload::Bytes(frame.slice(range)));
            }
            (Half::Framed(range), Some(copied)) => (&frame[range], copied),
            (Half::Copied(bytes), copied) => (bytes, copied.get_or_insert_default()),
        };
        let (bytes, buffer) = copied;
        let span = Span { start: buffer.len() as u32, len: bytes.len() as u32 };
        buffer.extend_from_slice(bytes);
        Place::Span(span)
    }

    fn chunk(self, frame: &Bytes) -> Chunk {
        let buffer = self.copied.map_or_else(|| self.stretch.of(frame), Bytes::from);
        self.builder.finish(buffer)
    }
}

fn half<'a>(
    part: Part<'a>,
    range: Option<Range<usize>>,
    before: PayloadRef<'a>,
    owned: impl FnOnce() -> Payload,
) -> Result<Half<'a>, String> {
    Ok(match (part, range) {
        (Part::Same, _) => match before {
            PayloadRef::Null => Half::Null,
            PayloadRef::Bytes(bytes) if bytes.len() <= INLINE_MAX_BYTES => Half::Copied(bytes),
            PayloadRef::Bytes(_) | PayloadRef::Data(_) => Half::Own(owned()),
        },
        (Part::Bytes(text), Some(_)) if matches!(before, PayloadRef::Data(_)) => Half::Own(
            json::from_json(text).map_err(|error| format!("a value in place of a structured one that is no JSON: {error}"))?,
        ),
        (Part::Bytes(_), Some(range)) => Half::Framed(range),
        _ => Half::Null,
    })
}

#[cfg(test)]
mod tests;
