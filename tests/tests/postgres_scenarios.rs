//! The scenarios of config/scenarios that have a database run from the words of their READMEs, and survive the kills that they propose.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::scenario::play_then;
use aqueduct_tests::site::free_port;
use aqueduct_tests::wait_until;
use postgres_services::{Options, PASSWORD, Server, USER};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// What the check prints in the end.
#[track_caller]
fn play(name: &str) -> String {
    let server = Server::start(Options::scram());
    let (port, api) = (server.port().to_string(), free_port().to_string());
    let env = [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGUSER", USER), ("PGPASSWORD", PASSWORD), ("PGHTTPPORT", &*api)];
    play_then(name, &env, || {
        // A connection that was killed ends when the server sees it.
        let active = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        wait_until(SOON, "the slot is free", || (server.psql(active) == "0").then_some(()));
    })
}

#[test]
fn payments() {
    assert_eq!(play("payments").trim(), "100000.00 in all accounts");
}

#[test]
fn payroll() {
    let answer = play("payroll");
    let departments: Vec<&str> = answer.lines().map(|line| line.split('|').next().unwrap()).collect();
    assert_eq!(departments, ["engineering", "sales", "support"]);
    // 300, one of whom has left, and one who came.
    let heads: u32 = answer.lines().map(|line| line.split('|').nth(1).unwrap().parse::<u32>().unwrap()).sum();
    assert_eq!(heads, 300);
}

#[test]
fn a_cancelled_ride_is_a_call() {
    let answer = play("ride-cancelled");
    println!("{answer}");
    let calls: u32 = answer.split(' ').next().unwrap().parse().unwrap();
    assert!(calls >= 99, "{answer}");
}
