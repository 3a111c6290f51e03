use crate::{Issue, Part, Result, Writer};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

pub type JsonMap = serde_json::Map<String, serde_json::Value>;
/// The share of one task.
pub type Share = BTreeMap<String, String>;

/// Where to resume in one partition of the external system: both are flat.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceOffset {
    pub partition: JsonMap,
    /// `None` forgets the partition.
    pub offset: Option<JsonMap>,
}

/// The bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_records: usize,
    pub max_bytes: usize,
    /// Return within this time, maybe with nothing: [`crate::sleep`] keeps to it.
    pub wait: Duration,
}

/// One batch, and where to resume after it.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    pub batch: Writer,
    pub resume: Vec<SourceOffset>,
}

impl Polled {
    /// A record with a key, a value and nothing else.
    pub fn record(&mut self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Option<i64>) {
        let topic = self.batch.topic(topic, None);
        self.batch.record(topic, Part::from(key), Part::from(value), timestamp, -1);
    }
}

/// A source: one value for each task; no method is called while another one runs.
pub trait Source: Sized {
    /// The options, read with serde; their documentation is the JSON schema in the metadata.
    type Config: DeserializeOwned;

    /// What types alone cannot say. Pure.
    fn validate(config: &Self::Config) -> Vec<Issue> {
        let _ = config;
        Vec::new()
    }

    /// At least one and at most `tasks_max` shares. Does not touch the world.
    fn plan(config: &Self::Config, tasks_max: usize) -> Result<Vec<Share>> {
        let _ = (config, tasks_max);
        Ok(vec![Share::new()])
    }

    /// `resume` has every stored offset of the connector; the task picks those of its share.
    fn open(config: Self::Config, share: Share, resume: Vec<SourceOffset>) -> Result<Self>;

    fn poll(&mut self, limits: Limits) -> Result<Polled>;

    /// The log holds everything up to these.
    fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        let _ = durable;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
