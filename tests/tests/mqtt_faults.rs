//! What goes wrong between the worker and an MQTT broker: it goes on by itself, or says what is wrong.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, poll_for, wait_until};
use mqtt_services::{Broker, Options};
use postgres_services::Proxy;
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn connect(site: &Site, name: &str, uri: &str, more: &str) {
    site.connector(
        name,
        &format!("name: {name}\nconnector.class: mqtt-source\nmqtt.server.uri: {uri}\nmqtt.topics: t\nkafka.topic: t\n{more}"),
    );
}

fn status(site: &Site, name: &str) -> String {
    let answer = site.client().call(reqwest::Method::GET, &format!("/connectors/{name}/status"), None);
    answer.map_or_else(|error| format!("{error:#}"), |answer| answer.text)
}

#[track_caller]
fn until_it_says(site: &Site, name: &str, words: &str) -> String {
    let found = poll_for(SOON * 3, || Some(status(site, name)).filter(|status| status.contains(words)));
    found.unwrap_or_else(|| panic!("{name} does not say {words}: {}\n{}", status(site, name), site.log_tail(20)))
}

fn subscribed(site: &Site, name: &str) {
    let stored = || site.client().get(&format!("/connectors/{name}/offsets")).text.contains("filters").then_some(());
    wait_until(SOON, "the subscription is there", stored);
}

/// Packets vanish and no one says so: a firewall that has forgotten the connection.
#[test]
fn a_half_open_connection_is_noticed_and_made_anew() {
    let broker = Broker::start(Options::default());
    let proxy = Proxy::start(broker.port());
    let mut site = Site::new();
    let uri = format!("tcp://127.0.0.1:{}", proxy.port());
    connect(&site, "in", &uri, "mqtt.keepalive.interval.seconds: 1\nmqtt.connect.timeout.seconds: 1\nmqtt.qos: 2\n");
    let out = site.path("out.txt");
    site.connector("out", &format!("name: out\nconnector.class: file-sink\nfile: {}\ntopics: t\n", out.display()));
    site.start();
    subscribed(&site, "in");
    broker.publish("t", 1, &["1", "2"], &[]);
    let holds =
        |expected: &str| wait_until(SOON, expected, || (fs::read_to_string(&out).unwrap_or_default() == expected).then_some(()));
    holds("1\n2\n");
    let before = proxy.accepted();
    proxy.blackhole(true);
    broker.publish("t", 1, &["3"], &[]);
    wait_until(SOON, "it connects anew", || (proxy.accepted() > before).then_some(()));
    proxy.reset();
    proxy.blackhole(false);
    broker.publish("t", 1, &["4"], &[]);
    holds("1\n2\n3\n4\n");
    site.stop();
}

#[test]
fn what_cannot_pass_by_itself_fails_with_a_name() {
    let guarded = Broker::start(Options::default().password());
    let secure = Broker::start(Options::default().tls());
    let mut site = Site::new();
    connect(&site, "login", &guarded.uri(), "mqtt.username: alice\nmqtt.password: wrong\n");
    let other = secure.certs().join("other-ca.pem");
    connect(&site, "tls", &secure.uri(), &format!("mqtt.ssl.trust.store.file: {}\n", other.display()));
    site.start();
    for (name, code) in [("login", "mqtt.not_authorized"), ("tls", "mqtt.tls")] {
        let status = until_it_says(&site, name, code);
        assert!(status.contains("FAILED"), "{status}");
    }
    assert!(!site.log().contains("wrong"), "a password in the log");
}

#[test]
fn a_session_that_is_lost_is_told_or_fails() {
    let mut broker = Broker::start(Options::default());
    let mut site = Site::new();
    connect(&site, "warns", &broker.uri(), "mqtt.session.lost: warn\n");
    connect(&site, "fails", &broker.uri(), "mqtt.session.lost: fail\n");
    site.start();
    for name in ["warns", "fails"] {
        subscribed(&site, name);
    }
    broker.stop();
    broker.forget();
    broker.restart();
    until_it_says(&site, "warns", "lost the session 1 times");
    let failed = until_it_says(&site, "fails", "mqtt.session_lost");
    assert!(failed.contains("FAILED"), "{failed}");
    let metrics = site.client().get("/metrics").text;
    assert!(metrics.contains("aqueduct_source_mqtt_sessions_lost{connector=\"warns\",task=\"0\"} 1"), "{metrics}");
    // A restart does not make it forget that something may be missing.
    site.client().post("/connectors/fails/restart?includeTasks=true", None);
    pause(Duration::from_millis(200));
    let failed = until_it_says(&site, "fails", "mqtt.session_lost");
    assert!(failed.contains("FAILED"), "{failed}");
    site.stop();
}

/// A topic that nobody may publish to is a dead letter, and the others go on.
#[test]
fn a_record_that_makes_no_topic_is_a_dead_letter() {
    let broker = Broker::start(Options::default());
    let subscriber = broker.subscribe("to/#", 1, &[]);
    let mut site = Site::new();
    fs::write(site.path("in.txt"), "{\"to\":\"a\",\"n\":1}\n{\"to\":\"#\",\"n\":2}\nno json\n{\"to\":\"b\",\"n\":3}\n").unwrap();
    site.connector("in", &format!("name: in\nconnector.class: file-source\nfile: {}\ntopic: t\n", site.path("in.txt").display()));
    site.connector(
        "out",
        &format!(
            "name: out\nconnector.class: mqtt-sink\ntopics: t\nmqtt.server.uri: {}\nmqtt.topic: 'to/${{value.to}}'\nerrors.tolerance: all\n\
             errors.deadletterqueue.topic.name: dead\nerrors.deadletterqueue.context.headers.enable: true\n",
            broker.uri()
        ),
    );
    site.start();
    wait_until(SOON, "the good ones came", || {
        (subscriber.lines() == [r#"{"to":"a","n":1}"#, r#"{"to":"b","n":3}"#]).then_some(())
    });
    let mut letters = String::new();
    wait_until(SOON, "two dead letters", || {
        letters = String::from_utf8_lossy(&site.cli(&["topics", "read", "dead", "--format", "value"]).stdout).into_owned();
        (letters.lines().count() == 2).then_some(())
    });
    assert_eq!(letters, "{\"to\":\"#\",\"n\":2}\nno json\n");
    site.stop();
}
