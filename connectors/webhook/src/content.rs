//! Bodies to records: one, an array, lines, CloudEvents.

use crate::answer::Refusal;
use crate::cloudevents::{self, Event};
use crate::config::{Content, EventId, Key, Settings, ValueFormat, never_copied};
use crate::ids::{Id, id};
use crate::intake::Parsed;
use crate::request::Captures;
use aqueduct_core::trace_context::{TRACEPARENT, TRACESTATE, is_traceparent};
use aqueduct_core::{Data, Header, Payload, Record, Topic};
use bytes::Bytes;
use hyper::HeaderMap;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// What a record is made of beside its body.
pub(crate) struct Request<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) topic: &'a Topic,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) path: &'a str,
    pub(crate) captures: &'a Captures,
}

impl Request<'_> {
    /// # Errors
    /// 400 for what cannot be read, 413 for a record that is too large, 415 for what is no CloudEvent.
    pub(crate) fn parse(&self, body: &Bytes) -> Result<Parsed, Refusal> {
        let headers = self.record_headers();
        let records = match self.settings.content {
            Content::Single => vec![self.record(body.clone(), &headers)?],
            Content::Array => {
                let items: Vec<&RawValue> =
                    serde_json::from_slice(body).map_err(|why| Refusal::bad(format!("the body is no JSON array: {why}")))?;
                items
                    .into_iter()
                    .map(|item| self.record(body.slice_ref(item.get().as_bytes()), &headers))
                    .collect::<Result<_, _>>()?
            }
            Content::Ndjson => self.lines(body, &headers)?,
            Content::CloudEvents => {
                let events = cloudevents::read(self.headers, body)?;
                events.into_iter().map(|event| self.event(event, &headers)).collect::<Result<_, _>>()?
            }
        };
        Ok(Parsed { records, request_id: self.request_id() })
    }

    fn lines(&self, body: &Bytes, headers: &[Header]) -> Result<Vec<(Record, Option<Id>)>, Refusal> {
        let mut records = Vec::new();
        for (number, line) in body.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            serde_json::from_slice::<IgnoredAny>(line)
                .map_err(|why| Refusal::bad(format!("line {} is no JSON: {why}; nothing of the body was stored", number + 1)))?;
            records.push(self.record(body.slice_ref(line), headers)?);
        }
        Ok(records)
    }

    fn record(&self, value: Bytes, headers: &[Header]) -> Result<(Record, Option<Id>), Refusal> {
        let parsed = self.json(&value)?;
        let id = match (&self.settings.event_id, &parsed) {
            (EventId::Pointer(pointer), Some(json)) => json.pointer(pointer).and_then(text).map(|text| id(self.path, &text)),
            _ => None,
        };
        let key = self.key(parsed.as_ref());
        let value = match (self.settings.value, parsed) {
            (ValueFormat::Json, Some(json)) => Payload::data(None, data(json)),
            _ => Payload::Bytes(value),
        };
        let record = Record { key, headers: headers.to_vec(), ..Record::new(self.topic.clone(), value) };
        Ok((self.fitting(record)?, id))
    }

    fn event(&self, event: Event, headers: &[Header]) -> Result<(Record, Option<Id>), Refusal> {
        let parsed = if event.is_json { self.json(&event.data)? } else { None };
        let id = match &self.settings.event_id {
            EventId::CloudEvent => Some(id(self.path, &event.unique())),
            EventId::Pointer(pointer) => {
                parsed.as_ref().and_then(|json| json.pointer(pointer)).and_then(text).map(|text| id(self.path, &text))
            }
            EventId::Headers(_) | EventId::None => None,
        };
        let key = match (&self.settings.key, event.attributes.get("partitionkey")) {
            (Key::None, Some(key)) => Payload::from(key.clone()),
            _ => self.key(parsed.as_ref()),
        };
        let mut all = event.headers();
        all.extend(headers.iter().cloned());
        let value = match (self.settings.value, parsed) {
            (ValueFormat::Json, Some(json)) => Payload::data(None, data(json)),
            _ => Payload::Bytes(event.data),
        };
        let record = Record { key, headers: all, ..Record::new(self.topic.clone(), value) };
        Ok((self.fitting(record)?, id))
    }

    /// Only where an option looks into it.
    fn json(&self, value: &[u8]) -> Result<Option<Value>, Refusal> {
        let settings = self.settings;
        let looked_into = settings.value == ValueFormat::Json
            || matches!(settings.key, Key::Pointer(_))
            || matches!(settings.event_id, EventId::Pointer(_));
        if !looked_into {
            return Ok(None);
        }
        serde_json::from_slice(value).map(Some).map_err(|why| Refusal::bad(format!("the record is no JSON: {why}")))
    }

    fn key(&self, json: Option<&Value>) -> Payload {
        let found = match &self.settings.key {
            Key::None => None,
            Key::Header(name) => self.headers.get(name).map(|value| Bytes::copy_from_slice(value.as_bytes())),
            Key::Pointer(pointer) => json.and_then(|json| json.pointer(pointer)).and_then(text).map(Bytes::from),
            Key::Capture(name) => {
                self.captures.iter().find(|(known, _)| known == name).map(|(_, text)| Bytes::from(text.clone()))
            }
        };
        found.map_or(Payload::Null, Payload::Bytes)
    }

    fn request_id(&self) -> Option<Id> {
        let EventId::Headers(names) = &self.settings.event_id else { return None };
        let value = names.iter().find_map(|name| self.headers.get(name))?;
        Some(id(self.path, std::str::from_utf8(value.as_bytes()).ok()?))
    }

    /// Those that were asked for, and never a credential; and the trace that the request is of, so that it goes on where the record does.
    fn record_headers(&self) -> Vec<Header> {
        let wanted = &self.settings.headers;
        let traced = self.headers.get(TRACEPARENT).is_some_and(|parent| is_traceparent(parent.as_bytes()));
        if wanted.is_empty() && !traced {
            return Vec::new();
        }
        let matches = |name: &str, pattern: &String| match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => name == pattern,
        };
        let own = self.settings.signature.as_ref().map(|signature| signature.header().as_str());
        let copied = self.headers.iter().filter(|(name, _)| {
            let name = name.as_str();
            // The record is what the body was before it was compressed.
            !never_copied(name)
                && name != "content-encoding"
                && Some(name) != own
                && (traced && (name == TRACEPARENT || name == TRACESTATE) || wanted.iter().any(|pattern| matches(name, pattern)))
        });
        copied
            .map(|(name, value)| Header {
                name: Arc::from(name.as_str()),
                value: Bytes::copy_from_slice(value.as_bytes()).into(),
            })
            .collect()
    }

    fn fitting(&self, record: Record) -> Result<Record, Refusal> {
        let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.size() + 10).sum();
        let size = record.key.size() + record.value.size() + headers;
        let max = self.settings.record_max;
        if size > max {
            return Err(Refusal::too_large(format!("a record of {size} bytes, where {max} are allowed (record.max.bytes)")));
        }
        Ok(record)
    }
}

