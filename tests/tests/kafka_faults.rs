//! Brokers that die, freeze and move, late requests, deleted topics, limits and rights that change under a worker: every line exactly once, REST
//! answers, and the worker recovers by itself.
//!
//! Short by default; `BROKER_KILLS=20 FREEZE=30 cargo test --test kafka_faults` is the full count.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::kafka_site::{self, FlowPlan};
use aqueduct_tests::wait::pause;
use aqueduct_tests::{Kind, RestWatch, Run, Site, check, env_number, outputs, wait_until};
use kafka_services::wire::{END_TXN, OFFSET_COMMIT, Operation, PRODUCE, Resource};
use kafka_services::{Action, Broker, Cluster, Options, Side, abort_hanging, free_port};
use reqwest::Method;
use rustix::process::Signal;
use std::collections::HashSet;
use std::time::{Duration, Instant};

const LEDGER: &str = env!("CARGO_BIN_EXE_ledger");
/// On a loaded machine an answer takes its time; what waits for a broker takes longer.
const REST: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_broker_that_is_killed_again_and_again() {
    let kills = env_number("BROKER_KILLS", 3);
    let (mut done, mut runs) = (0, 0);
    while done < kills {
        assert!(runs < 3 + kills / 5, "Kafka left a transaction in halves in {runs} runs");
        done += killed(kills - done);
        runs += 1;
    }
}

