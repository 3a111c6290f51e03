//! Puts the parts together: settings, plugins, the log of a data directory.

use crate::failure::{Failure, Outcome};
use aqueduct_config::Flat;
use aqueduct_config::worker_config::{self, WorkerConfig};
use aqueduct_core::Issue;
use aqueduct_log::{EmbeddedLog, EmbeddedOptions, Log};
use aqueduct_log_kafka::{KafkaLog, KafkaOptions};
use aqueduct_plugin_host::{Folders, Loaded};
use aqueduct_transforms::{PartDescriptor, PartKind};
use aqueduct_worker::Registry;
use aqueduct_worker::spec::{Defaults, LogOptions};
use std::path::Path;
use std::sync::{Arc, LazyLock};

pub(crate) const CONFIG: &str = "config/worker.yaml";

/// Variables that begin as those of worker.yaml do, and are none.
const OWN_VARIABLES: [&str; 5] =
    ["AQUEDUCT_URL", "AQUEDUCT_OUTPUT", "AQUEDUCT_LOG_LEVEL", "AQUEDUCT_LOG_FORMAT", "AQUEDUCT_FAILPOINTS"];

/// The built-in plugins, and those that [`Plugins`] found.
pub(crate) fn registry() -> Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::new(aqueduct_connectors::builtins()));
    REGISTRY.clone()
}

/// Reads `plugin.path`, once. Returns what is wrong with files, names and grants: the rest works.
pub(crate) fn load_plugins(config: &WorkerConfig) -> Vec<Issue> {
    Plugins::new(config).and_then(|mut plugins| plugins.look()).unwrap_or_default()
}

/// What `plugin.path` has.
pub(crate) struct Plugins {
    folders: Folders,
    granted: Vec<String>,
}

impl Plugins {
    /// None where there is no `plugin.path`.
    pub(crate) fn new(config: &WorkerConfig) -> Option<Self> {
        let granted = config.plugins.keys().cloned().collect();
        let folders = || Folders::new(config.plugin_path.clone(), config.plugins.clone());
        (!config.plugin_path.is_empty()).then(|| Self { folders: folders(), granted })
    }

    /// Puts what is there now into [`registry`] and among the transforms. None: nothing has changed. Blocking.
    pub(crate) fn look(&mut self) -> Option<Vec<Issue>> {
        if !self.folders.look() {
            return None;
        }
        let Loaded { plugins, transforms, mut issues, refused } = self.folders.loaded();
        let mut names = refused;
        names.extend(plugins.iter().map(|plugin| plugin.descriptor().name.clone()));
        issues.extend(registry().install(plugins).iter().map(|plugin| twice(&plugin.descriptor().name)));
        names.extend(transforms.iter().map(|transform| transform.descriptor().name.clone()));
        issues.extend(aqueduct_transforms::install(transforms).iter().map(|name| twice(name)));
        issues.extend(self.granted.iter().filter(|granted| !names.contains(granted)).map(|granted| unknown(granted, &names)));
        Some(issues)
    }
}

fn twice(name: &str) -> Issue {
    let what = format!("there is another plugin {name} of the same version, of another kind, or built in: this one is left out");
    Issue::error("plugin.path", "plugin.duplicate", what).fix("give one of them another name or version, or remove its file")
}

fn unknown(granted: &str, names: &[String]) -> Issue {
    let what = format!("no plugin in plugin.path is called {granted}");
    let issue = Issue::warning(format!("plugins.{granted}"), "plugin.unknown", what);
    match aqueduct_config::nearest(granted, names.iter().map(String::as_str)) {
        Some(near) => issue.fix(format!("did you mean {near}?")),
        None => issue.fix("remove the grant, or install the plugin"),
    }
}

/// worker.yaml, then the environment, then `--set`. A file that is not there is an error unless it is the default one.
pub(crate) fn read_config(path: &Path, set: &[String]) -> Outcome<WorkerConfig> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(CONFIG) => {
            tracing::info!("there is no {CONFIG}: the defaults hold");
            None
        }
        Err(error) => {
            let failure = Failure::failed(format!("cannot read {}: {error}", path.display()));
            return Err(failure.fix("name the worker's settings with --config FILE"));
        }
    };
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err(Failure::usage(format!("--set {text:?} is not KEY=VALUE"))),
    };
    let set = set.iter().map(pair).collect::<Outcome<Vec<_>>>()?;
    let name = path.display().to_string();
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let variables = variables.filter(|(name, _)| !OWN_VARIABLES.contains(&name.as_str()));
    WorkerConfig::load(text.as_deref().map(|text| (name.as_str(), text)), &set, variables).map_err(|issues| {
        let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(|issue| format!("\n  {issue}")).collect();
        Failure::failed(format!("the worker's settings are wrong:{}", errors.concat()))
    })
}

