//! The worker's log: to stderr, as text for people or JSON for machines; panics go there too.

use super::loggers::{Levels, Loggers, Rings};
use crate::failure::{Failure, Outcome};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What REST changes and shows of it.
pub(crate) fn start(format: Format, filter: &str) -> Outcome<Arc<Loggers>> {
    let levels: Levels = filter.parse().map_err(|error| {
        Failure::usage(format!("--log-level {filter:?}: {error}")).fix("for example info, or info,aqueduct_worker=debug")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(colour).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let (targets, handle) = reload::Layer::new(levels.targets());
    let rings = Arc::new(Rings::default());
    let started = tracing_subscriber::registry().with(targets).with(lines).with(rings.clone().layer()).try_init();
    started.map_err(|error| Failure::failed(format!("the log cannot start: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Arc::new(Loggers::new(levels, handle, rings)))
}

/// A panic fails its own task alone; here it is only told, in the log's own form.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let message = info.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(thread = thread.name().unwrap_or("?"), place, backtrace, "panic: {message}");
}
