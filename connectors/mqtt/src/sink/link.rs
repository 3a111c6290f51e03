//! A connection that sends: a task of its own, since the broker wants a sign of life also when there is nothing to put.

use crate::connection::Connection;
use crate::error;
use crate::wire::{self, Ack, Incoming, Outgoing, Version};
use aqueduct_core::{Error, Result};
use rustc_hash::FxHashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// What holds for every message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub qos: u8,
    pub retain: bool,
    /// Messages that may be without an answer.
    pub window: usize,
    /// Of the broker, in bytes.
    pub maximum_packet: usize,
    /// Without any answer for this long the connection counts as dead.
    pub patience: Duration,
}

/// A message, and which record it is.
pub(super) type Numbered = (usize, Outgoing);

struct Job {
    messages: Vec<Numbered>,
    /// One at a time: so that it is known which one ends the connection.
    careful: bool,
    done: oneshot::Sender<Sent>,
}

/// What came of a job.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Records that the broker refuses, and the reason.
    pub refused: Vec<(usize, u8)>,
    /// What it has not answered, in order.
    pub rest: Vec<Numbered>,
    /// Why there is a rest: the link is over.
    pub failed: Option<Error>,
}

pub(super) struct Link {
    pub place: String,
    jobs: Option<mpsc::Sender<Job>>,
    driver: AbortOnDropHandle<Result<()>>,
}

impl Link {
    pub(super) fn start(connection: Connection, terms: Terms) -> Self {
        let (jobs, queue) = mpsc::channel(1);
        let place = connection.place.clone();
        let driver = Driver { connection, terms, waiting: FxHashMap::default(), last: 0 };
        #[allow(clippy::disallowed_methods, reason = "owned by the link, and ended with it")]
        let driver = AbortOnDropHandle::new(tokio::task::spawn(driver.drive(queue)));
        Self { place, jobs: Some(jobs), driver }
    }

    /// The broker ended the connection, or never answered.
    pub(super) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }

    /// Sends all and waits until each is answered, or the connection is over.
    ///
    /// # Errors
    /// When the connection was over before.
    pub(super) async fn send(&mut self, messages: Vec<Numbered>, careful: bool) -> Result<Sent> {
        let (done, answer) = oneshot::channel();
        if let Some(jobs) = &self.jobs
            && jobs.send(Job { messages, careful, done }).await.is_ok()
            && let Ok(sent) = answer.await
        {
            return Ok(sent);
        }
        let gone = |why: &str| error::unreachable(&self.place, why);
        match (&mut self.driver).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => Err(gone("the connection was closed")),
            Err(failed) => Err(gone(&failed.to_string())),
        }
    }

    /// Says good-bye.
    pub(super) async fn end(&mut self) {
        self.jobs = None;
        if !self.driver.is_finished() {
            let _ = timeout(Duration::from_secs(10), &mut self.driver).await;
        }
    }
}

struct Driver {
    connection: Connection,
    terms: Terms,
    /// Packet id → place of the message in the job.
    waiting: FxHashMap<u16, usize>,
    last: u16,
}

/// Of the messages of a job.
struct Answers {
    answered: Vec<bool>,
    refused: Vec<(usize, u8)>,
}

/// What is written ahead of the socket: enough to fill it, and no copy of the batch.
const OUTPUT_BYTES: usize = 256 << 10;
const LONG: Duration = Duration::from_secs(3600);

