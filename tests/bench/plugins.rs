//! WASM plugins: transforms and sources beside what is compiled for this machine, instances, and many files in `plugin.path`.

use crate::table::{Table, mb, median, rate_text};
use anyhow::{Context, Result, ensure};
use aqueduct_tests::site::{cpu_time, memory_kib};
use aqueduct_tests::{Client, Run, Site, poll_for};
use plugin_services::guest;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The field that is masked.
const FIELD: &str = "email";
const SOON: Duration = Duration::from_secs(300);
/// Tasks of one source, each with an instance of its own.
const INSTANCES: usize = 1_000;
const FILES: usize = 200;
const NEIGHBOURS: usize = 50;
/// Each in two connectors.
const HOSTILE: [&str; 5] = ["loop", "memory", "trap", "recursion", "logs"];
/// Long enough that the batch which is just on its way counts for little.
const WATCHED: Duration = Duration::from_secs(5);
/// As long as the name in its metadata, which it takes the place of.
const TRUSTED: &str = "mask-trusted-1";

pub(crate) fn measure(dir: &Path, lines: u64, runs: usize, table: &mut Table) -> Result<()> {
    let lines = (lines / 2).max(1_000);
    transforms(dir, lines, runs, table)?;
    sources(dir, lines, runs, table)?;
    instances(dir, table)?;
    files(dir, table)?;
    neighbours(dir, table)
}

/// A worker that has these plugins.
fn site(dir: &Path, plugins: &[(&str, Vec<u8>)], settings: &str) -> Result<Site> {
    let site = Site::in_folder(dir, "");
    let folder = site.path("plugins");
    fs::create_dir(&folder)?;
    for (name, bytes) in plugins {
        fs::write(folder.join(format!("{name}.wasm")), bytes)?;
    }
    site.configure(&format!("plugin.path: {}\n{settings}", folder.display()));
    Ok(site)
}

fn example(name: &str) -> Result<Vec<u8>> {
    Ok(fs::read(guest(name))?)
}

/// The plugin under another name of the same length.
fn renamed(name: &str, to: &str) -> Result<Vec<u8>> {
    ensure!(name.len() == to.len(), "{to} is not as long as {name}");
    let (mut bytes, from) = (example(name)?, format!("\"name\": \"{name}\""));
    // The compiler leaves more than one copy of it.
    let places = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect::<Vec<_>>();
    ensure!(!places.is_empty(), "the metadata of {name} names it otherwise");
    let to = format!("\"name\": \"{to}\"");
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
    Ok(bytes)
}

/// What a transform costs a record, beside the same code built in: in one process over the same batches, as plugins/host/examples/transforms.rs
/// says. Then in a worker: the CPU of a sink that forgets all, with the transform and without it.
fn transforms(dir: &Path, lines: u64, runs: usize, table: &mut Table) -> Result<()> {
    let mut spent = in_process(lines, runs)?;
    let mut rate = |step: &str| spent.remove(step).map(|seconds| lines as f64 / median(seconds)).context("a step");
    let (native, mask, trusted, pass) = (rate("native")?, rate("mask")?, rate("trusted")?, rate("pass")?);
    let built_in = "the same code as a built-in transform, over the same batches";
    table.ratio("WASM transform: JSON field mask, 100 bytes, on one core", mask, (built_in, native));
    let ratio = trusted / native;
    let figures = format!("{}; {ratio:.2} of the built-in", rate_text(trusted));
    table.bar("the same, trusted (compiled without interruption)", figures, "≥ 0.65", ratio >= 0.65);
    table.bar("WASM transform that passes 100 bytes through, on one core", rate_text(pass), "≥ 5 M/s", pass >= 5e6);
    for (step, rate) in in_worker(dir, lines, runs)? {
        table.row(format!("{step} in a worker: by what a sink with it needs beyond one without"), rate_text(rate));
    }
    Ok(())
}

