//! Sends a put's requests: several at once, in order within each chain, tried again as their answers tell.

use super::SinkParts;
use super::batch::{Prepared, Unfit};
use super::breaker::State;
use super::config::Exhausted;
use super::ledger;
use super::outcome::{Verdict, copy};
use super::plan::Plan;
use super::receipt;
use crate::client::{Client, Failure, Reply, Request};
use aqueduct_core::{CancellationToken, Error, Rejects, Result, TaskId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How long a task that is to stop goes on with what it was given, and one that fails waits for the answers to what it has sent.
const GRACE: Duration = Duration::from_secs(3);

pub(super) struct Flight<'a> {
    parts: &'a mut SinkParts,
    task: &'a TaskId,
    batch: &'a Prepared<'a>,
    rejects: &'a mut Rejects,
    plan: Plan,
    /// Jobs that wait for their next try.
    waiting: BinaryHeap<Reverse<(Instant, u32)>>,
    tries: FxHashMap<u32, Tries>,
    /// The receiver asked for it: nothing begins before.
    paused: Option<Instant>,
    began: Instant,
    /// By the record's number.
    taken: Vec<bool>,
    finished: bool,
}

/// However it ends (an error, a task that is aborted in the middle): what was answered is known to the next.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.finished {
            for (place, _) in self.batch.places.iter().zip(&self.taken).filter(|(_, taken)| **taken) {
                self.parts.ledger.note(place, true);
            }
            ledger::keep(self.task, self.parts.settings.target, std::mem::take(&mut self.parts.ledger), self.paused);
        }
    }
}

#[derive(Clone, Copy)]
struct Tries {
    failed: u32,
    /// When it was sent first.
    since: Instant,
}

type Answer = (u32, Result<Reply, Failure>);

impl<'a> Flight<'a> {
    pub(super) fn new(parts: &'a mut SinkParts, task: &'a TaskId, batch: &'a Prepared<'a>, rejects: &'a mut Rejects) -> Self {
        let plan = Plan::new(&batch.items, Prepared::limits(&parts.settings));
        let (waiting, tries, paused, began) = (BinaryHeap::new(), FxHashMap::default(), parts.wait_until.take(), Instant::now());
        let taken = vec![false; batch.records.len()];
        Self { parts, task, batch, rejects, plan, waiting, tries, paused, began, taken, finished: false }
    }

    /// Until every record is answered for, or the first error. After an error nothing begins, but what is under way may still be answered: a request
    /// that the receiver has and that is dropped here is sent a second time.
    pub(super) async fn run(mut self, interrupt: &CancellationToken) -> Result<()> {
        if let Some(until) = self.paused {
            self.check_pause(until, "the receiver asked for it before")?;
        }
        let mut under_way = FuturesUnordered::new();
        let mut stop_at: Option<Instant> = None;
        let mut failed: Option<Error> = None;
        // One for all rounds: to register it takes a lock.
        let mut interrupted = pin!(interrupt.cancelled());
        loop {
            let now = Instant::now();
            if failed.is_none() {
                self.wake(now);
                while let Some((job, request, limit)) = self.next(under_way.len(), now) {
                    under_way.push(send(self.parts.client.clone(), job, request, limit));
                }
                if under_way.is_empty() && self.plan.ready.is_empty() && self.waiting.is_empty() {
                    self.finished = true;
                    return Ok(());
                }
            }
            if stop_at.is_some_and(|at| now >= at || under_way.is_empty()) {
                let stopped = || Error::retriable("http_sink.stopped", "the task stops before every request was answered");
                return Err(failed.unwrap_or_else(stopped));
            }
            let alarm = if failed.is_none() { self.alarm() } else { None }.into_iter().chain(stop_at).min();
            tokio::select! {
                biased;
                Some(answer) = under_way.next(), if !under_way.is_empty() => if let Err(error) = self.settle(answer) {
                    stop_at.get_or_insert_with(|| Instant::now() + GRACE);
                    failed.get_or_insert(error);
                },
                () = &mut interrupted, if stop_at.is_none() => stop_at = Some(Instant::now() + GRACE),
                () = sleep_until(alarm), if alarm.is_some() => {}
            }
        }
    }

