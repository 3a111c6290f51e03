//! `sql-source` on real databases: SQLite files, PostgreSQL, MariaDB.
#![allow(clippy::unwrap_used, reason = "a test")]

mod mariadb;
mod mariadb_server;
mod model;
mod postgres;
mod rig;
mod sqlite;
