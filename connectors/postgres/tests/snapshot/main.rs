//! Snapshots against a real server: what a consumer has in the end is what the database has, whatever is written and whoever crashes meanwhile.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod handover;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "../source/harness.rs"]
mod harness;
mod requests;
mod rig;
mod wrapped;

use aqueduct_core::Options;
use harness::{options, with};
use postgres_services::{Server, Session};
use rig::{Rig, rows};
use std::sync::LazyLock;

pub static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(postgres_services::Options::default()));

/// Tables by what names their rows: all have `id` (which no test changes) and `v`, from one sequence.
const TABLES: [(&str, &str); 12] = [
    ("by_int", "k int primary key"),
    ("by_text", "k text collate \"en-x-icu\" primary key"),
    ("by_uuid", "k uuid primary key"),
    ("by_two", "k text, k2 int, primary key (k2, k)"),
    ("by_numeric", "k numeric primary key"),
    ("by_time", "k timestamptz primary key"),
    ("by_bytes", "k bytea primary key"),
    ("by_char", "k char(40) primary key"),
    ("by_enum", "k mood, k2 bigint, primary key (k, k2)"),
    ("by_index", "k int not null, unique (k)"),
    ("keyless", "k int"),
    ("keyless_toast", "k int, big text"),
];

/// An expression for the key of row `n`.
fn key(table: &str, n: &str) -> String {
    match table {
        "by_text" => format!("chr(97 + ({n} * 7) % 26) || 'É\\''\u{2019}'::text || {n}"),
        "by_uuid" => format!("md5({n}::text)::uuid"),
        "by_two" => format!("chr(65 + {n} % 20), {n} % 37"),
        "by_numeric" => format!("({n} - 200) / 7.0"),
        "by_time" => format!("'2020-01-01 00:00:00.123456+02'::timestamptz + {n} * interval '1 day 00:00:00.000001'"),
        "by_bytes" => format!("decode(md5({n}::text), 'hex')"),
        "by_char" => format!("'x' || {n}"),
        "by_enum" => format!("(array['low','high','mid'])[1 + {n} % 3]::mood, {n}"),
        "keyless_toast" => format!("{n}, repeat(md5({n}::text), 200)"),
        _ => n.to_owned(),
    }
}

fn make(database: &str, tables: &[(&str, &str)], count: usize) {
    make_at(&SERVER, database, tables, count);
}

fn make_at(server: &Server, database: &str, tables: &[(&str, &str)], count: usize) {
    let mut sql = String::from(
        "create type mood as enum ('low', 'mid', 'high'); create sequence ver; create table mark (id bigint primary key, v bigint);",
    );
    for (table, columns) in tables {
        sql.push_str(&format!("create table {table} (id bigint, v bigint, {columns});"));
        if table.starts_with("keyless") {
            sql.push_str(&format!("alter table {table} replica identity full;"));
        }
        if *table == "by_index" {
            sql.push_str("alter table by_index replica identity using index by_index_k_key;");
        }
        let key = key(table, "n");
        sql.push_str(&format!("insert into {table} select n, nextval('ver'), {key} from generate_series(1, {count}) n;"));
    }
    sql.push_str("analyze;");
    server.psql_in(database, &sql);
}

pub fn snapshot_options(database: &str) -> Options {
    snapshot_options_at(&SERVER, database)
}

fn snapshot_options_at(server: &Server, database: &str) -> Options {
    with(
        options(server, database),
        &[("snapshot.mode", "initial"), ("snapshot.chunk.rows", "40"), ("heartbeat.interval.ms", "200")],
    )
}

/// Random writes to every table: what a busy application does meanwhile.
struct Writer {
    session: Session,
    next: usize,
    count: usize,
}

impl Writer {
    fn new(database: &str, count: usize) -> Self {
        Self::at(&SERVER, database, count)
    }

    fn at(server: &Server, database: &str, count: usize) -> Self {
        Self { session: server.session(database), next: count, count }
    }

