//! The frame in which a batch of records crosses between the host and a plugin (`plugins/wit/FRAME.md`): a writer, and a reader that checks
//! every length before it is used and decodes a record when it is asked for. No dependencies, so that guests stay small.

mod read;
mod write;

pub use read::{Frame, Headers, Record, Records};
pub use write::Writer;

use std::fmt;

pub const MAGIC: [u8; 4] = *b"AQB1";
pub const VERSION: u16 = 1;
pub const HEADER_BYTES: usize = 16;
pub const RECORD_BYTES: usize = 32;
/// In one frame: a name of a byte takes 40 once it is read.
pub const TOPICS_MAX: usize = 1 << 16;
/// No timestamp.
pub const NO_TIMESTAMP: i64 = i64::MIN;
/// The length of what is null.
pub const NULL: u32 = u32::MAX;
/// The length (or topic) of what is as it was in the record that this one came of.
pub const SAME: u32 = u32::MAX - 1;

/// A key, a value or the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Null,
    Bytes(&'a [u8]),
    /// As it was in the record that this one came of: only in what a transform returns.
    Same,
}

impl<'a> Part<'a> {
    /// `None` for null (and for same).
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Part::Bytes(bytes) => Some(bytes),
            Part::Null | Part::Same => None,
        }
    }
}

impl<'a> From<Option<&'a [u8]>> for Part<'a> {
    fn from(bytes: Option<&'a [u8]>) -> Self {
        bytes.map_or(Part::Null, Part::Bytes)
    }
}

/// What is wrong with a frame, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    pub at: usize,
    pub what: &'static str,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
