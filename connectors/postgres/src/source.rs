//! `postgres-source`: change data capture.

pub mod options;
