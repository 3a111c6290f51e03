//! `kill -9` under a flood of MQTT messages, of the worker and of mosquitto: everything that was published is stored, with QoS 2 once; and the other way round, everything
//! on the log is published.
//!
//! `KILLS=300 BROKER_KILLS=50 SEED=… cargo test --test mqtt_crash -- --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::site::START_DEADLINE;
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site, env_number, wait_until};
use mqtt_services::{Broker, Options};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn seed() -> u64 {
    env_number("SEED", fastrand::u64(..1 << 40))
}

/// MQTT → log → file.
fn site(broker: &Broker, qos: u8) -> Site {
    let site = Site::new();
    let uri = broker.uri();
    site.connector(
        "in",
        &format!("name: in\nconnector.class: mqtt-source\nmqtt.server.uri: {uri}\nmqtt.topics: flood/+\nmqtt.qos: {qos}\nkafka.topic: flood\n"),
    );
    let root = site.root.display();
    site.connector("out", &format!("name: out\nconnector.class: file-sink\nfile: {root}/out.txt\ntopics: flood\n"));
    site
}

/// The broker keeps what is published from here on.
fn subscribed(site: &Site) {
    let stored = || site.client().get("/connectors/in/offsets").text.contains("flood/+").then_some(());
    wait_until(SOON, "the subscription is there", stored);
}

fn lines(site: &Site) -> Vec<u64> {
    let text = fs::read_to_string(site.path("out.txt")).unwrap_or_default();
    // The last line may be half there.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

/// All numbers below this came: and in the order of their first coming, which is the order of their publishing.
fn complete(site: &Site, count: u64) -> Vec<u64> {
    let mut seen = 0;
    wait_until(SOON, "everything that was published is stored", || {
        // The file is read as a whole only when it may be complete.
        let length = fs::metadata(site.path("out.txt")).map_or(0, |meta| meta.len());
        if length == seen {
            return None;
        }
        seen = length;
        let distinct: BTreeSet<u64> = lines(site).into_iter().collect();
        (distinct.len() as u64 == count).then_some(())
    });
    let found = lines(site);
    let mut first = BTreeSet::new();
    let mut highest = None;
    for number in found.iter().copied().filter(|number| first.insert(*number)) {
        assert!(highest.is_none_or(|highest| number > highest), "{number} came first after {highest:?}");
        highest = Some(number);
    }
    found
}

/// mosquitto 2.0 gives a message its packet id when it is queued, so that with more than 65,535 of them two have the same one: with QoS 2 it then loses
/// messages and sends others twice (seen at 300 kills on a loaded machine, where the queue had 122,000). That is the broker's.
const QUEUED_MAX: u64 = 30_000;

/// Publishes numbers until it is stopped, and waits while too many are queued.
struct Flood {
    stop: Arc<AtomicBool>,
    running: JoinHandle<u64>,
}

impl Flood {
    fn start(broker: &Broker, qos: u8, stored: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut publisher) = (Arc::clone(&stop), broker.publisher("flood/a", qos, &[]));
        let running = std::thread::spawn(move || {
            let mut next = 0;
            while !stopped.load(Ordering::Acquire) {
                for _ in 0..20 {
                    publisher.line(&next.to_string());
                    next += 1;
                }
                pause(Duration::from_millis(10));
                if next % 1_000 == 0 && next > last(&stored) + QUEUED_MAX {
                    wait_until(SOON, "the queue is shorter", || {
                        let few = next <= last(&stored) + QUEUED_MAX / 2;
                        (few || stopped.load(Ordering::Acquire)).then_some(())
                    });
                }
            }
            publisher.finish();
            next
        });
        Self { stop, running }
    }

    /// How many were published, and acknowledged by the broker.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.running.join().unwrap()
    }
}

/// The last number of a file; 0 while there is none.
fn last(path: &Path) -> u64 {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(64)))?;
        let mut tail = String::new();
        file.read_to_string(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    // The last line may be half there, and so may the first.
    tail.split_inclusive('\n').skip(1).filter_map(|line| line.strip_suffix('\n')?.parse().ok()).last().unwrap_or(0)
}

