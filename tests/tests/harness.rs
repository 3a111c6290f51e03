//! The harness is tested before what it tests: the ledger process and the checker binary, end to end, without a worker.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::ledger::LedgerPlan;
use aqueduct_tests::{Kind, Ledger, LedgerProcess, Stream, check, poll_for, wait_until};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn rotated(dir: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in (1..200).rev() {
        bytes.extend(fs::read(dir.join(format!("{name}.{n}"))).unwrap_or_default());
    }
    bytes.extend(fs::read(dir.join(name)).unwrap());
    bytes
}

fn checker(ledger: &Path, file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checker")).arg("--ledger").arg(ledger).arg("--file").arg(file).output().unwrap()
}

#[test]
fn what_the_ledger_writes_and_rotates_is_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = ["a.log", "b.log"].iter().map(|name| dir.path().join(name)).collect();
    let plan = LedgerPlan {
        ledger: dir.path().join("ledger.txt"),
        files,
        rate: 20_000,
        rotate_ms: 100,
        keep: 190,
        topic: None,
        seed: 7,
    };
    let mut process = LedgerProcess::start(env!("CARGO_BIN_EXE_ledger"), &plan);
    wait_until(Duration::from_secs(20), "three rotations", || dir.path().join("a.log.3").exists().then_some(()));
    let paused = process.pause();
    assert!(paused.written() > 100);
    assert!(
        poll_for(Duration::from_millis(100), || (Ledger::load(&plan.ledger).unwrap() != paused).then_some(())).is_none(),
        "paused is paused"
    );
    process.tell("resume");
    wait_until(Duration::from_secs(20), "it goes on", || {
        (Ledger::load(&plan.ledger).unwrap().written() > paused.written()).then_some(())
    });
    let ledger = process.finish();
    let mut streams = Vec::new();
    for name in ["a.log", "b.log"] {
        streams.push(Stream::new(name, rotated(dir.path(), name)));
    }
    let report = check(&ledger, &streams);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.seen, ledger.written());

    // The same through the binary, whole and with a lost tail.
    let out = dir.path().join("out");
    let all: Vec<u8> = streams.iter().flat_map(|stream| stream.bytes.clone()).collect();
    fs::write(&out, &all).unwrap();
    assert!(checker(&plan.ledger, &out).status.success());
    let cut = all[..all.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&out, &all[..cut]).unwrap();
    let output = checker(&plan.ledger, &out);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 Lost; the first: b "), "{output:?}");
    assert_eq!(check(&ledger, &streams[..1]).count(Kind::Lost), ledger.sources["b"].written);
}
