//! Converters: between what connectors hand over and the bytes in the log.

use crate::json::{self, Json, JsonConfig};
use crate::parts::{PartKind, find};
use crate::text::{Dress, class_of, write_text};
use aqueduct_config::parse;
use aqueduct_core::{
    Batch, BatchBuilder, Bytes, Chunk, ChunkBuilder, Data, Error, Header, Issue, Options, Payload, PayloadRef, Projection,
    RecordRef, Rejects, Result, Schema, Span, Stage, schema::Kind,
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::{Arc, LazyLock};

pub(crate) const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
pub(crate) const STRING: &str = "org.apache.kafka.connect.storage.StringConverter";
pub(crate) const BYTES: &str = "org.apache.kafka.connect.converters.ByteArrayConverter";
pub(crate) const PLAIN: &str = "aqueduct.PlainConverter";
pub(crate) const SIMPLE: &str = "org.apache.kafka.connect.storage.SimpleHeaderConverter";

/// A converter of one primitive, big-endian.
#[derive(Debug)]
pub(crate) struct Number {
    pub class: &'static str,
    pub aliases: &'static [&'static str],
    pub summary: &'static str,
    kind: Kind,
    bytes: usize,
    schema: LazyLock<Arc<Schema>>,
}

macro_rules! number {
    ($class:literal, $alias:literal, $summary:literal, $kind:ident, $bytes:literal) => {
        Number {
            class: concat!("org.apache.kafka.connect.converters.", $class),
            aliases: &[$alias],
            summary: $summary,
            kind: Kind::$kind,
            bytes: $bytes,
            schema: LazyLock::new(|| Arc::new(Schema::new(Kind::$kind).optional())),
        }
    };
}

pub(crate) static NUMBERS: [Number; 6] = [
    number!("BooleanConverter", "boolean", "A boolean as one byte.", Boolean, 1),
    number!("ShortConverter", "short", "A 16-bit integer, big-endian.", Int16, 2),
    number!("IntegerConverter", "integer", "A 32-bit integer, big-endian.", Int32, 4),
    number!("LongConverter", "long", "A 64-bit integer, big-endian.", Int64, 8),
    number!("FloatConverter", "float", "A 32-bit IEEE 754 number, big-endian.", Float32, 4),
    number!("DoubleConverter", "double", "A 64-bit IEEE 754 number, big-endian.", Float64, 8),
];

/// A converter by class, with its own options (without `value.converter.` before them).
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConverterConfig {
    class: String,
    options: Options,
}

