//! Files as they are in the field: thousands of them, folders that come later, deletion, truncation, pipes, compressed archives.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::chaos::{TOPIC, source_yaml};
use aqueduct_tests::{Site, wait_until};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

fn begin(glob: &str, more: &str) -> Site {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector("source", &(source_yaml(&site, glob) + more));
    site.connector(
        "sink",
        &format!("name: sink\nconnector.class: file-sink\nfile: {}/out.log\ntopics: {TOPIC}\n", site.root.display()),
    );
    site.start();
    site
}

fn out(site: &Site) -> String {
    fs::read_to_string(site.path("out.log")).unwrap_or_default()
}

#[track_caller]
fn arrives(site: &Site, last: &str) {
    wait_until(SOON, &format!("{last:?} arrives"), || out(site).lines().any(|line| line == last).then_some(()));
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Every line once; the lines of one file (`<file> <n>`) in order.
#[track_caller]
fn exactly(site: &Site, files: usize, lines: usize) {
    let text = out(site);
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let (file, n) = line.split_once(' ').unwrap();
        let expected = next.entry(file).or_default();
        assert_eq!(n.parse::<usize>().unwrap(), *expected, "file {file}");
        *expected += 1;
    }
    assert_eq!(next.len(), files);
    assert!(next.values().all(|n| *n == lines), "{next:?}");
}

#[test]
fn two_thousand_files_shared_by_three_tasks() {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    let (files, lines) = (2_000, 3);
    let folder = site.path("in");
    let file = |n: usize| folder.join(format!("app-{n}.log"));
    for n in 0..files {
        fs::write(file(n), format!("{n} 0\n{n} 1\n")).unwrap();
    }
    site.connector("source", &(source_yaml(&site, "app-*.log") + "tasks.max: 3\n"));
    site.connector(
        "sink",
        &format!("name: sink\nconnector.class: file-sink\nfile: {}/out.log\ntopics: {TOPIC}\n", site.root.display()),
    );
    site.start();
    wait_until(SOON, "the first lines of all arrive", || (out(&site).lines().count() >= files * 2).then_some(()));
    for n in 0..files {
        append(&file(n), &format!("{n} 2\n"));
    }
    wait_until(SOON, "what is appended arrives", || (out(&site).lines().count() >= files * lines).then_some(()));
    assert_eq!(site.client().task_states("source"), ["RUNNING"; 3]);
    site.stop();
    exactly(&site, files, lines);
    // Nothing is read again by another number of tasks.
    site.connector("source", &(source_yaml(&site, "app-*.log") + "tasks.max: 2\n"));
    site.start();
    append(&file(7), "7 3\n");
    arrives(&site, "7 3");
    site.stop();
    assert_eq!(out(&site).lines().count(), files * lines + 1);
}

