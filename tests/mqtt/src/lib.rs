//! A real mosquitto for tests: brokers in temporary folders that are killed, frozen and started again on the same data and port.
//!
//! Depends on no aqueduct crate and on no MQTT client that Aqueduct uses: `mosquitto_pub` and `mosquitto_sub` are the witnesses. Everything panics with what a
//! person needs to see.

mod broker;
mod clients;
mod options;

pub use broker::{Broker, Shared, free_port, shared};
pub use clients::{Publisher, Subscriber};
pub use options::{Options, PASSWORD, USER};
pub use wait_services::{poll_for, wait_until};
