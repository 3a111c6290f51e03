use crate::{Frame, Issue, Result};
use serde::de::DeserializeOwned;

/// What `put` promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// This batch and all before it is durable in the target.
    Durable,
    /// Only `flush` makes it durable.
    Buffered,
}

/// Records that cannot be taken, by their index in the batch: they go to the dead letter queue.
#[derive(Clone, Debug, Default)]
pub struct Rejects(pub(crate) Vec<(u32, String)>);

impl Rejects {
    /// Each record once.
    pub fn push(&mut self, index: usize, message: impl Into<String>) {
        self.0.push((u32::try_from(index).unwrap_or(u32::MAX), message.into()));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A sink: one value for each task.
pub trait Sink: Sized {
    type Config: DeserializeOwned;

    fn validate(config: &Self::Config) -> Vec<Issue> {
        let _ = config;
        Vec::new()
    }

    fn open(config: Self::Config) -> Result<Self>;

    /// Writes a batch in its order.
    fn put(&mut self, batch: Frame<'_>, rejects: &mut Rejects) -> Result<Ack>;

    /// Makes all that was put durable.
    fn flush(&mut self) -> Result<()>;

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
