//! Adds fields from the record's own data (topic, partition, offset, timestamp) or with a fixed text.

use super::{Apply, Side, each, unsupported};
use crate::cache::SchemaCache;
use crate::converters::options as typed;
use crate::json::yes;
use crate::parts::{PartDescriptor, transform};
use crate::predicates::When;
use crate::text::class_of;
use aqueduct_core::schema::{Field, Kind, logical};
use aqueduct_core::{Batch, Data, Error, Issue, Options, Payload, Record, Rejects, Result, Schema};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

const KEY: &str = "org.apache.kafka.connect.transforms.InsertField$Key";
const VALUE: &str = "org.apache.kafka.connect.transforms.InsertField$Value";
/// As in Kafka Connect.
const SCHEMAS_MAX: usize = 16;

#[derive(Debug, Deserialize, JsonSchema)]
struct Config {
    /// The field for the topic. Here and below: `!` at the end makes the field required, `?` optional, which is the default.
    #[serde(rename = "topic.field", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    topic: Option<String>,
    /// The field for the partition, where it is known.
    #[serde(rename = "partition.field", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    partition: Option<String>,
    /// The field for the offset. Only for sinks: a source's records have none yet.
    #[serde(rename = "offset.field", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    offset: Option<String>,
    /// The field for the record's timestamp, where it has one.
    #[serde(rename = "timestamp.field", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    timestamp: Option<String>,
    /// The field for a fixed text.
    #[serde(rename = "static.field", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    static_field: Option<String>,
    /// The fixed text.
    #[serde(rename = "static.value", default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    static_value: Option<String>,
    /// Null in a field that has a default becomes the default.
    #[serde(rename = "replace.null.with.default", default = "yes")]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Transform"))]
    replace_null: bool,
}

pub(super) fn parts() -> Vec<PartDescriptor> {
    [KEY, VALUE]
        .map(|class| {
            transform::<Config>(class, "Adds fields from the record's topic, partition, offset or timestamp, or a fixed text.")
        })
        .into()
}

#[derive(Debug)]
enum What {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Static(String),
}

#[derive(Debug)]
struct Insertion {
    name: Arc<str>,
    optional: bool,
    what: What,
}

pub(super) struct InsertField {
    side: Side,
    insertions: Vec<Insertion>,
    replace_null: bool,
    schemas: SchemaCache<Arc<Schema>>,
}

impl InsertField {
    pub(super) fn new(side: Side, path: &str, own: &Options) -> Result<Self, Vec<Issue>> {
        let config: Config = typed(path, own)?;
        let no_value = config.static_field.is_some() && config.static_value.is_none();
        let fields = [
            (config.topic, What::Topic),
            (config.partition, What::Partition),
            (config.offset, What::Offset),
            (config.timestamp, What::Timestamp),
            (config.static_field, What::Static(config.static_value.unwrap_or_default())),
        ];
        let insertions: Vec<Insertion> =
            fields.into_iter().filter_map(|(field, what)| Some(Insertion::new(&field?, what))).collect();
        if insertions.is_empty() {
            let issue = Issue::error(path, "config.missing", "No field insertion configured");
            return Err(vec![
                issue.fix("add topic.field, partition.field, offset.field, timestamp.field, or static.field with static.value"),
            ]);
        }
        if no_value {
            let issue = Issue::error(format!("{path}.static.value"), "config.missing", "No value specified for static field");
            return Err(vec![issue.fix("add static.value, the text to insert")]);
        }
        Ok(Self { side, insertions, replace_null: config.replace_null, schemas: SchemaCache::new(SCHEMAS_MAX) })
    }

    fn insert(&mut self, record: &mut Record) -> Result<()> {
        if is_null(&record.value) {
            return Ok(());
        }
        let half = if self.side == Side::Key { &mut record.key } else { &mut record.value };
        let (schema, data) = match std::mem::take(half) {
            Payload::Data(value) => (value.schema, value.data),
            Payload::Null => return Err(unsupported("Map objects supported in absence of schema", PURPOSE, "null")),
            Payload::Bytes(_) => {
                let error = unsupported("Struct objects supported", PURPOSE, "java.lang.String");
                return Err(error.fix("read the text with a JSON converter, or wrap it with HoistField first"));
            }
        };
        let inserted = match (schema, data) {
            (Some(schema), Data::Struct(values)) => self.with_struct(&schema, values, record)?,
            (None, Data::Map(entries)) => self.with_map(entries, record)?,
            (Some(_), other) => return Err(unsupported("Struct objects supported", PURPOSE, class_of(&other))),
            (None, other) => return Err(unsupported("Map objects supported in absence of schema", PURPOSE, class_of(&other))),
        };
        *(if self.side == Side::Key { &mut record.key } else { &mut record.value }) = inserted;
        Ok(())
    }

