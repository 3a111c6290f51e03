//! Structured values: what stands between a structured source (or a decoding converter) and an encoder.

use bytes::Bytes;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Null,
    Boolean(bool),
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    String(String),
    Bytes(Bytes),
    Array(Vec<Data>),
    /// In order of arrival. A schemaless JSON object is a map with string keys.
    Map(Vec<(Data, Data)>),
    /// The values of a struct in the order of its schema's fields.
    Struct(Vec<Data>),
    /// A value that the source has but did not send: an unchanged TOAST column. Not null.
    Unavailable,
    /// A part that many records have in common, such as where they came from: made once, and written once by a converter that remembers its text.
    /// Within a map, an array or a struct only; never in another one of these. Sinks never see it: what is read from a log is nobody else's.
    Shared(Arc<Data>),
}

impl Data {
    pub fn is_null(&self) -> bool {
        matches!(self, Data::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// A schemaless map from names to values.
    pub fn object<K: Into<String>>(entries: impl IntoIterator<Item = (K, Data)>) -> Self {
        Data::Map(entries.into_iter().map(|(key, value)| (Data::String(key.into()), value)).collect())
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for Data {
            fn from(value: $type) -> Self {
                Data::$variant(value)
            }
        }
    )*};
}
from!(bool => Boolean, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64, f32 => Float32, f64 => Float64, String => String, Bytes => Bytes);

impl From<&str> for Data {
    fn from(value: &str) -> Self {
        Data::String(value.to_owned())
    }
}
