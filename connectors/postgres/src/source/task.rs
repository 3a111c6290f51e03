//! The task: snapshots and the stream take turns.

use super::monitor::Monitor;
use super::opening::{Opened, connect};
use super::options::Options;
use super::options::modes::SnapshotMode;
use super::position;
use super::shape::Shape;
use super::signals::SignalFile;
use super::stream::{Desk, Stream};
use crate::connection::{self, Connect};
use crate::snapshot::{Encode, Snapshots};
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::source::{Measure, Report, Signal};
use aqueduct_core::{BatchBuilder, Encoder, Issue, Polled, Result, SourceOffset, SourceTask, TaskContext, TaskSpec};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct PostgresSource;

#[async_trait]
impl SourceConnector for PostgresSource {
    type Config = Options;
    type Task = PostgresSourceTask;
    const NAME: &'static str = "postgres-source";
    const ALIASES: &'static [&'static str] = &["io.debezium.connector.postgresql.PostgresConnector"];
    const SUMMARY: &'static str = "Captures every change of PostgreSQL tables in Debezium's shapes, each exactly once.";

    fn validate(config: &Options) -> Vec<Issue> {
        config.issues()
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        position::check(offset)
    }

    /// One task: a slot has one reader.
    async fn plan(config: &Options, _tasks_max: u32) -> Result<Vec<TaskSpec>> {
        check(config).map(|()| vec![TaskSpec::new()])
    }

    async fn open(config: Options, _task: TaskSpec, resume: Vec<SourceOffset>) -> Result<PostgresSourceTask> {
        check(&config)?;
        PostgresSourceTask::open(Arc::new(config), resume).await
    }
}

fn check(config: &Options) -> Result<()> {
    let errors: Vec<Issue> = config.issues().into_iter().filter(Issue::is_error).collect();
    if errors.is_empty() { Ok(()) } else { Err(invalid(&errors)) }
}

pub struct PostgresSourceTask {
    connect: Connect,
    options: Arc<Options>,
    shape: Shape,
    snapshots: Snapshots,
    monitor: Monitor,
    signals: Option<SignalFile>,
    phase: Phase,
    /// What the worker was given to store last, for each partition: from there it goes on when tables join.
    given: BTreeMap<String, SourceOffset>,
    /// Durable in the log.
    durable: u64,
}

enum Phase {
    /// Tables are read; then the stream begins, if there is to be one.
    Before(Box<Opened>),
    Streaming(Box<Stream>),
    /// `initial_only`, and all is read.
    Done,
}

impl PostgresSourceTask {
    async fn open(options: Arc<Options>, resume: Vec<SourceOffset>) -> Result<Self> {
        let connect = connect(&options);
        let shape = Shape::new(connect.clone(), &options)?;
        let given = resume.iter().map(|offset| (offset.partition_key(), offset.clone())).collect();
        let (opened, snapshots) = Opened::open(&options, &connect, &shape, resume).await?;
        let monitor = Monitor::of(&connect, &options, opened.tables().clone());
        let durable = opened.confirmed();
        let signals =
            options.signals_by_file().then(|| SignalFile::new(&options.signal_file, options.signal_interval.duration()));
        let phase = Phase::Before(Box::new(opened));
        let mut task = Self { connect, options, shape, snapshots, monitor, signals, phase, given, durable };
        // What cannot be streamed is told at the start.
        task.go_on().await?;
        Ok(task)
    }

    /// From the snapshot to the stream, where there is nothing to read before it.
    async fn go_on(&mut self) -> Result<()> {
        if self.snapshots.is_reading() || !matches!(self.phase, Phase::Before(_)) {
            return Ok(());
        }
        if let Phase::Before(opened) = std::mem::replace(&mut self.phase, Phase::Done)
            && self.options.snapshot_mode != SnapshotMode::InitialOnly
        {
            let stream = opened.stream(&self.options).await?;
            self.phase = Phase::Streaming(Box::new(stream));
        }
        Ok(())
    }

    /// Tables joined or went: the publication and the snapshots have to know. Everything that was handed over stays as it is; the stream begins again
    /// where it stood. Returns what is to be stored.
    async fn open_again(&mut self) -> Result<Vec<SourceOffset>> {
        let Phase::Streaming(stream) = std::mem::replace(&mut self.phase, Phase::Done) else { return Ok(Vec::new()) };
        tracing::info!("the captured tables changed");
        let mut offsets = self.snapshots.take_offsets();
        offsets.push(stream.offset(&self.snapshots, &self.shape));
        self.give(&offsets);
        stream.close().await;
        let resume = self.given.values().cloned().collect();
        let (mut opened, snapshots) = Opened::open(&self.options, &self.connect, &self.shape, resume).await?;
        opened.confirm(self.durable);
        std::mem::replace(&mut self.snapshots, snapshots).close().await;
        self.monitor = Monitor::of(&self.connect, &self.options, opened.tables().clone());
        self.phase = Phase::Before(Box::new(opened));
        self.go_on().await?;
        Ok(offsets)
    }

