//! `kafka-source` and `kafka-sink`: another cluster into the log, and the log to a third one, through kills of the worker.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::wait::pause;
use aqueduct_tests::{Run, Site, poll_for, wait_until};
use kafka_services::{Broker, Options};
use std::time::{Duration, Instant};

const PARTITIONS: usize = 3;
const ROUNDS: usize = 20;
/// Of a partition in a round; 100,020 in all.
const STEP: usize = 1_667;
const DRAIN: Duration = Duration::from_secs(240);

fn line(partition: usize, n: usize) -> String {
    format!("{partition}-{n:06}")
}

fn produce(broker: &Broker, round: usize) {
    for partition in 0..PARTITIONS {
        let lines: Vec<String> = (round * STEP..(round + 1) * STEP).map(|n| line(partition, n)).collect();
        broker.produce("orders", &lines, &["-p", &partition.to_string()]);
    }
}

fn mirror(site: &Site, from: &Broker, to: &Broker) {
    // Small batches, so that a kill finds many places.
    site.connector(
        "in",
        &format!(
            "name: in\nconnector.class: kafka-source\nbootstrap.servers: {}\ntopics: orders\ntopic.format: in.${{topic}}\ntasks.max: 2\n\
             topic.creation.default.partitions: {PARTITIONS}\naqueduct.batch.max.records: 100\n",
            from.bootstrap()
        ),
    );
    site.connector(
        "out",
        &format!(
            "name: out\nconnector.class: kafka-sink\nbootstrap.servers: {}\ntopics: in.orders\ntopic.format: out.${{topic}}\ntasks.max: 2\n\
             aqueduct.batch.max.records: 100\n",
            to.bootstrap()
        ),
    );
}

/// The next place where the worker dies: mostly at a moment, every fourth time where the one side has committed and the other has not.
fn plan(round: usize) -> Run {
    match round % 4 {
        1 => Run::failpoints("sink.flushed=abort@2"),
        3 => Run::failpoints("source.appended=abort@9"),
        _ => Run::default(),
    }
}

/// 100,020 records of three partitions through 20 kills: a `read_committed` reader of the last cluster sees each once, in order, in its partition.
#[test]
fn each_record_crosses_two_clusters_once_and_in_order_whatever_is_killed() {
    let (from, to) = (Broker::start(Options::default()), Broker::start(Options::default()));
    from.admin().create_topic("orders", PARTITIONS as i32, &[]);
    to.admin().create_topic("out.in.orders", PARTITIONS as i32, &[]);
    let mut site = Site::new();
    mirror(&site, &from, &to);
    let (mut at_points, mut before_the_end) = (0, 0);
    for round in 0..ROUNDS {
        produce(&from, round);
        let run = plan(round);
        site.spawn(&run);
        if run.failpoints.is_empty() {
            pause(Duration::from_millis(fastrand::u64(100..600)));
        } else if poll_for(Duration::from_secs(20), || site.exited()).is_some() {
            at_points += 1;
        }
        site.kill();
        // Records, since offsets count the markers of transactions too.
        before_the_end += usize::from(to.consume("out.in.orders").len() < (round + 1) * STEP * PARTITIONS);
    }
    println!("{ROUNDS} kills: {at_points} at named points, {before_the_end} before all of the round had arrived");
    assert!(at_points >= ROUNDS / 4 && before_the_end >= ROUNDS / 4, "too few kills in the midst");
    let drain = Instant::now();
    site.start();
    let total = ROUNDS * STEP * PARTITIONS;
    wait_until(DRAIN, "all arrive", || {
        let ends: i64 = (0..PARTITIONS as i32).map(|partition| to.admin().end_offset("out.in.orders", partition, true)).sum();
        // Offsets count the markers of transactions too.
        (ends >= total as i64 && to.consume("out.in.orders").len() >= total).then_some(())
    });
    println!("drained in {:?}", drain.elapsed());
    // A second of quiet: what would come twice comes now.
    pause(Duration::from_secs(2));
    let found = to.consume("out.in.orders");
    for partition in 0..PARTITIONS {
        let texts: Vec<String> = found.iter().filter(|r| r.partition == partition as i32).map(|r| r.text()).collect();
        let expected: Vec<String> = (0..ROUNDS * STEP).map(|n| line(partition, n)).collect();
        let differs = texts.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            texts.len() == expected.len() && differs.is_none(),
            "partition {partition}: {} of {} records, the first that differs: {differs:?}",
            texts.len(),
            expected.len()
        );
    }
    let last = found.last().unwrap();
    let header = |name: &str| last.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    assert_eq!(header("__source.topic").as_deref(), Some("orders"));
    assert_eq!(header("__source.offset"), Some((ROUNDS * STEP - 1).to_string()));
    let client = site.client();
    for connector in ["in", "out"] {
        let status = client.get(&format!("/connectors/{connector}/status")).expect(200).json();
        assert_eq!(status["tasks"][0]["aqueduct"]["exactly_once"], "promised", "{status}");
    }
    // Set back by an operator, the sink writes again.
    client.put("/connectors/out/stop", None);
    wait_until(DRAIN, "it is stopped", || (client.state("out") == "STOPPED").then_some(()));
    client.delete("/connectors/out/offsets").expect(200);
    client.put("/connectors/out/resume", None);
    to.wait_records("out.in.orders", 2 * total, DRAIN);
}
