//! Apache Kafka as the log: file → Kafka and Kafka → file beside kcat and Kafka Connect's FileStream connectors; one broker, one run.

use crate::kafka_latency;
use crate::kafka_peers::{self as peers, Spent};
use crate::limits::{self, LINE};
use crate::table::{Table, mb, median};
use anyhow::{Context, Result, bail, ensure};
use aqueduct_tests::site::{cpu_time, memory_kib};
use aqueduct_tests::{Site, poll_for};
use kafka_services::{Broker, Options};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// At 1,000 lines a second.
const LATENCY_LINES: u64 = 20_000;

#[derive(Default)]
struct Runs {
    kcat: Vec<Spent>,
    connect: Vec<Spent>,
    aqueduct: Vec<Spent>,
}

/// What every way in and out needs.
pub(crate) struct Bench<'a> {
    pub dir: &'a Path,
    pub input: &'a Path,
    pub lines: u64,
    pub broker: &'a Broker,
}

pub(crate) fn measure(dir: &Path, lines: u64, runs: usize, table: &mut Table) -> Result<()> {
    let input = dir.join(format!("lines-{lines}.log"));
    limits::write_lines(&input, lines)?;
    let broker = Broker::start(Options::fast().with("log.segment.delete.delay.ms=1000"));
    let bench = Bench { dir, input: &input, lines, broker: &broker };
    warm_up(&bench)?;
    let (mut into, mut out) = (Runs::default(), Runs::default());
    let mut refused = None;
    for run in 0..runs {
        bench.both_ways(run, &mut into, &mut out, &mut refused)?;
    }
    report_into(&into, lines, table);
    report_out(&out, lines, table);
    let highest = into.aqueduct.iter().chain(&out.aqueduct).map(|spent| spent.peak_kib).max();
    if let Some(peak) = highest {
        table.bar("peak RSS of the worker, both ways", mb(peak), "< 200 MB", peak < 200_000_000 / 1024);
    }
    kafka_latency::measure(&bench, LATENCY_LINES, !into.aqueduct.is_empty(), table)?;
    if let Some(why) = refused {
        table.bar("aqueduct on Kafka", why, "runs", false);
    }
    fs::remove_file(&input)?;
    Ok(())
}

impl Bench<'_> {
    pub(crate) fn total(&self) -> u64 {
        self.lines * LINE
    }

    fn both_ways(&self, run: usize, into: &mut Runs, out: &mut Runs, refused: &mut Option<String>) -> Result<()> {
        let mut admin = self.broker.admin();
        let [kcat, ours, connect] = ["kcat", "ours", "connect"].map(|who| format!("{who}-{run}"));
        admin.create_topic(&kcat, 1, &[]);
        self.warm()?;
        into.kcat.push(peers::kcat_in(self, &kcat)?);
        self.warm()?;
        out.kcat.push(peers::kcat_out(self, &kcat)?);
        if refused.is_none() {
            admin.create_topic(&ours, 1, &[]);
            self.warm()?;
            let outcome = self.aqueduct(run, &ours, &kcat, [&mut into.aqueduct, &mut out.aqueduct]);
            *refused = outcome.err().map(|error| format!("{error:#}"));
            admin.delete_topic(&ours);
        }
        // Once: it is many times slower than the rest.
        if run == 0 {
            admin.create_topic(&connect, 1, &[]);
            self.warm()?;
            into.connect.push(peers::connect_in(self, &connect)?);
            self.warm()?;
            out.connect.push(peers::connect_out(self, &kcat)?);
            admin.delete_topic(&connect);
        }
        admin.delete_topic(&kcat);
        Ok(())
    }

    fn warm(&self) -> Result<()> {
        limits::warm_page_cache(self.dir, self.total() * 3)
    }

    /// Into a topic of its own, out of the one that kcat wrote.
    fn aqueduct(&self, run: usize, into: &str, from: &str, [source, sink]: [&mut Vec<Spent>; 2]) -> Result<()> {
        let mut site = worker(self, &format!("bench-{run}"))?;
        let config = json!({"connector.class": "file-source", "file": self.input, "topic": into});
        let spent = self.connector(&site, "bench-in", &config)?;
        peers::check_topic(self, into)?;
        source.push(spent);
        let out = site.path("out.log");
        self.warm()?;
        let config = json!({"connector.class": "file-sink", "file": out, "topics": from});
        let spent = self.connector(&site, "bench-out", &config)?;
        ensure!(limits::same(self.input, &out)?, "{} differs from what is in Kafka", out.display());
        sink.push(spent);
        site.stop();
        Ok(())
    }

    /// From its creation until the last line is durable.
    fn connector(&self, site: &Site, name: &str, config: &Value) -> Result<Spent> {
        let pid = site.pid().context("the worker runs")?;
        let client = site.client();
        // Resets the peak (proc(5), clear_refs).
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let (begin, cpu) = (Instant::now(), cpu_time(pid)?);
        client.put(&format!("/connectors/{name}/config"), Some(config)).expect(201);
        let limit = Duration::from_secs(60 + self.lines / 50_000);
        let done = || {
            let status = client.get(&format!("/connectors/{name}/status")).json();
            if let Some(task) = status["tasks"].as_array().into_iter().flatten().find(|task| task["state"] == "FAILED") {
                return Some(Err(anyhow::anyhow!("{name}: {}", task["trace"])));
            }
            (status["tasks"][0]["aqueduct"]["records_out"].as_u64()? >= self.lines).then_some(Ok(()))
        };
        poll_for(limit, done).with_context(|| format!("{name}: not done within {limit:?}\n{}", site.log_tail(20)))??;
        let spent = Spent::new(begin.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?);
        client.delete(&format!("/connectors/{name}")).expect(204);
        eprintln!("  aqueduct, {name}: {}", spent.text(self.lines));
        Ok(spent)
    }
}

