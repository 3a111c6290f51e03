//! `postgres-source`: change data capture.

pub(crate) mod catalog;
mod feed;
mod guard;
pub(crate) mod monitor;
mod opening;
pub mod options;
mod pgoutput;
pub(crate) mod position;
mod publication;
mod quiet;
mod shape;
mod signals;
mod slot;
mod stream;
mod task;
mod tls;
mod wire;

pub use task::PostgresSource;
