//! Records and their places in requests: targets, bodies, idempotency keys.

use super::SinkParts;
use super::config::{Call, NullValues, Settings};
use super::fields::{self, Fields};
use super::identity::{Identity, Place};
use super::json;
use super::plan::{Item, Limits};
use crate::client::{Request, Template};
use aqueduct_core::trace_context::{TRACEPARENT, TRACESTATE, is_traceparent};
use aqueduct_core::{Batch, Error, PayloadRef, RecordRef, Result};
use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::hash::{BuildHasher, Hash, Hasher};

/// How the records of a batch stand in its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Lines,
    Array,
    Custom { prefix: Vec<u8>, separator: Vec<u8>, suffix: Vec<u8> },
}

#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) records_max: usize,
    pub(super) bytes_max: usize,
    pub(super) frame: Frame,
}

/// Where a request goes, but for its body and key.
struct Target {
    method: Method,
    url: Url,
    headers: HeaderMap,
}

/// A put's records that are to be sent, by their number.
pub(super) struct Prepared<'a> {
    pub(super) records: Vec<RecordRef<'a>>,
    pub(super) items: Vec<Item>,
    pub(super) places: Vec<Place>,
    targets: Vec<Target>,
}

/// A record that is refused before it is sent, and why.
pub(super) type Refused<'a> = (RecordRef<'a>, Place, String);

/// What cannot be built as it was planned.
pub(super) enum Unfit {
    /// These records of the job, by number, cannot be rendered.
    Refused(Vec<(u32, String)>),
    /// The body is larger than allowed.
    TooLarge(usize),
}

struct Preparing<'s, 'a> {
    settings: &'s Settings,
    done: Prepared<'a>,
    refused: Vec<Refused<'a>>,
    /// Targets by what they are rendered from.
    known: FxHashMap<String, u32>,
    /// The one target of all records, where nothing of it is theirs.
    constant: Option<u32>,
    is_constant: bool,
}

impl<'a> Prepared<'a> {
    /// # Errors
    /// `http_sink.origin` (fatal), `http_sink.not_assigned` (retriable).
    pub(super) fn new(batch: &'a Batch, parts: &SinkParts) -> Result<(Self, Vec<Refused<'a>>)> {
        let settings = &parts.settings;
        let done = Prepared {
            records: Vec::with_capacity(batch.len()),
            items: Vec::with_capacity(batch.len()),
            places: Vec::with_capacity(batch.len()),
            targets: Vec::new(),
        };
        let is_constant = names(&settings.call).next().is_none();
        let mut preparing =
            Preparing { settings, done, refused: Vec::new(), known: FxHashMap::default(), constant: None, is_constant };
        // The largest offset so far, and how many records more a transform made of one.
        let (mut largest, mut more) = (FxHashMap::default(), FxHashMap::default());
        for chunk in batch.chunks() {
            let Some(origin) = &chunk.origin else {
                return Err(Error::fatal("http_sink.origin", "a record says not where it was read: a transform took it away"));
            };
            let partition = parts.identity.partition(origin)?;
            let seed = FxBuildHasher.hash_one(&**origin);
            let largest: &mut i64 = largest.entry(partition.clone()).or_insert(-1);
            for record in chunk.iter() {
                let Some((_, offset)) = record.origin() else { continue };
                let ordinal = if offset > *largest {
                    *largest = offset;
                    0
                } else {
                    let more: &mut u32 = more.entry((partition.clone(), offset)).or_default();
                    *more += 1;
                    *more
                };
                let place = Place { partition: partition.clone(), offset, ordinal };
                if !parts.ledger.is_taken(&place) {
                    preparing.add(record, seed, place);
                }
            }
        }
        Ok((preparing.done, preparing.refused))
    }

    pub(super) fn limits(settings: &Settings) -> Limits {
        Limits {
            records_max: settings.cut.records_max,
            bytes_max: settings.cut.bytes_max,
            in_flight: settings.in_flight,
            by_key: names(&settings.call).all(fields::is_of_the_key),
        }
    }

