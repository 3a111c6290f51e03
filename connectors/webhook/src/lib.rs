//! `webhook-source`: HTTP requests in, answered with 2xx only after the log holds them. See README.md.

mod answer;
mod auth;
mod body;
mod cloudevents;
mod coding;
mod config;
mod connection;
mod content;
mod ids;
mod intake;
mod listener;
mod request;
mod routes;
mod signature;
mod source;
mod template;
mod tls;

pub use config::Config;
pub use source::{WebhookSource, WebhookSourceTask};

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![aqueduct_config::plugin::source::<WebhookSource>()]
}
