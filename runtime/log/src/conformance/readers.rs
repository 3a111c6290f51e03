use super::*;

pub(super) async fn from_the_earliest(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let id = cx.log.topic(&topic).await.unwrap().unwrap().id;
    append(&mut *cx.writer(0).await, vec![to(&topic, 0, "a"), to(&topic, 1, "b"), to(&topic, 0, "c")], vec![]).await.unwrap();
    let mut member = cx.member("g", "m", &[&topic]).await;
    assert_eq!(member.step(SOON).await.unwrap(), "assigned", "before any record");
    for (partition, position) in (0..2).zip(member.assigned.values()) {
        let expected = LogPosition { topic: topic.clone(), topic_id: id, partition, offset: 0, metadata: None };
        assert_eq!(*position, expected);
    }
    member.until_read(3).await;
    let mut values = member.values();
    values.sort_unstable();
    assert_eq!(values, ["a", "b", "c"]);
}

pub(super) async fn positions_and_metadata_are_kept(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    cx.produce(&topic, &["a", "b", "c"]).await;
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(3).await;
    let assigned = member.assigned.values().next().unwrap().clone();
    let metadata = format!("length=12 {}", "é".repeat(1000));
    let position = LogPosition { offset: 2, metadata: Some(metadata.as_str().into()), ..assigned };
    member.reader.commit(std::slice::from_ref(&position), EncodedBatch::default()).await.unwrap();
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), std::slice::from_ref(&position));
    drop(member);
    cx.reopen().await;
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), std::slice::from_ref(&position));
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(1).await;
    assert_eq!(member.values(), ["c"]);
    assert_eq!(member.assigned.values().next(), Some(&position));
    let without = LogPosition { offset: 3, metadata: None, ..position };
    member.reader.commit(std::slice::from_ref(&without), EncodedBatch::default()).await.unwrap();
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), [without]);
}

pub(super) async fn woken_without_polling(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let mut members = [cx.member("g", "m", &[&topic]).await, cx.member("h", "m", &[&topic]).await];
    for member in &mut members {
        settle(&mut [member]).await;
    }
    let [first, second] = &mut members;
    for i in 0..5 {
        let wait = async |member: &mut Member| {
            let began = Instant::now();
            assert_eq!(member.step(SOON * 2).await.unwrap(), "records");
            assert!(began.elapsed() < SOON, "a waiting reader was not woken");
        };
        tokio::join!(wait(first), wait(second), async {
            tokio::task::yield_now().await;
            append(&mut *cx.writer(0).await, vec![to(&topic, i % 2, "v")], vec![]).await.unwrap();
        });
    }
}

pub(super) async fn idle_when_nothing_comes(cx: &mut Cx) {
    let (topic, other) = (cx.topic("t", 1).await, cx.topic("other", 1).await);
    let mut member = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut member]).await;
    cx.produce(&other, &["not mine"]).await;
    let began = Instant::now();
    assert_eq!(member.step(SHORT).await.unwrap(), "idle");
    assert!(began.elapsed() >= SHORT / 2, "did not wait");
    assert_eq!(member.step(Duration::ZERO).await.unwrap(), "idle");
}

