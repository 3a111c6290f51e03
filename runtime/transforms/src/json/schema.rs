//! Schemas to JSON and back.

use super::encode::{Writer, write_string};
use super::{DEPTH_MAX, Style, decode, too_deep};
use crate::numbers::write_int;
use aqueduct_core::schema::{Field, Kind};
use aqueduct_core::{Error, Result, Schema};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `{"schema":…,"payload":`
pub(super) fn head(schema: &Schema, style: Style) -> Result<Vec<u8>> {
    let mut out = br#"{"schema":"#.to_vec();
    write_schema(&mut out, schema, None, style, 0)?;
    out.extend_from_slice(br#","payload":"#);
    Ok(out)
}

/// In the order in which Kafka Connect writes it; `field` is the name in the struct around it.
fn write_schema(out: &mut Vec<u8>, schema: &Schema, field: Option<&str>, style: Style, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    let inner = |out: &mut Vec<u8>, name: &str, inner: &Option<Arc<Schema>>| match inner {
        Some(inner) => {
            out.extend_from_slice(name.as_bytes());
            write_schema(out, inner, None, style, depth + 1)
        }
        None => Err(error(format!("a schema of type {} has no element type", schema.kind.name()))),
    };
    out.extend_from_slice(br#"{"type":"#);
    write_string(out, schema.kind.name());
    match schema.kind {
        Kind::Array => inner(out, r#","items":"#, &schema.values)?,
        Kind::Map => {
            inner(out, r#","keys":"#, &schema.keys)?;
            inner(out, r#","values":"#, &schema.values)?;
        }
        Kind::Struct => {
            out.extend_from_slice(br#","fields":["#);
            for (index, field) in schema.fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_schema(out, &field.schema, Some(&field.name), style, depth + 1)?;
            }
            out.push(b']');
        }
        _ => {}
    }
    out.extend_from_slice(if schema.optional { br#","optional":true"# } else { br#","optional":false"# });
    let text = |out: &mut Vec<u8>, name: &str, text: Option<&str>| {
        if let Some(text) = text {
            out.extend_from_slice(name.as_bytes());
            write_string(out, text);
        }
    };
    text(out, r#","name":"#, schema.name.as_deref());
    if let Some(version) = schema.version {
        write_int(out, format_args!(r#","version":{version}"#));
    }
    text(out, r#","doc":"#, schema.doc.as_deref());
    if !schema.parameters.is_empty() {
        write_parameters(out, schema);
    }
    if let Some(default) = schema.default.as_ref().filter(|default| !default.is_null()) {
        out.extend_from_slice(br#","default":"#);
        Writer::new(style).write(out, Some(schema), None, default, depth + 1)?;
    }
    text(out, r#","field":"#, field);
    out.push(b'}');
    Ok(())
}

/// Kafka Connect keeps the order in which they were set: of those that it and Debezium set, this one.
const PARAMETERS: [&str; 11] = [
    "scale",
    "connect.decimal.precision",
    "allowed",
    "length",
    "masked",
    "truncateLength",
    "__debezium.source.column.type",
    "__debezium.source.column.length",
    "__debezium.source.column.scale",
    "__debezium.source.column.comment",
    "__debezium.source.column.name",
];

fn write_parameters(out: &mut Vec<u8>, schema: &Schema) {
    let rank = |name: &str| PARAMETERS.iter().position(|known| *known == name).unwrap_or(PARAMETERS.len());
    let mut ordered: Vec<_> = schema.parameters.iter().collect();
    ordered.sort_by_key(|(name, _)| rank(name));
    out.extend_from_slice(br#","parameters":{"#);
    for (index, (name, value)) in ordered.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        write_string(out, value);
    }
    out.push(b'}');
}

#[derive(Deserialize)]
struct SchemaText<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, borrow)]
    fields: Option<Vec<SchemaText<'a>>>,
    #[serde(default, borrow)]
    items: Option<Box<SchemaText<'a>>>,
    #[serde(default, borrow)]
    keys: Option<Box<SchemaText<'a>>>,
    #[serde(default, borrow)]
    values: Option<Box<SchemaText<'a>>>,
    #[serde(default)]
    optional: Option<bool>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    version: Option<i32>,
    #[serde(default)]
    doc: Option<String>,
    #[serde(default)]
    parameters: Option<BTreeMap<String, String>>,
    #[serde(default, borrow)]
    default: Option<&'a RawValue>,
    #[serde(default)]
    field: Option<String>,
}

/// `null` is no schema.
///
/// # Errors
/// `converter.schema`, `converter.depth`, and those of a default's value.
pub(super) fn parse(text: &str, style: Style) -> Result<Option<Arc<Schema>>> {
    let read: Option<SchemaText<'_>> = serde_json::from_str(text).map_err(|why| error(format!("Invalid schema: {why}")))?;
    read.map(|read| build(read, style, 0)).transpose()
}

fn build(text: SchemaText<'_>, style: Style, depth: usize) -> Result<Arc<Schema>> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    let inner = |inner: Option<Box<SchemaText<'_>>>, missing: &str| match inner {
        Some(inner) => build(*inner, style, depth + 1).map(Some),
        None => Err(error(missing)),
    };
    let mut schema = Schema::new(kind(&text.kind)?);
    match schema.kind {
        Kind::Array => schema.values = inner(text.items, "Array schema did not specify the element type")?,
        Kind::Map => {
            schema.keys = inner(text.keys, "Map schema did not specify the key type")?;
            schema.values = inner(text.values, "Map schema did not specify the value type")?;
        }
        Kind::Struct => {
            for mut field in text.fields.ok_or_else(|| error("Struct schema's \"fields\" argument is not an array."))? {
                let name = field.field.take().ok_or_else(|| error("Struct schema's field name not specified properly"))?;
                if schema.field_index(&name).is_some() {
                    return Err(error(format!("Cannot create field because of field name duplication {name}")));
                }
                schema.fields.push(Field { name: name.into(), schema: build(field, style, depth + 1)? });
            }
        }
        _ => {}
    }
    schema.optional = text.optional.unwrap_or(false);
    schema.name = text.name;
    schema.version = text.version;
    schema.doc = text.doc;
    schema.parameters = text.parameters.unwrap_or_default();
    if let Some(default) = text.default {
        schema.default = Some(decode::value(default.get().as_bytes(), Some(&schema), style)?);
    }
    Ok(Arc::new(schema))
}

fn kind(name: &str) -> Result<Kind> {
    const KINDS: [Kind; 12] = [
        Kind::Int8,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::Float32,
        Kind::Float64,
        Kind::Boolean,
        Kind::String,
        Kind::Bytes,
        Kind::Array,
        Kind::Map,
        Kind::Struct,
    ];
    KINDS.into_iter().find(|kind| kind.name() == name).ok_or_else(|| error(format!("Unknown schema type: {name}")))
}

fn error(message: impl Into<String>) -> Error {
    Error::fatal("converter.schema", message)
}
