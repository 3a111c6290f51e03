//! Dead letters of a sink, from their batch to the commit that takes them along.

use aqueduct_core::{Batch, Error, Payload, Record, Result, Topic};
use aqueduct_log::{EncodedBatch, RecordLimit};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Those that no commit has taken yet.
pub(crate) struct Letters {
    batch: Batch,
    max_bytes: usize,
}

/// A bound beside that in bytes (invariant 6): small letters cost more than their bytes in a commit, and 10,000 are some seconds of a source in
/// which every record is bad.
const MAX_RECORDS: usize = 10_000;
const CONTEXT: &str = "__connect.errors.";

impl Letters {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { batch: Batch::new(), max_bytes }
    }

    /// Copied: a slice would hold the whole buffer that it was read into, until the commit.
    pub(crate) fn add(&mut self, letters: Batch) {
        let copied = |payload: Payload| match payload {
            Payload::Bytes(bytes) => Payload::Bytes(Bytes::copy_from_slice(&bytes)),
            other => other,
        };
        let own = |mut letter: Record| {
            letter
                .headers
                .iter_mut()
                .for_each(|header| header.value = copied(std::mem::replace(&mut header.value, Payload::Null)));
            Record { key: copied(letter.key), value: copied(letter.value), ..letter }
        };
        if !letters.is_empty() {
            self.batch.append(letters.into_records().map(own).collect());
        }
    }

    pub(crate) fn topics(&self) -> BTreeSet<Topic> {
        self.batch.chunks().iter().map(|chunk| chunk.topic.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Time to commit, whatever the interval.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.bytes() >= self.max_bytes || self.batch.len() >= MAX_RECORDS
    }

    pub(crate) fn clear(&mut self) {
        self.batch = Batch::new();
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }

    /// Takes context headers off until every letter is within its topic's limit.
    ///
    /// # Errors
    /// `worker.dead_letter_too_large` (fatal): one is too large even so.
    pub(crate) fn fit(&mut self, limit: RecordLimit) -> Result<()> {
        let excess = |letters: &Batch| letters.iter().find_map(|letter| limit.excess(letter));
        while let Some(size) = excess(&self.batch) {
            if !self.shrink() {
                let message = format!("a record of {size} bytes; max.message.bytes is {}", limit.bytes());
                return Err(self.too_large(Error::fatal("log.record_too_large", message)));
            }
        }
        Ok(())
    }

    /// # Errors
    /// `log.not_encoded`: no letter is structured, so never.
    pub(crate) fn encoded(&self) -> Result<EncodedBatch> {
        EncodedBatch::new(self.batch.clone())
    }

    /// Takes the context headers off letters that the topic may have no room for: off those above half the largest first, then off all, since
    /// who refuses does not say which. False when there is nothing more to take off.
    pub(crate) fn shrink(&mut self) -> bool {
        let largest = self.batch.iter().map(|letter| size(&letter.to_record())).max().unwrap_or(0);
        self.shrink_above(largest / 2) || self.shrink_above(0)
    }

    fn shrink_above(&mut self, bytes: usize) -> bool {
        let mut any = false;
        let shrunk = |mut letter: Record| {
            if size(&letter) > bytes {
                let before = letter.headers.len();
                letter.headers.retain(|header| !header.name.starts_with(CONTEXT));
                if letter.headers.len() < before {
                    any = true;
                    tracing::warn!("the dead letter{} goes without its context headers: it is too large", origin(&letter));
                }
            }
            letter
        };
        self.batch = std::mem::take(&mut self.batch).into_records().map(shrunk).collect();
        any
    }

    /// What to say when even that was of no use.
    pub(crate) fn too_large(&self, refused: Error) -> Error {
        let Some(letter) = self.batch.iter().map(|letter| letter.to_record()).max_by_key(size) else { return refused };
        let (place, bytes, topic) = (origin(&letter), size(&letter), &letter.topic);
        let message = format!(
            "the dead letter{place} has {bytes} bytes without context headers, too many for topic {topic}: {}",
            refused.message()
        );
        Error::fatal("worker.dead_letter_too_large", message).fix(format!(
            "raise max.message.bytes of topic {topic}, or name a topic that takes more in errors.deadletterqueue.topic.name, or set the connector's offset past the record"
        ))
    }
}

