//! worker.yaml, `AQUEDUCT_…` and `--set`, typed, with every issue at once. Names are Kafka Connect's where it has them.

mod headers;
mod kafka;
mod options;
mod plugins;
mod providers;
mod rest;
mod telemetry;
mod tls;

use crate::check::hide;
use crate::document;
use crate::flatten::{Flat, flatten};
use crate::nearest::nearest;
use crate::options::parse;
use crate::providers::Providers;
use crate::settings::{
    ConnectorDefaults, ConverterSettings, KafkaDefaults, OverridePolicy, TopicSettings, below, is_topic_config,
};
use crate::shape::specs;
use aqueduct_core::{Issue, OptionSpec};
pub use headers::{HeaderAction, HeaderRule};
use kafka::KafkaOptions;
pub use kafka::{ClientOptions, ExactlyOnceSource, KafkaSettings, StorageTopic};
use options::WorkerOptions;
pub use plugins::{PluginGrant, SecretTexts};
use rest::RestOptions;
pub use rest::RestSettings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
pub use telemetry::Telemetry;
use telemetry::TelemetryOptions;
use tls::{AdminTlsOptions, TlsOptions};
pub use tls::{ClientAuth, Keystore, TlsSettings};

#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// URLs, at least one.
    pub listeners: Vec<String>,
    pub plugin_path: Vec<PathBuf>,
    /// What each plugin is granted, by its name.
    pub plugins: BTreeMap<String, PluginGrant>,
    pub data_dir: PathBuf,
    pub connectors_dir: Option<PathBuf>,
    /// A connector whose file is gone is deleted.
    pub connectors_dir_prune: bool,
    pub group_id: String,
    /// `bootstrap.servers`: Apache Kafka is the log, else the embedded one in `data_dir`.
    pub kafka: Option<KafkaSettings>,
    pub shutdown_timeout: Duration,
    pub topic_tracking: bool,
    pub topic_tracking_reset: bool,
    pub advertised_host: Option<String>,
    /// `*`, or origins separated by commas; empty: no CORS.
    pub allow_origin: String,
    pub allow_methods: String,
    pub rest: RestSettings,
    /// `None`: no spans are made.
    pub telemetry: Option<Telemetry>,
    pub defaults: ConnectorDefaults,
    pub providers: Providers,
    /// What has no effect, say.
    pub warnings: Vec<Issue>,
}

/// Every option of worker.yaml, in the order of the reference.
pub fn options() -> Vec<OptionSpec> {
    let mut options = specs::<WorkerOptions>();
    options.extend(specs::<RestOptions>());
    options.extend(specs::<TlsOptions>());
    options.extend(specs::<AdminTlsOptions>());
    options.extend(specs::<TelemetryOptions>());
    options.extend(specs::<KafkaOptions>());
    options
}

const ENV_PREFIX: &str = "AQUEDUCT_";

/// Kafka Connect's, for a group of workers or for the JVM: taken, and without effect here.
const NO_EFFECT: [&str; 12] = [
    "connect.protocol",
    "heartbeat.interval.ms",
    "inter.worker.",
    "internal.",
    "metric.reporters",
    "metrics.",
    "offset.flush.timeout.ms",
    "plugin.discovery",
    "rebalance.timeout.ms",
    "rest.extension.classes",
    "scheduled.rebalance.max.delay.ms",
    "session.timeout.ms",
];

/// Broker options that say what a topic without options of its own is like.
const TOPIC_DEFAULTS: [(&str, &str); 6] = [
    ("log.retention.ms", "retention.ms"),
    ("log.retention.bytes", "retention.bytes"),
    ("log.segment.bytes", "segment.bytes"),
    ("log.roll.ms", "segment.ms"),
    ("log.cleanup.policy", "cleanup.policy"),
    ("log.compression.type", "compression.type"),
];

impl Default for WorkerConfig {
    fn default() -> Self {
        Self::load(None, &[], []).expect("the defaults are good: a test loads them")
    }
}

