//! One member of a consumer group: reads ahead what is assigned, commits positions and dead letters.

use crate::admin;
use crate::client::Client;
use crate::cluster::TopicMeta;
use crate::log::Shared;
use crate::member::Member;
use crate::membership::{Plan, Share};
use crate::options::{ClientKind, OffsetReset};
use crate::partitions::{Landed, Partition, Partitions};
use crate::positions::{self, Start};
use crate::producer::{Boundary, Positions, Producer, ProducerOptions};
use aqueduct_core::{Error, LogPosition, Result, TopicPartition, Topics};
use aqueduct_log::{EncodedBatch, Fetch, LogReader};
use async_trait::async_trait;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

/// Whoever waits at least this long is told `Idle` only when the coordinator had nothing to tell either.
const ASK_MIN: Duration = Duration::from_millis(10);
/// How long its answer is waited for then.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Between looks for a topic whose id the cluster does not name yet.
const NAMELESS_PAUSE: Duration = Duration::from_millis(100);
/// How long `close` waits for the leave.
const CLOSE_MAX: Duration = Duration::from_secs(5);

pub(crate) struct KafkaReader {
    shared: Arc<Shared>,
    member: Arc<Member>,
    changes: watch::Receiver<u64>,
    /// For fetches alone: they are held back by the broker, and all behind them on their connection.
    fetching: Arc<Client>,
    partitions: Partitions,
    /// Told to be given up, by the next call.
    leaving: Vec<Share>,
    /// Tasks, so that they go on while the sink works.
    flights: JoinSet<Landed>,
    /// No look at assignments before this: the topic's name was not known.
    nameless_until: Option<Instant>,
    search: Option<Search>,
    /// Opened for the first dead letter.
    letters: Option<Producer>,
}

pub(crate) async fn open(shared: &Arc<Shared>, group: &str, member: &str, topics: &Topics) -> Result<Box<dyn LogReader>> {
    let connector = shared.stores.connector(connector_of(group));
    let client = async |suffix: &str| {
        let name = format!("connector-consumer-{member}{suffix}");
        let config = shared.options.client(ClientKind::Consumer, &name, &connector.consumer)?;
        Ok::<_, Error>(Arc::new(Client::open(shared.cluster.clone(), config).await?))
    };
    let (asking, fetching) = (client("").await?, client("-fetch").await?);
    if !asking.config.rack.is_empty() {
        tracing::warn!("group {group}: client.rack is told to the coordinator; records are fetched from leaders only");
    }
    let settings = &shared.options.settings;
    let layers = [&settings.common.0, &settings.consumer.0, &connector.consumer];
    let is_set = layers.iter().any(|options| options.contains_key("auto.offset.reset"));
    let reset: Option<OffsetReset> = is_set.then_some(asking.config.consumer.offset_reset);
    shared.opening(&format!("{group}/{member}")).await?;
    let member = Member::join(shared, asking, group, member, topics).await?;
    Ok(Box::new(KafkaReader {
        shared: shared.clone(),
        changes: member.changes(),
        member,
        fetching,
        partitions: Partitions::new(reset),
        leaving: Vec::new(),
        flights: JoinSet::new(),
        nameless_until: None,
        search: None,
        letters: None,
    }))
}

/// The group of a sink is `connect-<connector>`.
fn connector_of(group: &str) -> &str {
    group.strip_prefix("connect-").unwrap_or(group)
}

impl KafkaReader {
    /// What the last call told to give up is given up by this one.
    fn give_up(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        {
            let mut state = self.member.state.lock();
            for share in std::mem::take(&mut self.leaving) {
                self.partitions.remove(share);
                state.gave_up(share);
            }
        }
        self.member.nudge();
        self.shared.members.group_changed();
    }

