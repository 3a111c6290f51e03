//! Write an Aqueduct plugin in Rust: implement [`Source`], [`Sink`] or [`Transform`], and name it in [`export_plugin!`].
//!
//! ```ignore
//! struct Upper;
//!
//! #[derive(serde::Deserialize)]
//! struct Config {}
//!
//! impl aqueduct_sdk::Transform for Upper {
//!     type Config = Config;
//!     fn open(_: Config) -> aqueduct_sdk::Result<Self> { Ok(Upper) }
//!     fn apply(&mut self, batch: aqueduct_sdk::Frame<'_>, out: &mut aqueduct_sdk::Applied) -> aqueduct_sdk::Result<()> {
//!         for (index, record) in batch.records().enumerate() {
//!             let record = record?;
//!             let upper = record.value.bytes().map(<[u8]>::to_ascii_uppercase);
//!             out.value(index, &record, upper.as_deref());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! aqueduct_sdk::export_plugin!(metadata: "../plugin.json", transform: Upper);
//! ```
//!
//! Traits are plain Rust: test them without WebAssembly.

mod calls;
mod error;
mod imports;
mod sink;
mod source;
mod transform;

pub use aqueduct_plugin_frame::{Frame, FrameError, Headers, Part, Record, Writer};
pub use error::{Class, Error, Result};
pub use imports::{HttpError, HttpRequest, HttpResponse, Level, env, http, log, metrics, now_ms, random, secret, sleep, state};
pub use sink::{Ack, Rejects, Sink};
pub use source::{JsonMap, Limits, Polled, Share, Source, SourceOffset};
pub use transform::{Applied, Transform};

/// A finding about a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The option; empty for the whole.
    pub path: String,
    pub message: String,
    /// What to do; may be empty.
    pub fix: String,
}

impl Issue {
    pub fn error(path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), fix: fix.into() }
    }
}

/// What [`export_plugin!`] uses; no part of the SDK.
#[doc(hidden)]
pub mod private {
    pub use crate::calls::*;
}
