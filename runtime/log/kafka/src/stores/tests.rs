//! The stores over a log in memory.

use super::*;
use crate::options::KafkaOptions;
use aqueduct_core::TaskId;
use aqueduct_log::Log;
use aqueduct_log::memory::MemoryLog;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

#[derive(Default)]
struct Fake {
    log: MemoryLog,
    reads: AtomicUsize,
    /// So many reads see nothing: a transaction is open.
    hidden: AtomicUsize,
}

#[async_trait]
impl Internal for Fake {
    async fn ends(&self, topic: &str) -> Result<(Uuid, Vec<i64>)> {
        let info = self.log.topic(topic).await?.ok_or_else(|| crate::error::unknown_topic(topic))?;
        Ok((info.id, info.partitions.iter().map(|partition| partition.end).collect()))
    }

    async fn read(&self, tp: &TopicPartition, from: i64) -> Result<(Batch, i64)> {
        self.reads.fetch_add(1, Relaxed);
        if self.hidden.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Ok((Batch::default(), from));
        }
        let batch = self.log.fetch(tp, from, 100, Duration::ZERO).await?;
        let next = batch.iter().last().and_then(|record| record.origin()).map_or(from, |(_, offset)| offset + 1);
        Ok((batch, next))
    }

    async fn write(&self, records: Vec<Out>) -> Result<()> {
        let mut writer = self.log.writer(&TaskId::new("stores", 0)).await?;
        writer.append(Out::batch(records)?, Vec::new()).await?.await.map(drop)
    }

    async fn shape(&self, topic: &str) -> Result<Option<(i32, Option<String>)>> {
        let info = self.log.topic(topic).await?;
        Ok(info.map(|info| {
            (info.partitions.len() as i32, Some(info.configs.get("cleanup.policy").cloned().unwrap_or("delete".into())))
        }))
    }

    async fn create(&self, topic: &str, spec: &TopicSpec) -> Result<()> {
        self.log.create_topic(topic, spec).await.map(drop)
    }

    async fn brokers(&self) -> Result<usize> {
        Ok(1)
    }

    async fn open_transactions(&self, _: &TopicPartition) -> String {
        "producer id 7".to_owned()
    }
}

async fn fake() -> (Fake, KafkaSettings, Stores) {
    let (log, settings) = (Fake::default(), KafkaOptions::new("k:1", "g").settings);
    topics::ensure(&settings, &log).await.unwrap();
    let stores = Stores::new(&settings);
    (log, settings, stores)
}

fn offset(partition: serde_json::Value, offset: Option<i64>) -> SourceOffset {
    let offset = offset.map(|position| json!({ "position": position }).as_object().unwrap().clone());
    SourceOffset { partition: partition.as_object().unwrap().clone(), offset }
}

fn out(topic: &str, partition: i32, key: &str, value: Option<&str>) -> Out {
    Out { topic: topic.into(), partition, key: key.into(), value: value.map(Into::into) }
}

#[tokio::test]
async fn topics_are_created_as_kafka_connects_and_refused_like_them() {
    let (log, settings, _) = fake().await;
    for (topic, partitions) in [("g-configs", 1), ("g-offsets", 25), ("g-status", 5)] {
        assert_eq!(log.shape(topic).await.unwrap(), Some((partitions, Some("compact".into()))));
    }
    topics::ensure(&settings, &log).await.unwrap();
    for (topic, partitions, policy, says) in [
        (
            "two",
            2,
            "compact",
            "required to have a single partition in order to guarantee consistency of connector configurations, but found 2",
        ),
        ("deleted", 1, "delete", "but found the topic currently has 'cleanup.policy=delete'"),
        ("both", 1, "compact,delete", "'config.storage.topic' property is required to have 'cleanup.policy=compact'"),
    ] {
        let configs = [("cleanup.policy".to_owned(), policy.to_owned())].into();
        log.create(topic, &TopicSpec { partitions, configs, ..TopicSpec::default() }).await.unwrap();
        let mut settings = settings.clone();
        settings.config_topic.topic = topic.to_owned();
        let error = topics::ensure(&settings, &log).await.unwrap_err();
        assert!(error.code() == "kafka.internal_topic" && !error.is_retriable() && error.message().contains(says), "{error}");
    }
}

