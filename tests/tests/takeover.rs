//! Issue 4: what a real Kafka Connect began, Aqueduct goes on with from Kafka Connect's own topics, and back again.

use aqueduct_tests::Site;
use kafka_services::{Broker, Connect, ConnectOptions, Options, file_stream_source, shared, wait_until};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn line(n: usize) -> String {
    format!("line {n:06}")
}

fn append(file: &Path, lines: Range<usize>) {
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("the folder is writable");
    let text: String = lines.map(|n| line(n) + "\n").collect();
    file.write_all(text.as_bytes()).expect("the folder is writable");
}

/// A `read_committed` reader sees each line once and in order.
#[track_caller]
fn exactly(broker: &Broker, topic: &str, lines: Range<usize>) {
    let expected: Vec<String> = lines.map(line).collect();
    let found = wait_until(MINUTE, &format!("{} lines in {topic}", expected.len()), || {
        let found = broker.lines(topic);
        (found.len() >= expected.len()).then_some(found)
    });
    assert_eq!(found.len(), expected.len(), "lines in {topic}: {:?} … {:?}", found.first(), found.last());
    assert!(found == expected, "the order of lines, or a line");
}

fn worker(broker: &Broker, group: &str) -> Site {
    Site::with(&format!(
        "bootstrap.servers: {}\ngroup.id: {group}\nkey.converter: string\nvalue.converter: string\n",
        broker.bootstrap()
    ))
}

fn position(offsets: &Value, file: &Path) -> u64 {
    let of_file = offsets.as_array().into_iter().flatten().find(|offset| offset["partition"] == json!({ "filename": file }));
    of_file.unwrap_or_else(|| panic!("no offset of {}: {offsets}", file.display()))["offset"]["position"]
        .as_u64()
        .expect("a position is a number")
}

/// Kafka Connect, Aqueduct, Kafka Connect, each for a third of the file; each knows the connector, its state and its offset from the topics alone.
#[test]
fn there_and_back_again() {
    let broker = shared();
    let folder = tempfile_dir();
    let file = folder.path().join("in.txt");
    let group = format!("takeover-{:08x}", fastrand::u32(..));
    let topic = format!("{group}-lines");
    for topic in ["lines", "held", "third", "before", "after", "filed"] {
        broker.admin().create_topic(&format!("{group}-{topic}"), 1, &[]);
    }
    let bytes = |lines: usize| (lines * (line(0).len() + 1)) as u64;

    append(&file, 0..1000);
    let mut connect =
        Connect::start(&broker.bootstrap(), ConnectOptions::distributed(&group).with("offset.flush.interval.ms=500"));
    connect.connector("tail", &file_stream_source(&file, &topic));
    let stopped = folder.path().join("stopped.txt");
    append(&stopped, 0..10);
    connect.connector("held", &file_stream_source(&stopped, &format!("{group}-held")));
    exactly(&broker, &format!("{group}-held"), 0..10);
    exactly(&broker, &topic, 0..1000);
    let moved = folder.path().join("moved.txt");
    append(&moved, 0..10);
    connect.connector("moved", &file_stream_source(&moved, &format!("{group}-before")));
    exactly(&broker, &format!("{group}-before"), 0..10);
    assert_eq!(connect.call("PUT", "/connectors/held/stop", None).0, 204);
    wait_until(MINUTE, "held is stopped", || (connect.get("/connectors/held/status")["tasks"] == json!([])).then_some(()));
    connect.stop();

    append(&file, 1000..2000);
    append(&stopped, 10..20);
    let mut site = worker(&broker, &group);
    site.start();
    let client = site.client();
    let info = client.get("/connectors/tail").expect(200).json();
    assert_eq!(info["config"]["connector.class"], "org.apache.kafka.connect.file.FileStreamSourceConnector");
    assert_eq!((client.state("tail"), client.state("held")), ("RUNNING".to_owned(), "STOPPED".to_owned()));
    exactly(&broker, &topic, 0..2000);
    let offsets = client.get("/connectors/tail/offsets").expect(200).json()["offsets"].clone();
    assert_eq!(position(&offsets, &file), bytes(2000), "{offsets}");
    // What Kafka Connect has stopped stays stopped, and can be changed: back to the beginning of its tenth line.
    exactly(&broker, &format!("{group}-held"), 0..10);
    let body = json!({ "offsets": [{ "partition": { "filename": stopped }, "offset": { "position": bytes(9) } }] });
    client.patch("/connectors/held/offsets", &body).expect(200);
    // A config of Kafka Connect's, changed: the task configs that it stored are void.
    client.put("/connectors/moved/config", Some(&file_stream_source(&moved, &format!("{group}-after")))).expect(200);
    append(&moved, 10..20);
    exactly(&broker, &format!("{group}-after"), 10..20);
    // A config of ours, and a state of ours.
    let third = folder.path().join("third.txt");
    append(&third, 0..10);
    client.put("/connectors/third/config", Some(&file_stream_source(&third, &format!("{group}-third")))).expect(201);
    exactly(&broker, &format!("{group}-third"), 0..10);
    client.put("/connectors/third/pause", None).expect(202);
    // And one from a file: its mark in the config topic is nothing to Kafka Connect.
    let class = "org.apache.kafka.connect.file.FileStreamSourceConnector";
    site.connector("filed", &format!("name: filed\nconnector.class: {class}\nfile: {}\ntopic: {group}-filed\n", third.display()));
    exactly(&broker, &format!("{group}-filed"), 0..10);
    site.stop();

    append(&file, 2000..3000);
    append(&third, 10..20);
    append(&moved, 20..30);
    connect.restart();
    connect.wait_state("tail", "RUNNING");
    exactly(&broker, &topic, 0..3000);
    exactly(&broker, &format!("{group}-filed"), 0..20);
    exactly(&broker, &format!("{group}-after"), 10..30);
    exactly(&broker, &format!("{group}-before"), 0..10);
    wait_until(MINUTE, "Kafka Connect stores its offset", || {
        (position(&connect.offsets("tail"), &file) == bytes(3000)).then_some(())
    });
    assert_eq!(connect.get("/connectors/held/status")["connector"]["state"], "STOPPED");
    assert_eq!(position(&connect.offsets("held"), &stopped), bytes(9));
    assert_eq!(connect.get("/connectors/third/status")["connector"]["state"], "PAUSED");
    assert_eq!(position(&connect.offsets("third"), &third), bytes(10));
    for (name, state) in [("held", "resume"), ("third", "resume")] {
        assert_eq!(connect.call("PUT", &format!("/connectors/{name}/{state}"), None).0, 202);
        connect.wait_state(name, "RUNNING");
    }
    exactly(&broker, &format!("{group}-third"), 0..20);
    let held =
        wait_until(MINUTE, "held goes on", || Some(broker.lines(&format!("{group}-held"))).filter(|lines| lines.len() >= 21));
    let expected: Vec<String> = (0..10).chain(9..20).map(line).collect();
    assert_eq!(held, expected);
    assert!(connect.log_tail(200).contains("aqueduct-folder-filed"), "Kafka Connect says that it passes over the mark");
}

