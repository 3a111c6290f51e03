//! Connectors on one listener.

use crate::rig::{Log, connect, free_port, options, post, request, start};

#[tokio::test]
async fn connectors_share_a_port_and_not_a_path() {
    let (log, other, port) = (Log::default(), Log::default(), free_port());
    let orders = start(&log, &options(port, &[])).await.unwrap();
    let refunds = start(&other, &options(port, &[("path", "/refunds/{id}")])).await.unwrap();
    let code = |more: &'static [(&'static str, &'static str)]| async move {
        start(&Log::default(), &options(port, more)).await.err().map(|error| error.code().to_owned())
    };
    assert_eq!(code(&[]).await.as_deref(), Some("webhook.path_taken"));
    assert_eq!(code(&[("path", "/new,/refunds/{other}")]).await.as_deref(), Some("webhook.path_taken"));
    assert_eq!(code(&[("path", "/new"), ("connections.max", "5")]).await.as_deref(), Some("webhook.listener_options"));
    let mut client = connect(port).await;
    assert_eq!(client.ask(request("POST /new", &[], "x")).await.status, 404, "all of a connector's paths, or none");
    assert_eq!(client.post(&[], "a").await.status, 200);
    assert_eq!(client.ask(request("POST /refunds/7", &[], "b")).await.status, 200);
    assert_eq!((log.values(), other.values()), (vec!["a".to_owned()], vec!["b".to_owned()]));
    // One closes: told to come again, and the other goes on.
    orders.stop().await;
    let answer = client.post(&[], "c").await;
    assert!(answer.status == 503 && answer.has("retry-after:"), "{answer:?}");
    assert_eq!(client.ask(request("POST /refunds/8", &[], "d")).await.status, 200);
    // The path may go to another form of itself, and to another connector.
    refunds.crash().await;
    let again = start(&log, &options(port, &[("path", "/orders,/refunds/{other}")])).await.unwrap();
    assert_eq!(client.post(&[], "e").await.status, 200);
    assert_eq!(client.ask(request("POST /refunds/8", &[], "f")).await.status, 200);
    assert_eq!(log.values(), ["a", "e", "f"]);
    again.stop().await;
}

#[tokio::test]
async fn a_port_of_another_program_is_named_and_other_options_take_an_unused_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = start(&Log::default(), &options(port, &[])).await.err().unwrap();
    assert!(
        error.code() == "webhook.listen" && error.is_retriable() && error.hint().unwrap().contains("another program"),
        "{error:?}"
    );
    drop(taken);
    let log = Log::default();
    let first = start(&log, &options(port, &[])).await.unwrap();
    assert_eq!(post(port, &[], "1").await.status, 200);
    first.stop().await;
    let second = start(&log, &options(port, &[("connections.max", "5")])).await.unwrap();
    assert_eq!(post(port, &[], "2").await.status, 200);
    second.stop().await;
}

#[tokio::test]
async fn whoever_waits_when_the_connector_stops_is_told() {
    let (log, port) = (Log::default(), free_port());
    let running = start(&log, &options(port, &[])).await.unwrap();
    running.hold.send_replace(true);
    let mut client = connect(port).await;
    client.write(request("POST /orders", &[], "1")).await;
    crate::rig::until("it is appended", || log.values().len() == 1).await;
    running.crash().await;
    let answer = client.answer().await.unwrap();
    assert!(answer.status == 503 && answer.message().contains("again"), "{answer:?}");
}
