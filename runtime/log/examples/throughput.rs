//! How fast the embedded log appends and reads 100-byte lines, beside a plain program that writes the same bytes with as many fdatasyncs.
//!
//! `cargo run --release -p aqueduct-log --example throughput -- [records] [records per batch] [dir]`
#![allow(clippy::print_stdout, reason = "a program for people")]

use aqueduct_core::{Batch, Bytes, ChunkBuilder, Span, TaskId, TopicPartition};
use aqueduct_log::{EmbeddedLog, EmbeddedOptions, EncodedBatch, Log, TopicSpec};
use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LINE: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let records: usize = args.next().map_or(Ok(2_000_000), |arg| arg.parse())?;
    let per_batch: usize = args.next().map_or(Ok(10_000), |arg| arg.parse())?;
    let dir = args
        .next()
        .map_or_else(|| std::env::temp_dir().join(format!("aqueduct-throughput-{}", std::process::id())), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    println!("{records} records of {LINE} bytes, {per_batch} a batch");
    let syncs = plain(&dir, records, per_batch)?;
    let log = EmbeddedLog::open(&dir.join("log"), EmbeddedOptions::default()).await?;
    log.create_topic("lines", &TopicSpec::default()).await?;
    append(&log, records, per_batch).await?;
    println!("  plain: {syncs} fdatasyncs; the log: {} rounds", log.stats().syncs);
    read(&log, records).await?;
    log.close().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn buffer(per_batch: usize) -> Bytes {
    let line = format!("{:0>width$}\n", 7, width = LINE - 1);
    Bytes::from(line.repeat(per_batch))
}

fn plain(dir: &Path, records: usize, per_batch: usize) -> std::io::Result<usize> {
    let bytes = buffer(per_batch);
    let file = std::fs::File::create(dir.join("plain"))?;
    let clock = Clock::start();
    let batches = records / per_batch;
    for batch in 0..batches {
        file.write_all_at(&bytes, (batch * bytes.len()) as u64)?;
        file.sync_data()?;
    }
    clock.stop("plain write + fdatasync", batches * per_batch);
    Ok(batches)
}

async fn append(log: &EmbeddedLog, records: usize, per_batch: usize) -> aqueduct_core::Result<()> {
    let bytes = buffer(per_batch);
    let mut writer = log.writer(&TaskId::new("bench", 0)).await?;
    let (clock, mut encoding) = (Clock::start(), Duration::ZERO);
    let mut in_flight = VecDeque::new();
    for _ in 0..records / per_batch {
        let mut chunk = ChunkBuilder::new("lines".into());
        chunk.reserve(per_batch);
        for record in 0..per_batch {
            let span = Span { start: (record * LINE) as u32, len: (LINE - 1) as u32 };
            chunk.push_span(None, Some(span), None, 0);
        }
        let mut batch = Batch::new();
        batch.push_chunk(chunk.finish(bytes.clone()));
        let batch = EncodedBatch::new(batch)?;
        let since = Instant::now();
        in_flight.push_back(writer.append(batch, Vec::new()).await?);
        encoding += since.elapsed();
        if in_flight.len() > 8 {
            in_flight.pop_front().expect("it has more than eight").await?;
        }
    }
    for commit in in_flight {
        commit.await?;
    }
    clock.stop("embedded log, append", records / per_batch * per_batch);
    println!("  in append(), waiting for room included: {:.0} ns/record", encoding.as_nanos() as f64 / records as f64);
    Ok(())
}

async fn read(log: &EmbeddedLog, records: usize) -> aqueduct_core::Result<()> {
    let tp = TopicPartition::new("lines", 0);
    let clock = Clock::start();
    let (mut from, mut found) = (0, 0);
    while found < records {
        let batch = log.fetch(&tp, from, 1 << 20, Duration::from_secs(1)).await?;
        let Some((_, last)) = batch.iter().last().and_then(|record| record.origin()) else { break };
        found += batch.len();
        from = last + 1;
    }
    clock.stop("embedded log, fetch of 1 MiB", found);
    Ok(())
}

struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    fn stop(self, what: &str, records: usize) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), (cpu_time() - self.cpu).as_secs_f64());
        let millions = records as f64 / 1e6;
        println!("{what}: {:.2} M records/s, {:.3} CPU-s per million ({wall:.2} s)", millions / wall, cpu / millions);
    }
}

/// Of all threads, user and system, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.rsplit(") ").next().unwrap_or_default().split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    Duration::from_millis((fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)) * 10)
}