    async fn news(&mut self) -> Result<Option<Fetch>> {
        let (plan, withdrawn) = {
            let state = self.member.state.lock();
            (state.plan(), state.withdrawn)
        };
        match plan {
            Plan::Nothing => {
                (self.nameless_until, self.search) = (None, None);
                Ok(None)
            }
            Plan::Revoke(shares) => {
                (self.nameless_until, self.search) = (None, None);
                let named = shares.iter().filter_map(|share| self.partitions.of(*share)).map(|partition| (*partition.tp).clone());
                let named: Vec<TopicPartition> = named.collect();
                // No more of them is handed out.
                shares.iter().for_each(|share| self.partitions.rest(*share));
                self.leaving = shares;
                Ok(Some(Fetch::Revoked(named)))
            }
            Plan::Assign(shares) => {
                if self.nameless_until.is_some_and(|until| Instant::now() < until) {
                    return Ok(None);
                }
                self.assign(shares, withdrawn).await
            }
        }
    }

    /// The search is a task: whoever drops this future again and again does not begin it again each time.
    async fn assign(&mut self, shares: Vec<Share>, withdrawn: u64) -> Result<Option<Fetch>> {
        if self.search.as_ref().is_none_or(|search| search.shares != shares || search.withdrawn != withdrawn) {
            let (shared, member, letters) = (self.shared.clone(), self.member.clone(), self.letters.is_some());
            let mut task = JoinSet::new();
            let wanted = shares.clone();
            #[allow(clippy::disallowed_methods, reason = "owned by the set, which ends it")]
            task.spawn(async move { find(&shared, &member, &wanted, letters).await });
            self.search = Some(Search { shares, withdrawn, task });
        }
        let Some(search) = &mut self.search else { return Ok(None) };
        let found = search.task.join_next().await;
        // From here on nothing is awaited: whoever drops this future loses nothing.
        let asked = self.search.take().map_or(0, |search| search.shares.len());
        let found = match found {
            Some(Ok(found)) => found?,
            Some(Err(error)) => return Err(Error::fatal("kafka.assign", format!("the search for positions ended: {error}"))),
            None => return Ok(None),
        };
        if let Some(letters) = found.letters {
            self.letters.get_or_insert(letters);
        }
        let mut starts = found.starts;
        self.nameless_until = (starts.len() < asked).then(|| Instant::now() + NAMELESS_PAUSE);
        if starts.is_empty() {
            return Ok(None);
        }
        starts.sort_by(|a, b| (&a.position.topic, a.position.partition).cmp(&(&b.position.topic, b.position.partition)));
        let taken: Vec<Share> = starts.iter().map(|start| (start.position.topic_id, start.position.partition)).collect();
        if !self.member.state.lock().took(&taken, withdrawn) {
            // Heard meanwhile, so that the next look comes at once.
            return Ok(None);
        }
        let mut assigned = Vec::with_capacity(starts.len());
        for Start { position, end } in starts {
            self.partitions.add(Partition::new(&position, end));
            assigned.push(position);
        }
        self.member.nudge();
        Ok(Some(Fetch::Assigned(assigned)))
    }

    /// Each broker is asked for all of its partitions at once, when everything of them is handed out; while the sink works on that, it answers.
    fn launch(&mut self, max_bytes: usize) {
        for flight in self.partitions.flights(&self.fetching, &self.member.client, max_bytes) {
            #[allow(clippy::disallowed_methods, reason = "owned by the set, which ends them")]
            self.flights.spawn(flight);
        }
    }

