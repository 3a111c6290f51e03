//! The API over a real worker on a log in memory, with a source and a sink of its own.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

mod access;
mod audit;
mod connectors;
mod log;
mod openapi;
mod plugins;
mod tls;

use aqueduct_config::{SinkConnector, SourceConnector, plugin};
use aqueduct_core::{
    Ack, Batch, JsonMap, Measure, Polled, Record, Rejects, Report, Result, Signal, SinkTask, SourceOffset, SourceTask,
    TaskContext, TaskSpec,
};
use aqueduct_log::memory::MemoryLog;
use aqueduct_rest::{RestOptions, router};
use aqueduct_worker::{Registry, Worker, WorkerOptions};
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tower::ServiceExt;

/// Counts from 1 to `count`, one record each, then waits.
struct Count;

#[derive(Debug, Deserialize, JsonSchema)]
struct CountConfig {
    /// Where to.
    topic: String,
    /// How many.
    #[schemars(range(min = 0, max = 1_000_000))]
    count: u64,
    #[serde(default)]
    password: Option<aqueduct_config::Secret>,
    /// What to fail with.
    #[serde(default)]
    fail: Option<String>,
}

struct CountTask {
    config: CountConfig,
    next: u64,
}

#[async_trait]
impl SourceTask for CountTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        if let Some(fail) = &self.config.fail {
            return Err(aqueduct_core::Error::fatal("count.fail", fail.clone()));
        }
        if self.next > self.config.count {
            let _ = tokio::time::timeout(cx.wait_max, cx.interrupt.cancelled()).await;
            return Ok(Polled::default());
        }
        let batch = Batch::from_iter([Record::new(self.config.topic.as_str(), self.next.to_string())]);
        self.next += 1;
        Ok(Polled { batch, resume: vec![offset(self.next)] })
    }

    fn report(&self) -> Report {
        let password = self.config.password.as_ref().map(|password| password.expose().to_owned());
        Report {
            summary: format!("{} of {}", self.next - 1, self.config.count),
            detail: json!({ "next": self.next, "oops": password }).as_object().cloned().unwrap_or_default(),
            measures: vec![
                Measure::new("left", "Records to come", (self.config.count + 1 - self.next) as f64).label("of", "count"),
            ],
        }
    }

    /// `count-to`: `{"count": n}`; `hang`.
    async fn signal(&mut self, signal: Signal) -> Result<()> {
        let refused = |why: &str| aqueduct_core::Error::fatal("count.signal", why.to_owned());
        match signal.kind.as_str() {
            "count-to" => self.config.count = signal.data["count"].as_u64().ok_or_else(|| refused("`count` is missing"))?,
            "hang" => std::future::pending().await,
            _ => return Err(refused("unknown type")),
        }
        Ok(())
    }
}

fn offset(next: u64) -> SourceOffset {
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    SourceOffset { partition: object(json!({ "of": "count" })), offset: Some(object(json!({ "next": next }))) }
}

#[async_trait]
impl SourceConnector for Count {
    type Config = CountConfig;
    type Task = CountTask;
    const NAME: &'static str = "count-source";
    const ALIASES: &'static [&'static str] = &["org.example.CountSourceConnector"];
    const SUMMARY: &'static str = "Counts.";

    async fn open(config: CountConfig, _: TaskSpec, resume: Vec<SourceOffset>) -> Result<CountTask> {
        let next = |offset: &JsonMap| offset.get("next").and_then(Value::as_u64);
        let next = resume.iter().find_map(|offset| next(offset.offset.as_ref()?)).unwrap_or(1);
        Ok(CountTask { config, next })
    }
}

/// Forgets what it is given.
struct Hole;

#[derive(Debug, Deserialize, JsonSchema)]
struct HoleConfig {}

struct HoleTask;

#[async_trait]
impl SinkTask for HoleTask {
    async fn put(&mut self, _: &Batch, _: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        Ok(Ack::Durable)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl SinkConnector for Hole {
    type Config = HoleConfig;
    type Task = HoleTask;
    const NAME: &'static str = "hole-sink";
    const SUMMARY: &'static str = "Forgets.";

    async fn open(_: HoleConfig, _: TaskSpec) -> Result<HoleTask> {
        Ok(HoleTask)
    }
}

struct Api {
    router: Router,
    _worker: watch::Sender<Option<Worker>>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("not JSON: {error}: {:?}", self.text))
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The message of an error body.
    #[track_caller]
    fn error(self, status: u16) -> String {
        let body = self.expect(status).json();
        assert_eq!(body["error_code"], status);
        body["message"].as_str().unwrap().to_owned()
    }
}

impl Api {
    async fn start() -> Self {
        Self::start_with(RestOptions::default()).await
    }

    async fn start_with(rest: RestOptions) -> Self {
        let options = WorkerOptions {
            worker_id: "127.0.0.1:8083".to_owned(),
            cluster_id: "a-cluster".to_owned(),
            shutdown_timeout: Duration::from_secs(5),
            defaults: Arc::default(),
            topic_tracking: true,
            topic_tracking_reset: true,
            data: tokio::runtime::Handle::current(),
        };
        let registry = Registry::new(vec![plugin::source::<Count>(), plugin::sink::<Hole>()]);
        let worker = Worker::new(options, registry, Arc::new(MemoryLog::new()));
        worker.start().await.unwrap();
        let (sender, receiver) = watch::channel(Some(worker));
        Self { router: router(receiver, rest), _worker: sender }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_with(&[("host", "localhost:8083")], method, path, body).await
    }

    async fn call_with(&self, headers: &[(&str, &str)], method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 24).await.unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).await.expect(200).json()
    }

    async fn put(&self, path: &str) -> Answer {
        self.call("PUT", path, None).await
    }

    async fn create(&self, name: &str, config: Value) -> Answer {
        self.call("POST", "/connectors", Some(json!({ "name": name, "config": config }))).await
    }

    /// Waits until what `path` answers is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let answer = self.call("GET", path, None).await;
            if answer.status == 200 && wanted(&answer.json()) {
                return answer.json();
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{path} still answers {} {}", answer.status, answer.text);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_state(&self, name: &str, state: &str) -> Value {
        self.until(&format!("/connectors/{name}/status"), |status| status["connector"]["state"] == state).await
    }

    async fn until_running(&self, name: &str) -> Value {
        let running = |status: &Value| {
            let tasks = status["tasks"].as_array().unwrap();
            !tasks.is_empty() && tasks.iter().all(|task| task["state"] == "RUNNING")
        };
        self.until(&format!("/connectors/{name}/status"), running).await
    }
}

fn count(topic: &str, count: u64) -> Value {
    json!({ "connector.class": "count-source", "topic": topic, "count": count })
}

fn hole(topics: &str) -> Value {
    json!({ "connector.class": "hole-sink", "topics": topics })
}
