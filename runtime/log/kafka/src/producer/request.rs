//! Requests of a producer: what is said to the broker, and what the answer means.

use super::lane::Shipment;
use super::txn::{Identity, Mode, Positions};
use super::verdict::{Step, Verdict, Why, verdict};
use super::{COORDINATOR, Client, again};
use crate::client::{Connection, CoordinatorOf, topic_name};
use crate::error;
use aqueduct_core::failpoint::{self, point};
use aqueduct_core::{Error, Result, Topic};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, GroupId,
    InitProducerIdRequest, ProduceRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::{Decodable, Message, Request, StrBytes};
use krafka::__private::protocol::ApiKey;
use krafka::KrafkaError;
use krafka::error::ProtocolErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A transaction that is open under the same id is ended within this time, mostly in milliseconds.
const INIT_PAUSE: Duration = Duration::from_millis(20);

/// The first pause before it is asked whether a transaction's markers are written, and when to stop asking: it is committed anyway.
const SETTLE_PAUSE: Duration = Duration::from_millis(1);
const SETTLE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Arc<Client>,
    pub(crate) transactional_id: Option<String>,
    pub(crate) acks: i16,
}

/// Where a shipment goes.
pub(crate) struct Parcel {
    pub(crate) shipment: Shipment,
    pub(crate) topic: Topic,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
}

/// What became of one parcel: lane, serial, verdict, base offset.
pub(crate) type Delivered = (usize, u64, Verdict, i64);

/// The highest versions that mean a transaction without KIP-890.
struct Caps;
impl Caps {
    const PRODUCE: i16 = 11;
    const POSITIONS: i16 = 4;
    const END: i16 = 4;
    /// The versions that clients speak: above, `AddPartitionsToTxn` is between brokers.
    const REGISTER: i16 = 3;
    const V2: i16 = i16::MAX;
}

impl Link {
    fn name(&self) -> &str {
        self.transactional_id.as_deref().unwrap_or(&self.client.config.client_id)
    }

    fn tid(&self) -> Option<TransactionalId> {
        self.transactional_id.clone().map(|id| TransactionalId(StrBytes::from_string(id)))
    }

    /// Asks at most in this version. `Err(None)`: it was not sent.
    async fn ask<R: Request>(&self, connection: &Connection, request: &R, max: i16) -> Result<R::Response, Verdict> {
        let (key, versions) = (ApiKey::from_i16(R::KEY), <R as Message>::VERSIONS);
        let address = connection.address();
        let version = connection.negotiate_api_version(key, versions.max.min(max), versions.min).ok_or_else(|| {
            let unsupported = Error::fatal("kafka.unsupported", format!("{address}: no common version of {key}"));
            Verdict::Abort(unsupported.fix("use Apache Kafka 3.9 or later"))
        })?;
        let encode = |buffer: &mut BytesMut| {
            let unfit = |error| KrafkaError::protocol_kind(ProtocolErrorKind::InvalidValue, format!("{key} v{version}: {error}"));
            request.encode(buffer, version).map_err(unfit)
        };
        // From here on nobody knows what the broker did, unless it answers.
        let sent = connection.send_request(key, version, encode).await;
        let mut bytes: Bytes = sent.map_err(|error| Verdict::Lost(error::connection(address, &error)))?;
        R::Response::decode(&mut bytes, version)
            .map_err(|error| Verdict::Lost(Error::retriable("kafka.protocol", format!("{address}: {key} v{version}: {error}"))))
    }

    async fn coordinator(&self) -> Result<Connection, Verdict> {
        self.client.coordinator(COORDINATOR, self.name()).await.map_err(|error| self.not_reached(COORDINATOR, self.name(), error))
    }

    /// No connection: nothing was sent, so the same may be asked again.
    fn not_reached(&self, of: CoordinatorOf, key: &str, error: Error) -> Verdict {
        self.client.coordinator_lost(of, key);
        if error.is_retriable() { Verdict::Again(Why::Coordinator) } else { Verdict::Abort(error) }
    }

