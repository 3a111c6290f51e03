//! Values to JSON.

use super::{DEPTH_MAX, Style, too_deep};
use crate::decimal::{is_decimal, scale, to_text};
use crate::numbers::{write_float, write_int, write_integer};
use crate::text::class_of;
use aqueduct_core::schema::{Field, Kind};
use aqueduct_core::{Data, Error, Fields, Result, Schema, Values};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

/// Debezium's text for a value that the source did not send (`unavailable.value.placeholder`).
pub(crate) const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The names in a schema's structs as they are written: quoted, with what stands around them.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// `,"name":` and what is below, for each field.
    fields: Vec<(Box<[u8]>, Layout)>,
    /// Of an array's or a map's values.
    values: Option<Box<Layout>>,
}

impl Layout {
    /// Deeper than [`DEPTH_MAX`] nothing is written.
    pub(super) fn of(schema: &Schema, depth: usize) -> Self {
        if depth > DEPTH_MAX {
            return Self::default();
        }
        let field = |field: &Field| {
            let mut name = vec![b','];
            write_string(&mut name, &field.name);
            name.push(b':');
            (name.into(), Layout::of(&field.schema, depth + 1))
        };
        let values = schema.values.as_ref();
        Self {
            fields: schema.fields.iter().map(field).collect(),
            values: values.map(|values| Box::new(Layout::of(values, depth + 1))),
        }
    }
}

/// How values are written, and the text of the last struct that records share.
#[derive(Debug)]
pub(super) struct Writer {
    style: Style,
    /// Both are kept, so that their addresses mean them alone.
    shared: Option<(Arc<Data>, Arc<Schema>, Vec<u8>)>,
}

impl Writer {
    pub(super) fn new(style: Style) -> Self {
        Self { style, shared: None }
    }

