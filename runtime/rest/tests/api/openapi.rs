//! What is answered has the shape that the OpenAPI document says, and no property that it does not name.

use super::{Answer, Api, count, hole};
use aqueduct_rest::{LogLine, LoggerLevel, Logging, RestOptions, openapi};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One logger, one line.
struct Diary;

impl Logging for Diary {
    fn levels(&self) -> BTreeMap<String, LoggerLevel> {
        BTreeMap::from([("root".to_owned(), LoggerLevel { level: "INFO".to_owned(), last_modified: None })])
    }

    fn set(&self, logger: &str, _: &str) -> Option<Vec<String>> {
        Some(vec![logger.to_owned()])
    }

    fn recent(&self, _: &str) -> Vec<LogLine> {
        vec![LogLine { timestamp: 1, level: "INFO", task: Some(0), epoch: Some(1), message: "it runs".to_owned() }]
    }
}

/// What is wrong with a value, if anything. What is not named is wrong too: the document would not tell of it.
fn misfit(schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next()?;
        return misfit(&openapi()["components"]["schemas"][name], value, at);
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().find_map(|schema| misfit(schema, value, at));
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let misfits: Vec<String> = any.iter().filter_map(|schema| misfit(schema, value, at)).collect();
        return (misfits.len() == any.len()).then(|| misfits.join("; or "));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{at}: {value} is none of {words:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let takes = |name: &Value| name == kind || (name == "number" && kind == "integer");
    match &schema["type"] {
        Value::Null => return None,
        Value::Array(kinds) if kinds.iter().any(takes) => {}
        one if takes(one) => {}
        other => return Some(format!("{at}: {value} is not {other}")),
    }
    match value {
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| misfit(&schema["items"], item, &format!("{at}[{index}]")))
        }
        Value::Object(object) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing =
                required.filter(|name| !object.contains_key(*name)).map(|name| format!("{at}.{name} is missing")).next();
            let of = |(name, value): (&String, &Value)| {
                let place = format!("{at}.{name}");
                match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
                    Some(schema) => misfit(schema, value, &place),
                    None => Some(format!("{place} is not in the document")),
                }
            };
            missing.or_else(|| object.iter().find_map(of))
        }
        _ => None,
    }
}

#[track_caller]
fn check(path: &str, method: &str, answer: &Answer) {
    let operation = &openapi()["paths"][path][method];
    let response = operation["responses"].get(answer.status.to_string());
    let response =
        response.unwrap_or_else(|| panic!("{method} {path}: {} is not in the document: {}", answer.status, answer.text));
    let shared = response["$ref"].as_str().and_then(|reference| openapi().pointer(reference.strip_prefix('#')?));
    let response = shared.unwrap_or(response);
    let Some(content) = response.get("content").and_then(Value::as_object) else {
        assert_eq!(answer.text, "", "{method} {path}: the document knows no body for {}", answer.status);
        return;
    };
    let kind = answer.headers["content-type"].to_str().unwrap();
    let kind = kind.split(';').next().unwrap();
    let schema = &content.get(kind).unwrap_or_else(|| panic!("{method} {path}: {kind} is not in the document"))["schema"];
    let value = if kind == "application/json" { answer.json() } else { json!(answer.text) };
    if let Some(wrong) = misfit(schema, &value, "$") {
        panic!("{method} {path}: {wrong}\n{}", answer.text);
    }
}

async fn start() -> Api {
    let api = Api::start_with(RestOptions { logging: Some(Arc::new(Diary)), ..RestOptions::default() }).await;
    api.create("src", count("t", 3)).await.expect(201);
    api.create("snk", hole("t")).await.expect(201);
    api.until_running("src").await;
    api.until("/connectors/snk/status", |status| status["tasks"][0]["aqueduct"]["records_out"] == 3).await;
    api
}

