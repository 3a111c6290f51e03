//! `kafka-source` on a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use aqueduct_core::{
    CancellationToken, Options, Payload, Plugin, Record, SourceOffset, SourcePlugin, SourceTask, TaskContext, TaskId,
};
use kafka_services::{Shared, shared};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

fn plugin() -> Arc<dyn SourcePlugin> {
    let plugins = aqueduct_connector_kafka::plugins();
    plugins.into_iter().find_map(|plugin| if let Plugin::Source(source) = plugin { Some(source) } else { None }).unwrap()
}

fn options(broker: &Shared, more: &[(&str, &str)]) -> Options {
    let bootstrap = broker.bootstrap();
    let first = [("bootstrap.servers", bootstrap.as_str()), ("refresh.topics.interval.seconds", "1")];
    first.into_iter().chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The worker's part: offsets by partition.
#[derive(Default)]
struct Stored(BTreeMap<String, SourceOffset>);

impl Stored {
    fn keep(&mut self, resume: &[SourceOffset]) {
        for offset in resume {
            self.0.insert(offset.partition_key(), offset.clone());
        }
    }

    fn all(&self) -> Vec<SourceOffset> {
        self.0.values().cloned().collect()
    }

    fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        let is = |offset: &&SourceOffset| offset.partition["topic"] == topic && offset.partition["partition"] == partition;
        self.0.values().find(is)?.offset.as_ref()?["offset"].as_i64()
    }
}

fn context() -> TaskContext {
    TaskContext {
        task: TaskId::new("mirror", 0),
        wait_max: Duration::from_millis(200),
        max_bytes: 1 << 20,
        max_records: 1000,
        interrupt: CancellationToken::new(),
    }
}

async fn open(options: &Options, stored: &Stored) -> aqueduct_core::Result<Box<dyn SourceTask>> {
    let spec = plugin().plan(options, 1).await?.remove(0);
    plugin().open(options, spec, stored.all()).await
}

async fn read(task: &mut Box<dyn SourceTask>, stored: &mut Stored, count: usize) -> Vec<Record> {
    let (cx, end, mut records) = (context(), Instant::now() + DEADLINE, Vec::new());
    while records.len() < count {
        let polled = task.poll(&cx).await.unwrap();
        stored.keep(&polled.resume);
        records.extend(polled.batch.into_records());
        assert!(Instant::now() < end, "{} of {count} records", records.len());
    }
    assert_eq!(records.len(), count, "more records than there are");
    records
}

/// Polls until it fails.
async fn fails(task: &mut Box<dyn SourceTask>) -> aqueduct_core::Error {
    let (cx, end) = (context(), Instant::now() + DEADLINE);
    loop {
        match task.poll(&cx).await {
            Err(error) => return error,
            Ok(_) => assert!(Instant::now() < end, "no error"),
        }
    }
}

