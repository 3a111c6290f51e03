use crate::{HEADER_BYTES, MAGIC, NO_TIMESTAMP, NULL, Part, SAME, VERSION};
use std::ops::Range;

/// Writes a frame record by record. Topics are numbered as they come: those named before the first record cost no copy of the records.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The frame: room for its header, topics, records.
    frame: Vec<u8>,
    /// Where the records begin in it.
    records_at: usize,
    /// Topics that came after the first record.
    late: Vec<u8>,
    /// Partition, and where its name lies, as if the late topics followed the others: batches have few topics, so a scan from the last is cheapest.
    known: Vec<(i32, Range<usize>)>,
    count: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// With room for records of so many bytes together.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::in_buffer(Vec::with_capacity(HEADER_BYTES + bytes))
    }

    /// Writes into memory that is there already; what is in it is forgotten.
    pub fn in_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Self { frame: buffer, records_at: HEADER_BYTES, late: Vec::new(), known: Vec::new(), count: 0 }
    }

    /// Makes room for records of so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        self.frame.reserve(bytes);
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
        self.frame.len() + self.late.len()
    }

    /// The index of a topic, for [`Writer::record`]. A name is cut at 65,535 bytes, which no topic has.
    pub fn topic(&mut self, name: &str, partition: Option<i32>) -> u32 {
        let partition = partition.unwrap_or(-1);
        let same = |(of, at): &(i32, Range<usize>)| *of == partition && self.name(at) == name.as_bytes();
        if let Some(index) = self.known.iter().rposition(same) {
            return index as u32;
        }
        let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
        let into = if self.count == 0 { &mut self.frame } else { &mut self.late };
        into.extend_from_slice(&partition.to_le_bytes());
        into.extend_from_slice(&(name.len() as u16).to_le_bytes());
        into.extend_from_slice(name);
        if self.count == 0 {
            self.records_at = self.frame.len();
        }
        let end = self.records_at + self.late.len();
        self.known.push((partition, end - name.len()..end));
        self.known.len() as u32 - 1
    }

    fn name(&self, at: &Range<usize>) -> &[u8] {
        match at.start.checked_sub(self.records_at) {
            Some(start) => &self.late[start..][..at.len()],
            None => &self.frame[at.clone()],
        }
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
        let record = self.frame.len();
        self.begin(topic, key, value, 0, timestamp, offset);
        let start = self.frame.len();
        let mut count = 0u16;
        for (name, value) in headers.into_iter().take(usize::from(u16::MAX)) {
            if count == 0 {
                self.frame.extend_from_slice(&[0; 2]);
            }
            let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
            self.frame.extend_from_slice(&(name.len() as u16).to_le_bytes());
            self.frame.extend_from_slice(name);
            self.frame.extend_from_slice(&value.map_or(NULL, |value| value.len() as u32).to_le_bytes());
            self.frame.extend_from_slice(value.unwrap_or_default());
            count += 1;
        }
        if count > 0 {
            self.frame[start..start + 2].copy_from_slice(&count.to_le_bytes());
            let length = (self.frame.len() - start) as u32;
            self.frame[record + 28..record + 32].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// What a transform returns for the record `index` of the frame it was given: the topic and the headers stay.
    #[inline]
    pub fn changed(&mut self, index: usize, key: Part<'_>, value: Part<'_>, timestamp: Option<i64>) {
        self.begin(SAME, key, value, SAME, timestamp, index as i64);
    }

    /// The frame.
    pub fn finish(mut self) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&(self.known.len() as u32).to_le_bytes());
        header[12..].copy_from_slice(&self.count.to_le_bytes());
        self.frame[..HEADER_BYTES].copy_from_slice(&header);
        if !self.late.is_empty() {
            let (from, end) = (self.records_at, self.frame.len());
            self.frame.extend_from_slice(&self.late);
            self.frame.copy_within(from..end, from + self.late.len());
            self.frame[from..from + self.late.len()].copy_from_slice(&self.late);
        }
        self.frame
    }

    #[inline]
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
        self.frame.extend_from_slice(&fixed);
        // Most records have no key, and what is as it was has no bytes: nothing is called for them.
        for part in [key, value] {
            if let Part::Bytes(bytes) = part {
                self.frame.extend_from_slice(bytes);
            }
        }
        self.count += 1;
    }
}
