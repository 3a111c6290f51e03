//! Apache Kafka as the log: records and source offsets in transactions, sinks as consumer groups, Kafka Connect's internal topics.
//!
//! `krafka` has the connections (TLS, SASL, version negotiation), `kafka-protocol` the messages, `aqueduct_log::record_batch` the records.
//! docs/adr/0005 says why.

mod admin;
mod client;
mod cluster;
mod error;
mod fetch;
mod log;
mod member;
mod membership;
pub mod options;
mod partitions;
mod positions;
mod producer;
mod reader;
mod stores;
mod writer;

pub use log::KafkaLog;
pub use options::KafkaOptions;