    fn write(&mut self, tables: &[(&str, &str)]) {
        let mut sql = String::from("begin;");
        for (table, _) in tables {
            let row = fastrand::usize(1..=self.next);
            match fastrand::u8(0..4) {
                0 => {
                    self.next += 1;
                    sql.push_str(&format!(
                        "insert into {table} select {0}, nextval('ver'), {1};",
                        self.next,
                        key(table, &self.next.to_string())
                    ));
                }
                1 => sql.push_str(&format!("delete from {table} where id = {row};")),
                // Many rows, so that they move about in the heap.
                2 => sql.push_str(&format!("update {table} set v = nextval('ver') where id % 10 = {};", row % 10)),
                _ => sql.push_str(&format!("update {table} set v = nextval('ver') where id = {row};")),
            }
        }
        let end = if fastrand::u8(0..8) == 0 { "rollback" } else { "commit" };
        let said = self.session.run(&format!("{sql}{end}"));
        // A key that comes again is refused by the server: then nothing of the transaction was written.
        assert!(!said.contains("ERROR") || said.contains("23505") || said.contains("current transaction is aborted"), "{said}");
        if said.contains("ERROR") {
            self.session.run("rollback");
        }
        self.count += 1;
    }
}

fn compare(rig: &Rig, database: &str, tables: &[(&str, &str)]) {
    compare_at(&SERVER, rig, database, tables);
}

fn compare_at(server: &Server, rig: &Rig, database: &str, tables: &[(&str, &str)]) {
    for (table, _) in tables {
        let (expected, got) = (rows(server, database, table), rig.copy.listing(table));
        if expected != got {
            let (expected, got): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
                (expected.lines().collect(), got.lines().collect());
            let (missing, more): (Vec<_>, Vec<_>) = (expected.difference(&got).collect(), got.difference(&expected).collect());
            panic!("{table}: missing {missing:?}, too much {more:?}, of {} and {}", expected.len(), got.len());
        }
    }
}

#[tokio::test]
async fn a_first_snapshot_has_every_row_once_with_debeziums_marks() {
    let database = SERVER.database();
    make(&database, &TABLES, 100);
    let mut rig = Rig::start(snapshot_options(&database)).await;
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &TABLES);
    assert!(TABLES.iter().all(|(table, _)| rig.copy.reads[*table] == 100), "{:?}", rig.copy.reads);
    let marks = &rig.copy.marks;
    assert_eq!(marks[0], ("by_bytes".to_owned(), "first".to_owned()));
    assert_eq!(marks[1].1, "true");
    let of = |mark: &str| marks.iter().filter(|(_, known)| known == mark).count();
    // `mark` is empty: the last table with rows is not the last table.
    assert_eq!((of("first"), of("first_in_data_collection"), of("last_in_data_collection"), of("last")), (1, 11, 12, 0));
    assert_eq!(marks[99].1, "last_in_data_collection");
}

#[tokio::test]
async fn rows_that_change_meanwhile_come_in_order() {
    let database = SERVER.database();
    make(&database, &TABLES, 200);
    let mut rig = Rig::start(with(snapshot_options(&database), &[("snapshot.max.threads", "3")])).await;
    let mut writer = Writer::new(&database, 200);
    for _ in 0..30 {
        writer.write(&TABLES);
        rig.poll().await;
    }
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &TABLES);
}

/// Crashes again and again, from the first chunk to the last, while everything changes: no row is lost, none comes after a newer version of itself, and
/// a row without a key comes once.
#[tokio::test]
async fn a_crash_at_every_chunk_leaves_no_gap_and_goes_back_nowhere() {
    for seed in [1, 2, 3] {
        fastrand::seed(seed);
        let database = SERVER.database();
        make(&database, &TABLES, 150);
        let mut rig = Rig::start(snapshot_options(&database)).await;
        rig.records = 37;
        let mut writer = Writer::new(&database, 150);
        let mut polls = 0;
        while rig.crashes < 40 {
            writer.write(&TABLES);
            for _ in 0..fastrand::usize(0..6) {
                rig.poll().await;
                polls += 1;
            }
            if fastrand::bool() { rig.crash().await } else { rig.poll_and_lose().await }
        }
        rig.catch_up(&SERVER, &database).await;
        compare(&rig, &database, &TABLES);
        assert!(polls > 40);
    }
}

