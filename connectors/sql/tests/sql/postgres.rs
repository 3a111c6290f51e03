//! PostgreSQL.

use crate::rig::{DEADLINE, Rig, bytes, field, ids, shape, text};
use aqueduct_core::Data;
use postgres_services::{Options, Server, shared};
use serde_json::json;
use std::time::Instant;

fn jdbc(server: &Server, database: &str) -> String {
    format!("jdbc:postgresql://127.0.0.1:{}/{database}", server.port())
}

const LOGIN: [(&str, &str); 2] =
    [("connection.user", postgres_services::USER), ("connection.password", postgres_services::PASSWORD)];

fn rig(server: &Server, database: &str, mode: &str, more: &[(&str, &str)]) -> Rig {
    Rig::new(&jdbc(server, database), mode, &[&LOGIN, more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_are_confluents() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "create type mood as enum ('ok', 'bad'); create domain price as numeric(8,2) not null; \
         create table t (id int generated always as identity, b bool, i2 int2, i8 int8 not null, f4 float4, f8 float8, n numeric(10,2), any_n numeric, p price, \
           s varchar(9), c char(3), bin bytea, d date, t time, tz timetz, ts timestamp, tsz timestamptz, j json, jb jsonb, u uuid, m mood, a int[], cash money, \
           bit1 bit, bits bit(4), ip inet, o oid); \
         insert into t (i8, p) values (1, 0); \
         insert into t (b, i2, i8, f4, f8, n, any_n, p, s, c, bin, d, t, tz, ts, tsz, j, jb, u, m, a, cash, bit1, bits, ip, o) values \
           (true, -2, 9223372036854775807, 0.1, 0.1, -1.5, 123456789012345678901234567890.5, 12.3, 'é', 'x', 'ab', '1969-12-31', '12:34:56.789', '12:00+02', \
            '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05+02', '{\"a\" : 1}', '{\"a\":1}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'bad', '{1,null}', 1234.5, \
            '1', '0101', '10.0.0.1/8', 4294967295)",
    );
    let records = rig(&server, &db, "incrementing", &[]).exactly(2).await;
    assert_eq!(
        shape(&records[0]),
        [
            "id:int32",
            "b:boolean?",
            "i2:int16?",
            "i8:int64",
            "f4:float?",
            "f8:double?",
            "n:bytes:Decimal(2)?",
            "any_n:string?",
            "p:bytes:Decimal(2)",
            "s:string?",
            "c:string?",
            "bin:bytes?",
            "d:int32:Date?",
            "t:int32:Time?",
            "tz:int32:Time?",
            "ts:int64:Timestamp?",
            "tsz:int64:Timestamp?",
            "j:string?",
            "jb:string?",
            "u:string?",
            "m:string?",
            "a:string?",
            "cash:double?",
            "bit1:boolean?",
            "bits:string?",
            "ip:string?",
            "o:int64?",
        ]
    );
    let expected: [(&str, Data); 26] = [
        ("b", true.into()),
        ("i2", Data::Int16(-2)),
        ("i8", i64::MAX.into()),
        ("f4", 0.1f32.into()),
        ("f8", 0.1f64.into()),
        ("n", Data::Bytes(vec![0xff, 0x6a].into())),
        ("any_n", text("123456789012345678901234567890.5")),
        ("p", Data::Bytes(vec![0x04, 0xce].into())),
        ("s", text("é")),
        ("c", text("x  ")),
        ("bin", bytes("ab")),
        ("d", Data::Int32(-1)),
        ("t", Data::Int32(45_296_789)),
        ("tz", Data::Int32(43_200_000)),
        ("ts", Data::Int64(1_767_323_045_678)),
        ("tsz", Data::Int64(1_767_315_845_000)),
        ("j", text("{\"a\" : 1}")),
        ("jb", text("{\"a\": 1}")),
        ("u", text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("m", text("bad")),
        ("a", text("{1,NULL}")),
        ("cash", 1234.5f64.into()),
        ("bit1", true.into()),
        ("bits", text("0101")),
        ("ip", text("10.0.0.1/8")),
        ("o", Data::Int64(4_294_967_295)),
    ];
    for (name, value) in expected {
        assert_eq!(field(&records[1], name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn granularity_numbers_and_zone() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, ts timestamp not null, n numeric(4), m numeric(20,2)); insert into t values (1, '2026-07-01 12:00:00.000001', 7, 1.5)");
    let options = [
        ("db.timezone", "Europe/Berlin"),
        ("timestamp.granularity", "micros_long"),
        ("numeric.mapping", "best_fit_eager_double"),
        ("timestamp.column.name", "ts"),
        ("incrementing.column.name", "id"),
    ];
    let mut rig = rig(&server, &db, "timestamp+incrementing", &options);
    let records = rig.exactly(1).await;
    assert_eq!(shape(&records[0]), ["id:int32", "ts:int64", "n:int16?", "m:double?"]);
    assert_eq!((field(&records[0], "ts"), field(&records[0], "n")), (Data::Int64(1_782_900_000_000_001), Data::Int16(7)));
    let stored = json!(rig.offsets.values().next().unwrap());
    assert_eq!(stored["partition"], json!({"protocol": "1", "table": format!("{db}.public.t")}));
    assert_eq!(stored["offset"], json!({"incrementing": 1, "timestamp": 1_782_900_000_000_i64, "timestamp_nanos": 1000}));
    server.psql_in(&db, "insert into t values (2, '2026-07-01 12:00:00.000001'), (3, '2026-07-01 12:00:00')");
    assert_eq!(ids(&rig.exactly(1).await), [2], "the same microsecond, the next id; an older time is not seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confluents_offsets_are_taken_over() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id bigserial primary key, x int); insert into t (x) select generate_series(1, 10)");
    let mut rig = rig(&server, &db, "incrementing", &[("incrementing.column.name", "ID")]);
    let offset =
        serde_json::from_value(json!({"partition": {"protocol": "1", "table": "public.t"}, "offset": {"incrementing": 7}}))
            .unwrap();
    rig.offsets.insert("theirs".into(), offset);
    assert_eq!(ids(&rig.exactly(3).await), [8, 9, 10]);
    let given_back = &rig.offsets[r#"{"protocol":"1","table":"public.t"}"#];
    assert_eq!(json!(given_back.offset), json!({"incrementing": 10}), "under the name that they know");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_commits_late_needs_the_delay() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id serial primary key, at timestamptz not null default now())");
    let options = [("timestamp.column.name", "at"), ("incrementing.column.name", "id"), ("timestamp.delay.interval.ms", "3000")];
    let mut rig = rig(&server, &db, "timestamp+incrementing", &options);
    rig.step().await.unwrap();
    let mut late = server.session(&db);
    late.run("begin");
    late.run("insert into t default values");
    server.psql_in(&db, "insert into t default values");
    rig.step().await.unwrap();
    late.run("commit");
    assert_eq!(ids(&rig.exactly(2).await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_lost_columns() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "create table t (id int primary key, n numeric(6,3) not null, u uuid); insert into t values (1, 1.5, null), (2, 2, null)",
    );
    let query = ("query", "with x as (select * from t where id > 0) select id, n, u, now() as at from x");
    let mut rig = rig(&server, &db, "incrementing", &[query, ("incrementing.column.name", "id")]);
    let records = rig.exactly(2).await;
    assert_eq!(shape(&records[0]), ["id:int32?", "n:bytes:Decimal(3)?", "u:string?", "at:int64:Timestamp?"]);
    server.psql_in(&db, "alter table t drop column u");
    let error = rig.error().await;
    assert_eq!(error.code(), "sql.missing_column", "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_servers_that_are_gone() {
    let mut server = Server::start(Options::scram());
    server.psql("create table t (id int primary key); insert into t values (1)");
    let refused = [("connection.user", "postgres"), ("connection.password", "wrong-hunter2")];
    let error =
        Rig::new(&jdbc(&server, "postgres"), "incrementing", &[&refused[..], &[("incrementing.column.name", "id")]].concat())
            .error()
            .await;
    assert!(error.code() == "sql.authentication" && !error.is_retriable(), "{error:?}");
    assert!(!error.trace().contains("hunter2"), "{error:?}");
    let error = rig(&server, "nowhere", "bulk", &[]).error().await;
    assert_eq!(error.code(), "sql.missing_database", "{error:?}");
    let mut rig = rig(&server, "postgres", "incrementing", &[("incrementing.column.name", "id")]);
    assert_eq!(ids(&rig.exactly(1).await), [1]);
    server.kill9();
    let error = rig.error().await;
    assert!(error.is_retriable(), "{error:?}");
    rig.crash();
    let error = rig.error().await;
    assert!(
        error.code() == "sql.unreachable" && error.is_retriable() && !error.trace().contains(postgres_services::PASSWORD),
        "{error:?}"
    );
    server.restart();
    server.psql("insert into t values (2)");
    // The same recovery as the worker's: reopened from the stored offset.
    let start = Instant::now();
    while rig.records.is_empty() {
        if rig.step().await.is_err() {
            rig.crash();
        }
        assert!(start.elapsed() < DEADLINE);
    }
    assert_eq!(ids(&rig.records), [2]);
}
