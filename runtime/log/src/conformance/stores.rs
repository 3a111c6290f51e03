use super::*;
use aqueduct_log::Store;

pub(super) async fn saved_and_removed(cx: &mut Cx) {
    // Not Kafka Connect's: values of those have a form.
    let key = |key: &str| format!("aqueduct-{}", cx.unique(key));
    let (a, b, c) = (key("a"), key("b"), key("c é\"\\"));
    let ours = async |log: &Arc<dyn Log>, store| {
        let mut entries = log.load(store).await.unwrap();
        entries.retain(|key, _| [&a, &b, &c].contains(&key));
        entries
    };
    assert_eq!(ours(&cx.log, Store::Config).await, BTreeMap::new());
    let all_bytes: Vec<u8> = (0..=255).collect();
    let first = vec![(a.clone(), Some(b"1".to_vec())), (b.clone(), Some(all_bytes)), (c.clone(), Some(vec![]))];
    cx.log.save(Store::Config, first.clone()).await.unwrap();
    cx.log.save(Store::Status, vec![(a.clone(), Some(b"status".to_vec()))]).await.unwrap();
    cx.log.save(Store::Config, vec![(a.clone(), Some(b"2".to_vec())), (c.clone(), None), (c.clone(), None)]).await.unwrap();
    let mut log = cx.log.clone();
    for again in 0..2 {
        let entries = ours(&log, Store::Config).await;
        assert_eq!(entries.get(&a), Some(&b"2".to_vec()));
        assert_eq!(entries.get(&b), first[1].1.as_ref());
        assert_eq!(entries.len(), 2);
        assert_eq!(ours(&log, Store::Status).await, BTreeMap::from([(a.clone(), b"status".to_vec())]));
        if again == 0 {
            cx.reopen().await;
            log = cx.log.clone();
        }
    }
}

pub(super) async fn offsets_are_altered(cx: &mut Cx) {
    append(&mut *cx.writer(0).await, vec![], vec![offset("a", 1), offset("b", 1), offset("c", 1)]).await.unwrap();
    let connector = cx.unique("c");
    cx.log.alter_source_offsets(&connector, &[offset("a", 0), forget("b"), offset("d", 4), forget("never there")]).await.unwrap();
    for _ in 0..2 {
        let expected = [("a".to_owned(), 0), ("c".to_owned(), 1), ("d".to_owned(), 4)];
        assert_eq!(cx.offsets().await, expected);
        cx.reopen().await;
    }
    // The same partition, whatever the order of its keys.
    let keys = |text: &str| SourceOffset { partition: serde_json::from_str(text).unwrap(), offset: offset("", 1).offset };
    cx.log.alter_source_offsets(&cx.unique("k"), &[keys(r#"{"a":1,"b":2}"#)]).await.unwrap();
    cx.log.alter_source_offsets(&cx.unique("k"), &[keys(r#"{"b":2,"a":1}"#)]).await.unwrap();
    assert_eq!(cx.log.source_offsets(&cx.unique("k")).await.unwrap().len(), 1);
}

pub(super) async fn stats_count(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let before = cx.log.stats();
    assert!(!before.kind.is_empty());
    append(&mut *cx.writer(0).await, vec![record(&topic, "a"), record(&topic, "b")], vec![]).await.unwrap();
    let after = cx.log.stats();
    assert_eq!(after.records, before.records + 2);
    assert!(after.commits > before.commits && after.bytes > before.bytes);
    assert_eq!(after.stopped, None);
    let deadline = Instant::now() + SOON;
    while cx.log.stats().bytes_in_flight > 0 {
        assert!(Instant::now() < deadline, "bytes are in flight for ever");
        tokio::task::yield_now().await;
    }
}

pub(super) async fn closed_is_closed(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut member = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut member]).await;
    let mut writer = cx.writer(0).await;
    let commit = begin(&mut *writer, vec![record(&topic, "a")], vec![]).await.unwrap();
    cx.log.close().await.unwrap();
    commit.await.expect("close waits for what is in flight");
    assert_eq!(code(append(&mut *writer, vec![record(&topic, "b")], vec![]).await), "log.closed");
    assert_eq!(code(cx.log.topics().await), "log.closed");
    assert_eq!(code(cx.log.create_topic(&cx.unique("u"), &TopicSpec::default()).await), "log.closed");
    assert_eq!(code(cx.log.writer(&cx.task(0)).await), "log.closed");
    assert_eq!(code(cx.log.load(Store::Config).await), "log.closed");
    let tp = TopicPartition::new(topic.clone(), 0);
    assert_eq!(code(cx.log.fetch(&tp, 1, 100, SOON).await), "log.closed");
    // Records that were committed before may come first.
    let deadline = Instant::now() + SOON;
    while let Ok(step) = member.step(SHORT).await {
        assert!(step != "idle" && Instant::now() < deadline, "a reader goes on after close");
    }
    cx.log.close().await.expect("closing twice is fine");
}
