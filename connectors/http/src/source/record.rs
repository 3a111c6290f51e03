//! One entry of a page as a record: value, key, timestamp, and what the offset keeps of it.

use super::config::{Properties, Settings, ValueFormat};
use super::pointer::Pointer;
use aqueduct_core::{Data, Error, Payload, Record, Result};
use bytes::Bytes;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

#[derive(Clone, Debug)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        TimeZone::get(name.trim()).map(Self).map_err(|_| format!("{name:?} is no time zone"))
    }

    pub(crate) fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Milliseconds since 1970 from a number of them, or ISO 8601.
    pub(crate) fn millis(&self, value: &Value) -> Option<i64> {
        let text = match value {
            Value::Number(number) => return number.as_i64().or_else(|| number.as_f64().map(|millis| millis as i64)),
            Value::String(text) => text.trim(),
            _ => return None,
        };
        if let Ok(millis) = text.parse::<i64>() {
            return Some(millis);
        }
        if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
            return Some(stamp.as_millisecond());
        }
        let time: DateTime = text.parse().ok()?;
        Some(self.0.to_ambiguous_timestamp(time).compatible().ok()?.as_millisecond())
    }
}

/// `text` is one entry, as JSON.
///
/// # Errors
/// `http.body` (retriable): it is no JSON after all. `http.pointer`, `http.timestamp` (fatal): a pointer leads to nothing that it should.
pub(crate) fn record(text: &Bytes, settings: &Settings) -> Result<Record> {
    let all = utf8(text)?;
    let value = at(&settings.record, all)?.ok_or_else(|| {
        Error::fatal("http.pointer", format!("a record has nothing at {}", settings.record))
            .fix("correct http.response.record.pointer")
    })?;
    let value = match settings.value {
        ValueFormat::Json => Payload::Bytes(text.slice_ref(value.as_bytes())),
        ValueFormat::Map => match parse(value)? {
            Value::Null => Payload::Null,
            value => Payload::data(None, data(value)),
        },
    };
    let key = match &settings.key {
        Some(pointer) => at(pointer, all)?.map(parse).transpose()?.and_then(|value| plain_text(&value)),
        None => None,
    };
    let key = match (key, settings.value) {
        (None, _) => Payload::Null,
        (Some(key), ValueFormat::Json) => Payload::from(key),
        (Some(key), ValueFormat::Map) => Payload::data(None, Data::String(key)),
    };
    let timestamp = settings.timestamp.as_ref().map(|pointer| timestamp(pointer, all, &settings.zone)).transpose()?.flatten();
    Ok(Record { key, timestamp, ..Record::new(settings.topic.clone(), value) })
}

/// Missing or null is no timestamp; anything else must be one.
fn timestamp(pointer: &Pointer, all: &str, zone: &Zone) -> Result<Option<i64>> {
    let Some(value) = at(pointer, all)?.map(parse).transpose()?.filter(|value| !value.is_null()) else { return Ok(None) };
    let millis = zone.millis(&value).ok_or_else(|| {
        Error::fatal("http.timestamp", format!("what stands at {pointer} is neither milliseconds nor ISO 8601"))
            .fix("point elsewhere, or leave the timestamp out and take it with a transform")
    })?;
    Ok(Some(millis))
}

/// What the offset keeps of an entry.
pub(crate) fn properties(text: &Bytes, settings: &Settings) -> Result<Properties> {
    let all = utf8(text)?;
    let mut found = Properties::new();
    for (name, pointer) in &settings.offsets {
        match at(pointer, all)?.map(parse).transpose()? {
            // Offsets are flat.
            Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => drop(found.insert(name.clone(), value)),
            Some(Value::Null) | None => {}
            Some(other) => drop(found.insert(name.clone(), other.to_string().into())),
        }
    }
    Ok(found)
}

/// What tells an entry from others: its key, else all of it.
pub(crate) fn identity(text: &Bytes, raw: &[u8], settings: &Settings) -> Vec<u8> {
    let key = settings.key.as_ref().and_then(|pointer| at(pointer, utf8(text).ok()?).ok()?);
    key.filter(|key| *key != "null").map_or_else(|| raw.to_vec(), |key| key.as_bytes().to_vec())
}

fn utf8(text: &Bytes) -> Result<&str> {
    std::str::from_utf8(text).map_err(|_| Error::retriable("http.body", "a record is not UTF-8"))
}

fn at<'a>(pointer: &Pointer, text: &'a str) -> Result<Option<&'a str>> {
    pointer.get(text).map_err(no_json)
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(no_json)
}

fn no_json(error: serde_json::Error) -> Error {
    Error::retriable("http.body", format!("a record is no JSON: {error}"))
}

/// Texts as they are, everything else as JSON; null is none.
pub(crate) fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Whole numbers are int64 where they fit, everything else double.
fn data(value: Value) -> Data {
    match value {
        Value::Null => Data::Null,
        Value::Bool(yes) => Data::Boolean(yes),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Data::Int64(whole),
            None => Data::Float64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Data::String(text),
        Value::Array(items) => Data::Array(items.into_iter().map(data).collect()),
        Value::Object(fields) => Data::object(fields.into_iter().map(|(name, value)| (name, data(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        let zone = Zone::parse("Europe/Berlin").unwrap();
        for (value, expected) in [
            (Value::from(1_600_000_000_000i64), Some(1_600_000_000_000)),
            ("1600000000000".into(), Some(1_600_000_000_000)),
            ("2020-01-01T00:00:00Z".into(), Some(1_577_836_800_000)),
            ("2020-01-01T01:00:00.5+01:00".into(), Some(1_577_836_800_500)),
            ("2020-01-01T01:00:00".into(), Some(1_577_836_800_000)),
            ("2020-01-01".into(), Some(1_577_833_200_000)),
            ("soon".into(), None),
            (Value::Bool(true), None),
        ] {
            assert_eq!(zone.millis(&value), expected, "{value}");
        }
        assert!(Zone::parse("Mars/Olympus").is_err());
    }
}
