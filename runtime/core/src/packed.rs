//! Structured values written flat: one buffer for a row in place of a tree of [`Data`], for sources that make a record of every row of a database.
//!
//! A source packs, a converter reads on; nothing is kept for each field in between. Only converters know this form: for whatever else looks into a
//! value it becomes a tree then.

use crate::{Batch, Data, Payload, Record, Schema, Structured};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// A structured value with its schema, flat. Made by [`Packer::finish`].
#[derive(Clone, Debug)]
pub struct Packed {
    schema: Arc<Schema>,
    bytes: Bytes,
    /// Made for the first who looks into it.
    tree: OnceLock<Box<Structured>>,
}

/// What is next in a packed value: parts follow in order, a map's as key, value, key, value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    Leaf(Leaf<'a>),
    Array(usize),
    Map(usize),
    Struct(usize),
    /// One struct that many values have in common: `id` is that of its [`Common`]; read on in `content`.
    Common {
        id: u64,
        content: Parts<'a>,
    },
}

/// A value without parts: as in [`Data`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leaf<'a> {
    Null,
    Boolean(bool),
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    String(&'a str),
    Bytes(&'a [u8]),
    Unavailable,
}

/// Reads a packed value from front to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts<'a>(&'a [u8]);

/// Writes a value part by part: of an array, a map or a struct as many must follow as were announced.
#[derive(Clone, Debug, Default)]
pub struct Packer(Vec<u8>);

/// A struct that is packed once and put into many values, such as where they came from: a converter may remember its text by the id.
#[derive(Clone, Debug)]
pub struct Common {
    id: u64,
    bytes: Vec<u8>,
}

/// The first byte of each part; what is fixed follows in the machine's own order, for nothing packed leaves the process.
mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const INT8: u8 = 3;
    pub(super) const INT16: u8 = 4;
    pub(super) const INT32: u8 = 5;
    pub(super) const INT64: u8 = 6;
    pub(super) const FLOAT32: u8 = 7;
    pub(super) const FLOAT64: u8 = 8;
    pub(super) const STRING: u8 = 9;
    pub(super) const BYTES: u8 = 10;
    pub(super) const UNAVAILABLE: u8 = 11;
    pub(super) const ARRAY: u8 = 12;
    pub(super) const MAP: u8 = 13;
    pub(super) const STRUCT: u8 = 14;
    pub(super) const COMMON: u8 = 15;
}

impl Packed {
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub fn parts(&self) -> Parts<'_> {
        Parts(&self.bytes)
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// The same value as a tree. The first call makes it.
    pub fn tree(&self) -> &Structured {
        self.tree.get_or_init(|| Box::new(Structured { schema: Some(self.schema.clone()), data: self.parts().data() }))
    }

    /// As [`Packed::tree`].
    pub fn into_tree(self) -> Box<Structured> {
        self.tree();
        self.tree.into_inner().expect("it was just made")
    }
}

/// By value: how it was packed is nobody's business.
impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.tree() == other.tree()
    }
}

impl Batch {
    /// With trees in place of packed values, for those who look into them.
    #[must_use]
    pub fn unpacked(self) -> Batch {
        if self.chunks().iter().all(|chunk| !chunk.has_packed()) {
            return self;
        }
        self.into_records().map(Record::unpacked).collect()
    }
}

impl Record {
    /// As [`Batch::unpacked`].
    #[must_use]
    pub fn unpacked(mut self) -> Record {
        let headers = self.headers.iter_mut().map(|header| &mut header.value);
        for payload in [&mut self.key, &mut self.value].into_iter().chain(headers) {
            *payload = match std::mem::take(payload) {
                Payload::Packed(packed) => Payload::Data(packed.into_tree()),
                other => other,
            };
        }
        self
    }
}

