//! `http-sink` against a receiver that misbehaves.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test: its panic is its answer, its tasks end with it")]

mod faults;
mod receiver;
mod requests;
mod rig;
