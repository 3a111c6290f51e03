//! `postgres-source` against a real server.

mod harness;
mod restart;
mod settings;
mod slot;
mod stream;
