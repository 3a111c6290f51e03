//! Topics, their offsets, and the positions of groups.

use crate::client::{Client, CoordinatorOf, topic_name};
use crate::cluster::TopicMeta;
use crate::error::{self, At};
use crate::fetch::{SETTLE_MAX, SETTLE_PAUSE, Settling};
use aqueduct_core::offset::is_valid_topic_name;
use aqueduct_core::{Error, LogPosition, Result, Topic, TopicPartition};
use aqueduct_log::topic_config::PARTITIONS_MAX;
use aqueduct_log::{PartitionInfo, TopicInfo, TopicSpec};
use futures_util::future::{join_all, try_join_all};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeLogDirsRequest, GroupId, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long all brokers may take to hear of a topic, or of its end.
const HEARD_MAX: Duration = Duration::from_secs(30);
const HEARD_PAUSE: Duration = Duration::from_millis(20);
/// Topics in one DescribeConfigs request.
const CONFIGS_AT_ONCE: usize = 500;
/// Kafka's number for a topic as a resource with configs.
const TOPIC_RESOURCE: i8 = 2;
/// A config that was set on the topic itself.
const SET_ON_TOPIC: i8 = 1;
const READ_UNCOMMITTED: i8 = 0;
const READ_COMMITTED: i8 = 1;
/// A position is in a transaction that is not over.
const UNSTABLE: &str = "kafka.unstable";
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

pub(crate) async fn create_topic(client: &Client, name: &str, spec: &TopicSpec) -> Result<TopicInfo> {
    if !is_valid_topic_name(name) {
        return Err(Error::fatal("log.topic_name", format!("{name:?} is not a topic name"))
            .fix("use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', but not . or .. alone"));
    }
    // -1: the broker's default.
    if spec.partitions != -1 && !(1..=PARTITIONS_MAX).contains(&spec.partitions) {
        let message = format!("topic {name}: {} partitions; expected 1 to {PARTITIONS_MAX}", spec.partitions);
        return Err(Error::fatal("log.topic_config", message));
    }
    let configs = spec
        .configs
        .iter()
        // `none` is a producer's word; topics have another one.
        .map(|(key, value)| (key, if key == "compression.type" && value == "none" { "uncompressed" } else { value }))
        .map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    let new = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(spec.partitions)
        .with_replication_factor(spec.replication_factor)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(millis(client.config.request_timeout));
    let at = At::new("create topic", name, "--operation Create --topic");
    // An answer that was lost may have been a yes.
    let unsure = AtomicBool::new(false);
    let id = client
        .retry(|| async {
            let connection = client.any().await?;
            let response = client.send(&connection, &request).await.inspect_err(|_| unsure.store(true, Ordering::Relaxed))?;
            let result = response.topics.into_iter().next().ok_or_else(|| at.error(ResponseError::UnknownServerError, None))?;
            if result.error_code.err() == Some(ResponseError::TopicAlreadyExists) && unsure.load(Ordering::Relaxed) {
                return Ok(None);
            }
            at.check(result.error_code, result.error_message.as_deref())?;
            Ok(Some(result.topic_id))
        })
        .await?;
    client.cluster.forget(name);
    settle(client, name, |seen| seen.is_some_and(|seen| id.is_none_or(|id| seen.id == id) && seen.is_ready())).await?;
    topic(client, name).await?.ok_or_else(|| error::unknown_topic(name))
}

pub(crate) async fn delete_topic(client: &Client, name: &str) -> Result<()> {
    let at = At::new("delete topic", name, "--operation Delete --topic");
    if !is_valid_topic_name(name) {
        return Err(error::unknown_topic(name));
    }
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))])
        .with_timeout_ms(millis(client.config.request_timeout));
    let unsure = AtomicBool::new(false);
    let deleted = client
        .retry(|| async {
            let connection = client.any().await?;
            let response = client.send(&connection, &request).await.inspect_err(|_| unsure.store(true, Ordering::Relaxed))?;
            let result =
                response.responses.into_iter().next().ok_or_else(|| at.error(ResponseError::UnknownServerError, None))?;
            if result.error_code.err() == Some(ResponseError::UnknownTopicOrPartition) && unsure.load(Ordering::Relaxed) {
                return Ok(None);
            }
            at.check(result.error_code, result.error_message.as_deref())?;
            Ok(Some(result.topic_id))
        })
        .await?;
    client.cluster.forget(name);
    settle(client, name, |seen| seen.is_none_or(|seen| deleted.is_some_and(|id| seen.id != id))).await
}

