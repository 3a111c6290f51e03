//! Records of change data as kcat sees them, and what differs between those of two connectors that saw the same changes.

use crate::wait::poll_for;
use kafka_services::kcat;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// A record whose key and value are JSON, or null.
#[derive(Clone, Debug, PartialEq)]
pub struct Json {
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, String)>,
}

/// By topic, in the order of the only partition.
pub type Topics = BTreeMap<String, Vec<Json>>;

/// All committed records of the topics that begin with one of these.
///
/// # Panics
/// When kcat cannot read them.
#[track_caller]
pub fn read_topics(bootstrap: &str, prefixes: &[&str]) -> Topics {
    let output = kcat(&["-b", bootstrap, "-L", "-J"], b"");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("kcat -L -J prints JSON");
    let names = metadata["topics"].as_array().into_iter().flatten().filter_map(|topic| topic["topic"].as_str());
    let wanted = names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let wanted: Vec<&str> = wanted.collect();
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for part in wanted.chunks(wanted.len().div_ceil(4).max(1)) {
            readers
                .push(scope.spawn(move || {
                    part.iter().map(|name| ((*name).to_owned(), read_topic(bootstrap, name))).collect::<Vec<_>>()
                }));
        }
        readers.into_iter().flat_map(|reader| reader.join().expect("it does not panic")).collect()
    })
}

/// As [`read_topics`], one.
#[track_caller]
pub fn read_topic(bootstrap: &str, topic: &str) -> Vec<Json> {
    read(bootstrap, topic, "beginning")
}

/// The last few records.
#[track_caller]
pub fn read_end(bootstrap: &str, topic: &str) -> Vec<Json> {
    read(bootstrap, topic, "-6")
}

#[track_caller]
fn read(bootstrap: &str, topic: &str, from: &str) -> Vec<Json> {
    let args = ["-b", bootstrap, "-C", "-t", topic, "-e", "-q", "-J", "-o", from, "-X", "isolation.level=read_committed"];
    let output = kcat(&args, b"");
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("kcat -J: {error}: {line}"));
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        let headers: Vec<&str> =
            record["headers"].as_array().into_iter().flatten().map(|part| part.as_str().unwrap_or("(null)")).collect();
        let headers =
            headers.chunks(2).map(|pair| (pair[0].to_owned(), pair.get(1).map_or_else(String::new, |v| (*v).to_owned())));
        let offset = record["offset"].as_i64().expect("kcat prints the offset");
        Json { offset, key: text("key"), value: text("payload"), headers: headers.collect() }
    };
    text.lines().map(parse).collect()
}

/// Waits until a record of this topic says `"id":<id>`.
pub fn wait_marker(bootstrap: &str, topic: &str, id: u64, deadline: Duration) -> bool {
    let wanted = format!("\"id\":{id}}}");
    let seen = || read_end(bootstrap, topic).iter().any(|record| record.key.as_deref().is_some_and(|key| key.contains(&wanted)));
    poll_for(deadline, || seen().then_some(())).is_some()
}

/// One file a topic, one line a record: for people, and for tests of the model.
///
/// # Panics
/// When the folder is not writable.
pub fn dump(topics: &Topics, folder: &Path) {
    std::fs::create_dir_all(folder).expect("writable");
    for (topic, records) in topics {
        let mut text = String::new();
        for record in records {
            let json = |text: &Option<String>| {
                text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| text.into()))
            };
            let line = serde_json::json!({"headers": record.headers, "key": json(&record.key), "value": json(&record.value), "key_text": record.key, "value_text": record.value});
            let _ = writeln!(text, "{line}");
        }
        std::fs::write(folder.join(format!("{}.jsonl", topic.replace('/', "_"))), text).expect("writable");
    }
}

/// A place where the two say something else, and how often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Without the prefix.
    pub topic: String,
    /// `r value.after.c_numeric`: the operation, and the way to the field.
    pub path: String,
    pub ours: String,
    pub theirs: String,
}

/// With the cases that have them, and how often.
#[derive(Debug, Default)]
pub struct Differences(pub BTreeMap<Difference, BTreeMap<String, usize>>);

impl Differences {
    fn add(&mut self, case: &str, topic: &str, path: impl Into<String>, ours: impl Into<String>, theirs: impl Into<String>) {
        let difference = Difference { topic: topic.into(), path: path.into(), ours: ours.into(), theirs: theirs.into() };
        *self.0.entry(difference).or_default().entry(case.to_owned()).or_default() += 1;
    }

    /// Compares what a case wrote; topics are `<case>.…`.
    pub fn compare(&mut self, case: &str, ours: &Topics, theirs: &Topics) -> usize {
        let name = |topic: &str| topic.strip_prefix(case).map_or(topic, |rest| rest.trim_start_matches('.')).to_owned();
        let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let mut compared = 0;
        for topic in all {
            let (none, short) = (Vec::new(), name(topic));
            let (ours, theirs) = (ours.get(topic).unwrap_or(&none), theirs.get(topic).unwrap_or(&none));
            compared += ours.len().min(theirs.len());
            self.compare_topic(case, &short, ours, theirs);
        }
        compared
    }

