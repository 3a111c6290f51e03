//! `webhook-source` passes the conformance kit: a client that never tires sends the same events again and again, and each is there once.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SourceCase};
use aqueduct_core::{Options, Payload, Plugin, Record};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

fn plugin() -> Plugin {
    builtins().into_iter().find(|plugin| plugin.descriptor().name == "webhook-source").unwrap()
}

fn options(port: u16, more: &[(&str, &str)]) -> Options {
    let listener = format!("http://127.0.0.1:{port}");
    let first = [("listener", listener.as_str()), ("path", "/in"), ("topic", "t")];
    first.into_iter().chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn send(stream: &mut TcpStream, id: usize, body: &str) -> io::Result<()> {
    let request = format!("POST /in HTTP/1.1\r\nhost: x\r\nwebhook-id: {id}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await?;
    match answer[..length].starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other("not stored")),
    }
}

/// In order; from the first one again after a failure, as a sender would that was started anew.
async fn sender(port: u16, bodies: Vec<String>) {
    loop {
        let cycle = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            for (id, body) in bodies.iter().enumerate() {
                send(&mut stream, id, body).await?;
            }
            io::Result::Ok(())
        };
        let _ = cycle.await;
        // Its pace: nobody is paid for repeats.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn passes(more: &[(&str, &str)], bodies: Vec<String>, records: usize, stream: fn(&Record) -> String) {
    let port = free_port();
    let mut senders = JoinSet::new();
    senders.spawn(sender(port, bodies));
    let case = SourceCase { plugin: plugin(), options: options(port, more), records, stream, strip: conformance::all_of_it };
    conformance::source(&case).await;
    senders.shutdown().await;
}

fn text(record: &Record) -> String {
    match &record.value {
        Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    }
}

/// Events have no order beyond their body.
#[tokio::test]
async fn the_source_resumes_exactly() {
    passes(&[], (0..20).map(|n| format!("event {n}")).collect(), 20, text).await;
}

#[tokio::test]
async fn bodies_of_many_are_stored_whole() {
    let body =
        |n: usize| format!("[{}]", (0..3).map(|part| format!(r#"{{"body":{n},"part":{part}}}"#)).collect::<Vec<_>>().join(","));
    let stream = |record: &Record| text(record).split(',').next().unwrap().to_owned();
    passes(&[("body.format", "array")], (0..10).map(body).collect(), 30, stream).await;
}

#[tokio::test]
async fn plans_touch_nothing() {
    let world = tempfile::tempdir().unwrap();
    conformance::plans_without_touching(&plugin(), &options(1, &[]), world.path()).await;
}