impl<'a> Parts<'a> {
    /// # Panics
    /// Behind the last part: a bug of the caller, or of who packed it.
    #[expect(clippy::should_implement_trait, reason = "it has no end of its own: the counts say where it ends")]
    pub fn next(&mut self) -> Part<'a> {
        let leaf = match self.take::<1>()[0] {
            tag::NULL => Leaf::Null,
            tag::FALSE => Leaf::Boolean(false),
            tag::TRUE => Leaf::Boolean(true),
            tag::INT8 => Leaf::Int8(i8::from_ne_bytes(self.take())),
            tag::INT16 => Leaf::Int16(i16::from_ne_bytes(self.take())),
            tag::INT32 => Leaf::Int32(i32::from_ne_bytes(self.take())),
            tag::INT64 => Leaf::Int64(i64::from_ne_bytes(self.take())),
            tag::FLOAT32 => Leaf::Float32(f32::from_ne_bytes(self.take())),
            tag::FLOAT64 => Leaf::Float64(f64::from_ne_bytes(self.take())),
            tag::STRING => Leaf::String(std::str::from_utf8(self.bytes()).unwrap_or_default()),
            tag::BYTES => Leaf::Bytes(self.bytes()),
            tag::UNAVAILABLE => Leaf::Unavailable,
            tag::ARRAY => return Part::Array(self.count()),
            tag::MAP => return Part::Map(self.count()),
            tag::STRUCT => return Part::Struct(self.count()),
            tag::COMMON => {
                let id = u64::from_ne_bytes(self.take());
                return Part::Common { id, content: Parts(self.bytes()) };
            }
            other => unreachable!("{other} is no tag of a packed value"),
        };
        Part::Leaf(leaf)
    }

    /// The next value, with all its parts, as a tree.
    pub fn data(&mut self) -> Data {
        match self.next() {
            Part::Leaf(leaf) => leaf.to_data(),
            Part::Array(count) => Data::Array((0..count).map(|_| self.data()).collect()),
            Part::Map(count) => Data::Map((0..count).map(|_| (self.data(), self.data())).collect()),
            Part::Struct(count) => Data::Struct((0..count).map(|_| self.data()).collect()),
            Part::Common { mut content, .. } => content.data(),
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("a packed value is whole");
        self.0 = rest;
        *taken
    }

    fn count(&mut self) -> usize {
        u32::from_ne_bytes(self.take()) as usize
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.count();
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}

impl Leaf<'_> {
    pub fn to_data(self) -> Data {
        match self {
            Leaf::Null => Data::Null,
            Leaf::Boolean(value) => Data::Boolean(value),
            Leaf::Int8(value) => Data::Int8(value),
            Leaf::Int16(value) => Data::Int16(value),
            Leaf::Int32(value) => Data::Int32(value),
            Leaf::Int64(value) => Data::Int64(value),
            Leaf::Float32(value) => Data::Float32(value),
            Leaf::Float64(value) => Data::Float64(value),
            Leaf::String(text) => Data::String(text.to_owned()),
            Leaf::Bytes(bytes) => Data::Bytes(Bytes::copy_from_slice(bytes)),
            Leaf::Unavailable => Data::Unavailable,
        }
    }
}

impl Packer {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub fn leaf(&mut self, leaf: Leaf<'_>) {
        match leaf {
            Leaf::Null => self.0.push(tag::NULL),
            Leaf::Boolean(value) => self.0.push(if value { tag::TRUE } else { tag::FALSE }),
            Leaf::Int8(value) => self.fixed(tag::INT8, value.to_ne_bytes()),
            Leaf::Int16(value) => self.fixed(tag::INT16, value.to_ne_bytes()),
            Leaf::Int32(value) => self.fixed(tag::INT32, value.to_ne_bytes()),
            Leaf::Int64(value) => self.fixed(tag::INT64, value.to_ne_bytes()),
            Leaf::Float32(value) => self.fixed(tag::FLOAT32, value.to_ne_bytes()),
            Leaf::Float64(value) => self.fixed(tag::FLOAT64, value.to_ne_bytes()),
            Leaf::String(text) => self.bytes(tag::STRING, text.as_bytes()),
            Leaf::Bytes(bytes) => self.bytes(tag::BYTES, bytes),
            Leaf::Unavailable => self.0.push(tag::UNAVAILABLE),
        }
    }

    pub fn null(&mut self) {
        self.leaf(Leaf::Null);
    }

    pub fn string(&mut self, text: &str) {
        self.leaf(Leaf::String(text));
    }

    pub fn int64(&mut self, value: i64) {
        self.leaf(Leaf::Int64(value));
    }

    /// So many values follow, one for each field of the schema.
    pub fn begin_struct(&mut self, fields: usize) {
        self.fixed(tag::STRUCT, (fields as u32).to_ne_bytes());
    }

