//! The one error of connectors, transforms and logs: the connector classifies, the worker's policy decides.

use std::borrow::Cow;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What may be done about a failed *call*. Bad single records do not fail a call: they go to [`crate::Rejects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may work later, unchanged: the task is closed and reopened from the stored offset after a back-off.
    Retriable,
    /// It cannot work until someone changes something: the task fails.
    Fatal,
}

/// An error that says what, where, why and the fix.
///
/// `code` is stable and dotted (`file.read`, `log.disk_full`); the reference and alerts are keyed by it. Never put a secret into a message
/// (invariant 9).
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    code: Cow<'static, str>,
    message: String,
    fix: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn retriable(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Class::Retriable, code, message)
    }

    pub fn fatal(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Class::Fatal, code, message)
    }

    pub fn new(class: Class, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { class, code: code.into(), message: message.into(), fix: None, source: None }))
    }

    /// What the user can do about it, as one sentence.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.0.fix = Some(fix.into());
        self
    }

    /// The error that caused this one; its text is appended in [`Error::trace`].
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn class(&self) -> Class {
        self.0.class
    }

    pub fn is_retriable(&self) -> bool {
        self.0.class == Class::Retriable
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.fix.as_deref()
    }

    /// What the REST API shows as `trace`. The first line is `<code>: <cause>` and never ends in `)` or `exception`, since Redpanda Console
    /// drops such lines (compat.md, rule 8).
    pub fn trace(&self) -> String {
        let mut line = format!("{}: {}", self.0.code, self.0.message.replace('\n', " "));
        if line.ends_with(')') || line.to_ascii_lowercase().ends_with("exception") {
            line.push('.');
        }
        let mut cause = self.0.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            line.push_str(&format!("\nCaused by: {error}"));
            cause = error.source();
        }
        if let Some(fix) = &self.0.fix {
            line.push_str(&format!("\nFix: {fix}"));
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.0.class, self.trace())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_trace_survives_redpanda_console() {
        let trace = Error::fatal("file.open", "cannot open /x (os error 2)").fix("check the path").trace();
        assert_eq!(trace, "file.open: cannot open /x (os error 2).\nFix: check the path");
    }
}
