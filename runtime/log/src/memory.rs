//! A log in memory: the contract in its simplest form, for tests. Nothing is written, nothing is kept over a restart.

use crate::contract::*;
use crate::group::{Event, Group, TopicState};
use crate::partitioner::partition_for_key;
use crate::topic_config::{TopicConfig, check_topic};
use aqueduct_core::{
    Batch, BatchBuilder, Class, Error, LogPosition, Origin, PayloadRef, Record, Result, SourceOffset, TaskId, Topic,
    TopicPartition, Topics,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Has no bound of its own: tests are short.
pub struct MemoryLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was committed, or a group or topic changed.
    changed: Notify,
}

/// An offset and its metadata.
type Committed = (i64, Option<Arc<str>>);

#[derive(Default)]
struct State {
    closed: bool,
    topics: BTreeMap<Topic, TopicData>,
    /// By connector, then by partition key.
    source_offsets: BTreeMap<String, BTreeMap<String, SourceOffset>>,
    positions: BTreeMap<String, BTreeMap<TopicPartition, Committed>>,
    groups: HashMap<String, Group>,
    stores: BTreeMap<Store, BTreeMap<String, Vec<u8>>>,
    writers: HashMap<TaskId, WriterState>,
    /// Appends that wait for [`MemoryLog::release_commits`].
    held: Option<VecDeque<Append>>,
    fail_next: (usize, Option<Failure>),
    stats: LogStats,
}

struct TopicData {
    id: Uuid,
    configs: BTreeMap<String, String>,
    config: TopicConfig,
    partitions: Vec<PartitionData>,
    /// Where keyless records go next.
    turn: usize,
}

struct PartitionData {
    tp: Arc<TopicPartition>,
    /// The index is the offset.
    records: Vec<Record>,
    bytes: u64,
}

#[derive(Default)]
struct WriterState {
    epoch: u64,
    /// Invariant 3: what comes after a failed append fails too.
    failed: Option<Failure>,
}

struct Append {
    task: TaskId,
    epoch: u64,
    batch: Batch,
    resume: Vec<SourceOffset>,
    fail: Option<Failure>,
    done: oneshot::Sender<Result<Appended>>,
}

/// An error to give more than once.
#[derive(Clone)]
struct Failure(Class, String, String);

impl Failure {
    fn of(error: &Error) -> Self {
        Self(error.class(), error.code().to_owned(), error.message().to_owned())
    }

    fn error(&self) -> Error {
        Error::new(self.0, self.1.clone(), self.2.clone())
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    pub fn new() -> Self {
        let stats = LogStats { kind: "memory", ..LogStats::default() };
        Self(Arc::new(Shared { state: Mutex::new(State { stats, ..State::default() }), changed: Notify::new() }))
    }

    /// The commits of the next `appends` fail with this error, and with them, as always, what their writers append later.
    pub fn fail_next_appends(&self, appends: usize, error: Error) {
        self.0.state.lock().fail_next = (appends, Some(Failure::of(&error)));
    }

    /// From now on appends are in flight: their commits do not resolve and nothing of them is visible, until they are released.
    pub fn hold_commits(&self) {
        self.0.state.lock().held.get_or_insert_default();
    }

    /// What was held is committed, in order.
    pub fn release_commits(&self) {
        self.0.state.lock().release();
        self.0.changed.notify_waiters();
    }
}

impl Shared {
    fn open(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.closed { Err(Error::fatal("log.closed", "the log was closed")) } else { Ok(state) }
    }