impl Driver {
    async fn drive(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<()> {
        loop {
            let job = tokio::select! {
                biased;
                job = jobs.recv() => job,
                turned = self.connection.turn(true, Instant::now() + LONG) => {
                    turned?;
                    // Answers to pings; nothing else is due.
                    while self.connection.next()?.is_some() {}
                    continue;
                }
            };
            let Some(Job { messages, careful, done }) = job else {
                self.connection.end(false).await;
                return Ok(());
            };
            let mut answers = Answers { answered: vec![false; messages.len()], refused: Vec::new() };
            let window = if careful { 1 } else { self.terms.window };
            let failed = self.send(&messages, window, &mut answers).await.err();
            let over = failed.is_some();
            // QoS 0 has no answers but the last one.
            let answered = |place: &usize| !over || answers.answered[*place];
            let rest =
                messages.into_iter().enumerate().filter(|(place, _)| !answered(place)).map(|(_, message)| message).collect();
            let _ = done.send(Sent { refused: answers.refused, rest, failed });
            if over {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, messages: &[Numbered], window: usize, answers: &mut Answers) -> Result<()> {
        let mut next = 0;
        // With QoS 0 the answer to a ping stands for all that was sent before it.
        let mut pong = None;
        let mut deadline = Instant::now() + self.terms.patience;
        loop {
            while next < messages.len() && self.waiting.len() < window && self.connection.output.len() < OUTPUT_BYTES {
                self.publish(next, &messages[next], answers);
                next += 1;
            }
            if next == messages.len() && self.waiting.is_empty() {
                match pong {
                    _ if self.terms.qos > 0 => return Ok(()),
                    Some(answer) if self.connection.pongs >= answer => return Ok(()),
                    Some(_) => {}
                    None => pong = Some(self.connection.ask()),
                }
            }
            // Time runs while the broker neither takes nor answers.
            let sending = !self.connection.output.is_empty();
            if self.connection.turn(true, deadline).await? || (sending && self.connection.output.is_empty()) {
                deadline = Instant::now() + self.terms.patience;
            } else if Instant::now() >= deadline {
                return Err(error::timeout(&self.connection.place, "no answer to what was published"));
            }
            while let Some(packet) = self.connection.next()? {
                self.answered(packet, messages, answers)?;
            }
        }
    }

    fn publish(&mut self, place: usize, (record, message): &Numbered, answers: &mut Answers) {
        let Terms { qos, retain, .. } = self.terms;
        let pid = if qos == 0 { 0 } else { self.free_id() };
        let packet = wire::publish_out(self.connection.version, qos, pid, retain, message);
        match packet {
            Ok(packet) if packet.len() <= self.terms.maximum_packet => {
                self.connection.output.extend_from_slice(&packet);
                if qos > 0 {
                    self.waiting.insert(pid, place);
                }
            }
            _ => {
                answers.answered[place] = true;
                answers.refused.push((*record, 0x95));
            }
        }
    }

    /// The window is less than the number of ids.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.waiting.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    fn answered(&mut self, packet: Incoming, messages: &[Numbered], answers: &mut Answers) -> Result<()> {
        let Incoming::Ack { kind, pid, reason } = packet else { return Ok(()) };
        match kind {
            Ack::Pubrec if reason < 0x80 => {
                let unknown = !self.waiting.contains_key(&pid) && self.connection.version == Version::V5;
                wire::acknowledge(Ack::Pubrel, pid, if unknown { 0x92 } else { 0 }, &mut self.connection.output);
            }
            Ack::Puback | Ack::Pubrec | Ack::Pubcomp => {
                let Some(place) = self.waiting.remove(&pid) else { return Ok(()) };
                match reason {
                    // PUBCOMP has one reason more, 0x92: it is the broker's own book-keeping, and the message was taken by PUBREC.
                    _ if reason < 0x80 || kind == Ack::Pubcomp => {}
                    // About the moment, not about the message.
                    0x80 | 0x83 | 0x91 | 0x97 => return Err(busy(&self.connection.place, reason)),
                    _ => answers.refused.push((messages[place].0, reason)),
                }
                answers.answered[place] = true;
            }
            Ack::Pubrel => return Err(error::malformed(&self.connection.place, "a PUBREL for a message that it never sent")),
        }
        Ok(())
    }
}

fn busy(place: &str, reason: u8) -> Error {
    Error::retriable("mqtt_sink.busy", format!("{place} takes no message now: {}", error::reason(reason, None)))
        .fix("see the broker's limits and log; it is tried again")
}
