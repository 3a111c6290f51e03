//! Debezium's shapes: keys, envelopes, schemas, topics.
