//! The options of `http-sink`: Aiven's names, Confluent's as aliases, and ours where neither has one.

use super::batch::{Cut, Frame};
use super::identity::KeyHeader;
use super::outcome::{Mapping, Pointer, Reading};
use crate::client::{Codes, Settings as ClientSettings, Template, with_client_options};
use aqueduct_config::{ByteSize, List, Millis};
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Issue, Topic};
use reqwest::Method;
use reqwest::header::{self, HeaderName};
use rustc_hash::FxBuildHasher;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::hash::BuildHasher;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Verb {
    #[default]
    #[serde(alias = "post")]
    Post,
    #[serde(alias = "put")]
    Put,
    #[serde(alias = "patch")]
    Patch,
    #[serde(alias = "delete")]
    Delete,
    #[serde(alias = "get")]
    Get,
}

impl From<Verb> for Method {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
            Verb::Get => Method::GET,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NullValues {
    #[default]
    Ignore,
    Log,
    Delete,
    Fail,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Exhausted {
    #[default]
    Fail,
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    Ndjson,
    JsonArray,
    Custom,
}

with_client_options! {
    #[derive(Debug, Deserialize, JsonSchema)]
    pub struct Config {
        /// What is called, `http` or `https`. A template: `${topic}`, `${partition}`, `${offset}`, `${timestamp}`, `${key}`, `${key.field}`, `${value.field}`
        /// and `${header.name}` are put in percent-encoded; behind the host alone.
        #[serde(rename = "http.url")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Request", "x-example" = "https://api.example.com/rides/${key}", "x-aliases" = ["http.api.url"]))]
        url: String,
        /// The request's method. `GET` and `DELETE` have no body.
        #[serde(rename = "http.method", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Request", "x-aliases" = ["request.method"]))]
        method: Verb,
        /// The body of a record, a template as the URL is; empty: the value as it is, structured ones as JSON. With a JSON content type, a reference is put in
        /// escaped, to stand within quotes: `{"ride": "${key}"}`; objects, arrays, numbers and booleans of the value may stand without.
        #[serde(rename = "http.body.template", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Request", "x-example" = "{\"ride\": \"${key}\", \"total\": ${value.total}}"))]
        body: String,
        /// The body's type. The default is `application/json`, and `application/x-ndjson` for batches of `batch.format: ndjson`.
        #[serde(rename = "http.headers.content.type", default)]
        #[schemars(extend("x-group" = "Request"))]
        content_type: Option<String>,
        /// Confluent's form of `http.request.headers`: `Name: value`, with `header.separator` between them.
        #[serde(rename = "headers", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Request"))]
        theirs: String,
        /// What stands between two of `headers`.
        #[serde(rename = "header.separator", default = "bar")]
        #[schemars(extend("x-importance" = "low", "x-group" = "Request"))]
        separator_of_theirs: String,
        /// What a record without a value (a tombstone) means: `ignore`, `log` (ignored with a line in the log), `delete` (a `DELETE` of `http.delete.url`), or
        /// `fail` (refused: `errors.tolerance` decides).
        #[serde(rename = "behavior.on.null.values", default)]
        #[schemars(extend("x-group" = "Request"))]
        null_values: NullValues,
        /// With `behavior.on.null.values: delete`, what is deleted; a template. Empty: `http.url`.
        #[serde(rename = "http.delete.url", default)]
        #[schemars(extend("x-group" = "Request", "x-example" = "https://api.example.com/rides/${key}"))]
        delete_url: String,

        /// Several records in a request. The default is yes where `batch.max.size` is above 1.
        #[serde(rename = "batching.enabled", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Batches"))]
        batching: Option<bool>,
        /// The most records of a request. The default is 1, and 500 with `batching.enabled`.
        #[serde(rename = "batch.max.size", default)]
        #[schemars(range(min = 1, max = 1_000_000), extend("x-importance" = "high", "x-group" = "Batches"))]
        batch_size: Option<u32>,
        /// The largest body: batches are cut before it, and a record that is larger alone is refused.
        #[serde(rename = "request.max.bytes", default = "eight_mib")]
        #[schemars(range(min = 1, max = 268_435_456), extend("x-group" = "Batches"))]
        max_bytes: ByteSize,
        /// How a batch's records stand in the body: `ndjson` (one in a line), `json_array`, or `custom` (with `batch.prefix`, `batch.separator`,
        /// `batch.suffix`). The default is `custom` where one of these is set, else `ndjson`.
        #[serde(rename = "batch.format", default)]
        #[schemars(extend("x-group" = "Batches"))]
        format: Option<Format>,
        /// A batch that is not full waits this long for more records since its first came. 0: what is there is sent, and more gathers meanwhile.
        #[serde(rename = "batch.linger.ms", default)]
        #[schemars(range(max = 600_000), extend("x-group" = "Batches", "x-aliases" = ["linger.ms"]))]
        linger: Millis,
        /// Confluent's form of `batch.format: json_array`.
        #[serde(rename = "batch.json.as.array", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Batches"))]
        as_array: Option<bool>,
        /// With `custom`: what stands before the first record.
        #[serde(rename = "batch.prefix", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Batches"))]
        prefix: Option<String>,
        /// With `custom`: what stands between two records; a line break if not set.
        #[serde(rename = "batch.separator", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Batches"))]
        separator: Option<String>,
        /// With `custom`: what stands behind the last record.
        #[serde(rename = "batch.suffix", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Batches"))]
        suffix: Option<String>,
        /// Requests on their way at once in a task. Records of one key never overtake one another whatever the number; those without a key keep the order of
        /// their partition.
        #[serde(rename = "max.in.flight.requests", default = "sixteen")]
        #[schemars(range(min = 1, max = 1024), extend("x-importance" = "high", "x-group" = "Batches"))]
        in_flight: u32,

        /// Sends with each request the same key for ever, so that the receiver can tell a repeat: cluster, connector, topic id, partition and offset.
        #[serde(rename = "idempotency.key.enabled", default = "yes")]
        #[schemars(extend("x-group" = "Guarantee"))]
        idempotency: bool,
        /// The header of that key.
        #[serde(rename = "idempotency.key.header", default = "idempotency_key")]
        #[schemars(extend("x-importance" = "low", "x-group" = "Guarantee"))]
        idempotency_header: String,
        /// What becomes of a request whose tries are used up: `fail` (nothing behind it is committed; the task is opened again after a pause, see
        /// `errors.retry.timeout`), or `reject` (its records are refused: `errors.tolerance` decides).
        #[serde(rename = "behavior.on.retries.exhausted", default)]
        #[schemars(extend("x-group" = "Guarantee"))]
        exhausted: Exhausted,
        /// Statuses with which the task fails until someone mends it, rather than that each record is refused. 404 and 410 are among them where `http.url` is the
        /// same for all records, and so are redirects: a sink follows none, since what was posted might not arrive.
        #[serde(rename = "fail.on.status.codes", default = "fatal_codes")]
        #[schemars(extend("x-group" = "Guarantee"))]
        fatal: List<String>,
        /// So many failures in a row, of whatever requests (no answer, time-outs, 5xx), open the circuit: nothing is sent until one request, the probe, succeeds. 0: never.
        #[serde(rename = "circuit.breaker.failures", default = "ten")]
        #[schemars(range(min = 0, max = 100_000), extend("x-group" = "Guarantee"))]
        breaker_failures: u32,
        /// How long an open circuit waits before each probe.
        #[serde(rename = "circuit.breaker.open.ms", default = "five_seconds")]
        #[schemars(range(min = 1, max = 600_000), extend("x-group" = "Guarantee"))]
        breaker_open: Millis,
        /// A request with all its tries may take at most this long, whatever `max.retries` and `http.client.request.timeout.millis`: less than
        /// `aqueduct.stall.timeout.ms`. Then see `behavior.on.retries.exhausted`.
        #[serde(rename = "retry.timeout.ms", default = "thirty_seconds")]
        #[schemars(range(min = 0, max = 3_600_000), extend("x-group" = "Guarantee"))]
        retry_timeout: Millis,

        /// Where the answer to a batch tells what became of each record: a JSON pointer to an array; `/` alone is the whole answer. Records that it tells failed are tried
        /// again or refused each by itself. Not set: the answer's status holds for all.
        #[serde(rename = "batch.response.results", default)]
        #[schemars(extend("x-group" = "Answers", "x-example" = "/results"))]
        results: Option<String>,
        /// In an element of that array, what became of the record: a status code, a boolean, or a word (`ok`, `success`, `created`, … are good).
        #[serde(rename = "batch.response.status", default = "status_pointer")]
        #[schemars(extend("x-group" = "Answers"))]
        result_status: String,
        /// In an element of that array, why it failed. Without a status, its presence says that it did.
        #[serde(rename = "batch.response.error", default = "error_pointer")]
        #[schemars(extend("x-group" = "Answers"))]
        result_error: String,
        /// In an element of that array, which record it is about, from 0. Not set: the elements are as many as the records and in their order. Set: records that are not
        /// named are good.
        #[serde(rename = "batch.response.index", default)]
        #[schemars(extend("x-group" = "Answers"))]
        result_index: Option<String>,
        /// A topic for the answers of requests that succeeded: the body as the value (64 KiB of it), the record's key, and `http.status`, `input.topic`,
        /// `input.partition`, `input.offset`, `input.records` as headers. Written with the position, so once for each request that is not sent again.
        #[serde(rename = "reporter.result.topic.name", default)]
        #[schemars(extend("x-group" = "Answers"))]
        result_topic: Option<String>,
        /// A topic for the reasons of records that are refused, of the same form. The records themselves are what `errors.deadletterqueue.topic.name` is for.
        #[serde(rename = "reporter.error.topic.name", default)]
        #[schemars(extend("x-group" = "Answers"))]
        error_topic: Option<String>,
    }
}

fn yes() -> bool {
    true
}
fn bar() -> String {
    "|".to_owned()
}
fn eight_mib() -> ByteSize {
    ByteSize::mib(8)
}
fn sixteen() -> u32 {
    16
}
fn ten() -> u32 {
    10
}
fn five_seconds() -> Millis {
    Millis::from_secs(5)
}
fn thirty_seconds() -> Millis {
    Millis::from_secs(30)
}
fn idempotency_key() -> String {
    "Idempotency-Key".to_owned()
}
/// What says that the request as such is wrong: who sends it, where to, what kind.
fn fatal_codes() -> List<String> {
    ["401-403", "405-407", "411", "415", "421", "426", "431"].into_iter().map(str::to_owned).collect()
}
fn status_pointer() -> String {
    "/status".to_owned()
}
fn error_pointer() -> String {
    "/error".to_owned()
}

/// What the task needs; checked.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: ClientSettings,
    pub(super) call: Call,
    /// `None`: as the other calls.
    pub(super) delete: Option<Template>,
    pub(super) null_values: NullValues,
    pub(super) cut: Cut,
    pub(super) in_flight: usize,
    pub(super) key_header: Option<KeyHeader>,
    pub(super) exhausted: Exhausted,
    pub(super) reading: Reading,
    pub(super) breaker_failures: u32,
    pub(super) breaker_open: Duration,
    pub(super) retry_timeout: Duration,
    pub(super) linger: Duration,
    pub(super) receipts: Receipts,
    /// Differs when something else is called.
    pub(super) target: u64,
}

/// Topics for answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Receipts {
    pub(super) results: Option<Topic>,
    pub(super) errors: Option<Topic>,
}

