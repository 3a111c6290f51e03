//! A folder, and a source task on it that keeps its offsets as the log would.

#![allow(dead_code, reason = "each test file uses its part")]

use aqueduct_core::{Error, Options, PayloadRef, Plugin, Polled, SourceOffset, SourcePlugin, SourceTask, TaskContext, TaskId};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(90);

pub(crate) struct Rig {
    pub(crate) dir: TempDir,
}

pub(crate) struct Tail {
    pub(crate) task: Box<dyn SourceTask>,
    pub(crate) cx: TaskContext,
    pub(crate) offsets: BTreeMap<String, SourceOffset>,
    pub(crate) ready: VecDeque<Line>,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(String, String)>,
}

pub(crate) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("line {n}")).collect()
}

pub(crate) fn plugin() -> Arc<dyn SourcePlugin> {
    let found = aqueduct_connector_file::plugins().into_iter().find_map(|plugin| match plugin {
        Plugin::Source(source) => Some(source),
        Plugin::Sink(_) => None,
    });
    found.unwrap()
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn appender(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap()
    }

    pub(crate) fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        self.appender(name).write_all(text.as_ref()).unwrap();
    }

    /// `file`, `paths` and `exclude` with a slash are relative to the folder.
    pub(crate) fn options(&self, pairs: &[(&str, &str)]) -> Options {
        let mut options: Options = [("topic", "t"), ("rotate.wait", "300ms"), ("poll.interval", "500ms")]
            .into_iter()
            .chain(pairs.iter().copied())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        for key in ["file", "paths"] {
            if let Some(list) = options.get_mut(key) {
                let paths = list.split(',').map(|path| self.path(path).to_string_lossy().into_owned());
                *list = paths.collect::<Vec<_>>().join(",");
            }
        }
        options
    }

    pub(crate) async fn open(&self, pairs: &[(&str, &str)]) -> Tail {
        self.open_at(pairs, BTreeMap::new()).await.unwrap()
    }

    pub(crate) async fn open_at(&self, pairs: &[(&str, &str)], offsets: BTreeMap<String, SourceOffset>) -> Result<Tail, Error> {
        self.open_share(pairs, offsets, 1, 0).await
    }

    pub(crate) async fn open_share(
        &self,
        pairs: &[(&str, &str)],
        offsets: BTreeMap<String, SourceOffset>,
        tasks: u32,
        index: usize,
    ) -> Result<Tail, Error> {
        let (plugin, options) = (plugin(), self.options(pairs));
        assert!(plugin.validate(&options).is_empty(), "{:?}", plugin.validate(&options));
        let spec = plugin.plan(&options, tasks).await?.remove(index);
        let task = plugin.open(&options, spec, offsets.values().cloned().collect()).await?;
        let cx = TaskContext {
            task: TaskId::new("tail", index as u32),
            wait_max: Duration::from_millis(200),
            max_bytes: 1 << 20,
            max_records: 10_000,
            interrupt: Default::default(),
        };
        Ok(Tail { task, cx, offsets, ready: VecDeque::new() })
    }

    /// As after a crash: only the offsets of what was handed over survive.
    pub(crate) async fn reopen(&self, mut tail: Tail, pairs: &[(&str, &str)]) -> Tail {
        tail.close().await;
        let mut next = self.open_at(pairs, tail.offsets).await.unwrap();
        next.ready = tail.ready;
        next
    }
}

impl Tail {
    pub(crate) async fn poll(&mut self) -> Result<usize, Error> {
        let begin = Instant::now();
        let Polled { batch, resume } = self.task.poll(&self.cx).await?;
        assert!(begin.elapsed() < Duration::from_secs(5), "poll returns within wait_max, about");
        assert!(batch.len() <= self.cx.max_records);
        for record in batch.iter() {
            let text = |payload: PayloadRef<'_>| match payload {
                PayloadRef::Bytes(bytes) => Some(bytes.to_vec()),
                PayloadRef::Null => None,
                PayloadRef::Data(_) => panic!("lines are bytes"),
            };
            let string = |payload: PayloadRef<'_>| text(payload).map(|bytes| String::from_utf8(bytes).unwrap());
            let headers = record.headers().iter();
            self.ready.push_back(Line {
                topic: record.topic().to_string(),
                key: string(record.key()),
                value: text(record.value()).unwrap(),
                headers: headers.map(|header| (header.name.to_string(), string(header.value.as_ref()).unwrap())).collect(),
            });
        }
        for offset in resume {
            let key = offset.partition_key();
            match offset.offset {
                Some(_) => _ = self.offsets.insert(key, offset),
                None => _ = self.offsets.remove(&key),
            }
        }
        Ok(batch.len())
    }

    pub(crate) async fn records(&mut self, count: usize) -> Vec<Line> {
        let deadline = Instant::now() + SOON;
        while self.ready.len() < count {
            assert!(Instant::now() < deadline, "{count} records wanted, there are {:?}", self.ready.len());
            self.poll().await.unwrap();
        }
        self.ready.drain(..count).collect()
    }

    /// Exactly these many lines, and waits for them.
    pub(crate) async fn lines(&mut self, count: usize) -> Vec<String> {
        self.records(count).await.into_iter().map(|line| String::from_utf8(line.value).unwrap()).collect()
    }

    /// All lines of the next batch that has some.
    pub(crate) async fn one_batch(&mut self) -> Vec<String> {
        self.records(1.max(self.ready.len()))
            .await
            .into_iter()
            .chain(self.ready.drain(..))
            .map(|line| String::from_utf8(line.value).unwrap())
            .collect()
    }

    /// Nothing more comes: what is there was all.
    pub(crate) async fn quiet(&mut self) {
        for _ in 0..4 {
            self.poll().await.unwrap();
        }
        assert!(self.ready.is_empty(), "{} too many, such as {:?}", self.ready.len(), self.ready.front());
    }

    pub(crate) async fn fails(&mut self) -> Error {
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "no error came");
            if let Err(error) = self.poll().await {
                return error;
            }
        }
    }

    /// Polls until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Tail) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: did not happen; offsets {:?}", self.offsets);
            self.poll().await.unwrap();
        }
    }

    pub(crate) async fn close(&mut self) {
        self.task.close().await.unwrap();
    }

    /// The position of the one file whose path ends so.
    pub(crate) fn position(&self, name: &str) -> u64 {
        let filename = |offset: &&SourceOffset| {
            offset.partition.get("filename").and_then(|text| text.as_str()).is_some_and(|text| Path::new(text).ends_with(name))
        };
        let found: Vec<_> = self.offsets.values().filter(filename).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].offset.as_ref().unwrap()["position"].as_u64().unwrap()
    }
}
