//! The sink loop: read → decode → transforms → put, then flush and commit. The next piece is read and decoded while the sink puts.

use crate::letters::Letters;
use crate::piece::{Held, Piece};
use crate::policy::{DeadLetterQueue, position_after};
use crate::source::topic_vanished;
use crate::spans::BatchSpan;
use crate::stats::{Call, Fate, TaskStats};
use crate::task::{Limits, TaskRun};
use crate::timing::Progress;
use crate::topics::queue_topic;
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::{
    Ack, Batch, Delivery, Error, LogPosition, Report, Result, SinkPlugin, SinkTask, Topic, TopicPartition, Topics,
};
use aqueduct_log::{Fetch, LogReader};
use aqueduct_transforms::Converters;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One assigned partition.
struct Assigned {
    /// As it was assigned: identity, and the offset committed last.
    position: LogPosition,
    /// After the last record that was put.
    next: i64,
}

struct SinkLoop {
    run: TaskRun,
    sink: Box<dyn SinkTask>,
    reader: Box<dyn LogReader>,
    assigned: BTreeMap<TopicPartition, Assigned>,
    /// Read while the sink put.
    ahead: Option<Piece>,
    /// What was put before that. Its many small values are freed by the thread that decodes the next piece, before it does: the sink does not wait.
    spent: Batch,
    /// What happened behind that.
    event: Option<Result<Fetch>>,
    /// At most `aqueduct.buffer.bytes`.
    held: Held,
    /// They go with the positions that pass their records (invariant 2). At most `aqueduct.buffer.bytes` (invariant 6), and what one batch adds.
    letters: Letters,
    /// The topics of letters that were there, or were created.
    letter_topics: BTreeSet<Topic>,
    reports: Option<watch::Receiver<Report>>,
    /// Put, but not durable in the target.
    buffered: bool,
    records_uncommitted: u64,
    /// Of those.
    fate: Fate,
    bytes_uncommitted: u64,
    /// The highest timestamp among them.
    newest_uncommitted: Option<i64>,
    committed_at: Instant,
}

/// A piece that is gathered for a sink that wants many records (invariant 6). Decoded it takes many times this, and twice: one is put, one is ahead. Measured
/// with postgres-sink and Debezium's envelopes: 8 MiB peaked at 184 MB, 2 MiB at 105 MB. Its smaller
/// commits are slower: 0.44 of the statements by hand instead of 0.56, in runs at different hours.
const GATHER_MAX_BYTES: usize = 2 << 20;
/// Less is decoded before another thread would have begun.
const DECODE_HERE_BYTES: usize = 64 << 10;
/// Nothing new for so long: the sink has caught up.
const QUIET: Duration = Duration::from_millis(25);

/// `connect-<name>`: UIs find a sink's lag by this name.
pub fn group(connector: &str) -> String {
    format!("connect-{connector}")
}

pub async fn run(mut run: TaskRun, plugin: Arc<dyn SinkPlugin>, topics: Topics) -> Result<()> {
    let options = std::mem::take(&mut run.options);
    let spec = std::mem::take(&mut run.spec);
    let mut sink = run.stats.time(Call::Open, plugin.open(&options, spec)).await?;
    run.opened();
    drop(options);
    run.stats.promises(match sink.delivery() {
        Delivery::ExactlyOnce => None,
        Delivery::AtLeastOnce(why) => Some(why),
    });
    sink.reads_from(&run.cluster);
    let reader = match run.log.reader(&group(&run.id.connector), &run.id.to_string(), &topics).await {
        Ok(reader) => reader,
        Err(error) => {
            let closed = run.stats.time(Call::Close, sink.close()).await;
            return closed.and(Err(error));
        }
    };
    // A transform may look at anything.
    if let Some(projection) = sink.projection().filter(|_| run.chain.is_empty())
        && let Some(converters) = Arc::get_mut(&mut run.converters)
    {
        converters.project(projection);
    }
    let mut pump = SinkLoop {
        letters: Letters::new(run.limits.buffer_bytes),
        held: Held::new(run.limits.buffer_bytes),
        ahead: None,
        spent: Batch::new(),
        event: None,
        reports: sink.reports(),
        run,
        sink,
        reader,
        assigned: BTreeMap::new(),
        letter_topics: BTreeSet::new(),
        buffered: false,
        records_uncommitted: 0,
        fate: Fate::default(),
        bytes_uncommitted: 0,
        newest_uncommitted: None,
        committed_at: Instant::now(),
    };
    let outcome = match pump.pump().await {
        Ok(()) => pump.commit().await,
        Err(error) => Err(error),
    };
    pump.run.stats.partitions.store(0, Relaxed);
    let closed = pump.run.stats.time(Call::Close, pump.sink.close()).await;
    let left = pump.reader.close().await;
    outcome.and(closed).and(left)
}