impl ConverterConfig {
    /// `value.converter` and `value.converter.*` of the connector; where it names none, the worker's, with the worker's options.
    fn of(key: &str, connector: &Options, worker: &Options, default: &str) -> Self {
        let from = [connector, worker].into_iter().find(|options| options.contains_key(key));
        let Some(from) = from else {
            return Self { class: default.to_owned(), options: Options::new() };
        };
        let prefix = format!("{key}.");
        let own = from.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        Self {
            class: from[key].trim().to_owned(),
            options: own
                .map(|(key, value)| (key[prefix.len()..].to_owned(), value.clone()))
                .filter(|(key, _)| key != "plugin.version")
                .collect(),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct NoOptions {}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TextConfig {
    /// How text is encoded. Only UTF-8.
    #[serde(rename = "converter.encoding", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Converter"))]
    #[expect(dead_code, reason = "read to be checked: there is one")]
    encoding: Encoding,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
enum Encoding {
    #[default]
    #[serde(rename = "UTF-8", alias = "UTF8", alias = "utf-8", alias = "utf8")]
    #[schemars(rename = "UTF-8")]
    Utf8,
}

/// The converters of one task, for keys, values and headers.
///
/// Where a converter has nothing to do — string and bytes converters on bytes, `SimpleHeaderConverter` on bytes — the batch passes as it is:
/// no record of it is looked at. So, other than in Kafka Connect, text is not checked for UTF-8 and header values are not parsed into
/// numbers and lists on their way to a sink.
#[derive(Debug)]
pub struct Converters {
    key: Converter,
    value: Converter,
    header: Converter,
}

#[derive(Debug)]
struct Converter {
    class: &'static str,
    stage: Stage,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Text,
    Bytes,
    Plain,
    Simple,
    Number(&'static Number),
    /// Its schemas are cached; only the task that owns the converter ever locks it.
    Json(Box<Mutex<Json>>),
}

/// A chunk whose buffer has grown beyond this is ended: spans reach 4 GiB.
const BUFFER_BYTES_MAX: usize = 1 << 30;

impl Converters {
    /// Of a connector's config, with the worker's config for what it does not say. Where neither names a converter: `plain` for keys and
    /// values, `SimpleHeaderConverter` for headers.
    ///
    /// # Errors
    /// Every issue, at `key.converter`, `value.converter.decimal.format`, …
    pub fn new(connector: &Options, worker: &Options) -> Result<Self, Vec<Issue>> {
        let make =
            |kind, key, stage, default| Converter::new(kind, key, stage, &ConverterConfig::of(key, connector, worker, default));
        let key = make(PartKind::Converter, "key.converter", Stage::KeyConverter, PLAIN);
        let value = make(PartKind::Converter, "value.converter", Stage::ValueConverter, PLAIN);
        let header = make(PartKind::HeaderConverter, "header.converter", Stage::HeaderConverter, SIMPLE);
        match (key, value, header) {
            (Ok(key), Ok(value), Ok(header)) => Ok(Self { key, value, header }),
            (key, value, header) => Err([key.err(), value.err(), header.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// What a sink does not look at in values is not decoded from here on.
    pub fn project(&mut self, projection: Projection) {
        if let Format::Json(json) = &mut self.value.format {
            json.get_mut().project(projection);
        }
    }

    /// Source side: everything to bytes. Records that cannot be encoded go to `rejects`, as they were.
    pub fn encode(&self, batch: Batch, rejects: &mut Rejects) -> Batch {
        if !self.encodes(&batch) {
            return batch;
        }
        let mut out = Batch::new();
        for chunk in batch.into_chunks() {
            if self.changes(&chunk) {
                self.encode_chunk(&chunk, &mut out, rejects);
            } else {
                out.push_chunk(chunk);
            }
        }
        out
    }

    /// Whether [`Converters::encode`] has anything to do.
    pub fn encodes(&self, batch: &Batch) -> bool {
        batch.chunks().iter().any(|chunk| self.changes(chunk))
    }

    /// Sink side: bytes to what the converters say. Records that cannot be decoded go to `rejects`, as they were in the log.
    pub fn decode(&self, batch: Batch, rejects: &mut Rejects) -> Batch {
        if !batch.chunks().iter().any(|chunk| self.parses(chunk)) {
            return batch;
        }
        let mut out = BatchBuilder::new();
        for chunk in batch.into_chunks() {
            if !self.parses(&chunk) {
                out.push_chunk(chunk);
                continue;
            }
            for record in chunk.iter() {
                let mut decoded = record.to_record();
                let failed = 'failed: {
                    if let Err(error) = self.key.decode(&mut decoded.key) {
                        break 'failed Some((&self.key, error));
                    }
                    if let Err(error) = self.value.decode(&mut decoded.value) {
                        break 'failed Some((&self.value, error));
                    }
                    let failed = decoded.headers.iter_mut().find_map(|header| self.header.decode(&mut header.value).err());
                    failed.map(|error| (&self.header, error))
                };
                match failed {
                    None => out.push(decoded),
                    Some((converter, error)) => rejects.push(record.to_record(), converter.stage, converter.class, error),
                }
            }
        }
        out.finish()
    }

    /// What a source's own encoder writes keys and values with.
    pub(crate) fn parts(&self) -> Option<(Json, Json)> {
        self.header.takes_bytes().then_some(())?;
        Some((self.key.part()?, self.value.part()?))
    }

    /// Whether encoding changes anything in the chunk. Looks at records only where a converter is not one for bytes.
    fn changes(&self, chunk: &Chunk) -> bool {
        !chunk.is_encoded() && (chunk.has_data() || self.parses(chunk))
    }

    fn parses(&self, chunk: &Chunk) -> bool {
        (!self.value.takes_bytes() && chunk.iter().any(|record| !record.value().is_null()))
            || (!self.key.takes_bytes() && chunk.iter().any(|record| !record.key().is_null()))
            || (!self.header.takes_bytes() && chunk.iter().any(|record| !record.headers().is_empty()))
    }

    fn encode_chunk(&self, chunk: &Chunk, out: &mut Batch, rejects: &mut Rejects) {
        let fresh = || {
            let mut builder = ChunkBuilder::new(chunk.topic.clone()).partition(chunk.partition).origin(chunk.origin.clone());
            builder.reserve(chunk.len());
            builder
        };
        let (mut builder, mut buffer) = (fresh(), Vec::with_capacity(chunk.buffer().len() * 2));
        // Of the record that was pushed last.
        let mut before: Option<&[Header]> = None;
        for record in chunk.iter() {
            if buffer.len() > BUFFER_BYTES_MAX {
                let full = std::mem::replace(&mut builder, fresh());
                out.push_chunk(full.finish(std::mem::take(&mut buffer).into()));
                before = None;
            }
            let start = buffer.len();
            let as_before = before.is_some_and(|before| std::ptr::eq(before, record.headers()));
            match self.encode_record(record, as_before, &mut buffer) {
                Ok((key, value, headers)) => {
                    let offset = record.origin().map_or(-1, |(_, offset)| offset);
                    builder.push_span(key, value, record.timestamp(), offset);
                    if as_before {
                        builder.headers_as_before();
                    }
                    for header in headers {
                        builder.header(header.name, header.value);
                    }
                    before = Some(record.headers());
                }
                Err((converter, error)) => {
                    buffer.truncate(start);
                    rejects.push(record.to_record(), converter.stage, converter.class, error);
                }
            }
        }
        out.push_chunk(builder.finish(buffer.into()));
    }

    #[expect(clippy::type_complexity, reason = "the parts of a record, and which converter failed")]
    fn encode_record(
        &self,
        record: RecordRef<'_>,
        as_before: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(Option<Span>, Option<Span>, Vec<Header>), (&Converter, Error)> {
        let key = self.key.encode_span(record.key(), buffer).map_err(|error| (&self.key, error))?;
        let value = self.value.encode_span(record.value(), buffer).map_err(|error| (&self.value, error))?;
        let headers = if as_before { &[] } else { record.headers() };
        let headers = headers.iter().map(|header| {
            let value = self.header.encode_header(&header.value)?;
            Ok(Header { name: header.name.clone(), value })
        });
        let headers = headers.collect::<Result<_>>().map_err(|error| (&self.header, error))?;
        Ok((key, value, headers))
    }
}

impl Converter {
    fn new(kind: PartKind, path: &str, stage: Stage, config: &ConverterConfig) -> Result<Self, Vec<Issue>> {
        let part = find(kind, &config.class, path)?;
        let format = match part.class {
            JSON => Format::Json(Box::new(Mutex::new(Json::new(&options::<JsonConfig>(path, &config.options)?)))),
            STRING => options::<TextConfig>(path, &config.options).map(|_| Format::Text)?,
            SIMPLE => Format::Simple,
            PLAIN => Format::Plain,
            class => NUMBERS.iter().find(|number| number.class == class).map_or(Format::Bytes, Format::Number),
        };
        Ok(Self { class: part.class, stage, format })
    }

    /// What it writes structs with.
    fn part(&self) -> Option<Json> {
        match &self.format {
            Format::Json(json) => Some(json.lock().fresh()),
            Format::Plain => Some(Json::plain()),
            _ => None,
        }
    }

    /// Whether bytes pass unchanged, in both directions.
    fn takes_bytes(&self) -> bool {
        matches!(self.format, Format::Text | Format::Bytes | Format::Plain | Format::Simple)
    }

    fn encode_span(&self, payload: PayloadRef<'_>, buffer: &mut Vec<u8>) -> Result<Option<Span>> {
        let start = buffer.len();
        if !self.encode(payload, buffer)? {
            return Ok(None);
        }
        match (u32::try_from(start), u32::try_from(buffer.len() - start)) {
            (Ok(start), Ok(len)) if start.checked_add(len).is_some() => Ok(Some(Span { start, len })),
            _ => Err(Error::fatal("converter.size", "the encoded record is larger than 3 GiB")),
        }
    }

    fn encode_header(&self, payload: &Payload) -> Result<Payload> {
        if self.takes_bytes() && !matches!(payload, Payload::Data(_)) {
            return Ok(payload.clone());
        }
        let mut buffer = Vec::new();
        Ok(if self.encode(payload.as_ref(), &mut buffer)? { Payload::Bytes(buffer.into()) } else { Payload::Null })
    }

    /// Appends the encoded payload; false for null.
    fn encode(&self, payload: PayloadRef<'_>, out: &mut Vec<u8>) -> Result<bool> {
        match (&self.format, payload) {
            (Format::Json(json), payload) => return json.lock().encode(payload, out),
            (_, PayloadRef::Null) => return Ok(false),
            (_, PayloadRef::Data(structured)) if structured.data.is_null() => return Ok(false),
            (Format::Text | Format::Bytes | Format::Plain | Format::Simple, PayloadRef::Bytes(bytes)) => {
                out.extend_from_slice(bytes)
            }
            (Format::Text, PayloadRef::Data(value)) => write_text(out, value.schema.as_deref(), &value.data, Dress::Java, false),
            (Format::Simple, PayloadRef::Data(value)) => {
                write_text(out, value.schema.as_deref(), &value.data, Dress::Connect, false)
            }
            (Format::Plain, PayloadRef::Data(value)) => match &value.data {
                Data::String(text) => out.extend_from_slice(text.as_bytes()),
                Data::Bytes(bytes) => out.extend_from_slice(bytes),
                _ => json::write_plain(out, value)?,
            },
            (Format::Bytes, PayloadRef::Data(value)) => match &value.data {
                Data::Bytes(bytes) => out.extend_from_slice(bytes),
                other => return Err(incompatible(self.class, class_of(other))),
            },
            (Format::Number(_), PayloadRef::Bytes(_)) => return Err(incompatible(self.class, "java.lang.String")),
            (Format::Number(number), PayloadRef::Data(value)) => match (number.kind, &value.data) {
                (Kind::Boolean, Data::Boolean(value)) => out.push(u8::from(*value)),
                (Kind::Int16, Data::Int16(value)) => out.extend_from_slice(&value.to_be_bytes()),
                (Kind::Int32, Data::Int32(value)) => out.extend_from_slice(&value.to_be_bytes()),
                (Kind::Int64, Data::Int64(value)) => out.extend_from_slice(&value.to_be_bytes()),
                (Kind::Float32, Data::Float32(value)) => out.extend_from_slice(&value.to_be_bytes()),
                (Kind::Float64, Data::Float64(value)) => out.extend_from_slice(&value.to_be_bytes()),
                (_, other) => return Err(incompatible(self.class, class_of(other))),
            },
        }
        Ok(true)
    }

    fn decode(&self, payload: &mut Payload) -> Result<()> {
        let Payload::Bytes(bytes) = payload else { return Ok(()) };
        match &self.format {
            Format::Text | Format::Bytes | Format::Plain | Format::Simple => {}
            Format::Json(json) => *payload = json.lock().decode(bytes)?,
            Format::Number(number) => *payload = Payload::data(Some(number.schema.clone()), number.decode(bytes)?),
        }
        Ok(())
    }
}

impl Number {
    fn decode(&self, bytes: &Bytes) -> Result<Data> {
        let wrong = || Error::fatal("converter.size", format!("Size of data received is {}, not {}", bytes.len(), self.bytes));
        macro_rules! read {
            ($type:ty, $variant:ident) => {
                Data::$variant(<$type>::from_be_bytes(bytes[..].try_into().map_err(|_| wrong())?))
            };
        }
        Ok(match (self.kind, &bytes[..]) {
            (Kind::Boolean, [value @ (0 | 1)]) => Data::Boolean(*value == 1),
            (Kind::Boolean, [other]) => return Err(Error::fatal("converter.type", format!("Unexpected byte received: {other}"))),
            (Kind::Int16, _) => read!(i16, Int16),
            (Kind::Int32, _) => read!(i32, Int32),
            (Kind::Int64, _) => read!(i64, Int64),
            (Kind::Float32, _) => read!(f32, Float32),
            (Kind::Float64, _) => read!(f64, Float64),
            _ => return Err(wrong()),
        })
    }
}

fn incompatible(converter: &str, class: &str) -> Error {
    let name = converter.rsplit('.').next().unwrap_or(converter);
    Error::fatal("converter.type", format!("{name} is not compatible with objects of type class {class}"))
}

/// Typed options, with issues at `path.<key>`.
pub(crate) fn options<C: serde::de::DeserializeOwned + JsonSchema>(path: &str, options: &Options) -> Result<C, Vec<Issue>> {
    parse::<C>(options).map_err(|issues| issues.into_iter().map(|issue| below(path, issue)).collect())
}

/// The issue of a part's own option as one of the connector's.
pub(crate) fn below(path: &str, mut issue: Issue) -> Issue {
    if issue.code == "config.missing" {
        issue.fix = issue.fix.map(|fix| fix.replacen("add `", &format!("add `{path}."), 1));
    }
    issue.path = if issue.path.is_empty() { path.to_owned() } else { format!("{path}.{}", issue.path) };
    issue
}

#[cfg(test)]
mod tests;
