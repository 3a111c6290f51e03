//! A sink that refuses every n-th record, killed: each bad record exactly once in the dead letter queue, each good one exactly once in the file.
//!
//! `KILLS=300 SEED=… cargo test --test dead_letters -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Run, Site, env_number, poll_for, segment};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

const TOPIC: &str = "lines";
const QUEUE: &str = "lines.bad";
/// Every so many lines one is no JSON.
const BAD_EVERY: u64 = 3;
const POINTS: [&str; 4] = ["sink.fetched", "sink.put", "sink.flushed", "sink.committed"];
/// Where the log stands between the two halves of a commit, if it had two.
const LOG_POINTS: [&str; 4] = ["log.data.written", "log.journal.written", "log.journal.sync", "log.committed"];

fn line(n: u64) -> String {
    if n.is_multiple_of(BAD_EVERY) { format!("{{\"n\": {n}, and no more") } else { format!("{{\"n\":{n}}}") }
}

struct Bench {
    site: Site,
    random: fastrand::Rng,
    input: File,
    written: u64,
    bug: Option<&'static str>,
    hits: BTreeMap<&'static str, u64>,
}

impl Bench {
    fn new(seed: u64, bug: Option<&'static str>) -> Self {
        let site = Site::new();
        let root = site.root.display();
        site.connector(
            "source",
            &format!("name: source\nconnector.class: file-source\nfile: {root}/in.log\ntopic: {TOPIC}\ntopic.creation.default.segment.bytes: 65536\n"),
        );
        site.connector(
            "sink",
            &format!(
                "name: sink\nconnector.class: file-sink\nfile: {root}/out.log\ntopics: {TOPIC}\nvalue.converter: json\nvalue.converter.schemas.enable: false\n\
                 offset.flush.interval.ms: 30\nerrors.tolerance: all\nerrors.deadletterqueue.topic.name: {QUEUE}\nerrors.deadletterqueue.context.headers.enable: true\n"
            ),
        );
        let input = OpenOptions::new().create(true).append(true).open(site.path("in.log")).unwrap();
        Self { site, random: fastrand::Rng::with_seed(seed), input, written: 0, bug, hits: BTreeMap::new() }
    }

    fn write(&mut self, lines: u64) {
        let text: String = (self.written..self.written + lines).map(|n| line(n) + "\n").collect();
        self.input.write_all(text.as_bytes()).unwrap();
        self.written += lines;
    }

    fn plan(&self, plan: &str) -> Run {
        Run::failpoints(self.bug.map_or_else(|| plan.to_owned(), |bug| format!("bug={bug};{plan}")))
    }

    /// Lines keep coming while it runs.
    fn write_until<T>(&mut self, deadline: Duration, mut done: impl FnMut(&mut Site) -> Option<T>) -> Option<T> {
        poll_for(deadline, || {
            let lines = self.random.u64(1..40);
            self.write(lines);
            done(&mut self.site)
        })
    }

    fn kill_at_a_random_moment(&mut self) {
        self.site.spawn(&self.plan(""));
        let moment = Duration::from_millis(self.random.u64(5..=900));
        self.write_until(moment, |_| None::<()>);
        self.site.kill();
    }

    fn abort_at(&mut self, point: &'static str) {
        // The log passes its points some times while it starts.
        let hit = if point.starts_with("log.") { self.random.u64(4..=30) } else { self.random.u64(1..=8) };
        let before = self.site.log_len();
        self.site.spawn(&self.plan(&format!("{point}=abort@{hit}")));
        let died = self.write_until(Duration::from_secs(8), |site| site.exited());
        self.site.kill();
        // Not the whole line: what the worker says meanwhile may stand within it.
        let reached = died.is_some() && self.site.log()[before..].contains(&format!("{point} hit {hit}: abort"));
        assert!(reached || died.is_none(), "the worker died, but not at {point}\n{}", self.site.log_tail(40));
        *self.hits.entry(point).or_default() += u64::from(reached);
    }

    fn kill(&mut self, cycle: u64) {
        let lines = self.random.u64(100..400);
        self.write(lines);
        match cycle % 3 {
            0 => self.kill_at_a_random_moment(),
            1 => self.abort_at(POINTS[(cycle / 3) as usize % POINTS.len()]),
            _ => {
                let point = LOG_POINTS[self.random.usize(..LOG_POINTS.len())];
                self.abort_at(point);
            }
        }
    }