/// Both would run every connector: the one that comes second says so and waits.
#[test]
fn not_beside_kafka_connect() {
    let broker = shared();
    let group = format!("beside-{:08x}", fastrand::u32(..));
    let mut connect = Connect::start(&broker.bootstrap(), ConnectOptions::distributed(&group));
    let folder = tempfile_dir();
    let file = folder.path().join("in.txt");
    append(&file, 0..10);
    // A producer of Kafka Connect's waits for a missing topic for ever, and does not let a signal end it.
    broker.admin().create_topic(&format!("{group}-lines"), 1, &[]);
    // It runs a connector once it is a member of its group.
    connect.connector("tail", &file_stream_source(&file, &format!("{group}-lines")));
    let mut site = worker(&broker, &group);
    site.spawn(&aqueduct_tests::Run::default());
    let client = site.client();
    let says = |what: &str| {
        wait_until(MINUTE, what, || {
            let answer = client.call(reqwest::Method::GET, "/health", None).ok()?;
            answer.text.contains(what).then_some(answer.status)
        })
    };
    assert_eq!(says("kafka.group_active"), 503);
    assert!(client.get("/connectors").error(503).contains("kafka.group_active"));
    connect.stop();
    site.wait_healthy(MINUTE).unwrap();
    assert_eq!(client.get("/connectors").expect(200).json(), json!(["tail"]));
    site.stop();
}

/// Two workers with one group.id are not supported yet: the second takes over, the first can change nothing any more, and its tasks write nothing.
#[test]
fn a_second_worker_fences_the_first() {
    let broker = shared();
    let group = format!("twice-{:08x}", fastrand::u32(..));
    let folder = tempfile_dir();
    let file = folder.path().join("in.txt");
    append(&file, 0..100);
    let (mut first, mut second) = (worker(&broker, &group), worker(&broker, &group));
    first.start();
    let topic = format!("{group}-lines");
    broker.admin().create_topic(&topic, 1, &[]);
    first.client().put("/connectors/tail/config", Some(&file_stream_source(&file, &topic))).expect(201);
    exactly(&broker, &topic, 0..100);
    second.start();
    wait_until(MINUTE, "the second runs the connector", || (second.client().state("tail") == "RUNNING").then_some(()));
    let refused = first.client().put("/connectors/tail/pause", None).error(500);
    assert!(refused.contains("log.fenced") && refused.contains("group.id"), "{refused}");
    append(&file, 100..200);
    exactly(&broker, &topic, 0..200);
    let states = || first.client().task_states("tail");
    wait_until(MINUTE, "the first's task is fenced", || (states() == ["FAILED"]).then_some(()));
    second.stop();
    first.stop();
    exactly(&broker, &topic, 0..200);
}

/// The broker comes after the worker.
#[test]
fn a_worker_waits_for_its_broker() {
    let mut broker = Broker::start(Options::default());
    broker.stop();
    let mut site = worker(&broker, "patient");
    let begin = std::time::Instant::now();
    site.spawn(&aqueduct_tests::Run::default());
    let client = site.client();
    wait_until(MINUTE, "/health says what is missing", || {
        let answer = client.call(reqwest::Method::GET, "/health", None).ok()?;
        (answer.status == 503 && answer.text.contains("kafka.unreachable") && answer.text.contains(&broker.bootstrap()))
            .then_some(())
    });
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    broker.restart();
    site.wait_healthy(MINUTE).unwrap();
    client.get("/connectors").expect(200);
    site.stop();
}

/// Compaction is what keeps configs and offsets: a topic that deletes is refused in Kafka Connect's words.
#[test]
fn a_topic_that_is_not_compacted_is_refused() {
    let broker = shared();
    broker.admin().create_topic("deletes-offsets", 1, &[("cleanup.policy", "delete")]);
    let mut site = worker(&broker, "deletes");
    site.spawn(&aqueduct_tests::Run::default());
    assert!(!site.wait_exit(MINUTE).success());
    let log = site.log();
    assert!(log.contains("Topic 'deletes-offsets' supplied via the 'offset.storage.topic' property is required to have 'cleanup.policy=compact'"), "{log}");
}

fn tempfile_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("aqueduct-takeover-").tempdir().expect("the temporary folder is writable")
}
