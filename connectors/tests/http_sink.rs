//! `http-sink` passes the conformance kit: one by one, in batches, and with a receiver that fails now and then.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase};
use http_services::{Answer, Api, Request};
use std::sync::Arc;

/// The texts that were taken, each as often as it was.
fn taken(api: &Api) -> Vec<String> {
    let good = api.requests().into_iter().filter(is_good);
    good.flat_map(|request| request.text().lines().map(|line| line.trim_matches('"').to_owned()).collect::<Vec<_>>()).collect()
}

fn is_good(request: &Request) -> bool {
    !request.number.is_multiple_of(7)
}

#[tokio::test]
async fn the_sink_loses_nothing() {
    for more in [
        &[][..],
        &[("max.in.flight.requests", "1")],
        &[("batch.max.size", "4"), ("max.in.flight.requests", "3")],
        &[("batching.enabled", "true"), ("idempotency.key.enabled", "false")],
    ] {
        let api = Arc::new(Api::start(|request: &Request| Answer::json(if is_good(request) { 200 } else { 503 }, "{}")));
        let url = api.url("/records");
        let fixed = [
            ("http.url", url.as_str()),
            ("http.allowed.hosts", "localhost"),
            ("retry.backoff.ms", "1"),
            ("circuit.breaker.open.ms", "5"),
        ];
        let options = fixed.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let plugin = builtins().into_iter().find(|plugin| plugin.descriptor().name == "http-sink").unwrap();
        conformance::descriptor(&plugin);
        let world = tempfile::tempdir().unwrap();
        conformance::plans_without_touching(&plugin, &options, world.path()).await;
        assert_eq!(api.count(), 0, "planned, and called");
        let read = api.clone();
        conformance::sink(&SinkCase { plugin, options, read: Box::new(move || taken(&read)), exactly_once: false }).await;
    }
}