/// A worker of its own group on this broker, its settings else the defaults.
pub(crate) fn worker(bench: &Bench, group: &str) -> Result<Site> {
    let mut site = Site::in_folder(bench.dir, &format!("bootstrap.servers: {}\ngroup.id: {group}\n", bench.broker.bootstrap()));
    site.spawn(&aqueduct_tests::Run::default());
    if let Err(error) = site.wait_healthy(Duration::from_secs(30)) {
        bail!("{error:#}: {}", site.log_tail(3));
    }
    Ok(site)
}

/// The broker's own code is compiled while it runs: the first to come would pay for the others.
fn warm_up(bench: &Bench) -> Result<()> {
    bench.broker.admin().create_topic("warm-up", 1, &[]);
    for _ in 0..2 {
        peers::kcat_in(bench, "warm-up")?;
    }
    peers::read_all(bench, "warm-up", &mut std::io::sink())?;
    bench.broker.admin().delete_topic("warm-up");
    Ok(())
}

struct Figures {
    rate: f64,
    cpu: f64,
    text: String,
}

/// Medians.
fn figures(runs: &[Spent], lines: u64) -> Option<Figures> {
    if runs.is_empty() {
        return None;
    }
    let time = median(runs.iter().map(|spent| spent.time.as_secs_f64()).collect());
    let cpu = median(runs.iter().map(|spent| spent.cpu.as_secs_f64()).collect());
    let spent = Spent::new(
        Duration::from_secs_f64(time),
        Duration::from_secs_f64(cpu),
        runs.iter().map(|spent| spent.peak_kib).max().unwrap_or(0),
    );
    Some(Figures { rate: lines as f64 / time, cpu: cpu / lines as f64 * 1e6, text: spent.text(lines) })
}

fn report_into(runs: &Runs, lines: u64, table: &mut Table) {
    let [kcat, connect, ours] = [&runs.kcat, &runs.connect, &runs.aqueduct].map(|runs| figures(runs, lines));
    let way = format!("file → Kafka, {lines} lines");
    peers_rows(&way, &kcat, &connect, table);
    let (Some(kcat), Some(connect), Some(ours)) = (kcat, connect, ours) else { return };
    table.row(format!("{way}: aqueduct, exactly once"), &ours.text);
    beside(&way, ours.rate / kcat.rate, "kcat's rate", 0.8, table);
    beside(&way, ours.rate / connect.rate, "Connect's rate", 5.0, table);
    let cpu = ours.cpu / connect.cpu;
    table.bar(format!("{way}: CPU per record"), format!("1/{:.1} of Connect's", 1.0 / cpu), "≤ 1/8", cpu <= 1.0 / 8.0);
}

fn report_out(runs: &Runs, lines: u64, table: &mut Table) {
    let [kcat, connect, ours] = [&runs.kcat, &runs.connect, &runs.aqueduct].map(|runs| figures(runs, lines));
    let way = format!("Kafka → file, {lines} lines");
    peers_rows(&way, &kcat, &connect, table);
    let (Some(kcat), Some(connect), Some(ours)) = (kcat, connect, ours) else { return };
    table.row(format!("{way}: aqueduct"), &ours.text);
    beside(&way, ours.rate / kcat.rate, "kcat's rate", 0.8, table);
    beside(&way, ours.rate / connect.rate, "Connect's rate", 3.0, table);
}

fn peers_rows(way: &str, kcat: &Option<Figures>, connect: &Option<Figures>, table: &mut Table) {
    for (who, figures) in [("kcat", kcat), ("Kafka Connect, FileStream, at least once", connect)] {
        if let Some(figures) = figures {
            table.row(format!("{way}: {who}"), &figures.text);
        }
    }
}

fn beside(way: &str, ratio: f64, of: &str, bar: f64, table: &mut Table) {
    table.bar(format!("{way}: beside {of}"), format!("{ratio:.2} ×"), format!("≥ {bar} ×"), ratio >= bar);
}