    fn good(&self) -> String {
        (0..self.written).filter(|n| !n.is_multiple_of(BAD_EVERY)).map(|n| line(n) + "\n").collect()
    }

    /// A last life without faults, until everything has arrived; what is wrong then.
    fn judge(&mut self) -> Result<(), String> {
        // The last line is bad: when its letter is there, so is all before it.
        while !(self.written - 1).is_multiple_of(BAD_EVERY) {
            self.write(1);
        }
        self.site.start_with(&self.plan(""));
        let last = self.written as i64;
        let committed = poll_for(Duration::from_secs(60), || {
            let answer = self.site.client().get("/connectors/sink/offsets");
            let at = answer.json()["offsets"][0]["offset"]["kafka_offset"].as_i64();
            (at == Some(last)).then_some(())
        });
        self.site.stop();
        committed.ok_or_else(|| format!("the sink did not reach {last} in time\n{}", self.site.log_tail(20)))?;
        let letters = segment::partitions(&self.site.data_dir(), QUEUE).map_err(|error| format!("{error:#}"))?;
        let letters: Vec<_> = letters.iter().flat_map(|(_, dir)| segment::read_partition(dir).unwrap()).collect();
        let values = letters.iter().map(|letter| String::from_utf8_lossy(letter.value.as_deref().unwrap()).into_owned());
        same("the dead letter queue", values, (0..self.written).filter(|n| n.is_multiple_of(BAD_EVERY)).map(line))?;
        let header = |letter: &segment::Raw| letter.headers.iter().find(|(name, _)| name == "__connect.errors.offset").cloned();
        let offsets = letters.iter().map(|letter| String::from_utf8(header(letter).unwrap().1.unwrap()).unwrap());
        same("offsets in the headers", offsets, (0..self.written).step_by(BAD_EVERY as usize).map(|n| n.to_string()))?;
        let file = std::fs::read_to_string(self.site.path("out.log")).unwrap();
        same("the file", file.lines().map(str::to_owned), self.good().lines().map(str::to_owned))
    }
}

/// Exactly these, in this order.
fn same(what: &str, found: impl Iterator<Item = String>, expected: impl Iterator<Item = String>) -> Result<(), String> {
    let (found, expected): (Vec<_>, Vec<_>) = (found.collect(), expected.collect());
    let Some(at) = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at)) else { return Ok(()) };
    Err(format!(
        "{what}: {} where {} are expected; number {at} is {:?} instead of {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    ))
}

#[test]
fn every_bad_record_is_exactly_once_in_the_queue_and_every_good_one_in_the_file() {
    let kills = env_number("KILLS", 15);
    let seed = env_number("SEED", fastrand::u64(..1 << 40));
    println!("KILLS={kills} SEED={seed}");
    let mut bench = Bench::new(seed, None);
    (0..kills).for_each(|cycle| bench.kill(cycle));
    bench.judge().unwrap_or_else(|wrong| panic!("KILLS={kills} SEED={seed}: {wrong}"));
    println!("{} lines, {} of them bad, {kills} kills, hit: {:?}", bench.written, bench.written.div_ceil(BAD_EVERY), bench.hits);
    assert!(bench.hits.values().sum::<u64>() * 2 >= kills * 2 / 3, "the points are not reached: {:?}", bench.hits);
    assert!(POINTS.iter().take((kills / 3) as usize).any(|point| bench.hits.get(point).is_some_and(|hits| *hits > 0)));
}

/// The test is tested: positions that are stored one commit before their letters lose letters.
#[test]
fn positions_before_letters_are_caught() {
    let (seed, begin) = (env_number("SEED", fastrand::u64(..1 << 40)), Instant::now());
    let mut round = 0;
    while begin.elapsed() < Duration::from_secs(60) {
        round += 1;
        let mut bench = Bench::new(seed + round, Some("position_before_letter"));
        bench.write(300);
        (0..4).for_each(|_| bench.abort_at("log.journal.written"));
        if let Err(wrong) = bench.judge() {
            assert!(wrong.starts_with("the dead letter queue"), "{wrong}");
            return println!("caught in round {round}: {wrong}");
        }
    }
    panic!("SEED={seed}: not caught in {round} rounds");
}
