//! The options of `http-source`: castorm's of its kafka-connect-http, by name, where there is one.

use super::paging::{Mode, Paging, Resume};
use super::pointer::Pointer;
use super::record::Zone;
use crate::client::{Settings as ClientSettings, Template, with_client_options};
use aqueduct_config::{List, Millis};
use aqueduct_core::{Issue, Topic, offset::is_valid_topic_name};
use reqwest::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a record's offset consists of, by name: `key`, `timestamp` and the user's own.
pub(crate) type Properties = BTreeMap<String, Value>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Auto,
    Json,
    NdJson,
    Csv,
    Xml,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ValueFormat {
    #[default]
    Json,
    Map,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Order {
    Asc,
    Desc,
    #[default]
    Implicit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PageMode {
    #[default]
    None,
    Link,
    Next,
    Page,
    Offset,
    Cursor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PageResume {
    Start,
    Last,
}

with_client_options! {
    #[derive(Debug, Deserialize, JsonSchema)]
    pub struct Config {
        /// What is asked for. `${offset.name}` stands for what `http.response.record.offset.pointer` found in the last record.
        #[serde(rename = "http.request.url")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Request", "x-aliases" = ["http.url", "url"], "x-example" = "https://api.example.com/v1/trades"))]
        url: String,
        /// The topic of the records.
        #[serde(rename = "kafka.topic")]
        #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-aliases" = ["topic"], "x-example" = "trades"))]
        topic: String,
        /// The method of the requests.
        #[serde(rename = "http.request.method", default = "get")]
        #[schemars(extend("x-group" = "Request"))]
        method: String,
        /// Parameters of the requests, as `name=value & name=value`. Values may hold `${…}`.
        #[serde(rename = "http.request.params", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Request", "x-example" = "after=${offset.id} & limit=100"))]
        params: String,
        /// A body for the requests. Within JSON, what `${…}` stands for is escaped.
        #[serde(rename = "http.request.body", default)]
        #[schemars(extend("x-group" = "Request"))]
        body: String,
        /// What `${offset.…}` stands for before the first record, as `name=value, name=value`.
        #[serde(rename = "http.offset.initial", default)]
        #[schemars(extend("x-group" = "Request", "x-example" = "id=0"))]
        initial: List<String>,
        /// The pause after the last page, until the API is asked again.
        #[serde(rename = "http.timer.interval.millis", default = "one_minute")]
        #[schemars(range(max = 604_800_000), extend("x-importance" = "high", "x-group" = "Polling", "x-aliases" = ["poll.interval.ms", "http.throttler.interval.millis"]))]
        interval: Millis,
        /// The same pause where there were new records, so more are likely; `http.timer.interval.millis` if not given.
        #[serde(rename = "http.timer.catchup.interval.millis", default)]
        #[schemars(range(max = 604_800_000), extend("x-group" = "Polling", "x-aliases" = ["http.throttler.catchup.interval.millis"]))]
        catchup: Option<Millis>,
        /// The most requests in a second, over time; 0 for no limit.
        #[serde(rename = "http.rate.limit.per.second", default)]
        #[schemars(range(min = 0, max = 100_000), extend("x-group" = "Polling", "x-example" = "2"))]
        rate: f64,
        /// How many requests may come at once before the limit holds.
        #[serde(rename = "http.rate.limit.burst", default = "one")]
        #[schemars(range(min = 1, max = 100_000), extend("x-importance" = "low", "x-group" = "Polling"))]
        burst: u32,
        /// What a response is. `auto`: by its content type, JSON where that says nothing.
        #[serde(rename = "http.response.format", default)]
        #[schemars(extend("x-group" = "Response"))]
        format: Format,
        /// The JSON pointer to the list of records in the response; the whole response if empty or `/`. What is no list is one record.
        #[serde(rename = "http.response.list.pointer", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Response", "x-aliases" = ["http.response.json.records.pointer"], "x-example" = "/data"))]
        list: String,
        /// The JSON pointer, within an entry of the list, to what becomes the record's value; the whole entry if empty or `/`.
        #[serde(rename = "http.response.record.pointer", default)]
        #[schemars(extend("x-group" = "Response"))]
        record: String,
        /// What is remembered of the last record, as `name=/pointer, name=/pointer` within an entry of the list. `key` and `timestamp` also become the
        /// record's key and timestamp.
        #[serde(rename = "http.response.record.offset.pointer", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Response", "x-example" = "key=/id, timestamp=/updated_at"))]
        offsets: List<String>,
        /// The JSON pointer to the record's key, where it is not the offset's `key`.
        #[serde(rename = "http.response.record.key.pointer", default)]
        #[schemars(extend("x-group" = "Response"))]
        key_pointer: Option<String>,
        /// The JSON pointer to the record's timestamp (milliseconds, or ISO 8601), where it is not the offset's `timestamp`.
        #[serde(rename = "http.response.record.timestamp.pointer", default)]
        #[schemars(extend("x-group" = "Response"))]
        timestamp_pointer: Option<String>,
        /// The time zone of timestamps without one.
        #[serde(rename = "http.response.record.timestamp.parser.zone", default = "utc")]
        #[schemars(extend("x-importance" = "low", "x-group" = "Response"))]
        zone: String,
        /// How the list is ordered. `DESC` (newest first) is turned round; `IMPLICIT` is decided by the timestamps of its first and last record.
        #[serde(rename = "http.response.list.order.direction", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Response"))]
        order: Order,
        /// The separator of CSV; `\t` for a tab.
        #[serde(rename = "http.response.csv.separator", default = "comma")]
        #[schemars(extend("x-importance" = "low", "x-group" = "Response"))]
        separator: String,
        /// What a record's value is: `json`, its text as the API sent it, or `map`, which transforms can work on and `value.converter: json` writes.
        #[serde(rename = "http.record.value.format", default)]
        #[schemars(extend("x-group" = "Records"))]
        value: ValueFormat,
        /// How the next page is found: `link` (header `Link: <…>; rel="next"`), `next` (a URL in the body), `page` (a number), `offset` (a count of
        /// records), `cursor` (a text in the body).
        #[serde(rename = "http.page.mode", default)]
        #[schemars(extend("x-importance" = "high", "x-group" = "Pages"))]
        page_mode: PageMode,
        /// The parameter of the page's number, offset or cursor; `page`, `offset` or `cursor` if not given. Not used where a template has `${page.token}`.
        #[serde(rename = "http.page.param", default)]
        #[schemars(extend("x-group" = "Pages"))]
        page_param: Option<String>,
        /// The number of the first page, or the first offset; 1 for `page`, 0 for `offset` if not given.
        #[serde(rename = "http.page.start", default)]
        #[schemars(extend("x-importance" = "low", "x-group" = "Pages"))]
        page_start: Option<u64>,
        /// The records of a full page: a smaller one is the last.
        #[serde(rename = "http.page.size", default)]
        #[schemars(range(min = 1, max = 10_000_000), extend("x-group" = "Pages"))]
        page_size: Option<u64>,
        /// The parameter that asks for `http.page.size` records.
        #[serde(rename = "http.page.size.param", default)]
        #[schemars(extend("x-group" = "Pages", "x-example" = "limit"))]
        page_size_param: Option<String>,
        /// The JSON pointer to the next page's URL or cursor in the response; missing, null or empty on the last page.
        #[serde(rename = "http.page.next.pointer", default)]
        #[schemars(extend("x-group" = "Pages", "x-aliases" = ["http.next.page.json.pointer"], "x-example" = "/meta/next_cursor"))]
        page_next: Option<String>,
        /// The JSON pointer to whether there are more pages; where it says false, the next page is not asked for.
        #[serde(rename = "http.page.more.pointer", default)]
        #[schemars(extend("x-group" = "Pages", "x-example" = "/has_more"))]
        page_more: Option<String>,
        /// Where the API is asked again after the last page. `start`: at the first page. `last`: at the last one, whose known records are passed over.
        /// If not given, `start` without pages or with `${offset.…}` in the request, else `last`.
        #[serde(rename = "http.page.resume", default)]
        #[schemars(extend("x-group" = "Pages"))]
        page_resume: Option<PageResume>,
    }
}

fn get() -> String {
    "GET".to_owned()
}
fn one_minute() -> Millis {
    Millis::from_secs(60)
}
fn one() -> u32 {
    1
}
fn utc() -> String {
    "UTC".to_owned()
}
fn comma() -> String {
    ",".to_owned()
}

/// Checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) client: ClientSettings,
    pub(crate) topic: Topic,
    pub(crate) request: RequestTemplate,
    pub(crate) initial: Properties,
    pub(crate) interval: Duration,
    pub(crate) catchup: Duration,
    /// Requests in a second, and at once.
    pub(crate) rate: Option<(f64, f64)>,
    pub(crate) format: Format,
    pub(crate) separator: u8,
    pub(crate) list: Pointer,
    pub(crate) record: Pointer,
    pub(crate) offsets: Vec<(String, Pointer)>,
    pub(crate) key: Option<Pointer>,
    pub(crate) timestamp: Option<Pointer>,
    pub(crate) zone: Zone,
    pub(crate) order: Order,
    pub(crate) value: ValueFormat,
    pub(crate) paging: Paging,
    pub(crate) resume: Resume,
    /// Another offset makes another request.
    pub(crate) by_offset: bool,
}

#[derive(Debug)]
pub(crate) struct RequestTemplate {
    pub(crate) method: Method,
    pub(crate) url: Template,
    pub(crate) params: Vec<(String, Template)>,
    pub(crate) body: Option<Template>,
    /// A template has `${page.token}`, so no parameter is added for it.
    pub(crate) places_token: bool,
}

pub(crate) const TOKEN: &str = "page.token";

impl Config {
    /// # Errors
    /// Every issue; without an error, the warnings come beside the settings.
    pub(crate) fn settings(&self) -> Result<(Settings, Vec<Issue>), Vec<Issue>> {
        let mut issues = Vec::new();
        let client = self.client().settings(&mut issues);
        if !is_valid_topic_name(&self.topic) {
            let issue = Issue::error("kafka.topic", "http.topic", format!("{:?} is no name of a topic", self.topic));
            issues.push(issue.fix("use letters, digits, dots, dashes and underscores, at most 249"));
        }
        let request = self.request(&client, &mut issues);
        let mut pointer = |option: &str, text: &str| {
            Pointer::parse(text).unwrap_or_else(|reason| {
                issues.push(Issue::error(option, "http.pointer", reason).fix("a JSON pointer begins with a slash: /data/items"));
                Pointer::default()
            })
        };
        let list = pointer("http.response.list.pointer", &self.list);
        let record = pointer("http.response.record.pointer", &self.record);
        let mut own = |option: &str, text: &Option<String>| text.as_deref().map(|text| pointer(option, text));
        let key = own("http.response.record.key.pointer", &self.key_pointer);
        let timestamp = own("http.response.record.timestamp.pointer", &self.timestamp_pointer);
        let next = own("http.page.next.pointer", &self.page_next);
        let more = own("http.page.more.pointer", &self.page_more);
        let offsets = self.offsets(&mut issues);
        let by_name = |name: &str| offsets.iter().find(|(known, _)| known == name).map(|(_, pointer)| pointer.clone());
        let zone = Zone::parse(&self.zone).unwrap_or_else(|reason| {
            issues.push(
                Issue::error("http.response.record.timestamp.parser.zone", "http.zone", reason)
                    .fix("use a name such as UTC or Europe/Berlin"),
            );
            Zone::utc()
        });
        let paging = self.paging(next, more, &mut issues);
        let request_names = request.as_ref().map(RequestTemplate::names).unwrap_or_default();
        let headers = client.headers.iter().flat_map(|(_, value)| value.names()).map(str::to_owned);
        let names: Vec<String> = request_names.into_iter().chain(headers).collect();
        self.check_names(&names, &offsets, &mut issues);
        let by_offset = names.iter().any(|name| name.starts_with("offset."));
        let resume = self.resume(&paging, by_offset, &mut issues);
        let separator = self.separator(&mut issues);
        let initial = self.initial(&mut issues);
        let request = request.filter(|_| !issues.iter().any(Issue::is_error));
        let Some(request) = request else { return Err(issues) };
        let settings = Settings {
            client,
            topic: self.topic.as_str().into(),
            request,
            initial,
            interval: self.interval.duration(),
            catchup: self.catchup.unwrap_or(self.interval).duration(),
            rate: (self.rate > 0.0).then(|| (self.rate, f64::from(self.burst))),
            format: self.format,
            separator,
            list,
            record,
            key: key.or_else(|| by_name("key")),
            timestamp: timestamp.or_else(|| by_name("timestamp")),
            offsets,
            zone,
            order: self.order,
            value: self.value,
            paging,
            resume,
            by_offset,
        };
        Ok((settings, issues))
    }

    fn request(&self, client: &ClientSettings, issues: &mut Vec<Issue>) -> Option<RequestTemplate> {
        let mut refuse = |option: &str, code: &'static str, reason: String| {
            let fix = match code {
                "http.method" => "use GET or POST",
                "http.url" => "use https://host/path; credentials go into http.auth.*",
                _ => "close each `${` with a brace; `$${` is a literal `${`",
            };
            issues.push(Issue::error(option, code, reason).fix(fix));
        };
        let method = Method::from_bytes(self.method.trim().to_ascii_uppercase().as_bytes());
        let method =
            method.map_err(|_| refuse("http.request.method", "http.method", format!("{:?} is no method", self.method))).ok();
        let url = Template::url(&self.url).map_err(|reason| refuse("http.request.url", "http.url", reason)).ok();
        let mut params = Vec::new();
        for pair in self.params.split('&').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match Template::query(value.trim()) {
                Ok(value) => params.push((name.trim().to_owned(), value)),
                Err(reason) => refuse("http.request.params", "http.template", reason),
            }
        }
        let is_json = self.body.trim_start().starts_with(['{', '[']);
        let body = if is_json { Template::json(&self.body) } else { Template::body(&self.body) };
        let body = body.map_err(|reason| refuse("http.request.body", "http.template", reason)).ok();
        let body = body.filter(|_| !self.body.is_empty());
        let url = url?;
        client.check_url("http.request.url", &url, issues);
        let mut request = RequestTemplate { method: method?, url, params, body, places_token: false };
        request.places_token = request.names().iter().any(|name| name == TOKEN);
        Some(request)
    }

    fn offsets(&self, issues: &mut Vec<Issue>) -> Vec<(String, Pointer)> {
        let mut offsets: Vec<(String, Pointer)> = Vec::new();
        for entry in self.offsets.iter().filter(|entry| !entry.trim().is_empty()) {
            let parsed = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not name=/pointer"));
            let parsed = parsed.and_then(|(name, pointer)| Ok((name.trim().to_owned(), Pointer::parse(pointer)?)));
            match parsed {
                // Ours have this prefix in the stored offset.
                Ok((name, _)) if name.is_empty() || name.starts_with("page.") => issues.push(
                    Issue::error("http.response.record.offset.pointer", "http.pointer", format!("{name:?} cannot be a name"))
                        .fix("use another name"),
                ),
                Ok(pair) => offsets.push(pair),
                Err(reason) => issues.push(
                    Issue::error("http.response.record.offset.pointer", "http.pointer", reason)
                        .fix("use key=/id, timestamp=/updated_at"),
                ),
            }
        }
        offsets
    }

    fn initial(&self, issues: &mut Vec<Issue>) -> Properties {
        let mut initial = Properties::new();
        for entry in self.initial.iter().filter(|entry| !entry.trim().is_empty()) {
            match entry.split_once('=') {
                Some((name, value)) => {
                    initial.insert(name.trim().to_owned(), Value::from(value.trim()));
                }
                None => {
                    let issue = Issue::error("http.offset.initial", "http.initial", format!("{entry:?} is not name=value"));
                    issues.push(issue.fix("use id=0, timestamp=2024-01-01T00:00:00Z"));
                }
            }
        }
        initial
    }

    /// A name that nothing ever gives is a mistake of writing.
    fn check_names(&self, names: &[String], offsets: &[(String, Pointer)], issues: &mut Vec<Issue>) {
        for name in names.iter().filter(|name| *name != TOKEN) {
            let known = name.strip_prefix("offset.").is_some_and(|rest| {
                let rest = rest.split('?').next().unwrap_or_default();
                let initial =
                    self.initial.iter().any(|entry| entry.split_once('=').is_some_and(|(known, _)| known.trim() == rest));
                initial || offsets.iter().any(|(known, _)| known == rest)
            });
            if !known {
                let issue = Issue::error("http.request.url", "http.template", format!("${{{name}}} is nothing that is known"));
                issues
                    .push(issue.fix("name it in http.response.record.offset.pointer or http.offset.initial, as ${offset.name}"));
            }
        }
    }

    fn paging(&self, next: Option<Pointer>, more: Option<Pointer>, issues: &mut Vec<Issue>) -> Paging {
        let param = |default: &str| self.page_param.clone().unwrap_or_else(|| default.to_owned());
        let needs = |issues: &mut Vec<Issue>| {
            let issue = Issue::error("http.page.next.pointer", "config.missing", "the mode needs it");
            issues.push(issue.fix("add `http.page.next.pointer: /next`"));
            Pointer::default()
        };
        let size = self.page_size_param.clone().zip(self.page_size);
        if self.page_size_param.is_some() && self.page_size.is_none() {
            let issue = Issue::error("http.page.size", "config.missing", "http.page.size.param needs it");
            issues.push(issue.fix("add `http.page.size: 100`"));
        }
        let mode = match self.page_mode {
            PageMode::None => Mode::None,
            PageMode::Link => Mode::Link,
            PageMode::Next => Mode::Next(next.unwrap_or_else(|| needs(issues))),
            PageMode::Page => Mode::Page { param: param("page"), start: self.page_start.unwrap_or(1) },
            PageMode::Offset => Mode::Offset { param: param("offset"), start: self.page_start.unwrap_or(0) },
            PageMode::Cursor => Mode::Cursor { param: param("cursor"), next: next.unwrap_or_else(|| needs(issues)) },
        };
        Paging { mode, more, full: self.page_size, size_param: size }
    }

    fn resume(&self, paging: &Paging, by_offset: bool, issues: &mut Vec<Issue>) -> Resume {
        let natural = if by_offset || self.page_mode == PageMode::None { PageResume::Start } else { PageResume::Last };
        let resume = self.page_resume.unwrap_or(natural);
        if resume == PageResume::Last && self.page_mode == PageMode::Page && paging.full.is_none() {
            // Else an empty page were the last, and what is added to the one before it would never be seen.
            let issue = Issue::error(
                "http.page.size",
                "config.missing",
                "http.page.mode: page needs it, to know which page may still grow",
            );
            issues.push(issue.fix("add `http.page.size: 100`, or `http.page.resume: start`"));
        }
        match resume {
            PageResume::Start => Resume::Start,
            PageResume::Last => Resume::Last,
        }
    }

    fn separator(&self, issues: &mut Vec<Issue>) -> u8 {
        match self.separator.as_bytes() {
            b"\\t" => b'\t',
            [one] => *one,
            _ => {
                let issue = Issue::error("http.response.csv.separator", "http.separator", "must be one ASCII character");
                issues.push(issue.fix("use , or ; or \\t"));
                b','
            }
        }
    }
}

impl RequestTemplate {
    fn names(&self) -> Vec<String> {
        let params = self.params.iter().map(|(_, value)| value);
        let all = std::iter::once(&self.url).chain(params).chain(self.body.as_ref());
        all.flat_map(Template::names).map(str::to_owned).collect()
    }
}
