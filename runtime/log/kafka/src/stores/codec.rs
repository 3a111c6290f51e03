//! Keys and values of Kafka Connect's internal topics, to the byte as its `JsonConverter` (Jackson, `schemas.enable=false`) writes them: the topics are
//! compacted by the key's bytes, and partitioned by them.

use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// `["<connector>",{partition}]`: the partition's fields in the order in which the connector gave them, as in Kafka Connect.
pub fn offset_key(connector: &str, partition: &JsonMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(b'[');
    text(connector, &mut out);
    out.push(b',');
    object(partition, &mut out);
    out.push(b']');
    out
}

/// `None` is the tombstone that forgets the partition.
pub fn offset_value(offset: Option<&JsonMap>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(32);
    object(offset?, &mut out);
    Some(out)
}

/// The connector and the partition of a record of the offsets topic; `None` when the key is no offset's (Kafka Connect passes over those too).
pub(crate) fn read_offset_key(key: &[u8]) -> Option<(String, JsonMap)> {
    match <[Value; 2]>::try_from(serde_json::from_slice::<Vec<Value>>(key).ok()?).ok()? {
        [Value::String(connector), Value::Object(partition)] => Some((connector, partition)),
        _ => None,
    }
}

/// `None` when the value is no offset's; `Some` without an offset when it forgets.
pub(crate) fn read_offset_value(partition: JsonMap, value: Option<&[u8]>) -> Option<SourceOffset> {
    let offset = match value {
        None => None,
        Some(value) => match serde_json::from_slice(value).ok()? {
            Value::Null => None,
            Value::Object(offset) => Some(offset),
            _ => return None,
        },
    };
    Some(SourceOffset { partition, offset })
}

const CONNECTOR: &str = "connector-";
const TARGET: &str = "target-state-";
const COMMIT: &str = "commit-";
/// What Kafka Connect does not know and passes over.
const OURS: &str = "aqueduct-";

type Entries = Vec<(String, Option<Vec<u8>>)>;

