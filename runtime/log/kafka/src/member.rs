//! The task that keeps one member in its group: heartbeats, the topics of a pattern, the leave. However slow a sink is, it stays a member.

use crate::client::{Client, CoordinatorOf, topic_name};
use crate::error::{self, At};
use crate::log::Shared;
use crate::membership::{Membership, Share};
use crate::producer::again;
use aqueduct_core::{Error, Result, Topic, Topics};
use aqueduct_log::group::Subscription;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How often the cluster is asked for new topics of a pattern; those that this process creates are seen at once.
const CATALOGUE_MAX_AGE: Duration = Duration::from_secs(10);
/// A leave that is not answered is made up for by the session's timeout.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// The older reader of the same name has so long to be gone.
const HANDOVER_MAX: Duration = Duration::from_secs(5);
/// The coordinator does not know us any more.
const LEFT: &str = "kafka.left_group";
const JOIN_EPOCH: i32 = 0;
const LEAVE_EPOCH: i32 = -1;

/// The members of this process, so that they hear of each other at once and not with the next heartbeat.
#[derive(Default)]
pub(crate) struct LocalMembers {
    members: Mutex<FxHashMap<(String, String), Weak<Member>>>,
    /// Goes up when members of some group come, give up or go.
    groups: watch::Sender<u64>,
    /// Goes up when a topic was created or deleted by this process.
    topics: watch::Sender<u64>,
}

impl LocalMembers {
    pub(crate) fn topics_changed(&self) {
        self.topics.send_modify(|version| *version += 1);
    }

    /// Another worker has taken over: none of them may do anything any more (invariant 5).
    pub(crate) fn lose_all(&self, why: &Error) {
        let members: Vec<_> = self.members.lock().values().filter_map(Weak::upgrade).collect();
        members.iter().for_each(|member| member.lose(again(why)));
    }

    pub(crate) fn group_changed(&self) {
        self.groups.send_modify(|version| *version += 1);
    }
}

/// Shared by the reader and the task.
pub(crate) struct Member {
    pub(crate) group: String,
    /// As the worker calls it.
    pub(crate) task: String,
    /// The member id: `<group.id>-<task>`, so that same-named sinks of two workers are two members, as two Kafka Connects would be.
    pub(crate) name: String,
    pub(crate) state: Mutex<Membership>,
    pub(crate) client: Arc<Client>,
    subscription: Subscription,
    names: Mutex<BTreeSet<Topic>>,
    nudged: Notify,
    changed: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
    /// Nothing of this member is sent any more.
    pub(crate) gone: CancellationToken,
}

impl Member {
    /// Joins, and fences an older member of this name (invariant 5): that one's epoch is void when this returns.
    ///
    /// # Errors
    /// `log.topics_regex`, `kafka.not_authorized`, … (fatal); `kafka.unreachable`.
    pub(crate) async fn join(
        shared: &Arc<Shared>,
        client: Arc<Client>,
        group: &str,
        name: &str,
        topics: &Topics,
    ) -> Result<Arc<Self>> {
        let subscription = Subscription::new(topics)?;
        let names = match &subscription {
            Subscription::Names(names) => names.clone(),
            Subscription::Regex(_) => BTreeSet::new(),
        };
        let member = Arc::new(Self {
            group: group.to_owned(),
            task: name.to_owned(),
            name: member_id(&shared.options.group_id, name),
            state: Mutex::default(),
            client,
            subscription,
            names: Mutex::new(names),
            nudged: Notify::new(),
            changed: watch::Sender::new(0),
            stop: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let key = (group.to_owned(), name.to_owned());
        let older = shared.members.members.lock().insert(key, Arc::downgrade(&member)).and_then(|older| older.upgrade());
        if let Some(older) = older {
            older.lose(fenced(group, name));
            older.stop.cancel();
            let _ = timeout(HANDOVER_MAX, older.gone.cancelled()).await;
        }
        let client = member.client.clone();
        client
            .retry(|| async {
                // Whoever has this name elsewhere: its epoch becomes unknown, and ours a higher one.
                member.leave().await?;
                member.look_for_topics(shared).await?;
                member.beat(shared).await
            })
            .await?;
        let running = Running { shared: shared.clone(), member: member.clone() };
        shared.tasks.spawn(running.run());
        shared.members.group_changed();
        Ok(member)
    }

    /// # Errors
    /// Why this is no member any more.
    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().lost.as_ref().map_or(Ok(()), |error| Err(again(error)))
    }

    /// A heartbeat soon.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Told after each heartbeat, and when the member is lost.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn names(&self) -> Vec<Topic> {
        self.names.lock().iter().cloned().collect()
    }

