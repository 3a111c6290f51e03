//! What every connector has beside its plugin's options. Names and defaults are Kafka Connect's; what is ours begins with `aqueduct.`.

mod common;
mod overrides;
mod topic_creation;

pub use common::{ExactlyOnce, TransactionBoundary};
pub use overrides::{ClientOverrides, OverridePolicy};
pub use topic_creation::{TopicCreation, TopicGroup, TopicSettings, is_topic_config};

use crate::options::parse;
use crate::shape::specs;
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Issue, OptionSpec, Options, PluginKind, Topics};
use common::{CommonOptions, SinkOptions, SourceOptions};
use std::collections::BTreeMap;
use std::time::Duration;

/// The worker's part of one connector's config, typed.
#[derive(Clone, Debug)]
pub struct ConnectorSettings {
    pub name: String,
    /// `connector.class` as written.
    pub class: String,
    /// 1 to 1,000.
    pub tasks_max: u32,
    /// `tasks.max.enforce`: a plan with more tasks fails.
    pub tasks_max_enforce: bool,
    pub key_converter: ConverterSettings,
    pub value_converter: ConverterSettings,
    pub header_converter: ConverterSettings,
    /// In order.
    pub errors: Errors,
    pub restart: Restart,
    pub limits: Limits,
    /// `config.action.reload: restart`
    pub reload: bool,
    /// Only Kafka heeds them.
    pub clients: ClientOverrides,
    pub role: Role,
}

#[derive(Clone, Debug)]
pub enum Role {
    Source(SourceSettings),
    Sink(SinkSettings),
}

#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub exactly_once: ExactlyOnce,
    pub topic_creation: TopicCreation,
    /// Where a transaction ends. Only Kafka heeds it; the embedded log commits each batch.
    pub transaction_boundary: TransactionBoundary,
    /// With the boundary `interval`; `offset.flush.interval.ms` if not set.
    pub transaction_interval: Option<Duration>,
    /// `offsets.storage.topic`: only Kafka heeds it. The worker's if not set.
    pub offsets_topic: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub topics: Topics,
}

/// A converter by class, with its own options (what follows `value.converter.`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConverterSettings {
    pub class: String,
    pub options: Options,
}

impl ConverterSettings {
    pub fn new(class: impl Into<String>) -> Self {
        Self { class: class.into(), options: Options::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// `errors.tolerance: all`
    pub tolerate: bool,
    /// `None`: without end.
    pub retry_timeout: Option<Duration>,
    pub retry_delay_max: Duration,
    pub log: bool,
    pub log_messages: bool,
    pub dead_letter_queue: Option<DeadLetterQueue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterQueue {
    pub topic: String,
    pub replication_factor: i16,
    pub context_headers: bool,
}

/// How often a task that failed retriably starts again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    pub initial: Duration,
    pub max: Duration,
    pub attempts_max: u32,
}

/// The bounds of one task (invariant 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub buffer_bytes: usize,
    pub batch_bytes: usize,
    pub batch_records: usize,
    pub stall_timeout: Duration,
    /// How often a sink's position is committed.
    pub flush_interval: Duration,
}

/// What worker.yaml says for connectors that do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorDefaults {
    pub key_converter: ConverterSettings,
    pub value_converter: ConverterSettings,
    pub header_converter: ConverterSettings,
    pub flush_interval: Duration,
    /// What follows `topic.creation.default.`
    pub topic: Options,
    /// `topic.creation.enable`
    pub topic_creation: bool,
    pub kafka: Option<KafkaDefaults>,
}

/// Kafka is the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaDefaults {
    /// What connectors may override of its clients.
    pub overrides: OverridePolicy,
    /// `exactly.once.source.support: enabled`
    pub exactly_once: bool,
}

/// Bytes as they are, structured values as JSON.
pub const PLAIN_CONVERTER: &str = "plain";
pub const SIMPLE_HEADER_CONVERTER: &str = "org.apache.kafka.connect.storage.SimpleHeaderConverter";

