//! CloudEvents 1.0 over HTTP: structured, binary and batch. Attributes become headers `ce_…`, as the Kafka binding has them.

use crate::answer::Refusal;
use aqueduct_core::{Header, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Without `datacontenttype`.
    pub(crate) attributes: BTreeMap<String, String>,
    content_type: Option<String>,
    pub(crate) data: Bytes,
    pub(crate) is_json: bool,
}

impl Event {
    /// `source` and `id`.
    pub(crate) fn unique(&self) -> String {
        let attribute = |name: &str| self.attributes.get(name).map_or("", String::as_str);
        format!("{}\n{}", attribute("source"), attribute("id"))
    }

    pub(crate) fn headers(&self) -> Vec<Header> {
        let header = |name: String, value: &String| Header { name: Arc::from(name), value: Payload::from(value.clone()) };
        let content_type = self.content_type.iter().map(|value| header("content-type".to_owned(), value));
        content_type.chain(self.attributes.iter().map(|(name, value)| header(format!("ce_{name}"), value))).collect()
    }

    /// The attributes that every event has.
    fn checked(self) -> Result<Self, Refusal> {
        for name in ["specversion", "id", "source", "type"] {
            if self.attributes.get(name).is_none_or(String::is_empty) {
                return Err(Refusal::bad(format!("the event has no `{name}`")));
            }
        }
        let named =
            |name: &String| (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if let Some(name) = self.attributes.keys().find(|name| !named(name)) {
            return Err(Refusal::bad(format!("{name:?} is no name of an attribute: a-z and 0-9")));
        }
        if self.attributes["specversion"] != "1.0" {
            return Err(Refusal::bad("only specversion 1.0 is known"));
        }
        Ok(self)
    }
}

/// What the content type says it is.
pub(crate) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Event>, Refusal> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/cloudevents+json" => Ok(vec![structured(body, body)?]),
        "application/cloudevents-batch+json" => {
            let events: Vec<&RawValue> =
                serde_json::from_slice(body).map_err(|why| Refusal::bad(format!("the body is no batch of events: {why}")))?;
            events.into_iter().map(|event| structured(body, event.get().as_bytes())).collect()
        }
        _ if headers.contains_key("ce-specversion") => Ok(vec![binary(headers, content_type, body.clone())?]),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "no CloudEvent: neither a content type application/cloudevents… nor a header ce-specversion",
        )),
    }
}

/// `event` is a part of `body`, and its data stays one.
fn structured(body: &Bytes, event: &[u8]) -> Result<Event, Refusal> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(event).map_err(|why| Refusal::bad(format!("the event is no JSON object: {why}")))?;
    let (mut attributes, mut data, mut encoded, mut content_type) = (BTreeMap::new(), None, None, None);
    for (name, raw) in members {
        match &*name {
            "data" => data = Some(raw.get()),
            "data_base64" => encoded = Some(raw.get()),
            _ => {
                let value = match serde_json::from_str(raw.get()) {
                    Ok(Value::Null) => continue,
                    Ok(Value::String(text)) => text,
                    Ok(Value::Bool(truth)) => truth.to_string(),
                    Ok(Value::Number(number)) if number.is_i64() => number.to_string(),
                    _ => return Err(Refusal::bad(format!("the attribute {name:?} is neither text, number nor truth value"))),
                };
                if name == "datacontenttype" {
                    content_type = Some(value);
                } else {
                    attributes.insert(name.into_owned(), value);
                }
            }
        }
    }
    let is_json = content_type.as_deref().is_none_or(is_json);
    let data = match (data, encoded) {
        (Some(_), Some(_)) => return Err(Refusal::bad("the event has both data and data_base64")),
        (None, None) => Bytes::new(),
        (None, Some(raw)) => {
            let decoded = serde_json::from_str::<String>(raw).ok().and_then(|text| STANDARD.decode(text).ok());
            Bytes::from(decoded.ok_or_else(|| Refusal::bad("data_base64 is no text in base64"))?)
        }
        // Text that is no JSON is written as a JSON string.
        (Some(raw), None) => match serde_json::from_str::<String>(raw) {
            Ok(text) if !is_json => Bytes::from(text),
            _ => body.slice_ref(raw.as_bytes()),
        },
    };
    let is_json = is_json && !data.is_empty();
    Event { attributes, content_type, data, is_json }.checked()
}