/// A reader whose `next` is dropped again and again while records come.
pub(super) async fn dropping_next_loses_nothing(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let mut member = cx.member("g", "m", &[&topic]).await;
    let produce = async {
        let mut writer = cx.writer(0).await;
        for i in 0..200 {
            let commit = begin(&mut *writer, vec![to(&topic, i % 2, &i.to_string())], vec![]).await.unwrap();
            if i % 8 == 0 {
                commit.await.unwrap();
            }
        }
    };
    let read = async {
        let deadline = Instant::now() + SOON;
        let mut drops = 0u32;
        while member.read.len() < 200 {
            assert!(Instant::now() < deadline, "only {} of 200 records", member.read.len());
            // Polled a few times, then dropped. What it would have said comes with the next call.
            let step = member.step(SOON);
            tokio::pin!(step);
            for _ in 0..=drops % 3 {
                if let Some(outcome) = (&mut step).now_or_never() {
                    outcome.unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            drops += 1;
        }
    };
    tokio::join!(produce, read);
    assert_eq!(member.read.len(), 200);
}

pub(super) async fn seeks(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    cx.produce(&topic, &["a", "b", "c", "d"]).await;
    let tp = TopicPartition::new(topic.clone(), 0);
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(4).await;
    for (offset, expected) in [(1, &["b", "c", "d"][..]), (3, &["d"]), (0, &["a", "b", "c", "d"]), (4, &[])] {
        member.reader.seek(&tp, offset).await.unwrap();
        member.next.insert(tp.clone(), offset);
        member.read.clear();
        member.until_read(expected.len()).await;
        assert_eq!(member.step(SHORT).await.unwrap(), "idle");
        assert_eq!(member.values(), expected);
    }
    cx.produce(&topic, &["e"]).await;
    member.until_read(1).await;
    assert_eq!(member.values(), ["e"]);
}

pub(super) async fn only_what_is_assigned(cx: &mut Cx) {
    let (topic, other) = (cx.topic("t", 1).await, cx.topic("other", 1).await);
    let mut member = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut member]).await;
    let mine = member.assigned.values().next().unwrap().clone();
    let id = cx.log.topic(&other).await.unwrap().unwrap().id;
    let foreign = LogPosition { topic: other.clone(), topic_id: id, ..mine.clone() };
    let error = member.reader.seek(&foreign.topic_partition(), 0).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("log.not_assigned", false));
    // All or none.
    let both = [LogPosition { offset: 5, ..mine }, foreign];
    assert_eq!(code(member.reader.commit(&both, EncodedBatch::default()).await), "log.not_assigned");
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), []);
}

pub(super) async fn bounded_and_in_order(cx: &mut Cx) {
    let topic = cx.topic("t", 3).await;
    let mut writer = cx.writer(0).await;
    for i in 0..60 {
        append(&mut *writer, vec![to(&topic, i % 3, &format!("{i:01000}"))], vec![]).await.unwrap();
    }
    let mut member = cx.member("g", "m", &[&topic]).await;
    settle_assigned(&mut member).await;
    let mut read = 0;
    while read < 60 {
        let Fetch::Records(batch) = member.reader.next(10_000, SOON).await.unwrap() else {
            panic!("neither records nor the end")
        };
        assert!((1..=40).contains(&batch.len()), "{} records of 1,000 bytes for about 10,000", batch.len());
        member.take(&batch);
        read += batch.len();
    }
    assert_eq!(read, 60);
}

async fn settle_assigned(member: &mut Member) {
    assert_eq!(member.step(SOON).await.unwrap(), "assigned");
}

pub(super) async fn lag_counts_what_is_left(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    append(&mut *cx.writer(0).await, vec![to(&topic, 0, "a"), to(&topic, 0, "b"), to(&topic, 1, "c")], vec![]).await.unwrap();
    let mut member = cx.member("g", "m", &[&topic]).await;
    assert_eq!(member.reader.lag(), []);
    settle_assigned(&mut member).await;
    let lag = |member: &Member| {
        let mut lag = member.reader.lag();
        lag.sort();
        lag.into_iter().map(|(tp, lag)| (tp.partition, lag)).collect::<Vec<_>>()
    };
    // Where commits end with an entry of their own, that counts too.
    let ends = i64::from(cx.site.has_gaps());
    let about = |lag: Vec<(i32, i64)>, least: [i64; 2], commits: [i64; 2]| {
        let fits = |(partition, lag): &(i32, i64)| {
            let at = *partition as usize;
            (least[at]..=least[at] + ends * commits[at]).contains(lag)
        };
        assert!(lag.len() == 2 && lag.iter().all(fits), "{lag:?} instead of about {least:?}");
    };
    about(lag(&member), [2, 1], [1, 1]);
    member.until_read(3).await;
    about(lag(&member), [0, 0], [1, 1]);
    cx.produce(&topic, &["d"]).await;
    if cx.site.has_gaps() {
        // The end of the log comes with the next answer of the broker.
        member.until_read(4).await;
        about(lag(&member), [0, 0], [1, 1]);
    } else {
        about(lag(&member), [1, 0], [0, 0]);
    }
}
