//! `mqtt-source` on a real mosquitto.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod rig;

use aqueduct_core::{Class, Record};
use mqtt_services::{Broker, Options, PASSWORD, USER, free_port, shared};
use rig::{SOON, Source, context, options, text, values};
use tokio::time::Instant;

const VERSIONS: [&str; 2] = ["3.1.1", "5"];

fn header(record: &Record, name: &str) -> Option<String> {
    record.header(name).map(text)
}

/// The promise of a source whose outer system forgets what is acknowledged: tasks are lost before and after the log has what they gave, and all is there; once, with QoS 2.
#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let broker = shared();
    for (version, qos) in VERSIONS.into_iter().flat_map(|version| [(version, 1), (version, 2)]) {
        let topic = format!("durable/{}/{qos}", version.replace('.', "-"));
        let options = options(&[
            ("mqtt.server.uri", &broker.uri()),
            ("mqtt.topics", &topic),
            ("mqtt.version", version),
            ("mqtt.qos", &qos.to_string()),
            ("mqtt.client.id", &topic),
        ]);
        let mut source = Source::ready(&options).await;
        let lines: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        broker.publish(&topic, 2, &lines, &[]);
        let (mut log, mut round, begin) = (Vec::<String>::new(), 0, Instant::now());
        let mut cx = context();
        cx.max_records = 7;
        while lines.iter().any(|line| !log.contains(line)) {
            assert!(begin.elapsed() < SOON, "{topic}: {} records", log.len());
            let polled = source.task.poll(&cx).await.unwrap();
            round += u64::from(!polled.batch.is_empty());
            let records: Vec<Record> = polled.batch.into_records().collect();
            // Lost before it was durable.
            if round % 5 == 3 && !records.is_empty() {
                source = Source::resume(&options, 1, 0, source.offsets).await.unwrap();
                continue;
            }
            log.extend(values(&records));
            source.store(&polled.resume);
            // Lost when it was durable, and nobody had told the broker.
            if round % 5 == 4 && !records.is_empty() {
                source = Source::resume(&options, 1, 0, source.offsets).await.unwrap();
                continue;
            }
            source.task.commit(&polled.resume).await.unwrap();
        }
        // What comes once more is stored too.
        for _ in 0..10 {
            log.extend(values(&source.step().await.unwrap()));
        }
        let mut first = Vec::new();
        for line in &log {
            if !first.contains(line) {
                first.push(line.clone());
            }
        }
        assert_eq!(first, lines, "{topic}: first occurrences are in order");
        assert!(qos == 1 || log.len() == lines.len(), "{topic}: {} records of {} messages", log.len(), lines.len());
        source.task.close().await.unwrap();
        let mut source = Source::resume(&options, 1, 0, source.offsets).await.unwrap();
        source.quiet().await;
    }
}

#[tokio::test]
async fn wildcards_make_topics_and_keys() {
    let broker = shared();
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topics", "wild/+/pos, wild/+/deep/#"),
        ("mqtt.client.id", "wildcards"),
        ("kafka.topic", "fleet-${1}"),
        ("key.format", "${topic}"),
    ]);
    let mut source = Source::ready(&options).await;
    broker.publish("wild/7/pos", 1, &["a"], &[]);
    broker.publish("wild/8 ?/deep/x/y", 1, &["b"], &[]);
    let records = source.take(2).await;
    let found: Vec<(&str, String, String)> =
        records.iter().map(|record| (&*record.topic, text(&record.key), text(&record.value))).collect();
    assert_eq!(found, [("fleet-7", "wild/7/pos".into(), "a".into()), ("fleet-8__", "wild/8 ?/deep/x/y".into(), "b".into())]);
}

