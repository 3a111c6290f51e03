//! file → Kafka → file through one worker, fed from the ledger; kcat and the file say what came of it.

use crate::chaos::{Mode, TOPIC, sink_yaml, source_yaml, wait_for_markers};
use crate::checker::{Stream, check, has_markers};
use crate::ledger::{Ledger, LedgerPlan, LedgerProcess};
use crate::outputs;
use crate::site::Site;
use crate::wait::{pause, poll_for, wait_until};
use kafka_services::consume;
use reqwest::Method;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than every timeout that the tests set, and than a broker's start on a loaded machine.
const RECOVERY: Duration = Duration::from_secs(60);

/// A site whose log is Kafka; `settings` are more lines of `worker.yaml`.
pub fn site(bootstrap: &str, group: &str, settings: &str) -> Site {
    Site::with(&format!(
        "bootstrap.servers: {bootstrap}\ngroup.id: {group}\nkey.converter: string\nvalue.converter: string\n{settings}"
    ))
}

/// What a `read_committed` reader sees, one stream for each partition.
pub fn streams(bootstrap: &str, topic: &str) -> Vec<Stream> {
    let mut partitions: BTreeMap<i32, Vec<u8>> = BTreeMap::new();
    for record in consume(bootstrap, topic, &[]) {
        let bytes = partitions.entry(record.partition).or_default();
        bytes.extend_from_slice(record.value.as_deref().unwrap_or(b"null"));
        bytes.push(b'\n');
    }
    let stream =
        |(partition, bytes)| Stream { topic: Some(topic.to_owned()), ..Stream::new(format!("{topic}-{partition}"), bytes) };
    partitions.into_iter().map(stream).collect()
}

/// Lines that flow while something breaks.
#[derive(Debug)]
pub struct Flow {
    pub site: Site,
    ledger: LedgerProcess,
    pub out: PathBuf,
    /// Where kcat reads.
    witness: String,
}

/// `bootstrap` is the worker's, `witness` is kcat's.
#[derive(Clone, Copy, Debug)]
pub struct FlowPlan<'a> {
    pub bootstrap: &'a str,
    pub witness: &'a str,
    /// More lines for `worker.yaml`, and for the two connectors.
    pub settings: &'a str,
    pub source: &'a str,
    pub sink: &'a str,
    pub rate: u64,
}

impl<'a> FlowPlan<'a> {
    pub fn new(bootstrap: &'a str) -> Self {
        Self { bootstrap, witness: bootstrap, settings: "", source: "", sink: "", rate: 1_000 }
    }

    /// The worker, its two connectors and the ledger, which has begun to write. `program` is the `ledger` binary.
    #[track_caller]
    pub fn start(&self, program: &str) -> Flow {
        let mut flow = self.prepare(program);
        flow.site.start();
        flow.goes_on();
        flow
    }

    /// As [`FlowPlan::start`], with a worker that is not started.
    pub fn prepare(&self, program: &str) -> Flow {
        let site = site(self.bootstrap, "faults", self.settings);
        fs::create_dir_all(site.path("in")).expect("the site is writable");
        let source = source_yaml(&site, "app-*.log*").replace("65536", "1048576");
        site.connector("source", &(source + self.source));
        site.connector("sink", &(sink_yaml(&site, Mode::Append) + self.sink));
        let plan = LedgerPlan {
            ledger: site.path("ledger.txt"),
            files: (0..2).map(|n| site.path("in").join(format!("app-{n}.log"))).collect(),
            rate: self.rate,
            rotate_ms: 5_000,
            keep: 200,
            topic: Some(TOPIC.to_owned()),
            seed: fastrand::u64(..),
        };
        let ledger = LedgerProcess::start(program, &plan);
        Flow { out: site.path("out.log"), site, ledger, witness: self.witness.to_owned() }
    }
}

impl Flow {
    fn delivered(&self) -> u64 {
        fs::metadata(&self.out).map_or(0, |meta| meta.len())
    }

