//! Tables that the sink makes and widens, and names that need care.

use crate::rig::{Rig, int32, json, pair, row, string, structured};
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Payload, Schema};
use postgres_services::shared;
use proptest::prelude::*;

const EVOLVE: &str = "insert.mode: upsert\npk.mode: record_key\nauto.create: true\nauto.evolve: true\ndelete.enabled: true";

#[tokio::test]
async fn made_and_widened_by_both_families_names() {
    let server = shared();
    for options in [
        "insert.mode: upsert\npk.mode: record_key\nauto.create: true\nauto.evolve: true\ndelete.enabled: true",
        "connection.username: postgres\ninsert.mode: upsert\nprimary.key.mode: record_key\nschema.evolution: basic\ndelete.enabled: true",
    ] {
        let db = server.database();
        let mut rig = Rig::new(&server, &db, options);
        let key = || structured(row("k", vec![("id", int32(), Data::Int32(1))]));
        let defaulted = Schema { default: Some(Data::from("it's")), ..string() };
        let one = row("v", vec![("id", int32(), Data::Int32(1)), ("name", defaulted, Data::from("a"))]);
        let two = row(
            "v",
            vec![
                ("id", int32(), Data::Int32(1)),
                ("name", string(), Data::from("b")),
                ("more", Schema::new(Kind::Int64), Data::Int64(5)),
            ],
        );
        rig.log("t", [(key(), structured(one)), (key(), structured(two)), (key(), Payload::Null)]);
        rig.log("t", [(key(), crate::rig::json(r#"{"name":"c","extra":[1,{"a":null}],"unknown":null}"#))]);
        rig.run_clean().await;
        assert_eq!(server.psql_in(&db, "select * from t"), r#"1|c||[1, {"a": null}]"#);
        let columns = "select attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) from pg_attribute left join pg_attrdef \
             on adrelid = attrelid and adnum = attnum where attrelid = 't'::regclass and attnum > 0 order by attnum";
        assert_eq!(server.psql_in(&db, columns), "id|integer|t|\nname|text|f|'it''s'::text\nmore|bigint|f|\nextra|jsonb|f|");
        assert_eq!(
            server.psql_in(
                &db,
                "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 't'::regclass and contype = 'p'"
            ),
            "PRIMARY KEY (id)"
        );
    }
}

#[tokio::test]
async fn someone_else_changes_the_table() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, a int, b int)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key");
    let mut live = rig.open().await.unwrap();
    for (step, (ddl, value, expected)) in [
        ("select 1", r#"{"a":1,"b":1}"#, "0|1|1"),
        ("alter table t add c text", r#"{"a":2,"b":2,"c":"x"}"#, "1|2|2|x"),
        ("alter table t drop b", r#"{"a":3,"c":"y"}"#, "2|3|y"),
        ("alter table t alter a type text", r#"{"a":"four","c":"z"}"#, "3|four|z"),
        ("drop table t; create table t (id bigint primary key, a numeric, c text)", r#"{"a":5,"c":"z"}"#, "4|5|z"),
        ("alter table t add g bigint generated always as (id * 2) stored", r#"{"a":5,"c":"z","g":1}"#, "5|5|z|10"),
    ]
    .into_iter()
    .enumerate()
    {
        server.psql_in(&db, ddl);
        rig.log("t", [pair(&format!(r#"{{"id":{step}}}"#), value)]);
        if step == 0 {
            live = rig.open().await.unwrap();
        }
        let (_, rejects) = rig.put(&mut live, 100).await.unwrap();
        assert!(rejects.is_empty(), "{ddl}: {rejects:?}");
        assert_eq!(server.psql_in(&db, &format!("select * from t where id = {step}")), expected, "{ddl}");
    }
}

#[tokio::test]
async fn identity_domains_and_partitions() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "create domain price as numeric check (value > 0); \
         create table t (id int generated always as identity, at date, cost price, primary key (id, at)) partition by range (at); \
         create table t_1 partition of t for values from ('2020-01-01') to ('2030-01-01')",
    );
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key\npk.fields: id, at");
    rig.log(
        "t",
        [
            pair(r#"{"id":1,"at":"2024-05-06"}"#, r#"{"cost":1.5}"#),
            pair(r#"{"id":1,"at":"2024-05-06"}"#, r#"{"cost":2}"#),
            pair(r#"{"id":2,"at":"2024-05-06"}"#, r#"{"cost":0}"#),
            pair(r#"{"id":3,"at":"1999-05-06"}"#, r#"{"cost":1}"#),
        ],
    );
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), 2, "{rejects:?}");
    assert_eq!(server.psql_in(&db, "select * from t"), "1|2024-05-06|2");
}

#[tokio::test]
async fn names_in_lower_case_where_that_is_asked_for() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "create table orders (id int primary key, name text); create table \"Orders\" (\"ID\" int primary key, \"Name\" text)",
    );
    let record = || pair(r#"{"ID":1}"#, r#"{"Name":"a"}"#);
    for (options, table) in [
        ("quote.sql.identifiers: never", "orders"),
        ("quote.sql.identifiers: always", "\"Orders\""),
        ("quote.identifiers: false", "orders"),
    ] {
        server.psql_in(&db, "truncate orders, \"Orders\"");
        let mut rig =
            Rig::new(&server, &db, &format!("insert.mode: upsert\npk.mode: record_key\nexactly.once: false\n{options}"));
        rig.log("Orders", [record()]);
        rig.run_clean().await;
        assert_eq!(server.psql_in(&db, &format!("select * from {table}")), "1|a", "{options}");
    }
}

#[test]
fn odd_names_come_back_whole() {
    let server = shared();
    let db = server.database();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = || proptest::string::string_regex("[a-zA-Z\"'\\\\;$%.{}é漢 \t\n-]{1,20}").unwrap();
    let number = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: 24,
        failure_persistence: None,
        ..Default::default()
    });
    runner
        .run(&(name(), name(), name()), |(table, key, column)| {
            prop_assume!(!key.eq_ignore_ascii_case(&column));
            // In a name's format dots and quotes mean something, and a topic has neither quotes nor spaces: quoted, a table may have any name.
            let quoted = format!("\"{}\"", table.replace('"', "\"\"")).replace("${", "$ {");
            number.set(number.get() + 1);
            let schema = format!("s{}", number.get());
            server.psql_in(&db, &format!("create schema {schema}"));
            let mut rig = Rig::new(&server, &db, EVOLVE);
            rig.options.insert("table.name.format".into(), format!("{schema}.{quoted}"));
            rig.options.insert("exactly.once".into(), "false".into());
            let key_of = |n: i64| Payload::data(None, Data::object([(key.clone(), Data::Int64(n))]));
            let value = |text: &str| Payload::data(None, Data::object([(column.clone(), Data::from(text))]));
            rig.log("t", [(key_of(1), value("a")), (key_of(2), value("b")), (key_of(1), value("c")), (key_of(2), Payload::Null)]);
            runtime.block_on(rig.run_clean());
            let names = format!(
                "select encode(convert_to(c.relname, 'utf8'), 'hex'), string_agg(encode(convert_to(attname, 'utf8'), 'hex'), ',' order by attnum) from pg_class c \
                 join pg_attribute on attrelid = c.oid where relnamespace = '{schema}'::regnamespace and relkind = 'r' and attnum > 0 group by 1"
            );
            let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
            let table = table.replace("${", "$ {");
            // YAML trims what is around an option; so does a format.
            prop_assert_eq!(server.psql_in(&db, &names), format!("{}|{},{}", hex(&table), hex(&key), hex(&column)));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_name_that_the_server_would_cut_is_refused() {
    let server = shared();
    let db = server.database();
    let mut rig = Rig::new(&server, &db, EVOLVE);
    let long = "é".repeat(32);
    rig.log(
        "t",
        [
            pair(r#"{"id":1}"#, r#"{"a":1}"#),
            (json(r#"{"id":2}"#), Payload::data(None, Data::object([(long.clone(), Data::Int64(1))]))),
        ],
    );
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), 1);
    assert!(rejects[0].error.message().contains("64 bytes"), "{}", rejects[0].error);
    assert_eq!(server.psql_in(&db, "select id from t"), "1");
}

#[tokio::test]
async fn two_tasks_make_one_table() {
    let server = shared();
    let db = server.database();
    let mut rigs: Vec<Rig> = (0..4).map(|_| Rig::new(&server, &db, EVOLVE)).collect();
    for (index, rig) in rigs.iter_mut().enumerate() {
        rig.connector = format!("c{index}");
        rig.log("t", [pair(&format!(r#"{{"id":{index}}}"#), &format!(r#"{{"a":1,"b{index}":2}}"#))]);
    }
    futures_util::future::join_all(rigs.iter_mut().map(Rig::run_clean)).await;
    assert_eq!(server.psql_in(&db, "select count(*) from t"), "4");
    assert_eq!(server.psql_in(&db, "select count(*) from aqueduct_offsets where next_offset = 1"), "4");
}
