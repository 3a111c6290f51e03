//! Appending: encode here, commit there.

use super::encode;
use super::request::{Ask, Link, Queue};
use super::shared::{Shared, closed};
use crate::contract::{Commit, EncodedBatch, LogWriter};
use aqueduct_core::{Result, SourceOffset, TaskId};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(crate) struct EmbeddedWriter {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    link: Arc<Link>,
    /// Where the next keyless records go.
    turn: usize,
}

impl EmbeddedWriter {
    pub(crate) fn new(shared: Arc<Shared>, queue: Arc<Queue>, task: TaskId, epoch: u64) -> Self {
        Self { shared, queue, link: Arc::new(Link::new(task, epoch)), turn: 0 }
    }

    /// What can be told before the append is queued.
    fn check(&self) -> Result<()> {
        self.shared.open()?;
        self.link.check()?;
        match self.shared.state.read().epochs.get(&*self.link.key) {
            Some(epoch) if *epoch == self.link.epoch => Ok(()),
            _ => Err(super::plan::fenced(&self.link.key)),
        }
    }
}

#[async_trait]
impl LogWriter for EmbeddedWriter {
    async fn append(&mut self, batch: EncodedBatch, resume: Vec<SourceOffset>) -> Result<Commit> {
        self.check()?;
        let room = self.queue.room(batch.batch().bytes()).await?;
        let shared = &self.shared;
        let topic = |name: &str| shared.catalogue.read().by_name(name).cloned();
        let parts = encode::parts(&batch, topic, self.turn, shared.now_ms(), || shared.buffer());
        let parts = parts.inspect_err(|error| self.link.poison(error))?;
        drop(batch);
        self.turn = self.turn.wrapping_add(1);
        let (reply, committed) = oneshot::channel();
        self.queue.push(Ask::Append { link: self.link.clone(), parts, resume, reply }, room)?;
        Ok(Box::pin(async move { committed.await.unwrap_or_else(|_| Err(closed())) }))
    }
}
