//! What a record says is to happen to a row: a Debezium envelope, a flat record, a tombstone.

use super::config::KeyMode;
use aqueduct_core::{Data, Payload, PayloadRef, Projection, RecordRef, Schema, Structured};
use std::borrow::Cow;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Change<'a> {
    /// Nothing: a logical message, or a delete where deletes are off.
    Skip,
    Write(Fields<'a>),
    /// The row as it was, where the event has it.
    Delete(Option<Fields<'a>>),
    Truncate,
}

/// The fields of a key or of a row.
#[derive(Clone, Debug)]
pub(super) enum Fields<'a> {
    Struct(&'a Arc<Schema>, &'a [Data]),
    Map(&'a [(Data, Data)]),
    /// No struct: a text, bytes, a number.
    Single(Option<&'a Arc<Schema>>, Cow<'a, Data>),
    Nothing,
}

impl<'a> Fields<'a> {
    pub(super) fn of(payload: PayloadRef<'a>) -> Self {
        match payload {
            PayloadRef::Null => Fields::Nothing,
            PayloadRef::Data(structured) => Self::of_data(structured.schema.as_ref(), &structured.data),
            // From a string or bytes converter.
            PayloadRef::Bytes(bytes) => Fields::Single(
                None,
                Cow::Owned(match std::str::from_utf8(bytes) {
                    Ok(text) => Data::String(text.to_owned()),
                    Err(_) => Data::Bytes(aqueduct_core::Bytes::copy_from_slice(bytes)),
                }),
            ),
        }
    }

    fn of_data(schema: Option<&'a Arc<Schema>>, data: &'a Data) -> Self {
        match (schema, data) {
            (_, Data::Null) => Fields::Nothing,
            (Some(schema), Data::Struct(values)) => Fields::Struct(schema, values),
            // A map with a schema has no fields that are known beforehand, but it may be all that a record is.
            (_, Data::Map(entries)) => Fields::Map(entries),
            (schema, data) => Fields::Single(schema, Cow::Borrowed(data)),
        }
    }

    /// By name.
    pub(super) fn get(&self, name: &str) -> Option<(Option<&'a Arc<Schema>>, &'a Data)> {
        match self {
            Fields::Struct(schema, values) => {
                let index = schema.field_index(name)?;
                Some((Some(&schema.fields[index].schema), values.get(index)?))
            }
            Fields::Map(entries) => entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| (None, value)),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.1.as_str()
    }

    pub(super) fn fields_of(&self, name: &str) -> Option<Fields<'a>> {
        let (schema, data) = self.get(name)?;
        if data.is_null() { None } else { Some(Self::of_data(schema, data)) }
    }
}

/// # Errors
/// The record cannot be one; the end of a sentence.
pub(super) fn change<'a>(record: RecordRef<'a>, delete: bool, truncate: bool) -> Result<Change<'a>, String> {
    let value = Fields::of(record.value());
    if matches!(value, Fields::Nothing) {
        return Ok(if delete { Change::Delete(None) } else { Change::Skip });
    }
    if !is_envelope(&value) {
        if value.get("ddl").is_some() && value.get("tableChanges").is_some() {
            return Err("it is a schema change of Debezium's: leave its topic out of topics or topics.regex".to_owned());
        }
        return Ok(Change::Write(value));
    }
    match value.text("op").unwrap_or_default() {
        "c" | "r" | "u" => match value.fields_of("after") {
            Some(row) => Ok(Change::Write(row)),
            None => Err("its envelope has no `after`".to_owned()),
        },
        "d" if delete => Ok(Change::Delete(value.fields_of("before"))),
        "t" if truncate => Ok(Change::Truncate),
        "d" | "t" | "m" => Ok(Change::Skip),
        other => Err(format!("its envelope has the operation {other:?}, which is none of c, r, u, d, t, m")),
    }
}

/// Of Debezium's envelope the sink looks at a few fields of `source`.
pub(super) fn projection(kept: Vec<String>) -> Projection {
    Projection {
        field: "source",
        kept,
        applies: |schema, data| match (schema, data) {
            (Some(schema), Data::Struct(values)) => is_envelope(&Fields::Struct(schema, values)),
            (None, Data::Map(entries)) => is_envelope(&Fields::Map(entries)),
            _ => false,
        },
    }
}

/// By the schema's name, and without a schema by its fields.
fn is_envelope(value: &Fields<'_>) -> bool {
    match value {
        Fields::Struct(schema, _) => match &schema.name {
            Some(name) if name.ends_with(".Envelope") || name == "Envelope" => true,
            _ => {
                schema.field_index("op").is_some()
                    && schema.field_index("after").is_some()
                    && schema.field_index("source").is_some()
            }
        },
        Fields::Map(_) => {
            value.text("op").is_some_and(|op| op.len() == 1)
                && value.get("source").is_some_and(|(_, source)| matches!(source, Data::Map(_)))
                && (value.get("after").is_some() || value.get("before").is_some() || matches!(value.text("op"), Some("t" | "m")))
        }
        _ => false,
    }
}

