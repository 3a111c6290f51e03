//! The REST API: 1,000 connectors, reads while plugins never return, and Kafka Connect on the same machine in the same run.

use crate::table::{Table, mb};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::memory_kib;
use aqueduct_tests::{Client, Run, Site, poll_for};
use kafka_services::{Broker, Connect, ConnectOptions, Options};
use plugin_services::guest;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Clients that create at once: a deployment does it in parallel.
const CREATORS: usize = 4;
/// Enough for the 99th of a hundred to be more than one outlier.
const LISTS: usize = 200;
const READS: usize = 1_000;
/// In each of these ten plugins never return.
const CALLBACKS: [&str; 5] = ["plan", "open", "poll", "commit", "close"];
const BLOCKED_IN_EACH: usize = 10;
const SOON: Duration = Duration::from_secs(180);

pub(crate) fn measure(dir: &Path, table: &mut Table) -> Result<()> {
    thousand(dir, table)?;
    blocked(dir, table)?;
    let ours = ours(dir)?;
    let theirs = theirs(dir)?;
    let beside = |what: &str, ours: f64, theirs: f64, unit: &str| {
        (format!("{what}, beside Kafka Connect"), format!("{ours:.2} {unit}; {theirs:.2} {unit}"))
    };
    let (what, figures) = beside("start to the first REST answer", ours.start, theirs.start, "s");
    table.row(what, figures);
    let (what, figures) = beside("100 connectors created and RUNNING", ours.created, theirs.created, "s");
    table.row(what, figures);
    let ratio = ours.rss_kib as f64 / theirs.rss_kib as f64;
    let figures = format!("{}; {} ({ratio:.3})", mb(ours.rss_kib), mb(theirs.rss_kib));
    table.bar("RSS with these 100, beside Kafka Connect (without its broker)", figures, "≤ 0.1", ratio <= 0.1);
    Ok(())
}

/// 1,000 connectors that have nothing to do.
fn thousand(dir: &Path, table: &mut Table) -> Result<()> {
    let mut site = Site::in_folder(dir, "");
    site.start();
    let client = site.client();
    let taken = create(&client, &site.root, 1_000)?;
    table.bar("1,000 connectors created over REST and RUNNING", seconds(taken), "< 10 s", taken < Duration::from_secs(10));
    let times = timed(LISTS, |_| get(&client, "/connectors?expand=info&expand=status"))?;
    let p99 = percentile(&times, 99);
    table.bar("list of 1,000 with both expand, p99", millis(p99), "< 50 ms", p99 < Duration::from_millis(50));
    site.stop();
    Ok(())
}

/// Reads of all kinds while plugins loop in every callback.
fn blocked(dir: &Path, table: &mut Table) -> Result<()> {
    let mut site = Site::in_folder(dir, "");
    let folder = site.path("plugins");
    fs::create_dir(&folder)?;
    fs::copy(guest("zoo"), folder.join("zoo.wasm"))?;
    // Nobody ends what they do meanwhile.
    site.configure(&format!("plugin.path: {}\nplugins.zoo-source.limits.call.timeout: 1h\n", folder.display()));
    site.start();
    let client = site.client();
    for callback in CALLBACKS {
        for n in 0..BLOCKED_IN_EACH {
            let config = json!({
                "connector.class": "zoo-source", "mode": format!("loop-{callback}"), "aqueduct.stall.timeout.ms": "3600000"
            });
            put(&client, &format!("{callback}-{n}"), &config)?;
        }
    }
    // A neighbour that moves, so that there is something to read.
    put(
        &client,
        "orders",
        &json!({"connector.class": "datagen-source", "template": "orders", "topic": "orders", "rate": "100"}),
    )?;
    for n in 0..BLOCKED_IN_EACH {
        let name = format!("close-{n}");
        poll_for(SOON, || (client.task_states(&name) == ["RUNNING"]).then_some(()))
            .with_context(|| format!("{name} never ran"))?;
        client.call(Method::PUT, &format!("/connectors/{name}/stop"), None)?;
    }
    let paths = [
        "/",
        "/health",
        "/connectors",
        "/connectors?expand=info&expand=status",
        "/connectors/plan-0",
        "/connectors/open-1/status",
        "/connectors/poll-2/config",
        "/connectors/commit-3/tasks",
        "/connectors/orders/topics",
        "/connectors/orders/offsets",
        "/connectors/close-4/tasks/0/status",
        "/connector-plugins",
        "/metrics",
        "/admin/loggers",
        "/aqueduct/v1/summary",
        "/aqueduct/v1/connectors/poll-5/logs",
        "/aqueduct/v1/topics",
    ];
    let times = timed(READS, |n| {
        let path = paths[n % paths.len()];
        let answer = client.call(Method::GET, path, None)?;
        // A stopped connector has no task; everything else is there.
        ensure!(answer.status == 200 || path.starts_with("/connectors/close"), "{path}: {} {}", answer.status, answer.text);
        Ok(())
    })?;
    let p99 = percentile(&times, 99);
    let figures = format!("{}, longest {}", millis(p99), millis(percentile(&times, 100)));
    let what = format!("reads while {} plugins loop in every callback, p99", CALLBACKS.len() * BLOCKED_IN_EACH);
    table.bar(what, figures, "< 20 ms", p99 < Duration::from_millis(20));
    site.kill();
    Ok(())
}

