use super::*;
use aqueduct_core::{Header, Payload};
use aqueduct_log::partitioner::partition_for_key;
use std::time::SystemTime;

pub(super) async fn offsets_follow_each_other(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let tp = TopicPartition::new(topic.clone(), 0);
    let mut offsets = Vec::new();
    for count in [1, 3, 2] {
        let mut writer = cx.writer(0).await;
        let written = offsets.len();
        let records = (0..count).map(|i| record(&topic, &format!("{}", written + i))).collect();
        let appended = append(&mut *writer, records, vec![]).await.unwrap();
        let [(partition, first, end)] = &appended.ranges[..] else { panic!("{appended:?}") };
        assert_eq!((partition, end - first), (&tp, count as i64));
        assert!(appended.bytes > 0);
        offsets.extend(*first..*end);
        cx.reopen().await;
    }
    assert_eq!(cx.offsets_in(&topic, 0).await, offsets);
    assert_eq!(cx.values(&topic, 0).await, (0..6).map(|i| i.to_string()).collect::<Vec<_>>());
}

pub(super) async fn records_come_back_as_they_went(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let header = |name: &str, value: Payload| Header { name: name.into(), value };
    let bytes = |bytes: &'static [u8]| Payload::Bytes(bytes.into());
    let mut full = record(&topic, "value");
    full.key = "key".into();
    full.timestamp = Some(1_700_000_000_123);
    full.headers = vec![header("h", "1".into()), header("h", Payload::Null), header("", bytes(b"\0\xff"))];
    let tombstone = Record { key: "key".into(), value: Payload::Null, timestamp: Some(0), ..record(&topic, "") };
    let empty = Record { key: bytes(b""), timestamp: Some(5), ..record(&topic, "") };
    let binary = Record { value: bytes(&[0, 255, 10, 13]), timestamp: Some(6), ..record(&topic, "") };
    let large = Record { timestamp: Some(7), key: "k".repeat(10_000).into(), ..record(&topic, &"v".repeat(300_000)) };
    let sent = vec![full, tombstone, empty, binary, large];
    append(&mut *cx.writer(0).await, sent.clone(), vec![]).await.unwrap();
    for _ in 0..2 {
        let read = cx.read_all(&topic, 0).await;
        assert_eq!(read.len(), sent.len());
        for (index, (read, sent)) in read.into_iter().zip(&sent).enumerate() {
            let origin = read.origin.clone().unwrap();
            assert_eq!((&*origin.partition, origin.offset), (&TopicPartition::new(topic.clone(), 0), index as i64));
            assert_eq!(read.partition, Some(0));
            assert_eq!(Record { origin: None, partition: None, ..read }, *sent, "record {index}");
        }
        cx.reopen().await;
    }
}

pub(super) async fn records_and_offsets_together(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut writer = cx.writer(0).await;
    for i in 1..=20 {
        let commit = begin(&mut *writer, vec![record(&topic, "r")], vec![offset("a", i), offset("b", -i)]).await.unwrap();
        // At every moment as many records as the offset says: this is read before, at and after the commit.
        let (before, end, after) = (cx.offsets().await, cx.count(&topic, 0).await, cx.offsets().await);
        let stored = |offsets: &[(String, i64)]| offsets.first().map_or(0, |(_, n)| *n);
        assert!(stored(&before) <= end && end <= stored(&after), "{before:?} {end} {after:?}");
        commit.await.unwrap();
        assert_eq!(cx.offsets().await, [("a".to_owned(), i), ("b".to_owned(), -i)]);
        assert_eq!(cx.count(&topic, 0).await, i);
    }
    cx.reopen().await;
    assert_eq!(cx.offsets().await, [("a".to_owned(), 20), ("b".to_owned(), -20)]);
    assert_eq!(cx.count(&topic, 0).await, 20);
}

