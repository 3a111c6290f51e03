//! Posts records to a URL as JSON lines: a batch is in one request, so that an answer of 2xx makes all of it durable.

use aqueduct_sdk::{Ack, Error, Frame, HttpRequest, Rejects, Result, Sink, export_plugin, http, metrics};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

#[derive(Deserialize)]
pub struct Config {
    url: String,
}

pub struct Post(Config);

impl Sink for Post {
    type Config = Config;

    fn open(config: Config) -> Result<Self> {
        Ok(Self(config))
    }

    fn put(&mut self, batch: Frame<'_>, rejects: &mut Rejects) -> Result<Ack> {
        let mut body = Vec::new();
        for (index, record) in batch.records().enumerate() {
            let record = record?;
            match line(record.value.bytes()) {
                Some(line) => body.extend(line),
                None => rejects.push(index, "it is no JSON"),
            }
        }
        if body.is_empty() {
            return Ok(Ack::Durable);
        }
        let headers = vec![("content-type".to_owned(), "application/x-ndjson".to_owned())];
        let timeout = Duration::from_secs(10);
        let response = http(HttpRequest { method: "POST".to_owned(), url: self.0.url.clone(), headers, body, timeout })?;
        metrics::add("requests", &[("status", &response.status.to_string())], 1.0);
        match response.status {
            200..=299 => Ok(Ack::Durable),
            // What was not committed is put again.
            status @ (408 | 429 | 500..) => Err(Error::retriable("status", format!("the server answered {status}"))),
            status => Err(Error::fatal("status", format!("the server answered {status}"))),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// In one line, whatever white space the value has. None: it is no JSON.
fn line(value: Option<&[u8]>) -> Option<Vec<u8>> {
    let json = serde_json::from_slice::<&RawValue>(value.unwrap_or(b"null")).ok()?;
    let kept = json.get().bytes().filter(|byte| !matches!(byte, b'\n' | b'\r'));
    Some(kept.chain([b'\n']).collect())
}

export_plugin!(metadata: "../plugin.json", sink: Post);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_becomes_one_line() {
        assert_eq!(line(Some(b"{\"a\":\n1}")).unwrap(), b"{\"a\":1}\n");
        assert_eq!(line(None).unwrap(), b"null\n");
        assert!(line(Some(b"{")).is_none());
    }
}
