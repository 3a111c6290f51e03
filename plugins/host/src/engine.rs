//! The engine: what language guests may speak, and the clock that interrupts them.

use aqueduct_core::{Error, Result};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime::{Cache, CacheConfig, Config, Engine};

use crate::bindings;
use crate::imports::Imports;
use crate::kept::user_folder;

/// How often a running guest looks whether its time is over, and lets others run.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Of the guest's own stack; recursion beyond it is a trap.
const STACK_BYTES: usize = 512 << 10;

pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Imports>,
    /// The ticker ends when this is dropped. What is trusted is not interrupted, and has none.
    _ticks: Option<mpsc::SyncSender<()>>,
}

/// The process's own, one for plugins that are `trusted` and one for the others: compiled code belongs to an engine, and the ticker is one thread.
///
/// # Errors
/// `plugin.engine`: this machine cannot run WebAssembly.
pub(crate) fn runtime(trusted: bool) -> Result<Arc<Runtime>> {
    static RUNTIMES: [OnceLock<Arc<Runtime>>; 2] = [OnceLock::new(), OnceLock::new()];
    let slot = &RUNTIMES[usize::from(trusted)];
    if let Some(runtime) = slot.get() {
        return Ok(runtime.clone());
    }
    let made = make(trusted).map_err(|error| {
        Error::fatal("plugin.engine", format!("WebAssembly cannot run here: {error:#}"))
            .fix("remove plugin.path from worker.yaml")
    })?;
    Ok(slot.get_or_init(|| Arc::new(made)).clone())
}

/// Compiled code, by the hash of what it was compiled from: a Python guest of 18 MB takes seconds, its code is read in milliseconds. It is as much to be
/// trusted as the folder, which is the user's own. None: there is no such folder, or it cannot be written.
fn cache() -> Option<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(user_folder()?.join("plugins"));
    let made = Cache::new(config);
    made.inspect_err(|error| tracing::debug!("compiled plugins are not kept: {error:#}")).ok()
}

fn make(trusted: bool) -> wasmtime::Result<Runtime> {
    let mut config = Config::new();
    config
        .epoch_interruption(!trusted)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(STACK_BYTES + (512 << 10))
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .memory_init_cow(true);
    if let Some(cache) = cache() {
        config.cache(Some(cache));
    }
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    crate::wasi::add_to_linker(&mut linker)?;
    bindings::source::SourcePlugin::add_to_linker::<_, wasmtime::component::HasSelf<Imports>>(&mut linker, |imports| imports)?;
    let ticks = if trusted { None } else { Some(tick(engine.clone())?) };
    Ok(Runtime { engine, linker, _ticks: ticks })
}

fn tick(engine: Engine) -> wasmtime::Result<mpsc::SyncSender<()>> {
    let (ticks, ended) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("plugin-epochs".to_owned()).spawn(move || {
        while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
            engine.increment_epoch();
        }
    })?;
    Ok(ticks)
}