/// What connectors get of the worker's settings.
pub(crate) fn defaults(config: &WorkerConfig) -> Defaults {
    let log = match kafka_options(config) {
        Some(kafka) => LogOptions::checked_by(move |connector| kafka.issues(connector)),
        None => LogOptions::default(),
    };
    Defaults { connector: config.defaults.clone(), providers: config.providers.clone(), log }
}

fn kafka_options(config: &WorkerConfig) -> Option<KafkaOptions> {
    Some(KafkaOptions { settings: config.kafka.clone()?, group_id: config.group_id.clone() })
}

/// True for a document of worker.yaml rather than of a connector.
pub(crate) fn is_worker_config(flat: &Flat) -> bool {
    let names = worker_config::options();
    // Converters may stand in both.
    let only_worker = |key: &&String| !key.contains("converter") && names.iter().any(|option| option.name == **key);
    flat.get("connector.class").is_none() && flat.entries.keys().any(|key| only_worker(&key))
}

pub(crate) fn worker_config_issues(file: &str, text: &str) -> Vec<Issue> {
    let config = match WorkerConfig::load(Some((file, text)), &[], []) {
        Ok(config) => config,
        Err(issues) => return issues,
    };
    let mut issues = kafka_options(&config).map(|kafka| kafka.worker_issues()).unwrap_or_default();
    // What a start would refuse: an address that others reach and nobody guards.
    let admin = config.rest.admin_listeners.iter().filter(|admin| !admin.is_empty());
    let admin = admin.map(|admin| ("admin.listeners", admin, config.rest.of_admin()));
    for (key, listeners, rest) in [("listeners", &config.listeners, config.rest.clone())].into_iter().chain(admin) {
        match aqueduct_rest::check_listeners(listeners, &rest) {
            // The worker's machine may know names that this one does not.
            Err(error) if error.code() != "rest.listener_name" => {
                issues.push(Issue::error(key, error.code(), error.message()).fix(error.hint().unwrap_or_default()));
            }
            _ => {}
        }
    }
    if let Some(document) = aqueduct_config::read(file, text).0.first() {
        aqueduct_config::flatten::flatten(document).0.locate(&mut issues);
    }
    issues.extend(config.warnings);
    issues
}

/// The log that worker.yaml names, and the id of its cluster.
pub(crate) async fn worker_log(config: &WorkerConfig) -> aqueduct_core::Result<(Arc<dyn Log>, String)> {
    if let Some(options) = kafka_options(config) {
        let log = KafkaLog::open(options).await?;
        let cluster_id = log.cluster_id();
        return Ok((log, cluster_id));
    }
    let log = EmbeddedLog::open(&config.data_dir, EmbeddedOptions::default()).await?;
    let cluster_id = log.cluster_id().to_owned();
    Ok((Arc::new(log), cluster_id))
}

/// Where the records are, for people.
pub(crate) fn data_place(config: &WorkerConfig) -> String {
    match &config.kafka {
        Some(kafka) => format!("Kafka at {}", kafka.bootstrap_servers.join(",")),
        None => config.data_dir.display().to_string(),
    }
}

/// The log of a stopped worker. Fails when there is none: it is not for making one.
pub(crate) async fn open_log(dir: &Path) -> Outcome<Arc<dyn Log>> {
    if !dir.is_dir() {
        return Err(Failure::not_found(format!("there is no data directory {}", dir.display())));
    }
    Ok(Arc::new(EmbeddedLog::open(dir, EmbeddedOptions::default()).await?))
}

/// Converters, transforms and predicates, with their type as `GET /connector-plugins` has it.
pub(crate) fn parts() -> Vec<(PartDescriptor, &'static str)> {
    let kind = |kind| match kind {
        PartKind::Converter => "converter",
        PartKind::HeaderConverter => "header_converter",
        PartKind::Transformation => "transformation",
        PartKind::Predicate => "predicate",
    };
    aqueduct_transforms::descriptors()
        .into_iter()
        .map(|part| {
            let kind = kind(part.kind);
            (part, kind)
        })
        .collect()
}
