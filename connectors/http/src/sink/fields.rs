//! What templates may name of a record.

use super::json;
use crate::client::Value;
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, PayloadRef, RecordRef, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::cell::OnceCell;

/// `${…}`: `topic`, `partition`, `offset`, `timestamp`, `key`, `value`, `key.a.b`, `value.a.b`, `header.name`.
pub(super) fn is_known(name: &str) -> bool {
    // These come of a brace that is not closed where it was meant to be.
    let family = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains(['"', '$', '{']));
    matches!(name, "topic" | "partition" | "offset" | "timestamp" | "key" | "value")
        || family("key.")
        || family("value.")
        || family("header.")
}

/// The same for all records of one key: what is made of such names alone reorders nothing.
pub(super) fn is_of_the_key(name: &str) -> bool {
    matches!(name, "topic" | "partition" | "key") || name.starts_with("key.")
}

/// A record as a template sees it. Bytes that are JSON are parsed once, when a field of them is asked for.
pub(super) struct Fields<'a> {
    record: RecordRef<'a>,
    key: OnceCell<Option<serde_json::Value>>,
    value: OnceCell<Option<serde_json::Value>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(record: RecordRef<'a>) -> Self {
        Self { record, key: OnceCell::new(), value: OnceCell::new() }
    }

    /// Null and what is not there are none.
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let record = self.record;
        match name {
            "topic" => Some(Value::from(&**record.topic())),
            "partition" => record.origin().map(|(partition, _)| partition.partition).or(record.partition()).map(number),
            "offset" => record.origin().map(|(_, offset)| number(offset)),
            "timestamp" => record.timestamp().map(number),
            "key" => whole(record.key()),
            "value" => whole(record.value()),
            _ => {
                let (side, path) = name.split_once('.')?;
                match side {
                    "key" => field(record.key(), &self.key, path),
                    "value" => field(record.value(), &self.value, path),
                    _ => {
                        let header = record.headers().iter().rev().find(|header| &*header.name == path)?;
                        match header.value.as_ref() {
                            PayloadRef::Bytes(bytes) => Some(bytes_value(bytes)),
                            PayloadRef::Data(structured) => of_data(&structured.data, structured.schema.as_deref()),
                            PayloadRef::Null => None,
                        }
                    }
                }
            }
        }
    }
}

fn number(number: impl ToString) -> Value<'static> {
    Value::from(number.to_string())
}

fn whole(payload: PayloadRef<'_>) -> Option<Value<'_>> {
    match payload {
        PayloadRef::Null => None,
        PayloadRef::Bytes(bytes) => Some(bytes_value(bytes)),
        PayloadRef::Data(structured) => of_data(&structured.data, structured.schema.as_deref()),
    }
}

/// JSON stands as it is in a body; other text is escaped as its place needs.
fn bytes_value(bytes: &[u8]) -> Value<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !json::is_json(bytes) => Value::from(text),
        _ => Value::Raw(Cow::Borrowed(bytes)),
    }
}

fn field<'a>(payload: PayloadRef<'a>, parsed: &OnceCell<Option<serde_json::Value>>, path: &str) -> Option<Value<'a>> {
    match payload {
        PayloadRef::Null => None,
        PayloadRef::Data(structured) => {
            let (mut data, mut schema) = (&structured.data, structured.schema.as_deref());
            for name in path.split('.') {
                (data, schema) = child(data, schema, name)?;
            }
            of_data(data, schema)
        }
        PayloadRef::Bytes(bytes) => {
            let json = parsed.get_or_init(|| serde_json::from_slice(bytes).ok()).as_ref()?;
            let found = path.split('.').try_fold(json, |json, name| match json {
                serde_json::Value::Array(items) => items.get(name.parse::<usize>().ok()?),
                other => other.get(name),
            })?;
            match found {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(Value::from(text.clone())),
                serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                    Some(Value::Raw(found.to_string().into_bytes().into()))
                }
                scalar => Some(Value::from(scalar.to_string())),
            }
        }
    }
}