/// Waits until every broker that answers sees the topic like this.
async fn settle(client: &Client, name: &str, is_settled: impl Fn(Option<&Arc<TopicMeta>>) -> bool) -> Result<()> {
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic_name(name)))]))
        .with_allow_auto_topic_creation(false);
    let deadline = Instant::now() + HEARD_MAX;
    let mut brokers: BTreeSet<i32> = client.cluster.brokers().into_iter().collect();
    loop {
        let looks = brokers.iter().map(|broker| async {
            let connection = client.broker(*broker).await?;
            client.look_with(&connection, &request).await
        });
        let looks = join_all(looks).await;
        let settled: Vec<i32> = brokers
            .iter()
            .zip(looks)
            .filter(|(_, seen)| match seen {
                Ok(topics) => is_settled(topics.first().and_then(|(_, topic)| topic.as_ref())),
                // It will hear of it when it is back.
                Err(error) => error.code() == "kafka.unreachable",
            })
            .map(|(broker, _)| *broker)
            .collect();
        brokers.retain(|broker| !settled.contains(broker));
        if brokers.is_empty() {
            client.cluster.forget(name);
            return Ok(());
        }
        if Instant::now() > deadline {
            let message = format!("topic {name}: brokers {brokers:?} have not heard of the change after {HEARD_MAX:?}");
            return Err(Error::retriable("kafka.broker", message));
        }
        sleep(HEARD_PAUSE).await;
    }
}

/// All but Kafka's own.
pub(crate) async fn topics(client: &Client) -> Result<Vec<TopicInfo>> {
    client
        .retry(|| async {
            let mut topics = client.look_at_all().await?;
            topics.retain(|topic| !topic.is_internal);
            let mut infos = describe(client, &topics).await?;
            infos.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(infos)
        })
        .await
}

pub(crate) async fn topic(client: &Client, name: &str) -> Result<Option<TopicInfo>> {
    if !is_valid_topic_name(name) {
        return Ok(None);
    }
    client
        .retry(|| async {
            match client.look(&[name]).await?.pop() {
                Some((_, Some(topic))) => {
                    settled(client, &topic).await?;
                    Ok(describe(client, &[topic]).await?.pop())
                }
                _ => Ok(None),
            }
        })
        .await
}

/// Until what was committed before can be seen: see [`Settling`].
async fn settled(client: &Client, topic: &Arc<TopicMeta>) -> Result<()> {
    let all = || (0..topic.partitions.len()).map(|partition| TopicPartition::new(topic.name.clone(), partition as i32));
    let topics = std::slice::from_ref(topic);
    let ends = list_offsets(client, topics, all(), LATEST, READ_UNCOMMITTED).await?;
    let mut settling: HashMap<TopicPartition, Settling> = ends.keys().map(|tp| (tp.clone(), Settling::default())).collect();
    loop {
        let stable = list_offsets(client, topics, all(), LATEST, READ_COMMITTED).await?;
        settling.retain(|tp, settling| match (stable.get(tp), ends.get(tp)) {
            (Some(Some(stable)), Some(Some(end))) => !settling.is_over(*stable, *end),
            _ => false,
        });
        if settling.is_empty() {
            return Ok(());
        }
        sleep(SETTLE_PAUSE).await;
    }
}

