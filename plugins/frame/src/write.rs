use crate::{HEADER_BYTES, MAGIC, NO_TIMESTAMP, NULL, Part, SAME, VERSION};

/// Writes a frame record by record. Topics are numbered as they come.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    topics: Vec<u8>,
    topic_count: u32,
    /// Partition, and where its name lies in `topics`: batches have few topics, so a scan from the last is cheapest.
    known: Vec<(i32, std::ops::Range<usize>)>,
    records: Vec<u8>,
    count: u32,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// With room for records of so many bytes together.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { records: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// In records.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Of the frame so far.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.topics.len() + self.records.len()
    }

    /// The index of a topic, for [`Writer::record`]. A name is cut at 65,535 bytes, which no topic has.
    pub fn topic(&mut self, name: &str, partition: Option<i32>) -> u32 {
        let partition = partition.unwrap_or(-1);
        let same = |(of, at): &(i32, std::ops::Range<usize>)| *of == partition && self.topics[at.clone()] == *name.as_bytes();
        if let Some(index) = self.known.iter().rposition(same) {
            return index as u32;
        }
        let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
        self.topics.extend_from_slice(&partition.to_le_bytes());
        self.topics.extend_from_slice(&(name.len() as u16).to_le_bytes());
        let start = self.topics.len();
        self.topics.extend_from_slice(name);
        self.known.push((partition, start..self.topics.len()));
        self.topic_count += 1;
        self.topic_count - 1
    }

    /// A record without headers; `offset` as FRAME.md says.
    #[inline]
    pub fn record(&mut self, topic: u32, key: Part<'_>, value: Part<'_>, timestamp: Option<i64>, offset: i64) {
        self.begin(topic, key, value, 0, timestamp, offset);
    }

    /// A record with headers; those whose name or value is too long for the format are the caller's to refuse: names are cut at 65,535 bytes,
    /// and more than 65,535 headers are left out.
    pub fn record_with_headers<'a>(
        &mut self,
        topic: u32,
        key: Part<'_>,
        value: Part<'_>,
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
        timestamp: Option<i64>,
        offset: i64,
    ) {
        let mut encoded = vec![0, 0];
        let mut count = 0u16;
        for (name, value) in headers.into_iter().take(usize::from(u16::MAX)) {
            let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
            encoded.extend_from_slice(&(name.len() as u16).to_le_bytes());
            encoded.extend_from_slice(name);
            encoded.extend_from_slice(&value.map_or(NULL, |value| value.len() as u32).to_le_bytes());
            encoded.extend_from_slice(value.unwrap_or_default());
            count += 1;
        }
        if count == 0 {
            return self.record(topic, key, value, timestamp, offset);
        }
        encoded[..2].copy_from_slice(&count.to_le_bytes());
        self.begin(topic, key, value, encoded.len() as u32, timestamp, offset);
        self.records.extend_from_slice(&encoded);
    }

    /// What a transform returns for the record `index` of the frame it was given: the topic and the headers stay.
    #[inline]
    pub fn changed(&mut self, index: usize, key: Part<'_>, value: Part<'_>, timestamp: Option<i64>) {
        self.begin(SAME, key, value, SAME, timestamp, index as i64);
    }

    /// The frame.
    pub fn finish(self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.bytes());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.extend_from_slice(&0u16.to_le_bytes());
        frame.extend_from_slice(&self.topic_count.to_le_bytes());
        frame.extend_from_slice(&self.count.to_le_bytes());
        frame.extend_from_slice(&self.topics);
        frame.extend_from_slice(&self.records);
        frame
    }

    fn begin(&mut self, topic: u32, key: Part<'_>, value: Part<'_>, headers: u32, timestamp: Option<i64>, offset: i64) {
        let length = |part: Part<'_>| match part {
            Part::Null => NULL,
            Part::Same => SAME,
            Part::Bytes(bytes) => bytes.len() as u32,
        };
        let mut fixed = [0; crate::RECORD_BYTES];
        fixed[..8].copy_from_slice(&timestamp.unwrap_or(NO_TIMESTAMP).to_le_bytes());
        fixed[8..16].copy_from_slice(&offset.to_le_bytes());
        for (at, number) in [(16, topic), (20, length(key)), (24, length(value)), (28, headers)] {
            fixed[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        self.records.extend_from_slice(&fixed);
        self.records.extend_from_slice(key.bytes().unwrap_or_default());
        self.records.extend_from_slice(value.bytes().unwrap_or_default());
        self.count += 1;
    }
}