fn child<'a>(data: &'a Data, schema: Option<&'a Schema>, name: &str) -> Option<(&'a Data, Option<&'a Schema>)> {
    match data {
        Data::Struct(values) => {
            let schema = schema.filter(|schema| schema.kind == Kind::Struct)?;
            let index = schema.field_index(name)?;
            Some((values.get(index)?, Some(&schema.fields[index].schema)))
        }
        Data::Map(entries) => {
            let (_, value) = entries.iter().find(|(key, _)| key.as_str() == Some(name))?;
            Some((value, schema.and_then(|schema| schema.values.as_deref())))
        }
        Data::Array(items) => Some((items.get(name.parse::<usize>().ok()?)?, schema.and_then(|schema| schema.values.as_deref()))),
        _ => None,
    }
}

fn of_data<'a>(data: &'a Data, schema: Option<&Schema>) -> Option<Value<'a>> {
    Some(match data {
        Data::Null | Data::Unavailable => return None,
        Data::Shared(shared) => return of_data(shared, schema),
        Data::String(text) => Value::from(text.as_str()),
        Data::Bytes(bytes) => Value::from(STANDARD.encode(bytes)),
        Data::Boolean(value) => number(value),
        Data::Int8(value) => number(value),
        Data::Int16(value) => number(value),
        Data::Int32(value) => number(value),
        Data::Int64(value) => number(value),
        Data::Float32(value) => number(value),
        Data::Float64(value) => number(value),
        Data::Array(_) | Data::Map(_) | Data::Struct(_) => {
            let mut out = Vec::new();
            json::data(data, schema, &mut out);
            Value::Raw(out.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Template;
    use aqueduct_core::{Batch, Header, Origin, Payload, Record, TopicPartition};
    use std::sync::Arc;

    fn render(template: &Template, record: Record) -> Result<String, String> {
        let batch: Batch = [record].into_iter().collect();
        let fields = Fields::new(batch.iter().next().unwrap());
        template.render(|name| fields.get(name)).map_err(|refused| refused.to_string())
    }

    fn record(value: impl Into<Payload>) -> Record {
        Record {
            key: "k/1".into(),
            partition: Some(3),
            timestamp: Some(99),
            headers: vec![Header { name: "tenant".into(), value: "acme".into() }],
            origin: Some(Origin { partition: Arc::new(TopicPartition::new("rides", 3)), offset: 42 }),
            ..Record::new("rides", value)
        }
    }

    #[test]
    fn a_record_has_names() {
        let url =
            Template::url("http://h/${topic}/${partition}/${offset}/${timestamp}/${key}/${header.tenant}/${value.a.b}").unwrap();
        let json = record(r#"{"a": {"b": "x y", "n": null, "l": [1, {"z": true}]}}"#.to_owned());
        assert_eq!(render(&url, json.clone()).unwrap(), "http://h/rides/3/42/99/k%2F1/acme/x%20y");
        let body = Template::json(r#"{"l": ${value.a.l}, "z": ${value.a.l.1.z}, "all": ${value}, "k": "${key}"}"#).unwrap();
        let text = render(&body, json.clone()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["z"], true);
        assert_eq!(parsed["l"][0], 1);
        assert_eq!(parsed["all"]["a"]["b"], "x y");
        assert!(
            render(&Template::body("${value.a.n}").unwrap(), json.clone()).unwrap_err().contains("${value.a.n} has no value")
        );
        assert_eq!(render(&Template::body("${value.none!-}").unwrap(), json).unwrap(), "-");
    }

    #[test]
    fn structured_values_have_the_same_names() {
        let inner = Schema::new(Kind::Struct).field("b", Schema::new(Kind::Int64));
        let schema = Arc::new(Schema::new(Kind::Struct).field("a", inner).field("m", Schema::new(Kind::Map)));
        let data = Data::Struct(vec![Data::Struct(vec![Data::Int64(5)]), Data::object([("x", Data::from("y"))])]);
        let record = record(Payload::data(Some(schema), data));
        let body = Template::json(r#"{"b": ${value.a.b}, "x": "${value.m.x}", "a": ${value.a}}"#).unwrap();
        assert_eq!(render(&body, record).unwrap(), r#"{"b": 5, "x": "y", "a": {"b":5}}"#);
    }

    #[test]
    fn only_what_a_record_has_is_known() {
        for name in ["topic", "key", "value", "value.a", "key.a.b", "header.x"] {
            assert!(is_known(name), "{name}");
        }
        for name in ["", "val", "value.", "value.a\"", "header", "env", "record.key"] {
            assert!(!is_known(name), "{name}");
        }
        assert!(is_of_the_key("key.id") && is_of_the_key("topic") && !is_of_the_key("value.id") && !is_of_the_key("offset"));
    }
}