    /// The coordinator says it to who was replaced, and also after lost answers over two epochs, or an election that forgot one: whoever was replaced is told
    /// so by the reader that took the name, or else when it joins anew (the stores are another's).
    pub(crate) fn out_of_step(&self) -> Error {
        self.check().err().unwrap_or_else(|| left_by_epoch(&self.group, &self.name))
    }

    fn lose(&self, error: Error) {
        self.state.lock().lost.get_or_insert(error);
        self.changed.send_modify(|version| *version += 1);
    }

    /// The topics of a pattern, as they are now.
    async fn look_for_topics(&self, shared: &Shared) -> Result<()> {
        if let Subscription::Regex(_) = self.subscription {
            let all = shared.admin.look_at_all().await?;
            let matching = all.iter().filter(|topic| !topic.is_internal && self.subscription.matches(&topic.name));
            *self.names.lock() = matching.map(|topic| topic.name.clone()).collect();
        }
        Ok(())
    }

    /// One heartbeat: says what we claim, takes what we are to own. All of it every time, so that a lost answer does no harm.
    async fn beat(&self, shared: &Shared) -> Result<Duration> {
        let (number, epoch, claimed) = {
            let mut state = self.state.lock();
            (state.begin(), state.epoch, state.claimed())
        };
        let names = self.names.lock().iter().map(|name| topic_name(name)).collect();
        let rebalance = self.client.config.consumer.max_poll_interval;
        let request = self
            .request(epoch)
            .with_rebalance_timeout_ms(i32::try_from(rebalance.as_millis()).unwrap_or(i32::MAX))
            .with_rack_id((!self.client.config.rack.is_empty()).then(|| text(&self.client.config.rack)))
            .with_subscribed_topic_names(Some(names))
            .with_topic_partitions(Some(by_topic(&claimed)));
        let response = self.send(&request).await?;
        match response.error_code.err() {
            None => {}
            Some(ResponseError::FencedMemberEpoch) => return Err(self.out_of_step()),
            Some(ResponseError::UnknownMemberId) => {
                let message = format!("group {} has put {} out: no heartbeat came in time", self.group, self.name);
                return Err(Error::retriable(LEFT, message));
            }
            Some(ResponseError::GroupIdNotFound) if epoch > JOIN_EPOCH => {
                return Err(Error::retriable(LEFT, format!("group {} is gone", self.group)));
            }
            Some(error) => return Err(self.refused(error, response.error_message.as_deref())),
        }
        let target = response.assignment.map(|assignment| {
            let of = |topic: &kafka_protocol::messages::consumer_group_heartbeat_response::TopicPartitions| {
                let id = topic.topic_id;
                topic.partitions.clone().into_iter().map(move |partition| (id, partition))
            };
            assignment.topic_partitions.iter().flat_map(of).collect::<BTreeSet<Share>>()
        });
        let waited_for = {
            let mut state = self.state.lock();
            state.answer(number, response.member_epoch, target);
            !claimed.is_subset(&state.claimed())
        };
        if waited_for {
            // Taken back before the reader had it: others wait to hear that.
            self.nudge();
        }
        self.changed.send_modify(|version| *version += 1);
        shared.open()?;
        Ok(Duration::from_millis(u64::try_from(response.heartbeat_interval_ms).unwrap_or(0)).max(Duration::from_millis(100)))
    }

