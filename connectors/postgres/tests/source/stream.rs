use crate::harness::*;
use postgres_services::{Options as ServerOptions, Proxy, Server, shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_comes_in_order() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, name text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL; CREATE TABLE other (id int)");
    let mut source = open(&with(options(&server, &db), &[("table.include.list", "public.t")]), Vec::new()).await.unwrap();
    server.psql_in(&db, "INSERT INTO t VALUES (1, 'one', repeat('x', 10000)); INSERT INTO other VALUES (1)");
    server.psql_in(&db, "UPDATE t SET name = 'eins'; UPDATE t SET id = 2; DELETE FROM t");
    server.psql_in(&db, "ALTER TABLE t ADD COLUMN more int DEFAULT 7; INSERT INTO t (id) VALUES (3); ALTER TABLE t DROP COLUMN name; INSERT INTO t (id) VALUES (4)");
    let got = source.records(9).await;
    let expected = [
        &format!(r#"c 1 {{"id":1,"name":"one","big":"{}"}}"#, "x".repeat(10_000)),
        r#"u 1 {"id":1,"name":"eins","big":"(unavailable)"}"#,
        "d 1 null",
        "tombstone 1",
        r#"c 2 {"id":2,"name":"eins","big":"(unavailable)"}"#,
        "d 2 null",
        "tombstone 2",
        r#"c 3 {"id":3,"name":null,"big":null,"more":7}"#,
        r#"c 4 {"id":4,"big":null,"more":7}"#,
    ];
    assert_eq!(shown(&got), expected);
    assert!(got.iter().all(|record| record.topic == "shop.public.t"));
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_and_tls_log_in() {
    let server = Server::start(ServerOptions::tls());
    let root = server.certs().join("ca.pem").display().to_string();
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        let db = server.database();
        server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
        let more = [("database.sslmode", mode), ("database.sslrootcert", root.as_str())];
        let mut source =
            open(&with(options(&server, &db), &more), Vec::new()).await.unwrap_or_else(|error| panic!("{mode}: {error:?}"));
        server.psql_in(&db, "INSERT INTO t VALUES (1)");
        source.records(1).await;
        source.close().await;
    }
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    for (more, code) in [
        (&[("database.sslmode", "disable")][..], "postgres.login"),
        (&[("database.sslmode", "require"), ("database.password", "wrong")], "postgres.login"),
        (&[("database.sslmode", "verify-full")], "postgres.tls"),
    ] {
        let refused = open(&with(options(&server, &db), more), Vec::new()).await.err().expect("refused");
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(!refused.trace().contains("wrong") && refused.hint().is_some());
    }
}

/// `(op, key, after)` of each record.
fn shown(got: &[Got]) -> Vec<String> {
    let show = |record: &Got| match record.op() {
        "" => format!("tombstone {}", record.key["id"]),
        op => format!("{op} {} {}", record.key["id"], record.value["after"]),
    };
    got.iter().map(show).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncates_messages_transactions_and_heartbeats_are_sent_where_they_are_asked_for() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let more = [
        ("skipped.operations", "none"),
        ("provide.transaction.metadata", "true"),
        ("heartbeat.interval.ms", "100"),
        ("message.prefix.exclude.list", "noise"),
    ];
    let mut source = open(&with(options(&server, &db), &more), Vec::new()).await.unwrap();
    server.psql_in(
        &db,
        "BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'app', 'hello'); COMMIT; TRUNCATE t",
    );
    server
        .psql_in(&db, "SELECT pg_logical_emit_message(false, 'noise', 'x'); SELECT pg_logical_emit_message(false, 'app', 'end')");
    let (mut all, mut beats) = (Vec::new(), 0);
    while all.len() < 8 || beats < 2 {
        for record in source.records(1).await {
            match record.topic.as_str() {
                "__debezium-heartbeat.shop" => beats += 1,
                _ => all.push(record),
            }
        }
    }
    let seen: Vec<String> = all
        .iter()
        .map(|record| format!("{} {}{}", record.topic, record.op(), record.value["status"].as_str().unwrap_or_default()))
        .collect();
    let transaction = |middle: &[&str]| {
        let mut all = vec!["shop.transaction BEGIN".to_owned()];
        all.extend(middle.iter().map(|one| (*one).to_owned()));
        all.push("shop.transaction END".to_owned());
        all
    };
    let expected =
        [transaction(&["shop.public.t c", "shop.message m"]), transaction(&["shop.public.t t"]), vec!["shop.message m".into()]]
            .concat();
    assert_eq!(seen, expected);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_of_old_events_are_those_of_their_time() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, a text, b int NOT NULL DEFAULT 5)");
    let mut source = open(&options(&server, &db), Vec::new()).await.unwrap();
    // All of it lies in the WAL before the first event is read, and the table is another one then.
    server.psql_in(
        &db,
        "INSERT INTO t VALUES (1, 'x', 1); ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES (2, 2); ALTER TABLE t ADD COLUMN c text; \
         INSERT INTO t VALUES (3, 3, 'y'); ALTER TABLE t RENAME COLUMN b TO d; INSERT INTO t VALUES (4, 4, 'z'); ALTER TABLE t ALTER c TYPE int USING 7; \
         INSERT INTO t VALUES (5, 5, 5); DROP TABLE t",
    );
    let rows: Vec<String> = source.records(5).await.iter().map(|record| record.value["after"].to_string()).collect();
    assert_eq!(
        rows,
        [
            r#"{"id":1,"a":"x","b":1}"#,
            r#"{"id":2,"b":2}"#,
            r#"{"id":3,"b":3,"c":"y"}"#,
            r#"{"id":4,"d":4,"c":"z"}"#,
            r#"{"id":5,"d":5,"c":5}"#,
        ]
    );
    source.close().await;
}