/// A broker and a flow of their own. How many of the kills it took: not all where the broker, started again, had committed a transaction in some of its partitions and
/// forgotten it in the others (see [`abort_hanging`]). Of that transaction lines may be lost whose offset is in one of the former, and no one can tell that from a fault
/// of ours: of that run only that lines flow again is said.
fn killed(kills: u64) -> u64 {
    let mut broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan { rate: 4_000, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    for kill in 0..kills {
        flow.moves(20_000);
        pause(Duration::from_millis(fastrand::u64(0..500)));
        broker.kill9();
        pause(Duration::from_millis(fastrand::u64(0..2_000)));
        broker.restart();
        let begin = Instant::now();
        // On a loaded machine a broker alone takes half a minute until it leads its partitions again.
        let hanging = if flow.goes_on_within(Duration::from_secs(60)) { 0 } else { abort_hanging(&bootstrap) };
        flow.goes_on();
        println!(
            "kill {kill}: lines flow again after {:?}; {hanging} hanging transactions of the broker aborted",
            begin.elapsed()
        );
        if hanging > 0 {
            return kill;
        }
    }
    rest.finish();
    flow.exact();
    kills
}

#[test]
fn a_broker_that_freezes() {
    let freeze = Duration::from_secs(env_number("FREEZE", 10));
    let broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let lower = if freeze.as_secs() < 30 { "request.timeout.ms: 3000\nsocket.connection.setup.timeout.ms: 3000\n" } else { "" };
    let mut flow = FlowPlan { settings: lower, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    broker.freeze();
    pause(freeze);
    broker.thaw();
    flow.goes_on();
    rest.finish();
    flow.exact();
}

/// The case that Jepsen found: the client has given a request up, and the broker gets it while the task is at its next transactions. And an answer
/// that is lost: nobody knows whether the transaction counts, until the next writer is opened.
#[test]
fn requests_that_come_late_and_answers_that_never_come() {
    let rounds = env_number("LATE", 2);
    let broker = Broker::start(Options::proxied());
    let (bootstrap, witness) = (broker.proxied(), broker.bootstrap());
    let settings = "request.timeout.ms: 2000\nsocket.connection.setup.timeout.ms: 2000\n";
    let mut flow = FlowPlan { witness: &witness, settings, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    let faults = [
        (END_TXN, Side::Request, Action::Hold),
        (END_TXN, Side::Response, Action::Drop),
        (PRODUCE, Side::Request, Action::Hold),
        (PRODUCE, Side::Response, Action::Drop),
        (OFFSET_COMMIT, Side::Request, Action::Hold),
    ];
    for _ in 0..rounds {
        for (api, side, action) in faults {
            let rule = broker.proxy().rule(api, side, action, 1);
            rule.wait_caught(1, Duration::from_secs(60));
            // By then the client has given it up and the task has been opened again.
            flow.goes_on();
            rule.release();
            flow.goes_on();
        }
    }
    flow.exact();
}

/// Every broker that something depends on goes, one after the other.
#[test]
fn coordinators_and_leaders_move() {
    let mut cluster = Cluster::start(3, &Options::default());
    let bootstrap = cluster.bootstrap();
    let mut flow = FlowPlan::new(&bootstrap).start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    for _ in 0..env_number("MOVES", 1) {
        for what in ["transactions", "group", "leader"] {
            let mut admin = cluster.brokers[0].admin();
            let node = match what {
                "transactions" => admin.transaction_coordinator("faults-source-0").id,
                "group" => admin.group_coordinator("connect-sink").id,
                _ => admin.leaders("lines")[0],
            };
            let node = u16::try_from(node).unwrap();
            cluster.broker(node).kill9();
            let begin = Instant::now();
            flow.goes_on();
            println!("{what}: lines flow again {:?} after broker {node} was killed", begin.elapsed());
            cluster.broker(node).restart();
            flow.goes_on();
        }
    }
    rest.finish();
    flow.exact();
}

/// The worker is frozen for longer than the coordinator bears an open transaction.
#[test]
fn a_worker_that_is_frozen_past_its_transaction_timeout() {
    let broker = Broker::start(Options::default().with("transaction.abort.timed.out.transaction.cleanup.interval.ms=500"));
    let bootstrap = broker.bootstrap();
    let settings = "producer.transaction.timeout.ms: 2000\n";
    // A transaction is open nearly all the time.
    let source = "transaction.boundary: interval\ntransaction.boundary.interval.ms: 1000\n";
    let mut flow = FlowPlan { settings, source, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    for _ in 0..env_number("FREEZES", 2) {
        flow.site.signal(Signal::STOP);
        pause(Duration::from_secs(6));
        flow.site.signal(Signal::CONT);
        flow.goes_on();
    }
    flow.exact();
}

/// A frozen worker's tasks go on in another process: what it still had in hand when it wakes up counts for nothing.
#[test]
fn a_worker_that_was_replaced_while_it_was_frozen() {
    let broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan { rate: 3_000, ..FlowPlan::new(&bootstrap) }.start(LEDGER);
    // The files are in the first one's folder.
    let mut replaced = Vec::new();
    for _ in 0..env_number("FREEZES", 2) {
        flow.moves(20_000);
        flow.site.signal(Signal::STOP);
        let mut second = flow.twin(&bootstrap);
        second.start();
        let end = broker.admin().end_offset("lines", 0, true);
        wait_until(SOON, "the second writes to the topic", || {
            (broker.admin().end_offset("lines", 0, true) > end + 500).then_some(())
        });
        flow.site.signal(Signal::CONT);
        let states = flow.site.client();
        wait_until(SOON, "the first's source is fenced", || (states.task_states("source") == ["FAILED"]).then_some(()));
        std::mem::swap(&mut flow.site, &mut second);
        flow.goes_on();
        second.stop();
        replaced.push(second);
        flow.goes_on();
    }
    flow.exact();
}

/// The source creates it anew, and the sink reads that from its beginning.
#[test]
fn a_topic_that_is_deleted_under_source_and_sink() {
    let broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan::new(&bootstrap).start(LEDGER);
    let rest = RestWatch::start(&flow.site, REST);
    for _ in 0..env_number("DELETIONS", 2) {
        let deleted = topic_id(&broker, "lines").expect("lines have come through it");
        assert_eq!(broker.admin().try_delete_topic("lines"), 0);
        // Until the broker has got round to it, it takes and acknowledges what is written to the topic, and then drops that too.
        wait_until(SOON, "another topic of this name", || topic_id(&broker, "lines").filter(|id| *id != deleted));
        flow.goes_on();
    }
    rest.finish();
    let written = flow.finish();
    let (sink, log) = (outputs::append_file(&flow.out, Some("lines")).unwrap(), kafka_site::streams(&bootstrap, "lines"));
    let report = check(&written, &sink);
    // What was deleted before the sink had read it is gone; nothing else may happen to a line.
    assert!(report.counts.keys().all(|kind| *kind == Kind::Lost), "{report}");
    assert!(report.count(Kind::Lost) * 4 < report.expected, "{report}");
    let delivered: HashSet<&[u8]> = sink.iter().flat_map(|stream| stream.bytes.split(|byte| *byte == b'\n')).collect();
    let unread = log.iter().flat_map(|stream| stream.bytes.split(|byte| *byte == b'\n')).filter(|line| !delivered.contains(line));
    assert_eq!(unread.count(), 0, "lines of the last topic that the sink never got");
}

/// Of the topic's first partition, on the broker's disk.
fn topic_id(broker: &Broker, topic: &str) -> Option<String> {
    let meta = std::fs::read_to_string(broker.dir().join(format!("log/{topic}-0/partition.metadata"))).ok()?;
    Some(meta.lines().find_map(|line| line.strip_prefix("topic_id: "))?.to_owned())
}

#[test]
fn a_limit_that_is_lowered_under_the_worker() {
    let broker = Broker::start(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan::new(&bootstrap).start(LEDGER);
    broker.admin().alter_topic("lines", &[("max.message.bytes", "3000")]);
    let client = flow.site.client();
    let too_large = || failure(&flow.site, "source").filter(|trace| trace.contains("log.record_too_large"));
    let trace = wait_until(SOON, "the task says that a line is too large", too_large);
    assert!(trace.contains("lines") && trace.contains("max.message.bytes is 3000"), "{trace}");
    broker.admin().alter_topic("lines", &[("max.message.bytes", "1048588")]);
    client.post("/connectors/source/restart?includeTasks=true&onlyFailed=true", None).expect(202);
    flow.goes_on();
    flow.exact();
}

#[test]
fn a_right_that_is_missing_is_named_and_can_be_given_later() {
    let broker = Broker::start(Options::guarded());
    let (bootstrap, witness) = (broker.sasl(), broker.bootstrap());
    let settings = "security.protocol: SASL_PLAINTEXT\nsasl.mechanism: PLAIN\nsasl.jaas.config: org.apache.kafka.common.security.plain.PlainLoginModule required username=\"alice\" password=\"alice-secret\";\n";
    let mut flow = FlowPlan { witness: &witness, settings, ..FlowPlan::new(&bootstrap) }.prepare(LEDGER);
    let mut admin = broker.admin();
    // What the worker itself needs: it says so and ends, as with a wrong password.
    let needs = [
        (Resource::Group, "faults", Operation::Describe, "--group faults"),
        (Resource::Topic, "faults-configs", Operation::All, "--topic faults-configs"),
        (Resource::Topic, "faults-offsets", Operation::All, "--topic faults-offsets"),
        (Resource::Topic, "faults-status", Operation::All, "--topic faults-status"),
        (Resource::TransactionalId, "connect-cluster-faults", Operation::All, "--transactional-id connect-cluster-faults"),
    ];
    for (resource, name, operation, names) in needs {
        let before = flow.site.log_len();
        flow.site.spawn(&Run::default());
        assert!(!flow.site.wait_exit(SOON).success());
        let log = flow.site.log();
        let said = &log[before..];
        assert!(said.contains("kafka-acls.sh") && said.contains(names), "{names}: {said}");
        admin.allow("alice", resource, name, operation);
    }
    flow.site.start();
    admin.create_topic("lines", 1, &[]);
    let missing = [
        (Resource::TransactionalId, "faults-source-0", Operation::All, "--transactional-id faults-source-0"),
        (Resource::Topic, "lines", Operation::All, "--topic lines"),
        (Resource::Group, "connect-sink", Operation::All, "--group connect-sink"),
    ];
    for (resource, name, operation, names) in missing {
        wait_until(SOON, &format!("a task says {names}"), || {
            ["source", "sink"].iter().find(|name| {
                failure(&flow.site, name).is_some_and(|trace| trace.contains("kafka-acls.sh") && trace.contains(names))
            })
        });
        admin.allow("alice", resource, name, operation);
        let client = flow.site.client();
        for connector in ["source", "sink"] {
            let answer = client.post(&format!("/connectors/{connector}/restart?includeTasks=true&onlyFailed=true"), None);
            assert!(answer.status < 300, "{}", answer.text);
        }
    }
    flow.goes_on();
    flow.exact();
}

#[test]
fn a_wrong_address_is_told_at_once_and_mended_when_a_broker_comes() {
    let mut broker = Broker::prepare(Options::default());
    let bootstrap = broker.bootstrap();
    let mut flow = FlowPlan::new(&bootstrap).prepare(LEDGER);
    let begin = Instant::now();
    flow.site.spawn(&Run::default());
    let health = wait_until(SOON, "/health says that no broker answers", || unhealthy(&flow.site, "kafka.unreachable"));
    assert!(begin.elapsed() < Duration::from_secs(10) && health.contains(&bootstrap), "{:?} {health}", begin.elapsed());
    broker.restart();
    flow.site.wait_healthy(SOON).unwrap();
    flow.goes_on();
    flow.exact();
    let nowhere = format!("no-such-host.invalid:{}", free_port());
    let mut site = kafka_site::site(&nowhere, "nowhere", "");
    let begin = Instant::now();
    site.spawn(&Run::default());
    let health = wait_until(SOON, "/health says that there is no such host", || unhealthy(&site, "kafka.unreachable"));
    assert!(begin.elapsed() < Duration::from_secs(10) && health.contains(&nowhere), "{:?} {health}", begin.elapsed());
    site.stop();
}

/// What `/health` says when it answers 503 with this code.
fn unhealthy(site: &Site, code: &str) -> Option<String> {
    let answer = site.client().call(Method::GET, "/health", None).ok()?;
    (answer.status == 503 && answer.text.contains(code)).then_some(answer.text)
}

/// The trace of a task that does not run.
fn failure(site: &Site, connector: &str) -> Option<String> {
    let answer = site.client().call(Method::GET, &format!("/connectors/{connector}/status"), None).ok()?;
    let task = answer.json()["tasks"].as_array()?.iter().find(|task| task["trace"].is_string())?.clone();
    Some(task["trace"].as_str()?.to_owned())
}
