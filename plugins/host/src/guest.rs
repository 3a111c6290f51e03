//! One instance, owned by one Tokio task: calls come to it as jobs, so that a caller that goes away never drops a call midway. Then, and when its
//! time is over, the running call is interrupted by the epoch.

use crate::bindings::types;
use crate::engine::{TICK, runtime};
use crate::error::{Interrupted, returned, trapped};
use crate::imports::{Call, Imports, Reach, Tick, World};
use crate::lines::Lines;
use crate::measures::Measures;
use aqueduct_config::providers::Resolved;
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{CancellationToken, Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use wasmtime::{Store, UpdateDeadline};

/// What `limits.cpu` has at least: the pause is then a second.
const CPU_MIN: f64 = 0.01;

pub(crate) type Called<'a, T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>>;

/// The store, and the bindings of the world that runs in it.
pub(crate) struct Live<B> {
    pub(crate) store: Store<Imports>,
    pub(crate) bindings: B,
}

type Job<B> = Box<dyn for<'a> FnOnce(&'a mut Live<B>) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> + Send>;

/// The handle of a running instance. Dropping it interrupts what runs, and ends the instance.
pub(crate) struct Guest<B> {
    plugin: Arc<str>,
    grant: Arc<PluginGrant>,
    lines: Arc<Lines>,
    /// What its linear memory was once it was open, and is now.
    memory: (usize, usize),
    limit: Duration,
    jobs: mpsc::Sender<Job<B>>,
    abandoned: CancellationToken,
    dead: bool,
}

/// A store with its bounds; its clock looks every tick, unless it is for code that is `trusted`.
pub(crate) fn store(
    plugin: &Arc<str>,
    grant: &Arc<PluginGrant>,
    abandoned: CancellationToken,
    world: World,
    trusted: bool,
) -> Result<Store<Imports>> {
    let runtime = runtime(trusted)?;
    let mut store = Store::new(&runtime.engine, Imports::new(plugin.clone(), grant.clone(), abandoned, world)?);
    store.limiter(|imports| imports);
    // What one call may make the host allocate: a list that names the same text a million times is small in the guest.
    store.set_hostcall_fuel(usize::try_from(grant.memory.get()).unwrap_or(usize::MAX));
    store.epoch_deadline_callback(|mut cx| {
        let imports = cx.data_mut();
        if imports.abandoned.is_cancelled() {
            return Err(Interrupted::Abandoned.into());
        }
        let tick = imports.call.tick();
        if tick == Tick::Over {
            return Err(Interrupted::Timeout(imports.grant.call_timeout.into()).into());
        }
        if let Some(pause) = imports.pause.filter(|_| tick == Tick::Ran) {
            let abandoned = imports.abandoned.clone();
            let rest = async move { drop(tokio::time::timeout(pause, abandoned.cancelled()).await) };
            return Ok(UpdateDeadline::YieldCustom(1, Box::pin(rest)));
        }
        // Others on this thread have their turn (invariant 10).
        Ok(UpdateDeadline::Yield(1))
    });
    store.set_epoch_deadline(1);
    Ok(store)
}