/// How a record becomes a request.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Template,
    pub(super) headers: Vec<(HeaderName, Template)>,
    /// `None`: the value itself.
    pub(super) body: Option<Template>,
}

impl Call {
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.method, Method::GET | Method::DELETE)
    }
}

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        let mut issues = Vec::new();
        let settings = self.check(&mut issues);
        settings.filter(|_| !issues.iter().any(Issue::is_error)).ok_or(issues)
    }

    /// Warnings too. What comes of it is good only without an error among them.
    pub(super) fn check(&self, issues: &mut Vec<Issue>) -> Option<Settings> {
        let mut options = self.client();
        let one = self.separator_of_theirs.is_empty();
        let theirs = self.theirs.split(if one { "\n" } else { &self.separator_of_theirs });
        options.headers.0.extend(theirs.filter(|header| !header.trim().is_empty()).map(str::to_owned));
        let mut client = options.settings(issues);
        // A redirect may turn a POST into a GET, whose 200 says nothing of the record: a sink follows none.
        client.redirects_max = 0;
        let url = self.url(&self.url, "http.url", &client, issues);
        let delete = (!self.delete_url.is_empty()).then(|| self.url(&self.delete_url, "http.delete.url", &client, issues));
        if self.null_values == NullValues::Delete {
            let target = delete.as_ref().unwrap_or(&url).as_ref();
            if target.is_some_and(|target| target.names().next().is_none()) {
                let message = "would delete the same thing for every record";
                let option = if self.delete_url.is_empty() { "http.url" } else { "http.delete.url" };
                issues.push(Issue::error(option, "http_sink.delete", message).fix("put ${key} into it"));
            }
        }
        let cut = self.cut(issues);
        let content_type = self.content_type.clone().unwrap_or_else(|| {
            let lines = cut.records_max > 1 && cut.frame == Frame::Lines;
            if lines { "application/x-ndjson" } else { "application/json" }.to_owned()
        });
        let headers = self.headers(&client, &content_type, issues);
        let body = self.body(&content_type, issues);
        let fatal = Codes::parse(&self.fatal).map_err(|reason| {
            issues.push(
                Issue::error("fail.on.status.codes", "http_sink.codes", reason).fix("use 401, 500..599 or 500-599, with commas"),
            )
        });
        let mapping = self.mapping(issues);
        let key_header = self.key_header(issues);
        let receipts = Receipts {
            results: topic("reporter.result.topic.name", self.result_topic.as_deref(), issues),
            errors: topic("reporter.error.topic.name", self.error_topic.as_deref(), issues),
        };
        let delete = match delete {
            Some(delete) => Some(delete?),
            None => None,
        };
        let (url, fatal) = (url?, fatal.ok()?);
        let own_url = url.names().next().is_some();
        let reading = Reading { fatal, retry: client.retry.codes.clone(), mapping, own_url };
        Some(Settings {
            client,
            call: Call { method: self.method.into(), url, headers, body },
            delete,
            null_values: self.null_values,
            cut,
            in_flight: self.in_flight as usize,
            key_header,
            exhausted: self.exhausted,
            reading,
            breaker_failures: self.breaker_failures,
            breaker_open: self.breaker_open.duration(),
            retry_timeout: self.retry_timeout.duration(),
            linger: self.linger.duration(),
            receipts,
            target: FxBuildHasher.hash_one((&self.url, &self.delete_url, &self.body)),
        })
    }

    fn url(&self, text: &str, option: &str, client: &ClientSettings, issues: &mut Vec<Issue>) -> Option<Template> {
        let template = template(Template::url(text), option, issues)?;
        client.check_url(option, &template, issues);
        Some(template)
    }

    fn body(&self, content_type: &str, issues: &mut Vec<Issue>) -> Option<Template> {
        if self.body.is_empty() {
            return None;
        }
        if matches!(self.method, Verb::Get | Verb::Delete) {
            let message = "GET and DELETE have no body";
            issues.push(
                Issue::error("http.body.template", "http_sink.body", message).fix("leave it away, or choose another http.method"),
            );
        }
        let parsed = if content_type.contains("json") { Template::json(&self.body) } else { Template::body(&self.body) };
        template(parsed, "http.body.template", issues)
    }

    fn cut(&self, issues: &mut Vec<Issue>) -> Cut {
        let size = self.batch_size.unwrap_or(if self.batching == Some(true) { 500 } else { 1 });
        let records_max = if self.batching == Some(false) { 1 } else { size as usize };
        let custom = [("batch.prefix", &self.prefix), ("batch.separator", &self.separator), ("batch.suffix", &self.suffix)];
        let set = custom.iter().find(|(_, text)| text.is_some()).map(|(name, _)| *name);
        let format = self.format.unwrap_or(match (self.as_array, set) {
            (Some(true), _) => Format::JsonArray,
            (_, Some(_)) => Format::Custom,
            _ => Format::Ndjson,
        });
        if let (Format::Ndjson | Format::JsonArray, Some(name)) = (format, set)
            && self.as_array != Some(true)
        {
            let message = "means nothing with this batch.format";
            issues.push(Issue::error(name, "http_sink.format", message).fix("set batch.format: custom, or leave it away"));
        }
        if records_max > 1 && matches!(self.method, Verb::Get | Verb::Delete) {
            let message = "GET and DELETE have no body, and so no batches";
            issues.push(Issue::error("batch.max.size", "http_sink.batch", message).fix("set batch.max.size: 1"));
        }
        let text = |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.to_owned()).into_bytes();
        let frame = match format {
            Format::Ndjson => Frame::Lines,
            Format::JsonArray => Frame::Array,
            Format::Custom => Frame::Custom {
                prefix: text(&self.prefix, ""),
                separator: text(&self.separator, "\n"),
                suffix: text(&self.suffix, ""),
            },
        };
        Cut { records_max, bytes_max: self.max_bytes.as_usize(), frame }
    }

    fn headers(&self, client: &ClientSettings, content_type: &str, issues: &mut Vec<Issue>) -> Vec<(HeaderName, Template)> {
        let mut headers = client.headers.clone();
        for (name, template) in &headers {
            known(template, &format!("http.request.header.{name}"), issues);
        }
        if !headers.iter().any(|(name, _)| name == header::CONTENT_TYPE)
            && let Some(value) = template(Template::header(content_type), "http.headers.content.type", issues)
        {
            headers.push((header::CONTENT_TYPE, value));
        }
        headers
    }

    fn mapping(&self, issues: &mut Vec<Issue>) -> Option<Mapping> {
        let mut pointer = |option: &str, text: &str| {
            Pointer::parse(text)
                .map_err(|reason| issues.push(Issue::error(option, "http_sink.pointer", reason).fix("write it as /field/field")))
                .ok()
        };
        let status = pointer("batch.response.status", &self.result_status);
        let error = pointer("batch.response.error", &self.result_error);
        let index =
            self.result_index.as_deref().filter(|text| !text.is_empty()).map(|text| pointer("batch.response.index", text));
        let results = pointer("batch.response.results", self.results.as_deref().filter(|text| !text.is_empty())?);
        Some(Mapping {
            results: results?,
            status: status?,
            error: error?,
            index: index.map_or(Some(None), |index| index.map(Some))?,
        })
    }

    fn key_header(&self, issues: &mut Vec<Issue>) -> Option<KeyHeader> {
        if !self.idempotency {
            return None;
        }
        let name = HeaderName::try_from(self.idempotency_header.trim());
        let refused = |_| {
            let message = format!("{:?} is no header name", self.idempotency_header);
            issues.push(
                Issue::error("idempotency.key.header", "http_sink.header", message)
                    .fix("use letters, digits and dashes, as Idempotency-Key"),
            );
        };
        name.map_err(refused).ok().map(KeyHeader)
    }
}

