//! The command line: exit codes, tables for people, JSON and YAML for scripts, with and without a running worker.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Site, segment, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "colour off a terminal: {out:?} {err:?}");
    (out, err)
}

#[track_caller]
fn json_of(site: &Site, args: &[&str]) -> Value {
    let text = site.ok(&[args, &["--output", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    wait_until(SOON, what, || condition().then_some(()));
}

/// A worker with a generator and a counter.
fn running() -> Site {
    let mut site = Site::new();
    site.connector("gen", "name: gen\nconnector.class: datagen-source\ntemplate: orders\ntopic: orders\nrate: 100\nseed: 1\n");
    site.connector("hole", "name: hole\nconnector.class: blackhole-sink\ntopics: orders\n");
    site.start();
    let client = site.client();
    until("both run", || ["gen", "hole"].iter().all(|name| client.task_states(name) == ["RUNNING"]));
    site
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let site = Site::new();
    for args in
        [&[][..], &["dance"], &["validate"], &["topics", "read"], &["status", "--colour"], &["connectors", "list", "-o", "xml"]]
    {
        let (_, err) = ends_with(&site.cli(args), 2);
        assert!(err.contains("Usage") || err.contains("possible values"), "{args:?}: {err}");
    }
    for args in [&["--help"][..], &["worker", "--help"], &["topics", "read", "--help"], &["--version"]] {
        ends_with(&site.cli(args), 0);
    }
}

#[test]
fn without_a_worker_the_exit_code_is_4_and_the_address_is_named() {
    let site = Site::new();
    for args in [&["status"][..], &["connectors", "list"], &["offsets", "show", "x"], &["topics", "list"]] {
        let (out, err) = ends_with(&site.cli(args), 4);
        assert!(err.contains(&site.port.to_string()) && out.is_empty(), "{args:?}: {out} {err}");
    }
}

#[test]
fn what_is_not_there_is_3() {
    let site = running();
    for args in [
        &["connectors", "describe", "nope"][..],
        &["connectors", "pause", "nope"],
        &["connectors", "delete", "nope"],
        &["offsets", "show", "nope"],
        &["topics", "describe", "nope"],
        &["plugins", "describe", "file-sorce"],
        &["validate", "nope.yaml"],
    ] {
        let (_, err) = ends_with(&site.cli(args), 3);
        assert!(err.contains("nope") || err.contains("file-source"), "{args:?}: {err}");
    }
}

#[test]
fn plugins_are_described_and_their_examples_validate() {
    let site = Site::new();
    let table = site.ok(&["plugins", "list"]);
    let plugins = json_of(&site, &["plugins", "list"]);
    let names: Vec<&str> = plugins.as_array().unwrap().iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    for name in ["file-source", "file-sink", "datagen-source", "blackhole-sink"] {
        assert!(names.contains(&name) && table.contains(name), "{table}");
    }
    for name in names {
        let example = site.ok(&["plugins", "describe", name, "--example"]);
        fs::write(site.path("example.yaml"), &example).unwrap();
        let (out, _) = ends_with(&site.cli(&["validate", "--strict", "example.yaml"]), 0);
        assert!(out.contains("no issues"), "{name}: {out}");
        let options = json_of(&site, &["plugins", "describe", name])["options"].clone();
        for option in options.as_array().unwrap().iter().filter(|option| option["format"] != "alias") {
            let option = option["name"].as_str().unwrap();
            assert!(
                example.contains(&format!("{}:", option.replace('*', "name")))
                    && site.ok(&["plugins", "describe", name]).contains(option),
                "{name}: {option}"
            );
        }
    }
}

#[test]
fn transforms_and_converters_are_listed_and_described_too() {
    let site = Site::new();
    assert!(!site.ok(&["plugins", "list"]).contains("InsertField"));
    let table = site.ok(&["plugins", "list", "--all"]);
    assert!(table.contains("InsertField$Value") && table.contains("json ") && table.contains("file-source"), "{table}");
    for name in ["InsertField$Value", "org.apache.kafka.connect.transforms.InsertField$Value"] {
        let text = site.ok(&["plugins", "describe", name]);
        assert!(text.contains("transformation") && text.contains("static.field"), "{text}");
    }
    // Of two kinds.
    assert_eq!(json_of(&site, &["plugins", "describe", "json"]).as_array().unwrap().len(), 2);
    let (_, why) = ends_with(&site.cli(&["plugins", "describe", "InsertFeild$Value"]), 3);
    assert!(why.contains("did you mean InsertField$Value?"), "{why}");
    let (_, why) = ends_with(&site.cli(&["plugins", "describe", "json", "--example"]), 2);
    assert!(why.contains("no connector"), "{why}");
}

#[test]
fn connectors_are_created_steered_and_deleted() {
    let site = running();
    let table = site.ok(&["connectors", "list"]);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("NAME "), "{table}");
    assert!(lines.any(|line| line.starts_with("gen ") && line.contains("RUNNING") && line.contains("datagen-source")), "{table}");
    assert_eq!(json_of(&site, &["connectors", "list"])["hole"]["info"]["type"], "sink");
    assert!(site.ok(&["connectors", "describe", "gen", "-o", "yaml"]).contains("connector.class: datagen-source"));

    fs::write(site.path("c.yaml"), "name: c\nconnector.class: blackhole-sink\ntopics: [orders]\n").unwrap();
    site.ok(&["connectors", "create", "c.yaml"]);
    ends_with(&site.cli(&["connectors", "create", "c.yaml"]), 1);
    site.ok(&["connectors", "create", "c.yaml", "--update"]);
    fs::write(site.path("bad.yaml"), "name: d\nconnector.class: blackhole-sink\ntopcs: [orders]\n").unwrap();
    let (out, err) = ends_with(&site.cli(&["connectors", "create", "bad.yaml"]), 1);
    assert!((out + &err).contains("topics"), "the misspelt key and the nearest");
    let client = site.client();
    for (verb, state) in [("pause", "PAUSED"), ("resume", "RUNNING"), ("stop", "STOPPED"), ("resume", "RUNNING")] {
        site.ok(&["connectors", verb, "c"]);
        until(&format!("{verb}: c is {state}"), || client.state("c") == state);
    }
    site.ok(&["connectors", "restart", "c", "--tasks"]);
    until("c runs again", || client.task_states("c") == ["RUNNING"]);
    site.ok(&["connectors", "delete", "c"]);
    assert_eq!(client.state("c"), "404");
}

#[test]
fn offsets_are_shown_set_and_reset() {
    let site = running();
    until("a position is committed", || !json_of(&site, &["offsets", "show", "hole"])["offsets"].as_array().unwrap().is_empty());
    assert!(site.ok(&["offsets", "show", "hole"]).contains("kafka_topic=orders"));
    ends_with(&site.cli(&["offsets", "set", "hole", "orders:0=1"]), 1);
    site.ok(&["connectors", "stop", "hole"]);
    until("hole is stopped", || site.client().state("hole") == "STOPPED");
    site.ok(&["offsets", "set", "hole", "orders:0=1"]);
    assert_eq!(json_of(&site, &["offsets", "show", "hole"])["offsets"][0]["offset"], json!({"kafka_offset": 1}));
    ends_with(&site.cli(&["offsets", "set", "hole", "orders"]), 2);
    site.ok(&["offsets", "reset", "hole"]);
    assert_eq!(json_of(&site, &["offsets", "show", "hole"])["offsets"], json!([]));
}

#[test]
fn status_says_by_its_exit_code_whether_all_is_well() {
    let site = running();
    until("records moved", || site.ok(&["status"]).lines().any(|line| line.starts_with("hole ") && line.contains("RUNNING")));
    let summary = json_of(&site, &["status"]);
    assert_eq!((&summary["worker"]["health"], &summary["log"]["kind"]), (&json!("healthy"), &json!("embedded")));
    fs::create_dir(site.path("taken")).unwrap();
    let yaml = format!("name: bad\nconnector.class: file-sink\ntopics: orders\nfile: {}\n", site.path("taken").display());
    site.connector("bad", &yaml);
    until("the failed connector makes it 1", || site.cli(&["status"]).status.code() == Some(1));
    let (out, _) = ends_with(&site.cli(&["status"]), 1);
    assert!(out.contains("bad") && out.contains("taken"), "{out}");
}

#[test]
fn topics_are_written_read_and_deleted_with_and_without_a_worker() {
    let mut site = Site::new();
    site.start();
    site.ok(&["topics", "create", "t", "--partitions", "2", "--config", "retention.ms=-1"]);
    ends_with(&site.cli(&["topics", "create", "t"]), 1);
    fs::write(site.path("lines"), "k1:one\nk2:two\nk1:three\n").unwrap();
    let output = site.cli_with(&["topics", "write", "t", "--key-separator", ":"], Some(&site.path("lines")));
    ends_with(&output, 0);
    site.ok(&["topics", "write", "t", "--value", "four", "--partition", "1"]);
    let all = |args: &[&str]| {
        let mut lines: Vec<String> = site.ok(&[&["topics", "read", "t"], args].concat()).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(all(&[]), ["four", "one", "three", "two"]);
    assert_eq!(all(&["--format", "key-value", "--max", "4"]).iter().filter(|line| line.starts_with("k1\t")).count(), 2);
    let record: Value = serde_json::from_str(&all(&["--format", "json", "--partition", "1", "--from", "0"])[0]).unwrap();
    assert_eq!(record["partition"], 1);
    assert!(site.ok(&["topics", "list"]).lines().any(|line| line.starts_with("t ")));
    assert_eq!(json_of(&site, &["topics", "describe", "t"])["partitions"].as_array().unwrap().len(), 2);

    let data = site.data_dir().display().to_string();
    let (_, err) = ends_with(&site.cli(&["topics", "list", "--data-dir", &data]), 1);
    assert!(err.contains(&data), "a running worker holds the lock: {err}");
    site.stop();
    let stopped = site.ok(&["topics", "read", "t", "--data-dir", &data]);
    let mut lines: Vec<&str> = stopped.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["four", "one", "three", "two"]);
    site.ok(&["topics", "delete", "t", "--data-dir", &data]);
    ends_with(&site.cli(&["topics", "describe", "t", "--data-dir", &data]), 3);
}

#[test]
fn a_damaged_log_is_found_by_topic_partition_and_offset_and_never_served() {
    let mut site = Site::new();
    site.start();
    site.ok(&["topics", "create", "t"]);
    for n in 0..20 {
        site.ok(&["topics", "write", "t", "--value", &format!("record {n} {}", "x".repeat(200))]);
    }
    site.stop();
    let data = site.data_dir().display().to_string();
    let (out, _) = ends_with(&site.cli(&["log", "verify", "--data-dir", &data]), 0);
    assert!(out.contains('t'), "{out}");
    let (_, dir) = segment::partitions(&site.data_dir(), "t").unwrap().remove(0);
    let file = segment::segments(&dir).unwrap().remove(0);
    let dumped = site.ok(&["log", "dump", &file.display().to_string()]);
    assert!(dumped.contains("19") && dumped.lines().count() >= 20, "{dumped}");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(9).position(|window| window == b"record 10").unwrap();
    bytes[at + 3] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (out, err) = ends_with(&site.cli(&["log", "verify", "--data-dir", &data]), 1);
    let said = out + &err;
    assert!(said.contains("t-0") && said.contains("10"), "{said}");
    site.start();
    let output = site.cli(&["topics", "read", "t"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!output.status.success() && err.contains("t-0") && err.contains("10"), "{out} {err}");
    let mut sound = out.lines().zip(0..10);
    assert!(
        sound.all(|(line, n)| line.starts_with(&format!("record {n} "))) && out.lines().count() <= 10,
        "behind the damage: {out}"
    );
    assert_eq!(site.ok(&["topics", "read", "t", "--from", "11"]).lines().count(), 9, "what is sound behind it can be asked for");
}

#[test]
fn completions_are_scripts() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(site.ok(&["completions", shell]).contains("aqueduct"), "{shell}");
    }
}
