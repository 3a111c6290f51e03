//! OpenTelemetry: spans of REST calls and batches, to a receiver of OTLP over HTTP.

use crate::failure::{Failure, Outcome};
use aqueduct_config::worker_config::Telemetry;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use std::time::Duration;

/// A receiver that does not answer must not hold the exporter's thread, nor the end of the worker.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is not sent by then when the worker ends is lost: spans are for looking, not for counting.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
/// Spans that wait to be sent, some 1 KB each; more are dropped (invariant 6).
const QUEUE_SPANS: usize = 2_048;

/// Sends what is left when it is dropped.
pub(crate) struct Traces(SdkTracerProvider);

/// Before any runtime: the exporter has a thread of its own, and a client that may not be made inside of one.
pub(crate) fn start(telemetry: &Telemetry) -> Outcome<Traces> {
    // The HTTP connectors have TLS compiled into reqwest, which wants a provider. An error: there is one.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let failed = |why: String| {
        Failure::failed(format!("otel.exporter.otlp.endpoint {}: {why}", telemetry.endpoint))
            .fix("correct it, or remove the line")
    };
    let client = reqwest::blocking::Client::builder().timeout(EXPORT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(|error| failed(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", telemetry.endpoint))
        .with_timeout(EXPORT_TIMEOUT)
        .with_headers(telemetry.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE_SPANS).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(telemetry.service.clone()).with_attribute(version).build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(telemetry.sampled)));
    let provider =
        SdkTracerProvider::builder().with_span_processor(processor).with_sampler(sampler).with_resource(resource).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    aqueduct_worker::trace_batches();
    tracing::info!(endpoint = telemetry.endpoint, sampled = telemetry.sampled, "spans are exported");
    Ok(Traces(provider))
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!("the last spans may not have been sent: {error}");
        }
    }
}
