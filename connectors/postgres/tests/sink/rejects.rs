//! Records that the target cannot take: they alone are refused, and order by key holds.

use crate::rig::{Rig, json, pair};
use aqueduct_core::{Ack, Class, Payload};
use postgres_services::shared;

const UPSERT: &str = "insert.mode: upsert\npk.mode: record_key\ndelete.enabled: true";

#[tokio::test]
async fn only_the_bad_ones_are_refused() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name varchar(5), age int check (age >= 0))");
    let mut rig = Rig::new(&server, &db, UPSERT);
    let records = (0..200).map(|n| match n {
        20 => pair(r#"{"id":20}"#, r#"{"name":"far too long"}"#),
        77 => pair(r#"{"id":77}"#, r#"{"name":"x","age":-1}"#),
        78 => pair(r#"{"id":"seven"}"#, r#"{"name":"x"}"#),
        // The same key: good, bad, and a good one that makes up for it.
        90 | 110 => pair(r#"{"id":5}"#, &format!(r#"{{"name":"n{n}"}}"#)),
        100 => pair(r#"{"id":5}"#, r#"{"name":"refused!"}"#),
        n => pair(&format!(r#"{{"id":{n}}}"#), &format!(r#"{{"name":"n{n}","age":{n}}}"#)),
    });
    rig.log("t", records.collect::<Vec<_>>());
    rig.log(
        "t",
        [
            pair("null", r#"{"name":"x"}"#),
            pair(r#"{"id":300}"#, r#"{"nobody":1}"#),
            (json(r#"{"id":301}"#), Payload::from("text")),
        ],
    );
    let rejects = rig.run().await;
    let offsets: Vec<i64> = rejects.iter().map(|reject| reject.record.origin.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [20, 77, 78, 200, 201, 202]);
    let message = |index: usize| rejects[index].error.message();
    assert!(message(0).contains("value too long for type character varying(5)"), "{}", message(0));
    assert!(message(1).contains("t_age_check") && message(1).contains("23514"), "{}", message(1));
    assert!(message(2).contains("invalid input syntax for type integer"), "{}", message(2));
    assert!(message(3).contains("no key"), "{}", message(3));
    assert!(message(4).contains("no column: \"nobody\"") && message(4).contains("auto.evolve"), "{}", message(4));
    assert!(message(5).contains("value.column"), "{}", message(5));
    assert_eq!(rejects[1].error.code(), "postgres.constraint");
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "194");
    assert_eq!(server.psql_in(&db, "select name from t where id = 5"), "n110");
    assert_eq!(server.psql_in(&db, "select next_offset from aqueduct_offsets"), "203");
}

/// What looks like a conflict only because rows are sorted by key is none.
#[tokio::test]
async fn a_unique_value_may_move_from_row_to_row() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, mail text unique); insert into t values (1, 'b'), (2, 'a')");
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log(
        "t",
        [pair(r#"{"id":2}"#, r#"{"mail":null}"#), pair(r#"{"id":1}"#, r#"{"mail":"a"}"#), pair(r#"{"id":2}"#, r#"{"mail":"b"}"#)],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1|a\n2|b");
}

/// Two spellings of one key in one statement.
#[tokio::test]
async fn keys_that_only_the_server_knows_to_be_equal() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id numeric primary key, v int)");
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log("t", [pair(r#"{"id":"1.0"}"#, r#"{"v":1}"#), pair(r#"{"id":"1.00"}"#, r#"{"v":2}"#)]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select v from t"), "2");
}

#[tokio::test]
async fn a_second_insert_of_a_key_is_refused() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, v int)");
    let mut rig = Rig::new(&server, &db, "pk.mode: record_key");
    rig.log("t", [pair(r#"{"id":1}"#, r#"{"v":1}"#), pair(r#"{"id":1}"#, r#"{"v":2}"#), pair(r#"{"id":2}"#, r#"{"v":3}"#)]);
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), 1);
    assert!(rejects[0].error.message().contains("23505"));
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1|1\n2|3");
}

#[tokio::test]
async fn constraints_that_speak_at_the_commit() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "create table parent (id int primary key); create table t (id int primary key, p int references parent deferrable initially deferred); insert into parent values (1)",
    );
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log("t", [pair(r#"{"id":1}"#, r#"{"p":1}"#), pair(r#"{"id":2}"#, r#"{"p":2}"#), pair(r#"{"id":3}"#, r#"{"p":1}"#)]);
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), 1);
    assert!(rejects[0].error.message().contains("23503"), "{}", rejects[0].error);
    assert_eq!(server.psql_in(&db, "select id from t order by id"), "1\n3");
}

/// Without tolerance the worker fails the task at the first refusal, and nothing of that batch may be in the target.
#[tokio::test]
async fn a_batch_with_refusals_waits_for_consent() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, v int)");
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log("t", [pair(r#"{"id":1}"#, r#"{"v":1}"#), pair(r#"{"id":2}"#, r#"{"v":"x"}"#), pair(r#"{"id":3}"#, r#"{"v":3}"#)]);
    let mut live = rig.open().await.unwrap();
    let (ack, rejects) = rig.put(&mut live, 100).await.unwrap();
    assert_eq!((ack, rejects.len()), (Ack::Buffered, 1));
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "0");
    live.task.close().await.unwrap();
    drop(live);
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "0");
    // Someone mends the table: the same record is good now.
    server.psql_in(&db, "alter table t alter v type text");
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1|1\n2|x\n3|3");
}

/// The target committed, the log did not: the dead letters would be lost if the batch were not refused again.
#[tokio::test]
async fn refusals_are_remembered_until_the_log_has_them() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, v int)");
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log("t", [pair(r#"{"id":1}"#, r#"{"v":1}"#), pair(r#"{"id":2}"#, r#"{"v":"x\"\\"}"#)]);
    let mut live = rig.open().await.unwrap();
    rig.put(&mut live, 100).await.unwrap();
    live.task.flush().await.unwrap();
    drop(live);
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "1");
    server.psql_in(&db, "delete from t");
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), 1);
    assert!(rejects[0].error.message().contains("invalid input syntax"), "{}", rejects[0].error);
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "0", "it was written before, and must not be again");
    // Now the log has them: they are forgotten with the next batch.
    rig.log("t", [pair(r#"{"id":3}"#, r#"{"v":3}"#)]);
    rig.run_clean().await;
    rig.log("t", [pair(r#"{"id":4}"#, r#"{"v":4}"#)]);
    let mut live = rig.open().await.unwrap();
    rig.put(&mut live, 100).await.unwrap();
    rig.commit(&live);
    rig.log("t", [pair(r#"{"id":5}"#, r#"{"v":4}"#)]);
    rig.put(&mut live, 100).await.unwrap();
    assert_eq!(server.psql_in(&db, "select refused from aqueduct_offsets"), "{}");
}

#[tokio::test]
async fn faults_of_the_setup_fail_the_task_and_say_what_to_do() {
    let server = shared();
    let db = server.database();
    let fails = async |rig: &Rig| {
        let mut live = rig.open().await.unwrap();
        rig.put(&mut live, 100).await.unwrap_err()
    };
    let mut rig = Rig::new(&server, &db, UPSERT);
    rig.log("t", [pair(r#"{"id":1}"#, r#"{"v":1}"#)]);
    let error = fails(&rig).await;
    assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres_sink.table_missing"));
    server.psql_in(&db, "create table t (id int, v int)");
    let error = fails(&rig).await;
    assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres_sink.no_key"));
    assert!(error.hint().unwrap().contains("ALTER TABLE \"public\".\"t\" ADD PRIMARY KEY"), "{error:?}");

    server
        .psql_in(&db, &format!("alter table t add primary key (id); drop role if exists weak_{db}; create role weak_{db} login; revoke create on schema public from public"));
    rig.options.insert("connection.user".into(), format!("weak_{db}"));
    rig.options.insert("offsets.table".into(), "public.Places".into());
    let error = fails(&rig).await;
    assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres.permission"));
    assert!(error.hint().unwrap().contains("CREATE TABLE IF NOT EXISTS \"public\".\"Places\""), "{error:?}");
    rig.options.insert("exactly.once".into(), "false".into());
    let error = fails(&rig).await;
    assert!(error.hint().unwrap().contains("GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".\"t\""), "{error:?}");

    rig.options.insert("connection.url".into(), "jdbc:postgresql://127.0.0.1:1/nowhere".into());
    let error = rig.open().await.err().unwrap();
    assert_eq!((error.class(), error.code()), (Class::Retriable, "postgres.connection"));
    assert!(error.hint().unwrap().contains("connection.url reaches it"), "{error:?}");
}
