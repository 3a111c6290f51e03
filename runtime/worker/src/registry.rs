//! The plugins that this worker has. After this point nothing can tell a WASM plugin from a built-in.

use aqueduct_core::Plugin;
use std::sync::Arc;

#[derive(Clone, Default)]
pub struct Registry(Arc<Vec<Plugin>>);

impl Registry {
    /// Sorted by name; of two plugins with one name the first stays.
    pub fn new(mut plugins: Vec<Plugin>) -> Self {
        plugins.sort_by(|a, b| a.descriptor().name.cmp(&b.descriptor().name));
        plugins.dedup_by(|b, a| a.descriptor().name == b.descriptor().name);
        Self(Arc::new(plugins))
    }

    /// By name, Java class, or simple class name with or without `Connector`.
    pub fn find(&self, class: &str) -> Option<Plugin> {
        self.0
            .iter()
            .find(|plugin| plugin.descriptor().name == class)
            .or_else(|| self.0.iter().find(|plugin| plugin.descriptor().is_called(class)))
            .cloned()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Plugin> {
        self.0.iter()
    }
}
