//! The promises of sinks.

use super::{context, within};
use aqueduct_core::{
    Ack, Batch, LogPosition, Options, Origin, Plugin, Record, Rejects, SinkPlugin, SinkTask, TaskSpec, TopicPartition,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub struct SinkCase {
    pub plugin: Plugin,
    pub options: Options,
    /// The texts in the target, in order, one for each record; called when everything was put and flushed.
    pub read: Box<dyn Fn() -> Vec<String> + Send>,
    pub exactly_once: bool,
}

const TOPIC: &str = "conformance";
const PARTITIONS: i32 = 2;
/// In each partition. A multiple of 10, so that files that roll at 10 records have no open end.
const RECORDS: i64 = 200;
/// Records of a put.
const STEP: i64 = 5;

/// Where a task is lost, in each step in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    AfterPut,
    AfterFlush,
    /// Closed in order, but the last commit did not happen.
    ClosedBeforeCommit,
    ClosedAfterCommit,
    No,
}

/// Puts the records of two partitions, losing the task again and again at each kind of place, and committing positions and metadata as the worker
/// does. All records arrive, in order for each partition, and once where that is promised.
pub async fn sink(case: &SinkCase) {
    let Plugin::Sink(plugin) = &case.plugin else { panic!("{} is no sink", case.plugin.descriptor().name) };
    let mut committed: BTreeMap<i32, LogPosition> = (0..PARTITIONS).map(|partition| (partition, position(partition))).collect();
    let spec = within("plan", plugin.plan(&case.options, 1)).await.unwrap_or_else(|error| panic!("plan: {error}")).remove(0);
    let losses =
        [Loss::No, Loss::AfterPut, Loss::AfterFlush, Loss::ClosedAfterCommit, Loss::AfterPut, Loss::ClosedBeforeCommit, Loss::No];
    let mut losses = losses.into_iter().cycle();
    let (mut task, mut next) = open(plugin, case, &spec, &committed).await;
    while next.values().any(|next| *next < RECORDS) {
        let loss = losses.next().unwrap_or(Loss::No);
        let batch: Batch = next.iter().flat_map(|(partition, next)| records(*partition, *next)).collect();
        next.values_mut().for_each(|next| *next = (*next + STEP).min(RECORDS));
        let ack = put(&mut task, &batch).await;
        let durable = ack == Ack::Durable || loss != Loss::AfterPut;
        if ack == Ack::Buffered && durable {
            within("flush", task.flush()).await.unwrap_or_else(|error| panic!("flush: {error}"));
        }
        if loss == Loss::ClosedBeforeCommit {
            within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
        }
        if matches!(loss, Loss::No | Loss::ClosedAfterCommit) {
            commit(&*task, &mut committed, &next);
        }
        if loss == Loss::ClosedAfterCommit {
            within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
        }
        if loss != Loss::No {
            drop(task);
            (task, next) = open(plugin, case, &spec, &committed).await;
        }
    }
    within("flush", task.flush()).await.unwrap_or_else(|error| panic!("flush: {error}"));
    commit(&*task, &mut committed, &next);
    within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
    drop(task);
    // Opened once more with nothing to do: nothing changes.
    let (mut task, next) = open(plugin, case, &spec, &committed).await;
    assert!(next.values().all(|next| *next == RECORDS), "started at {next:?} after all was committed");
    within("close", task.close()).await.unwrap_or_else(|error| panic!("close: {error}"));
    arrived(case);
}

fn arrived(case: &SinkCase) {
    let found = (case.read)();
    for partition in 0..PARTITIONS {
        let expected: Vec<String> = (0..RECORDS).map(|offset| text(partition, offset)).collect();
        let of = format!("{partition}-");
        let mut found: Vec<String> = found.iter().filter(|text| text.starts_with(&of)).cloned().collect();
        if !case.exactly_once {
            found.sort();
            found.dedup();
        }
        let first = expected.iter().zip(&found).find(|(a, b)| a != b);
        assert!(
            first.is_none() && expected.len() == found.len(),
            "partition {partition}: {} records, the first that differs: {first:?}",
            found.len()
        );
    }
    assert!(!case.exactly_once || found.len() as i64 == RECORDS * i64::from(PARTITIONS), "{} texts", found.len());
}

async fn open(
    plugin: &Arc<dyn SinkPlugin>,
    case: &SinkCase,
    spec: &TaskSpec,
    committed: &BTreeMap<i32, LogPosition>,
) -> (Box<dyn SinkTask>, BTreeMap<i32, i64>) {
    let task = within("open", plugin.open(&case.options, spec.clone())).await;
    let mut task = task.unwrap_or_else(|error| panic!("open: {error}"));
    let mut next = BTreeMap::new();
    // Not all at once: that is how partitions come.
    for (partition, position) in committed {
        let starts = within("assigned", task.assigned(std::slice::from_ref(position)))
            .await
            .unwrap_or_else(|error| panic!("assigned: {error}"));
        assert!(starts.iter().all(|start| start.partition == *partition), "a start for a partition that was not assigned");
        next.insert(*partition, starts.first().map_or(position.offset, |start| start.offset));
    }
    (task, next)
}

async fn put(task: &mut Box<dyn SinkTask>, batch: &Batch) -> Ack {
    let mut rejects = Rejects::default();
    let cx = context(Duration::from_secs(5), batch.len());
    let ack = within("put", task.put(batch, &mut rejects, &cx)).await.unwrap_or_else(|error| panic!("put: {error}"));
    assert!(rejects.is_empty(), "a good record was refused: {:?}", rejects.take());
    ack
}

fn commit(task: &dyn SinkTask, committed: &mut BTreeMap<i32, LogPosition>, next: &BTreeMap<i32, i64>) {
    for (partition, position) in committed {
        let metadata = task.metadata(&TopicPartition::new(TOPIC, *partition));
        assert!(metadata.as_ref().is_none_or(|metadata| metadata.len() <= 4096), "metadata of more than 4,096 bytes");
        position.metadata = metadata.map(Into::into);
        position.offset = next[partition];
    }
}

fn position(partition: i32) -> LogPosition {
    LogPosition { topic: TOPIC.into(), topic_id: Uuid::from_u128(7), partition, offset: 0, metadata: None }
}

fn text(partition: i32, offset: i64) -> String {
    format!("{partition}-{offset:06}")
}

fn records(partition: i32, from: i64) -> Vec<Record> {
    let origin = Arc::new(TopicPartition::new(TOPIC, partition));
    let record = |offset| Record {
        partition: Some(partition),
        origin: Some(Origin { partition: origin.clone(), offset }),
        timestamp: Some(1_767_225_600_000 + offset),
        ..Record::new(TOPIC, text(partition, offset))
    };
    (from..(from + STEP).min(RECORDS)).map(record).collect()
}
