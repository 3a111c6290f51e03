//! Connectors whose every move a test decides.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses a part")]

use aqueduct_core::*;
use async_trait::async_trait;
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a fake source does next.
#[derive(Debug)]
pub enum Step {
    Records(Vec<&'static str>),
    Fail(Class),
    Panic,
    /// Takes as many permits for blocking calls as it gets, and keeps them for good: calls that hang.
    Permits,
    /// Does not return until the task is aborted.
    Hang,
    /// Holds its thread, so that no abort helps, until the sender is dropped.
    Block(std::sync::mpsc::Receiver<()>),
}

#[derive(Default)]
pub struct SourceScript {
    pub steps: Mutex<VecDeque<Step>>,
    pub committed: Mutex<Vec<i64>>,
    pub opens: AtomicU64,
    pub closes: AtomicU64,
    pub resumed_at: Mutex<Vec<i64>>,
    /// Plans that began and are told when to end: option `plan`.
    pub planning: AtomicU64,
    pub panicked: AtomicBool,
    pub permits: Mutex<Vec<blocking::Permit>>,
    pub release_panic: tokio::sync::Notify,
    pub release_plan: tokio::sync::Notify,
}

impl SourceScript {
    pub fn push(&self, step: Step) {
        self.steps.lock().unwrap().push_back(step);
    }
}

pub struct FakeSource(pub Arc<SourceScript>, pub Descriptor);

pub fn descriptor(name: &str, kind: PluginKind) -> Descriptor {
    let option = |name: &str| OptionSpec {
        name: name.into(),
        kind: OptionKind::String,
        required: false,
        default: None,
        importance: plugin::Importance::High,
        documentation: "x".into(),
        group: "x".into(),
        format: None,
        allowed: vec![],
        example: None,
    };
    Descriptor {
        name: name.into(),
        aliases: vec![],
        kind,
        version: "1".into(),
        summary: "fake".into(),
        options: vec![option("topic"), option("tasks"), option("plan")],
    }
}

fn offset(n: i64) -> SourceOffset {
    SourceOffset {
        partition: serde_json::from_str(r#"{"p":"0"}"#).unwrap(),
        offset: Some(serde_json::from_value(serde_json::json!({ "n": n })).unwrap()),
    }
}

fn shares(options: &Options) -> Vec<TaskSpec> {
    vec![TaskSpec::new(); options.get("tasks").map_or(1, |tasks| tasks.parse().unwrap())]
}

#[async_trait]
impl SourcePlugin for FakeSource {
    fn descriptor(&self) -> &Descriptor {
        &self.1
    }

    fn validate(&self, _: &Options) -> Vec<Issue> {
        Vec::new()
    }

    async fn plan(&self, options: &Options, _: u32) -> Result<Vec<TaskSpec>> {
        if options.get("plan").is_some_and(|plan| plan == "fails") {
            return Err(Error::retriable("fake.plan", "nobody is there to say"));
        }
        if let Some(plan) = options.get("plan") {
            self.0.planning.fetch_add(1, SeqCst);
            if plan == "panics late" {
                self.0.release_panic.notified().await;
                self.0.panicked.store(true, SeqCst);
                panic!("asked to panic");
            }
            self.0.release_plan.notified().await;
        }
        Ok(shares(options))
    }

    async fn open(&self, options: &Options, _: TaskSpec, resume: Vec<SourceOffset>) -> Result<Box<dyn SourceTask>> {
        let next = resume.first().and_then(|o| o.offset.as_ref()?["n"].as_i64()).unwrap_or(0);
        self.0.opens.fetch_add(1, SeqCst);
        self.0.resumed_at.lock().unwrap().push(next);
        Ok(Box::new(FakeSourceTask { script: self.0.clone(), topic: options["topic"].as_str().into(), next }))
    }
}

struct FakeSourceTask {
    script: Arc<SourceScript>,
    topic: Topic,
    next: i64,
}

#[async_trait]
impl SourceTask for FakeSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let step = self.script.steps.lock().unwrap().pop_front();
        match step {
            None => {
                let _ = tokio::time::timeout(Duration::from_millis(20), cx.interrupt.cancelled()).await;
                Ok(Polled::default())
            }
            Some(Step::Records(values)) => {
                self.next += values.len() as i64;
                let batch = values.into_iter().map(|value| Record::new(self.topic.clone(), value)).collect();
                Ok(Polled { batch, resume: vec![offset(self.next)] })
            }
            Some(Step::Fail(class)) => Err(Error::new(class, "fake.poll", "asked to fail (really)")),
            Some(Step::Permits) => {
                while let Some(permit) = blocking::permit().now_or_never() {
                    self.script.permits.lock().unwrap().push(permit);
                }
                self.next += 1;
                Ok(Polled { batch: Batch::new(), resume: vec![offset(self.next)] })
            }
            Some(Step::Panic) => panic!("asked to panic"),
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Block(until)) => {
                let _ = until.recv();
                Ok(Polled::default())
            }
        }
    }

    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let last = durable.last().unwrap().offset.as_ref().unwrap()["n"].as_i64().unwrap();
        self.script.committed.lock().unwrap().push(last);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.script.closes.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[derive(Default)]
