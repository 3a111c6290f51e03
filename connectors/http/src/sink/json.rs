//! Values as JSON text, on one line.

use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, PayloadRef, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

/// What Debezium puts for a column that was not sent.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// For a line or an element of an array. Bytes that are a JSON object or array stand as they are; other text is a string, and bytes that are no text are a string in base64.
pub(super) fn element(value: PayloadRef<'_>, out: &mut Vec<u8>) {
    match value {
        PayloadRef::Null => out.extend_from_slice(b"null"),
        PayloadRef::Data(structured) => data(&structured.data, structured.schema.as_deref(), out),
        PayloadRef::Bytes(bytes) if is_json(bytes) => one_line(bytes.trim_ascii(), out),
        PayloadRef::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => string(text, out),
            Err(_) => string(&STANDARD.encode(bytes), out),
        },
    }
}

/// Checked without building anything; deeper than 128 levels it is taken as text. A line of text may well be a number or a word that JSON has
/// too: only objects and lists are meant as JSON.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
        && std::str::from_utf8(bytes).is_ok()
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// Between tokens a line break is mere white space, and within strings JSON has none.
fn one_line(json: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json);
    out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a vector takes all, and text is always JSON");
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
            joined(out, b'[', items, |item, out| data(item, schema, out), b']');
        }
        Data::Map(entries) => map(entries, schema, out),
        Data::Struct(values) => {
            let fields = schema.filter(|schema| schema.kind == Kind::Struct).map_or(&[][..], |schema| &schema.fields);
            if fields.len() == values.len() {
                let each = |(field, value): (&aqueduct_core::schema::Field, &Data), out: &mut Vec<u8>| {
                    string(&field.name, out);
                    out.push(b':');
                    data(value, Some(&field.schema), out);
                };
                joined(out, b'{', fields.iter().zip(values), each, b'}');
            } else {
                joined(out, b'[', values, |value, out| data(value, None, out), b']');
            }
        }
    }
}

/// As Kafka Connect's converter: an object where all keys are text, else an array of pairs.
fn map(entries: &[(Data, Data)], schema: Option<&Schema>, out: &mut Vec<u8>) {
    let values = schema.and_then(|schema| schema.values.as_deref());
    if entries.iter().all(|(key, _)| key.as_str().is_some()) {
        let each = |(key, value): &(Data, Data), out: &mut Vec<u8>| {
            string(key.as_str().unwrap_or_default(), out);
            out.push(b':');
            data(value, values, out);
        };
        return joined(out, b'{', entries, each, b'}');
    }
    let keys = schema.and_then(|schema| schema.keys.as_deref());
    let each = |(key, value): &(Data, Data), out: &mut Vec<u8>| {
        out.push(b'[');
        data(key, keys, out);
        out.push(b',');
        data(value, values, out);
        out.push(b']');
    };
    joined(out, b'[', entries, each, b']');
}

fn write(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a vector takes all");
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

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Structured;

    fn text(value: PayloadRef<'_>) -> String {
        let mut out = Vec::new();
        element(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_element_is_json_on_one_line_whatever_the_value() {
        assert_eq!(text(PayloadRef::Bytes(b" {\"a\":\n 1}\r\n")), "{\"a\":  1}");
        assert_eq!(text(PayloadRef::Bytes(b"{\"a\": 1")), r#""{\"a\": 1""#);
        assert_eq!(text(PayloadRef::Bytes(b"5")), "\"5\"");
        assert_eq!(text(PayloadRef::Bytes(b"a\nb")), r#""a\nb""#);
        assert_eq!(text(PayloadRef::Bytes(b"\xff")), "\"/w==\"");
        assert_eq!(text(PayloadRef::Null), "null");
        let schema = Schema::new(Kind::Struct).field("id", Schema::new(Kind::Int32)).field("tags", Schema::new(Kind::Array));
        let tags = Data::Array(vec!["x".into(), Data::Null]);
        let value = Structured { schema: Some(schema.into()), data: Data::Struct(vec![Data::Int32(7), tags]) };
        assert_eq!(text(PayloadRef::Data(&value)), r#"{"id":7,"tags":["x",null]}"#);
    }
}
