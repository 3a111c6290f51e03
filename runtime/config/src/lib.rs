//! YAML and JSON to the flat connector config, typed options, secrets, and every issue with its place.

pub mod connector;

pub use connector::{SinkConnector, SourceConnector};
