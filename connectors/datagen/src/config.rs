//! The options of `datagen-source`.

use aqueduct_config::{ByteSize, Millis, PathText};
use aqueduct_core::{Issue, offset::is_valid_topic_name};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the names are those of Confluent's Datagen connector, so are the meanings.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What to generate.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-aliases" = ["quickstart"]))]
    pub template: Template,
    /// The topic to write to. Not needed with `file`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 249), extend("x-importance" = "high", "x-group" = "Records", "x-example" = "orders", "x-aliases" = ["kafka.topic"]))]
    pub topic: Option<String>,
    /// Records per second; 0 is as fast as they are taken.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 1_000_000_000), extend("x-importance" = "high", "x-group" = "Pace"))]
    pub rate: f64,
    /// Instead of a steady rate: records come at random intervals of at most this.
    #[serde(rename = "max.interval", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Pace", "x-example" = "500"))]
    pub max_interval: Option<Millis>,
    /// Ends after so many records in all; -1 is never.
    #[serde(default = "never")]
    #[schemars(range(min = -1), extend("x-importance" = "medium", "x-group" = "Pace", "x-aliases" = ["iterations"]))]
    pub count: i64,
    /// The same seed makes the same records.
    #[serde(default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "Records", "x-aliases" = ["random.seed"]))]
    pub seed: u64,
    /// The time that stands in the first record; later ones follow at the rate. An instant such as `2026-01-01T00:00:00Z`, or `now`: the time of
    /// the connector's first start, kept in its offset.
    #[serde(rename = "start.time", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Records"))]
    pub start: Start,
    /// With the template `access_log`: write the lines to this file, which grows and rotates as a web server's would, and no records to a topic.
    #[serde(default)]
    #[schemars(extend("x-importance" = "medium", "x-group" = "File", "x-example" = "data/demo/access.log"))]
    pub file: Option<PathText>,
    /// The file is renamed to `<file>.1` before it grows beyond this, `<file>.1` to `<file>.2` and so on.
    #[serde(rename = "file.max.bytes", default = "sixteen_mib")]
    #[schemars(range(min = 1024), extend("x-importance" = "low", "x-group" = "File"))]
    pub file_max_bytes: ByteSize,
    /// How many renamed files are kept; older ones are deleted.
    #[serde(rename = "file.keep", default = "five")]
    #[schemars(range(min = 1, max = 1000), extend("x-importance" = "low", "x-group" = "File"))]
    pub file_keep: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// Orders with an address, keyed by order id.
    #[default]
    Orders,
    /// Readings of 100 sensors, keyed by sensor.
    Sensors,
    /// Lines of a web server's access log, with a request number at the end.
    AccessLog,
    /// Raises of 1,000 employees, keyed by employee.
    SalaryUpdates,
}

impl Template {
    pub(crate) const ALL: [Self; 4] = [Self::Orders, Self::Sensors, Self::AccessLog, Self::SalaryUpdates];

    /// As in the config.
    pub fn name(self) -> &'static str {
        match self {
            Template::Orders => "orders",
            Template::Sensors => "sensors",
            Template::AccessLog => "access_log",
            Template::SalaryUpdates => "salary_updates",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Start {
    Now,
    At(Timestamp),
}

impl Default for Start {
    /// 2026-01-01T00:00:00Z
    fn default() -> Self {
        Start::At(Timestamp::constant(1_767_225_600, 0))
    }
}

impl TryFrom<String> for Start {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.trim() {
            "now" => Ok(Start::Now),
            text => text
                .parse()
                .map(Start::At)
                .map_err(|why| format!("{text:?} is neither `now` nor an instant such as 2026-01-01T00:00:00Z: {why}")),
        }
    }
}

impl From<Start> for String {
    fn from(start: Start) -> String {
        match start {
            Start::Now => "now".to_owned(),
            Start::At(time) => time.to_string(),
        }
    }
}

fn ten() -> f64 {
    10.0
}

fn never() -> i64 {
    -1
}

fn sixteen_mib() -> ByteSize {
    ByteSize::mib(16)
}

fn five() -> u32 {
    5
}

impl Config {
    /// In records.
    pub(crate) fn end(&self) -> u64 {
        u64::try_from(self.count).unwrap_or(u64::MAX)
    }

    pub(crate) fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        match (&self.topic, &self.file) {
            (None, None) => {
                let issue = Issue::error("topic", "config.missing", "is required and has no default");
                issues.push(issue.fix("add `topic: orders` (The topic to write to)"));
            }
            (Some(_), Some(_)) => {
                let issue = Issue::warning(
                    "topic",
                    "datagen.topic_unused",
                    "is not written to: with `file` the lines go to the file alone",
                );
                issues.push(issue.fix("remove topic, and tail the file with a file-source; or remove file"));
            }
            (Some(topic), None) if !is_valid_topic_name(topic) => {
                let issue = Issue::error("topic", "config.topic", format!("{topic:?} is no name of a topic"));
                issues.push(issue.fix("use at most 249 letters, digits, '.', '_' and '-'"));
            }
            _ => {}
        }
        if self.file.is_some() && self.template != Template::AccessLog {
            let message = format!("only access_log can be written to a file, not {}", self.template.name());
            issues.push(Issue::error("file", "datagen.file_template", message).fix("set `template: access_log`, or remove file"));
        }
        issues
    }
}
