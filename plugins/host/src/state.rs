//! What a source remembers beyond its offsets. It is stored as source offsets of reserved partitions, one for each key, and so in the commit of the
//! records that it belongs to (invariant 1).

use aqueduct_core::{JsonMap, SourceOffset};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Of a partition that is not the plugin's: its value is the share of the task.
const RESERVED: &str = "aqueduct.state";
const KEY: &str = "key";
const VALUE: &str = "value";

/// A name, not a value.
const KEY_BYTES: usize = 256;
/// It is one record of the log's store of offsets, which takes 1 MiB at least.
const VALUE_BYTES: usize = 64 << 10;
/// It is read whole when a task is opened, and lies in the worker's memory: keys and values of one task.
const TASK_BYTES: usize = 1 << 20;

/// The state of one task.
pub(crate) struct State {
    share: String,
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    /// Since it was last stored.
    changed: BTreeSet<String>,
}

impl State {
    /// Of all stored offsets of a connector, those of the share. What cannot be read was changed by hand and is left out.
    pub(crate) fn of<'a>(share: &str, stored: impl IntoIterator<Item = &'a SourceOffset>) -> Self {
        let mut values = BTreeMap::new();
        for offset in stored {
            let own = offset.partition.get(RESERVED).and_then(Value::as_str) == Some(share);
            let key = offset.partition.get(KEY).and_then(Value::as_str);
            let text = offset.offset.as_ref().and_then(|position| position.get(VALUE)?.as_str());
            if let (true, Some(key), Some(Ok(value))) = (own, key, text.map(|text| STANDARD.decode(text))) {
                values.insert(key.to_owned(), value);
            }
        }
        let bytes = values.iter().map(|(key, value)| key.len() + value.len()).sum();
        Self { share: share.to_owned(), values, bytes, changed: BTreeSet::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.values.get(key).cloned()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// # Errors
    /// The bound that it would pass; nothing has changed.
    pub(crate) fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(format!("a key has 1 to {KEY_BYTES} bytes, and this one {}", key.len()));
        }
        if value.len() > VALUE_BYTES {
            return Err(format!("a value has at most {VALUE_BYTES} bytes, and this one {}", value.len()));
        }
        let before = self.values.get(&key).map_or(0, |before| key.len() + before.len());
        let bytes = self.bytes - before + key.len() + value.len();
        if bytes > TASK_BYTES {
            return Err(format!(
                "the state of a task has at most {TASK_BYTES} bytes, keys and values together: delete some first"
            ));
        }
        self.bytes = bytes;
        if self.values.get(&key) != Some(&value) {
            self.changed.insert(key.clone());
            self.values.insert(key, value);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &str) {
        if let Some(value) = self.values.remove(key) {
            self.bytes -= key.len() + value.len();
            self.changed.insert(key.to_owned());
        }
    }

    /// What is to be stored with the next batch.
    pub(crate) fn take_changes(&mut self) -> Vec<SourceOffset> {
        let changed = std::mem::take(&mut self.changed);
        let offset = |key: String| {
            let value = self.values.get(&key).map(|value| one(VALUE, STANDARD.encode(value)));
            let mut partition = one(RESERVED, self.share.clone());
            partition.insert(KEY.to_owned(), key.into());
            SourceOffset { partition, offset: value }
        };
        changed.into_iter().map(offset).collect()
    }
}

fn one(name: &str, text: String) -> JsonMap {
    [(name.to_owned(), Value::String(text))].into_iter().collect()
}

/// True for what the plugin must not see or write: it is not an offset of its own.
pub(crate) fn is_reserved(offset: &SourceOffset) -> bool {
    offset.partition.contains_key(RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_comes_back_for_its_share_alone() {
        let mut state = State::of("{}", []);
        state.set("a".into(), vec![1, 2]).unwrap();
        state.set("b".into(), Vec::new()).unwrap();
        let first = state.take_changes();
        assert!(first.len() == 2 && first.iter().all(is_reserved) && state.take_changes().is_empty());
        state.set("b".into(), Vec::new()).unwrap();
        assert!(state.take_changes().is_empty(), "nothing has changed");
        let again = State::of("{}", &first);
        assert_eq!((again.get("a"), again.keys()), (Some(vec![1, 2]), vec!["a".to_owned(), "b".to_owned()]));
        assert!(State::of("{\"x\":\"1\"}", &first).keys().is_empty());
        state.delete("a");
        state.delete("never");
        let gone = state.take_changes();
        assert!(gone.len() == 1 && gone[0].offset.is_none() && gone[0].partition == first[0].partition);
    }

    #[test]
    fn every_bound_is_said() {
        let mut state = State::of("{}", []);
        assert!(state.set(String::new(), Vec::new()).unwrap_err().contains("1 to 256"));
        assert!(state.set("k".repeat(257), Vec::new()).unwrap_err().contains("and this one 257"));
        assert!(state.set("k".into(), vec![0; VALUE_BYTES + 1]).unwrap_err().contains("65536"));
        for n in 0..15 {
            state.set(format!("k{n}"), vec![0; VALUE_BYTES]).unwrap();
        }
        // In place of a value that is there it still fits.
        state.set("k0".into(), vec![1; VALUE_BYTES]).unwrap();
        assert!(state.set("last".into(), vec![0; VALUE_BYTES]).unwrap_err().contains("1048576"));
        state.delete("k1");
        state.set("last".into(), vec![0; VALUE_BYTES]).unwrap();
    }
}
