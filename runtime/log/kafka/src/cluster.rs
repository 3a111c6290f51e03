//! What is known of the cluster: brokers, leaders, topic ids. One for the log, shared by its clients.

use aqueduct_core::Topic;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::MetadataResponse;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use uuid::Uuid;

#[derive(Debug)]
pub(crate) struct Cluster {
    /// `bootstrap.servers`
    pub(crate) bootstrap: Vec<String>,
    view: RwLock<View>,
}

#[derive(Debug, Default)]
struct View {
    /// The id of the cluster, once a broker told it.
    id: Option<Arc<str>>,
    /// `host:port` by broker id.
    brokers: FxHashMap<i32, Arc<str>>,
    topics: FxHashMap<Topic, Arc<TopicMeta>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicMeta {
    pub(crate) name: Topic,
    pub(crate) id: Uuid,
    pub(crate) is_internal: bool,
    /// By partition number.
    pub(crate) partitions: Vec<PartitionMeta>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionMeta {
    /// `None` while there is none.
    pub(crate) leader: Option<i32>,
    pub(crate) epoch: i32,
    pub(crate) replicas: usize,
}

impl Cluster {
    pub(crate) fn new(bootstrap: Vec<String>) -> Self {
        Self { bootstrap, view: RwLock::default() }
    }

    /// Of a broker that was heard of.
    pub(crate) fn address(&self, broker: i32) -> Option<Arc<str>> {
        self.view.read().brokers.get(&broker).cloned()
    }

    pub(crate) fn id(&self) -> Option<Arc<str>> {
        self.view.read().id.clone()
    }

    pub(crate) fn brokers(&self) -> Vec<i32> {
        self.view.read().brokers.keys().copied().collect()
    }

    /// Every address that may answer: brokers first, then `bootstrap.servers`, to come back when all brokers moved.
    pub(crate) fn addresses(&self) -> Vec<Arc<str>> {
        let mut addresses: Vec<Arc<str>> = self.view.read().brokers.values().cloned().collect();
        fastrand::shuffle(&mut addresses);
        addresses.extend(self.bootstrap.iter().map(|address| Arc::from(address.as_str())));
        addresses.dedup();
        addresses
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<TopicMeta>> {
        self.view.read().topics.get(name).cloned()
    }

    /// The next question about this topic goes to a broker.
    pub(crate) fn forget(&self, name: &str) {
        self.view.write().topics.remove(name);
    }

    /// A leader that a broker named in passing (KIP-951).
    pub(crate) fn leader_moved(&self, topic: &str, partition: i32, leader: i32, epoch: i32) {
        let mut view = self.view.write();
        let Some(known) = view.topics.get_mut(topic) else { return };
        if known.partitions.get(partition as usize).is_some_and(|known| known.epoch < epoch) {
            Arc::make_mut(known).partitions[partition as usize] =
                PartitionMeta { leader: Some(leader), epoch, replicas: known.partitions[partition as usize].replicas };
        }
    }

    /// Takes over what a broker says, and returns the topics in it, with the errors of those that have one.
    pub(crate) fn update(&self, response: MetadataResponse) -> Vec<(Topic, Result<Arc<TopicMeta>, ResponseError>)> {
        let mut view = self.view.write();
        if let Some(id) = &response.cluster_id {
            view.id = Some(Arc::from(id.as_str()));
        }
        if !response.brokers.is_empty() {
            view.brokers = response
                .brokers
                .iter()
                .map(|broker| (broker.node_id.0, Arc::from(format!("{}:{}", &*broker.host, broker.port))))
                .collect();
        }
        let mut topics = Vec::with_capacity(response.topics.len());
        for topic in response.topics {
            let Some(name) = topic.name.as_ref() else { continue };
            let name: Topic = Arc::from(name.as_str());
            let known = match topic.error_code.err() {
                // Partitions without a leader are in it, and say so themselves.
                None | Some(ResponseError::LeaderNotAvailable) => {
                    let meta = Arc::new(TopicMeta::new(name.clone(), &topic));
                    view.topics.insert(name.clone(), meta.clone());
                    Ok(meta)
                }
                Some(error) => {
                    view.topics.remove(&name);
                    Err(error)
                }
            };
            topics.push((name, known));
        }
        topics
    }
}

impl TopicMeta {
    fn new(name: Topic, topic: &MetadataResponseTopic) -> Self {
        let none = PartitionMeta { leader: None, epoch: -1, replicas: 0 };
        let count = topic.partitions.iter().map(|partition| partition.partition_index + 1).max().unwrap_or(0);
        let mut partitions = vec![none; usize::try_from(count).unwrap_or(0).min(topic.partitions.len())];
        for partition in &topic.partitions {
            if let Some(slot) = usize::try_from(partition.partition_index).ok().and_then(|index| partitions.get_mut(index)) {
                let leader = (partition.leader_id.0 >= 0).then_some(partition.leader_id.0);
                *slot = PartitionMeta { leader, epoch: partition.leader_epoch, replicas: partition.replica_nodes.len() };
            }
        }
        Self { name, id: topic.topic_id, is_internal: topic.is_internal, partitions }
    }

    pub(crate) fn partition(&self, partition: i32) -> Option<PartitionMeta> {
        usize::try_from(partition).ok().and_then(|index| self.partitions.get(index)).copied()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.partitions.iter().all(|partition| partition.leader.is_some())
    }
}
