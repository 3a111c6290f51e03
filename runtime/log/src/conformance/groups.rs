use super::*;

fn partitions(member: &Member) -> Vec<i32> {
    member.assigned.keys().map(|tp| tp.partition).collect()
}

/// One record for each partition, of this text.
async fn one_each(cx: &Cx, topic: &Topic, partitions: i32, value: &str) {
    let records = (0..partitions).map(|partition| to(topic, partition, value)).collect();
    append(&mut *cx.writer(0).await, records, vec![]).await.unwrap();
}

pub(super) async fn members_share_evenly(cx: &mut Cx) {
    let topic = cx.topic("t", 7).await;
    one_each(cx, &topic, 7, "before").await;
    let mut a = cx.member("g", "a", &[&topic]).await;
    settle(&mut [&mut a]).await;
    assert_eq!(partitions(&a), [0, 1, 2, 3, 4, 5, 6]);
    let mut b = cx.member("g", "b", &[&topic]).await;
    settle(&mut [&mut a, &mut b]).await;
    let mut shares = [partitions(&a).len(), partitions(&b).len()];
    shares.sort_unstable();
    assert_eq!(shares, [3, 4]);
    let mut c = cx.member("g", "c", &[&topic]).await;
    settle(&mut [&mut a, &mut b, &mut c]).await;
    let mut all = [partitions(&a), partitions(&b), partitions(&c)].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
    one_each(cx, &topic, 7, "after").await;
    settle(&mut [&mut a, &mut b, &mut c]).await;
    // What was read before a partition moved was committed with the revocation: nobody reads it again.
    let read: Vec<_> = [&a, &b, &c].iter().flat_map(|member| member.values()).collect();
    assert_eq!(read.iter().filter(|value| **value == "before").count(), 7);
    assert_eq!(read.iter().filter(|value| **value == "after").count(), 7);
}

pub(super) async fn a_partition_moves_only_when_given_up(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let mut a = cx.member("g", "a", &[&topic]).await;
    settle(&mut [&mut a]).await;
    let mut b = cx.member("g", "b", &[&topic]).await;
    assert_eq!(b.step(SHORT).await.unwrap(), "idle", "everything is still a's");
    assert_eq!(a.step(SOON).await.unwrap(), "revoked");
    let moved = a.revoked.clone();
    assert_eq!(moved.len(), 1, "only what must move");
    one_each(cx, &topic, 2, "v").await;
    assert_eq!(b.step(SHORT).await.unwrap(), "idle", "a has not given it up yet");
    // It may still be committed, until it is given up.
    let id = cx.log.topic(&topic).await.unwrap().unwrap().id;
    let last = LogPosition {
        topic: topic.clone(),
        topic_id: id,
        partition: moved[0].partition,
        offset: 1,
        metadata: Some("last".into()),
    };
    a.reader.commit(std::slice::from_ref(&last), EncodedBatch::default()).await.unwrap();
    let (given_up, taken) = tokio::join!(a.step(SOON), b.step(SOON));
    assert_eq!((given_up.unwrap(), taken.unwrap()), ("records", "assigned"));
    assert_eq!(b.assigned.values().collect::<Vec<_>>(), [&last]);
    assert_eq!(code(a.reader.commit(&[last], EncodedBatch::default()).await), "log.not_assigned");
    settle(&mut [&mut a, &mut b]).await;
    assert_eq!((a.read.len(), b.read.len()), (1, 0));
}

pub(super) async fn who_leaves_gives_all(cx: &mut Cx) {
    let topic = cx.topic("t", 4).await;
    let (mut a, mut b) = (cx.member("g", "a", &[&topic]).await, cx.member("g", "b", &[&topic]).await);
    settle(&mut [&mut a, &mut b]).await;
    one_each(cx, &topic, 4, "v").await;
    settle(&mut [&mut a, &mut b]).await;
    b.commit().await.unwrap();
    let woken = async {
        let began = Instant::now();
        assert_eq!(a.step(SOON * 2).await.unwrap(), "assigned");
        assert!(began.elapsed() < SOON, "a waiting member was not woken by one that left");
    };
    tokio::join!(woken, async { b.reader.close().await.unwrap() });
    settle(&mut [&mut a]).await;
    assert_eq!(partitions(&a), [0, 1, 2, 3]);
    assert_eq!(a.read.len() + b.read.len(), 4, "b had committed what it read");
}

pub(super) async fn the_same_member_fences(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let mut old = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut old]).await;
    let mut new = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut new]).await;
    assert_eq!(partitions(&new), [0, 1]);
    one_each(cx, &topic, 2, "v").await;
    let error = old.reader.next(1000, SOON).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("log.fenced", false));
    assert_eq!(code(old.commit().await), "log.fenced");
    // Its end does not take the successor's partitions.
    let _ = old.reader.close().await;
    drop(old);
    new.until_read(2).await;
    new.commit().await.unwrap();
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap().len(), 2);
    // A waiting reader learns of it at once.
    let mut waiting = new;
    let took_over = async {
        tokio::task::yield_now().await;
        cx.member("g", "m", &[&topic]).await
    };
    let began = Instant::now();
    let (fenced, _newest) = tokio::join!(waiting.reader.next(1000, SOON * 2), took_over);
    assert_eq!(code(fenced), "log.fenced");
    assert!(began.elapsed() < SOON);
}