pub struct SinkScript {
    /// Values put, in order, whether flushed or not.
    pub put: Mutex<Vec<String>>,
    pub flushed: AtomicU64,
    pub metadata: Mutex<Vec<Option<String>>>,
    /// The sink says Buffered.
    pub buffers: AtomicBool,
    /// Values that it refuses.
    pub refuses: Mutex<Vec<String>>,
    pub fail_puts: AtomicU64,
    pub fail_flushes: AtomicU64,
    pub hang: AtomicBool,
    /// A value begins with the name of its transaction, whose end waits so long.
    pub wait: Mutex<Duration>,
    pub put_records: AtomicU64,
    /// Records of each put.
    pub sizes: Mutex<Vec<usize>>,
}

pub struct FakeSink(pub Arc<SinkScript>, pub Descriptor);

#[async_trait]
impl SinkPlugin for FakeSink {
    fn descriptor(&self) -> &Descriptor {
        &self.1
    }

    fn validate(&self, _: &Options) -> Vec<Issue> {
        Vec::new()
    }

    async fn plan(&self, options: &Options, _: u32) -> Result<Vec<TaskSpec>> {
        Ok(shares(options))
    }

    async fn open(&self, _: &Options, _: TaskSpec) -> Result<Box<dyn SinkTask>> {
        Ok(Box::new(FakeSinkTask(self.0.clone())))
    }
}

struct FakeSinkTask(Arc<SinkScript>);

#[async_trait]
impl SinkTask for FakeSinkTask {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        self.0.metadata.lock().unwrap().extend(partitions.iter().map(|p| p.metadata.as_deref().map(str::to_owned)));
        Ok(Vec::new())
    }

    fn unfinished(&self, batch: &Batch) -> Vec<Unfinished> {
        let wait = *self.0.wait.lock().unwrap();
        let records: Vec<RecordRef<'_>> = batch.iter().collect();
        let Some(end) = records.last().filter(|_| !wait.is_zero()) else { return Vec::new() };
        let of = |record: RecordRef<'_>| match record.value() {
            PayloadRef::Bytes(value) => value[0],
            other => panic!("{other:?}"),
        };
        let tail = records.iter().rev().take_while(|record| of(**record) == of(*end)).last().unwrap();
        let (partition, from) = tail.origin().unwrap();
        vec![Unfinished { partition: partition.clone(), from, wait }]
    }

    fn put_records(&self) -> usize {
        self.0.put_records.load(SeqCst) as usize
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, _: &TaskContext) -> Result<Ack> {
        self.0.sizes.lock().unwrap().push(batch.len());
        if self.0.hang.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.0.fail_puts.load(SeqCst) > 0 {
            self.0.fail_puts.fetch_sub(1, SeqCst);
            return Err(Error::retriable("fake.put", "the target is away"));
        }
        for record in batch.iter() {
            let value = match record.value() {
                PayloadRef::Bytes(value) => String::from_utf8(value.to_vec()).unwrap(),
                other => format!("{other:?}"),
            };
            if self.0.refuses.lock().unwrap().contains(&value) {
                rejects.push(record.to_record(), Stage::TaskPut, "FakeSink", Error::fatal("fake.refused", "not this one"));
            } else {
                self.0.put.lock().unwrap().push(value);
            }
        }
        Ok(if self.0.buffers.load(SeqCst) { Ack::Buffered } else { Ack::Durable })
    }

    async fn flush(&mut self) -> Result<()> {
        if self.0.fail_flushes.load(SeqCst) > 0 {
            self.0.fail_flushes.fetch_sub(1, SeqCst);
            return Err(Error::retriable("fake.flush", "the target is away"));
        }
        self.0.flushed.fetch_add(1, SeqCst);
        Ok(())
    }

    fn metadata(&self, _: &TopicPartition) -> Option<String> {
        Some(format!("put {}", self.0.put.lock().unwrap().len()))
    }
}

/// Waits for a condition, at most 20 s.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "in 20 s not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
