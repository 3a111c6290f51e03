//! `kafka-source`: topics of another cluster into the log, each record exactly once.

mod batch;
mod config;
mod place;
mod survey;

pub use config::Config;

use crate::error;
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{Error, Issue, Polled, Result, SourceOffset, SourceTask, TaskContext, TaskSpec};
use async_trait::async_trait;
use batch::Gather;
use config::{Isolation, Settings};
use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel};
use krafka::{ConsumerRecord, KrafkaError};
use place::Places;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use survey::Survey;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub struct KafkaSource;

const TASK_INDEX: &str = "task.index";
const TASK_COUNT: &str = "task.count";

#[async_trait]
impl SourceConnector for KafkaSource {
    type Config = Config;
    type Task = KafkaSourceTask;
    const NAME: &'static str = "kafka-source";
    const SUMMARY: &'static str =
        "Reads topics of another Kafka cluster, each committed record exactly once, in the order of its partition.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings((0, 1)).err().unwrap_or_default()
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        place::check(offset)
    }

    /// Tasks share the partitions by topic and number, so that new ones need no new plan.
    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings((0, 1)).map_err(|issues| invalid(&issues))?;
        let tasks = tasks_max.max(1);
        let spec = |index: u32| [(TASK_INDEX.to_owned(), index.to_string()), (TASK_COUNT.to_owned(), tasks.to_string())].into();
        Ok((0..tasks).map(spec).collect())
    }

    async fn open(config: Config, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<KafkaSourceTask> {
        let number = |name: &str, default: u64| task.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let share = (number(TASK_INDEX, 0), number(TASK_COUNT, 1).max(1));
        let settings = config.settings(share).map_err(|issues| invalid(&issues))?;
        KafkaSourceTask::open(settings, &resume).await
    }
}

pub struct KafkaSourceTask {
    settings: Settings,
    consumer: Arc<Consumer>,
    survey: Survey,
    places: Places,
    /// The next fetch, under way while the worker appends the last batch.
    reading: Option<Reading>,
    /// Fetched, and not handed over yet: at most [`POLL_RECORDS`].
    pending: VecDeque<ConsumerRecord>,
    gather: Gather,
    surveyed: Instant,
    /// When the last records came.
    moved: Instant,
    /// A partition has no place any more.
    look_now: bool,
}

type Reading = AbortOnDropHandle<krafka::Result<Vec<ConsumerRecord>>>;

/// The most records of one fetch: `fetch.max.bytes` bounds their bytes (invariant 6).
const POLL_RECORDS: i32 = 10_000;

/// A fetch waits this long for records on the broker.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// With nothing to read for this long the brokers are asked whether they are there: RUNNING must not stand over a cluster that is gone (invariant 7).
const PROBE_AFTER: Duration = Duration::from_secs(10);

impl KafkaSourceTask {
    async fn open(settings: Settings, resume: &[SourceOffset]) -> Result<Self> {
        let kafka = settings.client.connect("aqueduct-kafka-source", settings.request_timeout).await?;
        let isolation = match settings.isolation {
            Isolation::ReadCommitted => IsolationLevel::ReadCommitted,
            Isolation::ReadUncommitted => IsolationLevel::ReadUncommitted,
        };
        let consumer = kafka
            .consumer_without_group()
            // Where a partition begins is decided here, never by the client.
            .auto_offset_reset(AutoOffsetReset::None)
            .isolation_level(isolation)
            .fetch_max_bytes(settings.fetch_bytes)
            .max_partition_fetch_bytes(settings.partition_fetch_bytes.min(settings.fetch_bytes))
            .fetch_max_wait(FETCH_WAIT)
            .max_poll_records(POLL_RECORDS)
            .max_buffered_records(POLL_RECORDS)
            .metrics_push(false)
            .build()
            .await
            .map_err(|failed| error::from("open a consumer", &failed))?;
        let mut task = Self {
            places: Places::new(&settings, resume),
            survey: Survey::new(kafka, settings.request_timeout),
            consumer: Arc::new(consumer),
            reading: None,
            pending: VecDeque::new(),
            gather: Gather::new(),
            surveyed: Instant::now(),
            moved: Instant::now(),
            look_now: false,
            settings,
        };
        // What cannot be read is told at the start, not after the first wait.
        task.look().await?;
        Ok(task)
    }

    /// Finds new topics and partitions, and takes this task's share of them.
    async fn look(&mut self) -> Result<()> {
        let found = self.survey.topics(&self.settings.wanted).await?;
        self.places.check_identity(&found, &self.settings)?;
        let new = self.places.new_of(&found, &self.settings);
        let gone = self.places.gone(&found);
        if !new.is_empty() || !gone.is_empty() {
            // A fetch between assign and seek would find a partition without a position.
            self.finish_reading().await?;
            for topic in &gone {
                tracing::warn!(%topic, "the topic is gone from the source: what was not read of it is lost");
                self.assign(topic, Vec::new()).await?;
                self.places.forget(topic);
            }
            self.take(new).await?;
        }
        self.places.looked();
        self.surveyed = Instant::now();
        self.look_now = false;
        Ok(())
    }

    async fn take(&mut self, new: Vec<survey::Partition>) -> Result<()> {
        let bounds = self.survey.bounds(&new, self.settings.isolation == Isolation::ReadCommitted).await?;
        let starts = self.places.starts(&new, &bounds, &self.settings)?;
        let mut topics: Vec<&Arc<str>> = starts.iter().map(|start| &start.topic).collect();
        topics.sort();
        topics.dedup();
        for topic in topics {
            let mine = starts.iter().filter(|start| start.topic == *topic).map(|start| start.partition);
            let all = self.places.partitions_of(topic).into_iter().chain(mine).collect();
            self.assign(topic, all).await?;
        }
        for start in starts {
            self.consumer
                .seek(&start.topic, start.partition, start.offset)
                .await
                .map_err(|failed| error::from(&format!("begin at {}-{}", start.topic, start.partition), &failed))?;
            self.places.begin(start);
        }
        Ok(())
    }