/// Of this process, in MiB, now.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

/// `ROWS=10000000 cargo test -p aqueduct-connector-postgres --test source -- a_large_transaction --nocapture` for a really large one (some 4 GB of
/// disk in /var/tmp).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_comes_in_pieces() {
    let rows: u64 = std::env::var("ROWS").map_or(100_000, |rows| rows.parse().expect("ROWS is a number"));
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, pad text)");
    let mut source = open(&options(&server, &db), Vec::new()).await.unwrap();
    server.psql_in(&db, &format!("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, {rows}) i"));
    let (mut next, mut inside, mut peak, before) = (1, 0, 0, rss());
    let until = std::time::Instant::now() + DEADLINE + std::time::Duration::from_millis(rows);
    while next <= rows {
        assert!(std::time::Instant::now() < until, "{next} of {rows} rows in time");
        let polled = source.poll_only(5000).await.unwrap();
        for record in polled.batch.iter() {
            let aqueduct_core::PayloadRef::Data(value) = record.key() else { panic!("{record:?}") };
            assert_eq!(value.data, aqueduct_core::Data::Struct(vec![aqueduct_core::Data::Int32(next as i32)]));
            next += 1;
        }
        source.keep(&polled).await.unwrap();
        inside += u64::from(streams(&source.stored).get("messageType").is_some_and(|kind| kind == "INSERT"));
        peak = peak.max(rss());
    }
    assert!(inside > 15, "{inside} positions within the transaction");
    println!("{rows} rows in one transaction: {inside} positions within it, RSS {before} MiB before, {peak} MiB at most");
    // Tests beside it grow too: the bound holds where it runs alone.
    assert!(rows == 100_000 || peak < before + 100, "{before} MiB before, {peak} MiB at most");
    source.close().await;
}

/// Events of each transaction (`n` tells how many it has) come in one batch, wherever the connection is cut; one that is larger than a batch may be is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_comes_whole() {
    let server = shared();
    let proxy = Proxy::start(server.port());
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id serial PRIMARY KEY, n int, pad text)");
    let options = options_at(proxy.port(), &db);
    open(&options, Vec::new()).await.unwrap().close().await;
    fastrand::seed(5);
    // From one row to some 130 KiB of structured data, at each place of a batch.
    let sizes: Vec<i64> = (0..80).map(|_| fastrand::i64(1..=if fastrand::bool() { 3 } else { 250 })).collect();
    let sql = |n: &i64| format!("INSERT INTO t (n, pad) SELECT {n}, repeat('x', 100) FROM generate_series(1, {n});\n");
    server.psql_in(&db, &sizes.iter().map(sql).collect::<String>());
    proxy.cut_after(50_000..=250_000, 7);
    let (mut seen, mut batches, until) = (Vec::new(), 0, std::time::Instant::now() + DEADLINE);
    let mut source = open_in_the_end(&options, Vec::new()).await;
    while seen.len() < sizes.len() {
        assert!(std::time::Instant::now() < until, "{} of {} transactions", seen.len(), sizes.len());
        let polled = match source.poll_only(5000).await {
            Ok(polled) => polled,
            Err(error) => {
                assert!(error.is_retriable(), "{error:?}");
                let stored = source.stored.clone();
                drop(source);
                source = open_in_the_end(&options, stored).await;
                continue;
            }
        };
        let ns: Vec<i64> = got(&polled).iter().map(|record| record.after("n").as_i64().expect("a number")).collect();
        let mut rest = &ns[..];
        while let Some(n) = rest.first() {
            let (whole, more) = rest.split_at_checked(*n as usize).unwrap_or_else(|| panic!("{} of {n}", rest.len()));
            assert!(whole.iter().all(|other| other == n), "{whole:?}");
            seen.push(*n);
            rest = more;
        }
        batches += usize::from(!ns.is_empty());
        source.keep(&polled).await.unwrap_or_default();
        if !polled.resume.is_empty() {
            assert_eq!(streams(&source.stored)["messageType"], "COMMIT");
        }
    }
    assert_eq!(seen, sizes);
    assert!(proxy.cuts() > 3 && batches > 8, "{} cuts, {batches} batches", proxy.cuts());
    assert_eq!(split(&source), 0.0);
    proxy.heal();
    let stored = source.stored.clone();
    drop(source);
    let mut source = open_in_the_end(&options, stored).await;
    server.psql_in(&db, "INSERT INTO t (n, pad) SELECT 5000, repeat('x', 100) FROM generate_series(1, 5000)");
    source.records(5000).await;
    assert_eq!(split(&source), 1.0, "it is larger than a batch may be");
    source.close().await;
}

