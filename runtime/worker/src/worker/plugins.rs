//! The plugins that there are, as REST asks for them, and connectors that go on with another version of theirs.

use super::{AdminResult, Worker, kind};
use crate::admin::{AdminError, ConfigMap, Validation};
use crate::spec::PLUGIN_VERSION;
use aqueduct_config::check::UnknownKeys;
use aqueduct_core::{Descriptor, Issue};
use std::sync::Arc;

impl Worker {
    /// The registry has other plugins than before. A connector for which another version counts now is drained and goes on with that one from where it
    /// is; one that waited for its plugin starts. What pins its version, and what lost its plugin, stays as it is.
    pub async fn plugins_changed(&self) {
        for name in self.connectors() {
            let held = self.with(&name, |handle| (handle.stored.config.clone(), handle.wanted.borrow().spec.clone()));
            let Ok((config, before)) = held else { continue };
            if before.as_ref().as_ref().is_ok_and(|spec| spec.is_current(&self.0.registry)) {
                continue;
            }
            // The plugin judges the config: not under `admin`.
            let spec = match self.spec(&name, &config) {
                Ok(spec) => spec,
                Err(error) if before.is_ok() => {
                    tracing::error!(
                        connector = name,
                        "another version of a plugin cannot be used, and it keeps the one that it has: {error}"
                    );
                    continue;
                }
                Err(_) => continue,
            };
            let _admin = self.0.admin.lock().await;
            let now = self.with(&name, |handle| (handle.stored.clone(), Arc::ptr_eq(&handle.wanted.borrow().spec, &before)));
            // A config that was put meanwhile was built with the new plugins.
            let Ok((stored, true)) = now else { continue };
            let plugin = spec.plugin().descriptor();
            tracing::info!(
                connector = name,
                plugin = plugin.name,
                version = plugin.version,
                "its plugins have changed: it starts again"
            );
            self.replace(&name, stored, spec);
        }
    }

    /// Every connector plugin, by name.
    pub fn plugins(&self) -> Vec<Descriptor> {
        self.0.registry.plugins().iter().map(|plugin| plugin.descriptor().clone()).collect()
    }

    /// By full or simple name, `Connector` optional; the newest of the versions that are asked for.
    ///
    /// BadRequest for a version that is not there.
    pub fn plugin(&self, class: &str, version: Option<&str>) -> AdminResult<Descriptor> {
        let found = self.0.registry.find_version(class, version).map_err(|issue| AdminError::BadRequest(text_of(&issue)))?;
        let plugin = found.ok_or_else(|| AdminError::NotFound(format!("Unknown plugin {class}.")))?;
        Ok(plugin.descriptor().clone())
    }

    /// Pure: touches nothing outside.
    pub fn validate(&self, class: &str, config: &ConfigMap) -> AdminResult<Validation> {
        let wanted = config.get(PLUGIN_VERSION).map(String::as_str);
        // A version that is not there is an issue of its option.
        let descriptor = self.plugin(class, wanted).or_else(|_| self.plugin(class, None))?;
        let given = config.get("connector.class").map(String::as_str).unwrap_or_default();
        if !given.is_empty() && self.0.registry.find(given).is_none_or(|plugin| plugin.descriptor().name != descriptor.name) {
            return Err(AdminError::BadRequest(format!("Included connector type {given} does not match request type {class}")));
        }
        let name = config.get("name").map_or("", String::as_str);
        let issues = crate::spec::issues(name, config, &self.0.registry, &self.0.options.defaults, UnknownKeys::Warn);
        let kind = kind(&descriptor);
        let mut options = crate::spec::common_options(kind);
        options.extend(descriptor.options);
        options.extend(aqueduct_transforms::part_options(&config.clone().into_iter().collect()));
        Ok(Validation { class: class.to_owned(), kind, options, issues })
    }

    /// Kafka Connect's text; kcctl looks for its beginning.
    pub(super) fn unknown_class(&self, class: &str) -> String {
        let mut names: Vec<String> = self.0.registry.plugins().iter().map(|plugin| plugin.descriptor().name.clone()).collect();
        names.dedup();
        format!(
            "Failed to find any class that implements Connector and which name matches {class}, available connectors are: {}",
            names.join(", ")
        )
    }
}

fn text_of(issue: &Issue) -> String {
    issue.fix.as_ref().map_or_else(|| issue.message.clone(), |fix| format!("{}; {fix}", issue.message))
}
