//! Positions of a group: what a member commits, and where it begins.

use crate::admin;
use crate::client::{Client, CoordinatorOf, topic_name};
use crate::cluster::TopicMeta;
use crate::error::{self, At};
use crate::member::{Member, text};
use crate::options::OffsetReset;
use aqueduct_core::{Error, LogPosition, Result, Topic, TopicPartition};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kafka's `offset.metadata.max.bytes`.
const METADATA_MAX_BYTES: usize = 4096;

/// # Errors
/// `log.metadata_too_large` (fatal).
pub(crate) fn check_metadata(positions: &[LogPosition]) -> Result<()> {
    let too_long = |position: &&LogPosition| position.metadata.as_ref().is_some_and(|text| text.len() > METADATA_MAX_BYTES);
    match positions.iter().find(too_long) {
        None => Ok(()),
        Some(position) => {
            let message = format!("metadata of {} has more than {METADATA_MAX_BYTES} bytes", position.topic_partition());
            Err(Error::fatal("log.metadata_too_large", message))
        }
    }
}

type Seen = Vec<(Topic, Option<Arc<TopicMeta>>)>;

async fn topics_of(client: &Client, positions: &[LogPosition]) -> Result<Seen> {
    let mut names: Vec<&str> = positions.iter().map(|position| &*position.topic).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    client.retry(|| client.look(&names)).await
}

/// Those whose topic is still the one they are of: what was deleted needs no position.
pub(crate) async fn of_living_topics(client: &Client, positions: &[LogPosition]) -> Result<Vec<LogPosition>> {
    let seen = topics_of(client, positions).await?;
    let lives = |position: &&LogPosition| {
        let topic = seen.iter().find(|(name, _)| *name == position.topic).and_then(|(_, topic)| topic.as_ref());
        topic.is_some_and(|topic| topic.id == position.topic_id)
    };
    Ok(positions.iter().filter(lives).cloned().collect())
}

/// Kafka takes positions by the topic's name: that of a deleted topic would become that of its successor, which then would be read from there on.
async fn of_no_successor(client: &Client, positions: &[LogPosition]) -> Result<Vec<LogPosition>> {
    Ok(without_successors(&topics_of(client, positions).await?, positions))
}

fn without_successors(seen: &[(Topic, Option<Arc<TopicMeta>>)], positions: &[LogPosition]) -> Vec<LogPosition> {
    let is_successor = |topic: &TopicMeta, position: &LogPosition| topic.name == position.topic && topic.id != position.topic_id;
    let own =
        |position: &&LogPosition| !seen.iter().filter_map(|(_, topic)| topic.as_ref()).any(|topic| is_successor(topic, position));
    positions.iter().filter(own).cloned().collect()
}

/// Durable on return.
///
/// # Errors
/// `log.fenced` (fatal), `kafka.left_group`, `kafka.unreachable` (retriable), `kafka.not_authorized`.
pub(crate) async fn commit(member: &Arc<Member>, positions: &[LogPosition]) -> Result<()> {
    let client = &member.client;
    let mut left = of_no_successor(client, positions).await?;
    let deadline = tokio::time::Instant::now() + client.config.api_timeout;
    for failures in 0.. {
        if left.is_empty() {
            return Ok(());
        }
        member.check()?;
        let error = match attempt(member, &mut left).await {
            Ok(()) => return Ok(()),
            Err(error) if !error.is_retriable() => return Err(error),
            Err(error) => error,
        };
        if error.code() == TOPIC_GONE {
            left = of_living_topics(client, &left).await?;
        }
        // The epoch may have moved on.
        member.nudge();
        let pause = tokio::time::Instant::now() + client.config.backoff(failures);
        if pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep_until(pause).await;
    }
    Ok(())
}

const TOPIC_GONE: &str = "kafka.topic_gone";

/// Leaves in `positions` what was not taken.
async fn attempt(member: &Member, positions: &mut Vec<LogPosition>) -> Result<()> {
    let Member { client, group, name, .. } = member;
    let epoch = member.state.lock().epoch;
    let mut topics: BTreeMap<Topic, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for position in positions.iter() {
        topics.entry(position.topic.clone()).or_default().push(
            OffsetCommitRequestPartition::default()
                .with_partition_index(position.partition)
                .with_committed_offset(position.offset)
                .with_committed_metadata(Some(text(position.metadata.as_deref().unwrap_or_default()))),
        );
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(partitions));
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(epoch)
        .with_member_id(text(name))
        .with_topics(topics.collect());
    let lost = || client.coordinator_lost(CoordinatorOf::Group, group);
    let connection = client.coordinator(CoordinatorOf::Group, group).await?;
    let response = client.send(&connection, &request).await.inspect_err(|_| lost())?;
    let mut failed = None;
    for topic in &response.topics {
        for partition in &topic.partitions {
            match partition.error_code.err() {
                None => positions.retain(|p| *p.topic != **topic.name || p.partition != partition.partition_index),
                Some(error) => failed = Some(error),
            }
        }
    }
    let at = At::new("commit positions of group", group, "--operation Read --group");
    match failed {
        None => all_answered(group, positions),
        Some(ResponseError::FencedMemberEpoch | ResponseError::FencedInstanceId) => Err(member.out_of_step()),
        Some(ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId) => {
            Err(Error::retriable(TOPIC_GONE, format!("group {group}: a topic was deleted")))
        }
        Some(error @ (ResponseError::StaleMemberEpoch | ResponseError::IllegalGeneration)) => {
            Err(Error::retriable("kafka.moved", format!("group {group}: {error}")))
        }
        Some(error) => {
            if error::is_coordinator_lost(error) {
                lost();
            }
            Err(at.error(error, None))
        }
    }
}

