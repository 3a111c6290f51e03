//! config/scenarios/stock-ticker runs from the words of its README, with its API, and survives the kill that it proposes.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::free_port;
use aqueduct_tests::{scenario, wait_until};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// Ended with the test.
struct Exchange(Child);

impl Drop for Exchange {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stock_ticker() {
    let port = free_port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/scenarios/stock-ticker/exchange.py");
    let _exchange = Exchange(Command::new("python3").arg(script).arg(port.to_string()).spawn().unwrap());
    wait_until(Duration::from_secs(60), "the exchange listens", || TcpStream::connect(("localhost", port)).is_ok().then_some(()));
    let answer = scenario::play("stock-ticker", &[("TICKER_PORT", &port.to_string())]);
    assert_eq!(answer.trim(), "no trade is missing, none is there twice");
}