    /// What has waited long enough goes first.
    fn wake(&mut self, now: Instant) {
        self.paused = self.paused.filter(|until| now < *until);
        while let Some(Reverse((at, job))) = self.waiting.peek().copied() {
            if at > now {
                break;
            }
            self.waiting.pop();
            self.plan.ready.push_front(job);
        }
    }

    /// When there is something to begin that cannot begin now. `None`: only answers are waited for.
    fn alarm(&self) -> Option<Instant> {
        let held =
            if self.plan.ready.is_empty() { None } else { self.paused.into_iter().chain(self.parts.breaker.probe_at()).max() };
        let next = self.waiting.peek().map(|Reverse((at, _))| *at);
        held.into_iter().chain(next).min()
    }

    /// The next request, where one may begin, and how long it may take.
    fn next(&mut self, under_way: usize, now: Instant) -> Option<(u32, Request, Duration)> {
        if self.paused.is_some() || under_way >= self.parts.breaker.limit(self.parts.settings.in_flight, now) {
            return None;
        }
        loop {
            let job = self.plan.ready.pop_front()?;
            let records = &self.plan.jobs[job as usize].records;
            match self.batch.request(records, &self.parts.settings, &self.parts.identity, &self.task.connector) {
                Ok(request) => {
                    let tries = self.tries.entry(job).or_insert(Tries { failed: 0, since: now });
                    let left = self.parts.settings.retry_timeout.saturating_sub(now - tries.since);
                    return Some((job, request, left.max(Duration::from_millis(1))));
                }
                Err(Unfit::Refused(refused)) => {
                    for (record, why) in &refused {
                        self.reject(*record, "http_sink.record", why);
                    }
                    self.plan.jobs[job as usize].records.retain(|record| !refused.iter().any(|(refused, _)| refused == record));
                    self.again_or_release(job);
                }
                Err(Unfit::TooLarge(bytes)) if records.len() == 1 => {
                    let why = format!("the body has {bytes} bytes, more than request.max.bytes");
                    self.reject(records[0], "http_sink.too_large", &why);
                    self.release(job);
                }
                Err(Unfit::TooLarge(_)) => {
                    self.plan.split(job);
                    self.plan.ready.push_front(job);
                }
            }
        }
    }

    fn settle(&mut self, (job, answer): Answer) -> Result<()> {
        let records = self.plan.jobs[job as usize].records.len();
        let batches = self.parts.settings.cut.records_max > 1;
        let verdict = self.parts.settings.reading.judge(&answer, records, batches);
        if let Verdict::Again { broken: true, error, .. } = &verdict {
            self.parts.breaker.failed(Instant::now());
            self.parts.status.failed(error);
        } else {
            self.parts.breaker.succeeded();
        }
        self.parts.status.circuit(&self.parts.breaker);
        match verdict {
            Verdict::Done => {
                let records = self.plan.jobs[job as usize].records.clone();
                if let Ok(reply) = &answer {
                    self.receipt(&records, reply);
                }
                self.taken(records);
                self.release(job);
            }
            Verdict::Again { after, error, .. } => self.again(job, after, error)?,
            Verdict::Each { refused, again, error } => {
                let records = self.plan.jobs[job as usize].records.clone();
                let open = |place: &usize| again.contains(place) || refused.iter().any(|(refused, _)| refused == place);
                let taken: Vec<u32> = (0..records.len()).filter(|place| !open(place)).map(|place| records[place]).collect();
                if let (Ok(reply), false) = (&answer, taken.is_empty()) {
                    self.receipt(&taken, reply);
                }
                self.taken(taken);
                for (place, why) in refused {
                    self.reject(records[place], "http_sink.refused", &format!("the receiver refused the record: {why}"));
                }
                self.plan.jobs[job as usize].records = again.into_iter().map(|place| records[place]).collect();
                match error {
                    Some(error) => self.again(job, None, error)?,
                    None => self.release(job),
                }
            }
            // Which of them it is, halves of halves tell.
            Verdict::Refused(_) if records > 1 => {
                self.plan.split(job);
                self.plan.ready.push_front(job);
            }
            Verdict::Refused(why) => {
                self.reject(self.plan.jobs[job as usize].records[0], "http_sink.refused", &why);
                self.release(job);
            }
            Verdict::Fail(error) => return Err(error),
        }
        Ok(())
    }

