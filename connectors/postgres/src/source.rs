//! `postgres-source`: change data capture.

pub mod options;

#[allow(dead_code)]
mod feed;
#[allow(dead_code)]
mod guard;
#[allow(dead_code)]
mod pgoutput;
#[allow(dead_code)]
mod position;
#[allow(dead_code)]
mod slot;
mod tls;
#[allow(dead_code)]
mod wire;
