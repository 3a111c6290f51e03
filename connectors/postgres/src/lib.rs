//! `postgres-source` (change data capture, in Debezium's shapes) and `postgres-sink` (rows, exactly once). See README.md.

mod connection;
mod debezium;
pub mod sink;
mod snapshot;
mod source;
mod table;

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![
        aqueduct_config::plugin::source::<source::PostgresSource>(),
        aqueduct_config::plugin::sink::<sink::PostgresSinkConnector>(),
    ]
}
