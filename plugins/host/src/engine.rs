//! The one engine: what language guests may speak, and the clock that interrupts them.

use aqueduct_core::{Error, Result};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine};

use crate::bindings;
use crate::imports::Imports;

/// How often a running guest looks whether its time is over, and lets others run.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Of the guest's own stack; recursion beyond it is a trap.
const STACK_BYTES: usize = 512 << 10;

pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Imports>,
    /// The ticker ends when this is dropped.
    _ticks: mpsc::SyncSender<()>,
}

/// The process's own: compiled code belongs to an engine, and the ticker is one thread.
///
/// # Errors
/// `plugin.engine`: this machine cannot run WebAssembly.
pub(crate) fn runtime() -> Result<Arc<Runtime>> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.clone());
    }
    let made = make().map_err(|error| {
        Error::fatal("plugin.engine", format!("WebAssembly cannot run here: {error:#}"))
            .fix("remove plugin.path from worker.yaml")
    })?;
    Ok(RUNTIME.get_or_init(|| Arc::new(made)).clone())
}

fn make() -> wasmtime::Result<Runtime> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(STACK_BYTES + (512 << 10))
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .memory_init_cow(true);
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    bindings::source::SourcePlugin::add_to_linker::<_, wasmtime::component::HasSelf<Imports>>(&mut linker, |imports| imports)?;
    let (ticks, ended) = mpsc::sync_channel(1);
    let ticking = engine.clone();
    std::thread::Builder::new().name("plugin-epochs".to_owned()).spawn(move || {
        while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
            ticking.increment_epoch();
        }
    })?;
    Ok(Runtime { engine, linker, _ticks: ticks })
}
