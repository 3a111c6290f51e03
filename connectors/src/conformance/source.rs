//! The promises of sources.

use super::{context, within};
use aqueduct_core::{Options, Plugin, Record, SourceOffset, SourcePlugin, SourceTask};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub struct SourceCase {
    pub plugin: Plugin,
    /// Of a connector that has `records` records to give, the same to whoever opens it.
    pub options: Options,
    pub records: usize,
    /// Records of equal streams come in order; between streams there is none.
    pub stream: fn(&Record) -> String,
    /// Takes out of a record what may differ each time it is read (when, from which place); see [`all_of_it`].
    pub strip: fn(&mut Record),
}

/// For [`SourceCase::strip`]: nothing of a record may differ.
pub fn all_of_it(_: &mut Record) {}

/// As the worker stores them: the last of each partition.
type Offsets = BTreeMap<String, SourceOffset>;

/// Few enough to have many places to resume from.
const BATCH_RECORDS: usize = 7;

/// From no offset and from the offsets after each batch, with one task and with several: exactly the remaining records, in order.
pub async fn source(case: &SourceCase) {
    let Plugin::Source(plugin) = &case.plugin else { panic!("{} is no source", case.plugin.descriptor().name) };
    let (all, places) = drain(plugin, case, 1, &Offsets::new(), case.records, BATCH_RECORDS).await;
    assert!(places.len() * BATCH_RECORDS >= case.records, "a batch had more than {BATCH_RECORDS} records");
    for (taken, offsets) in &places {
        for tasks in [1, 3] {
            let (rest, _) = drain(plugin, case, tasks, offsets, case.records - taken, 1000).await;
            same(case, &all[*taken..], &rest, &format!("{} tasks after {taken} records", tasks));
        }
    }
    let (again, _) = drain(plugin, case, 3, &Offsets::new(), case.records, BATCH_RECORDS).await;
    same(case, &all, &again, "3 tasks from the start");
    forgets(plugin, case, &all, &places).await;
    returns_when_interrupted(plugin, case, &places).await;
}

/// Opens the tasks of a plan, reads until `expected` records came, and finds no more. Every second task is dropped as in a crash, the others
/// are closed.
async fn drain(
    plugin: &Arc<dyn SourcePlugin>,
    case: &SourceCase,
    tasks_max: u32,
    offsets: &Offsets,
    expected: usize,
    batch_records: usize,
) -> (Vec<Record>, Vec<(usize, Offsets)>) {
    let (mut records, mut offsets, mut places) = (Vec::new(), offsets.clone(), Vec::new());
    let cx = context(Duration::from_millis(20), batch_records);
    let mut tasks = open(plugin, case, tasks_max, &offsets).await;
    let mut idle = 0;
    // Idle rounds count only after the last record: a source may need a few polls to find what there is.
    let give_up = tokio::time::Instant::now() + super::DEADLINE;
    while records.len() < expected || idle < 3 {
        idle += 1;
        for task in &mut tasks {
            let polled = within("poll", task.poll(&cx)).await.unwrap_or_else(|error| panic!("poll: {error}"));
            assert!(polled.batch.len() <= cx.max_records, "{} records where {} are allowed", polled.batch.len(), cx.max_records);
            assert!(polled.batch.bytes() <= cx.max_bytes || polled.batch.len() == 1, "{} bytes in a batch", polled.batch.bytes());
            assert!(polled.batch.is_empty() || !polled.resume.is_empty(), "a batch without a place to resume after it");
            if !polled.batch.is_empty() {
                idle = 0;
            }
            let moved = !polled.resume.is_empty();
            for offset in &polled.resume {
                // As it comes back from the store.
                let text = serde_json::to_string(offset).expect("an offset is JSON");
                let offset: SourceOffset = serde_json::from_str(&text).expect("and is read again");
                assert!(!offset.partition.is_empty(), "an offset of no partition");
                match offset.offset {
                    Some(_) => offsets.insert(offset.partition_key(), offset),
                    None => offsets.remove(&offset.partition_key()),
                };
            }
            records.extend(polled.batch.into_records());
            if moved {
                within("commit", task.commit(&polled.resume)).await.unwrap_or_else(|error| panic!("commit: {error}"));
                places.push((records.len(), offsets.clone()));
            }
        }
        assert!(tokio::time::Instant::now() < give_up, "{} of {expected} records came", records.len());
    }
    assert_eq!(records.len(), expected, "more records than there are");
    for (index, mut task) in tasks.into_iter().enumerate() {
        if index % 2 == 0 {
            within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
        }
    }
    (records, places)
}

async fn open(plugin: &Arc<dyn SourcePlugin>, case: &SourceCase, tasks_max: u32, offsets: &Offsets) -> Vec<Box<dyn SourceTask>> {
    let plan = within("plan", plugin.plan(&case.options, tasks_max)).await.unwrap_or_else(|error| panic!("plan: {error}"));
    let mut tasks = Vec::new();
    for spec in plan {
        // All offsets go to every task: it picks its own.
        let resume = offsets.values().cloned().collect();
        tasks
            .push(within("open", plugin.open(&case.options, spec, resume)).await.unwrap_or_else(|error| panic!("open: {error}")));
    }
    tasks
}

fn same(case: &SourceCase, expected: &[Record], found: &[Record], when: &str) {
    let streams = |records: &[Record]| {
        let mut streams = BTreeMap::<String, Vec<Record>>::new();
        for record in records {
            // When it was read is no part of what was read.
            let mut stripped = Record { timestamp: None, ..record.clone() };
            (case.strip)(&mut stripped);
            streams.entry((case.stream)(record)).or_default().push(stripped);
        }
        streams
    };
    let (expected, found) = (streams(expected), streams(found));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{when}");
    for (stream, records) in &expected {
        let first = records.iter().zip(&found[stream]).find(|(a, b)| a != b);
        assert!(first.is_none() && records.len() == found[stream].len(), "{when}: stream {stream}: {first:?}");
    }
}

/// An operator's reset: without the offsets everything comes again.
async fn forgets(plugin: &Arc<dyn SourcePlugin>, case: &SourceCase, all: &[Record], places: &[(usize, Offsets)]) {
    let (_, last) = places.last().expect("there were records");
    let (rest, _) = drain(plugin, case, 1, last, 0, BATCH_RECORDS).await;
    assert!(rest.is_empty(), "records after the last");
    let (again, _) = drain(plugin, case, 1, &Offsets::new(), case.records, 1000).await;
    same(case, all, &again, "after a reset");
}

/// A poll with nothing to give returns at once when the worker wants it back.
async fn returns_when_interrupted(plugin: &Arc<dyn SourcePlugin>, case: &SourceCase, places: &[(usize, Offsets)]) {
    let (_, last) = places.last().expect("there were records");
    let mut task = open(plugin, case, 1, last).await.remove(0);
    let cx = context(Duration::from_secs(600), BATCH_RECORDS);
    cx.interrupt.cancel();
    for _ in 0..3 {
        let polled = within("an interrupted poll", task.poll(&cx)).await.unwrap_or_else(|error| panic!("poll: {error}"));
        assert!(polled.batch.is_empty());
    }
    within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
}
