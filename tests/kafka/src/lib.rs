//! A real Apache Kafka in the tests: brokers that can be killed and frozen, independent witnesses, a proxy that breaks what passes, Kafka Connect.
//!
//! Depends on no aqueduct crate and on no Kafka client that Aqueduct uses. Everything panics with what a person needs to see.

mod broker;
mod cluster;
mod connect;
mod home;
mod kcat;
mod options;
mod process;
mod proxy;
mod tools;
pub mod wire;

pub use broker::{Broker, Shared, shared};
pub use cluster::Cluster;
pub use connect::{Connect, ConnectOptions, Mode, file_stream_sink, file_stream_source};
pub use home::{debezium_home, free_port, kafka_home};
pub use kcat::{Record, consume, kcat};
pub use options::{Options, PASSWORD_SUFFIX, USERS};
pub use proxy::{Action, Proxy, Rule, Side};
pub use tools::{abort_hanging, java_tool};
pub use wait_services::{poll_for, wait_until};
