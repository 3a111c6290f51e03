//! `kill -9` of the worker under load on a real broker: half at random moments, half at named points; a `read_committed` reader and the file see
//! every line exactly once, in order.
//!
//! `KILLS=100 SEED=… cargo test --test kafka_crash -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Chaos, Mode, env_number};
use kafka_services::{Broker, Options};

fn survive(mode: Mode) {
    let (kills, seed) = (env_number("KILLS", 16), env_number("SEED", fastrand::u64(..1 << 40)));
    println!("{mode:?}: KILLS={kills} SEED={seed}");
    let broker = Broker::start(Options::default());
    let outcome = Chaos::new(mode, kills, seed, env!("CARGO_BIN_EXE_ledger")).on_kafka(&broker.bootstrap()).run();
    println!("{mode:?}: {outcome}");
    assert!(outcome.is_clean(), "{mode:?}: {outcome}");
    assert!(outcome.log.expected > kills * 20, "too little was written to mean anything: {outcome}");
    let (aimed, hits) = (kills / 2, outcome.hits.values().filter(|hits| **hits > 0).count());
    assert!(outcome.hits.values().sum::<u64>() >= aimed, "less than half of the kills hit their point: {outcome}");
    assert_eq!(hits, outcome.hits.len().min(aimed as usize), "points with 0 hits: {outcome}");
}

#[test]
fn every_line_is_in_kafka_and_in_the_file_exactly_once() {
    survive(Mode::Append);
}
