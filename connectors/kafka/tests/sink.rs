//! `kafka-sink` on a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use aqueduct_core::{
    Batch, CancellationToken, Header, LogPosition, Options, Origin, Payload, Plugin, Record, Rejects, Result, SinkPlugin,
    SinkTask, TaskContext, TaskId, TopicPartition,
};
use kafka_services::{Shared, shared};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

fn plugin() -> Arc<dyn SinkPlugin> {
    let plugins = aqueduct_connector_kafka::plugins();
    plugins.into_iter().find_map(|plugin| if let Plugin::Sink(sink) = plugin { Some(sink) } else { None }).unwrap()
}

fn options(broker: &Shared, more: &[(&str, &str)]) -> Options {
    let bootstrap = broker.bootstrap();
    let first = [("bootstrap.servers", bootstrap.as_str())];
    first.into_iter().chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn position(topic: &str, offset: i64, metadata: Option<String>) -> LogPosition {
    let metadata = metadata.map(Into::into);
    LogPosition { topic: topic.into(), topic_id: Uuid::from_u128(7), partition: 0, offset, metadata }
}

fn records(topic: &str, range: std::ops::Range<i64>) -> Batch {
    range.map(|offset| record(topic, offset, format!("{offset:04}"))).collect()
}

fn record(topic: &str, offset: i64, value: String) -> Record {
    Record {
        partition: Some(0),
        origin: Some(Origin { partition: Arc::new(TopicPartition::new(topic, 0)), offset }),
        timestamp: Some(1_767_225_600_000 + offset),
        ..Record::new(topic, value)
    }
}

fn texts(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|offset| format!("{offset:04}")).collect()
}

async fn open(options: &Options, at: &LogPosition) -> Box<dyn SinkTask> {
    let spec = plugin().plan(options, 1).await.unwrap().remove(0);
    let mut task = plugin().open(options, spec).await.unwrap();
    assert_eq!(task.assigned(std::slice::from_ref(at)).await.unwrap(), []);
    task
}

async fn put(task: &mut Box<dyn SinkTask>, connector: &str, batch: &Batch) -> Result<Rejects> {
    let mut rejects = Rejects::default();
    let cx = TaskContext {
        task: TaskId::new(connector, 0),
        wait_max: Duration::from_secs(5),
        max_bytes: 1 << 20,
        max_records: 1000,
        interrupt: CancellationToken::new(),
    };
    task.put(batch, &mut rejects, &cx).await?;
    task.flush().await?;
    Ok(rejects)
}

fn metadata(task: &dyn SinkTask, topic: &str) -> Option<String> {
    task.metadata(&TopicPartition::new(topic, 0))
}

#[tokio::test]
async fn a_record_arrives_as_it_is() {
    let broker = shared();
    let options =
        options(&broker, &[("topic.format", "eu.${topic}"), ("compression.type", "lz4"), ("topic.create.partitions", "2")]);
    let mut task = open(&options, &position("as-is", 0, None)).await;
    let full = Record {
        key: "k".into(),
        headers: vec![Header { name: "a".into(), value: "1".into() }, Header { name: "n".into(), value: Payload::Null }],
        ..record("as-is", 0, "v".into())
    };
    let deleted = Record { key: "k".into(), value: Payload::Null, ..record("as-is", 1, String::new()) };
    assert!(put(&mut task, "as-is", &[full, deleted].into_iter().collect()).await.unwrap().is_empty());
    let found = broker.consume("eu.as-is");
    assert_eq!((found.len(), found[0].partition, found[0].timestamp), (2, 0, 1_767_225_600_000));
    assert_eq!((found[0].key.as_deref(), found[0].text(), &found[1].value), (Some(&b"k"[..]), "v".to_owned(), &None));
    assert_eq!(found[0].headers, [("a".to_owned(), "1".to_owned()), ("n".to_owned(), "NULL".to_owned())]);
    task.close().await.unwrap();
}