#[tokio::test]
async fn properties_become_headers() {
    let broker = shared();
    let options = options(&[("mqtt.server.uri", &broker.uri()), ("mqtt.topics", "props"), ("mqtt.client.id", "props")]);
    let mut source = Source::ready(&options).await;
    let mut properties = vec!["-V", "5"];
    for property in [
        "content-type text/plain",
        "correlation-data abc",
        "response-topic answers",
        "message-expiry-interval 600",
        "payload-format-indicator 1",
        "user-property trace 77",
    ] {
        properties.extend(["-D", "publish"]);
        properties.extend(property.split(' '));
    }
    broker.publish("props", 1, &["x"], &properties);
    let record = source.take(1).await.remove(0);
    for (name, value) in [
        ("mqtt.qos", "1"),
        ("mqtt.content.type", "text/plain"),
        ("mqtt.correlation.data", "abc"),
        ("mqtt.response.topic", "answers"),
        ("mqtt.payload.format.indicator", "1"),
        ("trace", "77"),
    ] {
        assert_eq!(header(&record, name).as_deref(), Some(value), "{name}");
    }
    let left: u32 = header(&record, "mqtt.message.expiry.interval").unwrap().parse().unwrap();
    assert!((1..=600).contains(&left), "{left}");
    assert_eq!((header(&record, "mqtt.retained"), header(&record, "mqtt.duplicate")), (None, None));
}

#[tokio::test]
async fn retained_messages_come_as_asked() {
    let broker = shared();
    broker.publish("kept/1", 1, &["old"], &["-r"]);
    for (version, handling, first, second) in [
        ("5", "new", 1, 0),
        ("5", "always", 1, 1),
        ("5", "never", 0, 0),
        // 3.1.1 has no choice, but to take them at each connection or to drop them.
        ("3.1.1", "new", 1, 1),
        ("3.1.1", "never", 0, 0),
    ] {
        let options = options(&[
            ("mqtt.server.uri", &broker.uri()),
            ("mqtt.topics", "kept/#"),
            ("mqtt.client.id", &format!("kept-{handling}-{version}")),
            ("mqtt.version", version),
            ("mqtt.retain.handling", handling),
        ]);
        let mut source = Source::open(&options).await.unwrap();
        for expected in [first, second] {
            let records = source.take(expected).await;
            assert!(records.iter().all(|record| header(record, "mqtt.retained").as_deref() == Some("true")));
            source.quiet().await;
            let offsets = source.offsets.clone();
            source.task.close().await.unwrap();
            source = Source::resume(&options, 1, 0, offsets).await.unwrap();
        }
    }
}

