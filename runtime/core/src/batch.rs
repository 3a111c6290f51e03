//! The batch: the unit of every boundary.
//!
//! A batch is a list of chunks; a chunk is one buffer and a table of spans into it, for records of one topic. A source that reads lines, and
//! the log that reads record batches, hand over the buffer they read: no object, no copy and no reference count for each record.

use crate::{Header, Origin, Payload, PayloadRef, Record, Result, Topic, TopicPartition};
use bytes::Bytes;
use std::sync::Arc;

/// Records in order. Bounded by who makes it: [`crate::TaskContext::max_bytes`] first, then `max_records`.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    chunks: Vec<Chunk>,
    len: usize,
    bytes: usize,
}

/// Records of one topic (and, where it is fixed, one partition) over one buffer.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub topic: Topic,
    pub partition: Option<i32>,
    /// The partition of the log that these records were read from; each record has its own offset.
    pub origin: Option<Arc<TopicPartition>>,
    encoded: bool,
    buffer: Bytes,
    entries: Vec<Entry>,
    headers: Vec<Header>,
    outline: Vec<Payload>,
    bytes: usize,
}

/// A place in a chunk's buffer, in bytes. A buffer is at most 4 GiB; a record at most 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Cell,
    value: Cell,
    /// `i64::MIN` for none.
    timestamp: i64,
    /// In the log; only with `Chunk::origin`.
    offset: i64,
    headers_start: u32,
    headers_len: u32,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    Null,
    Inline(Span),
    /// Structured data, and large payloads that came in a buffer of their own.
    Outline(u32),
}

const NO_TIMESTAMP: i64 = i64::MIN;
/// Payloads above this stay in their own buffer: the copy would cost more than the reference count.
pub const INLINE_MAX_BYTES: usize = 4096;

/// Where a key or a value lies, for [`ChunkBuilder::push`].
#[derive(Clone, Debug)]
pub enum Place {
    Null,
    /// In the chunk's buffer.
    Span(Span),
    /// In memory of its own: structured data, and what is above [`INLINE_MAX_BYTES`].
    Own(Payload),
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// In records.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the batch holds in memory, about: buffers, tables and structured data. This is what budgets count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub fn into_chunks(self) -> Vec<Chunk> {
        self.chunks
    }

    /// An empty chunk is dropped.
    pub fn push_chunk(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        self.bytes += chunk.bytes;
        self.chunks.push(chunk);
    }

    pub fn append(&mut self, other: Batch) {
        for chunk in other.chunks {
            self.push_chunk(chunk);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.chunks.iter().flat_map(Chunk::iter)
    }

    /// Owned records, for transforms that change them. Payloads stay slices of the chunk's buffer.
    pub fn into_records(self) -> impl Iterator<Item = Record> {
        self.chunks.into_iter().flat_map(|chunk| (0..chunk.len()).map(move |index| chunk.get(index).to_record()))
    }

    /// Keeps the records for which `keep` is true. No payload is touched.
    pub fn retain(&mut self, mut keep: impl FnMut(RecordRef<'_>) -> bool) {
        for chunk in &mut self.chunks {
            let kept: Vec<Entry> = chunk.entries.iter().filter(|entry| keep(RecordRef { chunk, entry })).copied().collect();
            if kept.len() < chunk.entries.len() {
                chunk.entries = kept;
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len = self.chunks.iter().map(Chunk::len).sum();
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
    }

    /// Renames topics, chunk by chunk; `None` keeps the name.
    pub fn rename_topics(&mut self, mut rename: impl FnMut(&str) -> Option<Topic>) {
        for chunk in &mut self.chunks {
            if let Some(topic) = rename(&chunk.topic) {
                chunk.topic = topic;
            }
        }
    }

    /// The records `range` (by index over the whole batch), sharing the buffers: each part counts its share of their bytes.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Batch {
        let mut out = Batch::new();
        let mut first = 0;
        for chunk in &self.chunks {
            let (from, to) = (range.start.max(first), range.end.min(first + chunk.len()));
            if from < to {
                let entries = chunk.entries[from - first..to - first].to_vec();
                let bytes = chunk.bytes * entries.len() / chunk.len();
                out.push_chunk(Chunk { entries, bytes, ..chunk.clone() });
            }
            first += chunk.len();
        }
        out
    }
}

impl FromIterator<Record> for Batch {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut builder = BatchBuilder::new();
        for record in records {
            builder.push(record);
        }
        builder.finish()
    }
}

impl Chunk {
    /// In records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn buffer(&self) -> &Bytes {
        &self.buffer
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when keys and values are what the log will hold ([`BatchBuilder::push_encoded`]): converters leave them as they are.
    pub fn is_encoded(&self) -> bool {
        self.encoded
    }

    /// True when any key, value or header is structured: such a chunk needs a converter before it can be appended to the log.
    pub fn has_data(&self) -> bool {
        self.outline.iter().any(|payload| matches!(payload, Payload::Data(_)))
            || self.headers.iter().any(|header| matches!(header.value, Payload::Data(_)))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        self.entries.iter().map(move |entry| RecordRef { chunk: self, entry })
    }

    /// # Panics
    /// When `index` is not below [`Chunk::len`].
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        RecordRef { chunk: self, entry: &self.entries[index] }
    }
}

