//! `file-sink` on real files, driven as the worker drives it.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: its panic is its answer, its output is read by people"
)]

mod cases;
mod crash;
mod fake;
mod formats;
mod walk;
