//! A producer: records, source offsets and group positions in transactions, gathered while the last one is being ended.
//!
//! One task owns each producer (`run`); what it may do is decided in `txn`.

mod lane;
mod place;
mod registry;
mod request;
mod run;
mod txn;
#[cfg(test)]
mod txn_tests;
mod verdict;

pub(crate) use registry::LocalProducers;
pub(crate) use txn::{Boundary, Identity, Mode, Positions, again};

use crate::admin;
use crate::client::{Client, CoordinatorOf};
use crate::cluster::TopicMeta;
use crate::error;
use crate::log::Shared;
use crate::options::{Acks, ClientKind};
use aqueduct_core::failpoint::{self, point};
use aqueduct_core::{Batch, Error, Options, Result};
use aqueduct_log::{Appended, EncodedBatch, RecordLimit, TopicInfo};
use parking_lot::Mutex;
use place::{Placed, Target};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use txn::{Ask, Limits, Txn};
use uuid::Uuid;

/// Appends between their writer and the task that owns the producer; their bytes are bounded by `buffer.memory`.
const ASKS_MAX: usize = 1024;
/// The least that an append counts for.
const APPEND_BYTES_MIN: usize = 1024;
/// Kafka's default of `max.message.bytes`.
const MESSAGE_BYTES: usize = 1_048_588;

/// What a producer is opened with.
pub(crate) struct ProducerOptions<'a> {
    /// `None`: no transactions, at least once.
    pub(crate) transactional_id: Option<String>,
    /// `client.id`
    pub(crate) client_id: String,
    pub(crate) boundary: Boundary,
    /// What the caller has in flight at most, in bytes.
    pub(crate) budget: Option<usize>,
    /// `producer.override.…` of the connector.
    pub(crate) overrides: &'a Options,
    /// Of the last producer with this transactional id: opened only when nobody else took over since then (KIP-360).
    pub(crate) after: Option<Identity>,
}

/// Hands appends to the task that owns the producer. Dropping it abandons nothing.
pub(crate) struct Producer {
    shared: Arc<Shared>,
    client: Arc<Client>,
    queue: mpsc::Sender<Ask>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// Why the producer was given up.
    failed: Arc<Mutex<Option<Error>>>,
    identity: Arc<Mutex<Identity>>,
    limits: Limits,
    mode: Mode,
    turn: usize,
    max_bytes: Mutex<FxHashMap<Uuid, usize>>,
}

impl Producer {
    /// With a transactional id: fences every older producer of that id, and waits until its open transaction is ended (invariant 5).
    ///
    /// # Errors
    /// `kafka.config` (fatal) for options that cannot be kept; `kafka.not_authorized`, `kafka.unreachable`, ….
    pub(crate) async fn open(shared: &Arc<Shared>, options: ProducerOptions<'_>) -> Result<Self> {
        shared.open()?;
        let config = shared.options.client(ClientKind::Producer, &options.client_id, options.overrides)?;
        let producer = config.producer.clone();
        let (mut delivery, mut boundary, transaction) =
            (producer.delivery_timeout, options.boundary, producer.transaction_timeout);
        if options.transactional_id.is_some() {
            delivery = delivery.min(transaction - txn::expiry_margin(transaction));
            if let Boundary::Interval(interval) = boundary {
                // The rest is for writing and ending it.
                boundary = Boundary::Interval(interval.min(transaction / 2));
            }
        }
        let limits = Limits {
            in_flight: producer.in_flight,
            request_bytes: producer.max_request_bytes,
            linger: producer.linger,
            buffer_bytes: options.budget.map_or(producer.buffer_bytes, |budget| budget.min(producer.buffer_bytes)),
            delivery,
            transaction,
            boundary,
            compression: producer.compression,
        };
        let acks = acks(producer.acks, options.transactional_id.is_some())?;
        let registration = shared.producers.register(options.transactional_id.as_deref()).await;
        let client = Arc::new(Client::open(shared.cluster.clone(), config).await?);
        let link = request::Link { client: client.clone(), transactional_id: options.transactional_id, acks };
        if let Some(identity) = options.after {
            link.raise_epoch(identity).await?;
        }
        let (mode, identity) = link.init().await?;
        failpoint::hit(point::KAFKA_OPENED);
        let (queue, asks) = mpsc::channel(ASKS_MAX);
        let failed = Arc::new(Mutex::new(None));
        let txn = Txn::new(mode, limits, identity, tokio::time::Instant::now());
        let identity = Arc::new(Mutex::new(identity));
        let owner = run::Owner::new(shared.clone(), link, txn, asks, failed.clone(), identity.clone(), registration);
        shared.tasks.spawn(owner.run());
        let room_bytes = producer.buffer_bytes.min(u32::MAX as usize);
        let room = Arc::new(Semaphore::new(room_bytes));
        Ok(Self {
            shared: shared.clone(),
            client,
            queue,
            room,
            room_bytes,
            failed,
            identity,
            limits,
            mode,
            turn: 0,
            max_bytes: Mutex::default(),
        })
    }

