//! The kill loop: file → log → file under load, killed at random moments and at named points, then judged against the ledger.

use crate::checker::{Report, Stream, check};
use crate::ledger::{Ledger, LedgerPlan, LedgerProcess, line};
use crate::site::{Run, Site, aqueduct};
use crate::wait::{pause, poll_for};
use crate::{kafka_site, outputs, segment};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub const TOPIC: &str = "lines";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The sink appends to one file.
    Append,
    /// The sink rolls files by size and time.
    Rolling,
}

/// One run of the loop.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub mode: Mode,
    pub kills: u64,
    pub seed: u64,
    /// `bootstrap.servers`: the log is Kafka, where nobody else uses the topic [`TOPIC`].
    pub kafka: Option<String>,
    /// A bug to plant (`tail_lost`), for the test of the checker itself; failpoints may follow it (`tail_lost;log.data.sync=eio`).
    pub bug: Option<String>,
    /// What the aimed points begin with. A planted bug shows only at some: a short run that tries all may miss it.
    pub aim: &'static str,
    /// The `ledger` binary.
    pub ledger: String,
    pub files: usize,
    /// Lines per second.
    pub rate: u64,
    pub rotate_ms: u64,
    /// How long the last lines may take after the last fault has healed (I11).
    pub drain: Duration,
}

/// What happened and what came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub random: u64,
    /// Crashes at each point; a point that was aimed at and not reached within its time has no count.
    pub hits: BTreeMap<String, u64>,
    pub missed: u64,
    /// Every source's last line arrived in time.
    pub arrived: bool,
    pub sink: Report,
    pub log: Report,
    pub trouble: Option<String>,
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.arrived && self.trouble.is_none() && self.sink.is_clean() && self.log.is_clean()
    }

    pub fn kills(&self) -> u64 {
        self.random + self.missed + self.hits.values().sum::<u64>()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_points: u64 = self.hits.values().sum();
        write!(
            f,
            "seed {}: {} kills, {} at random moments, {at_points} at named points",
            self.seed,
            self.kills(),
            self.random + self.missed
        )?;
        for (point, hits) in &self.hits {
            write!(f, "\n  {point:24} {hits}")?;
        }
        write!(f, "\n  sink: {}\n  log:  {}", self.sink, self.log)?;
        if !self.arrived {
            write!(f, "\n  the last lines did not arrive in time")?;
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "\n  {trouble}")?;
        }
        if self.is_clean() {
            write!(
                f,
                "\n  0 violations in {0} kills: p < {1:.2} % per kill (95 %)",
                self.kills(),
                300.0 / self.kills().max(1) as f64
            )?;
        }
        Ok(())
    }
}

/// The points that the binary knows, from its own answer to an unknown one.
///
/// # Panics
/// When the binary does not answer as documented.
pub fn points() -> Vec<String> {
    known("nonsense=abort")
}

/// The bugs that the binary can plant.
pub fn bugs() -> Vec<String> {
    known("bug=nonsense")
}

fn known(plan: &str) -> Vec<String> {
    let output = Command::new(aqueduct())
        .args(["worker", "--config", "/nonexistent"])
        .env("AQUEDUCT_FAILPOINTS", plan)
        .env("NO_COLOR", "1")
        .output();
    let output = output.expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr).replace(['\n', '│', '×'], " ");
    let (_, list) =
        text.split_once("known: ").unwrap_or_else(|| panic!("AQUEDUCT_FAILPOINTS={plan} was not refused with a list: {text}"));
    let word = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
    let names = list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty() && name.chars().all(word));
    names.map(|name| name.trim_end_matches('.').to_owned()).collect()
}

impl Chaos {
    pub fn new(mode: Mode, kills: u64, seed: u64, ledger: &str) -> Self {
        let drain = Duration::from_secs(150);
        let ledger = ledger.to_owned();
        Self { mode, kills, seed, kafka: None, bug: None, aim: "", ledger, files: 2, rate: 4_000, rotate_ms: 900, drain }
    }

    /// The same with Kafka as the log.
    #[must_use]
    pub fn on_kafka(self, bootstrap: &str) -> Self {
        Self { kafka: Some(bootstrap.to_owned()), ..self }
    }

    /// The points that this mode's flow passes.
    pub fn points(&self) -> Vec<String> {
        let rolling_only = ["file_sink.rolled", "file_sink.renamed"];
        let others = if self.kafka.is_some() { "log." } else { "kafka." };
        let passed = |point: &String| {
            !point.starts_with(others) && (self.mode == Mode::Rolling || !rolling_only.contains(&point.as_str()))
        };
        points().into_iter().filter(|point| point.starts_with(self.aim)).filter(passed).collect()
    }