fn text(payload: &Payload) -> String {
    match payload {
        Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

fn header(record: &Record, name: &str) -> String {
    record.header(name).map(text).unwrap_or_default()
}

fn lines(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{prefix}{n:04}")).collect()
}

#[tokio::test]
async fn keys_values_headers_timestamps_and_where_it_was_are_kept() {
    let broker = shared();
    broker.admin().create_topic("kept", 2, &[]);
    broker.produce("kept", &["k:v"], &["-p", "1", "-K", ":", "-H", "a=1", "-H", "b=x"]);
    broker.produce("kept", &["no key"], &["-p", "0"]);
    let there = broker.consume("kept");
    let more = [("topics", "kept"), ("source.cluster.alias", "eu"), ("topic.format", "${cluster}.${topic}")];
    let (mut stored, options) = (Stored::default(), options(&broker, &more));
    let mut task = open(&options, &stored).await.unwrap();
    let mut records = read(&mut task, &mut stored, 2).await;
    records.sort_by_key(|record| record.partition);
    assert_eq!((&*records[0].topic, records[0].partition, &records[0].key), ("eu.kept", Some(0), &Payload::Null));
    assert_eq!((text(&records[1].key), text(&records[1].value), records[1].partition), ("k".into(), "v".into(), Some(1)));
    assert_eq!(records[1].timestamp, Some(there[1].timestamp));
    let headers: Vec<_> = records[1].headers.iter().map(|header| (&*header.name, text(&header.value))).collect();
    let expected = [("a", "1"), ("b", "x"), ("__source.topic", "kept"), ("__source.partition", "1"), ("__source.offset", "0")];
    assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
    let offset = stored.0.values().find(|offset| offset.partition["partition"] == 1).unwrap();
    assert_eq!((offset.partition["cluster"].as_str(), offset.partition["topic"].as_str()), (Some("eu"), Some("kept")));
    assert_eq!(offset.offset.as_ref().unwrap()["offset"], 1);
    task.close().await.unwrap();
}

#[tokio::test]
async fn what_was_aborted_is_left_out_and_positions_pass_it() {
    let broker = shared();
    broker.admin().create_topic("plain", 1, &[]);
    broker.produce("plain", &lines("a", 0..10), &[]);
    let (mut stored, options) = (Stored::default(), options(&broker, &[("topics", "plain")]));
    let mut task = open(&options, &stored).await.unwrap();
    assert_eq!(read(&mut task, &mut stored, 10).await.len(), 10);
    // Opened again: nothing comes twice, and what is new comes.
    drop(task);
    let kafka = krafka::Kafka::builder(broker.bootstrap()).connect().await.unwrap();
    let producer = kafka.producer().build_transactional("aborts").await.unwrap();
    for line in ["never", "ever"] {
        producer.begin().unwrap();
        let _ = producer.send(krafka::Record::new("plain", line)).await.unwrap();
        producer.abort().await.unwrap();
    }
    let mut task = open(&options, &stored).await.unwrap();
    // Two aborted records and their markers.
    let end = Instant::now() + DEADLINE;
    while stored.next("plain", 0) != Some(14) {
        let polled = task.poll(&context()).await.unwrap();
        assert!(polled.batch.is_empty() && Instant::now() < end, "{:?}", stored.0);
        stored.keep(&polled.resume);
    }
    drop(task);
    broker.produce("plain", &lines("b", 0..5), &[]);
    let mut task = open(&options, &stored).await.unwrap();
    let again: Vec<_> = read(&mut task, &mut stored, 5).await.iter().map(|record| text(&record.value)).collect();
    assert_eq!(again, lines("b", 0..5));
    assert_eq!(stored.next("plain", 0), Some(19));
}

#[tokio::test]
async fn new_topics_and_partitions_are_read_from_their_beginning() {
    let broker = shared();
    broker.admin().create_topic("grow-a", 1, &[]);
    broker.produce("grow-a", &lines("old", 0..3), &[]);
    let more = [("topics.regex", "grow-.*"), ("auto.offset.reset", "latest")];
    let (mut stored, options) = (Stored::default(), options(&broker, &more));
    let mut task = open(&options, &stored).await.unwrap();
    let polled = task.poll(&context()).await.unwrap();
    stored.keep(&polled.resume);
    assert_eq!(
        (polled.batch.len(), stored.next("grow-a", 0)),
        (0, Some(3)),
        "where latest is gets stored before the first record"
    );
    broker.admin().create_topic("grow-b", 1, &[]);
    broker.produce("grow-b", &lines("new", 0..4), &[]);
    let topics: Vec<_> = read(&mut task, &mut stored, 4).await.iter().map(|record| record.topic.to_string()).collect();
    assert_eq!(topics, ["grow-b"; 4]);
    broker.admin().create_partitions("grow-a", 2);
    broker.produce("grow-a", &lines("more", 0..2), &["-p", "1"]);
    let found = read(&mut task, &mut stored, 2).await;
    assert!(found.iter().all(|record| record.partition == Some(1)), "{found:?}");
}

#[tokio::test]
async fn a_gap_is_an_error_that_has_a_name_and_never_a_jump() {
    let broker = shared();
    for topic in ["gap-deleted", "gap-recreated", "gap-reset"] {
        broker.admin().create_topic(topic, 1, &[]);
        broker.produce(topic, &lines("x", 0..20), &[]);
    }
    let of = |topic: &str, more: &[(&str, &str)]| options(&broker, &[&[("topics", topic)], more].concat());
    // Ahead of what there is.
    let mut stored = Stored::default();
    let mut task = open(&of("gap-deleted", &[]), &stored).await.unwrap();
    read(&mut task, &mut stored, 20).await;
    task.close().await.unwrap();
    for offset in stored.0.values_mut() {
        offset.offset.as_mut().unwrap()["offset"] = 500.into();
    }
    let error = open(&of("gap-deleted", &[]), &stored).await.err().unwrap();
    assert_eq!((error.code(), error.is_retriable()), ("kafka.offset_out_of_range", false));
    assert!(error.message().contains("gap-deleted-0: 500 is the next offset to read, but the topic ends at 20"), "{error}");
    let mut task = open(&of("gap-deleted", &[("auto.offset.reset", "earliest")]), &stored).await.unwrap();
    assert_eq!(read(&mut task, &mut stored, 20).await.len(), 20);

    // Re-created while it is read, and with more records than were read of the old one.
    let mut stored = Stored::default();
    let options = of("gap-recreated", &[]);
    let mut task = open(&options, &stored).await.unwrap();
    read(&mut task, &mut stored, 20).await;
    broker.admin().delete_topic("gap-recreated");
    recreate(&broker, "gap-recreated", 50);
    let mut error = fails(&mut task).await;
    // Between the two the topic is not there, which may pass.
    let end = Instant::now() + DEADLINE;
    while error.is_retriable() {
        assert!(Instant::now() < end, "{error}");
        error = match open(&options, &stored).await {
            Ok(mut task) => fails(&mut task).await,
            Err(error) => error,
        };
    }
    assert_eq!(error.code(), "kafka.topic_recreated", "{error}");
    let mut task = open(&of("gap-recreated", &[("auto.offset.reset", "earliest")]), &stored).await.unwrap();
    assert_eq!(read(&mut task, &mut stored, 50).await.len(), 50);

    // The same with a reset: the task goes on by itself.
    let mut stored = Stored::default();
    let mut task = open(&of("gap-reset", &[("auto.offset.reset", "earliest")]), &stored).await.unwrap();
    read(&mut task, &mut stored, 20).await;
    broker.admin().create_partitions("gap-reset", 2);
    broker.produce("gap-reset", &lines("y", 0..2), &["-p", "1"]);
    assert_eq!(read(&mut task, &mut stored, 2).await.len(), 2);
}

/// The name is free a moment after the deletion.
fn recreate(broker: &Shared, topic: &str, records: usize) {
    kafka_services::wait_until(DEADLINE, "the topic is gone", || {
        (!broker.admin().topics().iter().any(|name| name == topic)).then_some(())
    });
    broker.admin().create_topic(topic, 1, &[]);
    broker.produce(topic, &lines("new", 0..records), &[]);
}

#[tokio::test]
async fn several_tasks_share_the_partitions_and_a_wrong_address_is_told_at_once() {
    let broker = shared();
    broker.admin().create_topic("shared-out", 5, &[]);
    for partition in 0..5 {
        broker.produce("shared-out", &lines("x", 0..10), &["-p", &partition.to_string()]);
    }
    let options = options(&broker, &[("topics", "shared-out")]);
    let mut seen = Vec::new();
    for spec in plugin().plan(&options, 3).await.unwrap() {
        let mut task = plugin().open(&options, spec, Vec::new()).await.unwrap();
        let (cx, quiet) = (context(), Instant::now() + Duration::from_secs(3));
        while Instant::now() < quiet {
            seen.extend(
                task.poll(&cx)
                    .await
                    .unwrap()
                    .batch
                    .into_records()
                    .map(|r| format!("{} {}", header(&r, "__source.partition"), text(&r.value))),
            );
        }
    }
    seen.sort();
    let all: Vec<_> =
        (0..5).flat_map(|partition| lines("x", 0..10).into_iter().map(move |line| format!("{partition} {line}"))).collect();
    assert_eq!(seen, all);
    let wrong: Options =
        [("bootstrap.servers", "127.0.0.1:1"), ("topics", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let began = Instant::now();
    let error = open(&wrong, &Stored::default()).await.err().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((error.code(), error.is_retriable()), ("kafka.unreachable", true), "{error}");
}
