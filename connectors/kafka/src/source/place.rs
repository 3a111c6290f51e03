//! Where this task stands in each partition; and that it never jumps in silence (I15).

use super::config::{OffsetReset, Settings};
use super::survey::{Bounds, Found, Partition};
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

type Key = (Arc<str>, i32);

/// A place in a partition: the next offset to read, in the topic of this identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    next: i64,
    id: Option<Uuid>,
}

/// Where a partition begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    id: Option<Uuid>,
    /// It is stored there already.
    known: bool,
}

pub(super) struct Places {
    alias: Option<String>,
    /// From the log; what another task reads is here too.
    stored: FxHashMap<Key, Place>,
    /// Assigned and sought.
    tracked: BTreeMap<Key, Place>,
    /// To begin where `auto.offset.reset` says, although they were read before.
    resets: FxHashSet<Key>,
    /// The connector has no offsets, and nothing was looked at: `latest` counts from now.
    first: bool,
    /// Stored before anything else.
    announced: Vec<SourceOffset>,
}

impl Places {
    pub(super) fn new(settings: &Settings, resume: &[SourceOffset]) -> Self {
        let stored: FxHashMap<Key, Place> =
            resume.iter().filter_map(|offset| read_offset(offset, settings.alias.as_deref())).collect();
        Self {
            alias: settings.alias.clone(),
            first: stored.is_empty(),
            stored,
            tracked: BTreeMap::new(),
            resets: FxHashSet::default(),
            announced: Vec::new(),
        }
    }

    /// A topic that was re-created since it was read fails, or begins where `auto.offset.reset` says.
    pub(super) fn check_identity(&mut self, found: &Found, settings: &Settings) -> Result<()> {
        for (topic, now) in found {
            self.is_same(topic, now.id, settings)?;
        }
        Ok(())
    }

    /// Whether what is read is the topic that was read.
    ///
    /// # Errors
    /// `kafka.topic_recreated`
    pub(super) fn is_same(&mut self, topic: &Arc<str>, now: Option<Uuid>, settings: &Settings) -> Result<bool> {
        let differs = |place: &Place| place.id.is_some() && now.is_some() && place.id != now;
        let changed: Vec<Key> = self.of_topic(topic).filter(|(_, place)| differs(place)).map(|(key, _)| key.clone()).collect();
        let Some((_, partition)) = changed.first() else { return Ok(true) };
        recreated(topic, *partition, settings)?;
        self.reset(changed);
        Ok(false)
    }

    /// Each run of records goes on where the last one ended.
    ///
    /// # Errors
    /// `kafka.truncated`: records come again under offsets that were read, after an unclean election of a leader.
    pub(super) fn goes_on(&self, topic: &Arc<str>, partition: i32, offset: i64, settings: &Settings) -> Result<()> {
        let Some(place) = self.tracked.get(&(topic.clone(), partition)) else { return Ok(()) };
        if offset >= place.next {
            return Ok(());
        }
        let next = place.next;
        if resets(settings) {
            tracing::warn!(%topic, partition, offset, next, "the source was truncated: records that were written since have offsets that were read before");
            return Ok(());
        }
        let message =
            format!("{topic}-{partition} was truncated in the source: offset {offset} comes again, {next} was the next");
        Err(Error::fatal("kafka.truncated", message).fix(fix(topic, partition)))
    }

    /// # Errors
    /// `kafka.offset_out_of_range`
    pub(super) fn out_of_range(&mut self, partitions: &[(String, i32)], settings: &Settings) -> Result<()> {
        let keys: Vec<Key> = partitions.iter().map(|(topic, partition)| (Arc::from(topic.as_str()), *partition)).collect();
        if let Some((topic, partition)) = keys.first().filter(|_| !resets(settings)) {
            let next = self.tracked.get(&(topic.clone(), *partition)).map_or(-1, |place| place.next);
            return Err(out_of_range(topic, *partition, next, None));
        }
        for (topic, partition) in &keys {
            tracing::warn!(%topic, partition, "the next offset is gone from the source: reading goes on where auto.offset.reset says");
        }
        self.reset(keys);
        Ok(())
    }

    /// This task's partitions that it does not read yet.
    pub(super) fn new_of(&self, found: &Found, settings: &Settings) -> Vec<Partition> {
        let all = found.iter().flat_map(|(topic, now)| {
            now.partitions.iter().map(move |partition| Partition { topic: topic.clone(), partition: *partition, id: now.id })
        });
        let mine = |one: &Partition| is_mine(&one.topic, one.partition, settings.share);
        all.filter(|one| mine(one) && !self.tracked.contains_key(&(one.topic.clone(), one.partition))).collect()
    }

