//! Values as JSON text, on one line.

use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, PayloadRef, Schema, Structured};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

/// What Debezium puts for a column that was not sent.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Bytes that are a JSON object or array stand as they are where `parse` says so; other text is a string, and bytes that are no text are a string in base64.
pub(super) fn payload(value: PayloadRef<'_>, parse: bool, out: &mut Vec<u8>) {
    match value {
        PayloadRef::Null => out.extend_from_slice(b"null"),
        PayloadRef::Data(structured) => self::structured(structured, out),
        PayloadRef::Bytes(bytes) if parse && is_json(bytes) => {
            let start = out.len();
            out.extend_from_slice(bytes.trim_ascii());
            // Between tokens a line break is mere white space, and within strings JSON has none.
            out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        }
        PayloadRef::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => string(text, out),
            Err(_) => string(&STANDARD.encode(bytes), out),
        },
    }
}

/// Checked without building anything; deeper than 128 levels it is taken as text. A line of text may well be a number or a word that JSON has
/// too: only objects and lists are meant as JSON, so that a column of texts does not change its type from record to record.
fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
        && std::str::from_utf8(bytes).is_ok()
}

pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a vector takes all, and text is always JSON");
}

pub(super) fn structured(structured: &Structured, out: &mut Vec<u8>) {
    data(&structured.data, structured.schema.as_deref(), out);
}

pub(super) fn data(value: &Data, schema: Option<&Schema>, out: &mut Vec<u8>) {
    match value {
        Data::Null => out.extend_from_slice(b"null"),
        Data::Boolean(value) => write(out, value),
        Data::Int8(value) => write(out, value),
        Data::Int16(value) => write(out, value),
        Data::Int32(value) => write(out, value),
        Data::Int64(value) => write(out, value),
        // serde_json writes what JSON cannot say (NaN, infinities) as null.
        Data::Float32(value) => serde_json::to_writer(out, value).expect("a vector takes all"),
        Data::Float64(value) => serde_json::to_writer(out, value).expect("a vector takes all"),
        Data::String(text) => string(text, out),
        Data::Bytes(bytes) => string(&STANDARD.encode(bytes), out),
        Data::Unavailable => string(UNAVAILABLE, out),
        Data::Shared(shared) => data(shared, schema, out),
        Data::Array(items) => {
            let schema = schema.and_then(|schema| schema.values.as_deref());
            list(out, items, |item, out| data(item, schema, out));
        }
        Data::Map(entries) => map(entries, schema, out),
        Data::Struct(values) => {
            let fields = schema.filter(|schema| schema.kind == Kind::Struct).map_or(&[][..], |schema| &schema.fields);
            if fields.len() == values.len() {
                object(out, fields.iter().zip(values), |(field, value), out| {
                    string(&field.name, out);
                    out.push(b':');
                    data(value, Some(&field.schema), out);
                });
            } else {
                list(out, values, |value, out| data(value, None, out));
            }
        }
    }
}

/// As Kafka Connect's converter: an object where all keys are text, else an array of pairs.
fn map(entries: &[(Data, Data)], schema: Option<&Schema>, out: &mut Vec<u8>) {
    let values = schema.and_then(|schema| schema.values.as_deref());
    if entries.iter().all(|(key, _)| key.as_str().is_some()) {
        return object(out, entries, |(key, value), out| {
            string(key.as_str().unwrap_or_default(), out);
            out.push(b':');
            data(value, values, out);
        });
    }
    let keys = schema.and_then(|schema| schema.keys.as_deref());
    list(out, entries, |(key, value), out| {
        out.push(b'[');
        data(key, keys, out);
        out.push(b',');
        data(value, values, out);
        out.push(b']');
    });
}

fn write(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a vector takes all");
}

pub(super) fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, each: impl FnMut(T, &mut Vec<u8>)) {
    joined(out, b'[', items, each, b']');
}

fn object<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, each: impl FnMut(T, &mut Vec<u8>)) {
    joined(out, b'{', items, each, b'}');
}

fn joined<T>(out: &mut Vec<u8>, open: u8, items: impl IntoIterator<Item = T>, mut each: impl FnMut(T, &mut Vec<u8>), close: u8) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(close);
}
