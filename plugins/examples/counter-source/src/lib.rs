//! A counter: the smallest source that resumes.

use aqueduct_sdk::{Limits, Polled, Result, Share, Source, SourceOffset, export_plugin, now_ms, sleep};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

#[derive(Deserialize)]
pub struct Config {
    topic: String,
    count: Option<u64>,
    bytes: usize,
    #[serde(rename = "interval.ms")]
    interval: u64,
}

pub struct Counter {
    config: Config,
    share: String,
    next: u64,
    value: Vec<u8>,
}

impl Source for Counter {
    type Config = Config;

    fn plan(_: &Config, tasks_max: usize) -> Result<Vec<Share>> {
        Ok((0..tasks_max).map(|task| Share::from([("counter".to_owned(), task.to_string())])).collect())
    }

    fn open(config: Config, share: Share, resume: Vec<SourceOffset>) -> Result<Self> {
        let share = share.get("counter").cloned().unwrap_or_default();
        let stored = resume.iter().find(|offset| offset.partition.get("counter") == Some(&json!(share)));
        let next = stored.and_then(|offset| offset.offset.as_ref()?.get("next")?.as_u64()).unwrap_or(0);
        Ok(Self { config, share, next, value: Vec::new() })
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
        let room = (limits.max_bytes / (self.config.bytes + 40)).max(1).min(limits.max_records) as u64;
        let topic = polled.batch.topic(&self.config.topic, None);
        let now = now_ms();
        for _ in 0..room.min(left) {
            self.value.clear();
            self.value.extend_from_slice(self.share.as_bytes());
            self.value.push(b' ');
            self.value.extend_from_slice(self.next.to_string().as_bytes());
            self.value.resize(self.config.bytes.max(self.value.len()), b' ');
            polled.batch.record(topic, None.into(), Some(self.value.as_slice()).into(), Some(now), -1);
            self.next += 1;
        }
        let map = |name: &str, value: serde_json::Value| [(name.to_owned(), value)].into_iter().collect();
        polled
            .resume
            .push(SourceOffset { partition: map("counter", json!(self.share)), offset: Some(map("next", json!(self.next))) });
        Ok(polled)
    }
}

export_plugin!(metadata: "../plugin.json", source: Counter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_it_was() {
        let config = || Config { topic: "t".into(), count: Some(5), bytes: 20, interval: 0 };
        let limits = Limits { max_records: 3, max_bytes: 1 << 20, wait: Duration::ZERO };
        let first = Counter::open(config(), Share::new(), Vec::new()).unwrap().poll(limits).unwrap();
        assert_eq!(first.batch.len(), 3);
        let second = Counter::open(config(), Share::new(), first.resume).unwrap().poll(limits).unwrap();
        assert_eq!(second.batch.len(), 2);
    }
}
