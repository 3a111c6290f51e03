//! insert, upsert, update, delete and truncate, by each kind of key, of envelopes and of flat records.

use crate::rig::{Rig, envelope, int32, pair, row, string, structured};
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Header, Payload, Schema};
use postgres_services::shared;

fn item(id: i32, name: &str) -> (std::sync::Arc<Schema>, Data) {
    row("t.Value", vec![("id", int32(), Data::Int32(id)), ("name", string(), Data::from(name))])
}

fn key(id: i32) -> Payload {
    structured(row("t.Key", vec![("id", int32(), Data::Int32(id))]))
}

#[tokio::test]
async fn upserts_and_deletes_of_flat_records() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text, n int default 7)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key\ndelete.enabled: true");
    rig.log(
        "t",
        [
            pair(r#"{"id":1}"#, r#"{"name":"a","n":1}"#),
            pair(r#"{"id":2}"#, r#"{"name":"b"}"#),
            pair(r#"{"id":1}"#, r#"{"name":"a2"}"#),
            pair(r#"{"id":3}"#, r#"{"name":"c"}"#),
            pair(r#"{"id":3}"#, "null"),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1|a2|1\n2|b|7");
    rig.log("t", [pair(r#"{"id":2}"#, "null"), pair(r#"{"id":1}"#, r#"{"name":null}"#), pair(r#"{"id":9}"#, "null")]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1||1");
}

/// Where a field goes is remembered by its place; the next record may have others there.
#[tokio::test]
async fn records_of_one_topic_have_their_fields_in_any_order() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text, n int, \"Mixed\" text)");
    let options = "insert.mode: upsert\npk.mode: record_value\npk.fields: id\nauto.evolve: true\nfield.exclude.list: secret";
    let mut rig = Rig::new(&server, &db, options);
    rig.log(
        "t",
        [
            pair("null", r#"{"id":1,"name":"a","n":1}"#),
            pair("null", r#"{"n":2,"id":2,"name":"b"}"#),
            pair("null", r#"{"secret":"x","new":null,"id":3,"mixed":"c"}"#),
            pair("null", r#"{"id":4}"#),
            pair("null", r#"{"new":null,"secret":"y","name":"e","id":5,"n":5}"#),
            pair("null", r#"{"secret":"x","new":"seen","id":6,"mixed":"f"}"#),
        ],
    );
    rig.run_clean().await;
    let rows = "1|a|1||\n2|b|2||\n3|||c|\n4||||\n5|e|5||\n6|||f|seen";
    assert_eq!(server.psql_in(&db, "select id, name, n, \"Mixed\", new from t order by id"), rows);
}

#[tokio::test]
async fn debezium_events() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table shop_public_t (id int primary key, name text)");
    // Debezium's names: dots become underscores.
    let options = "connection.username: postgres\ninsert.mode: upsert\nprimary.key.mode: record_key\nprimary.key.fields: id\ndelete.enabled: true\ntruncate.enabled: true";
    let mut rig = Rig::new(&server, &db, options);
    rig.log(
        "shop.public.t",
        [
            (key(1), envelope("r", None, Some(item(1, "a")))),
            (key(2), envelope("c", None, Some(item(2, "b")))),
            (key(1), envelope("u", Some(item(1, "a")), Some(item(1, "a2")))),
            (key(2), envelope("d", Some(item(2, "b")), None)),
            (key(2), Payload::Null),
            (Payload::Null, envelope("m", None, None)),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from shop_public_t"), "1|a2");
    rig.log(
        "shop.public.t",
        [
            (key(5), envelope("c", None, Some(item(5, "gone")))),
            (Payload::Null, envelope("t", None, None)),
            (key(6), envelope("c", None, Some(item(6, "stays")))),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from shop_public_t"), "6|stays");
}

/// A tombstone has no `source`, and follows a delete that has done the work.
#[tokio::test]
async fn tombstones_are_passed_over_where_the_source_names_the_table() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text); insert into t values (7, 'stays')");
    let options = "insert.mode: upsert\npk.mode: record_key\ndelete.enabled: true\ntable.name.format: ${source.table}";
    let mut rig = Rig::new(&server, &db, options);
    rig.log(
        "shop.public.t",
        [
            (key(7), Payload::Null),
            (key(1), envelope("c", None, Some(item(1, "a")))),
            (key(2), envelope("c", None, Some(item(2, "b")))),
            (key(1), envelope("d", Some(item(1, "a")), None)),
            (key(1), Payload::Null),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "2|b\n7|stays");
}

#[tokio::test]
async fn a_delete_makes_no_table() {
    let server = shared();
    let db = server.database();
    let options = "insert.mode: upsert\npk.mode: record_key\ndelete.enabled: true\ntruncate.enabled: true\nauto.create: true\ntable.name.format: t";
    let mut rig = Rig::new(&server, &db, options);
    rig.log(
        "shop.public.t",
        [(key(1), envelope("d", Some(item(1, "a")), None)), (key(1), Payload::Null), (Payload::Null, envelope("t", None, None))],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select count(*) from pg_tables where tablename = 't'"), "0");
    rig.log("shop.public.t", [(key(1), Payload::Null), (key(2), envelope("c", None, Some(item(2, "b"))))]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t"), "2|b");
}

#[tokio::test]
async fn deletes_and_truncates_are_off_by_default() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key");
    rig.log(
        "t",
        [
            (key(1), envelope("c", None, Some(item(1, "a")))),
            (key(1), envelope("d", Some(item(1, "a")), None)),
            (key(1), Payload::Null),
            (Payload::Null, envelope("t", None, None)),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t"), "1|a");
}

#[tokio::test]
async fn a_delete_can_name_its_row_by_the_old_one() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text)");
    let mut rig = Rig::new(
        &server,
        &db,
        "insert.mode: upsert\npk.mode: record_value\npk.fields: id\ndelete.enabled: true\nfields.whitelist: name",
    );
    rig.log(
        "t",
        [
            (Payload::Null, envelope("c", None, Some(item(1, "a")))),
            (Payload::Null, envelope("c", None, Some(item(2, "b")))),
            (Payload::Null, envelope("d", Some(item(1, "a")), None)),
            (Payload::Null, Payload::Null),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t"), "2|b");
}

#[tokio::test]
async fn update_changes_only_rows_that_are_there() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text); insert into t values (1, 'a')");
    let mut rig = Rig::new(&server, &db, "insert.mode: update\npk.mode: record_key");
    rig.log("t", [(key(1), structured(item(1, "b"))), (key(2), structured(item(2, "c"))), (key(1), structured(item(1, "d")))]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t"), "1|d");
}

#[tokio::test]
async fn inserts_and_deletes_keep_their_order() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text)");
    let mut rig = Rig::new(&server, &db, "pk.mode: record_key\ndelete.enabled: true");
    rig.log(
        "t",
        [
            (key(1), structured(item(1, "a"))),
            (key(1), Payload::Null),
            (key(1), structured(item(1, "b"))),
            (key(2), structured(item(2, "c"))),
        ],
    );
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "1|b\n2|c");
}

#[tokio::test]
async fn keys_from_kafka_from_headers_and_none() {
    let server = shared();
    let db = server.database();
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: kafka\nauto.create: true\ntable.name.format: by_place");
    rig.log("t", [pair("null", r#"{"v":1}"#), pair("null", r#"{"v":2}"#)]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from by_place"), "t|0|0|1\nt|0|1|2");

    let mut rig = Rig::new(
        &server,
        &db,
        "insert.mode: upsert\npk.mode: record_header\npk.fields: who\nauto.create: true\ntable.name.format: by_header\nexactly.once: false",
    );
    rig.log("t", [pair("null", r#"{"v":1}"#), pair("null", r#"{"v":2}"#)]);
    for record in rig.log.values_mut().flatten() {
        record.headers.push(Header { name: "who".into(), value: Payload::data(None, Data::from("me")) });
    }
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select who, v from by_header"), "me|2");

    // Values that are no struct: text in one column.
    let mut rig = Rig::new(&server, &db, "auto.create: true\ntable.name.format: texts\nvalue.column: line\nexactly.once: false");
    rig.log("t", [(Payload::Null, "one".into()), (Payload::Null, "two".into())]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select line from texts"), "one\ntwo");
    assert_eq!(server.psql_in(&db, "select count(*) from pg_tables where tablename = 'aqueduct_offsets'"), "1");
}

#[tokio::test]
async fn a_key_that_is_no_struct() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id bigint primary key, v int)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key\npk.fields: id");
    let key = Payload::data(Some(std::sync::Arc::new(Schema::new(Kind::Int64))), Data::Int64(7));
    rig.log("t", [(key, crate::rig::json(r#"{"v":1}"#)), ("8".into(), crate::rig::json(r#"{"v":2}"#))]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from t order by id"), "7|1\n8|2");
}

#[tokio::test]
async fn a_large_value_that_was_not_sent_stays() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, name text, big text not null, doc jsonb)");
    let with = |id: i32, name: &str, big: Data| {
        let json = Schema::new(Kind::String).optional().named("io.debezium.data.Json");
        structured(row(
            "t.Value",
            vec![
                ("id", int32(), Data::Int32(id)),
                ("name", string(), Data::from(name)),
                ("big", string(), big),
                ("doc", json, Data::Unavailable),
            ],
        ))
    };
    for placeholder in ["__debezium_unavailable_value", "n/a"] {
        let mut rig = Rig::new(
            &server,
            &db,
            &format!("insert.mode: upsert\npk.mode: record_key\nunavailable.value.placeholder: {placeholder}"),
        );
        rig.connector = placeholder.to_owned();
        server.psql_in(&db, "truncate t; insert into t values (1, 'a', 'B1', '{\"x\":1}'), (2, 'b', 'B2', null)");
        rig.log(
            "t",
            [
                (key(1), with(1, "a2", Data::Unavailable)),
                (key(2), with(2, "b2", Data::from(placeholder))),
                // Folded: the value that came with the first change still stands.
                (key(3), with(3, "c", Data::from("B3"))),
                (key(3), with(3, "c2", Data::Unavailable)),
            ],
        );
        rig.run_clean().await;
        let rows = server.psql_in(&db, "select * from t order by id");
        assert_eq!(rows, "1|a2|B1|{\"x\": 1}\n2|b2|B2|\n3|c2|B3|", "{placeholder}");
        // A row that is not there cannot be made without its required value.
        rig.log("t", [(key(4), with(4, "d", Data::Unavailable)), (key(1), with(1, "a3", Data::Unavailable))]);
        let rejects = rig.run().await;
        assert_eq!(rejects.len(), 1);
        assert!(rejects[0].error.message().contains("big"), "{}", rejects[0].error);
        assert_eq!(server.psql_in(&db, "select name from t where id = 1"), "a3");
    }
}

#[tokio::test]
async fn many_topics_and_a_table_by_the_source() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create schema copy; create table copy.t (id int primary key, name text)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key\ntable.name.format: copy.${source.table}");
    rig.log("a", [(key(1), envelope("c", None, Some(item(1, "a"))))]);
    rig.log("b", [(key(2), envelope("c", None, Some(item(2, "b"))))]);
    rig.run_clean().await;
    assert_eq!(server.psql_in(&db, "select * from copy.t order by id"), "1|a\n2|b");
    assert_eq!(server.psql_in(&db, "select topic, next_offset from aqueduct_offsets order by 1"), "a|1\nb|1");
}
