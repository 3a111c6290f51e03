//! A restart anywhere: nothing is left out, nothing comes twice.

use crate::harness::*;
use aqueduct_core::{JsonMap, SourceOffset};
use postgres_services::{Options as ServerOptions, Server, Shared, shared};
use std::time::Instant;

/// Transactions of every kind, the last of which inserts id 999.
fn workload(server: &Shared, db: &str) {
    server.psql_in(db, "BEGIN; INSERT INTO t VALUES (1), (2), (3); UPDATE t SET n = 1 WHERE id = 2; COMMIT");
    // One WAL record holds many rows: they share an LSN.
    server.psql_in(db, "COPY t (id) FROM PROGRAM 'seq 100 106'");
    // Committed within another transaction's life.
    let (mut outer, mut inner) = (server.session(db), server.session(db));
    outer.run("BEGIN");
    outer.run("INSERT INTO t VALUES (200)");
    inner.run("INSERT INTO t VALUES (300)");
    outer.run("SELECT pg_logical_emit_message(true, 'app', 'in')");
    outer.run("INSERT INTO t VALUES (201), (202)");
    inner.run("SELECT pg_logical_emit_message(false, 'app', 'out')");
    inner.run("UPDATE t SET id = 301 WHERE id = 300");
    outer.run("SAVEPOINT s");
    outer.run("INSERT INTO t VALUES (203)");
    outer.run("ROLLBACK TO s");
    outer.run("DELETE FROM t WHERE id = 1");
    outer.run("COMMIT");
    server.psql_in(db, "INSERT INTO aside VALUES (1); BEGIN; INSERT INTO aside VALUES (2); INSERT INTO t VALUES (400); INSERT INTO aside VALUES (3); COMMIT");
    server.psql_in(db, "TRUNCATE t; INSERT INTO t VALUES (999)");
}

async fn read_to_end(source: &mut Running, max_records: usize) -> Vec<(Vec<Got>, Vec<SourceOffset>)> {
    let (mut polls, until) = (Vec::new(), Instant::now() + DEADLINE);
    loop {
        assert!(Instant::now() < until, "the end does not come: {polls:#?}");
        let mut got = source.poll(max_records).await.expect("poll");
        let end = got.iter().position(|record| record.after("id") == 999);
        got.truncate(end.map_or(got.len(), |at| at + 1));
        polls.push((got, source.stored.clone()));
        if end.is_some() {
            return polls;
        }
    }
}

