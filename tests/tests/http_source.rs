//! `kill -9` of the worker in the middle of pages, against an API that fails in every way it can: each item is in the log exactly once, in order.
//!
//! `KILLS=300 SEED=… cargo test --test http_source -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site, env_number, segment, wait_until};
use http_services::{Answer, Api, Fault, Feed, Paged};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const PATH: &str = "/items";

fn yaml(api: &Api, paging: &str) -> String {
    format!(
        "name: items\nconnector.class: http-source\nkafka.topic: items\nhttp.request.url: {}\nhttp.allowed.hosts: localhost\n\
         http.timer.interval.millis: 20\nhttp.response.list.pointer: /items\nhttp.response.record.offset.pointer: key=/id\n\
         http.record.value.format: json\nhttp.client.request.timeout.millis: 3000\nretry.backoff.ms: 20\nretry.backoff.max.ms: 200\n\
         aqueduct.batch.max.records: 7\n{paging}",
        api.url(PATH)
    )
}

/// The ids in the log, in its order, by a reader of its own.
fn ids(site: &Site) -> Vec<u64> {
    let streams = segment::streams(&site.data_dir(), "items").unwrap_or_default();
    streams.iter().flat_map(|stream| String::from_utf8_lossy(&stream.bytes).lines().map(id).collect::<Vec<_>>()).collect()
}

fn id(line: &str) -> u64 {
    let item: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    item["id"].as_u64().unwrap()
}

fn fault(random: &mut fastrand::Rng) -> Fault {
    match random.u8(..9) {
        0 => Fault::retry_after(429, "0"),
        1 => Fault::status(500),
        2 => Fault::status(408),
        3 => Fault::Reset,
        4 => Fault::TooShort,
        5 => Fault::CutJson,
        6 => Fault::Slow(Duration::from_millis(1)),
        7 => Fault::Instead(Answer::json(200, "<html>busy</html>")),
        _ => Fault::status(503),
    }
}

/// How many of the kills hit it before it had read everything.
fn crash(paged: Paged, paging: &str, kills: u64, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let feed = Feed::new();
    let api = Api::start(feed.handler(paged, 20));
    let mut site = Site::new();
    site.connector("items", &yaml(&api, paging));
    let mut in_the_middle = 0;
    for kill in 0..kills {
        // Up to a hundred pages: a worker that starts has not read them when it is killed again.
        feed.add(random.u64(1..2_000));
        for _ in 0..random.usize(..3) {
            api.fault(PATH, fault(&mut random));
        }
        site.spawn(&Run::default());
        // One in four dies while it starts.
        if random.u8(..4) > 0 {
            site.wait_healthy(aqueduct_tests::site::START_DEADLINE)
                .unwrap_or_else(|error| panic!("{error:#}\n{}", site.log_tail(40)));
            pause(Duration::from_millis(random.u64(..150)));
        } else {
            pause(Duration::from_millis(random.u64(..400)));
        }
        // While pages are under way.
        if kill % 3 == 2 {
            let before = api.count();
            feed.add(100);
            wait_until(SOON, "the API is asked", || (site.pid().is_none() || api.count() > before).then_some(()));
        }
        site.kill();
        in_the_middle += u64::from((ids(&site).len() as u64) < feed.len());
    }
    let total = feed.len();
    site.start();
    let all = || ids(&site).len() as u64 >= total;
    if aqueduct_tests::poll_for(SOON, || all().then_some(())).is_none() {
        panic!("{} of {total} items after {kills} kills, SEED={seed}\n{}", ids(&site).len(), site.log_tail(40));
    }
    // What would come twice comes now.
    let before = api.count();
    wait_until(SOON, "the API is asked again", || (api.count() > before + 5).then_some(()));
    let found = ids(&site);
    let wrong = found.iter().zip(0..).find(|(found, expected)| **found != *expected);
    assert!(wrong.is_none() && found.len() as u64 == total, "SEED={seed}: {wrong:?}, {} of {total}", found.len());
    println!(
        "{paged:?}: {kills} kills, {in_the_middle} in the middle, {total} items, {} requests: each once, in order",
        api.count()
    );
    in_the_middle
}

#[test]
fn killed_in_the_middle_of_pages_each_item_is_there_once() {
    let (kills, seed) = (env_number("KILLS", 15).div_ceil(3), env_number("SEED", fastrand::u64(..1 << 40)));
    println!("KILLS={} SEED={seed}", kills * 3);
    let hits = crash(Paged::Cursor, "http.page.mode: cursor\nhttp.page.next.pointer: /cursor\n", kills, seed)
        + crash(Paged::Next, "http.page.mode: next\nhttp.page.next.pointer: /next\n", kills, seed + 1)
        + crash(
            Paged::After,
            "http.request.params: after=${offset.key!}\nhttp.timer.catchup.interval.millis: 0\n",
            kills,
            seed + 2,
        );
    assert!(hits > 0, "no kill hit it at work");
}

/// An operator sees where it is and sets it back (invariant 4).
#[test]
fn offsets_are_shown_and_set_back() {
    let feed = Feed::new();
    feed.add(50);
    let api = Api::start(feed.handler(Paged::Cursor, 20));
    let mut site = Site::new();
    site.connector("items", &yaml(&api, "http.page.mode: cursor\nhttp.page.next.pointer: /cursor\n"));
    site.start();
    wait_until(SOON, "all items", || (ids(&site).len() == 50).then_some(()));
    let client = site.client();
    let offset = || client.get("/connectors/items/offsets").expect(200).json()["offsets"][0].clone();
    let shown =
        wait_until(SOON, "the last page is stored", || Some(offset()).filter(|offset| offset["offset"]["page.index"] == 10));
    assert_eq!((&shown["offset"]["key"], &shown["offset"]["page.cursor"]), (&49.into(), &"c40".into()));
    assert_eq!(shown["partition"]["endpoint"], api.url(PATH));
    client.put("/connectors/items/stop", None).expect(204);
    wait_until(SOON, "stopped", || (client.state("items") == "STOPPED").then_some(()));
    let back = serde_json::json!({"offsets": [{"partition": shown["partition"], "offset": {"page.cursor": "c20"}}]});
    client.patch("/connectors/items/offsets", &back).expect(200);
    client.put("/connectors/items/resume", None).expect(202);
    wait_until(SOON, "the items behind the cursor once more", || (ids(&site).len() == 80).then_some(()));
    assert_eq!(ids(&site)[50..], (20..50).collect::<Vec<_>>());
}