#[tokio::test]
async fn what_the_target_has_is_not_written_again_but_a_reset_and_a_new_topic_are() {
    let broker = shared();
    let options = options(&broker, &[]);
    let topic = "again";
    // Dropped before the log's first commit: nothing twice.
    let mut task = open(&options, &position(topic, 0, None)).await;
    put(&mut task, "c", &records(topic, 0..10)).await.unwrap();
    drop(task);
    let mut task = open(&options, &position(topic, 0, None)).await;
    put(&mut task, "c", &records(topic, 0..15)).await.unwrap();
    let run = metadata(&*task, topic);
    assert!(run.is_some());
    put(&mut task, "c", &records(topic, 15..20)).await.unwrap();
    drop(task);
    // The log's last commit is missing.
    let mut task = open(&options, &position(topic, 15, run.clone())).await;
    put(&mut task, "c", &records(topic, 15..25)).await.unwrap();
    task.close().await.unwrap();
    assert_eq!(broker.lines(topic), texts(0..25));
    // Set back to 5 by an operator, which takes the run out.
    let mut task = open(&options, &position(topic, 5, None)).await;
    put(&mut task, "c", &records(topic, 5..8)).await.unwrap();
    drop(task);
    assert_eq!(broker.lines(topic).len(), 28);
    // The log's topic was made again: another id.
    let again = LogPosition { topic_id: Uuid::from_u128(8), ..position(topic, 0, None) };
    let mut task = open(&options, &again).await;
    put(&mut task, "c", &records(topic, 0..2)).await.unwrap();
    task.close().await.unwrap();
    assert_eq!(broker.lines(topic).len(), 30);
    // One commit only, in order, and set back to the same place.
    let mut task = open(&options, &position("short", 0, None)).await;
    put(&mut task, "c", &records("short", 0..3)).await.unwrap();
    metadata(&*task, "short");
    task.close().await.unwrap();
    let mut task = open(&options, &position("short", 0, None)).await;
    put(&mut task, "c", &records("short", 0..3)).await.unwrap();
    assert_eq!(broker.lines("short").len(), 6);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_alone_and_again_after_a_crash() {
    let broker = shared();
    broker.admin().create_topic("small", 1, &[("max.message.bytes", "2000")]);
    let options = options(&broker, &[]);
    let batch: Batch = (0..6).map(|n| record("small", n, if n == 2 { "x".repeat(3000) } else { format!("{n}") })).collect();
    for _ in 0..2 {
        let mut task = open(&options, &position("small", 0, None)).await;
        let mut rejects = put(&mut task, "poison", &batch).await.unwrap();
        let refused = rejects.take();
        assert_eq!((refused.len(), refused[0].error.code()), (1, "kafka.record_too_large"), "{refused:?}");
        assert_eq!(refused[0].record.origin.as_ref().unwrap().offset, 2);
    }
    assert_eq!(broker.lines("small"), ["0", "1", "3", "4", "5"]);
}

#[tokio::test]
async fn whoever_had_the_partition_before_is_fenced() {
    let broker = shared();
    let options = options(&broker, &[]);
    let mut zombie = open(&options, &position("fence", 0, None)).await;
    put(&mut zombie, "f", &records("fence", 0..10)).await.unwrap();
    let mut rejects = Rejects::default();
    let cx = TaskContext {
        task: TaskId::new("f", 0),
        wait_max: Duration::from_secs(5),
        max_bytes: 1 << 20,
        max_records: 1000,
        interrupt: CancellationToken::new(),
    };
    zombie.put(&records("fence", 10..20), &mut rejects, &cx).await.unwrap();
    let mut successor = open(&options, &position("fence", 0, None)).await;
    put(&mut successor, "f", &records("fence", 0..15)).await.unwrap();
    let error = zombie.flush().await.unwrap_err();
    assert_eq!(error.code(), "kafka.fenced", "{error}");
    put(&mut successor, "f", &records("fence", 15..30)).await.unwrap();
    assert_eq!(broker.lines("fence"), texts(0..30));
}

#[tokio::test]
async fn what_cannot_work_is_told() {
    let broker = shared();
    broker.admin().create_topic("kept-by-time", 1, &[]);
    broker.admin().create_topic("one", 1, &[]);
    let mut task = open(&options(&broker, &[("positions.topic", "kept-by-time")]), &position("one", 0, None)).await;
    let error = put(&mut task, "e", &records("one", 0..1)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("kafka_sink.not_compacted", false), "{error}");
    let mut task = open(&options(&broker, &[("topic.auto.create", "false")]), &position("none", 0, None)).await;
    let error = put(&mut task, "e", &records("none", 0..1)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("kafka.unknown_topic", false), "{error}");
    let second = LogPosition { partition: 1, ..position("one", 0, None) };
    let mut task = open(&options(&broker, &[]), &second).await;
    let there = Record { partition: Some(1), ..record("one", 0, "x".into()) };
    let there = Record { origin: Some(Origin { partition: Arc::new(TopicPartition::new("one", 1)), offset: 0 }), ..there };
    let error = put(&mut task, "e", &[there].into_iter().collect()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("kafka.no_partition", false), "{error}");
}

#[tokio::test]
async fn by_key_as_the_java_client_does() {
    let broker = shared();
    broker.admin().create_topic("by-key-java", 7, &[]);
    let keys: Vec<String> = (0..40).map(|n| format!("key-{n}")).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
    broker.java_produce("by-key-java", &pairs);
    let more =
        [("topic.preserve.partitions", "false"), ("topic.create.partitions", "7"), ("delivery.guarantee", "at_least_once")];
    let mut task = open(&options(&broker, &more), &position("by-key", 0, None)).await;
    let batch: Batch =
        keys.iter().zip(0..).map(|(key, n)| Record { key: key.clone().into(), ..record("by-key", n, "v".into()) }).collect();
    put(&mut task, "k", &batch).await.unwrap();
    task.close().await.unwrap();
    let places = |topic: &str| {
        let mut places: Vec<_> = broker.consume(topic).into_iter().map(|record| (record.key, record.partition)).collect();
        places.sort();
        places
    };
    assert_eq!(places("by-key"), places("by-key-java"));
}