/// Topics that were deleted meanwhile are not in it.
async fn describe(client: &Client, topics: &[Arc<TopicMeta>]) -> Result<Vec<TopicInfo>> {
    let all = || {
        topics.iter().flat_map(|topic| {
            (0..topic.partitions.len()).map(|partition| TopicPartition::new(topic.name.clone(), partition as i32))
        })
    };
    let (starts, ends, mut configs, bytes) = tokio::join!(
        list_offsets(client, topics, all(), EARLIEST, READ_COMMITTED),
        list_offsets(client, topics, all(), LATEST, READ_COMMITTED),
        configs(client, topics),
        sizes(client, topics),
    );
    let (starts, ends) = (starts?, ends?);
    let mut infos = Vec::with_capacity(topics.len());
    for topic in topics {
        let configs = match configs.as_mut() {
            Ok(configs) => configs.remove(&topic.name).unwrap_or_default(),
            // Who may not see configs may see topics still.
            Err(error) if error.code() == "kafka.not_authorized" => BTreeMap::new(),
            Err(_) => return Err(configs.err().unwrap_or_else(error::closed)),
        };
        let partition = |partition: usize| {
            let tp = TopicPartition::new(topic.name.clone(), partition as i32);
            let (start, end) = (starts.get(&tp)?, ends.get(&tp)?);
            Some(PartitionInfo {
                partition: tp.partition,
                start: start.unwrap_or(0),
                end: end.unwrap_or(0),
                bytes: bytes.get(&tp).copied().unwrap_or(0),
            })
        };
        let partitions: Option<Vec<_>> = (0..topic.partitions.len()).map(partition).collect();
        infos.extend(partitions.map(|partitions| TopicInfo { name: topic.name.clone(), id: topic.id, partitions, configs }));
    }
    Ok(infos)
}

/// `None`: there is no such offset, or no leader to ask. A partition whose topic was deleted meanwhile is missing.
async fn list_offsets(
    client: &Client,
    topics: &[Arc<TopicMeta>],
    partitions: impl Iterator<Item = TopicPartition>,
    timestamp: i64,
    isolation: i8,
) -> Result<HashMap<TopicPartition, Option<i64>>> {
    let metas: HashMap<&str, &Arc<TopicMeta>> = topics.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut offsets = HashMap::new();
    let mut by_leader: BTreeMap<i32, BTreeMap<Topic, Vec<ListOffsetsPartition>>> = BTreeMap::new();
    for tp in partitions {
        let Some(meta) = metas.get(&*tp.topic).and_then(|topic| topic.partition(tp.partition)) else { continue };
        match meta.leader {
            Some(leader) => by_leader.entry(leader).or_default().entry(tp.topic.clone()).or_default().push(
                ListOffsetsPartition::default()
                    .with_partition_index(tp.partition)
                    .with_current_leader_epoch(meta.epoch)
                    .with_timestamp(timestamp),
            ),
            None => drop(offsets.insert(tp, None)),
        }
    }
    let asked = by_leader.into_iter().map(|(leader, topics)| async move {
        let connection = client.broker(leader).await?;
        let topics = topics
            .into_iter()
            .map(|(name, partitions)| ListOffsetsTopic::default().with_name(topic_name(&name)).with_partitions(partitions));
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(isolation)
            .with_topics(topics.collect());
        client.send(&connection, &request).await
    });
    for response in try_join_all(asked).await? {
        for topic in response.topics {
            let name: Topic = topic.name.as_str().into();
            for partition in topic.partitions {
                match partition.error_code.err() {
                    None => {
                        let tp = TopicPartition::new(name.clone(), partition.partition_index);
                        offsets.insert(tp, (partition.offset >= 0).then_some(partition.offset));
                    }
                    Some(ResponseError::UnknownTopicOrPartition) => client.cluster.forget(&name),
                    Some(error) => {
                        client.cluster.forget(&name);
                        return Err(At::new("list offsets of topic", &name, "--operation Describe --topic").error(error, None));
                    }
                }
            }
        }
    }
    Ok(offsets)
}

/// What was set on each topic.
async fn configs(client: &Client, topics: &[Arc<TopicMeta>]) -> Result<HashMap<Topic, BTreeMap<String, String>>> {
    let mut configs = HashMap::new();
    for chunk in topics.chunks(CONFIGS_AT_ONCE) {
        let resources = chunk.iter().map(|topic| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(&topic.name))
                .with_configuration_keys(None)
        });
        let request = DescribeConfigsRequest::default().with_resources(resources.collect());
        let connection = client.any().await?;
        for result in client.send(&connection, &request).await?.results {
            match result.error_code.err() {
                None => {}
                Some(ResponseError::UnknownTopicOrPartition) => continue,
                Some(error) => {
                    let at = At::new("read the configs of topic", &result.resource_name, "--operation DescribeConfigs --topic");
                    return Err(at.error(error, result.error_message.as_deref()));
                }
            }
            let set = result.configs.into_iter().filter(|config| config.config_source == SET_ON_TOPIC);
            let set = set.filter_map(|config| Some((config.name.to_string(), config.value?.to_string())));
            configs.insert(Topic::from(result.resource_name.as_str()), set.collect());
        }
    }
    Ok(configs)
}

