//! `postgres-source` against a real server.

mod harness;
mod restart;
mod slot;
mod speed;
mod stream;
