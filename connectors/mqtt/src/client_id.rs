//! The default of `mqtt.client.id`: it is named after the connector, whose name only the flat options have.

use aqueduct_core::{
    Descriptor, Issue, Options, Plugin, Result, SinkPlugin, SinkTask, SourceOffset, SourcePlugin, SourceTask, TaskSpec,
};
use async_trait::async_trait;
use std::sync::Arc;

const KEY: &str = "mqtt.client.id";

/// The same plugin, with the default.
pub(crate) fn named(plugin: Plugin) -> Plugin {
    match plugin {
        Plugin::Source(inner) => Plugin::Source(Arc::new(Named(inner))),
        Plugin::Sink(inner) => Plugin::Sink(Arc::new(Named(inner))),
    }
}

struct Named<P: ?Sized>(Arc<P>);

fn with_default(options: &Options) -> Options {
    let mut options = options.clone();
    if let Some(name) = options.get("name").filter(|name| !name.is_empty()).cloned() {
        options.entry(KEY.to_owned()).or_insert_with(|| format!("aqueduct-{name}"));
    }
    options
}

/// A task's own id: sessions are kept by id, so it must not change while `tasks.max` does.
pub(crate) fn of_task(id: &str, task: u32) -> String {
    if task == 0 { id.to_owned() } else { format!("{id}-{task}") }
}

#[async_trait]
impl SourcePlugin for Named<dyn SourcePlugin> {
    fn descriptor(&self) -> &Descriptor {
        self.0.descriptor()
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    fn check_offset(&self, offset: &SourceOffset) -> Result<()> {
        self.0.check_offset(offset)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        self.0.plan(&with_default(options), tasks_max).await
    }

    async fn open(&self, options: &Options, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        self.0.open(&with_default(options), task, resume).await
    }
}

#[async_trait]
impl SinkPlugin for Named<dyn SinkPlugin> {
    fn descriptor(&self) -> &Descriptor {
        self.0.descriptor()
    }

    fn validate(&self, options: &Options) -> Vec<Issue> {
        self.0.validate(options)
    }

    async fn plan(&self, options: &Options, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        self.0.plan(&with_default(options), tasks_max).await
    }

    async fn open(&self, options: &Options, task: TaskSpec) -> Result<Box<dyn SinkTask>> {
        self.0.open(&with_default(options), task).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connector_names_the_client_unless_the_user_does() {
        let options = |pairs: &[(&str, &str)]| -> Options {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(with_default(&options(&[("name", "fleet")]))[KEY], "aqueduct-fleet");
        assert_eq!(with_default(&options(&[("name", "fleet"), (KEY, "mine")]))[KEY], "mine");
        assert!(!with_default(&options(&[])).contains_key(KEY));
        assert_eq!((of_task("a", 0), of_task("a", 2)), ("a".to_owned(), "a-2".to_owned()));
    }
}
