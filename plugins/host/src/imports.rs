//! What a guest may call, and the bounds of its instance.

use crate::bindings::{environment, http, metrics, runtime, secrets, state, types};
use crate::engine::TICK;
use crate::error::{Interrupted, clean};
use crate::lines::Lines;
use crate::measures::Measures;
use crate::sockets::Dialled;
use crate::state::State;
use crate::wasi_http::Outgoing;
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{CancellationToken, Result as Done};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

const RANDOM_BYTES: u32 = 64 << 10;
/// A component of a language with a runtime has a few of each.
const INSTANCES: usize = 64;
const TABLE_ELEMENTS: usize = 100_000;
/// Of all requests, and all waits for files and sockets, of one call together.
const OUTSIDE_A_CALL: Duration = Duration::from_secs(60);

/// The data of one instance's store.
pub(crate) struct Imports {
    pub(crate) plugin: Arc<str>,
    pub(crate) grant: Arc<PluginGrant>,
    /// Cancelled when nobody waits for the call any more.
    pub(crate) abandoned: CancellationToken,
    pub(crate) call: Call,
    /// After each tick that it ran (`limits.cpu`).
    pub(crate) pause: Option<Duration>,
    /// What memory it last asked for and was refused: a trap does not say so.
    pub(crate) memory_refused: Option<usize>,
    /// Linear memory, all together.
    pub(crate) memory_bytes: usize,
    pub(crate) lines: Arc<Lines>,
    /// Those of the task; of `validate` and `plan`, which nobody looks at.
    pub(crate) measures: Arc<Measures>,
    /// A source's, once it is opened.
    pub(crate) state: Option<State>,
    pub(crate) wasi: WasiCtx,
    pub(crate) dialled: Arc<Dialled>,
    /// The names of lookups under way, by their resource.
    pub(crate) lookups: HashMap<u32, String>,
    pub(crate) table: ResourceTable,
    pub(crate) outgoing: Outgoing,
    pub(crate) http_context: WasiHttpCtx,
    started: Instant,
}

/// Whose instance it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// Of a task: it is given files and secrets.
    Task,
    /// Of a transform, or for `validate` and `plan`: it only computes.
    Pure,
}

/// What bounds the call that runs.
pub(crate) struct Call {
    /// Of its own time, in ticks of the clock that find it running: a machine under load, or one that was asleep, does not take it away.
    ticks_left: u128,
    /// It waited in an import: the next tick is not of its own time.
    waited: bool,
    /// Until when it may sleep, and what ends that.
    waiting: Option<(Instant, CancellationToken)>,
    outside_left: Duration,
    pure: bool,
}

/// What a call may do beyond computing.
pub(crate) enum Reach {
    /// No imports that wait or reach out.
    Nothing,
    World,
    /// It may sleep too: so long, and until that is cancelled.
    Sleep(Duration, CancellationToken),
}

/// What the clock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Its time is over.
    Over,
    Ran,
    /// It waited, all that time or some of it.
    Waited,
}

impl Call {
    /// `limit` is of its own time.
    pub(crate) fn new(limit: Duration, reach: Reach) -> Self {
        let ticks_left = limit.as_millis().div_ceil(TICK.as_millis());
        let pure = matches!(reach, Reach::Nothing);
        let waiting = match reach {
            Reach::Sleep(wait, until) => Some((Instant::now() + wait, until)),
            Reach::Nothing | Reach::World => None,
        };
        Self { ticks_left, waited: false, waiting, outside_left: OUTSIDE_A_CALL, pure }
    }

    /// The clock found it running.
    pub(crate) fn tick(&mut self) -> Tick {
        if std::mem::take(&mut self.waited) {
            return Tick::Waited;
        }
        self.ticks_left = self.ticks_left.saturating_sub(1);
        if self.ticks_left == 0 { Tick::Over } else { Tick::Ran }
    }

    /// `validate`, `plan` and transforms do not touch the world.
    pub(crate) fn is_pure(&self) -> bool {
        self.pure
    }

    /// What WASI waits for.
    ///
    /// # Errors
    /// It waited too long, or nobody waits for it any more.
    pub(crate) async fn outside<T>(
        &mut self,
        abandoned: &CancellationToken,
        wait: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut wait = pin!(wait);
        // Most are ready; and `validate`, in which nothing else is, has no clock to wait by.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await {
            return Ok(done);
        }
        if self.pure {
            return Err(Interrupted::Waited(Duration::ZERO));
        }
        let begun = Instant::now();
        let done = tokio::select! {
            done = wait => Ok(done),
            () = abandoned.cancelled() => Err(Interrupted::Abandoned),
            () = tokio::time::sleep(self.outside_left) => Err(Interrupted::Waited(OUTSIDE_A_CALL)),
        };
        self.waited(begun);
        self.outside_left = self.outside_left.saturating_sub(begun.elapsed());
        done
    }

    /// What the guest waited for is bounded of itself (`waiting`, `outside_left`). Less than a tick counts as its own time: else a loop of short
    /// waits would never end.
    fn waited(&mut self, since: Instant) {
        self.waited |= since.elapsed() >= TICK;
    }
}