    /// Asks until there is an answer or the time is over, woken by every change.
    async fn wait_for<T>(&self, wait_max: Duration, mut ask: impl FnMut(&mut State) -> Result<Option<T>>) -> Result<Option<T>> {
        // A year: `Duration::MAX` would overflow the clock.
        let deadline = Instant::now() + wait_max.min(Duration::from_secs(365 * 24 * 3600));
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(answer) = ask(&mut *self.open()?)? {
                return Ok(Some(answer));
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl State {
    fn topic(&self, name: &str) -> Result<&TopicData> {
        self.topics.get(name).ok_or_else(|| unknown_topic(name))
    }

    fn partition(&self, tp: &TopicPartition) -> Result<&PartitionData> {
        let partitions = &self.topic(&tp.topic)?.partitions;
        usize::try_from(tp.partition).ok().and_then(|index| partitions.get(index)).ok_or_else(|| unknown_partition(tp))
    }

    fn release(&mut self) {
        for append in self.held.take().into_iter().flatten() {
            self.commit(append);
        }
    }

    fn commit(&mut self, append: Append) {
        let Append { task, epoch, batch, resume, fail, done } = append;
        let bytes = batch.bytes() as u64;
        let result = self.admit(&task, epoch).and_then(|()| match fail {
            Some(failure) => Err(failure.error()),
            None => self.write(&task.connector, batch, resume),
        });
        self.stats.bytes_in_flight -= bytes;
        if let Err(error) = &result {
            self.poison(&task, epoch, error);
        }
        let _ = done.send(result);
    }

    /// Invariant 5, and 3: neither a fenced writer nor one with a failed append goes on.
    fn admit(&self, task: &TaskId, epoch: u64) -> Result<()> {
        match self.writers.get(task) {
            Some(writer) if writer.epoch == epoch => writer.failed.as_ref().map_or(Ok(()), |failure| Err(failure.error())),
            _ => Err(Error::fatal("log.fenced", format!("a newer writer of {task} was opened"))),
        }
    }

    fn poison(&mut self, task: &TaskId, epoch: u64, error: &Error) {
        if let Some(writer) = self.writers.get_mut(task).filter(|writer| writer.epoch == epoch) {
            writer.failed.get_or_insert_with(|| Failure::of(error));
        }
    }

    /// All that can be wrong with a batch.
    fn check(&self, batch: &Batch) -> Result<()> {
        for record in batch.iter() {
            let topic = self.topic(record.topic())?;
            if let Some(partition) = record.partition() {
                self.partition(&TopicPartition::new(record.topic().clone(), partition))?;
            }
            let size = size_of(&record.to_record());
            if size > topic.config.max_message_bytes {
                let message = format!(
                    "a record of {size} bytes for topic {}; max.message.bytes is {}",
                    record.topic(),
                    topic.config.max_message_bytes
                );
                return Err(Error::fatal("log.record_too_large", message).fix("raise max.message.bytes of the topic"));
            }
        }
        Ok(())
    }

    /// Invariant 1: records and offsets together, or nothing.
    fn write(&mut self, connector: &str, batch: Batch, resume: Vec<SourceOffset>) -> Result<Appended> {
        self.check(&batch)?;
        let now = now_ms();
        let mut ranges: BTreeMap<TopicPartition, (i64, i64)> = BTreeMap::new();
        let mut turns: HashMap<Topic, usize> = HashMap::new();
        let (mut bytes, records) = (0, batch.len() as u64);
        for mut record in batch.into_records() {
            let topic = self.topics.get_mut(&record.topic).ok_or_else(|| unknown_topic(&record.topic))?;
            let count = topic.partitions.len();
            let index = match (record.partition, record.key.as_ref()) {
                (Some(partition), _) => partition as usize,
                (None, PayloadRef::Bytes(key)) => partition_for_key(key, count as i32) as usize,
                (None, _) => *turns.entry(record.topic.clone()).or_insert_with(|| {
                    topic.turn += 1;
                    (topic.turn - 1) % count
                }),
            };
            let partition = &mut topic.partitions[index];
            let offset = partition.records.len() as i64;
            record.partition = Some(partition.tp.partition);
            record.timestamp = record.timestamp.or(Some(now));
            record.origin = Some(Origin { partition: partition.tp.clone(), offset });
            let size = size_of(&record);
            bytes += size;
            partition.bytes += size as u64;
            partition.records.push(record);
            ranges.entry((*partition.tp).clone()).or_insert((offset, offset)).1 = offset + 1;
        }
        self.store_offsets(connector, &resume);
        self.stats.commits += 1;
        self.stats.records += records;
        self.stats.bytes += bytes as u64;
        Ok(Appended { ranges: ranges.into_iter().map(|(tp, (first, next))| (tp, first, next)).collect(), bytes })
    }

    fn store_offsets(&mut self, connector: &str, offsets: &[SourceOffset]) {
        for offset in offsets {
            let stored = self.source_offsets.entry(connector.to_owned()).or_default();
            if offset.offset.is_some() {
                stored.insert(offset.partition_key(), offset.clone());
            } else {
                stored.remove(&offset.partition_key());
            }
        }
    }

    fn position(&self, group: &str, tp: &TopicPartition, topic_id: Uuid) -> LogPosition {
        let (offset, metadata) = self.positions.get(group).and_then(|positions| positions.get(tp)).cloned().unwrap_or_default();
        LogPosition { topic: tp.topic.clone(), topic_id, partition: tp.partition, offset, metadata }
    }

    fn info(name: &Topic, topic: &TopicData) -> TopicInfo {
        let partition = |p: &PartitionData| PartitionInfo { partition: p.tp.partition, start: 0, end: p.end(), bytes: p.bytes };
        TopicInfo {
            name: name.clone(),
            id: topic.id,
            partitions: topic.partitions.iter().map(partition).collect(),
            configs: topic.configs.clone(),
        }
    }
}

impl PartitionData {
    fn end(&self) -> i64 {
        self.records.len() as i64
    }

    /// At least one record, where there is one.
    fn read(&self, from: i64, max_bytes: usize) -> Batch {
        let mut out = BatchBuilder::new();
        for record in self.records.iter().skip(usize::try_from(from).unwrap_or(0)) {
            out.push(record.clone());
            if out.bytes() >= max_bytes {
                break;
            }
        }
        out.finish()
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn writer(&self, task: &TaskId) -> Result<Box<dyn LogWriter>> {
        let mut state = self.0.open()?;
        let epoch = state.writers.get(task).map_or(1, |writer| writer.epoch + 1);
        state.writers.insert(task.clone(), WriterState { epoch, failed: None });
        Ok(Box::new(MemoryWriter { shared: self.0.clone(), task: task.clone(), epoch }))
    }

    async fn reader(&self, group: &str, member: &str, topics: &Topics) -> Result<Box<dyn LogReader>> {
        let mut state = self.0.open()?;
        let State { topics: all, groups, .. } = &mut *state;
        let catalogue = all.iter().map(|(name, topic)| (name, topic.state()));
        let epoch = groups.entry(group.to_owned()).or_default().join(member, topics, catalogue)?;
        self.0.changed.notify_waiters();
        let next = BTreeMap::new();
        Ok(Box::new(MemoryReader {
            shared: self.0.clone(),
            group: group.to_owned(),
            member: member.to_owned(),
            epoch,
            next,
            turn: 0,
        }))
    }

    async fn create_topic(&self, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
        let config = check_topic(name, spec)?;
        let mut state = self.0.open()?;
        if state.topics.contains_key(name) {
            return Err(Error::fatal("log.topic_exists", format!("topic {name} exists already")));
        }
        let topic: Topic = name.into();
        let partition =
            |index| PartitionData { tp: Arc::new(TopicPartition::new(topic.clone(), index)), records: Vec::new(), bytes: 0 };
        let partitions = (0..spec.partitions).map(partition).collect();
        let data = TopicData { id: Uuid::new_v4(), configs: spec.configs.clone(), config, partitions, turn: 0 };
        let info = State::info(&topic, &data);
        state.groups.values_mut().for_each(|group| group.topic_created(&topic, data.state()));
        state.topics.insert(topic, data);
        self.0.changed.notify_waiters();
        Ok(info)
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let mut state = self.0.open()?;
        state.topics.remove(name).ok_or_else(|| unknown_topic(name))?;
        state.positions.values_mut().for_each(|positions| positions.retain(|tp, _| &*tp.topic != name));
        state.groups.values_mut().for_each(|group| group.topic_deleted(name));
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        Ok(self.0.open()?.topics.iter().map(|(name, topic)| State::info(name, topic)).collect())
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>> {
        Ok(self.0.open()?.topics.get_key_value(name).map(|(name, topic)| State::info(name, topic)))
    }

    async fn fetch(&self, partition: &TopicPartition, from: i64, max_bytes: usize, wait_max: Duration) -> Result<Batch> {
        let read = |state: &mut State| {
            let batch = state.partition(partition)?.read(from, max_bytes);
            Ok((!batch.is_empty()).then_some(batch))
        };
        Ok(self.0.wait_for(wait_max, read).await?.unwrap_or_default())
    }

    async fn offset_for_timestamp(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        let state = self.0.open()?;
        let found = state.partition(partition)?.records.iter().position(|record| record.timestamp >= Some(timestamp));
        Ok(found.map(|index| index as i64))
    }

    async fn source_offsets(&self, connector: &str) -> Result<Vec<SourceOffset>> {
        Ok(self.0.open()?.source_offsets.get(connector).map(|offsets| offsets.values().cloned().collect()).unwrap_or_default())
    }

    async fn alter_source_offsets(&self, connector: &str, offsets: &[SourceOffset]) -> Result<()> {
        self.0.open()?.store_offsets(connector, offsets);
        Ok(())
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<LogPosition>> {
        let state = self.0.open()?;
        let positions = state.positions.get(group).into_iter().flat_map(BTreeMap::keys);
        positions.map(|tp| Ok(state.position(group, tp, state.topic(&tp.topic)?.id))).collect()
    }

    async fn alter_group(&self, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
        let mut state = self.0.open()?;
        if state.groups.get(group).is_some_and(Group::is_active) {
            return Err(Error::fatal("log.group_active", format!("group {group} has members")).fix("stop the connector first"));
        }
        positions.iter().try_for_each(|(tp, _)| state.partition(tp).map(drop))?;
        let stored = state.positions.entry(group.to_owned()).or_default();
        for (tp, offset) in positions {
            match offset {
                Some(offset) => stored.insert(tp.clone(), (*offset, None)),
                None => stored.remove(tp),
            };
        }
        Ok(())
    }

    async fn load(&self, store: Store) -> Result<BTreeMap<String, Vec<u8>>> {
        Ok(self.0.open()?.stores.get(&store).cloned().unwrap_or_default())
    }

    async fn save(&self, store: Store, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
        let mut state = self.0.open()?;
        let stored = state.stores.entry(store).or_default();
        for (key, value) in entries {
            match value {
                Some(value) => stored.insert(key, value),
                None => stored.remove(&key),
            };
        }
        Ok(())
    }

    fn stats(&self) -> LogStats {
        self.0.state.lock().stats.clone()
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.0.state.lock();
        state.release();
        state.closed = true;
        self.0.changed.notify_waiters();
        Ok(())
    }
}

impl TopicData {
    fn state(&self) -> TopicState {
        TopicState { id: self.id, partitions: self.partitions.len() as i32 }
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    task: TaskId,
    epoch: u64,
}

#[async_trait]
impl LogWriter for MemoryWriter {
    async fn append(&mut self, batch: EncodedBatch, resume: Vec<SourceOffset>) -> Result<Commit> {
        let mut state = self.shared.open()?;
        state.admit(&self.task, self.epoch)?;
        if let Err(error) = state.check(batch.batch()) {
            state.poison(&self.task, self.epoch, &error);
            return Err(error);
        }
        let fail = state.fail_next.1.clone().filter(|_| state.fail_next.0 > 0);
        state.fail_next.0 = state.fail_next.0.saturating_sub(1);
        let (done, committed) = oneshot::channel();
        let batch = batch.into_batch();
        state.stats.bytes_in_flight += batch.bytes() as u64;
        let append = Append { task: self.task.clone(), epoch: self.epoch, batch, resume, fail, done };
        match &mut state.held {
            Some(held) => held.push_back(append),
            None => {
                state.commit(append);
                self.shared.changed.notify_waiters();
            }
        }
        Ok(Box::pin(async { committed.await.unwrap_or_else(|_| Err(Error::fatal("log.closed", "the log is gone"))) }))
    }
}

struct MemoryReader {
    shared: Arc<Shared>,
    group: String,
    member: String,
    epoch: u64,
    /// The next offset to hand out, of what is assigned.
    next: BTreeMap<TopicPartition, i64>,
    /// Which partition is first asked, so that none starves.
    turn: usize,
}

impl MemoryReader {
    fn leave(&mut self) {
        if let Some(group) = self.shared.state.lock().groups.get_mut(&self.group) {
            group.leave(&self.member, self.epoch);
        }
        self.shared.changed.notify_waiters();
    }
}

/// One step of [`LogReader::next`]: news of the group first, then records.
fn step(
    state: &mut State,
    shared: &Shared,
    (group_name, member, epoch): (&str, &str, u64),
    next: &mut BTreeMap<TopicPartition, i64>,
    turn: &mut usize,
    max_bytes: usize,
) -> Result<Option<Fetch>> {
    let group = state.groups.entry(group_name.to_owned()).or_default();
    let poll = group.poll(member, epoch)?;
    if poll.released {
        shared.changed.notify_waiters();
        let owned = group.owned(member, epoch)?;
        next.retain(|tp, _| owned.contains_key(tp));
    }
    match poll.event {
        Some(Event::Revoked(partitions)) => return Ok(Some(Fetch::Revoked(partitions))),
        Some(Event::Assigned(partitions)) => {
            let positions: Vec<_> = partitions.iter().map(|(tp, id)| state.position(group_name, tp, *id)).collect();
            next.extend(positions.iter().map(|position| (position.topic_partition(), position.offset)));
            return Ok(Some(Fetch::Assigned(positions)));
        }
        None => {}
    }
    let mut out = Batch::new();
    *turn += 1;
    let first = *turn % next.len().max(1);
    let order: Vec<_> = next.keys().skip(first).chain(next.keys().take(first)).cloned().collect();
    for tp in order {
        let group = &state.groups[group_name];
        if out.bytes() >= max_bytes || !group.readable(member, epoch, &tp) {
            continue;
        }
        let batch = state.partition(&tp)?.read(next[&tp], max_bytes - out.bytes());
        if let Some((_, last)) = batch.iter().last().and_then(|record| record.origin()) {
            next.insert(tp, last + 1);
            out.append(batch);
        }
    }
    Ok((!out.is_empty()).then_some(Fetch::Records(out)))
}

#[async_trait]
impl LogReader for MemoryReader {
    async fn next(&mut self, max_bytes: usize, wait_max: Duration) -> Result<Fetch> {
        let Self { shared, group, member, epoch, next, turn } = self;
        let step = |state: &mut State| step(state, shared, (group, member, *epoch), next, turn, max_bytes);
        Ok(shared.wait_for(wait_max, step).await?.unwrap_or(Fetch::Idle))
    }

    async fn seek(&mut self, partition: &TopicPartition, offset: i64) -> Result<()> {
        let state = self.shared.open()?;
        state.groups[&self.group].owned(&self.member, self.epoch)?;
        match self.next.get_mut(partition) {
            Some(next) => *next = offset,
            None => return Err(not_assigned(partition)),
        }
        Ok(())
    }

    async fn commit(&mut self, positions: &[LogPosition], letters: EncodedBatch) -> Result<()> {
        let mut state = self.shared.open()?;
        let owned = state.groups[&self.group].owned(&self.member, self.epoch)?.clone();
        for position in positions {
            let tp = position.topic_partition();
            owned.get(&tp).filter(|id| **id == position.topic_id).ok_or_else(|| not_assigned(&tp))?;
        }
        if !letters.batch().is_empty() {
            state.check(letters.batch())?;
            state.write("", letters.into_batch(), Vec::new())?;
            self.shared.changed.notify_waiters();
        }
        for position in positions {
            // A deleted topic's positions went with it, also when the reader has not heard of it yet.
            if state.topics.get(&position.topic).is_some_and(|topic| topic.id == position.topic_id) {
                let stored = state.positions.entry(self.group.clone()).or_default();
                stored.insert(position.topic_partition(), (position.offset, position.metadata.clone()));
            }
        }
        Ok(())
    }

    fn lag(&self) -> Vec<(TopicPartition, i64)> {
        let state = self.shared.state.lock();
        let lag =
            |(tp, next): (&TopicPartition, &i64)| Some((tp.clone(), (state.partition(tp).ok()?.end() - (*next).max(0)).max(0)));
        self.next.iter().filter_map(lag).collect()
    }

    async fn close(&mut self) -> Result<()> {
        self.leave();
        Ok(())
    }
}

/// A task that was aborted must not keep its partitions.
impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.leave();
    }
}

fn size_of(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.size()).sum();
    record.key.size() + record.value.size() + headers
}

fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64)
}

fn unknown_topic(name: &str) -> Error {
    Error::fatal("log.unknown_topic", format!("there is no topic {name:?}")).fix("create it, or correct the name")
}

fn unknown_partition(tp: &TopicPartition) -> Error {
    Error::fatal("log.unknown_partition", format!("topic {} has no partition {}", tp.topic, tp.partition))
}

fn not_assigned(tp: &TopicPartition) -> Error {
    Error::fatal("log.not_assigned", format!("{tp} is not assigned to this reader"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn batch(values: &[&'static str]) -> EncodedBatch {
        EncodedBatch::new(values.iter().map(|value| Record::new("t", *value)).collect()).unwrap()
    }

    async fn end(log: &MemoryLog) -> i64 {
        log.topic("t").await.unwrap().unwrap().partitions[0].end
    }

    #[tokio::test]
    async fn held_commits_are_invisible_and_come_in_order() {
        let log = MemoryLog::new();
        log.create_topic("t", &TopicSpec::default()).await.unwrap();
        log.hold_commits();
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        let mut first = writer.append(batch(&["a", "b"]), vec![]).await.unwrap();
        let second = writer.append(batch(&["c"]), vec![]).await.unwrap();
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(end(&log).await, 0);
        assert!(log.stats().bytes_in_flight > 0);
        log.release_commits();
        assert_eq!(first.await.unwrap().ranges[0].2, 2);
        assert_eq!(second.await.unwrap().ranges[0].1, 2);
        assert_eq!((end(&log).await, log.stats().bytes_in_flight), (3, 0));
    }

    #[tokio::test]
    async fn a_failed_append_fails_what_comes_after_until_a_new_writer() {
        let log = MemoryLog::new();
        log.create_topic("t", &TopicSpec::default()).await.unwrap();
        log.fail_next_appends(1, Error::retriable("log.disk_full", "no room"));
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        let commit = writer.append(batch(&["a"]), vec![]).await.unwrap();
        assert_eq!(commit.await.unwrap_err().code(), "log.disk_full");
        assert!(writer.append(batch(&["b"]), vec![]).await.is_err());
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        writer.append(batch(&["a"]), vec![]).await.unwrap().await.unwrap();
        assert_eq!(end(&log).await, 1);
    }

    #[tokio::test]
    async fn a_writer_that_is_fenced_in_flight_writes_nothing() {
        let log = MemoryLog::new();
        log.create_topic("t", &TopicSpec::default()).await.unwrap();
        log.hold_commits();
        let mut old = log.writer(&TaskId::new("c", 0)).await.unwrap();
        let commit = old.append(batch(&["a"]), vec![]).await.unwrap();
        log.writer(&TaskId::new("c", 0)).await.unwrap();
        log.release_commits();
        assert_eq!(commit.await.unwrap_err().code(), "log.fenced");
        assert_eq!(end(&log).await, 0);
    }
}
