//! The slot: that it moves, and what is said when it does not fit.

use crate::harness::*;
use aqueduct_core::{Class, SourceOffset};
use postgres_services::{Options as ServerOptions, Proxy, Server, shared, wait_until};
use std::time::{Duration, Instant};

async fn refusal(options: &aqueduct_core::Options, stored: Vec<SourceOffset>) -> aqueduct_core::Error {
    match open(options, stored).await {
        Ok(_) => panic!("it opened"),
        Err(error) => {
            assert!(error.hint().is_some(), "{error:?} has no fix");
            error
        }
    }
}

/// A source that has read one row, closed; what is stored.
async fn one_row(server: &Server, db: &str, options: &aqueduct_core::Options) -> Vec<SourceOffset> {
    server.psql_in(db, "CREATE TABLE t (id int PRIMARY KEY)");
    let mut source = open(options, Vec::new()).await.expect("opens");
    server.psql_in(db, "INSERT INTO t VALUES (1)");
    source.records(1).await;
    let end = lsn(&server.psql_in(db, "SELECT pg_current_wal_lsn()"));
    source.until_stored("the commit", |offset| number(offset, "lsn_commit") >= end).await;
    source.close().await
}

fn confirmed(server: &Server, slot: &str) -> u64 {
    lsn(&server.psql(&format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mismatch_has_a_name_and_a_choice() {
    let server = shared();
    let db = server.database();
    let options = options(&server, &db);
    let stored = one_row(&server, &db, &options).await;
    assert!(stored.iter().all(|one| one.partition["server"] == "shop"));

    let mut elsewhere = stored.clone();
    for offset in elsewhere.iter_mut().filter_map(|one| one.offset.as_mut()) {
        offset.insert("aqueduct.system_id".into(), "42".into());
    }
    assert_eq!(refusal(&options, elsewhere).await.code(), "postgres.other_system");

    server.psql_in(&db, &format!("SELECT pg_drop_replication_slot('{db}')"));
    assert_eq!(refusal(&options, stored.clone()).await.code(), "postgres.slot_missing");

    server.psql_in(
        &db,
        &format!(
            "INSERT INTO t VALUES (2); SELECT pg_create_logical_replication_slot('{db}', 'pgoutput'); INSERT INTO t VALUES (3)"
        ),
    );
    assert_eq!(refusal(&options, stored.clone()).await.code(), "postgres.slot_ahead");
    // Consent: row 2 is passed over.
    let trusting = with(options.clone(), &[("offset.mismatch.strategy", "trust_slot")]);
    let mut source = open(&trusting, stored.clone()).await.unwrap();
    assert_eq!(source.records(1).await[0].after("id"), 3);
    let active = refusal(&trusting, source.stored.clone()).await;
    assert_eq!((active.class(), active.code()), (Class::Retriable, "postgres.in_use"));
    source.close().await;

    let physical = format!("{db}_physical");
    server.psql(&format!("SELECT pg_create_physical_replication_slot('{physical}')"));
    assert_eq!(refusal(&with(options.clone(), &[("slot.name", &physical)]), Vec::new()).await.code(), "postgres.slot_plugin");
    server.psql(&format!("SELECT pg_drop_replication_slot('{physical}')"));
    let other = server.database();
    assert_eq!(
        refusal(&with(options.clone(), &[("database.dbname", &other)]), Vec::new()).await.code(),
        "postgres.slot_database"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_and_settings_come_with_the_sql() {
    let server = Server::start(ServerOptions::scram().with("wal_level = logical"));
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE weak LOGIN PASSWORD 'w'; GRANT SELECT ON t TO weak");
    let as_weak = with(options(&server, &db), &[("database.user", "weak"), ("database.password", "w")]);
    let login = refusal(&as_weak, Vec::new()).await;
    assert_eq!(login.code(), "postgres.permission", "{login:?}");
    assert!(login.hint().unwrap().contains("ALTER ROLE \"weak\" REPLICATION"), "{login:?}");
    server.psql("ALTER ROLE weak REPLICATION");
    let publication = refusal(&as_weak, Vec::new()).await;
    assert_eq!(publication.code(), "postgres.permission", "{publication:?}");
    assert!(publication.hint().unwrap().contains("CREATE PUBLICATION"), "{publication:?}");
    server.psql_in(&db, &format!("CREATE PUBLICATION {db} FOR TABLE t"));
    let mut source = open(&as_weak, Vec::new()).await.unwrap();
    server.psql_in(&db, "INSERT INTO t VALUES (1)");
    source.records(1).await;
    source.close().await;
    assert_eq!(
        refusal(&with(as_weak.clone(), &[("database.dbname", "none")]), Vec::new()).await.code(),
        "postgres.database_missing"
    );
    assert_eq!(
        refusal(&with(as_weak, &[("table.include.list", "public.none"), ("publication.name", "p")]), Vec::new()).await.code(),
        "postgres.no_tables"
    );
    let mut replica = Server::start(ServerOptions::default().with("wal_level = replica"));
    let refused = refusal(&options(&replica, "postgres"), Vec::new()).await;
    assert_eq!(refused.code(), "postgres.wal_level");
    assert!(refused.hint().unwrap().contains("ALTER SYSTEM SET wal_level = logical"));
    replica.stop();
    let gone = refusal(&options(&replica, "postgres"), Vec::new()).await;
    assert_eq!((gone.class(), gone.code()), (Class::Retriable, "postgres.connection"));
}

/// A failover slot is on the standby, too: after the promotion the connector goes on with it. Before PostgreSQL 17 there are none, and it is an ordinary slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_slot_outlives_its_primary() {
    let mut primary = Server::start(ServerOptions::default());
    let db = primary.database();
    primary.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let proxy = Proxy::start(primary.port());
    let options = with(options_at(proxy.port(), &db), &[("slot.failover", "true")]);
    let mut source = open(&options, Vec::new()).await.unwrap();
    primary.psql_in(&db, "INSERT INTO t VALUES (1)");
    assert_eq!(source.records(1).await[0].after("id"), 1);
    if primary.psql("SHOW server_version_num").parse::<u32>().unwrap() < 170_000 {
        source.close().await;
        return;
    }
    primary.psql("SELECT pg_create_physical_replication_slot('standby')");
    // No reader is ahead of the standby.
    primary.set("synchronized_standby_slots = 'standby'");
    primary.psql("SELECT pg_reload_conf()");
    let standby = ServerOptions::default().with("sync_replication_slots = on").with("primary_slot_name = 'standby'");
    let standby = primary.standby(standby.with("hot_standby_feedback = on"));
    primary.psql_in(&db, "INSERT INTO t VALUES (2)");
    assert_eq!(source.records(1).await[0].after("id"), 2);
    let there = format!("SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '{db}'");
    wait_until(DEADLINE, "the standby has the slot", || (standby.psql(&there) == "t").then_some(()));
    primary.psql_in(&db, "INSERT INTO t VALUES (3)");
    assert_eq!(source.records(1).await[0].after("id"), 3);
    let end = lsn(&primary.psql_in(&db, "SELECT pg_current_wal_lsn()"));
    source.until_stored("the commit", |offset| number(offset, "lsn_commit") >= end).await;
    primary.psql_in(&db, "INSERT INTO t VALUES (4)");
    primary.wait_replayed(&standby);
    primary.kill9();
    let stored = source.close().await;
    standby.promote();
    proxy.to(standby.port());
    standby.psql_in(&db, "INSERT INTO t VALUES (5)");
    let mut source = open_in_the_end(&options, stored).await;
    let rest = source.records(2).await;
    assert_eq!([rest[0].after("id"), rest[1].after("id")], [4, 5]);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_moves_while_only_other_tables_and_databases_change() {
    let server = Server::start(ServerOptions::default());
    let (db, other) = (server.database(), server.database());
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE aside (id int, pad text)");
    server.psql_in(&other, "CREATE TABLE t (id int, pad text)");
    let options = with(options(&server, &db), &[("table.include.list", "public.t"), ("heartbeat.interval.ms", "500")]);
    let mut source = open(&options, Vec::new()).await.unwrap();
    for (database, table) in [(&db, "aside"), (&other, "t")] {
        server.psql_in(database, &format!("INSERT INTO {table} SELECT i, repeat('x', 500) FROM generate_series(1, 10000) i"));
        let target = lsn(&server.psql("SELECT pg_current_wal_lsn()"));
        let until = Instant::now() + DEADLINE;
        while confirmed(&server, &db) < target {
            assert!(Instant::now() < until, "the slot stands at {}, the WAL at {target}", confirmed(&server, &db));
            let got = source.poll(1000).await.unwrap();
            assert!(got.iter().all(|record| record.topic.contains("heartbeat")), "{got:?}");
        }
    }
    // Not before it is stored: the offset has moved with it.
    let (told, stored) = (confirmed(&server, &db), streams(&source.stored));
    assert!(number(&stored, "lsn_commit") >= told, "{stored:?}");
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_durable_is_not_confirmed() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let mut source = open(&with(options(&server, &db), &[("status.update.interval.ms", "100")]), Vec::new()).await.unwrap();
    let before = confirmed(&server, &db);
    server.psql_in(&db, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)");
    let (mut polls, until) = (Vec::new(), Instant::now() + DEADLINE);
    while polls.iter().map(|polled: &aqueduct_core::Polled| polled.batch.len()).sum::<usize>() < 2 {
        assert!(Instant::now() < until);
        polls.push(source.poll_only(1).await.unwrap());
    }
    // Read, but not stored: several status updates later the slot still stands where it stood.
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        polls.push(source.poll_only(1000).await.unwrap());
        assert_eq!(confirmed(&server, &db), before);
    }
    for polled in &polls {
        source.keep(polled).await.unwrap();
    }
    let until = Instant::now() + DEADLINE;
    while confirmed(&server, &db) == before {
        assert!(Instant::now() < until, "the slot does not move");
        source.poll(10).await.unwrap();
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alives_are_answered_while_nobody_polls() {
    let server = Server::start(ServerOptions::default().with("wal_sender_timeout = 3s"));
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, pad text)");
    let options = with(options(&server, &db), &[("max.queue.size.in.bytes", "262144"), ("status.update.interval.ms", "10000")]);
    let mut source = open(&options, Vec::new()).await.unwrap();
    // Far more than the queue and the socket's buffers hold.
    server.psql_in(&db, "INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(1, 20000) i");
    let pid = || server.psql("SELECT active_pid FROM pg_replication_slots WHERE active");
    let first = pid();
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert_eq!(pid(), first, "the server gave the connection up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let got = source.records(20_000).await;
    assert_eq!(got.len(), 20_000);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_an_error_that_passes() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let proxy = Proxy::start(server.port());
    let options = with(options_at(proxy.port(), &db), &[("connection.validation.timeout.ms", "5000")]);
    let (mut stored, mut ids, until) = (Vec::new(), Vec::new(), Instant::now() + DEADLINE * 2);
    let source = open(&options, Vec::new()).await.unwrap();
    source.close().await;
    // A transaction comes as a whole after each cut, so none may be larger than what passes between two.
    server.psql_in(&db, "DO $$ BEGIN FOR i IN 0..299 LOOP INSERT INTO t SELECT generate_series(i * 10 + 1, i * 10 + 10); COMMIT; END LOOP; END $$");
    proxy.cut_after(5_000..=30_000, 7);
    while ids.len() < 3000 {
        assert!(Instant::now() < until, "{} rows", ids.len());
        let mut source = match open(&options, stored.clone()).await {
            Ok(source) => source,
            Err(error) => {
                assert!(error.is_retriable(), "{error:?}");
                continue;
            }
        };
        loop {
            match source.poll(200).await {
                Ok(got) => ids.extend(got.iter().map(|record| record.after("id").as_i64().unwrap())),
                Err(error) => {
                    assert!(error.is_retriable(), "{error:?}");
                    break;
                }
            }
            if ids.len() >= 3000 {
                break;
            }
        }
        stored = source.stored;
    }
    assert_eq!(ids, (1..=3000).collect::<Vec<_>>());
    assert!(proxy.cuts() > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_kept_wal_fails_or_drops_the_slot() {
    let server = shared();
    let db = server.database();
    let base = with(
        options(&server, &db),
        &[("slot.wal.max.bytes", "1MiB"), ("lsn.flush.mode", "manual"), ("heartbeat.interval.ms", "300")],
    );
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY, pad text)");
    for (policy, code) in [("fail", "postgres.wal_limit"), ("drop", "postgres.slot_dropped")] {
        let mut source = open(&with(base.clone(), &[("slot.wal.policy", policy)]), Vec::new()).await.unwrap();
        server.psql_in(&db, "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i; TRUNCATE t");
        let until = Instant::now() + DEADLINE;
        let error = loop {
            assert!(Instant::now() < until, "{policy} does not happen");
            if let Err(error) = source.poll(1000).await {
                break error;
            }
        };
        assert_eq!((error.class(), error.code()), (Class::Fatal, code), "{error:?}");
        assert!(error.hint().is_some());
        source.close().await;
        let left = server.psql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{db}'"));
        assert_eq!(left, if policy == "drop" { "0" } else { "1" });
    }
}