fn split(source: &Running) -> f64 {
    let measures = source.task.report().measures;
    measures.iter().find(|measure| measure.name == "split_transactions").expect("of every stream").value
}

/// What the schema of each record's `after` allows in this field.
async fn allowed(source: &mut Running, field: &str, count: usize) -> Vec<String> {
    let (mut all, until) = (Vec::new(), std::time::Instant::now() + DEADLINE);
    while all.len() < count {
        assert!(std::time::Instant::now() < until, "{all:?}");
        let polled = source.poll_only(100).await.expect("poll");
        for record in polled.batch.iter() {
            let aqueduct_core::PayloadRef::Data(value) = record.value() else { continue };
            let schema = value.schema.as_ref().expect("an envelope has one");
            let after = &schema.fields[schema.field_index("after").expect("of every envelope")].schema;
            all.push(after.fields[after.field_index(field).expect("a column")].schema.parameters["allowed"].clone());
        }
        source.keep(&polled).await.expect("commit");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_is_added_to_an_enum_shows_with_its_first_row() {
    let server = shared();
    let db = server.database();
    server.psql_in(
        &db,
        "CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN fine AS mood; CREATE TABLE t (id int PRIMARY KEY, m mood); CREATE TABLE u (id int PRIMARY KEY, m fine)",
    );
    let mut source = open(&options(&server, &db), Vec::new()).await.unwrap();
    server.psql_in(&db, "INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a')");
    assert_eq!(allowed(&mut source, "m", 2).await, ["a", "a"]);
    server.psql_in(&db, "ALTER TYPE mood ADD VALUE 'b'; INSERT INTO t VALUES (2, 'a'), (3, 'b'), (4, 'a'); UPDATE u SET m = 'b'; ALTER TYPE mood RENAME VALUE 'b' TO 'c'");
    assert_eq!(allowed(&mut source, "m", 4).await, ["a", "a,c", "a,c", "a,c"]);
    server.psql_in(&db, "ALTER TYPE mood ADD VALUE 'd'; INSERT INTO u VALUES (5, 'd')");
    assert_eq!(allowed(&mut source, "m", 1).await, ["a,c,d"]);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_change_was_made_first_and_the_slots_xmin_are_told() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let mut source = open(&with(options(&server, &db), &[("xmin.fetch.interval.ms", "100")]), Vec::new()).await.unwrap();
    server.psql_in(
        &db,
        &format!(
            "SELECT pg_replication_origin_create('{db}'); SELECT pg_replication_origin_session_setup('{db}'); \
             BEGIN; SELECT pg_replication_origin_xact_setup('0/ABCD', now()); INSERT INTO t VALUES (1); COMMIT; \
             SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2); SELECT pg_replication_origin_drop('{db}')"
        ),
    );
    let got = source.records(2).await;
    let origin = |record: &Got| (record.value["source"]["origin"].clone(), record.value["source"]["origin_lsn"].clone());
    assert_eq!(origin(&got[0]), (db.as_str().into(), 0xABCD.into()));
    assert_eq!(origin(&got[1]), (serde_json::Value::Null, serde_json::Value::Null));
    let until = std::time::Instant::now() + DEADLINE;
    for id in 3.. {
        assert!(std::time::Instant::now() < until, "no xmin");
        server.psql_in(&db, &format!("INSERT INTO t VALUES ({id})"));
        if source.records(1).await[0].value["source"]["xmin"].as_i64().is_some_and(|xmin| xmin > 0) {
            break;
        }
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_appears_joins_without_a_stop() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL");
    let more = [("heartbeat.interval.ms", "200"), ("snapshot.mode", "initial")];
    let mut source = open(&with(options(&server, &db), &more), Vec::new()).await.unwrap();
    server.psql_in(
        &db,
        "INSERT INTO t VALUES (1, 1); UPDATE t SET n = 2; CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (7)",
    );
    let mut seen = Vec::new();
    let until = std::time::Instant::now() + DEADLINE;
    while !seen.iter().any(|record: &Got| record.topic == "shop.public.u") {
        assert!(std::time::Instant::now() < until, "the table does not join: {seen:?}");
        seen.extend(source.records(1).await.into_iter().filter(|record| record.topic.starts_with("shop.")));
    }
    assert_eq!(shown(&seen), [r#"c 1 {"id":1,"n":1}"#, r#"u 1 {"id":1,"n":2}"#, r#"r 7 {"id":7}"#]);
    assert_eq!(seen[1].value["before"]["n"], 1, "FULL sends the row as it was");
    server.psql_in(&db, "INSERT INTO u VALUES (8); INSERT INTO t VALUES (2, 2)");
    let mut rest = Vec::new();
    while rest.len() < 2 {
        rest.extend(source.records(1).await.into_iter().filter(|record| record.topic.starts_with("shop.")));
    }
    assert_eq!(shown(&rest), [r#"c 8 {"id":8}"#, r#"c 2 {"id":2,"n":2}"#]);
    source.close().await;
}
