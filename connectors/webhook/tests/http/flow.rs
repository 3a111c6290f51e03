//! Answers, repeats, batches.

use crate::rig::{Log, connect, free_port, options, post, request, start, until};
use std::time::Duration;

const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_answer_comes_only_after_the_commit() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[("response.status", "202"), ("response.body", "thanks")])).await.unwrap();
    running.hold.send_replace(true);
    let mut client = connect(port).await;
    client.write(request("POST /orders", &[], "one")).await;
    until("the record is appended", || log.values() == ["one"]).await;
    assert!(client.silent(A_WHILE).await, "an answer before the commit");
    running.hold.send_replace(false);
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (202, "thanks"));
    // The same connection, also after it gave up its buffers.
    assert!(client.silent(Duration::from_millis(1500)).await, "an idle connection was closed");
    assert_eq!(client.post(&[], "two").await.status, 202);
    assert_eq!(log.values(), ["one", "two"]);
    running.stop().await;
}

#[tokio::test]
async fn a_repeat_is_answered_and_stored_once_also_over_a_crash() {
    let (log, port) = (Log::default(), free_port());
    let options = options(port, &[("signature.scheme", "none")]);
    let id = [("Idempotency-Key", "7")];
    let running = start(&log, &options).await.unwrap();
    running.hold.send_replace(true);
    let (mut first, mut repeat) = (connect(port).await, connect(port).await);
    first.write(request("POST /orders", &id, "a")).await;
    until("the record is appended", || log.values() == ["a"]).await;
    // While the first is in flight, and from one who hangs up before the answer.
    repeat.write(request("POST /orders", &id, "a")).await;
    let mut gone = connect(port).await;
    gone.write(request("POST /orders", &[("webhook-id", "8")], "b")).await;
    assert!(repeat.silent(A_WHILE).await);
    drop(gone);
    running.hold.send_replace(false);
    assert_eq!((first.answer().await.unwrap().status, repeat.answer().await.unwrap().status), (200, 200));
    assert_eq!(post(port, &[("webhook-id", "8")], "b").await.status, 200);
    running.crash().await;
    let running = start(&log, &options).await.unwrap();
    for (name, id) in [("Idempotency-Key", "7"), ("webhook-id", "8"), ("webhook-id", "9")] {
        assert_eq!(post(port, &[(name, id)], "c").await.status, 200);
    }
    assert_eq!(log.values(), ["a", "b", "c"]);
    assert!(log.slots() <= 2);
    running.stop().await;
}

