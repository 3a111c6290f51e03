//! A connector as the registry sees it: typed for authors (`aqueduct_config::SourceConnector`), erased once, the same for built-ins and WASM.

use crate::{Issue, Result, SinkTask, SourceOffset, SourceTask, TaskSpec, Transform};
use async_trait::async_trait;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A flat connector config: dotted keys, text values, references to secrets already resolved. Only the connector's own keys are looked at;
/// the worker's (`name`, `tasks.max`, `transforms.*`, …) may be there too.
pub type Options = BTreeMap<String, String>;

#[derive(Clone)]
pub enum Plugin {
    Source(Arc<dyn SourcePlugin>),
    Sink(Arc<dyn SinkPlugin>),
}

impl Plugin {
    pub fn descriptor(&self) -> &Descriptor {
        match self {
            Plugin::Source(plugin) => plugin.descriptor(),
            Plugin::Sink(plugin) => plugin.descriptor(),
        }
    }

    /// Every issue with the options, without touching the world.
    pub fn validate(&self, options: &Options) -> Vec<Issue> {
        match self {
            Plugin::Source(plugin) => plugin.validate(options),
            Plugin::Sink(plugin) => plugin.validate(options),
        }
    }

    /// The shares of at most `tasks_max` tasks.
    pub async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        match self {
            Plugin::Source(plugin) => plugin.plan(options, tasks_max).await,
            Plugin::Sink(plugin) => plugin.plan(options, tasks_max).await,
        }
    }
}

#[async_trait]
pub trait SourcePlugin: Send + Sync {
    fn descriptor(&self) -> &Descriptor;
    fn validate(&self, options: &Options) -> Vec<Issue>;
    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>>;
    /// `resume` has every stored offset of the *connector*, since shares move between tasks when their number changes.
    async fn open(&self, options: &Options, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>>;

    /// Whether `open` could resume from an offset that an operator sets by hand. Pure; `offset.offset` is there.
    ///
    /// # Errors
    /// What is wrong with it, for that operator.
    fn check_offset(&self, offset: &SourceOffset) -> Result<()> {
        let _ = offset;
        Ok(())
    }
}

#[async_trait]
pub trait SinkPlugin: Send + Sync {
    fn descriptor(&self) -> &Descriptor;
    fn validate(&self, options: &Options) -> Vec<Issue>;
    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>>;
    async fn open(&self, options: &Options, task: TaskSpec) -> Result<Box<dyn SinkTask>>;
}

/// A transform that is not built in.
pub trait TransformPlugin: Send + Sync {
    /// Its `kind` says nothing here; `name` is what `transforms.<name>.type` says.
    fn descriptor(&self) -> &Descriptor;
    /// For one task, or to be judged only: it opens with the first batch.
    ///
    /// # Errors
    /// Every issue with the options, each with its key as in `options`.
    fn build(&self, options: &Options) -> Result<Box<dyn Transform>, Vec<Issue>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginKind {
    Source,
    Sink,
}

/// What a plugin says of itself: the reference, `plugins describe` and the validation answers are made from it.
#[derive(Clone, Debug, Serialize)]
pub struct Descriptor {
    /// `file-source`
    pub name: String,
    /// Java classes (full names) and short names that mean this connector.
    pub aliases: Vec<String>,
    pub kind: PluginKind,
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// In the order in which they are shown.
    pub options: Vec<OptionSpec>,
}

impl Descriptor {
    /// Kafka Connect finds a plugin by full or simple name, with or without `Connector`.
    pub fn is_called(&self, class: &str) -> bool {
        let short = |name: &str| {
            let simple = name.rsplit('.').next().unwrap_or(name);
            simple.strip_suffix("Connector").unwrap_or(simple).to_owned()
        };
        self.name == class
            || self.aliases.iter().any(|alias| alias == class || (!class.contains('.') && short(alias) == short(class)))
    }
}

/// The types of Kafka's `ConfigDef.Type`; clients have closed enums of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OptionKind {
    Boolean,
    Class,
    Double,
    Int,
    List,
    Long,
    Password,
    Short,
    String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Importance {
    High,
    Medium,
    Low,
}

#[derive(Clone, Debug, Serialize)]
pub struct OptionSpec {
    /// Dotted. A name that ends in `.*` stands for a family of keys.
    pub name: String,
    pub kind: OptionKind,
    pub required: bool,
    pub default: Option<String>,
    pub importance: Importance,
    pub documentation: String,
    /// A heading in the reference and in UIs.
    pub group: String,
    /// What the text must look like beyond its kind: `duration`, `bytes`, `regex`, `glob`, `charset`, `path`.
    pub format: Option<String>,
    /// All allowed values, where they are few.
    pub allowed: Vec<String>,
    pub example: Option<String>,
}
