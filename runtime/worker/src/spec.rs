//! One connector's config, checked and typed: what plans and tasks are made from.

use crate::admin::{ConfigMap, ConnectorType};
use crate::policy::{DeadLetterQueue, Failures, Policy, RestartPolicy, RetryPolicy};
use crate::registry::{Registry, is_same};
use crate::stats::TaskStats;
use crate::task::{ActiveTopics, Limits, Role, Startups, TaskRun};
use crate::topics::{TopicCreation, TopicGroup};
use aqueduct_config::check::{Check, Checked, UnknownKeys};
use aqueduct_config::providers::{Providers, Resolved, references};
use aqueduct_config::settings::{self, ClientOverrides, ConnectorDefaults, ConnectorSettings, ConverterSettings, TopicSettings};
use aqueduct_config::{Flat, options::invalid};
use aqueduct_core::{
    Error, Issue, OptionKind, OptionSpec, Options, Plugin, PluginKind, Result, TaskId, TaskSpec, TransformPlugin,
};
use aqueduct_log::{ConnectorOptions, Log, TopicSpec, TransactionBoundary};
use aqueduct_transforms::{Chain, Converters};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What worker.yaml says for all connectors.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub connector: ConnectorDefaults,
    pub providers: Providers,
    pub log: LogOptions,
}

/// What the worker's kind of log says of a connector's whole config, references resolved. A function and no method of [`Log`]: `aqueduct validate`
/// has no log open, and the worker knows no kind of it.
#[derive(Clone, Default)]
pub struct LogOptions(Option<Arc<OptionCheck>>);

type OptionCheck = dyn Fn(&Options) -> Vec<Issue> + Send + Sync;

impl LogOptions {
    pub fn checked_by(check: impl Fn(&Options) -> Vec<Issue> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(check)))
    }

    fn issues(&self, options: &Options) -> Vec<Issue> {
        self.0.as_ref().map(|check| check(options)).unwrap_or_default()
    }
}

impl std::fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogOptions").field(&self.0.is_some()).finish()
    }
}

/// Cheap to clone. Holds no secret: references are resolved for each plan and each task (invariant 9).
#[derive(Clone)]
pub struct ConnectorSpec {
    pub restart: RestartPolicy,
    pub stall_timeout: Duration,
    plugin: Plugin,
    /// Of plugins, as they were when it was built.
    transforms: Vec<Arc<dyn TransformPlugin>>,
    config: Arc<ConfigMap>,
    settings: Arc<ConnectorSettings>,
    defaults: Arc<Defaults>,
    /// What was resolved last, to keep it out of messages.
    resolved: Arc<Mutex<Resolved>>,
}

/// What a task gets beside its config.
#[derive(Clone)]
pub struct TaskParts {
    pub id: TaskId,
    pub spec: TaskSpec,
    pub log: Arc<dyn Log>,
    /// The cluster's id.
    pub cluster: Arc<str>,
    pub stats: Arc<TaskStats>,
    pub active_topics: Arc<ActiveTopics>,
    pub startups: Arc<Startups>,
    pub stop: CancellationToken,
    pub secrets: Arc<Secrets>,
}

/// Which secrets a plan or a task was made with, as a number that tells them from others and nothing of them. 0: none yet.
#[derive(Debug, Default)]
pub struct Secrets(AtomicU64);

impl Secrets {
    pub fn number(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    fn are(&self, resolved: &Resolved) {
        self.0.store(number_of(resolved), Relaxed);
    }
}

/// It lives as long as the process, and is never shown: a hash that is not for keeping is enough.
fn number_of(resolved: &Resolved) -> u64 {
    let mut hasher = DefaultHasher::new();
    resolved.options.hash(&mut hasher);
    hasher.finish() | 1
}

/// Which version of its plugin a connector takes.
pub const PLUGIN_VERSION: &str = "connector.plugin.version";

/// A poll may wait this long: long enough that an idle connector costs nothing, short enough that a stop is prompt even where a plugin does
/// not heed `interrupt`.
const WAIT_MAX: Duration = Duration::from_secs(5);

impl ConnectorSpec {
    /// # Errors
    /// Every issue, warnings among them, when one is an error. `unknown_keys`: errors in files, ignored over REST as in Kafka Connect.
    pub fn build(
        name: &str,
        config: &ConfigMap,
        registry: &Registry,
        defaults: &Arc<Defaults>,
        unknown_keys: UnknownKeys,
    ) -> Result<Self, Vec<Issue>> {
        let checked = check(name, config, registry, defaults, unknown_keys);
        match (checked.plugin, checked.settings) {
            (Some(plugin), Some(settings)) if !checked.issues.iter().any(Issue::is_error) => {
                let restart = settings.restart;
                Ok(Self {
                    restart: RestartPolicy { initial: restart.initial, max: restart.max, attempts_max: restart.attempts_max },
                    stall_timeout: settings.limits.stall_timeout,
                    plugin,
                    transforms: transforms_of(config),
                    config: Arc::new(config.clone()),
                    settings: Arc::new(settings),
                    defaults: defaults.clone(),
                    resolved: Arc::default(),
                })
            }
            _ => Err(checked.issues),
        }
    }

