//! Answers as records of topics of their own.

use super::config::Receipts;
use super::json;
use aqueduct_core::{Bytes, Header, Payload, PayloadRef, Record, RecordRef, Topic};
use std::sync::Arc;

/// What is kept of an answer's body: more is for the receiver's own log.
const BODY_MAX: usize = 64 << 10;

/// What a request was answered.
pub(super) fn of_answer(
    receipts: &Receipts,
    records: &[RecordRef<'_>],
    status: u16,
    body: &Bytes,
    key: Option<&str>,
) -> Option<Record> {
    let topic = receipts.results.as_ref()?;
    let body = body.slice(..body.len().min(BODY_MAX));
    let mut letter = letter(topic, records, Payload::Bytes(body));
    letter.headers.push(header("http.status", &status.to_string()));
    letter.headers.extend(key.map(|key| header("idempotency.key", key)));
    Some(letter)
}

/// Why a record was refused.
pub(super) fn of_refusal(receipts: &Receipts, record: RecordRef<'_>, code: &str, why: &str) -> Option<Record> {
    let mut letter = letter(receipts.errors.as_ref()?, &[record], why.to_owned().into());
    letter.headers.push(header("error.code", code));
    Some(letter)
}

/// By the key of the record that it is about; of several, without one.
fn letter(topic: &Topic, records: &[RecordRef<'_>], value: Payload) -> Record {
    let mut letter = Record::new(topic.clone(), value);
    if let [record] = records {
        letter.key = match record.key() {
            PayloadRef::Null => Payload::Null,
            PayloadRef::Bytes(bytes) => Payload::Bytes(Bytes::copy_from_slice(bytes)),
            PayloadRef::Data(key) => {
                let mut text = Vec::new();
                json::data(&key.data, key.schema.as_deref(), &mut text);
                Payload::Bytes(text.into())
            }
        };
    }
    if let Some((partition, offset)) = records.first().and_then(|record| record.origin()) {
        letter.headers.push(header("input.topic", &partition.topic));
        letter.headers.push(header("input.partition", &partition.partition.to_string()));
        letter.headers.push(header("input.offset", &offset.to_string()));
    }
    letter.headers.push(header("input.records", &records.len().to_string()));
    letter
}

fn header(name: &str, value: &str) -> Header {
    Header { name: Arc::from(name), value: value.to_owned().into() }
}
