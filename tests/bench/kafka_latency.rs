//! From line written to visible for a `read_committed` reader, at 1,000 lines a second.

use crate::kafka::{Bench, worker};
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use aqueduct_tests::wait::pause;
use kafka_services::{Connect, ConnectOptions, file_stream_source};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Connections, caches and code that is compiled on the way.
const WARM_UP: u64 = 3_000;

pub(crate) fn measure(bench: &Bench, lines: u64, ours: bool, table: &mut Table) -> Result<()> {
    let what = "p50, p99, highest: line written → visible, read_committed, 1,000 lines/s";
    let mut admin = bench.broker.admin();
    let folder = tempfile::tempdir_in(bench.dir)?;
    let file = folder.path().join("kcat.log");
    File::create(&file)?;
    admin.create_topic("late-kcat", 1, &[]);
    let mut tail = Command::new("tail").args(["-n", "+1", "-f"]).arg(&file).stdout(Stdio::piped()).spawn()?;
    let mut kcat = Command::new("kcat");
    kcat.args(["-b", &bench.broker.bootstrap(), "-P", "-t", "late-kcat", "-X", "acks=all", "-X", "enable.idempotence=true"]);
    let mut kcat = kcat.stdin(tail.stdout.take().context("piped")?).spawn()?;
    let times = through(bench, &file, "late-kcat", lines);
    end(&mut tail)?;
    end(&mut kcat)?;
    table.row(format!("{what}: tail -f, kcat -P, no transactions"), text(&times?));

    let file = folder.path().join("connect.log");
    File::create(&file)?;
    admin.create_topic("late-connect", 1, &[]);
    let connect = Connect::start(&bench.broker.bootstrap(), ConnectOptions::standalone().fast());
    connect.connector("late", &file_stream_source(&file, "late-connect"));
    table.row(format!("{what}: Kafka Connect, no transactions"), text(&through(bench, &file, "late-connect", lines)?));
    drop(connect);

    if ours {
        let file = folder.path().join("ours.log");
        File::create(&file)?;
        admin.create_topic("late-ours", 1, &[]);
        let mut site = worker(bench, "late")?;
        let config = json!({"connector.class": "file-source", "file": file, "topic": "late-ours"});
        site.client().put("/connectors/late/config", Some(&config)).expect(201);
        let times = through(bench, &file, "late-ours", lines).with_context(|| site.log_tail(20))?;
        site.stop();
        let p99 = quantile(&times, 0.99);
        table.bar(format!("{what}: aqueduct, exactly once"), text(&times), "p99 < 100 ms", p99 < Duration::from_millis(100));
    }
    Ok(())
}

/// Writes lines that say when they were written, one a millisecond, and reads them where they become visible. Sorted; without the warm-up.
fn through(bench: &Bench, file: &Path, topic: &str, lines: u64) -> Result<Vec<Duration>> {
    let mut reader = Command::new("kcat");
    reader.args([
        "-b",
        &bench.broker.bootstrap(),
        "-C",
        "-u",
        "-q",
        "-t",
        topic,
        "-o",
        "beginning",
        "-X",
        "isolation.level=read_committed",
    ]);
    let mut reader = reader.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(reader.stdout.take().context("piped")?);
    let all = WARM_UP + lines;
    let times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let seen = scope.spawn(move || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            for line in output.lines().take(usize::try_from(all)?) {
                let written: u64 = line?.split(' ').next().context("a line begins with its time")?.parse()?;
                times.push(Duration::from_micros(now().saturating_sub(written)));
            }
            Ok(times)
        });
        // Some more: kcat -P reads its input in pieces of 1 KiB, ten lines, so it passes them on late and the last ones never.
        let wrote = write(file, all + 20);
        // A reader that waits for what never comes ends with its input.
        let late = aqueduct_tests::poll_for(Duration::from_secs(30), || seen.is_finished().then_some(()));
        end(&mut reader)?;
        wrote?;
        let times = seen.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(late.is_some(), "{topic}: {} of {all} lines visible half a minute after the last was written", times.len());
        Ok(times)
    })?;
    let mut times = times[usize::try_from(WARM_UP)?..].to_vec();
    times.sort_unstable();
    Ok(times)
}

fn write(path: &Path, lines: u64) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let begin = Instant::now();
    for n in 0..lines {
        let due = Duration::from_millis(n);
        pause(due.saturating_sub(begin.elapsed()));
        let head = format!("{} ", now());
        file.write_all(format!("{head}{:.<1$}\n", "", 99 - head.len()).as_bytes())?;
    }
    Ok(())
}

/// Microseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0))
}

pub(crate) fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

pub(crate) fn text(sorted: &[Duration]) -> String {
    let ms = |q: f64| quantile(sorted, q).as_secs_f64() * 1e3;
    format!("{:.1}, {:.1}, {:.1} ms", ms(0.5), ms(0.99), ms(1.0))
}

pub(crate) fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_lines_of_100_bytes() {
        let times: Vec<Duration> = (0..=100).map(Duration::from_millis).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| quantile(&times, q).as_millis()), [0, 50, 99, 100]);
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), 3).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() == 99), "{text}");
    }
}
