//! Built-in converters, transforms and predicates, with Kafka Connect's names, options and results.

mod cache;
mod chain;
mod converters;
mod decimal;
mod encoder;
pub mod json;
mod keys;
mod numbers;
mod parts;
mod predicates;
mod text;
mod transforms;

pub use chain::{Chain, plugins_of};
pub use converters::Converters;
pub use keys::{part_options, unknown_keys};
pub use parts::{PartDescriptor, PartKind, descriptors, install};
