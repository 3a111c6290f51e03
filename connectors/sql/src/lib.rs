//! `sql-source`: tables and queries of Postgres, MySQL, MariaDB and SQLite, polled by columns that only grow. See README.md.

mod column;
mod config;
mod database;
mod error;
mod place;
mod reader;
mod source;
mod statement;
mod tables;
mod temporal;
mod url;
mod value;
mod window;

pub use config::Config;
pub use source::{SqlSource, SqlSourceTask};

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    vec![aqueduct_config::plugin::source::<SqlSource>()]
}
