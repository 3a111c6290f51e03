//! What every log must do, as tests that are told how to open one: [`run`].
//!
//! This crate's tests compile it into themselves; others ask for the feature `conformance`.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod appends;
mod fetches;
mod groups;
mod letters;
mod readers;
mod stores;
mod topics;

use aqueduct_core::{Batch, LogPosition, PayloadRef, Record, Result, SourceOffset, TaskId, Topic, TopicPartition, Topics};
use aqueduct_log::{Appended, Commit, EncodedBatch, Fetch, Log, LogReader, LogWriter, TopicSpec};
use async_trait::async_trait;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One place where a log keeps its data.
#[async_trait]
pub trait Site: Send {
    /// Opens the log that is here; called again after the last one was closed, if [`Site::reopens`].
    async fn open(&mut self) -> Arc<dyn Log>;

    /// What was committed is there after `close` and `open`.
    fn reopens(&self) -> bool;

    /// Between two commits offsets are left out: the end of each of Kafka's transactions is an entry of the log.
    fn has_gaps(&self) -> bool {
        false
    }

    /// A group in which nothing happened for so long is at rest.
    fn quiet(&self) -> Duration {
        SHORT
    }
}

/// A case that takes longer hangs.
const CASE_MAX: Duration = Duration::from_secs(60);
/// For what must happen: far more than it takes.
const SOON: Duration = Duration::from_secs(90);
/// For what must not happen.
const SHORT: Duration = Duration::from_millis(20);

type Case = (&'static str, for<'a> fn(&'a mut Cx) -> Pin<Box<dyn Future<Output = ()> + 'a>>);

macro_rules! cases {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($((concat!(stringify!($module), "-", stringify!($name)), |cx| Box::pin($module::$name(cx)))),+),+]
    };
}

const CASES: &[Case] = cases! {
    topics: created_and_described, existing_is_refused, bad_names_and_configs_are_refused, deleted_is_gone, recreated_is_another,
        configs_are_kept, listed_by_name;
    appends: offsets_follow_each_other, records_come_back_as_they_went, records_and_offsets_together, many_partitions_in_one_commit,
        an_empty_batch_with_offsets, a_tombstone_forgets, commits_resolve_in_order, a_dropped_commit_happens,
        unknown_topic_keeps_nothing, unknown_partition_keeps_nothing, too_large_keeps_nothing, a_failed_append_poisons_its_writer,
        a_newer_writer_fences, another_task_does_not_fence, keys_by_murmur2, a_given_partition_wins, keyless_stay_together_and_take_turns,
        timestamps, order_of_concurrent_writers, appends_wait_for_nothing_but_room;
    fetches: at_least_one_and_about_max_bytes, from_the_middle_of_a_batch, below_the_start_and_at_the_end, woken_by_a_commit,
        unknown_is_an_error, offsets_for_timestamps, compressed_topics;
    readers: from_the_earliest, positions_and_metadata_are_kept, woken_without_polling, idle_when_nothing_comes, dropping_next_loses_nothing,
        seeks, only_what_is_assigned, bounded_and_in_order, lag_counts_what_is_left;
    groups: members_share_evenly, a_partition_moves_only_when_given_up, who_leaves_gives_all, the_same_member_fences,
        a_regex_finds_later_topics, a_deleted_topic_is_revoked, groups_are_independent, altered_only_without_members,
        never_committed_has_none, a_dropped_reader_leaves;
    letters: positions_and_letters_together, for_many_partitions, without_positions, a_fenced_member_writes_neither,
        what_is_not_assigned_keeps_neither, unknown_topic_keeps_neither, unknown_partition_keeps_neither, too_large_keeps_neither,
        a_deleted_topic_keeps_its_letters, read_as_soon_as_committed;
    stores: saved_and_removed, offsets_are_altered, stats_count, closed_is_closed;
};

/// Runs every case, each on a log of its own.
///
/// # Panics
/// With the names of the cases that failed, after all have run.
pub async fn run(site: impl Fn() -> Box<dyn Site>) {
    let mut failed = Vec::new();
    for (name, case) in CASES {
        let mut site = site();
        let log = site.open().await;
        let mut cx = Cx { site, log, name: name.replace('_', "-"), run: fastrand::u32(..) };
        let outcome = tokio::time::timeout(CASE_MAX, AssertUnwindSafe(case(&mut cx)).catch_unwind()).await;
        if !matches!(outcome, Ok(Ok(()))) {
            failed.push(if outcome.is_err() { format!("{name} (hangs)") } else { (*name).to_owned() });
        }
        let _ = cx.log.close().await;
    }
    assert!(failed.is_empty(), "{} of {} cases failed: {}", failed.len(), CASES.len(), failed.join(", "));
}