/// A record in a batch. Two pointers: copy it freely.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    chunk: &'a Chunk,
    entry: &'a Entry,
}

impl<'a> RecordRef<'a> {
    pub fn topic(self) -> &'a Topic {
        &self.chunk.topic
    }

    pub fn partition(self) -> Option<i32> {
        self.chunk.partition
    }

    pub fn key(self) -> PayloadRef<'a> {
        self.payload(self.entry.key)
    }

    pub fn value(self) -> PayloadRef<'a> {
        self.payload(self.entry.value)
    }

    pub fn headers(self) -> &'a [Header] {
        &self.chunk.headers[self.entry.headers_start as usize..][..self.entry.headers_len as usize]
    }

    /// Owned: what is bytes stays a slice of the buffer.
    pub fn key_payload(self) -> Payload {
        self.to_payload(self.entry.key)
    }

    /// As [`RecordRef::key_payload`].
    pub fn value_payload(self) -> Payload {
        self.to_payload(self.entry.value)
    }

    /// Milliseconds since the epoch.
    pub fn timestamp(self) -> Option<i64> {
        (self.entry.timestamp != NO_TIMESTAMP).then_some(self.entry.timestamp)
    }

    /// The partition and offset that it was read from.
    pub fn origin(self) -> Option<(&'a Arc<TopicPartition>, i64)> {
        self.chunk.origin.as_ref().map(|partition| (partition, self.entry.offset))
    }

    pub fn to_record(self) -> Record {
        Record {
            topic: self.chunk.topic.clone(),
            partition: self.chunk.partition,
            key: self.to_payload(self.entry.key),
            value: self.to_payload(self.entry.value),
            headers: self.headers().to_vec(),
            timestamp: self.timestamp(),
            origin: self.origin().map(|(partition, offset)| Origin { partition: partition.clone(), offset }),
        }
    }

    fn payload(self, cell: Cell) -> PayloadRef<'a> {
        match cell {
            Cell::Null => PayloadRef::Null,
            Cell::Inline(span) => PayloadRef::Bytes(&self.chunk.buffer[span.start as usize..][..span.len as usize]),
            Cell::Outline(index) => self.chunk.outline[index as usize].as_ref(),
        }
    }

    fn to_payload(self, cell: Cell) -> Payload {
        match cell {
            Cell::Null => Payload::Null,
            Cell::Inline(span) => {
                Payload::Bytes(self.chunk.buffer.slice(span.start as usize..span.start as usize + span.len as usize))
            }
            Cell::Outline(index) => self.chunk.outline[index as usize].clone(),
        }
    }
}

/// Builds a chunk over a buffer that the caller filled (or is still filling): spans first, the buffer at the end.
#[derive(Debug)]
pub struct ChunkBuilder {
    topic: Topic,
    partition: Option<i32>,
    origin: Option<Arc<TopicPartition>>,
    encoded: bool,
    entries: Vec<Entry>,
    headers: Vec<Header>,
    outline: Vec<Payload>,
    outline_bytes: usize,
    end: usize,
}

impl ChunkBuilder {
    pub fn new(topic: Topic) -> Self {
        Self {
            topic,
            partition: None,
            origin: None,
            encoded: false,
            entries: Vec::new(),
            headers: Vec::new(),
            outline: Vec::new(),
            outline_bytes: 0,
            end: 0,
        }
    }

    #[must_use]
    pub fn partition(mut self, partition: Option<i32>) -> Self {
        self.partition = partition;
        self
    }