    pub fn written(&self) -> Ledger {
        Ledger::load(&self.ledger.ledger).expect("the ledger is readable")
    }

    /// Lines that are written from now on arrive.
    #[track_caller]
    pub fn goes_on(&mut self) {
        let worker = |site: &Site| format!("{}\n{}", site.log_tail(15), site.client().get("/connectors/source/status").text);
        assert!(self.goes_on_within(RECOVERY), "lines do not flow again within {RECOVERY:?}:\n{}", worker(&self.site));
    }

    pub fn goes_on_within(&mut self, time: Duration) -> bool {
        let now = self.ledger.pause();
        self.ledger.tell("resume");
        let arrived = poll_for(time, || {
            let out = outputs::append_file(&self.out, None).ok()?;
            has_markers(&now, &out).then_some(())
        });
        arrived.is_some()
    }

    /// So many bytes more arrive.
    #[track_caller]
    pub fn moves(&self, bytes: u64) {
        let before = self.delivered();
        wait_until(RECOVERY, "lines move", || (self.delivered() >= before + bytes).then_some(()));
    }

    /// Another worker of the same group with the same connectors and files, to be started.
    pub fn twin(&self, bootstrap: &str) -> Site {
        let twin = site(bootstrap, "faults", "");
        for name in ["source", "sink"] {
            let file = format!("{name}.yaml");
            let yaml = fs::read_to_string(self.site.connectors_dir().join(file)).expect("this site has it");
            twin.connector(name, &yaml);
        }
        twin
    }

    /// No more lines; the last ones arrive; a clean stop.
    #[track_caller]
    pub fn finish(&mut self) -> Ledger {
        let written = self.ledger.pause();
        wait_for_markers(&written, RECOVERY, || vec![self.out.clone()]);
        self.site.stop();
        written
    }

    /// No more lines; the last ones arrive; a clean stop; every line exactly once and in order, in Kafka and in the file.
    #[track_caller]
    pub fn exact(mut self) {
        let written = self.finish();
        let sink = check(&written, &outputs::append_file(&self.out, Some(TOPIC)).expect("readable"));
        let log = check(&written, &streams(&self.witness, TOPIC));
        assert!(sink.is_clean() && log.is_clean(), "sink: {sink}\nlog: {log}");
        assert!(log.expected > 500, "too little was written to mean anything: {log}");
    }
}

/// Asks a worker for its connectors all the time.
#[derive(Debug)]
pub struct RestWatch {
    stop: Arc<AtomicBool>,
    asking: Option<JoinHandle<(u64, Vec<String>)>>,
}

impl RestWatch {
    /// An answer of another status than 200, or later than `limit`, is told by [`RestWatch::finish`].
    pub fn start(site: &Site, limit: Duration) -> Self {
        let (client, stop) = (site.client(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let asking = std::thread::spawn(move || {
            let (mut answers, mut wrong) = (0, Vec::new());
            while !stopped.load(Ordering::Acquire) {
                for path in ["/connectors", "/connectors/source/status", "/connectors/sink/config"] {
                    let begin = Instant::now();
                    let status =
                        client.call(Method::GET, path, None).map_or_else(|error| format!("{error:#}"), |a| a.status.to_string());
                    let took = begin.elapsed();
                    answers += 1;
                    if status != "200" || took > limit {
                        wrong.push(format!("{path}: {status} after {took:?}"));
                    }
                }
                pause(Duration::from_millis(100));
            }
            (answers, wrong)
        });
        Self { stop, asking: Some(asking) }
    }

    /// # Panics
    /// When an answer was wrong or late.
    #[track_caller]
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Release);
        let (answers, wrong) = self.asking.take().expect("taken once").join().expect("it does not panic");
        assert!(
            wrong.is_empty() && answers > 0,
            "{} of {answers} answers of REST: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

impl Drop for RestWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