#[tokio::test]
async fn tasks_share_the_messages_and_go_on_where_they_were() {
    let broker = shared();
    let options = options(&[("mqtt.server.uri", &broker.uri()), ("mqtt.topics", "many/#"), ("mqtt.client.id", "many")]);
    let mut tasks = Vec::new();
    for index in 0..3 {
        let mut task = Source::resume(&options, 3, index, Vec::new()).await.unwrap();
        task.subscribed().await;
        tasks.push(task);
    }
    let lines: Vec<String> = (0..90).map(|n| n.to_string()).collect();
    broker.publish("many/a", 1, &lines, &[]);
    let (mut found, mut shares, begin) = (Vec::new(), [0; 3], Instant::now());
    while found.len() < lines.len() {
        for (share, task) in shares.iter_mut().zip(&mut tasks) {
            let records = values(&task.step().await.unwrap());
            *share += records.len();
            found.extend(records);
        }
        assert!(begin.elapsed() < SOON, "{} of {}", found.len(), lines.len());
    }
    found.sort_by_key(|line| line.parse::<u32>().unwrap());
    assert_eq!(found, lines);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

/// A session keeps what was subscribed to once: what the config no longer names is unsubscribed.
#[tokio::test]
async fn a_changed_config_changes_the_subscription() {
    let broker = shared();
    let with =
        |topics: &str| options(&[("mqtt.server.uri", &broker.uri()), ("mqtt.topics", topics), ("mqtt.client.id", "changed")]);
    let mut source = Source::ready(&with("changed/a, changed/b")).await;
    source.task.close().await.unwrap();
    broker.publish("changed/a", 1, &["queued"], &[]);
    let mut source = Source::resume(&with("changed/b"), 1, 0, source.offsets).await.unwrap();
    assert_eq!(values(&source.take(1).await), ["queued"], "what the session had is not lost");
    source.quiet().await;
    broker.publish("changed/a", 1, &["no"], &[]);
    broker.publish("changed/b", 1, &["yes"], &[]);
    assert_eq!(values(&source.take(1).await), ["yes"]);
}

#[tokio::test]
async fn a_session_that_the_broker_lost_is_told() {
    for version in VERSIONS {
        let mut broker = Broker::start(Options::default());
        let with = |lost: &str| {
            options(&[
                ("mqtt.server.uri", &broker.uri()),
                ("mqtt.topics", "t"),
                ("mqtt.client.id", "me"),
                ("mqtt.version", version),
                ("mqtt.session.lost", lost),
            ])
        };
        let (warn, fail) = (with("warn"), with("fail"));
        let mut source = Source::ready(&warn).await;
        assert_eq!(source.task.report().detail["sessions_lost"], 0);
        source.task.close().await.unwrap();
        let offsets = source.offsets.clone();
        broker.stop();
        broker.forget();
        broker.restart();
        // Fails each time: the new session of the first try is not taken for the old one.
        for _ in 0..2 {
            let error = Source::resume(&fail, 1, 0, offsets.clone()).await.err().unwrap();
            assert_eq!((error.code(), error.class()), ("mqtt.session_lost", Class::Fatal));
        }
        let mut source = Source::resume(&warn, 1, 0, offsets).await.unwrap();
        source.quiet().await;
        let report = source.task.report();
        assert_eq!(report.detail["sessions_lost"], 1);
        assert!(report.summary.contains("lost the session"), "{}", report.summary);
        // It is there now, and stays.
        source.task.close().await.unwrap();
        broker.publish("t", 1, &["x"], &[]);
        let mut source = Source::resume(&fail, 1, 0, source.offsets).await.unwrap();
        assert_eq!(values(&source.take(1).await), ["x"]);
    }
}

#[tokio::test]
async fn qos_0_and_clean_sessions() {
    let broker = shared();
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topics", "fast"),
        ("mqtt.client.id", "fast"),
        ("mqtt.qos", "0"),
        ("mqtt.clean.session.enabled", "true"),
    ]);
    let mut source = Source::ready(&options).await;
    broker.publish("fast", 1, &["x", "y"], &[]);
    assert_eq!(values(&source.take(2).await), ["x", "y"]);
    assert!(source.task.report().summary.contains("at most once"));
    source.task.close().await.unwrap();
    broker.publish("fast", 1, &["nobody hears it"], &[]);
    let mut source = Source::resume(&options, 1, 0, source.offsets).await.unwrap();
    source.quiet().await;
    assert_eq!(source.task.report().detail["sessions_lost"], 0, "none was expected");
}

#[tokio::test]
async fn the_next_broker_is_tried_and_what_cannot_pass_is_told_first() {
    let broker = shared();
    let dead = format!("tcp://127.0.0.1:{}", free_port());
    let uris = format!("{dead},{}", broker.uri());
    let options_of = |uris: &str| options(&[("mqtt.server.uri", uris), ("mqtt.topics", "t"), ("name", "failover")]);
    let source = Source::ready(&options_of(&uris)).await;
    let report = source.task.report();
    assert_eq!(report.detail["client_id"], "aqueduct-failover");
    assert_eq!(format!("tcp://{}", report.detail["broker"].as_str().unwrap()), broker.uri());
    let error = Source::open(&options_of(&dead)).await.err().unwrap();
    assert_eq!((error.code(), error.class()), ("mqtt.unreachable", Class::Retriable));
    let guarded = Broker::start(Options::default().password());
    let error = Source::open(&options_of(&format!("{},{dead}", guarded.uri()))).await.err().unwrap();
    assert_eq!(error.code(), "mqtt.not_authorized");
}

#[tokio::test]
async fn a_second_client_of_the_same_id_takes_over() {
    let broker = shared();
    let options = options(&[("mqtt.server.uri", &broker.uri()), ("mqtt.topics", "t"), ("mqtt.client.id", "twins")]);
    let mut first = Source::ready(&options).await;
    let _second = Source::ready(&options).await;
    let error = first.failure().await;
    // mosquitto 2.0.11 hangs up without a word; hostile.rs has the broker that says why.
    assert!(error.is_retriable(), "{error}");
}

