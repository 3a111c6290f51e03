//! `mqtt-source` and `mqtt-sink`: MQTT 3.1.1 and 5.0, with nothing acknowledged before it is durable. See README.md.

mod client_id;
mod config;
mod connection;
mod error;
mod sink;
mod source;
mod tls;
mod topic;
mod wire;

pub use sink::{MqttSink, MqttSinkTask};
pub use source::{MqttSource, MqttSourceTask};

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![
        client_id::named(aqueduct_config::plugin::source::<MqttSource>()),
        client_id::named(aqueduct_config::plugin::sink::<MqttSink>()),
    ]
}
