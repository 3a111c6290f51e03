//! http-source against an API that does what it is told.
#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod access;
mod faults;
mod formats;
mod pages;
mod rig;