    /// Topics that are read, and are not there any more. (A topic that is named must be there.)
    pub(super) fn gone(&self, found: &Found) -> Vec<Arc<str>> {
        let mut gone: Vec<Arc<str>> =
            self.tracked.keys().map(|(topic, _)| topic).filter(|topic| !found.contains_key(*topic)).cloned().collect();
        gone.dedup();
        gone
    }

    /// Where new partitions begin.
    ///
    /// # Errors
    /// `kafka.offset_out_of_range`, `kafka.no_offset` (fatal).
    pub(super) fn starts(
        &mut self,
        new: &[Partition],
        bounds: &FxHashMap<Key, Bounds>,
        settings: &Settings,
    ) -> Result<Vec<Start>> {
        let mut starts = Vec::new();
        for one in new {
            let key = (one.topic.clone(), one.partition);
            let Some(bounds) = bounds.get(&key) else { continue };
            let stored = self.stored.get(&key).filter(|_| !self.resets.contains(&key)).copied();
            let (offset, known) = match stored {
                Some(place) if place.id.is_some() && one.id.is_some() && place.id != one.id => {
                    recreated(&one.topic, one.partition, settings)?;
                    (begin(settings.reset, *bounds), false)
                }
                Some(place) if (bounds.low..=bounds.high).contains(&place.next) => (place.next, place.id.is_some()),
                Some(place) if !resets(settings) => {
                    return Err(out_of_range(&one.topic, one.partition, place.next, Some(*bounds)));
                }
                Some(place) => {
                    let (topic, partition, next) = (&one.topic, one.partition, place.next);
                    let Bounds { low, high, .. } = *bounds;
                    tracing::warn!(%topic, partition, next, low, high, "the stored offset is gone from the source: reading goes on where auto.offset.reset says");
                    (begin(settings.reset, *bounds), false)
                }
                None if self.resets.contains(&key) || self.first => match settings.reset {
                    Some(OffsetReset::None) => {
                        let message = format!("{}-{} has no offset, and auto.offset.reset is none", one.topic, one.partition);
                        let fix = "set an offset for it while the connector is stopped, or set auto.offset.reset";
                        return Err(Error::fatal("kafka.no_offset", message).fix(fix));
                    }
                    reset => (begin(reset, *bounds), false),
                },
                // It appeared after the first start: what was written before it was found is not to be lost.
                None => (bounds.low, false),
            };
            starts.push(Start { topic: one.topic.clone(), partition: one.partition, offset, id: one.id, known });
        }
        Ok(starts)
    }

    /// What appears from now on is new.
    pub(super) fn looked(&mut self) {
        self.first = false;
    }

    pub(super) fn begin(&mut self, start: Start) {
        let key = (start.topic, start.partition);
        let place = Place { next: start.offset, id: start.id };
        self.resets.remove(&key);
        if !start.known {
            self.announced.push(self.offset(&key, place));
        }
        self.tracked.insert(key, place);
    }

    /// These records are handed over: where to resume after them.
    pub(super) fn advance(&mut self, last: FxHashMap<Key, i64>) -> Vec<SourceOffset> {
        last.into_iter().filter_map(|(key, offset)| self.moved_to(&key.0, key.1, offset + 1)).collect()
    }

    /// `None` where it stands there already.
    pub(super) fn moved_to(&mut self, topic: &Arc<str>, partition: i32, next: i64) -> Option<SourceOffset> {
        let key = (topic.clone(), partition);
        let place = self.tracked.get_mut(&key).filter(|place| place.next != next)?;
        place.next = next;
        let place = *place;
        Some(self.offset(&key, place))
    }

    pub(super) fn partitions_of(&self, topic: &Arc<str>) -> Vec<i32> {
        self.of_topic(topic).map(|((_, partition), _)| *partition).collect()
    }

    pub(super) fn all(&self) -> Vec<Key> {
        self.tracked.keys().cloned().collect()
    }

    pub(super) fn reads_any(&self) -> bool {
        !self.tracked.is_empty()
    }

    pub(super) fn has_announced(&self) -> bool {
        !self.announced.is_empty()
    }

    pub(super) fn take_announced(&mut self) -> Vec<SourceOffset> {
        std::mem::take(&mut self.announced)
    }