/// `source.<field>` of an envelope.
pub(super) fn source_field<'a>(record: RecordRef<'a>, field: &str) -> Option<Cow<'a, str>> {
    match Fields::of(record.value()).fields_of("source")?.get(field)?.1 {
        Data::String(text) => Some(Cow::Borrowed(text)),
        _ => None,
    }
}

/// Name, schema and value.
pub(super) type Named<'a> = (Arc<str>, Option<&'a Arc<Schema>>, Cow<'a, Data>);

/// What the key's columns are filled from.
pub(super) enum Key<'a> {
    /// These fields, or of these those that are named.
    Fields(Fields<'a>),
    /// They are in the row itself.
    InRow,
    /// Name by name: Kafka's coordinates, or headers.
    Named(Vec<Named<'a>>),
    None,
}

/// # Errors
/// The record has no such key; the end of a sentence.
pub(super) fn key<'a>(record: RecordRef<'a>, mode: KeyMode, names: &[Arc<str>]) -> Result<Key<'a>, String> {
    match mode {
        KeyMode::None => Ok(Key::None),
        KeyMode::RecordValue => Ok(Key::InRow),
        KeyMode::RecordKey => match Fields::of(record.key()) {
            Fields::Nothing => Err("it has no key, and pk.mode is record_key".to_owned()),
            fields => Ok(Key::Fields(fields)),
        },
        KeyMode::Kafka => {
            let (origin, offset) = record.origin().ok_or("it says not where it was read, and pk.mode is kafka")?;
            let place = [Data::from(&*origin.topic), Data::Int32(origin.partition), Data::Int64(offset)];
            Ok(Key::Named(names.iter().cloned().zip(place).map(|(name, data)| (name, None, Cow::Owned(data))).collect()))
        }
        KeyMode::RecordHeader => {
            let header = |name: &Arc<str>| {
                let header = record.headers().iter().rev().find(|header| header.name == *name);
                let header = header.ok_or_else(|| format!("it has no header {name}, which pk.fields names"))?;
                let (schema, data) = match &header.value {
                    Payload::Null => (None, Cow::Owned(Data::Null)),
                    Payload::Data(structured) => {
                        let Structured { schema, data } = &**structured;
                        (schema.as_ref(), Cow::Borrowed(data))
                    }
                    payload => match Fields::of(payload.as_ref()) {
                        Fields::Single(schema, data) => (schema, data),
                        _ => (None, Cow::Owned(Data::Null)),
                    },
                };
                Ok((name.clone(), schema, data))
            };
            names.iter().map(header).collect::<Result<_, String>>().map(Key::Named)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::schema::Kind;
    use aqueduct_core::{Batch, Record};

    fn with<T>(value: impl Into<Payload>, look: impl FnOnce(Result<Change<'_>, String>) -> T) -> T {
        let batch: Batch = [Record { value: value.into(), ..Record::new("t", Payload::Null) }].into_iter().collect();
        let record = batch.iter().next().unwrap();
        look(change(record, true, true))
    }

    fn event(op: &str, after: Data) -> Payload {
        let source = Data::object([("table", Data::from("t"))]);
        Payload::data(None, Data::object([("op", Data::from(op)), ("before", Data::Null), ("after", after), ("source", source)]))
    }

    #[test]
    fn envelopes_and_flat_records() {
        let row = Data::object([("id", Data::Int64(1))]);
        with(event("c", row), |change| assert!(matches!(change, Ok(Change::Write(Fields::Map(entries))) if entries.len() == 1)));
        with(event("d", Data::Null), |change| assert!(matches!(change, Ok(Change::Delete(None)))));
        with(event("t", Data::Null), |change| assert!(matches!(change, Ok(Change::Truncate))));
        with(event("m", Data::Null), |change| assert!(matches!(change, Ok(Change::Skip))));
        with(event("u", Data::Null), |change| assert!(change.unwrap_err().contains("`after`")));
        with(event("x", Data::Null), |change| assert!(change.is_err()));
        with(Payload::Null, |change| assert!(matches!(change, Ok(Change::Delete(None)))));
        // A flat record that has a column called op is no envelope.
        let flat = Data::object([("op", Data::from("c")), ("after", Data::from("lunch"))]);
        with(Payload::data(None, flat), |change| {
            assert!(matches!(change, Ok(Change::Write(Fields::Map(entries))) if entries.len() == 2))
        });
        with("text", |change| assert!(matches!(change, Ok(Change::Write(Fields::Single(..))))));
    }

    #[test]
    fn an_envelope_is_known_by_its_schema() {
        let row = Arc::new(Schema::new(Kind::Struct).optional().field("id", Schema::new(Kind::Int32)));
        let schema = Schema::new(Kind::Struct).named("shop.Envelope").field("after", row).field("op", Schema::new(Kind::String));
        let data = Data::Struct(vec![Data::Struct(vec![Data::Int32(1)]), Data::from("r")]);
        with(Payload::data(Some(Arc::new(schema)), data), |change| {
            assert!(matches!(change, Ok(Change::Write(Fields::Struct(schema, [Data::Int32(1)]))) if schema.fields.len() == 1));
        });
    }
}
