//! The partitions that a reader has: what was fetched of them, what was handed out, and whom to ask next.

use crate::admin;
use crate::client::{Client, Leader};
use crate::error::{self, At};
use crate::fetch::{self, Want};
use crate::membership::Share;
use crate::options::OffsetReset;
use crate::producer::again;
use aqueduct_core::{Batch, Error, LogPosition, Result, TopicPartition};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::fetch_response::PartitionData;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After a fetch that failed for a reason that passes: a leader is elected, a topic is going.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// A new leader may lag for a moment; records that are still missing after this are lost.
const BEYOND_END_MAX: Duration = Duration::from_secs(10);
const BEYOND_END_PAUSE: Duration = Duration::from_secs(1);
/// The least that is asked for in one fetch.
const FETCH_MIN_BYTES: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Partitions {
    all: Vec<Partition>,
    /// Who is handed out and asked for first, so that none starves.
    turn: usize,
    /// Of fetches under way: the broker, so that nothing waits behind a fetch that is held back.
    flying: Vec<i32>,
    /// `auto.offset.reset`, when it was set: for a position beyond the end.
    reset: Option<OffsetReset>,
}

pub(crate) struct Partition {
    pub(crate) tp: Arc<TopicPartition>,
    share: Share,
    /// Behind what was handed out.
    next: i64,
    /// Behind what is ready.
    fetched: i64,
    end: i64,
    ready: Batch,
    failed: Option<Error>,
    not_before: Option<Instant>,
    /// Since when the position is known to lie beyond the end.
    beyond: Option<Instant>,
    flying: bool,
    /// Goes up with each seek: what was asked for before is void.
    version: u64,
    /// Revoked: nothing more is handed out or fetched.
    resting: bool,
}

impl Partition {
    pub(crate) fn new(position: &LogPosition, end: i64) -> Self {
        Self {
            tp: Arc::new(position.topic_partition()),
            share: (position.topic_id, position.partition),
            next: position.offset,
            fetched: position.offset,
            end,
            ready: Batch::default(),
            failed: None,
            not_before: None,
            beyond: None,
            flying: false,
            version: 0,
            resting: false,
        }
    }

    pub(crate) fn seek(&mut self, offset: i64) {
        self.version += 1;
        (self.next, self.fetched) = (offset, offset);
        self.ready = Batch::default();
        (self.failed, self.not_before, self.beyond) = (None, None, None);
    }

    fn wants(&self, now: Instant) -> bool {
        !self.resting
            && !self.flying
            && self.ready.is_empty()
            && self.failed.is_none()
            && self.not_before.is_none_or(|at| at <= now)
    }

    fn took(&mut self, outcome: Outcome, reset: Option<OffsetReset>, now: Instant) {
        match outcome {
            Outcome::Data(data) => {
                self.beyond = None;
                self.end = data.last_stable_offset.max(self.fetched);
                match fetch::decode(&data, &self.tp, self.fetched, &mut self.ready) {
                    Ok(next) => self.fetched = next,
                    Err(damage) => {
                        // What is sound before it is handed out first.
                        let last = self.ready.iter().last().and_then(|record| record.origin());
                        self.fetched = last.map_or(self.fetched, |(_, offset)| offset + 1);
                        self.failed = Some(fetch::corrupt(&self.tp, self.fetched, &damage));
                    }
                }
                if self.ready.is_empty() {
                    self.next = self.fetched;
                }
            }
            Outcome::OutOfRange { start, end } => self.out_of_range(start, end, reset, now),
            Outcome::Later => self.not_before = Some(now + FAILED_PAUSE),
            Outcome::Failed(error) => self.failed = Some(error),
        }
    }

    fn out_of_range(&mut self, start: i64, end: i64, reset: Option<OffsetReset>, now: Instant) {
        let position = self.fetched;
        let found = range(position, start, end, self.beyond, now);
        self.beyond = None;
        match (found, reset) {
            (Range::Start, _) => (self.next, self.fetched) = (start, start),
            (Range::Within, _) => self.not_before = Some(now + FAILED_PAUSE),
            (Range::Wait(since), _) => (self.beyond, self.not_before) = (Some(since), Some(now + BEYOND_END_PAUSE)),
            (Range::Lost, Some(reset @ (OffsetReset::Earliest | OffsetReset::Latest))) => {
                let to = if reset == OffsetReset::Earliest { start } else { end };
                tracing::warn!("{}; auto.offset.reset: reads on at {to}", beyond_end(&self.tp, position, end).message());
                (self.next, self.fetched, self.end) = (to, to, end);
            }
            (Range::Lost, _) => self.failed = Some(beyond_end(&self.tp, position, end)),
        }
    }
}