impl Default for ConnectorDefaults {
    fn default() -> Self {
        Self {
            // Lines and messages pass as they are, without being parsed.
            key_converter: ConverterSettings::new(PLAIN_CONVERTER),
            value_converter: ConverterSettings::new(PLAIN_CONVERTER),
            header_converter: ConverterSettings::new(SIMPLE_HEADER_CONVERTER),
            flush_interval: Duration::from_secs(1),
            topic: Options::new(),
            topic_creation: true,
            kafka: None,
        }
    }
}

/// The options of this module for one kind of connector, in the order of the reference.
pub fn options(kind: PluginKind) -> Vec<OptionSpec> {
    let mut options = specs::<CommonOptions>();
    options.extend(match kind {
        PluginKind::Source => specs::<SourceOptions>(),
        PluginKind::Sink => specs::<SinkOptions>(),
    });
    options
}

impl ConnectorSettings {
    /// Reads the keys of `options` that are the worker's; those of the plugin, of transforms and of converters are not looked at.
    ///
    /// # Errors
    /// Every issue.
    pub fn parse(kind: PluginKind, options: &Options, defaults: &ConnectorDefaults) -> Result<Self, Vec<Issue>> {
        let (settings, issues) = Self::read(kind, options, defaults);
        settings.ok_or(issues)
    }

    /// As [`ConnectorSettings::parse`], with the warnings of a config that is good.
    pub fn read(kind: PluginKind, options: &Options, defaults: &ConnectorDefaults) -> (Option<Self>, Vec<Issue>) {
        let mut issues = Vec::new();
        let common = parse::<CommonOptions>(options).map_err(|more| issues.extend(more)).ok();
        if let Some(common) = &common {
            issues.extend(common.issues());
        }
        let clients = ClientOverrides::of(options);
        issues.extend(clients.issues(defaults.kafka.as_ref().map(|kafka| &kafka.overrides)));
        let role = match kind {
            PluginKind::Source => source_role(options, defaults),
            PluginKind::Sink => sink_role(options),
        };
        let role = role.map_err(|more| issues.extend(more)).ok();
        let settings = match (common, role) {
            (Some(common), Some(role)) if !issues.iter().any(Issue::is_error) => {
                Some(common.settings(options, defaults, clients, role))
            }
            _ => None,
        };
        (settings, issues)
    }
}

impl CommonOptions {
    fn settings(
        self,
        options: &Options,
        defaults: &ConnectorDefaults,
        clients: ClientOverrides,
        role: Role,
    ) -> ConnectorSettings {
        let converter = |class: Option<String>, prefix: &str, default: &ConverterSettings| match class {
            // As in Kafka Connect: the worker's converter comes with the worker's options only.
            None => default.clone(),
            Some(class) => ConverterSettings { class, options: converter_options(options, prefix) },
        };
        let dead_letter_queue = self.dlq_topic.filter(|topic| !topic.is_empty()).map(|topic| DeadLetterQueue {
            topic,
            replication_factor: self.dlq_replication,
            context_headers: self.dlq_headers,
        });
        ConnectorSettings {
            key_converter: converter(self.key_converter, "key.converter.", &defaults.key_converter),
            value_converter: converter(self.value_converter, "value.converter.", &defaults.value_converter),
            header_converter: converter(self.header_converter, "header.converter.", &defaults.header_converter),
            errors: Errors {
                tolerate: self.tolerance == common::Tolerance::All,
                retry_timeout: self.retry_timeout.0.map(Into::into),
                retry_delay_max: self.retry_delay_max.into(),
                log: self.log_errors,
                log_messages: self.log_messages,
                dead_letter_queue,
            },
            restart: Restart {
                initial: self.restart_initial.into(),
                max: self.restart_max.into(),
                attempts_max: self.restart_attempts.unwrap_or(u32::MAX),
            },
            limits: Limits {
                buffer_bytes: self.buffer_bytes.unwrap_or_else(|| common::buffer(defaults.kafka.is_some())).as_usize(),
                batch_bytes: self.batch_bytes.as_usize(),
                batch_records: self.batch_records as usize,
                stall_timeout: self.stall_timeout.into(),
                flush_interval: self.flush_interval.map_or(defaults.flush_interval, Into::into),
            },
            reload: self.reload == common::Reload::Restart,
            name: self.name,
            class: self.class,
            tasks_max: self.tasks_max,
            tasks_max_enforce: self.tasks_max_enforce,
            clients,
            role,
        }
    }

