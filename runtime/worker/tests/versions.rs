//! Plugins that come, go and change while their connectors run.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fakes;

use aqueduct_core::*;
use aqueduct_log::memory::MemoryLog;
use aqueduct_worker::spec::Defaults;
use aqueduct_worker::*;
use async_trait::async_trait;
use fakes::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A version that takes no config.
struct Refuses(Descriptor);

#[async_trait]
impl SourcePlugin for Refuses {
    fn descriptor(&self) -> &Descriptor {
        &self.0
    }
    fn validate(&self, _: &Options) -> Vec<Issue> {
        vec![Issue::error("topic", "fake.config", "is not what it was")]
    }
    async fn plan(&self, _: &Options, _: u32) -> Result<Vec<TaskSpec>> {
        Ok(vec![TaskSpec::new()])
    }
    async fn open(&self, _: &Options, _: TaskSpec, _: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        Err(Error::fatal("fake.open", "never opened"))
    }
}

fn described(version: &str) -> Descriptor {
    Descriptor { version: version.to_owned(), ..descriptor("fake-source", PluginKind::Source) }
}

struct Rig {
    worker: Worker,
    registry: Registry,
    script: Arc<SourceScript>,
}

impl Rig {
    async fn new() -> Self {
        let registry = Registry::new(Vec::new());
        let options = WorkerOptions {
            worker_id: "127.0.0.1:8083".into(),
            cluster_id: "test".into(),
            shutdown_timeout: Duration::from_secs(30),
            defaults: Arc::new(Defaults::default()),
            topic_tracking: true,
            topic_tracking_reset: true,
            data: tokio::runtime::Handle::current(),
        };
        let worker = Worker::new(options, registry.clone(), Arc::new(MemoryLog::new()));
        worker.start().await.unwrap();
        Self { worker, registry, script: Arc::default() }
    }

    fn version(&self, version: &str) -> Plugin {
        Plugin::Source(Arc::new(FakeSource(self.script.clone(), described(version))))
    }

    async fn installed(&self, plugins: &[&Plugin]) {
        assert!(self.registry.install(plugins.iter().map(|plugin| (*plugin).clone()).collect()).is_empty());
        self.worker.plugins_changed().await;
    }

    async fn create(&self, name: &str, more: &[(&str, &str)]) {
        let config = [("connector.class", "fake-source"), ("topic", "t")].iter().chain(more);
        let config: ConfigMap = config.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.worker.create(name, config, TargetState::Started).await.unwrap();
    }

    async fn runs(&self, name: &str, version: &str) {
        let is = || {
            let status = self.worker.status(name).unwrap();
            status.connector.version == version && status.tasks.first().is_some_and(|task| task.state == State::Running)
        };
        until(&format!("{name} runs {version}"), async || is()).await;
    }

    /// The status has the new version as soon as the old task is to end.
    async fn opened(&self, times: u64) {
        until(&format!("{times} tasks were opened"), async || self.opens() == times).await;
    }

    fn opens(&self) -> u64 {
        self.script.opens.load(SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_takes_the_new_version_starts_again() {
    let rig = Rig::new().await;
    let [old, new, newest] = ["1.0", "1.1", "2.0"].map(|version| rig.version(version));
    rig.installed(&[&old]).await;
    rig.create("free", &[]).await;
    rig.create("below", &[("connector.plugin.version", "[1.0,2.0)")]).await;
    rig.create("pinned", &[("connector.plugin.version", "1.0")]).await;
    for name in ["free", "below", "pinned"] {
        rig.runs(name, "1.0").await;
    }
    rig.installed(&[&old, &new]).await;
    rig.opened(5).await;
    rig.runs("free", "1.1").await;
    rig.installed(&[&newest, &old, &new]).await;
    rig.opened(6).await;
    rig.runs("free", "2.0").await;
    // Nothing else has changed.
    rig.installed(&[&newest, &old, &new]).await;
    rig.runs("below", "1.1").await;
    rig.runs("pinned", "1.0").await;
    // One pin lost its version, the other takes what is left of its range.
    rig.installed(&[&newest, &new]).await;
    rig.runs("pinned", "1.0").await;
    assert_eq!(rig.opens(), 6);
    rig.installed(&[&old]).await;
    rig.opened(8).await;
    rig.runs("free", "1.0").await;
    rig.runs("below", "1.0").await;
    rig.runs("pinned", "1.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_refuses_the_config_replaces_nothing() {
    let rig = Rig::new().await;
    let old = rig.version("1.0");
    rig.installed(&[&old]).await;
    rig.create("src", &[]).await;
    rig.runs("src", "1.0").await;
    let refuses = Plugin::Source(Arc::new(Refuses(described("1.1"))));
    rig.installed(&[&old, &refuses]).await;
    rig.runs("src", "1.0").await;
    rig.installed(&[]).await;
    rig.runs("src", "1.0").await;
    assert_eq!(rig.opens(), 1);
    // It was built anew: the same version, another file.
    rig.installed(&[&rig.version("1.0")]).await;
    rig.opened(2).await;
    rig.runs("src", "1.0").await;
}