pub(super) async fn many_partitions_in_one_commit(cx: &mut Cx) {
    let (a, b) = (cx.topic("a", 3).await, cx.topic("b", 1).await);
    let records = vec![to(&a, 2, "1"), to(&b, 0, "2"), to(&a, 0, "3"), to(&a, 2, "4"), to(&b, 0, "5")];
    let mut appended = append(&mut *cx.writer(0).await, records, vec![]).await.unwrap();
    appended.ranges.sort();
    let tp = |topic: &Topic, partition| TopicPartition::new(topic.clone(), partition);
    assert_eq!(appended.ranges, [(tp(&a, 0), 0, 1), (tp(&a, 2), 0, 2), (tp(&b, 0), 0, 2)]);
    cx.reopen().await;
    assert_eq!(cx.values(&a, 0).await, ["3"]);
    assert_eq!(cx.values(&a, 1).await, [""; 0]);
    assert_eq!(cx.values(&a, 2).await, ["1", "4"]);
    assert_eq!(cx.values(&b, 0).await, ["2", "5"]);
}

pub(super) async fn an_empty_batch_with_offsets(cx: &mut Cx) {
    let mut writer = cx.writer(0).await;
    let appended = append(&mut *writer, vec![], vec![offset("a", 7)]).await.unwrap();
    assert_eq!(appended.ranges, []);
    cx.reopen().await;
    assert_eq!(cx.offsets().await, [("a".to_owned(), 7)]);
}

pub(super) async fn a_tombstone_forgets(cx: &mut Cx) {
    append(&mut *cx.writer(0).await, vec![], vec![offset("a", 1), offset("b", 1)]).await.unwrap();
    // Offsets belong to the connector: another task moves them on.
    append(&mut *cx.writer(1).await, vec![], vec![forget("a"), offset("b", 2)]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(cx.offsets().await, [("b".to_owned(), 2)]);
        cx.reopen().await;
    }
    let other = cx.log.source_offsets(&cx.unique("d")).await.unwrap();
    assert_eq!(other, []);
}

pub(super) async fn commits_resolve_in_order(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let mut writer = cx.writer(0).await;
    let mut commits = Vec::new();
    for i in 0..60 {
        let values = vec![to(&topic, i % 2, &"x".repeat(1 + (i as usize * 997) % 5000))];
        commits.push(begin(&mut *writer, values, vec![offset("a", i64::from(i))]).await.unwrap());
    }
    // As soon as one is resolved, so are those before it.
    let later = commits.split_off(23);
    for mut commits in [commits, later] {
        commits.pop().unwrap().await.unwrap();
        for commit in commits {
            commit.now_or_never().expect("an earlier append is still open").unwrap();
        }
    }
}

pub(super) async fn a_dropped_commit_happens(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut writer = cx.writer(0).await;
    drop(begin(&mut *writer, vec![record(&topic, "a")], vec![offset("a", 1)]).await.unwrap());
    drop(begin(&mut *writer, vec![record(&topic, "b")], vec![offset("a", 2)]).await.unwrap());
    drop(writer);
    let deadline = Instant::now() + SOON;
    while cx.count(&topic, 0).await < 2 {
        assert!(Instant::now() < deadline, "dropped commits did not happen");
        tokio::task::yield_now().await;
    }
    assert_eq!(cx.offsets().await, [("a".to_owned(), 2)]);
}

/// An append that fails leaves nothing: neither the records that were fine nor the offsets.
async fn keeps_nothing(cx: &mut Cx, topic: &Topic, bad: Record, expected: &str) {
    append(&mut *cx.writer(0).await, vec![to(topic, 0, "good")], vec![offset("a", 1)]).await.unwrap();
    let mut writer = cx.writer(0).await;
    let result = append(&mut *writer, vec![to(topic, 0, "half"), bad], vec![offset("a", 2)]).await;
    let error = result.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), (expected, false));
    for _ in 0..2 {
        assert_eq!(cx.values(topic, 0).await, ["good"]);
        assert_eq!(cx.offsets().await, [("a".to_owned(), 1)]);
        cx.reopen().await;
    }
}

pub(super) async fn unknown_topic_keeps_nothing(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let bad = record(&cx.unique("missing").into(), "bad");
    keeps_nothing(cx, &topic, bad, "log.unknown_topic").await;
}

