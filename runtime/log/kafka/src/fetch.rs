//! Reading partitions: committed records only.

use crate::client::{Client, Leader};
use crate::cluster::Cluster;
use crate::error::{self, At};
use crate::log::Shared;
use crate::options::{ClientKind, KafkaOptions};
use aqueduct_core::{Batch, Error, Options, Result, TopicPartition};
use aqueduct_log::record_batch::{Damage, Header, decode_into};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use krafka::__private::network::BrokerConnection;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const READ_COMMITTED: i8 = 1;
const TRANSACTIONAL: i16 = 1 << 4;
/// At the same time, by [`aqueduct_log::Log::fetch`]: each has a connection to itself while it waits.
const FETCHES_MAX: usize = 32;

/// Clients for reading without a group. A fetch that waits would hold up all behind it on its connection, so each has one to itself.
pub(crate) struct Fetchers {
    cluster: Arc<Cluster>,
    options: KafkaOptions,
    idle: Mutex<Vec<Client>>,
    room: Semaphore,
}

/// One partition to be fetched, and from where.
pub(crate) struct Want<'a> {
    pub(crate) tp: &'a Arc<TopicPartition>,
    pub(crate) leader: &'a Leader,
    pub(crate) from: i64,
    pub(crate) max_bytes: usize,
}

impl Fetchers {
    /// # Errors
    /// `kafka.config` (fatal).
    pub(crate) fn new(cluster: Arc<Cluster>, options: &KafkaOptions) -> Result<Self> {
        let this = Self { cluster, options: options.clone(), idle: Mutex::default(), room: Semaphore::new(FETCHES_MAX) };
        this.config()?;
        Ok(this)
    }

    fn config(&self) -> Result<crate::options::ClientConfig> {
        self.options.client(ClientKind::Consumer, &format!("{}-fetch", self.options.group_id), &Options::new())
    }

    async fn take(&self) -> Result<Client> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(client) => Ok(client),
            None => Client::open(self.cluster.clone(), self.config()?).await,
        }
    }

    pub(crate) async fn close(&self) {
        self.room.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for client in idle {
            client.close().await;
        }
    }
}

/// One fetch for partitions with one leader, as the leader answers it: for each partition look at its error code, then [`decode`].
pub(crate) async fn request(
    client: &Client,
    connection: &BrokerConnection,
    wants: &[Want<'_>],
    min_bytes: usize,
    max_bytes: usize,
    wait: Duration,
) -> Result<FetchResponse> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for want in wants {
        let partition = FetchPartition::default()
            .with_partition(want.tp.partition)
            .with_current_leader_epoch(want.leader.epoch)
            .with_fetch_offset(want.from)
            .with_partition_max_bytes(clamp(want.max_bytes));
        match topics.iter_mut().find(|topic| topic.topic_id == want.leader.topic.id) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(
                FetchTopic::default()
                    .with_topic(crate::client::topic_name(&want.tp.topic))
                    .with_topic_id(want.leader.topic.id)
                    .with_partitions(vec![partition]),
            ),
        }
    }
    let request = FetchRequest::default()
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(clamp(min_bytes))
        .with_max_bytes(clamp(max_bytes))
        .with_isolation_level(READ_COMMITTED)
        // No rack (KIP-392): a leader that knows a nearer replica answers without records.
        .with_topics(topics);
    client.send_patiently(connection, &request, wait).await
}

fn clamp(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// Appends the committed records at and above `from` to `out`, as chunks over the response's buffer. Returns where to read on: behind what was
/// seen, records or not. A batch of which the broker sent only a part is left for the next fetch.
///
/// # Errors
/// What is damaged; what came before it is in `out`.
pub(crate) fn decode(data: &PartitionData, tp: &Arc<TopicPartition>, from: i64, out: &mut Batch) -> Result<i64, Damage> {
    let Some(records) = &data.records else { return Ok(from) };
    let mut aborted = Aborted::new(data.aborted_transactions.as_deref().unwrap_or_default());
    let (mut at, mut next) = (0, from);
    while let Some(header) = Header::parse(&records[at..])? {
        if records.len() - at < header.bytes {
            break;
        }
        if !aborted.covers(&header) && !header.is_control() {
            decode_into(records, at, tp, from, out)?;
        }
        at += header.bytes;
        next = next.max(header.next_offset());
    }
    Ok(next)
}

/// Which producers' batches are of an aborted transaction, while going through the batches of a fetch in order.
struct Aborted<'a> {
    /// By first offset.
    coming: Vec<&'a AbortedTransaction>,
    open: Vec<i64>,
}

impl<'a> Aborted<'a> {
    fn new(transactions: &'a [AbortedTransaction]) -> Self {
        let mut coming: Vec<_> = transactions.iter().collect();
        coming.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self { coming, open: Vec::new() }
    }

