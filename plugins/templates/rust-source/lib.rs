//! Counts: a numbered record each interval, which goes on where it was after a restart.

use aqueduct_sdk::{Limits, Polled, Result, Share, Source, SourceOffset, export_plugin, now_ms, sleep};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Deserialize)]
pub struct Config {
    topic: String,
    count: Option<u64>,
    greeting: String,
    batch: u64,
    #[serde(rename = "interval.ms")]
    interval: u64,
}

pub struct Counter {
    config: Config,
    next: u64,
}

impl Source for Counter {
    type Config = Config;

    fn open(config: Config, _: Share, resume: Vec<SourceOffset>) -> Result<Self> {
        let stored = resume.iter().find(|offset| offset.partition.get("counter") == Some(&json!("0")));
        let next = stored.and_then(|offset| offset.offset.as_ref()?.get("next")?.as_u64()).unwrap_or(0);
        Ok(Self { config, next })
    }

    fn poll(&mut self, limits: Limits) -> Result<Polled> {
        let mut polled = Polled::default();
        let left = self.config.count.map_or(u64::MAX, |count| count.saturating_sub(self.next));
        if left == 0 {
            sleep(limits.wait);
            return Ok(polled);
        }
        if self.config.interval > 0 && !sleep(Duration::from_millis(self.config.interval)) {
            return Ok(polled);
        }
        for _ in 0..left.min(limits.max_records as u64).min(self.config.batch) {
            let value = json!({"n": self.next, "greeting": self.config.greeting}).to_string();
            let key = self.next.to_string();
            polled.record(&self.config.topic, Some(key.as_bytes()), Some(value.as_bytes()), Some(now_ms()));
            self.next += 1;
        }
        let map = |name: &str, value: Value| [(name.to_owned(), value)].into_iter().collect();
        polled.resume.push(SourceOffset { partition: map("counter", json!("0")), offset: Some(map("next", json!(self.next))) });
        Ok(polled)
    }
}

export_plugin!(metadata: "../plugin.json", source: Counter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_it_was() {
        let config = || Config { topic: "t".into(), count: Some(3), greeting: "hi".into(), batch: 2, interval: 0 };
        let limits = Limits { max_records: 10, max_bytes: 1 << 20, wait: Duration::ZERO };
        let first = Counter::open(config(), Share::new(), Vec::new()).unwrap().poll(limits).unwrap();
        assert_eq!(first.batch.len(), 2);
        let second = Counter::open(config(), Share::new(), first.resume).unwrap().poll(limits).unwrap();
        assert_eq!(second.batch.len(), 1);
    }
}