/// Entries of the config store as records of the config topic, with what Kafka Connect needs to take over from us: when a connector's config
/// changes or it is stopped, the task configs that Kafka Connect wrote for it are void. `commit-<name>` with no tasks says so, as Kafka Connect says
/// it itself at a stop; it makes new ones when it starts the connector. `stored` is what the topic has now.
///
/// # Errors
/// `kafka.internal_topic` (fatal): a target state without a state.
pub(crate) fn config_records<'a>(
    entries: &[(String, Option<Vec<u8>>)],
    stored: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<Entries> {
    let mut records = Entries::with_capacity(entries.len());
    let mut void = BTreeSet::new();
    for (key, value) in entries {
        let mut value = value.clone();
        if let (Some(name), Some(text)) = (key.strip_prefix(TARGET), &value) {
            let state = state(text).ok_or_else(|| {
                Error::fatal("kafka.internal_topic", format!("the entry {key} has no state: a bug of Aqueduct"))
            })?;
            if state == "STOPPED" {
                void.insert(name);
            }
            value = Some(target_record(&state));
        } else if let (Some(name), Some(text)) = (key.strip_prefix(CONNECTOR), &value)
            && !same(stored(key), text)
        {
            void.insert(name);
        }
        records.push((key.clone(), value));
    }
    for name in void {
        let commit = format!("{COMMIT}{name}");
        if stored(&commit).is_some_and(has_tasks) {
            records.push((commit, Some(br#"{"tasks":0}"#.to_vec())));
        }
    }
    Ok(records)
}

/// An entry of the config topic as the worker's store has it; `None` for what is Kafka Connect's own affair (tasks, sessions, restarts, log levels), and
/// for what Kafka Connect would not read either.
pub(crate) fn config_entry(key: &str, value: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = if key.starts_with(TARGET) {
        json!({ "state": state(value)? }).to_string().into_bytes()
    } else if key.starts_with(CONNECTOR) {
        properties(value)?
    } else if key.starts_with(OURS) {
        value.to_vec()
    } else {
        return None;
    };
    Some((key.to_owned(), text))
}

/// Kafka Connect lets a property be null; it is then as if it were not there.
fn properties(value: &[u8]) -> Option<Vec<u8>> {
    let Value::Object(mut config) = serde_json::from_slice(value).ok()? else { return None };
    let Value::Object(properties) = config.get_mut("properties")? else { return None };
    properties.retain(|_, value| !value.is_null());
    serde_json::to_vec(&config).ok()
}

/// `offsets.storage.topic` of a connector's entry.
pub(crate) fn offsets_topic(connector: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(connector).ok()?;
    config["properties"]["offsets.storage.topic"].as_str().filter(|topic| !topic.is_empty()).map(str::to_owned)
}

fn same(stored: Option<&[u8]>, value: &[u8]) -> bool {
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    stored.is_some_and(|stored| read(stored).is_some_and(|stored| Some(stored) == read(value)))
}

fn has_tasks(commit: &[u8]) -> bool {
    let value: Option<Value> = serde_json::from_slice(commit).ok();
    value.is_some_and(|value| value["tasks"].as_i64().is_some_and(|tasks| tasks > 0))
}

/// The state of a `target-state-` entry. Kafka Connect since 3.5 writes `state.v2`, and for older workers `state`, where STOPPED is PAUSED.
fn state(value: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(value).ok()?;
    ["state.v2", "state"].iter().find_map(|field| value[*field].as_str()).map(str::to_owned)
}

/// A `target-state-` entry as Kafka Connect writes it.
fn target_record(state: &str) -> Vec<u8> {
    let old = if state == "STOPPED" { "PAUSED" } else { state };
    let mut out = Vec::new();
    write(&json!({ "state": old, "state.v2": state }), &mut out);
    out
}

fn object(map: &JsonMap, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        text(key, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => object(map, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::String(string) => text(string, out),
        Value::Number(number) if number.is_f64() => out.extend(double(number.as_f64().unwrap_or_default()).into_bytes()),
        other => out.extend(other.to_string().into_bytes()),
    }
}

/// As Jackson: control characters with upper-case digits, and what lies outside the BMP as two escaped surrogates.
fn text(string: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in string.chars() {
        match char {
            '"' => out.extend(br#"\""#),
            '\\' => out.extend(br"\\"),
            '\u{8}' => out.extend(br"\b"),
            '\t' => out.extend(br"\t"),
            '\n' => out.extend(br"\n"),
            '\u{c}' => out.extend(br"\f"),
            '\r' => out.extend(br"\r"),
            '\u{0}'..='\u{1f}' | '\u{10000}'.. => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    out.extend(format!("\\u{unit:04X}").into_bytes());
                }
            }
            other => out.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// `Double.toString`: plain from 0.001 to 10,000,000, else with an exponent; always with a fraction.
fn double(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let plain = number == 0.0 || (1e-3..1e7).contains(&number.abs());
    let text = if plain { number.to_string() } else { digits.to_owned() };
    let text = if text.contains('.') { text } else { format!("{text}.0") };
    if plain { text } else { format!("{text}E{exponent}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> JsonMap {
        serde_json::from_str(text).unwrap()
    }

    /// What `JsonConverter` of Kafka Connect 4.3.1 wrote for the same values.
    #[test]
    fn keys_and_values_are_kafka_connects_to_the_byte() {
        let partition = map(
            r#"{"filename":"/var/log/ä 😀\"\\\u0001\u001f\u007f\u2028/\t\b\n\f\r","n":null,"t":true,"i":1,"l":9007199254740993,"d":1e10,"d2":0.1,"d3":100.0,"d4":1.5e-7,"d5":-12345678.25}"#,
        );
        let expected = concat!(
            r#"["my connector",{"filename":"/var/log/ä \uD83D\uDE00\"\\\u0001\u001F"#,
            "\u{7f}\u{2028}",
            r#"/\t\b\n\f\r","n":null,"t":true,"i":1,"l":9007199254740993,"d":1.0E10,"d2":0.1,"d3":100.0,"d4":1.5E-7,"d5":-1.234567825E7}]"#
        );
        let key = offset_key("my connector", &partition);
        assert_eq!(String::from_utf8(key.clone()).unwrap(), expected);
        assert_eq!(read_offset_key(&key).unwrap(), ("my connector".to_owned(), partition));
        assert_eq!(offset_value(Some(&map(r#"{"position":12}"#))).unwrap(), br#"{"position":12}"#);
        assert_eq!(offset_value(None), None);
    }

    #[test]
    fn the_order_of_fields_stays() {
        assert_eq!(offset_key("c", &map(r#"{"b":1,"a":[2,{"z":0}]}"#)), br#"["c",{"b":1,"a":[2,{"z":0}]}]"#);
    }

    #[test]
    fn what_is_no_offset_is_passed_over() {
        for key in ["", "x", "{}", r#"["c"]"#, r#"["c",1]"#, r#"[1,{}]"#, r#"["c",{},1]"#, r#"["c",null]"#] {
            assert_eq!(read_offset_key(key.as_bytes()), None, "{key}");
        }
        let read = |value: Option<&[u8]>| read_offset_value(map("{}"), value).map(|offset| offset.offset);
        assert_eq!((read(None), read(Some(b"null")), read(Some(b"7")), read(Some(b"{"))), (Some(None), Some(None), None, None));
    }

    fn records(entries: &[(&str, Option<&str>)], stored: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let entries: Vec<_> = entries.iter().map(|(key, value)| ((*key).to_owned(), value.map(|value| value.into()))).collect();
        let of = |key: &str| stored.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_bytes());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        config_records(&entries, of).unwrap().into_iter().map(|(key, value)| (key, value.map(text))).collect()
    }

    fn entry(key: &str, value: &str) -> Option<String> {
        config_entry(key, value.as_bytes()).map(|(_, value)| String::from_utf8(value).unwrap())
    }

    #[test]
    fn target_states_have_both_forms() {
        let record = |state: &str| records(&[("target-state-a", Some(state))], &[])[0].1.clone().unwrap();
        assert_eq!(record(r#"{"state":"STOPPED"}"#), r#"{"state":"PAUSED","state.v2":"STOPPED"}"#);
        assert_eq!(record(r#"{"state":"STARTED"}"#), r#"{"state":"STARTED","state.v2":"STARTED"}"#);
        let entry = |value: &str| entry("target-state-a", value);
        assert_eq!(entry(r#"{"state":"PAUSED","state.v2":"STOPPED"}"#).unwrap(), r#"{"state":"STOPPED"}"#);
        assert_eq!(entry(r#"{"state":"PAUSED","state.v2":null}"#).unwrap(), r#"{"state":"PAUSED"}"#);
        assert_eq!(entry(r#"{"state":"PAUSED"}"#).unwrap(), r#"{"state":"PAUSED"}"#);
        assert_eq!(entry("7"), None);
        assert!(config_records(&[("target-state-a".into(), Some(b"{}".to_vec()))], |_| None).is_err());
    }

    #[test]
    fn what_is_kafka_connects_own_affair_is_left_alone() {
        for key in ["task-a-0", "commit-a", "session-key", "restart-connector-a", "logger-cluster-x", "tasks-fencing-a"] {
            assert_eq!(entry(key, "{}"), None, "{key}");
        }
        let config = r#"{"properties":{"name":"a","topic":null,"file":"f"}}"#;
        assert_eq!(entry("connector-a", config).unwrap(), r#"{"properties":{"name":"a","file":"f"}}"#);
        assert_eq!(entry("aqueduct-folder-a", "{}").unwrap(), "{}");
        assert_eq!(offsets_topic(br#"{"properties":{"offsets.storage.topic":"o"}}"#).as_deref(), Some("o"));
        assert_eq!(offsets_topic(br#"{"properties":{}}"#), None);
    }

    #[test]
    fn void_task_configs_are_said_to_be_none() {
        let old = r#"{"properties":{"a":"1","b":"2"}}"#;
        let stored = [("connector-a", old), ("commit-a", r#"{"tasks":2}"#), ("commit-b", r#"{"tasks":0}"#)];
        let stopped = r#"{"state":"STOPPED"}"#;
        let added = |entries: &[(&str, Option<&str>)]| records(entries, &stored).split_off(entries.len());
        let none = ("commit-a".to_owned(), Some(r#"{"tasks":0}"#.to_owned()));
        assert_eq!(
            added(&[("connector-a", Some(r#"{"properties":{"a":"1"}}"#)), ("target-state-a", Some(stopped))]),
            std::slice::from_ref(&none)
        );
        assert_eq!(added(&[("target-state-a", Some(stopped))]), [none]);
        let same = r#"{"properties":{"b":"2","a":"1"}}"#;
        assert!(added(&[("connector-a", Some(same)), ("target-state-a", Some(r#"{"state":"PAUSED"}"#))]).is_empty());
        assert!(added(&[("connector-a", None), ("connector-b", Some(old)), ("target-state-b", Some(stopped))]).is_empty());
    }
}