#[tokio::test]
async fn large_values_that_did_not_change_are_not_lost_by_a_crash() {
    let database = SERVER.database();
    let tables = [("toast", "k int primary key, big text")];
    make(&database, &[], 0);
    let sql = "create table toast (id bigint, v bigint, k int primary key, big text); alter table toast alter big set storage external; \
               insert into toast select n, nextval('ver'), n, repeat(md5(n::text), 200) from generate_series(1, 200) n;";
    SERVER.psql_in(&database, sql);
    let mut rig = Rig::start(snapshot_options(&database)).await;
    rig.records = 30;
    rig.poll().await;
    // Their values do not come with the stream.
    SERVER.psql_in(&database, "update toast set v = nextval('ver')");
    rig.crash().await;
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &tables);
    let whole = |row: &serde_json::Value| row["big"].as_str().is_some_and(|text| text.len() == 6400);
    assert!(rig.copy.rows["toast"].values().all(whole), "{:?}", rig.copy.rows["toast"].values().find(|row| !whole(row)));
}

/// An update between a chunk's view and its sending replaces a row that has values which the update does not tell.
#[tokio::test]
async fn large_values_of_rows_that_change_while_a_chunk_is_read_are_not_lost() {
    let database = SERVER.database();
    make(&database, &[], 0);
    let sql = "create table toast (id bigint, v bigint, k int primary key, big text); alter table toast alter big set storage external; \
               insert into toast select n, nextval('ver'), n, repeat(md5(n::text), 200) from generate_series(1, 200) n;";
    SERVER.psql_in(&database, sql);
    let mut rig = Rig::start(snapshot_options(&database)).await;
    rig.records = 30;
    rig.poll().await;
    rig.crash().await;
    // Fewer than a poll takes.
    rig.records = 100;
    let until = std::time::Instant::now() + harness::DEADLINE;
    for round in 0.. {
        assert!(std::time::Instant::now() < until, "{:?}", rig.stored());
        SERVER.psql_in(&database, &format!("update toast set v = nextval('ver') where id % 10 = {}", round % 10));
        rig.poll().await;
        if round > 20 && rig.unread().is_empty() {
            break;
        }
    }
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &[("toast", "")]);
    let whole = |row: &serde_json::Value| row["big"].as_str().is_some_and(|text| text.len() == 6400);
    let lost: Vec<_> = rig.copy.rows["toast"].iter().filter(|(_, row)| !whole(row)).map(|(key, _)| key).collect();
    assert!(lost.is_empty(), "{} of 200: {lost:?}", lost.len());
}

#[tokio::test]
async fn tables_join_without_stopping_and_what_was_open_when_they_did_is_there() {
    let database = SERVER.database();
    make(&database, &TABLES[..2], 100);
    let list = "public.mark,public.by_int";
    let mut rig = Rig::start(with(snapshot_options(&database), &[("table.include.list", list)])).await;
    rig.catch_up(&SERVER, &database).await;
    assert!(!rig.copy.reads.contains_key("by_text"));
    SERVER.psql_in(&database, "create table keyless (id bigint, v bigint); alter table keyless replica identity full; insert into keyless select n, n from generate_series(1, 50) n");
    let mut open = SERVER.session(&database);
    open.run(
        "begin; insert into by_text select 500, nextval('ver'), 'open'; update by_text set v = nextval('ver') where id < 10",
    );
    rig.set("table.include.list", &format!("{list},public.by_text"));
    rig.restart().await;
    for _ in 0..10 {
        rig.poll().await;
    }
    assert_eq!(rig.copy.reads.get("by_text"), None, "a transaction is open that no stream has");
    open.run("commit");
    SERVER.psql_in(&database, "update by_text set v = nextval('ver') where id % 3 = 0");
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &TABLES[..2]);
    rig.set("table.include.list", &format!("{list},public.by_text,public.keyless"));
    rig.restart().await;
    SERVER.psql_in(&database, "insert into keyless values (51, 51)");
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &[("keyless", "")]);
    let reads = rig.copy.reads.clone();
    rig.restart().await;
    rig.catch_up(&SERVER, &database).await;
    assert_eq!(rig.copy.reads, reads, "nothing is read again");
}

#[tokio::test]
async fn tables_without_a_key_join_under_writes_and_crashes() {
    for seed in [41, 42] {
        fastrand::seed(seed);
        let database = SERVER.database();
        let tables = [TABLES[0], TABLES[10], TABLES[11]];
        make(&database, &tables, 150);
        let list = "public.mark,public.by_int";
        let mut rig = Rig::start(with(snapshot_options(&database), &[("table.include.list", list)])).await;
        let mut writer = Writer::new(&database, 150);
        for _ in 0..10 {
            writer.write(&tables);
            rig.poll().await;
        }
        rig.set("table.include.list", &format!("{list},public.keyless,public.keyless_toast"));
        rig.restart().await;
        rig.records = 37;
        while rig.crashes < 15 || !rig.unread().is_empty() {
            writer.write(&tables);
            rig.poll().await;
            if rig.crashes < 15 && fastrand::u8(0..3) == 0 {
                if fastrand::bool() { rig.crash().await } else { rig.poll_and_lose().await }
            }
        }
        rig.catch_up(&SERVER, &database).await;
        compare(&rig, &database, &tables);
    }
}

