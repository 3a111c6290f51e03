//! Decides what a round of requests changes. Pure: no disk.

use super::compact::Cleaned;
use super::encode::{Part, Wire};
use super::request::{Ask, Link, NewPosition, Request};
use super::segment::{Segment, partition_dir};
use super::shared::{Shared, again, unknown_partition};
use super::state::{Append, Blob, Change, PartitionState, State};
use super::view::{PartitionView, unknown_topic};
use crate::contract::Appended;
use crate::record_batch::{HEADER_BYTES, stamp_base_offset};
use aqueduct_core::{Error, Result, SourceOffset, TopicPartition};
use rustc_hash::FxHashMap;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Tells whoever waits how the round went.
pub(crate) type Resolve = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
pub(crate) struct Round {
    /// All but the appends.
    pub(crate) changes: Vec<Change>,
    pub(crate) runs: Vec<Run>,
    /// In the order of the requests. Those with an error were refused; the others succeed or fail with the round.
    pub(crate) waiting: Vec<(Resolve, Option<Error>)>,
    pub(crate) appends: u64,
    pub(crate) records: u64,
}

/// What a round writes to one segment.
pub(crate) struct Run {
    pub(crate) view: Arc<PartitionView>,
    pub(crate) segment: Arc<Segment>,
    /// Its file is to be created.
    pub(crate) fresh: bool,
    pub(crate) append: Append,
    /// With the positions they go to.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// Position, bytes, last offset, latest timestamp of each batch.
    pub(crate) notes: Vec<(u64, u64, i64, i64)>,
}

impl Round {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.runs.is_empty()
    }

    /// Appends first: a topic that the same round deletes takes them along.
    pub(crate) fn all_changes(&self) -> Vec<Change> {
        self.runs.iter().map(|run| Change::Append(run.append)).chain(self.changes.iter().cloned()).collect()
    }
}

pub(crate) struct Planner<'a> {
    state: &'a State,
    shared: &'a Shared,
    now_ms: i64,
    round: Round,
    /// The run that the next append to a partition goes to.
    last_run: FxHashMap<(Uuid, i32), usize>,
    epochs: HashMap<Arc<str>, u64>,
    created: HashSet<String>,
    deleted: HashSet<Uuid>,
}

impl<'a> Planner<'a> {
    pub(crate) fn plan(state: &'a State, shared: &'a Shared, requests: Vec<Request>) -> Round {
        let mut planner = Self {
            state,
            shared,
            now_ms: shared.now_ms(),
            round: Round::default(),
            last_run: FxHashMap::default(),
            epochs: HashMap::new(),
            created: HashSet::new(),
            deleted: HashSet::new(),
        };
        // Invariant 5: a new writer fences the appends of older ones wherever they stand in the queue.
        for request in &requests {
            if let Ask::Writer { task, .. } = &request.ask {
                let task: Arc<str> = task.to_string().into();
                let epoch = planner.epoch(&task) + 1;
                planner.round.changes.push(Change::Epoch { task: task.clone(), epoch });
                planner.epochs.insert(task, epoch);
            }
        }
        let mut given: HashMap<Arc<str>, u64> = HashMap::new();
        for Request { ask, room } in requests {
            let (resolve, refused) = planner.ask(ask, &mut given);
            let resolve: Resolve = Box::new(move |result| {
                resolve(result);
                drop(room);
            });
            planner.round.waiting.push((resolve, refused));
        }
        planner.round
    }

    fn ask(&mut self, ask: Ask, given: &mut HashMap<Arc<str>, u64>) -> (Resolve, Option<Error>) {
        let (reply, planned) = match ask {
            Ask::Append { link, parts, resume, reply } => return self.append(link, parts, resume, reply),
            Ask::Writer { task, reply } => {
                let task: Arc<str> = task.to_string().into();
                // Of several in one round each has its own; all but the last are fenced already.
                let before = self.state.epochs.get(&*task).copied().unwrap_or(0);
                let epoch = given.entry(task).or_insert(before);
                *epoch += 1;
                let epoch = *epoch;
                return (Box::new(move |result| drop(reply.send(result.map(|()| epoch)))), None);
            }
            Ask::CreateTopic { id, name, partitions, configs, reply } => {
                (reply, self.create_topic(id, name, partitions, configs))
            }
            Ask::DeleteTopic { name, reply } => (reply, self.delete_topic(&name)),
            Ask::SourceOffsets { connector, offsets, reply } => {
                self.offsets(&connector, offsets);
                (reply, Ok(()))
            }
            Ask::Positions { group, member, positions, letters, reply } => {
                (reply, self.positions(&group, member, positions, letters))
            }
            Ask::Entries { store, entries, reply } => {
                let entries = entries.into_iter().map(|(k, v)| Change::Entry { s: store, k, v: v.map(Blob) });
                self.round.changes.extend(entries);
                (reply, Ok(()))
            }
            Ask::Compacted { topic, partition, cleaned, reply } => (reply, self.compacted(topic, partition, &cleaned)),
            Ask::CleanedTo { topic, partition, offset, reply } => {
                self.round.changes.push(Change::CleanedTo { t: topic, p: partition, offset });
                (reply, Ok(()))
            }
            Ask::Barrier { reply } => (reply, Ok(())),
        };
        (Box::new(move |result| drop(reply.send(result))), planned.err())
    }

