//! The worker: registry, lifecycle, supervisor, the source and sink loops, policy and stores.
//!
//! Names no connector, no wasmtime, no axum, no Kafka client.

pub mod admin;
pub mod worker;

pub use admin::*;
pub use worker::Worker;