    async fn assign(&self, topic: &str, partitions: Vec<i32>) -> Result<()> {
        let assigned = self.consumer.assign(topic, partitions).await;
        assigned.map_err(|failed| error::from(&format!("read topic {topic}"), &failed))
    }

    /// The fetch that is under way, to its end: at most [`FETCH_WAIT`] and what the network adds.
    async fn finish_reading(&mut self) -> Result<()> {
        if let Some(reading) = self.reading.take() {
            let fetched = reading.await;
            self.fetched(fetched)?;
        }
        Ok(())
    }

    fn fetched(&mut self, fetched: Result<krafka::Result<Vec<ConsumerRecord>>, tokio::task::JoinError>) -> Result<()> {
        let fetched = fetched.map_err(|failed| Error::retriable("kafka.panicked", "the reading stopped").because(failed))?;
        match fetched {
            Ok(records) => self.arrived(records),
            Err(KrafkaError::NoOffset { partitions }) => {
                self.places.out_of_range(&partitions, &self.settings)?;
                self.look_now = true;
                Ok(())
            }
            Err(failed) => Err(error::from("read the source", &failed)),
        }
    }

    /// Checks, for each run of a partition, that it is of the same topic and goes on where the last one ended.
    fn arrived(&mut self, mut records: Vec<ConsumerRecord>) -> Result<()> {
        let mut changed: Vec<Arc<str>> = Vec::new();
        let mut run: Option<(&Arc<str>, i32)> = None;
        for record in &records {
            if run.is_some_and(|(topic, partition)| Arc::ptr_eq(topic, &record.topic) && partition == record.partition) {
                continue;
            }
            if run.is_none_or(|(topic, _)| *topic != record.topic)
                && !self.places.is_same(&record.topic, self.survey.identity(&record.topic), &self.settings)?
            {
                changed.push(record.topic.clone());
            }
            self.places.goes_on(&record.topic, record.partition, record.offset, &self.settings)?;
            run = Some((&record.topic, record.partition));
        }
        if !changed.is_empty() {
            records.retain(|record| !changed.contains(&record.topic));
            self.look_now = true;
        }
        self.pending.extend(records);
        Ok(())
    }

    /// The next fetch begins, unless there is still a whole one to hand over.
    #[allow(clippy::disallowed_methods, reason = "the task owns the handle, awaits it, and aborts it when it is dropped")]
    fn begin(&mut self) {
        if self.reading.is_none() && self.pending.is_empty() && self.places.reads_any() {
            let consumer = self.consumer.clone();
            let read = async move { consumer.poll(FETCH_WAIT).await };
            self.reading = Some(AbortOnDropHandle::new(tokio::task::spawn(read)));
        }
    }

    fn due(&self) -> bool {
        let idle = self.moved.elapsed() >= PROBE_AFTER && self.surveyed.elapsed() >= PROBE_AFTER;
        self.look_now || idle || self.surveyed.elapsed() >= self.settings.refresh
    }

    async fn hand_over(&mut self, cx: &TaskContext) -> Result<Polled> {
        self.moved = Instant::now();
        let (batch, last) = self.gather.batch(&mut self.pending, &self.settings, cx);
        let resume = self.places.advance(last);
        // The next ones are on their way while these are appended.
        self.begin();
        Ok(Polled { batch, resume })
    }

    /// Positions that moved without records (transaction markers, what was aborted or compacted away): stored too, or retention would overtake them.
    async fn idle(&mut self) -> Polled {
        let mut resume = self.places.take_announced();
        if self.reading.is_none() && self.pending.is_empty() {
            for (topic, partition) in self.places.all() {
                if let Some(position) = self.consumer.position(&topic, partition).await {
                    resume.extend(self.places.moved_to(&topic, partition, position));
                }
            }
        }
        Polled { resume, ..Polled::default() }
    }
}

#[async_trait]
impl SourceTask for KafkaSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let deadline = Instant::now() + cx.wait_max;
        if self.due() {
            self.look().await?;
        }
        if self.places.has_announced() {
            // Where a partition begins is stored before its first record: `latest` is decided once.
            return Ok(Polled { resume: self.places.take_announced(), ..Polled::default() });
        }
        loop {
            if !self.pending.is_empty() {
                return self.hand_over(cx).await;
            }
            self.begin();
            let Some(reading) = &mut self.reading else {
                // Nothing to read yet.
                tokio::select! {
                    () = cx.interrupt.cancelled() => {}
                    () = tokio::time::sleep_until(deadline.min(self.surveyed + PROBE_AFTER)) => {}
                }
                return Ok(Polled::default());
            };
            let fetched = tokio::select! {
                biased;
                fetched = reading => fetched,
                () = cx.interrupt.cancelled() => return Ok(Polled::default()),
                () = tokio::time::sleep_until(deadline) => return Ok(Polled::default()),
            };
            self.reading = None;
            self.fetched(fetched)?;
            if self.look_now {
                self.look().await?;
            }
            if self.pending.is_empty() {
                let polled = self.idle().await;
                if !polled.resume.is_empty() || Instant::now() >= deadline || cx.interrupt.is_cancelled() {
                    return Ok(polled);
                }
            }
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.reading = None;
        // A consumer without a group has nobody to tell.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.consumer.close()).await;
        Ok(())
    }
}
