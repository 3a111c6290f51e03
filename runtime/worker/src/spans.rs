//! OpenTelemetry spans of batches: one from a source's poll until the log holds it, one for each put of a sink, one for each commit of its positions.
//! For a batch, never for a record.

use aqueduct_core::{Batch, PayloadRef, TaskId};
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Set once, at start, where worker.yaml names a receiver: without one a batch costs this load.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Spans are made from now on. The binary has set OpenTelemetry's provider and propagator.
pub fn enable() {
    ENABLED.store(true, Relaxed);
}

/// The scope of all spans of this crate.
const SCOPE: &str = "aqueduct";
/// Traces that a batch is linked to: OpenTelemetry's default bound of a span is 128.
const LINKS_MAX: usize = 32;
/// Records that are looked at for them: those of a batch of 100,000 lines have no headers at all.
const LOOKED_MAX: usize = 1_000;

/// Ends when it is dropped.
pub(crate) struct BatchSpan(Option<BoxedSpan>);

impl BatchSpan {
    /// `what` is `send` (a source's batch into the log), `process` (a sink's put) or `settle` (a commit of positions): OpenTelemetry's types of
    /// messaging operations.
    pub(crate) fn start(what: &'static str, task: &TaskId, batch: Option<&Batch>) -> Self {
        if !ENABLED.load(Relaxed) {
            return Self(None);
        }
        let kind = if what == "send" { SpanKind::Producer } else { SpanKind::Consumer };
        let mut attributes = vec![
            KeyValue::new("messaging.system", "aqueduct"),
            KeyValue::new("messaging.operation.type", what),
            KeyValue::new("aqueduct.connector", task.connector.to_string()),
            KeyValue::new("aqueduct.task", i64::from(task.task)),
        ];
        if let Some(batch) = batch {
            attributes.push(KeyValue::new("messaging.batch.message_count", batch.len() as i64));
            attributes.push(KeyValue::new("aqueduct.batch.bytes", batch.bytes() as i64));
            let mut topics: Vec<&str> = batch.chunks().iter().map(|chunk| &*chunk.topic).collect();
            topics.dedup();
            if let [topic] = topics.as_slice() {
                attributes.push(KeyValue::new("messaging.destination.name", (*topic).to_owned()));
            }
        }
        let links = batch.map(links).unwrap_or_default();
        let builder = SpanBuilder::from_name(format!("{what} {}", task.connector));
        let builder = builder.with_kind(kind).with_attributes(attributes).with_links(links);
        let tracer = global::tracer(SCOPE);
        Self(Some(tracer.build_with_context(builder, &Context::new())))
    }

    /// By the stable code alone: a message may be about data.
    pub(crate) fn failed(&mut self, error: &aqueduct_core::Error) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(error.code().to_owned()));
            span.set_attribute(KeyValue::new("error.type", error.code().to_owned()));
        }
    }
}

/// The traces that its records come from, by their `traceparent` headers.
fn links(batch: &Batch) -> Vec<Link> {
    let (mut links, mut seen) = (Vec::new(), HashSet::new());
    for record in batch.iter().take(LOOKED_MAX) {
        let parent = record.headers().iter().find(|header| &*header.name == "traceparent");
        let Some(PayloadRef::Bytes(parent)) = parent.map(|header| header.value.as_ref()) else { continue };
        let Ok(parent) = std::str::from_utf8(parent) else { continue };
        let Some(of) = remote(parent).filter(|of| seen.insert((of.trace_id(), of.span_id()))) else { continue };
        links.push(Link::with_context(of));
        if links.len() == LINKS_MAX {
            break;
        }
    }
    links
}

/// What a header `traceparent` names (W3C Trace Context); `None` for nonsense.
fn remote(traceparent: &str) -> Option<SpanContext> {
    struct One<'a>(&'a str);
    impl Extractor for One<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (key == "traceparent").then_some(self.0)
        }
        fn keys(&self) -> Vec<&str> {
            vec!["traceparent"]
        }
    }
    let context =
        global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &One(traceparent)));
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}
