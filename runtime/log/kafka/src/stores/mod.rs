//! Kafka Connect's internal topics: configs and target states, statuses, source offsets. A Kafka Connect cluster of the same `group.id` can take over from us
//! and we from it, never both at once.
//!
//! Entries of ours (`aqueduct-folder-…`) stand in the config topic too: Kafka Connect passes over keys that it does not know, with a line in its log.

mod broker;
pub mod codec;
mod fence;
mod offsets;
mod table;
mod topics;

use crate::log::Shared;
use crate::options::ClientKind;
use aqueduct_config::worker_config::{KafkaSettings, StorageTopic};
use aqueduct_core::{Batch, BatchBuilder, Payload, Record, Result, SourceOffset, Topic, TopicPartition};
use aqueduct_log::{ConnectorOptions, EncodedBatch, Store, TopicSpec};
use async_trait::async_trait;
use offsets::SharedOffsets;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use table::Table;
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

/// What the stores need of the log.
#[async_trait]
pub(crate) trait Internal: Send + Sync {
    /// The end of each partition: also what is not committed yet lies before it.
    ///
    /// And the topic's id, now: a topic that was made anew has another.
    ///
    /// # Errors
    /// `log.unknown_topic` (fatal).
    async fn ends(&self, topic: &str) -> Result<(Uuid, Vec<i64>)>;

    /// Committed records from an offset on, and where to read on: `from` where there is nothing to be seen yet.
    async fn read(&self, tp: &TopicPartition, from: i64) -> Result<(Batch, i64)>;

    /// All or none, durable and visible on return. Who was fenced writes nothing.
    async fn write(&self, records: Vec<Out>) -> Result<()>;

    /// Of a topic that is there: how many partitions, and its `cleanup.policy`, where the broker tells.
    async fn shape(&self, topic: &str) -> Result<Option<(i32, Option<String>)>>;

    async fn create(&self, topic: &str, spec: &TopicSpec) -> Result<()>;

    async fn brokers(&self) -> Result<usize>;

    /// Whose transaction is open in a partition, for messages: `producer id 4 (since offset 7)`. Empty where nobody knows.
    async fn open_transactions(&self, tp: &TopicPartition) -> String;
}

/// A record of an internal topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Out {
    pub(crate) fn batch(records: Vec<Self>) -> Result<EncodedBatch> {
        let mut batch = BatchBuilder::new();
        for record in records {
            batch.push(Record {
                partition: Some(record.partition),
                key: Payload::Bytes(record.key.into()),
                ..Record::new(record.topic, record.value.map_or(Payload::Null, |value| Payload::Bytes(value.into())))
            });
        }
        EncodedBatch::new(batch.finish())
    }
}

/// What is known of the topics. Each is read when it is asked for, and then only what is new.
pub(crate) struct Stores {
    config: Mutex<Table>,
    status: Mutex<Table>,
    /// By topic: the worker's, and those of connectors with `offsets.storage.topic`.
    offsets: Mutex<HashMap<String, Arc<SharedOffsets>>>,
    offset_topic: StorageTopic,
    /// As the worker told when it opened a task.
    connectors: RwLock<HashMap<String, Arc<ConnectorOptions>>>,
    pub(crate) writer: broker::StoreWriter,
    pub(crate) fence: fence::Fence,
    /// The topics are there and compacted, and nobody else writes them.
    ready: OnceCell<()>,
}

impl Stores {
    pub(crate) fn new(settings: &KafkaSettings) -> Self {
        Self {
            config: Mutex::new(Table::new(&settings.config_topic.topic)),
            status: Mutex::new(Table::new(&settings.status_topic.topic)),
            offsets: Mutex::default(),
            offset_topic: settings.offset_topic.clone(),
            connectors: RwLock::default(),
            writer: broker::StoreWriter::default(),
            fence: fence::Fence::default(),
            ready: OnceCell::new(),
        }
    }

    fn table(&self, store: Store) -> &Mutex<Table> {
        match store {
            Store::Config => &self.config,
            Store::Status => &self.status,
        }
    }

