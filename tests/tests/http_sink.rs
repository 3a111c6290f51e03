//! `kill -9` of the worker while `http-sink` calls a receiver that fails now and then: each record arrives, those of a key in their order, and each repeat
//! by the key that it had before. And what a receiver that is down looks like from outside.
//!
//! `KILLS=300 SEED=… cargo test --test http_sink -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Site, env_number, wait_until};
use http_services::{Answer, Api, Request};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const KEYS: u64 = 17;
/// Records that the receiver does not have yet, at most: so that what 300 kills leave behind arrives soon after the last.
const BEHIND_MAX: usize = 5_000;

/// Accepted calls: the idempotency key and the body.
type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// A file for each key, which is its path (`record.key: file`): lines `k3 17`.
struct Input {
    files: Vec<File>,
    written: u64,
}

impl Input {
    fn new(site: &Site) -> Self {
        fs::create_dir_all(site.path("in")).unwrap();
        let open = |k| OpenOptions::new().create(true).append(true).open(site.path(&format!("in/k{k}.log"))).unwrap();
        Self { files: (0..KEYS).map(open).collect(), written: 0 }
    }

    fn write(&mut self, count: u64) {
        for n in self.written..self.written + count {
            self.files[(n % KEYS) as usize].write_all(format!("k{} {}\n", n % KEYS, n / KEYS).as_bytes()).unwrap();
        }
        self.written += count;
    }
}

fn connectors(site: &Site, url: &str, more: &str) {
    let root = site.root.display();
    site.connector(
        "source",
        &format!("name: source\nconnector.class: file-source\nfile: {root}/in/*.log\ntopic: rides\nrecord.key: file\n"),
    );
    site.connector(
        "sink",
        &format!(
            "name: sink\nconnector.class: http-sink\ntopics: rides\nhttp.url: {url}\nhttp.allowed.hosts: localhost\n\
             http.headers.content.type: text/plain\nbatch.separator: \"\\n\"\nmax.in.flight.requests: 8\n\
             offset.flush.interval.ms: 30\nretry.backoff.ms: 5\ncircuit.breaker.open.ms: 20\n{more}"
        ),
    );
}

/// By kills and by faults of the receiver.
fn survive(more: &str, batches: bool) {
    let (kills, seed) = (env_number("KILLS", 6), env_number("SEED", fastrand::u64(..1 << 40)));
    println!("KILLS={kills} SEED={seed}");
    let (calls, dice) = (Calls::default(), Mutex::new(fastrand::Rng::with_seed(seed)));
    let there = Arc::new(Mutex::new(HashSet::new()));
    let (accepted, arrived) = (calls.clone(), there.clone());
    let api = Api::start(move |request: &Request| {
        let (fate, wait) = {
            let mut dice = dice.lock().unwrap();
            (dice.u32(..100), dice.u64(..4))
        };
        pause(Duration::from_millis(wait));
        if fate < 3 {
            return Answer::status(503);
        }
        let key = request.header("idempotency-key").unwrap().to_owned();
        arrived.lock().unwrap().extend(request.text().lines().map(str::to_owned));
        accepted.lock().unwrap().push((key, request.text()));
        let mut answer = Answer::status(200);
        // It took it, and nobody hears of it.
        answer.reset = fate < 6;
        answer
    });
    let mut site = Site::new();
    let mut input = Input::new(&site);
    connectors(&site, &api.url("/rides"), more);
    let mut random = fastrand::Rng::with_seed(seed ^ 1);
    for _ in 0..kills {
        site.start();
        let until = calls.lock().unwrap().len() + random.usize(20..200);
        wait_until(SOON, "calls are made", || {
            if input.written as usize - there.lock().unwrap().len() < BEHIND_MAX {
                input.write(random.u64(1..40));
            }
            (calls.lock().unwrap().len() >= until).then_some(())
        });
        site.kill();
    }
    site.start();
    let records = |calls: &[(String, String)]| -> BTreeMap<String, usize> {
        let mut records = BTreeMap::new();
        calls.iter().flat_map(|(_, body)| body.lines()).for_each(|line| *records.entry(line.to_owned()).or_default() += 1);
        records
    };
    let arrived = wait_until(SOON, "all arrive", || {
        let found = records(&calls.lock().unwrap());
        (found.len() as u64 == input.written).then_some(found)
    });
    site.stop();
    let calls = calls.lock().unwrap();
    let repeats: usize = arrived.values().map(|times| times - 1).sum();
    println!("{} records, {} calls, {repeats} repeats", input.written, calls.len());
    in_order(&calls);
    if batches { batch_keys(&calls) } else { keys(&calls) }
}

/// The first occurrences of each key's records come in their order.
fn in_order(calls: &[(String, String)]) {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for line in calls.iter().flat_map(|(_, body)| body.lines()) {
        let (k, n) = line.split_once(' ').unwrap();
        let (expected, n) = (next.entry(k).or_default(), n.parse::<u64>().unwrap());
        assert!(n <= *expected, "{line} came before {expected} of {k}");
        *expected = (*expected).max(n + 1);
    }
}

/// One key for each record, for ever.
fn keys(calls: &[(String, String)]) {
    let (mut by_body, mut by_key) = (BTreeMap::new(), BTreeMap::new());
    for (key, body) in calls {
        assert_eq!(by_body.entry(body).or_insert(key), &key, "{body} has two keys");
        assert_eq!(by_key.entry(key).or_insert(body), &body, "{key} stands for two records");
    }
}

/// A batch may be cut otherwise after a crash; but a key never stands for two of them.
fn batch_keys(calls: &[(String, String)]) {
    let mut by_key = BTreeMap::new();
    for (key, body) in calls {
        assert_eq!(by_key.entry(key).or_insert(body), &body, "{key} stands for two batches");
    }
}

#[test]
fn a_record_arrives_in_order_by_the_same_key() {
    survive("", false);
}

#[test]
fn batches_arrive_in_order_by_keys_of_their_own() {
    survive("batch.max.size: 25\n", true);
}

/// The status says that the circuit is open, and why; when the receiver is back, everything arrives.
#[test]
fn a_receiver_that_is_down_shows_in_the_status() {
    let (up, calls) = (Arc::new(AtomicBool::new(false)), Calls::default());
    let (is_up, accepted) = (up.clone(), calls.clone());
    let api = Api::start(move |request: &Request| {
        if !is_up.load(Ordering::SeqCst) {
            return Answer::json(503, "being repaired");
        }
        accepted.lock().unwrap().push((String::new(), request.text()));
        Answer::status(200)
    });
    let mut site = Site::new();
    let mut input = Input::new(&site);
    connectors(&site, &api.url("/rides"), "circuit.breaker.failures: 2\nmax.retries: 1000000\nerrors.retry.timeout: -1\n");
    input.write(100);
    site.start();
    let client = site.client();
    wait_until(SOON, "the status tells of it", || {
        let text = client.call(reqwest::Method::GET, "/aqueduct/v1/summary", None).ok()?.text;
        (text.contains("circuit open") && text.contains("being repaired")).then_some(())
    });
    assert_eq!(client.state("sink"), "RUNNING");
    up.store(true, Ordering::SeqCst);
    wait_until(SOON, "all arrive", || (calls.lock().unwrap().len() >= 100).then_some(()));
    site.stop();
    in_order(&calls.lock().unwrap());
}