    /// A whole value.
    pub fn data(&mut self, data: &Data) {
        match data {
            Data::Null => self.leaf(Leaf::Null),
            Data::Boolean(value) => self.leaf(Leaf::Boolean(*value)),
            Data::Int8(value) => self.leaf(Leaf::Int8(*value)),
            Data::Int16(value) => self.leaf(Leaf::Int16(*value)),
            Data::Int32(value) => self.leaf(Leaf::Int32(*value)),
            Data::Int64(value) => self.leaf(Leaf::Int64(*value)),
            Data::Float32(value) => self.leaf(Leaf::Float32(*value)),
            Data::Float64(value) => self.leaf(Leaf::Float64(*value)),
            Data::String(text) => self.leaf(Leaf::String(text)),
            Data::Bytes(bytes) => self.leaf(Leaf::Bytes(bytes)),
            Data::Unavailable => self.leaf(Leaf::Unavailable),
            Data::Array(items) => {
                self.fixed(tag::ARRAY, (items.len() as u32).to_ne_bytes());
                items.iter().for_each(|item| self.data(item));
            }
            Data::Map(entries) => {
                self.fixed(tag::MAP, (entries.len() as u32).to_ne_bytes());
                for (key, value) in entries {
                    self.data(key);
                    self.data(value);
                }
            }
            Data::Struct(values) => {
                self.begin_struct(values.len());
                values.iter().for_each(|value| self.data(value));
            }
            Data::Shared(shared) => self.data(shared),
        }
    }

    pub fn common(&mut self, common: &Common) {
        self.fixed(tag::COMMON, common.id.to_ne_bytes());
        self.0.extend_from_slice(&(common.bytes.len() as u32).to_ne_bytes());
        self.0.extend_from_slice(&common.bytes);
    }

    pub fn finish(self, schema: Arc<Schema>) -> Payload {
        Payload::Packed(Box::new(Packed { schema, bytes: self.0.into(), tree: OnceLock::new() }))
    }

    /// What was packed, to be put into many values by [`Packer::common`].
    pub fn into_common(self) -> Common {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Common { id: NEXT.fetch_add(1, Relaxed), bytes: self.0 }
    }

    fn fixed<const N: usize>(&mut self, tag: u8, bytes: [u8; N]) {
        self.0.push(tag);
        self.0.extend_from_slice(&bytes);
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.fixed(tag, (bytes.len() as u32).to_ne_bytes());
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Kind;

    fn tree() -> Data {
        Data::Struct(vec![
            Data::Null,
            Data::Boolean(true),
            Data::Boolean(false),
            Data::Int8(-1),
            Data::Int16(i16::MIN),
            Data::Int32(i32::MAX),
            Data::Int64(i64::MIN),
            Data::Float32(0.5),
            Data::Float64(-0.0),
            Data::String("é".to_owned()),
            Data::Bytes(Bytes::from_static(b"\0\xff")),
            Data::Array(vec![Data::Int8(1), Data::Null]),
            Data::Map(vec![(Data::from("a"), Data::Array(Vec::new())), (Data::Int8(1), Data::Null)]),
            Data::Struct(Vec::new()),
            Data::Unavailable,
        ])
    }

    #[test]
    fn a_value_comes_back_as_it_was() {
        let schema = Arc::new(Schema::new(Kind::Struct));
        let mut packer = Packer::default();
        packer.data(&tree());
        let Payload::Packed(packed) = packer.finish(schema.clone()) else { panic!("it is packed") };
        assert_eq!(*packed.tree(), Structured { schema: Some(schema.clone()), data: tree() });
        let mut common = Packer::default();
        common.data(&tree());
        let (first, second) = (common.clone().into_common(), common.into_common());
        assert_ne!(first.id, second.id);
        let mut packer = Packer::default();
        packer.begin_struct(2);
        packer.common(&first);
        packer.string("x");
        let payload = packer.finish(schema.clone());
        let unpacked = Record::new("t", payload.clone()).unpacked();
        assert_eq!(unpacked.value, Payload::data(Some(schema), Data::Struct(vec![tree(), "x".into()])));
        let batch: Batch = [Record::new("t", payload)].into_iter().collect();
        assert!(batch.chunks()[0].has_data() && batch.chunks()[0].has_packed());
        let batch = batch.unpacked();
        assert!(batch.chunks()[0].has_data() && !batch.chunks()[0].has_packed());
        assert_eq!(batch.into_records().next(), Some(unpacked));
    }
}