/// CPU-seconds for `lines` records, of each run of each step.
fn in_process(lines: u64, runs: usize) -> Result<BTreeMap<String, Vec<f64>>> {
    #[derive(Deserialize)]
    struct Said {
        records: f64,
        seconds: BTreeMap<String, Vec<f64>>,
    }
    let program = std::env::current_exe()?.with_file_name("examples").join("transforms");
    let mut command = Command::new(&program);
    command.args([guest("mask-transform"), guest("zoo")]).args([lines.to_string(), runs.to_string()]);
    let fix = "it is built by: cargo build --release -p aqueduct-plugin-host --example transforms";
    let output = command.output().with_context(|| format!("{}: {fix}", program.display()))?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let said: Said = serde_json::from_slice(&output.stdout)?;
    let scale = lines as f64 / said.records;
    let scaled = said.seconds.into_iter().map(|(step, seconds)| (step, seconds.into_iter().map(|spent| spent * scale).collect()));
    Ok(scaled.collect())
}

/// The records per second of CPU that each transform adds.
fn in_worker(dir: &Path, lines: u64, runs: usize) -> Result<[(&'static str, f64); 3]> {
    let plugins =
        [("mask", example("mask-transform")?), ("trusted", renamed("mask-transform", TRUSTED)?), ("zoo", example("zoo")?)];
    let mut site = site(dir, &plugins, &format!("plugins.{TRUSTED}.trusted: true\n"))?;
    site.start();
    json_topic(&site, lines)?;
    let steps: [(&str, Value); 4] = [
        ("none", json!({})),
        ("pass-through", json!({"transforms": "t", "transforms.t.type": "zoo-transform"})),
        ("mask", json!({"transforms": "t", "transforms.t.type": "mask-transform", "transforms.t.fields": FIELD})),
        ("trusted mask", json!({"transforms": "t", "transforms.t.type": TRUSTED, "transforms.t.fields": FIELD})),
    ];
    let mut spent = [const { Vec::new() }; 4];
    // The first round compiles and is not counted.
    for run in 0..=runs {
        for (at, (name, step)) in steps.iter().enumerate() {
            let mut config = json!({"connector.class": "blackhole-sink", "topics": "json"});
            config.as_object_mut().context("an object")?.extend(step.as_object().context("an object")?.clone());
            let cpu = through(&site, &format!("{}-{run}", name.replace(' ', "-")), &config, lines)?;
            if run > 0 {
                spent[at].push(cpu.as_secs_f64());
            }
        }
    }
    site.stop();
    let [none, pass, mask, trusted] = spent.map(median);
    let rate = |spent: f64| lines as f64 / (spent - none).max(1e-9);
    Ok([("pass-through", rate(pass)), ("mask", rate(mask)), ("trusted mask", rate(trusted))])
}

/// An object of 99 bytes; with its line end 100.
fn line(n: u64) -> String {
    format!(r#"{{"id":{n:>12},"email":"{n:012}@example.com","text":"{}"}}"#, "x".repeat(35))
}

/// The topic `json`, of lines with a field to mask.
fn json_topic(site: &Site, lines: u64) -> Result<()> {
    let input = site.path("json.log");
    let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&input)?);
    for n in 0..lines {
        writeln!(file, "{}", line(n))?;
    }
    file.into_inner()?.sync_all()?;
    let config = json!({"connector.class": "file-source", "file": input, "topic": "json"});
    through(site, "in", &config, lines)?;
    Ok(())
}

/// A connector from its start until it has passed all records; what the worker computed meanwhile.
fn through(site: &Site, name: &str, config: &Value, records: u64) -> Result<Duration> {
    let (pid, client) = (site.pid().context("the worker runs")?, site.client());
    let cpu = cpu_time(pid)?;
    client.put(&format!("/connectors/{name}/config"), Some(config)).expect(201);
    let limit = SOON + Duration::from_secs(records / 20_000);
    let done = poll_for(limit, || passed(&client, name, records)).with_context(|| format!("{name}\n{}", site.log_tail(20)));
    done??;
    let spent = cpu_time(pid)?.saturating_sub(cpu);
    eprintln!("  {name}: {records} records, {spent:.2?} CPU");
    client.delete(&format!("/connectors/{name}")).expect(204);
    Ok(spent)
}

