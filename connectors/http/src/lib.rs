//! `http-source` polls web APIs, `http-sink` calls them. See README.md.

mod client;
pub mod sink;
pub mod source;

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![sink::plugin(), source::plugin()]
}
