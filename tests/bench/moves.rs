//! Records on the move: file → log, log → file, both at once.

use crate::limits::{self, LINE};
use crate::table::{Table, mb, median, rate_text};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::{cpu_time, kernel_time, memory_kib};
use aqueduct_tests::{Client, Site, poll_for};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// One phase of a worker's life.
struct Spent {
    time: Duration,
    cpu: Duration,
    /// Of `cpu`, what the kernel spent: copies to and from the page cache, above all.
    kernel: Duration,
    peak_kib: u64,
    syncs: u64,
}

#[derive(Default)]
struct Runs {
    into: Vec<Spent>,
    out: Vec<Spent>,
    both: Vec<Spent>,
    plain: Vec<(Duration, Duration)>,
    copy: Vec<Duration>,
}

pub(crate) fn measure(dir: &Path, lines: u64, runs: usize, table: &mut Table) -> Result<()> {
    let input = dir.join(format!("lines-{lines}.log"));
    limits::write_lines(&input, lines)?;
    let mut all = Runs::default();
    for _ in 0..runs {
        let mut site = Site::in_folder(dir, "");
        site.start();
        // More than is needed: what the kernel gives back to the host meanwhile is cold again.
        let warm = |copies: u64| limits::warm_page_cache(dir, lines * LINE * copies / 10 * 12);
        warm(3)?;
        all.into.push(file_to_log(&site, &input, lines)?);
        warm(3)?;
        all.out.push(log_to_file(&site, &input, lines)?);
        warm(4)?;
        all.both.push(both_at_once(&site, &input, lines)?);
        site.stop();
        drop(site);
        // Two fdatasyncs each round: the segment's and the journal's.
        let syncs = all.into.last().map_or(1, |spent| spent.syncs * 2);
        warm(3)?;
        all.plain.push(limits::read_and_append(&input, &dir.join("plain"), syncs)?);
        warm(3)?;
        all.copy.push(limits::copy(&input, &dir.join("copy"))?);
    }
    fs::remove_file(&input)?;
    report(&all, lines, table);
    Ok(())
}

fn report(all: &Runs, lines: u64, table: &mut Table) {
    let n = lines as f64;
    let rate = |spent: &[Spent]| n / median(spent.iter().map(|s| s.time.as_secs_f64()).collect());
    let cpu = |spent: &[Spent]| median(spent.iter().map(|s| s.cpu.as_secs_f64()).collect()) / n * 1e6;
    let peak = |spent: &[Spent]| spent.iter().map(|s| s.peak_kib).max().unwrap_or(0);
    let plain = n / median(all.plain.iter().map(|(time, _)| time.as_secs_f64()).collect());
    let plain_cpu = median(all.plain.iter().map(|(_, cpu)| cpu.as_secs_f64()).collect()) / n * 1e6;
    let copy = n / median(all.copy.iter().map(Duration::as_secs_f64).collect());
    let syncs = median(all.into.iter().map(|s| s.syncs as f64).collect());
    let (into, out, both) = (rate(&all.into), rate(&all.out), rate(&all.both));
    table.ratio(
        format!("file → log, {lines} lines, {syncs:.0} group commits"),
        into,
        ("plain program, as many fdatasyncs", plain),
    );
    table.bar("file → log", rate_text(into), "≥ 1.5 M/s", into >= 1.5e6);
    table.ratio(format!("log → file, {lines} lines"), out, ("cp, fsync", copy));
    table.bar("log → file", rate_text(out), "≥ 1.5 M/s", out >= 1.5e6);
    table.row("both at once", rate_text(both));
    let (cpu_in, cpu_out) = (cpu(&all.into), cpu(&all.out));
    table.row("CPU-seconds per million, file → log", format!("{cpu_in:.2} (plain program: {plain_cpu:.2})"));
    table.row("CPU-seconds per million, log → file", format!("{cpu_out:.2}"));
    let sum = cpu_in + cpu_out;
    table.bar(
        "CPU-seconds per million, both ways together",
        format!("{sum:.2} (at once: {:.2})", cpu(&all.both)),
        "≤ 1.0",
        sum <= 1.0,
    );
    let highest = peak(&all.into).max(peak(&all.out)).max(peak(&all.both));
    table.bar("peak RSS in all three", mb(highest), "< 150 MB", highest < 150_000_000 / 1024);
}

/// As many as a group commit of the log has under load.
const LINES_PER_SYNC: u64 = 26_000;

