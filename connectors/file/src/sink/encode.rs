//! Records as text: lines, JSON lines, CSV.

use super::json;
use aqueduct_core::{Data, Error, PayloadRef, RecordRef, Rejects, Result, Schema, Stage, Structured};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Write;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The value and a line feed.
    #[default]
    Lines,
    /// A JSON object in one line.
    Json,
    /// A row with quotes where needed (RFC 4180, lines end in a line feed).
    Csv,
}

impl Format {
    pub(super) fn extension(self) -> &'static str {
        match self {
            Format::Lines => "log",
            Format::Json => "jsonl",
            Format::Csv => "csv",
        }
    }
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    Key,
    Value,
    Headers,
    Timestamp,
    Topic,
    Partition,
    Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    name: String,
    source: Source,
    /// Below the key or value.
    path: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Field(Field),
    Header(String),
}

impl Column {
    /// `value.a.b`, or `name=value.a.b`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or((text, text));
        let (name, path) = (name.trim().to_owned(), path.trim());
        let column = |source, path: &str| {
            let path: Vec<String> = path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            Ok(Column { name: name.clone(), source, path })
        };
        let (head, rest) = path.split_once('.').unwrap_or((path, ""));
        match (head, rest) {
            ("header", header) if !header.is_empty() => column(Source::Header(header.to_owned()), ""),
            ("key", rest) => column(Source::Field(Field::Key), rest),
            ("value", rest) => column(Source::Field(Field::Value), rest),
            ("timestamp", "") => column(Source::Field(Field::Timestamp), ""),
            ("topic", "") => column(Source::Field(Field::Topic), ""),
            ("partition", "") => column(Source::Field(Field::Partition), ""),
            ("offset", "") => column(Source::Field(Field::Offset), ""),
            _ => Err(format!("{path:?} is no column")),
        }
    }
}

pub(super) struct Encoder {
    pub(super) format: Format,
    pub(super) fields: Vec<Field>,
    pub(super) envelope: bool,
    pub(super) columns: Vec<Column>,
    pub(super) header: bool,
    pub(super) delimiter: u8,
    /// A null value in `lines`.
    pub(super) null: &'static [u8],
}

impl Encoder {
    /// Appends one line.
    ///
    /// # Errors
    /// `file_sink.not_an_object`, for this record alone; `out` is as before then.
    #[inline]
    pub(super) fn encode(&self, record: RecordRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        if self.format == Format::Lines {
            match record.value() {
                PayloadRef::Bytes(bytes) => out.extend_from_slice(bytes),
                PayloadRef::Null => out.extend_from_slice(self.null),
                PayloadRef::Data(Structured { data: Data::String(text), .. }) => out.extend_from_slice(text.as_bytes()),
                PayloadRef::Data(Structured { data: Data::Bytes(bytes), .. }) => out.extend_from_slice(bytes),
                PayloadRef::Data(Structured { data: Data::Null, .. }) => out.extend_from_slice(self.null),
                PayloadRef::Data(structured) => json::structured(structured, out),
            }
        } else {
            let start = out.len();
            if self.format == Format::Json {
                self.json(record, out);
            } else if let Err(error) = self.row(record, out) {
                out.truncate(start);
                return Err(error);
            }
        }
        out.push(b'\n');
        Ok(())
    }

    /// # Errors
    /// As [`Encoder::encode`], which writes.
    pub(super) fn check(&self, record: RecordRef<'_>) -> Result<()> {
        if self.format == Format::Csv { self.encode(record, &mut Vec::new()) } else { Ok(()) }
    }