/// None: not yet.
fn passed(client: &Client, name: &str, records: u64) -> Option<Result<()>> {
    let status = client.get(&format!("/connectors/{name}/status")).json();
    if let Some(task) = status["tasks"].as_array().into_iter().flatten().find(|task| task["state"] == "FAILED") {
        return Some(Err(anyhow::anyhow!("{name}: {}", task["trace"])));
    }
    (status["tasks"][0]["aqueduct"]["records_out"].as_u64()? >= records).then_some(Ok(()))
}

/// Into the log, beside `datagen-source` with lines of about the same length.
fn sources(dir: &Path, records: u64, runs: usize, table: &mut Table) -> Result<()> {
    let mut site = site(dir, &[("counter", example("counter-source")?)], "")?;
    site.start();
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    // The first round compiles and is not counted.
    for run in 0..=runs {
        let count = records.to_string();
        let ours = json!({"connector.class": "counter-source", "topic": "wasm", "count": count, "bytes": "100"});
        let theirs = json!({
            "connector.class": "datagen-source", "template": "access_log", "rate": "0", "topic": "native", "count": count
        });
        for (kind, config, times) in [("wasm", ours, &mut wasm), ("native", theirs, &mut native)] {
            let begin = Instant::now();
            through(&site, &format!("{kind}-{run}"), &config, records)?;
            if run > 0 {
                times.push(begin.elapsed().as_secs_f64());
            }
        }
    }
    site.stop();
    let rate = |times| records as f64 / median(times);
    table.ratio("WASM source → log, 100 bytes", rate(wasm), ("datagen-source, lines of an access log", rate(native)));
    Ok(())
}

/// As the worker's debug lines tell: of each instance, from its store to its exports.
fn instances(dir: &Path, table: &mut Table) -> Result<()> {
    let mut site = site(dir, &[("counter", example("counter-source")?)], "")?;
    let level = ("AQUEDUCT_LOG_LEVEL".to_owned(), "info,aqueduct_plugin_host=debug".to_owned());
    site.start_with(&Run { env: vec![level], ..Run::default() });
    let (client, pid) = (site.client(), site.pid().context("the worker runs")?);
    // They wait in their first poll. The first one compiles it.
    let config = |topic: &str, tasks: usize| json!({"connector.class": "counter-source", "topic": topic, "interval.ms": "3600000", "tasks.max": tasks.to_string()});
    client.put("/connectors/first/config", Some(&config("first", 1))).expect(201);
    let running = |name: &str| client.task_states(name).iter().filter(|state| *state == "RUNNING").count();
    poll_for(SOON, || (running("first") == 1).then_some(())).with_context(|| format!("it never ran\n{}", site.log_tail(20)))?;
    let before = memory_kib(pid, "VmRSS")?;
    client.put("/connectors/many/config", Some(&config("many", INSTANCES))).expect(201);
    let all = poll_for(SOON, || (running("many") == INSTANCES).then_some(()));
    all.with_context(|| format!("{} of {INSTANCES} run\n{}", running("many"), site.log_tail(20)))?;
    let grown = memory_kib(pid, "VmRSS")?.saturating_sub(before);
    let log = site.log();
    let took = |line: &str| line.split("took_us=").nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
    let took: Vec<f64> = log.lines().filter(|line| line.contains("an instance is made")).filter_map(took).skip(1).collect();
    ensure!(took.len() >= INSTANCES, "{} instances told how long they took", took.len());
    let took = median(took);
    table.bar("an instance after the first, median", format!("{took:.0} µs"), "< 100 µs", took < 100.0);
    let figures = format!("{} more than with one", mb(grown));
    table.bar(format!("RSS of {INSTANCES} tasks, an instance each"), figures, "< 500 MB", grown * 1024 < 500_000_000);
    site.kill();
    Ok(())
}