#[tokio::test]
async fn a_truncated_or_rewritten_table_is_read_as_it_is_now() {
    let database = SERVER.database();
    let tables = [("by_int", ""), ("by_uuid", ""), ("keyless", "")];
    make(&database, &TABLES, 100);
    let include = "public.mark,public.by_int,public.by_uuid,public.keyless";
    let mut rig = Rig::start(with(snapshot_options(&database), &[("table.include.list", include)])).await;
    rig.records = 10;
    rig.poll().await;
    rig.crash().await;
    // The view of the slot has rows that nobody can read any more.
    SERVER.psql_in(&database, "alter table by_uuid alter v type numeric using v; alter table by_uuid alter v type bigint using v; cluster by_int using by_int_pkey");
    SERVER.psql_in(
        &database,
        "alter table by_int add column more text default 'x'; update by_int set v = nextval('ver') where id < 50",
    );
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &tables);
}

/// The catalog is looked at before the slot's view is taken; what the rows hold of a column that comes in between is in no event.
#[tokio::test]
async fn a_column_that_is_added_just_before_the_view_is_in_every_row() {
    let database = SERVER.database();
    make(&database, &TABLES[..1], 20);
    SERVER.psql_in(&database, &format!("create publication {database} for table by_int, mark"));
    let mut other = SERVER.session(&database);
    other.run("begin; alter table by_int add column late int default 7");
    let waiting = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and query like 'CREATE_REPLICATION_SLOT%' and wait_event_type = 'Lock'"
    );
    let until = std::time::Instant::now() + harness::DEADLINE;
    let commit = async {
        while SERVER.psql(&waiting) != "1" {
            assert!(std::time::Instant::now() < until, "nobody makes a slot");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        other.run("commit");
    };
    let (mut rig, ()) = tokio::join!(Rig::start(snapshot_options(&database)), commit);
    rig.catch_up(&SERVER, &database).await;
    compare(&rig, &database, &TABLES[..1]);
    assert!(rig.copy.rows["by_int"].values().all(|row| row["late"] == 7), "{:?}", rig.copy.rows["by_int"].first_key_value());
}

#[tokio::test]
async fn initial_only_reads_on_after_a_crash_and_ends() {
    let database = SERVER.database();
    make(&database, &TABLES[..4], 100);
    let mut rig = Rig::start(with(snapshot_options(&database), &[("snapshot.mode", "initial_only")])).await;
    rig.records = 30;
    for _ in 0..4 {
        rig.poll().await;
        rig.crash().await;
    }
    for _ in 0..100 {
        rig.poll().await;
    }
    assert!(rig.unread().is_empty(), "{:?}", rig.stored());
    compare(&rig, &database, &TABLES[..4]);
    assert!(TABLES[..4].iter().all(|(table, _)| rig.copy.reads[*table] == 100), "{:?}", rig.copy.reads);
    let slots = SERVER.psql_in(&database, &format!("select count(*) from pg_replication_slots where slot_name = '{database}'"));
    assert_eq!(slots.trim(), "0", "nothing reads a slot, so there is none");
}

#[tokio::test]
async fn a_statement_of_the_users_own_is_read_in_place_of_the_table() {
    let database = SERVER.database();
    make(&database, &TABLES[..2], 100);
    let own = [
        ("snapshot.select.statement.overrides", "public.by_int"),
        ("snapshot.select.statement.overrides.public.by_int", "SELECT * FROM public.by_int WHERE id <= 7 ORDER BY id DESC"),
        ("snapshot.include.collection.list", "public.by_int"),
    ];
    let mut rig = Rig::start(with(snapshot_options(&database), &own)).await;
    rig.catch_up(&SERVER, &database).await;
    assert_eq!(rig.copy.reads, [("by_int".to_owned(), 7)].into_iter().collect());
}