    fn give(&mut self, offsets: &[SourceOffset]) {
        for offset in offsets {
            self.given.insert(offset.partition_key(), offset.clone());
        }
    }

    async fn poll_once(&mut self, cx: &TaskContext) -> Result<Polled> {
        if self.snapshots.is_reading() {
            return self.read(cx).await;
        }
        self.go_on().await?;
        let between = matches!(&self.phase, Phase::Streaming(stream) if stream.is_between());
        if between && self.monitor.tables_changed() {
            return Ok(Polled { resume: self.open_again().await?, ..Polled::default() });
        }
        if between && self.snapshots.wants_to_block() {
            self.snapshots.begin_blocking().await?;
            return Ok(Polled::default());
        }
        match &mut self.phase {
            Phase::Streaming(stream) => {
                stream.poll(cx, &mut Desk { shape: &mut self.shape, snapshots: &mut self.snapshots }).await
            }
            _ => {
                let _ = tokio::time::timeout(cx.wait_max, cx.interrupt.cancelled()).await;
                Ok(Polled::default())
            }
        }
    }

    /// Tables that are read while the stream waits.
    async fn read(&mut self, cx: &TaskContext) -> Result<Polled> {
        // What one record adds to a batch that is nearly full.
        let likely = self.shape.batch_bytes();
        let mut out = BatchBuilder::with_capacity(cx.max_bytes.min(likely + likely / 16));
        self.snapshots.poll(cx, &mut self.shape, &mut out).await?;
        let mut resume = self.snapshots.take_offsets();
        if !out.is_empty() || !resume.is_empty() || !self.snapshots.is_reading() {
            resume.push(match &self.phase {
                Phase::Before(opened) => opened.offset(&self.snapshots),
                Phase::Streaming(stream) => stream.offset(&self.snapshots, &self.shape),
                Phase::Done => return Ok(Polled { batch: out.finish(), resume }),
            });
        }
        Ok(Polled { batch: out.finish(), resume })
    }
}

#[async_trait]
impl SourceTask for PostgresSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        self.monitor.judge(&self.connect, &self.options).await?;
        self.shape.xmin = self.monitor.xmin(&self.options);
        if let Some(signals) = &mut self.signals {
            signals.look(&mut self.snapshots).await?;
        }
        let polled = self.poll_once(cx).await?;
        self.give(&polled.resume);
        if let Some(signals) = &mut self.signals {
            signals.sent(&polled.resume, self.snapshots.has_moved()).await;
        }
        Ok(polled)
    }

    fn encode_with(&mut self, encoder: Box<dyn Encoder>) {
        self.shape.encode_with(encoder);
    }

    async fn commit(&mut self, durable: &[SourceOffset]) -> Result<()> {
        if let Phase::Streaming(stream) = &mut self.phase {
            self.durable = stream.commit(durable).unwrap_or(self.durable);
        }
        if let Some(signals) = &mut self.signals {
            signals.durable(durable).await;
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        self.snapshots.report(&mut report);
        if let Phase::Streaming(stream) = &self.phase {
            let help = "Transactions that were too large for one batch, since the task began.";
            report.measures.push(Measure::new("split_transactions", help, stream.split() as f64));
        }
        if let Some(slot) = self.monitor.slot() {
            let label = |measure: Measure| measure.label("slot", self.options.slot.clone());
            let retained =
                Measure::new("wal_retained_bytes", "WAL that the server keeps for the replication slot.", slot.retained as f64);
            let behind =
                Measure::new("lag_bytes", "WAL that was written since what is confirmed to the server.", slot.behind as f64);
            report.measures.extend([label(retained), label(behind)]);
            if report.summary.is_empty() {
                report.summary =
                    format!("streaming; the slot {} is {} behind", self.options.slot, aqueduct_config::ByteSize(slot.behind));
            }
            report.detail.insert("slot.lag_bytes".into(), slot.behind.into());
            report.detail.insert("slot.wal_retained_bytes".into(), slot.retained.into());
            report.detail.insert("slot.confirmed_flush_lsn".into(), position::lsn(slot.confirmed).into());
            report.detail.insert("slot.wal_status".into(), slot.wal_status.into());
        }
        report
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        self.snapshots.signal(&signal)
    }

    async fn close(&mut self) -> Result<()> {
        if let Phase::Streaming(stream) = std::mem::replace(&mut self.phase, Phase::Done) {
            stream.close().await;
        }
        self.shape.close().await;
        if self.options.slot_drop_on_stop {
            let mut session = self.connect.open().await?;
            super::slot::drop(&self.connect, &mut session, &self.options.slot).await?;
            connection::close(session).await;
        }
        Ok(())
    }
}