/// Every config of a topic as it holds, defaults too; of these names.
pub(crate) async fn topic_configs(client: &Client, name: &str, keys: &[&str]) -> Result<BTreeMap<String, String>> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let at = At::new("read the configs of topic", name, "--operation DescribeConfigs --topic");
    client
        .retry(|| async {
            let connection = client.any().await?;
            let response = client.send(&connection, &request).await?;
            let result = response.results.into_iter().next().ok_or_else(|| at.error(ResponseError::UnknownServerError, None))?;
            at.check(result.error_code, result.error_message.as_deref())?;
            let all = result.configs.into_iter().filter_map(|config| Some((config.name.to_string(), config.value?.to_string())));
            Ok(all.collect())
        })
        .await
}

/// Of the leaders' copies; what cannot be had is missing: it is a figure for people.
async fn sizes(client: &Client, topics: &[Arc<TopicMeta>]) -> HashMap<TopicPartition, u64> {
    let leaders: BTreeSet<i32> = topics.iter().flat_map(|topic| topic.partitions.iter().filter_map(|p| p.leader)).collect();
    let request = |broker: i32| {
        let topics = topics.iter().filter_map(|topic| {
            let led = (0..).zip(&topic.partitions).filter(|(_, partition)| partition.leader == Some(broker));
            let led: Vec<i32> = led.map(|(index, _)| index).collect();
            (!led.is_empty()).then(|| {
                kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic::default()
                    .with_topic(topic_name(&topic.name))
                    .with_partitions(led)
            })
        });
        DescribeLogDirsRequest::default().with_topics(Some(topics.collect()))
    };
    let asked = leaders.into_iter().map(|broker| {
        let request = request(broker);
        async move {
            let connection = client.broker(broker).await?;
            client.send(&connection, &request).await
        }
    });
    let answers = join_all(asked).await.into_iter().flatten();
    let topics = answers.flat_map(|response| response.results).flat_map(|dir| dir.topics);
    let partitions = topics.flat_map(|topic| {
        let name = Topic::from(topic.name.as_str());
        let current = topic.partitions.into_iter().filter(|partition| !partition.is_future_key);
        current.map(move |partition| {
            (TopicPartition::new(name.clone(), partition.partition_index), u64::try_from(partition.partition_size).unwrap_or(0))
        })
    });
    partitions.collect()
}

type Offsets = HashMap<TopicPartition, i64>;

/// Of these partitions the oldest offset that can be read, and the end as a `read_committed` reader sees it. What has no leader now is missing.
pub(crate) async fn bounds(client: &Client, partitions: &[TopicPartition]) -> Result<(Offsets, Offsets)> {
    let mut names: Vec<&str> = partitions.iter().map(|tp| &*tp.topic).collect();
    names.dedup();
    client
        .retry(|| async {
            let topics: Vec<_> = client.look(&names).await?.into_iter().filter_map(|(_, topic)| topic).collect();
            let listed = |timestamp| list_offsets(client, &topics, partitions.iter().cloned(), timestamp, READ_COMMITTED);
            let (starts, ends) = futures_util::future::try_join(listed(EARLIEST), listed(LATEST)).await?;
            let known = |offsets: HashMap<TopicPartition, Option<i64>>| {
                offsets.into_iter().filter_map(|(tp, offset)| Some((tp, offset?))).collect::<Offsets>()
            };
            Ok((known(starts), known(ends)))
        })
        .await
}

/// The oldest offset that can be read.
pub(crate) async fn start_offset(client: &Client, tp: &TopicPartition) -> Result<i64> {
    Ok(offset_at(client, tp, EARLIEST).await?.unwrap_or(0))
}

/// Where a `read_committed` reader's end is now: the last stable offset.
pub(crate) async fn end_offset(client: &Client, tp: &TopicPartition) -> Result<i64> {
    Ok(offset_at(client, tp, LATEST).await?.unwrap_or(0))
}

/// Where a broker finds this timestamp or a later one first. That may be the end of a transaction, which has the time of its commit: then records
/// with it come later, or never.
pub(crate) async fn offset_near_timestamp(client: &Client, tp: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
    // Negative ones mean something else to Kafka, and no record has one.
    client.retry(|| offset_at(client, tp, timestamp.max(0))).await
}