/// What a case has.
struct Cx {
    site: Box<dyn Site>,
    log: Arc<dyn Log>,
    name: String,
    run: u32,
}

impl Cx {
    /// A name that no other case and no other run uses: a Kafka cluster is there before and after.
    fn unique(&self, name: &str) -> String {
        format!("{}-{:08x}-{name}", self.name, self.run)
    }

    /// Closes the log and opens it again, where that can be done.
    async fn reopen(&mut self) {
        if self.site.reopens() {
            self.log.close().await.unwrap();
            self.log = self.site.open().await;
        }
    }

    async fn topic(&self, name: &str, partitions: i32) -> Topic {
        self.topic_with(name, partitions, &[]).await
    }

    async fn topic_with(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Topic {
        let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let spec = TopicSpec { partitions, configs, ..TopicSpec::default() };
        self.log.create_topic(&self.unique(name), &spec).await.unwrap().name
    }

    fn task(&self, task: u32) -> TaskId {
        TaskId::new(self.unique("c"), task)
    }

    async fn writer(&self, task: u32) -> Box<dyn LogWriter> {
        self.log.writer(&self.task(task)).await.unwrap()
    }

    async fn offsets(&self) -> Vec<(String, i64)> {
        let offsets = self.log.source_offsets(&self.unique("c")).await.unwrap();
        let mut offsets: Vec<_> =
            offsets.iter().map(|o| (o.partition["p"].as_str().unwrap().to_owned(), n(o).unwrap())).collect();
        offsets.sort();
        offsets
    }

    /// As some source would, to partition 0.
    async fn produce(&self, topic: &Topic, values: &[&str]) {
        let records = values.iter().map(|value| to(topic, 0, value)).collect();
        append(&mut *self.log.writer(&TaskId::new(self.unique("p"), fastrand::u32(..))).await.unwrap(), records, vec![])
            .await
            .unwrap();
    }

    async fn member(&self, group: &str, member: &str, topics: &[&Topic]) -> Member {
        let topics = Topics::Names(topics.iter().map(|topic| (*topic).clone()).collect());
        self.member_of(group, member, &topics).await
    }

    async fn member_of(&self, group: &str, member: &str, topics: &Topics) -> Member {
        let reader = self.log.reader(&self.unique(group), member, topics).await.unwrap();
        let (gaps, quiet) = (self.site.has_gaps(), self.site.quiet());
        Member { reader, assigned: BTreeMap::new(), next: BTreeMap::new(), revoked: Vec::new(), read: Vec::new(), gaps, quiet }
    }

    /// Everything in a partition, in order, read in small pieces.
    async fn read_all(&self, topic: &Topic, partition: i32) -> Vec<Record> {
        let tp = TopicPartition::new(topic.clone(), partition);
        let (mut records, mut from) = (Vec::new(), 0);
        loop {
            let batch = self.log.fetch(&tp, from, 4096, Duration::ZERO).await.unwrap();
            let Some((_, last)) = batch.iter().last().and_then(|record| record.origin()) else { return records };
            from = last + 1;
            records.extend(batch.into_records());
        }
    }

    async fn values(&self, topic: &Topic, partition: i32) -> Vec<String> {
        self.read_all(topic, partition).await.iter().map(value).collect()
    }

    /// How many records a partition has.
    async fn count(&self, topic: &Topic, partition: i32) -> i64 {
        let end = async || self.log.topic(topic).await.unwrap().unwrap().partitions[partition as usize].end;
        let before = end().await;
        let count = self.read_all(topic, partition).await.len() as i64;
        assert!(self.site.has_gaps() || (before..=end().await).contains(&count), "{count} records, {before} at first");
        count
    }

    /// The offsets of what is in a partition.
    async fn offsets_in(&self, topic: &Topic, partition: i32) -> Vec<i64> {
        let offsets: Vec<_> = self.read_all(topic, partition).await.iter().map(|r| r.origin.as_ref().unwrap().offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
        assert!(self.site.has_gaps() || (0..).zip(&offsets).all(|(index, offset)| index == *offset), "{offsets:?}");
        offsets
    }
}

/// A reader and what it was told.
struct Member {
    reader: Box<dyn LogReader>,
    assigned: BTreeMap<TopicPartition, LogPosition>,
    /// What to commit.
    next: BTreeMap<TopicPartition, i64>,
    /// To be given up by the next step.
    revoked: Vec<TopicPartition>,
    read: Vec<(TopicPartition, i64, String)>,
    gaps: bool,
    quiet: Duration,
}

impl Member {
    /// One `next`. Does as a sink: what is revoked is committed first.
    async fn step(&mut self, wait: Duration) -> Result<&'static str> {
        let fetch = self.reader.next(1 << 20, wait).await?;
        self.revoked.clear();
        Ok(match fetch {
            Fetch::Assigned(positions) => {
                assert!(!positions.is_empty());
                for position in positions {
                    let tp = position.topic_partition();
                    self.next.insert(tp.clone(), position.offset);
                    assert_eq!(self.assigned.insert(tp.clone(), position), None, "{tp} was assigned already");
                }
                "assigned"
            }
            Fetch::Revoked(partitions) => {
                assert!(!partitions.is_empty());
                self.commit().await?;
                for tp in &partitions {
                    assert!(self.assigned.remove(tp).is_some(), "{tp} was never assigned");
                    self.next.remove(tp);
                }
                self.revoked = partitions;
                "revoked"
            }
            Fetch::Records(batch) => {
                assert!(!batch.is_empty());
                self.take(&batch);
                "records"
            }
            Fetch::Idle => "idle",
        })
    }

    fn take(&mut self, batch: &Batch) {
        for record in batch.iter() {
            let (tp, offset) = record.origin().expect("records of a reader have an origin");
            assert_eq!((record.topic(), record.partition()), (&tp.topic, Some(tp.partition)));
            let next = self.next.insert((**tp).clone(), offset + 1);
            let follows = next.is_some_and(|next| next == offset || self.gaps && next < offset);
            assert!(follows, "{tp}: {offset} instead of {next:?}, the offset that was next");
            self.read.push(((**tp).clone(), offset, value(&record.to_record())));
        }
    }

    async fn commit(&mut self) -> Result<()> {
        let at = |(tp, position): (&TopicPartition, &LogPosition)| LogPosition { offset: self.next[tp], ..position.clone() };
        let positions: Vec<_> = self.assigned.iter().map(at).collect();
        self.reader.commit(&positions, EncodedBatch::default()).await
    }

    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
            self.step(SHORT).await.unwrap();
        }
    }

    async fn until_read(&mut self, records: usize) {
        self.until("records", |member| member.read.len() >= records).await;
        assert_eq!(self.read.len(), records);
    }

    fn values(&self) -> Vec<&str> {
        self.read.iter().map(|(_, _, value)| value.as_str()).collect()
    }
}