/// What becomes of a position that the broker does not have.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// Its records were deleted: read on at the start.
    Start,
    /// The log has grown to it, or moved, since it was asked.
    Within,
    /// Beyond the end, since this moment.
    Wait(Instant),
    /// Beyond the end for good: what was there is lost.
    Lost,
}

fn range(position: i64, start: i64, end: i64, beyond: Option<Instant>, now: Instant) -> Range {
    if position < start {
        return Range::Start;
    }
    if position <= end {
        return Range::Within;
    }
    let since = beyond.unwrap_or(now);
    if now.saturating_duration_since(since) >= BEYOND_END_MAX { Range::Lost } else { Range::Wait(since) }
}

fn beyond_end(tp: &TopicPartition, position: i64, end: i64) -> Error {
    let message = format!(
        "topic {}, partition {}: the position {position} lies beyond the end {end}: the partition lost records or was created anew",
        tp.topic, tp.partition
    );
    Error::fatal("kafka.position_beyond_end", message)
        .fix("set the connector's offsets, or consumer.override.auto.offset.reset: earliest or latest")
}

/// What a fetch says of one partition.
enum Outcome {
    Data(Box<PartitionData>),
    /// What was asked for is not there (any more); the log is between these.
    OutOfRange {
        start: i64,
        end: i64,
    },
    /// The leader is another one, or the topic is going.
    Later,
    Failed(Error),
}

/// A fetch that is back.
pub(crate) struct Landed {
    broker: i32,
    asked: Vec<Asked>,
    outcomes: Vec<Outcome>,
}

struct Asked {
    tp: Arc<TopicPartition>,
    share: Share,
    version: u64,
    from: i64,
    leader: Leader,
}

impl Partitions {
    pub(crate) fn new(reset: Option<OffsetReset>) -> Self {
        Self { reset, ..Self::default() }
    }

    pub(crate) fn add(&mut self, partition: Partition) {
        self.all.push(partition);
    }

    pub(crate) fn remove(&mut self, share: Share) {
        self.all.retain(|partition| partition.share != share);
    }

    pub(crate) fn of(&self, share: Share) -> Option<&Partition> {
        self.all.iter().find(|partition| partition.share == share)
    }

    pub(crate) fn rest(&mut self, share: Share) {
        if let Some(partition) = self.all.iter_mut().find(|partition| partition.share == share) {
            partition.resting = true;
            partition.ready = Batch::default();
        }
    }

    /// # Errors
    /// `log.not_assigned` (fatal).
    pub(crate) fn get_mut(&mut self, tp: &TopicPartition) -> Result<&mut Partition> {
        self.all
            .iter_mut()
            .find(|partition| *partition.tp == *tp)
            .ok_or_else(|| Error::fatal("log.not_assigned", format!("{tp} is not assigned to this reader")))
    }

    pub(crate) fn lag(&self) -> Vec<(TopicPartition, i64)> {
        self.all.iter().map(|partition| ((*partition.tp).clone(), (partition.end - partition.next).max(0))).collect()
    }