    fn append(
        &mut self,
        link: Arc<Link>,
        parts: Vec<Part>,
        resume: Vec<SourceOffset>,
        reply: oneshot::Sender<Result<Appended>>,
    ) -> (Resolve, Option<Error>) {
        let mut appended = Appended::default();
        let refused = self.admit(&link, &parts).err();
        if let Some(error) = &refused {
            link.poison(error);
        } else {
            appended = self.place_all(parts);
            self.offsets(&link.task.connector, resume);
        }
        let resolve: Resolve = Box::new(move |result| {
            if let Err(error) = &result {
                link.poison(error);
            }
            drop(reply.send(result.map(|()| appended)));
        });
        (resolve, refused)
    }

    fn admit(&self, link: &Link, parts: &[Part]) -> Result<()> {
        if self.epoch(&link.key) != link.epoch {
            return Err(fenced(&link.key));
        }
        link.check()?;
        self.all_there(parts)
    }

    /// The topics may have been deleted since the records were encoded for them.
    fn all_there(&self, parts: &[Part]) -> Result<()> {
        let gone = |part: &&Part| !self.state.topics.contains_key(&part.topic.id) || self.deleted.contains(&part.topic.id);
        parts.iter().find(gone).map_or(Ok(()), |part| Err(unknown_topic(&part.topic.name)))
    }

    fn epoch(&self, task: &str) -> u64 {
        self.epochs.get(task).or_else(|| self.state.epochs.get(task)).copied().unwrap_or(0)
    }

    fn place_all(&mut self, parts: Vec<Part>) -> Appended {
        let mut appended = Appended::default();
        for part in parts {
            appended.bytes += part.bytes.len();
            let (first, next) = self.place(part);
            self.round.records += (next.1 - first) as u64;
            appended.ranges.push((next.0, first, next.1));
        }
        self.round.appends += 1;
        appended
    }

    /// Stamps the offsets. First offset, and partition with next offset.
    fn place(&mut self, mut part: Part) -> (i64, (TopicPartition, i64)) {
        let key = (part.topic.id, part.partition);
        let index = match self.last_run.get(&key) {
            Some(&index) if self.fits(&self.round.runs[index], &part) => index,
            last => {
                let run = self.begin_run(&part, last.map(|&last| self.round.runs[last].append));
                self.round.runs.push(run);
                self.last_run.insert(key, self.round.runs.len() - 1);
                self.round.runs.len() - 1
            }
        };
        let run = &mut self.round.runs[index];
        let (first, position) = (run.append.next, run.append.to);
        for Wire { at, len, records, max_timestamp } in &part.batches {
            stamp_base_offset(&mut part.bytes[*at..], run.append.next);
            run.append.crc = crc32c::crc32c_append(run.append.crc, &part.bytes[*at..*at + HEADER_BYTES]);
            run.append.next += records;
            run.append.ts = run.append.ts.max(*max_timestamp);
            run.notes.push((position + *at as u64, *len as u64, run.append.next - 1, *max_timestamp));
        }
        run.append.to += part.bytes.len() as u64;
        let next = (TopicPartition::clone(&run.view.tp), run.append.next);
        run.writes.push((position, part.bytes));
        (first, next)
    }

    fn fits(&self, run: &Run, part: &Part) -> bool {
        fits(part, run.append.base, run.append.to, run.append.next)
    }

    /// Goes on in the active segment, or in a new one.
    fn begin_run(&self, part: &Part, before: Option<Append>) -> Run {
        let (t, p) = (part.topic.id, part.partition);
        let view = part.topic.partitions[p as usize].clone();
        let empty = PartitionState::default();
        let partition = self.state.partition(t, p).unwrap_or(&empty);
        let next = before.map_or(partition.end, |before| before.next);
        let config = &part.topic.config;
        let active = partition.active().filter(|active| {
            before.is_none()
                && fits(part, active.base, active.len, next)
                && self.now_ms.saturating_sub(active.ms) < config.segment_ms
        });
        let (base, len, ms) = active.map_or((next, 0, self.now_ms), |active| (active.base, active.len, active.ms));
        let known = active.and_then(|active| view.segment(active.base));
        let fresh = known.is_none();
        let segment = known.unwrap_or_else(|| Arc::new(Segment::new(&partition_dir(&view.tp.topic, p), base, 0, -1)));
        if fresh {
            segment.distrust_index();
        }
        let append = Append { t, p, base, from: len, to: len, first: next, next, ts: -1, ms, crc: 0 };
        Run { view, segment, fresh, append, writes: Vec::new(), notes: Vec::new() }
    }