async fn offset_at(client: &Client, tp: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
    let leader = client.leader(tp).await?;
    let listed = list_offsets(client, &[leader.topic], std::iter::once(tp.clone()), timestamp, READ_COMMITTED).await?;
    match listed.get(tp) {
        Some(offset) => Ok(*offset),
        None => Err(crate::fetch::moved(tp, ResponseError::UnknownTopicOrPartition)),
    }
}

pub(crate) async fn group_positions(client: &Client, group: &str) -> Result<Vec<LogPosition>> {
    with_ids(client, client.retry(|| committed(client, group, None)).await?).await
}

/// Of these partitions alone: asked for all, the coordinator leaves out those whose first position is in a transaction. `None`: one is in a
/// transaction that is still not over after [`SETTLE_MAX`].
pub(crate) async fn stable_positions(
    client: &Client,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Option<Vec<LogPosition>>> {
    let until = Instant::now() + SETTLE_MAX;
    loop {
        let asked = client.retry(|| async {
            match committed(client, group, Some(fetched_topics(partitions))).await {
                Err(error) if error.code() == UNSTABLE => Ok(None),
                result => result.map(Some),
            }
        });
        match asked.await? {
            Some(positions) => return with_ids(client, positions).await.map(Some),
            None if Instant::now() >= until => return Ok(None),
            None => sleep(SETTLE_PAUSE).await,
        }
    }
}

/// As [`stable_positions`], however long the transaction takes: the broker times it out.
pub(crate) async fn positions_of(client: &Client, group: &str, partitions: &[TopicPartition]) -> Result<Vec<LogPosition>> {
    with_ids(client, client.retry(|| committed(client, group, Some(fetched_topics(partitions)))).await?).await
}

fn fetched_topics(partitions: &[TopicPartition]) -> Vec<OffsetFetchRequestTopics> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        topics.entry(&tp.topic).or_default().push(tp.partition);
    }
    let of =
        |(name, partitions)| OffsetFetchRequestTopics::default().with_name(topic_name(name)).with_partition_indexes(partitions);
    topics.into_iter().map(of).collect()
}

async fn with_ids(client: &Client, mut positions: Vec<LogPosition>) -> Result<Vec<LogPosition>> {
    let names: BTreeSet<Topic> = positions.iter().map(|position| position.topic.clone()).collect();
    let ids = ids(client, &names).await?;
    // Those of a deleted topic went with it.
    positions.retain_mut(|position| match ids.get(&position.topic) {
        Some(topic) => {
            position.topic_id = topic.id;
            true
        }
        None => false,
    });
    positions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(positions)
}

async fn ids(client: &Client, names: &BTreeSet<Topic>) -> Result<HashMap<Topic, Arc<TopicMeta>>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let seen = client.retry(|| client.look(&names)).await?;
    Ok(seen.into_iter().filter_map(|(name, topic)| Some((name, topic?))).collect())
}

/// Waits until positions that a transaction committed can be seen: a coordinator knows a little later than who committed. Asked for all positions, it
/// would leave out those that are a group's first.
pub(crate) async fn positions_settled(client: &Client, group: &str, positions: &[LogPosition]) -> Result<()> {
    let topics = fetched_topics(&positions.iter().map(LogPosition::topic_partition).collect::<Vec<_>>());
    if topics.is_empty() {
        return Ok(());
    }
    let until = Instant::now() + SETTLE_MAX;
    while let Err(error) = committed(client, group, Some(topics.clone())).await {
        if !error.is_retriable() || Instant::now() > until {
            return Err(error);
        }
        sleep(SETTLE_PAUSE).await;
    }
    Ok(())
}

