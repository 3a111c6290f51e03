//! What the stores need of the log, from a Kafka cluster.

use super::{Internal, Out};
use crate::admin;
use crate::client::{CoordinatorOf, topic_name};
use crate::error::{self, At};
use crate::fetch::{self, Want};
use crate::log::Shared;
use crate::producer::Identity;
use crate::writer::{self, KafkaWriter};
use aqueduct_core::{Batch, Error, Result, TopicPartition};
use aqueduct_log::{LogWriter, TopicSpec};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeProducersRequest, DescribeTransactionsRequest, GroupId, ListOffsetsRequest, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// One answer of a topic of the stores; they are small.
const READ_BYTES: usize = 4 << 20;
const READ_UNCOMMITTED: i8 = 0;
/// `timestamp` of ListOffsets for the end.
const LATEST: i64 = -1;

/// The one writer of the stores: `connect-cluster-<group.id>` is its transactional id, as in Kafka Connect (KIP-618), so that of two workers, or of a
/// worker and a Kafka Connect that writes in transactions, the older is fenced (invariant 5).
#[derive(Default)]
pub(crate) struct StoreWriter(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    state: State,
    /// Of the last producer, once there was one: whoever took over since then is not fenced by us.
    last: Option<Identity>,
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Open(Box<KafkaWriter>),
    /// For good: to open it again would fence who took over.
    Fenced,
}

impl Inner {
    async fn open(&mut self, shared: &Arc<Shared>) -> Result<&mut KafkaWriter> {
        if matches!(self.state, State::Fenced) {
            return Err(fenced(shared));
        }
        if matches!(self.state, State::Closed) {
            let opened = writer::transactional(shared, &transactional_id(shared), self.last).await;
            let opened = opened.map_err(|error| self.failed(shared, error))?;
            self.last = Some(opened.identity());
            self.state = State::Open(Box::new(opened));
        }
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Closed | State::Fenced => Err(fenced(shared)),
        }
    }

    fn close(&mut self) {
        if let State::Open(open) = &self.state {
            self.last = Some(open.identity());
            self.state = State::Closed;
        }
    }

    fn failed(&mut self, shared: &Shared, error: Error) -> Error {
        self.close();
        if error.code() != "log.fenced" {
            return error;
        }
        self.state = State::Fenced;
        shared.stores.fence.raise();
        fenced(shared)
    }
}

impl StoreWriter {
    async fn write(&self, shared: &Arc<Shared>, records: Vec<Out>) -> Result<()> {
        let mut inner = self.0.lock().await;
        let written = append(inner.open(shared).await?, records).await;
        written.map_err(|error| inner.failed(shared, error))
    }

    /// Opens it, so that what an earlier worker left open is ended and a worker that still runs is fenced.
    pub(super) async fn claim(&self, shared: &Arc<Shared>) -> Result<()> {
        self.0.lock().await.open(shared).await.map(drop)
    }

    /// As [`Self::prove`], by looking: only when something else is there than we left, it is settled by opening anew.
    pub(super) async fn confirm(&self, shared: &Arc<Shared>) -> Result<()> {
        let mut inner = self.0.lock().await;
        if let State::Open(open) = &inner.state {
            if last_producer(shared).await? == Some(open.identity()) {
                return Ok(());
            }
            inner.close();
        }
        match (&inner.state, inner.last) {
            (State::Closed, None) => Ok(()),
            _ => inner.open(shared).await.map(drop),
        }
    }

    /// Asks the coordinator whether nobody has taken over since they were claimed. In a task of its own: a commit that asks may not be polled any more, and
    /// must not hold the stores then.
    ///
    /// # Errors
    /// `log.fenced` (fatal); `kafka.unreachable`, … (retriable): nobody knows.
    pub(crate) async fn prove(&self, shared: &Arc<Shared>) -> Result<()> {
        let owner = shared.clone();
        let proof = async move {
            let mut inner = owner.stores.writer.0.lock().await;
            inner.close();
            match (&inner.state, inner.last) {
                (State::Closed, None) => Ok(()),
                _ => inner.open(&owner).await.map(drop),
            }
        };
        shared.tasks.spawn(proof).await.unwrap_or_else(|_| Err(error::closed()))
    }
}

async fn append(writer: &mut dyn LogWriter, records: Vec<Out>) -> Result<()> {
    writer.append(Out::batch(records)?, Vec::new()).await?.await.map(drop)
}

fn transactional_id(shared: &Shared) -> String {
    format!("connect-cluster-{}", shared.options.group_id)
}