    /// Waits for the coordinator's answer to a question that was asked after heartbeat `asked`.
    async fn hear(&mut self, asked: u64) -> Result<()> {
        self.member.nudge();
        let heard = async {
            while self.member.state.lock().answered <= asked {
                self.member.check()?;
                if self.changes.changed().await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        // No answer is no news; the heartbeats go on.
        timeout(ASK_MAX, heard).await.unwrap_or(Ok(()))
    }

    /// Still a member, by a heartbeat that was asked and answered just now.
    async fn prove(&mut self) -> Result<()> {
        let asked = self.member.state.lock().begun;
        self.hear(asked).await?;
        self.member.check()?;
        if self.member.state.lock().answered > asked {
            return Ok(());
        }
        Err(Error::retriable("kafka.unreachable", format!("group {}: the coordinator does not answer", self.member.group)))
    }

    async fn commit_with_letters(&mut self, positions: &[LogPosition], letters: EncodedBatch) -> Result<()> {
        loop {
            let generation = self.member.state.lock().epoch;
            let refused = match self.try_with_letters(positions, letters.clone(), generation).await {
                Err(error) if error.code() == "log.fenced" => error,
                result => return result,
            };
            let asked = self.member.state.lock().begun;
            self.hear(asked).await?;
            self.member.check()?;
            // The group has a new epoch, and we are still in it: all of it was refused, and all is tried again.
            if self.member.state.lock().epoch == generation {
                return Err(refused);
            }
        }
    }

    async fn try_with_letters(&mut self, positions: &[LogPosition], letters: EncodedBatch, generation: i32) -> Result<()> {
        let positions = positions::of_living_topics(&self.member.client, positions).await?;
        let offsets = positions
            .iter()
            .map(|p| (p.topic_partition(), p.offset, p.metadata.as_deref().unwrap_or_default().to_owned()))
            .collect::<Vec<_>>();
        if offsets.is_empty() {
            // No position goes with the letters by which the broker would see who we are (invariant 5).
            self.prove().await?;
        }
        let mut producer = match self.letters.take() {
            Some(producer) => producer,
            None => letter_producer(&self.shared, &self.member).await?,
        };
        let (group, member) = (self.member.group.clone(), self.member.name.clone());
        let committed_positions = positions;
        let positions = (!offsets.is_empty()).then_some(Positions { group, generation, member, instance: None, offsets });
        match producer.append(letters, None, positions).await {
            Ok(committed) => {
                // A producer that failed is given up: whether its transaction counts is settled by the next one's start.
                let committed = committed.await.unwrap_or_else(|_| Err(crate::error::closed()));
                if committed.as_ref().is_err_and(|error| error.code() == "log.fenced") && self.member.check().is_ok() {
                    return Err(self.shared.fenced_or_late(&self.member.name).await);
                }
                committed?;
                self.letters = Some(producer);
                // They are committed, whatever this says: it only waits until that can be seen.
                let _ = crate::admin::positions_settled(&self.member.client, &self.member.group, &committed_positions).await;
                Ok(())
            }
            Err(error) => {
                // Nothing was taken.
                if !error.is_retriable() {
                    self.letters = Some(producer);
                }
                Err(error)
            }
        }
    }
}

/// A look for where to begin with what the coordinator gave.
struct Search {
    shares: Vec<Share>,
    withdrawn: u64,
    task: JoinSet<Result<Found>>,
}

struct Found {
    /// Without what has no name yet.
    starts: Vec<Start>,
    /// Opened on the way.
    letters: Option<Producer>,
}

async fn find(shared: &Arc<Shared>, member: &Arc<Member>, shares: &[Share], has_letters: bool) -> Result<Found> {
    let names = name(member, shares).await?;
    let named: Vec<(TopicPartition, Uuid)> = shares
        .iter()
        .filter_map(|(id, partition)| Some((TopicPartition::new(names.get(id)?.name.clone(), *partition), *id)))
        .collect();
    if named.is_empty() {
        return Ok(Found { starts: Vec::new(), letters: None });
    }
    let tps: Vec<TopicPartition> = named.iter().map(|(tp, _)| tp.clone()).collect();
    let mut letters = None;
    let committed = match admin::stable_positions(&member.client, &member.group, &tps).await? {
        Some(positions) => positions,
        None => {
            // A letter transaction that a killed process left open hides positions until the broker times it out; our producer's start ends it.
            if !has_letters {
                letters = Some(letter_producer(shared, member).await?);
            }
            admin::positions_of(&member.client, &member.group, &tps).await?
        }
    };
    Ok(Found { starts: positions::starts(member, &named, &committed).await?, letters })
}

/// The coordinator knows topics by their ids only.
async fn name(member: &Member, shares: &[Share]) -> Result<FxHashMap<Uuid, Arc<TopicMeta>>> {
    let names = member.names();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let wanted = |topic: &Arc<TopicMeta>| shares.iter().any(|(id, _)| *id == topic.id);
    let client = &member.client;
    let known: FxHashMap<Uuid, Arc<TopicMeta>> =
        names.iter().filter_map(|name| client.cluster.topic(name)).filter(wanted).map(|topic| (topic.id, topic)).collect();
    if shares.iter().all(|(id, partition)| known.get(id).is_some_and(|topic| topic.partition(*partition).is_some())) {
        return Ok(known);
    }
    let seen = client.retry(|| client.look(&names)).await?;
    Ok(seen.into_iter().filter_map(|(_, topic)| topic).filter(wanted).map(|topic| (topic.id, topic)).collect())
}

async fn letter_producer(shared: &Arc<Shared>, member: &Member) -> Result<Producer> {
    let name = &member.task;
    let mut overrides = shared.stores.connector(connector_of(&member.group)).producer.clone();
    // Letters and positions are one transaction: that needs all of them.
    overrides.remove("acks");
    let options = ProducerOptions {
        transactional_id: Some(format!("{}-{name}-dlq", shared.options.group_id)),
        client_id: format!("connector-dlq-producer-{name}"),
        boundary: Boundary::Poll,
        budget: None,
        overrides: &overrides,
        after: None,
    };
    Producer::open(shared, options).await
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn next(&mut self, max_bytes: usize, wait_max: Duration) -> Result<Fetch> {
        let deadline = Instant::now() + wait_max;
        let asked = self.member.state.lock().begun;
        let mut heard = wait_max < ASK_MIN;
        self.give_up();
        loop {
            self.shared.open()?;
            self.member.check()?;
            self.changes.mark_unchanged();
            if let Some(news) = self.news().await? {
                return Ok(news);
            }
            let batch = self.partitions.hand_out(max_bytes)?;
            self.launch(max_bytes);
            if !batch.is_empty() {
                return Ok(Fetch::Records(batch));
            }
            let wake = [self.partitions.wake_at(), self.nameless_until].into_iter().flatten().min();
            tokio::select! {
                biased;
                Some(landed) = self.flights.join_next(), if !self.flights.is_empty() => match landed {
                    Ok(landed) => self.partitions.landed(landed),
                    Err(error) => return Err(Error::fatal("kafka.fetch", format!("a fetch ended: {error}"))),
                },
                _ = self.changes.changed() => {}
                () = async { if let Some(at) = wake { sleep_until(at).await } }, if wake.is_some() => {}
                () = self.shared.closed.cancelled() => {}
                () = sleep_until(deadline) => {
                    if heard {
                        return Ok(Fetch::Idle);
                    }
                    heard = true;
                    self.hear(asked).await?;
                }
            }
        }
    }

    async fn seek(&mut self, partition: &TopicPartition, offset: i64) -> Result<()> {
        self.member.check()?;
        self.partitions.get_mut(partition)?.seek(offset.max(0));
        Ok(())
    }

    async fn commit(&mut self, positions: &[LogPosition], letters: EncodedBatch) -> Result<()> {
        self.member.check()?;
        for position in positions {
            self.partitions.get_mut(&position.topic_partition())?;
        }
        positions::check_metadata(positions)?;
        let work = async {
            if letters.batch().is_empty() {
                positions::commit(&self.member, positions).await
            } else {
                self.commit_with_letters(positions, letters).await
            }
        };
        work.await
    }

    fn lag(&self) -> Vec<(TopicPartition, i64)> {
        self.partitions.lag()
    }

    async fn close(&mut self) -> Result<()> {
        self.flights = JoinSet::new();
        self.search = None;
        self.letters = None;
        self.member.stop.cancel();
        let _ = timeout(CLOSE_MAX, self.member.gone.cancelled()).await;
        self.fetching.close().await;
        Ok(())
    }
}

/// A task that was aborted must not keep its partitions.
impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.member.stop.cancel();
        let fetching = self.fetching.clone();
        self.shared.tasks.spawn(async move { fetching.close().await });
    }
}