    /// # Panics
    /// When the worker cannot be started at all, or does not end on SIGTERM.
    pub fn run(&self) -> Outcome {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut site = self.site();
        let mut ledger = LedgerProcess::start(&self.ledger, &self.plan(&site));
        let mut aims = Aims::new(self, &mut random);
        // A miss is a kill at no point. It stands in for one at a random moment, so that half of all hit their point.
        let (half, mut by_chance, mut missed) = (self.kills / 2, 0, 0);
        while by_chance + missed + aims.hits() < self.kills {
            if aims.hits() < half && aims.hits() < by_chance + missed + 1 && missed + half <= self.kills {
                missed += u64::from(!self.abort_at_a_point(&mut site, &mut random, &mut aims));
            } else {
                self.kill_at_a_random_moment(&mut site, &mut random);
                by_chance += 1;
            }
        }
        let written = ledger.pause();
        let mut outcome = self.judge(&mut site, &written);
        (outcome.random, outcome.missed, outcome.hits) = (by_chance, missed, aims.hits);
        if !outcome.is_clean() && self.bug.is_none() {
            let kept = site.keep();
            let trouble = outcome.trouble.take().unwrap_or_default();
            outcome.trouble = Some(format!("{trouble}\nkept: {}; the end of worker.log:\n{}", kept.display(), site.log_tail(12)));
        }
        outcome
    }

    fn kill_at_a_random_moment(&self, site: &mut Site, random: &mut fastrand::Rng) {
        // On Kafka the tasks are opened after the worker is healthy, which takes some round trips.
        let moment = Duration::from_millis(random.u64(5..=if self.kafka.is_some() { 1_500 } else { 800 }));
        site.spawn(&Run::failpoints(self.failpoints("")));
        // One in three dies while it starts, so in recovery.
        if random.u8(..3) > 0
            && let Err(error) = site.wait_healthy(crate::site::START_DEADLINE)
        {
            assert!(self.bug.is_some(), "{error:#}\n{}", site.log_tail(40));
        }
        pause(moment);
        site.kill();
    }

    /// True when it died at the point that was aimed at.
    fn abort_at_a_point(&self, site: &mut Site, random: &mut fastrand::Rng, aims: &mut Aims) -> bool {
        let (point, hit) = aims.next(random);
        let before = site.log_len();
        site.spawn(&Run::failpoints(self.failpoints(&format!("{point}=abort@{hit}"))));
        // A miss costs this much time; a loaded machine needs several seconds to come up and move.
        let patience = Duration::from_secs(match (&self.bug, hit) {
            (Some(_), _) => 3,
            (None, 1) => 30,
            (None, _) => 8,
        });
        let died = poll_for(patience, || site.exited());
        site.kill();
        let reached = died.is_some() && site.failpoint_after(before).as_deref() == Some(point.as_str());
        if died.is_some() && !reached {
            assert!(self.bug.is_some(), "the worker died, but not at {point}\n{}", site.log_tail(40));
        }
        aims.tell(&point, hit, reached);
        reached
    }

    fn failpoints(&self, plan: &str) -> String {
        match &self.bug {
            Some(bug) => format!("bug={bug};{plan}"),
            None => plan.to_owned(),
        }
    }

    /// A last start without faults; the fresh markers; a clean stop; the checker on both places.
    fn judge(&self, site: &mut Site, written: &Ledger) -> Outcome {
        site.spawn(&Run::failpoints(self.failpoints("")));
        let mut watch = MarkerWatch::new(written);
        let arrived = poll_for(self.drain, || {
            if let Some(status) = site.exited() {
                return Some(Err(format!("the worker ended by itself: {status}")));
            }
            watch.all_seen(&self.output_files(site)).then_some(Ok(()))
        });
        let mut trouble = arrived.clone().and_then(Result::err);
        if site.pid().is_some() {
            if self.bug.is_some() { site.kill() } else { site.stop() }
        }
        let mut read = |what: &str, streams: anyhow::Result<Vec<Stream>>| {
            streams.unwrap_or_else(|error| {
                trouble.get_or_insert(format!("{what}: {error:#}"));
                Vec::new()
            })
        };
        let sink = check(written, &read("sink", self.delivered(site)));
        let streams = match &self.kafka {
            None => segment::streams(&site.data_dir(), TOPIC),
            Some(bootstrap) => Ok(kafka_site::streams(bootstrap, TOPIC)),
        };
        let log = check(written, &read("log", streams));
        Outcome {
            seed: self.seed,
            random: 0,
            hits: BTreeMap::new(),
            missed: 0,
            arrived: matches!(arrived, Some(Ok(()))),
            sink,
            log,
            trouble,
        }
    }

    fn delivered(&self, site: &Site) -> anyhow::Result<Vec<Stream>> {
        match self.mode {
            Mode::Append => outputs::append_file(&site.path("out.log"), Some(TOPIC)),
            Mode::Rolling => outputs::rolled(&site.path("out")),
        }
    }

    fn output_files(&self, site: &Site) -> Vec<PathBuf> {
        match self.mode {
            Mode::Append => vec![site.path("out.log")],
            Mode::Rolling => {
                outputs::rolled_files(&site.path("out")).unwrap_or_default().into_iter().map(|file| file.path).collect()
            }
        }
    }

