//! What the sink does when the receiver does not behave.

use crate::receiver::{Receiver, Reply, Seen};
use crate::rig::{Rig, record, records};
use aqueduct_core::Result;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Once with each of these, then all is well: the record is there, and each try had the same key.
#[tokio::test]
async fn a_request_is_tried_again_by_the_same_key() {
    let faults = [
        Reply::status(500),
        Reply::status(503),
        Reply::status(408),
        Reply::retry_after(429, "0"),
        Reply::retry_after(503, "Sun, 06 Nov 1994 08:49:37 GMT"),
        Reply::Reset,
        Reply::Half,
        Reply::SlowLoris,
        Reply::Silence,
        // It takes the record, but says so too late.
        Reply::ok().later(Duration::from_secs(3600)),
    ];
    for fault in faults {
        let shown = format!("{fault:?}");
        let receiver = Receiver::start(move |_, number| if number == 0 { fault.clone() } else { Reply::ok() }).await;
        let mut rig = Rig::new(&receiver.url, &[("http.client.request.timeout.millis", "500")]).await;
        Rig::all_good(rig.put(vec![record(0, "a", "one"), record(1, "a", "two")]).await);
        assert_eq!(receiver.bodies(), ["one", "one", "two"], "{shown}");
        let keys: Vec<String> = receiver.seen().iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
        assert!(keys[0] == keys[1] && keys[1] != keys[2] && !keys[0].is_empty(), "{shown}: {keys:?}");
    }
}

