//! From commit in Postgres to visible in the log, at 100 transactions a second.

use crate::kafka_latency::{end, quantile, text};
use crate::postgres::Bench;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use aqueduct_tests::poll_for;
use aqueduct_tests::site::aqueduct;
use aqueduct_tests::wait::pause;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PER_SECOND: u64 = 100;
const WARM_UP: u64 = 200;
const ROWS: u64 = 1_500;
/// Rows of this part have greater keys than those of the others.
const FIRST: u64 = 1 << 40;

pub(crate) fn measure(bench: &mut Bench<'_>, table: &mut Table) -> Result<()> {
    let what = format!("p50, p99, highest: commit → visible in the log, {PER_SECOND} transactions/s");
    bench.server.psql_in("shop", "truncate orders");
    let connect = bench.connect();
    bench.broker.admin().create_topic("dbz_late.public.orders", 1, &[]);
    connect.connector("dbz-late", &bench.source("dbz_late", "no_data", true));
    let bootstrap = bench.broker.bootstrap();
    let mut reader = Command::new("kcat");
    reader.args([
        "-b",
        &bootstrap,
        "-C",
        "-u",
        "-q",
        "-t",
        "dbz_late.public.orders",
        "-o",
        "beginning",
        "-X",
        "fetch.wait.max.ms=5",
    ]);
    table.row(format!("{what}: Debezium in Kafka Connect"), text(&through(bench, "dbz_late", &mut reader)?));
    connect.call("DELETE", "/connectors/dbz-late", None);
    drop(connect);

    bench.server.psql_in("shop", "truncate orders");
    bench.put("late", &bench.source("aq_late", "no_data", false))?;
    let mut reader = Command::new(aqueduct());
    reader.args(["topics", "read", "aq_late.public.orders", "--follow", "--format", "value"]);
    reader.env("AQUEDUCT_URL", format!("http://127.0.0.1:{}", bench.site.port)).env("NO_COLOR", "1");
    let times = through(bench, "aq_late", &mut reader).with_context(|| bench.site.log_tail(10))?;
    bench.site.client().delete("/connectors/late").expect(204);
    let p99 = quantile(&times, 0.99);
    table.bar(format!("{what}: aqueduct, embedded log"), text(&times), "p99 < 20 ms", p99 < Duration::from_millis(20));
    Ok(())
}

/// Sorted; without the warm-up.
fn through(bench: &Bench<'_>, slot: &str, reader: &mut Command) -> Result<Vec<Duration>> {
    let active = format!("select count(*) from pg_replication_slots where slot_name = '{slot}' and active");
    poll_for(Duration::from_secs(90), || (bench.server.psql(&active) == "1").then_some(())).context("nobody streams")?;
    let mut session = bench.server.session("shop");
    // Makes the topic.
    session.run(&format!("insert into orders values ({FIRST}, 1, 1, 1, null, now())"));
    if slot.starts_with("aq") {
        let there = format!("/aqueduct/v1/topics/{slot}.public.orders");
        poll_for(Duration::from_secs(30), || (bench.site.client().get(&there).status == 200).then_some(()))
            .context("the topic is not there")?;
    }
    let mut reader = reader.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(reader.stdout.take().context("piped")?);
    let all = WARM_UP + ROWS;
    let times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let seen = scope.spawn(move || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            for line in output.lines().take(usize::try_from(all)?) {
                let now = now();
                let line = line?;
                let committed = committed(&line).with_context(|| format!("an event has the time of its commit: {line}"))?;
                times.push(Duration::from_micros(now.saturating_sub(committed)));
            }
            Ok(times)
        });
        let begin = Instant::now();
        // Some more: a reader that buffers passes the last ones on late.
        for n in 1..=all + 20 {
            pause(Duration::from_micros(n * 1_000_000 / PER_SECOND).saturating_sub(begin.elapsed()));
            session.run(&format!("insert into orders values ({FIRST} + {n}, 1, 1, 1, 'late', now())"));
        }
        let late = poll_for(Duration::from_secs(30), || seen.is_finished().then_some(()));
        end(&mut reader)?;
        let times = seen.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(late.is_some(), "{slot}: {} of {all} rows visible half a minute after the last commit", times.len());
        Ok(times)
    })?;
    let mut times = times[usize::try_from(WARM_UP)?..].to_vec();
    times.sort_unstable();
    Ok(times)
}

/// Microseconds since the epoch, by the server's clock, which is this machine's.
fn committed(line: &str) -> Option<u64> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    event["source"]["ts_us"].as_u64()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_the_sources_time() {
        assert_eq!(committed(r#"{"source":{"ts_ms":1,"ts_us":1234},"ts_us":9}"#), Some(1234));
    }
}