/// Steps all until each has said `idle` twice in a row.
async fn settle(members: &mut [&mut Member]) {
    let deadline = Instant::now() + SOON;
    let mut quiet = 0;
    while quiet < 2 {
        assert!(Instant::now() < deadline, "the group does not come to rest");
        quiet += 1;
        for member in &mut *members {
            if member.step(member.quiet).await.unwrap() != "idle" {
                quiet = 0;
            }
        }
    }
}

/// Appends and waits for the commit.
async fn append(writer: &mut dyn LogWriter, records: Vec<Record>, resume: Vec<SourceOffset>) -> Result<Appended> {
    begin(writer, records, resume).await?.await
}

async fn begin(writer: &mut dyn LogWriter, records: Vec<Record>, resume: Vec<SourceOffset>) -> Result<Commit> {
    writer.append(EncodedBatch::new(records.into_iter().collect()).unwrap(), resume).await
}

fn record(topic: &Topic, value: &str) -> Record {
    Record::new(topic.clone(), value.to_owned())
}

fn to(topic: &Topic, partition: i32, value: &str) -> Record {
    Record { partition: Some(partition), ..record(topic, value) }
}

fn value(record: &Record) -> String {
    match record.value.as_ref() {
        PayloadRef::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn offset(partition: &str, n: i64) -> SourceOffset {
    let SourceOffset { partition, .. } = forget(partition);
    SourceOffset { partition, offset: serde_json::json!({ "n": n }).as_object().cloned() }
}

fn forget(partition: &str) -> SourceOffset {
    SourceOffset { partition: serde_json::json!({ "p": partition }).as_object().cloned().unwrap(), offset: None }
}

fn n(offset: &SourceOffset) -> Option<i64> {
    offset.offset.as_ref()?["n"].as_i64()
}

#[track_caller]
fn code<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.code().to_owned(),
    }
}