    /// As the coordinator last said it.
    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock()
    }

    /// Whether every epoch is raised at the end of its transaction (KIP-890); `None` without transactions.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Records, records of the offsets topic and positions become visible together, or not at all. Waits only for room. What it gives resolves in
    /// the order of append.
    ///
    /// # Errors
    /// `log.unknown_topic`, `log.unknown_partition`, `log.record_too_large` (fatal): nothing was taken, the producer goes on. `log.closed`, and why
    /// the producer was given up.
    pub(crate) async fn append(
        &mut self,
        records: EncodedBatch,
        offsets: Option<Batch>,
        positions: Option<Positions>,
    ) -> Result<oneshot::Receiver<Result<Appended>>> {
        self.check()?;
        let records = records.into_batch();
        // As the worker counts: offsets alone take room too.
        let bytes = (records.bytes() + offsets.as_ref().map_or(0, Batch::bytes)).max(APPEND_BYTES_MIN);
        let turn = self.turn;
        let records = self.place(records, turn).await?;
        let mut offsets = match offsets {
            Some(offsets) => self.place(offsets, turn).await?,
            None => Vec::new(),
        };
        offsets.iter_mut().for_each(|placed| placed.hidden = true);
        let room = self.room(bytes).await?;
        self.check()?;
        self.turn = turn.wrapping_add(1);
        let (reply, committed) = oneshot::channel();
        let ask = Ask { records, offsets, positions, bytes, reply, room: Box::new(room) };
        self.queue.send(ask).await.map_err(|_| self.why())?;
        Ok(committed)
    }

    fn check(&self) -> Result<()> {
        self.shared.open()?;
        self.failed.lock().as_ref().map_or(Ok(()), |error| Err(again(error)))
    }

    fn why(&self) -> Error {
        self.failed.lock().as_ref().map_or_else(error::closed, again)
    }

    async fn place(&self, batch: Batch, turn: usize) -> Result<Vec<Placed>> {
        let mut targets: Vec<Arc<Target>> = Vec::new();
        for chunk in batch.chunks().iter().filter(|chunk| !chunk.is_empty()) {
            if !targets.iter().any(|target| target.meta.name == chunk.topic) {
                targets.push(self.target(&chunk.topic, chunk.partition).await?);
            }
        }
        let target = |name: &str| {
            let found = targets.iter().find(|target| &*target.meta.name == name);
            found.cloned().ok_or_else(|| error::unknown_topic(name))
        };
        place::place(batch, target, turn, self.limits.compression)
    }

    async fn target(&self, name: &str, partition: Option<i32>) -> Result<Arc<Target>> {
        let client = &self.client;
        let known = client.retry(|| async {
            match client.topic(name).await? {
                // Partitions may have been added.
                Some(topic) if partition.is_some_and(|partition| topic.partition(partition).is_none()) => {
                    client.cluster.forget(name);
                    client.topic(name).await
                }
                topic => Ok(topic),
            }
        });
        let meta = known.await?.ok_or_else(|| error::unknown_topic(name))?;
        let max_bytes = self.max_message_bytes(&meta).await?.min(self.limits.request_bytes);
        let batch_bytes = self.client.config.producer.batch_bytes.min(max_bytes);
        Ok(Arc::new(Target { meta, max_bytes, batch_bytes: batch_bytes.saturating_sub(record_batch_overhead()).max(1) }))
    }

    /// `max.message.bytes` of the topic, asked once.
    async fn max_message_bytes(&self, topic: &TopicMeta) -> Result<usize> {
        if let Some(known) = self.max_bytes.lock().get(&topic.id) {
            return Ok(*known);
        }
        let bytes = self.ask_max_message_bytes(&topic.name).await?;
        self.max_bytes.lock().insert(topic.id, bytes);
        Ok(bytes)
    }

    async fn ask_max_message_bytes(&self, topic: &str) -> Result<usize> {
        let key = "max.message.bytes";
        match admin::topic_configs(&self.client, topic, &[key]).await {
            Ok(configs) => Ok(configs.get(key).and_then(|value| value.parse().ok()).unwrap_or(MESSAGE_BYTES)),
            // Who may write need not be allowed to read configs: then the broker tells what is too large.
            Err(error) if error.code() == "kafka.not_authorized" => Ok(MESSAGE_BYTES),
            Err(error) => Err(error),
        }
    }

    /// As it holds now, from here on for appends too: that of the topic or else the broker, and `max.request.size`.
    pub(crate) async fn record_limit(&self, topic: &TopicInfo) -> Result<RecordLimit> {
        let bytes = self.ask_max_message_bytes(&topic.name).await?;
        self.max_bytes.lock().insert(topic.id, bytes);
        Ok(RecordLimit::Batch { bytes: bytes.min(self.limits.request_bytes), compression: self.limits.compression })
    }

    async fn room(&self, bytes: usize) -> Result<Room> {
        // More than there is room for waits for all of it.
        let permits = bytes.clamp(1, self.room_bytes) as u32;
        let permit = tokio::select! {
            permit = self.room.clone().acquire_many_owned(permits) => permit.map_err(|_| error::closed())?,
            () = self.shared.closed.cancelled() => return Err(error::closed()),
        };
        self.shared.counters.bytes_in_flight.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Room { shared: self.shared.clone(), bytes: bytes as u64, _permit: permit })
    }
}

fn record_batch_overhead() -> usize {
    aqueduct_log::record_batch::HEADER_BYTES
}

/// Held by an append until it is resolved (invariant 6).
struct Room {
    shared: Arc<Shared>,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.counters.bytes_in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// # Errors
/// `kafka.config` (fatal) when that cannot keep what is promised.
pub(crate) fn acks(asked: Acks, transactional: bool) -> Result<i16> {
    match asked {
        Acks::All => Ok(-1),
        Acks::Leader if !transactional => Ok(1),
        Acks::Leader => Err(Error::fatal("kafka.config", "acks: 1 cannot promise exactly once")
            .fix("remove acks, or set exactly.once.source.support: disabled in worker.yaml")),
        Acks::None => Err(Error::fatal(
            "kafka.config",
            "acks: 0 never tells whether a record was written; offsets could not be stored after it",
        )
        .fix("use acks=all")),
    }
}

/// The coordinator of a producer is found under its transactional id.
const COORDINATOR: CoordinatorOf = CoordinatorOf::Transaction;
