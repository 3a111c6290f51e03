//! `postgres-sink`: rows from records, exactly once.