impl WorkerConfig {
    /// The file, then the environment, then `--set`: the later wins. `file` is its name and its text.
    ///
    /// # Errors
    /// Every issue, with its place in the file, or the variable or flag that it came from.
    pub fn load(
        file: Option<(&str, &str)>,
        set: &[(String, String)],
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Issue>> {
        let mut sources = Sources::default();
        if let Some((name, text)) = file {
            sources.read(name, text);
        }
        for (variable, value) in env {
            sources.variable(&variable, value);
        }
        for (key, value) in set {
            sources.overlay(key.clone(), value.clone(), format!("--set {key}"));
        }
        sources.finish()
    }
}

/// What was given, and where.
#[derive(Default)]
struct Sources {
    flat: Flat,
    issues: Vec<Issue>,
    /// Keys that did not come from the file.
    given_by: BTreeMap<String, String>,
}

impl Sources {
    fn read(&mut self, file: &str, text: &str) {
        let (documents, issues) = document::read(file, text);
        self.issues.extend(issues.into_iter().filter(|issue| issue.code != "config.empty"));
        if let [_, second, ..] = documents.as_slice() {
            let issue = Issue::error("", "config.shape", "worker.yaml has one document");
            self.issues.push(issue.fix("remove the line `---`").at(second.root.place.in_file(file)));
        }
        if let Some(document) = documents.first() {
            let (flat, mut issues) = flatten(document);
            for issue in issues.iter_mut().filter(|issue| issue.code == "config.shape") {
                issue.message = "worker.yaml is a map of keys and values".to_owned();
                issue.fix = Some("write `data.dir: data`, say".to_owned());
            }
            self.issues.extend(issues);
            self.flat = flat;
        }
    }

    fn variable(&mut self, variable: &str, value: String) {
        let Some(name) = variable.strip_prefix(ENV_PREFIX) else { return };
        let names: Vec<String> = options().into_iter().map(|option| option.name).collect();
        let shouted = |key: &str| key.to_ascii_uppercase().replace('.', "_");
        let whole = names.iter().find(|key| !key.ends_with('*') && shouted(key) == name).cloned();
        let family = || {
            let prefix =
                names.iter().filter_map(|key| key.strip_suffix('*')).find(|prefix| name.starts_with(&shouted(prefix)))?;
            Some(format!("{prefix}{}", name[prefix.len()..].to_ascii_lowercase().replace('_', ".")))
        };
        if let Some(key) = whole.or_else(family) {
            self.overlay(key, value, variable.to_owned());
        } else if let Some(near) = nearest(&name.to_ascii_lowercase(), names.iter().map(String::as_str)) {
            // Others begin with AQUEDUCT_ too, such as AQUEDUCT_URL of the command line.
            let message = format!("the variable {variable} sets nothing");
            let issue = Issue::warning("", "config.unknown_variable", message);
            self.issues.push(issue.fix(format!("did you mean {ENV_PREFIX}{}?", shouted(near))));
        }
    }

    fn overlay(&mut self, key: String, value: String, by: String) {
        self.flat.places.remove(&key);
        self.flat.entries.insert(key.clone(), value);
        self.given_by.insert(key, by);
    }

    fn finish(mut self) -> Result<WorkerConfig, Vec<Issue>> {
        // Who writes worker.yaml owns the worker: its references may read what the worker may.
        let (resolved, unresolved) = Providers::open().resolve_all(&self.flat.entries);
        let unresolved: Vec<Issue> =
            unresolved.into_iter().filter(|issue| !issue.path.starts_with("config.providers.")).collect();
        let unknown = self.unknown_keys();
        self.issues.extend(unknown);
        let parsed = parse::<WorkerOptions>(&resolved.options).map_err(|issues| self.issues.extend(issues)).ok();
        let (providers, issues) = providers::read(&resolved.options);
        self.issues.extend(issues);
        let (plugins, issues) = plugins::read(&resolved.options, &self.flat.entries);
        self.issues.extend(issues);
        let is_kafka = resolved.options.contains_key("bootstrap.servers");
        let mut topic = crate::Flat::from(&below(&resolved.options, "topic.creation.default.")).to_options();
        for (broker, name) in TOPIC_DEFAULTS {
            if let Some(value) = resolved.options.get(broker) {
                let mut issues = Vec::new();
                TopicSettings::default().read(&[(name.to_owned(), value.clone())].into(), "", false, &mut issues);
                self.issues.extend(issues.into_iter().map(|issue| Issue { path: broker.to_owned(), ..issue }));
                if !is_kafka {
                    topic.entry(name.to_owned()).or_insert_with(|| value.clone());
                }
            }
        }
        TopicSettings::default().read(
            &below(&resolved.options, "topic.creation.default."),
            "topic.creation.default.",
            is_kafka,
            &mut self.issues,
        );
        let rest = self.rest(&resolved.options).unwrap_or_default();
        let telemetry = parse::<TelemetryOptions>(&resolved.options).map_err(|issues| self.issues.extend(issues)).ok();
        let telemetry = telemetry.and_then(|telemetry| telemetry.settings(&mut self.issues));
        let mut kafka = None;
        if let Some(parsed) = &parsed {
            self.issues.extend(listener_issues("listeners", &parsed.listeners, rest.tls.is_some()));
            // An empty list is Kafka Connect's way to say that there is no `/admin` at all.
            if let Some(admin) = rest.admin_listeners.as_ref().filter(|admin| !admin.is_empty()) {
                self.issues.extend(listener_issues("admin.listeners", admin, rest.admin_tls.is_some()));
            }
            kafka = self.kafka(parsed, &resolved.options);
        }
        // A start that fails is told in the log (invariant 9).
        self.issues.iter_mut().for_each(|issue| hide(issue, &self.flat, &resolved));
        self.issues.retain(|issue| !unresolved.iter().any(|broken| broken.path == issue.path));
        self.issues.extend(unresolved);
        let issues = self.placed();
        match parsed {
            Some(parsed) if !issues.iter().any(Issue::is_error) => {
                Ok(WorkerConfig { plugins, telemetry, ..parsed.config(&resolved.options, topic, kafka, rest, providers, issues) })
            }
            _ => Err(issues),
        }
    }