fn the_worker_is_killed(qos: u8) {
    let (kills, seed) = (env_number("KILLS", 8), seed());
    println!("KILLS={kills} SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Broker::start(Options::in_memory().with("max_inflight_messages 200"));
    let mut site = site(&broker, qos);
    site.start();
    subscribed(&site);
    let flood = Flood::start(&broker, qos, site.path("out.txt"));
    for _ in 0..kills {
        pause(Duration::from_millis(random.u64(5..=700)));
        site.kill();
        site.spawn(&Run::default());
        // One in four dies while it starts.
        if random.u8(..4) > 0 {
            site.wait_healthy(START_DEADLINE).unwrap_or_else(|error| panic!("{error:#}\n{}", site.log_tail(30)));
        }
    }
    let published = flood.finish();
    let stored = complete(&site, published);
    println!("QoS {qos}: {kills} kills, {published} published, {} stored", stored.len());
    assert!(qos == 1 || stored.len() as u64 == published, "QoS 2: {} records of {published} messages", stored.len());
    site.stop();
}

#[test]
fn the_worker_is_killed_and_nothing_is_lost() {
    the_worker_is_killed(1);
}

#[test]
fn the_worker_is_killed_and_nothing_of_qos_2_is_lost_or_there_twice() {
    the_worker_is_killed(2);
}

#[test]
fn mosquitto_is_killed_and_nothing_is_lost() {
    let (kills, seed) = (env_number("BROKER_KILLS", 3), seed());
    println!("BROKER_KILLS={kills} SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broker = Broker::start(Options::default());
    let mut site = site(&broker, 1);
    site.start();
    subscribed(&site);
    let mut next = 0;
    for _ in 0..kills {
        let burst: Vec<String> = (0..random.u64(50..300)).map(|_| (next, next += 1).0.to_string()).collect();
        broker.publish("flood/a", 1, &burst, &[]);
        // What was acknowledged is on its disk a turn of its loop later.
        broker.publish("elsewhere", 1, &["x"], &[]);
        pause(Duration::from_millis(random.u64(..100)));
        broker.kill9();
        pause(Duration::from_millis(random.u64(..500)));
        broker.restart();
    }
    let stored = complete(&site, next);
    println!("{kills} kills of mosquitto, {next} published, {} stored", stored.len());
    site.stop();
}

#[test]
fn the_worker_is_killed_and_all_of_the_log_is_published() {
    let (kills, seed) = (env_number("KILLS", 8) / 2, seed());
    println!("KILLS={} SEED={seed}", kills * 2);
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Broker::start(Options::in_memory());
    let subscriber = broker.subscribe("out", 1, &[]);
    let mut site = Site::new();
    let count = 30_000;
    fs::write(site.path("in.txt"), (0..count).map(|number| format!("{number}\n")).collect::<String>()).unwrap();
    let (root, uri) = (site.root.display(), broker.uri());
    site.connector("in", &format!("name: in\nconnector.class: file-source\nfile: {root}/in.txt\ntopic: numbers\n"));
    site.connector(
        "out",
        &format!("name: out\nconnector.class: mqtt-sink\ntopics: numbers\nmqtt.server.uri: {uri}\nmqtt.topic: out\n"),
    );
    for _ in 0..kills {
        site.spawn(&Run::default());
        site.wait_healthy(START_DEADLINE).unwrap_or_else(|error| panic!("{error:#}\n{}", site.log_tail(30)));
        pause(Duration::from_millis(random.u64(5..=600)));
        site.kill();
    }
    site.start();
    let numbers = || -> Vec<u64> { subscriber.lines().iter().map(|line| line.parse().unwrap()).collect() };
    wait_until(SOON, "all of the log is published", || {
        (subscriber.lines().len() >= count && numbers().iter().collect::<BTreeSet<_>>().len() == count).then_some(())
    });
    let mut first = BTreeSet::new();
    let order: Vec<u64> = numbers().into_iter().filter(|number| first.insert(*number)).collect();
    assert!(order.is_sorted(), "a record was published before an earlier one");
    println!("{kills} kills, {count} records, {} messages", numbers().len());
    site.stop();
}
