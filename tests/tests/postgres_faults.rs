//! What goes wrong with a Postgres: slots that are gone, replaced or taken, another server behind the address, a full disk, locks, missing rights. It goes on by
//! itself where nothing is lost, and else says what to do; it is never silent.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::postgres_bank::{Bank, differences};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, wait_until};
use postgres_services::{Options, PASSWORD, Server, shared};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
const GAP: Duration = Duration::from_millis(2);

/// What the status of a connector says of its task.
fn said(site: &Site, name: &str) -> String {
    let answer = site.client().call(reqwest::Method::GET, &format!("/connectors/{name}/status"), None);
    answer.map_or_else(|error| format!("{error:#}"), |answer| answer.text)
}

/// Waits until the status has this code; the status.
#[track_caller]
fn until_it_says(site: &Site, name: &str, code: &str) -> String {
    let found = aqueduct_tests::poll_for(SOON * 2, || Some(said(site, name)).filter(|status| status.contains(code)));
    found.unwrap_or_else(|| panic!("{name} does not say {code}: {}\n{}", said(site, name), site.log_tail(20)))
}

/// A bank whose copy is complete, and whose source is stopped.
fn stopped_bank() -> Bank {
    let mut bank = Bank::prepare(&Options::default(), "", "");
    bank.site.start();
    bank.transfers(GAP);
    bank.more_transfers();
    bank.goes_on();
    stop(&bank);
    bank
}

fn stop(bank: &Bank) {
    bank.site.client().put("/connectors/bank/stop", None).expect(204);
    let free = "select count(*) from pg_replication_slots where active";
    wait_until(SOON, "the slot is let go", || (bank.source.psql(free) == "0").then_some(()));
}

fn resume(bank: &Bank) {
    bank.site.client().put("/connectors/bank/resume", None).expect(202);
}

/// The task fails with this code, says all of these words, and moves nothing.
#[track_caller]
fn refuses(bank: &mut Bank, code: &str, words: &[&str]) {
    resume(bank);
    let status = until_it_says(&bank.site, "bank", code);
    for word in words {
        assert!(status.contains(word), "{code} does not say {word:?}: {status}");
    }
    wait_until(SOON, "the task has failed", || (bank.site.client().task_states("bank") == ["FAILED"]).then_some(()));
}

#[test]
fn a_slot_that_was_dropped_is_a_named_error() {
    let mut bank = stopped_bank();
    bank.more_transfers();
    bank.source.psql("select pg_drop_replication_slot('bank')");
    refuses(&mut bank, "postgres.slot_missing", &["snapshot.mode"]);
}

#[test]
fn a_slot_that_was_made_anew_behind_our_back_is_a_named_error() {
    let mut bank = stopped_bank();
    bank.source.psql("select pg_drop_replication_slot('bank')");
    bank.more_transfers();
    bank.source.psql_in("bank", "select pg_create_logical_replication_slot('bank', 'pgoutput')");
    refuses(&mut bank, "postgres.slot_ahead", &["offset.mismatch.strategy"]);
}

#[test]
fn a_slot_that_another_reads_is_waited_for() {
    let mut bank = stopped_bank();
    let mut other = Command::new(postgres_services::bin_dir().join("pg_recvlogical"));
    other.args(["-h"]).arg(bank.source.dir()).args(["-p", &bank.source.port().to_string(), "-U", "postgres", "-d", "bank"]);
    // It reads, and confirms nothing that we have not.
    other.args([
        "-S",
        "bank",
        "--start",
        "-f",
        "/dev/null",
        "-o",
        "proto_version=1",
        "-o",
        "publication_names=bank",
        "-F",
        "0",
        "-s",
        "0",
    ]);
    let mut other = other.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let taken = "select count(*) from pg_replication_slots where active";
    wait_until(SOON, "another reads the slot", || (bank.source.psql(taken) == "1").then_some(()));
    resume(&bank);
    until_it_says(&bank.site, "bank", "postgres.in_use");
    other.kill().unwrap();
    other.wait().unwrap();
    bank.exact();
}

#[test]
fn wal_that_the_server_has_dropped_is_a_named_error() {
    let mut bank = Bank::prepare(&Options::default().with("max_slot_wal_keep_size = 1MB").with("wal_keep_size = 0"), "", "");
    bank.site.start();
    bank.goes_on();
    stop(&bank);
    for _ in 0..4 {
        bank.source.psql_in("bank", "insert into ledger (debit, credit, amount, note) select 1, 2, 0, repeat('x', 500) from generate_series(1, 40000); select pg_switch_wal(); checkpoint");
    }
    wait_until(SOON, "the slot is lost", || {
        (bank.source.psql("select wal_status from pg_replication_slots") == "lost").then_some(())
    });
    refuses(&mut bank, "postgres.wal_lost", &["max_slot_wal_keep_size"]);
}