#[tokio::test]
async fn a_body_of_many_is_stored_whole_or_not_at_all() {
    let (log, port) = (Log::default(), free_port());
    let more = [("body.format", "array"), ("key", "json:/k"), ("idempotency.key", "json:/k"), ("body.max.bytes", "20000")];
    let running = start(&log, &options(port, &more)).await.unwrap();
    assert_eq!(post(port, &[], r#"[{"k":1},{"k":2}]"#).await.status, 200);
    let answer = post(port, &[], r#"[{"k":3},"#).await;
    assert!(answer.status == 400 && answer.message().contains("no JSON array"), "{answer:?}");
    assert_eq!(post(port, &[], r#"[{"k":2},{"k":3},{"k":3}]"#).await.status, 200);
    assert_eq!(post(port, &[], "[]").await.status, 200);
    let many = format!("[{}]", vec!["1"; 501].join(","));
    let answer = post(port, &[], &many).await;
    assert!(answer.status == 413 && answer.message().contains("aqueduct.batch.max.records"), "{answer:?}");
    assert_eq!(log.values(), [r#"{"k":1}"#, r#"{"k":2}"#, r#"{"k":3}"#]);
    running.stop().await;
}

#[tokio::test]
async fn paths_name_topics_and_keys() {
    let (log, port) = (Log::default(), free_port());
    let more = [("path", "/hooks/{shop}/{event}"), ("topic", "{shop}.{event}"), ("key", "path:shop"), ("headers", "x-*")];
    let running = start(&log, &options(port, &more)).await.unwrap();
    let mut client = connect(port).await;
    for (path, status) in
        [("/hooks/nord/paid", 200), ("/hooks/s%C3%BCd/paid", 404), ("/hooks/nord", 404), ("/hooks/%2E%2E/%2e%2E", 200)]
    {
        let answer = client.ask(request(&format!("POST {path}?a=b"), &[("X-One", "1"), ("Other", "2")], "v")).await;
        assert_eq!(answer.status, status, "{path}");
    }
    let record = log.records.lock()[0].clone();
    assert_eq!((&*record.topic, record.key.clone(), record.headers.len()), ("nord.paid", "nord".into(), 1));
    assert_eq!(&*log.records.lock()[1].topic, ".....");
    running.stop().await;
}

#[tokio::test]
async fn greetings_are_answered_and_not_stored() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[("challenge.verify.token", "t k")])).await.unwrap();
    let mut client = connect(port).await;
    let hello = "GET /orders?hub.mode=subscribe&hub.verify_token=t+k&hub.challenge=115820";
    let answer = client.ask(request(hello, &[], "")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "115820"));
    let answer = client.ask(request(&hello.replace("t+k", "x"), &[], "")).await;
    assert!(answer.status == 405 && answer.has("allow: POST"), "{answer:?}");
    assert!(log.values().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn requests_that_arrive_together_share_commits() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[])).await.unwrap();
    running.hold.send_replace(true);
    let mut clients = Vec::new();
    for n in 0..64 {
        let mut client = connect(port).await;
        client.write(request("POST /orders", &[("webhook-id", &n.to_string())], &n.to_string())).await;
        clients.push(client);
    }
    // The first poll took some, and waits for its commit.
    until("the first is appended", || !log.values().is_empty()).await;
    running.hold.send_replace(false);
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let mut values: Vec<u32> = log.values().iter().map(|value| value.parse().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, (0..64).collect::<Vec<_>>());
    running.stop().await;
}

/// The signature is of the bytes as they were sent; the records are what they were before.
#[tokio::test]
async fn a_compressed_body_is_verified_as_it_came_and_stored_as_it_was() {
    use flate2::{Compression, write::GzEncoder};
    use hmac::{Hmac, KeyInit, Mac};
    use std::io::Write;

    let (log, port) = (Log::default(), free_port());
    let more = [
        ("body.format", "array"),
        ("headers", "*"),
        ("signature.scheme", "github"),
        ("signature.secret", "key"),
        ("body.max.bytes", "20000"),
        ("record.max.bytes", "20000"),
    ];
    let running = start(&log, &options(port, &more)).await.unwrap();
    let signature = |bytes: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"key").unwrap();
        mac.update(bytes);
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let sent = |plain: &str, of_plain: bool| {
        let mut out = GzEncoder::new(Vec::new(), Compression::default());
        let body = out.write_all(plain.as_bytes()).and_then(|()| out.finish()).unwrap();
        let signature = signature(if of_plain { plain.as_bytes() } else { &body });
        let head = format!(
            "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\nx-mine: 1\r\nx-hub-signature-256: sha256={signature}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    };
    let mut client = connect(port).await;
    assert_eq!(client.ask(sent(r#"[{"n":1},{"n":2}]"#, true)).await.status, 403);
    assert_eq!(client.ask(sent(r#"[{"n":1},{"n":2}]"#, false)).await.status, 200);
    assert_eq!(log.values(), [r#"{"n":1}"#, r#"{"n":2}"#]);
    let names: Vec<String> = log.records.lock()[0].headers.iter().map(|header| header.name.to_string()).collect();
    assert!(names.iter().any(|name| name == "x-mine") && names.iter().all(|name| name != "content-encoding"), "{names:?}");
    // 100 bytes that become 20,001; and the connection lives.
    assert_eq!(client.ask(sent(&format!("[{}1]", " ".repeat(19_998)), false)).await.status, 413);
    assert_eq!(client.ask(sent("[3]", false)).await.status, 200);
    running.stop().await;
}
