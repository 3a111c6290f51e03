//! Everything that the log knows but the records: what a checkpoint holds, and the changes that the journal adds to it.

use crate::Store;
use aqueduct_core::SourceOffset;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The number of the last commit.
    pub(crate) commit: u64,
    pub(crate) topics: BTreeMap<Uuid, TopicState>,
    /// By connector, then by [`SourceOffset::partition_key`].
    pub(crate) source_offsets: BTreeMap<String, BTreeMap<String, SourceOffset>>,
    /// By group, topic and partition.
    pub(crate) groups: BTreeMap<String, BTreeMap<Uuid, BTreeMap<i32, Position>>>,
    pub(crate) stores: BTreeMap<Store, BTreeMap<String, Blob>>,
    /// Of each task that ever had a writer.
    pub(crate) epochs: BTreeMap<String, u64>,
    #[serde(skip)]
    pub(crate) names: HashMap<String, Uuid>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TopicState {
    pub(crate) name: String,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) partitions: Vec<PartitionState>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// By base offset. The last one is appended to, unless it is sealed.
    pub(crate) segments: Vec<SegmentState>,
    /// Before it a compacted topic has each key once.
    #[serde(default)]
    pub(crate) cleaned_to: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SegmentState {
    pub(crate) base: i64,
    /// Committed bytes. What the file holds behind them is no part of the log.
    pub(crate) len: u64,
    /// The latest timestamp of its records.
    pub(crate) ts: i64,
    /// When its first record was appended.
    pub(crate) ms: i64,
    /// Never appended to again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) sealed: bool,
    /// Compacted: `<base>.log.cleaned`, where it exists, is to take the place of `<base>.log`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) swap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) o: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) m: Option<Arc<str>>,
}

