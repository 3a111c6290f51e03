//! The schemas that Debezium names, and those of everything around a row.

use crate::source::options::modes::{BinaryMode, NameAdjustment};
use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Data, Schema};
use std::sync::Arc;

pub(crate) const DATE: &str = "io.debezium.time.Date";
pub(crate) const JSON: &str = "io.debezium.data.Json";

pub(crate) fn named(kind: Kind, name: &str) -> Schema {
    Schema { version: Some(1), ..Schema::new(kind).named(name) }
}

pub(crate) fn optional(kind: Kind) -> Schema {
    Schema::new(kind).optional()
}

pub(crate) fn parameter(mut schema: Schema, name: &str, value: impl ToString) -> Schema {
    schema.parameters.insert(name.to_owned(), value.to_string());
    schema
}

pub(crate) fn array(values: Schema) -> Schema {
    Schema { values: Some(Arc::new(values)), ..Schema::new(Kind::Array) }
}

pub(crate) fn map(keys: Schema, values: Schema) -> Schema {
    Schema { keys: Some(Arc::new(keys)), values: Some(Arc::new(values)), ..Schema::new(Kind::Map) }
}

fn doc(schema: Schema, doc: &str) -> Schema {
    Schema { doc: Some(doc.to_owned()), ..schema }
}

pub(crate) fn decimal(scale: i32) -> Schema {
    parameter(named(Kind::Bytes, logical::DECIMAL), "scale", scale)
}

pub(crate) fn variable_decimal() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.VariableScaleDecimal"), "Variable scaled decimal")
        .field("scale", Schema::new(Kind::Int32))
        .field("value", Schema::new(Kind::Bytes))
}

pub(crate) fn bits(length: i32) -> Schema {
    parameter(named(Kind::Bytes, "io.debezium.data.Bits"), "length", length)
}

pub(crate) fn enumeration(labels: &[String]) -> Schema {
    parameter(named(Kind::String, "io.debezium.data.Enum"), "allowed", labels.join(","))
}

pub(crate) fn point() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.geometry.Point"), "Geometry (POINT)")
        .field("x", Schema::new(Kind::Float64))
        .field("y", Schema::new(Kind::Float64))
        .field("wkb", optional(Kind::Bytes))
        .field("srid", optional(Kind::Int32))
}

pub(crate) fn geography() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.geometry.Geography"), "Geography")
        .field("wkb", Schema::new(Kind::Bytes))
        .field("srid", optional(Kind::Int32))
}

/// Always optional, as the other shapes are with Debezium.
pub(crate) fn geometry() -> Schema {
    let schema = doc(named(Kind::Struct, "io.debezium.data.geometry.Geometry"), "Geometry")
        .field("wkb", Schema::new(Kind::Bytes))
        .field("srid", optional(Kind::Int32))
        .field("extensions", map(Schema::new(Kind::String), Schema::new(Kind::String)).optional());
    Schema { version: Some(2), ..schema.optional() }
}

pub(crate) fn line() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.geometry.Line"), "Geometry (LINE)")
        .field("a", Schema::new(Kind::Float64))
        .field("b", Schema::new(Kind::Float64))
        .field("c", Schema::new(Kind::Float64))
        .optional()
}

pub(crate) fn circle() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.geometry.Circle"), "Geometry (CIRCLE)")
        .field("center", point())
        .field("radius", Schema::new(Kind::Float64))
        .optional()
}

pub(crate) fn sparse_vector() -> Schema {
    doc(named(Kind::Struct, "io.debezium.data.SparseDoubleVector"), "Sparse double vector")
        .field("dimensions", Schema::new(Kind::Int16))
        .field("vector", map(Schema::new(Kind::Int16), Schema::new(Kind::Float64)))
}

pub(crate) fn binary(mode: BinaryMode) -> Schema {
    Schema::new(if mode == BinaryMode::Bytes { Kind::Bytes } else { Kind::String })
}

/// The block `source`.
pub(crate) fn source() -> Schema {
    let allowed = ["true", "first", "first_in_data_collection", "last_in_data_collection", "last", "false", "incremental"];
    let snapshot = enumeration(&allowed.map(str::to_owned)).optional();
    let text = || Schema::new(Kind::String);
    named(Kind::Struct, "io.debezium.connector.postgresql.Source")
        .field("version", text())
        .field("connector", text())
        .field("name", text())
        .field("ts_ms", Schema::new(Kind::Int64))
        .field("snapshot", Schema { default: Some(Data::from("false")), ..snapshot })
        .field("db", text())
        .field("sequence", optional(Kind::String))
        .field("ts_us", optional(Kind::Int64))
        .field("ts_ns", optional(Kind::Int64))
        .field("schema", text())
        .field("table", text())
        .field("txId", optional(Kind::Int64))
        .field("lsn", optional(Kind::Int64))
        .field("xmin", optional(Kind::Int64))
        .field("origin", optional(Kind::String))
        .field("origin_lsn", optional(Kind::Int64))
}

/// The block `transaction` of an event.
pub(crate) fn transaction_block() -> Schema {
    named(Kind::Struct, "event.block")
        .field("id", Schema::new(Kind::String))
        .field("total_order", Schema::new(Kind::Int64))
        .field("data_collection_order", Schema::new(Kind::Int64))
        .optional()
}