/// The committed positions of a group, all or of these partitions, without topic ids.
///
/// # Errors
/// `kafka.unstable` (retriable) while one is in a transaction that is not over.
async fn committed(client: &Client, group: &str, topics: Option<Vec<OffsetFetchRequestTopics>>) -> Result<Vec<LogPosition>> {
    let at = At::new("read the positions of group", group, "--operation Describe --group");
    let connection = client.coordinator(CoordinatorOf::Group, group).await?;
    let request = OffsetFetchRequest::default()
        .with_topics(Some(Vec::new()))
        .with_groups(vec![OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(topics)])
        .with_require_stable(true);
    let response =
        client.send(&connection, &request).await.inspect_err(|_| client.coordinator_lost(CoordinatorOf::Group, group))?;
    let answer = response.groups.into_iter().next().ok_or_else(|| at.error(ResponseError::UnknownServerError, None))?;
    match answer.error_code.err() {
        None => {}
        Some(ResponseError::GroupIdNotFound) => return Ok(Vec::new()),
        Some(error) => {
            client.coordinator_lost(CoordinatorOf::Group, group);
            return Err(at.error(error, None));
        }
    }
    let mut positions = Vec::new();
    for topic in answer.topics {
        let name = Topic::from(topic.name.as_str());
        for partition in topic.partitions {
            if partition.error_code.err() == Some(ResponseError::UnstableOffsetCommit) {
                let message = format!("group {group}: the position of {name}-{} is in a transaction", partition.partition_index);
                return Err(Error::retriable(UNSTABLE, message));
            }
            at.check(partition.error_code, None)?;
            if partition.committed_offset >= 0 {
                positions.push(LogPosition {
                    topic: name.clone(),
                    topic_id: Uuid::nil(),
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    metadata: partition.metadata.filter(|text| !text.is_empty()).map(|text| Arc::from(text.as_str())),
                });
            }
        }
    }
    Ok(positions)
}

pub(crate) async fn alter_group(client: &Client, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
    let names: BTreeSet<Topic> = positions.iter().map(|(tp, _)| tp.topic.clone()).collect();
    let known = ids(client, &names).await?;
    for (tp, _) in positions {
        let topic = known.get(&tp.topic).ok_or_else(|| error::unknown_topic(&tp.topic))?;
        topic.partition(tp.partition).ok_or_else(|| error::unknown_partition(&tp.topic, tp.partition))?;
    }
    client.retry(|| set_positions(client, group, positions)).await?;
    client.retry(|| forget_positions(client, group, positions)).await
}

async fn set_positions(client: &Client, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (tp, offset) in positions {
        let Some(offset) = offset else { continue };
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(tp.partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(StrBytes::new()));
        topics.entry(&tp.topic).or_default().push(partition);
    }
    if topics.is_empty() {
        return Ok(());
    }
    let topics = topics
        .into_iter()
        .map(|(name, partitions)| OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions));
    let request = OffsetCommitRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
    let connection = client.coordinator(CoordinatorOf::Group, group).await?;
    let response =
        client.send(&connection, &request).await.inspect_err(|_| client.coordinator_lost(CoordinatorOf::Group, group))?;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        check_group(client, group, partition.error_code)?;
    }
    Ok(())
}

async fn forget_positions(client: &Client, group: &str, positions: &[(TopicPartition, Option<i64>)]) -> Result<()> {
    let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
    for (tp, _) in positions.iter().filter(|(_, offset)| offset.is_none()) {
        topics.entry(&tp.topic).or_default().push(OffsetDeleteRequestPartition::default().with_partition_index(tp.partition));
    }
    if topics.is_empty() {
        return Ok(());
    }
    let topics = topics
        .into_iter()
        .map(|(name, partitions)| OffsetDeleteRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions));
    let request = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
    let connection = client.coordinator(CoordinatorOf::Group, group).await?;
    let response =
        client.send(&connection, &request).await.inspect_err(|_| client.coordinator_lost(CoordinatorOf::Group, group))?;
    if response.error_code.err() == Some(ResponseError::GroupIdNotFound) {
        return Ok(());
    }
    check_group(client, group, response.error_code)?;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        check_group(client, group, partition.error_code)?;
    }
    Ok(())
}

/// Kafka refuses positions from without while a group has members.
fn check_group(client: &Client, group: &str, code: i16) -> Result<()> {
    use ResponseError as E;
    match code.err() {
        None => Ok(()),
        Some(
            E::UnknownMemberId
            | E::IllegalGeneration
            | E::StaleMemberEpoch
            | E::RebalanceInProgress
            | E::NonEmptyGroup
            | E::GroupSubscribedToTopic
            | E::FencedMemberEpoch,
        ) => Err(Error::fatal("log.group_active", format!("group {group} has members")).fix("stop the connector first")),
        Some(error) => {
            if error::is_coordinator_lost(error) {
                client.coordinator_lost(CoordinatorOf::Group, group);
            }
            Err(At::new("set the positions of group", group, "--operation Read --group").error(error, None))
        }
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
