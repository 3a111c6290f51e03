//! What it costs to have it: start, and connectors that have nothing to do.

use crate::table::{Table, mb, median};
use anyhow::{Context, Result};
use aqueduct_tests::site::{cpu_time, memory_kib};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site, poll_for};
use reqwest::Method;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Long enough for 1/100 s ticks to mean something, and for a polling fallback to show.
const WATCHED: Duration = Duration::from_secs(20);

pub(crate) fn measure(dir: &Path, runs: usize, table: &mut Table) -> Result<()> {
    let mut first_answers = Vec::new();
    for _ in 0..runs.max(5) {
        let mut site = Site::in_folder(dir, "");
        first_answers.push(first_answer(&mut site)?.as_secs_f64() * 1e3);
        site.stop();
    }
    let first = median(first_answers);
    table.bar("start to the first REST answer", format!("{first:.0} ms"), "< 300 ms", first < 300.0);
    let (rss, _, _) = at_rest(dir, 10, Duration::from_secs(3))?;
    table.bar("RSS, 10 idle connectors", mb(rss), "< 40 MB", rss < 40_000_000 / 1024);
    let (rss, cpu, started) = at_rest(dir, 1000, WATCHED)?;
    table.bar("RSS, 1,000 idle connectors", mb(rss), "< 150 MB", rss < 150_000_000 / 1024);
    table.bar("CPU, 1,000 idle connectors", format!("{cpu:.2} % of a core"), "< 2 %", cpu < 2.0);
    table.row("1,000 connectors of the folder: until all run", format!("{:.1} s", started.as_secs_f64()));
    Ok(())
}

fn first_answer(site: &mut Site) -> Result<Duration> {
    let client = site.client();
    let begin = Instant::now();
    site.spawn(&Run::default());
    let answered =
        poll_for(Duration::from_secs(30), || client.call(Method::GET, "/", None).ok().filter(|answer| answer.status == 200));
    answered.context("REST never answered")?;
    Ok(begin.elapsed())
}

/// Half of them tail a file of their own, half read a topic of those into a file. RSS in KiB, CPU in percent of a core, time until all run.
fn at_rest(dir: &Path, connectors: usize, watched: Duration) -> Result<(u64, f64, Duration)> {
    let mut site = Site::in_folder(dir, "");
    fs::create_dir_all(site.path("in"))?;
    let root = site.root.display().to_string();
    for n in 0..connectors / 2 {
        fs::write(site.path(&format!("in/{n}.log")), "one line\n")?;
        let source = format!("name: source-{n}\nconnector.class: file-source\nfile: {root}/in/{n}.log\ntopic: t-{n}\n");
        let sink = format!("name: sink-{n}\nconnector.class: file-sink\nfile: {root}/out-{n}.log\ntopics: t-{n}\n");
        site.connector(&format!("source-{n}"), &source);
        site.connector(&format!("sink-{n}"), &sink);
    }
    let begin = Instant::now();
    site.start();
    let written =
        || (0..connectors / 2).all(|n| fs::metadata(site.path(&format!("out-{n}.log"))).is_ok_and(|meta| meta.len() == 9));
    poll_for(Duration::from_secs(120), || written().then_some(()))
        .with_context(|| format!("not all of {connectors} connectors moved their line\n{}", site.log_tail(20)))?;
    let started = begin.elapsed();
    let pid = site.pid().context("the worker runs")?;
    // What is measured is rest: let the commits and timers of the start end.
    pause(Duration::from_secs(5));
    let (cpu, begin) = (cpu_time(pid)?, Instant::now());
    pause(watched);
    let percent = (cpu_time(pid)?.saturating_sub(cpu)).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    let rss = memory_kib(pid, "VmRSS")?;
    site.stop();
    Ok((rss, percent, started))
}
