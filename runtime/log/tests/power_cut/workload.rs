//! A random workload on a log whose disk loses power, and what must be true after each start.

use crate::disk::{Lie, Plan, SimDisk};
use aqueduct_core::{LogPosition, PayloadRef, Record, SourceOffset, TaskId, TopicPartition, Topics};
use aqueduct_log::disk::Disk;
use aqueduct_log::embedded::Stepper;
use aqueduct_log::{EmbeddedLog, EmbeddedOptions, EncodedBatch, Fetch, Log, LogReader, LogWriter, Store, TopicSpec};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub type Check = Result<(), String>;

const TOPICS: [&str; 3] = ["a", "b", COMPACTED];
const COMPACTED: &str = "compacted";
const GROUP: &str = "connect-sink";
/// Moved only by its member, together with letters.
const SINK: &str = "connect-dead-letters";
const CONNECTOR: &str = "source";
const WRITERS: usize = 2;

/// What is wrong with the log or the disk, for tests of this test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    pub lie: Option<Lie>,
    pub bug: Option<&'static str>,
}

/// What happened: a test that meets nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub power_cuts: u64,
    pub kills: u64,
    /// Of both.
    pub stops_in_recovery: u64,
    pub commits: u64,
    /// Rounds without an answer that were there after the next start, and that were not.
    pub doubtful_kept: u64,
    pub doubtful_lost: u64,
    pub syncs_failed: u64,
    /// Records that compaction or retention took away.
    pub cleaned: u64,
    /// Segments that compaction put into the file of another.
    pub merged: u64,
    /// Commits of positions with letters.
    pub letters: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.stops_in_recovery += other.stops_in_recovery;
        self.commits += other.commits;
        self.doubtful_kept += other.doubtful_kept;
        self.doubtful_lost += other.doubtful_lost;
        self.syncs_failed += other.syncs_failed;
        self.cleaned += other.cleaned;
        self.merged += other.merged;
        self.letters += other.letters;
    }
}

