//! Through the whole: generator, transforms, converters, dead letters, and signals.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

fn read(site: &Site, topic: &str) -> Vec<Value> {
    let output = site.cli(&["topics", "read", topic, "--format", "json"]);
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn values(site: &Site, topic: &str) -> Vec<String> {
    read(site, topic)
        .iter()
        .map(|record| record["value"].as_str().map_or_else(|| record["value"].to_string(), str::to_owned))
        .collect()
}

/// Killed in the middle as often as that, a seeded generator leaves the same records as without.
#[test]
fn a_generator_goes_on_exactly_where_it_was() {
    let yaml = "name: gen\nconnector.class: datagen-source\ntemplate: orders\ntopic: t\ncount: 3000\nrate: 1500\nseed: 42\n";
    let (mut calm, mut killed) = (Site::new(), Site::new());
    for site in [&mut calm, &mut killed] {
        site.connector("gen", yaml);
        site.start();
    }
    for kill in 0..5 {
        pause(Duration::from_millis(250 + kill * 30));
        killed.kill();
        killed.start();
    }
    wait_until(SOON, "both are through", || [&calm, &killed].iter().all(|site| values(site, "t").len() >= 3_000).then_some(()));
    let payload = |site: &Site| -> Vec<(Value, Value)> {
        read(site, "t").into_iter().map(|mut record| (record["key"].take(), record["value"].take())).collect()
    };
    let (calm, killed) = (payload(&calm), payload(&killed));
    assert_eq!(calm.len(), 3_000);
    assert!(calm == killed, "the records differ; the first: {:?}", calm.iter().zip(&killed).find(|(a, b)| a != b));
}

/// Bad records go to the dead letter queue and are never lost; the good ones arrive once, over kills (invariant 2).
#[test]
fn what_is_not_json_is_dead_lettered_and_the_rest_arrives_once() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    let root = site.root.display().to_string();
    let total = 4_000;
    let lines: String =
        (0..total).map(|n| if n % 10 == 3 { format!("not json {n}\n") } else { format!("{{\"n\": {n}}}\n") }).collect();
    fs::write(site.path("in/a.log"), lines).unwrap();
    site.connector("source", &format!("name: source\nconnector.class: file-source\nfile: {root}/in/a.log\ntopic: t\n"));
    site.connector(
        "sink",
        &format!(
            "name: sink\nconnector.class: file-sink\nfile: {root}/out.log\ntopics: t\nformat: json\nfields: value\nenvelope: false\n\
             value.converter: org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable: false\n\
             errors.tolerance: all\nerrors.deadletterqueue.topic.name: dead\nerrors.deadletterqueue.topic.replication.factor: 1\n\
             errors.deadletterqueue.context.headers.enable: true\naqueduct.batch.max.records: 100\n"
        ),
    );
    site.start();
    for _ in 0..3 {
        pause(Duration::from_millis(150));
        site.kill();
        site.start();
    }
    let good = || fs::read_to_string(site.path("out.log")).unwrap_or_default();
    wait_until(SOON, "the good ones arrive", || (good().lines().count() >= total / 10 * 9).then_some(()));
    wait_until(SOON, "the bad ones are in the queue", || (read(&site, "dead").len() >= total / 10).then_some(()));
    let numbers: Vec<u64> =
        good().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..total as u64).filter(|n| n % 10 != 3).collect::<Vec<_>>());
    let dead = read(&site, "dead");
    let texts: Vec<&str> = dead.iter().map(|record| record["value"].as_str().unwrap()).collect();
    // A kill between the letter and the position repeats letters, and loses none.
    let mut seen = BTreeSet::new();
    let first: Vec<&str> = texts.into_iter().filter(|text| seen.insert(*text)).collect();
    assert!(first == (0..total).filter(|n| n % 10 == 3).map(|n| format!("not json {n}")).collect::<Vec<_>>(), "{first:?}");
    let headers = dead[0]["headers"].to_string();
    assert!(headers.contains("__connect.errors.topic") && headers.contains("__connect.errors.exception.message"), "{headers}");
}

#[test]
fn transforms_insert_route_and_filter() {
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let config = json!({
        "connector.class": "datagen-source", "template": "orders", "topic": "orders", "count": "200", "rate": "100000", "seed": "1",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "transforms": "tag,route,drop", "predicates": "to-drop",
        "transforms.tag.type": "org.apache.kafka.connect.transforms.InsertField$Value",
        "transforms.tag.static.field": "site", "transforms.tag.static.value": "north",
        "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.route.regex": "(.*)", "transforms.route.replacement": "north.$1",
        "transforms.drop.type": "org.apache.kafka.connect.transforms.Filter", "transforms.drop.predicate": "to-drop",
        "predicates.to-drop.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches", "predicates.to-drop.pattern": "south.*",
    });
    client.put("/connectors/gen/config", Some(&config)).expect(201);
    wait_until(SOON, "the records are where the router sends them", || (read(&site, "north.orders").len() >= 200).then_some(()));
    for value in values(&site, "north.orders") {
        assert_eq!(serde_json::from_str::<Value>(&value).unwrap()["site"], "north", "{value}");
    }
    // The same with a predicate that is true of all: nothing passes.
    let mut dropped = config;
    dropped["predicates.to-drop.pattern"] = json!("north.*");
    client.put("/connectors/none/config", Some(&dropped)).expect(201);
    wait_until(SOON, "all are filtered", || {
        let status = client.get("/connectors/none/status").json();
        (status["tasks"][0]["aqueduct"]["records_filtered"] == 200).then_some(())
    });
    assert_eq!(read(&site, "north.orders").len(), 200);
}

#[test]
fn sigterm_drains_and_a_restart_goes_on() {
    let mut site = Site::new();
    let root = site.root.display().to_string();
    site.connector("gen", "name: gen\nconnector.class: datagen-source\ntemplate: orders\ntopic: t\nrate: 5000\nseed: 1\n");
    site.connector("out", &format!("name: out\nconnector.class: file-sink\nfile: {root}/out.log\ntopics: t\n"));
    site.start();
    for _ in 0..3 {
        let before = fs::metadata(site.path("out.log")).map_or(0, |meta| meta.len());
        wait_until(SOON, "records move", || (fs::metadata(site.path("out.log")).ok()?.len() > before).then_some(()));
        site.stop();
        site.start();
    }
    site.client().put("/connectors/gen/stop", None).expect(204);
    wait_until(SOON, "the sink is at the end", || {
        let status = site.client().get("/connectors/out/status").json();
        (status["tasks"][0]["aqueduct"]["lag"] == 0).then_some(())
    });
    site.signal(Signal::INT);
    assert!(site.wait_exit(SOON).success(), "Ctrl-C is a clean stop too");
    site.start();
    let topic = values(&site, "t");
    wait_until(SOON, "file and topic agree", || {
        let file = fs::read_to_string(site.path("out.log")).unwrap();
        (file.lines().eq(topic.iter().map(String::as_str))).then_some(())
    });
}