    fn covers(&mut self, header: &Header) -> bool {
        while let Some(transaction) = self.coming.pop_if(|transaction| transaction.first_offset <= header.last_offset()) {
            self.open.push(transaction.producer_id.0);
        }
        if header.is_control() {
            // Its marker ends it.
            self.open.retain(|producer| *producer != header.producer_id);
            return false;
        }
        header.attributes & TRANSACTIONAL != 0 && self.open.contains(&header.producer_id)
    }
}

/// [`aqueduct_log::Log::fetch`].
pub(crate) async fn fetch(shared: &Shared, tp: &TopicPartition, from: i64, max_bytes: usize, wait: Duration) -> Result<Batch> {
    let _room = shared.fetchers.room.acquire().await.map_err(|_| error::closed())?;
    let client = shared.fetchers.take().await?;
    let tp = Arc::new(tp.clone());
    let reading = Reading { client: &client, tp: &tp, max_bytes, deadline: Instant::now() + wait };
    let result = client.retry_until(reading.deadline + client.config.api_timeout, || reading.read(from)).await;
    if result.is_ok() {
        shared.fetchers.idle.lock().push(client);
    }
    result
}

/// Bytes of one look for a timestamp.
const SEARCH_BYTES: usize = 4 << 20;

/// [`aqueduct_log::Log::offset_for_timestamp`]. The broker's answer is where the search begins: see [`crate::admin::offset_near_timestamp`].
pub(crate) async fn offset_for_timestamp(shared: &Shared, tp: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
    let Some(mut from) = crate::admin::offset_near_timestamp(&shared.admin, tp, timestamp).await? else { return Ok(None) };
    loop {
        let batch = fetch(shared, tp, from, SEARCH_BYTES, Duration::ZERO).await?;
        for record in batch.iter() {
            let Some((_, offset)) = record.origin() else { continue };
            if record.timestamp().is_some_and(|stamp| stamp >= timestamp) {
                return Ok(Some(offset));
            }
            from = offset + 1;
        }
        if batch.is_empty() {
            return Ok(None);
        }
    }
}

/// A commit is known to its writer before its end is written to each partition. So who sees nothing yet looks again for so long, up to where the
/// partition ended when it first looked: what was committed before the call is seen by it. Longer than that only transactions that are still open
/// hide records.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
pub(crate) const SETTLE_PAUSE: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Settling(Option<(Instant, i64)>);

impl Settling {
    /// `end` is the high watermark now; only the first one counts.
    pub(crate) fn is_over(&mut self, stable: i64, end: i64) -> bool {
        let (until, end) = *self.0.get_or_insert_with(|| (Instant::now() + SETTLE_MAX, end));
        stable >= end || Instant::now() >= until
    }
}

struct Reading<'a> {
    client: &'a Client,
    tp: &'a Arc<TopicPartition>,
    max_bytes: usize,
    deadline: Instant,
}

/// Between looks at a partition whose end lies before what is asked for: no broker holds such a request back.
const BEYOND_END_PAUSE: Duration = Duration::from_millis(100);

impl Reading<'_> {
    async fn read(&self, from: i64) -> Result<Batch> {
        let result = self.read_from(from.max(0)).await;
        if result.is_err() {
            // The leader is another one now, or the topic.
            self.client.cluster.forget(&self.tp.topic);
        }
        result
    }

    async fn read_from(&self, mut from: i64) -> Result<Batch> {
        let mut settling = Settling::default();
        let at = At::new("fetch from topic", &self.tp.topic, "--operation Read --topic");
        loop {
            let leader = self.client.leader(self.tp).await?;
            let connection = self.client.broker(leader.broker).await?;
            let wait = self.deadline.saturating_duration_since(Instant::now());
            let want = Want { tp: self.tp, leader: &leader, from, max_bytes: self.max_bytes.max(1) };
            let response = request(self.client, &connection, &[want], 1, self.max_bytes.max(1), wait).await?;
            at.check(response.error_code, None)?;
            let data = response.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
            let data = data.ok_or_else(|| Error::retriable("kafka.protocol", format!("{}: an empty answer", self.tp)))?;
            match data.error_code.err() {
                None => {
                    let mut batch = Batch::default();
                    let next = decode(&data, self.tp, from, &mut batch);
                    if !batch.is_empty() {
                        return Ok(batch);
                    }
                    let next = next.map_err(|damage| corrupt(self.tp, from, &damage))?;
                    if next == from
                        && Instant::now() >= self.deadline
                        && settling.is_over(data.last_stable_offset, data.high_watermark)
                    {
                        return Ok(batch);
                    }
                    if next == from && Instant::now() >= self.deadline {
                        sleep(SETTLE_PAUSE).await;
                    }
                    from = next;
                }
                Some(ResponseError::OffsetOutOfRange) => {
                    let start = crate::admin::start_offset(self.client, self.tp).await?;
                    if from >= start {
                        if Instant::now() >= self.deadline {
                            return Ok(Batch::default());
                        }
                        tokio::time::sleep_until(self.deadline.min(Instant::now() + BEYOND_END_PAUSE)).await;
                    }
                    from = from.max(start);
                }
                Some(error) if error::is_stale(error) => return Err(moved(self.tp, error)),
                Some(error) => return Err(at.error(error, None)),
            }
        }
    }
}

