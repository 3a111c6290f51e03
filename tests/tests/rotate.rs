//! logrotate every second under load, in both modes: line-exact.
//!
//! `SECONDS=60` for the long run. With copytruncate the lines that are written between logrotate's copy and its truncate are gone for everybody, so
//! the writer pauses around it, and all that it wrote before has arrived.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::chaos::{TOPIC, sink_yaml, source_yaml, wait_for_markers};
use aqueduct_tests::ledger::LedgerPlan;
use aqueduct_tests::wait::pause;
use aqueduct_tests::{LedgerProcess, Mode, Report, Site, check, env_number, outputs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

fn seconds() -> Duration {
    Duration::from_secs(env_number("SECONDS", 8))
}

fn logrotate(site: &Site, options: &str) {
    let conf = site.path("logrotate.conf");
    let text = format!("{}/in/app-*.log {{\n  rotate 200\n  missingok\n  nomail\n  {options}\n}}\n", site.root.display());
    fs::write(&conf, text).unwrap();
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).unwrap();
    let run = Command::new("logrotate").arg("-f").arg("-s").arg(site.path("logrotate.state")).arg(&conf).output();
    let output = run.expect("logrotate is there: `cargo xtask test` installs it (apt-get install logrotate)");
    assert!(output.status.success(), "{output:?}");
}

fn begin(glob: &str) -> (Site, LedgerProcess) {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    fs::set_permissions(site.path("in"), fs::Permissions::from_mode(0o755)).unwrap();
    site.connector("source", &(source_yaml(&site, glob) + "record.headers: true\n"));
    site.connector("sink", &sink_yaml(&site, Mode::Append));
    site.start();
    let files = (0..3).map(|n| site.path("in").join(format!("app-{n}.log"))).collect();
    let seed = env_number("SEED", fastrand::u64(..1 << 40));
    println!("SEED={seed}");
    let plan = LedgerPlan {
        ledger: site.path("ledger.txt"),
        files,
        rate: 20_000,
        rotate_ms: 0,
        keep: 0,
        topic: Some(TOPIC.to_owned()),
        seed,
    };
    let ledger = LedgerProcess::start(env!("CARGO_BIN_EXE_ledger"), &plan);
    (site, ledger)
}

fn finish(mut site: Site, ledger: LedgerProcess) -> Report {
    let written = ledger.finish();
    let out = site.path("out.log");
    wait_for_markers(&written, Duration::from_secs(40), || vec![out.clone()]);
    site.stop();
    let report = check(&written, &outputs::append_file(&out, Some(TOPIC)).unwrap());
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.seen > 2_000, "too little to mean anything: {report}");
    report
}

/// The writer goes on in the renamed file until it is told to reopen, as a daemon does.
fn by_rename(options: &str) {
    let (site, mut ledger) = begin("app-*.log*");
    let begin = Instant::now();
    while begin.elapsed() < seconds() {
        pause(Duration::from_millis(900));
        logrotate(&site, options);
        pause(Duration::from_millis(fastrand::u64(0..150)));
        ledger.tell("reopen");
    }
    finish(site, ledger);
}

#[test]
fn by_rename_every_line_arrives_once() {
    by_rename("create");
}

#[test]
fn a_rotated_file_that_was_compressed_is_not_read_twice() {
    by_rename("create\n  compress\n  delaycompress");
}

#[test]
fn by_copytruncate_every_line_arrives_once() {
    let (site, mut ledger) = begin("app-?.log");
    let begin = Instant::now();
    let out = site.path("out.log");
    while begin.elapsed() < seconds() {
        pause(Duration::from_millis(700));
        let written = ledger.pause();
        wait_for_markers(&written, Duration::from_secs(30), || vec![out.clone()]);
        logrotate(&site, "copytruncate");
        ledger.tell("resume");
    }
    finish(site, ledger);
}