    #[must_use]
    pub fn origin(mut self, origin: Option<Arc<TopicPartition>>) -> Self {
        self.origin = origin;
        self
    }

    pub fn reserve(&mut self, records: usize) {
        self.entries.reserve(records);
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A record whose key and value are places in the buffer; `None` is null. `offset` counts only with an origin.
    pub fn push_span(&mut self, key: Option<Span>, value: Option<Span>, timestamp: Option<i64>, offset: i64) {
        let key = self.inline(key);
        let value = self.inline(value);
        self.push_entry(key, value, timestamp, offset);
    }

    /// A record of which each half is where it lies. `offset` counts only with an origin.
    pub fn push(&mut self, key: Place, value: Place, timestamp: Option<i64>, offset: i64) {
        let key = self.cell(key);
        let value = self.cell(value);
        self.push_entry(key, value, timestamp, offset);
    }

    /// Gives the record pushed last, which has none, the headers of `other`: the very ones of the record before it are kept once.
    pub fn headers_of(&mut self, other: RecordRef<'_>) {
        let headers = other.headers();
        if headers.is_empty() {
            return;
        }
        let before = self.entries.len().checked_sub(2).map(|at| self.entries[at]);
        if before.is_some_and(|before| self.are_headers_of(before, headers)) {
            return self.headers_as_before();
        }
        headers.iter().for_each(|header| self.header(header.name.clone(), header.value.clone()));
    }

    /// Adds a header to the record pushed last.
    pub fn header(&mut self, name: Arc<str>, value: Payload) {
        if let Some(entry) = self.entries.last_mut() {
            self.outline_bytes += value.size() + name.len() + 48;
            self.headers.push(Header { name, value });
            entry.headers_len += 1;
        }
    }

    /// The record pushed last, which has none and gets none by [`ChunkBuilder::header`], has the headers of the one before it: they are kept once.
    pub fn headers_as_before(&mut self) {
        if let [.., before, last] = &mut self.entries[..] {
            (last.headers_start, last.headers_len) = (before.headers_start, before.headers_len);
        }
    }

    /// Whether these are the very headers of that record; equal ones in other memory are not looked at.
    fn are_headers_of(&self, entry: Entry, headers: &[Header]) -> bool {
        let same = |a: &Header, b: &Header| {
            Arc::ptr_eq(&a.name, &b.name)
                && match (&a.value, &b.value) {
                    (Payload::Bytes(a), Payload::Bytes(b)) => a.as_ptr() == b.as_ptr() && a.len() == b.len(),
                    _ => false,
                }
        };
        let before = &self.headers[entry.headers_start as usize..][..entry.headers_len as usize];
        before.len() == headers.len() && before.iter().zip(headers).all(|(a, b)| same(a, b))
    }

    /// Whether the record pushed last has these very headers.
    fn ends_with_headers(&self, headers: &[Header]) -> bool {
        !headers.is_empty() && self.entries.last().is_some_and(|last| self.are_headers_of(*last, headers))
    }

    /// # Panics
    /// When a span lies outside the buffer: a bug of the caller.
    pub fn finish(self, buffer: Bytes) -> Chunk {
        assert!(self.end <= buffer.len(), "a span ends at {} in a buffer of {} bytes", self.end, buffer.len());
        let bytes = buffer.len() + self.entries.len() * size_of::<Entry>() + self.outline_bytes;
        Chunk {
            topic: self.topic,
            partition: self.partition,
            origin: self.origin,
            encoded: self.encoded,
            buffer,
            entries: self.entries,
            headers: self.headers,
            outline: self.outline,
            bytes,
        }
    }

    fn cell(&mut self, place: Place) -> Cell {
        match place {
            Place::Null | Place::Own(Payload::Null) => Cell::Null,
            Place::Span(span) => self.inline(Some(span)),
            Place::Own(payload) => self.outline(payload),
        }
    }

    fn inline(&mut self, span: Option<Span>) -> Cell {
        span.map_or(Cell::Null, |span| {
            self.end = self.end.max(span.start as usize + span.len as usize);
            Cell::Inline(span)
        })
    }

    fn outline(&mut self, payload: Payload) -> Cell {
        self.outline_bytes += payload.size() + size_of::<Payload>();
        self.outline.push(payload);
        Cell::Outline(self.outline.len() as u32 - 1)
    }

    fn push_entry(&mut self, key: Cell, value: Cell, timestamp: Option<i64>, offset: i64) {
        let headers_start = self.headers.len() as u32;
        let timestamp = timestamp.unwrap_or(NO_TIMESTAMP);
        self.entries.push(Entry { key, value, timestamp, offset, headers_start, headers_len: 0 });
    }
}

/// Builds a batch from owned records: small payloads are gathered into one buffer for each run of equal topics.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    batch: Batch,
    run: Option<(ChunkBuilder, Vec<u8>)>,
    /// Of the first buffer, in bytes.
    capacity: usize,
}

