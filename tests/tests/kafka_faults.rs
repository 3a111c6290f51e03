//! Brokers that die, freeze and move, late requests, deleted topics, limits and rights that change under a worker: every line exactly once, REST
//! answers, and the worker recovers by itself.
//!
//! Short by default; `BROKER_KILLS=20 FREEZE=30 cargo test --test kafka_faults` is the full count.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::kafka_site::FlowPlan;
use aqueduct_tests::wait::pause;
use aqueduct_tests::{RestWatch, env_number};
use kafka_services::{Broker, Options};
use std::time::Duration;

const LEDGER: &str = env!("CARGO_BIN_EXE_ledger");
/// On a loaded machine an answer takes its time; what waits for a broker takes longer.
const REST: Duration = Duration::from_secs(5);

#[test]
fn a_broker_that_is_killed_again_and_again() {
    let kills = env_number("BROKER_KILLS", 3);
    let mut broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan { rate: 4_000, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    for kill in 0..kills {
        flow.moves(20_000);
        pause(Duration::from_millis(fastrand::u64(0..500)));
        broker.kill9();
        pause(Duration::from_millis(fastrand::u64(0..2_000)));
        broker.restart();
        let begin = std::time::Instant::now();
        flow.goes_on();
        println!("kill {kill}: lines flow again after {:?}", begin.elapsed());
    }
    rest.finish();
    flow.exact();
}

#[test]
fn a_broker_that_freezes() {
    let freeze = Duration::from_secs(env_number("FREEZE", 10));
    let broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let lower = if freeze.as_secs() < 30 { "request.timeout.ms: 3000\nsocket.connection.setup.timeout.ms: 3000\n" } else { "" };
    let mut flow = FlowPlan { settings: lower, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    broker.freeze();
    pause(freeze);
    broker.thaw();
    flow.goes_on();
    rest.finish();
    flow.exact();
}