    fn receipt(&mut self, records: &[u32], reply: &Reply) {
        if self.parts.settings.receipts.results.is_none() {
            return;
        }
        let key =
            self.parts.settings.key_header.is_some().then(|| self.batch.key(records, &self.parts.identity, &self.task.connector));
        let key = key.as_ref().and_then(|key| key.to_str().ok());
        let of: Vec<_> = records.iter().map(|record| self.batch.records[*record as usize]).collect();
        let letter = receipt::of_answer(&self.parts.settings.receipts, &of, reply.status.as_u16(), &reply.body, key);
        if let Some(letter) = letter {
            self.parts.ledger.write(&self.batch.places[records[0] as usize], letter);
        }
    }

    /// These were taken.
    fn taken(&mut self, records: impl IntoIterator<Item = u32>) {
        for record in records {
            self.taken[record as usize] = true;
        }
    }

    /// The next of the chain may begin.
    fn release(&mut self, job: u32) {
        self.tries.remove(&job);
        self.plan.ready.extend(self.plan.jobs[job as usize].next);
    }

    fn again_or_release(&mut self, job: u32) {
        if self.plan.jobs[job as usize].records.is_empty() { self.release(job) } else { self.plan.ready.push_front(job) }
    }

    /// Later, or never.
    fn again(&mut self, job: u32, after: Option<Duration>, error: Error) -> Result<()> {
        self.parts.status.tried_again();
        let (now, settings) = (Instant::now(), &self.parts.settings);
        let tries = self.tries.entry(job).or_insert(Tries { failed: 0, since: now });
        let (failed, since) = (tries.failed, tries.since);
        tries.failed += 1;
        let pause = settings.client.retry.wait(failed, after);
        let (Some(pause), Some(_)) = (pause, after) else {
            return match pause {
                Some(pause) if now + pause < since + settings.retry_timeout => {
                    self.waiting.push(Reverse((now + pause, job)));
                    Ok(())
                }
                _ => self.give_up(job, failed + 1, &error),
            };
        };
        // Who limits the rate means all requests. The time that the receiver asked for is none of the request's own.
        tries.since += pause;
        let until = now + pause;
        self.paused = Some(self.paused.map_or(until, |paused| paused.max(until)));
        self.waiting.push(Reverse((until, job)));
        self.check_pause(until, error.message())
    }

    /// A call must return: a pause beyond its time is waited for by the worker, which opens the task again meanwhile.
    fn check_pause(&self, until: Instant, why: &str) -> Result<()> {
        if until <= self.began + self.parts.settings.retry_timeout {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        let message = format!("the receiver is to be left alone for {left} s: {why}");
        Err(Error::retriable("http_sink.told_to_wait", message)
            .fix("ask its operator for a higher rate; until then nothing is lost"))
    }

    fn give_up(&mut self, job: u32, tries: u32, error: &Error) -> Result<()> {
        let why = format!("given up after {tries} tries: {}", error.message());
        if self.parts.settings.exhausted == Exhausted::Fail {
            let hint = error.hint().unwrap_or("see what is wrong at the receiver; the worker tries again by itself");
            let code = if matches!(self.parts.breaker.state(), State::Open(_)) {
                "http_sink.circuit_open"
            } else {
                "http_sink.exhausted"
            };
            return Err(Error::retriable(code, why).fix(hint).because(copy(error)));
        }
        for record in self.plan.jobs[job as usize].records.clone() {
            self.reject(record, "http_sink.exhausted", &why);
        }
        self.release(job);
        Ok(())
    }

    fn reject(&mut self, record: u32, code: &'static str, why: &str) {
        let (record, place) = (self.batch.records[record as usize], &self.batch.places[record as usize]);
        self.parts.refuse(record, place, (code, why), self.rejects);
    }
}

async fn send(client: Client, job: u32, request: Request, limit: Duration) -> Answer {
    (job, client.send_within(request, limit).await)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