/// What the coordinator did not answer is not committed.
fn all_answered(group: &str, left: &[LogPosition]) -> Result<()> {
    left.first().map_or(Ok(()), |position| {
        let message = format!("group {group}: no answer to the position of {}", position.topic_partition());
        Err(Error::retriable("kafka.protocol", message))
    })
}

/// Where partitions stand when they are assigned: their committed position, else as `auto.offset.reset` says.
pub(crate) struct Start {
    pub(crate) position: LogPosition,
    /// The end, as `read_committed` sees it.
    pub(crate) end: i64,
}

/// What has no leader now, and no position, is missing: to be asked again. `committed`: what the group has of these partitions.
///
/// # Errors
/// `kafka.no_position` (fatal) with `auto.offset.reset=none`; `kafka.unreachable`.
pub(crate) async fn starts(
    member: &Member,
    partitions: &[(TopicPartition, uuid::Uuid)],
    committed: &[LogPosition],
) -> Result<Vec<Start>> {
    let client = &member.client;
    let tps: Vec<TopicPartition> = partitions.iter().map(|(tp, _)| tp.clone()).collect();
    let (first, ends) = admin::bounds(client, &tps).await?;
    let mut starts = Vec::with_capacity(partitions.len());
    for (tp, id) in partitions {
        let bounds = first.get(tp).copied().zip(ends.get(tp).copied());
        let known = committed.iter().find(|p| p.topic == tp.topic && p.partition == tp.partition && p.topic_id == *id);
        starts.extend(start(&member.group, tp, *id, known, bounds, client.config.consumer.offset_reset)?);
    }
    Ok(starts)
}

fn start(
    group: &str,
    tp: &TopicPartition,
    topic_id: uuid::Uuid,
    known: Option<&LogPosition>,
    bounds: Option<(i64, i64)>,
    reset: OffsetReset,
) -> Result<Option<Start>> {
    let (position, end) = match (known, bounds, reset) {
        (Some(known), Some((start, end)), _) => {
            (LogPosition { offset: known.offset.max(start), ..known.clone() }, end.max(start))
        }
        (Some(known), None, _) => (known.clone(), known.offset),
        (None, _, OffsetReset::Refuse) => {
            let message = format!("group {group} has no position in {tp}, and auto.offset.reset is none");
            return Err(
                Error::fatal("kafka.no_position", message).fix("set the connector's offsets, or auto.offset.reset: earliest")
            );
        }
        // 0 would be everything to who wants the latest.
        (None, None, _) => return Ok(None),
        (None, Some((start, end)), reset) => {
            let offset = if reset == OffsetReset::Latest { end } else { start };
            (LogPosition { topic: tp.topic.clone(), topic_id, partition: tp.partition, offset, metadata: None }, end.max(start))
        }
    };
    Ok(Some(Start { position, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_position_of_a_deleted_topic_is_not_given_to_its_successor() {
        let of = |topic: &str, id| LogPosition {
            topic: topic.into(),
            topic_id: Uuid::from_u128(id),
            partition: 0,
            offset: 1000,
            metadata: None,
        };
        let seen = |topic: &str, id| {
            let meta = TopicMeta { name: topic.into(), id: Uuid::from_u128(id), is_internal: false, partitions: Vec::new() };
            (Topic::from(topic), Some(Arc::new(meta)))
        };
        let positions = [of("kept", 1), of("anew", 2), of("gone", 3)];
        // Of one that this broker does not know (yet) the coordinator decides.
        let left = without_successors(&[seen("kept", 1), seen("anew", 20), ("gone".into(), None)], &positions);
        assert_eq!(left, [of("kept", 1), of("gone", 3)]);
    }

    #[test]
    fn what_has_no_leader_and_no_position_is_left_out() {
        let (tp, id) = (TopicPartition::new("t", 0), Uuid::from_u128(1));
        let known = LogPosition { topic: "t".into(), topic_id: id, partition: 0, offset: 7, metadata: None };
        let at = |known: Option<&LogPosition>, bounds, reset| {
            start("g", &tp, id, known, bounds, reset).map(|start| start.map(|start| (start.position.offset, start.end)))
        };
        use OffsetReset::{Earliest, Latest, Refuse};
        assert_eq!(at(None, None, Latest).unwrap(), None);
        assert_eq!(at(None, None, Earliest).unwrap(), None);
        assert_eq!(at(None, Some((3, 9)), Latest).unwrap(), Some((9, 9)));
        assert_eq!(at(None, Some((3, 9)), Earliest).unwrap(), Some((3, 9)));
        assert_eq!(at(Some(&known), None, Latest).unwrap(), Some((7, 7)));
        assert_eq!(at(Some(&known), Some((8, 9)), Refuse).unwrap(), Some((8, 9)));
        assert_eq!(at(None, None, Refuse).unwrap_err().code(), "kafka.no_position");
    }

    #[test]
    fn a_partition_that_is_missing_from_the_answer_is_not_committed() {
        let left = LogPosition { topic: "t".into(), topic_id: Uuid::nil(), partition: 3, offset: 7, metadata: None };
        let error = all_answered("g", &[left]).unwrap_err();
        assert!(error.is_retriable() && error.message().contains("t-3"), "{error}");
        assert!(all_answered("g", &[]).is_ok());
    }
}
