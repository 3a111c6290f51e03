use crate::{FrameError, HEADER_BYTES, MAGIC, NO_TIMESTAMP, NULL, Part, RECORD_BYTES, SAME, TOPICS_MAX, VERSION};
use std::ops::Range;

/// A frame whose header and topics were read; its records are decoded one by one.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    topics: Vec<(&'a str, Option<i32>)>,
    len: usize,
    /// Where the records begin.
    at: usize,
}

/// One record; it borrows from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// An index into [`Frame::topics`]; `None` is `same`.
    pub topic: Option<u32>,
    pub key: Part<'a>,
    pub value: Part<'a>,
    /// Null is never here.
    headers: Part<'a>,
    /// `None`: none.
    pub timestamp: Option<i64>,
    pub offset: i64,
    /// Where key and value lie in the frame's bytes, for who keeps slices of it; empty for null and same.
    key_at: usize,
    value_at: usize,
}

impl<'a> Frame<'a> {
    /// # Errors
    /// A header or a topic that breaks FRAME.md.
    pub fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "a frame begins with 16 bytes")? != MAGIC {
            return Err(FrameError { at: 0, what: "a frame begins with AQB1" });
        }
        if cursor.u16()? != VERSION {
            return Err(FrameError { at: 4, what: "a version that this reader does not know" });
        }
        if cursor.u16()? != 0 {
            return Err(FrameError { at: 6, what: "a flag that this reader does not know" });
        }
        let (topic_count, len) = (cursor.u32()? as usize, cursor.u32()? as usize);
        if topic_count > TOPICS_MAX {
            return Err(FrameError { at: 8, what: "more than 65,536 topics" });
        }
        // A topic is at least 6 bytes: a count that cannot be true makes no allocation.
        let mut topics = Vec::with_capacity(topic_count.min(bytes.len().saturating_sub(HEADER_BYTES) / 6));
        for _ in 0..topic_count {
            let partition = cursor.u32()? as i32;
            let at = cursor.at;
            let length = usize::from(cursor.u16()?);
            let name = cursor.take(length, "a topic that ends after the frame")?;
            let name = std::str::from_utf8(name).map_err(|_| FrameError { at, what: "a topic that is not UTF-8" })?;
            if partition < -1 {
                return Err(FrameError { at, what: "a partition below -1" });
            }
            topics.push((name, (partition >= 0).then_some(partition)));
        }
        if len > (bytes.len() - cursor.at) / RECORD_BYTES {
            return Err(FrameError { at: 12, what: "more records than the frame has room for" });
        }
        Ok(Self { bytes, topics, len, at: cursor.at })
    }

    /// In records.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Name and partition.
    pub fn topics(&self) -> &[(&'a str, Option<i32>)] {
        &self.topics
    }

    /// In order. After an error nothing more comes; bytes after the last record are an error too.
    pub fn records(&self) -> Records<'a> {
        Records {
            cursor: Cursor { bytes: self.bytes, at: self.at },
            left: self.len,
            topics: self.topics.len() as u32,
            ended: false,
        }
    }
}

impl<'a> Record<'a> {
    /// `None`: as they were (see [`Part::Same`]).
    ///
    /// # Errors
    /// Headers that break FRAME.md.
    pub fn headers(&self) -> Result<Option<Headers<'a>>, FrameError> {
        match self.headers {
            Part::Same => Ok(None),
            Part::Bytes(bytes) if !bytes.is_empty() => Headers::read(bytes).map(Some),
            Part::Bytes(_) | Part::Null => Ok(Some(Headers::default())),
        }
    }

    pub fn has_headers(&self) -> bool {
        self.headers != Part::Bytes(&[])
    }

    /// Where the key lies in the frame's bytes.
    pub fn key_range(&self) -> Option<Range<usize>> {
        self.key.bytes().map(|bytes| self.key_at..self.key_at + bytes.len())
    }

    /// Where the value lies in the frame's bytes.
    pub fn value_range(&self) -> Option<Range<usize>> {
        self.value.bytes().map(|bytes| self.value_at..self.value_at + bytes.len())
    }
}

/// Names and values, in order.
#[derive(Clone, Debug, Default)]
pub struct Headers<'a>(Vec<(&'a str, Option<&'a [u8]>)>);

impl<'a> Headers<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let count = usize::from(cursor.u16()?);
        let mut headers = Vec::with_capacity(count.min(bytes.len() / 6));
        for _ in 0..count {
            let length = usize::from(cursor.u16()?);
            let at = cursor.at;
            let name = cursor.take(length, "a header's name that ends after the headers")?;
            let name = std::str::from_utf8(name).map_err(|_| FrameError { at, what: "a header's name that is not UTF-8" })?;
            let value = match cursor.u32()? {
                NULL => None,
                length => Some(cursor.take(length as usize, "a header's value that ends after the headers")?),
            };
            headers.push((name, value));
        }
        if cursor.at < bytes.len() {
            return Err(FrameError { at: cursor.at, what: "bytes after the last header" });
        }
        Ok(Self(headers))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + '_ {
        self.0.iter().copied()
    }

    /// The last of this name.
    pub fn get(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.0.iter().rev().find(|(of, _)| *of == name).map(|(_, value)| *value)
    }
}

#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: usize,
    topics: u32,
    ended: bool,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.left == 0 {
            self.ended = true;
            let at = self.cursor.at;
            return (at < self.cursor.bytes.len()).then_some(Err(FrameError { at, what: "bytes after the last record" }));
        }
        self.left -= 1;
        let record = self.cursor.record(self.topics);
        self.ended = record.is_err();
        Some(record)
    }
}

#[derive(Clone, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    /// Never after the end.
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], FrameError> {
        let found = self.bytes[self.at..].get(..length).ok_or(FrameError { at: self.at, what })?;
        self.at += length;
        Ok(found)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        let bytes = self.take(2, "a number that ends after the frame")?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        let bytes = self.take(4, "a number that ends after the frame")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    #[inline]
    fn record(&mut self, topics: u32) -> Result<Record<'a>, FrameError> {
        let start = self.at;
        let fixed: &[u8; RECORD_BYTES] = self
            .take(RECORD_BYTES, "a record that ends after the frame")?
            .try_into()
            .map_err(|_| FrameError { at: start, what: "a record that ends after the frame" })?;
        let (longs, ints) = (fixed.as_chunks::<8>().0, fixed.as_chunks::<4>().0);
        let (timestamp, offset) = (i64::from_le_bytes(longs[0]), i64::from_le_bytes(longs[1]));
        let int = |at: usize| u32::from_le_bytes(ints[at]);
        let (topic, key, value, headers) = (int(4), int(5), int(6), int(7));
        if topic >= topics && topic != SAME {
            return Err(FrameError { at: start + 16, what: "a topic that is not in the list" });
        }
        let key_at = self.at;
        let key = self.part(key)?;
        let value_at = self.at;
        let value = self.part(value)?;
        let headers = match headers {
            NULL => return Err(FrameError { at: start + 28, what: "headers that are null" }),
            length => self.part(length)?,
        };
        Ok(Record {
            topic: (topic != SAME).then_some(topic),
            key,
            value,
            headers,
            timestamp: (timestamp != NO_TIMESTAMP).then_some(timestamp),
            offset,
            key_at,
            value_at,
        })
    }

    #[inline]
    fn part(&mut self, length: u32) -> Result<Part<'a>, FrameError> {
        Ok(match length {
            NULL => Part::Null,
            SAME => Part::Same,
            length => Part::Bytes(self.take(length as usize, "a payload that ends after the frame")?),
        })
    }
}
