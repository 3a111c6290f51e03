//! The black-box harness: starts the built binary, feeds it from a ledger that is never killed, and judges what came out.
//!
//! Depends on no aqueduct crate: formats are read by parsers of its own, so a bug cannot hide on both sides.

pub mod acked;
pub mod chaos;
pub mod checker;
pub mod client;
pub mod javascript;
pub mod kafka_site;
pub mod ledger;
pub mod outputs;
pub mod postgres_bank;
pub mod postgres_records;
pub mod python;
pub mod scenario;
pub mod segment;
pub mod site;
pub mod trace;

pub use chaos::{Chaos, Mode};
pub use checker::{Kind, Report, Stream, check};
pub use client::{Answer, Client};
pub use kafka_site::{Flow, RestWatch};
pub use ledger::{Ledger, LedgerProcess};
pub use site::{Run, Site};
pub use wait_services as wait;
pub use wait_services::{env_number, poll_for, wait_until};
