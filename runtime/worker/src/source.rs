//! The source loop: poll → transforms → encode → append, with commits in flight. The next batch is polled while a large one is encoded.

use crate::letters::Letters;
use crate::signals::{self, Asked};
use crate::spans::BatchSpan;
use crate::stats::{Call, Fate};
use crate::task::TaskRun;
use crate::timing::Progress;
use crate::topics::{TaskLog, TopicCreation};
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::{Batch, Error, Polled, Rejects, Result, SourceOffset, SourcePlugin, SourceTask};
use aqueduct_log::{Appended, Commit, EncodedBatch, LogWriter};
use futures_util::FutureExt;
use futures_util::future::{MaybeDone, maybe_done};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An append that is not durable yet.
struct InFlight {
    commit: Commit,
    resume: Vec<SourceOffset>,
    fate: Fate,
    bytes: usize,
    since: Instant,
    /// Until it is durable.
    span: BatchSpan,
}

/// A batch that another thread encodes while the next one is polled. Nothing overtakes it (invariant 3).
struct Encoding {
    job: MaybeDone<JoinHandle<(Batch, Rejects)>>,
    resume: Vec<SourceOffset>,
    records: usize,
    bytes: usize,
    span: BatchSpan,
}

struct SourceLoop {
    source: Box<dyn SourceTask>,
    out: Outbound,
    signals: mpsc::Receiver<Asked>,
    reported: Option<Instant>,
}

/// What the source has handed over, on its way into the log.
struct Outbound {
    run: TaskRun,
    topics: TopicCreation,
    writer: Box<dyn LogWriter>,
    encoding: Option<Encoding>,
    in_flight: VecDeque<InFlight>,
    /// With what is being encoded.
    bytes_in_flight: usize,
    /// Only with the planted bug `reorder`.
    held_back: Option<(EncodedBatch, Vec<SourceOffset>, Fate, BatchSpan)>,
}

/// Less is encoded before another thread would have begun, and is not to wait for one.
const ENCODE_HERE_BYTES: usize = 64 << 10;

/// A report costs the source a little, and nobody looks more often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

pub async fn run(mut run: TaskRun, plugin: Arc<dyn SourcePlugin>, topics: TopicCreation) -> Result<()> {
    // The writer first: from here on an older task of this id can store nothing, so the offsets read next are the last (invariant 5).
    let writer = run.log.writer(&run.id).await?;
    let degraded = writer.degraded();
    run.stats.promises(degraded.clone());
    if let Some(why) = degraded.filter(|_| run.exactly_once_required) {
        return Err(Error::fatal(
            "worker.exactly_once",
            format!("exactly.once.support is required, and the log cannot promise it: {why}"),
        )
        .fix("mend that, or set exactly.once.support: requested"));
    }
    let resume = run.log.source_offsets(&run.id.connector).await?;
    let options = std::mem::take(&mut run.options);
    let spec = std::mem::take(&mut run.spec);
    let mut source = run.stats.time(Call::Open, plugin.open(&options, spec, resume)).await?;
    // A transform may look at anything.
    if run.chain.is_empty()
        && let Some(encoder) = run.converters.encoder()
    {
        source.encode_with(encoder);
    }
    run.opened();
    drop(options);
    let (sender, signals) = signals::queue();
    run.stats.takes_signals(sender);
    let (in_flight, encoding) = (VecDeque::new(), None);
    let out = Outbound { run, topics, writer, encoding, in_flight, bytes_in_flight: 0, held_back: None };
    let mut pump = SourceLoop { source, out, signals, reported: None };
    let outcome = match pump.pump().await {
        Ok(()) => pump.drain().await,
        Err(error) => Err(error),
    };
    let outcome = match outcome {
        Err(error) => Err(pump.out.refused(error).await),
        Ok(()) => Ok(()),
    };
    let closed = pump.out.run.stats.time(Call::Close, pump.source.close()).await;
    outcome.and(closed)
}

