//! Real Kafka Connect in both modes, seen by kcat.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use kafka_services::{Connect, ConnectOptions, file_stream_sink, file_stream_source, poll_for, shared};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_file_goes_through_kafka_connect_and_its_topics_say_how_far() {
    let broker = shared();
    let mut connect = Connect::start(&broker.bootstrap(), ConnectOptions::distributed("witness"));
    let (file, out) = (connect.dir().join("in.txt"), connect.dir().join("out.txt"));
    fs::write(&file, "one\ntwo\n").unwrap();
    broker.admin().create_topic("through-connect", 1, &[]);
    connect.connector("reader", &file_stream_source(&file, "through-connect"));
    connect.connector("writer", &file_stream_sink(&out, "through-connect"));
    poll_for(SOON, || (fs::read_to_string(&out).ok()? == "one\ntwo\n").then_some(())).unwrap();
    assert_eq!(broker.lines("through-connect"), ["one", "two"]);
    connect.stop();
    let offsets = broker.consume("witness-offsets");
    assert_eq!(offsets.last().unwrap().text(), r#"{"position":8}"#, "{offsets:?}");
    assert_eq!(broker.admin().topic_configs("witness-configs")["cleanup.policy"], "compact");
    fs::write(&file, "one\ntwo\nthree\n").unwrap();
    connect.restart();
    broker.wait_records("through-connect", 3, SOON);
    assert_eq!(connect.offsets("reader")[0]["partition"]["filename"], file.to_str().unwrap());
}

#[test]
fn standalone_keeps_its_offsets_in_a_file() {
    let broker = shared();
    let mut connect = Connect::start(&broker.bootstrap(), ConnectOptions::standalone());
    let file = connect.dir().join("in.txt");
    fs::write(&file, "a\n").unwrap();
    broker.admin().create_topic("standalone", 1, &[]);
    connect.connector("reader", &file_stream_source(&file, "standalone"));
    broker.wait_records("standalone", 1, SOON);
    connect.stop();
    assert!(connect.dir().join("offsets").metadata().unwrap().len() > 0);
}
