//! Topics, offsets, fetching and positions on a real broker, with kcat as the independent writer.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]
#![allow(clippy::disallowed_methods, reason = "the test owns what it spawns")]

use aqueduct_core::{Batch, Error, PayloadRef, Record, TopicPartition, Topics};
use aqueduct_log::{EncodedBatch, Fetch, Log, LogReader, TopicSpec};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use kafka_services::{Action, Broker, Options, Side, shared, wire};
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

const SOON: Duration = Duration::from_secs(90);

/// Until it has something, or fails.
async fn next(reader: &mut dyn LogReader) -> Result<Fetch, Error> {
    let deadline = Instant::now() + SOON;
    loop {
        match reader.next(1 << 20, Duration::from_secs(1)).await {
            Ok(Fetch::Idle) => assert!(Instant::now() < deadline, "nothing for {SOON:?}"),
            result => return result,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_beyond_the_end_is_an_error_and_not_lag_0_for_ever() {
    let broker = shared();
    let (name, group) = (format!("beyond-{:08x}", fastrand::u32(..)), format!("connect-{:08x}", fastrand::u32(..)));
    let log = open(&broker.bootstrap()).await;
    log.create_topic(&name, &TopicSpec::default()).await.unwrap();
    broker.produce(&name, &["a", "b", "c"], &[]);
    log.alter_group(&group, &[(TopicPartition::new(name.as_str(), 0), Some(100))]).await.unwrap();
    let topics = Topics::Names(vec![name.as_str().into()]);
    let mut reader = log.reader(&group, "m-0", &topics).await.unwrap();
    assert!(matches!(next(&mut *reader).await.unwrap(), Fetch::Assigned(_)));
    let began = Instant::now();
    let error = next(&mut *reader).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("kafka.position_beyond_end", false));
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    assert!([&*name, "partition 0", "100", "end 3"].iter().all(|part| error.message().contains(part)), "{error}");
    reader.close().await.unwrap();
    log.close().await.unwrap();

    let mut options = KafkaOptions::new(&broker.bootstrap(), &format!("core-{:08x}", fastrand::u32(..)));
    options.settings.consumer.0.insert("auto.offset.reset".to_owned(), "earliest".to_owned());
    let log = KafkaLog::open(options).await.unwrap();
    let mut reader = log.reader(&group, "m-0", &topics).await.unwrap();
    assert!(matches!(next(&mut *reader).await.unwrap(), Fetch::Assigned(_)));
    let Fetch::Records(batch) = next(&mut *reader).await.unwrap() else { panic!("no records") };
    assert_eq!(batch.iter().map(|record| record.origin().unwrap().1).collect::<Vec<_>>(), [0, 1, 2]);
    reader.close().await.unwrap();
    log.close().await.unwrap();
}

/// As a worker that is killed between TxnOffsetCommit and EndTxn leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_in_a_letter_transaction_that_was_left_open_are_read_at_once() {
    let broker = Broker::start(Options::proxied());
    let (name, letters) = ("orders", "letters");
    let log = open(&broker.bootstrap()).await;
    for topic in [name, letters] {
        log.create_topic(topic, &TopicSpec::default()).await.unwrap();
    }
    broker.produce(name, &["a", "b", "c"], &[]);
    let topics = Topics::Names(vec![name.into()]);
    let open_as = async |bootstrap: &str| KafkaLog::open(KafkaOptions::new(bootstrap, "unstable")).await.unwrap();
    let killed = open_as(&broker.proxied()).await;
    let mut reader = killed.reader("connect-s", "s-0", &topics).await.unwrap();
    let Fetch::Assigned(mut positions) = next(&mut *reader).await.unwrap() else { panic!("not assigned") };
    positions[0].offset = 1;
    reader.commit(&positions, EncodedBatch::default()).await.unwrap();
    positions[0].offset = 2;
    let end = broker.proxy().rule(wire::END_TXN, Side::Request, Action::Drop, u32::MAX);
    let letter: Batch = [Record::new(letters, "bad".to_owned())].into_iter().collect();
    tokio::select! {
        result = reader.commit(&positions, EncodedBatch::new(letter).unwrap()) => panic!("{result:?}"),
        () = async { while end.caught() == 0 { tokio::task::yield_now().await } } => {}
    }
    // It is gone without a word.
    broker.proxy().blackhole(true);

    let log2 = open_as(&broker.bootstrap()).await;
    let began = Instant::now();
    let mut reader2 = log2.reader("connect-s", "s-0", &topics).await.unwrap();
    let Fetch::Assigned(positions) = next(&mut *reader2).await.unwrap() else { panic!("not assigned") };
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(positions[0].offset, 1, "the transaction was given up");
    assert_eq!(broker.lines(letters), Vec::<String>::new());
    reader2.close().await.unwrap();
    log2.close().await.unwrap();
    log.close().await.unwrap();
}