/// Who holds the transactional id of the stores, as the coordinator has it.
async fn last_producer(shared: &Shared) -> Result<Option<Identity>> {
    let id = transactional_id(shared);
    let connection = shared.admin.coordinator(CoordinatorOf::Transaction, &id).await?;
    let ids = vec![TransactionalId(StrBytes::from_string(id.clone()))];
    let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
    let lost = || shared.admin.coordinator_lost(CoordinatorOf::Transaction, &id);
    let response = shared.admin.send(&connection, &request).await.inspect_err(|_| lost())?;
    let Some(state) = response.transaction_states.into_iter().next() else { return Ok(None) };
    if let Some(error) = state.error_code.err() {
        if error::is_coordinator_lost(error) {
            lost();
            return Err(Error::retriable("kafka.moved", format!("{id}: {error}")));
        }
        return Ok(None);
    }
    Ok(Some(Identity { id: state.producer_id.0, epoch: state.producer_epoch }))
}

pub(super) fn fenced(shared: &Shared) -> Error {
    let message = format!(
        "another worker with group.id {} has taken over the stores (or this one stood still for long): it can change nothing any more",
        shared.options.group_id
    );
    Error::fatal("log.fenced", message)
        .fix("stop one of the two, or give it another group.id; a worker that is alone goes on after a restart")
}

/// Kafka Connect must not run beside us on the same topics: both would run every connector.
///
/// # Errors
/// `kafka.group_active` (retriable: it may stop).
pub(super) async fn refuse_connect(shared: &Shared) -> Result<()> {
    let group = &shared.options.group_id;
    let at = At::new("describe group", group, "--operation Describe --group");
    let members = shared
        .admin
        .retry(|| async {
            let connection = shared.admin.coordinator(CoordinatorOf::Group, group).await?;
            let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(StrBytes::from_string(group.clone()))]);
            let response = shared.admin.send(&connection, &request).await?;
            let Some(described) = response.groups.into_iter().next() else { return Ok(0) };
            if let Some(error) = described.error_code.err() {
                // A group that never was.
                if error == kafka_protocol::ResponseError::GroupIdNotFound {
                    return Ok(0);
                }
                if error::is_coordinator_lost(error) {
                    shared.admin.coordinator_lost(CoordinatorOf::Group, group);
                }
                return Err(at.error(error, described.error_message.as_deref()));
            }
            Ok(if described.protocol_type.as_str() == "connect" { described.members.len() } else { 0 })
        })
        .await?;
    if members == 0 {
        return Ok(());
    }
    let message = format!("{members} worker(s) of Kafka Connect run with group.id {group}: both would run every connector");
    Err(Error::retriable("kafka.group_active", message)
        .fix("stop Kafka Connect (its group needs session.timeout.ms after a crash), or choose another group.id"))
}

#[async_trait]
impl Internal for Arc<Shared> {
    async fn ends(&self, topic: &str) -> Result<(Uuid, Vec<i64>)> {
        let result = self.admin.retry(|| ends(self, topic)).await;
        result.inspect_err(|_| self.cluster.forget(topic))
    }

    async fn read(&self, tp: &TopicPartition, from: i64) -> Result<(Batch, i64)> {
        let tp = Arc::new(tp.clone());
        self.admin
            .retry(|| async {
                let read = read(self, &tp, from).await;
                read.inspect_err(|_| self.cluster.forget(&tp.topic))
            })
            .await
    }

    async fn write(&self, records: Vec<Out>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.stores.writer.write(self, records).await
    }

