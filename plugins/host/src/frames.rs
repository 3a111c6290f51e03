//! A batch as a frame, and back: every topic, length and index is judged before it is used.

use crate::json;
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Batch, BatchBuilder, Bytes, Chunk, ChunkBuilder, Header, Payload, PayloadRef, Record, Span};
use aqueduct_plugin_frame::{Frame, Part, RECORD_BYTES, Record as Framed, Writer};
use std::borrow::Cow;
use std::sync::Arc;

/// The frame for a sink or a transform.
pub(crate) fn write(batch: &Batch) -> Vec<u8> {
    let mut writer = Writer::with_capacity(batch.bytes() + batch.len() * RECORD_BYTES);
    for chunk in batch.chunks() {
        let partition = chunk.origin.as_ref().map(|origin| origin.partition).or(chunk.partition);
        let topic = writer.topic(&chunk.topic, partition);
        for record in chunk.iter() {
            let (key, value) = (text(record.key()), text(record.value()));
            let offset = record.origin().map_or(-1, |(_, offset)| offset);
            let (key, value) = (key.as_deref().into(), value.as_deref().into());
            if record.headers().is_empty() {
                writer.record(topic, key, value, record.timestamp(), offset);
            } else {
                let headers: Vec<_> =
                    record.headers().iter().map(|header| (&*header.name, text(header.value.as_ref()))).collect();
                let headers = headers.iter().map(|(name, value)| (*name, value.as_deref()));
                writer.record_with_headers(topic, key, value, headers, record.timestamp(), offset);
            }
        }
    }
    writer.finish()
}

fn text(payload: PayloadRef<'_>) -> Option<Cow<'_, [u8]>> {
    match payload {
        PayloadRef::Null => None,
        PayloadRef::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        PayloadRef::Data(data) => Some(Cow::Owned(json::to_json(data).to_string().into_bytes())),
    }
}

/// In one frame of a guest: a header of 6 bytes takes 100 here.
const HEADERS_MAX: usize = 1 << 20;

/// What a source polled: payloads stay slices of the frame.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(frame: Vec<u8>, records_max: usize) -> Result<Batch, String> {
    let bytes = Bytes::from(frame);
    let frame = Frame::read(&bytes).map_err(|error| error.to_string())?;
    if frame.len() > records_max {
        return Err(format!("{} records, more than the {records_max} that were asked for", frame.len()));
    }
    if let Some((name, _)) = frame.topics().iter().find(|(name, _)| !is_valid_topic_name(name)) {
        return Err(format!("{:?} is no name of a topic", crate::error::clean(name, 300)));
    }
    let topics: Vec<Arc<str>> = frame.topics().iter().map(|(name, _)| Arc::from(*name)).collect();
    let mut batch = Batch::new();
    let mut run: Option<Run> = None;
    let mut headers_left = HEADERS_MAX;
    for record in frame.records() {
        let record = record.map_err(|error| error.to_string())?;
        let Some(index) = record.topic else { return Err("a record without a topic".to_owned()) };
        if record.key == Part::Same || record.value == Part::Same {
            return Err("a record that says `same` where there is nothing before it".to_owned());
        }
        if run.as_ref().is_some_and(|run| run.topic != index) {
            run.take().into_iter().for_each(|run| batch.push_chunk(run.chunk(&bytes)));
        }
        let run = run.get_or_insert_with(|| {
            let partition = frame.topics()[index as usize].1;
            Run::new(index, ChunkBuilder::new(topics[index as usize].clone()).partition(partition))
        });
        run.push(&record, &bytes, &mut headers_left)?;
    }
    run.into_iter().for_each(|run| batch.push_chunk(run.chunk(&bytes)));
    Ok(batch)
}

/// Records of one topic, one after another in the frame.
struct Run {
    topic: u32,
    builder: ChunkBuilder,
    /// The part of the frame that they fill.
    from: usize,
    to: usize,
}

impl Run {
    fn new(topic: u32, builder: ChunkBuilder) -> Self {
        Self { topic, builder, from: usize::MAX, to: 0 }
    }

    fn push(&mut self, record: &Framed<'_>, bytes: &Bytes, headers_left: &mut usize) -> Result<(), String> {
        let (key, value) = (record.key_range(), record.value_range());
        for range in [&key, &value].into_iter().flatten() {
            self.from = self.from.min(range.start);
            self.to = self.to.max(range.end);
        }
        // The first payload begins the part; a run without any has no part.
        let from = if self.from == usize::MAX { 0 } else { self.from };
        let span = |range: std::ops::Range<usize>| Span { start: (range.start - from) as u32, len: range.len() as u32 };
        self.builder.push_span(key.map(span), value.map(span), record.timestamp, -1);
        if record.has_headers() {
            for header in headers(record, bytes, headers_left)?.unwrap_or_default() {
                self.builder.header(header.name, header.value);
            }
        }
        Ok(())
    }

