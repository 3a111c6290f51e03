//! The sink loop: read → decode → transforms → put, then flush and commit. The next read runs while the sink puts.

use crate::letters::Letters;
use crate::policy::position_after;
use crate::source::topic_vanished;
use crate::stats::{Call, Fate};
use crate::task::TaskRun;
use crate::topics::queue_topic;
use aqueduct_core::failpoint::{self, bug, point};
use aqueduct_core::{Ack, Batch, Delivery, Error, LogPosition, Rejects, Result, SinkPlugin, SinkTask, TopicPartition, Topics};
use aqueduct_log::{Fetch, LogReader};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

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
    /// They go with the positions that pass their records (invariant 2). At most `aqueduct.buffer.bytes` (invariant 6), and what one batch adds.
    letters: Letters,
    /// The dead letter queue was there, or was created.
    queue_exists: bool,
    /// Put, but not durable in the target.
    buffered: bool,
    records_uncommitted: u64,
    /// Of those.
    fate: Fate,
    bytes_uncommitted: u64,
    committed_at: Instant,
}

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
    drop(options);
    run.stats.promises(match sink.delivery() {
        Delivery::ExactlyOnce => None,
        Delivery::AtLeastOnce(why) => Some(why),
    });
    let reader = match run.log.reader(&group(&run.id.connector), &run.id.to_string(), &topics).await {
        Ok(reader) => reader,
        Err(error) => {
            let closed = run.stats.time(Call::Close, sink.close()).await;
            return closed.and(Err(error));
        }
    };
    let mut pump = SinkLoop {
        letters: Letters::new(run.limits.buffer_bytes),
        run,
        sink,
        reader,
        assigned: BTreeMap::new(),
        queue_exists: false,
        buffered: false,
        records_uncommitted: 0,
        fate: Fate::default(),
        bytes_uncommitted: 0,
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
        let mut ahead: Option<Fetch> = None;
        while !self.run.stop.is_cancelled() {
            let fetched = match ahead.take() {
                Some(fetched) => fetched,
                None => match self.fetch().await {
                    Ok(Some(fetched)) => fetched,
                    Ok(None) => return Ok(()),
                    Err(error) => return self.keep_and_fail(error).await,
                },
            };
            let idle = matches!(fetched, Fetch::Idle);
            match fetched {
                Fetch::Records(batch) => {
                    failpoint::hit(point::SINK_FETCHED);
                    ahead = match self.put_and_read_ahead(batch).await? {
                        Ok(Fetch::Idle) => None,
                        Ok(fetched) => Some(fetched),
                        Err(error) => return self.keep_and_fail(error).await,
                    };
                }
                Fetch::Assigned(positions) => self.take_over(positions).await?,
                Fetch::Revoked(partitions) => self.give_up(&partitions).await?,
                Fetch::Idle => {}
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

    /// The next event; `None` when the task is to stop. Wakes in time for the next commit.
    async fn fetch(&mut self) -> Result<Option<Fetch>> {
        let wait = if self.records_uncommitted > 0 {
            self.commit_after(true).saturating_sub(self.committed_at.elapsed()).max(QUIET)
        } else {
            self.run.limits.wait_max
        };
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
        for partition in partitions {
            self.assigned.remove(partition);
        }
        self.run.stats.partitions.store(self.assigned.len() as u64, Relaxed);
        Ok(())
    }

    /// Puts a batch and, while the sink works, reads the next one: the inner result is that of the reader.
    async fn put_and_read_ahead(&mut self, raw: Batch) -> Result<Result<Fetch>> {
        let stats = self.run.stats.clone();
        stats.taken_in(raw.len(), raw.bytes());
        if failpoint::planted(bug::SINK_COMMIT_BEFORE_PUT) {
            self.advance(&raw);
            self.store_positions().await?;
        }
        let mut rejects = Rejects::default();
        // Cheap: a batch is a few chunks over shared buffers. The raw one is kept for dead letters and positions.
        let decoded = self.run.converters.decode(raw.clone(), &mut rejects);
        let batch = self.run.transform(decoded, &mut rejects).await?;
        if !rejects.is_empty() && !self.run.policy.tolerate {
            // The task is about to fail at this batch; those before it are good.
            if let Err(error) = self.run.policy.decide(rejects.take(), Some(&raw), &stats) {
                return self.keep_and_fail(error).await.map(|()| Ok(Fetch::Idle));
            }
        }
        let refused = rejects.len();
        let cx = self.run.context(self.run.stop.clone());
        let (max_bytes, sink) = (self.run.limits.batch_max_bytes, &mut self.sink);
        let put = async {
            if batch.is_empty() {
                return Ok(if self.buffered { Ack::Buffered } else { Ack::Durable });
            }
            stats.time(Call::Put, sink.put(&batch, &mut rejects, &cx)).await
        };
        // The read begins first, on a thread of its own, then the sink works on this batch. Nothing is waited for here: what is not there when the
        // sink is done is fetched in the loop.
        let (ahead, ack) = tokio::join!(biased; self.reader.next(max_bytes, Duration::ZERO), put);
        let ack = ack?;
        failpoint::hit(point::SINK_PUT);
        self.advance(&raw);
        self.buffered = ack == Ack::Buffered;
        self.records_uncommitted += raw.len() as u64;
        self.bytes_uncommitted += raw.bytes() as u64;
        stats.moved();
        let (passed, rejected) = (batch.len().saturating_sub(rejects.len() - refused), rejects.len());
        let letters = self.run.policy.decide(rejects.take(), Some(&raw), &stats)?;
        self.fate += Fate::new(raw.len(), passed, rejected, letters.len());
        self.letters.add(letters);
        if self.letters.is_full() {
            self.commit().await?;
        }
        Ok(ahead)
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
        let stats = self.run.stats.clone();
        if self.buffered {
            stats.time(Call::Flush, self.sink.flush()).await?;
            self.buffered = false;
        }
        failpoint::hit(point::SINK_FLUSHED);
        if let Err(error) = self.store_positions().await {
            stats.commit_failures.fetch_add(1, Relaxed);
            return Err(error);
        }
        failpoint::hit(point::SINK_COMMITTED);
        stats.commit_took(began.elapsed());
        stats.settled(std::mem::take(&mut self.fate));
        stats.bytes_out.fetch_add(self.bytes_uncommitted, Relaxed);
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
            self.ensure_queue().await?;
        }
        loop {
            let commit = self.reader.commit(&positions, self.letters.encoded()?);
            match self.run.stats.time(Call::Log, commit).await {
                Ok(()) => break,
                // Nothing was stored: it is tried again with less.
                Err(error) if error.code() == "log.record_too_large" => {
                    if !self.letters.shrink() {
                        return Err(self.letters.too_large(error));
                    }
                }
                Err(error) => return Err(topic_vanished(error)),
            }
        }
        self.letters.clear();
        Ok(())
    }

    async fn ensure_queue(&mut self) -> Result<()> {
        let Some(queue) = self.run.policy.dead_letter_queue.as_ref().filter(|_| !self.queue_exists) else { return Ok(()) };
        queue_topic(queue, &self.run.id.connector, &*self.run.log).await?;
        self.queue_exists = true;
        Ok(())
    }

    fn publish_lag(&self) {
        self.run.stats.set_lag(self.reader.lag().iter().map(|(_, lag)| lag).sum());
    }
}
