//! Positions in the target: nothing twice, nothing lost, and a task that was replaced cannot write.

use crate::rig::{Live, Rig, pair};
use aqueduct_core::{Class, TopicPartition};
use postgres_services::{Server, shared};
use uuid::Uuid;

/// Plain inserts without a key: everything that is written twice shows.
const APPEND: &str = "auto.create: false";

async fn put(rig: &Rig, live: &mut Live, max: usize) {
    let (_, rejects) = rig.put(live, max).await.unwrap();
    assert!(rejects.is_empty(), "{rejects:?}");
}

fn fresh(server: &Server, records: i64) -> (String, Rig) {
    let db = server.database();
    server.psql_in(&db, "create table t (n bigint)");
    let mut rig = Rig::new(server, &db, APPEND);
    rig.log("t", (0..records).map(|n| pair("null", &format!(r#"{{"n":{n}}}"#))));
    (db, rig)
}

fn all(server: &Server, db: &str) -> String {
    server.psql_in(db, "select count(*), count(distinct n), coalesce(max(n), -1) from t")
}

#[tokio::test]
async fn a_crash_between_target_and_log_repeats_nothing() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 100);
    let mut live = rig.open().await.unwrap();
    put(&rig, &mut live, 10).await;
    drop(live);
    // Before the log's first commit; then after it; then again and again.
    for _ in 0..3 {
        let mut live = rig.open().await.unwrap();
        put(&rig, &mut live, 15).await;
        rig.commit(&live);
        put(&rig, &mut live, 10).await;
    }
    assert_eq!(all(&server, &db), "55|55|54");
    rig.run_clean().await;
    assert_eq!(all(&server, &db), "100|100|99");
}

#[tokio::test]
async fn a_zombie_cannot_write() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 30);
    let mut zombie = rig.open().await.unwrap();
    put(&rig, &mut zombie, 10).await;
    rig.commit(&zombie);
    let mut heir = rig.open().await.unwrap();
    let error = rig.put(&mut zombie, 10).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres_sink.fenced"));
    put(&rig, &mut heir, 10).await;
    assert_eq!(all(&server, &db), "20|20|19");
    // Also where neither has written before.
    let mut rig = Rig::new(&server, &db, APPEND);
    rig.connector = "other".into();
    server.psql_in(&db, "truncate t");
    rig.log("t", (0..20).map(|n| pair("null", &format!(r#"{{"n":{n}}}"#))));
    let (mut one, mut two) = (rig.open().await.unwrap(), rig.open().await.unwrap());
    put(&rig, &mut one, 5).await;
    put(&rig, &mut two, 10).await;
    assert_eq!(rig.put(&mut one, 5).await.unwrap_err().code(), "postgres_sink.fenced");
    assert_eq!(all(&server, &db), "10|10|9");
}

/// Its transaction is open and waits for something: its heir does not wait for ever.
#[tokio::test]
async fn a_zombie_within_its_transaction_is_ended() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 20);
    let mut zombie = rig.open().await.unwrap();
    put(&rig, &mut zombie, 5).await;
    rig.commit(&zombie);
    let mut blocker = server.session(&db);
    blocker.run("begin; lock table t in access exclusive mode");
    let stuck = rig.put(&mut zombie, 5);
    let heir = async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while server.psql_in(&db, waiting) == "0" {
            assert!(tokio::time::Instant::now() < deadline, "the zombie waits for no lock");
            tokio::task::yield_now().await;
        }
        let heir = rig.open().await;
        blocker.run("rollback");
        heir
    };
    let (stuck, heir) = tokio::join!(stuck, heir);
    assert!(stuck.unwrap_err().is_retriable());
    put(&rig, &mut heir.unwrap(), 20).await;
    assert_eq!(all(&server, &db), "20|20|19");
}

#[tokio::test]
async fn a_topic_that_was_made_again_starts_anew() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 10);
    rig.run_clean().await;
    for position in rig.committed.values_mut() {
        (position.topic_id, position.offset, position.metadata) = (Uuid::from_u128(8), 0, None);
    }
    rig.run_clean().await;
    assert_eq!(all(&server, &db), "20|10|9");
}

#[tokio::test]
async fn an_operators_reset_is_obeyed() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 10);
    rig.run_clean().await;
    for (offset, expected) in [(4, "16|10|9"), (0, "26|10|9"), (0, "36|10|9"), (10, "36|10|9")] {
        for position in rig.committed.values_mut() {
            (position.offset, position.metadata) = (offset, None);
        }
        rig.run_clean().await;
        assert_eq!(all(&server, &db), expected, "reset to {offset}");
    }
}

/// A failover to a replica that lags, a restored backup: rows and positions went back together.
#[tokio::test]
async fn a_target_that_was_set_back_is_filled_again() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 50);
    let mut live = rig.open().await.unwrap();
    put(&rig, &mut live, 20).await;
    rig.commit(&live);
    drop(live);
    let backup = format!("{db}_backup");
    server.psql(&format!("create database {backup} template {db}"));
    let mut live = rig.open().await.unwrap();
    put(&rig, &mut live, 20).await;
    rig.commit(&live);
    drop(live);
    let url = rig.options["connection.url"].replace(&db, &backup);
    rig.options.insert("connection.url".into(), url);
    rig.run_clean().await;
    assert_eq!(all(&server, &backup), "50|50|49");
    // A target that knows nothing at all of what the log believes is in it.
    let (other, _) = fresh(&server, 0);
    let url = rig.options["connection.url"].replace(&backup, &other);
    rig.options.insert("connection.url".into(), url);
    let error = rig.open().await.err().unwrap();
    assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres_sink.position_missing"));
}

#[tokio::test]
async fn partitions_come_and_go() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (n bigint)");
    let mut rig = Rig::new(&server, &db, APPEND);
    for partition in 0..3 {
        let of = (0..10).map(|n| pair("null", &format!(r#"{{"n":{}}}"#, partition * 100 + n)));
        rig.log_in(&TopicPartition::new("t", partition), of);
    }
    let mut live = rig.open().await.unwrap();
    put(&rig, &mut live, 4).await;
    rig.commit(&live);
    live.task.revoked(&[TopicPartition::new("t", 1)]).await.unwrap();
    let again = rig.committed[&TopicPartition::new("t", 1)].clone();
    live.task.assigned(&[again]).await.unwrap();
    put(&rig, &mut live, 4).await;
    rig.commit(&live);
    live.task.close().await.unwrap();
    rig.run_clean().await;
    assert_eq!(all(&server, &db), "30|30|209");
    assert_eq!(
        server.psql_in(&db, "select partition, next_offset, confirmed from aqueduct_offsets order by 1"),
        "0|10|t\n1|10|t\n2|10|t"
    );
}

/// Records that a transform dropped: positions have gaps, and batches of nothing but tombstones move too.
#[tokio::test]
async fn gaps_in_the_log() {
    let server = shared();
    let (db, mut rig) = fresh(&server, 20);
    for log in rig.log.values_mut() {
        log.iter_mut().filter(|record| record.origin.as_ref().unwrap().offset % 3 == 0).for_each(|record| {
            record.value = aqueduct_core::Payload::Null;
        });
    }
    let mut live = rig.open().await.unwrap();
    for _ in 0..7 {
        put(&rig, &mut live, 1).await;
    }
    rig.commit(&live);
    drop(live);
    rig.run_clean().await;
    assert_eq!(all(&server, &db), "13|13|19");
}
