//! `postgres-sink` against a real server.
#![allow(clippy::unwrap_used, reason = "a test")]

mod exactly_once;
mod faults;
mod modes;
mod rejects;
mod rig;
mod round_trip;
mod tables;
mod types;