fn tables(server: &Shared, db: &str) {
    server.psql_in(db, "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE aside (id int)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_offset_exactly_the_rest_comes() {
    let server = shared();
    let db = server.database();
    tables(&server, &db);
    // The slot stays where it is, so that each start can go back.
    let more = [
        ("table.include.list", "public.t"),
        ("lsn.flush.mode", "manual"),
        ("provide.transaction.metadata", "true"),
        ("skipped.operations", "none"),
    ];
    let options = with(options(&server, &db), &more);
    let mut source = open(&options, Vec::new()).await.unwrap();
    workload(&server, &db);
    let polls = read_to_end(&mut source, 1).await;
    source.close().await;
    let all: Vec<Got> = polls.iter().flat_map(|(got, _)| got.clone()).collect();
    assert!(all.len() > 30, "{all:#?}");
    let mut done = 0;
    let mut inside = 0;
    for (got, stored) in &polls {
        done += got.len();
        if streams(stored).is_empty() || done == all.len() {
            continue;
        }
        inside += usize::from(streams(stored)["messageType"] != "COMMIT");
        let mut again = open_in_the_end(&options, stored.clone()).await;
        let rest: Vec<Got> = read_to_end(&mut again, 1000).await.into_iter().flat_map(|(got, _)| got).collect();
        assert_same(&rest, &all[done..], &format!("after {done} records, from {:?}", streams(stored)));
        again.close().await;
    }
    assert!(inside > 12, "{inside} offsets within a transaction");
    let mut place = 0;
    for (got, stored) in &polls {
        let offset = streams(stored);
        place = got.iter().filter_map(|record| record.value["transaction"]["total_order"].as_i64()).fold(place, i64::max);
        if offset.get("messageType").is_none_or(|kind| kind == "COMMIT") {
            // As Debezium's between two transactions.
            assert!(!offset.contains_key("transaction_id"), "{offset:?}");
            place = 0;
            continue;
        }
        let id = offset["transaction_id"].as_str().expect("a text");
        assert_eq!(id, offset["txId"].to_string());
        let counts = offset.iter().filter(|(key, _)| key.starts_with("transaction_data_collection_order_"));
        assert_eq!(counts.map(|(_, count)| count.as_i64().expect("a number")).sum::<i64>(), place, "{offset:?}");
    }
}

/// As Debezium writes it: without our keys.
fn debeziums(stored: &[SourceOffset]) -> Vec<SourceOffset> {
    let ours = |map: &JsonMap| {
        map.iter().filter(|(key, _)| !key.starts_with("aqueduct.")).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    stored.iter().map(|one| SourceOffset { partition: one.partition.clone(), offset: one.offset.as_ref().map(ours) }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_offset_of_debezium_nothing_is_lost_and_only_shared_lsns_repeat() {
    let server = shared();
    let db = server.database();
    tables(&server, &db);
    let more = [("table.include.list", "public.t"), ("lsn.flush.mode", "manual"), ("skipped.operations", "none")];
    let options = with(options(&server, &db), &more);
    let mut source = open(&options, Vec::new()).await.unwrap();
    workload(&server, &db);
    let polls = read_to_end(&mut source, 1).await;
    source.close().await;
    let all: Vec<Got> = polls.iter().flat_map(|(got, _)| got.clone()).collect();
    let mut done = 0;
    for (got, stored) in &polls {
        done += got.len();
        if streams(stored).is_empty() || done == all.len() {
            continue;
        }
        let mut again = open_in_the_end(&options, debeziums(stored)).await;
        let rest: Vec<Got> = read_to_end(&mut again, 1000).await.into_iter().flat_map(|(got, _)| got).collect();
        assert!(rest.len() >= all.len() - done, "lost after {done} records, from {stored:?}");
        let repeated = rest.len() - (all.len() - done);
        assert_same(&rest, &all[done - repeated..], &format!("after {done} records, from {:?}", streams(stored)));
        let lsn = |record: &Got| record.value["source"]["lsn"].clone();
        assert!(
            all[done - repeated..done].iter().all(|record| lsn(record) == lsn(&all[done - 1])),
            "{repeated} repeated after {done}"
        );
        again.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_nothing_but_time() {
    let mut server = Server::start(ServerOptions::default());
    let db = server.database();
    server.psql_in(&db, "CREATE TABLE t (id int PRIMARY KEY)");
    let options = options(&server, &db);
    let mut source = open(&options, Vec::new()).await.unwrap();
    let (mut seen, mut next) = (Vec::new(), 0i64);
    for _ in 0..5 {
        server.psql_in(&db, &format!("INSERT INTO t SELECT generate_series({next}, {})", next + 499));
        next += 500;
        // Killed in the middle of reading.
        let mut got = source.poll(50).await.unwrap_or_default();
        seen.append(&mut got);
        server.kill9();
        let until = Instant::now() + DEADLINE;
        let failed = loop {
            assert!(Instant::now() < until, "the death is not noticed");
            match source.poll(50).await {
                Ok(mut got) => seen.append(&mut got),
                Err(error) => break error,
            }
        };
        assert!(failed.is_retriable(), "{failed:?}");
        let stored = source.stored.clone();
        drop(source);
        server.restart();
        source = open(&options, stored).await.unwrap();
    }
    server.psql_in(&db, "INSERT INTO t VALUES (-1)");
    while seen.len() <= next as usize {
        seen.extend(source.records(1).await);
    }
    let ids: Vec<i64> = seen.iter().map(|record| record.after("id").as_i64().expect("an id")).collect();
    assert_eq!(ids, (0..next).chain([-1]).collect::<Vec<_>>());
}
