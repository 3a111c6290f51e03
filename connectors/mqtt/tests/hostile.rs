//! A broker that is scripted: what it sees before a commit, and what it may send.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod rig;

use aqueduct_core::{Class, Options};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rig::{SOON, Sink, Source, context, options, values};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

struct Scripted {
    listener: TcpListener,
}

/// The client's end of a connection, as the broker sees it.
struct Peer {
    socket: TcpStream,
    version: u8,
}

impl Scripted {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn options(&self, version: &str, more: &[(&str, &str)]) -> Options {
        let uri = format!("tcp://{}", self.listener.local_addr().unwrap());
        let own = [
            ("mqtt.server.uri", uri.as_str()),
            ("mqtt.client.id", "c"),
            ("mqtt.version", version),
            ("mqtt.connect.timeout.seconds", "2"),
        ];
        options(&[&own, more].concat())
    }

    /// Takes the CONNECT and answers it.
    async fn accept(&self, answer: &[u8]) -> Peer {
        let (socket, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let mut peer = Peer { socket, version: 0 };
        let connect = peer.packet().await;
        assert_eq!(connect[0], 0x10);
        peer.version = connect[8];
        peer.send(answer).await;
        peer
    }

    /// A source that has subscribed, and the broker's end.
    async fn subscribed(&self, version: &str, more: &[(&str, &str)]) -> (Source, Peer) {
        let options = self.options(version, &[&[("mqtt.topics", "#")], more].concat());
        let broker = async {
            let mut peer = self.accept(connack(version)).await;
            let subscribe = peer.packet().await;
            assert_eq!(subscribe[0], 0x82);
            let (id, qos) = ([subscribe[2], subscribe[3]], subscribe[subscribe.len() - 1] & 3);
            let suback = if version == "5" { vec![0x90, 4, id[0], id[1], 0, qos] } else { vec![0x90, 3, id[0], id[1], qos] };
            peer.send(&suback).await;
            peer
        };
        tokio::join!(Source::ready(&options), broker)
    }
}

fn connack(version: &str) -> &'static [u8] {
    if version == "5" { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] }
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    async fn packet(&mut self) -> Vec<u8> {
        timeout(SOON, async {
            let mut head = [0; 2];
            self.socket.read_exact(&mut head).await.unwrap();
            assert!(head[1] < 128, "short packets only");
            let mut packet = vec![0; 2 + usize::from(head[1])];
            packet[..2].copy_from_slice(&head);
            self.socket.read_exact(&mut packet[2..]).await.unwrap();
            packet
        })
        .await
        .unwrap()
    }

    /// Nothing came, as far as the kernel knows.
    fn silent(&self) -> bool {
        self.socket.try_read(&mut [0; 1]).is_err()
    }

    fn publish(&self, qos: u8, id: u8, dup: bool, payload: &str) -> Vec<u8> {
        let mut body = vec![0, 1, b't'];
        if qos > 0 {
            body.extend([0, id]);
        }
        if self.version == 5 {
            body.push(0);
        }
        body.extend(payload.bytes());
        [vec![0x30 | u8::from(dup) << 3 | qos << 1, body.len() as u8], body].concat()
    }
}

#[tokio::test]
async fn acknowledgements_wait_for_the_log_and_keep_the_order() {
    let broker = Scripted::start().await;
    for version in ["3.1.1", "5"] {
        let (mut source, mut peer) = broker.subscribed(version, &[("mqtt.qos", "2")]).await;
        let bytes = [peer.publish(2, 5, false, "a"), peer.publish(1, 6, false, "b"), peer.publish(1, 7, false, "c")].concat();
        peer.send(&bytes).await;
        let (mut taken, mut resume) = (Vec::new(), Vec::new());
        while taken.len() < 3 {
            let polled = source.task.poll(&context()).await.unwrap();
            resume.extend(polled.resume);
            taken.extend(polled.batch.into_records());
        }
        assert_eq!(values(&taken), ["a", "b", "c"]);
        // It waits for what comes, and sends nothing meanwhile.
        source.task.poll(&context()).await.unwrap();
        assert!(peer.silent(), "answered before it is durable");
        source.task.commit(&resume).await.unwrap();
        assert_eq!(
            [peer.packet().await, peer.packet().await, peer.packet().await],
            [[0x50, 2, 0, 5], [0x40, 2, 0, 6], [0x40, 2, 0, 7]]
        );
        source.store(&resume);

        // The release is stored before it is told: from PUBCOMP on the id may be another message's.
        peer.send(&[0x62, 2, 0, 5]).await;
        let begin = Instant::now();
        let released = loop {
            let polled = source.task.poll(&context()).await.unwrap();
            if !polled.resume.is_empty() {
                break polled;
            }
            assert!(begin.elapsed() < SOON);
        };
        assert!(released.batch.is_empty());
        source.task.poll(&context()).await.unwrap();
        assert!(peer.silent(), "PUBCOMP before it is durable");
        source.task.commit(&released.resume).await.unwrap();
        assert_eq!(peer.packet().await, [0x70, 2, 0, 5]);
        // Nobody holds it any more.
        peer.send(&[0x62, 2, 0, 5]).await;
        source.step().await.unwrap();
        let answer = peer.packet().await;
        assert_eq!(answer, if version == "5" { vec![0x70, 3, 0, 5, 0x92] } else { vec![0x70, 2, 0, 5] });
    }
}

