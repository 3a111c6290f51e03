//! Topics, offsets, fetching and positions on a real broker, with kcat as the independent writer.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]
#![allow(clippy::disallowed_methods, reason = "the test owns what it spawns")]

use aqueduct_core::{PayloadRef, TopicPartition};
use aqueduct_log::{Log, TopicSpec};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use kafka_services::shared;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn open(bootstrap: &str) -> Arc<dyn Log> {
    KafkaLog::open(KafkaOptions::new(bootstrap, &format!("core-{:08x}", fastrand::u32(..)))).await.unwrap()
}

async fn values(log: &dyn Log, topic: &str, partition: i32) -> Vec<String> {
    let (tp, mut from, mut values) = (TopicPartition::new(topic, partition), 0, Vec::new());
    loop {
        let batch = log.fetch(&tp, from, 10_000, Duration::ZERO).await.unwrap();
        let Some((_, last)) = batch.iter().last().and_then(|record| record.origin()) else { return values };
        from = last + 1;
        for record in batch.iter() {
            let PayloadRef::Bytes(value) = record.value() else { panic!("{record:?}") };
            values.push(String::from_utf8(value.to_vec()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_described_and_deleted() {
    let broker = shared();
    let log = open(&broker.bootstrap()).await;
    let name = format!("described-{:08x}", fastrand::u32(..));
    let configs = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
    let spec = TopicSpec { partitions: 3, configs: configs.clone(), ..TopicSpec::default() };
    let info = log.create_topic(&name, &spec).await.unwrap();
    assert_eq!((&*info.name, info.partitions.len(), &info.configs), (&*name, 3, &configs));
    broker.produce(&name, &["a", "b"], &["-p", "1"]);
    let info = log.topic(&name).await.unwrap().unwrap();
    assert_eq!(
        info.partitions.iter().map(|p| (p.partition, p.start, p.end)).collect::<Vec<_>>(),
        [(0, 0, 0), (1, 0, 2), (2, 0, 0)]
    );
    assert!(info.partitions[1].bytes > 0);
    assert!(log.topics().await.unwrap().contains(&info));
    assert_eq!(log.create_topic(&name, &spec).await.unwrap_err().code(), "log.topic_exists");
    log.delete_topic(&name).await.unwrap();
    assert_eq!(log.topic(&name).await.unwrap(), None);
    assert_eq!(log.delete_topic(&name).await.unwrap_err().code(), "log.unknown_topic");
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_codec_it_was_written_with() {
    let broker = shared();
    let log = open(&broker.bootstrap()).await;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let name = format!("{codec}-{:08x}", fastrand::u32(..));
        log.create_topic(&name, &TopicSpec::default()).await.unwrap();
        let lines: Vec<String> = (0..1000).map(|i| format!("{codec} {i:05} {}", "x".repeat(100))).collect();
        broker.produce(&name, &lines, &["-X", &format!("compression.codec={codec}")]);
        assert_eq!(values(&*log, &name, 0).await, lines, "{codec}");
    }
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_of_a_group_are_set_and_forgotten() {
    let broker = shared();
    let log = open(&broker.bootstrap()).await;
    let (name, group) = (format!("positions-{:08x}", fastrand::u32(..)), format!("connect-{:08x}", fastrand::u32(..)));
    let info = log.create_topic(&name, &TopicSpec { partitions: 2, ..TopicSpec::default() }).await.unwrap();
    let tp = |partition| TopicPartition::new(name.as_str(), partition);
    assert_eq!(log.group_positions(&group).await.unwrap(), []);
    log.alter_group(&group, &[(tp(0), Some(7)), (tp(1), Some(8))]).await.unwrap();
    let positions = log.group_positions(&group).await.unwrap();
    let seen: Vec<_> = positions.iter().map(|p| (p.partition, p.offset, p.topic_id == info.id, p.metadata.is_none())).collect();
    assert_eq!(seen, [(0, 7, true, true), (1, 8, true, true)]);
    log.alter_group(&group, &[(tp(0), None), (tp(1), Some(1))]).await.unwrap();
    assert_eq!(broker.admin().committed(&group), BTreeMap::from([((name.clone(), 1), 1)]));
    let unknown = log.alter_group(&group, &[(TopicPartition::new("nowhere", 0), None)]).await.unwrap_err();
    assert_eq!(unknown.code(), "log.unknown_topic");
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_is_told_in_time() {
    let free = kafka_services::free_port();
    for address in [format!("127.0.0.1:{free}"), format!("no-such-host.invalid:9092,127.0.0.1:{free}")] {
        let began = Instant::now();
        let error = KafkaLog::open(KafkaOptions::new(&address, "wrong")).await.err().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!((error.code(), error.is_retriable()), ("kafka.unreachable", true));
        assert!(error.message().contains(&address) && error.hint().unwrap().contains("bootstrap.servers"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_is_found_again() {
    let mut broker = kafka_services::Broker::start(kafka_services::Options::default());
    let log = open(&broker.bootstrap()).await;
    log.create_topic("kept", &TopicSpec::default()).await.unwrap();
    broker.produce("kept", &["a", "b"], &[]);
    assert_eq!(values(&*log, "kept", 0).await, ["a", "b"]);
    broker.kill9();
    // It tries until the broker is back.
    let waiting = {
        let log = log.clone();
        tokio::spawn(async move { values(&*log, "kept", 0).await })
    };
    let broker = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    })
    .await
    .unwrap();
    assert_eq!(waiting.await.unwrap(), ["a", "b"]);
    assert_eq!(log.topic("kept").await.unwrap().unwrap().partitions[0].end, 2);
    log.close().await.unwrap();
    drop(broker);
}