    fn compare_topic(&mut self, case: &str, topic: &str, ours: &[Json], theirs: &[Json]) {
        for (our, their) in align(ours, theirs) {
            match (our, their) {
                (Some(our), Some(their)) => self.compare_record(case, topic, our, their),
                (Some(our), None) => self.add(case, topic, "record", clip(&our.signature()), "(not there)"),
                (None, Some(their)) => self.add(case, topic, "record", "(not there)", clip(&their.signature())),
                (None, None) => {}
            }
        }
    }

    fn compare_record(&mut self, case: &str, topic: &str, ours: &Json, theirs: &Json) {
        let op = ours.op();
        let mut found = Vec::new();
        for (name, ours, theirs) in [("key", &ours.key, &theirs.key), ("value", &ours.value, &theirs.value)] {
            let before = found.len();
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.into());
                    walk(name, &mask(parse(ours), &op), &mask(parse(theirs), &op), &mut found);
                    if found.len() == before && mask_text(ours) != mask_text(theirs) && op != "r" {
                        let at = mask_text(ours).bytes().zip(mask_text(theirs).bytes()).take_while(|(a, b)| a == b).count();
                        let part = |text: &str| mask_text(text).chars().skip(at.saturating_sub(30)).take(80).collect::<String>();
                        found.push((format!("{name} (bytes)"), part(ours), part(theirs)));
                    }
                }
                (ours, theirs) if ours == theirs => {}
                (ours, theirs) => found.push((name.into(), say(ours), say(theirs))),
            }
        }
        let headers = |record: &Json| {
            record
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), if name.ends_with(".runId") { "(masked)".into() } else { value.clone() }))
                .collect::<Vec<_>>()
        };
        if headers(ours) != headers(theirs) {
            found.push(("headers".into(), format!("{:?}", headers(ours)), format!("{:?}", headers(theirs))));
        }
        for (path, ours, theirs) in found {
            self.add(case, topic, format!("{op} {path}"), ours, theirs);
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (Difference { topic, path, ours, theirs }, cases) in &self.0 {
            let cases: Vec<String> = cases.iter().map(|(case, count)| format!("{case}×{count}")).collect();
            writeln!(f, "{topic} · {path} [{}]\n    ours   {}\n    theirs {}", cases.join(" "), clip(ours), clip(theirs))?;
        }
        Ok(())
    }
}

impl Json {
    fn payload(&self) -> Value {
        let value: Value = self.value.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        if value.get("payload").is_some() && value.get("schema").is_some() { value["payload"].clone() } else { value }
    }

    /// `r`, `c`, `u`, `d`, `t`, `m`; `tombstone`; `-` for what has none.
    pub fn op(&self) -> String {
        if self.value.is_none() {
            return "tombstone".into();
        }
        self.payload()["op"].as_str().unwrap_or("-").to_owned()
    }

    /// What tells it from its neighbours: the operation and the key's payload.
    fn signature(&self) -> String {
        let key: Value = self.key.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let key = if key.get("payload").is_some() { key["payload"].clone() } else { key };
        format!("{} {key}", self.op())
    }
}

/// The longest common subsequence by signature; what is left stands alone.
fn align<'a>(ours: &'a [Json], theirs: &'a [Json]) -> Vec<(Option<&'a Json>, Option<&'a Json>)> {
    let signatures = |records: &[Json]| records.iter().map(Json::signature).collect::<Vec<_>>();
    let (a, b) = (signatures(ours), signatures(theirs));
    if a.len() == b.len() && a.iter().zip(&b).filter(|(a, b)| a != b).count() <= a.len() / 2 {
        return ours.iter().map(Some).zip(theirs.iter().map(Some)).collect();
    }
    let mut best = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            best[i][j] = if a[i] == b[j] { best[i + 1][j + 1] + 1 } else { best[i + 1][j].max(best[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            pairs.push((Some(&ours[i]), Some(&theirs[j])));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && best[i + 1][j] >= best[i][j + 1]) {
            pairs.push((Some(&ours[i]), None));
            i += 1;
        } else {
            pairs.push((None, Some(&theirs[j])));
            j += 1;
        }
    }
    pairs
}

/// What two runs cannot share: when each looked at the clock, and its version. Of a snapshot also what it read, since each has its own.
const CLOCKS: [&str; 3] = ["ts_ms", "ts_us", "ts_ns"];