    fn plan(&self, site: &Site) -> LedgerPlan {
        let files = (0..self.files).map(|n| site.path("in").join(format!("app-{n}.log"))).collect();
        let topic = Some(TOPIC.to_owned());
        LedgerPlan {
            ledger: site.path("ledger.txt"),
            files,
            rate: self.rate,
            rotate_ms: self.rotate_ms,
            // A life on Kafka is longer, and so is what a file must outlive.
            keep: if self.kafka.is_some() { 200 } else { 40 },
            topic,
            seed: self.seed,
        }
    }

    /// Small segments and files, so that rolling them happens within every life of the worker.
    fn site(&self) -> Site {
        let site = self.kafka.as_ref().map_or_else(Site::new, |bootstrap| kafka_site::site(bootstrap, "chaos", ""));
        fs::create_dir_all(site.path("in")).expect("the site is writable");
        let source = source_yaml(&site, "app-*.log*");
        // The least that a Kafka broker allows is 1 MiB.
        site.connector("source", &if self.kafka.is_some() { source.replace("65536", "1048576") } else { source });
        site.connector("sink", &sink_yaml(&site, self.mode));
        site
    }
}

/// Goes through the points in turn, again and again.
struct Aims {
    /// Two short runs, one in each mode, reach all points between them: they begin at opposite ends.
    order: Vec<String>,
    hits: BTreeMap<String, u64>,
    /// The latest hit that is tried: some points are passed once in many seconds.
    latest: BTreeMap<String, u64>,
    /// The first time a point is passed it is mostly for the worker's own records: a planted bug shows in those that follow.
    first: bool,
}

impl Aims {
    fn new(chaos: &Chaos, random: &mut fastrand::Rng) -> Self {
        let mut order = chaos.points();
        // A short run reaches the first of them.
        order.sort_by_key(|point| !point.starts_with("kafka."));
        match (&chaos.bug, chaos.mode) {
            (Some(_), _) => random.shuffle(&mut order),
            (None, Mode::Append) => {}
            (None, Mode::Rolling) => order.reverse(),
        }
        let each = |value| order.iter().map(|point| (point.clone(), value)).collect();
        Self { hits: each(0), latest: each(8), order, first: chaos.bug.is_none() }
    }

    fn hits(&self) -> u64 {
        self.hits.values().sum()
    }

    /// The point with the fewest hits so far, and at which hit to die there.
    fn next(&self, random: &mut fastrand::Rng) -> (String, u64) {
        let point = self.order.iter().min_by_key(|point| self.hits[*point]).expect("there are points");
        // The first transactions on Kafka are the worker's own.
        let hit = if self.first && self.hits[point] == 0 && !point.starts_with("kafka.") {
            1
        } else {
            random.u64(1..=self.latest[point])
        };
        (point.clone(), hit)
    }

    fn tell(&mut self, point: &str, hit: u64, reached: bool) {
        *self.hits.entry(point.to_owned()).or_default() += u64::from(reached);
        if !reached {
            self.latest.insert(point.to_owned(), (hit / 2).max(1));
        }
    }
}

/// The source of the kill loops: a glob that finds rotated files too.
pub fn source_yaml(site: &Site, glob: &str) -> String {
    format!(
        "name: source\nconnector.class: file-source\nfile: {}/in/{glob}\ntopic: {TOPIC}\ntopic.creation.default.segment.bytes: 65536\n",
        site.root.display()
    )
}

pub fn sink_yaml(site: &Site, mode: Mode) -> String {
    let root = site.root.display();
    match mode {
        Mode::Append => format!("name: sink\nconnector.class: file-sink\nfile: {root}/out.log\ntopics: {TOPIC}\n"),
        Mode::Rolling => {
            format!(
                "name: sink\nconnector.class: file-sink\ndirectory: {root}/out\ntopics: {TOPIC}\nroll.bytes: 20000\nroll.interval: 300ms\n"
            )
        }
    }
}

/// Looks for each source's last line in files that grow, reading each byte about once.
struct MarkerWatch {
    pending: BTreeSet<Vec<u8>>,
    read: BTreeMap<PathBuf, u64>,
}

impl MarkerWatch {
    fn new(written: &Ledger) -> Self {
        let last = written.sources.iter().filter(|(_, source)| source.written > 0).map(|(name, source)| {
            let mut marker = Vec::new();
            line(name, source.written - 1, &mut marker);
            marker
        });
        Self { pending: last.collect(), read: BTreeMap::new() }
    }

    fn all_seen(&mut self, files: &[PathBuf]) -> bool {
        for path in files {
            let Ok(mut file) = File::open(path) else { continue };
            let from = self.read.get(path).map_or(0, |end| end.saturating_sub(1 << 16));
            let mut bytes = Vec::new();
            if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
                continue;
            }
            self.read.insert(path.clone(), from + bytes.len() as u64);
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                if let Some(line) = line.strip_suffix(b"\n") {
                    self.pending.remove(line);
                }
            }
        }
        self.pending.is_empty()
    }
}

/// Waits until every source's last written line stands in one of the files.
#[track_caller]
pub fn wait_for_markers(written: &Ledger, deadline: Duration, files: impl Fn() -> Vec<PathBuf>) {
    let mut watch = MarkerWatch::new(written);
    crate::wait::wait_until(deadline, "every source's last line arrived in the sink", || watch.all_seen(&files()).then_some(()));
}