/// Each GET of the document, so that a new one is in it.
#[tokio::test]
async fn answers_have_the_shapes_of_the_document() {
    let api = start().await;
    let mut calls = 0;
    for (path, item) in openapi()["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        for (connector, topic) in [("src", "t"), ("snk", "t"), ("none", "none")] {
            let place = path.replace("{connector}", connector).replace("{topic}", topic).replace("{task}", "0");
            let place = place.replace("{plugin}", "count-source").replace("{logger}", "root");
            let answer = api.call("GET", &place, None).await;
            let missing = connector == "none" && answer.status == 404;
            assert!(answer.status == 200 || missing, "{place}: {} {}", answer.status, answer.text);
            check(path, "get", &answer);
            calls += 1;
        }
    }
    assert!(calls > 60, "{calls}");
    for query in ["expand=info&expand=status", "expand=status", "expand=colour"] {
        check("/connectors", "get", &api.call("GET", &format!("/connectors?{query}"), None).await.expect(200));
    }
    let base64 = api.call("GET", "/aqueduct/v1/topics/t/records?encoding=base64&max=1", None).await;
    assert!(base64.text.contains("value_base64"), "{}", base64.text);
    check("/aqueduct/v1/topics/{topic}/records", "get", &base64);
}

#[tokio::test]
async fn what_changes_something_answers_as_the_document_says() {
    let api = start().await;
    let offsets = json!({"offsets": [{"partition": {"kafka_topic": "t", "kafka_partition": 0}, "offset": {"kafka_offset": 1}}]});
    let record = json!({"records": [{"key": "k", "value": {"a": 1}, "headers": [{"name": "h", "value": "v"}]}]});
    let connector = "/connectors/{connector}";
    let own = "/aqueduct/v1";
    for (method, path, rest, body, status) in [
        ("post", "/connectors".to_owned(), "", Some(json!({"name": "new", "config": count("u", 1)})), 201),
        ("post", "/connectors".to_owned(), "", Some(json!({"name": "new", "config": count("u", 1)})), 409),
        ("put", format!("{connector}/config"), "", Some(hole("t")), 200),
        ("put", format!("{connector}/config"), "", Some(json!({"a": []})), 400),
        ("patch", format!("{connector}/config"), "", Some(json!({"tasks.max": 1, "nothing": null})), 200),
        ("put", format!("{connector}/pause"), "", None, 202),
        ("put", format!("{connector}/resume"), "", None, 202),
        ("post", format!("{connector}/restart"), "?includeTasks=true", None, 202),
        ("post", format!("{connector}/restart"), "", None, 204),
        ("patch", format!("{connector}/offsets"), "", Some(offsets.clone()), 400),
        ("put", format!("{connector}/stop"), "", None, 204),
        ("post", format!("{connector}/tasks/{{task}}/restart"), "", None, 409),
        ("patch", format!("{connector}/offsets"), "", Some(offsets), 200),
        ("delete", format!("{connector}/offsets"), "", None, 200),
        ("put", format!("{connector}/topics/reset"), "", None, 202),
        ("put", "/connector-plugins/{plugin}/config/validate".to_owned(), "", Some(json!({"count": "x"})), 200),
        ("put", "/admin/loggers/{logger}".to_owned(), "", Some(json!({"level": "INFO"})), 200),
        ("put", "/admin/loggers/{logger}".to_owned(), "?scope=cluster", Some(json!({"level": "INFO"})), 204),
        ("put", "/admin/loggers/{logger}".to_owned(), "", None, 400),
        ("post", format!("{own}{connector}/signals"), "", Some(json!({"type": "x"})), 400),
        ("post", format!("{own}/topics"), "", Some(json!({"name": "new", "partitions": 2})), 201),
        ("post", format!("{own}/topics/{{topic}}/records"), "", Some(record), 200),
        ("delete", format!("{own}/topics/{{topic}}"), "", None, 204),
        ("delete", connector.to_owned(), "", None, 204),
    ] {
        let place = path.replace("{connector}", "snk").replace("{task}", "0").replace("{topic}", "t");
        let place = place.replace("{plugin}", "count-source").replace("{logger}", "root") + rest;
        // Stopping takes its time, and meanwhile the offsets may not be touched.
        if place.ends_with("/tasks/0/restart") {
            api.until_state("snk", "STOPPED").await;
        }
        let answer = api.call(&method.to_uppercase(), &place, body).await.expect(status);
        check(&path, method, &answer);
    }
    let taken =
        api.call("POST", "/aqueduct/v1/connectors/src/signals", Some(json!({"type": "count-to", "data": {"count": 5}}))).await;
    check("/aqueduct/v1/connectors/{connector}/signals", "post", &taken.expect(202));
}