    fn with_map(&self, mut entries: Vec<(Data, Data)>, record: &Record) -> Result<Payload> {
        for insertion in &self.insertions {
            let Some(value) = insertion.value(record)? else { continue };
            match entries.iter_mut().find(|(key, _)| key.as_str() == Some(&insertion.name)) {
                Some((_, old)) => *old = value,
                None => entries.push((Data::String(insertion.name.to_string()), value)),
            }
        }
        Ok(Payload::data(None, Data::Map(entries)))
    }

    fn with_struct(&mut self, schema: &Arc<Schema>, mut values: Vec<Data>, record: &Record) -> Result<Payload> {
        let insertions = &self.insertions;
        let updated = self.schemas.get(schema, |schema| updated(schema, insertions))?.clone();
        if self.replace_null {
            for (value, field) in values.iter_mut().zip(&schema.fields).filter(|(value, _)| value.is_null()) {
                *value = field.schema.default.clone().unwrap_or(Data::Null);
            }
        }
        for insertion in insertions {
            let value = insertion.value(record)?;
            if value.is_none() && !insertion.optional {
                let message = format!("Invalid value: null used for required field: \"{}\"", insertion.name);
                return Err(Error::fatal("transform.null", message));
            }
            values.push(value.unwrap_or(Data::Null));
        }
        Ok(Payload::data(Some(updated), Data::Struct(values)))
    }
}

const PURPOSE: &str = "field insertion";

impl Insertion {
    fn new(field: &str, what: What) -> Self {
        let required = field.ends_with('!');
        Self { name: field.strip_suffix(['!', '?']).unwrap_or(field).into(), optional: !required, what }
    }

    /// `None` when the record does not have it.
    fn value(&self, record: &Record) -> Result<Option<Data>> {
        Ok(match &self.what {
            What::Topic => Some(Data::String(record.topic.to_string())),
            What::Partition => {
                record.partition.or_else(|| record.origin.as_ref().map(|origin| origin.partition.partition)).map(Data::Int32)
            }
            What::Offset => match &record.origin {
                Some(origin) => Some(Data::Int64(origin.offset)),
                None => {
                    return Err(Error::fatal("transform.no_offset", "Offset insertion is only supported for sink connectors"));
                }
            },
            What::Timestamp => record.timestamp.map(Data::Int64),
            What::Static(text) => Some(Data::String(text.clone())),
        })
    }

    fn schema(&self) -> Schema {
        let schema = match self.what {
            What::Topic | What::Static(_) => Schema::new(Kind::String),
            What::Partition => Schema::new(Kind::Int32),
            What::Offset => Schema::new(Kind::Int64),
            What::Timestamp => Schema { version: Some(1), ..Schema::new(Kind::Int64).named(logical::TIMESTAMP) },
        };
        if self.optional { schema.optional() } else { schema }
    }
}

/// As `SchemaUtil.copySchemaBasics`: name, version, doc and parameters stay; optional and default do not.
fn updated(schema: &Schema, insertions: &[Insertion]) -> Result<Arc<Schema>> {
    let mut updated = Schema { optional: false, default: None, ..schema.clone() };
    for insertion in insertions {
        if updated.field_index(&insertion.name).is_some() {
            let message = format!("Cannot create field because of field name duplication {}", insertion.name);
            return Err(Error::fatal("transform.duplicate_field", message).fix("choose a name that the records do not have yet"));
        }
        updated.fields.push(Field { name: insertion.name.clone(), schema: Arc::new(insertion.schema()) });
    }
    Ok(Arc::new(updated))
}

fn is_null(payload: &Payload) -> bool {
    match payload {
        Payload::Null => true,
        Payload::Data(value) => value.data.is_null(),
        Payload::Bytes(_) => false,
    }
}

impl Apply for InsertField {
    fn apply(&mut self, batch: Batch, when: &mut When, rejects: &mut Rejects) -> Batch {
        let class = if self.side == Side::Key { KEY } else { VALUE };
        each(batch, when, rejects, class, |record| self.insert(record))
    }
}
