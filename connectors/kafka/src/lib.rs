//! `kafka-source` and `kafka-sink`: from and to *other* Kafka clusters, exactly once. See README.md.

mod client;
mod error;
mod format;
mod security;
pub mod sink;
pub mod source;

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![aqueduct_config::plugin::source::<source::KafkaSource>(), aqueduct_config::plugin::sink::<sink::KafkaSinkConnector>()]
}
