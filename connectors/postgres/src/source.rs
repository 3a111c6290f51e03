//! `postgres-source`: change data capture.
