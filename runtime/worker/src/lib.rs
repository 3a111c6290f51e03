//! The worker: registry, lifecycle, supervisor, the source and sink loops, policy and stores.
//!
//! Names no connector, no wasmtime, no axum, no Kafka client.

pub mod admin;
mod clock;
mod connector;
pub mod folder;
mod letters;
pub mod lifecycle;
mod metrics;
mod piece;
pub mod policy;
mod registry;
mod signals;
mod sink;
mod source;
mod spans;
pub mod spec;
mod stats;
mod store;
mod task;
mod timing;
mod topics;
mod worker;

pub use admin::*;
pub use registry::Registry;
pub use spans::enable as trace_batches;
pub use worker::{AdminResult, Health, Worker, WorkerOptions};
