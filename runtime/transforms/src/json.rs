//! `org.apache.kafka.connect.json.JsonConverter`: the same JSON, byte for byte, with and without the envelope.

mod decode;
mod encode;
mod schema;

pub(crate) use encode::UNAVAILABLE;

use self::encode::{Layout, Writer};
use crate::cache::SchemaCache;
use crate::text::{Dress, utf8, write_text};
use aqueduct_core::{Data, Error, Fields, Payload, PayloadRef, Projection, Result, Schema, Structured};
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Arrays, maps and structs may nest this deep, in both directions: each level is a stack frame. Real data stays below 20.
pub(crate) const DEPTH_MAX: usize = 64;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct JsonConfig {
    /// Every message carries its schema: `{"schema": …, "payload": …}`. With false it is the plain JSON value.
    #[serde(rename = "schemas.enable", default = "yes")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Converter"))]
    pub schemas_enable: bool,
    /// How many schemas are kept ready.
    #[serde(rename = "schemas.cache.size", default = "cache_size")]
    #[schemars(range(min = 1, max = 100_000), extend("x-importance" = "high", "x-group" = "Converter"))]
    pub schemas_cache_size: u32,
    /// How decimals are written: `BASE64` (the unscaled integer's bytes) or `NUMERIC` (a JSON number). Both are read.
    #[serde(rename = "decimal.format", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Converter"))]
    pub decimal_format: DecimalFormat,
    /// Null in a field that has a default becomes the default.
    #[serde(rename = "replace.null.with.default", default = "yes")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Converter"))]
    pub replace_null: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum DecimalFormat {
    #[default]
    #[serde(rename = "BASE64", alias = "base64", alias = "Base64")]
    #[schemars(rename = "BASE64")]
    Base64,
    #[serde(rename = "NUMERIC", alias = "numeric", alias = "Numeric")]
    #[schemars(rename = "NUMERIC")]
    Numeric,
}

pub(crate) fn yes() -> bool {
    true
}

fn cache_size() -> u32 {
    1000
}

/// One value as JSON without a schema, for people and dead letters. A struct's names are in its schema: see [`text`].
pub fn schemaless_text(data: &Data) -> String {
    text(&Structured { schema: None, data: data.clone() })
}

/// One value as JSON without the envelope. What JSON cannot say (nested too deep, a value that does not fit its schema) is a string.
pub fn text(value: &Structured) -> String {
    let mut out = Vec::new();
    if write_plain(&mut out, value).is_err() {
        let mut shown = Vec::new();
        write_text(&mut shown, value.schema.as_deref(), &value.data, Dress::Java, false);
        out.clear();
        encode::write_string(&mut out, &String::from_utf8_lossy(&shown));
    }
    String::from_utf8(out).expect("JSON is written from text alone")
}

/// As with `schemas.enable: false`.
pub(crate) fn write_plain(out: &mut Vec<u8>, value: &Structured) -> Result<()> {
    Writer::new(PLAIN).write(out, value.schema.as_deref(), None, &value.data, 0)
}

/// How values are written and read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    numeric: bool,
    replace_null: bool,
}

/// Of JSON that stands for itself.
const PLAIN: Style = Style { numeric: false, replace_null: true };

/// What is the same in every message of a schema.
#[derive(Debug)]
struct Shape {
    /// `{"schema":…,"payload":`, or nothing.
    head: Vec<u8>,
    layout: Layout,
}

#[derive(Debug)]
pub(crate) struct Json {
    schemas: bool,
    style: Style,
    writer: Writer,
    shapes: SchemaCache<Shape>,
    projection: Option<Projection>,
    /// By the text of the schema in the envelope, as it came.
    read: FxHashMap<Box<str>, Option<Arc<Schema>>>,
    cache_size: usize,
}

impl Json {
    pub(crate) fn new(config: &JsonConfig) -> Self {
        let style = Style { numeric: config.decimal_format == DecimalFormat::Numeric, replace_null: config.replace_null };
        Self::with(config.schemas_enable, style, config.schemas_cache_size as usize)
    }

    /// As [`write_plain`].
    pub(crate) fn plain() -> Self {
        Self::with(false, PLAIN, cache_size() as usize)
    }

    /// Of the same configuration, with nothing in its caches.
    pub(crate) fn fresh(&self) -> Self {
        Self::with(self.schemas, self.style, self.cache_size)
    }

    fn with(schemas: bool, style: Style, cache_size: usize) -> Self {
        Self {
            schemas,
            style,
            writer: Writer::new(style),
            shapes: SchemaCache::new(cache_size),
            projection: None,
            read: FxHashMap::default(),
            cache_size,
        }
    }

