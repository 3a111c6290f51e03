//! Transforms, and where bad records go.

use crate::{Batch, Error, Measure, Record, Result};
use async_trait::async_trait;

/// Zero to many records for each record, in order.
#[async_trait]
pub trait Transform: Send {
    /// Records that it cannot handle go to `rejects`.
    ///
    /// # Errors
    /// Of the call as a whole, as in [`crate::SourceTask::poll`].
    async fn apply(&mut self, batch: Batch, rejects: &mut Rejects) -> Result<Batch>;

    /// What it measures of itself. Asked after each batch.
    fn measures(&self) -> Vec<Measure> {
        Vec::new()
    }
}

/// Where a record was refused. The names are Kafka Connect's, as they stand in the header `__connect.errors.stage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    TaskPoll,
    TaskPut,
    Transformation,
    KeyConverter,
    ValueConverter,
    HeaderConverter,
    KafkaProduce,
    KafkaConsume,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::TaskPoll => "TASK_POLL",
            Stage::TaskPut => "TASK_PUT",
            Stage::Transformation => "TRANSFORMATION",
            Stage::KeyConverter => "KEY_CONVERTER",
            Stage::ValueConverter => "VALUE_CONVERTER",
            Stage::HeaderConverter => "HEADER_CONVERTER",
            Stage::KafkaProduce => "KAFKA_PRODUCE",
            Stage::KafkaConsume => "KAFKA_CONSUME",
        }
    }
}

#[derive(Debug)]
pub struct Reject {
    pub record: Record,
    pub stage: Stage,
    /// The class (or name) of what refused it, for `__connect.errors.class.name`.
    pub refused_by: String,
    pub error: Error,
}

/// Records that were refused one by one, for the policy (`errors.tolerance`, dead letter queue) to decide on.
#[derive(Debug, Default)]
pub struct Rejects(Vec<Reject>);

impl Rejects {
    pub fn push(&mut self, record: Record, stage: Stage, refused_by: impl Into<String>, error: Error) {
        self.0.push(Reject { record, stage, refused_by: refused_by.into(), error });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Reject> {
        self.0.iter()
    }

    pub fn take(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.0)
    }
}