impl SinkLoop {
    async fn pump(&mut self) -> Result<()> {
        while !self.run.stop.is_cancelled() {
            let mut idle = false;
            if let Some(piece) = self.ahead.take() {
                self.put(piece).await?;
            } else {
                let fetched = match self.event.take() {
                    Some(fetched) => fetched,
                    None => match self.fetch().await.transpose() {
                        Some(fetched) => fetched,
                        None => return Ok(()),
                    },
                };
                match fetched {
                    Ok(Fetch::Records(raw)) => {
                        let raw = cut(raw, self.sink.put_records_max(), &mut self.event);
                        self.run.stats.taken_in(raw.len(), raw.bytes());
                        self.put(Piece::decode(raw, &self.run.converters)).await?;
                    }
                    Ok(Fetch::Assigned(positions)) => self.take_over(positions).await?,
                    Ok(Fetch::Revoked(partitions)) => self.give_up(&partitions).await?,
                    Ok(Fetch::Idle) => {
                        idle = true;
                        if self.held.due().is_some() {
                            self.put(Piece::default()).await?;
                        }
                    }
                    Err(error) => return self.keep_and_fail(error).await,
                }
            }
            self.publish_lag();
            if self.records_uncommitted > 0 && self.committed_at.elapsed() >= self.commit_after(idle) {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// Nothing is wrong with what was put: it is committed before the task fails, so that an operator who moves the position past what cannot be
    /// read skips only that.
    async fn keep_and_fail(&mut self, error: Error) -> Result<()> {
        if let Err(failed) = self.commit().await {
            tracing::warn!(task = %self.run.id, "what was put before the error cannot be committed, it will be put again: {failed}");
        }
        Err(error)
    }

    /// How long after the last commit the next one is due. A sink that has caught up does not sit on its last records for a whole interval, but
    /// commits no more than ten times as often for it.
    fn commit_after(&self, idle: bool) -> Duration {
        if idle { self.run.limits.flush_interval / 10 } else { self.run.limits.flush_interval }
    }

    /// The next event; `None` when the task is to stop. Wakes in time for the next commit, and for what is held.
    async fn fetch(&mut self) -> Result<Option<Fetch>> {
        let wait = if self.records_uncommitted > 0 {
            self.commit_after(true).saturating_sub(self.committed_at.elapsed()).max(QUIET)
        } else {
            self.run.limits.wait_max
        };
        let wait = self.held.due().map_or(wait, |due| wait.min(due.saturating_duration_since(Instant::now())));
        let stop = self.run.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            fetched = self.reader.next(self.run.limits.batch_max_bytes, wait) => fetched.map(Some),
        }
    }

    async fn take_over(&mut self, positions: Vec<LogPosition>) -> Result<()> {
        let starts = self.run.stats.time(Call::Assigned, self.sink.assigned(&positions)).await?;
        for position in positions {
            self.run.active_topics.add(&position.topic);
            self.assigned.insert(position.topic_partition(), Assigned { next: position.offset, position });
        }
        for start in starts {
            let partition = start.topic_partition();
            self.reader.seek(&partition, start.offset).await?;
            if let Some(assigned) = self.assigned.get_mut(&partition) {
                assigned.next = start.offset;
            }
        }
        self.run.stats.partitions.store(self.assigned.len() as u64, Relaxed);
        Ok(())
    }

    async fn give_up(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.commit().await?;
        self.run.stats.time(Call::Assigned, self.sink.revoked(partitions)).await?;
        self.held.forget(partitions);
        for partition in partitions {
            self.assigned.remove(partition);
        }
        self.run.stats.partitions.store(self.assigned.len() as u64, Relaxed);
        Ok(())
    }

    /// Puts what is whole and, while the sink works, reads and decodes the next piece.
    async fn put(&mut self, new: Piece) -> Result<()> {
        let (held, sink) = (&mut self.held, &self.sink);
        let piece = held.next(new, &self.run.converters, Instant::now(), |batch| sink.unfinished(batch));
        let Piece { raw, batch, mut rejects } = piece;
        if raw.is_empty() {
            return Ok(());
        }
        failpoint::hit(point::SINK_FETCHED);
        let stats = self.run.stats.clone();
        if failpoint::planted(bug::SINK_COMMIT_BEFORE_PUT) {
            self.advance(&raw);
            self.store_positions().await?;
        }
        let batch = self.run.transform(batch, &mut rejects).await?;
        if !rejects.is_empty() && !self.run.policy.tolerate {
            // The task is about to fail at this batch; those before it are good.
            if let Err(error) = self.run.policy.decide(rejects.take(), Some(&raw), &stats) {
                return self.keep_and_fail(error).await;
            }
        }
        let refused = rejects.len();
        let cx = self.run.context(self.run.stop.clone());
        let (buffered, wanted, most, sink) =
            (self.buffered, self.sink.put_records(), self.sink.put_records_max(), &mut self.sink);
        let put = async {
            if batch.is_empty() {
                return Ok(if buffered { Ack::Buffered } else { Ack::Durable });
            }
            stats.time(Call::Put, sink.put(&batch, &mut rejects, &cx)).await
        };
        let ahead = ReadAhead {
            reader: &mut *self.reader,
            converters: &self.run.converters,
            limits: self.run.limits,
            tolerate: self.run.policy.tolerate,
            stats: &stats,
            most,
            piece: &mut self.ahead,
            spent: &mut self.spent,
            event: &mut self.event,
        };
        // The read begins first, on a thread of its own, then the sink works on this batch. Nothing is waited for here: what is not there when the
        // sink is done is fetched in the loop.
        let work = async { tokio::join!(biased; ahead.gather(wanted), put) };
        let mut span = BatchSpan::start("process", &self.run.id, Some(&batch));
        let ((), ack) = telling(&mut self.reports, &stats, work).await;
        let ack = ack.inspect_err(|error| span.failed(error))?;
        drop(span);
        failpoint::hit(point::SINK_PUT);
        self.advance(&raw);
        self.buffered = ack == Ack::Buffered;
        stats.made(Progress::HandedOn);
        if !self.buffered {
            stats.made(Progress::Acknowledged);
        }
        self.newest_uncommitted = self.newest_uncommitted.max(newest(&raw));
        self.records_uncommitted += raw.len() as u64;
        self.bytes_uncommitted += raw.bytes() as u64;
        stats.moved();
        let (passed, rejected) = (batch.len().saturating_sub(rejects.len() - refused), rejects.len());
        let letters = self.run.policy.decide(rejects.take(), Some(&raw), &stats)?;
        self.fate += Fate::new(raw.len(), passed, rejected, letters.len());
        self.letters.add(letters);
        self.letters.add(self.sink.take_letters().into_iter().collect());
        if self.letters.is_full() {
            self.commit().await?;
        }
        // With nothing ahead nobody would free it.
        self.spent = if self.ahead.is_some() { batch } else { Batch::new() };
        Ok(())
    }

    fn advance(&mut self, raw: &Batch) {
        for chunk in raw.chunks() {
            let (Some(origin), Some(last)) = (&chunk.origin, chunk.len().checked_sub(1)) else { continue };
            if let (Some(assigned), Some((_, offset))) = (self.assigned.get_mut(&**origin), chunk.get(last).origin()) {
                assigned.next = offset + 1;
            }
        }
    }

    /// Invariant 2: durable in the target, and only then the positions, together with the dead letters of what they pass.
    async fn commit(&mut self) -> Result<()> {
        if self.records_uncommitted == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let mut span = BatchSpan::start("settle", &self.run.id, None);
        let stats = self.run.stats.clone();
        if self.buffered {
            stats.time(Call::Flush, self.sink.flush()).await.inspect_err(|error| span.failed(error))?;
            self.buffered = false;
        }
        stats.made(Progress::Acknowledged);
        failpoint::hit(point::SINK_FLUSHED);
        if let Err(error) = self.store_positions().await {
            stats.commit_failures.fetch_add(1, Relaxed);
            span.failed(&error);
            return Err(error);
        }
        failpoint::hit(point::SINK_COMMITTED);
        stats.commit_took(began.elapsed());
        stats.settled(std::mem::take(&mut self.fate));
        stats.bytes_out.fetch_add(self.bytes_uncommitted, Relaxed);
        stats.made(Progress::Committed);
        if let Some(newest) = self.newest_uncommitted.take() {
            stats.timing.committed(newest);
        }
        (self.records_uncommitted, self.bytes_uncommitted) = (0, 0);
        self.committed_at = Instant::now();
        Ok(())
    }

    /// All assigned partitions in one commit: what a sink keeps as metadata may concern them together (one file for all).
    async fn store_positions(&mut self) -> Result<()> {
        let positions: Vec<LogPosition> = self
            .assigned
            .iter()
            .map(|(partition, assigned)| position_after(&assigned.position, assigned.next, self.sink.metadata(partition)))
            .collect();
        if !self.letters.is_empty() {
            self.ensure_topics().await?;
        }
        loop {
            let commit = self.reader.commit(&positions, self.letters.encoded()?);
            match self.run.stats.time(Call::Log, commit).await {
                Ok(()) => break,
                // Nothing was stored: it is tried again with less.
                Err(error) if error.code() == "log.record_too_large" => {
                    if !self.letters.shrink() {
                        self.run.stats.timing.letters_failed.fetch_add(1, Relaxed);
                        return Err(self.letters.too_large(error));
                    }
                }
                Err(error) => return Err(topic_vanished(error)),
            }
        }
        self.letters.clear();
        Ok(())
    }

    async fn ensure_topics(&mut self) -> Result<()> {
        for topic in self.letters.topics() {
            if self.letter_topics.contains(&topic) {
                continue;
            }
            let own = DeadLetterQueue { topic: topic.clone(), replication_factor: -1, context_headers: false };
            let queue = self.run.policy.dead_letter_queue.as_ref().filter(|queue| queue.topic == topic).unwrap_or(&own);
            queue_topic(queue, &self.run.id.connector, &*self.run.log).await?;
            self.letter_topics.insert(topic);
        }
        Ok(())
    }

    fn publish_lag(&self) {
        self.run.stats.set_lag(self.reader.lag().iter().map(|(_, lag)| lag).sum());
    }
}

/// Reads while the sink puts.
struct ReadAhead<'a> {
    reader: &'a mut dyn LogReader,
    converters: &'a Arc<Converters>,
    limits: Limits,
    tolerate: bool,
    stats: &'a TaskStats,
    /// Records of a put.
    most: usize,
    piece: &'a mut Option<Piece>,
    spent: &'a mut Batch,
    event: &'a mut Option<Result<Fetch>>,
}

impl ReadAhead<'_> {
    /// On a thread of its own: this one is the sink's. `None`: it failed, and the event says so.
    async fn decode(&mut self, raw: Batch) -> Option<Piece> {
        let spent = std::mem::take(self.spent);
        if raw.bytes() < DECODE_HERE_BYTES {
            return Some(Piece::decode(raw, self.converters));
        }
        let converters = self.converters.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            drop(spent);
            Piece::decode(raw, &converters)
        })
        .await;
        decoded
            .map_err(|error| *self.event = Some(Err(Error::fatal("worker.task_panicked", "a converter panicked").because(error))))
            .ok()
    }

    /// One batch, or as many as the sink wants records. Ends at the first thing that is to be done before anything else is read.
    async fn gather(mut self, wanted: usize) {
        let room = self.limits.buffer_bytes.min(GATHER_MAX_BYTES);
        while self.event.is_none() {
            match self.reader.next(self.limits.batch_max_bytes, Duration::ZERO).await {
                Ok(Fetch::Records(raw)) => {
                    let before = self.piece.as_ref().map_or(0, |piece| piece.raw.len());
                    let raw = cut(raw, self.most.saturating_sub(before), self.event);
                    let (records, bytes) = (raw.len(), raw.bytes());
                    let Some(more) = self.decode(raw).await else { return };
                    if !self.tolerate && !more.rejects.is_empty() && self.piece.is_some() {
                        // The task fails at these: what is before them is put alone.
                        *self.event = Some(Ok(Fetch::Records(more.raw)));
                        return;
                    }
                    self.stats.taken_in(records, bytes);
                    let piece = self.piece.get_or_insert_default();
                    piece.append(more);
                    if piece.raw.len() >= wanted || piece.raw.bytes() >= room {
                        return;
                    }
                }
                Ok(Fetch::Idle) => return,
                event => *self.event = Some(event),
            }
        }
    }
}

/// The highest timestamp, by the last record of each chunk: those of one partition are in order, or nearly.
fn newest(batch: &Batch) -> Option<i64> {
    batch.chunks().iter().filter_map(|chunk| chunk.get(chunk.len().checked_sub(1)?).timestamp()).max()
}

/// What a put may have of it; the rest comes next.
fn cut(raw: Batch, most: usize, next: &mut Option<Result<Fetch>>) -> Batch {
    let most = most.max(1);
    if raw.len() <= most {
        return raw;
    }
    *next = Some(Ok(Fetch::Records(raw.slice(most..raw.len()))));
    raw.slice(0..most)
}

/// Shows what the sink tells of itself while it works.
async fn telling<T>(reports: &mut Option<watch::Receiver<Report>>, stats: &TaskStats, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let Some(reports) = reports else { return work.await };
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            Ok(()) = reports.changed() => stats.reports(reports.borrow_and_update().clone()),
        }
    };
    if reports.has_changed().unwrap_or(false) {
        stats.reports(reports.borrow_and_update().clone());
    }
    done
}
