//! OpenTelemetry: a trace that comes in with a REST call, or with a webhook, goes on in the worker's spans, in the record, and in the call that the
//! record leads to.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::free_port;
use aqueduct_tests::{Site, wait_until};
use http_services::{Answer, Api, Request};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
const TRACES: &str = "/v1/traces";

fn http() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// `traceparent` of a trace, and the bytes by which OTLP names it.
fn trace(number: u8) -> (String, Vec<u8>) {
    let id = [number; 16];
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("00-{hex}-b7ad6b7169203331-01"), id.to_vec())
}

/// Whether one request to the receiver has all of these in its body: protobuf keeps texts and ids as they are.
fn received(receiver: &Api, parts: &[&[u8]]) -> bool {
    let has = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|window| window == part);
    let requests = receiver.requests();
    requests.iter().filter(|request| request.path == TRACES).any(|request| parts.iter().all(|part| has(&request.body, part)))
}

#[test]
fn a_trace_goes_through() {
    let receiver = Api::start(|_: &Request| Answer::json(200, "{}"));
    let target = Api::start(|_: &Request| Answer::json(200, "{}"));
    let (mut site, port) = (Site::new(), free_port());
    let endpoint = receiver.url("");
    site.configure(&format!(
        "otel.exporter.otlp.endpoint: {endpoint}\notel.exporter.otlp.headers: \"x-tenant=blue, authorization=Bearer canary-otlp\"\n\
         otel.service.name: trace-test\n"
    ));
    site.connector(
        "hooks",
        &format!("name: hooks\nconnector.class: webhook-source\nlistener: http://127.0.0.1:{port}\npath: /hooks\ntopic: hooks\n"),
    );
    let url = target.url("/out");
    site.connector(
        "out",
        &format!("name: out\nconnector.class: http-sink\ntopics: hooks\nhttp.url: {url}\nhttp.allowed.hosts: localhost\n"),
    );
    site.start();

    let (called, called_id) = trace(0xa1);
    let answer = http().get(format!("http://127.0.0.1:{}/connectors", site.port)).header("traceparent", &called).send().unwrap();
    assert_eq!(answer.status(), 200);

    let (sent, sent_id) = trace(0xb2);
    let post = |parent: &str| {
        let request = http().post(format!("http://127.0.0.1:{port}/hooks")).header("traceparent", parent);
        request.header("tracestate", "vendor=1").body("paid").send().ok().map(|answer| answer.status().as_u16())
    };
    wait_until(SOON, "the webhook takes it", || (post(&sent) == Some(200)).then_some(()));
    let call = wait_until(SOON, "the sink calls its target", || target.requests().into_iter().find(|call| call.path == "/out"));
    assert_eq!((call.header("traceparent"), call.header("tracestate")), (Some(&*sent), Some("vendor=1")));

    // What is no traceparent is not passed on.
    wait_until(SOON, "the webhook takes nonsense too", || (post("00-zz") == Some(200)).then_some(()));
    let call =
        wait_until(SOON, "the sink calls again", || target.requests().into_iter().filter(|call| call.path == "/out").nth(1));
    assert_eq!((call.header("traceparent"), call.text().as_str()), (None, "paid"));

    for (what, parts) in [
        ("the call's span", [&b"GET /connectors"[..], &called_id]),
        ("the source's batch, linked", [b"send hooks", &sent_id]),
        ("the sink's batch, linked", [b"process out", &sent_id]),
        ("the sink's commit", [b"settle out", b"trace-test"]),
    ] {
        wait_until(SOON, what, || received(&receiver, &parts).then_some(()));
    }
    let first = receiver.requests().into_iter().find(|request| request.path == TRACES).unwrap();
    assert_eq!(first.header("content-type"), Some("application/x-protobuf"));
    assert_eq!((first.header("x-tenant"), first.header("authorization")), (Some("blue"), Some("Bearer canary-otlp")));
    assert!(!site.log().contains("canary-otlp"));
}

/// A receiver that is not there costs spans, and nothing else.
#[test]
fn a_receiver_that_is_gone_holds_up_nothing() {
    let mut site = Site::new();
    site.configure(&format!("otel.exporter.otlp.endpoint: http://127.0.0.1:{}\n", free_port()));
    site.connector(
        "gen",
        "name: gen\nconnector.class: datagen-source\ntemplate: orders\ntopic: orders\nrate: 1000\ncount: 500\n",
    );
    site.connector("hole", "name: hole\nconnector.class: blackhole-sink\ntopics: orders\n");
    site.start();
    let client = site.client();
    wait_until(SOON, "500 records passed", || {
        let status = client.get("/connectors/hole/status").json();
        let task = &status["tasks"][0]["aqueduct"];
        (task["records_out"] == 500).then(|| {
            assert!(task["clocks"]["committed_ms"].is_u64() && task["freshness_seconds"].is_f64(), "{task}");
            assert_eq!((&task["attempt"], task.get("next_attempt_ms")), (&0.into(), None), "{task}");
        })
    });
    site.stop();
}