    /// The shares of the tasks. Touches nothing but the secrets that the config refers to.
    pub async fn plan(&self, secrets: &Secrets) -> Result<Vec<TaskSpec>> {
        secrets.forget();
        let resolved = self.resolve().await?;
        secrets.are(&resolved);
        let plan = self.plugin.plan(&resolved.options, self.settings.tasks_max);
        let Ok(tasks) = tokio::time::timeout(self.stall_timeout, plan).await else {
            let message = format!("`plan` has not returned for {} s (aqueduct.stall.timeout.ms)", self.stall_timeout.as_secs());
            return Err(Error::retriable("worker.stalled", message).fix("the plugin hangs; the worker asks it again"));
        };
        let tasks = tasks?;
        let (planned, max) = (tasks.len(), self.settings.tasks_max);
        if planned > max as usize && self.settings.tasks_max_enforce {
            return Err(Error::fatal(
                "worker.tasks_max",
                format!("The connector {} has generated {planned} tasks, which is greater than {max}, the maximum number of tasks it is configured to create", self.settings.name),
            )
            .fix("raise tasks.max, or set tasks.max.enforce: false"));
        }
        Ok(tasks)
    }

    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// False: another version counts for its connector now, or for one of its transforms. What is no longer there is no reason to stop.
    pub fn is_current(&self, registry: &Registry) -> bool {
        let wanted = self.config.get(PLUGIN_VERSION).map(String::as_str);
        let found = registry.find_version(&self.plugin.descriptor().name, wanted).ok().flatten();
        let transforms = transforms_of(&self.config);
        let same = |(a, b): (&Arc<dyn TransformPlugin>, &Arc<dyn TransformPlugin>)| Arc::ptr_eq(a, b);
        found.is_none_or(|found| is_same(&found, &self.plugin))
            && (transforms.len() < self.transforms.len() || transforms.iter().zip(&self.transforms).all(same))
    }

    pub fn tasks_max(&self) -> u32 {
        self.settings.tasks_max
    }