    fn offsets(&mut self, connector: &Arc<str>, offsets: Vec<SourceOffset>) {
        self.round.changes.extend(offsets.into_iter().map(|o| Change::Offset { c: connector.clone(), o }));
    }

    fn create_topic(
        &mut self,
        id: Uuid,
        name: String,
        partitions: i32,
        configs: std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        let exists = self.state.names.get(&name).is_some_and(|id| !self.deleted.contains(id));
        if exists || !self.created.insert(name.clone()) {
            return Err(Error::fatal("log.topic_exists", format!("topic {name} exists already")));
        }
        self.round.changes.push(Change::Topic { id, name, partitions, configs });
        Ok(())
    }

    fn delete_topic(&mut self, name: &str) -> Result<()> {
        let id = *self.state.names.get(name).ok_or_else(|| unknown_topic(name))?;
        if !self.deleted.insert(id) {
            return Err(unknown_topic(name));
        }
        self.round.changes.push(Change::TopicDeleted { id });
        Ok(())
    }

    /// Invariants 2 and 5: the letters are in the round that moves the positions, or neither is.
    fn positions(
        &mut self,
        group: &Arc<str>,
        member: Option<(Arc<str>, u64)>,
        positions: Vec<NewPosition>,
        letters: Vec<Part>,
    ) -> Result<()> {
        let shared = self.shared;
        let groups = shared.groups.lock();
        let owned = match &member {
            Some((member, epoch)) => Some(groups.owned(group, member, *epoch)?),
            None if groups.is_active(group) => {
                return Err(
                    Error::fatal("log.group_active", format!("group {group} has members")).fix("stop the connector first")
                );
            }
            None => None,
        };
        let mut changes = Vec::new();
        for NewPosition { tp, topic, at } in positions {
            let current = self.state.names.get(&*tp.topic).copied().filter(|id| !self.deleted.contains(id));
            let Some(id) = current.filter(|id| topic.is_none_or(|topic| topic == *id)) else {
                // A deleted topic's positions went with it, also when the reader has not heard of it yet.
                if owned.is_some() {
                    continue;
                }
                return Err(unknown_topic(&tp.topic));
            };
            if self.state.partition(id, tp.partition).is_none() {
                return Err(unknown_partition(&tp.topic, tp.partition));
            }
            if owned.is_some_and(|owned| owned.get(&tp) != Some(&id)) {
                return Err(not_assigned(&tp));
            }
            changes.push(Change::Position { g: group.clone(), t: id, p: tp.partition, at });
        }
        drop(groups);
        self.all_there(&letters)?;
        self.round.changes.extend(changes);
        if !letters.is_empty() {
            self.place_all(letters);
        }
        Ok(())
    }

    /// Refused when the segments are not what was compacted any more.
    fn compacted(&mut self, t: Uuid, p: i32, cleaned: &Cleaned) -> Result<()> {
        let Cleaned { base, from, len } = cleaned;
        let known = self.state.partition(t, p).map_or(&[][..], |partition| &partition.segments);
        let known = known.iter().skip_while(|segment| segment.base < *base).map(Some).chain(std::iter::repeat(None));
        let same = from.iter().zip(known).all(|((base, len), segment)| {
            segment.is_some_and(|segment| segment.base == *base && segment.len == *len && segment.sealed && !segment.swap)
        });
        if self.deleted.contains(&t) || !same {
            return Err(Error::retriable("log.compaction", "a segment changed during its compaction"));
        }
        let merged = from.len() as u32 - 1;
        self.round.changes.push(Change::Compacted { t, p, base: *base, len: *len, merged });
        Ok(())
    }
}

fn fits(part: &Part, base: i64, len: u64, next: i64) -> bool {
    let offsets = next + part.records() - base <= i64::from(i32::MAX);
    offsets && (len == 0 || len + part.bytes.len() as u64 <= part.topic.config.segment_bytes)
}

pub(crate) fn fenced(task: &str) -> Error {
    Error::fatal("log.fenced", format!("a newer writer of {task} was opened"))
}

pub(crate) fn not_assigned(tp: &TopicPartition) -> Error {
    Error::fatal("log.not_assigned", format!("{tp} is not assigned to this reader"))
}

/// Tells everyone: what was refused its own error, the others `error`, if there is one.
pub(crate) fn resolve(waiting: Vec<(Resolve, Option<Error>)>, error: Option<&Error>) {
    for (resolve, refused) in waiting {
        let error = refused.or_else(|| error.map(again));
        resolve(error.map_or(Ok(()), Err));
    }
}
