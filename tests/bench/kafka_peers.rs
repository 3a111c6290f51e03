//! kcat and Kafka Connect on the same ways.

use crate::kafka::Bench;
use crate::limits;
use crate::table::mb;
use anyhow::{Context, Result, ensure};
use aqueduct_tests::poll_for;
use aqueduct_tests::site::{cpu_time, memory_kib};
use kafka_services::{Connect, ConnectOptions, file_stream_sink, file_stream_source};
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the process itself spent, user and kernel; the broker's part is not in it.
pub(crate) struct Spent {
    pub time: Duration,
    pub cpu: Duration,
    pub peak_kib: u64,
}

impl Spent {
    pub(crate) fn new(time: Duration, cpu: Duration, peak_kib: u64) -> Self {
        Self { time, cpu, peak_kib }
    }

    pub(crate) fn text(&self, lines: u64) -> String {
        let n = lines as f64;
        let (rate, cpu) = (n / self.time.as_secs_f64() / 1e3, self.cpu.as_secs_f64() / n * 1e6);
        format!("{rate:.0} k/s, {cpu:.2} CPU-s per million, peak {}", mb(self.peak_kib))
    }
}

/// Idempotent and `acks=all`, as what it is compared with; a larger queue than the default, or it waits for itself.
pub(crate) fn kcat_in(bench: &Bench, topic: &str) -> Result<Spent> {
    let mut command = Command::new("kcat");
    command.args(["-b", &bench.broker.bootstrap(), "-P", "-t", topic, "-l"]).arg(bench.input);
    command.args([
        "-X",
        "acks=all",
        "-X",
        "enable.idempotence=true",
        "-X",
        "linger.ms=50",
        "-X",
        "queue.buffering.max.messages=1000000",
    ]);
    let spent = child(&mut command)?;
    eprintln!("  kcat -P: {}", spent.text(bench.lines));
    Ok(spent)
}

pub(crate) fn kcat_out(bench: &Bench, topic: &str) -> Result<Spent> {
    let out = bench.dir.join("kcat-out.log");
    let mut command = kcat_reads(bench, topic);
    let spent = child(command.stdout(File::create(&out)?))?;
    ensure!(limits::same(bench.input, &out)?, "kcat wrote something else than is in {topic}");
    fs::remove_file(out)?;
    eprintln!("  kcat -C: {}", spent.text(bench.lines));
    Ok(spent)
}

fn kcat_reads(bench: &Bench, topic: &str) -> Command {
    let mut command = Command::new("kcat");
    let bootstrap = bench.broker.bootstrap();
    command.args(["-b", &bootstrap, "-C", "-t", topic, "-e", "-q", "-o", "beginning", "-X", "isolation.level=read_committed"]);
    command
}

/// All that a `read_committed` reader sees.
pub(crate) fn read_all(bench: &Bench, topic: &str, to: &mut impl Write) -> Result<u64> {
    let mut child = kcat_reads(bench, topic).stdout(Stdio::piped()).spawn()?;
    let read = io::copy(&mut child.stdout.take().context("piped")?, to)?;
    ensure!(child.wait()?.success(), "kcat -C -t {topic}");
    Ok(read)
}

/// Exactly the input, once, in its order.
pub(crate) fn check_topic(bench: &Bench, topic: &str) -> Result<()> {
    let seen = bench.dir.join("seen.log");
    read_all(bench, topic, &mut File::create(&seen)?)?;
    ensure!(limits::same(bench.input, &seen)?, "a read_committed reader of {topic} does not see exactly the input");
    fs::remove_file(seen)?;
    Ok(())
}

/// Runs it to its end.
pub(crate) fn child(command: &mut Command) -> Result<Spent> {
    let (begin, cpu) = (Instant::now(), children_cpu()?);
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let mut peak = 0;
    let status = loop {
        // The last look before its end counts: VmHWM only grows.
        peak = memory_kib(child.id(), "VmHWM").unwrap_or(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        aqueduct_tests::wait::pause(Duration::from_millis(5));
    };
    ensure!(status.success(), "{command:?}: {status}");
    Ok(Spent::new(begin.elapsed(), children_cpu()?.saturating_sub(cpu), peak))
}

/// Of all children that have ended (proc(5), `cutime` and `cstime`).
fn children_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks = |field: &str| field.parse().map(|ticks: u64| Duration::from_millis(ticks * 10));
    Ok(ticks(fields[13])? + ticks(fields[14])?)
}

/// Default settings, at least once, from the connector's creation until the topic has all lines: the start of the JVM is not in it.
pub(crate) fn connect_in(bench: &Bench, topic: &str) -> Result<Spent> {
    let connect = Connect::start(&bench.broker.bootstrap(), ConnectOptions::standalone().fast());
    let mut admin = bench.broker.admin();
    let goal = i64::try_from(bench.lines)?;
    let config = file_stream_source(bench.input, topic);
    let spent = connector(bench, &connect, &config, || admin.end_offset(topic, 0, true) >= goal)?;
    drop(connect);
    // At least once it says, and means it: its producer is not idempotent, and now and then repeats a batch.
    let read = read_all(bench, topic, &mut io::sink())?;
    ensure!(read >= bench.total(), "Connect lost lines: {read} of {} bytes", bench.total());
    let twice = read / limits::LINE - bench.lines;
    eprintln!("  Connect, FileStreamSource: {}; {twice} lines twice", spent.text(bench.lines));
    Ok(spent)
}

pub(crate) fn connect_out(bench: &Bench, topic: &str) -> Result<Spent> {
    let mut connect = Connect::start(
        &bench.broker.bootstrap(),
        ConnectOptions::standalone().fast().with("consumer.auto.offset.reset=earliest"),
    );
    let out = connect.dir().join("out.log");
    // The last piece of its buffer comes with its flush, each minute.
    let goal = bench.total() - 16 * 1024;
    let config = file_stream_sink(&out, topic);
    let spent = connector(bench, &connect, &config, || fs::metadata(&out).is_ok_and(|meta| meta.len() >= goal))?;
    connect.stop();
    ensure!(limits::same(bench.input, &out)?, "Connect wrote something else than is in {topic}");
    eprintln!("  Connect, FileStreamSink: {}", spent.text(bench.lines));
    Ok(spent)
}

fn connector(bench: &Bench, connect: &Connect, config: &serde_json::Value, mut done: impl FnMut() -> bool) -> Result<Spent> {
    let pid = connect.pid().context("Connect runs")?;
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let (begin, cpu) = (Instant::now(), cpu_time(pid)?);
    connect.connector("peer", config);
    let limit = Duration::from_secs(120 + bench.lines / 10_000);
    poll_for(limit, || done().then_some(()))
        .with_context(|| format!("Connect is not done within {limit:?}\n{}", connect.log_tail(20)))?;
    Ok(Spent::new(begin.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?))
}