    /// A topic that is gone. Where it stood is kept: a topic of the same name is another one.
    pub(super) fn forget(&mut self, topic: &Arc<str>) {
        let keys: Vec<Key> = self.of_topic(topic).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(place) = self.tracked.remove(&key) {
                self.stored.insert(key, place);
            }
        }
    }

    fn reset(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.tracked.remove(&key);
            self.stored.remove(&key);
            self.resets.insert(key);
        }
    }

    fn of_topic<'a>(&'a self, topic: &'a Arc<str>) -> impl Iterator<Item = (&'a Key, &'a Place)> {
        self.tracked.range((topic.clone(), i32::MIN)..=(topic.clone(), i32::MAX))
    }

    fn offset(&self, key: &Key, place: Place) -> SourceOffset {
        let mut partition = JsonMap::new();
        if let Some(alias) = &self.alias {
            partition.insert("cluster".into(), alias.as_str().into());
        }
        partition.insert("topic".into(), (&*key.0).into());
        partition.insert("partition".into(), key.1.into());
        let mut offset = JsonMap::new();
        offset.insert("offset".into(), place.next.into());
        if let Some(id) = place.id {
            offset.insert("topicId".into(), id.to_string().into());
        }
        SourceOffset { partition, offset: Some(offset) }
    }
}

/// Explicitly asked for: then a gap is no error.
fn resets(settings: &Settings) -> bool {
    matches!(settings.reset, Some(OffsetReset::Earliest | OffsetReset::Latest))
}

fn begin(reset: Option<OffsetReset>, bounds: Bounds) -> i64 {
    if reset == Some(OffsetReset::Latest) { bounds.end } else { bounds.low }
}

fn recreated(topic: &str, partition: i32, settings: &Settings) -> Result<()> {
    if resets(settings) {
        tracing::warn!(%topic, partition, "the topic was deleted and created again in the source: reading begins where auto.offset.reset says");
        return Ok(());
    }
    let message = format!("topic {topic} was deleted and created again in the source: the stored offsets are of the old one");
    Err(Error::fatal("kafka.topic_recreated", message).fix(fix(topic, partition)))
}

fn fix(topic: &str, partition: i32) -> String {
    format!(
        "stop the connector and set or delete the offset of {topic}-{partition}; or set auto.offset.reset, to go on by itself in such cases"
    )
}

fn out_of_range(topic: &str, partition: i32, next: i64, bounds: Option<Bounds>) -> Error {
    let why = match bounds {
        Some(Bounds { low, .. }) if next < low => {
            format!("the topic begins at {low}: {} records were deleted before they were read", low - next)
        }
        Some(Bounds { high, .. }) => format!("the topic ends at {high}: it was truncated, or re-created"),
        None => "the topic does not have it any more".to_owned(),
    };
    let message = format!("{topic}-{partition}: {next} is the next offset to read, but {why}");
    Error::fatal("kafka.offset_out_of_range", message).fix(fix(topic, partition))
}

/// Which partitions a task has: those of a topic are spread evenly, and topics begin with different tasks.
fn is_mine(topic: &str, partition: i32, (index, count): (u64, u64)) -> bool {
    // FNV-1a: the same in every version, since a change would move partitions while they are read.
    let hash =
        topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % count + partition.unsigned_abs() as u64) % count == index
}

/// Whether an offset that an operator sets is one.
pub(super) fn check(offset: &SourceOffset) -> Result<()> {
    let alias = offset.partition.get("cluster").and_then(Value::as_str);
    if read_offset(offset, alias).is_some() {
        return Ok(());
    }
    let message = r#"an offset is {"partition": {"topic": "t", "partition": 0}, "offset": {"offset": 7}}, with "cluster" in the partition where the connector names its cluster"#;
    Err(Error::fatal("kafka.offset", message))
}

/// `None` for what is not ours: of another cluster, or written by hand and no offset.
fn read_offset(offset: &SourceOffset, alias: Option<&str>) -> Option<(Key, Place)> {
    let at = &offset.partition;
    if at.get("cluster").and_then(Value::as_str) != alias {
        return None;
    }
    let topic = at.get("topic")?.as_str()?;
    let partition = i32::try_from(at.get("partition")?.as_i64()?).ok()?;
    let place = offset.offset.as_ref()?;
    let next = place.get("offset")?.as_i64().filter(|next| *next >= 0)?;
    let id = place.get("topicId").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
    Some(((topic.into(), partition), Place { next, id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_offset_that_is_none_is_refused() {
        for (partition, offset, good) in [
            (json!({"topic": "t", "partition": 0}), json!({"offset": 7}), true),
            (json!({"cluster": "a", "topic": "t", "partition": 0}), json!({"offset": 7}), true),
            (json!({"topic": "t"}), json!({"offset": 7}), false),
            (json!({"topic": "t", "partition": 0}), json!({"offset": -1}), false),
            (json!({"topic": "t", "partition": 0}), json!({"position": 7}), false),
        ] {
            let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
            let given = SourceOffset { partition: map(&partition), offset: Some(map(&offset)) };
            assert_eq!(check(&given).is_ok(), good, "{partition} {offset}");
        }
    }
}
