//! What the sink tells of itself, also in the middle of a call.

use super::breaker::{Breaker, State};
use aqueduct_core::{Error, Measure, Report};
use serde_json::json;
use tokio::sync::watch;

pub(super) struct Status {
    sender: watch::Sender<Report>,
    circuit: &'static str,
    opened: u64,
    tried_again: u64,
    refused: u64,
    last: Option<String>,
}

impl Status {
    pub(super) fn new() -> Self {
        Self {
            sender: watch::Sender::new(Report::default()),
            circuit: "closed",
            opened: 0,
            tried_again: 0,
            refused: 0,
            last: None,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Report> {
        self.sender.subscribe()
    }

    pub(super) fn failed(&mut self, error: &Error) {
        self.last = Some(error.message().to_owned());
    }

    pub(super) fn tried_again(&mut self) {
        self.tried_again += 1;
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    /// After each answer; tells when something changed that people look for.
    pub(super) fn circuit(&mut self, breaker: &Breaker) {
        let now = match breaker.state() {
            State::Closed(_) => "closed",
            State::Open(_) => "open",
            State::HalfOpen => "half open",
        };
        if now == self.circuit && breaker.opened == self.opened {
            return;
        }
        let last = self.last.as_deref().unwrap_or("no answer");
        match now {
            "open" if self.circuit == "closed" => tracing::warn!("the circuit opens: {last}"),
            "closed" => tracing::info!("the circuit is closed: the receiver answers"),
            _ => {}
        }
        (self.circuit, self.opened) = (now, breaker.opened);
        self.tell();
    }

    /// Whatever it is now: at the end of a call.
    pub(super) fn tell(&self) {
        let summary = match (self.circuit, &self.last) {
            ("closed", _) => String::new(),
            (state, Some(last)) => format!("circuit {state}, one request at a time: {last}"),
            (state, None) => format!("circuit {state}"),
        };
        let detail = json!({
            "circuit": self.circuit,
            "circuit_opened": self.opened,
            "requests_tried_again": self.tried_again,
            "records_refused": self.refused,
        });
        let quiet = self.circuit == "closed" && self.opened + self.tried_again + self.refused == 0;
        let detail = detail.as_object().filter(|_| !quiet).cloned().unwrap_or_default();
        let open = if self.circuit == "closed" { 0.0 } else { 1.0 };
        let measures = vec![Measure::new("circuit_open", "1 while the circuit is open: the receiver fails", open)];
        self.sender.send_replace(Report { summary, detail, measures });
    }
}
