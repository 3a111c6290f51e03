//! `postgres-source` (change data capture, in Debezium's shapes) and `postgres-sink` (rows, exactly once). See README.md.

#[allow(dead_code, reason = "the parts that use it are being added")]
mod connection;
mod debezium;
mod sink;
mod snapshot;
mod source;
mod table;

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    Vec::new()
}