    /// # Errors
    /// The job has to be cut otherwise.
    pub(super) fn request(
        &self,
        job: &[u32],
        settings: &Settings,
        identity: &Identity,
        connector: &str,
    ) -> Result<Request, Unfit> {
        let first = self.items[job[0] as usize];
        let target = &self.targets[first.target as usize];
        let body = if matches!(target.method, Method::GET | Method::DELETE) { Bytes::new() } else { self.body(job, settings)? };
        let mut headers = target.headers.clone();
        if settings.cut.records_max == 1 {
            trace_context(self.records[job[0] as usize], &mut headers);
        }
        if let Some(name) = &settings.key_header {
            headers.insert(name.0.clone(), self.key(job, identity, connector));
        }
        Ok(Request { method: target.method.clone(), url: target.url.clone(), headers, body })
    }

    pub(super) fn key(&self, job: &[u32], identity: &Identity, connector: &str) -> HeaderValue {
        identity.key(connector, job.iter().map(|record| &self.places[*record as usize]))
    }

    fn body(&self, job: &[u32], settings: &Settings) -> Result<Bytes, Unfit> {
        let (cut, template) = (&settings.cut, settings.call.body.as_ref());
        let mut out = Vec::with_capacity(job.iter().map(|record| self.items[*record as usize].bytes).sum::<usize>() + 2);
        let mut refused = Vec::new();
        let (prefix, separator, suffix): (&[u8], &[u8], &[u8]) = match &cut.frame {
            _ if cut.records_max == 1 => (b"", b"", b""),
            Frame::Lines => (b"", b"\n", b"\n"),
            Frame::Array => (b"[", b",", b"]"),
            Frame::Custom { prefix, separator, suffix } => (prefix, separator, suffix),
        };
        // Elements of a custom frame, and a body alone, are what the record has; JSON is made for those that need it.
        let plain = cut.records_max == 1 || matches!(cut.frame, Frame::Custom { .. });
        out.extend_from_slice(prefix);
        for (at, number) in job.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(separator);
            }
            let start = out.len();
            match element(self.records[*number as usize], template, plain, &mut out) {
                Ok(()) if cut.frame == Frame::Lines && template.is_some() => {
                    out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                }
                Ok(()) => {}
                Err(why) => refused.push((*number, why)),
            }
        }
        out.extend_from_slice(suffix);
        if !refused.is_empty() {
            return Err(Unfit::Refused(refused));
        }
        if out.len() > cut.bytes_max {
            return Err(Unfit::TooLarge(out.len()));
        }
        Ok(out.into())
    }
}

