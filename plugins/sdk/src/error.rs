use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What may be done about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may work later: the task is closed, and opened again from the stored offsets after a back-off.
    Retriable,
    /// It cannot work until someone changes something.
    Fatal,
}

/// Why a call failed. The code is stable and `[a-z0-9_]`: it is shown as `plugin.<name>.<code>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub class: Class,
    pub code: String,
    pub message: String,
}

impl Error {
    pub fn retriable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: Class::Retriable, code: code.into(), message: message.into() }
    }

    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: Class::Fatal, code: code.into(), message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<aqueduct_plugin_frame::FrameError> for Error {
    fn from(error: aqueduct_plugin_frame::FrameError) -> Self {
        Self::fatal("frame", error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::fatal("json", error.to_string())
    }
}