    /// `None` where an option has no value that can be read.
    fn rest(&mut self, given: &aqueduct_core::Options) -> Option<RestSettings> {
        let rest = parse::<RestOptions>(given).map_err(|issues| self.issues.extend(issues)).ok();
        let tls = parse::<TlsOptions>(given).map_err(|issues| self.issues.extend(issues)).ok();
        let admin_tls = parse::<AdminTlsOptions>(given).map_err(|issues| self.issues.extend(issues)).ok();
        Some(rest?.settings(tls?, admin_tls?, &mut self.issues))
    }

    /// The settings and the policy of overrides; `None` without `bootstrap.servers`.
    fn kafka(&mut self, parsed: &WorkerOptions, given: &aqueduct_core::Options) -> Option<(KafkaSettings, OverridePolicy)> {
        let servers = parsed.bootstrap_servers.as_ref()?;
        if given.contains_key("log") {
            let message = "stands beside bootstrap.servers, which make Kafka the log";
            self.issues.push(Issue::error("log", "config.conflict", message).fix("remove one of them"));
        }
        let kafka = parse::<KafkaOptions>(given).map_err(|issues| self.issues.extend(issues)).ok()?;
        let policy = kafka.override_policy().map_err(|issue| self.issues.push(*issue)).unwrap_or_default();
        Some((kafka.settings(servers, &parsed.group_id, given, &mut self.issues), policy))
    }

    fn unknown_keys(&self) -> Vec<Issue> {
        let mut names: Vec<String> = specs::<WorkerOptions>().into_iter().map(|option| option.name).collect();
        names.extend(specs::<RestOptions>().into_iter().map(|option| option.name));
        names.extend(specs::<TlsOptions>().into_iter().map(|option| option.name));
        names.extend(specs::<AdminTlsOptions>().into_iter().map(|option| option.name));
        names.extend(specs::<TelemetryOptions>().into_iter().map(|option| option.name));
        let kafka: Vec<String> = specs::<KafkaOptions>().into_iter().map(|option| option.name).collect();
        let is_kafka = self.flat.get("bootstrap.servers").is_some();
        let takes = |name: &str, key: &str| match name.strip_suffix('*') {
            Some(prefix) => key.len() > prefix.len() && key.starts_with(prefix),
            None => name == key,
        };
        let mut issues = Vec::new();
        let no_effect = |key: &str, message: &str| Issue::warning(key, "config.no_effect", message).fix("remove the line");
        for key in self.flat.entries.keys() {
            let for_kafka = kafka.iter().any(|name| takes(name, key)) || kafka::is_client_option(key);
            let embedded = key == "data.dir" || key.starts_with("log.");
            if for_kafka && !is_kafka {
                issues.push(no_effect(key, "has no effect: without bootstrap.servers the log is the embedded one"));
            } else if embedded && is_kafka && names.contains(key) {
                issues.push(no_effect(key, "has no effect: it is the embedded log's, and bootstrap.servers make Kafka the log"));
            } else if NO_EFFECT.iter().any(|known| *known == key || known.ends_with('.') && key.starts_with(known)) {
                issues.push(no_effect(key, "has no effect: there is no group of workers and no JVM here"));
            }
        }
        let taken = |key: &str| {
            names.iter().chain(&kafka).any(|name| takes(name, key))
                || kafka::is_client_option(key)
                || NO_EFFECT.iter().any(|known| *known == key || known.ends_with('.') && key.starts_with(known))
        };
        let unknown: Vec<&String> = self.flat.entries.keys().filter(|key| !taken(key)).collect();
        names.extend(kafka);
        for key in unknown {
            let issue = Issue::error(key, "config.unknown_key", "is no option of the worker");
            let connector = crate::settings::options(aqueduct_core::PluginKind::Source);
            let fix = match nearest(key, names.iter().map(String::as_str).filter(|name| self.flat.get(name).is_none())) {
                Some(near) => format!("did you mean {near}?"),
                None if is_topic_config(key) => format!("did you mean topic.creation.default.{key}?"),
                None if connector.iter().any(|option| takes(&option.name, key)) => {
                    "it is an option of a connector: move it to its file".to_owned()
                }
                None => "remove it; the reference shows every option".to_owned(),
            };
            issues.push(issue.fix(fix));
        }
        issues
    }

