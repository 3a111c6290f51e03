//! Records as lines of JSON: what `plugins run` prints and reads, as `topics read --format json` has them.

use crate::failure::{Failure, Outcome};
use aqueduct_core::{Bytes, Header, Payload, Record};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

pub(super) fn line(record: &Record) -> String {
    let mut line = Map::new();
    line.insert("topic".to_owned(), json!(&*record.topic));
    if let Some(partition) = record.partition {
        line.insert("partition".to_owned(), json!(partition));
    }
    put(&mut line, "key", &record.key);
    put(&mut line, "value", &record.value);
    if let Some(timestamp) = record.timestamp {
        line.insert("timestamp".to_owned(), json!(timestamp));
    }
    if !record.headers.is_empty() {
        let header = |header: &Header| {
            let mut one = Map::new();
            one.insert("name".to_owned(), json!(&*header.name));
            put(&mut one, "value", &header.value);
            Value::Object(one)
        };
        line.insert("headers".to_owned(), record.headers.iter().map(header).collect());
    }
    Value::Object(line).to_string()
}

/// Text as it is, other bytes in base64 under another name.
fn put(line: &mut Map<String, Value>, name: &str, payload: &Payload) {
    match payload {
        Payload::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => drop(line.insert(name.to_owned(), json!(text))),
            Err(_) => drop(line.insert(format!("{name}_base64"), json!(BASE64.encode(bytes)))),
        },
        Payload::Null => drop(line.insert(name.to_owned(), Value::Null)),
        Payload::Data(data) => drop(line.insert(name.to_owned(), json!(format!("{data:?}")))),
    }
}

/// A line that is an object with a `value` (or `value_base64`) is a record; any other line is a record's value.
pub(super) fn record(text: &str, topic: &str) -> Outcome<Record> {
    let Ok(Value::Object(line)) = serde_json::from_str::<Value>(text) else { return Ok(Record::new(topic, text.to_owned())) };
    if !line.contains_key("value") && !line.contains_key("value_base64") {
        return Ok(Record::new(topic, text.to_owned()));
    }
    let mut record = Record::new(line.get("topic").and_then(Value::as_str).unwrap_or(topic), "");
    (record.key, record.value) = (take(&line, "key")?, take(&line, "value")?);
    record.partition = line.get("partition").and_then(Value::as_i64).and_then(|partition| i32::try_from(partition).ok());
    record.timestamp = line.get("timestamp").and_then(Value::as_i64);
    for header in line.get("headers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        let name = header.get("name").and_then(Value::as_str).unwrap_or_default();
        record.headers.push(Header { name: name.into(), value: take(header, "value")? });
    }
    Ok(record)
}

fn take(line: &Map<String, Value>, name: &str) -> Outcome<Payload> {
    if let Some(Value::String(text)) = line.get(&format!("{name}_base64")) {
        let bytes = BASE64.decode(text).map_err(|error| Failure::failed(format!("{name}_base64: {error}")))?;
        return Ok(Payload::Bytes(Bytes::from(bytes)));
    }
    Ok(match line.get(name) {
        None | Some(Value::Null) => Payload::Null,
        Some(Value::String(text)) => Payload::from(text.clone()),
        Some(other) => Payload::from(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_printed() {
        let mut record = Record::new("t", Bytes::from_static(b"\xff"));
        record.key = "k".into();
        (record.partition, record.timestamp) = (Some(3), Some(5));
        record.headers.push(Header { name: "h".into(), value: Payload::Null });
        assert_eq!(super::record(&line(&record), "x").unwrap(), record);
        for text in ["plain", "{\"a\":1}", "[1]"] {
            assert_eq!(super::record(text, "t").unwrap(), Record::new("t", text.to_owned()));
        }
        assert_eq!(super::record("{\"value\":null}", "t").unwrap().value, Payload::Null);
        assert!(super::record("{\"value_base64\":\"*\"}", "t").is_err());
    }
}
