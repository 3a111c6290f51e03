//! What is sent.

use crate::receiver::{Receiver, Reply};
use crate::rig::{Rig, TOPIC_ID, record, records, with_header};
use aqueduct_core::{Data, Payload};
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn a_record_is_a_request() {
    let receiver = Receiver::start(|_, _| Reply::ok()).await;
    let url = format!("{}/rides/${{key}}?at=${{value.at}}", receiver.url);
    let options = [
        ("http.method", "PUT"),
        ("http.body.template", r#"{"ride": "${key}", "seats": ${value.seats}, "from": "${topic}"}"#),
        ("http.request.headers", "X-Tenant: ${header.tenant}"),
    ];
    let mut rig = Rig::new(&url, &options).await;
    let value = r#"{"at": "a b", "seats": 3}"#;
    Rig::all_good(rig.put(vec![with_header(record(7, "r/1", value), "tenant", "acme")]).await);
    let seen = &receiver.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("PUT", "/rides/r%2F1?at=a%20b"));
    assert_eq!(seen.body, r#"{"ride": "r/1", "seats": 3, "from": "rides"}"#);
    assert_eq!((seen.header("x-tenant"), seen.header("content-type")), ("acme", "application/json"));
    let key = format!("\"cluster-1:{}:{TOPIC_ID}:0:7\"", rig.cx.task.connector);
    assert_eq!(seen.header("idempotency-key"), key);
}

#[tokio::test]
async fn values_are_sent_as_they_are() {
    let receiver = Receiver::start(|_, _| Reply::ok()).await;
    let mut rig =
        Rig::new(&receiver.url, &[("http.headers.content.type", "text/plain"), ("idempotency.key.enabled", "false")]).await;
    let structured = Payload::data(None, Data::object([("a", Data::Int32(1))]));
    let text = Payload::data(None, Data::String("plain".to_owned()));
    let put = vec![record(0, "", "line\n"), record(1, "", structured), record(2, "", text)];
    Rig::all_good(rig.put(put).await);
    assert_eq!(receiver.bodies(), ["line\n", r#"{"a":1}"#, "plain"]);
    assert_eq!(receiver.seen()[0].header("content-type"), "text/plain");
    assert_eq!(receiver.seen()[0].header("idempotency-key"), "");
}

#[tokio::test]
async fn batches_have_their_frame() {
    for (options, body, kind) in [
        (vec![("batch.max.size", "3")], "{\"a\": 1}\n\"x\"\n\"y\\nz\"\n", "application/x-ndjson"),
        (vec![("batch.max.size", "3"), ("batch.json.as.array", "true")], r#"[{"a": 1},"x","y\nz"]"#, "application/json"),
        (
            vec![("batching.enabled", "true"), ("batch.prefix", "<"), ("batch.separator", "|"), ("batch.suffix", ">")],
            "<{\"a\": 1}|x|y\nz>",
            "application/json",
        ),
        (
            vec![("batching.enabled", "true"), ("http.body.template", "{\"v\":\n\"${value}\"}")],
            "{\"v\": \"one\"}\n{\"v\": \"x\"}\n{\"v\": \"y\\nz\"}\n",
            "application/x-ndjson",
        ),
    ] {
        let receiver = Receiver::start(|_, _| Reply::ok()).await;
        let mut rig = Rig::new(&receiver.url, &options).await;
        let first = if body.contains("one") { "one" } else { "{\"a\": 1}" };
        Rig::all_good(rig.put(vec![record(0, "", first), record(1, "", "x"), record(2, "", "y\nz")]).await);
        assert_eq!(receiver.bodies(), [body]);
        let seen = &receiver.seen()[0];
        assert_eq!(seen.header("content-type"), kind);
        assert!(seen.header("idempotency-key").contains(":0:0.."), "{}", seen.header("idempotency-key"));
    }
}

#[tokio::test]
async fn batches_are_bounded_and_one_target_each() {
    let receiver = Receiver::start(|_, _| Reply::ok()).await;
    let url = format!("{}/${{value.to}}", receiver.url);
    let mut rig = Rig::new(&url, &[("batch.max.size", "100"), ("request.max.bytes", "64")]).await;
    let value = |to: &str, n: usize| format!("{{\"to\": \"{to}\", \"n\": {n}}}");
    let mut put: Vec<_> = (0..10).map(|n| record(n, "", value(if n < 5 { "a" } else { "b" }, n as usize))).collect();
    put.push(record(10, "", format!("{{\"to\": \"a\", \"x\": \"{}\"}}", "y".repeat(100))));
    let rejects = rig.put(put).await.unwrap();
    assert_eq!(rejects.len(), 1);
    assert_eq!((rejects[0].error.code(), rejects[0].record.origin.as_ref().unwrap().offset), ("http_sink.too_large", 10));
    let seen = receiver.seen();
    assert!(seen.iter().all(|seen| seen.body.len() <= 64), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.body.lines().all(|line| line.contains(&seen.path[1..]))));
    let lines: Vec<String> = seen.iter().flat_map(|seen| seen.body.lines().map(str::to_owned)).collect();
    assert_eq!(lines.len(), 10);
    assert!(
        lines.iter().enumerate().all(|(n, line)| line.contains(&format!("\"n\": {n}"))),
        "without keys the partition's order holds: {lines:?}"
    );
}

#[tokio::test]
async fn tombstones_have_a_rule() {
    for (rule, expected, refused) in
        [("ignore", vec!["POST"], 0), ("delete", vec!["POST", "DELETE"], 0), ("fail", vec!["POST"], 1)]
    {
        let receiver = Receiver::start(|_, _| Reply::ok()).await;
        let url = format!("{}/${{key}}", receiver.url);
        let mut rig = Rig::new(&url, &[("behavior.on.null.values", rule)]).await;
        let rejects = rig.put(vec![record(0, "a", "x"), record(1, "a", Payload::Null)]).await.unwrap();
        assert_eq!(rejects.len(), refused, "{rule}");
        let methods: Vec<String> = receiver.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, expected, "{rule}");
        assert!(receiver.seen().iter().all(|seen| seen.path == "/a"));
    }
}

#[tokio::test]
async fn what_could_inject_is_refused_and_never_sent() {
    let receiver = Receiver::start(|_, _| Reply::ok()).await;
    let url = format!("{}/a/${{key}}", receiver.url);
    let mut rig = Rig::new(&url, &[("http.request.headers", "X-Name: ${value.name}")]).await;
    let name = |text: &str| serde_json::json!({ "name": text }).to_string();
    let put = vec![
        record(0, "k", name("fine")),
        record(1, "k", name("x\r\nX-Admin: true")),
        record(2, "k", name("x\n\nGET / HTTP/1.1")),
        record(3, "..", name("fine")),
        record(4, "k", name("x\u{0}")),
        record(5, "k", "{}"),
        record(6, "a\r\nb", name("fine")),
    ];
    let rejects = rig.put(put).await.unwrap();
    let offsets: Vec<i64> = rejects.iter().map(|reject| reject.record.origin.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
    assert!(rejects.iter().all(|reject| reject.error.code() == "http_sink.record"));
    assert!(rejects[0].error.message().contains("x-name"), "{}", rejects[0].error);
    let mut paths: Vec<String> = receiver.seen().into_iter().map(|seen| seen.path).collect();
    paths.sort();
    assert_eq!(paths, ["/a/a%0D%0Ab", "/a/k"]);
    assert!(receiver.seen().iter().all(|seen| seen.header("x-admin").is_empty()));
}

/// Whatever the concurrency, and however differently the requests take.
#[tokio::test]
async fn records_of_a_key_never_overtake() {
    for options in [vec![("max.in.flight.requests", "8")], vec![("max.in.flight.requests", "8"), ("batch.max.size", "7")]] {
        let receiver = Receiver::start(|_, number| match number % 5 {
            0 => Reply::ok().later(Duration::from_millis(7)),
            1 if number < 100 => Reply::status(503),
            2 => Reply::ok().later(Duration::from_millis(1)),
            _ => Reply::ok(),
        })
        .await;
        let mut rig = Rig::new(&receiver.url, &options).await;
        Rig::all_good(rig.put(records(400, 13)).await);
        let mut next: BTreeMap<String, usize> = BTreeMap::new();
        for line in receiver.bodies().iter().flat_map(|body| body.lines()) {
            let (key, n) = line.trim_matches('"').split_once(':').unwrap();
            let (next, n) = (next.entry(key.to_owned()).or_default(), n.parse::<usize>().unwrap());
            assert!(n <= *next, "{line} came before {key}:{next}");
            *next = (*next).max(n + 1);
        }
        assert_eq!(next.values().sum::<usize>(), 400);
        assert!(receiver.busiest() > 1, "the requests went one by one");
    }
}

#[tokio::test]
async fn without_keys_a_partition_goes_one_by_one_and_one_in_flight_is_in_order() {
    for (keys, options) in [(0, vec![]), (5, vec![("max.in.flight.requests", "1")])] {
        let receiver = Receiver::start(|_, number| Reply::ok().later(Duration::from_millis(number as u64 % 3))).await;
        let mut rig = Rig::new(&receiver.url, &options).await;
        let key = |n: i64| if keys == 0 { String::new() } else { format!("k{}", n % keys) };
        Rig::all_good(rig.put((0..40).map(|n| record(n, &key(n), n.to_string())).collect()).await);
        assert_eq!(receiver.bodies(), (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(receiver.busiest(), 1);
    }
}

#[tokio::test]
async fn answers_are_records_where_that_is_wanted() {
    let receiver =
        Receiver::start(|seen, _| if seen.body == "bad" { Reply::json(422, "no") } else { Reply::json(201, "made") }).await;
    let options = [("reporter.result.topic.name", "answers"), ("reporter.error.topic.name", "errors")];
    let mut rig = Rig::new(&receiver.url, &options).await;
    let rejects = rig.put(vec![record(0, "k", "good"), record(1, "k", "bad")]).await.unwrap();
    assert_eq!(rejects.len(), 1);
    let letters = rig.task.take_letters();
    assert_eq!(letters.iter().map(|letter| &*letter.topic).collect::<Vec<_>>(), ["answers", "errors"]);
    assert_eq!((&letters[0].key, &letters[0].value), (&Payload::from("k"), &Payload::from("made")));
    let header = |name: &str| letters[0].header(name).cloned();
    assert_eq!(header("http.status"), Some("201".into()));
    assert_eq!(header("input.offset"), Some("0".into()));
    assert!(rig.task.take_letters().is_empty());
}