    /// With the place in the file, or with what else the key came from; in the order of the file.
    fn placed(&mut self) -> Vec<Issue> {
        let mut issues = std::mem::take(&mut self.issues);
        for issue in &mut issues {
            match self.given_by.get(&issue.path) {
                Some(by) => issue.message.push_str(&format!(" (from {by})")),
                None if issue.location.is_none() && !issue.path.is_empty() => issue.location = self.flat.location(&issue.path),
                None => {}
            }
        }
        issues.sort_by_key(|issue| issue.location.as_ref().map(|at| (at.line, at.column)));
        issues
    }
}

fn listener_issues(key: &str, listeners: &[String], has_certificate: bool) -> Vec<Issue> {
    let fix = format!("write `{key}: http://127.0.0.1:8083`");
    if listeners.is_empty() {
        return vec![Issue::error(key, "config.range", "is empty").fix(fix)];
    }
    let lower = |listener: &String| listener.trim().to_ascii_lowercase();
    let bad = listeners.iter().filter(|listener| {
        let listener = lower(listener);
        let rest = listener.strip_prefix("http://").or(listener.strip_prefix("https://")).map(|rest| rest.trim_end_matches('/'));
        rest.and_then(|rest| rest.rsplit_once(':')).is_none_or(|(_, port)| port.parse::<u16>().is_err())
    });
    let bad = bad.map(|listener| {
        Issue::error(key, "config.listener", format!("{listener:?} is not an address to listen on")).fix(fix.as_str())
    });
    let bare = listeners.iter().filter(|listener| !has_certificate && lower(listener).starts_with("https://"));
    let bare = bare.map(|listener| {
        Issue::error(key, "config.listener", format!("{listener:?} has no certificate"))
            .fix(format!("set {key}.https.ssl.keystore.location to a PEM file with a key and its chain"))
    });
    bad.chain(bare).collect()
}

impl WorkerOptions {
    fn config(
        self,
        given: &aqueduct_core::Options,
        topic: aqueduct_core::Options,
        kafka: Option<(KafkaSettings, OverridePolicy)>,
        rest: RestSettings,
        providers: Providers,
        warnings: Vec<Issue>,
    ) -> WorkerConfig {
        let converter = |class: String, prefix: &str| ConverterSettings { class, options: below(given, prefix) };
        let (kafka, overrides) = kafka.unzip();
        let exactly_once = kafka.as_ref().is_some_and(|kafka: &KafkaSettings| kafka.exactly_once == ExactlyOnceSource::Enabled);
        let defaults = ConnectorDefaults {
            key_converter: converter(self.key_converter, "key.converter."),
            value_converter: converter(self.value_converter, "value.converter."),
            header_converter: converter(self.header_converter, "header.converter."),
            flush_interval: self.flush_interval.into(),
            topic,
            topic_creation: self.topic_creation,
            kafka: overrides.map(|overrides| KafkaDefaults { overrides, exactly_once }),
        };
        WorkerConfig {
            listeners: self.listeners.0,
            plugin_path: self.plugin_path.iter().map(|path| path.to_path_buf()).collect(),
            plugins: BTreeMap::new(),
            telemetry: None,
            data_dir: self.data_dir.to_path_buf(),
            connectors_dir: self.connectors_dir.map(|path| path.to_path_buf()),
            connectors_dir_prune: self.connectors_dir_prune,
            group_id: self.group_id,
            kafka,
            shutdown_timeout: self.shutdown_timeout.into(),
            topic_tracking: self.topic_tracking,
            topic_tracking_reset: self.topic_tracking_reset,
            advertised_host: self.advertised_host.filter(|host| !host.is_empty()),
            allow_origin: self.allow_origin,
            allow_methods: self.allow_methods,
            rest,
            defaults,
            providers,
            warnings,
        }
    }
}

#[cfg(test)]
mod tests;