    /// From here on only this is decoded.
    pub(crate) fn project(&mut self, projection: Projection) {
        self.projection = Some(projection);
    }

    /// Appends the message to `out`; false for null, which has no message. On an error `out` may have a part of it.
    ///
    /// # Errors
    /// `converter.type`, `converter.null`, `converter.depth`, `converter.decimal`: Kafka Connect's texts.
    pub(crate) fn encode(&mut self, payload: PayloadRef<'_>, out: &mut Vec<u8>) -> Result<bool> {
        match payload {
            PayloadRef::Null => return Ok(false),
            PayloadRef::Data(structured) if structured.schema.is_none() && structured.data.is_null() => return Ok(false),
            PayloadRef::Data(Structured { schema, data }) => {
                self.encode_with(schema.as_ref(), out, |writer, out, schema, layout| writer.write(out, schema, layout, data, 0))?;
                return Ok(true);
            }
            // What a file or a socket held: Kafka Connect's sources hand such text over as a string with a schema.
            PayloadRef::Bytes(bytes) => match utf8(bytes) {
                Some(text) => {
                    self.head(out, br#"{"schema":{"type":"string","optional":false},"payload":"#);
                    encode::write_string(out, text);
                }
                None => {
                    self.head(out, br#"{"schema":{"type":"bytes","optional":false},"payload":"#);
                    encode::write_base64(out, bytes);
                }
            },
        }
        if self.schemas {
            out.push(b'}');
        }
        Ok(true)
    }

    /// As [`Json::encode`], of a struct that tells its values.
    pub(crate) fn encode_fields(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, out: &mut Vec<u8>) -> Result<()> {
        self.encode_with(Some(schema), out, |writer, out, schema, layout| writer.write_fields(out, schema, layout, fields, 0))
    }

    fn encode_with(
        &mut self,
        schema: Option<&Arc<Schema>>,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Writer, &mut Vec<u8>, Option<&Schema>, Option<&Layout>) -> Result<()>,
    ) -> Result<()> {
        let shape = match schema {
            Some(schema) => {
                let (schemas, style) = (self.schemas, self.style);
                let head = |schema: &Schema| if schemas { schema::head(schema, style) } else { Ok(Vec::new()) };
                let shape = |schema: &Schema| Ok(Shape { head: head(schema)?, layout: Layout::of(schema, 0) });
                Some(self.shapes.get::<Error>(schema, shape)?)
            }
            None => None,
        };
        match shape {
            Some(shape) => out.extend_from_slice(&shape.head),
            None if self.schemas => out.extend_from_slice(br#"{"schema":null,"payload":"#),
            None => {}
        }
        write(&mut self.writer, out, schema.map(|schema| &**schema), shape.map(|shape| &shape.layout))?;
        if self.schemas {
            out.push(b'}');
        }
        Ok(())
    }

    /// # Errors
    /// `converter.json` (not JSON, or not the envelope), `converter.schema`, `converter.type`, `converter.depth`, …
    pub(crate) fn decode(&mut self, message: &[u8]) -> Result<Payload> {
        if !self.schemas {
            // Kafka Connect reads nothing as null.
            if message.iter().all(u8::is_ascii_whitespace) {
                return Ok(Payload::Null);
            }
            return Ok(structured(None, self.value(message, None)?));
        }
        let envelope = decode::envelope(message)?;
        let schema = self.schema(envelope.schema.get())?;
        let data = self.value(envelope.payload.get().as_bytes(), schema.as_ref())?;
        Ok(structured(schema, data))
    }

    fn value(&self, message: &[u8], schema: Option<&Arc<Schema>>) -> Result<Data> {
        match &self.projection {
            None => decode::value(message, schema.map(|schema| &**schema), self.style),
            Some(projection) => decode::projected(message, schema, self.style, projection),
        }
    }

    fn head(&self, out: &mut Vec<u8>, head: &[u8]) {
        if self.schemas {
            out.extend_from_slice(head);
        }
    }

    fn schema(&mut self, text: &str) -> Result<Option<Arc<Schema>>> {
        if let Some(schema) = self.read.get(text) {
            return Ok(schema.clone());
        }
        let schema = schema::parse(text, self.style)?;
        if self.read.len() >= self.cache_size {
            self.read.clear();
        }
        self.read.insert(text.into(), schema.clone());
        Ok(schema)
    }
}

fn structured(schema: Option<Arc<Schema>>, data: Data) -> Payload {
    if data.is_null() { Payload::Null } else { Payload::data(schema, data) }
}

fn too_deep() -> Error {
    Error::fatal("converter.depth", format!("values nest more than {DEPTH_MAX} deep"))
}

#[cfg(test)]
mod tests;
