//! Databases whose transaction ids are beyond 2^32: rows and the stream tell the lower half of an id alone.

use crate::harness::{DEADLINE, with};
use crate::rig::{Rig, rows};
use crate::{TABLES, Writer, compare_at, make_at, snapshot_options_at};
use aqueduct_core::Signal;
use postgres_services::{Options, Server};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Instant;

const KEYLESS_FROM: usize = 10;

/// `None` where the server's build cannot be brought there; Debian's can.
fn wrapped() -> Option<Server> {
    if !Server::can_wrap_transaction_ids() {
        return None;
    }
    let mut server = Server::stopped(Options::default());
    server.wrap_transaction_ids();
    server.restart();
    let full: u64 = server.psql("select pg_current_xact_id()::text").parse().unwrap();
    assert!(full >> 32 == 1, "{full}");
    Some(server)
}

#[tokio::test]
async fn nothing_is_lost_where_transaction_ids_have_wrapped() {
    let Some(server) = wrapped() else { return };
    for seed in [31, 32] {
        fastrand::seed(seed);
        let database = server.database();
        make_at(&server, &database, &TABLES, 150);
        let mut rig = Rig::start(snapshot_options_at(&server, &database)).await;
        rig.records = 37;
        let mut writer = Writer::at(&server, &database, 150);
        while rig.crashes < 15 {
            writer.write(&TABLES);
            for _ in 0..fastrand::usize(0..6) {
                rig.poll().await;
            }
            if fastrand::bool() { rig.crash().await } else { rig.poll_and_lose().await }
        }
        rig.catch_up(&server, &database).await;
        compare_at(&server, &rig, &database, &TABLES[..KEYLESS_FROM]);
        // Which rows are older than the first view cannot be told there: some come twice.
        for (table, _) in &TABLES[KEYLESS_FROM..] {
            let listing = rig.copy.listing(table);
            let got: BTreeSet<&str> = listing.lines().collect();
            let expected = rows(&server, &database, table);
            let lost: Vec<_> = expected.lines().filter(|row| !got.contains(row)).collect();
            assert!(lost.is_empty(), "{table}: {lost:?}");
        }
    }
}

#[tokio::test]
async fn an_incremental_snapshot_is_exact_where_transaction_ids_have_wrapped() {
    fastrand::seed(33);
    let Some(server) = wrapped() else { return };
    let database = server.database();
    let tables = &TABLES[..KEYLESS_FROM];
    make_at(&server, &database, tables, 150);
    let more = [("snapshot.mode", "no_data"), ("incremental.snapshot.chunk.size", "25")];
    let mut rig = Rig::start(with(snapshot_options_at(&server, &database), &more)).await;
    let mut writer = Writer::at(&server, &database, 150);
    rig.poll().await;
    let data = json!({"data-collections": ["public.by_.*"]});
    rig.task().task.signal(Signal { id: "s".into(), kind: "execute-snapshot".into(), data }).await.unwrap();
    let until = Instant::now() + DEADLINE * 4;
    while !rig.unread().is_empty() {
        assert!(Instant::now() < until, "{:?}", rig.unread());
        writer.write(tables);
        rig.poll().await;
        if fastrand::u8(0..6) == 0 && rig.crashes < 10 {
            rig.crash().await;
        }
    }
    rig.catch_up(&server, &database).await;
    compare_at(&server, &rig, &database, tables);
    assert!(rig.copy.reads.values().sum::<usize>() >= 1000, "{:?}", rig.copy.reads);
}
