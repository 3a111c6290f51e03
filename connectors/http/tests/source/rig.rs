//! The connector as the worker runs it, without a worker.

use aqueduct_connector_http::source::plugin;
use aqueduct_core::{Error, Options, PayloadRef, Plugin, Polled, Record, SourceOffset, SourceTask, TaskContext, TaskId};
use http_services::{Answer, Api, Request};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For everything to come that should come.
pub const SOON: Duration = Duration::from_secs(240);

pub fn options(pairs: &[(&str, &str)]) -> Options {
    let base = [
        ("kafka.topic", "t"),
        ("http.allowed.hosts", "localhost"),
        ("http.timer.interval.millis", "10"),
        ("retry.backoff.ms", "5"),
        ("http.response.record.offset.pointer", "key=/id"),
    ];
    let mut options: Options = base.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    options.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    options.retain(|_, value| value != "-");
    options
}

pub fn api(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Api {
    Api::start(handler)
}

/// A task, and the offsets as the worker keeps them.
pub struct Source {
    pub options: Options,
    pub offsets: BTreeMap<String, SourceOffset>,
    task: Option<Box<dyn SourceTask>>,
    pub records: Vec<Record>,
    batch_records: usize,
}

impl Source {
    pub fn new(options: Options) -> Self {
        Self { options, offsets: BTreeMap::new(), task: None, records: Vec::new(), batch_records: 1000 }
    }

    pub fn batches_of(mut self, records: usize) -> Self {
        self.batch_records = records;
        self
    }

    pub async fn open(&mut self) -> Result<(), Error> {
        let Plugin::Source(plugin) = plugin() else { unreachable!() };
        let issues: Vec<String> =
            plugin.validate(&self.options).iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
        assert!(issues.is_empty(), "{issues:?}");
        let spec = plugin.plan(&self.options, 1).await?.remove(0);
        self.task = Some(plugin.open(&self.options, spec, self.offsets.values().cloned().collect()).await?);
        Ok(())
    }

    /// As a crash does it: dropped, and opened from what is stored.
    pub async fn crash(&mut self) {
        self.task = None;
        self.open().await.unwrap();
    }

    pub async fn poll(&mut self) -> Result<usize, Error> {
        if self.task.is_none() {
            self.open().await?;
        }
        let cx = TaskContext {
            task: TaskId::new("c", 0),
            wait_max: Duration::from_millis(50),
            max_bytes: 1 << 20,
            max_records: self.batch_records,
            interrupt: CancellationToken::new(),
        };
        let Polled { batch, resume } = self.task.as_mut().unwrap().poll(&cx).await?;
        for offset in resume {
            let text = serde_json::to_string(&offset).unwrap();
            self.offsets.insert(offset.partition_key(), serde_json::from_str(&text).unwrap());
        }
        let records: Vec<Record> = batch.into_records().collect();
        let count = records.len();
        self.records.extend(records);
        Ok(count)
    }

    /// Until there are so many records.
    pub async fn read(&mut self, count: usize) -> Result<(), Error> {
        let end = Instant::now() + SOON;
        while self.records.len() < count {
            self.poll().await?;
            assert!(Instant::now() < end, "{} of {count} records came; {}", self.records.len(), self.report());
        }
        Ok(())
    }

    /// Until the API was asked this often since now, so that whatever would come has come.
    pub async fn asked(&mut self, api: &Api, times: u64) -> Result<(), Error> {
        let (end, from) = (Instant::now() + SOON, api.count());
        while api.count() < from + times {
            self.poll().await?;
            assert!(Instant::now() < end, "asked {} times", api.count() - from);
        }
        // What the last answer gave.
        for _ in 0..3 {
            self.poll().await?;
        }
        Ok(())
    }

    /// The error that ends it.
    pub async fn fails(&mut self) -> Error {
        let end = Instant::now() + SOON;
        loop {
            if let Err(error) = self.poll().await {
                return error;
            }
            assert!(Instant::now() < end, "no error; {}", self.report());
        }
    }

    pub fn report(&self) -> String {
        self.task.as_ref().map(|task| task.report().summary).unwrap_or_default()
    }

    pub fn values(&self) -> Vec<String> {
        self.records.iter().map(|record| text(record.value.as_ref())).collect()
    }

    pub fn keys(&self) -> Vec<String> {
        self.records.iter().map(|record| text(record.key.as_ref())).collect()
    }

    /// The keys are 0, 1, 2, … up to this.
    #[track_caller]
    pub fn each_once(&self, count: usize) {
        let expected: Vec<String> = (0..count).map(|id| id.to_string()).collect();
        assert_eq!(self.keys(), expected);
    }
}

pub fn text(payload: PayloadRef<'_>) -> String {
    match payload {
        PayloadRef::Null => "null".to_owned(),
        PayloadRef::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        PayloadRef::Data(data) => format!("{:?}", data.data),
    }
}