    fn judge(&self, step: Step, code: i16, message: Option<&str>, name: &str) -> Verdict {
        let verdict = verdict(step, code, message, name);
        if matches!(verdict, Verdict::Again(Why::Coordinator)) && step != Step::Produce {
            self.client.coordinator_lost(COORDINATOR, self.name());
        }
        verdict
    }

    /// The producer's id and epoch, and how its transactions are ended. Tries until `default.api.timeout.ms` is over.
    pub(crate) async fn init(&self) -> Result<(Mode, Identity)> {
        let deadline = Instant::now() + self.client.config.api_timeout;
        loop {
            let last = match self.init_once().await {
                Ok(done) => return Ok(done),
                Err(Verdict::Abort(error)) => return Err(error),
                // Asked again it only raises the epoch once more.
                Err(Verdict::Lost(error)) if error.is_retriable() => error,
                Err(Verdict::Lost(error)) => return Err(error),
                Err(other) => Error::retriable("kafka.unreachable", format!("{}: no producer id yet ({other:?})", self.name())),
            };
            if Instant::now() + INIT_PAUSE > deadline {
                return Err(last);
            }
            sleep(INIT_PAUSE).await;
        }
    }

    async fn init_once(&self) -> Result<(Mode, Identity), Verdict> {
        let transactional = self.transactional_id.is_some();
        let connection = match transactional {
            true => self.coordinator().await?,
            false => self.client.any().await.map_err(|error| self.not_reached(COORDINATOR, self.name(), error))?,
        };
        if !transactional && self.acks != -1 {
            return Ok((Mode::Plain { idempotent: false }, Identity { id: -1, epoch: -1 }));
        }
        let response = self.ask(&connection, &self.init_request(Identity { id: -1, epoch: -1 }), Caps::V2).await?;
        match self.judge(Step::Init, response.error_code, None, self.name()) {
            Verdict::Done => {}
            other => return Err(other),
        }
        let identity = Identity { id: response.producer_id.0, epoch: response.producer_epoch };
        if !transactional {
            return Ok((Mode::Plain { idempotent: true }, identity));
        }
        let finalized = connection.broker_features().finalized_level("transaction.version").unwrap_or(0);
        let speaks = |key: ApiKey, min: i16| connection.negotiate_api_version(key, i16::MAX, min).is_some();
        let v2 = finalized >= 2 && speaks(ApiKey::EndTxn, 5) && speaks(ApiKey::Produce, 12) && speaks(ApiKey::TxnOffsetCommit, 5);
        Ok((Mode::Transactional { v2 }, identity))
    }

    fn init_request(&self, identity: Identity) -> InitProducerIdRequest {
        let timeout = i32::try_from(self.client.config.producer.transaction_timeout.as_millis()).unwrap_or(i32::MAX);
        InitProducerIdRequest::default()
            .with_transactional_id(self.tid())
            .with_transaction_timeout_ms(if self.transactional_id.is_some() { timeout } else { i32::MAX })
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
    }

    /// Aborts what is open under this epoch and raises it (KIP-360). Tries until `default.api.timeout.ms` is over.
    ///
    /// # Errors
    /// `log.fenced` (fatal) when another producer has taken over.
    pub(crate) async fn raise_epoch(&self, identity: Identity) -> Result<()> {
        let deadline = Instant::now() + self.client.config.api_timeout;
        loop {
            let verdict = match self.coordinator().await {
                Ok(connection) => match self.ask(&connection, &self.init_request(identity), Caps::V2).await {
                    Ok(response) => self.judge(Step::Init, response.error_code, None, self.name()),
                    Err(verdict) => verdict,
                },
                Err(verdict) => verdict,
            };
            let last = match verdict {
                Verdict::Done => return Ok(()),
                Verdict::Abort(error) => return Err(error),
                // Asked again it only raises the epoch once more.
                Verdict::Lost(error) if error.code() == "log.fenced" => match self.successor(identity).await {
                    Some(false) => return Ok(()),
                    Some(true) => return Err(error),
                    None => Error::retriable("kafka.unreachable", format!("{}: not known who writes", self.name())),
                },
                Verdict::Lost(error) if !error.is_retriable() => return Err(error),
                Verdict::Lost(error) => error,
                Verdict::Again(why) => Error::retriable("kafka.unreachable", format!("{}: no epoch yet ({why:?})", self.name())),
            };
            if Instant::now() + INIT_PAUSE > deadline {
                return Err(last);
            }
            sleep(INIT_PAUSE).await;
        }
    }

