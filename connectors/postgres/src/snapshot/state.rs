//! How far the reading of each table is, as it is stored: one offset for each table beside the stream's own, so that none grows with the number of
//! tables, and a batch stores only what moved. Pure.

use aqueduct_core::{JsonMap, SourceOffset};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `(schema, table)`
pub type Name = (String, String);

/// What is known of one table. Its offset is `null` (forgotten) when there is nothing to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableState {
    /// A table that was made anew under the same name has another one, and was not read.
    pub oid: u32,
    /// A snapshot of it was completed, or none was wanted when the connector first saw it: the stream has everything since.
    #[serde(default, skip_serializing_if = "is_false")]
    pub done: bool,
    /// A reading that is under way or waits.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub read: Option<Read>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Read {
    pub snapshot: Kind,
    /// Place in the queue.
    pub order: u64,
    /// The key of the last row that was sent, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// An incremental snapshot ends at the key that was the last when it began; later rows come by the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Vec<String>>,
    /// An initial reading that was interrupted: what its first view had seen. The stream sends whatever changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Where the last row that was sent lies: of a table without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctid: Option<String>,
    /// The heap that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u32>,
    #[serde(default)]
    pub rows: u64,
    /// Of the signal that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surrogate: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In the exported snapshot, before the stream begins.
    #[default]
    Initial,
    /// In chunks while the stream goes on.
    Incremental,
    /// At once, while the stream waits.
    Blocking,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Whether a stored offset can be read as a table's.
///
/// # Errors
/// What is wrong with it, for people.
pub fn is_table_state(offset: &JsonMap) -> Result<(), String> {
    serde_json::from_value::<TableState>(Value::Object(offset.clone())).map(drop).map_err(|error| error.to_string())
}

/// Of every table of the connector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct States(pub BTreeMap<Name, TableState>);

impl States {
    /// Those that are stored. What cannot be read counts as not there: the table is read anew, rather than left out.
    pub fn read(offsets: &[SourceOffset], prefix: &str) -> Self {
        let state = |offset: &SourceOffset| {
            let text = |key: &str| offset.partition.get(key).and_then(Value::as_str).map(str::to_owned);
            if text("server")? != prefix {
                return None;
            }
            let state = serde_json::from_value(Value::Object(offset.offset.clone()?));
            Some(((text("schema")?, text("table")?), state.ok()?))
        };
        Self(offsets.iter().filter_map(state).collect())
    }

    /// Readings that wait or are under way, first come, first served.
    pub fn queue(&self, kind: Kind) -> Vec<Name> {
        let mut queue: Vec<_> = self
            .0
            .iter()
            .filter_map(|(name, state)| Some((state.read.as_ref().filter(|read| read.snapshot == kind)?.order, name)))
            .collect();
        queue.sort();
        queue.into_iter().map(|(_, name)| name.clone()).collect()
    }

    pub fn next_order(&self) -> u64 {
        self.0.values().filter_map(|state| Some(state.read.as_ref()?.order + 1)).max().unwrap_or(0)
    }

    /// The offset of one table.
    pub fn offset(&self, prefix: &str, name: &Name) -> SourceOffset {
        let keys = [("server", prefix), ("schema", &name.0), ("table", &name.1)];
        let partition = keys.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
        let state = self.0.get(name).filter(|state| state.done || state.read.is_some());
        let offset = state.and_then(|state| match serde_json::to_value(state) {
            Ok(Value::Object(map)) => Some(map),
            _ => None,
        });
        SourceOffset { partition, offset: offset.map(|map: JsonMap| map) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> Name {
        ("a.b".to_owned(), table.to_owned())
    }

    #[test]
    fn states_come_back_as_they_were_stored() {
        let read = Read {
            order: 3,
            key: Some(vec!["1".into(), "\u{1F600}'".into()]),
            rows: 7,
            condition: Some("x > 1".into()),
            ..Read::default()
        };
        let states = States(BTreeMap::from([
            (name("done"), TableState { oid: 1, done: true, read: None }),
            (name("half"), TableState { oid: 2, done: false, read: Some(read) }),
            (
                name("again"),
                TableState {
                    oid: 3,
                    done: true,
                    read: Some(Read {
                        snapshot: Kind::Incremental,
                        ctid: Some("(9,1)".into()),
                        file: Some(4),
                        ..Read::default()
                    }),
                },
            ),
        ]));
        let mut offsets: Vec<SourceOffset> = states.0.keys().map(|name| states.offset("shop", name)).collect();
        assert_eq!(serde_json::to_value(&offsets[1].offset).unwrap(), serde_json::json!({"done": true, "oid": 1}));
        offsets.push(SourceOffset { partition: crate::source::position::partition("shop"), offset: Some(JsonMap::new()) });
        assert_eq!(States::read(&offsets, "shop"), states);
        assert_eq!(States::read(&offsets, "other"), States::default());
        assert_eq!((states.queue(Kind::Initial), states.next_order()), (vec![name("half")], 4));
        assert_eq!(states.offset("shop", &name("gone")).offset, None);
    }

    #[test]
    fn an_offset_is_small_whatever_the_table() {
        let states = States(BTreeMap::from([(name("t"), TableState { oid: 1, done: false, read: Some(Read::default()) })]));
        let stored = serde_json::to_value(states.offset("shop", &name("t"))).unwrap();
        let partition = serde_json::json!({"schema": "a.b", "server": "shop", "table": "t"});
        let offset = serde_json::json!({"oid": 1, "order": 0, "rows": 0, "snapshot": "initial"});
        assert_eq!(stored, serde_json::json!({"partition": partition, "offset": offset}));
    }
}
