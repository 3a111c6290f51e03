//! SQLite files.

use crate::rig::{Rig, Sqlite, bytes, field, ids, shape, structured, text};
use aqueduct_core::Data;
use serde_json::json;

#[tokio::test]
async fn incrementing_reads_what_is_there_and_what_comes() {
    let mut db = Sqlite::new(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL); INSERT INTO orders VALUES (-1, 'a'), (2, 'b')",
    )
    .await;
    let mut rig = Rig::new(&db.url(), "incrementing", &[]);
    let records = rig.exactly(2).await;
    assert_eq!(ids(&records), [-1, 2], "also below zero");
    assert_eq!((&*records[0].topic, records[0].key.is_null()), ("t.orders", true));
    assert_eq!(structured(&records[0]).schema.as_ref().unwrap().name.as_deref(), Some("orders"));
    assert_eq!(shape(&records[0]), ["id:int64", "item:string"]);
    db.run(
        "INSERT INTO orders VALUES (3, 'c'); ALTER TABLE orders ADD COLUMN note TEXT; INSERT INTO orders VALUES (5, 'd', 'new')",
    )
    .await;
    let records = rig.exactly(2).await;
    assert_eq!((ids(&records), field(&records[0], "note"), field(&records[1], "note")), (vec![3, 5], Data::Null, text("new")));
    let stored = rig.offsets.values().next().unwrap();
    assert_eq!(json!(stored), json!({"partition": {"protocol": "1", "table": "orders"}, "offset": {"incrementing": 5}}));
    rig.close().await;
    db.run("INSERT INTO orders VALUES (9, 'e', NULL)").await;
    assert_eq!(ids(&rig.exactly(1).await), [9], "after a restart");
}

#[tokio::test]
async fn types() {
    let db = Sqlite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, b BOOLEAN, r REAL NOT NULL, d DECIMAL(10,2), dt DATETIME, day DATE, at TIME, bin BLOB, any, s VARCHAR(9)); \
         INSERT INTO t VALUES (1, NULL, 0.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL); \
         INSERT INTO t VALUES (2, TRUE, 1, 19.99, '2026-01-02 03:04:05.678', '2026-01-02', '01:00:00', x'6162', 'x', 'é'), (3, 0, 2, '-1.5', 1767323045678, 0, 0, x'', 7, 5)",
    )
    .await;
    let mut rig = Rig::new(&db.url(), "incrementing", &[]);
    let records = rig.exactly(3).await;
    let all = [
        "id:int64",
        "b:boolean?",
        "r:double",
        "d:bytes:Decimal(2)?",
        "dt:int64:Timestamp?",
        "day:int32:Date?",
        "at:int32:Time?",
        "bin:bytes?",
        "any:string?",
        "s:string?",
    ];
    assert_eq!(shape(&records[1]), all);
    let names = ["b", "r", "d", "dt", "day", "at", "bin", "any", "s"];
    let values = |index: usize| names.map(|name| field(&records[index], name));
    let moment = Data::Int64(1_767_323_045_678);
    assert_eq!(
        values(1),
        [
            true.into(),
            1.0.into(),
            Data::Bytes(vec![0x07, 0xcf].into()),
            moment.clone(),
            Data::Int32(20455),
            Data::Int32(3_600_000),
            bytes("ab"),
            text("x"),
            text("é")
        ]
    );
    assert_eq!(
        values(2),
        [
            false.into(),
            2.0.into(),
            Data::Bytes(vec![0xff, 0x6a].into()),
            moment,
            Data::Int32(0),
            Data::Int32(0),
            bytes(""),
            text("7"),
            text("5")
        ]
    );
}

