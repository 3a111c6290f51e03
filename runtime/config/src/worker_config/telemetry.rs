//! The options of worker.yaml that say where spans go: OpenTelemetry's names of variables, as keys.

use crate::types::Secret;
use aqueduct_core::Issue;
use schemars::JsonSchema;
use serde::Deserialize;

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The base URL of an OTLP receiver over HTTP.
    pub endpoint: String,
    /// Of each request to it: names and values.
    pub headers: Vec<(String, Secret)>,
    /// `service.name`
    pub service: String,
    /// Which part of the traces that begin here is kept, from 0 to 1.
    pub sampled: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct TelemetryOptions {
    /// Where spans of REST calls and batches go: the base URL of an OpenTelemetry receiver that takes OTLP over HTTP, such as
    /// `http://localhost:4318`. None are made if not set.
    #[serde(rename = "otel.exporter.otlp.endpoint", default)]
    #[schemars(extend("x-group" = "Telemetry"))]
    endpoint: Option<String>,
    /// Headers of the requests to it: `name=value`, separated by commas.
    #[serde(rename = "otel.exporter.otlp.headers", default)]
    #[schemars(extend("x-group" = "Telemetry"))]
    headers: Option<Secret>,
    /// The `service.name` of the spans.
    #[serde(rename = "otel.service.name", default = "service")]
    #[schemars(extend("x-group" = "Telemetry", "x-importance" = "low"))]
    service: String,
    /// Which part of the traces is kept, from 0 to 1. A call whose `traceparent` says that it is sampled is always kept.
    #[serde(rename = "otel.traces.sampler.arg", default = "whole")]
    #[schemars(range(min = 0.0, max = 1.0), extend("x-group" = "Telemetry", "x-importance" = "low"))]
    sampled: f64,
}

fn service() -> String {
    "aqueduct".to_owned()
}

fn whole() -> f64 {
    1.0
}

impl TelemetryOptions {
    /// `None`: no spans.
    pub(super) fn settings(self, issues: &mut Vec<Issue>) -> Option<Telemetry> {
        let endpoint = self.endpoint.map(|endpoint| endpoint.trim().trim_end_matches('/').to_owned());
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty())?;
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let path = "otel.exporter.otlp.endpoint";
            let issue = Issue::error(path, "config.url", format!("{endpoint:?} is no URL of an OTLP receiver over HTTP"));
            issues.push(issue.fix("write `http://localhost:4318`, say; gRPC (port 4317) is not spoken"));
        }
        let mut headers = Vec::new();
        let given = self.headers.as_ref().map_or("", Secret::expose);
        for pair in given.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    headers.push((name.trim().to_owned(), Secret::new(value.trim())));
                }
                _ => {
                    // Never what stands there: it may be a token (invariant 9).
                    let issue = Issue::error("otel.exporter.otlp.headers", "config.pair", "has an entry that is not name=value");
                    issues.push(issue.fix("write `authorization=Bearer ${env:TOKEN}`, say; several with commas"));
                }
            }
        }
        Some(Telemetry { endpoint, headers, service: self.service, sampled: self.sampled })
    }
}
