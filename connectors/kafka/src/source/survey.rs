//! What the other cluster has: topics, their identity, their partitions, and where those begin and end.

use super::config::Wanted;
use crate::error;
use aqueduct_core::{Error, Result};
use krafka::admin::{
    AdminClient, DescribeTopicsOptions, ListOffsetsOptions, ListTopicsOptions, ListedOffset, OffsetSpec, TopicPartition,
};
use krafka::error::ErrorCode;
use krafka::{Kafka, KrafkaError};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Topics by name.
pub(super) type Found = BTreeMap<Arc<str>, FoundTopic>;

pub(super) struct FoundTopic {
    /// Brokers before 2.8 give none.
    pub(super) id: Option<Uuid>,
    pub(super) partitions: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) id: Option<Uuid>,
}

/// Of a partition, all as the next offset to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: i64,
    pub(super) high: i64,
    /// Where `latest` begins: with `read_committed` before what is not decided yet.
    pub(super) end: i64,
}

pub(super) struct Survey {
    kafka: Kafka,
    admin: AdminClient,
}

/// A call that is not answered in this time fails, however patient the fetches are: it stands in the way of a poll.
const PATIENCE: Duration = Duration::from_secs(10);

impl Survey {
    pub(super) fn new(kafka: Kafka, request_timeout: Duration) -> Self {
        let admin = kafka.admin().default_api_timeout(PATIENCE.min(request_timeout)).metrics_push(false);
        Self { kafka, admin }
    }

    /// # Errors
    /// `kafka.unknown_topic` (retriable) for a topic that is named and not there.
    pub(super) async fn topics(&self, wanted: &Wanted) -> Result<Found> {
        let failed = |error: &KrafkaError| error::from("look at the topics of the source", error);
        let names = match wanted {
            Wanted::Names(names) => names.clone(),
            Wanted::Matching { .. } => {
                let all = self.admin.list_topics(ListTopicsOptions::default()).await.map_err(|error| failed(&error))?;
                all.into_iter().filter(|name| wanted.matches(name)).collect()
            }
        };
        let mut found = Found::new();
        if names.is_empty() {
            return Ok(found);
        }
        let described = self.admin.describe_topics(&names, DescribeTopicsOptions::default()).await;
        for (name, topic) in described.map_err(|error| failed(&error))? {
            match topic {
                Ok(topic) => {
                    let id = Uuid::from_bytes(topic.topic_id);
                    let partitions = topic.partitions.iter().map(|partition| partition.partition).collect();
                    found.insert(name.into(), FoundTopic { id: (!id.is_nil()).then_some(id), partitions });
                }
                Err(error) if error::code_of(&error) == Some(ErrorCode::UnknownTopicOrPartition) => match wanted {
                    Wanted::Matching { .. } => {}
                    Wanted::Names(_) => {
                        let error = Error::retriable("kafka.unknown_topic", format!("topic {name} is not in the source"));
                        return Err(error.fix("create it, or correct topics"));
                    }
                },
                Err(error) => return Err(error::from(&format!("look at topic {name}"), &error)),
            }
        }
        Ok(found)
    }

    /// A partition without a leader is left out: it is found again at the next look.
    pub(super) async fn bounds(&self, of: &[Partition], read_committed: bool) -> Result<FxHashMap<(Arc<str>, i32), Bounds>> {
        if of.is_empty() {
            return Ok(FxHashMap::default());
        }
        let ask = |spec: OffsetSpec, read_committed: bool| {
            let options = ListOffsetsOptions::default().read_committed(read_committed);
            self.admin.list_offsets(of.iter().map(move |one| (TopicPartition::new(&*one.topic, one.partition), spec)), options)
        };
        let (low, high, end) = tokio::try_join!(
            ask(OffsetSpec::Earliest, false),
            ask(OffsetSpec::Latest, false),
            ask(OffsetSpec::Latest, read_committed)
        )
        .map_err(|failed| error::from("look where the partitions begin and end", &failed))?;
        let mut bounds = FxHashMap::default();
        for one in of {
            let key = TopicPartition::new(&*one.topic, one.partition);
            let offset = |of: &std::collections::HashMap<TopicPartition, krafka::Result<ListedOffset>>| match of.get(&key) {
                Some(Ok(listed)) => Ok(Some(listed.offset)),
                Some(Err(failed)) if !failed.is_retriable() => {
                    Err(error::from(&format!("look where {}-{} begins", one.topic, one.partition), failed))
                }
                _ => Ok(None),
            };
            if let (Some(low), Some(high), Some(end)) = (offset(&low)?, offset(&high)?, offset(&end)?) {
                bounds.insert((one.topic.clone(), one.partition), Bounds { low, high, end });
            }
        }
        Ok(bounds)
    }

    /// The identity under which the client fetches the topic now. krafka fetches by identity and looks again when the broker does not know it: it is
    /// another one from the moment when records of a re-created topic can come.
    pub(super) fn identity(&self, topic: &str) -> Option<Uuid> {
        let id = krafka::__private::kafka_metadata(&self.kafka).topic_id_for_name(topic)?;
        Some(Uuid::from_bytes(id)).filter(|id| !id.is_nil())
    }
}
