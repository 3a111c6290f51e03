//! Appends of one task, as transactions.

use crate::log::Shared;
use aqueduct_core::{Error, Result, TaskId};
use aqueduct_log::LogWriter;
use std::sync::Arc;

pub(crate) async fn open(_shared: &Arc<Shared>, task: &TaskId) -> Result<Box<dyn LogWriter>> {
    Err(Error::fatal("kafka.unsupported", format!("{task}: writing is not built yet")))
}

/// For a transactional id that is not a task's: the stores'.
pub(crate) async fn transactional(_shared: &Arc<Shared>, transactional_id: &str) -> Result<Box<dyn LogWriter>> {
    Err(Error::fatal("kafka.unsupported", format!("{transactional_id}: writing is not built yet")))
}
