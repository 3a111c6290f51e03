use super::*;

fn partition(topic: &Topic) -> TopicPartition {
    TopicPartition::new(topic.clone(), 0)
}

fn first(batch: &Batch) -> Option<i64> {
    batch.iter().next().and_then(|record| record.origin()).map(|(_, offset)| offset)
}

/// 100 records of 1,000 bytes in batches of 10.
async fn fill(cx: &Cx, topic: &Topic) {
    let mut writer = cx.writer(0).await;
    for batch in 0..10 {
        let records = (0..10).map(|i| record(topic, &format!("{:01000}", batch * 10 + i))).collect();
        append(&mut *writer, records, vec![]).await.unwrap();
    }
}

pub(super) async fn at_least_one_and_about_max_bytes(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    fill(cx, &topic).await;
    let offsets = cx.offsets_in(&topic, 0).await;
    for _ in 0..2 {
        for (max_bytes, most) in [(0, 20), (1, 20), (20_000, 60), (1 << 20, 100)] {
            let (mut read, mut from, mut fetches) = (0, 0, 0);
            while read < 100 {
                let batch = cx.log.fetch(&partition(&topic), from, max_bytes, Duration::ZERO).await.unwrap();
                assert!((1..=most).contains(&batch.len()), "{} records for {max_bytes} bytes", batch.len());
                for record in batch.iter() {
                    assert_eq!(record.origin().unwrap().1, offsets[read]);
                    assert_eq!(value(&record.to_record()), format!("{read:01000}"));
                    from = offsets[read] + 1;
                    read += 1;
                }
                fetches += 1;
            }
            assert!(fetches >= 100 / most);
        }
        cx.reopen().await;
    }
}

pub(super) async fn from_the_middle_of_a_batch(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    fill(cx, &topic).await;
    let offsets = cx.offsets_in(&topic, 0).await;
    for index in [0, 1, 9, 10, 15, 99] {
        let from = offsets[index];
        let batch = cx.log.fetch(&partition(&topic), from, 1, Duration::ZERO).await.unwrap();
        assert_eq!(first(&batch), Some(from));
    }
}

pub(super) async fn below_the_start_and_at_the_end(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    assert!(cx.log.fetch(&partition(&topic), 0, 100, SHORT).await.unwrap().is_empty());
    cx.produce(&topic, &["a", "b"]).await;
    for from in [-5, i64::MIN, 0] {
        assert_eq!(first(&cx.log.fetch(&partition(&topic), from, 100, Duration::ZERO).await.unwrap()), Some(0));
    }
    for from in [2, 3, i64::MAX] {
        let began = Instant::now();
        assert!(cx.log.fetch(&partition(&topic), from, 100, SHORT).await.unwrap().is_empty());
        assert!(began.elapsed() >= SHORT / 2, "did not wait for a first record");
    }
}

pub(super) async fn woken_by_a_commit(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut from = 0;
    for _ in 0..5 {
        let tp = partition(&topic);
        let fetch = async {
            let began = Instant::now();
            let batch = cx.log.fetch(&tp, from, 100, SOON * 2).await.unwrap();
            assert!(began.elapsed() < SOON, "a waiting fetch was not woken");
            first(&batch).unwrap()
        };
        let (offset, ()) = tokio::join!(fetch, async {
            tokio::task::yield_now().await;
            cx.produce(&topic, &["x"]).await;
        });
        assert!(offset == from || cx.site.has_gaps() && offset > from, "{offset} instead of {from}");
        from = offset + 1;
    }
}

pub(super) async fn unknown_is_an_error(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let missing = TopicPartition::new(cx.unique("missing"), 0);
    assert_eq!(code(cx.log.fetch(&missing, 0, 100, Duration::ZERO).await), "log.unknown_topic");
    assert_eq!(code(cx.log.offset_for_timestamp(&missing, 0).await), "log.unknown_topic");
    for partition in [1, -1] {
        let missing = TopicPartition::new(topic.clone(), partition);
        assert_eq!(code(cx.log.fetch(&missing, 0, 100, Duration::ZERO).await), "log.unknown_partition");
    }
}

pub(super) async fn offsets_for_timestamps(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    let mut writer = cx.writer(0).await;
    let stamps = [100, 300, 200, 300, 500, 400, 400, 700];
    for pair in stamps.chunks(2) {
        let records = pair.iter().map(|stamp| Record { timestamp: Some(*stamp), ..record(&topic, "v") }).collect();
        append(&mut *writer, records, vec![]).await.unwrap();
    }
    let offsets = cx.offsets_in(&topic, 0).await;
    for _ in 0..2 {
        for timestamp in [i64::MIN, 0, 100, 101, 200, 201, 300, 301, 400, 499, 500, 501, 700, 701, i64::MAX] {
            let expected = stamps.iter().position(|stamp| *stamp >= timestamp).map(|index| offsets[index]);
            assert_eq!(cx.log.offset_for_timestamp(&partition(&topic), timestamp).await.unwrap(), expected, "{timestamp}");
        }
        cx.reopen().await;
    }
    let empty = cx.topic("empty", 1).await;
    assert_eq!(cx.log.offset_for_timestamp(&partition(&empty), 0).await.unwrap(), None);
}

pub(super) async fn compressed_topics(cx: &mut Cx) {
    for compression in ["none", "lz4", "zstd"] {
        let topic = cx.topic_with(compression, 1, &[("compression.type", compression)]).await;
        fill(cx, &topic).await;
        cx.reopen().await;
        let expected: Vec<_> = (0..100).map(|i| format!("{i:01000}")).collect();
        assert_eq!(cx.values(&topic, 0).await, expected, "{compression}");
        let from = cx.offsets_in(&topic, 0).await[55];
        assert_eq!(first(&cx.log.fetch(&partition(&topic), from, 1, Duration::ZERO).await.unwrap()), Some(from));
    }
}
