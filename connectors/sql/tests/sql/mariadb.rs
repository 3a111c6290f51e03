//! MariaDB, and what it shares with MySQL.

use crate::mariadb_server::{MariaDb, PASSWORD, USER};
use crate::rig::{DEADLINE, Rig, bytes, field, ids, shape, text};
use aqueduct_core::Data;
use serde_json::json;
use std::time::Instant;

fn rig(server: &MariaDb, mode: &str, more: &[(&str, &str)]) -> Rig {
    Rig::new(&server.url(), mode, &[&[("connection.user", USER), ("connection.password", PASSWORD)], more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_modes_and_a_server_that_is_killed() {
    let mut server = MariaDb::start();
    types(&server).await;
    places(&server).await;
    query(&server).await;
    errors(&mut server).await;
}

async fn types(server: &MariaDb) {
    server.sql(
        "CREATE TABLE types (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, ti TINYINT, tb TINYINT(1), tu TINYINT UNSIGNED, su SMALLINT UNSIGNED NOT NULL, m MEDIUMINT, \
           bu BIGINT UNSIGNED, f FLOAT, d DOUBLE, n DECIMAL(10,2), s VARCHAR(9), e ENUM('a','b'), j JSON, bin VARBINARY(4), bit1 BIT(1), bits BIT(9), \
           day DATE, y YEAR, dt DATETIME(6), ts TIMESTAMP(3) NULL, tm TIME(3)) CHARACTER SET latin1; \
         INSERT INTO types (su) VALUES (1); \
         INSERT INTO types VALUES (4294967295, -1, 1, 255, 65535, -5, 9223372036854775807, 0.1, 0.1, -1.5, 'é', 'b', '{\"a\": 1}', 'ab', b'1', b'100000001', \
           '1969-12-31', 2026, '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678', '-01:00:00.5')",
    );
    let records = rig(server, "incrementing", &[("table.whitelist", "types")]).exactly(2).await;
    assert_eq!(
        shape(&records[0]),
        [
            "id:int64",
            "ti:int8?",
            "tb:int8?",
            "tu:int16?",
            "su:int32",
            "m:int32?",
            "bu:int64?",
            "f:float?",
            "d:double?",
            "n:bytes:Decimal(2)?",
            "s:string?",
            "e:string?",
            "j:string?",
            "bin:bytes?",
            "bit1:int8?",
            "bits:bytes?",
            "day:int32:Date?",
            "y:int32:Date?",
            "dt:int64:Timestamp?",
            "ts:int64:Timestamp?",
            "tm:int32:Time?",
        ]
    );
    let expected: [(&str, Data); 21] = [
        ("id", Data::Int64(4_294_967_295)),
        ("ti", Data::Int8(-1)),
        ("tb", Data::Int8(1)),
        ("tu", Data::Int16(255)),
        ("su", Data::Int32(65535)),
        ("m", Data::Int32(-5)),
        ("bu", Data::Int64(i64::MAX)),
        ("f", 0.1f32.into()),
        ("d", 0.1f64.into()),
        ("n", Data::Bytes(vec![0xff, 0x6a].into())),
        ("s", text("é")),
        ("e", text("b")),
        ("j", text("{\"a\": 1}")),
        ("bin", bytes("ab")),
        ("bit1", Data::Int8(1)),
        ("bits", Data::Bytes(vec![1, 1].into())),
        ("day", Data::Int32(-1)),
        ("y", Data::Int32(20454)),
        ("dt", Data::Int64(1_767_323_045_678)),
        ("ts", Data::Int64(1_767_323_045_678)),
        ("tm", Data::Int32(82_799_500)),
    ];
    for (name, value) in expected {
        assert_eq!(field(&records[1], name), value, "{name}");
    }
}

async fn places(server: &MariaDb) {
    server.sql("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME NOT NULL); INSERT INTO t (at) VALUES ('2026-01-01 00:00:01'), ('2026-01-01 00:00:01'), ('2026-01-01')");
    let options = [("table.whitelist", "t"), ("timestamp.column.name", "at"), ("db.timezone", "+02:00"), ("batch.max.rows", "1")];
    let mut both = rig(server, "timestamp+incrementing", &options);
    assert_eq!(ids(&both.exactly(3).await), [3, 1, 2]);
    let stored = json!(both.offsets.values().next().unwrap());
    assert_eq!(stored["partition"], json!({"protocol": "1", "table": "shop.t"}));
    assert_eq!(stored["offset"], json!({"incrementing": 2, "timestamp": 1_767_218_401_000_i64, "timestamp_nanos": 0}));
    both.crash();
    server.sql("UPDATE t SET at = '2026-01-01 00:00:02' WHERE id = 3");
    assert_eq!(ids(&both.exactly(1).await), [3], "an update, after a crash");
    whole_seconds(server, &options).await;
}

/// A column of whole seconds: what is written in this second is read when it is over, since more of it may come.
async fn whole_seconds(server: &MariaDb, options: &[(&str, &str)]) {
    let second = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    loop {
        server.sql("DELETE FROM t WHERE id > 3");
        let mut time = rig(server, "timestamp", options);
        time.exactly(3).await;
        server.sql("DO SLEEP(1 - MICROSECOND(NOW(6)) / 1000000)");
        let began = second();
        server.sql("INSERT INTO t (at) VALUES (UTC_TIMESTAMP() + INTERVAL 2 HOUR)");
        time.step().await.unwrap();
        server.sql("INSERT INTO t (at) SELECT max(at) FROM t");
        // On a slow machine the second was over before all of this was.
        if second() == began {
            assert_eq!(ids(&time.exactly(2).await).len(), 2);
            return;
        }
    }
}

async fn query(server: &MariaDb) {
    let query = [
        ("query", "SELECT id, CAST(id * 1.25 AS DECIMAL(9,2)) AS n, at FROM t WHERE id < 3"),
        ("incrementing.column.name", "id"),
    ];
    let records = rig(server, "incrementing", &query).exactly(2).await;
    assert_eq!(shape(&records[0]), ["id:int32?", "n:bytes:Decimal(2)?", "at:int64:Timestamp?"]);
    assert_eq!(field(&records[1], "n"), Data::Bytes(vec![0, 250].into()));
}

async fn errors(server: &mut MariaDb) {
    let wrong = [("connection.user", USER), ("connection.password", "wrong-hunter2")];
    let error = Rig::new(&server.url(), "bulk", &wrong).error().await;
    assert!(error.code() == "sql.authentication" && !error.trace().contains("hunter2"), "{error:?}");
    let error = rig(server, "incrementing", &[("table.whitelist", "t"), ("incrementing.column.name", "idd")]).error().await;
    assert_eq!((error.code(), error.hint()), ("sql.missing_column", Some("did you mean id?")));
    let mut rig = rig(server, "incrementing", &[("table.whitelist", "t")]);
    rig.until("all", |records| records.len() == 5).await;
    server.kill9();
    let error = rig.error().await;
    assert!(error.is_retriable(), "{error:?}");
    server.restart();
    server.sql("INSERT INTO t (at) VALUES ('2026-01-01')");
    let start = Instant::now();
    while rig.records.len() < 6 {
        if rig.step().await.is_err() {
            rig.crash();
        }
        assert!(start.elapsed() < DEADLINE);
    }
    assert_eq!(ids(&rig.records), [1, 2, 3, 4, 5, 6]);
}
