//! Wraps a key or value into a struct (or a map, where there is no schema) of one field.

use super::{Apply, Side, each};
use crate::cache::SchemaCache;
use crate::converters::options as typed;
use crate::parts::{PartDescriptor, transform};
use crate::predicates::When;
use crate::text::utf8;
use aqueduct_core::schema::Kind;
use aqueduct_core::{Batch, Data, Issue, Options, Payload, Rejects, Result, Schema};
use schemars::JsonSchema;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;

pub(super) const KEY: &str = "org.apache.kafka.connect.transforms.HoistField$Key";
pub(super) const VALUE: &str = "org.apache.kafka.connect.transforms.HoistField$Value";

#[derive(Debug, Deserialize, JsonSchema)]
struct Config {
    /// The name of the field.
    #[schemars(length(min = 1), extend("x-importance" = "medium", "x-group" = "Transform", "x-example" = "line"))]
    field: String,
}

pub(super) fn parts() -> Vec<PartDescriptor> {
    [KEY, VALUE].map(|class| transform::<Config>(class, "Wraps the whole in a struct or map with one field.")).into()
}

pub(super) struct HoistField {
    side: Side,
    field: String,
    /// Of text and of bytes that came without a schema: what Kafka Connect's sources and string converter give them.
    text: Arc<Schema>,
    bytes: Arc<Schema>,
    schemas: SchemaCache<Arc<Schema>>,
}

impl HoistField {
    pub(super) fn new(side: Side, path: &str, own: &Options) -> Result<Self, Vec<Issue>> {
        let Config { field } = typed(path, own)?;
        let of = |kind| Arc::new(Schema::new(Kind::Struct).field(field.as_str(), Schema::new(kind)));
        Ok(Self { side, text: of(Kind::String), bytes: of(Kind::Bytes), field, schemas: SchemaCache::new(16) })
    }

    fn hoisted(&mut self, payload: Payload) -> Payload {
        match payload {
            Payload::Null => Payload::data(None, Data::object([(self.field.as_str(), Data::Null)])),
            Payload::Bytes(bytes) => match utf8(&bytes) {
                Some(text) => Payload::data(Some(self.text.clone()), Data::Struct(vec![text.into()])),
                None => Payload::data(Some(self.bytes.clone()), Data::Struct(vec![bytes.into()])),
            },
            Payload::Data(value) => match value.schema {
                None => Payload::data(None, Data::object([(self.field.as_str(), value.data)])),
                Some(schema) => {
                    let field = self.field.as_str();
                    let made = self
                        .schemas
                        .get(&schema, |_| Ok::<_, Infallible>(Arc::new(Schema::new(Kind::Struct).field(field, schema.clone()))));
                    let Ok(made) = made;
                    Payload::data(Some(made.clone()), Data::Struct(vec![value.data]))
                }
            },
        }
    }
}

impl Apply for HoistField {
    fn apply(&mut self, batch: Batch, when: &mut When, rejects: &mut Rejects) -> Batch {
        let side = self.side;
        each(batch, when, rejects, if side == Side::Key { KEY } else { VALUE }, |record| {
            let half = if side == Side::Key { &mut record.key } else { &mut record.value };
            *half = self.hoisted(std::mem::take(half));
            Ok(())
        })
    }
}
