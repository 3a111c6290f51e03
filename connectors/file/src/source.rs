//! `file-source`: tails files.

mod config;
mod copies;
mod family;
mod foreign;
mod identity;
mod lines;
mod position;
mod reader;
mod scan;
mod settings;
mod survey;
mod tailer;
mod tracked;
mod watch;

pub use config::Config;

use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::blocking::{Permit, permit};
use aqueduct_core::{Error, Issue, Polled, Result, SourceOffset, SourceTask, TaskContext, TaskSpec};
use async_trait::async_trait;
use futures_util::FutureExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailer::{Limits, Tailer};
use tokio::task::JoinHandle;
use watch::News;

pub struct FileSource;

const TASK_INDEX: &str = "task.index";
const TASK_COUNT: &str = "task.count";

#[async_trait]
impl SourceConnector for FileSource {
    type Config = Config;
    type Task = FileSourceTask;
    const NAME: &'static str = "file-source";
    const ALIASES: &'static [&'static str] = &["org.apache.kafka.connect.file.FileStreamSourceConnector", "FileStreamSource"];
    const SUMMARY: &'static str = "Tails files line by line, over rotation and restarts, each line exactly once.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings((0, 1)).err().unwrap_or_default()
    }

    /// With the words of FileStreamSource.
    fn check_offset(offset: &SourceOffset) -> Result<()> {
        position::check(offset)
    }

    /// Tasks share the files by the path that they were rotated from.
    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let settings = config.settings((0, 1)).map_err(|issues| invalid(&issues))?;
        let tasks = if settings.single().is_some() { 1 } else { tasks_max.max(1) };
        let spec = |index: u32| [(TASK_INDEX.to_owned(), index.to_string()), (TASK_COUNT.to_owned(), tasks.to_string())].into();
        Ok((0..tasks).map(spec).collect())
    }

    async fn open(config: Config, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<FileSourceTask> {
        let number = |name: &str, default: u64| task.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let settings =
            config.settings((number(TASK_INDEX, 0), number(TASK_COUNT, 1).max(1))).map_err(|issues| invalid(&issues))?;
        let tailer = Tailer::new(settings, &resume);
        Ok(FileSourceTask {
            news: tailer.watch.news.clone(),
            lost: tailer.lost.clone(),
            state: State::Idle(Box::new(tailer)),
            rested: Instant::now(),
            began: Instant::now(),
            asked: None,
        })
    }
}

type Round = (Box<Tailer>, Result<Option<Polled>>);

enum State {
    Idle(Box<Tailer>),
    /// The next batch is read while the worker appends the last one.
    Reading(JoinHandle<Round>),
    Closed,
}

pub struct FileSourceTask {
    state: State,
    news: Arc<News>,
    /// Bytes; the tailer may be reading when it is asked for.
    lost: Arc<AtomicU64>,
    /// When the last batch was handed over.
    rested: Instant,
    /// When the round began that is under way.
    began: Instant,
    /// Since when it waits for a thread.
    asked: Option<Instant>,
}

/// Lines that come one by one are gathered this long after a batch: a commit for each would cost more than it brings.
const LINGER: Duration = Duration::from_millis(5);

/// A round reads at most one batch, after it has skipped what was read of a compressed file before: one that takes longer than this hangs, and the task
/// must not say RUNNING over it (invariant 7).
const HANGS_AFTER: Duration = Duration::from_secs(300);

#[async_trait]
impl SourceTask for FileSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let limits = Limits { bytes: cx.max_bytes, records: cx.max_records };
        let deadline = Instant::now() + cx.wait_max;
        loop {
            let due = !matches!(&self.state, State::Idle(tailer) if !tailer.is_due());
            if due && let Some(polled) = self.read(limits, deadline).await? {
                self.rested = Instant::now();
                if let State::Idle(tailer) = std::mem::replace(&mut self.state, State::Closed) {
                    self.begin(tailer, limits);
                }
                return Ok(polled);
            }
            let until = match &self.state {
                State::Idle(tailer) => tailer.next_due().min(deadline),
                // Still reading at the deadline.
                _ => return Ok(Polled::default()),
            };
            tokio::select! {
                () = self.news.wake.notified() => tokio::time::sleep_until((self.rested + LINGER).min(deadline).into()).await,
                () = cx.interrupt.cancelled() => return Ok(Polled::default()),
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if Instant::now() >= deadline {
                return Ok(Polled::default());
            }
        }
    }

    fn take_lost_bytes(&mut self) -> u64 {
        self.lost.swap(0, Relaxed)
    }

    async fn close(&mut self) -> Result<()> {
        if let State::Reading(round) = std::mem::replace(&mut self.state, State::Closed)
            && self.began.elapsed() < HANGS_AFTER
        {
            // What was read ahead was not handed over: its offsets were not stored.
            let _ = round.await;
        }
        Ok(())
    }
}

impl FileSourceTask {
    /// One round; `None` when there is nothing, or it is not done at the deadline.
    async fn read(&mut self, limits: Limits, deadline: Instant) -> Result<Option<Polled>> {
        let mut round = match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(tailer) => {
                let asked = *self.asked.get_or_insert_with(Instant::now);
                let Ok(permit) = tokio::time::timeout_at(deadline.into(), permit()).await else {
                    self.state = State::Idle(tailer);
                    // Other tasks of the connector hold all its threads: not RUNNING either (invariant 7).
                    return if asked.elapsed() < HANGS_AFTER { Ok(None) } else { Err(hangs(asked)) };
                };
                self.asked = None;
                self.began = Instant::now();
                start(tailer, limits, permit)
            }
            State::Reading(round) => round,
            State::Closed => return Err(Error::retriable("file.closed", "the task was closed")),
        };
        match tokio::time::timeout_at(deadline.into(), &mut round).await {
            Ok(Ok((tailer, outcome))) => {
                self.state = State::Idle(tailer);
                outcome
            }
            Ok(Err(error)) => Err(Error::retriable("file.panicked", "the reading stopped").because(error)),
            Err(_) if self.began.elapsed() >= HANGS_AFTER => {
                self.state = State::Reading(round);
                Err(hangs(self.began))
            }
            Err(_) => {
                self.state = State::Reading(round);
                Ok(None)
            }
        }
    }

    /// Reads ahead, if a thread is free.
    fn begin(&mut self, tailer: Box<Tailer>, limits: Limits) {
        self.began = Instant::now();
        self.state = match permit().now_or_never() {
            Some(permit) => State::Reading(start(tailer, limits, permit)),
            None => State::Idle(tailer),
        };
    }
}

fn hangs(since: Instant) -> Error {
    Error::retriable("file.hangs", format!("reading has not returned for {} s", since.elapsed().as_secs()))
        .fix("look at the file system: a network mount that does not answer, a failing disk")
}

#[allow(clippy::disallowed_methods, reason = "the task owns the handle and awaits it")]
fn start(mut tailer: Box<Tailer>, limits: Limits, permit: Permit) -> JoinHandle<Round> {
    tokio::task::spawn_blocking(move || {
        let _held = permit;
        let outcome = tailer.round(limits);
        (tailer, outcome)
    })
}
