//! Requests that no client sends by mistake: smuggling, floods, garbage.

use crate::rig::{Log, connect, free_port, options, start};

#[tokio::test]
async fn what_two_servers_could_read_differently_is_refused() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[])).await.unwrap();
    let smuggled = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nsmuggled";
    let head = "POST /orders HTTP/1.1\r\nhost: x\r\n";
    let wrong = [
        format!("{head}content-length: 4\r\ncontent-length: 5\r\n\r\nabcde"),
        format!("{head}content-length: 4, 5\r\n\r\nabcd"),
        format!("{head}content-length: -1\r\n\r\n"),
        format!("{head}content-length: +4\r\n\r\nabcd"),
        format!("{head}content-length: 18446744073709551617\r\n\r\nabcd"),
        format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\nabcd\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabcd\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n4\r\nabcdX\r\n0\r\n\r\n"),
        format!("{head} folded: header\r\n\r\n"),
        format!("{head}na me: x\r\ncontent-length: 1\r\n\r\na"),
        format!("{head}name: a\0b\r\ncontent-length: 1\r\n\r\na"),
        "POST /orders HTTP/9.9\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for text in &wrong {
        let mut client = connect(port).await;
        client.write(format!("{text}{smuggled}")).await;
        while let Some(answer) = client.answer().await {
            assert!((400..600).contains(&answer.status), "{text:?}: {answer:?}");
        }
        assert!(log.values().is_empty(), "{text:?} stored {:?}", log.values());
    }
    // Both lengths (RFC 9112, 6.3): chunked holds, and the connection ends, so that nothing can hide behind.
    let mut client = connect(port).await;
    client.write(format!("{head}content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")).await;
    while let Some(answer) = client.answer().await {
        assert!(answer.status == 200 || (400..600).contains(&answer.status), "{answer:?}");
    }
    assert!(!log.values().iter().any(|value| value == "smuggled"), "{:?}", log.values());
    running.stop().await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[])).await.unwrap();
    let many: String = (0..101).map(|n| format!("h{n}: x\r\n")).collect();
    let large = format!("large: {}\r\n", "x".repeat(16 * 1024));
    let path = format!("POST /orders?{} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na", "p".repeat(70_000));
    for text in [
        format!("POST /orders HTTP/1.1\r\n{many}\r\n"),
        format!("POST /orders HTTP/1.1\r\n{large}\r\n"),
        path,
        format!("POST /orders HTTP/1.1\r\n{}", "endless: header\r\n".repeat(5000)),
    ] {
        let mut client = connect(port).await;
        client.write(&text).await;
        if let Some(answer) = client.answer().await {
            assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}");
        }
    }
    assert!(log.values().is_empty());
    let mut client = connect(port).await;
    assert_eq!(client.post(&[], "still here").await.status, 200);
    running.stop().await;
}

#[tokio::test]
async fn lines_in_values_stay_values() {
    let (log, port) = (Log::default(), free_port());
    let running =
        start(&log, &options(port, &[("headers", "x-a"), ("key", "header:x-a"), ("challenge.verify.token", "t")])).await.unwrap();
    let mut client = connect(port).await;
    let answer = client
        .ask("GET /orders?hub.mode=subscribe&hub.verify_token=t&hub.challenge=%0d%0aSet-Cookie:%20x HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert!(answer.status == 200 && !answer.has("set-cookie"), "{answer:?}");
    assert_eq!(client.post(&[("x-a", "tab\tand \u{e9}")], "v").await.status, 200);
    running.stop().await;
}