    async fn load(&self, store: Store, log: &dyn Internal) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut table = self.table(store).lock().await;
        table.refresh(log).await?;
        let entries = table.entries.iter().filter_map(|(key, value)| match store {
            Store::Config => codec::config_entry(key, value),
            Store::Status => Some((key.clone(), value.clone())),
        });
        Ok(entries.collect())
    }

    async fn save(&self, store: Store, entries: Vec<(String, Option<Vec<u8>>)>, log: &dyn Internal) -> Result<()> {
        let mut table = self.table(store).lock().await;
        table.refresh(log).await?;
        let records = match store {
            Store::Config => codec::config_records(&entries, |key| table.entries.get(key).map(Vec::as_slice))?,
            Store::Status => entries,
        };
        let topic = table.topic().clone();
        let partitions = log.ends(&topic).await?.1.len() as i32;
        let out = records.iter().map(|(key, value)| Out {
            topic: topic.clone(),
            partition: aqueduct_log::partitioner::partition_for_key(key.as_bytes(), partitions),
            key: key.clone().into_bytes(),
            value: value.clone(),
        });
        log.write(out.collect()).await?;
        table.set(records);
        Ok(())
    }

    /// What was told of a connector, or nothing special.
    pub(crate) fn connector(&self, name: &str) -> Arc<ConnectorOptions> {
        self.connectors.read().get(name).cloned().unwrap_or_default()
    }

    /// `offsets.storage.topic` of a connector, as the worker told or its stored config says; and the worker's.
    async fn offset_topics(&self, connector: &str, log: &dyn Internal) -> Result<(Option<String>, String)> {
        let mut config = self.config.lock().await;
        config.refresh(log).await?;
        let stored = config.entries.get(&format!("connector-{connector}")).and_then(|value| codec::offsets_topic(value));
        let own = self.connector(connector).offsets_topic.clone().or(stored);
        let of_worker = self.offset_topic.topic.clone();
        Ok((own.filter(|own| *own != of_worker), of_worker))
    }

    async fn offsets(&self, topic: &str) -> Arc<SharedOffsets> {
        let mut offsets = self.offsets.lock().await;
        offsets.entry(topic.to_owned()).or_insert_with(|| Arc::new(SharedOffsets::new(topic))).clone()
    }

    /// What the connector's own topic says goes before what the worker's says, as in Kafka Connect.
    async fn source_offsets(&self, connector: &str, log: &dyn Internal) -> Result<Vec<SourceOffset>> {
        let (own, of_worker) = self.offset_topics(connector, log).await?;
        let mut found: BTreeMap<String, SourceOffset> = BTreeMap::new();
        for topic in [Some(of_worker), own].into_iter().flatten() {
            let offsets = self.offsets(&topic).await;
            match offsets.of(connector, log).await {
                Ok(offsets) => found.extend(offsets.into_iter().map(|offset| (offset.partition_key(), offset))),
                // The connector's own is created with its first writer.
                Err(error) if error.code() == "log.unknown_topic" && topic != self.offset_topic.topic => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.into_values().collect())
    }

    async fn alter_source_offsets(&self, connector: &str, offsets: &[SourceOffset], log: &dyn Internal) -> Result<()> {
        let (own, of_worker) = self.offset_topics(connector, log).await?;
        let target = own.as_ref().unwrap_or(&of_worker);
        topics::ensure_offsets(target, &self.offset_topic, log).await?;
        let mut records = self.offsets(target).await.records(connector, offsets, log).await?;
        if own.is_some() {
            // What is forgotten in one must not come back from the other.
            let forgotten: Vec<SourceOffset> = offsets.iter().filter(|offset| offset.offset.is_none()).cloned().collect();
            records.extend(self.offsets(&of_worker).await.records(connector, &forgotten, log).await?);
        }
        log.write(records).await
    }

    /// The topic that a connector's offsets go to, created where it is not there, and its number of partitions.
    async fn offset_target(&self, connector: &str, log: &dyn Internal) -> Result<(Topic, i32)> {
        let (own, of_worker) = self.offset_topics(connector, log).await?;
        let topic = own.unwrap_or(of_worker);
        let partitions = topics::ensure_offsets(&topic, &self.offset_topic, log).await?;
        Ok((topic.into(), partitions))
    }
}

/// At the first use: creates the topics where they are not there, refuses those that would lose entries, and makes sure that no other worker writes them.
///
/// # Errors
/// `kafka.internal_topic` (fatal): not compacted, or the config topic has several partitions. `kafka.group_active` (retriable): Kafka Connect runs.
async fn ready(shared: &Arc<Shared>) -> Result<()> {
    let prepare = || async {
        broker::refuse_connect(shared).await?;
        topics::ensure(&shared.options.settings, shared).await?;
        shared.stores.writer.claim(shared).await
    };
    shared.stores.ready.get_or_try_init(prepare).await.map(drop)
}

/// # Errors
/// `kafka.config` (fatal), naming the option.
pub(crate) fn configure(shared: &Shared, connector: &str, options: ConnectorOptions) -> Result<()> {
    for (kind, overrides) in [
        (ClientKind::Producer, &options.producer),
        (ClientKind::Consumer, &options.consumer),
        (ClientKind::Admin, &options.admin),
    ] {
        shared.options.client(kind, connector, overrides)?;
    }
    shared.stores.connectors.write().insert(connector.to_owned(), Arc::new(options));
    Ok(())
}

pub(crate) async fn load(shared: &Arc<Shared>, store: Store) -> Result<BTreeMap<String, Vec<u8>>> {
    ready(shared).await?;
    shared.stores.load(store, shared).await
}

pub(crate) async fn save(shared: &Arc<Shared>, store: Store, entries: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
    ready(shared).await?;
    shared.stores.save(store, entries, shared).await
}

pub(crate) async fn source_offsets(shared: &Arc<Shared>, connector: &str) -> Result<Vec<SourceOffset>> {
    ready(shared).await?;
    shared.stores.source_offsets(connector, shared).await
}

pub(crate) async fn alter_source_offsets(shared: &Arc<Shared>, connector: &str, offsets: &[SourceOffset]) -> Result<()> {
    ready(shared).await?;
    shared.stores.alter_source_offsets(connector, offsets, shared).await
}

pub(crate) use fence::watch;

/// For writers: where the source offsets of a connector go, and into how many partitions. The record of an offset is
/// [`codec::offset_key`] and [`codec::offset_value`], placed by the key.
pub(crate) async fn offset_target(shared: &Arc<Shared>, connector: &str) -> Result<(Topic, i32)> {
    ready(shared).await?;
    shared.stores.offset_target(connector, shared).await
}

#[cfg(test)]
mod tests;