#[tokio::test]
async fn timestamps_of_a_second_that_is_not_over_are_left_for_later() {
    let mut db = Sqlite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT NOT NULL); \
         INSERT INTO t VALUES (1, '2026-01-01 00:00:01'), (2, '2026-01-01 00:00:01'), (3, '2026-01-01T00:00:01.250'), (4, '2999-01-01'), (5, '1950-01-01')",
    )
    .await;
    let mut rig = Rig::new(&db.url(), "timestamp", &[("timestamp.column.name", "at"), ("batch.max.rows", "2")]);
    assert_eq!(ids(&rig.exactly(4).await), [5, 1, 2, 3]);
    let stored = rig.offsets.values().next().unwrap().offset.clone();
    assert_eq!(json!(stored), json!({"timestamp": 1_767_225_601_250_i64, "timestamp_nanos": 250_000_000}));
    // Two in the same second, one of them behind a read that could have found the first. Where the second was over by then, with the next ones.
    let mut id = 6;
    loop {
        db.run(&format!("INSERT INTO t VALUES ({id}, CURRENT_TIMESTAMP)")).await;
        rig.step().await.unwrap();
        if rig.records.is_empty() {
            break;
        }
        rig.records.clear();
        id += 2;
    }
    db.run(&format!("INSERT INTO t SELECT {id} + 1, at FROM t WHERE id = {id}")).await;
    assert_eq!(ids(&rig.exactly(2).await), [id, id + 1]);
}

#[tokio::test]
async fn first_of_several_timestamps_and_where_to_begin() {
    let db = Sqlite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, updated INTEGER, created INTEGER NOT NULL); \
         INSERT INTO t VALUES (1, 5000, 10), (2, NULL, 3000), (3, NULL, 1000), (4, 900, 9999)",
    )
    .await;
    let columns = ("timestamp.column.name", "updated,created");
    let mut rig = Rig::new(&db.url(), "timestamp+incrementing", &[columns, ("timestamp.initial", "1000")]);
    assert_eq!(ids(&rig.exactly(3).await), [3, 2, 1], "from 1000 on; a place without an id includes its time");
    let mut now = Rig::new(&db.url(), "timestamp", &[columns, ("timestamp.initial", "-1")]);
    now.exactly(0).await;
    assert_eq!(now.offsets.len(), 1, "the moment of the first start is stored at once");
}

