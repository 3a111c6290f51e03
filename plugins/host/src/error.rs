//! Why a call of a guest failed, as the worker's policy needs it.

use crate::bindings::types;
use aqueduct_core::{Error, Result};
use std::fmt;
use std::time::Duration;
use wasmtime::Trap;

/// Raised in the guest when its clock looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// Its time is over.
    Timeout(Duration),
    /// For the outside, too long.
    Waited(Duration),
    /// Nobody waits for the answer any more.
    Abandoned,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interrupted::Timeout(after) => write!(f, "it ran for {after:?}"),
            Interrupted::Waited(after) => write!(f, "it waited for files or sockets, more than {after:?} in one call"),
            Interrupted::Abandoned => f.write_str("the worker no longer waits for it"),
        }
    }
}

impl std::error::Error for Interrupted {}

/// Text of a guest in messages and logs: one line, no control characters, bounded.
pub(crate) fn clean(text: &str, chars_max: usize) -> String {
    let mut out: String = text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}

/// A call that did not return. All but a broken interface are retriable: the instance is replaced, opened again from the stored offsets, and
/// given the same again.
pub(crate) fn trapped(plugin: &str, call: &str, error: &wasmtime::Error, memory_refused: Option<usize>) -> Error {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        let report = "report it to the plugin's author";
        let (code, fix) = match interrupted {
            // No record's fault: a batch is never halved for it.
            Interrupted::Waited(_) => {
                ("plugin.waited", format!("see whether what it speaks to answers, or {report}: its sockets need timeouts"))
            }
            _ => ("plugin.timeout", format!("raise plugins.{plugin}.limits.call.timeout in worker.yaml, or {report}")),
        };
        return Error::retriable(code, format!("{plugin}: {call} was interrupted: {interrupted}")).fix(fix);
    }
    if let Some(wanted) = memory_refused {
        return Error::retriable(
            "plugin.memory",
            format!("{plugin}: {call} wanted {wanted} bytes of memory, more than its limit"),
        )
        .fix(format!("raise plugins.{plugin}.limits.memory in worker.yaml, or make its batches smaller"));
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "its stack overflowed (a recursion without end?)".to_owned(),
        Some(Trap::UnreachableCodeReached) => "it panicked or aborted; what it said stands in the log".to_owned(),
        Some(trap) => clean(&trap.to_string(), 200),
        None => clean(&format!("{error:#}"), 500),
    };
    Error::retriable("plugin.trap", format!("{plugin}: {call} trapped: {reason}")).fix("report it to the plugin's author")
}

/// What came back breaks the contract.
pub(crate) fn poisoned(plugin: &str, call: &str, what: impl fmt::Display) -> Error {
    Error::retriable("plugin.interface", format!("{plugin}: what {call} returned breaks the contract: {what}"))
        .fix("report it to the plugin's author")
}

/// An error that the guest returned.
pub(crate) fn returned<T>(plugin: &str, call: &str, result: Result<T, types::Error>) -> Result<T> {
    result.map_err(|error| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let code = if error.code.len() <= 64 && !error.code.is_empty() && error.code.bytes().all(known) {
            format!("plugin.{plugin}.{}", error.code)
        } else {
            format!("plugin.{plugin}.failed")
        };
        let message = format!("{call}: {}", clean(&error.message, 2000));
        match error.kind {
            types::ErrorKind::Retriable => Error::retriable(code, message),
            types::ErrorKind::Fatal => Error::fatal(code, message),
        }
    })
}
