//! The brokers of the tests themselves, seen by kcat.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use kafka_services::wire::{Operation, Resource};
use kafka_services::{Broker, Cluster, Options, java_tool, kcat, poll_for, shared};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn records_come_back_as_kcat_wrote_them() {
    let broker = shared();
    let mut admin = broker.admin();
    admin.create_topic("there", 2, &[("cleanup.policy", "compact")]);
    poll_for(SOON, || (admin.topic_configs("there")["cleanup.policy"] == "compact").then_some(())).unwrap();
    broker.produce("there", &["k:one", "k:two"], &["-p", "1", "-K", ":", "-H", "a=b"]);
    let records = broker.wait_records("there", 2, SOON);
    let seen: Vec<_> = records.iter().map(|r| (r.partition, r.offset, r.key.as_deref().unwrap(), r.text())).collect();
    assert_eq!(seen, [(1, 0, &b"k"[..], "one".to_owned()), (1, 1, b"k", "two".into())]);
    assert_eq!(records[0].headers, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(
        (admin.end_offset("there", 1, true), admin.end_offset("there", 0, false), admin.start_offset("there", 1)),
        (2, 0, 0)
    );
    admin.alter_topic("there", &[("max.message.bytes", "1000")]);
    // Told to the controller; brokers hear of it a moment later.
    poll_for(SOON, || (admin.topic_configs("there")["max.message.bytes"] == "1000").then_some(())).unwrap();
    admin.create_partitions("there", 3);
    poll_for(SOON, || (admin.leaders("there") == [1, 1, 1]).then_some(())).unwrap();
    admin.delete_topic("there");
    poll_for(SOON, || (!admin.topics().contains(&"there".to_owned())).then_some(())).unwrap();
    assert_eq!(admin.transaction_coordinator("any").address, broker.bootstrap());
    assert!(admin.committed("nobody").is_empty());
}

#[test]
fn the_java_client_partitions_keys_and_kafkas_tools_see_them() {
    let broker = shared();
    broker.admin().create_topic("keys", 4, &[]);
    broker.java_produce("keys", &[("a", "1"), ("b", "2"), ("a", "3")]);
    let records = broker.wait_records("keys", 3, SOON);
    let of =
        |key: &str| records.iter().filter(|r| r.key.as_deref() == Some(key.as_bytes())).map(|r| r.partition).collect::<Vec<_>>();
    assert!(of("a").len() == 2 && of("a")[0] == of("a")[1] && of("b").len() == 1, "{records:?}");
    let group = ["--topic", "keys", "--from-beginning", "--max-messages", "3", "--group", "java-readers"];
    assert_eq!(broker.console_consumer(&group).lines().count(), 3);
    assert_eq!(broker.admin().committed("java-readers").values().sum::<i64>(), 3);
    assert!(broker.consumer_groups(&["--list"]).contains("java-readers"));
}

#[test]
fn a_killed_broker_has_its_records_and_a_frozen_one_answers_later() {
    let mut broker = Broker::start(Options::default());
    broker.admin().create_topic("kept", 1, &[]);
    broker.produce("kept", &["a", "b"], &[]);
    let before = broker.bootstrap();
    broker.kill9();
    assert!(std::net::TcpStream::connect(&before).is_err());
    broker.restart();
    assert_eq!((broker.bootstrap(), broker.lines("kept")), (before, vec!["a".to_owned(), "b".to_owned()]));
    broker.freeze();
    let silent = kcat(&["-b", &broker.bootstrap(), "-L", "-m", "1"], b"");
    assert!(!silent.status.success(), "a frozen broker does not answer");
    broker.thaw();
    assert_eq!(broker.lines("kept").len(), 2);
}

#[test]
fn every_secured_listener_lets_the_right_ones_in() {
    let broker = Broker::start(Options::guarded());
    let mut admin = broker.admin();
    admin.create_topic("secret", 1, &[]);
    admin.allow("alice", Resource::Topic, "secret", Operation::All);
    let ca = format!("ssl.ca.location={}", broker.certs().join("ca.pem").display());
    let certificate = ["client.pem", "client.key"].map(|name| broker.certs().join(name).display().to_string());
    let [certificate, key] =
        [("certificate", &certificate[0]), ("key", &certificate[1])].map(|(n, v)| format!("ssl.{n}.location={v}"));
    let produce = |address: &str, settings: &[&str]| {
        let mut args = vec!["-b", address, "-P", "-t", "secret", "-X", "message.timeout.ms=3000"];
        settings.iter().for_each(|setting| args.extend(["-X", setting]));
        kcat(&args, b"x\n").status.success()
    };
    let sasl = |address: &str, protocol: &str, mechanism: &str, user: &str, password: &str| {
        let settings = [
            format!("security.protocol={protocol}"),
            format!("sasl.mechanism={mechanism}"),
            format!("sasl.username={user}"),
            format!("sasl.password={password}"),
            ca.clone(),
        ];
        produce(address, &settings.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(sasl(&broker.sasl(), "sasl_plaintext", "PLAIN", "alice", "alice-secret"));
    assert!(sasl(&broker.sasl_tls(), "sasl_ssl", "PLAIN", "alice", "alice-secret"), "over TLS");
    assert!(!sasl(&broker.sasl(), "sasl_plaintext", "PLAIN", "alice", "wrong"), "a wrong password");
    assert!(!sasl(&broker.sasl(), "sasl_plaintext", "PLAIN", "bob", "bob-secret"), "bob has no right");
    assert!(produce(&broker.tls(), &["security.protocol=ssl", &ca, &certificate, &key]), "alice by her certificate");
    assert!(!produce(&broker.tls(), &["security.protocol=ssl", &ca]), "nobody without a certificate");
    let bearer = ["security.protocol=sasl_plaintext", "sasl.mechanism=OAUTHBEARER", "enable.sasl.oauthbearer.unsecure.jwt=true"];
    assert!(produce(&broker.sasl(), &[&bearer[..], &["sasl.oauthbearer.config=principal=alice"]].concat()), "OAUTHBEARER");
    assert_eq!(broker.lines("secret").len(), 4);
    // Debian's kcat cannot: librdkafka before 2.6.1 repeats the nonce, and Kafka refuses that since CVE-2024-56128.
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        assert_eq!(scram_list(&broker, mechanism, "alice-secret").as_deref(), Some("secret\n"), "{mechanism}");
    }
    assert_eq!(scram_list(&broker, "SCRAM-SHA-256", "wrong"), None);
}

/// The topics that alice may see, as Kafka's own tool says.
fn scram_list(broker: &Broker, mechanism: &str, password: &str) -> Option<String> {
    let file = broker.dir().join("client.properties");
    let login = format!("ScramLoginModule required username=\"alice\" password=\"{password}\";");
    let text = format!(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\nsasl.jaas.config=org.apache.kafka.common.security.scram.{login}\n"
    );
    std::fs::write(&file, text).unwrap();
    let args = ["--bootstrap-server", &broker.sasl(), "--command-config", file.to_str().unwrap(), "--list"];
    let output = java_tool("org.apache.kafka.tools.TopicCommand", &args);
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_coordinator_moves_when_its_broker_dies() {
    let mut cluster = Cluster::start(3, &Options::default());
    let bootstrap = cluster.bootstrap();
    let mut admin = cluster.brokers[0].admin();
    admin.create_topic("three", 3, &[]);
    let before = admin.transaction_coordinator("move-me");
    cluster.broker(u16::try_from(before.id).unwrap()).kill9();
    let after = poll_for(Duration::from_secs(60), || {
        let alive = cluster.brokers.iter().find(|broker| broker.pid().is_some())?;
        let node = alive.admin().transaction_coordinator("move-me");
        (node.id != before.id).then_some(node)
    });
    assert!(after.is_some(), "nobody took over from {before:?} of {bootstrap}");
    cluster.broker(u16::try_from(before.id).unwrap()).restart();
}