pub(super) async fn a_regex_finds_later_topics(cx: &mut Cx) {
    let first = cx.topic("orders-1", 1).await;
    let other = cx.topic("not-orders-1", 1).await;
    let pattern = format!("{}orders-.*", cx.unique(""));
    let mut member = cx.member_of("g", "m", &Topics::Regex(pattern)).await;
    settle(&mut [&mut member]).await;
    assert_eq!(member.assigned.keys().collect::<Vec<_>>(), [&TopicPartition::new(first.clone(), 0)]);
    let later = cx.topic("orders-2", 2).await;
    cx.produce(&later, &["a"]).await;
    cx.produce(&other, &["b"]).await;
    member.until_read(1).await;
    settle(&mut [&mut member]).await;
    assert_eq!((member.assigned.len(), member.values()), (3, vec!["a"]));
    let bad = Topics::Regex("(".to_owned());
    assert_eq!(code(cx.log.reader(&cx.unique("h"), "m", &bad).await), "log.topics_regex");
}

pub(super) async fn a_deleted_topic_is_revoked(cx: &mut Cx) {
    let (topic, kept) = (cx.topic("t", 1).await, cx.topic("kept", 1).await);
    let mut member = cx.member("g", "m", &[&topic, &kept]).await;
    settle(&mut [&mut member]).await;
    cx.produce(&topic, &["old"]).await;
    cx.produce(&kept, &["kept 1"]).await;
    member.until_read(2).await;
    cx.log.delete_topic(&topic).await.unwrap();
    let tp = TopicPartition::new(topic.clone(), 0);
    // As the worker does: all that is assigned in one commit, and it has not heard of the deletion yet.
    member.commit().await.unwrap();
    assert_eq!(member.step(SOON).await.unwrap(), "revoked");
    assert_eq!(member.revoked, std::slice::from_ref(&tp));
    cx.log.create_topic(&topic, &TopicSpec::default()).await.unwrap();
    cx.produce(&topic, &["new"]).await;
    cx.produce(&kept, &["kept 2"]).await;
    member.until_read(4).await;
    let id = cx.log.topic(&topic).await.unwrap().unwrap().id;
    let position = &member.assigned[&tp];
    assert_eq!((position.topic_id, position.offset), (id, 0));
    let mut values = member.values();
    values.sort_unstable();
    assert_eq!(values, ["kept 1", "kept 2", "new", "old"]);
    member.commit().await.unwrap();
    let positions = cx.log.group_positions(&cx.unique("g")).await.unwrap();
    let mut offsets: Vec<_> = positions.iter().map(|p| (p.topic.clone(), p.topic_id == id, p.offset)).collect();
    offsets.sort();
    let next = |topic: &Topic| member.next[&TopicPartition::new(topic.clone(), 0)];
    assert_eq!(offsets, [(kept.clone(), false, next(&kept)), (topic.clone(), true, next(&topic))]);
}

pub(super) async fn groups_are_independent(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    one_each(cx, &topic, 2, "v").await;
    let (mut a, mut b) = (cx.member("g", "m", &[&topic]).await, cx.member("h", "m", &[&topic]).await);
    settle(&mut [&mut a, &mut b]).await;
    assert_eq!((a.read.len(), b.read.len()), (2, 2));
    a.commit().await.unwrap();
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap().len(), 2);
    assert_eq!(cx.log.group_positions(&cx.unique("h")).await.unwrap(), []);
}

pub(super) async fn altered_only_without_members(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    one_each(cx, &topic, 2, "v").await;
    let group = cx.unique("g");
    let tp = |partition| TopicPartition::new(topic.clone(), partition);
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(2).await;
    let positions: Vec<_> = member
        .assigned
        .values()
        .map(|position| LogPosition { offset: 1, metadata: Some("m".into()), ..position.clone() })
        .collect();
    member.reader.commit(&positions, EncodedBatch::default()).await.unwrap();
    let error = cx.log.alter_group(&group, &[(tp(0), Some(0))]).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), ("log.group_active", false));
    member.reader.close().await.unwrap();
    drop(member);
    let missing = TopicPartition::new(cx.unique("missing"), 0);
    // All or none.
    assert_eq!(code(cx.log.alter_group(&group, &[(tp(0), Some(0)), (missing, Some(0))]).await), "log.unknown_topic");
    assert_eq!(cx.log.group_positions(&group).await.unwrap(), positions);
    cx.log.alter_group(&group, &[(tp(0), Some(0)), (tp(1), None)]).await.unwrap();
    cx.reopen().await;
    let expected = LogPosition { offset: 0, metadata: None, ..positions[0].clone() };
    assert_eq!(cx.log.group_positions(&group).await.unwrap(), [expected]);
    let mut member = cx.member("g", "m", &[&topic]).await;
    member.until_read(2).await;
}

pub(super) async fn never_committed_has_none(cx: &mut Cx) {
    let topic = cx.topic("t", 1).await;
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), []);
    let mut member = cx.member("g", "m", &[&topic]).await;
    settle(&mut [&mut member]).await;
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), []);
}

/// A task that was aborted must not keep its partitions.
pub(super) async fn a_dropped_reader_leaves(cx: &mut Cx) {
    let topic = cx.topic("t", 2).await;
    let (mut a, mut b) = (cx.member("g", "a", &[&topic]).await, cx.member("g", "b", &[&topic]).await);
    settle(&mut [&mut a, &mut b]).await;
    drop(b);
    a.until("all partitions", |a| a.assigned.len() == 2).await;
}
