//! One plugin of a component: what a source, a sink and a transform have in common.

use crate::bindings::{sink, source, transform, types};
use crate::engine::runtime;
use crate::error::{clean, trapped};
use crate::guest::{Called, Guest, store};
use crate::imports::{Call, Imports, Reach, World};
use crate::measures::Measures;
use crate::metadata::{Capabilities, Kind, PluginMetadata};
use crate::parts::Failures;
use aqueduct_config::dynamic::Schema;
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{CancellationToken, Descriptor, Error, Issue, Options, Result};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use wasmtime::Store;
use wasmtime::component::{Component, InstancePre};

/// More say nothing more.
const ISSUES_MAX: usize = 100;

/// The code of one file, compiled when it is first used, for all plugins in it.
pub(crate) struct Code {
    /// Taken by the compiler.
    bytes: Mutex<Vec<u8>>,
    trusted: bool,
    compiled: OnceLock<Result<InstancePre<Imports>, String>>,
}

impl Code {
    pub(crate) fn new(bytes: Vec<u8>, trusted: bool) -> Self {
        Self { bytes: Mutex::new(bytes), trusted, compiled: OnceLock::new() }
    }

    /// Takes about a second for each MB: not on a thread that others wait for.
    fn compile(&self, plugin: &str) -> Result<InstancePre<Imports>> {
        let result = self.compiled.get_or_init(|| {
            let runtime = runtime(self.trusted).map_err(|error| error.to_string())?;
            let bytes = std::mem::take(&mut *self.bytes.lock());
            let component = Component::new(&runtime.engine, bytes).map_err(|error| format!("{error:#}"))?;
            runtime.linker.instantiate_pre(&component).map_err(|error| format!("{error:#}"))
        });
        result.clone().map_err(|error| {
            Error::fatal("plugin.interface", format!("{plugin} does not fit this Aqueduct: {}", clean(&error, 1000)))
                .fix("build it with the SDK of this version of Aqueduct")
        })
    }
}

pub(crate) struct Common {
    pub(crate) name: Arc<str>,
    pub(crate) descriptor: Descriptor,
    pub(crate) grant: Arc<PluginGrant>,
    schema: Schema,
    /// What worker.yaml must grant.
    needs: Capabilities,
    kind: Kind,
    code: Arc<Code>,
    /// For `validate`, which REST waits for (invariant 10): of a trusted plugin too it is interrupted.
    judging: Arc<Code>,
    /// Of its sinks.
    pub(crate) failures: Failures,
}

impl Common {
    pub(crate) fn new(metadata: &PluginMetadata, grant: Arc<PluginGrant>, code: Arc<Code>, judging: Arc<Code>) -> Self {
        let schema = Schema::new(&metadata.config);
        let descriptor = Descriptor {
            name: metadata.name.clone(),
            aliases: Vec::new(),
            kind: metadata.kind.connector(),
            version: metadata.version.clone(),
            summary: metadata.description.clone(),
            options: schema.options(),
        };
        Self {
            name: metadata.name.as_str().into(),
            descriptor,
            grant,
            schema,
            needs: metadata.capabilities.clone(),
            kind: metadata.kind,
            code,
            judging,
            failures: Failures::default(),
        }
    }

    /// Compiled on a thread of its own.
    pub(crate) async fn code(&self) -> Result<InstancePre<Imports>> {
        if let Some(Ok(ready)) = self.code.compiled.get() {
            return Ok(ready.clone());
        }
        let (code, name) = (self.code.clone(), self.name.clone());
        let _permit = aqueduct_core::blocking::permit().await;
        let compiled = tokio::task::spawn_blocking(move || code.compile(&name)).await;
        compiled.unwrap_or_else(|_| Err(Error::fatal("plugin.malformed", format!("{}: the compiler panicked", self.name))))
    }

    /// A new instance, which adds to what is measured.
    pub(crate) async fn start<B: Bindings>(&self, world: World, measures: &Arc<Measures>) -> Result<Guest<B>> {
        let code = self.code().await?;
        Guest::start(self.name.clone(), self.grant.clone(), world, measures.clone(), |store| B::of(code, store)).await
    }

