//! The options of `mqtt-source`.

use crate::config::{Client, with_broker};
use crate::topic::{Filter, Template, log_topic};
use crate::wire::{Retained, Version};
use aqueduct_config::List;
use aqueduct_core::{Issue, TaskSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lost {
    #[default]
    Warn,
    Fail,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RetainHandling {
    Always,
    #[default]
    New,
    Never,
}

with_broker! {
    #[derive(Debug, Deserialize, JsonSchema)]
    pub struct Config {
        /// The topics to subscribe to, with wildcards: `fleet/+/pos`, `fleet/#`.
        #[serde(rename = "mqtt.topics")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Subscription", "x-example" = "fleet/+/pos"))]
        topics: List<String>,
        /// The QoS asked for: 0 at most once, 1 at least once, 2 exactly once within a session.
        #[serde(rename = "mqtt.qos", default = "one")]
        #[schemars(range(min = 0, max = 2), extend("x-importance" = "high", "x-group" = "Subscription"))]
        qos: u8,
        /// `true`: the broker forgets this client when the connection ends, and what is published while the worker is down is lost.
        #[serde(rename = "mqtt.clean.session.enabled", default)]
        #[schemars(extend("x-group" = "Session"))]
        clean: bool,
        /// How long the broker keeps the session while nobody is connected (5.0; with 3.1.1 it is the broker's own setting).
        #[serde(rename = "mqtt.session.expiry.seconds", default = "one_week")]
        #[schemars(range(min = 1), extend("x-group" = "Session"))]
        session_expiry: u32,
        /// What to do when the broker has no session where there was one, so that messages may be lost: `warn` and go on, or `fail`.
        #[serde(rename = "mqtt.session.lost", default)]
        #[schemars(extend("x-group" = "Session"))]
        lost: Lost,
        /// Retained messages: `new` takes them when the subscription is new (with 3.1.1: at each connection), `always` at each connection, `never` not at all.
        #[serde(rename = "mqtt.retain.handling", default)]
        #[schemars(extend("x-group" = "Subscription"))]
        retain_handling: RetainHandling,
        /// How many messages of QoS 1 and 2 may be on the way to the log; the broker waits with more (5.0), or the connection does (3.1.1).
        #[serde(rename = "mqtt.max.inflight", default = "thousand")]
        #[schemars(range(min = 1, max = 65_535), extend("x-importance" = "low", "x-group" = "Subscription"))]
        max_inflight: u16,
        /// The topic in the log: a text with `${topic}` (levels parted by dots) and `${1}`, `${2}`, … for what the wildcards stand for.
        #[serde(rename = "kafka.topic", default = "mqtt")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-aliases" = ["topic.format"], "x-example" = "fleet-positions"))]
        kafka_topic: String,
        /// The record's key: a text with `${topic}`, `${1}`, `${2}`, …. Empty for no key.
        #[serde(rename = "key.format", default = "whole_topic")]
        #[schemars(extend("x-group" = "Records", "x-example" = "${1}"))]
        key_format: String,
        /// Adds headers: `mqtt.qos`, `mqtt.retained`, `mqtt.duplicate`, and the properties of 5.0.
        #[serde(rename = "mqtt.headers.enabled", default = "yes")]
        #[schemars(extend("x-group" = "Records"))]
        headers: bool,
    }
}

fn one() -> u8 {
    1
}
fn yes() -> bool {
    true
}
fn one_week() -> u32 {
    604_800
}
fn thousand() -> u16 {
    1000
}
/// Confluent's default.
fn mqtt() -> String {
    "mqtt".to_owned()
}
fn whole_topic() -> String {
    "${topic}".to_owned()
}

/// Checked.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub client: Client,
    pub filters: Vec<Filter>,
    pub qos: u8,
    pub clean: bool,
    pub session_expiry: u32,
    pub lost: Lost,
    pub retained: Retained,
    /// With 3.1.1 the broker sends them in any case.
    pub drops_retained: bool,
    pub max_inflight: u16,
    pub topic: Template,
    /// `None`: no key.
    pub key: Option<Template>,
    pub headers: bool,
}

/// More than any config has, and a SUBSCRIBE stays small.
const FILTERS_MAX: usize = 1000;

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        let mut issues = Vec::new();
        let client = self.broker().client().map_err(|found| issues.extend(found)).ok();
        let mut wrong = |path: &str, message: String, fix: &str| issues.push(Issue::error(path, "mqtt.config", message).fix(fix));
        let mut filters = Vec::new();
        for text in self.topics.iter() {
            match Filter::parse(text) {
                Ok(filter) => filters.push(filter),
                Err(why) => wrong("mqtt.topics", why, "`+` and `#` stand for whole levels, `#` for the last ones"),
            }
        }
        if self.topics.is_empty() || self.topics.len() > FILTERS_MAX {
            wrong("mqtt.topics", format!("names {} topics", self.topics.len()), "name 1 to 1,000 topics or filters");
        }
        let mut template = |path: &str, text: &str| match Template::parse(text) {
            Err(why) => {
                wrong(path, why, "use ${topic} and ${1}, ${2}, …");
                None
            }
            Ok(template) => {
                if let Some(filter) = filters.iter().find(|filter| filter.wildcards() < template.captures()) {
                    let (asked, has) = (template.captures(), filter.wildcards());
                    wrong(
                        path,
                        format!("names ${{{asked}}}, and {:?} has {has} wildcards", filter.subscription(None)),
                        "name wildcards that every filter has",
                    );
                }
                Some(template)
            }
        };
        let topic = template("kafka.topic", &self.kafka_topic);
        let key = template("key.format", &self.key_format);
        if self.kafka_topic.is_empty() || (!self.kafka_topic.contains("${") && log_topic(&self.kafka_topic) != self.kafka_topic) {
            wrong("kafka.topic", format!("{:?} is not a topic name", self.kafka_topic), "use letters, digits, dots, _ and -");
        }
        match (client, topic, key) {
            (Some(client), Some(topic), Some(key)) if issues.is_empty() => Ok(Settings {
                drops_retained: self.retain_handling == RetainHandling::Never && client.version == Version::V3,
                client,
                filters,
                qos: self.qos,
                clean: self.clean,
                session_expiry: if self.clean { 0 } else { self.session_expiry },
                lost: self.lost,
                retained: match self.retain_handling {
                    RetainHandling::Always => Retained::Always,
                    RetainHandling::New => Retained::New,
                    RetainHandling::Never => Retained::Never,
                },
                max_inflight: self.max_inflight,
                topic,
                key: Some(key).filter(|_| !self.key_format.is_empty()),
                headers: self.headers,
            }),
            _ => Err(issues),
        }
    }
}

/// Every task a client of its own; together they are a group of shared subscribers.
pub(super) fn plan(tasks_max: u32) -> Vec<TaskSpec> {
    let tasks = tasks_max.max(1);
    let of = |index: u32| [("task".to_owned(), index.to_string()), ("tasks".to_owned(), tasks.to_string())].into_iter().collect();
    (0..tasks).map(of).collect()
}

/// Which task, of how many.
pub(super) fn share(task: &TaskSpec) -> (u32, u32) {
    let number = |key: &str| task.get(key).and_then(|text| text.parse().ok());
    (number("task").unwrap_or(0), number("tasks").unwrap_or(1))
}
