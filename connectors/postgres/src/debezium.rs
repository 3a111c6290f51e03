//! Debezium's shapes: keys, envelopes, schemas, topics.

pub(crate) mod columns;
pub(crate) mod text;
