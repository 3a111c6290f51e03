//! Real files: tail, rotation, truncation, resume.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod source_rig;

use source_rig::{Rig, numbered};
use std::fs::{self, File, OpenOptions};
use std::io::Write;

#[tokio::test]
async fn lines_arrive_as_they_are_written() {
    let rig = Rig::new();
    rig.write("a.log", "one\ntwo\r\n\nhal");
    let mut tail = rig.open(&[("file", "a.log")]).await;
    assert_eq!(tail.lines(3).await, ["one", "two", ""]);
    tail.quiet().await;
    rig.append("a.log", "f\nfour\n");
    assert_eq!(tail.lines(2).await, ["half", "four"]);
    assert_eq!(tail.position("a.log"), 20);
}

#[tokio::test]
async fn a_rotating_file_is_read_line_by_line_over_restarts() {
    let rig = Rig::new();
    let options = [("file", "a.log")];
    let mut tail = rig.open(&options).await;
    let mut next = 0..;
    let mut write = |writer: &mut File, count: usize| {
        let lines: Vec<String> = next.by_ref().take(count).map(|n: usize| format!("line {n}")).collect();
        writer.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        lines
    };
    let mut writer = rig.appender("a.log");
    for turn in 0..12 {
        let mut wanted = write(&mut writer, 50);
        if turn % 2 == 0 {
            assert_eq!(tail.lines(50).await, wanted);
            wanted.clear();
        }
        if turn % 3 == 0 {
            tail = rig.reopen(tail, &options).await;
        }
        fs::rename(rig.path("a.log"), rig.path(&format!("a.log.{turn}"))).unwrap();
        // The writer goes on in the renamed file until it reopens.
        wanted.extend(write(&mut writer, 3));
        if turn % 4 == 1 {
            tail = rig.reopen(tail, &options).await;
        }
        writer = rig.appender("a.log");
        wanted.extend(write(&mut writer, 5));
        assert_eq!(tail.lines(wanted.len()).await, wanted, "turn {turn}");
    }
    tail.quiet().await;
    tail.until("only one file is left in the offset", |tail| {
        tail.offsets.values().all(|offset| offset.offset.as_ref().is_some_and(|offset| !offset.contains_key("pending")))
    })
    .await;
}

/// Faster than anyone looks; every file is found by the pattern, and the order is that of writing.
#[tokio::test]
async fn a_pattern_finds_rotated_files_over_restarts() {
    let rig = Rig::new();
    let options = [("file", "a.log*"), ("batch.size", "33")];
    let mut tail = rig.open(&options).await;
    let (mut got, mut wanted) = (Vec::new(), Vec::new());
    let mut writer = rig.appender("a.log");
    for turn in 0..40 {
        for line in 0..50 {
            writeln!(writer, "{turn} {line}").unwrap();
            wanted.push(format!("{turn} {line}"));
        }
        if turn % 3 == 1 {
            for old in (1..turn).rev().filter(|old| rig.path(&format!("a.log.{old}")).exists()) {
                fs::rename(rig.path(&format!("a.log.{old}")), rig.path(&format!("a.log.{}", old + 1))).unwrap();
            }
            fs::rename(rig.path("a.log"), rig.path("a.log.1")).unwrap();
            writeln!(writer, "{turn} late").unwrap();
            wanted.push(format!("{turn} late"));
            writer = rig.appender("a.log");
        }
        got.extend(tail.one_batch().await);
        if turn % 5 == 0 {
            tail = rig.reopen(tail, &options).await;
        }
    }
    got.extend(tail.lines(wanted.len() - got.len()).await);
    let wrong = (0..got.len()).find(|n| got[*n] != wanted[*n]);
    assert_eq!(wrong.map(|n| (&got[n.saturating_sub(2)..n + 3], &wanted[n.saturating_sub(2)..n + 3])), None);
    tail.quiet().await;
}

#[tokio::test]
async fn resumes_at_every_offset() {
    let rig = Rig::new();
    let lines = numbered(300);
    rig.write("a.log", &(lines.join("\n") + "\n"));
    let options = [("file", "*.log"), ("batch.size", "7")];
    let mut tail = rig.open(&options).await;
    let mut got = Vec::new();
    while got.len() < lines.len() {
        got.extend(tail.one_batch().await);
        tail = rig.reopen(tail, &options).await;
    }
    assert_eq!(got, lines);
    tail.quiet().await;
}

#[tokio::test]
async fn copytruncate_starts_anew() {
    let rig = Rig::new();
    rig.write("a.log", "one\ntwo\nthree\n");
    let mut tail = rig.open(&[("file", "a.log")]).await;
    assert_eq!(tail.lines(3).await, ["one", "two", "three"]);
    let file = OpenOptions::new().append(true).open(rig.path("a.log")).unwrap();
    file.set_len(0).unwrap();
    (&file).write_all(b"four\n").unwrap();
    assert_eq!(tail.lines(1).await, ["four"]);
    // Truncated and grown beyond the position before anyone looked.
    tail.close().await;
    file.set_len(0).unwrap();
    (&file).write_all(b"five\nsix and more\n").unwrap();
    let mut tail = rig.reopen(tail, &[("file", "a.log")]).await;
    assert_eq!(tail.lines(2).await, ["five", "six and more"]);
}
