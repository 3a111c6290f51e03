//! `http-source` passes the conformance kit: each way to page, over a feed of three and a half pages.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SourceCase};
use http_services::{Api, Feed, Paged};

#[tokio::test]
async fn the_source_resumes_exactly() {
    for (paged, more) in [
        (Paged::Link, &[("http.page.mode", "link")][..]),
        (
            Paged::Next,
            &[("http.page.mode", "next"), ("http.page.next.pointer", "/next"), ("http.response.list.pointer", "/items")],
        ),
        (Paged::Page, &[("http.page.mode", "page"), ("http.page.size", "20"), ("http.response.list.pointer", "/items")]),
        (Paged::Offset, &[("http.page.mode", "offset"), ("http.response.list.pointer", "/items")]),
        (
            Paged::Cursor,
            &[("http.page.mode", "cursor"), ("http.page.next.pointer", "/cursor"), ("http.response.list.pointer", "/items")],
        ),
        (Paged::After, &[("http.request.params", "after=${offset.key!}"), ("http.response.list.pointer", "/items")]),
    ] {
        let feed = Feed::new();
        feed.add(70);
        let api = Api::start(feed.handler(paged, 20));
        let url = api.url("/items");
        let fixed = [
            ("http.request.url", url.as_str()),
            ("kafka.topic", "t"),
            ("http.allowed.hosts", "localhost"),
            ("http.timer.interval.millis", "1"),
            ("http.response.record.offset.pointer", "key=/id, timestamp=/at"),
        ];
        conformance::source(&SourceCase {
            plugin: builtins().into_iter().find(|plugin| plugin.descriptor().name == "http-source").unwrap(),
            options: fixed.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            records: 70,
            stream: |record| record.topic.to_string(),
            strip: conformance::all_of_it,
        })
        .await;
    }
}
