//! What the README says of the demo: the connectors of config/ as they are, killed, and every line there once.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

/// The command that the README shows.
fn counting() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("cat data/demo/files/"));
    line.expect("the README shows how to count").to_owned()
}

#[test]
fn what_ops_edit_validates() {
    let site = Site::new();
    let config = config();
    // The scenarios read variables that worker.yaml does not allow by itself: postgres_scenarios.rs runs them as their READMEs say.
    let [worker, connectors] = ["worker.yaml", "connectors"].map(|name| config.join(name).display().to_string());
    let output = site.cli(&["validate", "--strict", "--config", &worker, &connectors]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_demo_survives_kills_and_counts_as_the_readme_says() {
    let mut site = Site::new();
    for entry in fs::read_dir(config().join("connectors")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, site.connectors_dir().join(path.file_name().unwrap())).unwrap();
    }
    site.start();
    let client = site.client();
    let out = |connector: &str| {
        let status = client.get(&format!("/connectors/{connector}/status")).json();
        status["tasks"][0]["aqueduct"]["records_out"].as_u64().unwrap_or(0)
    };
    for kill in 0..4u64 {
        wait_until(SOON, "the demo moves", || (out("access-log-files") > 100).then_some(()));
        pause(Duration::from_millis(100 + 170 * kill));
        site.kill();
        site.start();
    }
    client.put("/connectors/access-log-generator/stop", None).expect(204);
    wait_until(SOON, "the generator is stopped", || (client.state("access-log-generator") == "STOPPED").then_some(()));
    let text = fs::read_to_string(site.path("data/demo/access.log")).unwrap();
    let last = text.lines().last().unwrap().to_owned();
    wait_until(SOON, "its last line is in the topic", || {
        site.ok(&["topics", "read", "access-log"]).lines().any(|line| line == last).then_some(())
    });
    wait_until(SOON, "the sink is at the end", || {
        let status = client.get("/connectors/access-log-files/status").json();
        (status["tasks"][0]["aqueduct"]["lag"] == 0).then_some(())
    });
    // Freshness comes with the first commit.
    wait_until(SOON, "every metric of the board is there", || {
        let missing = missing(&client.get("/metrics").text);
        if !missing.is_empty() {
            eprintln!("not in /metrics yet: {missing:?}");
        }
        missing.is_empty().then_some(())
    });
    site.stop();
    let output = Command::new("sh").arg("-c").arg(counting()).current_dir(&site.root).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: usize = said.trim().strip_suffix(" lines").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(last.ends_with(&format!("req-{:010}", lines - 1)), "{lines} lines, the last: {last}");
}

/// What Grafana would show as `No data`.
fn missing(metrics: &str) -> Vec<String> {
    let board = fs::read_to_string(config().join("grafana/aqueduct.json")).unwrap();
    let names = board.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<_> = names.filter(|name| name.starts_with("kafka_connect_") || name.starts_with("aqueduct_")).collect();
    assert!(names.len() > 20, "{names:?}");
    let there: BTreeSet<_> = metrics.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    names.difference(&there).map(|name| (*name).to_owned()).collect()
}