    /// One task until it is stopped or fails: a retriable error within `errors.retry.timeout` only reopens it, from the stored offsets.
    pub async fn run(&self, parts: TaskParts) -> Result<()> {
        let errors = &self.settings.errors;
        let policy = RetryPolicy { timeout: errors.retry_timeout, delay_max: errors.retry_delay_max };
        let (stats, stop) = (parts.stats.clone(), parts.stop.clone());
        let (mut failures, mut settled) = (Failures::default(), stats.records_settled());
        loop {
            stats.opened.store(false, Relaxed);
            parts.startups.task_attempts.fetch_add(1, Relaxed);
            let attempt = async { self.task(parts.clone()).await?.run().await };
            let Err(error) = attempt.await else { return Ok(()) };
            if !stats.opened.load(Relaxed) {
                parts.startups.task_failures.fetch_add(1, Relaxed);
            }
            let (before, now) = (std::mem::replace(&mut settled, stats.records_settled()), Instant::now());
            failures.add(settled > before, now);
            let delay = policy.delay(&failures, &error, now, fastrand::f64()).filter(|_| !stop.is_cancelled());
            let Some(delay) = delay else { return Err(error) };
            tracing::warn!(task = %parts.id, ?delay, "tries again after: {}", self.redact(error.to_string()));
            stats.retries_after(&self.redact(error.trace()));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One attempt of one task.
    async fn task(&self, parts: TaskParts) -> Result<TaskRun> {
        let settings = &self.settings;
        let resolved = self.resolve().await?;
        parts.secrets.are(&resolved);
        let chain = Chain::new(&resolved.options).map_err(|issues| invalid(&issues))?;
        let of_worker = converter_options(&self.defaults.connector);
        let converters = Converters::new(&resolved.options, &of_worker).map_err(|issues| invalid(&issues))?;
        let errors = &settings.errors;
        let policy = Policy {
            task: parts.id.clone(),
            tolerate: errors.tolerate,
            log_errors: errors.log,
            log_messages: errors.log_messages,
            secrets: resolved.clone(),
            dead_letter_queue: errors.dead_letter_queue.as_ref().map(|queue| DeadLetterQueue {
                topic: queue.topic.as_str().into(),
                replication_factor: queue.replication_factor,
                context_headers: queue.context_headers,
            }),
        };
        let limits = Limits {
            batch_max_bytes: settings.limits.batch_bytes,
            batch_max_records: settings.limits.batch_records,
            buffer_bytes: settings.limits.buffer_bytes,
            wait_max: WAIT_MAX,
            flush_interval: settings.limits.flush_interval,
        };
        parts.log.configure(&parts.id.connector, log_options(settings, &resolved.options)).await?;
        let TaskParts { id, spec, log, cluster, stats, active_topics, startups, stop, secrets: _ } = parts;
        Ok(TaskRun {
            id,
            role: self.role()?,
            spec,
            options: resolved.options,
            limits,
            chain,
            converters: Arc::new(converters),
            policy,
            exactly_once_required: matches!(
                &settings.role,
                settings::Role::Source(source) if source.exactly_once == settings::ExactlyOnce::Required
            ),
            log,
            cluster,
            stats,
            active_topics,
            startups,
            stop,
        })
    }

    /// Takes the place of a task that was left behind: from here on its appends, offsets and commits are refused (invariant 5), and its group is free.
    pub async fn fence(&self, id: &TaskId, log: &dyn Log) -> Result<()> {
        // Also sinks write: dead letters.
        log.writer(id).await?;
        if let settings::Role::Sink(sink) = &self.settings.role {
            log.reader(&crate::sink::group(&id.connector), &id.to_string(), &sink.topics).await?.close().await?;
        }
        Ok(())
    }

    /// Tasks of an earlier generation that are no more: a worker that stands still may still run them (KIP-618; invariant 5). Sinks need none of it: what
    /// they write counts only as a member of their group.
    pub async fn fence_former(&self, connector: &Arc<str>, gone: Vec<u32>, log: &dyn Log) -> Result<()> {
        if gone.is_empty() || matches!(self.settings.role, settings::Role::Sink(_)) {
            return Ok(());
        }
        for task in &gone {
            log.writer(&TaskId::new(connector.clone(), *task)).await?;
        }
        let forgotten = gone.iter().map(|task| (crate::store::status_key(connector, Some(*task)), None));
        // Only so that the next worker needs not do it again.
        if let Err(error) = log.save(aqueduct_log::Store::Status, forgotten.collect()).await {
            tracing::debug!(%connector, "statuses of former tasks stay: {error}");
        }
        Ok(())
    }

    /// Whether its secrets may change while it runs, and its tasks are to have the new ones.
    pub fn follows_secrets(&self) -> bool {
        let changes = |value: &String| references(value).iter().any(|reference| reference.provider != "env");
        self.settings.reload && self.config.values().any(changes)
    }

    /// The number of the secrets as they are now. `None` where one cannot be read: it may be about to be replaced.
    pub async fn secrets_now(&self) -> Option<u64> {
        self.read_secrets().await.ok().map(|resolved| number_of(&resolved))
    }

    /// A text without the secrets of the connector.
    pub fn redact(&self, text: String) -> String {
        self.resolved.lock().redact(text)
    }

    fn role(&self) -> Result<Role> {
        match (&self.plugin, &self.settings.role) {
            (Plugin::Source(plugin), settings::Role::Source(source)) => {
                Ok(Role::Source(plugin.clone(), topic_creation(&source.topic_creation, self.defaults.connector.topic_creation)))
            }
            (Plugin::Sink(plugin), settings::Role::Sink(sink)) => Ok(Role::Sink(plugin.clone(), sink.topics.clone())),
            _ => Err(Error::fatal("worker.role", "the settings are of another kind than the plugin: a bug of Aqueduct")),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "reads small files of secrets; awaited here")]
    async fn read_secrets(&self) -> Result<Resolved> {
        let (providers, config) = (self.defaults.providers.clone(), self.config.clone());
        let resolving = tokio::task::spawn_blocking(move || providers.resolve(&config));
        resolving.await.map_err(|error| Error::retriable("worker.resolve", error.to_string()))?
    }

    async fn resolve(&self) -> Result<Resolved> {
        let mut resolved = self.read_secrets().await?;
        let descriptor = self.plugin.descriptor();
        let passwords = descriptor.options.iter().filter(|option| option.kind == OptionKind::Password);
        let literal: Vec<String> = passwords.filter_map(|option| resolved.options.get(&option.name).cloned()).collect();
        resolved.also_hide(literal);
        *self.resolved.lock() = resolved.clone();
        Ok(resolved)
    }
}

/// Every issue of a config, in the order of its keys. Touches nothing but the secrets that it refers to.
pub fn issues(name: &str, config: &ConfigMap, registry: &Registry, defaults: &Defaults, unknown_keys: UnknownKeys) -> Vec<Issue> {
    check(name, config, registry, defaults, unknown_keys).issues
}

fn check(name: &str, config: &ConfigMap, registry: &Registry, defaults: &Defaults, unknown_keys: UnknownKeys) -> Checked {
    let mut config = config.clone();
    if !config.contains_key("name") && !name.is_empty() {
        config.insert("name".to_owned(), name.to_owned());
    }
    check_flat(&Flat::from(config), registry, defaults, unknown_keys)
}

/// As [`issues`], for a config that came from a file: with places.
pub fn check_flat(flat: &Flat, registry: &Registry, defaults: &Defaults, unknown_keys: UnknownKeys) -> Checked {
    let missing = RefCell::new(None);
    let find = |class: &str| {
        registry.find_version(class, flat.get(PLUGIN_VERSION)).unwrap_or_else(|issue| {
            *missing.borrow_mut() = Some(*issue);
            // The other keys are judged by the newest.
            registry.find(class)
        })
    };
    let check = Check {
        find: &find,
        names: registry
            .plugins()
            .iter()
            .flat_map(|plugin| [&plugin.descriptor().name].into_iter().chain(&plugin.descriptor().aliases).cloned())
            .collect(),
        parts: &|options| part_issues(options, defaults),
        defaults: &defaults.connector,
        providers: &defaults.providers,
        unknown_keys,
    };
    let mut checked = check.run(flat);
    if let Some(issue) = missing.take() {
        checked.issues.push(issue);
        flat.locate(&mut checked.issues);
        checked.plugin = None;
    }
    checked
}

fn transforms_of(config: &ConfigMap) -> Vec<Arc<dyn TransformPlugin>> {
    aqueduct_transforms::plugins_of(&config.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Of transforms, predicates, converters, and the clients of the log.
fn part_issues(options: &Options, defaults: &Defaults) -> Vec<Issue> {
    let mut issues = Chain::new(options).err().unwrap_or_default();
    issues.extend(Converters::new(options, &converter_options(&defaults.connector)).err().unwrap_or_default());
    issues.extend(aqueduct_transforms::unknown_keys(options));
    issues.extend(defaults.log.issues(options));
    issues
}

/// What worker.yaml says of converters, under its keys.
fn converter_options(defaults: &ConnectorDefaults) -> Options {
    let each = [
        ("key.converter", &defaults.key_converter),
        ("value.converter", &defaults.value_converter),
        ("header.converter", &defaults.header_converter),
    ];
    let own = |key: &'static str, converter: &ConverterSettings| {
        let options = converter.options.clone().into_iter().map(move |(name, value)| (format!("{key}.{name}"), value));
        options.chain([(key.to_owned(), converter.class.clone())])
    };
    each.into_iter().flat_map(|(key, converter)| own(key, converter)).collect()
}

/// The worker's own options for a connector of this kind.
pub fn common_options(kind: ConnectorType) -> Vec<OptionSpec> {
    settings::options(if kind == ConnectorType::Sink { PluginKind::Sink } else { PluginKind::Source })
}

/// What the log is told of a connector.
fn log_options(settings: &ConnectorSettings, resolved: &Options) -> ConnectorOptions {
    let clients = ClientOverrides::of(resolved);
    let (boundary, offsets_topic) = match &settings.role {
        settings::Role::Source(source) => {
            let boundary = match source.transaction_boundary {
                settings::TransactionBoundary::Poll => TransactionBoundary::Poll,
                settings::TransactionBoundary::Connector => TransactionBoundary::Connector,
                settings::TransactionBoundary::Interval => {
                    TransactionBoundary::Interval(source.transaction_interval.unwrap_or(settings.limits.flush_interval))
                }
            };
            (boundary, source.offsets_topic.clone())
        }
        settings::Role::Sink(_) => Default::default(),
    };
    ConnectorOptions {
        producer: clients.producer,
        consumer: clients.consumer,
        admin: clients.admin,
        transaction_boundary: boundary,
        buffer_bytes: Some(settings.limits.buffer_bytes),
        offsets_topic,
    }
}

fn topic_creation(settings: &settings::TopicCreation, enabled: bool) -> TopicCreation {
    let spec = |topic: &TopicSettings| TopicSpec {
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        configs: topic.configs.clone(),
    };
    let group = |group: &settings::TopicGroup| TopicGroup {
        include: group.include.clone(),
        exclude: group.exclude.clone(),
        spec: spec(&group.topic),
    };
    TopicCreation::new(enabled, spec(&settings.default), settings.groups.iter().map(group).collect())
}
