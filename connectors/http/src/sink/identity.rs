//! Idempotency keys: the same for the same record for ever, whatever is restarted, and another one for a topic that was created again.
//!
//! A record: `"<cluster>:<connector>:<topic id>:<partition>:<offset>"`, a quoted string as in the IETF draft (draft-ietf-httpapi-idempotency-key-header).
//! Records that a transform made of one are told apart by `:1`, `:2`, …. A batch: its first and last record, how many they are, and a checksum of all
//! their places: two batches of different records never share a key, wherever they were cut.

use aqueduct_core::{Error, LogPosition, Result, TopicPartition};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderName, HeaderValue};
use rustc_hash::FxHashMap;
use std::fmt::Write;
use std::sync::Arc;
use uuid::Uuid;

/// The header that carries the key.
#[derive(Clone, Debug)]
pub(super) struct KeyHeader(pub(super) HeaderName);

/// Nothing in it can end the quoted string, or be mistaken for a colon of the key.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Who reads which topics.
#[derive(Debug, Default)]
pub(super) struct Identity {
    cluster: String,
    topics: FxHashMap<TopicPartition, Uuid>,
}

/// Where a record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `<topic id>:<partition>`, shared by the records of a chunk.
    pub(super) partition: Arc<str>,
    pub(super) offset: i64,
    /// Of the records that a transform made of this one; mostly 0.
    pub(super) ordinal: u32,
}

impl Identity {
    pub(super) fn of_cluster(&mut self, id: &str) {
        self.cluster = utf8_percent_encode(id, NAME).to_string();
    }

    pub(super) fn assigned(&mut self, positions: &[LogPosition]) {
        self.topics.extend(positions.iter().map(|position| (position.topic_partition(), position.topic_id)));
    }

    pub(super) fn revoked(&mut self, partitions: &[TopicPartition]) {
        self.topics.retain(|partition, _| !partitions.contains(partition));
    }

    /// # Errors
    /// `http_sink.not_assigned` (retriable).
    pub(super) fn partition(&self, partition: &TopicPartition) -> Result<Arc<str>> {
        let id = self.topics.get(partition);
        let id = id.ok_or_else(|| Error::retriable("http_sink.not_assigned", format!("{partition} is not assigned")))?;
        Ok(format!("{id}:{}", partition.partition).into())
    }

    pub(super) fn key<'a>(&self, connector: &str, mut places: impl Iterator<Item = &'a Place>) -> HeaderValue {
        let mut key = String::with_capacity(128);
        key.push('"');
        // Without a cluster there is still the topic's id, which no other topic anywhere has.
        if !self.cluster.is_empty() {
            let _ = write!(key, "{}:", self.cluster);
        }
        let _ = write!(key, "{}:", utf8_percent_encode(connector, NAME));
        if let Some(first) = places.next() {
            first.write(&mut key);
            let (mut last, mut count, mut sum) = (None, 1, Checksum::new());
            sum.add(first);
            for place in places {
                sum.add(place);
                (last, count) = (Some(place), count + 1);
            }
            if let Some(last) = last {
                key.push_str("..");
                last.write(&mut key);
                let _ = write!(key, ":{count}:{:016x}", sum.0);
            }
        }
        key.push('"');
        HeaderValue::try_from(key).expect("ASCII without control characters")
    }
}

impl Place {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{}:{}", self.partition, self.offset);
        if self.ordinal > 0 {
            let _ = write!(out, ":{}", self.ordinal);
        }
    }
}

/// FNV-1a, 64 bits: must never change, since keys must not.
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, place: &Place) {
        let bytes = place.partition.bytes().chain(place.offset.to_le_bytes()).chain(place.ordinal.to_le_bytes());
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let mut identity = Identity::default();
        identity.of_cluster("c-1");
        let position = LogPosition { topic: "t".into(), topic_id: Uuid::from_u128(7), partition: 3, offset: 0, metadata: None };
        identity.assigned(&[position]);
        identity
    }

    fn key(identity: &Identity, places: &[(i64, u32)]) -> String {
        let partition = identity.partition(&TopicPartition::new("t", 3)).unwrap();
        let places: Vec<_> = places
            .iter()
            .map(|(offset, ordinal)| Place { partition: partition.clone(), offset: *offset, ordinal: *ordinal })
            .collect();
        identity.key("rides \"x\":1", places.iter()).to_str().unwrap().to_owned()
    }

    const UUID: &str = "00000000-0000-0000-0000-000000000007";

    #[test]
    fn a_record_has_one_key_for_ever() {
        let identity = identity();
        assert_eq!(key(&identity, &[(42, 0)]), format!("\"c-1:rides%20%22x%22%3A1:{UUID}:3:42\""));
        assert_eq!(key(&identity, &[(42, 2)]), format!("\"c-1:rides%20%22x%22%3A1:{UUID}:3:42:2\""));
        assert!(identity.partition(&TopicPartition::new("t", 4)).is_err());
    }

    #[test]
    fn a_batch_has_the_key_of_its_records_and_of_no_others() {
        let identity = identity();
        let of = |places: &[(i64, u32)]| key(&identity, places);
        let batch = of(&[(1, 0), (2, 0), (5, 0)]);
        // Written down: it must not change from one version to the next.
        assert_eq!(batch, format!("\"c-1:rides%20%22x%22%3A1:{UUID}:3:1..{UUID}:3:5:3:d6e9f363246062ed\""));
        assert_eq!(batch, of(&[(1, 0), (2, 0), (5, 0)]));
        for other in [&[(1, 0), (3, 0), (5, 0)][..], &[(1, 0), (5, 0)], &[(1, 0), (2, 0), (5, 1)], &[(1, 0), (2, 1), (5, 0)]] {
            assert_ne!(batch, of(other));
        }
    }
}