struct Worker {
    /// In seconds, until REST answers.
    start: f64,
    /// In seconds, until all 100 run.
    created: f64,
    rss_kib: u64,
}

fn ours(dir: &Path) -> Result<Worker> {
    let mut site = Site::in_folder(dir, "");
    let client = site.client();
    let begin = Instant::now();
    site.spawn(&Run::default());
    poll_for(SOON, || client.call(Method::GET, "/connectors", None).ok().filter(|answer| answer.status == 200))
        .context("the worker never answered")?;
    let start = begin.elapsed().as_secs_f64();
    let created = create(&client, &site.root, 100)?.as_secs_f64();
    let rss_kib = memory_kib(site.pid().context("the worker runs")?, "VmRSS")?;
    site.stop();
    Ok(Worker { start, created, rss_kib })
}

/// Distributed, with the heap and the collector of its own scripts.
fn theirs(dir: &Path) -> Result<Worker> {
    let broker = Broker::start(Options::default());
    let begin = Instant::now();
    let connect = Connect::start(&broker.bootstrap(), ConnectOptions::distributed("rest").fast());
    let start = begin.elapsed().as_secs_f64();
    let files = tempfile::tempdir_in(dir)?;
    let created = create(&Client::new(connect.url()), files.path(), 100)?.as_secs_f64();
    let rss_kib = memory_kib(connect.pid().context("Kafka Connect runs")?, "VmRSS")?;
    Ok(Worker { start, created, rss_kib })
}

/// Tails of files of their own, by the class that both have; until all run.
fn create(client: &Client, root: &Path, count: usize) -> Result<Duration> {
    let folder = root.join("in");
    fs::create_dir_all(&folder)?;
    for n in 0..count {
        fs::write(folder.join(format!("{n}.log")), "one line\n")?;
    }
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let creators = (0..CREATORS).map(|first| {
            let folder = &folder;
            scope.spawn(move || -> Result<()> {
                for n in (first..count).step_by(CREATORS) {
                    let config = json!({
                        "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
                        "file": folder.join(format!("{n}.log")), "topic": format!("t-{}", n % 10),
                    });
                    put(client, &format!("c-{n}"), &config)?;
                }
                Ok(())
            })
        });
        let creators: Vec<_> = creators.collect();
        creators.into_iter().try_for_each(|creator| creator.join().expect("a creator does not panic"))
    })?;
    poll_for(SOON, || (running(client) == count).then_some(())).with_context(|| format!("{} of {count} run", running(client)))?;
    Ok(begin.elapsed())
}

/// Kafka Connect answers 409 while it rebalances: again then, as its clients do.
fn put(client: &Client, name: &str, config: &Value) -> Result<()> {
    let (path, body) = (format!("/connectors/{name}/config"), config.to_string());
    let put = || client.call(Method::PUT, &path, Some(&body));
    let answer = poll_for(SOON, || Some(put()).filter(|answer| !answer.as_ref().is_ok_and(|answer| answer.status == 409)));
    let answer = answer.with_context(|| format!("{name}: 409 for {SOON:?}"))??;
    ensure!(answer.status == 201, "{name}: {} {}", answer.status, answer.text);
    Ok(())
}

/// Connectors that run with all their tasks.
fn running(client: &Client) -> usize {
    let Ok(answer) = client.call(Method::GET, "/connectors?expand=status", None) else { return 0 };
    let Ok(Value::Object(all)) = serde_json::from_str::<Value>(&answer.text) else { return 0 };
    let runs = |connector: &&Value| {
        let status = &connector["status"];
        let tasks = status["tasks"].as_array().map_or(&[][..], Vec::as_slice);
        status["connector"]["state"] == "RUNNING" && !tasks.is_empty() && tasks.iter().all(|task| task["state"] == "RUNNING")
    };
    all.values().filter(runs).count()
}

fn get(client: &Client, path: &str) -> Result<()> {
    let answer = client.call(Method::GET, path, None)?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
    Ok(())
}

/// How long each call took, in ascending order.
fn timed(count: usize, call: impl Fn(usize) -> Result<()>) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let begin = Instant::now();
        call(n)?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times)
}

/// Of sorted times.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_times_that_there_were() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&times, percent).as_millis()), [100, 198, 200]);
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
