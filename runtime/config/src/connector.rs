//! What a connector author writes. Erased once, by `plugin::source` and `plugin::sink`, into [`aqueduct_core::Plugin`].

use aqueduct_core::{Issue, Result, SinkTask, SourceOffset, SourceTask, TaskSpec};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// A source: its options, its plan, its tasks.
#[async_trait]
pub trait SourceConnector: Send + Sync + 'static {
    /// The documentation of its options: doc comments become the reference. Field names are the dotted keys (`#[serde(rename = "read.from")]`).
    type Config: DeserializeOwned + JsonSchema + Send + Sync + 'static;
    type Task: SourceTask + 'static;
    /// `file-source`
    const NAME: &'static str;
    /// Java classes and short names that mean this connector.
    const ALIASES: &'static [&'static str] = &[];
    /// One sentence.
    const SUMMARY: &'static str;

    /// What types alone cannot say. Pure; every issue, not the first.
    fn validate(config: &Self::Config) -> Vec<Issue> {
        let _ = config;
        Vec::new()
    }

    /// Whether `open` could resume from an offset that an operator sets by hand. Pure; `offset.offset` is there.
    fn check_offset(offset: &SourceOffset) -> Result<()> {
        let _ = offset;
        Ok(())
    }

    /// The shares of at most `tasks_max` tasks; at least one. Does not touch the world.
    async fn plan(config: &Self::Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let _ = (config, tasks_max);
        Ok(vec![TaskSpec::new()])
    }

    /// `resume` has every stored offset of the connector; the task picks those of its share.
    async fn open(config: Self::Config, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Self::Task>;
}

/// A sink, alike.
#[async_trait]
pub trait SinkConnector: Send + Sync + 'static {
    type Config: DeserializeOwned + JsonSchema + Send + Sync + 'static;
    type Task: SinkTask + 'static;
    const NAME: &'static str;
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str;

    fn validate(config: &Self::Config) -> Vec<Issue> {
        let _ = config;
        Vec::new()
    }

    /// A sink's tasks share the partitions by themselves, so usually the shares are all equal.
    async fn plan(config: &Self::Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let _ = config;
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(config: Self::Config, task: TaskSpec) -> Result<Self::Task>;
}
