//! The options of `postgres-source`.
