//! `file-sink`: records as lines of text in one file, or in files that roll; each record once, whatever dies when.
//!
//! What is durable in the files is kept as metadata with the positions in the log, in one commit; `assigned` brings the files back to it.

mod append;
mod disk;
mod encode;
mod folder;
mod json;
mod output;
mod rolling;

pub use encode::{Field, Format};
pub use output::{Compression, read_text};

use append::Append;
use aqueduct_config::{ByteSize, List, Millis, PathText, SinkConnector};
use aqueduct_core::{Ack, Batch, Delivery, Issue, LogPosition, Rejects, Result, SinkTask, TaskContext, TaskSpec, TopicPartition};
use async_trait::async_trait;
use encode::{Column, Encoder};
use rolling::Rolling;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `file-sink`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// One file that records are appended to; for this, one task writes all partitions. Either this or `directory`.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Target", "x-example" = "/var/lib/out/orders.jsonl"))]
    file: Option<PathText>,
    /// A folder of files that roll, each partition by itself: `<topic>/<partition>/<start offset>.<extension>`. A file appears there when
    /// it is finished, and is never touched again. Either this or `file`.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Target", "x-example" = "/var/lib/out"))]
    directory: Option<PathText>,
    /// What a record becomes: `lines`, its value as text; `json`, an object; `csv`, a row. One line each, if values hold no line breaks.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Format"))]
    format: Format,
    /// For `json`: what goes into the object, in this order.
    #[serde(default = "every_field")]
    #[schemars(length(min = 1), extend("x-group" = "Format"))]
    fields: List<Field>,
    /// For `json`: false writes the only one of `fields` as it is, without the object around it.
    #[serde(default = "yes")]
    #[schemars(extend("x-group" = "Format"))]
    envelope: bool,
    /// For `csv`: `key`, `value`, `timestamp`, `topic`, `partition`, `offset`, `header.<name>`, or a field within a structured or JSON key or
    /// value, such as `value.customer.id`. `id=value.customer.id` gives the column a name.
    #[serde(default = "every_column")]
    #[schemars(length(min = 1), extend("x-group" = "Format", "x-example" = "offset,id=value.id,amount=value.amount"))]
    columns: List<String>,
    /// For `csv`: a file begins with a row of the columns' names.
    #[serde(rename = "csv.header", default = "yes")]
    #[schemars(extend("x-group" = "Format"))]
    csv_header: bool,
    /// For `csv`: what stands between the columns, one ASCII character.
    #[serde(rename = "csv.delimiter", default = "comma")]
    #[schemars(extend("x-group" = "Format"))]
    csv_delimiter: String,
    /// Of the files: a gzip member or zstd frame for each flush, so that `zcat` and `zstdcat` read them as one text.
    #[serde(rename = "compression.type", default)]
    #[schemars(extend("x-group" = "Format"))]
    compression: Compression,
    /// For `directory`: a file is finished when it has this much text, before compression.
    #[serde(rename = "roll.bytes", default = "roll_bytes")]
    #[schemars(range(min = 1), extend("x-group" = "Rolling"))]
    roll_bytes: ByteSize,
    /// For `directory`: a file is finished when it is this old, also when nothing more comes.
    #[serde(rename = "roll.interval", default = "roll_interval")]
    #[schemars(range(min = 10), extend("x-group" = "Rolling"))]
    roll_interval: Millis,
    /// For `directory`: a file is finished when it has this many records. Not limited by default.
    #[serde(rename = "roll.records", default)]
    #[schemars(range(min = 1), extend("x-group" = "Rolling"))]
    roll_records: Option<u64>,
}

fn yes() -> bool {
    true
}

fn comma() -> String {
    ",".to_owned()
}

fn every_field() -> List<Field> {
    use Field::{Headers, Key, Offset, Partition, Timestamp, Topic, Value};
    List(vec![Key, Value, Headers, Timestamp, Topic, Partition, Offset])
}

fn every_column() -> List<String> {
    ["topic", "partition", "offset", "timestamp", "key", "value"].into_iter().map(str::to_owned).collect()
}

/// Large enough that names and fsyncs do not count, small enough to be sent elsewhere in one piece.
fn roll_bytes() -> ByteSize {
    ByteSize::mib(128)
}

fn roll_interval() -> Millis {
    Millis::from_secs(600)
}

/// The path is a part of the metadata, which has 4,096 bytes.
const PATH_BYTES_MAX: usize = 2048;

