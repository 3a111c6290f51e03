//! What differs between two answers, as lines: `status 500 → 400`, `header allow GET → none`, `$.message "a" → "b"`.

use crate::side::Answer;
use serde_json::{Map, Value};

/// Theirs → ours. When the status differs, the bodies do of course.
pub fn differences(theirs: &Answer, ours: &Answer) -> Vec<String> {
    let mut differences = Vec::new();
    if theirs.status != ours.status {
        differences.push(format!("status {} → {}", theirs.status, ours.status));
    }
    for name in ["content-type", "location", "allow"] {
        let [theirs, ours] = [theirs, ours].map(|answer| header(answer, name));
        if theirs != ours {
            differences.push(format!("header {name} {theirs} → {ours}"));
        }
    }
    if theirs.status == ours.status {
        let [theirs, ours] = [theirs, ours].map(body);
        walk("$", &theirs, &ours, &mut differences);
    }
    differences
}

/// What must hold of every answer of ours, whatever Kafka Connect does.
pub fn broken(ours: &Answer) -> Option<&'static str> {
    let error = ours
        .json()
        .is_some_and(|body| body["error_code"] == ours.status && body["message"].as_str().is_some_and(|text| !text.is_empty()));
    match ours.status {
        500.. => Some("an internal error"),
        400.. if !error && !ours.text.is_empty() => Some("no error body of Kafka Connect's"),
        400.. if header(ours, "content-type") != "application/json" => Some("an error that is not JSON"),
        _ => None,
    }
}

/// Lists in alphabetical order, without charset.
fn header(answer: &Answer, name: &str) -> String {
    let Some(value) = answer.header(name) else { return "none".to_owned() };
    match name {
        "allow" => {
            let mut methods: Vec<&str> = value.split(',').map(str::trim).collect();
            methods.sort_unstable();
            methods.join(",")
        }
        // Kafka Connect's is a whole URL; both are right (RFC 9110).
        "location" => value
            .split_once("://")
            .map_or(value, |(_, rest)| rest.split_once('/').map_or("", |(host, _)| &rest[host.len()..]))
            .to_owned(),
        _ => value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
    }
}

fn body(answer: &Answer) -> Value {
    match answer.json() {
        Some(mut body) => {
            if body["error_code"] == answer.status {
                body["error_code"] = "the status".into();
            }
            masked(body)
        }
        None => Value::String(answer.text.clone()),
    }
}

/// Without what is of one worker or one run; what has no order, sorted; lists of things with a name as maps.
fn masked(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(key, _)| key != "aqueduct").map(masked_entry).collect()),
        Value::Array(list) => by_name(list),
        other => other,
    }
}

fn masked_entry((key, value): (String, Value)) -> (String, Value) {
    let value = match (key.as_str(), value) {
        ("version" | "worker_id" | "kafka_cluster_id" | "commit" | "trace", Value::String(text)) if !text.is_empty() => {
            format!("<{key}>").into()
        }
        ("last_modified", Value::Number(_)) => "<time>".into(),
        (_, value) => masked(value),
    };
    (key, value)
}

fn by_name(mut list: Vec<Value>) -> Value {
    if list.iter().all(Value::is_string) {
        list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        return Value::Array(list);
    }
    let name = |item: &Value| {
        let name = item["value"]["name"]
            .as_str()
            .or(item["class"].as_str())
            .or(item["name"].as_str().filter(|_| item.get("type").is_some()))?;
        Some(name.to_owned())
    };
    let names: Option<Vec<String>> = list.iter().map(name).collect();
    match names {
        Some(names) if !list.is_empty() => {
            Value::Object(names.into_iter().zip(list.into_iter().map(masked)).collect::<Map<_, _>>())
        }
        _ => {
            // Offsets have no order.
            let mut list: Vec<Value> = list.into_iter().map(masked).collect();
            list.sort_by_cached_key(|item| (item["partition"].to_string(), item.to_string()));
            Value::Array(list)
        }
    }
}

fn walk(path: &str, theirs: &Value, ours: &Value, out: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in theirs {
                match ours.get(key) {
                    Some(other) => walk(&format!("{path}.{key}"), value, other, out),
                    None => out.push(format!("{path}.{key} {value} → absent")),
                }
            }
            let more = ours.iter().filter(|(key, _)| !theirs.contains_key(*key));
            out.extend(more.map(|(key, value)| format!("{path}.{key} absent → {value}")));
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            theirs
                .iter()
                .zip(ours)
                .enumerate()
                .for_each(|(at, (theirs, ours))| walk(&format!("{path}[{at}]"), theirs, ours, out));
        }
        _ if theirs != ours => out.push(format!("{path} {theirs} → {ours}")),
        _ => {}
    }
}

#[test]
fn one_answer_does_not_differ_from_itself_but_from_another() {
    let answer = |status, kind: &str, text: &str| Answer {
        status,
        headers: vec![("content-type".to_owned(), kind.to_owned()), ("allow".to_owned(), "PUT, GET".to_owned())],
        text: text.to_owned(),
    };
    let theirs = answer(404, "application/json", r#"{"error_code":404,"message":"a","version":"4.3.1","list":["b","a"]}"#);
    let ours = answer(
        404,
        "Application/JSON; charset=utf-8",
        r#"{"error_code":404,"message":"a","version":"4.1.0","list":["a","b"],"aqueduct":1}"#,
    );
    assert_eq!(differences(&theirs, &ours), Vec::<String>::new());
    let other = answer(404, "text/html", r#"{"error_code":400,"message":"b"}"#);
    let expected = [
        r#"$.error_code "the status" → 400"#,
        r#"$.list ["a","b"] → absent"#,
        r#"$.message "a" → "b""#,
        r#"$.version "<version>" → absent"#,
        "header content-type application/json → text/html",
    ];
    let mut found = differences(&theirs, &other);
    found.sort();
    assert_eq!(found, expected);
    assert!(broken(&other).is_some() && broken(&ours).is_none() && broken(&answer(500, "application/json", "{}")).is_some());
}