    fn chunk(self, bytes: &Bytes) -> Chunk {
        let part = if self.from == usize::MAX { Bytes::new() } else { bytes.slice(self.from..self.to) };
        self.builder.finish(part)
    }
}

/// `None`: as they were.
fn headers(record: &Framed<'_>, bytes: &Bytes, left: &mut usize) -> Result<Option<Vec<Header>>, String> {
    let Some(headers) = record.headers().map_err(|error| error.to_string())? else { return Ok(None) };
    *left = left.checked_sub(headers.len()).ok_or_else(|| format!("more than {HEADERS_MAX} headers"))?;
    let value = |value: Option<&[u8]>| value.map_or(Payload::Null, |value| Payload::Bytes(bytes.slice_ref(value)));
    Ok(Some(headers.iter().map(|(name, text)| Header { name: name.into(), value: value(text) }).collect()))
}

/// What a transform may make beyond what it was given: records that say `same` cost it nothing, and us their bytes (invariant 6).
const MADE_BYTES_MAX: usize = 64 << 20;

/// What a transform made of `input`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn merge(input: &Batch, frame: Vec<u8>) -> Result<Batch, String> {
    let bytes = Bytes::from(frame);
    let frame = Frame::read(&bytes).map_err(|error| error.to_string())?;
    let count = input.len();
    // As many again for each record: more is a bomb, not a transform.
    if frame.len() > count.saturating_mul(1000) {
        return Err(format!("{} records of {count}", frame.len()));
    }
    if let Some(batch) = untouched(input, &frame) {
        return batch;
    }
    let topics: Vec<Arc<str>> = frame.topics().iter().map(|(name, _)| Arc::from(*name)).collect();
    let refs: Vec<_> = input.iter().collect();
    let (mut out, mut room, mut headers_left) = (BatchBuilder::new(), input.bytes() + MADE_BYTES_MAX, HEADERS_MAX);
    for record in frame.records() {
        let record = record.map_err(|error| error.to_string())?;
        let origin = usize::try_from(record.offset).ok().and_then(|index| refs.get(index));
        let Some(origin) = origin else {
            return Err(format!("a record that came of record {}, where there are {count}", record.offset));
        };
        let mut made: Record = origin.to_record();
        if let Some(index) = record.topic {
            let (name, partition) = frame.topics()[index as usize];
            if !is_valid_topic_name(name) {
                return Err(format!("{:?} is no name of a topic", crate::error::clean(name, 300)));
            }
            made.topic = topics[index as usize].clone();
            made.partition = partition;
        }
        made.key = part(&bytes, record.key, record.key_range(), made.key)?;
        made.value = part(&bytes, record.value, record.value_range(), made.value)?;
        made.timestamp = record.timestamp;
        if let Some(headers) = headers(&record, &bytes, &mut headers_left)? {
            made.headers = headers;
        }
        // Names and values of headers are shared with the record they came of.
        let size = size_of::<Record>() + made.key.size() + made.value.size() + made.headers.len() * size_of::<Header>();
        room = room.checked_sub(size).ok_or_else(|| format!("more than {MADE_BYTES_MAX} bytes beyond what it was given"))?;
        out.push(made);
    }
    Ok(out.finish())
}

fn part(frame: &Bytes, part: Part<'_>, range: Option<std::ops::Range<usize>>, before: Payload) -> Result<Payload, String> {
    match (part, range) {
        (Part::Same, _) => Ok(before),
        (Part::Bytes(text), Some(_)) if matches!(before, Payload::Data(_)) => {
            json::from_json(text).map_err(|error| format!("a value in place of a structured one that is no JSON: {error}"))
        }
        (Part::Bytes(_), Some(range)) => Ok(Payload::Bytes(frame.slice(range))),
        _ => Ok(Payload::Null),
    }
}

