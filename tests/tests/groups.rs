//! A sink's tasks share the partitions of a topic, over kills and over changes of `tasks.max`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::chaos::{TOPIC, wait_for_markers};
use aqueduct_tests::ledger::LedgerPlan;
use aqueduct_tests::{LedgerProcess, Site, check, outputs, segment, wait_until};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

#[test]
fn four_tasks_share_four_partitions() {
    let mut site = Site::new();
    let root = site.root.display().to_string();
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector(
        "source",
        &format!(
            "name: source\nconnector.class: file-source\nfile: {root}/in/app-*.log*\ntopic: {TOPIC}\ntopic.creation.default.partitions: 4\ntasks.max: 2\n"
        ),
    );
    let sink = |tasks: u32| {
        format!(
            "name: sink\nconnector.class: file-sink\ndirectory: {root}/out\ntopics: {TOPIC}\nroll.bytes: 20000\nroll.interval: 300ms\ntasks.max: {tasks}\n"
        )
    };
    site.connector("sink", &sink(4));
    site.start();
    let files = (0..6).map(|n| site.path("in").join(format!("app-{n}.log"))).collect();
    let plan = LedgerPlan {
        ledger: site.path("ledger.txt"),
        files,
        rate: 10_000,
        rotate_ms: 700,
        keep: 100,
        topic: Some(TOPIC.to_owned()),
        seed: 1,
    };
    let mut ledger = LedgerProcess::start(env!("CARGO_BIN_EXE_ledger"), &plan);
    let client = site.client();
    let running = |n: usize| {
        let states = client.task_states("sink");
        (states.len() == n && states.iter().all(|state| state == "RUNNING")).then_some(())
    };
    wait_until(SOON, "four tasks run", || running(4));
    let partitions = || -> Vec<String> {
        let files = outputs::rolled_files(&site.path("out")).unwrap_or_default();
        let mut numbers: Vec<String> = files.iter().map(|file| file.partition.to_string()).collect();
        numbers.sort();
        numbers.dedup();
        numbers
    };
    wait_until(SOON, "every partition is written", || (partitions().len() == 4).then_some(()));
    // Fewer and more tasks, a kill in between: partitions move, nothing is lost or repeated.
    site.connector("sink", &sink(2));
    wait_until(SOON, "two tasks run", || running(2));
    site.kill();
    site.start();
    site.connector("sink", &sink(3));
    wait_until(SOON, "three tasks run", || running(3));
    let paused = ledger.pause();
    ledger.tell("resume");
    wait_until(SOON, "more is written", || {
        (aqueduct_tests::Ledger::load(&ledger.ledger).unwrap().written() > paused.written() + 2_000).then_some(())
    });
    let written = ledger.finish();
    let out = site.path("out");
    let files = || outputs::rolled_files(&out).unwrap_or_default().into_iter().map(|file| file.path).collect();
    wait_for_markers(&written, Duration::from_secs(40), files);
    site.stop();
    let report = check(&written, &outputs::rolled(&out).unwrap());
    assert!(report.is_clean(), "{report}");
    let log = segment::streams(&site.data_dir(), TOPIC).unwrap();
    assert_eq!(log.len(), 4);
    assert!(log.iter().all(|stream| !stream.bytes.is_empty()), "batches without a key take turns");
    let report = check(&written, &log);
    assert!(report.is_clean(), "{report}");
}