/// The trace that a record is of goes on in its request. A batch is of many.
fn trace_context(record: RecordRef<'_>, headers: &mut HeaderMap) {
    let of = |wanted: &str| {
        let found = record.headers().iter().rev().find(|header| &*header.name == wanted)?;
        match found.value.as_ref() {
            PayloadRef::Bytes(bytes) => Some(bytes.to_vec()),
            PayloadRef::Data(value) => value.data.as_str().map(|text| text.as_bytes().to_vec()),
            PayloadRef::Null => None,
        }
    };
    if record.headers().is_empty() || headers.contains_key(TRACEPARENT) {
        return;
    }
    let Some(parent) = of(TRACEPARENT).filter(|parent| is_traceparent(parent)) else { return };
    for (name, value) in [(TRACEPARENT, Some(parent)), (TRACESTATE, of(TRACESTATE))] {
        // A value that no header may have is left out.
        if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn element(record: RecordRef<'_>, template: Option<&Template>, plain: bool, out: &mut Vec<u8>) -> Result<(), String> {
    if let Some(template) = template {
        let fields = Fields::new(record);
        let rendered =
            template.render_bytes(|name| fields.get(name)).map_err(|refused| format!("http.body.template: {refused}"))?;
        out.extend_from_slice(&rendered);
        return Ok(());
    }
    match record.value() {
        PayloadRef::Bytes(bytes) if plain => out.extend_from_slice(bytes),
        // A text alone is its text, as Connect's sinks send it; within JSON it is a JSON string.
        PayloadRef::Data(value) if plain && value.data.as_str().is_some() => {
            out.extend_from_slice(value.data.as_str().unwrap_or_default().as_bytes());
        }
        value => json::element(value, out),
    }
    Ok(())
}

impl<'a> Preparing<'_, 'a> {
    fn refuse(&mut self, record: RecordRef<'a>, place: Place, why: String) {
        self.refused.push((record, place, why));
    }

    fn add(&mut self, record: RecordRef<'a>, seed: u64, place: Place) {
        let settings = self.settings;
        let tombstone = record.value().is_null();
        if tombstone {
            let at = || record.origin().map(|(partition, offset)| format!("{partition} offset {offset}")).unwrap_or_default();
            match settings.null_values {
                NullValues::Ignore => return,
                NullValues::Log => return tracing::info!(at = at(), "a record without a value is passed over"),
                NullValues::Fail => {
                    return self.refuse(record, place, "the record has no value (behavior.on.null.values)".to_owned());
                }
                NullValues::Delete => {}
            }
        }
        let target = match self.constant.filter(|_| !tombstone) {
            Some(target) => target,
            None => match self.target(record, tombstone) {
                Ok(target) => target,
                Err(why) => return self.refuse(record, place, why),
            },
        };
        if self.is_constant && !tombstone {
            self.constant = Some(target);
        }
        let bytes = match record.value() {
            PayloadRef::Null => 0,
            PayloadRef::Bytes(bytes) => bytes.len(),
            PayloadRef::Data(_) => record.to_record().value.size(),
        };
        // A separator more.
        self.done.items.push(Item { order: order(record, seed), target, bytes: bytes + 1, alone: tombstone });
        self.done.records.push(record);
        self.done.places.push(place);
    }

    fn target(&mut self, record: RecordRef<'a>, tombstone: bool) -> Result<u32, String> {
        let call = &self.settings.call;
        let delete = self.settings.delete.as_ref().unwrap_or(&call.url);
        let (url, method) = if tombstone { (delete, Method::DELETE) } else { (&call.url, call.method.clone()) };
        let fields = Fields::new(record);
        let option = if tombstone && self.settings.delete.is_some() { "http.delete.url" } else { "http.url" };
        let url = render(url, &fields).map_err(|why| format!("{option}: {why}"))?;
        let mut headers: Vec<(&HeaderName, String)> = Vec::with_capacity(call.headers.len());
        let mut key = format!("{method} {url}");
        for (name, template) in &call.headers {
            if *name == header::CONTENT_TYPE && (tombstone || !call.has_body()) {
                continue;
            }
            let value = render(template, &fields).map_err(|why| format!("the header {name}: {why}"))?;
            // No value has a line end.
            key.push('\n');
            key.push_str(&value);
            headers.push((name, value));
        }
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let url = Url::parse(&url).map_err(|error| format!("{option} is no URL: {error}"))?;
        let mut map = HeaderMap::with_capacity(headers.len() + 2);
        for (name, value) in headers {
            let value = HeaderValue::try_from(value)
                .map_err(|_| format!("the header {name} would have a value that no header may have"))?;
            map.append(name.clone(), value);
        }
        let number = self.done.targets.len() as u32;
        self.done.targets.push(Target { method, url, headers: map });
        self.known.insert(key, number);
        Ok(number)
    }
}

fn names(call: &Call) -> impl Iterator<Item = &str> {
    call.url.names().chain(call.headers.iter().flat_map(|(_, value)| value.names()))
}

fn render(template: &Template, fields: &Fields<'_>) -> Result<String, String> {
    template.render(|name| fields.get(name)).map_err(|refused| refused.to_string())
}

/// Equal for records of one key in a partition; for those without a key, for all of them.
fn order(record: RecordRef<'_>, seed: u64) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    seed.hash(&mut hasher);
    match record.key() {
        PayloadRef::Null => {}
        PayloadRef::Bytes(bytes) => bytes.hash(&mut hasher),
        PayloadRef::Data(key) => {
            let mut text = Vec::new();
            json::data(&key.data, key.schema.as_deref(), &mut text);
            text.hash(&mut hasher);
        }
    }
    hasher.finish()
}
