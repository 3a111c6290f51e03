//! Dead letters and the positions that pass what they are letters of: one commit.

use super::*;
use aqueduct_log::partitioner::partition_for_key;

fn letters(records: Vec<Record>) -> EncodedBatch {
    EncodedBatch::new(records.into_iter().collect()).unwrap()
}

impl Member {
    /// What is assigned, at this offset.
    fn at(&self, offset: i64) -> Vec<LogPosition> {
        self.assigned.values().map(|position| LogPosition { offset, ..position.clone() }).collect()
    }
}

impl Cx {
    /// A sink of a topic of one partition with ten records, and where its letters go.
    async fn sink(&self) -> (Member, Topic) {
        let topic = self.topic("t", 1).await;
        let values: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        self.produce(&topic, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut member = self.member("g", "m", &[&topic]).await;
        member.until_read(10).await;
        (member, self.topic("dlq", 1).await)
    }

    /// The group's only position; 0 before the first commit.
    async fn position(&self) -> i64 {
        self.log.group_positions(&self.unique("g")).await.unwrap().first().map_or(0, |position| position.offset)
    }
}

pub(super) async fn positions_and_letters_together(cx: &mut Cx) {
    let (mut member, dlq) = cx.sink().await;
    for n in 1..=10 {
        let positions = member.at(n);
        let mut commit = member.reader.commit(&positions, letters(vec![record(&dlq, &format!("letter {n}"))]));
        let early = (&mut commit).now_or_never();
        // What is seen of one is seen of the other, whenever one looks.
        let (before, end, after) = (cx.position().await, cx.count(&dlq, 0).await, cx.position().await);
        assert!(before <= end && end <= after, "{before} {end} {after}");
        match early {
            Some(done) => done.unwrap(),
            None => commit.await.unwrap(),
        }
        assert_eq!((cx.position().await, cx.count(&dlq, 0).await), (n, n));
    }
    drop(member);
    cx.reopen().await;
    assert_eq!(cx.position().await, 10);
    assert_eq!(cx.values(&dlq, 0).await, (1..=10).map(|n| format!("letter {n}")).collect::<Vec<_>>());
}

pub(super) async fn for_many_partitions(cx: &mut Cx) {
    let (mut member, dlq) = cx.sink().await;
    let (many, positions) = (cx.topic("many", 3).await, member.at(4));
    let keyed = Record { key: "k".into(), ..record(&many, "keyed") };
    let header = aqueduct_core::Header { name: "why".into(), value: "no JSON".into() };
    let with_header = Record { headers: vec![header.clone()], timestamp: Some(1234), ..to(&many, 1, "1") };
    let batch = letters(vec![record(&dlq, "first"), with_header, keyed, record(&dlq, "second")]);
    member.reader.commit(&positions, batch).await.unwrap();
    drop(member);
    cx.reopen().await;
    assert_eq!((cx.position().await, cx.values(&dlq, 0).await), (4, vec!["first".to_owned(), "second".to_owned()]));
    assert!(cx.values(&many, partition_for_key(b"k", 3)).await.contains(&"keyed".to_owned()));
    let kept = cx.read_all(&many, 1).await.into_iter().find(|record| value(record) == "1").unwrap();
    assert_eq!((kept.headers, kept.timestamp), (vec![header], Some(1234)));
}

pub(super) async fn without_positions(cx: &mut Cx) {
    let (mut member, dlq) = cx.sink().await;
    member.reader.commit(&[], letters(vec![record(&dlq, "alone")])).await.unwrap();
    assert_eq!((cx.position().await, cx.values(&dlq, 0).await), (0, vec!["alone".to_owned()]));
}

/// Invariant 5.
pub(super) async fn a_fenced_member_writes_neither(cx: &mut Cx) {
    let (mut old, dlq) = cx.sink().await;
    let positions = old.at(2);
    old.reader.commit(&positions, letters(vec![record(&dlq, "mine")])).await.unwrap();
    let topic = positions[0].topic.clone();
    let mut new = cx.member("g", "m", &[&topic]).await;
    for _ in 0..2 {
        let error = old.reader.commit(&positions, letters(vec![record(&dlq, "zombie")])).await.unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("log.fenced", false));
        settle(&mut [&mut new]).await;
    }
    let positions = new.at(3);
    new.reader.commit(&positions, letters(vec![record(&dlq, "the successor's")])).await.unwrap();
    assert_eq!(code(old.reader.commit(&[], letters(vec![record(&dlq, "zombie")])).await), "log.fenced");
    drop((old, new));
    cx.reopen().await;
    assert_eq!((cx.position().await, cx.values(&dlq, 0).await), (3, vec!["mine".to_owned(), "the successor's".to_owned()]));
}