    async fn shape(&self, topic: &str) -> Result<Option<(i32, Option<String>)>> {
        // Now, not as it was once: who created it has just been told to.
        self.cluster.forget(topic);
        let Some(meta) = self.admin.retry(|| self.admin.topic(topic)).await? else { return Ok(None) };
        let policy = match admin::topic_configs(&self.admin, topic, &["cleanup.policy"]).await {
            Ok(mut configs) => configs.remove("cleanup.policy"),
            // As Kafka Connect: who may not look, trusts.
            Err(error) if error.code() == "kafka.not_authorized" => {
                tracing::warn!(topic, "may not read the topic's configs: whether it is compacted is not checked");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Some((meta.partitions.len() as i32, policy)))
    }

    async fn create(&self, topic: &str, spec: &TopicSpec) -> Result<()> {
        admin::create_topic(&self.admin, topic, spec).await.map(drop)
    }

    async fn brokers(&self) -> Result<usize> {
        self.admin.retry(|| self.admin.look(&[])).await?;
        Ok(self.cluster.brokers().len())
    }

    async fn open_transactions(&self, tp: &TopicPartition) -> String {
        open_transactions(self, tp).await.unwrap_or_default()
    }
}

async fn open_transactions(shared: &Shared, tp: &TopicPartition) -> Result<String> {
    let leader = shared.admin.leader(tp).await?;
    let connection = shared.admin.broker(leader.broker).await?;
    let topic = TopicRequest::default().with_name(topic_name(&tp.topic)).with_partition_indexes(vec![tp.partition]);
    let response = shared.admin.send(&connection, &DescribeProducersRequest::default().with_topics(vec![topic])).await?;
    let producers =
        response.topics.into_iter().flat_map(|topic| topic.partitions).flat_map(|partition| partition.active_producers);
    let open = producers.filter(|producer| producer.current_txn_start_offset >= 0);
    let text = |producer: ProducerState| {
        let ProducerState { producer_id, producer_epoch, current_txn_start_offset, .. } = producer;
        format!("producer id {} (epoch {producer_epoch}, since offset {current_txn_start_offset})", producer_id.0)
    };
    Ok(open.map(text).collect::<Vec<_>>().join(", "))
}

/// Up to the high watermark: what lies behind the start of an open transaction counts.
async fn ends(shared: &Shared, topic: &str) -> Result<(Uuid, Vec<i64>)> {
    // Now, not as it was once: it may have been made anew.
    let seen = shared.admin.look(&[topic]).await?.pop().and_then(|(_, topic)| topic);
    let meta = seen.ok_or_else(|| error::unknown_topic(topic))?;
    let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for partition in 0..meta.partitions.len() as i32 {
        let leader = shared.admin.leader(&TopicPartition::new(meta.name.clone(), partition)).await?;
        let asked = ListOffsetsPartition::default().with_partition_index(partition).with_current_leader_epoch(leader.epoch);
        by_leader.entry(leader.broker).or_default().push(asked.with_timestamp(LATEST));
    }
    let at = At::new("list offsets of topic", topic, "--operation Describe --topic");
    let asked = by_leader.into_iter().map(|(leader, partitions)| async move {
        let connection = shared.admin.broker(leader).await?;
        let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_isolation_level(READ_UNCOMMITTED);
        shared.admin.send(&connection, &request.with_topics(vec![topic])).await
    });
    let mut ends = vec![0; meta.partitions.len()];
    for response in try_join_all(asked).await? {
        for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
            if let Some(error) = partition.error_code.err() {
                shared.cluster.forget(topic);
                return Err(stale_or(&at, topic, error));
            }
            if let Some(end) = usize::try_from(partition.partition_index).ok().and_then(|index| ends.get_mut(index)) {
                *end = partition.offset;
            }
        }
    }
    Ok((meta.id, ends))
}

async fn read(shared: &Shared, tp: &Arc<TopicPartition>, from: i64) -> Result<(Batch, i64)> {
    let at = At::new("fetch from topic", &tp.topic, "--operation Read --topic");
    let leader = shared.admin.leader(tp).await?;
    let connection = shared.admin.broker(leader.broker).await?;
    let want = Want { tp, leader: &leader, from, max_bytes: READ_BYTES };
    let response = fetch::request(&shared.admin, &connection, &[want], 0, READ_BYTES, Duration::ZERO).await?;
    at.check(response.error_code, None)?;
    let data = response.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
    let data = data.ok_or_else(|| Error::retriable("kafka.protocol", format!("{tp}: an empty answer")))?;
    match data.error_code.err() {
        None => {
            let mut batch = Batch::default();
            let next = fetch::decode(&data, tp, from, &mut batch).map_err(|damage| fetch::corrupt(tp, from, &damage))?;
            Ok((batch, next))
        }
        // Records were deleted, by an operator: compaction leaves the start where it is.
        Some(kafka_protocol::ResponseError::OffsetOutOfRange) => {
            let start = admin::start_offset(&shared.admin, tp).await?;
            if start > from {
                Ok((Batch::default(), start))
            } else {
                Err(Error::retriable("kafka.moved", format!("{tp} ends before {from}")))
            }
        }
        Some(error) => Err(stale_or(&at, &tp.topic, error)),
    }
}

fn stale_or(at: &At<'_>, topic: &str, error: kafka_protocol::ResponseError) -> Error {
    if error::is_stale(error) {
        Error::retriable("kafka.moved", format!("{topic}: {error} ({error:?})"))
    } else {
        at.error(error, None)
    }
}