#[test]
fn a_folder_that_comes_later_is_found() {
    let site = begin("**/*.log", "");
    fs::create_dir_all(site.path("in/new/deep")).unwrap();
    fs::write(site.path("in/new/deep/a.log"), "a 0\na 1\n").unwrap();
    arrives(&site, "a 1");
    append(&site.path("in/new/deep/a.log"), "a 2\n");
    arrives(&site, "a 2");
    fs::rename(site.path("in/new"), site.path("in/moved")).unwrap();
    append(&site.path("in/moved/deep/a.log"), "a 3\n");
    arrives(&site, "a 3");
    exactly(&site, 1, 4);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_its_name_may_come_again() {
    let site = begin("*.log", "");
    let path = site.path("in/a.log");
    let mut open = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    open.write_all(b"a 0\n").unwrap();
    arrives(&site, "a 0");
    fs::remove_file(&path).unwrap();
    open.write_all(b"a 1\n").unwrap();
    arrives(&site, "a 1");
    drop(open);
    fs::write(&path, "b 0\n").unwrap();
    arrives(&site, "b 0");
    append(&path, "b 1\n");
    arrives(&site, "b 1");
    assert_eq!(out(&site), "a 0\na 1\nb 0\nb 1\n");
}

#[test]
fn two_files_with_equal_heads_are_two_files() {
    let site = begin("*.log", "");
    let head = "same ".repeat(1_000);
    for name in ["x", "y"] {
        fs::write(site.path(&format!("in/{name}.log")), format!("{head}\n{name} 0\n")).unwrap();
    }
    arrives(&site, "x 0");
    arrives(&site, "y 0");
    assert_eq!(out(&site).lines().filter(|line| *line == head).count(), 2);
    assert_eq!(out(&site).lines().count(), 4);
}

#[test]
fn a_file_that_was_cut_and_written_anew_is_read_from_its_beginning() {
    let site = begin("*.log", "");
    let path = site.path("in/a.log");
    append(&path, "old 0\nold 1\nold 2\n");
    arrives(&site, "old 2");
    OpenOptions::new().write(true).truncate(true).open(&path).unwrap().write_all(b"n 0\n").unwrap();
    arrives(&site, "n 0");
    append(&path, "n 1\n");
    arrives(&site, "n 1");
    assert_eq!(out(&site), "old 0\nold 1\nold 2\nn 0\nn 1\n");
}

#[test]
fn a_line_is_a_record_only_when_it_is_whole() {
    let mut site = begin("*.log", "");
    let path = site.path("in/a.log");
    append(&path, "first\nsec");
    arrives(&site, "first");
    site.kill();
    site.start();
    append(&path, "ond\nthird\n");
    arrives(&site, "third");
    assert_eq!(out(&site), "first\nsecond\nthird\n");
}

#[test]
fn compressed_files_are_read_once() {
    let site = begin("*", "");
    let path = site.path("in/a.log");
    let lines: String = (0..500).map(|n| format!("a {n}\n")).collect();
    fs::write(&path, &lines).unwrap();
    arrives(&site, "a 499");
    // As logrotate with `compress` leaves it.
    let renamed = site.path("in/a.log.1");
    fs::rename(&path, &renamed).unwrap();
    let run = |program: &str, args: &[&str]| assert!(Command::new(program).args(args).arg(&renamed).status().unwrap().success());
    run("gzip", &[]);
    let other: String = (0..500).map(|n| format!("b {n}\n")).collect();
    fs::write(site.path("plain"), &other).unwrap();
    let zip = Command::new("gzip").arg("-c").arg(site.path("plain")).output().unwrap();
    fs::write(site.path("in/.b.partial"), &zip.stdout).unwrap();
    fs::rename(site.path("in/.b.partial"), site.path("in/b.log.gz")).unwrap();
    arrives(&site, "b 499");
    append(&path, "c 0\n");
    arrives(&site, "c 0");
    assert_eq!(out(&site), lines + &other + "c 0\n");
}

#[test]
fn a_pipe_or_a_device_does_not_hang_the_worker() {
    let site = begin("*.log", "");
    assert!(Command::new("mkfifo").arg(site.path("in/pipe.log")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", site.path("in/zero.log")).unwrap();
    fs::write(site.path("in/a.log"), "a 0\n").unwrap();
    arrives(&site, "a 0");
    append(&site.path("in/a.log"), "a 1\n");
    arrives(&site, "a 1");
    assert_eq!(out(&site), "a 0\na 1\n");
    assert_eq!(site.client().state("source"), "RUNNING");
}

#[test]
fn a_stack_trace_is_one_record() {
    let site = begin("*.log", "multiline.start.pattern: '^[A-Z]'\nmultiline.timeout: 300 ms\nrecord.key: file\n");
    let path = site.path("in/a.log");
    append(&path, "Error one\n  at a\n  at b\nInfo two\n");
    append(&path, "Error three\n  at c\n");
    let records = wait_until(SOON, "three records, the last by its timeout", || {
        let output = site.cli(&["topics", "read", TOPIC, "--format", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.lines().count() == 3).then_some(text)
    });
    let records: Vec<serde_json::Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<&str> = records.iter().map(|record| record["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["Error one\n  at a\n  at b", "Info two", "Error three\n  at c"]);
    assert!(records.iter().all(|record| record["key"].as_str().is_some_and(|key| key.ends_with("a.log"))));
}

/// `aqueduct_source_lost_bytes_total` of the source.
fn lost_bytes(site: &Site) -> u64 {
    let text = site.client().get("/metrics").expect(200).text.clone();
    let line = text.lines().find(|line| line.starts_with("aqueduct_source_lost_bytes_total{") && line.contains("\"source\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no such metric:\n{text}"))
}

#[test]
fn what_is_gone_before_it_was_read_is_counted() {
    let site = begin("*.log", "poll.interval: 1 s\n");
    // A line that is not whole is not read yet.
    let (cut, gone) = (site.path("in/cut.log"), site.path("in/gone.log"));
    append(&cut, "a 0\nunfinished");
    append(&gone, "b 0\n");
    arrives(&site, "a 0");
    arrives(&site, "b 0");
    assert_eq!(lost_bytes(&site), 0);
    OpenOptions::new().write(true).open(&cut).unwrap().set_len(0).unwrap();
    append(&cut, "a 1\n");
    arrives(&site, "a 1");
    wait_until(SOON, "the cut bytes are counted", || (lost_bytes(&site) == "unfinished".len() as u64).then_some(()));
    // What was read, and what copytruncate saves in a copy, is not lost.
    fs::copy(&cut, site.path("in/cut.log.1")).unwrap();
    OpenOptions::new().write(true).open(&cut).unwrap().set_len(0).unwrap();
    append(&cut, "a 2\n");
    arrives(&site, "a 2");
    fs::remove_file(&gone).unwrap();
    append(&cut, "a 3\n");
    arrives(&site, "a 3");
    assert_eq!(lost_bytes(&site), "unfinished".len() as u64);
    assert!(site.log().contains("file.lost"));
}
