//! Values as text: `toString` for the string converter, and the JSON-like text of `SimpleHeaderConverter`.

use crate::decimal::{is_decimal, scale, to_text};
use crate::numbers::{write_float, write_int};
use aqueduct_core::schema::logical;
use aqueduct_core::{Data, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

pub(crate) fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The Java class that Kafka Connect would have here, for its error texts.
pub(crate) fn class_of(data: &Data) -> &'static str {
    match data {
        Data::Null => "null",
        Data::Boolean(_) => "java.lang.Boolean",
        Data::Int8(_) => "java.lang.Byte",
        Data::Int16(_) => "java.lang.Short",
        Data::Int32(_) => "java.lang.Integer",
        Data::Int64(_) => "java.lang.Long",
        Data::Float32(_) => "java.lang.Float",
        Data::Float64(_) => "java.lang.Double",
        Data::String(_) => "java.lang.String",
        Data::Bytes(_) => "[B",
        Data::Array(_) => "java.util.ArrayList",
        Data::Map(_) => "java.util.HashMap",
        Data::Struct(_) => "org.apache.kafka.connect.data.Struct",
        Data::Unavailable => "an unavailable value",
        Data::Shared(shared) => class_of(shared),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dress {
    /// `Object.toString`: `{a=1, b=[x, y]}`, `Struct{a=1}`. Bytes as they are and dates in ISO 8601, where Java prints `[B@1f` and its own.
    Java,
    /// `Values.convertToString`: `{"a":1,"b":["x","y"]}`; a string alone has no quotes.
    Connect,
}

/// Appends; `nested` is false for the value as a whole.
pub(crate) fn write_text(out: &mut Vec<u8>, schema: Option<&Schema>, data: &Data, dress: Dress, nested: bool) {
    let connect = dress == Dress::Connect;
    match data {
        Data::Null => out.extend_from_slice(b"null"),
        Data::Boolean(value) => write_int(out, value),
        Data::Int8(value) => write_int(out, value),
        Data::Int16(value) => write_int(out, value),
        Data::Int32(value) => match instant(schema, i64::from(*value)) {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => write_int(out, value),
        },
        Data::Int64(value) => match instant(schema, *value) {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => write_int(out, value),
        },
        Data::Float32(value) => write_float(out, *value),
        Data::Float64(value) => write_float(out, *value),
        Data::String(text) if connect && nested => {
            write_int(out, format_args!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
        }
        Data::String(text) => out.extend_from_slice(text.as_bytes()),
        Data::Bytes(bytes) => {
            let decimal = schema.filter(|schema| is_decimal(schema)).and_then(|schema| to_text(bytes, scale(schema).ok()?).ok());
            match decimal {
                Some(text) => out.extend_from_slice(text.as_bytes()),
                None if connect && nested => write_int(out, format_args!("\"{}\"", STANDARD.encode(bytes))),
                None if connect => out.extend_from_slice(STANDARD.encode(bytes).as_bytes()),
                None => out.extend_from_slice(bytes),
            }
        }
        Data::Array(items) => {
            let values = schema.and_then(|schema| schema.values.as_deref());
            joined(out, ("[", "]"), dress, items, |out, item| write_text(out, values, item, dress, true));
        }
        Data::Map(entries) => {
            let (keys, values) = schema.map_or((None, None), |schema| (schema.keys.as_deref(), schema.values.as_deref()));
            joined(out, ("{", "}"), dress, entries, |out, (key, value)| {
                write_text(out, keys, key, dress, true);
                out.push(if connect { b':' } else { b'=' });
                write_text(out, values, value, dress, true);
            });
        }
        Data::Struct(values) => {
            let fields = schema.map(|schema| schema.fields.as_slice()).unwrap_or_default();
            // `Struct.toString` leaves nulls out.
            let shown = fields.iter().zip(values).filter(|(_, value)| connect || !value.is_null());
            joined(out, (if connect { "{" } else { "Struct{" }, "}"), dress, shown, |out, (field, value)| {
                match connect {
                    true => write_int(out, format_args!("\"{}\":", field.name)),
                    false => write_int(out, format_args!("{}=", field.name)),
                }
                write_text(out, Some(&field.schema), value, dress, true);
            });
        }
        Data::Unavailable => out.extend_from_slice(crate::json::UNAVAILABLE.as_bytes()),
        Data::Shared(shared) => write_text(out, schema, shared, dress, nested),
    }
}

fn joined<T>(
    out: &mut Vec<u8>,
    brackets: (&str, &str),
    dress: Dress,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.extend_from_slice(brackets.0.as_bytes());
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(if dress == Dress::Java { b", " } else { b"," });
        }
        write(out, item);
    }
    out.extend_from_slice(brackets.1.as_bytes());
}

/// Date, Time and Timestamp in ISO 8601; `None` for plain integers and for times outside the years -9999 to 9999.
fn instant(schema: Option<&Schema>, value: i64) -> Option<String> {
    let (format, millis) = match schema?.name.as_deref()? {
        logical::DATE => ("%Y-%m-%d", value.checked_mul(86_400_000)?),
        logical::TIME => ("%H:%M:%S%.3fZ", value),
        logical::TIMESTAMP => ("%Y-%m-%dT%H:%M:%S%.3fZ", value),
        _ => return None,
    };
    Some(Timestamp::from_millisecond(millis).ok()?.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::schema::Kind;

    fn text(schema: Option<&Schema>, data: Data, dress: Dress) -> String {
        let mut out = Vec::new();
        write_text(&mut out, schema, &data, dress, false);
        String::from_utf8(out).unwrap()
    }

    /// The expected texts were printed by Kafka Connect 4.3.1.
    #[test]
    fn text_is_that_of_kafka_connect() {
        let map = Data::object([
            ("i", Data::Int64(1)),
            ("d", Data::Float64(1.5)),
            ("n", Data::Null),
            ("l", Data::Array(vec![Data::Int64(1), "x".into(), Data::Null, Data::Boolean(true)])),
        ]);
        assert_eq!(text(None, map.clone(), Dress::Connect), r#"{"i":1,"d":1.5,"n":null,"l":[1,"x",null,true]}"#);
        assert_eq!(text(None, map, Dress::Java), "{i=1, d=1.5, n=null, l=[1, x, null, true]}");
        assert_eq!(text(None, Data::Array(vec![1.into(), "a\"b".into()]), Dress::Connect), r#"[1,"a\"b"]"#);
        assert_eq!(text(None, Data::Bytes(vec![1, 2].into()), Dress::Connect), "AQI=");
        assert_eq!(text(None, "x".into(), Dress::Connect), "x");
        let time = |kind, name| Schema::new(kind).named(name);
        assert_eq!(
            text(Some(&time(Kind::Int64, logical::TIMESTAMP)), 1_700_000_000_123i64.into(), Dress::Connect),
            "2023-11-14T22:13:20.123Z"
        );
        assert_eq!(text(Some(&time(Kind::Int32, logical::DATE)), 3.into(), Dress::Connect), "1970-01-04");
        assert_eq!(text(Some(&time(Kind::Int32, logical::TIME)), 1234.into(), Dress::Connect), "00:00:01.234Z");
        let schema =
            Schema::new(Kind::Struct).field("a", Schema::new(Kind::Int8)).field("b", Schema::new(Kind::String).optional());
        assert_eq!(text(Some(&schema), Data::Struct(vec![Data::Int8(1), Data::Null]), Dress::Java), "Struct{a=1}");
        assert_eq!(text(Some(&schema), Data::Struct(vec![Data::Int8(1), Data::Null]), Dress::Connect), r#"{"a":1,"b":null}"#);
    }
}
