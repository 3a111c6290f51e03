//! Two workers with one `group.id` on a real broker: who was replaced writes nothing any more, neither stores nor records nor positions (invariant 5).
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_core::{Batch, JsonMap, LogPosition, Record, SourceOffset, TaskId, Topics};
use aqueduct_log::{EncodedBatch, Fetch, Log, LogReader, Store, TopicSpec};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use kafka_services::{Broker, shared};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

async fn open(broker: &Broker, group: &str) -> Arc<dyn Log> {
    KafkaLog::open(KafkaOptions::new(&broker.bootstrap(), group)).await.unwrap()
}

fn offset(position: i64) -> SourceOffset {
    let map = |name: &str, value: serde_json::Value| JsonMap::from_iter([(name.to_owned(), value)]);
    SourceOffset { partition: map("file", "a".into()), offset: Some(map("position", position.into())) }
}

fn config(name: &str, file: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let config = serde_json::json!({ "properties": { "name": name, "connector.class": "file-source", "file": file } });
    vec![(format!("connector-{name}"), Some(config.to_string().into_bytes()))]
}

fn status(state: &str) -> Vec<(String, Option<Vec<u8>>)> {
    vec![("status-connector-tail".to_owned(), Some(format!(r#"{{"state":"{state}"}}"#).into_bytes()))]
}

fn batch(topic: &str, values: &[&str]) -> EncodedBatch {
    EncodedBatch::new(values.iter().map(|value| Record::new(topic, (*value).to_owned())).collect::<Batch>()).unwrap()
}

async fn assigned(reader: &mut dyn LogReader) -> Vec<LogPosition> {
    let assigned = async {
        loop {
            if let Fetch::Assigned(positions) = reader.next(1 << 20, Duration::from_secs(1)).await.unwrap() {
                return positions;
            }
        }
    };
    tokio::time::timeout(SOON, assigned).await.expect("an assignment")
}

#[track_caller]
fn fenced<T>(result: aqueduct_core::Result<T>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{what} was taken"));
    assert_eq!((error.code(), error.is_retriable()), ("log.fenced", false), "{what}: {error}");
}

async fn all(log: &dyn Log) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>, Vec<SourceOffset>) {
    let (configs, statuses) = (log.load(Store::Config).await.unwrap(), log.load(Store::Status).await.unwrap());
    (configs, statuses, log.source_offsets("tail").await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_replaced_writes_nothing_any_more() {
    let broker = shared();
    let (group, topic) = (format!("fence-{:08x}", fastrand::u32(..)), format!("t-{:08x}", fastrand::u32(..)));
    let first = open(&broker, &group).await;
    first.create_topic(&topic, &TopicSpec::default()).await.unwrap();
    first.save(Store::Config, config("tail", "a")).await.unwrap();
    first.save(Store::Status, status("RUNNING")).await.unwrap();
    first.alter_source_offsets("tail", &[offset(1)]).await.unwrap();
    let mut writer = first.writer(&TaskId::new("tail", 0)).await.unwrap();
    writer.append(batch(&topic, &["first"]), vec![offset(2)]).await.unwrap().await.unwrap();
    let sink = format!("connect-{group}-out");
    let mut reader = first.reader(&sink, "out-0", &Topics::Names(vec![topic.as_str().into()])).await.unwrap();
    let mut positions = assigned(&mut *reader).await;
    positions[0].offset = 1;

    let second = open(&broker, &group).await;
    second.save(Store::Config, config("tail", "b")).await.unwrap();
    second.save(Store::Status, status("PAUSED")).await.unwrap();
    let kept = all(&*second).await;
    assert_eq!(kept.2, [offset(2)]);

    fenced(first.save(Store::Config, config("tail", "c")).await, "a config");
    fenced(first.save(Store::Config, vec![("connector-tail".to_owned(), None)]).await, "the end of a config");
    fenced(first.save(Store::Status, status("FAILED")).await, "a status");
    fenced(first.alter_source_offsets("tail", &[offset(9)]).await, "an offset");
    // Neither does it take anything back, nor go on with what it has.
    fenced(first.writer(&TaskId::new("tail", 0)).await, "a writer");
    fenced(first.reader(&sink, "out-1", &Topics::Names(vec![topic.as_str().into()])).await, "a reader");
    let error = tokio::time::timeout(SOON, first.fenced()).await.expect("it is told");
    assert!(error.code() == "log.fenced" && error.message().contains(&group), "{error}");
    fenced(writer.append(batch(&topic, &["late"]), vec![offset(3)]).await, "a record");
    // Its members are told in a task of their own.
    let told = async { while reader.next(1 << 20, Duration::from_millis(100)).await.is_ok() {} };
    tokio::time::timeout(SOON, told).await.expect("the reader is told");
    fenced(reader.commit(&positions, EncodedBatch::default()).await, "a position");
    fenced(reader.commit(&positions, batch(&topic, &["letter"])).await, "a dead letter");

    assert_eq!(all(&*second).await, kept);
    assert_eq!((broker.lines(&topic), second.group_positions(&sink).await.unwrap()), (vec!["first".to_owned()], Vec::new()));
    second.alter_source_offsets("tail", &[offset(5)]).await.unwrap();
    let mut writer = second.writer(&TaskId::new("tail", 0)).await.unwrap();
    writer.append(batch(&topic, &["second"]), vec![offset(6)]).await.unwrap().await.unwrap();
    assert_eq!((broker.lines(&topic), all(&*second).await.2), (vec!["first".to_owned(), "second".to_owned()], vec![offset(6)]));
    first.close().await.unwrap();
    second.close().await.unwrap();
}

/// Nobody opens a writer for a task that is no more, so whoever takes over must fence it: the worker does, by opening one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_no_more_is_fenced_by_opening_its_writer() {
    let broker = shared();
    let (group, topic) = (format!("fence-{:08x}", fastrand::u32(..)), format!("t-{:08x}", fastrand::u32(..)));
    let (first, second) = (open(&broker, &group).await, open(&broker, &group).await);
    first.create_topic(&topic, &TopicSpec::default()).await.unwrap();
    let mut writers = Vec::new();
    for task in 0..2 {
        writers.push(first.writer(&TaskId::new("tail", task)).await.unwrap());
    }
    // Not confirmed by the stores: nothing but the transactional ids tells the two apart, as right after a take-over.
    drop(second.writer(&TaskId::new("tail", 1)).await.unwrap());
    let late = async { writers[1].append(batch(&topic, &["late"]), vec![offset(1)]).await?.await };
    fenced(late.await, "a record of the task that is no more");
    assert_eq!(broker.lines(&topic), Vec::<String>::new());
    first.close().await.unwrap();
    second.close().await.unwrap();
}

/// As two Kafka Connect clusters: everything of one is its own, but for the groups of sinks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_group_ids_do_not_fence_each_other() {
    let broker = shared();
    let groups = [0; 2].map(|_| format!("fence-{:08x}", fastrand::u32(..)));
    let topic = format!("t-{:08x}", fastrand::u32(..));
    let (one, other) = (open(&broker, &groups[0]).await, open(&broker, &groups[1]).await);
    one.create_topic(&topic, &TopicSpec { partitions: 2, ..TopicSpec::default() }).await.unwrap();
    let task = TaskId::new("tail", 0);
    let mut writers = [one.writer(&task).await.unwrap(), other.writer(&task).await.unwrap()];
    for turn in 1..=3 {
        for (log, writer) in [&one, &other].into_iter().zip(&mut writers) {
            log.save(Store::Config, config("tail", &turn.to_string())).await.unwrap();
            writer.append(batch(&topic, &["line"]), vec![offset(turn)]).await.unwrap().await.unwrap();
            assert_eq!(log.source_offsets("tail").await.unwrap(), [offset(turn)]);
        }
    }
    let (sink, topics) = (format!("connect-{topic}-out"), Topics::Names(vec![topic.as_str().into()]));
    let mut readers = [one.reader(&sink, "out-0", &topics).await.unwrap(), other.reader(&sink, "out-0", &topics).await.unwrap()];
    // The two share the partitions and what is in them.
    let (mut owned, mut records) = (vec![BTreeMap::new(); 2], Vec::new());
    let settled = |owned: &[BTreeMap<i32, LogPosition>]| owned.iter().all(|owned| owned.len() == 1);
    let share = async {
        while records.len() < 6 || !settled(&owned) {
            for (reader, owned) in readers.iter_mut().zip(&mut owned) {
                match reader.next(1 << 20, Duration::from_millis(200)).await.unwrap() {
                    Fetch::Assigned(positions) => owned.extend(positions.into_iter().map(|p| (p.partition, p))),
                    Fetch::Revoked(gone) => gone.iter().for_each(|tp| drop(owned.remove(&tp.partition))),
                    Fetch::Records(batch) => {
                        for (tp, at) in batch.iter().filter_map(|record| record.origin()) {
                            records.push((tp.partition, at));
                            let position = owned.get_mut(&tp.partition).expect("assigned");
                            position.offset = at + 1;
                        }
                        let positions: Vec<LogPosition> = owned.values().cloned().collect();
                        reader.commit(&positions, EncodedBatch::default()).await.unwrap();
                    }
                    Fetch::Idle => {}
                }
            }
        }
    };
    tokio::time::timeout(SOON, share).await.expect("all records, shared by two");
    records.sort_unstable();
    let once = records.len();
    records.dedup();
    assert_eq!((once, records.len()), (6, 6), "each once");
    for reader in &mut readers {
        reader.close().await.unwrap();
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
}
