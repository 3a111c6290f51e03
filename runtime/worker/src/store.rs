//! Configs, target states and statuses as they stand in the log: keys and values are those of Kafka Connect's config and status topics.

use crate::admin::{AdminError, ConfigMap, TargetState};
use aqueduct_core::{Error, Result};
use aqueduct_log::{Log, Store};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is stored of one connector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub config: ConfigMap,
    pub target: TargetState,
    /// The file of `connectors.dir` that it came from, and a hash of what was applied last.
    pub folder: Option<FolderMark>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderMark {
    pub file: String,
    pub hash: String,
}

#[derive(Serialize, Deserialize)]
struct ConnectorValue {
    properties: ConfigMap,
}

#[derive(Serialize, Deserialize)]
struct TargetValue {
    state: TargetState,
}

const CONNECTOR: &str = "connector-";
const TARGET: &str = "target-state-";
const FOLDER: &str = "aqueduct-folder-";

/// What the config store has.
#[derive(Debug, Default)]
pub struct Loaded {
    pub connectors: BTreeMap<String, Stored>,
    /// Marks of connectors that were deleted over REST while their file stayed: the file brings them back only when it changes.
    pub deleted: BTreeMap<String, FolderMark>,
}

/// Everything, by connector name. Entries that cannot be read are errors: to skip one would be to forget a connector.
pub async fn load(log: &dyn Log) -> Result<Loaded> {
    let entries = log.load(Store::Config).await?;
    let Loaded { mut connectors, mut deleted } = Loaded::default();
    for (key, value) in &entries {
        if let Some(name) = key.strip_prefix(CONNECTOR) {
            let value: ConnectorValue = read(key, value)?;
            connectors.insert(name.to_owned(), Stored { config: value.properties, ..Stored::default() });
        }
    }
    for (key, value) in &entries {
        if let Some(stored) = key.strip_prefix(TARGET).and_then(|name| connectors.get_mut(name)) {
            stored.target = read::<TargetValue>(key, value)?.state;
        } else if let Some(name) = key.strip_prefix(FOLDER) {
            let mark = read(key, value)?;
            match connectors.get_mut(name) {
                Some(stored) => stored.folder = Some(mark),
                None => {
                    deleted.insert(name.to_owned(), mark);
                }
            }
        }
    }
    Ok(Loaded { connectors, deleted })
}

fn read<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        Error::fatal("worker.config_store", format!("the stored entry {key:?} cannot be read: {error}"))
            .fix("it was written by a newer version or by hand; delete or mend the entry")
    })
}

fn text<T: Serialize>(value: &T) -> Result<Vec<u8>, AdminError> {
    serde_json::to_vec(value).map_err(|error| Error::fatal("worker.config_store", error.to_string()).into())
}

pub type Entries = Vec<(String, Option<Vec<u8>>)>;

pub fn config_entry(name: &str, config: &ConfigMap) -> Result<(String, Option<Vec<u8>>), AdminError> {
    Ok((format!("{CONNECTOR}{name}"), Some(text(&ConnectorValue { properties: config.clone() })?)))
}

pub fn target_entry(name: &str, target: TargetState) -> Result<(String, Option<Vec<u8>>), AdminError> {
    Ok((format!("{TARGET}{name}"), Some(text(&TargetValue { state: target })?)))
}

pub fn folder_entry(name: &str, mark: &FolderMark) -> Result<(String, Option<Vec<u8>>), AdminError> {
    Ok((format!("{FOLDER}{name}"), Some(text(mark)?)))
}

/// Forgets a connector; its offsets stay, as in Kafka Connect.
pub fn tombstones(name: &str) -> Entries {
    [CONNECTOR, TARGET].iter().map(|prefix| (format!("{prefix}{name}"), None)).collect()
}

pub fn folder_tombstone(name: &str) -> (String, Option<Vec<u8>>) {
    (format!("{FOLDER}{name}"), None)
}

/// `status-connector-<name>`, `status-task-<name>-<n>`: as `KafkaStatusBackingStore` names them.
pub fn status_key(connector: &str, task: Option<u32>) -> String {
    match task {
        Some(task) => format!("status-task-{connector}-{task}"),
        None => format!("status-connector-{connector}"),
    }
}

/// The tasks of each of these connectors that have a status: those of the last worker, or of a Kafka Connect before it.
///
/// # Errors
/// As [`Log::load`].
pub async fn former_tasks(log: &dyn Log) -> Result<BTreeMap<String, BTreeSet<u32>>> {
    let mut former: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (key, value) in log.load(Store::Status).await? {
        if let Some((connector, task)) = task_of(&key).filter(|_| !value.is_empty()) {
            former.entry(connector.to_owned()).or_default().insert(task);
        }
    }
    Ok(former)
}

fn task_of(key: &str) -> Option<(&str, u32)> {
    let (connector, task) = key.strip_prefix("status-task-")?.rsplit_once('-')?;
    Some((connector, task.parse().ok()?))
}

pub fn status_value(state: crate::admin::State, trace: Option<&str>, worker_id: &str, generation: u64) -> Vec<u8> {
    let value: IndexMap<&str, serde_json::Value> = [
        ("state", serde_json::json!(state)),
        ("trace", serde_json::json!(trace)),
        ("worker_id", serde_json::json!(worker_id)),
        ("generation", serde_json::json!(generation)),
    ]
    .into_iter()
    .collect();
    serde_json::to_vec(&value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_its_task() {
        assert_eq!(task_of(&status_key("a-b", Some(12))), Some(("a-b", 12)));
        assert_eq!((task_of(&status_key("a-1", None)), task_of("status-task-a-x"), task_of("status-task-3")), (None, None, None));
    }
}
