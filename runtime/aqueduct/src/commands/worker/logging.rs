//! The worker's log: to stderr, as text for people or JSON for machines; panics go there too.

use crate::failure::{Failure, Outcome};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    /// One object a line.
    Json,
}

pub(crate) fn start(format: Format, filter: &str) -> Outcome {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log-level {filter:?}: {error}")).fix("for example info, or info,aqueduct_worker=debug")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => builder.with_ansi(colour).with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::failed(format!("the log cannot start: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
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