/// The cost of a record must not grow with their number.
pub(crate) fn growth(dir: &Path, sizes: &[u64], table: &mut Table) -> Result<()> {
    let mut first = None;
    for lines in sizes {
        let input = dir.join(format!("lines-{lines}.log"));
        limits::write_lines(&input, *lines)?;
        limits::warm_page_cache(dir, lines * LINE / 10 * 12)?;
        let (_, plain) = limits::read_and_append(&input, &dir.join("plain.log"), lines / LINES_PER_SYNC)?;
        let mut site = Site::in_folder(dir, "");
        site.start();
        limits::warm_page_cache(dir, lines * LINE / 10 * 12)?;
        let into = file_to_log(&site, &input, *lines)?;
        limits::warm_page_cache(dir, lines * LINE / 10 * 12)?;
        let out = log_to_file(&site, &input, *lines)?;
        site.stop();
        fs::remove_file(&input)?;
        let per_million = |spent: Duration| spent.as_secs_f64() / *lines as f64 * 1e6;
        let cpu = per_million(into.cpu + out.cpu);
        let plain = per_million(plain);
        let (begin, plain_begin) = *first.get_or_insert((cpu, plain));
        let text = format!(
            "{cpu:.2} CPU-s per million ({:.2} of it the kernel's; a plain program that reads and appends: {plain:.2}), {} in, {} out, peak {}",
            per_million(into.kernel + out.kernel),
            rate_text(*lines as f64 / into.time.as_secs_f64()),
            rate_text(*lines as f64 / out.time.as_secs_f64()),
            mb(into.peak_kib.max(out.peak_kib))
        );
        // A fifth more is within what two runs of the same size differ by. What is larger than the memory costs the kernel more, whoever writes it.
        let machine = (plain / plain_begin).max(1.0);
        table.bar(
            format!("{} million lines", lines / 1_000_000),
            text,
            format!("{:.2} of the first; ≤ 1.2 × {machine:.2}, by which the plain program grows", cpu / begin),
            cpu <= begin * 1.2 * machine,
        );
    }
    Ok(())
}

fn file_to_log(site: &Site, input: &Path, lines: u64) -> Result<Spent> {
    let config = json!({"connector.class": "file-source", "file": input, "topic": "lines"});
    let spent = run(site, lines, &[("in", config)])?;
    forget(&site.client(), "in");
    Ok(spent)
}

fn log_to_file(site: &Site, input: &Path, lines: u64) -> Result<Spent> {
    let out = site.path("out.log");
    let config = json!({"connector.class": "file-sink", "file": out, "topics": "lines"});
    let spent = run(site, lines, &[("out", config)])?;
    ensure!(limits::same(input, &out)?, "{} differs from what was read", out.display());
    forget(&site.client(), "out");
    fs::remove_file(out)?;
    Ok(spent)
}

fn both_at_once(site: &Site, input: &Path, lines: u64) -> Result<Spent> {
    let out = site.path("both.log");
    let source = json!({"connector.class": "file-source", "file": input, "topic": "both"});
    let sink = json!({"connector.class": "file-sink", "file": out, "topics": "both"});
    let spent = run(site, lines, &[("in2", source), ("out2", sink)])?;
    ensure!(limits::same(input, &out)?, "{} differs from what was read", out.display());
    Ok(spent)
}

/// Creates the connectors and waits until the last of them has made all lines durable.
fn run(site: &Site, lines: u64, connectors: &[(&str, serde_json::Value)]) -> Result<Spent> {
    let pid = site.pid().context("the worker runs")?;
    let client = site.client();
    // Resets the peak (proc(5), clear_refs).
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let (begin, cpu, kernel, syncs) = (Instant::now(), cpu_time(pid)?, kernel_time(pid)?, log_syncs(&client)?);
    for (name, config) in connectors {
        client.put(&format!("/connectors/{name}/config"), Some(config)).expect(201);
    }
    let last = connectors.last().context("at least one connector")?.0;
    let done = || {
        let status = client.get(&format!("/connectors/{last}/status")).json();
        if let Some(task) = status["tasks"].as_array().into_iter().flatten().find(|task| task["state"] == "FAILED") {
            return Some(Err(anyhow::anyhow!("{last}: {}", task["trace"])));
        }
        (status["tasks"][0]["aqueduct"]["records_out"].as_u64()? >= lines).then_some(Ok(()))
    };
    let limit = Duration::from_secs(60 + lines / 50_000);
    poll_for(limit, done).with_context(|| format!("{last}: not done within {limit:?}\n{}", site.log_tail(20)))??;
    let time = begin.elapsed();
    let (cpu, kernel) = (cpu_time(pid)?.saturating_sub(cpu), kernel_time(pid)?.saturating_sub(kernel));
    eprintln!("  {last}: {lines} lines of {LINE} bytes in {time:.2?}, {cpu:.2?} CPU, {kernel:.2?} of it the kernel's");
    Ok(Spent { time, cpu, kernel, peak_kib: memory_kib(pid, "VmHWM")?, syncs: log_syncs(&client)? - syncs })
}

fn forget(client: &Client, name: &str) {
    client.delete(&format!("/connectors/{name}")).expect(204);
}

/// Rounds of group commit so far.
fn log_syncs(client: &Client) -> Result<u64> {
    let text = client.get("/metrics").text;
    let sample = text
        .lines()
        .find(|line| !line.starts_with('#') && line.split([' ', '{']).next().is_some_and(|name| name.contains("log_syncs")));
    let value = sample.and_then(|line| line.split_whitespace().last()).context("/metrics has no log_syncs")?;
    Ok(value.parse::<f64>()? as u64)
}
