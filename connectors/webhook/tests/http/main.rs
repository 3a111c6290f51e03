//! `webhook-source` as clients see it, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod bounds;
mod flow;
mod raw;
mod rig;
mod shared;
mod tls;
