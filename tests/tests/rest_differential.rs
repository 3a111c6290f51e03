//! Issue 8: the same requests to a real Kafka Connect and to Aqueduct, side by side. The requests are in `rest_differential/*.http`; what may differ
//! is in `rest_differential/differences.txt`, each with its reason.

#[path = "rest_differential/battery.rs"]
mod battery;
#[path = "rest_differential/compare.rs"]
mod compare;
#[path = "rest_differential/expected.rs"]
mod expected;
#[path = "rest_differential/side.rs"]
mod side;

use aqueduct_tests::{Site, poll_for};
use battery::Request;
use expected::Expected;
use kafka_services::{Broker, Connect, ConnectOptions, Options};
use side::{Answer, Side};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long reads may take to agree, of the whole battery: Kafka Connect shows what a request did a little after it has answered it.
const PATIENCE: Duration = Duration::from_secs(90);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rest_differential")
}

#[test]
fn kafka_connect_and_aqueduct_answer_alike() {
    let battery = battery::load(&folder());
    assert!(battery.len() >= 150, "only {} requests", battery.len());
    let broker = Broker::start(Options::default());
    // A task of Kafka Connect that writes to a topic that is not there hangs, and so does whoever stops it.
    for topic in ["c-topic", "l-topic", "n-topic", "o-topic", "p-topic", "s-topic", "t-topic"] {
        broker.admin().create_topic(topic, 1, &[]);
    }
    let mut site = Site::with("key.converter: string\nvalue.converter: string\noffset.flush.interval.ms: 200\n");
    site.start();
    // A loaded machine must not make it give up on a task: what it wrote later would undo what a request did.
    let options = ConnectOptions::distributed("differential")
        .with("offset.flush.interval.ms=200")
        .with("task.shutdown.graceful.timeout.ms=60000");
    let connect = Connect::start(&broker.bootstrap(), options);
    let side = |name: &str, url: &str| {
        let dir = site.path(name);
        fs::create_dir_all(&dir).expect("the site is writable");
        fs::write(dir.join("in.txt"), "one\ntwo\nthree\n").expect("the site is writable");
        Side { name: name.to_owned(), address: url.trim_start_matches("http://").to_owned(), dir }
    };
    let sides = [side("kafka-connect", &connect.url()), side("aqueduct", &site.client().base)];
    if let Some(report) = play(&battery, &sides) {
        panic!("{report}");
    }
}

/// What is wrong, for people to read.
fn play(battery: &[Request], sides: &[Side; 2]) -> Option<String> {
    let mut expected = expected::load(&folder().join("differences.txt"));
    let mut report = String::new();
    let mut patience = PATIENCE;
    for request in battery {
        let begin = Instant::now();
        let alike = |answers: &[Answer; 2]| unexplained(&expected, request, answers).is_empty();
        let mut answers = both(sides, |side| side.answer(request));
        if request.is_read() && !alike(&answers) {
            poll_for(patience, || {
                answers = both(sides, |side| side.send(request));
                alike(&answers).then_some(())
            });
            patience = patience.saturating_sub(begin.elapsed());
        }
        for difference in unexplained(&expected, request, &answers) {
            let _ = writeln!(report, "{} :: {difference}", request.id);
        }
        let [theirs, ours] = &answers;
        expected.use_for(&request.id, &compare::differences(theirs, ours));
        if let Some(broken) = compare::broken(ours) {
            let _ = writeln!(report, "{}: {broken}: {ours:?}", request.id);
        }
    }
    for line in expected.unused() {
        let _ = writeln!(report, "differs no more, or never did: {line}");
    }
    (!report.is_empty()).then(|| format!("Kafka Connect → Aqueduct:\n{report}"))
}

fn unexplained(expected: &Expected, request: &Request, [theirs, ours]: &[Answer; 2]) -> Vec<String> {
    let mut differences = compare::differences(theirs, ours);
    differences.retain(|difference| !expected.explains(&request.id, difference));
    differences
}

/// At the same time: neither waits for the other's preparations.
fn both(sides: &[Side; 2], ask: impl Fn(&Side) -> Answer + Sync) -> [Answer; 2] {
    std::thread::scope(|scope| {
        let asked = sides.each_ref().map(|side| scope.spawn(|| ask(side)));
        asked.map(|answer| answer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
