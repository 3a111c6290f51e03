//! A real PostgreSQL for tests: servers in temporary folders that are killed, filled up, cut off and promoted.
//!
//! Depends on no aqueduct crate and on no Postgres client that Aqueduct uses: `psql` is the witness. Everything panics with what a person needs to see.

mod disk;
mod home;
mod options;
mod proxy;
mod psql;
mod server;
mod template;

pub use disk::Disk;
pub use home::{bin_dir, free_port};
pub use options::{Options, PASSWORD, USER};
pub use proxy::Proxy;
pub use psql::{Psql, Session};
pub use server::{Server, Shared, shared, yaml};
pub use wait_services::{poll_for, wait_until};
