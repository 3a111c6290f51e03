//! What the audit log says of a call whose client did not wait for the answer.

use super::{Api, count};
use serde_json::json;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The lines with the target `audit`, of every test of this program.
struct Lines(&'static Mutex<Vec<String>>);

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn lines() -> &'static Mutex<Vec<String>> {
    static LINES: OnceLock<&'static Mutex<Vec<String>>> = OnceLock::new();
    LINES.get_or_init(|| {
        let lines: &'static Mutex<Vec<String>> = Box::leak(Box::default());
        tracing::subscriber::set_global_default(Lines(lines)).unwrap();
        lines
    })
}

#[tokio::test]
async fn a_call_whose_client_hangs_up_is_a_line_without_a_status() {
    let lines = lines();
    let api = Api::start().await;
    api.create("hung-up", count("t", 2)).await.expect(201);
    api.until_running("hung-up").await;
    let path = "/aqueduct/v1/connectors/hung-up/signals";
    {
        let hangs = api.call("POST", path, Some(json!({"type": "hang", "data": {"secret": "not-in-the-log"}})));
        tokio::pin!(hangs);
        // It is under way, and the task never takes it.
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut hangs).is_pending());
            tokio::task::yield_now().await;
        }
        assert!(!lines.lock().unwrap().iter().any(|line| line.contains(path)));
    }
    let said = lines.lock().unwrap().iter().filter(|line| line.contains(path)).cloned().collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("status=unanswered") && said[0].contains("method=POST"), "{said:?}");
    assert!(!said[0].contains("not-in-the-log"), "{said:?}");
}
