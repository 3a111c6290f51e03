//! Every refusal, and that memory and time are bounded.

use crate::rig::{Log, connect, free_port, options, post, request, start, until};

#[tokio::test]
async fn who_may_not_send_hears_why() {
    let (log, port) = (Log::default(), free_port());
    let more = [
        ("auth", "basic"),
        ("auth.username", "Aladdin"),
        ("auth.password", "open sesame"),
        ("signature.scheme", "github"),
        ("signature.secret", "old,It's a Secret to Everybody"),
    ];
    let running = start(&log, &options(port, &more)).await.unwrap();
    let user = ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    let good = ("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    let mut client = connect(port).await;
    let answer = client.post(&[good], "Hello, World!").await;
    assert!(answer.status == 401 && answer.has("www-authenticate: Basic"), "{answer:?}");
    assert_eq!(client.post(&[user], "Hello, World!").await.status, 401);
    let answer = client.post(&[user, good], "Hello, World?").await;
    assert!(answer.status == 403 && answer.message().contains("signature"), "{answer:?}");
    assert_eq!(client.post(&[user, good], "Hello, World!").await.status, 200);
    assert_eq!(log.values(), ["Hello, World!"]);
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_and_the_connection_lives() {
    let (log, port) = (Log::default(), free_port());
    let more = [("body.max.bytes", "1000"), ("record.max.bytes", "500"), ("queue.max.bytes", "8000")];
    let running = start(&log, &options(port, &more)).await.unwrap();
    let mut client = connect(port).await;
    for (first, headers, body, status) in [
        ("POST /nothing", &[] as &[_], "x".to_owned(), 404),
        ("DELETE /orders", &[], "x".to_owned(), 405),
        ("POST /orders", &[("content-encoding", "compress")], "x".to_owned(), 415),
        ("POST /orders", &[("content-encoding", "gzip")], "x".to_owned(), 400),
        ("POST /orders", &[], "x".repeat(1001), 413),
        ("POST /orders", &[], "x".repeat(501), 413),
        ("POST /orders", &[], "x".repeat(500), 200),
    ] {
        let answer = client.ask(request(first, headers, &body)).await;
        assert_eq!(answer.status, status, "{first} {answer:?}");
        if status != 200 {
            assert!(!answer.message().is_empty());
        }
    }
    // In chunks nobody knows the length before it is there.
    let chunk = format!("{:x}\r\n{}\r\n", 600, "y".repeat(600));
    let chunked = format!("POST /orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    assert_eq!(connect(port).await.ask(chunked).await.status, 413);
    assert_eq!(log.values().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_full_queue_says_429_and_empties() {
    let (log, port) = (Log::default(), free_port());
    let more = [("body.max.bytes", "1000"), ("queue.max.bytes", "8000")];
    let running = start(&log, &options(port, &more)).await.unwrap();
    running.hold.send_replace(true);
    let mut waiting = Vec::new();
    let refused = loop {
        let mut client = connect(port).await;
        client.write(request("POST /orders", &[], &"x".repeat(900))).await;
        if !client.silent(std::time::Duration::from_millis(200)).await {
            break client;
        }
        waiting.push(client);
        assert!(waiting.len() < 20, "no bound");
    };
    drop(refused);
    let answer = post(port, &[], &"x".repeat(900)).await;
    assert!(answer.status == 429 && answer.has("retry-after: 1"), "{answer:?}");
    running.hold.send_replace(false);
    for client in &mut waiting {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert_eq!(post(port, &[], &"x".repeat(900)).await.status, 200, "room again");
    assert_eq!(log.values().len(), waiting.len() + 1);
    running.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[("body.timeout.ms", "300")])).await.unwrap();
    let (mut nothing, mut head, mut body) = (connect(port).await, connect(port).await, connect(port).await);
    head.write("POST /orders HTTP/1.1\r\nhost: x\r\nx-slo").await;
    body.write("POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await;
    assert_eq!(body.answer().await.unwrap().status, 408);
    head.ends().await;
    nothing.ends().await;
    // The second head of a connection, a byte at a time.
    let mut again = connect(port).await;
    assert_eq!(again.post(&[], "ok").await.status, 200);
    again.write("POST /ord").await;
    again.ends().await;
    running.stop().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[("connections.max", "2")])).await.unwrap();
    let (mut one, mut two) = (connect(port).await, connect(port).await);
    assert_eq!((one.post(&[], "1").await.status, two.post(&[], "2").await.status), (200, 200));
    let mut three = connect(port).await;
    three.write(request("POST /orders", &[], "3")).await;
    assert!(three.silent(std::time::Duration::from_millis(300)).await);
    drop(one);
    assert_eq!(three.answer().await.unwrap().status, 200);
    until("all are there", || log.values() == ["1", "2", "3"]).await;
    running.stop().await;
}
