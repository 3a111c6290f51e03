//! What the commit thread does, one step at a time.

use super::compact::{Cleaned, Job};
use super::core::Core;
use super::request::{Ask, Queue, Reply, Request};
use super::shared::{Shared, closed};
use aqueduct_core::Result;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// Drives a log: on its own thread, or by hand in a simulation. Dropped without [`Stepper::close`], it is a crash.
pub struct Stepper {
    core: Core,
    queue: Arc<Queue>,
    cleaner: Option<JoinHandle<()>>,
    closed: bool,
}

impl Stepper {
    pub(crate) fn new(core: Core, queue: Arc<Queue>) -> Self {
        Self { core, queue, cleaner: None, closed: false }
    }

    /// Commits what is queued. False when that was nothing.
    pub fn round(&mut self) -> bool {
        let requests = self.queue.take(Some(Instant::now())).unwrap_or_default();
        let any = !requests.is_empty();
        if any {
            self.core.apply_round(requests);
        }
        any
    }

    /// Notes that the last commit is durable, as the thread does when there is nothing to do.
    pub fn seal(&mut self) {
        self.core.seal();
    }

    /// Retention and compaction, and a new attempt to write where that failed.
    pub fn maintain(&mut self) {
        self.retain();
        let shared = self.core.shared.clone();
        let due = Job::next(&shared, &shared.state.read()).filter(|_| self.core.broken.is_none());
        let Some(job) = due else { return };
        let cleaned_to = job.run(&shared, |cleaned| self.answer(|reply| compacted(&job, cleaned, reply)));
        done(&shared, &job, cleaned_to.and_then(|offset| self.answer(|reply| cleaned_up_to(&job, offset, reply))));
    }

    fn retain(&mut self) {
        // The error is in the stats.
        let _ = self.core.heal();
        self.core.retain();
        self.core.write_indexes();
    }

    /// A round of the log's own.
    fn answer(&mut self, ask: impl FnOnce(Reply<()>) -> Ask) -> Result<()> {
        let (reply, mut answer) = oneshot::channel();
        self.core.apply_round(vec![Request { ask: ask(reply), room: None }]);
        answer.try_recv().unwrap_or_else(|_| Err(closed()))
    }

    /// The same on a thread of its own, which may take long and must not hold up commits. One at a time.
    fn compact_aside(&mut self) {
        if self.cleaner.as_ref().is_some_and(|cleaner| !cleaner.is_finished()) {
            return;
        }
        if self.core.broken.is_some() {
            return;
        }
        let (shared, queue) = (self.core.shared.clone(), self.queue.clone());
        let run = move || {
            let next = || Job::next(&shared, &shared.state.read());
            while let Some(job) = next() {
                let cleaned_to = job.run(&shared, |cleaned| queue.ask_blocking(|reply| compacted(&job, cleaned, reply)));
                if !done(
                    &shared,
                    &job,
                    cleaned_to.and_then(|offset| queue.ask_blocking(|reply| cleaned_up_to(&job, offset, reply))),
                ) {
                    break;
                }
            }
        };
        match std::thread::Builder::new().name("log-clean".into()).spawn(run) {
            Ok(thread) => self.cleaner = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread for compaction"),
        }
    }

    /// Polls the future and commits what it asks for, until it is ready.
    ///
    /// # Panics
    /// When it waits for something else: it would never end.
    pub fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut idle = false;
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            assert!(!idle, "the future waits for something that no commit brings");
            idle = !self.round();
        }
    }

    /// Ends as a process should: the queue is emptied, the state written.
    pub fn close(&mut self) {
        self.queue.close();
        self.core.shared.stopping.store(true, Relaxed);
        // The cleaner waits for answers, and gets them until it has none to ask for.
        while self.round() || self.cleaner.as_ref().is_some_and(|cleaner| !cleaner.is_finished()) {
            std::thread::yield_now();
        }
        self.core.close();
        self.let_go();
        self.closed = true;
    }

    /// The commit thread: until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let (seal_after, maintain_every) = (self.core.shared.options.seal_after, self.core.shared.options.maintenance_interval);
        let mut maintain_at = Instant::now() + maintain_every;
        loop {
            let now = Instant::now();
            let wake = if self.core.sealed { maintain_at } else { maintain_at.min(now + seal_after) };
            let Some(requests) = self.queue.take(Some(wake)) else { break };
            if !requests.is_empty() {
                self.core.apply_round(requests);
            } else if !self.core.sealed {
                self.seal();
            }
            if Instant::now() >= maintain_at {
                self.retain();
                self.compact_aside();
                maintain_at = Instant::now() + maintain_every;
            }
        }
        self.close();
    }

    fn let_go(&self) {
        let shared = &self.core.shared;
        shared.closed.store(true, Relaxed);
        shared.files.forget_all();
        shared.groups.lock().wake_all();
        for topic in shared.catalogue.read().by_name.values() {
            topic.partitions.iter().for_each(|view| view.wake());
        }
    }
}

impl Drop for Stepper {
    /// Also after a panic: nobody waits for an answer that will not come.
    fn drop(&mut self) {
        if !self.closed {
            self.let_go();
        }
        self.queue.abandon();
    }
}

fn compacted(job: &Job, cleaned: Cleaned, reply: Reply<()>) -> Ask {
    Ask::Compacted { topic: job.topic, partition: job.partition, cleaned, reply }
}

fn cleaned_up_to(job: &Job, offset: i64, reply: Reply<()>) -> Ask {
    Ask::CleanedTo { topic: job.topic, partition: job.partition, offset, reply }
}

/// False when compaction had better rest.
fn done(shared: &Shared, job: &Job, result: Result<()>) -> bool {
    let Err(error) = result else { return true };
    if error.code() == "log.corrupt" {
        shared.damaged.lock().insert((job.topic, job.partition));
    }
    if error.code() != "log.closed" {
        tracing::warn!(topic = %job.topic, partition = job.partition, %error, "compaction stopped");
    }
    false
}