    /// What a file begins with.
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        if self.format == Format::Csv && self.header {
            for (index, column) in self.columns.iter().enumerate() {
                if index > 0 {
                    out.push(self.delimiter);
                }
                self.cell(column.name.as_bytes(), out);
            }
            out.push(b'\n');
        }
    }

    fn json(&self, record: RecordRef<'_>, out: &mut Vec<u8>) {
        if !self.envelope {
            return self.fields.first().map_or((), |field| json_field(*field, record, out));
        }
        for (index, field) in self.fields.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
            out.extend_from_slice(match field {
                Field::Key => b"key",
                Field::Value => b"value",
                Field::Headers => b"headers",
                Field::Timestamp => b"timestamp",
                Field::Topic => b"topic",
                Field::Partition => b"partition",
                Field::Offset => b"offset",
            });
            out.extend_from_slice(b"\":");
            json_field(*field, record, out);
        }
        out.push(b'}');
    }

    fn row(&self, record: RecordRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        // Parsed once for each record, and only if a column looks inside.
        let looks_inside =
            |field| self.columns.iter().any(|column| column.source == Source::Field(field) && !column.path.is_empty());
        let key = looks_inside(Field::Key).then(|| Tree::of(record.key())).transpose()?;
        let value = looks_inside(Field::Value).then(|| Tree::of(record.value())).transpose()?;
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(self.delimiter);
            }
            match &column.source {
                Source::Header(name) => {
                    let header = record.headers().iter().rev().find(|header| *header.name == **name);
                    self.payload(header.map_or(PayloadRef::Null, |header| header.value.as_ref()), out);
                }
                Source::Field(Field::Key) if column.path.is_empty() => self.payload(record.key(), out),
                Source::Field(Field::Value) if column.path.is_empty() => self.payload(record.value(), out),
                Source::Field(field @ (Field::Key | Field::Value)) => {
                    if let Some(tree) = if *field == Field::Key { &key } else { &value } {
                        self.inside(tree, &column.path, out);
                    }
                }
                Source::Field(Field::Topic) => self.cell(record.topic().as_bytes(), out),
                Source::Field(field) => number(*field, record, b"", out),
            }
        }
        Ok(())
    }

    fn inside(&self, tree: &Tree<'_>, path: &[String], out: &mut Vec<u8>) {
        match tree {
            Tree::Null => {}
            Tree::Data(structured) => {
                let mut at = (&structured.data, structured.schema.as_deref());
                for name in path {
                    match child(at, name) {
                        Some(found) => at = found,
                        None => return,
                    }
                }
                self.data(at.0, at.1, out);
            }
            Tree::Json(value) => {
                let found = path.iter().try_fold(value, |value, name| value.get(name));
                match found {
                    None | Some(serde_json::Value::Null) => {}
                    Some(serde_json::Value::String(text)) => self.cell(text.as_bytes(), out),
                    Some(other) => self.cell(other.to_string().as_bytes(), out),
                }
            }
        }
    }

    fn payload(&self, payload: PayloadRef<'_>, out: &mut Vec<u8>) {
        match payload {
            PayloadRef::Null => {}
            PayloadRef::Bytes(bytes) => self.cell(bytes, out),
            PayloadRef::Data(structured) => self.data(&structured.data, structured.schema.as_deref(), out),
        }
    }

    fn data(&self, data: &Data, schema: Option<&Schema>, out: &mut Vec<u8>) {
        match data {
            Data::Null => {}
            Data::String(text) => self.cell(text.as_bytes(), out),
            other => {
                let mut text = Vec::new();
                json::data(other, schema, &mut text);
                // Text such as base64 comes with JSON's quotes.
                let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(&text);
                self.cell(text, out);
            }
        }
    }

    /// Null is nothing at all, and so an empty text has quotes.
    fn cell(&self, text: &[u8], out: &mut Vec<u8>) {
        let plain = |byte: &u8| !matches!(byte, b'"' | b'\n' | b'\r') && *byte != self.delimiter;
        if !text.is_empty() && text.iter().all(plain) {
            return out.extend_from_slice(text);
        }
        out.push(b'"');
        for byte in text {
            if *byte == b'"' {
                out.push(b'"');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
}

pub(super) fn refuse(record: RecordRef<'_>, error: Error, rejects: &mut Rejects) {
    rejects.push(record.to_record(), Stage::TaskPut, "file-sink", error);
}

enum Tree<'a> {
    Null,
    Data(&'a Structured),
    Json(serde_json::Value),
}

impl<'a> Tree<'a> {
    fn of(payload: PayloadRef<'a>) -> Result<Self> {
        match payload {
            PayloadRef::Null => Ok(Tree::Null),
            PayloadRef::Data(structured) => Ok(Tree::Data(structured)),
            PayloadRef::Bytes(bytes) => match serde_json::from_slice(bytes) {
                Ok(value @ serde_json::Value::Object(_)) => Ok(Tree::Json(value)),
                Ok(_) => Err(not_an_object()),
                Err(error) => Err(not_an_object().because(error)),
            },
        }
    }
}

fn not_an_object() -> Error {
    Error::fatal("file_sink.not_an_object", "a column looks for a field in bytes that are no JSON object")
        .fix("name a converter that fits the topic, or take the whole key or value as a column")
}

fn child<'a>((data, schema): (&'a Data, Option<&'a Schema>), name: &str) -> Option<(&'a Data, Option<&'a Schema>)> {
    match data {
        Data::Struct(values) => {
            let schema = schema?;
            let index = schema.field_index(name)?;
            Some((values.get(index)?, Some(&schema.fields[index].schema)))
        }
        Data::Map(entries) => {
            let (_, value) = entries.iter().find(|(key, _)| key.as_str() == Some(name))?;
            Some((value, schema.and_then(|schema| schema.values.as_deref())))
        }
        _ => None,
    }
}

fn json_field(field: Field, record: RecordRef<'_>, out: &mut Vec<u8>) {
    match field {
        Field::Key => json::payload(record.key(), true, out),
        Field::Value => json::payload(record.value(), true, out),
        Field::Topic => json::string(record.topic(), out),
        // A list, since a name may come twice and their order counts.
        Field::Headers => json::list(out, record.headers(), |header, out| {
            out.extend_from_slice(b"{\"key\":");
            json::string(&header.name, out);
            out.extend_from_slice(b",\"value\":");
            json::payload(header.value.as_ref(), true, out);
            out.push(b'}');
        }),
        number_field => number(number_field, record, b"null", out),
    }
}

fn number(field: Field, record: RecordRef<'_>, none: &[u8], out: &mut Vec<u8>) {
    let number = match field {
        Field::Timestamp => record.timestamp(),
        Field::Partition => record.origin().map(|(origin, _)| i64::from(origin.partition)).or(record.partition().map(i64::from)),
        _ => record.origin().map(|(_, offset)| offset),
    };
    match number {
        Some(number) => write!(out, "{number}").expect("a vector takes all"),
        None => out.extend_from_slice(none),
    }
}
