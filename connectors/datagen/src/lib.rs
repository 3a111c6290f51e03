//! `datagen-source`: made-up orders, sensor readings, access logs and salary updates, for demos and benchmarks.
//!
//! Record `n` is a pure function of the seed, the start time, the rate and `n`; so the only state is `n`, and resuming is exact.

mod access_log;
mod config;
mod dice;
mod file;
mod pace;
mod source;
mod templates;

pub use config::Config;
pub use source::{DatagenSource, DatagenTask};

use aqueduct_core::Plugin;

pub fn plugins() -> Vec<Plugin> {
    vec![aqueduct_config::plugin::source::<DatagenSource>()]
}
