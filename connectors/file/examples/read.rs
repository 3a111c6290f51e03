//! `cargo run --release -p aqueduct-connector-file --example read [lines]`: nanoseconds for each 100-byte line, from a warm file to batches,
//! beside a plain loop that reads the same blocks and finds the same line ends.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: its output is read by people")]

use aqueduct_core::{Plugin, TaskContext, TaskId};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let lines: usize = std::env::args().nth(1).map_or(5_000_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let mut out = BufWriter::new(File::create(&path).unwrap());
    for line in 0..lines {
        writeln!(out, "{line:099}").unwrap();
    }
    out.flush().unwrap();

    let begin = Instant::now();
    let (mut file, mut block, mut found) = (File::open(&path).unwrap(), vec![0; 1 << 20], 0);
    loop {
        let len = file.read(&mut block).unwrap();
        if len == 0 {
            break;
        }
        found += memchr::memchr_iter(b'\n', &block[..len]).count();
    }
    assert_eq!(found, lines);
    println!("plain loop:  {:6.1} ns a line", begin.elapsed().as_nanos() as f64 / lines as f64);

    let source = aqueduct_connector_file::plugins().into_iter().find_map(|plugin| match plugin {
        Plugin::Source(source) => Some(source),
        Plugin::Sink(_) => None,
    });
    let source = source.unwrap();
    let options =
        [("file", path.to_str().unwrap()), ("topic", "t")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let cx = TaskContext {
        task: TaskId::new("read", 0),
        wait_max: Duration::from_secs(1),
        max_bytes: 2 << 20,
        max_records: 100_000,
        interrupt: Default::default(),
    };
    for _ in 0..3 {
        let spec = source.plan(&options, 1).await.unwrap().remove(0);
        let mut task = source.open(&options, spec, Vec::new()).await.unwrap();
        let (mut records, mut batches, begin) = (0, 0, Instant::now());
        while records < lines {
            records += task.poll(&cx).await.unwrap().batch.len();
            batches += 1;
        }
        println!("file-source: {:6.1} ns a line, {batches} batches", begin.elapsed().as_nanos() as f64 / lines as f64);
        task.close().await.unwrap();
    }
}