#[tokio::test]
async fn a_known_message_of_qos_2_is_answered_and_no_record() {
    let broker = Scripted::start().await;
    let (mut source, mut peer) = broker.subscribed("3.1.1", &[("mqtt.qos", "2")]).await;
    let publish = peer.publish(2, 9, false, "once");
    peer.send(&publish).await;
    assert_eq!(values(&source.take(1).await), ["once"]);
    peer.packet().await;
    // The answer was lost, and the process with it.
    let options = broker.options("3.1.1", &[("mqtt.topics", "#"), ("mqtt.qos", "2")]);
    let resumed = Source::resume(&options, 1, 0, source.offsets.clone());
    let (source, mut peer) = tokio::join!(resumed, broker.accept(&[0x20, 2, 1, 0]));
    let mut source = source.unwrap();
    let subscribe = peer.packet().await;
    peer.send(&[0x90, 3, subscribe[2], subscribe[3], 2]).await;
    let publish = [peer.publish(2, 9, true, "once"), peer.publish(2, 10, false, "twice")].concat();
    peer.send(&publish).await;
    assert_eq!(values(&source.take(1).await), ["twice"]);
    assert_eq!([peer.packet().await, peer.packet().await], [[0x50, 2, 0, 9], [0x50, 2, 0, 10]]);
    assert_eq!(source.task.report().detail["known"], 1);
}