#[tokio::test]
async fn a_query_of_any_form() {
    let mut db = Sqlite::new(
        "CREATE TABLE o (id INTEGER PRIMARY KEY, c INTEGER, n DECIMAL(5,1)); CREATE TABLE c (id INTEGER PRIMARY KEY, name TEXT); \
         INSERT INTO c VALUES (1, 'ann'), (2, 'bob'); INSERT INTO o VALUES (1, 1, 1.5), (2, 2, 2), (3, 1, 3)",
    )
    .await;
    let query = "SELECT o.id, c.name, o.n, o.n * 2 AS twice FROM o JOIN c ON c.id = o.c WHERE c.name <> 'bob' -- ;";
    let mut rig =
        Rig::new(&db.url(), "incrementing", &[("query", query), ("incrementing.column.name", "id"), ("topic.prefix", "joined")]);
    let records = rig.exactly(2).await;
    assert_eq!((ids(&records), &*records[0].topic), (vec![1, 3], "joined"));
    assert_eq!(shape(&records[0]), ["id:int64?", "name:string?", "n:bytes:Decimal(1)?", "twice:double?"]);
    assert_eq!(structured(&records[0]).schema.as_ref().unwrap().name, None);
    db.run("INSERT INTO o VALUES (4, 1, 0)").await;
    assert_eq!(ids(&rig.exactly(1).await), [4]);
    assert_eq!(rig.offsets.keys().collect::<Vec<_>>(), [r#"{"query":"query"}"#]);
}

#[tokio::test]
async fn bulk_reads_all_each_time() {
    let db = Sqlite::new("CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1), (2), (3)").await;
    let mut rig = Rig::new(&db.url(), "bulk", &[("batch.max.rows", "2"), ("query.suffix", "LIMIT 2")]);
    rig.until("three reads", |records| records.len() >= 6).await;
    assert_eq!(ids(&rig.records[..6]), [1, 2, 1, 2, 1, 2]);
    assert!(rig.offsets.is_empty());
}

#[tokio::test]
async fn tables_come_go_and_come_back() {
    let mut db = Sqlite::new(
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE ab (id INTEGER PRIMARY KEY); INSERT INTO a VALUES (1)",
    )
    .await;
    let mut rig = Rig::new(
        &db.url(),
        "incrementing",
        &[("table.include.list", "a.*"), ("table.exclude.list", "ab"), ("table.poll.interval.ms", "100")],
    );
    assert_eq!(ids(&rig.exactly(1).await), [1]);
    db.run("DROP TABLE a; CREATE TABLE ac (id INTEGER PRIMARY KEY); INSERT INTO ac VALUES (7)").await;
    assert_eq!(ids(&rig.exactly(1).await), [7]);
    db.run("CREATE TABLE a (id INTEGER PRIMARY KEY); INSERT INTO a VALUES (1), (2)").await;
    assert_eq!(ids(&rig.exactly(1).await), [2], "read on from where it was");
}

#[tokio::test]
async fn tasks_share_the_tables() {
    let mut sql = String::new();
    (0..20).for_each(|n| sql.push_str(&format!("CREATE TABLE t{n} (id INTEGER PRIMARY KEY); INSERT INTO t{n} VALUES ({n});")));
    let db = Sqlite::new(&sql).await;
    let aqueduct_core::Plugin::Source(plugin) = aqueduct_connector_sql::plugins().remove(0) else { panic!("a source") };
    let rig = Rig::new(&db.url(), "incrementing", &[]);
    let plan = plugin.plan(&rig.options, 3).await.unwrap();
    let mut seen = Vec::new();
    for spec in plan {
        let mut task = plugin.open(&rig.options, spec, Vec::new()).await.unwrap();
        let tables: usize = task.report().summary.split(' ').next().unwrap().parse().unwrap();
        assert!(tables > 0 && tables < 20);
        seen.push(tables);
        task.close().await.unwrap();
    }
    assert_eq!(seen.iter().sum::<usize>(), 20);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let db = Sqlite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, updated_at INTEGER, name TEXT NOT NULL, n INTEGER NOT NULL, at INTEGER NOT NULL); CREATE TABLE u (x TEXT); \
         INSERT INTO t VALUES (1, 1, 'secret', 'secret', 1)",
    )
    .await;
    let only = ("table.whitelist", "t");
    for (mode, more, code, fix) in [
        ("incrementing", &[only, ("incrementing.column.name", "idd")] as &[_], "sql.missing_column", "did you mean id?"),
        ("timestamp", &[only, ("timestamp.column.name", "update_at")], "sql.missing_column", "did you mean updated_at?"),
        ("timestamp", &[only, ("timestamp.column.name", "updated_at")], "sql.nullable_column", "validate.non.null"),
        ("incrementing", &[only, ("incrementing.column.name", "name")], "sql.incrementing_type", "integer"),
        ("incrementing", &[("table.whitelist", "u")], "sql.no_incrementing_column", "incrementing.column.name"),
        ("incrementing", &[("table.whitelist", "tt")], "sql.missing_table", "table.whitelist"),
        ("bulk", &[("query", "SELEC 1")], "sql.query", "query"),
        ("bulk", &[("query", "SELECT * FROM nowhere")], "sql.missing_table", "query"),
        ("bulk", &[only], "sql.value", "correct the row"),
        ("incrementing", &[only, ("incrementing.column.name", "n")], "sql.incrementing_value", "correct the row"),
    ] {
        let error = Rig::new(&db.url(), mode, more).error().await;
        assert_eq!(error.code(), code, "{mode} {more:?}: {error:?}");
        assert!(error.hint().unwrap().contains(fix), "{error:?}");
        assert!(!error.trace().contains("secret"), "{error:?}");
    }
    let mut rig = Rig::new("jdbc:sqlite:/nowhere/x.db", "bulk", &[]);
    let error = rig.error().await;
    assert!(error.code() == "sql.unreachable" && error.is_retriable(), "{error:?}");
}

#[tokio::test]
async fn batches_are_bounded_in_bytes() {
    let db = Sqlite::new("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 12) SELECT v, printf('%.*c', 300000, 'x') FROM n").await;
    let mut rig = Rig::new(&db.url(), "incrementing", &[]);
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 12 {
        let polled = rig.poll().await.unwrap();
        assert!(polled.batch.bytes() <= 1 << 20);
        sizes.push(polled.batch.len());
        rig.store(polled);
    }
    assert_eq!(ids(&rig.records), (1..=12).collect::<Vec<_>>());
    assert!(sizes.iter().all(|size| *size <= 3), "{sizes:?}");
}