impl BatchBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// As large as this, in bytes, the batch is likely to become: its buffer need not grow to it.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { capacity: bytes, ..Self::default() }
    }

    /// In records.
    pub fn len(&self) -> usize {
        self.batch.len() + self.run.as_ref().map_or(0, |(run, _)| run.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Batch::bytes`].
    pub fn bytes(&self) -> usize {
        let run =
            |(run, buffer): &(ChunkBuilder, Vec<u8>)| buffer.len() + run.entries.len() * size_of::<Entry>() + run.outline_bytes;
        self.batch.bytes() + self.run.as_ref().map_or(0, run)
    }

    pub fn push(&mut self, record: Record) {
        let origin = record.origin.as_ref().map(|origin| &origin.partition);
        let (run, buffer) = self.run(&record.topic, record.partition, origin, false);
        let mut cell = |run: &mut ChunkBuilder, payload: Payload| match payload {
            Payload::Null => Cell::Null,
            Payload::Bytes(bytes) if bytes.len() <= INLINE_MAX_BYTES => {
                let span = Span { start: buffer.len() as u32, len: bytes.len() as u32 };
                buffer.extend_from_slice(&bytes);
                run.inline(Some(span))
            }
            other => run.outline(other),
        };
        let key = cell(run, record.key);
        let value = cell(run, record.value);
        let as_before = run.ends_with_headers(&record.headers);
        run.push_entry(key, value, record.timestamp, record.origin.map_or(-1, |origin| origin.offset));
        if as_before {
            return run.headers_as_before();
        }
        for header in record.headers {
            run.header(header.name, header.value);
        }
    }

    /// A record as the log will hold it, of which `write` appends key and value to the buffer and tells where they are; `None` is null. Its headers are
    /// bytes. On an error the batch is as it was.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn push_encoded(
        &mut self,
        topic: &Topic,
        headers: &[Header],
        write: impl FnOnce(&mut Vec<u8>) -> Result<[Option<Span>; 2]>,
    ) -> Result<()> {
        let (run, buffer) = self.run(topic, None, None, true);
        let start = buffer.len();
        match write(buffer) {
            Ok([key, value]) => {
                let as_before = run.ends_with_headers(headers);
                run.push_span(key, value, None, -1);
                if as_before {
                    run.headers_as_before();
                } else {
                    headers.iter().for_each(|header| run.header(header.name.clone(), header.value.clone()));
                }
                Ok(())
            }
            Err(error) => {
                buffer.truncate(start);
                Err(error)
            }
        }
    }

    /// The run that such a record belongs to.
    fn run(
        &mut self,
        topic: &Topic,
        partition: Option<i32>,
        origin: Option<&Arc<TopicPartition>>,
        encoded: bool,
    ) -> &mut (ChunkBuilder, Vec<u8>) {
        // 1 GiB: far from the 4 GiB that a span can name, whatever one record adds.
        let fits = |(run, buffer): &(ChunkBuilder, Vec<u8>)| {
            run.topic == *topic
                && run.partition == partition
                && run.origin.as_ref() == origin
                && run.encoded == encoded
                && buffer.len() < 1 << 30
        };
        if !self.run.as_ref().is_some_and(fits) {
            self.end_run();
        }
        let capacity = &mut self.capacity;
        self.run.get_or_insert_with(|| {
            let run = ChunkBuilder::new(topic.clone()).partition(partition).origin(origin.cloned());
            (ChunkBuilder { encoded, ..run }, Vec::with_capacity(std::mem::take(capacity)))
        })
    }

    pub fn push_chunk(&mut self, chunk: Chunk) {
        self.end_run();
        self.batch.push_chunk(chunk);
    }

    pub fn finish(mut self) -> Batch {
        self.end_run();
        self.batch
    }

    fn end_run(&mut self) {
        if let Some((run, buffer)) = self.run.take() {
            self.batch.push_chunk(run.finish(buffer.into()));
        }
    }
}

#[cfg(test)]
mod tests;