    /// `layout`, where there is one, is the schema's.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        schema: Option<&Schema>,
        layout: Option<&Layout>,
        data: &Data,
        depth: usize,
    ) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        let of = |kind: Kind| schema.is_none_or(|schema| schema.kind == kind);
        match data {
            Data::Null => self.write_null(out, schema, depth)?,
            Data::Boolean(value) if of(Kind::Boolean) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Data::Int8(value) if of(Kind::Int8) => write_integer(out, (*value).into()),
            Data::Int16(value) if of(Kind::Int16) => write_integer(out, (*value).into()),
            Data::Int32(value) if of(Kind::Int32) => write_integer(out, (*value).into()),
            Data::Int64(value) if of(Kind::Int64) => write_integer(out, *value),
            Data::Float32(value) if of(Kind::Float32) => quoted_unless(out, value.is_finite(), |out| write_float(out, *value)),
            Data::Float64(value) if of(Kind::Float64) => quoted_unless(out, value.is_finite(), |out| write_float(out, *value)),
            Data::String(text) if of(Kind::String) => write_string(out, text),
            Data::Bytes(bytes) if of(Kind::Bytes) => match schema {
                Some(schema) if self.style.numeric && is_decimal(schema) => {
                    out.extend_from_slice(to_text(bytes, scale(schema)?)?.as_bytes())
                }
                _ => write_base64(out, bytes),
            },
            Data::Array(items) if of(Kind::Array) => {
                let values = schema.and_then(|schema| schema.values.as_deref());
                let layout = layout.and_then(|layout| layout.values.as_deref());
                list(out, b"[]", items, |out, item| self.write(out, values, layout, item, depth + 1))?;
            }
            Data::Map(entries) if of(Kind::Map) => self.write_map(out, schema, layout, entries, depth)?,
            Data::Struct(values) => match schema {
                Some(schema) if schema.kind == Kind::Struct && schema.fields.len() == values.len() => {
                    self.write_struct(out, &schema.fields, layout, values, depth)?;
                }
                _ => return Err(mismatch()),
            },
            Data::Unavailable => write_unavailable(out, schema)?,
            Data::Shared(shared) => self.write(out, schema, layout, shared, depth)?,
            other => return Err(invalid(schema, other)),
        }
        Ok(())
    }

    fn write_struct(
        &mut self,
        out: &mut Vec<u8>,
        fields: &[Field],
        layout: Option<&Layout>,
        values: &[Data],
        depth: usize,
    ) -> Result<()> {
        let mut object = Object::begin(self, out, fields, layout, depth);
        for value in values {
            object.data(value)?;
        }
        object.end()
    }

    /// As [`Writer::write`], of a struct that tells its values.
    pub(super) fn write_fields(
        &mut self,
        out: &mut Vec<u8>,
        schema: Option<&Schema>,
        layout: Option<&Layout>,
        fields: &dyn Fields,
        depth: usize,
    ) -> Result<()> {
        let Some(schema) = schema.filter(|schema| schema.kind == Kind::Struct) else { return Err(mismatch()) };
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        let mut object = Object::begin(self, out, &schema.fields, layout, depth);
        fields.tell(&mut object)?;
        object.end()
    }

    fn write_shared(
        &mut self,
        out: &mut Vec<u8>,
        schema: &Arc<Schema>,
        layout: Option<&Layout>,
        shared: &Arc<Data>,
        depth: usize,
    ) -> Result<()> {
        match &self.shared {
            Some((data, of, text)) if Arc::ptr_eq(data, shared) && Arc::ptr_eq(of, schema) => out.extend_from_slice(text),
            _ => {
                let start = out.len();
                self.write(out, Some(schema), layout, shared, depth)?;
                self.shared = Some((shared.clone(), schema.clone(), out[start..].to_vec()));
            }
        }
        Ok(())
    }

    fn write_null(&mut self, out: &mut Vec<u8>, schema: Option<&Schema>, depth: usize) -> Result<()> {
        match schema {
            Some(Schema { default: Some(default), .. }) if self.style.replace_null && !default.is_null() => {
                self.write(out, schema, None, default, depth + 1)
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
    fn write_map(
        &mut self,
        out: &mut Vec<u8>,
        schema: Option<&Schema>,
        layout: Option<&Layout>,
        entries: &[(Data, Data)],
        depth: usize,
    ) -> Result<()> {
        let (keys, values) = schema.map_or((None, None), |schema| (schema.keys.as_deref(), schema.values.as_deref()));
        let layout = layout.and_then(|layout| layout.values.as_deref());
        let object = match keys {
            Some(keys) => keys.kind == Kind::String,
            None => entries.iter().all(|(key, _)| matches!(key, Data::String(_))),
        };
        list(out, if object { b"{}" } else { b"[]" }, entries, |out, (key, value)| {
            if object {
                self.write(out, keys, None, key, depth + 1)?;
                out.push(b':');
                return self.write(out, values, layout, value, depth + 1);
            }
            out.push(b'[');
            self.write(out, keys, None, key, depth + 1)?;
            out.push(b',');
            self.write(out, values, layout, value, depth + 1)?;
            out.push(b']');
            Ok(())
        })
    }
}

/// A struct on its way out, field by field.
struct Object<'a> {
    writer: &'a mut Writer,
    out: &'a mut Vec<u8>,
    fields: &'a [Field],
    layout: Option<&'a Layout>,
    /// How many fields were told.
    index: usize,
    depth: usize,
}

impl<'a> Object<'a> {
    fn begin(
        writer: &'a mut Writer,
        out: &'a mut Vec<u8>,
        fields: &'a [Field],
        layout: Option<&'a Layout>,
        depth: usize,
    ) -> Self {
        let layout = layout.filter(|layout| layout.fields.len() == fields.len());
        out.push(b'{');
        Self { writer, out, fields, layout, index: 0, depth }
    }

    fn end(self) -> Result<()> {
        if self.index != self.fields.len() {
            return Err(mismatch());
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Writes the name of the next field.
    fn next(&mut self) -> Result<(&'a Field, Option<&'a Layout>)> {
        let index = self.index;
        let field = self.fields.get(index).ok_or_else(mismatch)?;
        self.index += 1;
        if let Some((name, below)) = self.layout.and_then(|layout| layout.fields.get(index)) {
            self.out.extend_from_slice(&name[usize::from(index == 0)..]);
            return Ok((field, Some(below)));
        }
        if index > 0 {
            self.out.push(b',');
        }
        write_string(self.out, &field.name);
        self.out.push(b':');
        Ok((field, None))
    }

    /// The next field, which must be of this kind for a value to stand there as it is.
    fn plain(&mut self, kind: Kind, value: impl FnOnce() -> Data) -> Result<&mut Vec<u8>> {
        let (field, _) = self.next()?;
        if field.schema.kind != kind {
            return Err(invalid(Some(&field.schema), &value()));
        }
        Ok(self.out)
    }
}

impl Values for Object<'_> {
    fn null(&mut self) -> Result<()> {
        let (field, _) = self.next()?;
        self.writer.write_null(self.out, Some(&field.schema), self.depth + 1)
    }

    fn boolean(&mut self, value: bool) -> Result<()> {
        self.plain(Kind::Boolean, || value.into())?.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn int16(&mut self, value: i16) -> Result<()> {
        write_integer(self.plain(Kind::Int16, || value.into())?, value.into());
        Ok(())
    }

    fn int32(&mut self, value: i32) -> Result<()> {
        write_integer(self.plain(Kind::Int32, || value.into())?, value.into());
        Ok(())
    }

    fn int64(&mut self, value: i64) -> Result<()> {
        write_integer(self.plain(Kind::Int64, || value.into())?, value);
        Ok(())
    }

    fn float32(&mut self, value: f32) -> Result<()> {
        self.data(&value.into())
    }

    fn float64(&mut self, value: f64) -> Result<()> {
        self.data(&value.into())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        write_string(self.plain(Kind::String, || text.into())?, text);
        Ok(())
    }

    fn fields(&mut self, fields: &dyn Fields) -> Result<()> {
        let (field, below) = self.next()?;
        self.writer.write_fields(self.out, Some(&field.schema), below, fields, self.depth + 1)
    }

    fn data(&mut self, data: &Data) -> Result<()> {
        let (field, below) = self.next()?;
        match data {
            Data::Shared(shared) if matches!(**shared, Data::Struct(_)) => {
                self.writer.write_shared(self.out, &field.schema, below, shared, self.depth + 1)
            }
            value => self.writer.write(self.out, Some(&field.schema), below, value, self.depth + 1),
        }
    }
}

fn mismatch() -> Error {
    Error::fatal("converter.type", "Mismatching schema.")
}

fn invalid(schema: Option<&Schema>, value: &Data) -> Error {
    let kind = schema.map_or("unknown schema".to_owned(), |schema| format!("{:?}", schema.kind).to_uppercase());
    Error::fatal("converter.type", format!("Invalid type for {kind}: class {}", class_of(value)))
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

/// Escapes what Jackson escapes, with its upper-case hex: what is beyond 16 bits too, as two surrogates.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (0, 0);
    loop {
        at += plain_length(&bytes[at..]);
        let Some(byte) = bytes.get(at) else { break };
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
            0xf0.. => {
                let c = text[at..].chars().next().unwrap_or_default();
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write_int(out, format_args!("\\u{unit:04X}"));
                }
                plain = at + c.len_utf8();
            }
            other => write_int(out, format_args!("\\u{other:04X}")),
        }
        at = plain;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// How many bytes stand before the first that is escaped; eight at a time, since nearly all text has none.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_ne_bytes(*chunk);
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let beyond = word & (word << 1) & (word << 2) & (word << 3) & HIGH;
        if (below(word, b' ') | is(b'"') | is(b'\\') | beyond) != 0 {
            break;
        }
        at += 8;
    }
    let plain = |byte: &u8| (b' '..0xf0).contains(byte) && *byte != b'"' && *byte != b'\\';
    at + bytes[at..].iter().take_while(|byte| plain(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Long and short, with and without what is escaped, at every place of eight bytes.
        #[test]
        fn strings_read_back(text in "([a-z é😀\u{0}-\u{1f}\"\\\\]|[a-z]{1,20}){0,30}") {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert!(out.iter().all(|byte| (b' '..0xf0).contains(byte)), "{:?}", String::from_utf8_lossy(&out));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
