//! Log → HTTP: `http-sink` beside a loop of reqwest by hand with the same concurrency, and batches of it, to a receiver on this machine.

use crate::table::{Table, median};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::cpu_time;
use aqueduct_tests::{Site, poll_for};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const IN_FLIGHT: usize = 16;
/// Keys, so that requests need not wait for one another.
const KEYS: u64 = 256;
/// The keys take turns in the log, 16 records each: of one key's 1,000 in a row each request would wait for the one before it.
const TURN: &str = "batch.size: 16\n";

/// `records` of 100 bytes for batches, a twentieth of them one by one.
pub(crate) fn measure(dir: &Path, records: u64, runs: usize, table: &mut Table) -> Result<()> {
    let singles = (records / 20).max(1_000);
    let (mut by_hand, mut ours, mut batches, mut cpu, mut each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        by_hand.push(hand(singles)?);
        let (rate, spent) = sink(dir, singles, TURN, "")?;
        ours.push(rate);
        each.push(spent);
        let (rate, spent) = sink(dir, records, "", "batch.max.size: 1000\n")?;
        batches.push(rate);
        cpu.push(spent);
    }
    let (by_hand, ours, batches) = (median(by_hand), median(ours), median(batches));
    table.bar(
        format!("log → HTTP, a request for each of {singles} records, {IN_FLIGHT} at once, in the order of each key"),
        format!("{ours:.0} requests/s; a loop of reqwest by hand, without order: {by_hand:.0}"),
        format!("{:.2} of it; ≥ 0.7", ours / by_hand),
        ours / by_hand >= 0.7,
    );
    table.bar(
        format!("log → HTTP, {records} records of 100 bytes in batches of 1,000"),
        format!("{batches:.0} records/s"),
        "≥ 500,000",
        batches >= 500_000.0,
    );
    table.row("CPU-seconds of the worker per million requests, and per million records in batches", {
        format!("{:.1}; {:.2}", median(each), median(cpu))
    });
    Ok(())
}

/// Answers 200 and counts the lines of what it is sent.
struct Receiver {
    port: u16,
    lines: Arc<AtomicU64>,
    /// When the first request came.
    first: Arc<OnceLock<Instant>>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let lines = Arc::<AtomicU64>::default();
        let first = Arc::<OnceLock<Instant>>::default();
        let (counted, began) = (lines.clone(), first.clone());
        let take = move |body: axum::body::Bytes| {
            began.get_or_init(Instant::now);
            let found = body.iter().filter(|byte| **byte == b'\n').count() as u64;
            // One without a line end is one too.
            counted.fetch_add(found.max(1), Ordering::Relaxed);
            async {}
        };
        let routes = axum::Router::new().route("/", axum::routing::post(take)).layer(axum::extract::DefaultBodyLimit::disable());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { port, lines, first, _runtime: runtime })
    }

    /// Records per second from the first request to the last: neither what a client needs to start counts, nor what it does behind the last answer.
    fn rate(&self, records: u64, limit: Duration) -> Result<f64> {
        let lines = || self.lines.load(Ordering::Relaxed);
        poll_for(limit, || (lines() >= records).then_some(()))
            .with_context(|| format!("{} of {records} within {limit:?}", lines()))?;
        let last = Instant::now();
        ensure!(lines() == records, "{} records, where {records} were written", lines());
        let first = self.first.get().context("a request came")?;
        Ok(records as f64 / (last - *first).as_secs_f64())
    }
}

/// 100 bytes with its line end.
fn line(n: u64) -> String {
    format!("{{\"n\":{n:>12},\"text\":\"{}\"}}", "x".repeat(71))
}

/// Requests per second.
fn hand(records: u64) -> Result<f64> {
    let receiver = Receiver::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (next, url) = (Arc::<AtomicU64>::default(), format!("http://127.0.0.1:{}/", receiver.port));
    http_services::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, next, url) = (client.clone(), next.clone(), url.clone());
            tasks.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= records {
                        return Ok::<(), reqwest::Error>(());
                    }
                    let request = client.post(&url).header("content-type", "application/json").body(line(n));
                    request.send().await?.error_for_status()?.bytes().await?;
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        anyhow::Ok(())
    })?;
    receiver.rate(records, Duration::from_secs(10))
}

/// Records per second from the embedded log, and CPU-seconds of the worker per million.
fn sink(dir: &Path, records: u64, turn: &str, more: &str) -> Result<(f64, f64)> {
    let receiver = Receiver::start()?;
    let mut site = Site::in_folder(dir, "");
    fs::create_dir_all(site.path("in"))?;
    for key in 0..KEYS {
        let text: String = (key..records).step_by(KEYS as usize).map(|n| line(n) + "\n").collect();
        fs::write(site.path(&format!("in/{key}.log")), text)?;
    }
    let root = site.root.display().to_string();
    site.connector(
        "source",
        &format!("name: source\nconnector.class: file-source\nfile: {root}/in/*.log\ntopic: records\nrecord.key: file\n{turn}"),
    );
    site.start();
    let client = site.client();
    let limit = Duration::from_secs(120 + records / 10_000);
    let there = || {
        let topics = client.get("/aqueduct/v1/topics/records").json();
        let ends = topics["partitions"]
            .as_array()
            .map(|partitions| partitions.iter().filter_map(|partition| partition["end"].as_u64()).sum());
        ends.unwrap_or(0u64)
    };
    poll_for(limit, || (there() >= records).then_some(())).with_context(|| format!("{} of {records} in the log", there()))?;
    let pid = site.pid().context("the worker runs")?;
    let before = cpu_time(pid)?;
    site.connector(
        "sink",
        &format!(
            "name: sink\nconnector.class: http-sink\ntopics: records\nhttp.url: http://127.0.0.1:{}/\nhttp.allowed.hosts: 127.0.0.1\n\
             max.in.flight.requests: {IN_FLIGHT}\n{more}",
            receiver.port
        ),
    );
    let rate = receiver.rate(records, limit)?;
    let cpu = cpu_time(pid)?.saturating_sub(before);
    site.stop();
    Ok((rate, cpu.as_secs_f64() / records as f64 * 1e6))
}