/// A look at the cluster will tell who leads it now, or that it is gone.
pub(crate) fn moved(tp: &TopicPartition, error: ResponseError) -> Error {
    Error::retriable("kafka.moved", format!("{tp}: {error} ({error:?})"))
}

pub(crate) fn corrupt(tp: &TopicPartition, offset: i64, damage: &Damage) -> Error {
    let message = format!("topic {}, partition {}, offset {offset}: {damage}", tp.topic, tp.partition);
    Error::fatal("log.corrupt", message)
        .fix("set the group's offset behind the damage, or restore the partition from another replica")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Record;
    use aqueduct_log::record_batch::{Compression, encode, stamp_base_offset};
    use kafka_protocol::messages::ProducerId;

    const CONTROL: i16 = 1 << 5;

    /// A batch of so many records at `offset`, as this producer wrote it.
    fn batch(offset: i64, records: usize, producer: i64, attributes: i16) -> Vec<u8> {
        let plain: Batch = (0..records).map(|n| Record::new("t", format!("{}", offset + n as i64))).collect();
        let mut bytes = Vec::new();
        encode(plain.iter(), 0, Compression::None, &mut bytes).unwrap();
        stamp_base_offset(&mut bytes, offset);
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn data(batches: &[Vec<u8>], aborted: &[(i64, i64)]) -> PartitionData {
        let aborted = aborted.iter().map(|(producer, first)| {
            AbortedTransaction::default().with_producer_id(ProducerId(*producer)).with_first_offset(*first)
        });
        PartitionData::default().with_records(Some(batches.concat().into())).with_aborted_transactions(Some(aborted.collect()))
    }

    fn decoded(data: &PartitionData, from: i64) -> (Vec<i64>, Result<i64, Damage>) {
        let mut out = Batch::default();
        let next = decode(data, &Arc::new(TopicPartition::new("t", 0)), from, &mut out);
        (out.iter().map(|record| record.origin().unwrap().1).collect(), next)
    }

    #[test]
    fn aborted_transactions_and_markers_are_passed_over() {
        let batches = [
            batch(0, 2, 1, TRANSACTIONAL),
            batch(2, 1, 2, TRANSACTIONAL),
            batch(3, 1, 7, 0),
            batch(4, 1, 1, TRANSACTIONAL | CONTROL),
            // The producer that aborted writes again.
            batch(5, 2, 1, TRANSACTIONAL),
            batch(7, 1, 2, TRANSACTIONAL | CONTROL),
            batch(8, 1, 1, TRANSACTIONAL | CONTROL),
            batch(9, 1, 1, TRANSACTIONAL),
            batch(10, 1, 1, TRANSACTIONAL | CONTROL),
        ];
        let all = data(&batches, &[(1, 9), (1, 0)]);
        assert_eq!(decoded(&all, 0), (vec![2, 3, 5, 6], Ok(11)));
        assert_eq!(decoded(&all, 6), (vec![6], Ok(11)));
        assert_eq!(decoded(&data(&batches, &[]), 1), (vec![1, 2, 3, 5, 6, 9], Ok(11)));
        // Nothing but what is passed over still leads on.
        assert_eq!(decoded(&data(&batches[7..], &[(1, 9)]), 9), (vec![], Ok(11)));
        assert_eq!(decoded(&PartitionData::default(), 5), (vec![], Ok(5)));
    }

    #[test]
    fn half_a_batch_is_left_and_damage_is_told_behind_what_is_sound() {
        let mut batches = [batch(0, 2, -1, 0), batch(2, 2, -1, 0)];
        let mut cut = data(&batches, &[]);
        let length = batches[0].len() + 70;
        cut.records = cut.records.map(|records| records.slice(..length));
        assert_eq!(decoded(&cut, 0), (vec![0, 1], Ok(2)));
        *batches[1].last_mut().unwrap() ^= 1;
        let (read, damage) = decoded(&data(&batches, &[]), 0);
        assert_eq!(read, [0, 1]);
        assert!(matches!(damage, Err(Damage::Crc { .. })), "{damage:?}");
    }

    #[test]
    fn one_settles_where_the_first_look_ended() {
        let mut settling = Settling::default();
        assert!(!settling.is_over(3, 10) && !settling.is_over(9, 20));
        assert!(settling.is_over(10, 30));
    }
}