fn binary(headers: &HeaderMap, content_type: &str, body: Bytes) -> Result<Event, Refusal> {
    let mut attributes = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let refuse = || Refusal::bad(format!("the header ce-{name} is no text"));
        let text = value.to_str().map_err(|_| refuse())?;
        let text = percent_decode_str(text.trim_matches('"')).decode_utf8().map_err(|_| refuse())?;
        attributes.insert(name.to_owned(), text.into_owned());
    }
    let is_json = is_json(content_type) && !body.is_empty();
    let content_type = (!content_type.is_empty()).then(|| content_type.to_owned());
    Event { attributes, content_type, data: body, is_json }.checked()
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    fn events(headers: &[(&str, &str)], body: &str) -> Result<Vec<Event>, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        read(&map, &Bytes::from(body.to_owned())).map_err(|refusal| refusal.status.as_u16())
    }

    const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=UTF-8");
    const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

    fn shown(event: &Event) -> (String, Vec<String>) {
        let value = |payload: &Payload| match payload {
            Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?}"),
        };
        let headers = event.headers().iter().map(|header| format!("{}: {}", header.name, value(&header.value))).collect();
        (String::from_utf8_lossy(&event.data).into_owned(), headers)
    }

    #[test]
    fn the_three_modes_say_the_same() {
        // The example of the specification.
        let structured = r#"{"specversion":"1.0","type":"com.example.someevent","time":"2018-04-05T03:56:24Z","id":"1234-1234-1234","source":"/mycontext/subcontext","datacontenttype":"application/json","data":{ "a" : 1 }}"#;
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-id", "1234-1234-1234"),
            ("ce-source", "/mycontext/subcontext"),
            ("content-type", "application/json"),
        ];
        let expected = (
            r#"{ "a" : 1 }"#.to_owned(),
            [
                "content-type: application/json",
                "ce_id: 1234-1234-1234",
                "ce_source: /mycontext/subcontext",
                "ce_specversion: 1.0",
                "ce_time: 2018-04-05T03:56:24Z",
                "ce_type: com.example.someevent",
            ]
            .map(str::to_owned)
            .to_vec(),
        );
        assert_eq!(shown(&events(&[STRUCTURED], structured).unwrap()[0]), expected);
        assert_eq!(shown(&events(&binary, r#"{ "a" : 1 }"#).unwrap()[0]), expected);
        let batch = events(&[BATCH], &format!("[{structured} , {structured}]")).unwrap();
        assert_eq!(batch.iter().map(shown).collect::<Vec<_>>(), [expected.clone(), expected]);
        assert_eq!(events(&[BATCH], "[]").unwrap(), []);
    }

    #[test]
    fn data_of_every_kind() {
        let with = |more: &str| {
            let body = format!(r#"{{"specversion":"1.0","type":"t","id":"i","source":"s"{more}}}"#);
            events(&[STRUCTURED], &body).map(|events| (shown(&events[0]).0, events[0].is_json))
        };
        assert_eq!(with(""), Ok((String::new(), false)));
        assert_eq!(with(r#","data":"text""#), Ok(("\"text\"".to_owned(), true)));
        assert_eq!(with(r#","datacontenttype":"text/xml","data":"<a b=\"c\"/>""#), Ok(("<a b=\"c\"/>".to_owned(), false)));
        assert_eq!(with(r#","data_base64":"aGk=","datacontenttype":"x/y""#), Ok(("hi".to_owned(), false)));
        for wrong in [r#","data":1,"data_base64":"aGk=""#, r#","data_base64":"*""#, r#","Big":"x""#, r#","x":{}"#, r#","x":1.5"#]
        {
            assert_eq!(with(wrong), Err(400), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_event() {
        for (headers, body, status) in [
            (&[] as &[_], "{}", 415),
            (&[("content-type", "application/json")], "{}", 415),
            (&[STRUCTURED], "[]", 400),
            (&[STRUCTURED], r#"{"specversion":"1.0","type":"t","id":"i"}"#, 400),
            (&[STRUCTURED], r#"{"specversion":"0.3","type":"t","id":"i","source":"s"}"#, 400),
            (&[STRUCTURED], r#"{"specversion":"1.0","type":"t","id":"","source":"s"}"#, 400),
            (&[("ce-specversion", "1.0")], "x", 400),
            (&[BATCH], "{}", 400),
        ] {
            assert_eq!(events(headers, body).err(), Some(status), "{headers:?} {body}");
        }
        let accented = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "caf%C3%A9%20%25")];
        assert_eq!(events(&accented, "").unwrap()[0].attributes["source"], "café %");
    }
}