fn topic(option: &str, name: Option<&str>, issues: &mut Vec<Issue>) -> Option<Topic> {
    let name = name.filter(|name| !name.is_empty())?;
    if !is_valid_topic_name(name) {
        let issue = Issue::error(option, "config.topic", format!("{name:?} is not a topic name"));
        issues.push(issue.fix("use 1 to 249 letters, digits, `.`, `_` and `-`"));
    }
    Some(name.into())
}

fn template(parsed: Result<Template, String>, option: &str, issues: &mut Vec<Issue>) -> Option<Template> {
    match parsed {
        Ok(template) => known(&template, option, issues).then_some(template),
        Err(reason) => {
            issues.push(Issue::error(option, "http_sink.template", reason).fix("write ${value.field}; `$${` is a literal `${`"));
            None
        }
    }
}

fn known(template: &Template, option: &str, issues: &mut Vec<Issue>) -> bool {
    let unknown = template.names().find(|name| !super::fields::is_known(name));
    if let Some(name) = unknown {
        let message = format!("`${{{name}}}` is nothing that a record has");
        let names = "use ${topic}, ${partition}, ${offset}, ${timestamp}, ${key}, ${value}, ${key.field}, ${value.field} or ${header.name}";
        issues.push(Issue::error(option, "http_sink.template", message).fix(names));
    }
    unknown.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Options;

    fn config(options: &[(&str, &str)]) -> Config {
        let url = [("http.url", "https://example.com/rides")];
        let options: Options = url.iter().chain(options).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        aqueduct_config::parse(&options).unwrap()
    }

    fn settings(options: &[(&str, &str)]) -> Settings {
        config(options).settings().unwrap_or_else(|issues| panic!("{issues:?}"))
    }

    fn content_type(settings: &Settings) -> String {
        let (_, value) = settings.call.headers.iter().find(|(name, _)| name == header::CONTENT_TYPE).unwrap();
        value.render(|_| None).unwrap()
    }

    #[test]
    fn batches_by_theirs_and_by_ours() {
        let one = settings(&[]);
        assert_eq!((one.cut.records_max, one.in_flight, content_type(&one).as_str()), (1, 16, "application/json"));
        let aiven =
            settings(&[("batching.enabled", "true"), ("batch.prefix", "["), ("batch.suffix", "]"), ("batch.separator", ",")]);
        assert_eq!(aiven.cut.records_max, 500);
        assert!(matches!(&aiven.cut.frame, Frame::Custom { prefix, .. } if prefix == b"["));
        let off = settings(&[("batching.enabled", "false"), ("batch.max.size", "100")]);
        assert_eq!(off.cut.records_max, 1);
        let lines = settings(&[("batch.max.size", "100")]);
        assert_eq!((&lines.cut.frame, content_type(&lines).as_str()), (&Frame::Lines, "application/x-ndjson"));
        let confluent = settings(&[("batch.max.size", "100"), ("batch.json.as.array", "true"), ("batch.separator", ",")]);
        assert_eq!((&confluent.cut.frame, content_type(&confluent).as_str()), (&Frame::Array, "application/json"));
        assert_eq!(content_type(&settings(&[("http.request.headers", "Content-Type: text/csv")])), "text/csv");
    }

    #[test]
    fn theirs_means_the_same() {
        let options: Options = [
            ("http.api.url", "https://example.com/x"),
            ("request.method", "put"),
            ("headers", "X-A:1|X-B:2"),
            ("retry.on.status.codes", "400-"),
            ("auth.type", "none"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let config: Config = aqueduct_config::parse(&options).unwrap();
        let settings = config.settings().unwrap();
        assert_eq!(settings.call.method, Method::PUT);
        let names: Vec<&str> = settings.call.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-a", "x-b", "content-type"]);
        assert!(settings.reading.retry.contain(reqwest::StatusCode::IM_A_TEAPOT));
    }

    #[test]
    fn what_is_deleted_is_named_by_the_record() {
        let refused = |options: &[(&str, &str)]| config(options).settings().err().map(|issues| issues[0].code.clone());
        assert_eq!(refused(&[("behavior.on.null.values", "delete")]).as_deref(), Some("http_sink.delete"));
        let named = [("behavior.on.null.values", "delete"), ("http.delete.url", "https://example.com/rides/${key}")];
        assert_eq!(refused(&named), None);
    }
}
