//! Connectors shaped like the real ones, which depend on this crate; and transforms and converters as their crate judges them.

use aqueduct_config::{
    ByteSize, Family, GlobList, List, Millis, PathText, Regex, Secret, SinkConnector, SourceConnector, nearest, plugin,
};
use aqueduct_core::{
    Ack, Batch, Issue, Options, Plugin, Polled, Rejects, Result, SinkTask, SourceOffset, SourceTask, TaskContext, TaskSpec,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn plugins() -> Vec<Plugin> {
    vec![plugin::source::<FileSource>(), plugin::sink::<FileSink>(), plugin::source::<DatabaseSource>()]
}

pub fn find(class: &str) -> Option<Plugin> {
    plugins().into_iter().find(|plugin| plugin.descriptor().is_called(class))
}

pub fn names() -> Vec<String> {
    plugins()
        .iter()
        .flat_map(|plugin| [vec![plugin.descriptor().name.clone()], plugin.descriptor().aliases.clone()].concat())
        .collect()
}

const PARTS: [(&str, &[&str]); 3] =
    [("RegexRouter", &["regex", "replacement"]), ("Filter", &[]), ("InsertField$Value", &["static.field", "static.value"])];
const CONVERTERS: [(&str, &[&str]); 3] =
    [("string", &["converter.encoding"]), ("bytes", &[]), ("json", &["schemas.enable", "decimal.format"])];

/// As `aqueduct_transforms` does it, for three of each.
pub fn parts(options: &Options) -> Vec<Issue> {
    let mut issues = Vec::new();
    for name in options.get("transforms").map(|text| aqueduct_config::list::split_list(text)).unwrap_or_default() {
        let path = format!("transforms.{name}.");
        match options.get(&format!("{path}type")) {
            None => issues.push(
                Issue::error(format!("{path}type"), "config.missing", "is required and has no default")
                    .fix(format!("add `{path}type: …`")),
            ),
            Some(class) => {
                part(&PARTS, &path, &format!("{path}type"), class, options, &["type", "predicate", "negate"], &mut issues)
            }
        }
    }
    for key in ["key.converter", "value.converter", "header.converter"] {
        if let Some(class) = options.get(key) {
            part(&CONVERTERS, &format!("{key}."), key, class, options, &[], &mut issues);
        }
    }
    issues
}

fn part(
    known: &[(&str, &[&str])],
    path: &str,
    at: &str,
    class: &str,
    options: &Options,
    common: &[&str],
    issues: &mut Vec<Issue>,
) {
    let Some((name, own)) = known.iter().find(|(name, _)| *name == class) else {
        let issue = Issue::error(at, "config.unknown_class", format!("nothing is called {class:?}"));
        let near = nearest(class, known.iter().map(|(name, _)| *name));
        issues.push(near.map_or(issue.clone(), |near| issue.fix(format!("did you mean {near}?"))));
        return;
    };
    for key in options.keys().filter_map(|key| key.strip_prefix(path)).filter(|key| !own.contains(key) && !common.contains(key)) {
        let issue = Issue::error(format!("{path}{key}"), "config.unknown_key", format!("{name} has no option {key}"));
        let near = nearest(key, own.iter().chain(common).copied());
        issues.push(near.map_or(issue.clone(), |near| issue.fix(format!("did you mean {path}{near}?"))));
    }
}

struct Idle;

#[async_trait]
impl SourceTask for Idle {
    async fn poll(&mut self, _: &TaskContext) -> Result<Polled> {
        Ok(Polled { batch: Batch::default(), resume: Vec::new() })
    }
}

#[async_trait]
impl SinkTask for Idle {
    async fn put(&mut self, _: &Batch, _: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        Ok(Ack::Durable)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ReadFrom {
    #[default]
    Start,
    End,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only read to be checked")]
struct FileSourceConfig {
    /// The file to tail; also a pattern, or a list of both.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "File", "x-example" = "/var/log/app/*.log", "x-aliases" = ["path"]))]
    file: Option<GlobList>,
    /// The topic that the lines go to.
    #[schemars(length(min = 1, max = 249), extend("x-group" = "File", "x-example" = "access-log"))]
    topic: String,
    /// Where to start in files that are there at the first start.
    #[serde(rename = "read.from", default)]
    #[schemars(extend("x-group" = "File"))]
    read_from: ReadFrom,
    /// The most records in one batch.
    #[serde(rename = "batch.size", default)]
    #[schemars(range(min = 1), extend("x-group" = "File"))]
    batch_size: Option<u32>,
    /// The longest line.
    #[serde(rename = "max.line.bytes", default)]
    #[schemars(range(min = 1, max = 67_000_000), extend("x-group" = "Lines"))]
    max_line_bytes: Option<ByteSize>,
    /// Lines that match start a record.
    #[serde(rename = "multiline.start.pattern", default)]
    #[schemars(extend("x-group" = "Lines"))]
    multiline_start: Option<Regex>,
    /// How often to look.
    #[serde(rename = "poll.interval", default)]
    #[schemars(range(min = 10, max = 3_600_000), extend("x-group" = "File"))]
    poll_interval: Option<Millis>,
    /// Adds headers.
    #[serde(rename = "record.headers", default)]
    #[schemars(extend("x-group" = "Record"))]
    record_headers: bool,
}

struct FileSource;

#[async_trait]
impl SourceConnector for FileSource {
    type Config = FileSourceConfig;
    type Task = Idle;
    const NAME: &'static str = "file-source";
    const ALIASES: &'static [&'static str] = &["org.apache.kafka.connect.file.FileStreamSourceConnector"];
    const SUMMARY: &'static str = "Tails files.";

    fn validate(config: &FileSourceConfig) -> Vec<Issue> {
        match config.file {
            None => vec![Issue::error("file", "config.missing", "is required").fix("add `file: /var/log/app/*.log`")],
            Some(_) => Vec::new(),
        }
    }

    async fn open(_: FileSourceConfig, _: TaskSpec, _: Vec<SourceOffset>) -> Result<Idle> {
        Ok(Idle)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Lines,
    Json,
    Csv,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only read to be checked")]
struct FileSinkConfig {
    /// One file that records are appended to.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Target", "x-example" = "/var/lib/out/orders.jsonl"))]
    file: Option<PathText>,
    /// A folder of files that roll.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Target", "x-example" = "/var/lib/out"))]
    directory: Option<PathText>,
    /// What a record becomes.
    #[serde(default)]
    #[schemars(extend("x-group" = "Format"))]
    format: Format,
    /// A file is finished when it has this much text.
    #[serde(rename = "roll.bytes", default)]
    #[schemars(range(min = 1), extend("x-group" = "Rolling"))]
    roll_bytes: Option<ByteSize>,
}

struct FileSink;

#[async_trait]
impl SinkConnector for FileSink {
    type Config = FileSinkConfig;
    type Task = Idle;
    const NAME: &'static str = "file-sink";
    const ALIASES: &'static [&'static str] = &["org.apache.kafka.connect.file.FileStreamSinkConnector"];
    const SUMMARY: &'static str = "Writes files.";

    fn validate(config: &FileSinkConfig) -> Vec<Issue> {
        match (&config.file, &config.directory) {
            (None, None) => {
                vec![Issue::error("file", "config.missing", "is required, or directory").fix("add `file: …` or `directory: …`")]
            }
            (Some(_), Some(_)) => {
                vec![Issue::error("directory", "config.conflict", "stands beside file").fix("remove one of them")]
            }
            _ => Vec::new(),
        }
    }

    async fn open(_: FileSinkConfig, _: TaskSpec) -> Result<Idle> {
        Ok(Idle)
    }
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only read to be checked")]
struct DatabaseConfig {
    /// The host.
    #[serde(rename = "database.hostname")]
    #[schemars(extend("x-example" = "localhost"))]
    hostname: String,
    /// The port.
    #[serde(rename = "database.port", default)]
    port: Option<u16>,
    /// The password.
    #[serde(rename = "database.password")]
    #[schemars(length(min = 4))]
    password: Secret,
    /// The tables.
    #[serde(rename = "table.include.list", default)]
    #[schemars(extend("x-example" = "public.orders"))]
    tables: List<Regex>,
    /// A share of the rows.
    #[serde(rename = "sample.ratio", default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    ratio: Option<f64>,
    /// Sent as they are.
    #[serde(rename = "headers.*")]
    #[schemars(extend("x-example" = "x-tenant=acme"))]
    headers: Family<String>,
}

struct DatabaseSource;

#[async_trait]
impl SourceConnector for DatabaseSource {
    type Config = DatabaseConfig;
    type Task = Idle;
    const NAME: &'static str = "database-source";
    const SUMMARY: &'static str = "Reads tables.";

    async fn open(_: DatabaseConfig, _: TaskSpec, _: Vec<SourceOffset>) -> Result<Idle> {
        Ok(Idle)
    }
}