impl Imports {
    /// # Errors
    /// `plugin.files`: a folder of `allow.files` cannot be opened.
    pub(crate) fn new(plugin: Arc<str>, grant: Arc<PluginGrant>, abandoned: CancellationToken, world: World) -> Done<Self> {
        let lines = Arc::new(Lines::new(plugin.clone()));
        let dialled = Dialled::new(plugin.clone(), grant.clone(), lines.clone());
        let outgoing = Outgoing::new(plugin.clone(), grant.clone(), lines.clone());
        Ok(Self {
            wasi: crate::wasi::context(&plugin, &grant, &lines, &dialled, world)?,
            plugin,
            grant,
            abandoned,
            call: Call::new(Duration::ZERO, Reach::Nothing),
            pause: None,
            memory_refused: None,
            memory_bytes: 0,
            lines,
            measures: Arc::default(),
            state: None,
            dialled,
            lookups: HashMap::new(),
            table: ResourceTable::new(),
            outgoing,
            http_context: WasiHttpCtx::new(),
            started: Instant::now(),
        })
    }

    /// Until when a wait of this call may go on, and what ends it. None: it may not wait.
    pub(crate) fn waiting(&self) -> Option<(Instant, CancellationToken)> {
        self.call.waiting.clone()
    }

    pub(crate) fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn state(&mut self) -> Result<&mut State, String> {
        self.state.as_mut().ok_or_else(|| "only a source that is open has state".to_owned())
    }
}

impl types::Host for Imports {}

impl runtime::Host for Imports {
    fn log(&mut self, level: runtime::Level, message: String) {
        self.lines.write(level, &message);
    }

    async fn sleep(&mut self, ms: u32) -> bool {
        let Some((until, interrupt)) = &self.call.waiting else { return false };
        let begun = Instant::now();
        let end = (*until).min(begun + Duration::from_millis(ms.into()));
        let slept = tokio::select! {
            () = tokio::time::sleep_until(end.into()) => end < *until,
            () = interrupt.cancelled() => false,
            () = self.abandoned.cancelled() => false,
        };
        self.call.waited(begun);
        slept
    }

    fn now_ms(&mut self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic_ns(&mut self) -> u64 {
        self.elapsed_ns()
    }

    fn random(&mut self, n: u32) -> Vec<u8> {
        (0..n.min(RANDOM_BYTES)).map(|_| fastrand::u8(..)).collect()
    }
}

impl metrics::Host for Imports {
    fn set(&mut self, name: String, labels: metrics::Labels, value: f64) {
        let labels = self.redacted(labels);
        let set = self.measures.set(&name, labels, value);
        self.measured(&name, set);
    }

    fn add(&mut self, name: String, labels: metrics::Labels, delta: f64) {
        let labels = self.redacted(labels);
        let added = self.measures.add(&name, labels, delta);
        self.measured(&name, added);
    }
}

impl Imports {
    /// Invariant 9.
    fn redacted(&self, labels: metrics::Labels) -> metrics::Labels {
        labels.into_iter().map(|(name, value)| (name, self.lines.redact(value))).collect()
    }

    fn measured(&self, name: &str, result: Result<(), String>) {
        if let Err(why) = result {
            self.lines.write(runtime::Level::Warn, &format!("the metric {} is left out: {why}", clean(name, 100)));
        }
    }
}

impl environment::Host for Imports {
    fn variable(&mut self, name: String) -> Result<Option<String>, String> {
        if !self.grant.env.contains(&name) {
            let name = clean(&name, 100);
            return Err(format!("{name} is not granted: add it to plugins.{}.allow.env in worker.yaml", self.plugin));
        }
        Ok(std::env::var(&name).ok())
    }
}

impl secrets::Host for Imports {
    fn get(&mut self, name: String) -> Result<String, String> {
        if !self.grant.secrets.has(&name) {
            let name = clean(&name, 100);
            return Err(format!("{name} is not granted: add plugins.{}.allow.secrets.{name} to worker.yaml", self.plugin));
        }
        let given = self.lines.secrets().and_then(|secrets| secrets.options.get(&name).cloned());
        given.ok_or_else(|| "validate, plan and transforms are given no secrets".to_owned())
    }
}

impl state::Host for Imports {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, String> {
        Ok(self.state()?.get(&key))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        self.state()?.set(key, value)
    }

    fn delete(&mut self, key: String) -> Result<(), String> {
        self.state()?.delete(&key);
        Ok(())
    }

    fn keys(&mut self) -> Result<Vec<String>, String> {
        Ok(self.state()?.keys())
    }
}

impl http::Host for Imports {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, http::Error> {
        if self.call.pure {
            return Err(http::Error::Denied("validate, plan and transforms do not touch the world".to_owned()));
        }
        let client = self.outgoing.client()?;
        let begun = Instant::now();
        let answer = tokio::select! {
            answer = crate::http::send(&client, &self.plugin, &self.grant, request, self.call.outside_left) => answer,
            () = self.abandoned.cancelled() => Err(http::Error::Failed("the task is stopping".to_owned())),
        };
        self.call.waited(begun);
        self.call.outside_left = self.call.outside_left.saturating_sub(begun.elapsed());
        answer
    }
}

impl ResourceLimiter for Imports {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes - current.min(self.memory_bytes) + desired;
        if total as u64 > self.grant.memory.get() {
            self.memory_refused = Some(desired);
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS {
            self.memory_refused = Some(desired * size_of::<usize>());
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }
}