/// Until the first answer of REST, which has them all.
fn files(dir: &Path, table: &mut Table) -> Result<()> {
    let plugins = (0..FILES).map(|n| {
        let name = format!("counter-s{n:05}");
        renamed("counter-source", &name).map(|bytes| (name, bytes))
    });
    let plugins = plugins.collect::<Result<Vec<_>>>()?;
    let plugins: Vec<(&str, Vec<u8>)> = plugins.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let mut site = site(dir, &plugins, "")?;
    let client = site.client();
    let mut times = Vec::new();
    // The files lie in the page cache from the first start on.
    for _ in 0..3 {
        let begin = Instant::now();
        site.spawn(&Run::default());
        let listed = || client.call(Method::GET, "/connector-plugins", None).ok().filter(|answer| answer.status == 200);
        let answer = poll_for(SOON, listed).with_context(|| format!("it never answered\n{}", site.log_tail(20)))?;
        times.push(begin.elapsed().as_secs_f64());
        let there = answer.text.matches("counter-s0").count();
        ensure!(there >= FILES, "{there} of {FILES} plugins are listed");
        site.stop();
    }
    let time = median(times);
    table.bar(format!("start with {FILES} plugins in plugin.path"), format!("{time:.2} s"), "< 1 s", time < 1.0);
    Ok(())
}

/// Sources at a pace, alone and then beside plugins that do what they must not.
fn neighbours(dir: &Path, table: &mut Table) -> Result<()> {
    let mut site = site(dir, &[("zoo", example("zoo")?)], "")?;
    site.start();
    let client = site.client();
    for n in 0..NEIGHBOURS {
        let topic = format!("t-{}", n % 10);
        let config = json!({"connector.class": "datagen-source", "template": "sensors", "topic": topic, "rate": "200"});
        client.put(&format!("/connectors/n-{n}/config"), Some(&config)).expect(201);
    }
    let all = || statuses(&client).is_ok_and(|all| all.iter().filter(|(_, out)| *out > 0).count() == NEIGHBOURS);
    poll_for(SOON, || all().then_some(())).with_context(|| format!("not all run\n{}", site.log_tail(20)))?;
    let (alone, _) = watched(&client)?;
    for (n, what) in HOSTILE.iter().flat_map(|what| [(0, what), (1, what)]) {
        let config = json!({"connector.class": "zoo-source", "mode": format!("{what}-poll"), "tasks.max": "1"});
        client.put(&format!("/connectors/{what}-{n}/config"), Some(&config)).expect(201);
    }
    let codes = ["plugin.timeout", "plugin.memory", "plugin.trap"];
    let failed = || codes.iter().all(|code| site.log().contains(code)).then_some(());
    poll_for(SOON, failed).with_context(|| format!("not all have failed\n{}", site.log_tail(20)))?;
    let (beside, p99) = watched(&client)?;
    let ratio = beside / alone;
    let figures = format!("{ratio:.3} of {alone:.0} records/s");
    let hostile = HOSTILE.len() * 2;
    table.bar(format!("{NEIGHBOURS} sources beside {hostile} hostile plugins"), figures, "≥ 0.95", ratio >= 0.95);
    let millis = p99.as_secs_f64() * 1e3;
    table.bar("status of all over REST meanwhile, p99", format!("{millis:.1} ms"), "< 20 ms", millis < 20.0);
    site.kill();
    Ok(())
}

/// Records per second of all neighbours, and how long the slowest hundredth of the calls took that asked.
fn watched(client: &Client) -> Result<(f64, Duration)> {
    let total = |all: Vec<(String, u64)>| all.into_iter().map(|(_, out)| out).sum::<u64>();
    let (begin, first, mut times) = (Instant::now(), total(statuses(client)?), Vec::new());
    loop {
        let asked = Instant::now();
        let now = total(statuses(client)?);
        times.push(asked.elapsed());
        let spent = begin.elapsed();
        if spent >= WATCHED {
            times.sort();
            let slow = times[(times.len() * 99).div_ceil(100) - 1];
            return Ok(((now - first) as f64 / spent.as_secs_f64(), slow));
        }
    }
}

/// What each neighbour has in the log.
fn statuses(client: &Client) -> Result<Vec<(String, u64)>> {
    let answer = client.call(Method::GET, "/connectors?expand=status", None)?;
    let all: serde_json::Map<String, Value> = serde_json::from_str(&answer.text)?;
    let mine = all.into_iter().filter(|(name, _)| name.starts_with("n-"));
    Ok(mine.map(|(name, all)| (name, all["status"]["tasks"][0]["aqueduct"]["records_out"].as_u64().unwrap_or(0))).collect())
}