    /// The plugin's own options as the JSON that it is given, once the plugin is content with them too.
    pub(crate) fn judged(&self, options: &Options) -> Result<String> {
        match self.validate(options).into_iter().find(Issue::is_error) {
            Some(issue) => Err(aqueduct_config::options::invalid(&[issue])),
            None => self.config(options),
        }
    }

    /// The plugin's own options as the JSON that it is given.
    pub(crate) fn config(&self, options: &Options) -> Result<String> {
        let config = self.schema.read(options).map_err(|issues| aqueduct_config::options::invalid(&issues))?;
        Ok(serde_json::Value::Object(config).to_string())
    }

    /// What it needs and is not granted, what the schema says, and when these are content, what the plugin says: pure, and within the limit of a call.
    pub(crate) fn validate(&self, options: &Options) -> Vec<Issue> {
        let missing = self.needs.missing(&self.name, &self.grant);
        let config = match self.schema.read(options) {
            Ok(config) if missing.is_empty() => serde_json::Value::Object(config).to_string(),
            Ok(_) => return missing,
            Err(issues) => return [missing, issues].concat(),
        };
        let found = in_place(|| self.judging.compile(&self.name).and_then(|code| finish(self.ask(&code, config))));
        match found {
            Ok(issues) => issues.into_iter().take(ISSUES_MAX).map(|issue| self.issue(issue)).collect(),
            Err(error) => {
                let issue = Issue::error("", error.code(), error.message());
                vec![issue.fix(error.hint().unwrap_or("report it to the plugin's author"))]
            }
        }
    }

    fn issue(&self, found: types::Issue) -> Issue {
        let known = self.descriptor.options.iter().any(|option| option.name == found.path);
        let path = if known { found.path } else { String::new() };
        let issue = Issue::error(path, format!("plugin.{}.config", self.name), clean(&found.message, 500));
        if found.fix.is_empty() { issue } else { issue.fix(clean(&found.fix, 500)) }
    }

    async fn ask(&self, code: &InstancePre<Imports>, config: String) -> Result<Vec<types::Issue>> {
        let mut store = store(&self.name, &self.grant, CancellationToken::new(), World::Pure, false)?;
        store.data_mut().call = Call::new(self.grant.call_timeout.into(), Reach::Nothing);
        let asked = async {
            Ok(match self.kind {
                Kind::Source => {
                    let world = source::SourcePlugin::of(code.clone(), &mut store).await?;
                    world.aqueduct_connector_source().call_validate(&mut store, &config).await?
                }
                Kind::Sink => {
                    let world = sink::SinkPlugin::of(code.clone(), &mut store).await?;
                    world.aqueduct_connector_sink().call_validate(&mut store, &config).await?
                }
                Kind::Transform => {
                    let world = transform::TransformPlugin::of(code.clone(), &mut store).await?;
                    world.aqueduct_connector_transform().call_validate(&mut store, &config).await?
                }
            })
        };
        let result: wasmtime::Result<_> = asked.await;
        result.map_err(|error| trapped(&self.name, "validate", &error, store.data().memory_refused))
    }
}

/// The exports of one of the three worlds, in an instance.
pub(crate) trait Bindings: Sized + Send + 'static {
    fn of(code: InstancePre<Imports>, store: &mut Store<Imports>) -> Called<'_, Self>;
}

impl Bindings for source::SourcePlugin {
    fn of(code: InstancePre<Imports>, store: &mut Store<Imports>) -> Called<'_, Self> {
        Box::pin(async move { source::SourcePluginPre::new(code)?.instantiate_async(store).await })
    }
}

impl Bindings for sink::SinkPlugin {
    fn of(code: InstancePre<Imports>, store: &mut Store<Imports>) -> Called<'_, Self> {
        Box::pin(async move { sink::SinkPluginPre::new(code)?.instantiate_async(store).await })
    }
}

impl Bindings for transform::TransformPlugin {
    fn of(code: InstancePre<Imports>, store: &mut Store<Imports>) -> Called<'_, Self> {
        Box::pin(async move { transform::TransformPluginPre::new(code)?.instantiate_async(store).await })
    }
}

/// Where other tasks share the thread, they move to another one meanwhile.
fn in_place<T>(run: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(run),
        _ => run(),
    }
}

/// Runs a call that only ever yields to its own clock: it needs no reactor, since no import that waits is open to it.
fn finish<T>(call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = call.as_mut().poll(&mut cx) {
            return done;
        }
    }
}
