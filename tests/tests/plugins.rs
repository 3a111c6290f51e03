//! WASM plugins in a worker: plugins/examples, as a stranger would use them.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::{Site, env_number, wait_until};
use plugin_services::guest;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// A debug build compiles a plugin in seconds, on a loaded machine in many.
const SOON: Duration = Duration::from_secs(180);

/// A worker whose `plugin.path` has these, and with more lines for worker.yaml.
fn site(guests: &[&str], settings: &str) -> Site {
    let site = Site::new();
    let folder = site.path("plugins");
    fs::create_dir(&folder).unwrap();
    for name in guests {
        fs::copy(guest(name), folder.join(format!("{name}.wasm"))).unwrap();
    }
    site.configure(&format!("plugin.path: {}\n{settings}", folder.display()));
    site
}

fn counter(count: u64) -> String {
    format!(
        "name: numbers\nconnector.class: counter-source\ntopic: numbers\ncount: {count}\nbytes: 20\ninterval.ms: 5\n\
         aqueduct.batch.max.records: 50\n"
    )
}

fn file_sink(site: &Site) -> String {
    let file = site.path("out.log");
    format!("name: file\nconnector.class: file-sink\ntopics: numbers\nfile: {}\n", file.display())
}

fn written(site: &Site) -> String {
    fs::read_to_string(site.path("out.log")).unwrap_or_default()
}

/// Source offsets of a plugin are committed with its records, as those of a built-in are (invariant 1).
#[test]
fn a_wasm_source_that_is_killed_leaves_every_line_exactly_once() {
    let (kills, count) = (env_number("KILLS", 4), 10_000);
    let mut site = site(&["counter-source"], "");
    site.connector("numbers", &counter(count));
    site.connector("file", &file_sink(&site));
    site.start();
    let arrived = |site: &Site, least: u64| {
        wait_until(SOON, "lines of the plugin arrive", || (written(site).lines().count() as u64 >= least).then_some(()));
    };
    for kill in 1..=kills {
        arrived(&site, count * kill / (kills + 1));
        site.kill();
        site.start();
    }
    arrived(&site, count);
    site.stop();
    let text = written(&site);
    let expected = (0..count).map(|n| format!("0 {n}"));
    let wrong = text.lines().map(str::trim_end).zip(expected).find(|(line, expected)| line != expected);
    assert_eq!(wrong, None, "the first line that is wrong, and what it should be");
    assert_eq!(text.lines().count() as u64, count);
}

#[test]
fn plugins_are_listed_and_judged_as_built_ins_are() {
    let pinned = format!("plugins.zoo-source.sha256: {}\nplugins.nobody.limits.memory: 10 MiB\n", "0".repeat(64));
    let mut site = site(&["counter-source", "mask-transform", "zoo"], &pinned);
    fs::write(site.path("plugins/cut.wasm"), &fs::read(guest("counter-source")).unwrap()[..5_000]).unwrap();
    site.start();
    for part in ["cut.wasm", "plugin.malformed", "zoo.wasm", "plugin.sha256", "plugin.unknown"] {
        assert!(site.log().contains(part), "{part} is not in the log");
    }
    // A grant for a file that was refused is no grant for nobody.
    assert!(!site.log().lines().any(|line| line.contains("plugin.unknown") && line.contains("zoo-source")));
    let client = site.client();
    let listed = client.get("/connector-plugins?connectorsOnly=false").json();
    let entry = |class: &str| listed.as_array().unwrap().iter().find(|entry| entry["class"] == class).cloned();
    let counter = entry("counter-source").unwrap();
    assert_eq!((&counter["type"], &counter["version"]), (&json!("source"), &json!("0.1.0")));
    assert_eq!(entry("mask-transform").unwrap()["type"], "transformation");
    assert_eq!(entry("zoo-source"), None);
    let config = json!({"name": "x", "connector.class": "counter-source", "bytes": "5"});
    let judged = client.put("/connector-plugins/counter-source/config/validate", Some(&config)).expect(200).json();
    let errors = |name: &str| {
        let configs = judged["configs"].as_array().unwrap();
        configs.iter().find(|config| config["value"]["name"] == name).unwrap()["value"]["errors"].to_string()
    };
    assert!(judged["error_count"] == 2 && errors("topic").contains("required") && errors("bytes").contains("20"), "{judged}");
    assert!(site.ok(&["plugins", "list", "--config", "worker.yaml"]).contains("counter-source"));
    assert!(site.ok(&["plugins", "describe", "mask-transform", "--config", "worker.yaml"]).contains("fields"));
    let example = site.ok(&["plugins", "describe", "counter-source", "--example", "--config", "worker.yaml"]);
    fs::write(site.path("good.yaml"), example).unwrap();
    fs::write(site.path("bad.yaml"), "name: x\nconnector.class: counter-source\ntopic: t\ncuont: 1\n").unwrap();
    let output = site.cli(&["validate", "--config", "worker.yaml", "--output", "json", "good.yaml", "bad.yaml"]);
    let issues = serde_json::from_slice::<Value>(&output.stdout).unwrap()["issues"].clone();
    let of = |file: &str| -> Vec<&Value> {
        issues
            .as_array()
            .unwrap()
            .iter()
            .filter(|issue| issue["location"]["file"].as_str().is_some_and(|at| at.ends_with(file)))
            .collect()
    };
    assert_eq!(of("good.yaml"), [&Value::Null; 0]);
    assert!(of("bad.yaml").len() == 1 && of("bad.yaml")[0].to_string().contains("did you mean count?"), "{issues}");
}

