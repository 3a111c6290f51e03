//! A batch as a frame, and back: every topic, length and index is judged before it is used.

mod merge;

pub(crate) use merge::merge;

use crate::json;
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Batch, Bytes, Chunk, ChunkBuilder, Header, Payload, PayloadRef, RecordRef, Span};
use aqueduct_plugin_frame::{Frame, Part, RECORD_BYTES, Record as Framed, Writer};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The frame for a sink or a transform.
pub(crate) fn write(batch: &Batch) -> Vec<u8> {
    let mut writer = Writer::with_capacity(batch.bytes() + batch.len() * RECORD_BYTES);
    // All of them first: what comes after the first record makes the writer move the records.
    let topics: Vec<u32> = batch
        .chunks()
        .iter()
        .map(|chunk| writer.topic(&chunk.topic, chunk.origin.as_ref().map(|origin| origin.partition).or(chunk.partition)))
        .collect();
    for (chunk, topic) in batch.chunks().iter().zip(topics) {
        chunk.iter().for_each(|record| write_record(&mut writer, topic, record));
    }
    writer.finish()
}

fn write_record(writer: &mut Writer, topic: u32, record: RecordRef<'_>) {
    let (key, value) = (text(record.key()), text(record.value()));
    let offset = record.origin().map_or(-1, |(_, offset)| offset);
    let (key, value, timestamp) = (key.as_deref().into(), value.as_deref().into(), record.timestamp());
    let headers = record.headers();
    if headers.is_empty() {
        writer.record(topic, key, value, timestamp, offset);
    } else if headers.iter().any(|header| matches!(header.value, Payload::Data(_))) {
        let headers: Vec<_> = headers.iter().map(|header| (&*header.name, text(header.value.as_ref()))).collect();
        let headers = headers.iter().map(|(name, value)| (*name, value.as_deref()));
        writer.record_with_headers(topic, key, value, headers, timestamp, offset);
    } else {
        let headers = headers.iter().map(|header| match header.value.as_ref() {
            PayloadRef::Bytes(bytes) => (&*header.name, Some(bytes)),
            PayloadRef::Null | PayloadRef::Data(_) => (&*header.name, None),
        });
        writer.record_with_headers(topic, key, value, headers, timestamp, offset);
    }
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
    stretch: Stretch,
}

impl Run {
    fn new(topic: u32, builder: ChunkBuilder) -> Self {
        Self { topic, builder, stretch: Stretch::default() }
    }

    fn push(&mut self, record: &Framed<'_>, bytes: &Bytes, headers_left: &mut usize) -> Result<(), String> {
        let key = record.key_range().map(|range| self.stretch.span(range));
        let value = record.value_range().map(|range| self.stretch.span(range));
        self.builder.push_span(key, value, record.timestamp, -1);
        if record.has_headers() {
            for header in headers(record, bytes, headers_left)?.unwrap_or_default() {
                self.builder.header(header.name, header.value);
            }
        }
        Ok(())
    }

    fn chunk(self, bytes: &Bytes) -> Chunk {
        self.builder.finish(self.stretch.of(bytes))
    }
}

/// The part of a frame that the payloads of a chunk fill.
#[derive(Default)]
struct Stretch(Option<Range<usize>>);

impl Stretch {
    /// Payloads come as they lie: the first one begins it.
    fn span(&mut self, range: Range<usize>) -> Span {
        let whole = self.0.get_or_insert(range.start..range.end);
        whole.end = whole.end.max(range.end);
        Span { start: (range.start - whole.start) as u32, len: range.len() as u32 }
    }

    /// Empty without any payload.
    fn of(self, frame: &Bytes) -> Bytes {
        self.0.map_or_else(Bytes::new, |range| frame.slice(range))
    }
}

/// `None`: as they were.
fn headers(record: &Framed<'_>, bytes: &Bytes, left: &mut usize) -> Result<Option<Vec<Header>>, String> {
    let Some(headers) = record.headers().map_err(|error| error.to_string())? else { return Ok(None) };
    *left = left.checked_sub(headers.len()).ok_or_else(|| format!("more than {HEADERS_MAX} headers"))?;
    let value = |value: Option<&[u8]>| value.map_or(Payload::Null, |value| Payload::Bytes(bytes.slice_ref(value)));
    Ok(Some(headers.iter().map(|(name, text)| Header { name: name.into(), value: value(text) }).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Record;

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
        assert_eq!(values(merge(&batch(), kept.finish()).unwrap().unwrap()), [Payload::from("0"), "3".into()]);
        let mut changed = Writer::new();
        let topic = changed.topic("c", None);
        changed.changed(3, Part::Same, Part::Bytes(b"x"), None);
        changed.record(topic, Part::Null, Part::Same, None, 0);
        changed.record(topic, Part::Null, Part::Null, None, 0);
        let made: Vec<Record> = merge(&batch(), changed.finish()).unwrap().unwrap().into_records().collect();
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
        let made = merge(&batch, changed.finish()).unwrap().unwrap().into_records().next().unwrap();
        assert_eq!(made.value, Payload::data(None, aqueduct_core::Data::object([("n", 2i64.into())])));
        let mut wrong = Writer::new();
        wrong.changed(0, Part::Same, Part::Bytes(b"{"), None);
        assert!(merge(&batch, wrong.finish()).unwrap_err().contains("no JSON"));
    }
}
