//! MQTT → log beside `mosquitto_sub` on the same broker: a queue that is full already, and how long after its publishing a message is visible.

use crate::kafka_latency::{end, quantile, text};
use crate::kafka_peers::{Spent, child};
use crate::table::{Table, mb};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::{aqueduct, cpu_time, memory_kib};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, poll_for};
use mqtt_services::{Broker, Options};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const RSS_MAX: u64 = 150_000_000 / 1024;
const PER_SECOND: u64 = 5_000;
const WARM_UP: u64 = 5_000;
const TIMED: u64 = 50_000;
/// Published at once; what mosquitto_pub is told is one write for so many.
const BURST: u64 = 10;

pub(crate) fn measure(dir: &Path, messages: u64, table: &mut Table) -> Result<()> {
    // Not the default, 20, which would measure the disk's latency; and not without limit: mosquitto then gives one packet id to two messages of a long queue.
    let broker = Broker::start(Options::in_memory().with("max_inflight_messages 10000"));
    let mut site = Site::in_folder(dir, "");
    site.start();
    throughput(&broker, &site, messages, table)?;
    latency(&broker, &site, table)?;
    site.stop();
    Ok(())
}

fn put(site: &Site, name: &str, broker: &Broker, topic: &str) -> Result<()> {
    let config = json!({
        "connector.class": "mqtt-source", "mqtt.server.uri": broker.uri(), "mqtt.topics": topic, "kafka.topic": name, "mqtt.qos": "1",
        "mqtt.max.inflight": "10000",
    });
    let answer = site.client().put(&format!("/connectors/{name}/config"), Some(&config));
    ensure!(answer.status < 300, "{name}: {}", answer.text);
    let stored = || site.client().get(&format!("/connectors/{name}/offsets")).text.contains("filters").then_some(());
    poll_for(Duration::from_secs(60), stored).with_context(|| format!("no subscription\n{}", site.log_tail(10)))
}

/// Both sessions are there before the messages: each drains a queue of the same length, one after the other.
fn throughput(broker: &Broker, site: &Site, messages: u64, table: &mut Table) -> Result<()> {
    let what = format!("MQTT QoS 1 → log, {messages} messages of 100 bytes in the broker's queue");
    put(site, "drain", broker, "drain")?;
    site.client().put("/connectors/drain/stop", None).expect(204);
    drop(broker.subscribe("drain", 1, &["-c", "-i", "peer"]));
    // Fewer than there are packet ids: mosquitto_pub gives one to each line as it comes, whether the older ones are acknowledged or not.
    for first in (0..messages).step_by(50_000) {
        let mut publisher = broker.publisher("drain", 1, &[]);
        for n in first..messages.min(first + 50_000) {
            publisher.line(&format!("{n:0100}"));
        }
        publisher.finish();
    }

    let mut sub = broker.client("mosquitto_sub");
    sub.args(["-t", "drain", "-q", "1", "-c", "-i", "peer", "-C", &messages.to_string()]).stdout(Stdio::null());
    let theirs = child(&mut sub)?;

    let (pid, client) = (site.pid().context("the worker runs")?, site.client());
    // Resets the peak (proc(5), clear_refs).
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let (start, cpu) = (Instant::now(), cpu_time(pid)?);
    client.put("/connectors/drain/resume", None).expect(202);
    let done = || {
        let status = client.get("/connectors/drain/status").json();
        (status["tasks"][0]["aqueduct"]["records_out"].as_u64().unwrap_or(0) >= messages).then_some(())
    };
    poll_for(Duration::from_secs(120 + messages / 5_000), done).with_context(|| format!("not done\n{}", site.log_tail(10)))?;
    let ours = Spent::new(start.elapsed(), cpu_time(pid)?.saturating_sub(cpu), memory_kib(pid, "VmHWM")?);
    client.delete("/connectors/drain").expect(204);

    table.row(format!("{what}: mosquitto_sub to /dev/null"), theirs.text(messages));
    table.row(format!("{what}: aqueduct"), ours.text(messages));
    let ratio = theirs.time.as_secs_f64() / ours.time.as_secs_f64();
    table.bar(format!("{what}: beside mosquitto_sub"), format!("{ratio:.2} ×"), "≥ 0.7 ×", ratio >= 0.7);
    table.bar("MQTT: peak RSS of the worker", mb(ours.peak_kib), "< 150 MB", ours.peak_kib < RSS_MAX);
    Ok(())
}

/// From the publisher's clock to a reader of the log: the broker's part is in it.
fn latency(broker: &Broker, site: &Site, table: &mut Table) -> Result<()> {
    put(site, "late", broker, "late")?;
    let mut publisher = broker.publisher("late", 1, &[]);
    publisher.line(&stamped());
    let there = || (site.client().get("/aqueduct/v1/topics/late").status == 200).then_some(());
    poll_for(Duration::from_secs(30), there).context("the topic is not there")?;
    let mut reader = Command::new(aqueduct());
    reader.args(["topics", "read", "late", "--follow", "--format", "value"]);
    reader.env("AQUEDUCT_URL", format!("http://127.0.0.1:{}", site.port)).env("NO_COLOR", "1");
    let mut reader = reader.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(reader.stdout.take().context("piped")?);
    let (pid, all) = (site.pid().context("the worker runs")?, WARM_UP + TIMED);
    let cpu = cpu_time(pid)?;
    let times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let seen = scope.spawn(move || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            for line in output.lines().take(usize::try_from(all)?) {
                let (now, line) = (now(), line?);
                let published: u64 = line.trim_start_matches('0').parse().with_context(|| line.clone())?;
                times.push(Duration::from_micros(now.saturating_sub(published)));
            }
            Ok(times)
        });
        let begin = Instant::now();
        // Some more: a reader that buffers passes the last ones on late.
        for n in 1..=all + 1_000 {
            if n % BURST == 0 {
                pause(Duration::from_micros(n * 1_000_000 / PER_SECOND).saturating_sub(begin.elapsed()));
            }
            publisher.line(&stamped());
        }
        publisher.finish();
        let late = poll_for(Duration::from_secs(30), || seen.is_finished().then_some(()));
        end(&mut reader)?;
        let times = seen.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(late.is_some(), "{} of {all} messages visible half a minute after the last", times.len());
        Ok(times)
    })?;
    let cpu = cpu_time(pid)?.saturating_sub(cpu).as_secs_f64() / (all + 1_000) as f64 * 1e6;
    let mut times = times[usize::try_from(WARM_UP)?..].to_vec();
    times.sort_unstable();
    let what = format!("p50, p99, highest: published → visible in the log, {PER_SECOND} messages/s");
    let p99 = quantile(&times, 0.99);
    table.bar(format!("{what}: aqueduct, embedded log"), text(&times), "p99 < 20 ms", p99 < Duration::from_millis(20));
    table.row(format!("MQTT at {PER_SECOND} messages/s: the worker"), format!("{cpu:.1} CPU-s per million"));
    site.client().delete("/connectors/late").expect(204);
    Ok(())
}

/// 100 bytes.
fn stamped() -> String {
    format!("{:0100}", now())
}

/// Microseconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0))
}
