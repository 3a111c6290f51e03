//! Webhooks: requests that are durable before their answer, beside an axum handler that discards them; memory of idle connections.

use crate::table::{Table, mb, median};
use anyhow::{Context, Result, bail, ensure};
use aqueduct_tests::site::{cpu_time, free_port, memory_kib};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, poll_for};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const CONNECTIONS: usize = 64;
const IDLE: usize = 10_000;

pub(crate) fn measure(dir: &Path, runs: usize, table: &mut Table) -> Result<()> {
    let seconds = 10;
    let (mut bare, mut plain, mut known, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let axum = Bare::start()?;
        bare.push(wrk(dir, axum.port, seconds, "")?.rate);
        drop(axum);
        let (rate, spent) = stored(dir, seconds, "none", "")?;
        plain.push(rate);
        cpu.push(spent);
        known.push(stored(dir, seconds, "auto", ID)?.0);
    }
    let (bare, plain, known) = (median(bare), median(plain), median(known));
    let ratio = plain / bare;
    table.bar(
        format!("webhook, {CONNECTIONS} connections, 100-byte bodies, each durable before 200"),
        format!("{plain:.0} requests/s; an axum handler that discards: {bare:.0}"),
        format!("{ratio:.2} of it; ≥ 0.6"),
        ratio >= 0.6,
    );
    table.row("the same, each with an id that is stored with it", format!("{known:.0} requests/s, {:.2} of it", known / bare));
    table.row("CPU-seconds of the worker per million requests", format!("{:.2}", median(cpu)));
    idle(dir, table)
}

/// `webhook-id`: another one for each request of each thread.
const ID: &str = r#"
local thread = 0
function setup(t) t:set("number", thread); thread = thread + 1 end
local count = 0
function request()
  count = count + 1
  wrk.headers["webhook-id"] = number .. "-" .. count
  return wrk.format()
end
"#;

struct Outcome {
    rate: f64,
    requests: u64,
}

fn wrk(dir: &Path, port: u16, seconds: u64, script: &str) -> Result<Outcome> {
    let file = dir.join("post.lua");
    let body = "x".repeat(100);
    fs::write(&file, format!("wrk.method = \"POST\"\nwrk.body = \"{body}\"\n{script}"))?;
    let mut command = Command::new("wrk");
    command.args(["-t2", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "-s"]).arg(&file);
    let output = command.arg(format!("http://127.0.0.1:{port}/hooks")).output().context("wrk: apt-get install wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"), "wrk: {text}");
    let number = |line: &str| line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    let rate = text.lines().find(|line| line.starts_with("Requests/sec")).and_then(number).context("wrk says no rate")?;
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(number).context("wrk says no requests")?;
    Ok(Outcome { rate, requests: requests as u64 })
}

/// Requests per second, and CPU-seconds per million; all that were answered are in the log.
fn stored(dir: &Path, seconds: u64, ids: &str, script: &str) -> Result<(f64, f64)> {
    let (mut site, port) = (Site::in_folder(dir, ""), free_port());
    site.connector("hooks", &config(port, &format!("idempotency.key: {ids}\n")));
    site.start();
    ready(port)?;
    let pid = site.pid().context("the worker runs")?;
    let before = cpu_time(pid)?;
    let outcome = wrk(dir, port, seconds, script)?;
    let cpu = cpu_time(pid)?.saturating_sub(before).as_secs_f64() / outcome.requests as f64 * 1e6;
    let client = site.client();
    let there = || client.get("/connectors/hooks/status").json()["tasks"][0]["aqueduct"]["records_out"].as_u64();
    poll_for(Duration::from_secs(10), || there().filter(|there| *there >= outcome.requests))
        .with_context(|| format!("{} answered, {:?} in the log", outcome.requests, there()))?;
    site.stop();
    Ok((outcome.rate, cpu))
}

fn config(port: u16, more: &str) -> String {
    format!("name: hooks\nconnector.class: webhook-source\nlistener: http://127.0.0.1:{port}\npath: /hooks\ntopic: hooks\n{more}")
}

fn ready(port: u16) -> Result<TcpStream> {
    let asked = poll_for(Duration::from_secs(30), || ask(TcpStream::connect(("127.0.0.1", port)).ok()?).ok());
    asked.context("the connector answers")
}

/// One request on a connection that stays.
fn ask(mut stream: TcpStream) -> Result<TcpStream> {
    stream.write_all(b"POST /hooks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer)?;
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    Ok(stream)
}

fn idle(dir: &Path, table: &mut Table) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let (mut site, port) = (Site::in_folder(dir, ""), free_port());
    site.connector("hooks", &config(port, "idempotency.key: none\n"));
    site.start();
    ready(port)?;
    let pid = site.pid().context("the worker runs")?;
    let alone = memory_kib(pid, "VmRSS")?;
    let open = |count: usize| (0..count).map(move |_| ask(TcpStream::connect(("127.0.0.1", port))?)).collect::<Result<Vec<_>>>();
    let opened: Result<Vec<Vec<TcpStream>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(IDLE / 8))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    let opened = opened?;
    // Long enough to be idle, and not to be closed for it.
    pause(Duration::from_secs(5));
    let rss = memory_kib(pid, "VmRSS")?;
    // They are all there: each is asked again.
    for stream in opened.into_iter().flatten() {
        ask(stream).context("an idle connection was closed")?;
    }
    table.bar(
        format!("RSS, {IDLE} idle webhook connections"),
        format!("{} ({} without them, {:.1} KiB each)", mb(rss), mb(alone), rss.saturating_sub(alone) as f64 / IDLE as f64),
        "< 150 MB",
        rss < 150_000_000 / 1024,
    );
    site.stop();
    Ok(())
}

/// What a webhook costs without being kept.
struct Bare {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Bare {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let router = axum::Router::new().route("/hooks", axum::routing::post(async |body: axum::body::Bytes| drop(body)));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { port, _runtime: runtime })
    }
}