fn origin(letter: &Record) -> String {
    letter.origin.as_ref().map_or_else(String::new, |origin| format!(" for {} offset {}", origin.partition, origin.offset))
}

/// As the log counts it.
fn size(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.size()).sum();
    record.key.size() + record.value.size() + headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::{Header, Origin, TopicPartition};
    use std::sync::Arc;

    fn letter(offset: i64, value: usize, context: usize) -> Record {
        let header = |name: &str, len: usize| Header { name: name.into(), value: "x".repeat(len).into() };
        let headers = vec![header("own", 3), header("__connect.errors.exception.message", context)];
        let origin = Some(Origin { partition: Arc::new(TopicPartition::new("in", 2)), offset });
        Record { headers, origin, ..Record::new("dlq", "v".repeat(value)) }
    }

    fn letters(records: Vec<Record>) -> Letters {
        let mut letters = Letters::new(1000);
        letters.add(records.into_iter().collect());
        letters
    }

    fn headers(letters: &Letters) -> Vec<usize> {
        letters.batch.iter().map(|letter| letter.headers().len()).collect()
    }

    #[test]
    fn the_largest_lose_their_context_first_then_all_and_never_what_is_their_own() {
        let mut letters = letters(vec![letter(1, 10, 20), letter(2, 5000, 20), letter(3, 10, 20)]);
        assert!(letters.shrink());
        assert_eq!(headers(&letters), [2, 1, 2]);
        assert!(letters.shrink());
        assert_eq!(headers(&letters), [1, 1, 1]);
        assert!(!letters.shrink());
        assert!(letters.batch.iter().all(|letter| &*letter.headers()[0].name == "own"));
        let error = letters.too_large(Error::fatal("log.record_too_large", "max.message.bytes is 100"));
        assert!(error.message().contains("for in-2 offset 2 has 5006 bytes"), "{error}");
        assert!(error.message().contains("max.message.bytes is 100") && error.hint().unwrap().contains("topic dlq"), "{error}");
    }

    #[test]
    fn they_are_made_to_fit_or_the_task_is_told() {
        let mut small = letters(vec![letter(1, 10, 20), letter(2, 80, 20)]);
        small.fit(RecordLimit::Record(100)).unwrap();
        assert_eq!(headers(&small), [2, 1]);
        let error = letters(vec![letter(7, 200, 20)]).fit(RecordLimit::Record(100)).unwrap_err();
        assert_eq!(error.code(), "worker.dead_letter_too_large");
        assert!(error.message().contains("for in-2 offset 7"), "{error}");
    }

    #[test]
    fn letters_are_bounded_in_bytes_and_in_number() {
        assert!(!letters(vec![letter(1, 10, 10)]).is_full());
        assert!(letters(vec![letter(1, 1000, 10)]).is_full());
        let mut many = Letters::new(usize::MAX);
        many.add((0..10_000).map(|offset| letter(offset, 1, 1)).collect());
        assert!(many.is_full());
        many.clear();
        assert!(many.is_empty() && !many.is_full());
    }

    #[test]
    fn a_letter_holds_nothing_of_the_buffer_that_it_was_read_into() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let value = Payload::Bytes(buffer.slice(100..9000));
        let headers = vec![Header { name: "own".into(), value: Payload::Bytes(buffer.slice(0..5)) }];
        let letters = letters(vec![Record { headers, ..Record::new("dlq", value) }]);
        assert!(buffer.is_unique(), "somebody else holds it");
        assert_eq!(letters.batch.iter().next().unwrap().to_record().value.size(), 8900);
    }
}