fn failed<T: std::fmt::Debug>(put: Result<T>, code: &str, retriable: bool) {
    let error = put.unwrap_err();
    assert_eq!((error.code(), error.is_retriable()), (code, retriable), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn tries_are_used_up_and_the_worker_decides() {
    let receiver = Receiver::start(|_, _| Reply::status(503)).await;
    let mut rig = Rig::new(&receiver.url, &[("max.retries", "3"), ("circuit.breaker.failures", "0")]).await;
    failed(rig.put(vec![record(0, "a", "one"), record(1, "a", "two")]).await, "http_sink.exhausted", true);
    assert_eq!(receiver.bodies(), ["one"; 4]);
    let reject = [("max.retries", "1"), ("behavior.on.retries.exhausted", "reject")];
    let mut rig = Rig::new(&receiver.url, &reject).await;
    let rejects = rig.put(vec![record(0, "a", "one"), record(1, "a", "two")]).await.unwrap();
    assert!(rejects.len() == 2 && rejects.iter().all(|reject| reject.error.code() == "http_sink.exhausted"), "{rejects:?}");
    // Nobody there at all.
    let mut rig = Rig::new("http://127.0.0.1:9", &[("max.retries", "1"), ("circuit.breaker.failures", "0")]).await;
    failed(rig.put(records(3, 3)).await, "http_sink.exhausted", true);
}

#[tokio::test]
async fn what_is_wrong_with_every_request_fails_the_task() {
    for status in [401, 403, 404, 405, 415] {
        let receiver = Receiver::start(move |_, _| Reply::status(status)).await;
        let mut rig = Rig::new(&receiver.url, &[("max.retries", "3")]).await;
        let error = rig.put(records(1, 1)).await.unwrap_err();
        assert!(!error.is_retriable() && error.message().contains(&status.to_string()), "{error:?}");
        assert_eq!(receiver.seen().len(), 1);
    }
    // A redirect might lose the body: none is followed, so no loop of them is.
    let receiver = Receiver::start(|_, _| Reply::Status(301, vec![("Location", "/".to_owned())], String::new())).await;
    let mut rig = Rig::new(&receiver.url, &[]).await;
    let error = rig.put(records(1, 1)).await.unwrap_err();
    assert!(!error.is_retriable(), "{error:?}");
    assert_eq!(receiver.seen().len(), 1);
}

#[tokio::test]
async fn a_record_that_is_refused_goes_aside_and_the_others_arrive() {
    let by_key = |seen: &Seen| match seen.path.as_str() {
        "/k1" => Reply::json(422, "bad record"),
        "/k2" => Reply::status(404),
        _ => Reply::ok(),
    };
    let receiver = Receiver::start(move |seen, _| by_key(seen)).await;
    let mut rig = Rig::new(&format!("{}/${{key}}", receiver.url), &[]).await;
    let rejects = rig.put(records(4, 4)).await.unwrap();
    let mut reasons: Vec<String> = rejects.iter().map(|reject| reject.error.to_string()).collect();
    reasons.sort();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[1].contains("422: bad record") || reasons[0].contains("422: bad record"), "{reasons:?}");
    assert_eq!(receiver.seen().len(), 4);
}

/// Which of a batch is bad, halves of halves tell.
#[tokio::test]
async fn a_batch_that_is_refused_is_halved() {
    let receiver = Receiver::start(|seen, _| if seen.body.contains("k0:3\"") { Reply::status(400) } else { Reply::ok() }).await;
    let mut rig = Rig::new(&receiver.url, &[("batch.max.size", "16")]).await;
    let rejects = rig.put(records(16, 1)).await.unwrap();
    assert_eq!(rejects.len(), 1);
    assert_eq!(rejects[0].record.origin.as_ref().unwrap().offset, 3);
    let good: Vec<String> = receiver
        .seen()
        .into_iter()
        .filter(|seen| !seen.body.contains("k0:3\""))
        .flat_map(|seen| seen.body.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let expected: Vec<String> = (0..16).filter(|n| *n != 3).map(|n| format!("\"k0:{n}\"")).collect();
    assert_eq!(good, expected, "in order, each once");
}

/// HTTP 207: each record has its own fate, and the busy ones are asked for again alone.
#[tokio::test]
async fn an_answer_tells_of_each_record() {
    let receiver = Receiver::start(|seen, number| {
        let results: Vec<String> = seen
            .body
            .lines()
            .map(|line| match line.trim_matches('"') {
                "k0:1" if number == 0 => r#"{"status": 429}"#.to_owned(),
                "k0:2" => r#"{"status": 422, "error": {"reason": "no such ride"}}"#.to_owned(),
                _ => r#"{"status": 201}"#.to_owned(),
            })
            .collect();
        Reply::json(207, &format!("{{\"items\": [{}]}}", results.join(",")))
    })
    .await;
    let mut rig = Rig::new(&receiver.url, &[("batch.max.size", "10"), ("batch.response.results", "/items")]).await;
    let rejects = rig.put(records(4, 1)).await.unwrap();
    assert_eq!(rejects.len(), 1);
    assert_eq!(rejects[0].record.origin.as_ref().unwrap().offset, 2);
    assert!(rejects[0].error.message().contains("no such ride"), "{}", rejects[0].error);
    assert_eq!(receiver.bodies(), ["\"k0:0\"\n\"k0:1\"\n\"k0:2\"\n\"k0:3\"\n", "\"k0:1\"\n"]);
    // Without saying where, a 207 is no consent.
    let mut rig = Rig::new(&receiver.url, &[("batch.max.size", "10")]).await;
    failed(rig.put(records(4, 1)).await, "http_sink.multi_status", false);
}

#[tokio::test]
async fn the_circuit_opens_and_one_request_probes() {
    let begin = Instant::now();
    let receiver =
        Receiver::start(move |_, number| if (1..30).contains(&number) { Reply::status(503) } else { Reply::ok() }).await;
    let options = [
        ("circuit.breaker.failures", "4"),
        ("circuit.breaker.open.ms", "20"),
        ("max.in.flight.requests", "8"),
        ("max.retries", "1000"),
    ];
    let mut rig = Rig::new(&receiver.url, &options).await;
    let mut reports = rig.task.reports().unwrap();
    let watching = async {
        let mut seen = Vec::new();
        while let Ok(()) = reports.changed().await {
            let report = reports.borrow_and_update().clone();
            seen.push((report.detail["circuit"].as_str().unwrap().to_owned(), report.summary));
            if seen.len() > 1 && seen.last().unwrap().0 == "closed" {
                break;
            }
        }
        seen
    };
    let (put, seen) = tokio::join!(rig.put(records(40, 40)), watching);
    Rig::all_good(put);
    let open = seen.iter().find(|(circuit, _)| circuit == "open").expect("it opened");
    assert!(open.1.contains("503"), "{seen:?}");
    // At most eight at once before it opened, then one every 20 ms.
    assert!(begin.elapsed() >= Duration::from_millis(20 * 15), "{:?}", begin.elapsed());
    assert_eq!(receiver.seen().len(), 40 + 29);
}

/// Whoever says 429 means all requests.
#[tokio::test]
async fn retry_after_holds_for_all_requests() {
    let begin = Instant::now();
    let receiver = Receiver::start(|_, number| if number == 1 { Reply::retry_after(429, "1") } else { Reply::ok() }).await;
    let mut rig = Rig::new(&receiver.url, &[("max.in.flight.requests", "2")]).await;
    Rig::all_good(rig.put(records(20, 20)).await);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(receiver.seen().len(), 21);
}

/// An hour is longer than a call may take: the task fails for now, and its successors send nothing before the time.
#[tokio::test]
async fn a_long_retry_after_outlives_the_task() {
    let receiver = Receiver::start(|_, _| Reply::retry_after(429, "3600")).await;
    let mut rig = Rig::new(&receiver.url, &[]).await;
    for _ in 0..3 {
        failed(rig.put(records(2, 2)).await, "http_sink.told_to_wait", true);
        rig = rig.reopened(0).await;
    }
    assert_eq!(receiver.seen().len(), 1, "it was left alone");
}

/// Of what a failed task had sent nothing is sent again by its successor in this process; an operator's reset sends all.
#[tokio::test]
async fn a_successor_goes_on_where_the_task_failed() {
    let receiver =
        Receiver::start(|seen, number| if seen.body == "k1:2" && number < 30 { Reply::status(500) } else { Reply::ok() }).await;
    let options = [("max.retries", "2"), ("max.in.flight.requests", "4"), ("reporter.result.topic.name", "answers")];
    let mut rig = Rig::new(&receiver.url, &options).await;
    Rig::all_good(rig.put(records(4, 2)).await);
    let receipts = rig.task.take_letters().len();
    assert_eq!(receipts, 4);
    let (mut fails, mut letters) = (0, 0);
    // Nothing of the first put was committed when the second fails.
    let mut next = records(12, 2).split_off(4);
    loop {
        match rig.put(std::mem::take(&mut next)).await {
            Ok(rejects) => {
                assert!(rejects.is_empty());
                letters += rig.task.take_letters().len();
                break;
            }
            Err(error) => {
                assert!(error.is_retriable(), "{error:?}");
                fails += 1;
            }
        }
        rig = rig.reopened(0).await;
        next = records(12, 2);
    }
    assert!(fails > 2, "{fails}");
    assert_eq!(letters, 12, "a receipt for each that is not committed");
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    receiver.bodies().into_iter().for_each(|body| *times.entry(body).or_default() += 1);
    let bad = times.remove("k1:2").unwrap();
    assert!(bad > 2 && times.len() == 11, "{times:?}");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    rig = rig.reopened(0).await;
    Rig::all_good(rig.put(records(12, 2)).await);
    assert_eq!(receiver.seen().len(), 11 + bad, "it was closed in order, and knows what was answered");
    // Into the middle of what is remembered: an operator wants these again.
    rig = rig.reopened(5).await;
    Rig::all_good(rig.put(records(12, 2).split_off(5)).await);
    assert_eq!(receiver.seen().len(), 11 + bad + 7);
    // Somewhere else, and back.
    rig = rig.reopened(20).await;
    Rig::all_good(rig.put(vec![record(20, "k0", "elsewhere")]).await);
    rig = rig.reopened(0).await;
    Rig::all_good(rig.put(records(12, 2)).await);
    assert_eq!(receiver.seen().len(), 11 + bad + 7 + 1 + 12);
}

/// The receiver has it: to leave before its answer would be to send it twice.
#[tokio::test]
async fn a_task_that_fails_waits_for_the_answers_to_what_it_has_sent() {
    let known = AtomicBool::new(false);
    let receiver = Receiver::start(move |seen, _| match seen.body.as_str() {
        "k0:1" => Reply::ok().later(Duration::from_millis(300)),
        "k1:1" if !known.swap(true, Ordering::Relaxed) => Reply::status(401),
        _ => Reply::ok(),
    })
    .await;
    let mut rig = Rig::new(&receiver.url, &[("max.in.flight.requests", "4")]).await;
    Rig::all_good(rig.put(records(2, 2)).await);
    failed(rig.put(records(6, 2).split_off(2)).await, "http.unauthorized", false);
    rig = rig.reopened(0).await;
    Rig::all_good(rig.put(records(6, 2)).await);
    let mut bodies = receiver.bodies();
    bodies.sort();
    assert_eq!(bodies, ["k0:0", "k0:1", "k0:2", "k1:0", "k1:1", "k1:1", "k1:2"]);
}

/// Without tolerance the worker fails the task at a refused record. When it goes on, only that record is sent again: someone may have mended what was wrong.
#[tokio::test]
async fn a_refused_record_alone_is_sent_again() {
    let receiver =
        Receiver::start(|seen, number| if seen.body == "k0:1" && number < 5 { Reply::status(422) } else { Reply::ok() }).await;
    let mut rig = Rig::new(&receiver.url, &[]).await;
    assert_eq!(rig.put(records(4, 1)).await.unwrap().len(), 1);
    for expected in [1, 0] {
        rig = rig.reopened(0).await;
        assert_eq!(rig.put(records(4, 1)).await.unwrap().len(), expected);
    }
    assert_eq!(receiver.bodies(), ["k0:0", "k0:1", "k0:2", "k0:3", "k0:1", "k0:1"]);
}

#[tokio::test]
async fn a_task_that_is_to_stop_does_not_sit_out_its_pauses() {
    let receiver = Receiver::start(|_, _| Reply::status(503)).await;
    let mut rig = Rig::new(
        &receiver.url,
        &[("retry.backoff.ms", "3600000"), ("retry.backoff.max.ms", "3600000"), ("retry.timeout.ms", "3600000")],
    )
    .await;
    rig.cx.interrupt.cancel();
    let begin = Instant::now();
    failed_any(rig.put(records(4, 4)).await);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

fn failed_any<T: std::fmt::Debug>(put: Result<T>) {
    assert!(put.unwrap_err().is_retriable());
}
