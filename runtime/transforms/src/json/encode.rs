//! Values to JSON.

use super::{DEPTH_MAX, Style, too_deep};
use crate::decimal::{is_decimal, scale, to_text};
use crate::numbers::{write_float, write_int};
use crate::text::class_of;
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Error, Result, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Debezium's text for a value that the source did not send (`unavailable.value.placeholder`).
pub(crate) const UNAVAILABLE: &str = "__debezium_unavailable_value";

pub(super) fn write(out: &mut Vec<u8>, schema: Option<&Schema>, data: &Data, style: Style, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    let of = |kind: Kind| schema.is_none_or(|schema| schema.kind == kind);
    match data {
        Data::Null => write_null(out, schema, style, depth)?,
        Data::Boolean(value) if of(Kind::Boolean) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Data::Int8(value) if of(Kind::Int8) => write_int(out, value),
        Data::Int16(value) if of(Kind::Int16) => write_int(out, value),
        Data::Int32(value) if of(Kind::Int32) => write_int(out, value),
        Data::Int64(value) if of(Kind::Int64) => write_int(out, value),
        Data::Float32(value) if of(Kind::Float32) => quoted_unless(out, value.is_finite(), |out| write_float(out, *value)),
        Data::Float64(value) if of(Kind::Float64) => quoted_unless(out, value.is_finite(), |out| write_float(out, *value)),
        Data::String(text) if of(Kind::String) => write_string(out, text),
        Data::Bytes(bytes) if of(Kind::Bytes) => match schema {
            Some(schema) if style.numeric && is_decimal(schema) => {
                out.extend_from_slice(to_text(bytes, scale(schema)?)?.as_bytes())
            }
            _ => write_base64(out, bytes),
        },
        Data::Array(items) if of(Kind::Array) => {
            let values = schema.and_then(|schema| schema.values.as_deref());
            list(out, b"[]", items, |out, item| write(out, values, item, style, depth + 1))?;
        }
        Data::Map(entries) if of(Kind::Map) => write_map(out, schema, entries, style, depth)?,
        Data::Struct(values) => match schema {
            Some(schema) if schema.kind == Kind::Struct && schema.fields.len() == values.len() => {
                list(out, b"{}", schema.fields.iter().zip(values), |out, (field, value)| {
                    write_string(out, &field.name);
                    out.push(b':');
                    write(out, Some(&field.schema), value, style, depth + 1)
                })?;
            }
            _ => return Err(Error::fatal("converter.type", "Mismatching schema.")),
        },
        Data::Unavailable => write_unavailable(out, schema)?,
        other => {
            let kind = schema.map_or("unknown schema".to_owned(), |schema| format!("{:?}", schema.kind).to_uppercase());
            return Err(Error::fatal("converter.type", format!("Invalid type for {kind}: class {}", class_of(other))));
        }
    }
    Ok(())
}

fn write_null(out: &mut Vec<u8>, schema: Option<&Schema>, style: Style, depth: usize) -> Result<()> {
    match schema {
        Some(Schema { default: Some(default), .. }) if style.replace_null && !default.is_null() => {
            write(out, schema, default, style, depth + 1)
        }
        Some(schema) if !schema.optional => Err(Error::fatal(
            "converter.null",
            "Conversion error: null value for field that is required and has no default value",
        )),
        _ => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

/// String keys make an object, other keys a list of pairs.
fn write_map(out: &mut Vec<u8>, schema: Option<&Schema>, entries: &[(Data, Data)], style: Style, depth: usize) -> Result<()> {
    let (keys, values) = schema.map_or((None, None), |schema| (schema.keys.as_deref(), schema.values.as_deref()));
    let object = match keys {
        Some(keys) => keys.kind == Kind::String,
        None => entries.iter().all(|(key, _)| matches!(key, Data::String(_))),
    };
    list(out, if object { b"{}" } else { b"[]" }, entries, |out, (key, value)| {
        if object {
            write(out, keys, key, style, depth + 1)?;
            out.push(b':');
            return write(out, values, value, style, depth + 1);
        }
        out.push(b'[');
        write(out, keys, key, style, depth + 1)?;
        out.push(b',');
        write(out, values, value, style, depth + 1)?;
        out.push(b']');
        Ok(())
    })
}

/// As Debezium does: the placeholder in the shape that the schema wants.
fn write_unavailable(out: &mut Vec<u8>, schema: Option<&Schema>) -> Result<()> {
    match schema {
        None => write_string(out, UNAVAILABLE),
        Some(schema) => match schema.kind {
            Kind::String => write_string(out, UNAVAILABLE),
            Kind::Bytes => write_base64(out, UNAVAILABLE.as_bytes()),
            Kind::Array if schema.values.as_ref().is_some_and(|values| values.kind == Kind::String) => {
                out.push(b'[');
                write_string(out, UNAVAILABLE);
                out.push(b']');
            }
            _ if schema.optional => out.extend_from_slice(b"null"),
            kind => {
                return Err(Error::fatal(
                    "converter.type",
                    format!("a value that the source did not send cannot stand in for {}", kind.name()),
                ));
            }
        },
    }
    Ok(())
}

fn list<T>(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T) -> Result<()>,
) -> Result<()> {
    out.push(brackets[0]);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item)?;
    }
    out.push(brackets[1]);
    Ok(())
}

fn quoted_unless(out: &mut Vec<u8>, plain: bool, write: impl FnOnce(&mut Vec<u8>)) {
    let quote: &[u8] = if plain { b"" } else { b"\"" };
    out.extend_from_slice(quote);
    write(out);
    out.extend_from_slice(quote);
}

pub(super) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    // Four characters for each three bytes begun.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("the space is that of padded base64");
    out.truncate(start + written);
    out.push(b'"');
}

/// Escapes what Jackson escapes, with its upper-case hex.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            other => write_int(out, format_args!("\\u{other:04X}")),
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}
