//! The source: `n` and what makes record `n`.

use crate::access_log::AccessLog;
use crate::config::{Config, Start, Template};
use crate::file::LogFile;
use crate::pace::Pace;
use crate::templates::Records;
use aqueduct_config::SourceConnector;
use aqueduct_core::{
    Batch, BatchBuilder, ChunkBuilder, Error, Issue, JsonMap, Polled, Result, SourceOffset, SourceTask, Span, TaskContext,
    TaskSpec, Topic,
};
use async_trait::async_trait;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub struct DatagenSource;

/// What a batch holds for each record beside its bytes, about.
const ENTRY_BYTES: usize = 80;
/// How often a position in a file is stored: each costs a commit of the log.
const OFFER_EVERY: Duration = Duration::from_secs(1);

#[async_trait]
impl SourceConnector for DatagenSource {
    type Config = Config;
    type Task = DatagenTask;
    const NAME: &'static str = "datagen-source";
    const ALIASES: &'static [&'static str] = &["io.confluent.kafka.connect.datagen.DatagenConnector", "datagen"];
    const SUMMARY: &'static str =
        "Generates orders, sensor readings, access logs or salary updates at a rate, the same for the same seed.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.issues()
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        check(offset)
    }

    async fn open(config: Config, _: TaskSpec, resume: Vec<SourceOffset>) -> Result<DatagenTask> {
        let partition = partition(config.template);
        let stored = resume.into_iter().find(|stored| stored.partition == partition).and_then(|stored| stored.offset);
        let stored = stored.map(|offset| Position::read(&offset)).transpose()?;
        let start = match (stored.as_ref().and_then(|stored| stored.start), config.start) {
            (_, Start::At(time)) => time.as_millisecond(),
            (Some(start), Start::Now) => start,
            (None, Start::Now) => Timestamp::now().as_millisecond(),
        };
        let mut next = stored.as_ref().map_or(0, |stored| stored.next);
        let topic: Topic = config.topic.as_deref().unwrap_or_default().into();
        // Without a stored start the lines in the file could not be made again: it is stored before the first line is written.
        let ready = config.file.is_none() || config.start != Start::Now || stored.is_some();
        let clock = Clock { start, rate: if config.max_interval.is_some() { 0.0 } else { config.rate } };
        let output = match (&config.file, config.template) {
            (Some(path), _) => {
                let seed = config.seed;
                let mut log = AccessLog::default();
                let line = move |n: u64, out: &mut Vec<u8>| log.write(out, seed, n, clock.at(n));
                let (path, max_bytes, keep) = (path.as_path().to_owned(), config.file_max_bytes.get(), config.file_keep);
                let (file, resumed) = blocking(move || LogFile::open(path, max_bytes, keep, next, line)).await?;
                next = resumed;
                Output::File(Some(Box::new(file)))
            }
            (None, Template::AccessLog) => Output::Lines(topic),
            (None, template) => Output::Records(Records::new(template, topic, config.seed)),
        };
        let pace = Pace::new(
            config.rate,
            config.max_interval.map(|max| Duration::from_millis(max.as_millis())),
            config.seed,
            next,
            Instant::now(),
        );
        Ok(DatagenTask {
            log: AccessLog::default(),
            seed: config.seed,
            end: config.end(),
            partition,
            clock,
            next,
            announced: false,
            offered: None,
            ready,
            output,
            pace,
        })
    }
}

/// One task makes all records: a second one would have to share the numbers, and one makes more than a disk takes.
pub struct DatagenTask {
    log: AccessLog,
    seed: u64,
    /// The number after the last record.
    end: u64,
    partition: JsonMap,
    clock: Clock,
    next: u64,
    /// The position was handed over for the first time.
    announced: bool,
    /// Lines may be written to the file.
    ready: bool,
    output: Output,
    pace: Pace,
    /// When a position in the file was handed over last.
    offered: Option<Instant>,
}

enum Output {
    Records(Records),
    Lines(Topic),
    /// `None` while a write runs, and after one that failed.
    File(Option<Box<LogFile>>),
}

/// The time in record `n`.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Milliseconds since the epoch.
    start: i64,
    rate: f64,
}

impl Clock {
    /// A record each millisecond where there is no steady rate.
    fn at(self, n: u64) -> i64 {
        let millis = if self.rate > 0.0 { (n as f64 * 1000.0 / self.rate) as i64 } else { i64::try_from(n).unwrap_or(i64::MAX) };
        self.start.saturating_add(millis)
    }
}

/// As it is stored.
struct Position {
    next: u64,
    start: Option<i64>,
}