fn mask(mut value: Value, op: &str) -> Value {
    let payload =
        if value.get("payload").is_some() && value.get("schema").is_some() { &mut value["payload"] } else { &mut value };
    let Some(fields) = payload.as_object_mut() else { return value };
    for clock in CLOCKS {
        if let Some(clock) = fields.get_mut(clock) {
            *clock = "(masked)".into();
        }
    }
    if let Some(source) = fields.get_mut("source").and_then(Value::as_object_mut) {
        // A message outside of a transaction has no time of its own, and a snapshot's rows have all from the snapshot, of which each has its own.
        let own: &[&str] = match op {
            "m" => &["version", "ts_ms", "ts_us", "ts_ns"],
            "r" => &["version", "ts_ms", "ts_us", "ts_ns", "txId", "lsn", "sequence", "xmin"],
            _ => &["version"],
        };
        // The first of the two: how far it had read when the transaction came, which keep-alives move.
        if let Some(sequence) = source.get_mut("sequence").filter(|sequence| sequence.is_string()) {
            let last = sequence.as_str().and_then(|text| text.rsplit(',').next()).unwrap_or_default().to_owned();
            *sequence = last.into();
        }
        for name in own {
            if let Some(field) = source.get_mut(*name).filter(|field| !field.is_null()) {
                *field = "(masked)".into();
            }
        }
    }
    value
}

/// Of the bytes: all clocks (those of the source are compared as values) and the version.
fn mask_text(text: &str) -> String {
    const KEYS: [&str; 5] = ["\"version\":\"", "\"ts_ms\":", "\"ts_us\":", "\"ts_ns\":", "\"sequence\":\""];
    let (mut masked, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((at, key)) = KEYS.iter().filter_map(|key| Some((rest.find(key)?, *key))).min() {
        let from = at + key.len();
        masked.push_str(&rest[..from]);
        rest = &rest[from..];
        rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
    }
    masked.push_str(rest);
    masked
}

/// The paths where two values differ, with both.
fn walk(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<(String, String, String)>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => walk(&format!("{path}.{name}"), a, b, found),
                    (a, b) => found.push((format!("{path}.{name}"), absent(a), absent(b))),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let field = |value: &Value| value.get("field").and_then(Value::as_str).map(str::to_owned);
            let (names, others): (Vec<_>, Vec<_>) = (a.iter().map(field).collect(), b.iter().map(field).collect());
            if names != others && names.iter().chain(&others).all(Option::is_some) {
                let list = |names: &[Option<String>]| names.iter().flatten().cloned().collect::<Vec<_>>().join(",");
                found.push((format!("{path}[fields]"), list(&names), list(&others)));
            } else if a.len() != b.len() {
                found.push((path.into(), ours.to_string(), theirs.to_string()));
            } else {
                for (n, (a, b)) in a.iter().zip(b).enumerate() {
                    let name = names[n].clone().unwrap_or_else(|| n.to_string());
                    walk(&format!("{path}[{name}]"), a, b, found);
                }
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push((path.into(), a.to_string(), b.to_string())),
    }
}

fn absent(value: Option<&Value>) -> String {
    value.map_or_else(|| "(absent)".into(), Value::to_string)
}

fn say(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "(null)".into())
}

fn clip(text: &str) -> String {
    let clipped: String = text.chars().take(300).collect();
    if clipped.len() < text.len() { format!("{clipped}… ({} bytes)", text.len()) } else { clipped }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: i64, value: &str) -> Json {
        Json { offset: 0, key: Some(format!("{{\"id\":{key}}}")), value: Some(value.into()), headers: Vec::new() }
    }

    fn compare(ours: &[Json], theirs: &[Json]) -> Vec<(String, String, String)> {
        let mut found = Differences::default();
        let topic = |records: &[Json]| Topics::from([("case.public.t".to_owned(), records.to_vec())]);
        found.compare("case", &topic(ours), &topic(theirs));
        found.0.into_keys().map(|d| (format!("{} {}", d.topic, d.path), d.ours, d.theirs)).collect()
    }

    #[test]
    fn a_difference_has_its_path() {
        let ours = record(1, r#"{"op":"c","after":{"a":1,"b":null},"source":{"version":"1","lsn":5},"ts_ms":1}"#);
        let theirs = record(1, r#"{"op":"c","after":{"a":2,"b":null},"source":{"version":"2","lsn":5},"ts_ms":2}"#);
        assert_eq!(
            compare(std::slice::from_ref(&ours), &[theirs]),
            [("public.t c value.after.a".into(), "1".into(), "2".into())]
        );
        let moved = record(1, r#"{"op":"c","after":{"b":null,"a":1},"source":{"version":"1","lsn":5},"ts_ms":1}"#);
        assert!(compare(std::slice::from_ref(&ours), &[moved])[0].0.ends_with("value (bytes)"));
        assert!(compare(std::slice::from_ref(&ours), std::slice::from_ref(&ours)).is_empty());
    }

    #[test]
    fn a_missing_record_is_one_difference() {
        let all: Vec<Json> = (0..4).map(|n| record(n, r#"{"op":"c"}"#)).collect();
        let some: Vec<Json> = all.iter().enumerate().filter(|(n, _)| *n != 1).map(|(_, record)| record.clone()).collect();
        assert_eq!(compare(&some, &all), [("public.t record".into(), "(not there)".into(), "c {\"id\":1}".into())]);
    }
}