    /// Whether another producer has begun after this one. The coordinator raises the epoch by itself when it aborts a transaction that was left open; who takes
    /// over leaves another state.
    async fn successor(&self, identity: Identity) -> Option<bool> {
        let connection = self.coordinator().await.ok()?;
        let request = DescribeTransactionsRequest::default().with_transactional_ids(self.tid().into_iter().collect());
        let response = self.ask(&connection, &request, Caps::V2).await.ok()?;
        let state = response.transaction_states.first().filter(|state| state.error_code == 0)?;
        let raised = state.producer_epoch.checked_sub(identity.epoch).is_some_and(|by| (0..=1).contains(&by));
        match state.transaction_state.as_str() {
            "PrepareEpochFence" | "PrepareAbort" => None,
            "CompleteAbort" => Some(state.producer_id.0 != identity.id || !raised),
            _ => Some(true),
        }
    }

    /// One request, its shipments in order.
    pub(crate) async fn produce(
        &self,
        known: Option<Connection>,
        broker: i32,
        mode: Mode,
        parcels: Vec<Parcel>,
    ) -> (Option<Connection>, Vec<Delivered>) {
        let connection = match known {
            Some(connection) => connection,
            None => match self.client.broker(broker).await {
                Ok(connection) => connection,
                Err(error) if error.is_retriable() => return (None, all(&parcels, || Verdict::Again(Why::Moved))),
                Err(error) => return (None, all(&parcels, || Verdict::Abort(again(&error)))),
            },
        };
        let timeout = i32::try_from(self.client.config.request_timeout.as_millis()).unwrap_or(i32::MAX);
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for parcel in &parcels {
            let data =
                PartitionProduceData::default().with_index(parcel.partition).with_records(Some(parcel.shipment.bytes.clone()));
            match topics.iter_mut().find(|topic| topic.topic_id == parcel.id) {
                Some(topic) => topic.partition_data.push(data),
                None => topics.push(
                    TopicProduceData::default()
                        .with_name(topic_name(&parcel.topic))
                        .with_topic_id(parcel.id)
                        .with_partition_data(vec![data]),
                ),
            }
        }
        let request = ProduceRequest::default()
            .with_transactional_id(self.tid())
            .with_acks(self.acks)
            .with_timeout_ms(timeout)
            .with_topic_data(topics);
        let cap = if mode == (Mode::Transactional { v2: false }) { Caps::PRODUCE } else { Caps::V2 };
        let response = match self.ask(&connection, &request, cap).await {
            Ok(response) => response,
            Err(Verdict::Abort(error)) => return (Some(connection), all(&parcels, || Verdict::Abort(again(&error)))),
            Err(Verdict::Lost(error)) => return (None, all(&parcels, || Verdict::Lost(again(&error)))),
            Err(_) => return (Some(connection), all(&parcels, || Verdict::Again(Why::Busy))),
        };
        let answer = |parcel: &Parcel| {
            let topic = response.responses.iter().find(|topic| topic.topic_id == parcel.id || *topic.name.0 == *parcel.topic)?;
            topic.partition_responses.iter().find(|answer| answer.index == parcel.partition)
        };
        let judged = |parcel: &Parcel| {
            let Some(answer) = answer(parcel) else {
                let missing = Error::retriable(
                    "kafka.protocol",
                    format!("{}: no answer for {}-{}", connection.address(), parcel.topic, parcel.partition),
                );
                return (Verdict::Lost(missing), -1);
            };
            let leader = &answer.current_leader;
            if leader.leader_id.0 >= 0 {
                self.client.cluster.leader_moved(&parcel.topic, parcel.partition, leader.leader_id.0, leader.leader_epoch);
            }
            let verdict = verdict(Step::Produce, answer.error_code, answer.error_message.as_deref(), &parcel.topic);
            (verdict, answer.base_offset)
        };
        let delivered = parcels.iter().map(|parcel| {
            let (verdict, offset) = judged(parcel);
            (parcel.shipment.lane, parcel.shipment.serial, verdict, offset)
        });
        let delivered = delivered.collect();
        (Some(connection), delivered)
    }