/// A refused commit leaves nothing: neither the letters that were fine nor the positions. The next one does.
async fn keeps_neither(
    cx: &mut Cx,
    mut member: Member,
    dlq: Topic,
    positions: &[LogPosition],
    bad: Option<Record>,
    expected: &str,
) {
    let good = member.at(1);
    member.reader.commit(&good, letters(vec![record(&dlq, "good")])).await.unwrap();
    let batch = letters([Some(record(&dlq, "half")), bad].into_iter().flatten().collect());
    let error = member.reader.commit(positions, batch).await.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), (expected, false));
    assert_eq!((cx.position().await, cx.values(&dlq, 0).await), (1, vec!["good".to_owned()]));
    let next = member.at(2);
    member.reader.commit(&next, letters(vec![record(&dlq, "next")])).await.unwrap();
    drop(member);
    for _ in 0..2 {
        assert_eq!((cx.position().await, cx.values(&dlq, 0).await), (2, vec!["good".to_owned(), "next".to_owned()]));
        cx.reopen().await;
    }
}

pub(super) async fn what_is_not_assigned_keeps_neither(cx: &mut Cx) {
    let (member, dlq) = cx.sink().await;
    let id = cx.log.topic(&dlq).await.unwrap().unwrap().id;
    let mut positions = member.at(9);
    positions.push(LogPosition { topic: dlq.clone(), topic_id: id, ..positions[0].clone() });
    keeps_neither(cx, member, dlq, &positions, None, "log.not_assigned").await;
}

pub(super) async fn unknown_topic_keeps_neither(cx: &mut Cx) {
    let (member, dlq) = cx.sink().await;
    let (positions, bad) = (member.at(9), record(&cx.unique("missing").into(), "bad"));
    keeps_neither(cx, member, dlq, &positions, Some(bad), "log.unknown_topic").await;
}

pub(super) async fn unknown_partition_keeps_neither(cx: &mut Cx) {
    let (member, dlq) = cx.sink().await;
    let (positions, bad) = (member.at(9), to(&dlq, 1, "bad"));
    keeps_neither(cx, member, dlq, &positions, Some(bad), "log.unknown_partition").await;
}

pub(super) async fn too_large_keeps_neither(cx: &mut Cx) {
    let (member, dlq) = cx.sink().await;
    let small = cx.topic_with("small", 1, &[("max.message.bytes", "1000")]).await;
    let (positions, bad) = (member.at(9), record(&small, &"x".repeat(2000)));
    keeps_neither(cx, member, dlq, &positions, Some(bad), "log.record_too_large").await;
}

/// What is deleted needs no position, but its letters are still letters.
pub(super) async fn a_deleted_topic_keeps_its_letters(cx: &mut Cx) {
    let (mut member, dlq) = cx.sink().await;
    let positions = member.at(5);
    cx.log.delete_topic(&positions[0].topic).await.unwrap();
    member.reader.commit(&positions, letters(vec![record(&dlq, "last")])).await.unwrap();
    assert_eq!(cx.log.group_positions(&cx.unique("g")).await.unwrap(), []);
    assert_eq!(cx.values(&dlq, 0).await, ["last"]);
    // A topic that is gone takes no letter, also when it was there a moment ago.
    cx.log.delete_topic(&dlq).await.unwrap();
    assert_eq!(code(member.reader.commit(&[], letters(vec![record(&dlq, "lost")])).await), "log.unknown_topic");
}

pub(super) async fn read_as_soon_as_committed(cx: &mut Cx) {
    let (mut member, dlq) = cx.sink().await;
    let mut reader = cx.member("h", "m", &[&dlq]).await;
    settle(&mut [&mut reader]).await;
    let positions = member.at(1);
    let began = Instant::now();
    let (step, done) =
        tokio::join!(reader.step(SOON * 2), member.reader.commit(&positions, letters(vec![record(&dlq, "letter")])));
    done.unwrap();
    assert_eq!((step.unwrap(), reader.values()), ("records", vec!["letter"]));
    assert!(began.elapsed() < SOON, "a waiting reader was not woken");
}
