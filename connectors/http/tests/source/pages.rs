//! Pages, places in them, and what becomes of a place when its page changes.

use crate::rig::{Source, api, options};
use http_services::{Feed, Paged};

/// The options of each way to page over a feed of pages of `size`.
pub fn modes(size: &str) -> Vec<(Paged, Vec<(&'static str, String)>)> {
    let list = ("http.response.list.pointer", "/items".to_owned());
    let mode = |mode: &str| ("http.page.mode", mode.to_owned());
    vec![
        (Paged::Link, vec![mode("link")]),
        (Paged::Next, vec![mode("next"), list.clone(), ("http.page.next.pointer", "/next".into())]),
        (
            Paged::Page,
            vec![mode("page"), list.clone(), ("http.page.size", size.to_owned()), ("http.page.size.param", "limit".into())],
        ),
        (Paged::Offset, vec![mode("offset"), list.clone()]),
        (Paged::Cursor, vec![mode("cursor"), list.clone(), ("http.page.next.pointer", "/cursor".into())]),
        (Paged::After, vec![list, ("http.request.params", "after=${offset.key!} & limit=10".into())]),
    ]
}

fn source(url: &str, more: &[(&str, String)]) -> Source {
    let mut pairs = vec![("http.request.url", url)];
    pairs.extend(more.iter().map(|(key, value)| (*key, value.as_str())));
    Source::new(options(&pairs))
}

#[tokio::test]
async fn every_way_to_page_gives_each_record_once_and_goes_on_with_new_ones() {
    for (paged, more) in modes("10") {
        let feed = Feed::new();
        feed.add(47);
        let api = api(feed.handler(paged, 10));
        let mut source = source(&api.url("/items"), &more);
        source.read(47).await.unwrap();
        // The last page grows, and fills up exactly; then there is another.
        for added in [1, 2, 20] {
            feed.add(added);
            source.read(feed.len() as usize).await.unwrap();
        }
        source.asked(&api, 5).await.unwrap();
        source.each_once(70);
        if paged == Paged::Page {
            assert!(api.requests().iter().all(|request| request.param("limit") == Some("10")));
        }
    }
}

#[tokio::test]
async fn a_crash_after_each_batch_loses_and_repeats_nothing() {
    for (paged, more) in modes("10") {
        let feed = Feed::new();
        feed.add(33);
        let api = api(feed.handler(paged, 10));
        let mut source = source(&api.url("/items"), &more).batches_of(3);
        let mut crashes = 0;
        while source.records.len() < 40 {
            if source.poll().await.unwrap() > 0 {
                source.crash().await;
                crashes += 1;
            }
            if source.records.len() == 33 && feed.len() == 33 {
                feed.add(7);
            }
        }
        source.asked(&api, 3).await.unwrap();
        source.each_once(40);
        assert!(crashes > 10, "{crashes}");
    }
}

#[tokio::test]
async fn a_page_that_changed_is_gone_on_with_behind_the_last_record() {
    let feed = Feed::new();
    feed.add(10);
    let api = api(feed.handler(Paged::Link, 100));
    let mut source = source(&api.url("/items"), &[("http.page.mode", "link".into())]).batches_of(4);
    source.read(4).await.unwrap();
    // Two of those that were handed over are gone, another came in front.
    feed.change(|items| {
        items.drain(..2);
        items.insert(0, serde_json::json!({"id": 100}));
    });
    source.crash().await;
    source.read(10).await.unwrap();
    source.asked(&api, 3).await.unwrap();
    source.each_once(10);
    // The last record itself is gone: the page counts as new, as the README says.
    source.crash().await;
    feed.change(|items| drop(items.pop()));
    source.read(18).await.unwrap();
    source.asked(&api, 3).await.unwrap();
    assert_eq!(source.keys()[10..], ["100", "2", "3", "4", "5", "6", "7", "8"]);
}

#[tokio::test]
async fn records_of_a_snapshot_that_were_seen_are_passed_over() {
    let feed = Feed::new();
    feed.add(5);
    // Newest first, all of it each time: castorm's way.
    let newest_first = feed.clone();
    let api = api(move |_| {
        let mut items = Vec::new();
        newest_first.change(|all| items = all.iter().rev().cloned().collect());
        http_services::Answer::json(200, serde_json::Value::from(items).to_string())
    });
    let pointer = ("http.response.record.offset.pointer", "key=/id, timestamp=/at".to_owned());
    let mut source = source(&api.url("/latest"), &[pointer]).batches_of(2);
    source.read(5).await.unwrap();
    feed.add(3);
    source.read(8).await.unwrap();
    source.crash().await;
    feed.add(1);
    source.read(9).await.unwrap();
    source.asked(&api, 3).await.unwrap();
    source.each_once(9);
    assert_eq!(source.records[8].timestamp, Some(1_700_000_000_008));
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let feed = Feed::new();
    feed.add(3);
    let state = feed.clone();
    let api = api(move |request| {
        let tag = format!("\"{}\"", state.len());
        if request.header("if-none-match") == Some(&tag) {
            return http_services::Answer::status(304);
        }
        state.answer(request, Paged::Link, 100).header("etag", tag)
    });
    let mut source = source(&api.url("/items"), &[("http.page.mode", "link".into())]).batches_of(2);
    source.read(3).await.unwrap();
    source.asked(&api, 2).await.unwrap();
    let requests = api.requests();
    assert_eq!(requests[0].header("if-none-match"), None);
    assert_eq!(requests.last().unwrap().header("if-none-match"), Some("\"3\""));
    source.crash().await;
    feed.add(2);
    source.read(5).await.unwrap();
    source.asked(&api, 2).await.unwrap();
    source.each_once(5);
    assert_eq!(api.requests().last().unwrap().header("if-none-match"), Some("\"5\""));
}

#[tokio::test]
async fn bodies_and_headers_hold_the_offset_too() {
    let feed = Feed::new();
    feed.add(5);
    let asked = feed.clone();
    let api = api(move |request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let after: u64 = body["after"].as_str().unwrap().parse().unwrap();
        assert_eq!(request.header("x-after"), Some(after.to_string().as_str()));
        assert_eq!((request.method.as_str(), request.header("content-type")), ("POST", Some("application/json")));
        let mut request = request.clone();
        request.query = if after == 99 { Vec::new() } else { vec![("after".into(), after.to_string())] };
        asked.answer(&request, Paged::After, 2)
    });
    let more = [
        ("http.request.method", "post".to_owned()),
        ("http.request.body", r#"{"after": "${offset.key}"}"#.to_owned()),
        ("http.request.headers", "X-After: ${offset.key}".to_owned()),
        ("http.offset.initial", "key=99".to_owned()),
        ("http.response.list.pointer", "/items".to_owned()),
    ];
    let mut source = source(&api.url("/search"), &more);
    source.read(5).await.unwrap();
    source.asked(&api, 2).await.unwrap();
    source.each_once(5);
}

#[tokio::test]
async fn the_rate_is_kept_to() {
    let feed = Feed::new();
    feed.add(60);
    let api = api(feed.handler(Paged::Offset, 10));
    let more = [
        ("http.page.mode", "offset".to_owned()),
        ("http.response.list.pointer", "/items".to_owned()),
        ("http.rate.limit.per.second", "25".to_owned()),
    ];
    let mut source = source(&api.url("/items"), &more);
    source.read(60).await.unwrap();
    let times: Vec<_> = api.requests().iter().map(|request| request.at).collect();
    // Six requests are five gaps of 40 ms, less what the first one's way took longer than the last one's.
    assert!(times[5] - times[0] >= std::time::Duration::from_millis(150), "{:?}", times[5] - times[0]);
}

#[tokio::test]
async fn empty_pages_are_passed_and_a_feed_without_an_end_is_waited_at() {
    for resume in ["start", "last"] {
        let feed = Feed::new();
        feed.add(6);
        let items = feed.clone();
        // Items stand at even places; each page names another, also behind the end.
        let api = api(move |request| {
            let at: u64 = request.param("cursor").map_or(0, |cursor| cursor.parse().unwrap());
            let item = (at.is_multiple_of(2) && at / 2 < items.len()).then(|| serde_json::json!({"id": at / 2}));
            let next = if item.is_some() || at / 2 < items.len() { at + 1 } else { at };
            let page: Vec<_> = item.into_iter().collect();
            http_services::Answer::json(200, serde_json::json!({"items": page, "cursor": next.to_string()}).to_string())
        });
        let more = [
            ("http.page.mode", "cursor".to_owned()),
            ("http.page.next.pointer", "/cursor".to_owned()),
            ("http.response.list.pointer", "/items".to_owned()),
            ("http.page.resume", resume.to_owned()),
        ];
        let mut source = source(&api.url("/items"), &more);
        source.read(6).await.unwrap();
        // From the start all of them come again, since no timestamp says that they were seen.
        if resume == "last" {
            source.asked(&api, 3).await.unwrap();
            feed.add(2);
            source.read(8).await.unwrap();
            source.asked(&api, 3).await.unwrap();
        }
        source.each_once(feed.len() as usize);
    }
}

#[tokio::test]
async fn the_place_of_a_page_may_stand_in_the_body_and_an_api_may_say_whether_there_is_more() {
    let feed = Feed::new();
    feed.add(25);
    let items = feed.clone();
    let api = api(move |request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let mut asked = request.clone();
        asked.query = vec![("page".into(), body["page"].as_u64().unwrap().to_string())];
        assert!(request.query.is_empty(), "{:?}", request.query);
        let mut answer = items.answer(&asked, Paged::Page, 10);
        if let http_services::Body::Whole(bytes) = &mut answer.body {
            let mut page: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            page["more"] = (page["items"][9]["id"].as_u64().is_some_and(|last| last + 1 < items.len())).into();
            *bytes = page.to_string().into_bytes();
        }
        answer
    });
    let more = [
        ("http.request.method", "POST".to_owned()),
        ("http.request.body", r#"{"page": ${page.token}}"#.to_owned()),
        ("http.page.mode", "page".to_owned()),
        ("http.page.size", "10".to_owned()),
        ("http.page.more.pointer", "/more".to_owned()),
        ("http.response.list.pointer", "/items".to_owned()),
    ];
    let mut source = source(&api.url("/search"), &more);
    source.read(25).await.unwrap();
    feed.add(10);
    source.read(35).await.unwrap();
    source.asked(&api, 3).await.unwrap();
    source.each_once(35);
}
