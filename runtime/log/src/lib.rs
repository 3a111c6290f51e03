//! The log between sources and sinks, and the implementations of it: embedded (the default), Kafka, memory (for tests).
//!
//! One conformance kit (`conformance`) says what every implementation must do.

#[cfg(feature = "conformance")]
extern crate self as aqueduct_log;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
pub mod disk;
pub mod embedded;
pub mod group;
pub mod memory;
pub mod partitioner;
pub mod record_batch;
pub mod record_limit;
pub mod topic_config;

pub use contract::*;
pub use embedded::{EmbeddedLog, EmbeddedOptions};
pub use record_limit::RecordLimit;
