//! How a command fails: the exit code, and what it says on stderr.

use aqueduct_core::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    fix: Option<String>,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// 1: the thing failed or is invalid.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), fix: None }
    }

    /// 1, and everything was said already.
    pub(crate) fn said() -> Self {
        Self::failed("")
    }

    /// 2: wrong usage that clap cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(message) }
    }

    /// 3
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::failed(message) }
    }

    /// 4: no worker answers.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 4, ..Self::failed(message) }
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    #[cfg(test)]
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == 3
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == 4
    }

    pub(crate) fn text(&self) -> String {
        self.fix.as_ref().map_or_else(|| self.message.clone(), |fix| format!("{}\n  fix: {fix}", self.message))
    }

    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let label = if colour { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
            // Nothing is left to do when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{label} {}", self.text());
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if matches!(error.code(), "log.unknown_topic" | "log.unknown_partition") { 3 } else { 1 };
        Self { code, message: error.to_string(), fix: error.hint().map(str::to_owned) }
    }
}

/// A reader that went away (`| head`) is no failure.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { code: 0, ..Self::said() };
        }
        Self::failed(error.to_string())
    }
}