impl SourceLoop {
    async fn pump(&mut self) -> Result<()> {
        while !self.out.run.stop.is_cancelled() {
            self.make_room().await?;
            let polled = self.poll().await;
            self.out.run.stats.source_lost_bytes.fetch_add(self.source.take_lost_bytes(), Relaxed);
            let polled = match polled {
                Ok(polled) => polled,
                // Nothing is wrong with what it handed over before.
                Err(error) => return self.out.append_encoded().await.and(Err(error)),
            };
            failpoint::hit(point::SOURCE_POLLED);
            self.out.forward(polled).await?;
            if self.reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                self.out.run.stats.reports(self.source.report());
                self.reported = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Hands one signal to the source, unless who sent it has been told already that it was not taken.
    async fn signal(&mut self, asked: Asked) {
        if asked.answer.is_closed() {
            return;
        }
        tracing::info!(id = asked.signal.id, kind = asked.signal.kind, "signal");
        let taken = self.out.run.stats.time(Call::Signal, self.source.signal(asked.signal)).await;
        // The next report shows what it led to.
        self.reported = None;
        let _ = asked.answer.send(taken);
    }

    /// Everything that was handed over becomes durable before the task ends.
    async fn drain(&mut self) -> Result<()> {
        self.out.append_encoded().await?;
        while !self.out.in_flight.is_empty() {
            self.reap().await?;
        }
        Ok(())
    }

    /// Waits until the bytes in flight are within the connector's budget (invariant 6); takes what is durable already.
    async fn make_room(&mut self) -> Result<()> {
        while self.out.bytes_in_flight >= self.out.run.limits.buffer_bytes {
            self.out.append_encoded().await?;
            self.reap().await?;
        }
        let mut durable = Vec::new();
        while let Some(front) = self.out.in_flight.front_mut() {
            let Some(done) = (&mut front.commit).now_or_never() else { break };
            self.out.taken(done, &mut durable)?;
        }
        self.tell(durable).await
    }

    async fn reap(&mut self) -> Result<()> {
        let Some(front) = self.out.in_flight.front_mut() else { return Ok(()) };
        let done = self.out.run.stats.time(Call::Log, &mut front.commit).await;
        let mut durable = Vec::new();
        self.out.taken(done, &mut durable)?;
        self.tell(durable).await
    }

    /// One poll. What was encoded meanwhile is appended. When a commit resolves or a signal comes while the source waits, the poll is asked to return,
    /// so that the source hears of it at once.
    async fn poll(&mut self) -> Result<Polled> {
        let interrupt = self.out.run.stop.child_token();
        let cx = self.out.run.context(interrupt.clone());
        let stats = self.out.run.stats.clone();
        let (mut done, mut failed) = (Vec::new(), None);
        let mut asked = self.signals.try_recv().ok();
        if asked.is_some() {
            interrupt.cancel();
        }
        let polled = {
            let out = &mut self.out;
            let poll = stats.time(Call::Poll, self.source.poll(&cx));
            tokio::pin!(poll);
            loop {
                let waiting = out.in_flight.get_mut(done.len()).filter(|_| !matches!(done.last(), Some(Err(_))));
                let committed = async {
                    match waiting {
                        Some(waiting) => (&mut waiting.commit).await,
                        None => std::future::pending().await,
                    }
                };
                let encoding = out.encoding.as_mut();
                let encoded = async {
                    match encoding {
                        Some(encoding) => (&mut encoding.job).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    polled = &mut poll => break polled,
                    outcome = committed => {
                        done.push(outcome);
                        interrupt.cancel();
                    }
                    () = encoded => if let Err(error) = stats.meanwhile(out.append_encoded()).await {
                        failed = Some(error);
                        interrupt.cancel();
                    },
                    Some(signal) = self.signals.recv(), if asked.is_none() => {
                        asked = Some(signal);
                        interrupt.cancel();
                    }
                }
            }
        };
        // A poll is never dropped midway: only now.
        failed.map_or(Ok(()), Err)?;
        let mut durable = Vec::new();
        for outcome in done {
            self.out.taken(outcome, &mut durable)?;
        }
        self.tell(durable).await?;
        if let (Some(asked), Ok(_)) = (asked, &polled) {
            self.signal(asked).await;
        }
        polled
    }

    /// Invariant 1: the external system is told only after the log holds the records.
    async fn tell(&mut self, durable: Vec<SourceOffset>) -> Result<()> {
        if durable.is_empty() {
            return Ok(());
        }
        failpoint::hit(point::SOURCE_COMMITTED);
        self.out.run.stats.time(Call::Commit, self.source.commit(&durable)).await?;
        self.out.run.stats.made(Progress::Committed);
        Ok(())
    }
}

impl Outbound {
    /// The oldest append is done.
    fn taken(&mut self, outcome: Result<Appended>, durable: &mut Vec<SourceOffset>) -> Result<()> {
        let Some(mut front) = self.in_flight.pop_front() else { return Ok(()) };
        self.bytes_in_flight -= front.bytes;
        let stats = &self.run.stats;
        match outcome {
            Ok(appended) => {
                stats.settled(front.fate);
                stats.bytes_out.fetch_add(appended.bytes as u64, Relaxed);
                stats.commit_took(front.since.elapsed());
                stats.made(Progress::Acknowledged);
                durable.extend(front.resume);
                Ok(())
            }
            Err(error) => {
                stats.commit_failures.fetch_add(1, Relaxed);
                front.span.failed(&error);
                Err(topic_vanished(error))
            }
        }
    }

    async fn forward(&mut self, polled: Polled) -> Result<()> {
        if polled.batch.is_empty() && polled.resume.is_empty() {
            return Ok(());
        }
        let span = BatchSpan::start("send", &self.run.id, Some(&polled.batch));
        let stats = self.run.stats.clone();
        let (records, bytes) = (polled.batch.len(), polled.batch.bytes());
        stats.taken_in(records, bytes);
        if records > 0 {
            stats.moved();
        }
        let mut rejects = Rejects::default();
        let batch = self.run.transform(polled.batch, &mut rejects).await?;
        self.append_encoded().await?;
        if bytes < ENCODE_HERE_BYTES || !self.run.converters.encodes(&batch) {
            let batch = self.run.converters.encode(batch, &mut rejects);
            return self.pass_on(batch, rejects, polled.resume, records, span).await;
        }
        let converters = self.run.converters.clone();
        let job = tokio::task::spawn_blocking(move || (converters.encode(batch, &mut rejects), rejects));
        self.bytes_in_flight += bytes;
        self.encoding = Some(Encoding { job: maybe_done(job), resume: polled.resume, records, bytes, span });
        Ok(())
    }

    /// Waits for the batch that is being encoded, where there is one, and appends it.
    async fn append_encoded(&mut self) -> Result<()> {
        let Some(Encoding { mut job, resume, records, bytes, span }) = self.encoding.take() else { return Ok(()) };
        self.bytes_in_flight -= bytes;
        (&mut job).await;
        let Some(encoded) = Pin::new(&mut job).take_output() else { return Ok(()) };
        let panicked = |error| Error::fatal("worker.task_panicked", "a converter panicked").because(error);
        let (batch, rejects) = encoded.map_err(panicked)?;
        self.pass_on(batch, rejects, resume, records, span).await
    }

    /// Appends what was encoded, `records` before the transforms, with the dead letters of what was not.
    async fn pass_on(
        &mut self,
        mut batch: Batch,
        mut rejects: Rejects,
        resume: Vec<SourceOffset>,
        records: usize,
        span: BatchSpan,
    ) -> Result<()> {
        let stats = self.run.stats.clone();
        let mut to = TaskLog { connector: &self.run.id.connector, log: &*self.run.log, writer: &mut *self.writer };
        stats.time(Call::Log, self.topics.ensure(&batch, &mut to)).await?;
        stats.time(Call::Log, self.topics.reject_too_large(&mut batch, &mut rejects, &mut to)).await?;
        let (passed, rejected) = (batch.len(), rejects.len());
        let letters = self.run.policy.decide(rejects.take(), None, &stats)?;
        let fate = Fate::new(records, passed, rejected, letters.len());
        if let Some(queue) = self.run.policy.dead_letter_queue.as_ref().filter(|_| !letters.is_empty()) {
            // Dead letters ride in the same append: durable with the offsets that skip them, or not at all.
            let limit = stats.time(Call::Log, self.topics.ensure_queue(queue, &mut to)).await?;
            let mut fitting = Letters::new(self.run.limits.buffer_bytes);
            fitting.add(letters);
            fitting.fit(limit)?;
            batch.append(fitting.into_batch());
        }
        for chunk in batch.chunks() {
            self.run.active_topics.add(&chunk.topic);
        }
        self.append(EncodedBatch::new(batch)?, resume, fate, span).await
    }

    async fn append(&mut self, batch: EncodedBatch, resume: Vec<SourceOffset>, fate: Fate, span: BatchSpan) -> Result<()> {
        if failpoint::planted(bug::REORDER) {
            match self.held_back.take() {
                None => self.held_back = Some((batch, resume, fate, span)),
                Some((older, older_resume, older_fate, older_span)) => {
                    self.append_now(batch, resume, fate, span).await?;
                    self.append_now(older, older_resume, older_fate, older_span).await?;
                }
            }
            return Ok(());
        }
        self.append_now(batch, resume, fate, span).await
    }

    async fn append_now(
        &mut self,
        batch: EncodedBatch,
        resume: Vec<SourceOffset>,
        fate: Fate,
        mut span: BatchSpan,
    ) -> Result<()> {
        // Offsets alone take room too: without a least size nothing would bound them (invariant 6).
        let (records, bytes) = (batch.batch().len() as u64, batch.batch().bytes().max(1024));
        let since = Instant::now();
        let append = self.writer.append(batch, resume.clone());
        let commit = match self.run.stats.time(Call::Log, append).await {
            Ok(commit) => commit,
            Err(error) => {
                span.failed(&error);
                return Err(topic_vanished(error));
            }
        };
        failpoint::hit(point::SOURCE_APPENDED);
        self.run.stats.timing.appends.add(records);
        self.run.stats.made(Progress::HandedOn);
        self.bytes_in_flight += bytes;
        self.in_flight.push_back(InFlight { commit, resume, fate, bytes, since, span });
        Ok(())
    }

    /// A limit that was lowered under the task: it is reopened from the stored offset, after all that is in flight, and knows the new one. The writer
    /// takes nothing more, so that no later batch overtakes (invariant 3).
    async fn refused(&mut self, error: Error) -> Error {
        if error.code() != "log.record_too_large" {
            return error;
        }
        let mut to = TaskLog { connector: &self.run.id.connector, log: &*self.run.log, writer: &mut *self.writer };
        match self.topics.limits_changed(&mut to).await {
            Ok(true) => {
                Error::retriable("worker.limit_lowered", format!("max.message.bytes was lowered meanwhile: {}", error.message()))
            }
            Ok(false) => error,
            Err(unknown) => unknown,
        }
    }
}

/// The topic was deleted under the task: reopening it creates the topic anew and reads the records again.
pub fn topic_vanished(error: Error) -> Error {
    if error.code() == "log.unknown_topic" {
        return Error::retriable("worker.topic_deleted", error.message().to_owned());
    }
    error
}
