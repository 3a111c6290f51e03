//! The parts themselves: a server survives its kills, a standby takes over, a proxy cuts, a small disk is full.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use postgres_services::{Options, PASSWORD, Proxy, Server, USER, bin_dir, shared};
use std::process::{Command, Output};

fn tcp(port: u16, ssl: &str, password: &str, sql: &str) -> Output {
    let url = format!("postgres://{USER}@127.0.0.1:{port}/postgres?{ssl}");
    let mut command = Command::new(bin_dir().join("psql"));
    command.args(["-X", "-At", "-d", &url, "-c", sql]).env("PGPASSWORD", password).output().unwrap()
}

fn answer(output: Output) -> String {
    String::from_utf8(if output.status.success() { output.stdout } else { output.stderr }).unwrap().trim().to_owned()
}

#[test]
fn it_survives_kills_and_keeps_what_was_committed() {
    let mut server = Server::start(Options::default());
    server.psql("create table t (id int primary key); select pg_create_logical_replication_slot('s', 'pgoutput')");
    for id in 0..3 {
        server.psql(&format!("insert into t values ({id})"));
        let mut open = server.session("postgres");
        open.run(&format!("begin; insert into t values ({id} + 100)"));
        server.kill9();
        assert!(server.try_psql("postgres", "select 1").is_err());
        server.restart();
    }
    assert_eq!(server.psql("select count(*), max(id) from t; select slot_name from pg_replication_slots"), "3|2\ns");
    assert_eq!(server.psql("show fsync"), "on");
    server.stop();
    server.restart();
    assert_ne!(
        server.psql("select system_identifier from pg_control_system()"),
        shared().psql("select system_identifier from pg_control_system()")
    );
}

#[test]
fn passwords_and_tls_are_asked_for() {
    let server = Server::start(Options::tls());
    let ca = format!("sslmode=verify-full&sslrootcert={}/ca.pem", server.certs().display());
    assert_eq!(answer(tcp(server.port(), &ca, PASSWORD, "select ssl from pg_stat_ssl where pid = pg_backend_pid()")), "t");
    assert!(answer(tcp(server.port(), &ca, "wrong", "select 1")).contains("password authentication failed"));
    assert!(answer(tcp(server.port(), "sslmode=disable", PASSWORD, "select 1")).contains("no encryption"));
}

#[test]
fn a_standby_is_promoted_behind_one_address() {
    let mut primary = Server::start(Options::default());
    let proxy = Proxy::start(primary.port());
    primary.psql("create table t as select 1 as id");
    let standby = primary.standby(Options::default());
    primary.psql("insert into t values (2)");
    primary.wait_replayed(&standby);
    primary.kill9();
    standby.promote();
    proxy.to(standby.port());
    assert_eq!(answer(tcp(proxy.port(), "", "", "select count(*) from t")), "2");
    assert_eq!(answer(tcp(proxy.port(), "", "", "select left(pg_walfile_name(pg_current_wal_lsn()), 8)")), "00000002");
    proxy.cut_after(300..=600, 1);
    let output = tcp(proxy.port(), "", "", "select repeat('x', 100000)");
    assert!(!output.status.success() && proxy.cuts() == 1, "{}", answer(output));
    proxy.heal();
    assert_eq!(answer(tcp(proxy.port(), "", "", "select length(repeat('x', 100000))")), "100000");
}

#[test]
fn a_small_disk_is_full_and_has_room_again() {
    let server = Server::start(Options::default());
    let disk = server.small_tablespace("small", "16m");
    server.psql("create table t (id int, filler text) tablespace small");
    let ballast = disk.fill_but(1 << 20);
    let error =
        server.try_psql("postgres", "insert into t select n, repeat('x', 500) from generate_series(1, 10000) n").unwrap_err();
    assert!(error.contains("No space left on device"), "{error}");
    std::fs::remove_file(ballast).unwrap();
    server.psql("insert into t select n, repeat('x', 500) from generate_series(1, 10000) n");
}

#[test]
fn a_session_says_its_errors() {
    let server = shared();
    let database = server.database();
    let mut session = server.session(&database);
    session.run("create table t (id int primary key)");
    assert_eq!(session.run("insert into t values (1), (2) returning id"), "1\n2");
    let error = session.run("insert into t values (1)");
    assert!(error.contains("23505") && error.contains("duplicate key"), "{error}");
    assert_eq!(server.psql_in(&database, "select count(*) from t"), "2");
}
