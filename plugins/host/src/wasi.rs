//! WASI 0.2, which the runtimes of Python, JavaScript and Rust's `std` import whether they use it or not: clocks, random numbers, an environment of
//! what is granted, standard output that goes to the log, files and sockets by grant.

use crate::bindings::runtime::Level;
use crate::imports::{Imports, World};
use crate::lines::Lines;
use crate::sockets::Dialled;
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{CancellationToken, Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamResult, subscribe};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// A line without an end is told once it has so many bytes.
const LINE_BYTES: usize = 8 << 10;

/// All of it, but for what waits as long as it is told, and for names that anyone may look up.
pub(crate) fn add_to_linker(linker: &mut Linker<Imports>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasSelf<Imports>>(linker, |imports| imports)?;
    crate::waits::add_to_linker(linker)?;
    crate::sockets::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    crate::wasi_http::add_to_linker(linker)
}

/// # Errors
/// `plugin.files`: a folder that is granted cannot be opened.
pub(crate) fn context(
    plugin: &str,
    grant: &PluginGrant,
    lines: &Arc<Lines>,
    dialled: &Arc<Dialled>,
    world: World,
) -> Result<WasiCtx> {
    let mut builder = WasiCtxBuilder::new();
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    builder.stdout(Stdio { lines: lines.clone(), level: Level::Info });
    builder.stderr(Stdio { lines: lines.clone(), level: Level::Warn });
    for name in grant.env.iter() {
        if let Ok(value) = std::env::var(name) {
            builder.env(name, &value);
        }
    }
    if world == World::Pure {
        return Ok(builder.build());
    }
    dialled.open(&mut builder);
    for granted in grant.files.iter() {
        let (folder, writable) = folder(granted);
        let perms = if writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        builder.preopened_dir(Path::new(folder), folder, perms).map_err(|error| {
            let what =
                format!("{plugin}: the folder {folder}, which plugins.{plugin}.allow.files grants, cannot be opened: {error:#}");
            Error::fatal("plugin.files", what).fix("create the folder, let the worker read it, or remove it from the grant")
        })?;
    }
    Ok(builder.build())
}

/// `/data/in`, or `/data/out:write`.
fn folder(granted: &str) -> (&str, bool) {
    match granted.strip_suffix(":write") {
        Some(folder) => (folder, true),
        None => (granted, false),
    }
}

impl WasiView for Imports {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl monotonic_clock::Host for Imports {
    fn now(&mut self) -> wasmtime::Result<monotonic_clock::Instant> {
        Ok(self.elapsed_ns())
    }

    fn resolution(&mut self) -> wasmtime::Result<monotonic_clock::Duration> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: monotonic_clock::Instant) -> wasmtime::Result<Resource<DynPollable>> {
        let wait = when.saturating_sub(self.elapsed_ns());
        self.subscribe_duration(wait)
    }

    /// As `runtime.sleep`: at once where the call may not wait, and never beyond what the call is given. A guest that waits again and again for a
    /// time that does not come uses up its own time.
    fn subscribe_duration(&mut self, wait: monotonic_clock::Duration) -> wasmtime::Result<Resource<DynPollable>> {
        let nap = self.waiting().map(|(until, interrupt)| {
            let wanted = Instant::now().checked_add(Duration::from_nanos(wait)).unwrap_or(until);
            Nap { until: wanted.min(until), interrupt, abandoned: self.abandoned.clone() }
        });
        let nap = self.table.push(Wait(nap))?;
        subscribe(&mut self.table, nap)
    }
}

struct Nap {
    until: Instant,
    interrupt: CancellationToken,
    abandoned: CancellationToken,
}

/// None is ready at once.
struct Wait(Option<Nap>);

#[async_trait]
impl Pollable for Wait {
    async fn ready(&mut self) {
        let Some(nap) = &self.0 else { return };
        tokio::select! {
            () = tokio::time::sleep_until(nap.until.into()) => {}
            () = nap.interrupt.cancelled() => {}
            () = nap.abandoned.cancelled() => {}
        }
    }
}

/// Standard output, or standard error.
struct Stdio {
    lines: Arc<Lines>,
    level: Level,
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    /// WASI 0.3 alone uses it, which the linker does not have.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Written { lines: self.lines.clone(), level: self.level, line: Vec::new() })
    }
}

struct Written {
    lines: Arc<Lines>,
    level: Level,
    /// Until its end comes.
    line: Vec<u8>,
}

impl Written {
    fn end(&mut self) {
        if !self.line.is_empty() {
            self.lines.write(self.level, &String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

impl OutputStream for Written {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.line.extend_from_slice(text);
            if text.len() < part.len() || self.line.len() >= LINE_BYTES {
                self.end();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES)
    }
}

#[async_trait]
impl Pollable for Written {
    async fn ready(&mut self) {}
}

impl Drop for Written {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_reading_unless_it_says_write() {
        assert_eq!(folder("/data/in"), ("/data/in", false));
        assert_eq!(folder("/data/out:write"), ("/data/out", true));
    }
}