#[test]
fn a_promoted_standby_without_the_slot_is_a_named_error() {
    let mut bank = stopped_bank();
    let standby = bank.source.standby(Options::default());
    bank.more_transfers();
    bank.pause();
    bank.source.wait_replayed(&standby);
    bank.source.kill9();
    standby.promote();
    bank.proxies[0].to(standby.port());
    refuses(&mut bank, "postgres.slot_missing", &["snapshot.mode"]);
}

#[test]
fn another_server_behind_the_address_is_a_named_error() {
    let mut bank = stopped_bank();
    bank.pause();
    let other = Server::start(Options::default());
    other.psql("create database bank");
    other.psql_in("bank", "create table accounts (id int primary key); create publication bank for all tables; select pg_create_logical_replication_slot('bank', 'pgoutput')");
    bank.proxies[0].to(other.port());
    refuses(&mut bank, "postgres.other_system", &["snapshot.mode"]);
}

#[test]
fn a_database_that_was_restored_is_a_named_error() {
    let mut bank = stopped_bank();
    bank.pause();
    bank.source.stop();
    let (data, backup) = (bank.source.data(), bank.source.dir().join("backup"));
    assert!(Command::new("cp").arg("-a").args([&data, &backup]).status().unwrap().success());
    bank.source.restart();
    resume(&bank);
    bank.transfers(GAP);
    bank.more_transfers();
    bank.goes_on();
    stop(&bank);
    bank.pause();
    bank.source.stop();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(backup, &data).unwrap();
    bank.source.restart();
    refuses(&mut bank, "postgres.restored", &["snapshot.mode"]);
}

#[test]
fn a_full_disk_at_the_target_loses_nothing() {
    let mut bank = Bank::prepare(&Options::default(), "", "");
    let disk = bank.target.small_tablespace("small", "24m");
    bank.target.psql("alter database copy set default_tablespace = small");
    bank.site.start();
    bank.transfers(Duration::ZERO);
    bank.goes_on();
    let ballast = disk.fill_but(64 << 10);
    until_it_says(&bank.site, "lines", "postgres.disk_full");
    bank.site.client().get("/connectors").expect(200);
    std::fs::remove_file(ballast).unwrap();
    bank.exact();
}

#[test]
fn deadlocks_and_serialization_failures_are_tried_again() {
    let mut bank = Bank::prepare(&Options::default().with("deadlock_timeout = 100ms"), "", "");
    bank.target.psql("alter database copy set default_transaction_isolation = 'repeatable read'");
    bank.site.start();
    bank.transfers(Duration::ZERO);
    bank.goes_on();
    // Someone who changes the same rows, in the opposite order.
    let mut other = bank.target.session("copy");
    let mut conflicts = 0;
    for round in 0..20 {
        other.run("begin isolation level read committed");
        for id in [100, 75, 50, 25, 1] {
            pause(Duration::from_millis(10));
            if other.run(&format!("update accounts set owner = owner where id = {id}")).contains("40P01") {
                conflicts += 1;
                break;
            }
        }
        other.run(if round % 2 == 0 { "commit" } else { "rollback" });
    }
    drop(other);
    bank.exact();
    let log = bank.target.log();
    conflicts += log.matches("could not serialize access").count() + log.matches("deadlock detected").count();
    assert!(conflicts > 0, "nobody was in anybody's way");
}

#[test]
fn a_silent_network_is_noticed_and_comes_back() {
    let mut bank = Bank::prepare(&Options::default(), "", "");
    bank.site.start();
    bank.transfers(GAP);
    bank.goes_on();
    bank.proxies.iter().for_each(|proxy| proxy.blackhole(true));
    pause(Duration::from_secs(2));
    bank.site.client().get("/connectors/bank/status").expect(200);
    bank.proxies.iter().for_each(|proxy| {
        proxy.reset();
        proxy.blackhole(false);
    });
    bank.exact();
}

