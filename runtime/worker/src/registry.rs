//! The plugins that this worker has. After this point nothing can tell a WASM plugin from a built-in.

use aqueduct_config::version::{Wanted, compare};
use aqueduct_core::{Issue, Plugin};
use parking_lot::RwLock;
use std::sync::Arc;

/// Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(Arc<Plugins>);

#[derive(Default)]
struct Plugins {
    /// One version of each.
    built_in: Vec<Plugin>,
    /// By name, the newest version first.
    installed: RwLock<Vec<Plugin>>,
}

impl Registry {
    /// Of two plugins with one name the first stays.
    pub fn new(mut built_in: Vec<Plugin>) -> Self {
        built_in.sort_by(|a, b| a.descriptor().name.cmp(&b.descriptor().name));
        built_in.dedup_by(|b, a| a.descriptor().name == b.descriptor().name);
        Self(Arc::new(Plugins { built_in, installed: RwLock::default() }))
    }

    /// What is there beside the built-in ones from now on, several versions of a plugin among them. A connector that runs keeps the plugin that it
    /// has: see [`crate::Worker::plugins_changed`]. Returns those that were not taken: a built-in has the name, another kind of plugin, or another
    /// file the same version.
    pub fn install(&self, plugins: Vec<Plugin>) -> Vec<Plugin> {
        let (mut taken, mut left) = (Vec::<Plugin>::new(), Vec::new());
        for plugin in plugins {
            let new = plugin.descriptor();
            let built_in = self.0.built_in.iter().any(|known| known.descriptor().is_called(&new.name));
            let mut namesakes = taken.iter().map(Plugin::descriptor).filter(|known| known.name == new.name);
            if built_in || namesakes.any(|known| known.kind != new.kind || compare(&known.version, &new.version).is_eq()) {
                left.push(plugin);
            } else {
                taken.push(plugin);
            }
        }
        taken.sort_by(|a, b| {
            let (a, b) = (a.descriptor(), b.descriptor());
            a.name.cmp(&b.name).then_with(|| compare(&b.version, &a.version))
        });
        *self.0.installed.write() = taken;
        left
    }

    /// By name, Java class, or simple class name with or without `Connector`; the newest version.
    pub fn find(&self, class: &str) -> Option<Plugin> {
        self.find_version(class, None).ok().flatten()
    }

    /// As [`Registry::find`]; the newest version that `connector.plugin.version` takes. A built-in has one version, and is taken whatever it says:
    /// the version of a Java class means nothing here.
    ///
    /// # Errors
    /// `config.version`, at `connector.plugin.version`: there is none.
    pub fn find_version(&self, class: &str, wanted: Option<&str>) -> Result<Option<Plugin>, Box<Issue>> {
        let built_in = &self.0.built_in;
        let installed = self.0.installed.read();
        let named = |plugins: &[Plugin]| plugins.iter().find(|plugin| plugin.descriptor().name == class).cloned();
        let called = |plugins: &[Plugin]| plugins.iter().find(|plugin| plugin.descriptor().is_called(class)).cloned();
        if let Some(plugin) = named(built_in) {
            return Ok(Some(plugin));
        }
        let versions: Vec<&Plugin> = installed.iter().filter(|plugin| plugin.descriptor().name == class).collect();
        if versions.is_empty() {
            return Ok(called(built_in));
        }
        let issue =
            |what: String, fix: String| Box::new(Issue::error("connector.plugin.version", "config.version", what).fix(fix));
        let wanted = wanted.unwrap_or_default().trim();
        let there: Vec<&str> = versions.iter().map(|plugin| plugin.descriptor().version.as_str()).collect();
        let there = there.join(", ");
        let judged = Wanted::parse(wanted).map_err(|what| issue(what, format!("{class} is there as {there}")))?;
        let found = versions.into_iter().find(|plugin| judged.takes(&plugin.descriptor().version));
        found.cloned().map(Some).ok_or_else(|| {
            let fix = format!("there is {there}: write one of them, or install what is missing");
            issue(format!("no version of {class} in plugin.path is {wanted}"), fix)
        })
    }

    /// As they are now, sorted by name, the newest version first.
    pub fn plugins(&self) -> Vec<Plugin> {
        let mut all = self.0.built_in.clone();
        all.extend(self.0.installed.read().iter().cloned());
        // Stable: versions keep their order.
        all.sort_by(|a, b| a.descriptor().name.cmp(&b.descriptor().name));
        all
    }
}

/// The same code of the same file.
pub(crate) fn is_same(a: &Plugin, b: &Plugin) -> bool {
    match (a, b) {
        (Plugin::Source(a), Plugin::Source(b)) => Arc::ptr_eq(a, b),
        (Plugin::Sink(a), Plugin::Sink(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Descriptor, Options, PluginKind, Result, SinkPlugin, SinkTask, TaskSpec};
    use async_trait::async_trait;

    struct Named(Descriptor);

    #[async_trait]
    impl SinkPlugin for Named {
        fn descriptor(&self) -> &Descriptor {
            &self.0
        }
        fn validate(&self, _: &Options) -> Vec<Issue> {
            Vec::new()
        }
        async fn plan(&self, _: &Options, _: u32) -> Result<Vec<TaskSpec>> {
            Ok(vec![TaskSpec::new()])
        }
        async fn open(&self, _: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
            Err(aqueduct_core::Error::fatal("test", "it only has a name"))
        }
    }

    fn plugin(name: &str, version: &str) -> Plugin {
        Plugin::Sink(Arc::new(Named(Descriptor {
            name: name.to_owned(),
            aliases: vec![format!("org.example.{name}Connector")],
            kind: PluginKind::Sink,
            version: version.to_owned(),
            summary: String::new(),
            options: Vec::new(),
        })))
    }

    #[test]
    fn versions_lie_side_by_side_and_the_newest_is_taken() {
        let registry = Registry::new(vec![plugin("own", "0.1")]);
        let installed = ["1.2", "1.10", "2.0-rc1", "1.2.0"].map(|version| plugin("b", version));
        let left = registry.install([plugin("own", "9"), plugin("a", "1")].into_iter().chain(installed).collect());
        let shown = |plugins: Vec<Plugin>| -> Vec<String> {
            plugins.iter().map(|p| format!("{} {}", p.descriptor().name, p.descriptor().version)).collect()
        };
        assert_eq!(shown(left), ["own 9", "b 1.2.0"]);
        assert_eq!(shown(registry.plugins()), ["a 1", "b 2.0-rc1", "b 1.10", "b 1.2", "own 0.1"]);
        let found = |class: &str, wanted: Option<&str>| {
            registry.find_version(class, wanted).map(|found| found.map(|plugin| plugin.descriptor().version.clone()))
        };
        for (wanted, version) in
            [(None, "2.0-rc1"), (Some("[1.0,2.0-alpha)"), "1.10"), (Some("1.2"), "1.2"), (Some("latest"), "2.0-rc1")]
        {
            assert_eq!(found("b", wanted).unwrap().unwrap(), version, "{wanted:?}");
        }
        let missing = found("b", Some("[3,)")).unwrap_err();
        assert!(missing.path == "connector.plugin.version" && missing.fix.unwrap().contains("2.0-rc1, 1.10, 1.2"));
        assert!(found("b", Some("[3")).is_err());
        for class in ["own", "org.example.ownConnector"] {
            assert_eq!(found(class, Some("3.2.6.Final")).unwrap().unwrap(), "0.1", "{class}: of a Java class");
        }
        assert_eq!(found("c", Some("[3")).unwrap(), None);
    }
}
