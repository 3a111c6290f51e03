//! Issue 4: the worker's side of Apache Kafka as the log: client overrides, transaction boundaries, topic creation, dead letters, the command line.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site};
use kafka_services::{Broker, Options, java_tool, kcat, shared, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn line(n: usize) -> String {
    format!("line {n:06}")
}

fn append(file: &Path, lines: impl IntoIterator<Item = String>) {
    let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    file.write_all(text.as_bytes()).unwrap();
}

/// A group of workers of its own on the shared broker, and a prefix for its topics.
fn site(broker: &Broker, more: &str) -> (Site, String) {
    let group = format!("worker-{:08x}", fastrand::u32(..));
    let settings = format!("bootstrap.servers: {}\ngroup.id: {group}\noffset.flush.interval.ms: 200\n{more}", broker.bootstrap());
    (Site::with(&settings), group)
}

/// Values as a `read_committed` reader sees them, whatever their headers are.
fn values(broker: &Broker, topic: &str) -> Vec<String> {
    let bootstrap = broker.bootstrap();
    let args = [
        "-b",
        &bootstrap,
        "-C",
        "-t",
        topic,
        "-e",
        "-q",
        "-o",
        "beginning",
        "-f",
        "%s\\n",
        "-X",
        "isolation.level=read_committed",
    ];
    let output = kcat(&args, b"");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[track_caller]
fn exactly(broker: &Broker, topic: &str, lines: Range<usize>) {
    let expected: Vec<String> = lines.map(line).collect();
    let found = wait_until(MINUTE, &format!("{} lines in {topic}", expected.len()), || {
        Some(values(broker, topic)).filter(|found| found.len() >= expected.len())
    });
    assert!(found == expected, "{topic}: {} lines: {:?} … {:?}", found.len(), found.first(), found.last());
}

fn source(file: &Path, topic: &str) -> Value {
    json!({ "connector.class": "file-source", "file": file, "topic": topic, "topic.creation.default.replication.factor": "1" })
}

fn with(mut config: Value, pairs: &[(&str, &str)]) -> Value {
    pairs.iter().for_each(|(key, value)| config[*key] = json!(value));
    config
}

#[track_caller]
fn put(site: &Site, name: &str, config: &Value) {
    site.client().put(&format!("/connectors/{name}/config"), Some(config)).expect(201);
}

#[test]
fn overrides_reach_the_clients() {
    let broker = shared();
    let (mut site, group) = site(&broker, "connector.client.config.override.policy: All\n");
    site.start();
    let (file, topic) = (site.path("in.txt"), format!("{group}-lines"));
    append(&file, (0..1000).map(line));
    put(
        &site,
        "tail",
        &with(source(&file, &topic), &[("producer.override.compression.type", "zstd"), ("producer.override.linger.ms", "50")]),
    );
    let sink = json!({ "connector.class": "file-sink", "topics": topic, "file": site.path("out.txt"), "consumer.override.client.id": "my-own-reader" });
    let name = format!("{group}-out");
    put(&site, &name, &sink);
    exactly(&broker, &topic, 0..1000);
    let members = wait_until(MINUTE, "the sink is a member under its client.id", || {
        let group = format!("connect-{name}");
        Some(broker.consumer_groups(&["--describe", "--members", "--group", &group]))
            .filter(|text| text.contains("my-own-reader"))
    });
    assert!(members.contains("my-own-reader"), "{members}");
    let segment = broker.dir().join(format!("log/{topic}-0/00000000000000000000.log"));
    let dump = java_tool("org.apache.kafka.tools.DumpLogSegments", &["--files", segment.to_str().unwrap()]);
    let dump = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.contains("compresscodec: zstd"), "{dump:.600}");
    wait_until(MINUTE, "the sink's file", || {
        std::fs::read_to_string(site.path("out.txt")).ok().filter(|text| text.lines().count() == 1000)
    });
    site.stop();
}

#[test]
fn overrides_are_judged_before_anything_is_opened() {
    let broker = shared();
    let (mut site, group) = site(&broker, "connector.client.config.override.policy: Principal\n");
    let file = site.path("in.txt");
    let misspelt = source(&file, &format!("{group}-t"));
    std::fs::write(
        site.path("tail.yaml"),
        format!("name: tail\nconnector.class: file-source\nfile: {}\ntopic: t\nproducer.override.sasl.mechanism: GSSAPI\nproducer.override.compresion.type: lz4\n", file.display()),
    )
    .unwrap();
    // Without a worker, and without a broker.
    let output = site.cli(&["validate", "--config", "worker.yaml", "tail.yaml"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("producer.override.compresion.type") && text.contains("did you mean compression.type?"), "{text}");
    assert!(text.contains("\"Principal\" policy does not allow"), "{text}");

    site.start();
    let client = site.client();
    let refused =
        client.put("/connectors/a/config", Some(&with(misspelt.clone(), &[("producer.override.compression.type", "lz4")])));
    let said = refused.error(400);
    assert!(said.contains("policy does not allow \"compression.type\""), "{said}");
    let unknown = with(misspelt, &[("consumer.override.isolation.levle", "read_committed")]);
    let said = client.put("/connectors/a/config", Some(&unknown)).error(400);
    assert!(said.contains("consumer.override.isolation.levle") && said.contains("is no option of Kafka's clients"), "{said}");
    let report = client.put("/connector-plugins/file-source/config/validate", Some(&unknown)).expect(200).json();
    assert!(report["error_count"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(client.get("/connectors").expect(200).json(), json!([]));
    site.stop();
}

/// Each transaction leaves one entry of its own in the partition.
#[test]
fn a_boundary_by_interval_gathers_what_poll_would_end() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    site.start();
    let transactions = |name: &str, more: &[(&str, &str)]| {
        let (file, topic) = (site.path(&format!("{name}.txt")), format!("{group}-{name}"));
        append(&file, [line(0)]);
        put(&site, name, &with(source(&file, &topic), more));
        exactly(&broker, &topic, 0..1);
        let before = broker.admin().end_offset(&topic, 0, true);
        for n in 1..=20 {
            append(&file, [line(n)]);
            pause(Duration::from_millis(60));
        }
        exactly(&broker, &topic, 0..21);
        broker.admin().end_offset(&topic, 0, true) - before - 20
    };
    let interval =
        transactions("interval", &[("transaction.boundary", "interval"), ("transaction.boundary.interval.ms", "1000")]);
    let poll = transactions("poll", &[]);
    assert!((1..=4).contains(&interval), "{interval} transactions in 1.2 s, one a second");
    assert!(poll > interval, "{poll} transactions with poll, {interval} with an interval");
    let status = site.client().get("/connectors/poll/status").expect(200).json();
    assert_eq!(status["tasks"][0]["aqueduct"]["exactly_once"], "promised", "{status}");
    site.stop();
}

/// The source waits for room when `aqueduct.buffer.bytes` are in flight: their transaction does not wait for its interval then.
#[test]
fn an_interval_does_not_outlast_the_buffer() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    site.start();
    let (file, topic) = (site.path("in.txt"), format!("{group}-lines"));
    append(&file, (0..20_000).map(line));
    let more = [
        ("transaction.boundary", "interval"),
        ("transaction.boundary.interval.ms", "20000"),
        ("aqueduct.batch.max.bytes", "16384"),
        ("aqueduct.buffer.bytes", "65536"),
    ];
    put(&site, "tail", &with(source(&file, &topic), &more));
    // 240 KB: three times the interval, if each buffer waited for it.
    let begin = std::time::Instant::now();
    exactly(&broker, &topic, 0..20_000);
    assert!(begin.elapsed() < Duration::from_secs(35), "{:?}", begin.elapsed());
    site.stop();
}

#[test]
fn topics_are_created_as_their_group_says() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    site.start();
    let file = site.path("in.txt");
    append(&file, (0..10).map(line));
    let created = |name: &str, topic: &str| {
        let more = [
            ("topic.creation.groups", "wide,small"),
            ("topic.creation.wide.include", ".*-wide, .*-also"),
            ("topic.creation.wide.exclude", ".*-not-wide"),
            ("topic.creation.wide.partitions", "3"),
            ("topic.creation.wide.replication.factor", "-1"),
            // No config that the embedded log knows.
            ("topic.creation.wide.message.timestamp.type", "LogAppendTime"),
            ("topic.creation.wide.file.delete.delay.ms", "1234"),
            ("topic.creation.small.include", ".*"),
            ("topic.creation.small.max.message.bytes", "2000"),
        ];
        put(&site, name, &with(source(&file, topic), &more));
        exactly(&broker, topic, 0..10);
        (broker.admin().leaders(topic).len(), broker.admin().topic_configs(topic))
    };
    let (wide, small) = (format!("{group}-wide"), format!("{group}-not-wide"));
    let (partitions, configs) = created("w", &wide);
    assert_eq!(
        (partitions, configs["message.timestamp.type"].as_str(), configs["file.delete.delay.ms"].as_str()),
        (3, "LogAppendTime", "1234")
    );
    let (partitions, configs) = created("s", &small);
    assert_eq!((partitions, configs["max.message.bytes"].as_str()), (1, "2000"));

    // What the broker refuses fails the task, in its words: a record for good, an unknown config.
    put(&site, "compacts", &with(source(&file, &format!("{group}-c")), &[("topic.creation.default.cleanup.policy", "compact")]));
    let misspelt = with(source(&file, &format!("{group}-bad")), &[("topic.creation.default.max.mesage.bytes", "5")]);
    let said = site.client().put("/connectors/bad/config", Some(&misspelt)).error(400);
    assert!(said.contains("topic.creation.default.max.mesage.bytes: is no config of a topic"), "{said}");
    let bad = with(source(&file, &format!("{group}-bad")), &[("topic.creation.default.brand.new", "5")]);
    put(&site, "bad", &bad);
    let client = site.client();
    for (name, why) in [("bad", "brand.new"), ("compacts", "kafka.record_refused: ")] {
        let trace = wait_until(MINUTE, "the task fails", || {
            let status = client.get(&format!("/connectors/{name}/status")).json();
            status["tasks"][0]["trace"].as_str().map(str::to_owned)
        });
        assert!(trace.contains(why), "{trace}");
    }
    site.stop();
}

/// A line that is too large for a topic of Kafka's is a bad record, not the end of the task; the largest that fits passes.
#[test]
fn sizes_count_as_the_broker_counts_them() {
    let broker = Broker::start(Options::default().with("message.max.bytes=20000"));
    java_tool(
        "org.apache.kafka.tools.FeatureCommand",
        &["--bootstrap-server", &broker.bootstrap(), "downgrade", "--feature", "transaction.version=1"],
    );
    let (mut site, group) = site(&broker, "");
    site.start();
    let (file, topic, dlq) = (site.path("in.txt"), format!("{group}-t"), format!("{group}-dlq"));
    broker.admin().create_topic(&dlq, 1, &[("max.message.bytes", "100000")]);
    let sizes: Vec<usize> = (19_850..20_050).chain([10]).collect();
    append(&file, sizes.iter().map(|size| "x".repeat(*size)));
    let more = [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", dlq.as_str()),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ];
    put(&site, "tail", &with(source(&file, &topic), &more));
    let (passed, refused) = wait_until(MINUTE, "all lines are somewhere", || {
        let (passed, refused) = (values(&broker, &topic), values(&broker, &dlq));
        (passed.len() + refused.len() >= sizes.len()).then_some((passed, refused))
    });
    let largest = passed.iter().map(String::len).max().unwrap();
    assert!((19_850..20_000 - 61).contains(&largest), "{largest}");
    let expected: Vec<usize> = sizes.iter().copied().filter(|size| *size <= largest).collect();
    assert_eq!(passed.iter().map(String::len).collect::<Vec<_>>(), expected);
    assert_eq!(refused.len(), sizes.len() - expected.len());
    let client = site.client();
    let status = client.get("/connectors/tail/status").expect(200).json();
    let progress = &status["tasks"][0]["aqueduct"];
    assert_eq!((&status["tasks"][0]["state"], &progress["retries"]), (&json!("RUNNING"), &json!(0)), "{status}");

    // This cluster has not finalised transaction.version 2.
    assert_eq!(progress["exactly_once"], "degraded", "{status}");
    assert!(progress["exactly_once_reason"].as_str().unwrap().contains("KIP-890"), "{status}");
    assert!(
        client
            .get("/metrics")
            .expect(200)
            .text
            .contains("aqueduct_source_exactly_once_degraded{connector=\"tail\",task=\"0\"} 1")
    );
    assert!(site.ok(&["status"]).contains("exactly once is degraded"));
    put(&site, "strict", &with(source(&file, &format!("{group}-strict")), &[("exactly.once.support", "required")]));
    let trace = wait_until(MINUTE, "the task fails", || {
        client.get("/connectors/strict/status").json()["tasks"][0]["trace"].as_str().map(str::to_owned)
    });
    assert!(trace.contains("worker.exactly_once") && trace.contains("KIP-890"), "{trace}");
    site.stop();
}

/// `disabled`: at least once, and who requires more is refused before anything runs.
#[test]
fn at_least_once_says_so() {
    let broker = shared();
    let (mut site, group) = site(&broker, "exactly.once.source.support: disabled\n");
    site.start();
    let (file, topic) = (site.path("in.txt"), format!("{group}-t"));
    append(&file, (0..100).map(line));
    put(&site, "tail", &source(&file, &topic));
    exactly(&broker, &topic, 0..100);
    let client = site.client();
    let status = client.get("/connectors/tail/status").expect(200).json();
    assert_eq!(status["tasks"][0]["aqueduct"]["exactly_once"], "degraded", "{status}");
    let required = with(source(&file, &topic), &[("exactly.once.support", "required")]);
    let said = client.put("/connectors/strict/config", Some(&required)).error(400);
    assert!(said.contains("exactly.once.support"), "{said}");
    site.stop();
}

/// Killed again and again: each bad record once in the queue, with Kafka Connect's headers, each good one once in the file.
#[test]
fn dead_letters_are_in_the_queue_exactly_once() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    let (topic, dlq) = (format!("{group}-in"), format!("{group}-dlq"));
    broker.admin().create_topic(&topic, 1, &[]);
    let record = |n: usize| if n.is_multiple_of(3) { format!("{{\"n\": {n}, and no more") } else { format!("{{\"n\":{n}}}") };
    let sink = json!({
        "connector.class": "file-sink", "topics": topic, "file": site.path("out.txt"),
        "value.converter": "json", "value.converter.schemas.enable": "false", "errors.tolerance": "all", "offset.flush.interval.ms": "30",
        "errors.deadletterqueue.topic.name": dlq, "errors.deadletterqueue.topic.replication.factor": "1",
        "errors.deadletterqueue.context.headers.enable": "true", "aqueduct.batch.max.records": "50",
    });
    let name = format!("{group}-sink");
    for (round, point) in ["sink.put", "sink.flushed", "kafka.ended", "sink.committed"].into_iter().enumerate() {
        let lines: Vec<String> = (round * 300..(round + 1) * 300).map(record).collect();
        broker.produce(&topic, &lines, &["-p", "0"]);
        // At once or later: some of these points are on the way of the worker's own start too.
        site.spawn(&Run::failpoints(format!("{point}=abort")));
        if round == 0 {
            site.wait_healthy(MINUTE).unwrap();
            // Its answer may die with the worker.
            let _ = site.client().call(Method::PUT, &format!("/connectors/{name}/config"), Some(&sink.to_string()));
        }
        site.wait_exit(MINUTE);
    }
    site.start();
    let bad: Vec<String> = (0..1200).step_by(3).map(record).collect();
    let found = wait_until(MINUTE, "every bad record is in the queue", || {
        Some(values(&broker, &dlq)).filter(|found| found.len() >= bad.len())
    });
    assert_eq!(found, bad);
    let good: Vec<String> = (0..1200).filter(|n: &usize| !n.is_multiple_of(3)).map(record).collect();
    let file = wait_until(MINUTE, "every good record is in the file", || {
        let text = std::fs::read_to_string(site.path("out.txt")).ok()?;
        Some(text.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() >= good.len())
    });
    assert_eq!(file, good);

    let letter: Value =
        serde_json::from_str(site.ok(&["topics", "read", &dlq, "--format", "json", "--max", "1"]).lines().next().unwrap())
            .unwrap();
    let headers: Vec<(&str, &str)> = letter["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| (h["name"].as_str().unwrap(), h["value"].as_str().unwrap()))
        .collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.strip_prefix("__connect.errors.").unwrap()).collect();
    let connects = [
        "topic",
        "partition",
        "offset",
        "connector.name",
        "task.id",
        "stage",
        "class.name",
        "exception.class.name",
        "exception.message",
        "exception.stacktrace",
    ];
    assert_eq!(names, connects);
    let of: BTreeMap<&str, &str> = headers.into_iter().collect();
    let value = |name: &str| of[format!("__connect.errors.{name}").as_str()];
    assert_eq!((value("topic"), value("partition"), value("offset")), (topic.as_str(), "0", "0"));
    assert_eq!((value("connector.name"), value("task.id"), value("stage")), (name.as_str(), "0", "VALUE_CONVERTER"));
    site.stop();
}

#[test]
fn a_new_topic_of_a_pattern_is_picked_up() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    site.start();
    let out = site.path("out.txt");
    let sink = json!({ "connector.class": "file-sink", "topics.regex": format!("{group}-in.*"), "file": out });
    let create = |topic: &str, lines: Range<usize>| {
        broker.admin().create_topic(topic, 1, &[]);
        broker.produce(topic, &lines.map(line).collect::<Vec<_>>(), &[]);
    };
    create(&format!("{group}-in-1"), 0..10);
    put(&site, &format!("{group}-out"), &sink);
    let arrived = |count: usize| {
        wait_until(MINUTE, &format!("{count} lines"), || {
            let text = std::fs::read_to_string(&out).ok()?;
            Some(text.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() >= count)
        })
    };
    arrived(10);
    create(&format!("{group}-in-2"), 10..20);
    create(&format!("{group}-other"), 20..30);
    let mut lines = arrived(20);
    lines.sort();
    assert_eq!(lines, (0..20).map(line).collect::<Vec<_>>());
    site.stop();
}