    /// What needs more than one key.
    fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        if let Some(why) = bad_name(&self.name) {
            issues.push(Issue::error("name", "config.name", why).fix("use letters, digits, - and _"));
        }
        let buffer_bytes = self.buffer_bytes.unwrap_or_else(|| common::buffer(false));
        if self.batch_bytes > buffer_bytes {
            let message = format!("{} is more than aqueduct.buffer.bytes, which is {buffer_bytes}", self.batch_bytes);
            issues.push(
                Issue::error("aqueduct.batch.max.bytes", "config.range", message).fix("make it smaller, or the buffer larger"),
            );
        }
        if self.restart_initial > self.restart_max {
            let message =
                format!("{} is more than aqueduct.restart.backoff.max.ms, which is {}", self.restart_initial, self.restart_max);
            issues.push(Issue::error("aqueduct.restart.backoff.initial.ms", "config.range", message).fix("make it smaller"));
        }
        match self.dlq_topic.as_deref() {
            Some(topic) if !topic.is_empty() => {
                issues.extend(bad_topic("errors.deadletterqueue.topic.name", topic));
                if self.tolerance == common::Tolerance::None {
                    let message = "has no effect while errors.tolerance is none: the task fails at the first bad record";
                    let issue = Issue::warning("errors.deadletterqueue.topic.name", "config.no_effect", message);
                    issues.push(issue.fix("set errors.tolerance: all"));
                }
            }
            _ => {}
        }
        issues
    }
}

/// What is wrong with a connector's name. It stands in paths of the REST API, in group names and in file names.
pub(crate) fn bad_name(name: &str) -> Option<String> {
    match name {
        name if name.trim().is_empty() => Some("a connector's name cannot be empty".to_owned()),
        name if name.chars().any(char::is_control) => Some("a connector's name cannot have control characters".to_owned()),
        name if name.trim() != name => Some("a connector's name cannot begin or end with white space".to_owned()),
        name if name.len() > 200 => Some(format!("a connector's name has at most 200 bytes, this one has {}", name.len())),
        _ => None,
    }
}

fn bad_topic(path: &str, topic: &str) -> Option<Issue> {
    (!is_valid_topic_name(topic)).then(|| {
        Issue::error(path, "config.topic", format!("{topic:?} is not a topic name"))
            .fix("use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'")
    })
}

/// `key.converter.plugin.version` chooses a plugin in Kafka Connect; it is no option of the converter.
fn converter_options(options: &Options, prefix: &str) -> Options {
    let mut own = below(options, prefix);
    own.remove("plugin.version");
    own
}

/// The options whose keys start with `prefix`, without it.
pub(crate) fn below(options: &Options, prefix: &str) -> Options {
    let range = options.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    range.map(|(key, value)| (key[prefix.len()..].to_owned(), value.clone())).filter(|(key, _)| !key.is_empty()).collect()
}

