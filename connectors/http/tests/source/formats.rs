//! Bodies and what becomes of them.

use crate::rig::{Source, api, options};
use aqueduct_core::{Data, Payload};
use http_services::Answer;

fn source(content_type: &'static str, body: impl Into<Vec<u8>>, more: &[(&str, &str)]) -> (http_services::Api, Source) {
    let body = body.into();
    let api = api(move |_| Answer::new(200, content_type, body.clone()));
    let url = api.url("/data");
    let mut pairs = vec![("http.request.url", url.as_str()), ("http.timer.interval.millis", "600000")];
    pairs.extend(more);
    (api, Source::new(options(&pairs)))
}

/// The values, as they go to the log.
async fn values(content_type: &'static str, body: &str, count: usize, more: &[(&str, &str)]) -> Vec<String> {
    let (_api, mut source) = source(content_type, body, more);
    source.read(count).await.unwrap();
    assert_eq!(source.poll().await.unwrap(), 0, "no more records");
    source.values()
}

#[tokio::test]
async fn json_goes_on_as_it_was_sent() {
    // Digits and spaces that a parser would lose.
    let body = r#"{"data": {"items": [ {"id": 1,  "price": 1.10, "big": 123456789012345678901}, {"id": 2} ]}}"#;
    let list = ("http.response.list.pointer", "/data/items");
    assert_eq!(
        values("application/json", body, 2, &[list]).await,
        [r#"{"id": 1,  "price": 1.10, "big": 123456789012345678901}"#, r#"{"id": 2}"#]
    );
    let inner = [list, ("http.response.record.pointer", "/id")];
    assert_eq!(values("application/json", body, 2, &inner).await, ["1", "2"]);
    assert_eq!(values("", "\u{feff}{\"id\": 7}", 1, &[]).await, [r#"{"id": 7}"#], "one object is one record");
    assert_eq!(values("application/json", r#"{"data": null}"#, 0, &[("http.response.list.pointer", "/data")]).await, [""; 0]);
    assert_eq!(values("application/json", "", 0, &[]).await, [""; 0]);
}

#[tokio::test]
async fn maps_are_structured() {
    let body = r#"[{"id": "a", "n": 1, "f": 1.5, "t": true, "x": null, "l": [1]}]"#;
    let (_api, mut source) = source("application/json", body, &[("http.record.value.format", "map")]);
    source.read(1).await.unwrap();
    let expected = Data::object([
        ("id", Data::from("a")),
        ("n", Data::Int64(1)),
        ("f", Data::Float64(1.5)),
        ("t", Data::Boolean(true)),
        ("x", Data::Null),
        ("l", Data::Array(vec![Data::Int64(1)])),
    ]);
    assert_eq!(source.records[0].value, Payload::data(None, expected));
    assert_eq!(source.records[0].key, Payload::data(None, Data::from("a")));
}

#[tokio::test]
async fn lines_csv_and_xml() {
    let lines = "{\"id\":1}\n\r\n{\"id\":2}\r\n\x1e{\"id\":3}";
    assert_eq!(values("application/x-ndjson", lines, 3, &[]).await, [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#]);
    let csv = "id;name\r\n1;\"a; \"\"b\"\"\nc\"\r\n2;é\r\n";
    let separated = values("text/csv; charset=utf-8", csv, 2, &[("http.response.csv.separator", ";")]).await;
    assert_eq!(separated, ["{\"id\":\"1\",\"name\":\"a; \\\"b\\\"\\nc\"}", r#"{"id":"2","name":"é"}"#]);
    let xml = "<?xml version='1.0'?><feed><entry id='1'><t>a &lt; b</t></entry><entry id='2'/></feed>";
    let entries = [("http.response.list.pointer", "/feed/entry"), ("http.response.record.offset.pointer", "key=/@id")];
    assert_eq!(values("application/atom+xml", xml, 2, &entries).await, [r#"{"@id":"1","t":"a < b"}"#, r#"{"@id":"2"}"#]);
    let forced = values("text/plain", "{\"id\":1}\n{\"id\":2}", 2, &[("http.response.format", "ndjson")]).await;
    assert_eq!(forced.len(), 2);
}

#[tokio::test]
async fn other_character_sets() {
    let (_api, mut source) = source("application/json; charset=ISO-8859-1", b"[{\"id\": 1, \"n\": \"caf\xe9\"}]".to_vec(), &[]);
    source.read(1).await.unwrap();
    assert_eq!(source.values(), ["{\"id\": 1, \"n\": \"café\"}"]);
}

#[tokio::test]
async fn what_is_not_what_it_says() {
    for (content_type, body) in [
        ("application/json", "[{\"id\": 1}"),
        ("application/json", "[{\"id\": 1}] x"),
        ("application/json", "\u{1}"),
        ("application/x-ndjson", "{\"id\":1}\n{\"id\""),
        ("text/csv", "a,b\n1,2,3\n"),
        ("application/xml", "<a><b></a>"),
        ("application/xml", "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>"),
    ] {
        let (_api, mut source) = source(content_type, body, &[("max.retries", "0")]);
        let error = source.fails().await;
        assert_eq!((error.code(), error.is_retriable()), ("http.body", true), "{body}");
    }
    let (_api, mut source) = source("application/json", b"[\"\xff\"]".to_vec(), &[("max.retries", "0")]);
    assert_eq!(source.fails().await.code(), "http.body");
}

#[tokio::test]
async fn keys_and_timestamps_have_pointers_of_their_own() {
    let more = [
        ("http.response.record.offset.pointer", "-"),
        ("http.response.record.key.pointer", "/who/name"),
        ("http.response.record.timestamp.pointer", "/when"),
    ];
    let body =
        r#"[{"who": {"name": "a"}, "when": "2024-01-01T00:00:00Z"}, {"who": null, "when": null}, {"who": {"name": {"x": 1}}}]"#;
    let (_api, mut source) = source("application/json", body, &more);
    source.read(3).await.unwrap();
    assert_eq!(source.keys(), ["a", "null", r#"{"x":1}"#]);
    assert_eq!(source.records.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [Some(1_704_067_200_000), None, None]);
}
