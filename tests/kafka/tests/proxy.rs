//! The proxy before a real broker, with kcat as the client.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use kafka_services::{Action, Broker, Options, Side, kcat, poll_for, wire};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(90);

fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| Broker::start(Options::proxied()))
}

/// Through the proxy, with these settings.
fn send(topic: &str, line: &str, settings: &[&str]) -> Output {
    let proxied = broker().proxied();
    let mut args = vec!["-b", &proxied, "-P", "-E", "-t", topic];
    settings.iter().for_each(|setting| args.extend(["-X", setting]));
    kcat(&args, format!("{line}\n").as_bytes())
}

// One test: its parts share the proxy's rules.
#[test]
fn frames_are_delayed_dropped_cut_and_held_by_their_api() {
    let (broker, proxy) = (broker(), broker().proxy());
    broker.admin().create_topic("faults", 1, &[]);
    assert!(send("faults", "plain", &[]).status.success());
    assert!(proxy.seen(wire::PRODUCE) == 1 && proxy.seen(wire::METADATA) >= 1, "clients come back through the proxy");

    // The answer is lost, the client repeats: without idempotence that is a duplicate.
    let cut = proxy.rule(wire::PRODUCE, Side::Response, Action::Cut, 1);
    assert!(send("faults", "twice", &["enable.idempotence=false"]).status.success());
    assert_eq!((cut.caught(), broker.lines("faults")), (1, ["plain", "twice", "twice"].map(str::to_owned).to_vec()));
    let cut = proxy.rule(wire::PRODUCE, Side::Response, Action::Cut, 1);
    assert!(send("faults", "once", &["enable.idempotence=true"]).status.success());
    assert_eq!((cut.caught(), broker.lines("faults").len()), (1, 4));
    let cut = proxy.rule(wire::PRODUCE, Side::Request, Action::Cut, 1);
    assert!(send("faults", "after a cut", &["enable.idempotence=false"]).status.success());
    assert_eq!((cut.caught(), broker.lines("faults").len()), (1, 5), "a request that was cut has not arrived");

    let dropped = proxy.rule(wire::PRODUCE, Side::Request, Action::Drop, u32::MAX);
    assert!(!send("faults", "never", &["message.timeout.ms=1500"]).status.success());
    dropped.release();
    assert_eq!(broker.lines("faults").len(), 5);

    let begin = Instant::now();
    let delayed = proxy.rule(wire::PRODUCE, Side::Response, Action::Delay(Duration::from_millis(700)), 1);
    assert!(send("faults", "late", &[]).status.success());
    assert!(delayed.caught() == 1 && begin.elapsed() >= Duration::from_millis(700));

    // Held until the client has given up and gone: it arrives all the same.
    let held = proxy.rule(wire::PRODUCE, Side::Request, Action::Hold, 1);
    assert!(!send("faults", "from the past", &["message.timeout.ms=1500", "retries=0"]).status.success());
    assert_eq!((held.caught(), broker.lines("faults").len()), (1, 6));
    assert!(send("faults", "overtakes", &[]).status.success());
    held.release();
    broker.wait_records("faults", 8, SOON);
    let lines = broker.lines("faults");
    assert_eq!(&lines[6..], ["overtakes", "from the past"]);

    proxy.latency(Duration::from_millis(150));
    let begin = Instant::now();
    assert!(send("faults", "slow", &[]).status.success());
    assert!(begin.elapsed() >= Duration::from_millis(600), "several round trips of 300 ms each");
    proxy.heal();

    proxy.blackhole(true);
    assert!(!kcat(&["-b", &broker.proxied(), "-L", "-m", "1"], b"").status.success());
    proxy.heal();
    proxy.refuse(true);
    assert!(!kcat(&["-b", &broker.proxied(), "-L", "-m", "1"], b"").status.success());
    proxy.heal();

    let mut stream = TcpStream::connect(broker.proxied()).unwrap();
    poll_for(SOON, || (proxy.connections() > 0).then_some(())).unwrap();
    proxy.reset();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let ended = stream.write_all(&[0]).and_then(|()| stream.read(&mut [0]));
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    assert!(send("faults", "healed", &[]).status.success());
    poll_for(SOON, || (proxy.connections() == 0).then_some(())).expect("connections end with their clients");
}
