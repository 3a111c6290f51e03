//! `mqtt-sink` on a real mosquitto.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod rig;

use aqueduct_core::{Header, Payload, Record};
use mqtt_services::{Broker, Options, shared, wait_until};
use rig::{SOON, Sink, TOPIC_ID, options};

fn record(key: &str, value: &str) -> Record {
    Record { key: key.to_owned().into(), ..Record::new("orders", value.to_owned()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_qos_of_every_version_arrives_in_order() {
    let broker = shared();
    for version in ["3.1.1", "5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("out/{version}/{qos}");
            let options = options(&[
                ("mqtt.server.uri", &broker.uri()),
                ("mqtt.topic", &topic),
                ("mqtt.version", version),
                ("mqtt.qos", qos),
                ("name", &topic),
            ]);
            let subscriber = broker.subscribe(&topic, 2, &[]);
            let mut sink = Sink::open(&options).await.unwrap();
            let lines: Vec<String> = (0..500).map(|n| n.to_string()).collect();
            for part in lines.chunks(100) {
                let rejects = sink.put(part.iter().map(|line| record("k", line)).collect()).await.unwrap();
                assert!(rejects.is_empty(), "{rejects:?}");
            }
            wait_until(SOON, "all came", || (subscriber.lines().len() >= lines.len()).then_some(()));
            assert_eq!(subscriber.lines(), lines, "{topic}");
            sink.0.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_become_properties() {
    let broker = shared();
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topic", "command/${key}/${value.kind}"),
        ("mqtt.client.id", "headers"),
    ]);
    let subscriber = broker.subscribe("command/#", 1, &["-V", "5", "-F", "%t|%C|%D|%R|%E|%P|%p"]);
    let mut sink = Sink::open(&options).await.unwrap();
    let headers = [
        ("mqtt.content.type", "application/json"),
        ("mqtt.correlation.data", "c1"),
        ("mqtt.response.topic", "answers"),
        ("mqtt.message.expiry.interval", "600"),
        ("mqtt.qos", "0"),
        ("trace", "77"),
    ];
    let headers = headers.map(|(name, value)| Header { name: name.into(), value: value.into() }).to_vec();
    let rejects = sink.put(vec![Record { headers, ..record("7", r#"{"kind":"stop"}"#) }]).await.unwrap();
    assert!(rejects.is_empty(), "{rejects:?}");
    let line = wait_until(SOON, "it came", || subscriber.lines().first().cloned());
    let fields: Vec<&str> = line.split('|').collect();
    assert_eq!(fields[..4], ["command/7/stop", "application/json", "c1", "answers"], "{line}");
    assert!(fields[5].contains("trace:77") && fields[5].contains(&format!("aq-id:{}-0-0", TOPIC_ID.simple())), "{line}");
    assert_eq!(fields[6], r#"{"kind":"stop"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_makes_no_topic_is_refused_alone() {
    let broker = shared();
    let options = options(&[("mqtt.server.uri", &broker.uri()), ("mqtt.topic", "bad/${key}"), ("mqtt.client.id", "bad")]);
    let subscriber = broker.subscribe("bad/#", 1, &[]);
    let mut sink = Sink::open(&options).await.unwrap();
    let binary = Record { key: Payload::Bytes(b"\xff"[..].into()), ..record("", "binary") };
    let header = Header { name: "h".into(), value: Payload::Bytes(b"\xff"[..].into()) };
    let records = vec![
        record("a", "good"),
        record("#", "wildcard"),
        record("x/+/y", "wildcard"),
        record("a\0b", "NUL"),
        binary,
        Record { headers: vec![header], ..record("a", "header") },
        record("b", "good too"),
    ];
    let rejects = sink.put(records).await.unwrap();
    let codes: Vec<&str> = rejects.iter().map(|reject| reject.error.code()).collect();
    assert_eq!(codes, [["mqtt_sink.topic"; 4].as_slice(), &["mqtt_sink.header"]].concat());
    wait_until(SOON, "the good ones came", || (subscriber.lines() == ["good", "good too"]).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_a_reject() {
    let broker = Broker::stopped(Options::default().with("acl_file acl"));
    std::fs::write(broker.dir().join("acl"), "topic readwrite allowed/#\n").unwrap();
    let mut broker = broker;
    broker.restart();
    for qos in ["1", "2"] {
        let options = options(&[
            ("mqtt.server.uri", &broker.uri()),
            ("mqtt.topic", "${key}"),
            ("mqtt.qos", qos),
            ("mqtt.client.id", "acl"),
        ]);
        let mut sink = Sink::open(&options).await.unwrap();
        let rejects = sink.put(vec![record("allowed/1", "a"), record("forbidden", "b"), record("allowed/2", "c")]).await.unwrap();
        let found: Vec<_> = rejects.iter().map(|reject| (reject.error.code(), rig::text(&reject.record.value))).collect();
        assert_eq!(found, [("mqtt_sink.refused", "b".to_owned())]);
        assert!(rejects[0].error.message().contains("not authorized"), "{}", rejects[0].error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_value_deletes_the_retained_message() {
    let broker = shared();
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topic", "state/${key}"),
        ("mqtt.retained.enabled", "true"),
        ("mqtt.client.id", "state"),
    ]);
    let mut sink = Sink::open(&options).await.unwrap();
    sink.put(vec![record("1", "on"), record("2", "on")]).await.unwrap();
    sink.put(vec![Record { value: Payload::Null, ..record("1", "") }]).await.unwrap();
    let subscriber = broker.subscribe("state/#", 1, &["-F", "%t %p"]);
    wait_until(SOON, "the state came", || (subscriber.lines() == ["state/2 on"]).then_some(()));
}

/// Between two puts the broker may be gone and back: nothing was on the way. During one it is an error, and the worker puts again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_is_used_again() {
    let mut broker = Broker::start(Options::default());
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topic", "t"),
        ("mqtt.client.id", "again"),
        ("mqtt.keepalive.interval.seconds", "1"),
    ]);
    let mut sink = Sink::open(&options).await.unwrap();
    sink.put(vec![record("k", "1")]).await.unwrap();
    broker.kill9();
    let error = wait_until(SOON, "a put fails", || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(sink.put(vec![record("k", "2")]))).err()
    });
    assert!(error.is_retriable() && error.code() == "mqtt.unreachable", "{error}");
    broker.restart();
    let subscriber = broker.subscribe("t", 1, &[]);
    sink.put(vec![record("k", "2")]).await.unwrap();
    wait_until(SOON, "it came", || (subscriber.lines() == ["2"]).then_some(()));
}