impl Config {
    fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        match (&self.file, &self.directory) {
            (None, None) => issues.push(
                Issue::error("file", "file_sink.target", "neither file nor directory is given")
                    .fix("add `file: /path/of/a/file` to append to one file, or `directory: /path` for files that roll"),
            ),
            (Some(_), Some(_)) => issues.push(
                Issue::error("directory", "file_sink.target", "file and directory exclude each other").fix("remove one of them"),
            ),
            _ => {}
        }
        for (name, path) in [("file", &self.file), ("directory", &self.directory)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().len() > PATH_BYTES_MAX) {
                let message = format!("is longer than {PATH_BYTES_MAX} bytes");
                issues.push(Issue::error(name, "file_sink.path_length", message).fix("use a shorter path, or a link to it"));
            }
        }
        if self.format == Format::Json && !self.envelope && self.fields.len() != 1 {
            let message = format!("without an envelope there is room for one field, but fields has {}", self.fields.len());
            issues
                .push(Issue::error("fields", "file_sink.fields", message).fix("write `fields: value`, or set envelope to true"));
        }
        for column in self.columns.iter() {
            if let Err(reason) = Column::parse(column) {
                let fix = "use key, value, timestamp, topic, partition, offset, header.<name>, key.<field> or value.<field>";
                issues.push(Issue::error("columns", "file_sink.column", reason).fix(fix));
            }
        }
        if !matches!(self.csv_delimiter.as_bytes(), [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r')) {
            let message = format!("{:?} is not one ASCII character that can separate columns", self.csv_delimiter);
            issues.push(Issue::error("csv.delimiter", "file_sink.delimiter", message).fix("use `,` `;` `|` or a tab"));
        }
        issues
    }

    fn open(self, null: &'static str) -> FileSink {
        let encoder = Encoder {
            format: self.format,
            fields: self.fields.0,
            envelope: self.envelope,
            columns: self.columns.iter().filter_map(|column| Column::parse(column).ok()).collect(),
            header: self.csv_header,
            delimiter: *self.csv_delimiter.as_bytes().first().unwrap_or(&b','),
            null: null.as_bytes(),
        };
        let target = match (self.file, self.directory) {
            (_, Some(directory)) => {
                let limits = rolling::Limits {
                    bytes: self.roll_bytes.get(),
                    interval: self.roll_interval.duration(),
                    records: self.roll_records.unwrap_or(u64::MAX),
                };
                Target::Rolling(Rolling::new(&directory, encoder, self.compression, limits))
            }
            // `validate` ran: one of both is there.
            (file, None) => Target::Append(Box::new(Append::new(&file.unwrap_or_default(), encoder, self.compression))),
        };
        FileSink(target)
    }

    fn plan(&self, tasks_max: u32) -> Vec<TaskSpec> {
        // One file has one writer; folders are shared out with their partitions.
        vec![TaskSpec::new(); if self.file.is_some() { 1 } else { tasks_max.max(1) as usize }]
    }
}

/// A null value is an empty line.
pub struct FileSinkConnector;

#[async_trait]
impl SinkConnector for FileSinkConnector {
    type Config = Config;
    type Task = FileSink;
    const NAME: &'static str = "file-sink";
    const SUMMARY: &'static str = "Writes records exactly once to a file, or to files that roll, as lines, JSON or CSV.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.issues()
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        Ok(config.plan(tasks_max))
    }

    async fn open(config: Config, _: TaskSpec) -> Result<FileSink> {
        Ok(config.open(""))
    }
}

/// The same sink under Kafka's name. As there, a null value is the word `null`.
pub struct FileStreamSinkConnector;

#[async_trait]
impl SinkConnector for FileStreamSinkConnector {
    type Config = Config;
    type Task = FileSink;
    const NAME: &'static str = "FileStreamSink";
    const ALIASES: &'static [&'static str] = &["org.apache.kafka.connect.file.FileStreamSinkConnector"];
    const SUMMARY: &'static str = "Kafka's FileStreamSink: file-sink, but a null value is the word null.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.issues()
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        Ok(config.plan(tasks_max))
    }

    async fn open(config: Config, _: TaskSpec) -> Result<FileSink> {
        Ok(config.open("null"))
    }
}

pub struct FileSink(Target);

enum Target {
    Append(Box<Append>),
    Rolling(Rolling),
}

#[async_trait]
impl SinkTask for FileSink {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        match &mut self.0 {
            Target::Append(append) => append.assigned(partitions).await?,
            Target::Rolling(rolling) => rolling.assigned(partitions).await?,
        }
        // The log's positions stand: what came after them is cut, or known to be there already.
        Ok(Vec::new())
    }

    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        match &mut self.0 {
            Target::Append(append) => append.revoked(partitions).await,
            Target::Rolling(rolling) => rolling.revoked(partitions).await,
        }
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        match &mut self.0 {
            Target::Append(append) => append.put(batch, rejects).await?,
            Target::Rolling(rolling) => rolling.put(batch, rejects).await?,
        }
        Ok(Ack::Buffered)
    }

    async fn flush(&mut self) -> Result<()> {
        match &mut self.0 {
            Target::Append(append) => append.flush().await,
            Target::Rolling(rolling) => rolling.flush().await,
        }
    }

    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        match &self.0 {
            Target::Append(append) => append.metadata(partition),
            Target::Rolling(rolling) => rolling.metadata(partition),
        }
    }

    /// What lies behind the committed position is cut, or known to be there.
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn close(&mut self) -> Result<()> {
        match &mut self.0 {
            Target::Append(append) => append.close().await,
            Target::Rolling(rolling) => rolling.close().await,
        }
        Ok(())
    }
}
