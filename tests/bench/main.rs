//! What it costs: file → embedded log → file, each beside its near limit in the same run; memory and CPU at rest; growth with size.
//!
//! `cargo xtask bench`; `cargo xtask bench -- --lines 200000 --runs 1` for a quick look. Prints a Markdown table.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod http_sink;
mod http_source;
mod idle;
mod kafka;
mod kafka_latency;
mod kafka_peers;
mod limits;
mod moves;
mod mqtt;
mod plugins;
mod postgres;
mod postgres_latency;
mod postgres_sink;
mod rest;
mod table;
mod webhook;

use anyhow::{Context, Result};
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use table::Table;

#[derive(Parser)]
#[command(name = "bench", about = "Measure a release binary beside its near limits")]
struct Args {
    /// Lines of 100 bytes for the main figures.
    #[arg(long, default_value_t = 5_000_000)]
    lines: u64,
    /// Medians of so many runs.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these parts; all when not given.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Also 100 million lines in the part `growth`: 30 GB of disk, some minutes.
    #[arg(long)]
    huge: bool,
    /// A folder on the disk to measure; its contents stay as they are.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Write docs/bench.md too.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// File → log, log → file, both at once.
    Moves,
    /// The cost of a record at 1, 20 and (with --huge) 100 million.
    Growth,
    /// Start, 10 idle connectors, 1,000 idle connectors.
    Idle,
    /// File → Kafka and Kafka → file beside kcat and Kafka Connect, and the time until a line is visible.
    Kafka,
    /// Postgres → log and log → Postgres beside pg_recvlogical, COPY, UNNEST and Debezium: a fifth of `--lines` as rows.
    Postgres,
    /// MQTT → log beside mosquitto_sub: a twentieth of `--lines` as messages.
    Mqtt,
    /// Webhooks at 64 connections beside an axum handler that discards, and 10,000 idle connections. Needs wrk.
    Webhook,
    /// 1,000 connectors over REST, reads while 50 plugins loop, start and memory beside Kafka Connect. Needs what builds plugins.
    Rest,
    /// Log → HTTP beside a loop of reqwest by hand: `--lines` records in batches, a twentieth of them one by one.
    HttpSink,
    /// HTTP → log beside a loop of reqwest by hand: a fifth of `--lines` as records, 100 a page.
    HttpSource,
    /// WASM transforms and sources beside native ones (half of `--lines`), 1,000 instances, 200 plugins, neighbours of hostile ones. Needs what builds plugins.
    Plugins,
}

fn main() -> Result<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    let dir = args.dir.canonicalize()?;
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut table = Table::default();
    if wanted(Part::Moves) {
        moves::measure(&dir, args.lines, args.runs, &mut table)?;
    }
    if wanted(Part::Growth) {
        let sizes = [1_000_000, 20_000_000].into_iter().chain(args.huge.then_some(100_000_000));
        moves::growth(&dir, &sizes.collect::<Vec<_>>(), &mut table)?;
    }
    if wanted(Part::Idle) {
        idle::measure(&dir, args.runs, &mut table)?;
    }
    if wanted(Part::Kafka) {
        kafka::measure(&dir, args.lines, args.runs, &mut table)?;
    }
    if wanted(Part::Postgres) {
        postgres::measure(&dir, args.lines / 5, &mut table)?;
    }
    if wanted(Part::Mqtt) {
        mqtt::measure(&dir, args.lines / 20, &mut table)?;
    }
    if wanted(Part::Webhook) {
        webhook::measure(&dir, args.runs, &mut table)?;
    }
    if wanted(Part::Rest) {
        rest::measure(&dir, &mut table)?;
    }
    if wanted(Part::HttpSink) {
        http_sink::measure(&dir, args.lines, args.runs, &mut table)?;
    }
    if wanted(Part::HttpSource) {
        http_source::measure(&dir, args.lines / 5, args.runs, &mut table)?;
    }
    if wanted(Part::Plugins) {
        plugins::measure(&dir, args.lines, args.runs, &mut table)?;
    }
    let text = format!("{}\n{table}", machine(&dir)?);
    println!("{text}");
    if args.write {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench.md");
        let head = "# Figures\n\nWritten by `cargo xtask bench -- --write`; the near limit beside each figure was measured in the same run.\n";
        let peers = include_str!("peers.md");
        fs::write(&page, format!("{head}\n{text}\n{peers}"))?;
        eprintln!("wrote {}", page.display());
    }
    Ok(())
}

/// What the figures were measured on.
fn machine(dir: &Path) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("unknown", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let sync = limits::sync_latency(dir)?;
    let build = if cfg!(debug_assertions) { "**A debug build: of no meaning but that the benchmark works.** " } else { "" };
    Ok(format!(
        "{build}{cores} × {model}, Linux {}, one fdatasync of a 4 KiB append: {:.2} ms (median of 50)\n",
        kernel.trim(),
        sync.as_secs_f64() * 1e3
    ))
}