    /// When something is to be tried again. What is due already waits for a fetch that is under way.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let tries = self.all.iter().filter(|partition| !partition.resting).filter_map(|partition| partition.not_before);
        tries.filter(|at| *at > now).min()
    }

    /// About `max_bytes` of what is ready.
    ///
    /// # Errors
    /// `log.corrupt`, `kafka.not_authorized`, …: of one partition, when nothing is left before it.
    pub(crate) fn hand_out(&mut self, max_bytes: usize) -> Result<Batch> {
        let mut out = Batch::default();
        let count = self.all.len();
        for step in 0..count {
            let partition = &mut self.all[(self.turn + step) % count];
            if partition.resting || out.bytes() >= max_bytes {
                continue;
            }
            if !partition.ready.is_empty() {
                out.append(std::mem::take(&mut partition.ready));
                partition.next = partition.fetched;
            } else if let (true, Some(error)) = (out.is_empty(), &partition.failed) {
                return Err(again(error));
            }
        }
        self.turn = self.turn.wrapping_add(1) % count.max(1);
        Ok(out)
    }

    /// One fetch for each broker whose partitions have nothing ready and that is not asked already.
    pub(crate) fn flights(
        &mut self,
        client: &Arc<Client>,
        asking: &Arc<Client>,
        max_bytes: usize,
    ) -> Vec<BoxFuture<'static, Landed>> {
        let now = Instant::now();
        if self.all.iter().any(|partition| !partition.ready.is_empty() && !partition.resting) {
            return Vec::new();
        }
        let mut by_broker: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        let mut unknown = Vec::new();
        let count = self.all.len();
        for step in 0..count {
            let partition = &mut self.all[(self.turn + step) % count];
            if !partition.wants(now) {
                continue;
            }
            let asked = |leader: Leader| Asked {
                tp: partition.tp.clone(),
                share: partition.share,
                version: partition.version,
                from: partition.fetched,
                leader,
            };
            match client.known_leader(&partition.tp) {
                // Nothing waits behind a fetch that the broker holds back.
                Some(leader) if self.flying.contains(&leader.broker) => {}
                Some(leader) if leader.topic.id == partition.share.0 => {
                    by_broker.entry(leader.broker).or_default().push(asked(leader));
                    (partition.flying, partition.not_before) = (true, None);
                }
                // Unknown, or of a topic of the same name.
                _ => {
                    partition.not_before = Some(now + FAILED_PAUSE);
                    unknown.push(partition.tp.topic.clone());
                }
            }
        }
        let mut flights: Vec<BoxFuture<'static, Landed>> = Vec::new();
        if !unknown.is_empty() && !self.flying.contains(&LOOKING) {
            self.flying.push(LOOKING);
            unknown.dedup();
            let client = asking.clone();
            flights.push(
                async move {
                    let names: Vec<&str> = unknown.iter().map(|topic| &**topic).collect();
                    let _ = client.look(&names).await;
                    Landed { broker: LOOKING, asked: Vec::new(), outcomes: Vec::new() }
                }
                .boxed(),
            );
        }
        for (broker, asked) in by_broker {
            self.flying.push(broker);
            flights.push(fly(client.clone(), broker, asked, max_bytes).boxed());
        }
        flights
    }

    pub(crate) fn landed(&mut self, landed: Landed) {
        self.flying.retain(|broker| *broker != landed.broker);
        for (asked, outcome) in landed.asked.into_iter().zip(landed.outcomes) {
            let Some(partition) = self.all.iter_mut().find(|partition| partition.share == asked.share) else { continue };
            partition.flying = false;
            // Of the same partition as it was given up and got again, an old answer may lie beyond where it begins now.
            if partition.version == asked.version && partition.fetched == asked.from && !partition.resting {
                partition.took(outcome, self.reset, Instant::now());
            }
        }
    }
}

/// In the place of a broker: a look at the cluster.
const LOOKING: i32 = -1;

async fn fly(client: Arc<Client>, broker: i32, asked: Vec<Asked>, max_bytes: usize) -> Landed {
    let outcomes = match request(&client, broker, &asked, max_bytes).await {
        Ok(outcomes) => outcomes,
        Err(error) if error.is_retriable() => {
            tracing::debug!(broker, "fetch: {error}");
            asked.iter().for_each(|asked| client.cluster.forget(&asked.tp.topic));
            asked.iter().map(|_| Outcome::Later).collect()
        }
        Err(error) => asked.iter().map(|_| Outcome::Failed(again(&error))).collect(),
    };
    Landed { broker, asked, outcomes }
}

async fn request(client: &Client, broker: i32, asked: &[Asked], max_bytes: usize) -> Result<Vec<Outcome>> {
    let config = &client.config.consumer;
    let request_bytes = max_bytes.clamp(FETCH_MIN_BYTES.min(max_bytes.max(1)), config.fetch_bytes.max(1));
    let partition_bytes = request_bytes.min(config.partition_bytes.max(1));
    let wants: Vec<Want<'_>> = asked
        .iter()
        .map(|asked| Want { tp: &asked.tp, leader: &asked.leader, from: asked.from, max_bytes: partition_bytes })
        .collect();
    let connection = client.broker(broker).await?;
    let wait = config.fetch_wait;
    let response = fetch::request(client, &connection, &wants, config.min_bytes, request_bytes, wait).await?;
    At::new("fetch from broker", &broker.to_string(), "--operation Read --topic").check(response.error_code, None)?;
    let mut data: Vec<(uuid::Uuid, String, PartitionData)> = Vec::new();
    for topic in response.responses {
        for partition in topic.partitions {
            data.push((topic.topic_id, topic.topic.to_string(), partition));
        }
    }
    let mut outcomes = Vec::with_capacity(asked.len());
    for asked in asked {
        let found = data.iter().position(|(id, name, data)| {
            data.partition_index == asked.tp.partition && (*id == asked.share.0 || **name == *asked.tp.topic)
        });
        outcomes.push(match found.map(|at| data.swap_remove(at).2) {
            Some(data) => outcome(client, asked, data).await,
            None => Outcome::Later,
        });
    }
    Ok(outcomes)
}

