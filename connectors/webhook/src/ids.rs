//! Events that were stored, by id: a set of bounded size and age that is stored as source offsets, in the commit of the records.
//!
//! Ids are kept in slots of 128, each an offset of its own: a commit writes only the slot that it added to. The oldest slot goes when there are too many.

use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};

/// 128 bits of SHA-256: who does not control both texts finds no two of one id.
pub(crate) type Id = [u8; 16];

/// `scope` keeps apart what different senders call the same.
pub(crate) fn id(scope: &str, text: &str) -> Id {
    let mut hash = Sha256::new();
    hash.update((scope.len() as u64).to_be_bytes());
    hash.update(scope);
    hash.update(text);
    let mut id = Id::default();
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

const SLOT_IDS: usize = 128;
/// The id, and when in seconds since 1970 (until 2106).
const ENTRY_BYTES: usize = 20;
const KIND: &str = "webhook";
const IDS: &str = "ids";

struct Slot {
    number: u64,
    entries: Vec<(Id, u32)>,
    changed: bool,
}

pub(crate) struct Ids {
    /// Oldest first; the last one is added to.
    slots: VecDeque<Slot>,
    known: HashMap<Id, u32>,
    /// Entries of all slots.
    total: usize,
    /// Numbers of slots that are gone, and stored yet.
    gone: Vec<u64>,
    max: usize,
    ttl_seconds: u32,
}

impl Ids {
    /// With what `stored` holds, as far as the bounds allow.
    pub(crate) fn load(stored: &[SourceOffset], max: usize, ttl_seconds: u32) -> Self {
        let mut slots: Vec<Slot> = stored.iter().filter_map(read).collect();
        slots.sort_by_key(|slot| slot.number);
        let known = slots.iter().flat_map(|slot| slot.entries.iter().copied()).collect();
        let total = slots.iter().map(|slot| slot.entries.len()).sum();
        let mut ids = Self { slots: slots.into(), known, total, gone: Vec::new(), max, ttl_seconds };
        ids.shrink();
        ids
    }

    /// `now` in seconds since 1970.
    pub(crate) fn contains(&self, id: &Id, now: u32) -> bool {
        self.known.get(id).is_some_and(|at| now.saturating_sub(*at) <= self.ttl_seconds)
    }

    pub(crate) fn add(&mut self, id: Id, now: u32) {
        if self.slots.back().is_none_or(|slot| slot.entries.len() >= SLOT_IDS) {
            let number = self.slots.back().map_or(0, |slot| slot.number + 1);
            self.slots.push_back(Slot { number, entries: Vec::with_capacity(SLOT_IDS), changed: false });
        }
        let slot = self.slots.back_mut().expect("just made");
        slot.entries.push((id, now));
        slot.changed = true;
        self.total += 1;
        self.known.insert(id, now);
        self.expire(now);
        self.shrink();
    }

    /// What a commit has to store for what was added since this was asked last.
    pub(crate) fn take_changes(&mut self) -> Vec<SourceOffset> {
        let mut changes: Vec<SourceOffset> =
            self.gone.drain(..).map(|number| SourceOffset { partition: partition(number), offset: None }).collect();
        // Only the newest slots can have changed.
        for slot in self.slots.iter_mut().rev().take_while(|slot| slot.changed) {
            slot.changed = false;
            let mut bytes = Vec::with_capacity(slot.entries.len() * ENTRY_BYTES);
            for (id, at) in &slot.entries {
                bytes.extend_from_slice(id);
                bytes.extend_from_slice(&at.to_be_bytes());
            }
            let offset = object(json!({IDS: STANDARD_NO_PAD.encode(bytes)}));
            changes.push(SourceOffset { partition: partition(slot.number), offset: Some(offset) });
        }
        changes
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn expire(&mut self, now: u32) {
        let ttl = self.ttl_seconds;
        let old = |slot: &Slot| slot.entries.last().is_none_or(|(_, at)| now.saturating_sub(*at) > ttl);
        while self.slots.len() > 1 && self.slots.front().is_some_and(old) {
            self.drop_oldest();
        }
    }

    fn shrink(&mut self) {
        while self.slots.len() > 1 && self.total > self.max.max(SLOT_IDS) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(slot) = self.slots.pop_front() else { return };
        self.total -= slot.entries.len();
        for (id, at) in slot.entries {
            // It may have come again meanwhile.
            if self.known.get(&id) == Some(&at) {
                self.known.remove(&id);
            }
        }
        self.gone.push(slot.number);
    }
}

fn object(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        _ => JsonMap::new(),
    }
}

fn partition(slot: u64) -> JsonMap {
    object(json!({KIND: IDS, "slot": slot}))
}

fn read(stored: &SourceOffset) -> Option<Slot> {
    if stored.partition.get(KIND)?.as_str()? != IDS {
        return None;
    }
    let number = stored.partition.get("slot")?.as_u64()?;
    let bytes = STANDARD_NO_PAD.decode(stored.offset.as_ref()?.get(IDS)?.as_str()?).ok()?;
    let entries = bytes.chunks_exact(ENTRY_BYTES).map(|entry| {
        let (mut id, mut at) = (Id::default(), [0; 4]);
        id.copy_from_slice(&entry[..16]);
        at.copy_from_slice(&entry[16..]);
        (id, u32::from_be_bytes(at))
    });
    Some(Slot { number, entries: entries.collect(), changed: false })
}

/// How many requests were stored so far: the place of the connector itself, which every commit has.
pub(crate) fn count_offset(count: u64) -> SourceOffset {
    SourceOffset { partition: object(json!({KIND: "requests"})), offset: Some(object(json!({"count": count}))) }
}

pub(crate) fn count_of(offset: &SourceOffset) -> Option<u64> {
    if offset.partition.get(KIND)?.as_str()? != "requests" {
        return None;
    }
    offset.offset.as_ref()?.get("count")?.as_u64()
}

/// Whether an offset that an operator sets is one.
pub(crate) fn check(offset: &SourceOffset) -> Result<()> {
    let form = r#"write {"partition": {"webhook": "requests"}, "offset": {"count": 0}}; the slots of known ids, {"webhook": "ids", "slot": 0}, are given back as they were read, or forgotten by null"#;
    let refuse = |why: &str| Err(Error::fatal("webhook.offset", why).fix(form));
    let map = offset.offset.as_ref();
    let keys = |map: &JsonMap, known: &[&str]| map.keys().all(|key| known.contains(&key.as_str()));
    match offset.partition.get(KIND).and_then(Value::as_str) {
        Some("requests") if !keys(&offset.partition, &[KIND]) => refuse("the partition has more keys than \"webhook\""),
        Some("requests") if map.is_some_and(|map| !keys(map, &["count"])) => refuse("the offset has more keys than \"count\""),
        Some("requests") if map.is_some() && count_of(offset).is_none() => {
            refuse("\"count\" in the offset is not a whole number from 0 on")
        }
        Some("requests") => Ok(()),
        Some(IDS) if !keys(&offset.partition, &[KIND, "slot"]) || !offset.partition.get("slot").is_some_and(Value::is_u64) => {
            refuse("\"slot\" in the partition is not a whole number from 0 on")
        }
        Some(IDS) if map.is_some_and(|map| !keys(map, &[IDS])) => refuse("the offset has more keys than \"ids\""),
        Some(IDS) if map.is_some() && !is_slot(map.and_then(|map| map.get(IDS))) => {
            refuse("\"ids\" in the offset is not the base64 (without `=`) of at most 128 ids of 20 bytes each")
        }
        Some(IDS) => Ok(()),
        Some(_) => refuse("\"webhook\" in the partition is neither \"requests\" nor \"ids\""),
        None => refuse("the partition has no \"webhook\""),
    }
}

fn is_slot(ids: Option<&Value>) -> bool {
    let bytes = ids.and_then(Value::as_str).and_then(|text| STANDARD_NO_PAD.decode(text).ok());
    bytes.is_some_and(|bytes| bytes.len().is_multiple_of(ENTRY_BYTES) && bytes.len() <= SLOT_IDS * ENTRY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn store(stored: &mut BTreeMap<String, SourceOffset>, changes: Vec<SourceOffset>) {
        for change in changes {
            match change.offset {
                Some(_) => stored.insert(change.partition_key(), change),
                None => stored.remove(&change.partition_key()),
            };
        }
    }

    fn nth(n: u32) -> Id {
        id("/", &n.to_string())
    }

    #[test]
    fn an_offset_that_is_none_is_refused_by_the_name_of_its_key() {
        let offset =
            |partition: Value, offset: Value| SourceOffset { partition: object(partition), offset: Some(object(offset)) };
        let mut ids = Ids::load(&[], 1000, 100);
        (0..200).for_each(|n| ids.add(nth(n), 1));
        ids.take_changes().iter().chain([&count_offset(7)]).for_each(|stored| check(stored).unwrap());
        check(&SourceOffset { partition: partition(3), offset: None }).unwrap();
        for (bad, key) in [
            (offset(json!({}), json!({"count": 1})), "webhook"),
            (offset(json!({"webhook": "request"}), json!({"count": 1})), "webhook"),
            (offset(json!({"webhook": "requests", "slot": 1}), json!({"count": 1})), "webhook"),
            (offset(json!({"webhook": "requests"}), json!({"count": "1"})), "count"),
            (offset(json!({"webhook": "requests"}), json!({"count": -1})), "count"),
            (offset(json!({"webhook": "requests"}), json!({"count": 1, "n": 1})), "count"),
            (offset(json!({"webhook": "ids", "slot": "x"}), json!({"ids": ""})), "slot"),
            (offset(json!({"webhook": "ids", "slot": 1}), json!({"ids": "AAAA"})), "ids"),
            (offset(json!({"webhook": "ids", "slot": 1}), json!({"ids": 5})), "ids"),
        ] {
            let error = check(&bad).unwrap_err();
            assert!(error.message().contains(&format!("{key:?}")) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn scopes_are_apart() {
        assert_ne!(id("/a", "1"), id("/b", "1"));
        assert_ne!(id("/a", "1"), id("/", "a1"));
    }

    #[test]
    fn it_is_bounded_in_number_and_age_also_where_it_is_stored() {
        let mut ids = Ids::load(&[], 1000, 100);
        let mut stored = BTreeMap::new();
        for n in 0..10_000 {
            ids.add(nth(n), n / 100);
            store(&mut stored, ids.take_changes());
        }
        assert!(ids.len() <= 1000 && stored.len() <= 8, "{} ids in {} slots", ids.len(), stored.len());
        assert!(ids.contains(&nth(9999), 99) && ids.contains(&nth(9200), 99) && !ids.contains(&nth(8000), 99));
        assert!(ids.contains(&nth(9999), 199) && !ids.contains(&nth(9999), 200));
        // All that is too old goes with the next.
        ids.add(nth(20_000), 1000);
        store(&mut stored, ids.take_changes());
        assert!(stored.len() <= 2, "{}", stored.len());
    }

    #[test]
    fn a_smaller_bound_forgets_the_oldest_that_are_stored() {
        let mut ids = Ids::load(&[], 10_000, 100);
        (0..1000).for_each(|n| ids.add(nth(n), 1));
        let stored = ids.take_changes();
        let mut less = Ids::load(&stored, 200, 100);
        assert!(less.contains(&nth(999), 1) && !less.contains(&nth(0), 1));
        assert!(less.take_changes().iter().all(|change| change.offset.is_none()));
    }

    proptest! {
        /// After a crash anywhere: exactly what was stored is known, and one commit writes no more than it has to.
        #[test]
        fn what_is_stored_is_known_again(commits in prop::collection::vec(1u32..200, 1..20), crash in 0usize..20) {
            let (mut ids, mut stored, mut next, mut durable) = (Ids::load(&[], 100_000, 1000), BTreeMap::new(), 0, 0);
            for (n, count) in commits.into_iter().enumerate() {
                (next..next + count).for_each(|n| ids.add(nth(n), 5));
                next += count;
                let changes = ids.take_changes();
                prop_assert!(changes.len() <= count as usize / SLOT_IDS + 2);
                if n < crash {
                    store(&mut stored, changes);
                    durable = next;
                }
            }
            let stored: Vec<SourceOffset> = stored.into_values().collect();
            let again = Ids::load(&stored, 100_000, 1000);
            prop_assert_eq!(again.len(), durable as usize);
            prop_assert!((0..durable).all(|n| again.contains(&nth(n), 5)));
        }
    }
}