pub(super) async fn unknown_partition_keeps_nothing(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    keeps_nothing(cx, &topic, to(&topic, 2, "bad"), "log.unknown_partition").await;
    for partition in [-1, i32::MAX] {
        let result = append(&mut *cx.writer(0).await, vec![to(&topic, partition, "bad")], vec![]).await;
        assert_eq!(code(result), "log.unknown_partition", "{partition}");
    }
}

pub(super) async fn too_large_keeps_nothing(cx: &mut Cx) {
    let topic = cx.topic_with("t", 1, &[("max.message.bytes", "1000")]).await;
    keeps_nothing(cx, &topic, record(&topic, &"x".repeat(2000)), "log.record_too_large").await;
    append(&mut *cx.writer(0).await, vec![record(&topic, &"x".repeat(500)); 10], vec![]).await.unwrap();
}

pub(super) async fn a_failed_append_poisons_its_writer(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let missing = cx.unique("missing").into();
    let mut writer = cx.writer(0).await;
    append(&mut *writer, vec![record(&topic, "a")], vec![offset("a", 1)]).await.unwrap();
    append(&mut *writer, vec![record(&missing, "b")], vec![offset("a", 2)]).await.unwrap_err();
    // A retry must not overtake: not even what would be fine.
    append(&mut *writer, vec![record(&topic, "c")], vec![offset("a", 3)]).await.unwrap_err();
    append(&mut *writer, vec![], vec![offset("a", 3)]).await.unwrap_err();
    assert_eq!(cx.offsets().await, [("a".to_owned(), 1)]);
    let mut writer = cx.writer(0).await;
    append(&mut *writer, vec![record(&topic, "b")], vec![offset("a", 2)]).await.unwrap();
    assert_eq!(cx.values(&topic, 0).await, ["a", "b"]);
}

pub(super) async fn a_newer_writer_fences(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut old = cx.writer(0).await;
    append(&mut *old, vec![record(&topic, "a")], vec![offset("a", 1)]).await.unwrap();
    let mut new = cx.writer(0).await;
    for _ in 0..2 {
        let error = append(&mut *old, vec![record(&topic, "zombie")], vec![offset("a", 9)]).await.unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("log.fenced", false));
    }
    append(&mut *new, vec![record(&topic, "b")], vec![offset("a", 2)]).await.unwrap();
    assert_eq!(code(append(&mut *old, vec![], vec![offset("a", 9)]).await), "log.fenced");
    // In flight while the newer one is opened: it is in the log before, or never.
    let mut last = cx.writer(0).await;
    let commits =
        [begin(&mut *last, vec![record(&topic, "c")], vec![]).await, begin(&mut *last, vec![record(&topic, "d")], vec![]).await];
    let mut newest = cx.writer(0).await;
    let before = cx.values(&topic, 0).await;
    append(&mut *newest, vec![record(&topic, "e")], vec![]).await.unwrap();
    let mut expected = before;
    expected.push("e".to_owned());
    assert_eq!(cx.values(&topic, 0).await, expected);
    for (commit, value) in commits.into_iter().zip(["c", "d"]) {
        match commit.unwrap().await {
            Ok(_) => assert!(expected.contains(&value.to_owned())),
            Err(error) => assert!(error.code() == "log.fenced" && !expected.contains(&value.to_owned()), "{error}"),
        }
    }
    assert_eq!(cx.offsets().await, [("a".to_owned(), 2)]);
}

pub(super) async fn another_task_does_not_fence(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let (mut first, mut second) = (cx.writer(0).await, cx.writer(1).await);
    append(&mut *first, vec![record(&topic, "a")], vec![]).await.unwrap();
    append(&mut *second, vec![record(&topic, "b")], vec![]).await.unwrap();
    append(&mut *first, vec![record(&topic, "c")], vec![]).await.unwrap();
    assert_eq!(cx.values(&topic, 0).await, ["a", "b", "c"]);
}

