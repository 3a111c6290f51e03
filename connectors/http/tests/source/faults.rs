//! What goes wrong on the way: tried again where that helps, refused with what to do where not.

use crate::rig::{Source, api, options};
use http_services::{Answer, Body, Fault, Feed, Paged, bomb, compressed};
use std::time::{Duration, SystemTime};

fn cursor(url: &str, more: &[(&str, &str)]) -> Source {
    let mut pairs = vec![
        ("http.request.url", url),
        ("http.page.mode", "cursor"),
        ("http.page.next.pointer", "/cursor"),
        ("http.response.list.pointer", "/items"),
    ];
    pairs.extend(more);
    Source::new(options(&pairs))
}

#[tokio::test]
async fn what_passes_is_tried_again_and_each_record_comes_once() {
    let feed = Feed::new();
    feed.add(200);
    let api = api(feed.handler(Paged::Cursor, 10));
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1));
    let faults = [
        Fault::retry_after(429, "0"),
        Fault::retry_after(503, &date),
        Fault::status(500),
        Fault::status(502),
        Fault::status(408),
        Fault::status(425),
        Fault::Reset,
        Fault::TooShort,
        Fault::CutJson,
        Fault::Instead(Answer::json(200, "<html>down for maintenance</html>")),
        Fault::Instead(Answer::json(200, "x").header("content-encoding", "gzip")),
        Fault::Slow(Duration::from_millis(100)),
        Fault::Instead(Answer::status(200).body(Body::HeadForever)),
        Fault::Instead(Answer::status(200).body(Body::Silence)),
        Fault::Instead(Answer::status(200).body(Body::Short(b"{".to_vec(), 1 << 20))),
    ];
    let count = faults.len() as u64;
    for fault in faults {
        api.fault("/items", fault);
    }
    let mut source = cursor(
        &api.url("/items"),
        &[("max.retries", "50"), ("retry.backoff.max.ms", "50"), ("http.client.request.timeout.millis", "1500")],
    );
    source.read(200).await.unwrap();
    source.asked(&api, 2).await.unwrap();
    source.each_once(200);
    assert_eq!(api.faults_left(), 0);
    assert!(api.count() >= 20 + count);
}

#[tokio::test]
async fn a_server_is_given_the_time_that_it_asks_for() {
    let feed = Feed::new();
    feed.add(1);
    let api = api(feed.handler(Paged::Cursor, 10));
    api.fault("/items", Fault::retry_after(429, "1"));
    let mut source = cursor(&api.url("/items"), &[]);
    source.read(1).await.unwrap();
    let times: Vec<_> = api.requests().iter().map(|request| request.at).collect();
    assert!(times[1] - times[0] >= Duration::from_millis(950), "{:?}", times[1] - times[0]);
}

#[tokio::test]
async fn retries_end_and_the_error_is_one_to_retry() {
    let api = api(|_| Answer::json(500, "no"));
    let mut source = cursor(&api.url("/items"), &[("max.retries", "3")]);
    let error = source.fails().await;
    assert!(error.is_retriable(), "{error}");
    assert_eq!((error.code(), api.count()), ("http.status", 4));
}

#[tokio::test]
async fn a_server_that_is_away_comes_back() {
    let port = {
        let api = api(|_| Answer::status(500));
        api.port()
    };
    let mut source = cursor(&format!("http://localhost:{port}/items"), &[("max.retries", "2")]);
    let error = source.fails().await;
    assert!(error.is_retriable() && error.code() == "http.connect", "{error}");
}

