//! Kafka Connect's schema model (`org.apache.kafka.connect.data.Schema`): optional everywhere.

use crate::Data;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    String,
    Bytes,
    Array,
    Map,
    Struct,
}

impl Kind {
    /// As it stands in JSON with schemas: `int8`, `double`, `struct`, …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Int8 => "int8",
            Kind::Int16 => "int16",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::Float32 => "float",
            Kind::Float64 => "double",
            Kind::Boolean => "boolean",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Array => "array",
            Kind::Map => "map",
            Kind::Struct => "struct",
        }
    }
}

/// Logical types are a kind and a well-known name; their values are the plain ones of the kind.
pub mod logical {
    /// Bytes: the unscaled two's-complement big-endian integer; parameter `scale`.
    pub const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
    /// Int32: days since the epoch.
    pub const DATE: &str = "org.apache.kafka.connect.data.Date";
    /// Int32: milliseconds since midnight.
    pub const TIME: &str = "org.apache.kafka.connect.data.Time";
    /// Int64: milliseconds since the epoch.
    pub const TIMESTAMP: &str = "org.apache.kafka.connect.data.Timestamp";
}

#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    pub kind: Kind,
    pub optional: bool,
    pub default: Option<Data>,
    pub name: Option<String>,
    pub version: Option<i32>,
    pub doc: Option<String>,
    pub parameters: BTreeMap<String, String>,
    /// Of a struct, in order.
    pub fields: Vec<Field>,
    /// Of a map.
    pub keys: Option<Arc<Schema>>,
    /// Of a map or an array.
    pub values: Option<Arc<Schema>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: Arc<str>,
    pub schema: Arc<Schema>,
}

impl Schema {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            optional: false,
            default: None,
            name: None,
            version: None,
            doc: None,
            parameters: BTreeMap::new(),
            fields: Vec::new(),
            keys: None,
            values: None,
        }
    }

    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    #[must_use]
    pub fn field(mut self, name: impl Into<Arc<str>>, schema: impl Into<Arc<Schema>>) -> Self {
        self.fields.push(Field { name: name.into(), schema: schema.into() });
        self
    }

    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| &*field.name == name)
    }
}