/// One thing that a commit changes. All changes of one journal frame happen, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    #[serde(rename = "a")]
    Append(Append),
    Topic {
        id: Uuid,
        name: String,
        partitions: i32,
        configs: BTreeMap<String, String>,
    },
    TopicDeleted {
        id: Uuid,
    },
    #[serde(rename = "o")]
    Offset {
        c: Arc<str>,
        o: SourceOffset,
    },
    #[serde(rename = "g")]
    Position {
        g: Arc<str>,
        t: Uuid,
        p: i32,
        at: Option<Position>,
    },
    #[serde(rename = "e")]
    Entry {
        s: Store,
        k: String,
        v: Option<Blob>,
    },
    Epoch {
        task: Arc<str>,
        epoch: u64,
    },
    /// Segments wholly below are no part of the log any more.
    Start {
        t: Uuid,
        p: i32,
        offset: i64,
    },
    Sealed {
        t: Uuid,
        p: i32,
    },
    Compacted {
        t: Uuid,
        p: i32,
        base: i64,
        len: u64,
        /// So many segments behind it are in its file now.
        #[serde(default, skip_serializing_if = "is_zero")]
        merged: u32,
    },
    Swapped {
        t: Uuid,
        p: i32,
        base: i64,
    },
    CleanedTo {
        t: Uuid,
        p: i32,
        offset: i64,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Bytes `from..to` of a segment are records `first..next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) t: Uuid,
    pub(crate) p: i32,
    pub(crate) base: i64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) first: i64,
    pub(crate) next: i64,
    pub(crate) ts: i64,
    pub(crate) ms: i64,
    /// CRC32C over the headers of the batches (which hold the CRCs of their records): tells these bytes from others that were once there.
    pub(crate) crc: u32,
}

impl State {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(a) => {
                let Some(partition) = self.partition_mut(a.t, a.p) else { return };
                match partition.segments.last_mut() {
                    Some(last) if last.base == a.base => {
                        last.len = a.to;
                        last.ts = last.ts.max(a.ts);
                    }
                    last => {
                        if let Some(last) = last {
                            last.sealed = true;
                        }
                        partition.segments.push(SegmentState {
                            base: a.base,
                            len: a.to,
                            ts: a.ts,
                            ms: a.ms,
                            sealed: false,
                            swap: false,
                        });
                    }
                }
                partition.end = a.next;
            }
            Change::Topic { id, name, partitions, configs } => {
                self.names.insert(name.clone(), *id);
                let partitions = vec![PartitionState::default(); usize::try_from(*partitions).unwrap_or(0)];
                self.topics.insert(*id, TopicState { name: name.clone(), configs: configs.clone(), partitions });
            }
            Change::TopicDeleted { id } => {
                if let Some(topic) = self.topics.remove(id) {
                    self.names.remove(&topic.name);
                }
                for topics in self.groups.values_mut() {
                    topics.remove(id);
                }
                self.groups.retain(|_, topics| !topics.is_empty());
            }
            Change::Offset { c, o } => {
                let key = o.partition_key();
                if o.offset.is_some() {
                    self.source_offsets.entry(c.to_string()).or_default().insert(key, o.clone());
                } else if let Some(offsets) = self.source_offsets.get_mut(&**c) {
                    offsets.remove(&key);
                    if offsets.is_empty() {
                        self.source_offsets.remove(&**c);
                    }
                }
            }
            Change::Position { g, t, p, at } => self.set_position(g, *t, *p, at.clone()),
            Change::Entry { s, k, v } => {
                let entries = self.stores.entry(*s).or_default();
                match v {
                    Some(value) => entries.insert(k.clone(), value.clone()),
                    None => entries.remove(k),
                };
            }
            Change::Epoch { task, epoch } => {
                self.epochs.insert(task.to_string(), *epoch);
            }
            Change::Start { t, p, offset } => {
                let Some(partition) = self.partition_mut(*t, *p) else { return };
                partition.start = partition.start.max(*offset);
                while partition.segments.len() > 1 && partition.segments[1].base <= partition.start {
                    partition.segments.remove(0);
                }
                if partition.start >= partition.end && partition.segments.last().is_some_and(|last| last.sealed) {
                    partition.segments.clear();
                }
            }
            Change::Sealed { t, p } => {
                if let Some(last) = self.partition_mut(*t, *p).and_then(|partition| partition.segments.last_mut()) {
                    last.sealed = true;
                }
            }
            Change::Compacted { t, p, base, len, merged } => {
                let Some(partition) = self.partition_mut(*t, *p) else { return };
                let Some(at) = partition.segments.iter().position(|segment| segment.base == *base) else { return };
                let behind = at + 1..(at + 1 + *merged as usize).min(partition.segments.len());
                let ts = partition.segments.drain(behind).map(|segment| segment.ts).max();
                let segment = &mut partition.segments[at];
                segment.len = *len;
                segment.ts = segment.ts.max(ts.unwrap_or(-1));
                segment.swap = true;
            }
            Change::CleanedTo { t, p, offset } => {
                if let Some(partition) = self.partition_mut(*t, *p) {
                    partition.cleaned_to = partition.cleaned_to.max(*offset);
                }
            }
            Change::Swapped { t, p, base } => {
                if let Some(segment) = self.segment_mut(*t, *p, *base) {
                    segment.swap = false;
                }
            }
        }
    }

    fn set_position(&mut self, group: &str, topic: Uuid, partition: i32, at: Option<Position>) {
        if let Some(at) = at {
            self.groups.entry(group.to_owned()).or_default().entry(topic).or_default().insert(partition, at);
            return;
        }
        let Some(topics) = self.groups.get_mut(group) else { return };
        if let Some(partitions) = topics.get_mut(&topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                topics.remove(&topic);
            }
        }
        if topics.is_empty() {
            self.groups.remove(group);
        }
    }

    pub(crate) fn partition(&self, topic: Uuid, partition: i32) -> Option<&PartitionState> {
        self.topics.get(&topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, topic: Uuid, partition: i32) -> Option<&mut PartitionState> {
        self.topics.get_mut(&topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    fn segment_mut(&mut self, topic: Uuid, partition: i32, base: i64) -> Option<&mut SegmentState> {
        self.partition_mut(topic, partition)?.segments.iter_mut().find(|segment| segment.base == base)
    }

    /// After loading: what is not stored.
    pub(crate) fn index_names(&mut self) {
        self.names = self.topics.iter().map(|(id, topic)| (topic.name.clone(), *id)).collect();
    }
}

impl PartitionState {
    /// The segment to append to.
    pub(crate) fn active(&self) -> Option<&SegmentState> {
        self.segments.last().filter(|last| !last.sealed)
    }

    /// Where the records of `segments[index]` end.
    pub(crate) fn segment_end(&self, index: usize) -> i64 {
        self.segments.get(index + 1).map_or(self.end, |next| next.base)
    }
}

/// Bytes as a JSON string: one char for each byte, so that any bytes survive and text stays readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|&byte| char::from(byte)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
        bytes.map(Blob).map_err(|_| serde::de::Error::custom("a character above U+00FF in a blob"))
    }
}