#[tokio::test]
async fn what_does_not_pass_is_refused_with_what_to_do() {
    let many = vec![b'['; 4096];
    let cases: Vec<(Answer, &str)> = vec![
        (Answer::json(404, "{}"), "http.not_found"),
        (Answer::json(401, "{}"), "http.unauthorized"),
        (Answer::json(403, "{}"), "http.unauthorized"),
        (Answer::json(400, "{\"error\": \"no such filter\"}"), "http.status"),
        (Answer::json(200, many.clone()), "http.too_large"),
        (Answer::status(200).body(Body::Chunked(many, 100)), "http.too_large"),
        (Answer::status(200).body(Body::Endless(1 << 34)), "http.too_large"),
        (Answer::status(200).body(Body::Short(b"[".to_vec(), usize::MAX >> 1)), "http.too_large"),
        (Answer::json(200, bomb("gzip", 8 << 20)).header("content-encoding", "gzip"), "http.too_large"),
        (Answer::json(200, bomb("zstd", 8 << 20)).header("content-encoding", "zstd"), "http.too_large"),
        (Answer::json(200, "[]").header("content-encoding", "compress"), "http.encoding"),
        (Answer::json(200, "{\"data\": []}"), "http.pointer"),
        (Answer::json(200, "{\"items\": [{\"id\": 1, \"at\": \"soon\"}]}"), "http.timestamp"),
        (Answer::redirect(302, "/items"), "http.redirects"),
        (Answer::redirect(302, "http://169.254.169.254/latest/meta-data/"), "http.denied"),
        (Answer::redirect(307, "http://127.0.0.1:1/"), "http.denied"),
        (Answer::redirect(301, "http://[::ffff:10.0.0.1]/"), "http.denied"),
        (Answer::redirect(301, "http://2130706433/"), "http.denied"),
        (Answer::redirect(301, "file:///etc/passwd"), "http.denied"),
        (Answer::status(302), "http.redirects"),
    ];
    for (answer, code) in cases {
        let what = format!("{answer:?}").chars().take(200).collect::<String>();
        let api = api(move |_| answer.clone());
        let timestamp = ("http.response.record.timestamp.pointer", "/at");
        let mut source = cursor(&api.url("/items"), &[("http.response.max.bytes", "2048"), timestamp]);
        let error = source.fails().await;
        assert_eq!((error.code(), error.is_retriable()), (code, false), "{what}: {error}");
        assert!(error.hint().is_some(), "{what}: {error}");
        assert!(source.records.is_empty());
    }
}

#[tokio::test]
async fn a_bomb_is_told_by_its_ratio() {
    for coding in ["gzip", "zstd"] {
        let body = bomb(coding, 32 << 20);
        let api = api(move |_| Answer::json(200, body.clone()).header("content-encoding", coding));
        let error = cursor(&api.url("/items"), &[]).fails().await;
        assert_eq!(error.code(), "http.too_large");
        assert!(error.message().contains("100 times"), "{error}");
    }
}

#[tokio::test]
async fn every_encoding_is_understood() {
    for coding in ["gzip", "br", "zstd", "identity"] {
        let feed = Feed::new();
        feed.add(3000);
        let plain = feed.clone();
        let api = api(move |request| {
            assert_eq!(request.header("accept-encoding"), Some("gzip, br, zstd"));
            let mut answer = plain.answer(request, Paged::Cursor, 1500);
            if let (Body::Whole(bytes), true) = (&answer.body, coding != "identity") {
                answer.body = Body::Chunked(compressed(coding, bytes), 777);
            }
            answer.header("content-encoding", coding)
        });
        let mut source = cursor(&api.url("/items"), &[]);
        source.read(3000).await.unwrap();
        source.each_once(3000);
    }
}

#[tokio::test]
async fn what_is_cut_off_within_its_encoding_is_not_taken_for_all() {
    for coding in ["gzip", "br", "zstd"] {
        let whole = compressed(coding, br#"{"items": [{"id": 0}], "cursor": null}"#);
        let cut = whole[..whole.len() - 1].to_vec();
        let api = api(move |_| Answer::json(200, cut.clone()).header("content-encoding", coding));
        let mut source = cursor(&api.url("/items"), &[("max.retries", "0")]);
        let error = source.fails().await;
        assert_eq!((error.code(), error.is_retriable()), ("http.encoding", true), "{coding}");
    }
}

#[tokio::test]
async fn the_next_page_stays_on_the_host() {
    for next in ["http://127.0.0.1:1/x", "http://169.254.169.254/", "https://localhost/"] {
        let api = api(move |_| Answer::json(200, "[{\"id\": 0}]").header("link", format!("<{next}>; rel=next")));
        let mut source = Source::new(options(&[("http.request.url", api.url("/items").as_str()), ("http.page.mode", "link")]));
        let error = source.fails().await;
        assert_eq!((error.code(), error.is_retriable()), ("http.next_page", false), "{next}");
    }
}