/// When all that the transform did is drop records (or nothing), the buffers stay as they are.
fn untouched(input: &Batch, frame: &Frame<'_>) -> Option<Result<Batch, String>> {
    let mut kept = Vec::with_capacity(frame.len());
    let mut refs = input.iter().enumerate();
    for record in frame.records() {
        let record = record.ok()?;
        let same = record.topic.is_none()
            && record.key == Part::Same
            && record.value == Part::Same
            && matches!(record.headers(), Ok(None));
        let index = usize::try_from(record.offset).ok()?;
        // In order, each at most once.
        let (_, origin) = refs.find(|(at, _)| *at == index)?;
        if !same || origin.timestamp() != record.timestamp {
            return None;
        }
        kept.push(index);
    }
    let mut batch = input.clone();
    if kept.len() < batch.len() {
        let mut kept = kept.into_iter().peekable();
        let mut at = 0;
        batch.retain(|_| {
            let keep = kept.next_if_eq(&at).is_some();
            at += 1;
            keep
        });
    }
    Some(Ok(batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(topic: &str, value: &str) -> Record {
        let mut record = Record::new(topic, value.to_owned());
        record.timestamp = Some(5);
        record.headers.push(Header { name: "h".into(), value: "1".into() });
        record
    }

    fn batch() -> Batch {
        let mut records = vec![record("a", "0"), record("a", "1"), record("b", "2"), record("a", "3")];
        records[1].headers.clear();
        records[2].value = Payload::Null;
        records[2].key = "k".into();
        records.into_iter().collect()
    }

    #[test]
    fn a_batch_comes_back_as_it_went() {
        let batch = batch();
        let back = read(write(&batch), 4).unwrap();
        assert_eq!(back.into_records().collect::<Vec<_>>(), batch.into_records().collect::<Vec<_>>());
        assert!(read(write(&self::batch()), 3).unwrap_err().contains("4 records, more than the 3"));
        assert!(read(write(&[record("a b", "x")].into_iter().collect()), 3).unwrap_err().contains("no name of a topic"));
    }

    #[test]
    fn a_transform_keeps_drops_changes_and_multiplies() {
        let values = |batch: Batch| -> Vec<Payload> { batch.into_records().map(|record| record.value).collect() };
        let mut kept = Writer::new();
        for index in [0, 3] {
            kept.changed(index, Part::Same, Part::Same, Some(5));
        }
        assert_eq!(values(merge(&batch(), kept.finish()).unwrap()), [Payload::from("0"), "3".into()]);
        let mut changed = Writer::new();
        let topic = changed.topic("c", None);
        changed.changed(3, Part::Same, Part::Bytes(b"x"), None);
        changed.record(topic, Part::Null, Part::Same, None, 0);
        changed.record(topic, Part::Null, Part::Null, None, 0);
        let made: Vec<Record> = merge(&batch(), changed.finish()).unwrap().into_records().collect();
        assert_eq!(
            made.iter().map(|record| (&*record.topic, record.value.clone())).collect::<Vec<_>>(),
            [("a", "x".into()), ("c", "0".into()), ("c", Payload::Null)]
        );
        assert_eq!((made[0].headers.len(), made[1].headers.len(), made[0].timestamp), (1, 0, None));
        let big: Batch = [Record::new("a", "x".repeat(1 << 20))].into_iter().collect();
        let mut copies = Writer::new();
        let topic = copies.topic("b", None);
        (0..100).for_each(|_| copies.record(topic, Part::Null, Part::Same, None, 0));
        assert!(merge(&big, copies.finish()).unwrap_err().contains("bytes beyond what it was given"));
        for (index, what) in [(4, "came of record 4, where there are 4"), (usize::MAX, "came of record -1")] {
            let mut wrong = Writer::new();
            wrong.changed(index, Part::Same, Part::Same, Some(5));
            let error = merge(&batch(), wrong.finish()).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn structured_values_cross_as_json() {
        let mut structured = record("a", "");
        structured.value = Payload::data(None, aqueduct_core::Data::object([("n", 1i64.into())]));
        let batch: Batch = [structured].into_iter().collect();
        let frame = write(&batch);
        let framed = Frame::read(&frame).unwrap().records().next().unwrap().unwrap();
        assert_eq!(framed.value, Part::Bytes(br#"{"n":1}"#));
        let mut changed = Writer::new();
        changed.changed(0, Part::Same, Part::Bytes(br#"{"n":2}"#), None);
        let made = merge(&batch, changed.finish()).unwrap().into_records().next().unwrap();
        assert_eq!(made.value, Payload::data(None, aqueduct_core::Data::object([("n", 2i64.into())])));
        let mut wrong = Writer::new();
        wrong.changed(0, Part::Same, Part::Bytes(b"{"), None);
        assert!(merge(&batch, wrong.finish()).unwrap_err().contains("no JSON"));
    }
}
