//! A record of the log as krafka sends it.

use super::config::Settings;
use super::target::TargetTopic;
use aqueduct_core::{Data, Error, Payload, RecordRef, Rejects, Stage};
use bytes::Bytes;
use krafka::Record;

/// `None` when it was refused.
pub(super) fn record(
    from: RecordRef<'_>,
    partition: Option<i32>,
    to: &TargetTopic,
    settings: &Settings,
    rejects: &mut Rejects,
) -> Option<Record> {
    match build(from, partition, to) {
        Ok(record) => {
            let (size, limit) = (record.estimated_size(), to.max_bytes.min(settings.max_request));
            if size <= limit {
                return Some(record);
            }
            let message = format!("a record of {size} bytes for topic {} of the target, which takes {limit}", to.name);
            let error = Error::fatal("kafka.record_too_large", message);
            refuse(from, error.fix("raise max.message.bytes of the topic, and max.request.size of the sink"), rejects)
        }
        Err(what) => {
            let message = format!("the {what} is structured, and Kafka takes bytes");
            let fix = format!(
                "set {}.converter: plain, or put a transform before that makes it text",
                if what == "key" { "key" } else { "value" }
            );
            refuse(from, Error::fatal("kafka_sink.structured", message).fix(fix), rejects)
        }
    }
}

fn refuse(record: RecordRef<'_>, error: Error, rejects: &mut Rejects) -> Option<Record> {
    rejects.push(record.to_record(), Stage::TaskPut, "kafka-sink", error);
    None
}

fn build(from: RecordRef<'_>, partition: Option<i32>, to: &TargetTopic) -> Result<Record, &'static str> {
    let owned = from.to_record();
    let mut record = Record::new(&*to.name, Bytes::new());
    record.value = bytes(owned.value, "value")?;
    record.key = bytes(owned.key, "key")?;
    record.partition = partition;
    record.timestamp = owned.timestamp;
    for header in owned.headers {
        record.headers.push((header.name.to_string(), bytes(header.value, "header")?));
    }
    Ok(record)
}

fn bytes(payload: Payload, what: &'static str) -> Result<Option<Bytes>, &'static str> {
    match payload {
        Payload::Null => Ok(None),
        Payload::Bytes(bytes) => Ok(Some(bytes)),
        Payload::Data(structured) => match structured.data {
            Data::Null => Ok(None),
            Data::String(text) => Ok(Some(text.into())),
            Data::Bytes(bytes) => Ok(Some(bytes)),
            _ => Err(what),
        },
    }
}
