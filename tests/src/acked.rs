//! Records that REST acknowledged must be in the log after `kill -9`. Unlike a file, who wrote them will not write them again.

use crate::checker::{Report, check};
use crate::ledger::{Ledger, Source, line};
use crate::segment;
use crate::site::{Run, START_DEADLINE, Site};
use serde_json::json;

const TOPIC: &str = "acked";
const SOURCE: &str = "rest";

/// Kills the worker right after an acknowledgement, again and again; what was acknowledged against what is in the log.
///
/// # Panics
/// When the worker cannot be started, or refuses a record.
pub fn kill_after_acknowledgements(kills: u64, seed: u64, bug: Option<&str>) -> Report {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut site = Site::new();
    let plan = bug.map(|bug| format!("bug={bug}")).unwrap_or_default();
    let run = Run::failpoints(plan);
    let mut acknowledged = 0;
    for cycle in 0..kills {
        site.start_with(&run);
        let client = site.client();
        if cycle == 0 {
            // Small segments: some kills come just after one was begun.
            let spec = json!({"name": TOPIC, "partitions": 1, "configs": {"segment.bytes": "16384"}});
            client.post("/aqueduct/v1/topics", Some(&spec)).expect(201);
        }
        for _ in 0..random.u64(1..20) {
            let mut value = Vec::new();
            line(SOURCE, acknowledged, &mut value);
            let record = json!({"records": [{"value": String::from_utf8_lossy(&value)}]});
            let answer = client.post(&format!("/aqueduct/v1/topics/{TOPIC}/records"), Some(&record));
            assert!((200..300).contains(&answer.status), "{answer:?}");
            acknowledged += 1;
        }
        site.kill();
    }
    let start = site.spawn_and_wait(&run);
    if bug.is_none() {
        start.unwrap_or_else(|error| panic!("{error:#}\n{}", site.log_tail(30)));
        site.stop();
    } else {
        site.kill();
    }
    let source = Source { issued: acknowledged, written: acknowledged, topic: Some(TOPIC.to_owned()) };
    let ledger = Ledger { sources: [(SOURCE.to_owned(), source)].into() };
    check(&ledger, &segment::streams(&site.data_dir(), TOPIC).unwrap_or_default())
}

impl Site {
    fn spawn_and_wait(&mut self, run: &Run) -> anyhow::Result<()> {
        self.spawn(run);
        self.wait_healthy(START_DEADLINE)
    }
}
