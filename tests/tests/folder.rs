//! `connectors.dir` is watched: new, changed, broken, mended and removed files.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Site, wait_until};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn yaml(name: &str, rate: u32) -> String {
    format!("name: {name}\nconnector.class: datagen-source\ntemplate: orders\ntopic: t\nrate: {rate}\n")
}

fn until(site: &Site, what: &str, condition: impl Fn() -> bool) {
    wait_until(SOON, &format!("{what}\n{}", site.log_tail(15)), || condition().then_some(()));
}

#[test]
fn files_come_change_break_and_go() {
    let mut site = Site::new();
    site.connector("one", &yaml("one", 10));
    site.start();
    let client = site.client();
    until(&site, "a file that was there is running", || client.state("one") == "RUNNING");
    site.connector("two", &yaml("two", 10));
    until(&site, "a new file is running", || client.state("two") == "RUNNING");
    site.connector("one", &yaml("one", 20));
    until(&site, "a changed file is put", || client.get("/connectors/one/config").json()["rate"] == "20");

    // Broken: an error by name in the log and in `status`; what runs is not touched.
    site.connector("one", "name: one\nconnector.class: datagen-source\nrate: [1, }\n");
    until(&site, "the log names the broken file", || site.log().contains("one.yaml"));
    let folder = || String::from_utf8_lossy(&site.cli(&["status"]).stdout).into_owned();
    until(&site, "status names the broken file", || folder().contains("one.yaml"));
    site.connector("three", "name: three\nconnector.class: datagen-source\ntopic: t\nrte: 1\n");
    until(&site, "status names the unknown key", || folder().contains("three.yaml") && folder().contains("rate"));
    assert_eq!(client.state("one"), "RUNNING");
    assert_eq!(client.get("/connectors/one/config").json()["rate"], "20");
    assert_eq!(client.state("three"), "404");
    site.connector("one", &yaml("one", 30));
    until(&site, "a mended file is put", || client.get("/connectors/one/config").json()["rate"] == "30");
    until(&site, "and nothing is said of it any more", || !folder().contains("one.yaml"));

    // A removed file keeps its connector, unless pruning is on.
    fs::remove_file(site.connectors_dir().join("two.yaml")).unwrap();
    site.connector("four", &yaml("four", 1));
    until(&site, "a later file is running", || client.state("four") == "RUNNING");
    assert_eq!(client.state("two"), "RUNNING");
    site.stop();
    site.start();
    until(&site, "it is there after a restart too", || client.state("two") == "RUNNING");
}

#[test]
fn with_prune_a_removed_file_removes_its_connector_only() {
    let mut site = Site::with("connectors.dir.prune: true\n");
    site.connector("one", &yaml("one", 10));
    site.connector("two", &yaml("two", 10));
    site.start();
    let client = site.client();
    until(&site, "both run", || client.state("one") == "RUNNING" && client.state("two") == "RUNNING");
    let rest = serde_json::json!({"connector.class": "datagen-source", "template": "orders", "topic": "t", "rate": "1"});
    client.put("/connectors/by-rest/config", Some(&rest)).expect(201);
    fs::remove_file(site.connectors_dir().join("one.yaml")).unwrap();
    until(&site, "the connector goes with its file", || client.state("one") == "404");
    assert_eq!(client.state("two"), "RUNNING");
    assert_ne!(client.state("by-rest"), "404", "what REST created is not the folder's");
}

#[test]
fn a_broken_file_does_not_stop_the_others_at_the_start() {
    let mut site = Site::new();
    site.connector("bad", "name: bad\n  connector.class: what\n");
    site.connector("good", &yaml("good", 10));
    site.start();
    until(&site, "the good one runs", || site.client().state("good") == "RUNNING");
    assert!(site.log().contains("bad.yaml"), "{}", site.log());
}