impl<B: Send + 'static> Guest<B> {
    /// `instantiate` runs within the limit of a call too.
    pub(crate) async fn start(
        plugin: Arc<str>,
        grant: Arc<PluginGrant>,
        world: World,
        measures: Arc<Measures>,
        instantiate: impl for<'a> FnOnce(&'a mut Store<Imports>) -> Called<'a, B> + Send + 'static,
    ) -> Result<Self> {
        let abandoned = CancellationToken::new();
        let limit: Duration = grant.call_timeout.into();
        let mut store = store(&plugin, &grant, abandoned.clone(), world, grant.trusted)?;
        let lines = store.data().lines.clone();
        if world == World::Task && !grant.secrets.is_empty() {
            lines.give(secrets(&grant).await?);
        }
        let imports = store.data_mut();
        (imports.call, imports.measures, imports.pause) = (Call::new(limit, Reach::Nothing), measures, pause(grant.cpu));
        let (jobs, mut queue) = mpsc::channel::<Job<B>>(1);
        let (started, ready) = oneshot::channel();
        let guest = Self { plugin: plugin.clone(), grant, lines, memory: (0, 0), limit, jobs, abandoned, dead: false };
        let run = async move {
            let begun = Instant::now();
            let made = instantiate(&mut store).await;
            tracing::debug!(plugin = &*plugin, took_us = begun.elapsed().as_micros() as u64, "an instance is made");
            let bindings = match made {
                Ok(bindings) => bindings,
                Err(error) => {
                    let _ = started.send(Err(trapped(&plugin, "its start", &error, store.data().memory_refused)));
                    return;
                }
            };
            if started.send(Ok(())).is_err() {
                return;
            }
            let mut live = Live { store, bindings };
            while let Some(job) = queue.recv().await {
                // A trap leaves the instance in an unknown state: it is never called again.
                if !job(&mut live).await {
                    return;
                }
            }
        };
        // Owned by the handle: it ends when the handle's end of the queue is dropped, and never later than one call's limit after that.
        #[allow(clippy::disallowed_methods, reason = "an aborted task would drop a call midway, which wasmtime must not see")]
        tokio::spawn(run);
        let mut interrupted = Unless { abandoned: Some(guest.abandoned.clone()) };
        let ready = ready.await.unwrap_or_else(|_| Err(gone(&guest.plugin, "its start")));
        interrupted.abandoned = None;
        ready?;
        Ok(guest)
    }

    /// One call.
    ///
    /// # Errors
    /// `plugin.trap`, `plugin.timeout`, `plugin.memory`: the instance is gone.
    pub(crate) async fn call<T: Send + 'static>(
        &mut self,
        name: &'static str,
        reach: Reach,
        run: impl for<'a> FnOnce(&'a mut Live<B>) -> Called<'a, T> + Send + 'static,
    ) -> Result<T> {
        if self.dead {
            return Err(gone(&self.plugin, name));
        }
        self.dead = true;
        let (answer, answered) = oneshot::channel();
        let (plugin, limit) = (self.plugin.clone(), self.limit);
        let job: Job<B> = Box::new(move |live| {
            Box::pin(async move {
                let data = live.store.data_mut();
                data.call = Call::new(limit, reach);
                data.memory_refused = None;
                live.store.set_epoch_deadline(1);
                let result = run(live).await;
                let lives = result.is_ok();
                let data = live.store.data();
                let _ =
                    answer.send((result.map_err(|error| trapped(&plugin, name, &error, data.memory_refused)), data.memory_bytes));
                lives
            })
        });
        if self.jobs.send(job).await.is_err() {
            return Err(gone(&self.plugin, name));
        }
        let mut interrupted = Unless { abandoned: Some(self.abandoned.clone()) };
        let (result, memory) = answered.await.unwrap_or_else(|_| (Err(gone(&self.plugin, name)), 0));
        interrupted.abandoned = None;
        self.dead = result.is_err();
        self.memory.1 = memory;
        result
    }

    /// It is open: from here on its memory should not grow without end.
    pub(crate) fn opened(&mut self) {
        self.memory.0 = self.memory.1;
    }

    /// It has taken half of what the limit left it once it was open. Linear memory never shrinks, and some runtimes keep what they are given
    /// (componentize-py each batch): a new instance begins small.
    pub(crate) fn has_grown(&self) -> bool {
        let (open, now) = self.memory;
        let limit = usize::try_from(self.grant.memory.get()).unwrap_or(usize::MAX);
        now > open && now - open > limit.saturating_sub(open) / 2
    }

    /// What the guest itself said, without its secrets (invariant 9).
    pub(crate) fn returned<T>(&self, call: &str, result: Result<T, types::Error>) -> Result<T> {
        let redacted = |error: types::Error| types::Error { message: self.lines.redact(error.message), ..error };
        returned(&self.plugin, call, result.map_err(redacted))
    }

    /// Text of the guest without its secrets.
    pub(crate) fn redact(&self, text: String) -> String {
        self.lines.redact(text)
    }

    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }
}

/// After each tick that a guest ran, so that it has the share of a core that it is granted. A call shorter than a tick is found by every so many
/// ticks, which comes to the same. None: it has all of one.
fn pause(cpu: f64) -> Option<Duration> {
    (cpu < 1.0).then(|| TICK.mul_f64(1.0 / cpu.max(CPU_MIN) - 1.0))
}

/// Files may be read for it.
async fn secrets(grant: &Arc<PluginGrant>) -> Result<Resolved> {
    let grant = grant.clone();
    let _permit = aqueduct_core::blocking::permit().await;
    let read = tokio::task::spawn_blocking(move || grant.secrets.read()).await;
    read.unwrap_or_else(|_| Err(Error::fatal("config.secret", "a config provider panicked")))
}

impl<B> Drop for Guest<B> {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

/// Cancels when it is dropped before the answer came.
struct Unless {
    abandoned: Option<CancellationToken>,
}

impl Drop for Unless {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.abandoned {
            abandoned.cancel();
        }
    }
}

fn gone(plugin: &str, call: &str) -> Error {
    Error::retriable("plugin.trap", format!("{plugin}: {call}: its instance ended with an earlier call"))
}