#[tokio::test]
async fn what_is_no_mqtt_is_an_error_with_a_name() {
    let broker = Scripted::start().await;
    for version in ["3.1.1", "5"] {
        let cases: [(&str, Class, &[u8]); 8] = [
            // 268 MB are announced; none of them is waited for.
            ("mqtt.packet_too_large", Class::Fatal, &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b't']),
            ("mqtt.malformed", Class::Retriable, &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            ("mqtt.malformed", Class::Retriable, &[0x30, 5, 0, 2, 0xc3, 0x28, b'x']),
            ("mqtt.malformed", Class::Retriable, &[0x30, 4, 0, 1, b'#', b'x']),
            ("mqtt.malformed", Class::Retriable, &[0x36, 5, 0, 1, b't', 0, 1]),
            ("mqtt.malformed", Class::Retriable, &[0x40, 2, 0, 1]),
            // DISCONNECT, session taken over; 3.1.1 has none.
            (if version == "5" { "mqtt.taken_over" } else { "mqtt.malformed" }, Class::Retriable, &[0xe0, 1, 0x8e]),
            ("mqtt.malformed", Class::Retriable, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ];
        for (code, class, bytes) in cases {
            let (mut source, mut peer) = broker.subscribed(version, &[]).await;
            peer.send(bytes).await;
            let error = source.failure().await;
            assert_eq!((error.code(), error.class()), (code, class), "{version} {bytes:x?}: {error}");
        }
    }
}

#[tokio::test]
async fn any_bytes_end_in_records_or_an_error() {
    let broker = Scripted::start().await;
    let mut runner = TestRunner::deterministic();
    let body = proptest::collection::vec(proptest::num::u8::ANY, 0..60);
    for round in 0..150 {
        let version = if round % 2 == 0 { "5" } else { "3.1.1" };
        let first = proptest::num::u8::ANY.new_tree(&mut runner).unwrap().current();
        let body = body.new_tree(&mut runner).unwrap().current();
        // One of three is not even a frame.
        let bytes = if round % 3 == 0 { body } else { [vec![first, body.len() as u8], body].concat() };
        let (mut source, mut peer) = broker.subscribed(version, &[]).await;
        peer.send(&bytes).await;
        drop(peer);
        let error = source.failure().await;
        assert!(error.code().starts_with("mqtt."), "{bytes:x?}: {error}");
    }
}

#[tokio::test]
async fn any_greeting_ends_in_an_error_or_a_connection() {
    let broker = Scripted::start().await;
    let mut runner = TestRunner::deterministic();
    let body = proptest::collection::vec(proptest::num::u8::ANY, 0..40);
    for round in 0..150 {
        let version = if round % 2 == 0 { "5" } else { "3.1.1" };
        let body = body.new_tree(&mut runner).unwrap().current();
        let bytes = [vec![0x20, body.len() as u8], body].concat();
        let options = broker.options(version, &[("mqtt.topics", "#")]);
        let sink = broker.options(version, &[]);
        let greet = || async { drop(broker.accept(&bytes).await) };
        let (opened, ()) = tokio::join!(Source::open(&options), greet());
        let (sink, ()) = tokio::join!(Sink::open(&sink), greet());
        for error in [opened.err(), sink.err()].into_iter().flatten() {
            assert!(error.code().starts_with("mqtt"), "{bytes:x?}: {error}");
        }
    }
}

#[tokio::test]
async fn refusals_have_names() {
    let broker = Scripted::start().await;
    let cases: [(&str, &[u8], &str); 6] = [
        ("5", &[0x20, 3, 0, 0x86, 0], "mqtt.login"),
        ("5", &[0x20, 3, 0, 0x89, 0], "mqtt.unavailable"),
        ("5", &[0x20, 3, 0, 0x84, 0], "mqtt.version"),
        ("3.1.1", &[0x20, 2, 0, 1], "mqtt.version"),
        ("3.1.1", &[0x20, 2, 0, 3], "mqtt.unavailable"),
        ("3.1.1", &[0x20, 2, 0, 4], "mqtt.login"),
    ];
    for (version, answer, code) in cases {
        let options = broker.options(version, &[("mqtt.topics", "#")]);
        let (opened, _) = tokio::join!(Source::open(&options), broker.accept(answer));
        assert_eq!(opened.err().unwrap().code(), code);
    }
}

#[tokio::test]
async fn a_refused_subscription_is_an_error() {
    let broker = Scripted::start().await;
    let options = broker.options("5", &[("mqtt.topics", "secret")]);
    let (source, mut peer) = tokio::join!(Source::open(&options), broker.accept(connack("5")));
    let subscribe = peer.packet().await;
    peer.send(&[0x90, 4, subscribe[2], subscribe[3], 0, 0x87]).await;
    let error = source.unwrap().failure().await;
    assert_eq!((error.code(), error.class()), ("mqtt.subscribe_refused", Class::Fatal));
    assert!(error.message().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up() {
    let broker = Scripted::start().await;
    let options = broker.options("5", &[("mqtt.topics", "#")]);
    // The kernel accepts; nobody answers.
    let error = Source::open(&options).await.err().unwrap();
    assert_eq!((error.code(), error.class()), ("mqtt.unreachable", Class::Retriable));
    let (source, _peer) = tokio::join!(Source::open(&options), async {
        let (first, _) = broker.listener.accept().await.unwrap();
        drop(first);
        broker.accept(connack("5")).await
    });
    let error = source.unwrap().failure().await;
    assert_eq!(error.code(), "mqtt.timeout", "the subscription");
}

#[tokio::test]
async fn a_poll_returns_when_it_is_asked_to() {
    let broker = Scripted::start().await;
    let (mut source, _peer) = broker.subscribed("5", &[]).await;
    let mut cx = context();
    cx.wait_max = Duration::from_secs(600);
    cx.interrupt.cancel();
    for _ in 0..3 {
        let polled = timeout(SOON, source.task.poll(&cx)).await.unwrap().unwrap();
        assert!(polled.batch.is_empty());
    }
}

/// A sink's broker that takes and never answers: an error, not a wait without end.
#[tokio::test]
async fn a_sink_that_is_not_answered_gives_up() {
    let broker = Scripted::start().await;
    let options = broker.options("5", &[]);
    let (sink, _peer) = tokio::join!(Sink::open(&options), broker.accept(connack("5")));
    let record = aqueduct_core::Record::new("orders", "x");
    let error = timeout(SOON, sink.unwrap().put(vec![record])).await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.class()), ("mqtt.timeout", Class::Retriable));
}
