//! JSON lines by HTTP (text that is no JSON becomes a JSON string): one request for each batch, so that an answer of 2xx makes the whole batch durable.

use aqueduct_sdk::{Ack, Error, Frame, HttpRequest, Issue, Rejects, Result, Sink, export_plugin, http, metrics};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

#[derive(Deserialize)]
pub struct Config {
    url: String,
}

pub struct Lines {
    config: Config,
}

impl Sink for Lines {
    type Config = Config;

    fn validate(config: &Config) -> Vec<Issue> {
        if config.url.starts_with("http://") || config.url.starts_with("https://") {
            return Vec::new();
        }
        vec![Issue::error("url", "is no http:// or https:// URL", "write https://host/path")]
    }

    fn open(config: Config) -> Result<Self> {
        Ok(Self { config })
    }

    fn put(&mut self, batch: Frame<'_>, rejects: &mut Rejects) -> Result<Ack> {
        let mut body = Vec::new();
        for (index, record) in batch.records().enumerate() {
            let record = record?;
            let value = record.value.bytes().unwrap_or(b"null");
            match (serde_json::from_slice::<&RawValue>(value), std::str::from_utf8(value)) {
                // One line each, whatever white space the value has.
                (Ok(json), _) => body.extend(json.get().bytes().filter(|byte| !matches!(byte, b'\n' | b'\r'))),
                (Err(_), Ok(text)) => serde_json::to_writer(&mut body, text)?,
                (Err(_), Err(_)) => {
                    rejects.push(index, "the value is neither JSON nor text");
                    continue;
                }
            }
            body.push(b'\n');
        }
        if body.is_empty() {
            return Ok(Ack::Durable);
        }
        let response = http(HttpRequest {
            method: "POST".to_owned(),
            url: self.config.url.clone(),
            headers: vec![("content-type".to_owned(), "application/x-ndjson".to_owned())],
            body,
            timeout: Duration::from_secs(10),
        })?;
        metrics::add("requests", &[("status", &response.status.to_string())], 1.0);
        match response.status {
            200..=299 => Ok(Ack::Durable),
            status @ (408 | 429 | 500..) => Err(Error::retriable("status", format!("the server answered {status}"))),
            status => Err(Error::fatal("status", format!("the server answered {status}"))),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

export_plugin!(metadata: "../plugin.json", sink: Lines);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_asked_for() {
        assert_eq!(Lines::validate(&Config { url: "ftp://x".into() })[0].path, "url");
        assert!(Lines::validate(&Config { url: "https://x".into() }).is_empty());
    }
}