#[test]
fn a_plugin_that_comes_while_the_worker_runs_needs_no_restart() {
    let mut site = site(&[], "");
    site.start();
    let config = json!({"connector.class": "counter-source", "topic": "numbers", "count": "20"});
    let refused = site.client().put("/connectors/numbers/config", Some(&config)).error(400);
    assert!(refused.contains("matches counter-source"), "{refused}");
    fs::copy(guest("counter-source"), site.path("plugins/counter-source.wasm")).unwrap();
    let listed = || site.client().get("/connector-plugins").json().to_string().contains("counter-source");
    wait_until(SOON, "the plugin is listed", || listed().then_some(()));
    site.client().put("/connectors/numbers/config", Some(&config)).expect(201);
    let read = || String::from_utf8_lossy(&site.cli(&["topics", "read", "numbers", "--format", "json"]).stdout).lines().count();
    wait_until(SOON, "its records are there", || (read() >= 20).then_some(()));
    fs::remove_file(site.path("plugins/counter-source.wasm")).unwrap();
    wait_until(SOON, "the plugin is gone", || (!listed()).then_some(()));
    site.client().get("/connectors/numbers/status").expect(200);
}

/// The counter as another version of itself.
fn counter_version(version: &str) -> Vec<u8> {
    let (mut bytes, from) = (fs::read(guest("counter-source")).unwrap(), br#""version": "0.1.0""#);
    let to = format!(r#""version": "{version}""#);
    // The compiler leaves more than one copy of it.
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty() && to.len() == from.len());
    places.into_iter().for_each(|at| bytes[at..at + from.len()].copy_from_slice(to.as_bytes()));
    bytes
}

/// A version beside another: who takes it is drained and goes on with it from where it is, and nobody else is touched.
#[test]
fn a_newer_version_takes_over_where_the_older_one_was() {
    let mut site = site(&[], "");
    let newer = site.path("plugins/counter-1.1.wasm");
    fs::write(site.path("plugins/counter-1.0.wasm"), counter_version("1.0.0")).unwrap();
    let endless = |name: &str| {
        format!(
            "name: {name}\nconnector.class: counter-source\ntopic: {name}\nbytes: 20\ninterval.ms: 5\naqueduct.batch.max.records: 20\n"
        )
    };
    site.connector("numbers", &endless("numbers"));
    site.connector("pinned", &(endless("pinned") + "connector.plugin.version: '[1.0,1.1)'\n"));
    site.connector("orders", "name: orders\nconnector.class: datagen-source\ntemplate: orders\ntopic: orders\nrate: 10\n");
    site.connector("file", &file_sink(&site));
    site.start();
    let client = site.client();
    let version = |name: &str| {
        let status = client.get(&format!("/connectors/{name}/status")).json();
        (status["connector"]["version"].as_str().unwrap_or_default().to_owned(), client.task_states(name))
    };
    let runs = |name: &str, wanted: &str| {
        let state = (wanted.to_owned(), vec!["RUNNING".to_owned()]);
        wait_until(SOON, &format!("{name} runs {wanted}\n{}", site.log_tail(15)), || (version(name) == state).then_some(()));
    };
    let more = || {
        let before = written(&site).lines().count();
        wait_until(SOON, "more lines arrive", || (written(&site).lines().count() > before + 100).then_some(()));
    };
    let starts = || {
        let text = client.get("/metrics").text;
        let line = text.lines().find(|line| line.contains("task_startup_attempts_total ")).unwrap_or_else(|| panic!("{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    for name in ["numbers", "pinned"] {
        runs(name, "1.0.0");
    }
    wait_until(SOON, "the others run", || {
        ["orders", "file"].iter().all(|name| client.task_states(name) == ["RUNNING"]).then_some(())
    });
    more();
    let before = starts();
    fs::write(&newer, counter_version("1.1.0")).unwrap();
    // The status has the new version as soon as the old task is to end.
    runs("numbers", "1.1.0");
    wait_until(SOON, "a task starts", || (starts() > before).then_some(()));
    more();
    runs("pinned", "1.0.0");
    assert_eq!(starts(), before + 1.0, "one task has started");
    let listed = client.get("/connector-plugins").json();
    let listed = listed.as_array().unwrap().iter().filter(|entry| entry["class"] == "counter-source");
    assert_eq!(listed.map(|entry| entry["version"].as_str().unwrap()).collect::<Vec<_>>(), ["1.1.0", "1.0.0"]);
    client.get("/connector-plugins/counter-source/config?version=1.0").expect(200);
    assert!(client.get("/connector-plugins/counter-source/config?version=2").error(400).contains("1.1.0, 1.0.0"));
    let wrong = json!({"connector.class": "counter-source", "topic": "t", "connector.plugin.version": "[2,)"});
    assert!(client.put("/connectors/wrong/config", Some(&wrong)).error(400).contains("no version of counter-source"));
    // The way back is to remove it.
    fs::remove_file(&newer).unwrap();
    runs("numbers", "1.0.0");
    more();
    site.stop();
    let text = written(&site);
    let expected = (0..).map(|n| format!("0 {n}"));
    let wrong = text.lines().map(str::trim_end).zip(expected).find(|(line, expected)| line != expected);
    assert_eq!(wrong, None, "the first line that is wrong, and what it should be");
}

#[test]
fn a_wasm_transform_stands_in_a_chain() {
    let mut site = site(&["mask-transform"], "");
    site.start();
    let config = json!({
        "connector.class": "datagen-source", "template": "orders", "topic": "orders", "count": "50", "rate": "100000", "seed": "1",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "transforms": "tag,mask", "transforms.tag.type": "org.apache.kafka.connect.transforms.InsertField$Value",
        "transforms.tag.static.field": "site", "transforms.tag.static.value": "north",
        "transforms.mask.type": "mask-transform", "transforms.mask.fields": "site",
    });
    site.client().put("/connectors/orders/config", Some(&config)).expect(201);
    let read = || {
        let output = site.cli(&["topics", "read", "orders", "--format", "json"]);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = wait_until(SOON, "the records are there", || Some(read()).filter(|lines| lines.len() >= 50));
    for line in lines {
        let value = serde_json::from_str::<Value>(&line).unwrap()["value"].clone();
        let value = value.as_str().map_or(value.clone(), |text| serde_json::from_str(text).unwrap());
        assert!(value["site"] == "****" && value.as_object().unwrap().len() > 2, "{line}");
    }
    let metrics = site.client().get("/metrics").text;
    let counted =
        r#"aqueduct_plugin_records_masked_total{connector="orders",task="0",plugin="mask-transform",transform="mask"} 50"#;
    assert!(metrics.contains(counted) && metrics.contains("# TYPE aqueduct_plugin_records_masked counter"), "{metrics}");
    let wrong = json!({"connector.class": "datagen-source", "template": "orders", "topic": "t", "transforms": "mask",
        "transforms.mask.type": "mask-transform"});
    let refused = site.client().put("/connectors/wrong/config", Some(&wrong)).error(400);
    assert!(refused.contains("transforms.mask.fields"), "{refused}");
}

/// Endless loops in several tasks: REST answers, and a neighbour's records move (invariants 8 and 10).
#[test]
fn plugins_that_never_return_hold_nobody_up() {
    let mut site = site(&["counter-source", "zoo"], "plugins.zoo-source.limits.call.timeout: 200ms\n");
    for n in 0..4 {
        site.connector(&format!("zoo{n}"), &format!("name: zoo{n}\nconnector.class: zoo-source\nmode: loop-poll\n"));
    }
    site.connector("numbers", &counter(1_000));
    site.connector("file", &file_sink(&site));
    site.start();
    wait_until(SOON, "the neighbour's lines arrive", || (written(&site).lines().count() >= 1_000).then_some(()));
    wait_until(SOON, "the reason is in the log", || site.log().contains("plugin.timeout").then_some(()));
    site.client().get("/connectors?expand=status").expect(200);
    site.stop();
}
