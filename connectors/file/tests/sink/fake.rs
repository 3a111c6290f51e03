//! A worker and a log in miniature: records made from their offsets, positions committed with what the sink wants kept.

use aqueduct_connector_file::sink::{Compression, read_text};
use aqueduct_core::batch::{ChunkBuilder, Span};
use aqueduct_core::{
    Batch, CancellationToken, LogPosition, Options, Plugin, Rejects, Result, SinkTask, TaskContext, TaskId, TaskSpec,
    TopicPartition,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Committed positions.
#[derive(Clone, Debug, Default)]
pub struct FakeLog(pub BTreeMap<TopicPartition, LogPosition>);

impl FakeLog {
    pub fn new(partitions: &[(&str, i32)]) -> Self {
        let position = |(topic, partition): &(&str, i32)| LogPosition {
            topic: (*topic).into(),
            topic_id: Uuid::from_u128(1),
            partition: *partition,
            offset: 0,
            metadata: None,
        };
        Self(partitions.iter().map(position).map(|position| (position.topic_partition(), position)).collect())
    }

    pub fn positions(&self) -> Vec<LogPosition> {
        self.0.values().cloned().collect()
    }
}

/// One life of a task.
pub struct Life {
    pub task: Box<dyn SinkTask>,
    pub next: BTreeMap<TopicPartition, i64>,
}

pub fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub async fn open_as(class: &str, options: &Options) -> Result<Box<dyn SinkTask>> {
    let plugin = aqueduct_connector_file::plugins().into_iter().find(|plugin| plugin.descriptor().is_called(class));
    let Some(Plugin::Sink(plugin)) = plugin else { panic!("no sink is called {class}") };
    plugin.open(options, TaskSpec::new()).await
}

impl Life {
    pub async fn begin(options: &Options, log: &FakeLog) -> Result<Self> {
        Self::with(options, &log.positions()).await
    }

    pub async fn with(options: &Options, positions: &[LogPosition]) -> Result<Self> {
        let mut life = Self { task: open_as("file-sink", options).await?, next: BTreeMap::new() };
        life.assign(positions).await?;
        Ok(life)
    }

    pub async fn assign(&mut self, positions: &[LogPosition]) -> Result<()> {
        self.next.extend(positions.iter().map(|position| (position.topic_partition(), position.offset)));
        for start in self.task.assigned(positions).await? {
            self.next.insert(start.topic_partition(), start.offset);
        }
        Ok(())
    }

    /// The next `count` records of one partition.
    pub async fn put(&mut self, partition: &TopicPartition, count: i64) -> Result<()> {
        let from = self.next[partition];
        self.task.put(&batch(partition, from, count), &mut Rejects::default(), &context()).await?;
        self.next.insert(partition.clone(), from + count);
        Ok(())
    }

    pub async fn flush(&mut self, log: &mut FakeLog) -> Result<()> {
        self.task.flush().await?;
        self.commit(log);
        Ok(())
    }

    pub fn commit(&self, log: &mut FakeLog) {
        for (partition, next) in &self.next {
            let position = log.0.get_mut(partition).unwrap();
            position.offset = *next;
            position.metadata = self.task.metadata(partition).map(Into::into);
        }
    }
}

pub fn context() -> TaskContext {
    TaskContext {
        task: TaskId::new("sink", 0),
        wait_max: Duration::from_millis(100),
        max_bytes: 1 << 20,
        max_records: 10_000,
        interrupt: CancellationToken::new(),
    }
}

/// Lengths differ, so that a cut at the wrong place shows.
pub fn line(partition: &TopicPartition, offset: i64) -> String {
    format!("{partition} {offset:08} {}", "x".repeat((offset as usize * 7) % 90))
}

pub fn batch(partition: &TopicPartition, from: i64, count: i64) -> Batch {
    let mut chunk =
        ChunkBuilder::new(partition.topic.clone()).partition(Some(partition.partition)).origin(Some(Arc::new(partition.clone())));
    let mut buffer = Vec::new();
    for offset in from..from + count {
        let text = line(partition, offset);
        chunk.push_span(None, Some(Span { start: buffer.len() as u32, len: text.len() as u32 }), Some(1_000 + offset), offset);
        buffer.extend_from_slice(text.as_bytes());
    }
    let mut batch = Batch::new();
    batch.push_chunk(chunk.finish(buffer.into()));
    batch
}

/// Every record of each partition, from 0 to `counts`, once and in order.
pub fn check_lines(text: &str, counts: &BTreeMap<TopicPartition, i64>) -> Result<(), String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line is torn".to_owned());
    }
    let mut seen: BTreeMap<&TopicPartition, i64> = counts.keys().map(|partition| (partition, 0)).collect();
    for found in text.lines() {
        let Some((partition, next)) = seen.iter_mut().find(|(partition, _)| found.starts_with(&format!("{partition} "))) else {
            return Err(format!("a line of nobody: {found:?}"));
        };
        let expected = line(partition, *next);
        if found != expected {
            return Err(format!("expected {expected:?}, found {found:?}"));
        }
        *next += 1;
    }
    match seen.iter().find(|(partition, next)| **next != counts[**partition]) {
        Some((partition, next)) => Err(format!("{partition} has {next} lines of {}", counts[*partition])),
        None => Ok(()),
    }
}

/// The text of one partition's finished files; their names must tell their first offsets. Nothing else may be there but dot files.
pub fn rolled(root: &Path, partition: &TopicPartition, compression: Compression) -> Result<String, String> {
    let dir = root.join(&*partition.topic).join(partition.partition.to_string());
    let mut text = String::new();
    for name in finished(&dir) {
        let start: i64 = name.split('.').next().unwrap().parse().unwrap();
        let expected = text.lines().count() as i64;
        if start != expected {
            return Err(format!("{name} comes after {expected} records"));
        }
        let bytes = read_text(&dir.join(&name), compression).map_err(|error| format!("{name}: {error}"))?;
        text.push_str(&String::from_utf8(bytes).unwrap());
    }
    Ok(text)
}

/// Names, in order.
pub fn finished(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

pub fn parts(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| name.ends_with(".part")).collect()
}
