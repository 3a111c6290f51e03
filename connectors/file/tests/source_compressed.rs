//! Compressed files that are damaged, cut, or in the making: an error is never taken for the end.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod source_rig;

use aqueduct_core::Class;
use flate2::Compression;
use flate2::write::GzEncoder;
use source_rig::Rig;
use std::io::Write;

/// 2 MiB in several blocks, hard to compress.
fn content() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..60_000).map(|n| format!("line {n:08} {:016x}", random.u64(..))).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(text: &str) -> [(&'static str, Vec<u8>); 2] {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(text.as_bytes()).unwrap();
    [("gz", gzip(text.as_bytes())), ("zst", zstd.finish().unwrap())]
}

#[tokio::test]
async fn a_file_that_is_still_being_written_loses_and_tears_nothing() {
    let lines = content();
    for (kind, whole) in compressed(&text(&lines)) {
        for percent in (5..100).step_by(5) {
            let rig = Rig::new();
            // Its name does not say that it is compressed: it is read as it comes.
            let mut writer = rig.appender("a.log");
            let cut = whole.len() * percent / 100;
            writer.write_all(&whole[..cut]).unwrap();
            let mut tail = rig.open(&[("file", "*.log"), ("rotate.wait", "100ms"), ("poll.interval", "50ms")]).await;
            tail.cx.wait_max = std::time::Duration::from_millis(50);
            let mut idle = 0;
            while idle < 5 {
                idle = if tail.poll().await.unwrap() == 0 { idle + 1 } else { 0 };
            }
            writer.write_all(&whole[cut..]).unwrap();
            let got = tail.lines(lines.len()).await;
            assert!(got == lines, "{kind} cut at {percent} %");
            tail.quiet().await;
        }
    }
}

#[tokio::test]
async fn damage_is_an_error_wherever_it_is() {
    let lines = content();
    for (kind, whole) in compressed(&text(&lines)) {
        for percent in (5..100).step_by(5) {
            let rig = Rig::new();
            let mut bytes = whole.clone();
            let at = bytes.len() * percent / 100;
            bytes[at..at + 40].iter_mut().for_each(|byte| *byte ^= 0x5a);
            rig.write(&format!("a.{kind}"), bytes);
            let options = [("file", "a.*"), ("rotate.wait", "50ms"), ("poll.interval", "50ms")];
            let mut tail = rig.open(&options).await;
            // It stays one.
            for _ in 0..2 {
                let error = tail.fails().await;
                assert_eq!((error.code(), error.class()), ("file.decode", Class::Fatal), "{kind} at {percent} %");
                tail = rig.reopen(tail, &options).await;
            }
        }
    }
}

#[tokio::test]
async fn what_is_appended_as_a_member_of_its_own_is_read() {
    let rig = Rig::new();
    let mut tail = rig.open(&[("file", "a.log")]).await;
    for (turn, kind) in ["gz", "gz", "gz"].iter().enumerate() {
        let lines: Vec<String> = (0..1000).map(|n| format!("{kind} {turn} {n}")).collect();
        rig.append("a.log", gzip(text(&lines).as_bytes()));
        assert_eq!(tail.lines(1000).await, lines);
        tail.quiet().await;
    }
    // The members' border is within a line.
    rig.append("a.log", gzip(b"one li"));
    tail.poll().await.unwrap();
    rig.append("a.log", gzip(b"ne\n"));
    assert_eq!(tail.lines(1).await, ["one line"]);
    // Nobody writes the rest of this one.
    rig.append("a.log", gzip(b"the end"));
    assert_eq!(tail.lines(1).await, ["the end"]);
    tail.quiet().await;
}

/// As logrotate does it: the copy is written bit by bit beside a file that was read, then gets its time, then the original goes.
#[tokio::test]
async fn a_copy_in_the_making_is_not_read_as_a_new_file() {
    let lines: Vec<String> = content().into_iter().take(5000).collect();
    let whole = gzip(text(&lines).as_bytes());
    for cut in [1, 3, 10, 200, 4000, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        let rig = Rig::new();
        rig.write("a.log.1", text(&lines));
        let mut tail = rig.open(&[("file", "a.log*"), ("poll.interval", "50ms"), ("rotate.wait", "1s")]).await;
        tail.cx.wait_max = std::time::Duration::from_millis(50);
        assert_eq!(tail.lines(lines.len()).await, lines);
        let mut writer = rig.appender("a.log.1.gz");
        // What cannot be decoded at all now, as when the decoder reads over an end that moves.
        writer.write_all(&whole[..cut]).unwrap();
        let mut garbled = whole[..cut].to_vec();
        garbled.iter_mut().skip(10).step_by(7).for_each(|byte| *byte ^= 0xff);
        std::fs::write(rig.path("a.log.1.gz"), &garbled).unwrap();
        tail.quiet().await;
        std::fs::write(rig.path("a.log.1.gz"), &whole[..cut]).unwrap();
        tail.quiet().await;
        std::fs::write(rig.path("a.log.1.gz"), &whole).unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        writer.set_modified(old).unwrap();
        std::fs::remove_file(rig.path("a.log.1")).unwrap();
        std::fs::rename(rig.path("a.log.1.gz"), rig.path("a.log.2.gz")).unwrap();
        tail.until("the copy took the original's place", |tail| {
            !tail.offsets.values().any(|offset| offset.offset.as_ref().is_some_and(|offset| offset.contains_key("gone")))
                && tail
                    .offsets
                    .values()
                    .any(|offset| offset.offset.as_ref().is_some_and(|offset| offset.contains_key("compressed")))
        })
        .await;
        tail.quiet().await;
    }
}

#[tokio::test]
async fn compressed_files_of_before_are_passed_over() {
    let rig = Rig::new();
    rig.write("a.log.1.gz", gzip(text(&content()).as_bytes()));
    let options = [("file", "a.log*"), ("read.from", "end"), ("poll.interval", "50ms"), ("rotate.wait", "50ms")];
    let mut tail = rig.open(&options).await;
    tail.quiet().await;
    let mut tail = rig.reopen(tail, &options).await;
    tail.quiet().await;
    rig.write("a.log.2.gz", gzip(b"new\n"));
    assert_eq!(tail.lines(1).await, ["new"]);
    tail.quiet().await;
}

#[tokio::test]
async fn a_damaged_copy_of_what_was_read_is_an_error_and_no_second_reading() {
    let lines = content();
    let mut bytes = gzip(text(&lines).as_bytes());
    let middle = bytes.len() / 2;
    bytes[middle..middle + 200].fill(0xff);
    for tasks in [1, 3] {
        let rig = Rig::new();
        rig.write("a.log", text(&lines));
        let options = [("file", "a.log*"), ("poll.interval", "50ms"), ("rotate.wait", "100ms")];
        let mut tails = Vec::new();
        for index in 0..tasks as usize {
            tails.push(rig.open_share(&options, Default::default(), tasks, index).await.unwrap());
        }
        let mut got = 0;
        while got < lines.len() {
            for tail in &mut tails {
                got += tail.poll().await.unwrap();
            }
        }
        rig.write("a.log.1.gz", &bytes);
        std::fs::remove_file(rig.path("a.log")).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut failed = None;
        while failed.is_none() {
            assert!(std::time::Instant::now() < deadline, "no error came");
            for tail in &mut tails {
                match tail.poll().await {
                    Ok(count) => assert_eq!(count, 0, "read again"),
                    Err(error) => failed = Some(error),
                }
            }
        }
        assert_eq!(failed.unwrap().code(), "file.decode", "{tasks} tasks");
    }
}