pub(super) async fn keys_by_murmur2(cx: &mut Cx) {
    let topic = cx.topic("t", 7).await;
    let keys: Vec<String> = (0..100).map(|i| format!("key-{i}")).chain(["".to_owned(), "é".to_owned()]).collect();
    let records = keys.iter().map(|key| Record { key: key.clone().into(), ..record(&topic, key) }).collect();
    append(&mut *cx.writer(0).await, records, vec![]).await.unwrap();
    for partition in 0..7 {
        let here: Vec<_> = keys.iter().filter(|key| partition_for_key(key.as_bytes(), 7) == partition).cloned().collect();
        assert_eq!(cx.values(&topic, partition).await, here);
    }
}

pub(super) async fn a_given_partition_wins(cx: &mut Cx) {
    let topic = cx.topic("t", 7).await;
    let records = (0..7).map(|partition| Record { key: "same".into(), ..to(&topic, partition, "v") }).collect();
    append(&mut *cx.writer(0).await, records, vec![]).await.unwrap();
    for partition in 0..7 {
        assert_eq!(cx.values(&topic, partition).await, ["v"]);
    }
}

pub(super) async fn keyless_stay_together_and_take_turns(cx: &mut Cx) {
    let topic = cx.topic("t", 3).await;
    let mut writer = cx.writer(0).await;
    for _ in 0..6 {
        let mut records = vec![record(&topic, "v"); 4];
        records[1].key = "k".into();
        append(&mut *writer, records, vec![]).await.unwrap();
    }
    let keyed = partition_for_key(b"k", 3);
    for partition in 0..3 {
        let keyless = cx.read_all(&topic, partition).await.iter().filter(|record| record.key.is_null()).count();
        assert_eq!(keyless, 6, "two calls of three records each in partition {partition}");
    }
    assert_eq!(cx.count(&topic, keyed).await, 12);
}

pub(super) async fn timestamps(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let before = now();
    let records = vec![record(&topic, "now"), Record { timestamp: Some(1000), ..record(&topic, "then") }, record(&topic, "now")];
    append(&mut *cx.writer(0).await, records, vec![]).await.unwrap();
    let after = now();
    cx.reopen().await;
    let stamps: Vec<_> = cx.read_all(&topic, 0).await.iter().map(|record| record.timestamp.unwrap()).collect();
    assert_eq!(stamps[1], 1000);
    assert!([stamps[0], stamps[2]].iter().all(|stamp| (before..=after).contains(stamp)), "{before} {stamps:?} {after}");
}

pub(super) async fn order_of_concurrent_writers(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let write = async |task: u32| {
        let mut writer = cx.writer(task).await;
        let mut commits = Vec::new();
        for i in 0..40 {
            let name = format!("{task}");
            commits
                .push(begin(&mut *writer, vec![to(&topic, 0, &format!("{task} {i:03}"))], vec![offset(&name, i)]).await.unwrap());
        }
        for commit in commits {
            commit.await.unwrap();
        }
    };
    tokio::join!(write(0), write(1), write(2), write(3));
    cx.reopen().await;
    let values = cx.values(&topic, 0).await;
    assert_eq!(values.len(), 160);
    for task in 0..4 {
        let of_task: Vec<_> = values.iter().filter(|value| value.starts_with(&format!("{task} "))).collect();
        assert_eq!(of_task.len(), 40);
        assert!(of_task.is_sorted(), "{of_task:?}");
    }
    let offsets: Vec<_> = (0..4).map(|task| (task.to_string(), 39)).collect();
    assert_eq!(cx.offsets().await, offsets);
}

/// Appends are pipelined: none waits for the commit of another.
pub(super) async fn appends_wait_for_nothing_but_room(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut writer = cx.writer(0).await;
    let mut commits = Vec::new();
    for i in 0..30 {
        let begun = begin(&mut *writer, vec![record(&topic, &i.to_string())], vec![]);
        commits.push(tokio::time::timeout(SOON, begun).await.expect("an append waits for a commit that nobody polls").unwrap());
    }
    for (i, commit) in commits.into_iter().enumerate() {
        assert_eq!(commit.await.unwrap().ranges[0].1, i as i64);
    }
}