#[tokio::test]
async fn configs_and_statuses_come_back_and_stay_current() {
    let (log, settings, stores) = fake().await;
    let entries =
        |pairs: &[(&str, Option<&str>)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.map(|v| v.as_bytes().to_vec()))).collect();
    let config = r#"{"properties":{"name":"a"}}"#;
    stores.save(Store::Config, entries(&[("connector-a", Some(config)), ("aqueduct-folder-a", Some("{}"))]), &log).await.unwrap();
    // Kafka Connect writes too.
    log.write(vec![
        out("g-configs", 0, "task-a-0", Some("{}")),
        out("g-configs", 0, "commit-a", Some(r#"{"tasks":1}"#)),
        out("g-configs", 0, "target-state-a", Some(r#"{"state":"PAUSED","state.v2":"STOPPED"}"#)),
        out("g-configs", 0, "connector-b", Some(r#"{"properties":{"name":"b"}}"#)),
    ])
    .await
    .unwrap();
    let keys = |loaded: BTreeMap<String, Vec<u8>>| loaded.into_keys().collect::<Vec<_>>().join(" ");
    let loaded = stores.load(Store::Config, &log).await.unwrap();
    assert_eq!(loaded["target-state-a"], br#"{"state":"STOPPED"}"#);
    assert_eq!(keys(loaded), "aqueduct-folder-a connector-a connector-b target-state-a");
    stores
        .save(Store::Config, entries(&[("connector-a", Some(r#"{"properties":{"name":"c"}}"#)), ("connector-b", None)]), &log)
        .await
        .unwrap();
    // From the topic alone, as after a start.
    let again = Stores::new(&settings);
    assert_eq!(keys(again.load(Store::Config, &log).await.unwrap()), "aqueduct-folder-a connector-a target-state-a");
    assert_eq!(again.config.lock().await.entries["commit-a"], br#"{"tasks":0}"#);

    stores
        .save(Store::Status, entries(&[("status-connector-a", Some("{}")), ("status-task-a-0", Some("{}"))]), &log)
        .await
        .unwrap();
    stores.save(Store::Status, entries(&[("status-task-a-0", None)]), &log).await.unwrap();
    assert_eq!(keys(Stores::new(&settings).load(Store::Status, &log).await.unwrap()), "status-connector-a");
}

#[tokio::test]
async fn offsets_are_known_by_content_and_kept_under_their_key() {
    let (log, settings, stores) = fake().await;
    // As another client orders the fields, and twice, of which the later holds.
    let foreign = r#"["a",{"y":2,"x":1}]"#;
    let at = |key: &str| aqueduct_log::partitioner::partition_for_key(key.as_bytes(), 25);
    log.write(vec![
        out("g-offsets", at(foreign), foreign, Some(r#"{"position":5}"#)),
        out("g-offsets", 0, "no offset", Some("{}")),
    ])
    .await
    .unwrap();
    let p = json!({ "x": 1, "y": 2 });
    assert_eq!(stores.source_offsets("a", &log).await.unwrap(), [offset(p.clone(), Some(5))]);
    stores.alter_source_offsets("a", &[offset(p.clone(), Some(7)), offset(json!({ "z": 0 }), Some(1))], &log).await.unwrap();
    let offsets = stores.source_offsets("a", &log).await.unwrap();
    assert_eq!(offsets, [offset(p.clone(), Some(7)), offset(json!({ "z": 0 }), Some(1))]);
    let (batch, _) = log.read(&TopicPartition::new("g-offsets", at(foreign)), 1).await.unwrap();
    assert_eq!(table::bytes(batch.iter().next().unwrap().key()), Some(foreign.as_bytes()));
    stores.alter_source_offsets("a", &[offset(p, None)], &log).await.unwrap();
    assert_eq!(Stores::new(&settings).source_offsets("a", &log).await.unwrap().len(), 1);
    assert!(stores.source_offsets("b", &log).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connectors_own_topic_goes_before_the_workers() {
    let (log, _, stores) = fake().await;
    let p = json!({ "f": "x" });
    stores.alter_source_offsets("a", &[offset(p.clone(), Some(1)), offset(json!({ "f": "y" }), Some(2))], &log).await.unwrap();
    let config = br#"{"properties":{"offsets.storage.topic":"own"}}"#.to_vec();
    stores.save(Store::Config, vec![("connector-a".to_owned(), Some(config))], &log).await.unwrap();
    // The topic is not there yet.
    assert_eq!(stores.source_offsets("a", &log).await.unwrap().len(), 2);
    assert_eq!(stores.offset_target("a", &log).await.unwrap(), ("own".into(), 25));
    stores.alter_source_offsets("a", &[offset(p.clone(), Some(9))], &log).await.unwrap();
    let offsets = stores.source_offsets("a", &log).await.unwrap();
    assert_eq!(offsets, [offset(p.clone(), Some(9)), offset(json!({ "f": "y" }), Some(2))]);
    stores.alter_source_offsets("a", &[offset(p, None)], &log).await.unwrap();
    assert_eq!(stores.source_offsets("a", &log).await.unwrap(), [offset(json!({ "f": "y" }), Some(2))]);
    assert_eq!(stores.offset_target("b", &log).await.unwrap().0, "g-offsets".into());
}

#[tokio::test]
async fn memory_is_bounded() {
    let (log, _, stores) = fake().await;
    let many: Vec<_> = (0..200).map(|n| offset(json!({ "n": n }), Some(n))).collect();
    for connector in ["a", "b"] {
        stores.alter_source_offsets(connector, &many, &log).await.unwrap();
    }
    let shared = stores.offsets("g-offsets").await;
    let reads = |log: &Fake| log.reads.swap(0, Relaxed);
    reads(&log);
    assert_eq!((stores.source_offsets("a", &log).await.unwrap().len(), reads(&log) > 0), (200, true));
    assert_eq!((stores.source_offsets("b", &log).await.unwrap().len(), reads(&log)), (200, 0));
    shared.bound(1000).await;
    for connector in ["a", "b"] {
        assert_eq!((stores.source_offsets(connector, &log).await.unwrap().len(), reads(&log) > 0), (200, true));
    }
    assert_eq!(shared.kept().await, 0);
}

#[tokio::test]
async fn what_an_open_transaction_hides_is_waited_for() {
    let (log, _, stores) = fake().await;
    let p = offset(json!({ "f": "x" }), Some(3));
    stores.alter_source_offsets("a", std::slice::from_ref(&p), &log).await.unwrap();
    log.hidden.store(3, Relaxed);
    assert_eq!(stores.source_offsets("a", &log).await.unwrap(), [p]);
    assert_eq!(log.hidden.load(Relaxed), 0);
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_read_anew() {
    let (log, settings, stores) = fake().await;
    let entry = |key: &str| vec![(key.to_owned(), Some(b"{}".to_vec()))];
    for key in ["status-connector-a", "status-connector-b", "status-connector-c"] {
        stores.save(Store::Status, entry(key), &log).await.unwrap();
    }
    stores.load(Store::Status, &log).await.unwrap();
    log.log.delete_topic("g-status").await.unwrap();
    topics::ensure(&settings, &log).await.unwrap();
    assert!(stores.load(Store::Status, &log).await.unwrap().is_empty());
    stores.save(Store::Status, entry("status-connector-d"), &log).await.unwrap();
    assert_eq!(stores.load(Store::Status, &log).await.unwrap().len(), 1);
    // And though it has become longer than what was read.
    log.log.delete_topic("g-status").await.unwrap();
    topics::ensure(&settings, &log).await.unwrap();
    for _ in 0..20 {
        log.write((0..5).map(|partition| out("g-status", partition, "status-connector-e", Some("{}"))).collect()).await.unwrap();
    }
    assert_eq!(stores.load(Store::Status, &log).await.unwrap().into_keys().collect::<Vec<_>>(), ["status-connector-e"]);
}

/// However many connectors start behind a transaction that hangs, they wait once; and are told whose it is.
#[tokio::test]
async fn a_hanging_transaction_is_waited_for_once() {
    let (log, _, stores) = fake().await;
    stores.alter_source_offsets("a", &[offset(json!({ "f": "x" }), Some(3))], &log).await.unwrap();
    log.hidden.store(usize::MAX, Relaxed);
    let begin = tokio::time::Instant::now();
    let names: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
    let asked = names.iter().map(|name| stores.source_offsets(name, &log));
    for result in futures_util::future::join_all(asked).await {
        let error = result.unwrap_err();
        assert!(error.code() == "kafka.transaction_open" && error.message().contains("producer id 7"), "{error}");
    }
    // Each for itself would take 25 s.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    log.hidden.store(0, Relaxed);
    assert_eq!(stores.source_offsets("a", &log).await.unwrap().len(), 1);
}