fn source_role(options: &Options, defaults: &ConnectorDefaults) -> Result<Role, Vec<Issue>> {
    let mut issues = Vec::new();
    let source = parse::<SourceOptions>(options).map_err(|more| issues.extend(more)).ok();
    let topic_creation = TopicCreation::parse(options, defaults).map_err(|more| issues.extend(more)).ok();
    match (source, topic_creation) {
        (Some(source), Some(topic_creation)) => {
            let offsets_topic = source.offsets_topic.filter(|topic| !topic.is_empty());
            if let Some(issue) = offsets_topic.as_deref().and_then(|topic| bad_topic("offsets.storage.topic", topic)) {
                return Err(vec![issue]);
            }
            let at_least_once = defaults.kafka.as_ref().is_some_and(|kafka| !kafka.exactly_once);
            if at_least_once && source.exactly_once == ExactlyOnce::Required {
                let message = "required cannot be: the worker has exactly-once sources switched off";
                let issue = Issue::error("exactly.once.support", "config.conflict", message);
                return Err(vec![issue.fix("set exactly.once.source.support: enabled in worker.yaml, or requested here")]);
            }
            Ok(Role::Source(SourceSettings {
                exactly_once: source.exactly_once,
                topic_creation,
                transaction_boundary: source.transaction_boundary,
                transaction_interval: source.transaction_interval.map(Into::into),
                offsets_topic,
            }))
        }
        _ => {
            // The kinds of the two plain ones are known twice.
            let mut seen = std::collections::BTreeSet::new();
            issues.retain(|issue| {
                !issue.path.starts_with("topic.creation.default.") || seen.insert((issue.path.clone(), issue.code.clone()))
            });
            Err(issues)
        }
    }
}

/// Over whole names.
pub(crate) fn full(pattern: &str) -> Option<crate::types::Regex> {
    crate::types::Regex::parse(&format!("^(?:{pattern})$")).ok()
}

fn sink_role(options: &Options) -> Result<Role, Vec<Issue>> {
    let sink = parse::<SinkOptions>(options)?;
    let topics: Vec<String> = sink.topics.0;
    let dlq = options.get("errors.deadletterqueue.topic.name").filter(|topic| !topic.is_empty());
    match (topics.is_empty(), sink.topics_regex) {
        (false, Some(_)) => {
            let issue = Issue::error("topics.regex", "config.conflict", "stands beside topics; a sink reads by one of them");
            Err(vec![issue.fix("remove one of them")])
        }
        (true, None) => {
            let message = "is required and has no default: a sink reads topics, or what topics.regex matches";
            Err(vec![Issue::error("topics", "config.missing", message).fix("add `topics: …` or `topics.regex: …`")])
        }
        (true, Some(regex)) if dlq.is_some_and(|topic| full(regex.as_str()).is_some_and(|regex| regex.is_match(topic))) => {
            let message = format!(
                "{} is also read by this sink: its dead letters would come back for ever",
                dlq.map_or("", String::as_str)
            );
            Err(vec![Issue::error("errors.deadletterqueue.topic.name", "config.conflict", message).fix("name another topic")])
        }
        (true, Some(regex)) => Ok(Role::Sink(SinkSettings { topics: Topics::Regex(regex.as_str().to_owned()) })),
        (false, None) => {
            let mut issues: Vec<Issue> = topics.iter().filter_map(|topic| bad_topic("topics", topic)).collect();
            if let Some(topic) = topics.iter().find(|topic| Some(*topic) == dlq) {
                let message = format!("{topic} is also read by this sink: its dead letters would come back for ever");
                issues.push(
                    Issue::error("errors.deadletterqueue.topic.name", "config.conflict", message).fix("name another topic"),
                );
            }
            let mut seen = BTreeMap::new();
            for topic in &topics {
                if seen.insert(topic, ()).is_some() {
                    issues.push(Issue::warning("topics", "config.duplicate", format!("{topic} stands in the list twice")));
                }
            }
            if issues.iter().any(Issue::is_error) {
                return Err(issues);
            }
            Ok(Role::Sink(SinkSettings { topics: Topics::Names(seen.into_keys().map(|topic| topic.as_str().into()).collect()) }))
        }
    }
}

#[cfg(test)]
mod tests;
