use crate::{Frame, Issue, Part, Record, Rejects, Result, Writer};
use serde::de::DeserializeOwned;

/// What a transform makes of a batch. A record that nothing is said of is dropped.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// For what the methods here do not say: see `Writer::changed`, and FRAME.md.
    pub batch: Writer,
    pub rejects: Rejects,
}

impl Applied {
    /// As it is: costs no copy of the record.
    pub fn keep(&mut self, index: usize, record: &Record<'_>) {
        self.batch.changed(index, Part::Same, Part::Same, record.timestamp);
    }

    /// With another value.
    pub fn value(&mut self, index: usize, record: &Record<'_>, value: Option<&[u8]>) {
        self.batch.changed(index, Part::Same, Part::from(value), record.timestamp);
    }

    /// It cannot be handled: to the dead letter queue.
    pub fn reject(&mut self, index: usize, message: impl Into<String>) {
        self.rejects.push(index, message);
    }
}

/// A transform: one value for each task and place in `transforms`.
pub trait Transform: Sized {
    type Config: DeserializeOwned;

    fn validate(config: &Self::Config) -> Vec<Issue> {
        let _ = config;
        Vec::new()
    }

    fn open(config: Self::Config) -> Result<Self>;

    fn apply(&mut self, batch: Frame<'_>, out: &mut Applied) -> Result<()>;
}