async fn outcome(client: &Client, asked: &Asked, data: PartitionData) -> Outcome {
    match data.error_code.err() {
        None => Outcome::Data(Box::new(data)),
        Some(ResponseError::OffsetOutOfRange) => {
            // Through the client of fetches: the leader that just answered answers at once.
            match futures_util::future::try_join(admin::start_offset(client, &asked.tp), admin::end_offset(client, &asked.tp))
                .await
            {
                Ok((start, end)) => Outcome::OutOfRange { start, end },
                Err(_) => Outcome::Later,
            }
        }
        Some(error) if error::is_stale(error) => {
            client.cluster.forget(&asked.tp.topic);
            Outcome::Later
        }
        Some(error) => {
            let error = At::new("fetch from topic", &asked.tp.topic, "--operation Read --topic").error(error, None);
            if error.is_retriable() { Outcome::Later } else { Outcome::Failed(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::TopicMeta;
    use uuid::Uuid;

    fn partition(offset: i64) -> Partition {
        let position = LogPosition { topic: "t".into(), topic_id: Uuid::from_u128(1), partition: 0, offset, metadata: None };
        Partition::new(&position, 1000)
    }

    fn landed(from: i64, outcome: Outcome) -> Landed {
        let topic = Arc::new(TopicMeta { name: "t".into(), id: Uuid::from_u128(1), is_internal: false, partitions: Vec::new() });
        let (tp, share) = (Arc::new(TopicPartition::new("t", 0)), (Uuid::from_u128(1), 0));
        let asked = vec![Asked { tp, share, version: 0, from, leader: Leader { broker: 1, epoch: 0, topic } }];
        Landed { broker: 1, asked, outcomes: vec![outcome] }
    }

    #[test]
    fn an_answer_to_what_was_asked_before_a_partition_was_given_up_and_got_again_is_void() {
        let mut partitions = Partitions::default();
        partitions.add(partition(500));
        partitions.remove((Uuid::from_u128(1), 0));
        partitions.add(partition(100));
        partitions.landed(landed(500, Outcome::OutOfRange { start: 700, end: 1000 }));
        assert_eq!(partitions.lag()[0].1, 900);
        partitions.landed(landed(100, Outcome::OutOfRange { start: 200, end: 1000 }));
        assert_eq!(partitions.lag()[0].1, 800);
    }

    #[test]
    fn what_is_due_and_cannot_be_asked_for_wakes_nobody() {
        let mut partitions = Partitions::default();
        partitions.add(partition(0));
        partitions.landed(landed(0, Outcome::Later));
        assert!(partitions.wake_at().is_some_and(|at| at > Instant::now()));
        partitions.all[0].not_before = Some(Instant::now());
        assert_eq!(partitions.wake_at(), None);
    }

    #[test]
    fn a_position_beyond_the_end_is_lost_after_two_looks_ten_seconds_apart() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        assert_eq!(range(5, 10, 20, None, t0), Range::Start);
        assert_eq!(range(20, 10, 20, Some(t0), at(60)), Range::Within);
        assert_eq!(range(21, 10, 20, None, t0), Range::Wait(t0));
        assert_eq!(range(21, 10, 20, Some(t0), at(9)), Range::Wait(t0));
        assert_eq!(range(21, 10, 20, Some(t0), at(10)), Range::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_beyond_the_end_fails_with_its_place_or_is_reset_where_that_was_set() {
        let beyond = || landed(500, Outcome::OutOfRange { start: 10, end: 100 });
        let lost = async |reset| {
            let mut partitions = Partitions::new(reset);
            partitions.add(partition(500));
            for _ in 0..10 {
                partitions.landed(beyond());
                assert!(partitions.hand_out(1).unwrap().is_empty());
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            partitions.landed(beyond());
            partitions
        };
        for reset in [None, Some(OffsetReset::Refuse)] {
            let error = lost(reset).await.hand_out(1).unwrap_err();
            assert_eq!((error.code(), error.is_retriable()), ("kafka.position_beyond_end", false));
            let message = error.message();
            assert!(["topic t, partition 0", "500", "100"].iter().all(|part| message.contains(part)), "{message}");
        }
        for (reset, to) in [(OffsetReset::Earliest, 10), (OffsetReset::Latest, 100)] {
            let mut partitions = lost(Some(reset)).await;
            assert!(partitions.hand_out(1).unwrap().is_empty());
            assert_eq!((partitions.all[0].next, partitions.lag()[0].1), (to, 100 - to));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_comes_back_is_no_loss() {
        let mut partitions = Partitions::new(None);
        partitions.add(partition(500));
        partitions.landed(landed(500, Outcome::OutOfRange { start: 0, end: 100 }));
        tokio::time::advance(Duration::from_secs(9)).await;
        partitions.landed(landed(500, Outcome::OutOfRange { start: 0, end: 500 }));
        tokio::time::advance(Duration::from_secs(9)).await;
        partitions.landed(landed(500, Outcome::OutOfRange { start: 0, end: 100 }));
        assert!(partitions.hand_out(1).unwrap().is_empty());
    }
}
