//! An API that answers `GET url?after=ID&limit=N` with a JSON array of objects in order of their `id`.

use aqueduct_sdk::{Error, HttpRequest, Issue, Limits, Polled, Result, Share, Source, SourceOffset, export_plugin, http, sleep};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Deserialize)]
pub struct Config {
    url: String,
    topic: String,
    #[serde(rename = "page.size")]
    page: usize,
    #[serde(rename = "interval.ms")]
    interval: u64,
}

pub struct Pages {
    config: Config,
    after: i64,
    /// The last page was not full: there is nothing new at once.
    caught_up: bool,
}

#[derive(Deserialize)]
struct Item {
    id: i64,
}

impl Source for Pages {
    type Config = Config;

    fn validate(config: &Config) -> Vec<Issue> {
        if (config.url.starts_with("http://") || config.url.starts_with("https://")) && !config.url.contains('?') {
            return Vec::new();
        }
        vec![Issue::error("url", "is no http:// or https:// URL without a query", "write https://host/path")]
    }

    fn open(config: Config, _: Share, resume: Vec<SourceOffset>) -> Result<Self> {
        let stored = resume.iter().find(|offset| offset.partition.get("url").and_then(Value::as_str) == Some(&config.url));
        let after = stored.and_then(|offset| offset.offset.as_ref()?.get("after")?.as_i64()).unwrap_or(0);
        Ok(Self { config, after, caught_up: false })
    }

    fn poll(&mut self, limits: Limits) -> Result<Polled> {
        let mut polled = Polled::default();
        if self.caught_up && !sleep(Duration::from_millis(self.config.interval)) {
            return Ok(polled);
        }
        let page = self.config.page.min(limits.max_records);
        let response = http(HttpRequest::get(format!("{}?after={}&limit={page}", self.config.url, self.after)))?;
        match response.status {
            200 => {}
            status @ (408 | 429 | 500..) => return Err(Error::retriable("status", format!("the API answered {status}"))),
            status => return Err(Error::fatal("status", format!("the API answered {status}"))),
        }
        let items: Vec<&RawValue> = serde_json::from_slice(&response.body)?;
        self.caught_up = items.len() < page;
        for item in items.into_iter().take(limits.max_records) {
            let Item { id } = serde_json::from_str(item.get())?;
            if id <= self.after {
                return Err(Error::fatal("order", format!("the API gave id {id} after {}", self.after)));
            }
            self.after = id;
            polled.record(&self.config.topic, Some(id.to_string().as_bytes()), Some(item.get().as_bytes()), None);
        }
        if !polled.batch.is_empty() {
            let map = |name: &str, value: Value| [(name.to_owned(), value)].into_iter().collect();
            let partition = map("url", json!(self.config.url));
            polled.resume.push(SourceOffset { partition, offset: Some(map("after", json!(self.after))) });
        }
        Ok(polled)
    }
}

export_plugin!(metadata: "../plugin.json", source: Pages);
