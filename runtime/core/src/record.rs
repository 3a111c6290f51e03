//! One record, owned ([`Record`]) — for structured sources and transforms. Batches hold records in chunks, not as these objects.

use crate::{Data, Schema, Topic, TopicPartition};
use bytes::Bytes;
use std::sync::Arc;

/// A key, a value or a header's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Payload {
    #[default]
    Null,
    /// Encoded; usually a slice of the buffer that was read.
    Bytes(Bytes),
    Data(Box<Structured>),
}

/// A structured value, with its schema where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Structured {
    pub schema: Option<Arc<Schema>>,
    pub data: Data,
}

/// A borrowed [`Payload`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PayloadRef<'a> {
    Null,
    Bytes(&'a [u8]),
    Data(&'a Structured),
}

impl Payload {
    pub fn data(schema: Option<Arc<Schema>>, data: Data) -> Self {
        Payload::Data(Box::new(Structured { schema, data }))
    }

    pub fn as_ref(&self) -> PayloadRef<'_> {
        match self {
            Payload::Null => PayloadRef::Null,
            Payload::Bytes(bytes) => PayloadRef::Bytes(bytes),
            Payload::Data(data) => PayloadRef::Data(data),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Payload::Null)
    }

    /// An estimate in bytes, for budgets: exact for bytes, rough for structured data.
    pub fn size(&self) -> usize {
        match self {
            Payload::Null => 0,
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Data(structured) => size_of_data(&structured.data),
        }
    }
}

fn size_of_data(data: &Data) -> usize {
    match data {
        Data::String(text) => text.len() + 24,
        Data::Bytes(bytes) => bytes.len() + 32,
        Data::Array(items) | Data::Struct(items) => 24 + items.iter().map(size_of_data).sum::<usize>(),
        Data::Map(entries) => 24 + entries.iter().map(|(key, value)| size_of_data(key) + size_of_data(value)).sum::<usize>(),
        // What it refers to is there once for all.
        _ => 16,
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Payload::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Payload::Bytes(Bytes::from(text))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload::Bytes(bytes)
    }
}

impl PayloadRef<'_> {
    pub fn is_null(&self) -> bool {
        matches!(self, PayloadRef::Null)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Payload,
}

/// Where a sink record was read from; survives every transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub partition: Arc<TopicPartition>,
    pub offset: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub topic: Topic,
    /// `None`: the log's partitioner decides (by key, as Kafka's clients do).
    pub partition: Option<i32>,
    pub key: Payload,
    pub value: Payload,
    pub headers: Vec<Header>,
    /// Milliseconds since the epoch; `None`: the log stamps it when it is appended.
    pub timestamp: Option<i64>,
    pub origin: Option<Origin>,
}

impl Record {
    /// A record with a value and nothing else.
    pub fn new(topic: impl Into<Topic>, value: impl Into<Payload>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: Payload::Null,
            value: value.into(),
            headers: Vec::new(),
            timestamp: None,
            origin: None,
        }
    }

    pub fn header(&self, name: &str) -> Option<&Payload> {
        self.headers.iter().rev().find(|header| &*header.name == name).map(|header| &header.value)
    }
}
