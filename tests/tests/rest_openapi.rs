//! Schemathesis calls every operation of the OpenAPI document, with right data and wrong, and judges each answer by the document.
//!
//! `CASES=20000 cargo xtask test rest_openapi -- --nocapture` goes on until there were so many.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Client, Site, env_number, python, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
/// Of one run in CI, and of one of a long test. It shares a machine of two cores with the worker.
const SECONDS: u64 = 60;
const SECONDS_OF_MANY: u64 = 300;
/// Far below what a loaded machine does in that time: fewer means that something was not tested.
const CASES_MIN: u64 = 500;

/// What tests/python/schemathesis.toml knows by name.
fn furnish(client: &Client, site: &Site) {
    let datagen = |topic: &str| json!({"connector.class": "datagen-source", "template": "orders", "topic": topic, "rate": "20", "seed": "1"});
    let file = site.path("lines");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    for (name, config, state) in [
        ("gen", datagen("orders"), "RUNNING"),
        ("hole", json!({"connector.class": "blackhole-sink", "topics": "orders"}), "RUNNING"),
        ("files", json!({"connector.class": "file-source", "file": file.to_str().unwrap(), "topic": "files"}), "RUNNING"),
        ("stopped", datagen("other"), "STOPPED"),
        ("a/b", datagen("other"), "PAUSED"),
        ("doomed", datagen("doomed"), "STOPPED"),
    ] {
        client.post("/connectors", Some(&json!({"name": name, "config": config, "initial_state": state}))).expect(201);
    }
    wait_until(SOON, "records move", || {
        let status = client.get("/connectors/hole/status").json();
        (status["tasks"][0]["aqueduct"]["records_out"].as_u64()? > 0).then_some(())
    });
}

/// How many calls it made.
fn run(site: &Site, seed: u64, seconds: u64) -> u64 {
    let (report, said) = (site.path("report.json"), site.path("schemathesis.log"));
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/schemathesis.toml");
    let log = File::create(&said).unwrap();
    let mut command = Command::new(python::program("schemathesis", "schemathesis"));
    command.arg("--config-file").arg(settings).args(["run", "--no-color", "--max-time", &seconds.to_string()]);
    // One thread: Python 3.11 fails with `AST constructor recursion depth mismatch` where two parse at once.
    command.args(["--workers", "1", "--seed", &seed.to_string(), "--report-json-path"]).arg(&report);
    command.arg(format!("http://127.0.0.1:{}/aqueduct/v1/openapi.json", site.port));
    let status = command.current_dir(&site.root).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    let said = std::fs::read_to_string(said).unwrap();
    assert!(status.success(), "schemathesis found something (seed {seed}): {status}\n{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["operations"]["tested"], report["operations"]["total"], "{said}");
    let cases = report["test_cases"]["generated"].as_u64().unwrap();
    println!("seed {seed}: {cases} cases over {} operations", report["operations"]["tested"]);
    cases
}

#[test]
fn no_call_breaks_the_worker_or_the_document() {
    let wanted = env_number("CASES", CASES_MIN);
    let mut site = Site::new();
    site.start();
    let client = site.client();
    let mut cases = 0;
    let seconds = if wanted > CASES_MIN { SECONDS_OF_MANY } else { SECONDS };
    for seed in env_number("SEED", 1).. {
        // What the run before deleted is there again.
        for name in client.get("/connectors").json().as_array().unwrap() {
            let name = name.as_str().unwrap();
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            client.delete(&format!("/connectors/{encoded}")).expect(204);
        }
        furnish(&client, &site);
        let made = run(&site, seed, seconds);
        assert!(made >= CASES_MIN, "only {made} cases");
        cases += made;
        if cases >= wanted {
            break;
        }
    }
    println!("{cases} cases in all");
    client.get("/health").expect(200);
    assert!(!site.log().contains("panicked"), "{}", site.log_tail(20));
}