/// Of a string, a number or a truth value; other JSON as it is written; nothing of null.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn data(json: Value) -> Data {
    match json {
        Value::Null => Data::Null,
        Value::Bool(truth) => Data::Boolean(truth),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Data::Int64(whole),
            None => Data::Float64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Data::String(text),
        Value::Array(items) => Data::Array(items.into_iter().map(data).collect()),
        Value::Object(fields) => Data::object(fields.into_iter().map(|(name, value)| (name, data(value)))),
    }
}

/// The challenge of Slack's `url_verification`, which no topic gets.
pub(crate) fn slack_challenge(body: &[u8]) -> Option<String> {
    // Slack's own has some hundred bytes.
    if body.len() > 4096 {
        return None;
    }
    let value: Value = serde_json::from_slice(body).ok()?;
    (value.get("type")? == "url_verification").then(|| value.get("challenge")?.as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use aqueduct_core::Options;

    fn settings(more: &[(&str, &str)]) -> Settings {
        let mut options: Options = [("listener", "http://127.0.0.1:1"), ("path", "/a/{shop}"), ("topic", "t")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        options.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let config: Config = aqueduct_config::parse(&options).unwrap();
        config.settings().unwrap_or_else(|issues| panic!("{issues:?}")).0
    }

    fn parse(more: &[(&str, &str)], headers: &[(&str, &str)], body: &str) -> Result<Parsed, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(hyper::header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let settings = settings(more);
        let captures = vec![("shop".to_owned(), "nord".to_owned())];
        let request = Request { settings: &settings, topic: &"t".into(), headers: &map, path: "/a/nord", captures: &captures };
        request.parse(&Bytes::from(body.to_owned())).map_err(|refusal| refusal.status.as_u16())
    }

    fn shown(payload: &Payload) -> String {
        match payload {
            Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }

    fn values(parsed: Result<Parsed, u16>) -> Vec<String> {
        parsed.unwrap().records.iter().map(|(record, _)| format!("{}={}", shown(&record.key), shown(&record.value))).collect()
    }

    #[test]
    fn values_are_the_bytes_that_came() {
        let pretty = "{ \"id\" : 1.50 }";
        assert_eq!(values(parse(&[], &[], "not json at all")), ["Null=not json at all"]);
        assert_eq!(values(parse(&[("key", "json:/id")], &[], pretty)), [format!("1.5={pretty}")]);
        assert_eq!(
            values(parse(&[("body.format", "array"), ("key", "json:/k")], &[], "[ {\"k\":\"a\"}, {\"k\": 7} ,null,\"x\"]")),
            ["a={\"k\":\"a\"}", "7={\"k\": 7}", "Null=null", "Null=\"x\""]
        );
        assert_eq!(
            values(parse(&[("body.format", "ndjson")], &[], "{\"a\":1}\r\n\n {\"a\": 2}\n")),
            ["Null={\"a\":1}", "Null={\"a\": 2}"]
        );
        assert_eq!(values(parse(&[("key", "header:x-k")], &[("x-k", "y")], "v")), ["y=v"]);
        assert_eq!(values(parse(&[("key", "path:shop")], &[], "v")), ["nord=v"]);
        let json = parse(&[("value.format", "json")], &[], r#"{"a":[1,2.5,true,null,18446744073709551615]}"#).unwrap();
        let list = vec![
            Data::Int64(1),
            Data::Float64(2.5),
            Data::Boolean(true),
            Data::Null,
            Data::Float64(18_446_744_073_709_551_615.0),
        ];
        assert_eq!(json.records[0].0.value, Payload::data(None, Data::object([("a", Data::Array(list))])));
    }

    #[test]
    fn one_bad_element_refuses_the_whole() {
        for (more, body, status) in [
            (&[("body.format", "array")] as &[_], "{}", 400),
            (&[("body.format", "array")], "[1,2,", 400),
            (&[("body.format", "ndjson")], "{}\nnonsense\n{}", 400),
            (&[("value.format", "json")], "nonsense", 400),
            (&[("key", "json:/id")], "nonsense", 400),
            (&[("body.format", "array"), ("record.max.bytes", "5")], "[1,\"123456\"]", 413),
            (&[("body.format", "cloudevents")], "{}", 415),
        ] {
            assert_eq!(parse(more, &[], body).err(), Some(status), "{more:?} {body}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&[("value.format", "json")], &[], &deep).err(), Some(400));
        assert_eq!(parse(&[("body.format", "array")], &[], &deep).err(), Some(400));
    }

    #[test]
    fn ids_are_of_the_request_or_of_each_record() {
        let by_header = parse(&[], &[("Idempotency-Key", "1"), ("webhook-id", "2")], "x").unwrap();
        assert_eq!(by_header.request_id, Some(id("/a/nord", "2")));
        let by_record =
            parse(&[("body.format", "array"), ("idempotency.key", "json:/id")], &[], r#"[{"id":1},{"id":"1"},{}]"#).unwrap();
        let ids: Vec<_> = by_record.records.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, [Some(id("/a/nord", "1")), Some(id("/a/nord", "1")), None]);
        assert!(by_record.request_id.is_none());
        assert!(parse(&[("idempotency.key", "none")], &[("webhook-id", "2")], "x").unwrap().request_id.is_none());
    }

    #[test]
    fn credentials_are_never_copied() {
        let given =
            [("Authorization", "secret"), ("Cookie", "secret"), ("X-Hub-Signature-256", "s"), ("X-Mine", "1"), ("X-Sig", "2")];
        let more = [("headers", "*"), ("signature.scheme", "custom"), ("signature.secret", "x"), ("signature.header", "x-sig")];
        let parsed = parse(&more, &given, "v").unwrap();
        let names: Vec<&str> = parsed.records[0].0.headers.iter().map(|header| &*header.name).collect();
        assert_eq!(names, ["x-mine"]);
    }

    #[test]
    fn slacks_challenge() {
        assert_eq!(slack_challenge(br#"{"token":"x","challenge":"3eZb","type":"url_verification"}"#).as_deref(), Some("3eZb"));
        assert_eq!(slack_challenge(br#"{"type":"event_callback","challenge":"3eZb"}"#), None);
    }
}
