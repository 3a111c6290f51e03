//! What a sink may ask of the worker beside its puts: how large they are, letters of its own, and to be heard while one is under way.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fakes;

use aqueduct_core::*;
use aqueduct_log::memory::MemoryLog;
use aqueduct_log::{EncodedBatch, Log, TopicSpec};
use aqueduct_worker::spec::Defaults;
use aqueduct_worker::*;
use async_trait::async_trait;
use fakes::{descriptor, until};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

#[derive(Clone)]
struct Script {
    cluster: Arc<Mutex<String>>,
    /// Records of each put.
    sizes: Arc<Mutex<Vec<usize>>>,
    /// A put waits for one of these.
    gate: Arc<Semaphore>,
    told: watch::Sender<Report>,
}

struct Sink(Script, Descriptor);
struct Task(Script);

#[async_trait]
impl SinkPlugin for Sink {
    fn descriptor(&self) -> &Descriptor {
        &self.1
    }

    fn validate(&self, _: &Options) -> Vec<Issue> {
        Vec::new()
    }

    async fn plan(&self, _: &Options, _: u32) -> Result<Vec<TaskSpec>> {
        Ok(vec![TaskSpec::new()])
    }

    async fn open(&self, _: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
        Ok(Box::new(Task(self.0.clone())))
    }
}

#[async_trait]
impl SinkTask for Task {
    fn reads_from(&mut self, cluster: &str) {
        *self.0.cluster.lock().unwrap() = cluster.to_owned();
    }

    fn put_records_max(&self) -> usize {
        3
    }

    async fn put(&mut self, batch: &Batch, _: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        self.0.told.send_replace(Report { summary: "it works".to_owned(), ..Report::default() });
        self.0.gate.acquire().await.unwrap().forget();
        self.0.sizes.lock().unwrap().push(batch.len());
        Ok(Ack::Durable)
    }

    fn take_letters(&mut self) -> Vec<Record> {
        vec![Record::new("letters", format!("put {}", self.0.sizes.lock().unwrap().len()))]
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn reports(&self) -> Option<watch::Receiver<Report>> {
        Some(self.0.told.subscribe())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_are_cut_letters_are_written_and_reports_are_heard_at_once() {
    let script = Script {
        cluster: Arc::default(),
        sizes: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
        told: watch::Sender::new(Report::default()),
    };
    let log = Arc::new(MemoryLog::new());
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let batch: Batch = (0..10).map(|n| Record::new("t", n.to_string())).collect();
    let mut writer = log.writer(&TaskId::new("test", 0)).await.unwrap();
    writer.append(EncodedBatch::new(batch).unwrap(), vec![]).await.unwrap().await.unwrap();
    let options = WorkerOptions {
        worker_id: "127.0.0.1:8083".into(),
        cluster_id: "a-cluster".into(),
        shutdown_timeout: Duration::from_millis(300),
        defaults: Arc::new(Defaults::default()),
        topic_tracking: true,
        topic_tracking_reset: true,
        data: tokio::runtime::Handle::current(),
    };
    let plugin = Plugin::Sink(Arc::new(Sink(script.clone(), descriptor("cut-sink", PluginKind::Sink))));
    let worker = Worker::new(options, Registry::new(vec![plugin]), log.clone());
    worker.start().await.unwrap();
    let config = [("connector.class", "cut-sink"), ("topics", "t"), ("offset.flush.interval.ms", "20")];
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    worker.create("snk", config, TargetState::Started).await.unwrap();

    let summary =
        || worker.status("snk").unwrap().tasks.first().and_then(|task| task.aqueduct.report.clone()).map(|report| report.summary);
    until("the report is there while the put waits", async || summary().as_deref() == Some("it works")).await;
    assert!(script.sizes.lock().unwrap().is_empty());
    script.gate.add_permits(100);
    until("all is committed", async || {
        log.group_positions("connect-snk").await.unwrap().first().is_some_and(|at| at.offset == 10)
    })
    .await;
    let sizes = script.sizes.lock().unwrap().clone();
    assert!(sizes.iter().sum::<usize>() == 10 && sizes.iter().all(|size| *size <= 3), "{sizes:?}");
    assert_eq!(*script.cluster.lock().unwrap(), "a-cluster");
    let letters = log.fetch(&TopicPartition::new("letters", 0), 0, 1 << 20, Duration::ZERO).await.unwrap();
    assert_eq!(letters.len(), sizes.len(), "one of each put");
}
