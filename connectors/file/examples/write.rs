//! What the file sink costs for each record: 5 million of 100 bytes (or as many millions as the first argument says), beside a plain program
//! that writes the same bytes with the same writes and one fsync. `cargo run --release -p aqueduct-connector-file --example write`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: its output is read by people")]

use aqueduct_core::batch::{ChunkBuilder, Span};
use aqueduct_core::{
    Batch, CancellationToken, LogPosition, Options, Plugin, Rejects, TaskContext, TaskId, TaskSpec, TopicPartition,
};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of one batch: about 1 MiB.
const BATCH_RECORDS: i64 = 10_000;
const LINE: &[u8; 99] = &[b'x'; 99];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let millions: i64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let records = millions * 1_000_000;
    let dir = tempfile::tempdir_in(".").unwrap();
    let plain = plain(&dir.path().join("plain"), records);
    println!("{:<22} {plain:>6.1} ns/record", "plain writes");
    for (name, target, more) in [
        ("append", "file", &[][..]),
        ("rolling", "directory", &[("roll.bytes", "128 MiB")]),
        ("append json", "file", &[("format", "json")]),
        ("append csv", "file", &[("format", "csv")]),
        ("append zstd", "file", &[("compression.type", "zstd")]),
        ("append gzip", "file", &[("compression.type", "gzip")]),
    ] {
        let path = dir.path().join(name);
        let mut options: Options = more.iter().map(|(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned())).collect();
        options.insert(target.to_owned(), path.to_str().unwrap().to_owned());
        let (wall, busy) = sink(&options, records).await;
        println!("{name:<22} {wall:>6.1} ns/record, {busy:>6.1} of them in put; {:.2} of the plain rate", plain / wall);
    }
}

fn plain(path: &Path, records: i64) -> f64 {
    let line = [&LINE[..], b"\n"].concat();
    let text = line.repeat(BATCH_RECORDS as usize);
    let begin = Instant::now();
    let mut file = std::fs::File::create(path).unwrap();
    for _ in 0..records / BATCH_RECORDS {
        file.write_all(&text).unwrap();
    }
    file.sync_data().unwrap();
    begin.elapsed().as_nanos() as f64 / records as f64
}

async fn sink(options: &Options, records: i64) -> (f64, f64) {
    let plugin = aqueduct_connector_file::plugins().into_iter().find(|plugin| plugin.descriptor().name == "file-sink");
    let Some(Plugin::Sink(plugin)) = plugin else { panic!("no file-sink") };
    let partition = Arc::new(TopicPartition::new("t", 0));
    let batch = |from: i64| {
        let mut chunk = ChunkBuilder::new("t".into()).partition(Some(0)).origin(Some(partition.clone()));
        chunk.reserve(BATCH_RECORDS as usize);
        for index in 0..BATCH_RECORDS {
            chunk.push_span(None, Some(Span { start: index as u32 * 99, len: 99 }), Some(0), from + index);
        }
        let mut batch = Batch::new();
        batch.push_chunk(chunk.finish(LINE.repeat(BATCH_RECORDS as usize).into()));
        batch
    };
    // The same few again and again, as from a cache.
    let batches: Vec<Batch> = (0..20).map(|index| batch(index * BATCH_RECORDS)).collect();
    let context = TaskContext {
        task: TaskId::new("sink", 0),
        wait_max: Duration::from_millis(100),
        max_bytes: 1 << 20,
        max_records: 10_000,
        interrupt: CancellationToken::new(),
    };
    let mut task = plugin.open(options, TaskSpec::new()).await.unwrap();
    let position = LogPosition { topic: "t".into(), topic_id: uuid::Uuid::from_u128(1), partition: 0, offset: 0, metadata: None };
    task.assigned(&[position]).await.unwrap();
    let mut rejects = Rejects::default();
    let (begin, mut busy) = (Instant::now(), Duration::ZERO);
    for batch in batches.iter().cycle().take((records / BATCH_RECORDS) as usize) {
        let put = Instant::now();
        task.put(batch, &mut rejects, &context).await.unwrap();
        busy += put.elapsed();
    }
    task.flush().await.unwrap();
    let wall = begin.elapsed();
    task.close().await.unwrap();
    (wall.as_nanos() as f64 / records as f64, busy.as_nanos() as f64 / records as f64)
}