#[tokio::test]
async fn the_broker_is_who_it_says_and_so_are_we() {
    let broker = Broker::start(Options::default().tls());
    let file = |broker: &Broker, name: &str| broker.certs().join(name).display().to_string();
    let with = |broker: &Broker, more: &[(&str, &str)]| {
        let uri = broker.uri();
        options(&[&[("mqtt.server.uri", uri.as_str()), ("mqtt.topics", "t"), ("mqtt.client.id", "tls")], more].concat())
    };
    let ca = file(&broker, "ca.pem");
    let mut source = Source::ready(&with(&broker, &[("mqtt.ssl.trust.store.file", &ca)])).await;
    broker.publish("t", 1, &["over TLS"], &[]);
    assert_eq!(values(&source.take(1).await), ["over TLS"]);
    // More than one record of TLS.
    let large = "x".repeat(100_000);
    broker.publish("t", 1, &[&large], &[]);
    assert_eq!(values(&source.take(1).await), [large]);
    let other = file(&broker, "other-ca.pem");
    for wrong in [vec![("mqtt.ssl.trust.store.file", other.as_str())], vec![]] {
        let error = Source::open(&with(&broker, &wrong)).await.err().unwrap();
        assert_eq!((error.code(), error.class()), ("mqtt.tls", Class::Fatal), "{error}");
    }
    let error = Source::open(&with(&broker, &[("mqtt.ssl.trust.store.file", "/none.pem")])).await.err().unwrap();
    assert_eq!(error.code(), "mqtt.config");
    // Without TLS at a port that has it.
    let plain = format!("tcp://127.0.0.1:{}", broker.port());
    let error = Source::open(&options(&[("mqtt.server.uri", &plain), ("mqtt.topics", "t"), ("mqtt.client.id", "x")]))
        .await
        .err()
        .unwrap();
    assert!(error.is_retriable(), "{error}");

    let strict = Broker::start(Options::default().mutual_tls());
    let (ca, client) = (file(&strict, "ca.pem"), file(&strict, "client.pem"));
    Source::ready(&with(&strict, &[("mqtt.ssl.trust.store.file", &ca), ("mqtt.ssl.key.store.file", &client)])).await;
    assert!(Source::open(&with(&strict, &[("mqtt.ssl.trust.store.file", &ca)])).await.is_err());

    let guarded = Broker::start(Options::default().password());
    for version in VERSIONS {
        let login = [("mqtt.username", USER), ("mqtt.password", PASSWORD), ("mqtt.version", version)];
        Source::ready(&with(&guarded, &login)).await;
        let error =
            Source::open(&with(&guarded, &[("mqtt.username", USER), ("mqtt.password", "wrong"), ("mqtt.version", version)]))
                .await;
        let error = error.err().unwrap();
        assert_eq!((error.code(), error.class()), ("mqtt.not_authorized", Class::Fatal));
        assert!(!error.trace().contains("wrong"), "{}", error.trace());
    }
}

#[tokio::test]
async fn a_broker_that_freezes_is_noticed() {
    let broker = Broker::start(Options::default());
    let options = options(&[
        ("mqtt.server.uri", &broker.uri()),
        ("mqtt.topics", "t"),
        ("mqtt.client.id", "frozen"),
        ("mqtt.keepalive.interval.seconds", "1"),
        ("mqtt.connect.timeout.seconds", "1"),
    ]);
    let mut source = Source::ready(&options).await;
    broker.freeze();
    let error = source.failure().await;
    assert_eq!((error.code(), error.class()), ("mqtt.timeout", Class::Retriable), "{error}");
    broker.thaw();
}

/// More than the broker may send unanswered: it waits, and all comes.
#[tokio::test]
async fn a_small_window_is_backpressure() {
    let broker = shared();
    for version in VERSIONS {
        let topic = format!("window/{version}");
        let options = options(&[
            ("mqtt.server.uri", &broker.uri()),
            ("mqtt.topics", &topic),
            ("mqtt.client.id", &topic),
            ("mqtt.version", version),
            ("mqtt.max.inflight", "3"),
            ("mqtt.qos", "2"),
        ]);
        let mut source = Source::ready(&options).await;
        let lines: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        broker.publish(&topic, 2, &lines, &[]);
        let mut unstored = 0;
        // Without a commit it takes no more than the window.
        for _ in 0..5 {
            unstored += source.task.poll(&context()).await.unwrap().batch.len();
        }
        assert!((1..=3).contains(&unstored), "{unstored}");
        let mut source = Source::resume(&options, 1, 0, source.offsets).await.unwrap();
        assert_eq!(values(&source.take(50).await), lines);
    }
}
