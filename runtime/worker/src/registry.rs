//! The plugins that this worker has. After this point nothing can tell a WASM plugin from a built-in.

use aqueduct_core::Plugin;
use parking_lot::RwLock;
use std::sync::Arc;

/// Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(Arc<RwLock<Vec<Plugin>>>);

impl Registry {
    /// Sorted by name; of two plugins with one name the first stays.
    pub fn new(plugins: Vec<Plugin>) -> Self {
        let registry = Self::default();
        registry.replace(plugins);
        registry
    }

    /// What is found from now on; a connector that runs keeps the plugin that it has until it is started again.
    pub fn replace(&self, mut plugins: Vec<Plugin>) {
        plugins.sort_by(|a, b| a.descriptor().name.cmp(&b.descriptor().name));
        plugins.dedup_by(|b, a| a.descriptor().name == b.descriptor().name);
        *self.0.write() = plugins;
    }

    /// By name, Java class, or simple class name with or without `Connector`.
    pub fn find(&self, class: &str) -> Option<Plugin> {
        let plugins = self.0.read();
        plugins
            .iter()
            .find(|plugin| plugin.descriptor().name == class)
            .or_else(|| plugins.iter().find(|plugin| plugin.descriptor().is_called(class)))
            .cloned()
    }

    /// As they are now, sorted by name.
    pub fn plugins(&self) -> Vec<Plugin> {
        self.0.read().clone()
    }
}