    fn request(&self, epoch: i32) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.name))
            .with_member_epoch(epoch)
    }

    async fn send(&self, request: &ConsumerGroupHeartbeatRequest) -> Result<ConsumerGroupHeartbeatResponse> {
        let lost = || self.client.coordinator_lost(CoordinatorOf::Group, &self.group);
        let connection = self.client.coordinator(CoordinatorOf::Group, &self.group).await?;
        let response = self.client.send(&connection, request).await.inspect_err(|_| lost())?;
        if response.error_code.err().is_some_and(error::is_coordinator_lost) {
            lost();
        }
        Ok(response)
    }

    fn refused(&self, error: ResponseError, message: Option<&str>) -> Error {
        let refused = At::new("join group", &self.group, "--operation Read --group").error(error, message);
        if error == ResponseError::UnsupportedVersion || error == ResponseError::GroupIdNotFound {
            return refused.fix("Aqueduct's sinks need the consumer group protocol of KIP-848: Apache Kafka 4.0 or later");
        }
        refused
    }

    async fn leave(&self) -> Result<()> {
        let response = self.send(&self.request(LEAVE_EPOCH)).await?;
        match response.error_code.err() {
            None | Some(ResponseError::UnknownMemberId | ResponseError::GroupIdNotFound) => Ok(()),
            Some(error) => Err(self.refused(error, response.error_message.as_deref())),
        }
    }
}

struct Running {
    shared: Arc<Shared>,
    member: Arc<Member>,
}

impl Running {
    async fn run(self) {
        let outcome = self.stay().await;
        let fenced = outcome.is_err() || self.member.check().is_err();
        if !fenced {
            let _ = timeout(LEAVE_MAX, self.member.leave()).await;
        }
        if let Err(error) = outcome {
            self.member.lose(error);
        }
        self.member.gone.cancel();
        self.shared.members.group_changed();
        self.member.client.close().await;
        let key = (self.member.group.clone(), self.member.name.clone());
        let mut members = self.shared.members.members.lock();
        if members.get(&key).is_some_and(|member| std::ptr::eq(member.as_ptr(), Arc::as_ptr(&self.member))) {
            members.remove(&key);
        }
    }

    /// Until told to stop; an error is why the membership is over.
    async fn stay(&self) -> Result<()> {
        let (mut groups, mut topics) = (self.shared.members.groups.subscribe(), self.shared.members.topics.subscribe());
        let is_pattern = matches!(self.member.subscription, Subscription::Regex(_));
        let (mut due, mut looked, mut failures) = (Instant::now(), Instant::now(), 0);
        loop {
            let mut look = false;
            tokio::select! {
                biased;
                () = self.member.stop.cancelled() => return Ok(()),
                () = self.shared.closed.cancelled() => return Ok(()),
                () = sleep_until(due) => {}
                () = self.member.nudged.notified() => {}
                _ = groups.changed() => {}
                _ = topics.changed() => look = true,
            }
            let worked = async {
                if is_pattern && (look || looked.elapsed() >= CATALOGUE_MAX_AGE) {
                    self.member.look_for_topics(&self.shared).await?;
                    looked = Instant::now();
                }
                self.member.beat(&self.shared).await
            };
            match worked.await {
                Ok(interval) => {
                    failures = 0;
                    due = Instant::now() + if is_pattern { interval.min(CATALOGUE_MAX_AGE) } else { interval };
                }
                // Out of the group: the task is opened again, from the committed positions.
                Err(error) if error.is_retriable() && error.code() != LEFT => {
                    tracing::debug!(group = self.member.group, "no heartbeat: {error}");
                    due = Instant::now() + self.member.client.config.backoff(failures);
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn left_by_epoch(group: &str, name: &str) -> Error {
    Error::retriable(LEFT, format!("group {group} has another epoch of {name}: it joins anew, from the committed positions"))
}

fn member_id(group_id: &str, task: &str) -> String {
    format!("{group_id}-{task}")
}

fn fenced(group: &str, name: &str) -> Error {
    Error::fatal("log.fenced", format!("another member took the name {name} in group {group}"))
}

fn by_topic(shares: &BTreeSet<Share>) -> Vec<TopicPartitions> {
    let mut topics: BTreeMap<uuid::Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in shares {
        topics.entry(*topic).or_default().push(*partition);
    }
    let of = |(id, partitions)| TopicPartitions::default().with_topic_id(id).with_partitions(partitions);
    topics.into_iter().map(of).collect()
}

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_named_sinks_of_two_workers_are_two_members() {
        assert_eq!(member_id("connect-cluster", "orders-0"), "connect-cluster-orders-0");
        assert_ne!(member_id("one", "orders-0"), member_id("two", "orders-0"));
    }

    #[test]
    fn an_epoch_that_the_coordinator_does_not_know_is_no_end() {
        let error = left_by_epoch("g", "w-t-0");
        assert_eq!((error.code(), error.is_retriable()), (LEFT, true));
    }
}
