//! `mqtt.topic`: a record's topic from its parts. What a part may hold is checked on the result, so that no value can make a wildcard of itself.

use crate::topic;
use aqueduct_core::{Data, PayloadRef, RecordRef, Structured};
use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
    Value(Vec<String>),
    Header(String),
}

impl Template {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find("${") {
            let Some(end) = rest[at..].find('}') else { return Err(format!("{text:?} has a ${{ that is not closed")) };
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let name = &rest[at + 2..at + end];
            parts.push(match name.split_once('.') {
                None if name == "topic" => Part::Topic,
                None if name == "key" => Part::Key,
                Some(("value", path)) if !path.split('.').any(str::is_empty) => {
                    Part::Value(path.split('.').map(str::to_owned).collect())
                }
                Some(("header", header)) if !header.is_empty() => Part::Header(header.to_owned()),
                _ => {
                    return Err(format!(
                        "{text:?} names ${{{name}}}; there are ${{topic}}, ${{key}}, ${{value.field}} and ${{header.name}}"
                    ));
                }
            });
            rest = &rest[at + end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        // With a harmless word in the place of each part.
        let example: String = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        topic::check_name(&example).map_err(|why| format!("{text:?} is no topic to publish to: it {why}"))?;
        Ok(Self(parts))
    }

    /// # Errors
    /// What is wrong with the record, as a sentence.
    pub(super) fn apply(&self, record: RecordRef<'_>) -> Result<String, String> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Topic => name.push_str(record.topic()),
                Part::Key => name.push_str(&text(record.key()).map_err(|why| format!("the key {why}"))?),
                Part::Value(path) => name.push_str(&field(record.value(), path)?),
                Part::Header(header) => {
                    let found = record.headers().iter().rev().find(|found| *found.name == **header);
                    let found = found.ok_or_else(|| format!("there is no header {header}"))?;
                    name.push_str(&text(found.value.as_ref()).map_err(|why| format!("the header {header} {why}"))?);
                }
            }
        }
        topic::check_name(&name).map_err(|why| format!("the topic {:?} {why}", name.chars().take(100).collect::<String>()))?;
        Ok(name)
    }
}

fn text(payload: PayloadRef<'_>) -> Result<Cow<'_, str>, &'static str> {
    match payload {
        PayloadRef::Null => Err("is null"),
        PayloadRef::Bytes(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| "is not UTF-8"),
        PayloadRef::Data(structured) => scalar(&structured.data).ok_or("is not a text, a number or a boolean"),
    }
}

fn scalar(data: &Data) -> Option<Cow<'_, str>> {
    Some(match data {
        Data::String(text) => Cow::Borrowed(text),
        Data::Boolean(value) => value.to_string().into(),
        Data::Int8(value) => value.to_string().into(),
        Data::Int16(value) => value.to_string().into(),
        Data::Int32(value) => value.to_string().into(),
        Data::Int64(value) => value.to_string().into(),
        Data::Float32(value) => value.to_string().into(),
        Data::Float64(value) => value.to_string().into(),
        _ => return None,
    })
}

fn field(value: PayloadRef<'_>, path: &[String]) -> Result<String, String> {
    let name = || format!("value.{}", path.join("."));
    let found = match value {
        PayloadRef::Null => None,
        PayloadRef::Bytes(bytes) => {
            let json: serde_json::Value =
                serde_json::from_slice(bytes).map_err(|_| format!("{} of a value that is not JSON", name()))?;
            let found = path.iter().try_fold(&json, |at, part| at.get(part));
            found.and_then(|found| match found {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) => Some(number.to_string()),
                serde_json::Value::Bool(value) => Some(value.to_string()),
                _ => None,
            })
        }
        PayloadRef::Data(structured) => structured_field(structured, path),
    };
    found.ok_or_else(|| format!("{} is missing, or not a text, a number or a boolean", name()))
}

fn structured_field(structured: &Structured, path: &[String]) -> Option<String> {
    let (mut data, mut schema) = (&structured.data, structured.schema.as_deref());
    for part in path {
        match data {
            Data::Map(entries) => {
                data = &entries.iter().find(|(key, _)| key.as_str() == Some(part))?.1;
                schema = None;
            }
            Data::Struct(values) => {
                let fields = &schema?.fields;
                let at = fields.iter().position(|field| *field.name == **part)?;
                data = values.get(at)?;
                schema = Some(&fields.get(at)?.schema);
            }
            _ => return None,
        }
    }
    scalar(data).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Batch, Header, Payload, Record};
    use proptest::prelude::*;

    fn apply(template: &str, record: Record) -> Result<String, String> {
        let batch: Batch = [record].into_iter().collect();
        Template::parse(template).unwrap().apply(batch.iter().next().unwrap())
    }

    fn record(key: &str, value: &str) -> Record {
        let headers = vec![Header { name: "site".into(), value: "berlin".into() }];
        Record { key: key.to_owned().into(), headers, ..Record::new("orders", value.to_owned()) }
    }

    #[test]
    fn topics_from_records() {
        let value = r#"{"a":{"b":7},"c":null}"#;
        assert_eq!(apply("${topic}", record("k", value)), Ok("orders".into()));
        assert_eq!(apply("fleet/${key}/${value.a.b}/${header.site}", record("k", value)), Ok("fleet/k/7/berlin".into()));
        for wrong in ["x/${value.c}", "x/${value.z}", "x/${header.none}"] {
            assert!(apply(wrong, record("k", value)).is_err(), "{wrong}");
        }
        assert!(apply("x/${value.a}", record("k", "no json")).is_err());
        let structured = Payload::data(None, Data::object([("id", Data::Int64(5))]));
        assert_eq!(apply("x/${value.id}", Record { value: structured, ..record("k", "") }), Ok("x/5".into()));
    }

    #[test]
    fn no_value_makes_a_topic_that_is_none() {
        for key in ["+", "a/#", "\0", ""] {
            assert!(apply("${key}", record(key, "")).is_err(), "{key:?}");
        }
        assert!(apply("${key}", record("$SYS/x", "")).unwrap_err().contains('$'));
        assert!(apply("${key}", Record { key: Payload::Bytes(b"\xff"[..].into()), ..record("", "") }).is_err());
        assert!(apply("${key}", Record { key: Payload::Null, ..record("", "") }).is_err());
        assert!(apply("a/${key}", record(&"x".repeat(70_000), "")).is_err());
    }

    #[test]
    fn templates_that_are_none() {
        for wrong in ["", "a/#", "$SYS/${key}", "${value}", "${value.}", "${header.}", "${x}", "${key", "a\0"] {
            assert!(Template::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_can_be_published_to(key in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(name) = apply("a/${key}", Record { key: Payload::Bytes(key.into()), ..record("", "") }) {
                prop_assert!(!mqtt_proto::TopicName::is_invalid(&name));
            }
        }
    }
}