#[test]
fn the_command_line_works_on_kafka() {
    let broker = shared();
    let (mut site, group) = site(&broker, "");
    site.start();
    let topic = format!("{group}-cli");
    site.ok(&[
        "topics",
        "create",
        &topic,
        "--partitions",
        "2",
        "--replication-factor",
        "1",
        "--config",
        "message.timestamp.type=CreateTime",
    ]);
    std::fs::write(site.path("lines"), "a\nb\nc\n").unwrap();
    let written = site.cli_with(&["topics", "write", &topic], Some(&site.path("lines")));
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let mut seen = values(&broker, &topic);
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
    broker.produce(&topic, &["d"], &[]);
    let read = site.ok(&["topics", "read", &topic, "--format", "json"]);
    assert_eq!(read.lines().count(), 4, "{read}");
    assert!(site.ok(&["topics", "list"]).contains(&topic));
    let described = site.ok(&["topics", "describe", &topic]);
    assert!(described.contains("message.timestamp.type"), "{described}");

    let sink = json!({ "connector.class": "file-sink", "topics": topic, "file": site.path("out.txt") });
    let name = format!("{group}-sink");
    put(&site, &name, &sink);
    let client = site.client();
    let path = format!("/connectors/{name}/offsets");
    wait_until(MINUTE, "positions are committed", || {
        let offsets = client.get(&path).json()["offsets"].as_array()?.clone();
        let lines = std::fs::read_to_string(site.path("out.txt")).ok()?.lines().count();
        (offsets.len() == 2 && lines == 4).then_some(())
    });
    client.put(&format!("/connectors/{name}/stop"), None).expect(204);
    site.ok(&["offsets", "set", &name, &format!("{topic}:0=0"), &format!("{topic}:1=0")]);
    let shown = site.ok(&["offsets", "show", &name]);
    assert!(shown.contains(&topic), "{shown}");
    site.ok(&["offsets", "reset", &name]);
    assert_eq!(client.get(&path).expect(200).json(), json!({ "offsets": [] }));

    // The files are the broker's.
    std::fs::create_dir(site.path("config")).unwrap();
    std::fs::copy(site.path("worker.yaml"), site.path("config/worker.yaml")).unwrap();
    let verify = site.cli(&["log", "verify"]);
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(!verify.status.success() && said.contains(&format!("Kafka at {}", broker.bootstrap())), "{said}");

    client.delete(&format!("/connectors/{name}")).expect(204);
    site.ok(&["topics", "delete", &topic]);
    assert!(!broker.admin().topics().contains(&topic));
    site.stop();
}