    pub(crate) async fn register(&self, identity: Identity, partitions: Vec<(Topic, i32)>) -> Verdict {
        let connection = match self.coordinator().await {
            Ok(connection) => connection,
            Err(verdict) => return verdict,
        };
        let mut topics: Vec<AddPartitionsToTxnTopic> = Vec::new();
        for (topic, partition) in &partitions {
            match topics.iter_mut().find(|known| known.name.0.as_str() == &**topic) {
                Some(known) => known.partitions.push(*partition),
                None => {
                    topics.push(AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(vec![*partition]))
                }
            }
        }
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.tid().unwrap_or_default())
            .with_v3_and_below_producer_id(ProducerId(identity.id))
            .with_v3_and_below_producer_epoch(identity.epoch)
            .with_v3_and_below_topics(topics);
        let response = match self.ask(&connection, &request, Caps::REGISTER).await {
            Ok(response) => response,
            Err(verdict) => return verdict,
        };
        let answers = response.results_by_topic_v3_and_below.iter();
        let answers = answers
            .flat_map(|topic| topic.results_by_partition.iter().map(|answer| (&*topic.name.0, answer.partition_error_code)));
        // Where one is refused, the others are told OPERATION_NOT_ATTEMPTED (55).
        let refused = answers.filter(|(_, code)| *code != 0).min_by_key(|(_, code)| *code == 55);
        refused.map_or(Verdict::Done, |(topic, code)| self.judge(Step::Register, code, None, topic))
    }

    pub(crate) async fn positions(&self, mode: Mode, identity: Identity, positions: Positions) -> Verdict {
        let v2 = mode == (Mode::Transactional { v2: true });
        if !v2 {
            match self.announce(identity, &positions).await {
                Verdict::Done => {}
                other => return other,
            }
        }
        let connection = match self.client.coordinator(CoordinatorOf::Group, &positions.group).await {
            Ok(connection) => connection,
            Err(error) => return self.not_reached(CoordinatorOf::Group, &positions.group, error),
        };
        let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
        for (tp, offset, metadata) in &positions.offsets {
            let partition = TxnOffsetCommitRequestPartition::default()
                .with_partition_index(tp.partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::from_string(metadata.clone())));
            match topics.iter_mut().find(|topic| topic.name.0.as_str() == &*tp.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(
                    TxnOffsetCommitRequestTopic::default().with_name(topic_name(&tp.topic)).with_partitions(vec![partition]),
                ),
            }
        }
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.tid().unwrap_or_default())
            .with_group_id(GroupId(StrBytes::from_string(positions.group.clone())))
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_generation_id(positions.generation)
            .with_member_id(StrBytes::from_string(positions.member.clone()))
            .with_group_instance_id(positions.instance.clone().map(StrBytes::from_string))
            .with_topics(topics);
        let response = match self.ask(&connection, &request, if v2 { Caps::V2 } else { Caps::POSITIONS }).await {
            Ok(response) => response,
            Err(verdict) => return verdict,
        };
        let mut codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code));
        let code = codes.find(|code| *code != 0).unwrap_or(0);
        let verdict = verdict(Step::Positions, code, None, &positions.group);
        if matches!(verdict, Verdict::Again(Why::Coordinator)) {
            self.client.coordinator_lost(CoordinatorOf::Group, &positions.group);
        }
        verdict
    }

    /// `AddOffsetsToTxn`: without KIP-890 the coordinator must hear of the group first.
    async fn announce(&self, identity: Identity, positions: &Positions) -> Verdict {
        let connection = match self.coordinator().await {
            Ok(connection) => connection,
            Err(verdict) => return verdict,
        };
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.tid().unwrap_or_default())
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_group_id(GroupId(StrBytes::from_string(positions.group.clone())));
        match self.ask(&connection, &request, Caps::V2).await {
            Ok(response) => self.judge(Step::Register, response.error_code, None, &positions.group),
            Err(verdict) => verdict,
        }
    }

    /// Waits until the markers of the committed transaction are written, as long as that is a matter of milliseconds. Without waiting, the next
    /// transaction's first Produce would be told CONCURRENT_TRANSACTIONS after 20 ms in the broker.
    pub(crate) async fn settle(&self) {
        // However long the coordinator takes to say so: it is committed.
        let _ = timeout(SETTLE_MAX, self.settled()).await;
    }

    async fn settled(&self) {
        let ids = self.tid().into_iter().collect();
        let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
        let mut pause = SETTLE_PAUSE;
        loop {
            sleep(pause).await;
            pause = (pause * 3 / 2).min(SETTLE_PAUSE * 20);
            let Ok(connection) = self.coordinator().await else { return };
            let Ok(response) = self.ask(&connection, &request, Caps::V2).await else { return };
            if response.transaction_states.first().is_none_or(|state| state.transaction_state.as_str() != "PrepareCommit") {
                return;
            }
        }
    }

    /// Until somebody says anything but "later".
    pub(crate) async fn abort(&self, mode: Mode, identity: Identity) {
        while let (Verdict::Again(_), _) = self.end(mode, identity, false).await {
            sleep(INIT_PAUSE).await;
        }
    }

    /// The identity of the next transaction comes with the answer.
    pub(crate) async fn end(&self, mode: Mode, identity: Identity, commit: bool) -> (Verdict, Identity) {
        let v2 = mode == (Mode::Transactional { v2: true });
        let connection = match self.coordinator().await {
            Ok(connection) => connection,
            Err(verdict) => return (verdict, identity),
        };
        let request = EndTxnRequest::default()
            .with_transactional_id(self.tid().unwrap_or_default())
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_committed(commit);
        let asked = self.ask(&connection, &request, if v2 { Caps::V2 } else { Caps::END });
        let sent = async {
            tokio::task::yield_now().await;
            failpoint::hit(point::KAFKA_END_SENT);
        };
        let response = match tokio::join!(biased; asked, sent).0 {
            Ok(response) => response,
            Err(verdict) => return (verdict, identity),
        };
        match self.judge(Step::End, response.error_code, None, self.name()) {
            Verdict::Done if v2 && response.producer_id.0 < 0 => {
                let error = Error::retriable(
                    "kafka.protocol",
                    format!("{}: EndTxn gave no epoch for the next transaction", connection.address()),
                );
                (Verdict::Lost(error), identity)
            }
            Verdict::Done if v2 => (Verdict::Done, Identity { id: response.producer_id.0, epoch: response.producer_epoch }),
            other => (other, identity),
        }
    }
}

fn all(parcels: &[Parcel], verdict: impl Fn() -> Verdict) -> Vec<Delivered> {
    parcels.iter().map(|parcel| (parcel.shipment.lane, parcel.shipment.serial, verdict(), -1)).collect()
}