pub(crate) fn envelope(name: &str, row: &Arc<Schema>, source: &Arc<Schema>, transaction: &Arc<Schema>) -> Schema {
    Schema { version: Some(2), ..Schema::new(Kind::Struct).named(name) }
        .field("before", row.clone())
        .field("after", row.clone())
        .field("source", source.clone())
        .field("transaction", transaction.clone())
        .field("op", Schema::new(Kind::String))
        .field("ts_ms", optional(Kind::Int64))
        .field("ts_us", optional(Kind::Int64))
        .field("ts_ns", optional(Kind::Int64))
}

pub(crate) fn heartbeat_key(names: NameAdjustment) -> Schema {
    named(Kind::Struct, &adjusted("io.debezium.connector.common.ServerNameKey", names))
        .field("serverName", Schema::new(Kind::String))
}

pub(crate) fn heartbeat_value(names: NameAdjustment) -> Schema {
    named(Kind::Struct, &adjusted("io.debezium.connector.common.Heartbeat", names)).field("ts_ms", Schema::new(Kind::Int64))
}

pub(crate) fn transaction_key(names: NameAdjustment) -> Schema {
    named(Kind::Struct, &adjusted("io.debezium.connector.common.TransactionMetadataKey", names))
        .field("id", Schema::new(Kind::String))
}

pub(crate) fn transaction_value(names: NameAdjustment) -> Schema {
    let collection = named(Kind::Struct, "event.collection")
        .field("data_collection", Schema::new(Kind::String))
        .field("event_count", Schema::new(Kind::Int64))
        .optional();
    named(Kind::Struct, &adjusted("io.debezium.connector.common.TransactionMetadataValue", names))
        .field("status", Schema::new(Kind::String))
        .field("id", Schema::new(Kind::String))
        .field("event_count", optional(Kind::Int64))
        .field("data_collections", array(collection).optional())
        .field("ts_ms", Schema::new(Kind::Int64))
}

pub(crate) fn message_key(names: NameAdjustment) -> Schema {
    named(Kind::Struct, &adjusted("io.debezium.connector.postgresql.MessageKey", names)).field("prefix", optional(Kind::String))
}

pub(crate) fn message_value(
    names: NameAdjustment,
    binary_mode: BinaryMode,
    source: &Arc<Schema>,
    transaction: &Arc<Schema>,
) -> Schema {
    let block = named(Kind::Struct, &adjusted("io.debezium.connector.postgresql.Message", names))
        .field("prefix", optional(Kind::String))
        .field("content", binary(binary_mode).optional());
    named(Kind::Struct, &adjusted("io.debezium.connector.postgresql.MessageValue", names))
        .field("op", Schema::new(Kind::String))
        .field("ts_ms", optional(Kind::Int64))
        .field("source", source.clone())
        .field("transaction", transaction.clone())
        .field("message", block)
}

/// `schema.name.adjustment.mode`: a full name with dots.
pub(crate) fn adjusted(name: &str, mode: NameAdjustment) -> String {
    replaced(name, mode, true)
}

/// `field.name.adjustment.mode`: a name without.
pub(crate) fn adjusted_field(name: &str, mode: NameAdjustment) -> String {
    replaced(name, mode, false)
}

fn replaced(name: &str, mode: NameAdjustment, dots: bool) -> String {
    let unicode = match mode {
        NameAdjustment::None => return name.to_owned(),
        NameAdjustment::Avro => false,
        NameAdjustment::AvroUnicode => true,
    };
    let mut out = String::with_capacity(name.len());
    for (at, unit) in name.encode_utf16().enumerate() {
        let c = char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
        let letter = c.is_ascii_alphabetic() || (c == '_' && !unicode);
        if letter || (at > 0 && (c.is_ascii_digit() || (dots && c == '.'))) {
            out.push(c);
        } else if unicode {
            out.push_str(&format!("_u{unit:04x}"));
        } else {
            out.push('_');
            if at == 0 && c.is_ascii_digit() {
                out.push(c);
            }
        }
    }
    out
}

/// What Kafka does not allow in the name of a topic becomes `_`.
pub(crate) fn topic_name(name: &str) -> String {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // By UTF-16 unit, as Java counts characters.
    let units = name.chars().flat_map(|c| std::iter::repeat_n(if valid(c) { c } else { '_' }, c.len_utf16()));
    let name: String = units.take(249).collect();
    match name.as_str() {
        "." | ".." => "_".repeat(name.len()),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(adjusted("1a-b.c", NameAdjustment::Avro), "_1a_b.c");
        assert_eq!(adjusted("a_b-c", NameAdjustment::AvroUnicode), "a_u005fb_u002dc");
        assert_eq!(adjusted("é", NameAdjustment::AvroUnicode), "_u00e9");
        assert_eq!(adjusted_field("a.b", NameAdjustment::Avro), "a_b");
        assert_eq!(topic_name("p.s.a b€😀"), "p.s.a_b___");
        assert_eq!(topic_name(".."), "__");
        assert_eq!(topic_name(&"x".repeat(300)).len(), 249);
    }
}
