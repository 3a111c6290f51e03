//! What the tests of other crates rely on.

use mqtt_services::{Broker, Options, shared, wait_until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_is_published_arrives() {
    let broker = shared();
    let subscriber = broker.subscribe("a/+", 1, &["-F", "%t %p"]);
    broker.publish("a/1", 2, &["x", "y"], &[]);
    wait_until(SOON, "both came", || (subscriber.lines() == ["a/1 x", "a/1 y"]).then_some(()));
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let mut broker = Broker::start(Options::default());
    drop(broker.subscribe("a", 1, &["-i", "me", "-c"]));
    broker.publish("a", 1, &["x"], &[]);
    // Its answer comes a turn of the broker's loop later, and each turn ends with what has changed on disk.
    broker.publish("b", 1, &["y"], &[]);
    broker.kill9();
    broker.restart();
    let subscriber = broker.subscribe("a", 1, &["-i", "me", "-c"]);
    wait_until(SOON, "it came", || (subscriber.lines() == ["x"]).then_some(()));
}

#[test]
fn tls_and_passwords() {
    for options in [Options::default().tls(), Options::default().mutual_tls(), Options::default().password()] {
        let broker = Broker::start(options);
        let subscriber = broker.subscribe("a", 1, &[]);
        broker.publish("a", 1, &["x"], &[]);
        wait_until(SOON, "it came", || (subscriber.lines() == ["x"]).then_some(()));
    }
}
