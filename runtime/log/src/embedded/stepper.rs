//! What the commit thread does, one step at a time.

use super::core::Core;
use super::request::Queue;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Drives a log: on its own thread, or by hand in a simulation. Dropped without [`Stepper::close`], it is a crash.
pub struct Stepper {
    core: Core,
    queue: Arc<Queue>,
    closed: bool,
}

impl Stepper {
    pub(crate) fn new(core: Core, queue: Arc<Queue>) -> Self {
        Self { core, queue, closed: false }
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

    /// Retention, and a new attempt to write where that failed.
    pub fn maintain(&mut self) {
        // The error is in the stats.
        let _ = self.core.heal();
        self.core.retain();
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
        while self.round() {}
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
                self.maintain();
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