impl Position {
    fn read(offset: &JsonMap) -> Result<Self> {
        let next = offset.get("next").and_then(serde_json::Value::as_u64);
        let start = offset.get("start").and_then(serde_json::Value::as_i64);
        let next = next.ok_or_else(|| {
            let message = format!("the stored offset {} has no whole number `next`", serde_json::Value::Object(offset.clone()));
            Error::fatal("datagen.offset", message)
                .fix(r#"set it to the number of the next record, such as {"next": 0}, or delete it"#)
        })?;
        Ok(Self { next, start })
    }
}

/// Whether an offset that an operator sets is one.
fn check(offset: &SourceOffset) -> Result<()> {
    let form = r#"write {"partition": {"template": "orders"}, "offset": {"next": 0}}, with "start" (milliseconds since 1970) beside "next" if the first record's time is to be another"#;
    let refuse = |why: String| Err(Error::fatal("datagen.offset", why).fix(form));
    let template = offset.partition.get("template").and_then(serde_json::Value::as_str);
    if offset.partition.len() != 1 || !Template::ALL.iter().any(|known| Some(known.name()) == template) {
        let names: Vec<&str> = Template::ALL.iter().map(|known| known.name()).collect();
        return refuse(format!("the partition is not \"template\" and one of {}", names.join(", ")));
    }
    let Some(map) = &offset.offset else { return Ok(()) };
    match map.keys().find(|key| !matches!(key.as_str(), "next" | "start")) {
        Some(key) => refuse(format!("{key:?} in the offset is no key of it")),
        None if !map.get("next").is_some_and(serde_json::Value::is_u64) => {
            refuse("\"next\" in the offset is not the number of a record, a whole number from 0 on".to_owned())
        }
        None if map.get("start").is_some_and(|start| !start.is_i64()) => {
            refuse("\"start\" in the offset is not a time in milliseconds since 1970".to_owned())
        }
        None => Ok(()),
    }
}

fn partition(template: Template) -> JsonMap {
    JsonMap::from_iter([("template".to_owned(), template.name().into())])
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let permit = aqueduct_core::blocking::permit().await;
    let work = move || {
        let _held = permit;
        work()
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|why| Err(Error::retriable("datagen.aborted", format!("writing the file was cut short: {why}"))))
}

impl DatagenTask {
    fn resume(&self) -> Vec<SourceOffset> {
        let offset = JsonMap::from_iter([("next".to_owned(), self.next.into()), ("start".to_owned(), self.clock.start.into())]);
        vec![SourceOffset { partition: self.partition.clone(), offset: Some(offset) }]
    }

    /// How many records to make now; `None` when none is due within the poll's time.
    async fn wait(&mut self, cx: &TaskContext) -> Option<u64> {
        let until = Instant::now() + cx.wait_max;
        loop {
            let due = if !self.ready || self.next >= self.end { Err(until) } else { self.pace.due(self.next, Instant::now()) };
            let at = match due {
                Ok(due) => return Some(due.min(self.end - self.next).min(cx.max_records as u64)),
                Err(at) => at.min(until),
            };
            tokio::select! {
                biased;
                () = cx.interrupt.cancelled() => return None,
                () = sleep_until(at) => {}
            }
            if at >= until {
                return None;
            }
        }
    }

    fn lines(&mut self, topic: Topic, due: u64, cx: &TaskContext) -> Batch {
        let (mut chunk, mut buffer) = (ChunkBuilder::new(topic), Vec::new());
        // Spans reach 4 GiB; a batch needs not come near.
        let max_bytes = cx.max_bytes.min(1 << 30);
        for n in self.next..self.next + due {
            let start = buffer.len();
            self.log.write(&mut buffer, self.seed, n, self.clock.at(n));
            if buffer.len() + (chunk.len() + 1) * ENTRY_BYTES > max_bytes && start > 0 {
                buffer.truncate(start);
                break;
            }
            chunk.push_span(None, Some(Span { start: start as u32, len: (buffer.len() - start) as u32 }), None, -1);
        }
        let mut batch = Batch::new();
        batch.push_chunk(chunk.finish(buffer.into()));
        batch
    }

    fn records(records: &Records, clock: Clock, next: u64, due: u64, cx: &TaskContext) -> Batch {
        let (mut builder, mut largest) = (BatchBuilder::new(), 0);
        for n in next..next + due {
            let before = builder.bytes();
            // The records of a template differ by a few bytes.
            if !builder.is_empty() && before + largest + largest / 4 > cx.max_bytes {
                break;
            }
            builder.push(records.make(n, clock.at(n)));
            largest = largest.max(builder.bytes() - before);
        }
        builder.finish()
    }
}

#[async_trait]
impl SourceTask for DatagenTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        if !self.ready && !self.announced {
            self.announced = true;
            return Ok(Polled { batch: Batch::new(), resume: self.resume() });
        }
        let Some(due) = self.wait(cx).await else { return Ok(Polled::default()) };
        let batch = match &mut self.output {
            Output::Lines(topic) => {
                let topic = topic.clone();
                self.lines(topic, due, cx)
            }
            Output::Records(records) => Self::records(records, self.clock, self.next, due, cx),
            Output::File(file) => {
                let mut log =
                    file.take().ok_or_else(|| Error::retriable("datagen.aborted", "a write to the file was cut short"))?;
                let (first, max_bytes, end) = (self.next, cx.max_bytes, self.end);
                // The file is the checkpoint; the stored offset only has to be near.
                let stale = self.offered.is_none_or(|at| at.elapsed() >= OFFER_EVERY);
                let work = move || {
                    let written = log.append(first, due, max_bytes)?;
                    let stale = stale || first + written >= end;
                    if stale {
                        log.sync()?;
                    }
                    Ok((log, written, stale))
                };
                let (log, written, stale) = blocking(work).await?;
                *file = Some(log);
                self.next += written;
                if !stale {
                    return Ok(Polled::default());
                }
                self.offered = Some(Instant::now());
                return Ok(Polled { batch: Batch::new(), resume: self.resume() });
            }
        };
        self.next += batch.len() as u64;
        Ok(Polled { batch, resume: self.resume() })
    }

    async fn commit(&mut self, _: &[SourceOffset]) -> Result<()> {
        self.ready = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