/// Columns come, go and change their names before, between and after the rows, while the worker runs and while it is down. In the end the copy has every column that
/// is left, as it is.
#[test]
fn columns_change_in_every_order() {
    let steps = [
        "alter table shapes add column b int",
        "insert into shapes (id, a) values (1000 + (select count(*) from shapes), 'new')",
        "alter table shapes add column c text not null default 'dflt'",
        "update shapes set a = 'updated' where id % 3 = 0",
        "alter table shapes rename column b to bb",
        "begin; insert into shapes (id, a, c) values (2000 + (select count(*) from shapes), 'before', 'x'); alter table shapes add column d numeric(10, 2); update shapes set d = 1.5 where id % 2 = 0; commit",
        "delete from shapes where id % 7 = 0",
        "alter table shapes drop column c",
        "begin; alter table shapes add column e timestamptz; alter table shapes drop column d; insert into shapes (id, a, e) values (3000 + (select count(*) from shapes), 'after', '2026-01-01'); commit",
        "alter table shapes add column c bigint",
        "update shapes set c = id where id % 5 = 0",
    ];
    let mut random = fastrand::Rng::new();
    let seed = aqueduct_tests::env_number("SEED", random.u64(..1 << 40));
    random.seed(seed);
    let (from, to) = (shared(), shared());
    let (source, target) = (from.database(), to.database());
    from.psql_in(
        &source,
        "create table shapes (id int primary key, a text); insert into shapes select n, 'old' from generate_series(1, 50) n",
    );
    let mut site = Site::new();
    let json = "key.converter: org.apache.kafka.connect.json.JsonConverter\nvalue.converter: org.apache.kafka.connect.json.JsonConverter\n";
    let place = from.yaml(&source);
    site.connector("shapes", &format!("name: shapes\nconnector.class: postgres-source\ntopic.prefix: ddl\n{place}slot.name: {source}\npublication.name: shapes\ntable.include.list: public.shapes\n{json}"));
    site.connector("copy", &format!("name: copy\nconnector.class: postgres-sink\ntopics: ddl.public.shapes\nconnection.url: {}\ninsert.mode: upsert\npk.mode: record_key\ndelete.enabled: true\nauto.create: true\nauto.evolve: true\ntable.name.format: shapes\n{json}", to.url_of(&target)));
    for step in steps {
        match random.u8(..3) {
            0 => site.kill(),
            1 if site.pid().is_none() => drop(site.start()),
            _ => {}
        }
        from.psql_in(&source, step);
    }
    if site.pid().is_none() {
        site.start();
    }
    // Every row as it is now: an event of a row says nothing of columns that came later.
    from.psql_in(&source, "alter table shapes add column last int; update shapes set last = id");
    let columns = from.psql_in(
        &source,
        "select string_agg(column_name, ',' order by column_name) from information_schema.columns where table_name = 'shapes'",
    );
    let query = format!("select {columns} from shapes order by id");
    let expected = from.psql_in(&source, &query);
    let there = aqueduct_tests::poll_for(SOON * 2, || (to.try_psql(&target, &query).as_ref() == Ok(&expected)).then_some(()));
    let found = to.try_psql(&target, &query).unwrap_or_else(|error| error);
    assert!(
        there.is_some(),
        "SEED={seed}: {columns}\n{:#?}\n{}\n{}\n{}",
        differences(&found, &expected),
        said(&site, "shapes"),
        said(&site, "copy"),
        site.log_tail(20)
    );
    site.stop();
    // The server lets go of it when it has noticed that its reader is gone.
    let free = format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{source}' and not active"
    );
    let left = format!("select count(*) from pg_replication_slots where slot_name = '{source}'");
    wait_until(SOON, "the slot is let go", || {
        from.psql_in(&source, &free);
        (from.psql(&left) == "0").then_some(())
    });
}

/// A connector that cannot be: the status says what stands in the way, and the statement that mends it.
#[track_caller]
fn mends(server: &Server, login: &str, code: &str, statement: &str) -> String {
    let mut site = Site::new();
    let place =
        server.yaml("postgres").replace("database.user: postgres\n", "").replace(&format!("database.password: {PASSWORD}\n"), "");
    site.connector(
        "cdc",
        &format!("name: cdc\nconnector.class: postgres-source\ntopic.prefix: p\n{place}{login}table.include.list: public.t\n"),
    );
    site.start();
    let status = until_it_says(&site, "cdc", code);
    let text = serde_json::from_str::<serde_json::Value>(&status).unwrap()["tasks"].to_string().replace("\\\"", "\"");
    assert!(text.contains(statement), "{code} does not show {statement:?}: {text}\n{}", site.log_tail(10));
    status
}

#[test]
fn what_is_missing_is_said_with_its_statement() {
    let server = Server::start(Options::scram());
    server.psql("create table t (id int primary key); insert into t values (1); create role reader login password 'reader-secret'; create role replicator login replication password 'replicator-secret'");
    let status = mends(&server, "database.user: reader\ndatabase.password: wrong-secret\n", "postgres.login", "reader");
    assert!(!status.contains("wrong-secret"), "{status}");
    mends(
        &server,
        "database.user: reader\ndatabase.password: reader-secret\n",
        "postgres.permission",
        "ALTER ROLE \"reader\" REPLICATION",
    );
    mends(
        &server,
        "database.user: replicator\ndatabase.password: replicator-secret\n",
        "postgres.permission",
        "CREATE PUBLICATION",
    );
    server.psql("create publication dbz_publication for table t");
    mends(&server, "database.user: replicator\ndatabase.password: replicator-secret\n", "postgres.permission", "GRANT SELECT");
    server.psql("grant select on t to replicator");
}

#[test]
fn a_server_without_logical_wal_says_how_to_switch_it_on() {
    let server = Server::start(Options::default().with("wal_level = replica"));
    server.psql("create table t (id int primary key)");
    let login = format!("database.user: postgres\ndatabase.password: {PASSWORD}\n");
    mends(&server, &login, "postgres.wal_level", "ALTER SYSTEM SET wal_level");
}