/// The content of a log.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    topics: BTreeMap<String, Vec<Partition>>,
    offsets: BTreeMap<String, i64>,
    positions: BTreeMap<(String, i32), i64>,
    /// Of the group that commits letters.
    passed: BTreeMap<(String, i32), i64>,
    config: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Partition {
    /// From offset 0 on. In a compacted topic the text up to `:` is the key, and what is empty was compacted away.
    values: Vec<String>,
    /// Retention had moved the start to here, or further.
    start: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        writer: usize,
        records: Vec<(&'static str, i32, String)>,
        offset: (String, i64),
    },
    Create(&'static str, i32),
    Delete(&'static str),
    Position(&'static str, i32, Option<i64>),
    /// `unassigned`: topics that are deleted or created before it in the same round get no position.
    Letters {
        records: Vec<(&'static str, i32, String)>,
        at: i64,
        unassigned: Vec<&'static str>,
    },
    Offsets(Vec<(String, Option<i64>)>),
    Save(Vec<(String, Option<Vec<u8>>)>),
}

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append { records, offset, .. } => {
                self.push(records);
                self.offsets.insert(offset.0.clone(), offset.1);
            }
            Op::Letters { records, at, unassigned } => {
                self.push(records);
                let partitions = |(topic, partitions): (&String, &Vec<Partition>)| {
                    (0..partitions.len() as i32).map(|partition| (topic.clone(), partition)).collect::<Vec<_>>()
                };
                let kept = self.topics.iter().filter(|(topic, _)| !unassigned.contains(&topic.as_str()));
                self.passed.extend(kept.flat_map(partitions).map(|partition| (partition, *at)));
            }
            Op::Create(topic, partitions) => {
                self.topics.insert((*topic).to_owned(), vec![Partition::default(); *partitions as usize]);
            }
            Op::Delete(topic) => {
                self.topics.remove(*topic);
                self.positions.retain(|(name, _), _| name != topic);
                self.passed.retain(|(name, _), _| name != topic);
            }
            Op::Position(topic, partition, at) => set(&mut self.positions, ((*topic).to_owned(), *partition), *at),
            Op::Offsets(offsets) => offsets.iter().for_each(|(key, at)| set(&mut self.offsets, key.clone(), *at)),
            Op::Save(entries) => entries.iter().for_each(|(key, value)| set(&mut self.config, key.clone(), value.clone())),
        }
    }

    fn push(&mut self, records: &[(&'static str, i32, String)]) {
        for (topic, partition, value) in records {
            if let Some(partitions) = self.topics.get_mut(*topic) {
                partitions[*partition as usize].values.push(value.clone());
            }
        }
    }

    /// Equal, but that retention may have gone on in `seen`.
    fn is(&self, seen: &Model) -> bool {
        let partition = |mine: &Partition, seen: &Partition| {
            mine.values.len() == seen.values.len()
                && seen.start >= mine.start
                && seen.start <= mine.values.len()
                && (seen.start..seen.values.len())
                    .all(|at| mine.values[at] == seen.values[at] || (seen.values[at].is_empty() && mine.is_superseded(at)))
        };
        let topic = |mine: &Vec<Partition>, seen: &Vec<Partition>| {
            mine.len() == seen.len() && mine.iter().zip(seen).all(|(mine, seen)| partition(mine, seen))
        };
        self.topics.len() == seen.topics.len()
            && self.topics.iter().all(|(name, mine)| seen.topics.get(name).is_some_and(|seen| topic(mine, seen)))
            && (&self.offsets, &self.positions, &self.passed, &self.config)
                == (&seen.offsets, &seen.positions, &seen.passed, &seen.config)
    }

    /// Retention and compaction do not go back.
    fn keep_up_with(&mut self, seen: &Model) {
        for (name, partitions) in &mut self.topics {
            for (mine, seen) in partitions.iter_mut().zip(&seen.topics[name]) {
                mine.start = seen.start;
                mine.values[seen.start..].clone_from_slice(&seen.values[seen.start..]);
            }
        }
    }
}

impl Partition {
    /// A later record of the same key is there.
    fn is_superseded(&self, at: usize) -> bool {
        let Some((key, _)) = self.values[at].split_once(':') else { return false };
        self.values[at + 1..].iter().any(|later| later.split_once(':').is_some_and(|(other, _)| other == key))
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

struct World {
    rng: fastrand::Rng,
    disk: SimDisk,
    bug: Option<&'static str>,
    /// Acknowledged, or seen after a start.
    base: Model,
    /// Rounds without a good answer since the last good one: each is there as a whole or not at all.
    maybe: Vec<Vec<Op>>,
    next_value: u64,
    trace: bool,
    tally: Tally,
}

/// A member of the group `SINK`, and what is assigned to it.
type Reader = (Box<dyn LogReader>, Vec<LogPosition>);

/// One process: the log, what drives it, and its writers.
struct Life {
    log: EmbeddedLog,
    stepper: Stepper,
    writers: [Option<Box<dyn LogWriter>>; WRITERS],
    /// For one commit.
    reader: Option<Reader>,
}

/// One seed, from an empty disk on.
pub fn run(seed: u64, planted: Planted, trace: bool) -> Result<Tally, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(rng.u64(..), planted.lie);
    if trace {
        disk.trace();
    }
    let mut world = World {
        rng,
        disk,
        bug: planted.bug,
        base: Model::default(),
        maybe: Vec::new(),
        next_value: 0,
        trace,
        tally: Tally::default(),
    };
    for _ in 0..world.rng.usize(1..5) {
        world.live()?;
    }
    world.last_life()?;
    world.tally.syncs_failed = world.disk.syncs_failed();
    Ok(world.tally)
}

impl World {
    fn plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let stop_at = match rng.u8(..10) {
            0 => None,
            1..4 => Some(rng.u64(..16)),
            4..8 => Some(rng.u64(..60)),
            _ => Some(rng.u64(..200)),
        };
        let mut plan = Plan { stop_at, ..Plan::default() };
        if rng.u8(..4) == 0 {
            plan.eio = (0..rng.usize(1..4)).map(|_| rng.u64(..60)).collect();
        }
        if rng.u8(..8) == 0 {
            let from = rng.u64(..40);
            plan.full = Some(from..from + rng.u64(..30));
        }
        plan
    }

    fn live(&mut self) -> Check {
        let plan = self.plan();
        let faulty = !plan.eio.is_empty() || plan.full.is_some();
        self.disk.start(plan);
        if let Some(mut life) = self.open(faulty)? {
            for _ in 0..self.rng.usize(1..14) {
                if !self.disk.is_running() {
                    break;
                }
                self.burst(&mut life, faulty)?;
            }
            if self.disk.is_running() && self.rng.bool() {
                life.stepper.close();
            }
        }
        if self.rng.u8(..10) < 7 {
            self.disk.cut_power();
            self.tally.power_cuts += 1;
        } else {
            self.disk.kill();
            self.tally.kills += 1;
        }
        Ok(())
    }

    /// Nothing goes wrong any more: all is there, and the log goes on.
    fn last_life(&mut self) -> Check {
        for turn in 0..2 {
            self.disk.start(Plan::default());
            let mut life = self.open(false)?.ok_or("no log on a sound disk")?;
            if turn == 0 {
                self.burst(&mut life, false)?;
                let last = self.append(0);
                self.round(&mut life, vec![last], false)?;
                self.look(&life.log, "at the end")?;
            }
            life.stepper.close();
            self.disk.kill();
        }
        Ok(())
    }

    /// `None` when the power went in the midst.
    fn open(&mut self, faulty: bool) -> Result<Option<Life>, String> {
        for attempt in 0.. {
            let opened = EmbeddedLog::stepped(Arc::new(self.disk.clone()), self.options());
            let (log, stepper) = match opened {
                Ok(opened) => opened,
                Err(_) if !self.disk.is_running() => {
                    self.tally.stops_in_recovery += 1;
                    return Ok(None);
                }
                Err(error) if faulty && attempt < 100 && is_of_the_disk(error.code()) => continue,
                Err(error) => return Err(format!("the log does not open: {error}")),
            };
            let Some(seen) = self.see(&log)? else { return Ok(None) };
            self.base = self.recovered(&seen)?;
            self.maybe.clear();
            let writers = [const { None }; WRITERS];
            return Ok(Some(Life { log, stepper, writers, reader: None }));
        }
        unreachable!("the last attempt returns")
    }

    fn options(&mut self) -> EmbeddedOptions {
        let id = self.rng.u128(..);
        let ids = std::sync::atomic::AtomicU64::new(0);
        EmbeddedOptions {
            journal_bytes: [1, 700, 2000, 1 << 20][self.rng.usize(..4)],
            journal_fill_bytes: [0, 300, 4096][self.rng.usize(..3)],
            carry_bytes: [0, 300, 1 << 16][self.rng.usize(..3)],
            behind_bytes: [0, 700, 1 << 20][self.rng.usize(..3)],
            open_files: 2,
            now_ms: Arc::new(|| 1_700_000_000_000),
            new_id: Arc::new(move || {
                Uuid::from_u128(id.wrapping_add(u128::from(ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed))))
            }),
            bugs: self.bug.into_iter().collect(),
            ..EmbeddedOptions::default()
        }
    }

    /// Which of the contents that there may be it is.
    fn recovered(&mut self, seen: &Model) -> Result<Model, String> {
        let mut nearest = String::new();
        for chosen in 0..1u32 << self.maybe.len().min(14) {
            let mut candidate = self.base.clone();
            for (_, round) in self.maybe.iter().enumerate().filter(|(index, _)| chosen & 1 << index != 0) {
                round.iter().for_each(|op| candidate.apply(op));
            }
            if candidate.is(seen) {
                candidate.keep_up_with(seen);
                self.tally.doubtful_kept += u64::from(chosen.count_ones());
                self.tally.doubtful_lost += self.maybe.len() as u64 - u64::from(chosen.count_ones());
                return Ok(candidate);
            }
            nearest = format!("{candidate:?}");
        }
        Err(format!(
            "after a start\n  seen       {seen:?}\n  committed  {:?}\n  with all   {nearest}\n  in doubt   {:?}",
            self.base, self.maybe
        ))
    }

    fn look(&mut self, log: &EmbeddedLog, when: &str) -> Check {
        let Some(seen) = self.see(log)? else { return Ok(()) };
        if !self.base.is(&seen) {
            return Err(format!("{when}\n  seen      {seen:?}\n  committed {:?}", self.base));
        }
        let records = |model: &Model| {
            let of = |partition: &Partition| partition.values[partition.start..].iter().filter(|value| !value.is_empty()).count();
            model.topics.values().flatten().map(of).sum::<usize>()
        };
        self.tally.cleaned += (records(&self.base) - records(&seen)) as u64;
        self.base.keep_up_with(&seen);
        Ok(())
    }

    /// What a reader sees; `None` when the power went.
    fn see(&self, log: &EmbeddedLog) -> Result<Option<Model>, String> {
        match read(log) {
            Ok(seen) => Ok(Some(seen)),
            Err(_) if !self.disk.is_running() => Ok(None),
            Err(error) => Err(format!("cannot read: {error}")),
        }
    }

    fn burst(&mut self, life: &mut Life, faulty: bool) -> Check {
        for writer in 0..WRITERS {
            if life.writers[writer].is_none() || self.rng.u8(..30) == 0 {
                match life.stepper.drive(life.log.writer(&TaskId::new(CONNECTOR, writer as u32))) {
                    Ok(opened) => {
                        life.writers[writer] = Some(opened);
                        self.maybe.clear();
                    }
                    Err(error) => self.may_fail(error.code(), faulty)?,
                }
            }
        }
        life.reader = if self.rng.bool() { join(&life.log, &mut life.stepper)? } else { None };
        let ops = (0..self.rng.usize(1..5)).map(|_| self.op()).collect();
        self.round(life, ops, faulty)?;
        match self.rng.u8(..12) {
            0..2 => life.stepper.seal(),
            2..5 => {
                let before = self.compacted_segments();
                life.stepper.maintain();
                // Retention does not touch this topic.
                self.tally.merged += before.saturating_sub(self.compacted_segments());
            }
            5..8 => self.look(&life.log, "while it runs")?,
            _ => {}
        }
        Ok(())
    }

    fn compacted_segments(&self) -> u64 {
        let dirs = (0..2).map(|partition| format!("topics/{COMPACTED}-{partition}"));
        let names = dirs.flat_map(|dir| self.disk.list(&dir).unwrap_or_default());
        names.filter(|name| name.ends_with(".log")).count() as u64
    }

    fn may_fail(&self, code: &str, faulty: bool) -> Check {
        if is_of_the_disk(code) && (faulty || !self.disk.is_running()) { Ok(()) } else { Err(format!("{code} on a sound disk")) }
    }

    /// All of them in one round of the log.
    fn round(&mut self, life: &mut Life, mut ops: Vec<Op>, faulty: bool) -> Check {
        let mut changed = Vec::new();
        for op in &mut ops {
            match op {
                Op::Delete(topic) => changed.push(*topic),
                Op::Create(topic, _) if !self.base.topics.contains_key(*topic) => changed.push(*topic),
                Op::Letters { unassigned, .. } => unassigned.clone_from(&changed),
                _ => {}
            }
        }
        if self.trace {
            println!(" round {ops:?}");
        }
        let Life { log, stepper, writers, reader } = life;
        let asked: Vec<_> = ops.into_iter().filter_map(|op| Some((ask(log, writers, reader, &op)?, op))).collect();
        stepper.round();
        let (mut good, mut doubtful) = (Vec::new(), Vec::new());
        for ((early, answer), op) in asked {
            let answer = early.or_else(|| answer.now_or_never()).ok_or_else(|| format!("no answer after the round: {op:?}"))?;
            if let (Err(_), Op::Append { writer, .. }) = (&answer, &op) {
                writers[*writer] = None;
            }
            match answer {
                Ok(()) => good.push(op),
                Err(code) if matches!(code.as_str(), "log.unknown_topic" | "log.unknown_partition" | "log.topic_exists") => {}
                Err(code) => {
                    self.may_fail(&code, faulty)?;
                    doubtful.push(op);
                }
            }
        }
        if !good.is_empty() {
            // A good answer means that what failed before is void.
            self.maybe.clear();
            good.iter().for_each(|op| self.base.apply(op));
            self.tally.commits += good.len() as u64;
            self.tally.letters += good.iter().filter(|op| matches!(op, Op::Letters { .. })).count() as u64;
        }
        if !doubtful.is_empty() {
            self.maybe.push(doubtful);
        }
        Ok(())
    }

    fn op(&mut self) -> Op {
        let topic = TOPICS[self.rng.usize(..TOPICS.len())];
        let partitions = self.base.topics.get(topic).map_or(1, Vec::len) as i32;
        match self.rng.u8(..22) {
            _ if self.base.topics.is_empty() => Op::Create(topic, self.rng.i32(1..3)),
            0..2 => Op::Create(topic, self.rng.i32(1..3)),
            2 => Op::Delete(topic),
            3..5 => Op::Position(topic, self.rng.i32(0..partitions), (self.rng.u8(..4) > 0).then(|| self.rng.i64(0..100))),
            5 => Op::Offsets((0..2).map(|_| (self.key(), self.rng.bool().then(|| self.rng.i64(0..100)))).collect()),
            6..8 => Op::Save(
                (0..2).map(|_| (self.key(), self.rng.bool().then(|| vec![self.rng.u8(..); self.rng.usize(..90)]))).collect(),
            ),
            8..11 => {
                let records = self.records();
                self.next_value += 1;
                Op::Letters { records, at: self.next_value as i64, unassigned: Vec::new() }
            }
            _ => {
                let writer = self.rng.usize(..WRITERS);
                self.append(writer)
            }
        }
    }

    fn key(&mut self) -> String {
        format!("k{}", self.rng.u8(..4))
    }

    fn append(&mut self, writer: usize) -> Op {
        let records = self.records();
        self.next_value += 1;
        Op::Append { writer, records, offset: (format!("w{writer}"), self.next_value as i64) }
    }

    fn records(&mut self) -> Vec<(&'static str, i32, String)> {
        let mut records = Vec::new();
        for _ in 0..self.rng.usize(..4) {
            let Some((topic, partitions)) = self.rng.choice(&self.base.topics) else { break };
            let topic = TOPICS.iter().find(|name| *name == topic).copied().unwrap_or(TOPICS[0]);
            let partition = self.rng.i32(0..partitions.len() as i32);
            self.next_value += 1;
            // Most are small; some span sectors.
            let padding = if self.rng.u8(..6) == 0 { self.rng.usize(..1500) } else { self.rng.usize(..20) };
            let key = if topic == COMPACTED { format!("k{}:", self.rng.u8(..5)) } else { String::new() };
            records.push((topic, partition, format!("{key}{}{}", self.next_value, ".".repeat(padding))));
        }
        records
    }
}

/// The group `SINK` has this member from now on, and all partitions are its own. `None` without a topic.
fn join(log: &EmbeddedLog, stepper: &mut Stepper) -> Result<Option<Reader>, String> {
    let topics: Vec<_> = match at_once(log.topics()) {
        Ok(topics) if !topics.is_empty() => topics.into_iter().map(|topic| topic.name).collect(),
        _ => return Ok(None),
    };
    let joined = stepper.drive(async {
        let mut reader = log.reader(SINK, "0", &Topics::Names(topics)).await?;
        Ok::<_, aqueduct_core::Error>((reader.next(1, Duration::ZERO).await?, reader))
    });
    match joined {
        Ok((Fetch::Assigned(positions), reader)) => Ok(Some((reader, positions))),
        Ok((other, _)) => Err(format!("not assigned, but {other:?}")),
        Err(error) => Err(format!("cannot join the group: {error}")),
    }
}

fn batch(records: &[(&'static str, i32, String)]) -> EncodedBatch {
    let record = |(topic, partition, value): &(&'static str, i32, String)| Record {
        partition: Some(*partition),
        key: value.split_once(':').map_or(aqueduct_core::Payload::Null, |(key, _)| key.to_owned().into()),
        ..Record::new(*topic, value.clone())
    };
    EncodedBatch::new(records.iter().map(record).collect()).unwrap()
}

fn is_of_the_disk(code: &str) -> bool {
    matches!(code, "log.io" | "log.disk_full")
}

type Told = Result<(), String>;

fn told<T>(result: aqueduct_core::Result<T>) -> Told {
    result.map(drop).map_err(|error| error.code().to_owned())
}

/// Puts the request into the queue: what is answered at once, or who will be. `None` when there is no writer for it.
fn ask<'a>(
    log: &'a EmbeddedLog,
    writers: &mut [Option<Box<dyn LogWriter>>; WRITERS],
    reader: &mut Option<Reader>,
    op: &Op,
) -> Option<(Option<Told>, BoxFuture<'a, Told>)> {
    let mut answer = match op {
        Op::Append { writer, records, offset } => {
            let resume = vec![source_offset(&offset.0, Some(offset.1))];
            let begun = writers[*writer].as_mut()?.append(batch(records), resume).now_or_never();
            match begun.expect("there is room") {
                Ok(commit) => commit.map(told).boxed(),
                Err(error) => return Some((Some(told::<()>(Err(error))), std::future::pending().boxed())),
            }
        }
        Op::Letters { records, at, .. } => {
            let (mut reader, mut positions) = reader.take()?;
            positions.iter_mut().for_each(|position| position.offset = *at);
            let letters = batch(records);
            async move { told(reader.commit(&positions, letters).await) }.boxed()
        }
        Op::Create(topic, partitions) => {
            let topic = *topic;
            let compacts = topic == COMPACTED;
            let configs = [
                ("segment.bytes", "700"),
                ("retention.bytes", "2500"),
                ("retention.ms", "-1"),
                ("cleanup.policy", if compacts { "compact" } else { "delete" }),
                ("min.cleanable.dirty.ratio", "0"),
            ];
            let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let spec = TopicSpec { partitions: *partitions, configs, ..TopicSpec::default() };
            async move { told(log.create_topic(topic, &spec).await) }.boxed()
        }
        Op::Delete(topic) => log.delete_topic(topic).map(told).boxed(),
        Op::Position(topic, partition, at) => {
            let positions = [(TopicPartition::new(*topic, *partition), *at)];
            async move { told(log.alter_group(GROUP, &positions).await) }.boxed()
        }
        Op::Offsets(offsets) => {
            let offsets: Vec<_> = offsets.iter().map(|(key, at)| source_offset(key, *at)).collect();
            async move { told(log.alter_source_offsets(CONNECTOR, &offsets).await) }.boxed()
        }
        Op::Save(entries) => log.save(Store::Config, entries.clone()).map(told).boxed(),
    };
    Some(((&mut answer).now_or_never(), answer))
}

fn source_offset(key: &str, at: Option<i64>) -> SourceOffset {
    let map = |key: &str, value: serde_json::Value| [(key.to_owned(), value)].into_iter().collect();
    SourceOffset { partition: map("p", key.into()), offset: at.map(|at| map("n", at.into())) }
}

fn at_once<T>(future: impl Future<Output = aqueduct_core::Result<T>>) -> Result<T, String> {
    future.now_or_never().expect("answered from memory").map_err(|error| error.to_string())
}

fn read(log: &EmbeddedLog) -> Result<Model, String> {
    let mut seen = Model::default();
    for topic in at_once(log.topics())? {
        let mut partitions = Vec::new();
        for info in &topic.partitions {
            let start = info.start as usize;
            let mut values = vec![String::new(); start];
            let tp = TopicPartition::new(topic.name.clone(), info.partition);
            let mut from = info.start;
            while from < info.end {
                let (batch, next) = log.read_now(&tp, from, 600).map_err(|error| error.to_string())?;
                for record in batch.iter() {
                    let (Some((_, offset)), PayloadRef::Bytes(value)) = (record.origin(), record.value()) else {
                        return Err(format!("{tp}: a record without origin or value"));
                    };
                    if &*topic.name == COMPACTED && offset > values.len() as i64 {
                        values.resize(offset as usize, String::new());
                    }
                    if offset != values.len() as i64 {
                        return Err(format!("{tp}: offset {offset} where {} was next", values.len()));
                    }
                    values.push(String::from_utf8_lossy(value).into_owned());
                }
                if next <= from {
                    return Err(format!("{tp}: nothing at {from}, but the end is {}", info.end));
                }
                from = next;
            }
            if &*topic.name == COMPACTED {
                values.resize(info.end as usize, String::new());
            }
            if values.len() as i64 != info.end {
                return Err(format!("{tp}: {} records, but the end is {}", values.len(), info.end));
            }
            partitions.push(Partition { values, start });
        }
        seen.topics.insert(topic.name.to_string(), partitions);
    }
    for offset in at_once(log.source_offsets(CONNECTOR))? {
        let at = offset.offset.and_then(|at| at["n"].as_i64()).ok_or("an offset without n")?;
        seen.offsets.insert(offset.partition["p"].as_str().unwrap_or_default().to_owned(), at);
    }
    for position in at_once(log.group_positions(GROUP))? {
        seen.positions.insert((position.topic.to_string(), position.partition), position.offset);
    }
    for position in at_once(log.group_positions(SINK))? {
        seen.passed.insert((position.topic.to_string(), position.partition), position.offset);
    }
    seen.config = at_once(log.load(Store::Config))?;
    Ok(seen)
}
