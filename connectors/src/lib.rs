//! The built-in connectors: the one list, and the kit that every connector passes.

pub mod conformance;

use aqueduct_core::Plugin;

/// Every built-in, in the order of the reference.
pub fn builtins() -> Vec<Plugin> {
    [
        aqueduct_connector_file::plugins(),
        aqueduct_connector_http::plugins(),
        aqueduct_connector_kafka::plugins(),
        aqueduct_connector_mqtt::plugins(),
        aqueduct_connector_postgres::plugins(),
        aqueduct_connector_sql::plugins(),
        aqueduct_connector_webhook::plugins(),
        aqueduct_connector_datagen::plugins(),
        aqueduct_connector_blackhole::plugins(),
    ]
    .concat()
}
