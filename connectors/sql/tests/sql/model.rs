//! Random writes, polls and crashes, against what must come of them.

use crate::rig::{Rig, Sqlite, ids, int};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    Insert(u8),
    /// Of the row with this number, in the order of ids.
    Update(u8),
    Delete(u8),
    /// A call with at most so many records.
    Poll(u8),
    /// Before or after the last batch was stored.
    Crash(bool),
    Close,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (1u8..8).prop_map(Op::Insert),
        3 => any::<u8>().prop_map(Op::Update),
        1 => any::<u8>().prop_map(Op::Delete),
        5 => (1u8..5).prop_map(Op::Poll),
        2 => any::<bool>().prop_map(Op::Crash),
        1 => Just(Op::Close),
    ];
    proptest::collection::vec(op, 1..25)
}

/// Milliseconds now, by the database's clock: rows of one millisecond are common.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";

struct World {
    db: Sqlite,
    rig: Rig,
    next: i64,
    version: i64,
}

impl World {
    async fn new(mode: &str) -> Self {
        let db = Sqlite::new("CREATE TABLE t (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, at INTEGER NOT NULL)").await;
        let by_time = if mode == "incrementing" { vec![] } else { vec![("timestamp.column.name", "at")] };
        let mut more = vec![("poll.interval.ms", "0")];
        more.extend(by_time);
        Self { rig: Rig::new(&db.url(), mode, &more), db, next: 0, version: 0 }
    }

    async fn run(&mut self, op: &Op) {
        let nth = |n: u8| format!("(SELECT id FROM t ORDER BY id LIMIT 1 OFFSET {n} % max(1, (SELECT count(*) FROM t)))");
        match op {
            Op::Insert(rows) => {
                for _ in 0..*rows {
                    self.next += 1;
                    self.version += 1;
                    self.db.run(&format!("INSERT INTO t VALUES ({}, {}, {NOW})", self.next, self.version)).await;
                }
            }
            Op::Update(n) => {
                self.version += 1;
                self.db.run(&format!("UPDATE t SET version = {}, at = {NOW} WHERE id = {}", self.version, nth(*n))).await;
            }
            Op::Delete(n) => self.db.run(&format!("DELETE FROM t WHERE id = {}", nth(*n))).await,
            Op::Poll(records) => {
                self.rig.max_records = (*records).into();
                self.rig.step().await.unwrap();
            }
            Op::Crash(stored) => {
                let polled = self.rig.poll().await.unwrap();
                if *stored {
                    self.rig.store(polled);
                }
                self.rig.crash();
            }
            Op::Close => self.rig.close().await,
        }
    }

    fn seen(&self) -> Vec<(i64, i64)> {
        self.rig.records.iter().map(|record| (int(record, "id"), int(record, "version"))).collect()
    }

    /// Polls until every row that is there was seen in its last version.
    async fn settle(&mut self) {
        let last: BTreeSet<(i64, i64)> = self.db.pairs("SELECT id, version FROM t").await.into_iter().collect();
        self.rig.max_records = 3;
        self.rig
            .until("every last version", |records| {
                let seen: BTreeSet<(i64, i64)> =
                    records.iter().map(|record| (int(record, "id"), int(record, "version"))).collect();
                last.is_subset(&seen)
            })
            .await;
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows that are only inserted: each exactly once, in order, whatever crashes.
    #[test]
    fn incrementing_is_exactly_once(ops in ops()) {
        run(async {
            let mut world = World::new("incrementing").await;
            for op in ops.iter().filter(|op| !matches!(op, Op::Update(_) | Op::Delete(_))) {
                world.run(op).await;
            }
            world.settle().await;
            assert_eq!(ids(&world.rig.records), (1..=world.next).collect::<Vec<_>>());
        });
    }

    /// Every last version is seen, no version twice, and never an older one after a newer.
    #[test]
    fn timestamp_and_incrementing_sees_each_last_version_once(ops in ops()) {
        run(async {
            let mut world = World::new("timestamp+incrementing").await;
            for op in &ops {
                world.run(op).await;
            }
            world.settle().await;
            let seen = world.seen();
            let mut newest = BTreeMap::new();
            for (id, version) in &seen {
                assert!(newest.insert(*id, *version).is_none_or(|before| before < *version), "{id} again or backwards: {seen:?}");
            }
        });
    }

    /// By time alone every last version is seen; a version may come twice, never after a newer one was stored.
    #[test]
    fn timestamp_loses_nothing(ops in ops()) {
        run(async {
            let mut world = World::new("timestamp").await;
            for op in &ops {
                world.run(op).await;
            }
            world.settle().await;
            let mut newest = BTreeMap::new();
            for (id, version) in world.seen() {
                assert!(newest.insert(id, version).is_none_or(|before| before <= version), "{id} backwards");
            }
        });
    }
}
