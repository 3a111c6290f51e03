//! `sql-source`: tables and queries of Postgres, MySQL, MariaDB and SQLite, polled by columns that only grow. See README.md.

use aqueduct_core::Plugin;

/// For the list of built-ins.
pub fn plugins() -> Vec<Plugin> {
    Vec::new()
}
