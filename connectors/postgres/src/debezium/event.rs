//! What surrounds a row in an event: where it came from and when; and the events that have no row.

use super::transaction::Transaction;
use super::{Model, schemas, text};
use crate::source::options::modes::BinaryMode;
use aqueduct_core::packed::{Common, Leaf, Packer};
use aqueduct_core::record::Header;
use aqueduct_core::{Data, Payload, Record, Schema};
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

/// How a row of a snapshot is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Snapshot {
    /// From the stream.
    #[default]
    False,
    True,
    First,
    FirstInDataCollection,
    LastInDataCollection,
    Last,
    Incremental,
}

impl Snapshot {
    fn name(self) -> Option<&'static str> {
        Some(match self {
            // The schema's default.
            Snapshot::False => return None,
            Snapshot::True => "true",
            Snapshot::First => "first",
            Snapshot::FirstInDataCollection => "first_in_data_collection",
            Snapshot::LastInDataCollection => "last_in_data_collection",
            Snapshot::Last => "last",
            Snapshot::Incremental => "incremental",
        })
    }
}

/// What an event takes beside its row, packed: the names in the block `source` are the most of it.
pub(super) const PACKED_BYTES: usize = 384;

/// Where a change was made first, if it came to the database by logical replication: the origin's name, and the LSN of the commit there.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) name: String,
    pub(crate) lsn: u64,
}

/// Where a change came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceInfo {
    /// When the transaction committed, or the snapshot was taken: microseconds since the epoch.
    pub(crate) commit_us: i64,
    pub(crate) snapshot: Snapshot,
    /// The end of the last transaction that was completely sent, as Debezium's `sequence` has it.
    pub(crate) last_commit_lsn: Option<u64>,
    /// Of the change.
    pub(crate) lsn: Option<u64>,
    pub(crate) tx_id: Option<u32>,
    pub(crate) xmin: Option<i64>,
    pub(crate) origin: Option<Arc<Origin>>,
    /// The clock: nanoseconds since the epoch.
    pub(crate) now_ns: i64,
    /// What was made of the rest before, for this table.
    pub(crate) block: Option<Arc<Common>>,
}

/// What is the same in every event of a task.
#[derive(Debug)]
pub(crate) struct Context {
    name: String,
    database: String,
    /// Debezium's `__debezium.context.*`.
    pub(super) headers: Vec<Header>,
}

impl Context {
    /// Each has a name of its own for the run.
    pub(super) fn new(name: &str, database: &str, tell: bool) -> Self {
        // Bytes are text to every converter, and cost a record nothing but a count; what is the same everywhere, not even that.
        let header =
            |name: &str, value: Bytes| Header { name: format!("__debezium.context.{name}").into(), value: Payload::Bytes(value) };
        let headers = tell.then(|| {
            [
                header("connectorLogicalName", name.to_owned().into()),
                // One task reads the stream: there is no other.
                header("taskId", Bytes::from_static(b"0")),
                header("connectorName", Bytes::from_static(b"postgresql")),
                header("runId", Uuid::new_v4().to_string().into()),
            ]
        });
        Self { name: name.to_owned(), database: database.to_owned(), headers: headers.into_iter().flatten().collect() }
    }
}

impl SourceInfo {
    /// The block `source`.
    pub(super) fn pack(&self, context: &Context, schema: &str, table: &str, out: &mut Packer) {
        let number = |out: &mut Packer, number: Option<i64>| out.leaf(number.map_or(Leaf::Null, Leaf::Int64));
        // Debezium knows of no transaction where rows are read in between.
        let streamed = self.snapshot != Snapshot::Incremental;
        out.begin_struct(16);
        out.string(env!("CARGO_PKG_VERSION"));
        out.string("postgresql");
        out.string(&context.name);
        out.int64(self.commit_us.div_euclid(1000));
        out.leaf(self.snapshot.name().map_or(Leaf::Null, Leaf::String));
        out.string(&context.database);
        out.string(&self.sequence());
        out.int64(self.commit_us);
        out.int64(self.commit_us.saturating_mul(1000));
        out.string(schema);
        out.string(table);
        number(out, self.tx_id.filter(|_| streamed).map(i64::from));
        number(out, self.lsn.filter(|_| streamed).map(|lsn| lsn as i64));
        number(out, self.xmin.filter(|_| streamed));
        out.leaf(self.origin.as_ref().map_or(Leaf::Null, |origin| Leaf::String(&origin.name)));
        number(out, self.origin.as_ref().map(|origin| origin.lsn as i64));
    }

    /// `["24023128","24023136"]`
    fn sequence(&self) -> String {
        let mut out = String::with_capacity(44);
        out.push('[');
        sequence_part(&mut out, self.last_commit_lsn);
        out.push(',');
        sequence_part(&mut out, self.lsn);
        out.push(']');
        out
    }
}

fn sequence_part(out: &mut String, lsn: Option<u64>) {
    let Some(mut lsn) = lsn else { return out.push_str("null") };
    // 20 digits are the most that 64 bits have, and two quotes.
    let (mut text, mut at) = ([b'"'; 22], 21);
    loop {
        at -= 1;
        text[at] = b'0' + (lsn % 10) as u8;
        lsn /= 10;
        if lsn == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&text[at - 1..]).unwrap_or_default());
}

/// One moment in the three fields of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(i64);

impl Clock {
    pub(super) fn at(nanos: i64) -> Self {
        Self(nanos)
    }

    pub(super) fn millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    pub(super) fn micros(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub(super) fn nanos(self) -> i64 {
        self.0
    }
}

/// What is written of `pg_logical_emit_message`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) content: &'a [u8],
}

impl Model {
    /// The record of a logical message; `None` where its prefix is not captured. Its block `source` names no table, and a message outside
    /// transactions (no `tx_id`) has no place in one.
    pub(crate) fn message(
        &self,
        message: Message<'_>,
        info: &SourceInfo,
        transaction: Option<&mut Transaction>,
    ) -> Option<Record> {
        if !self.filters.message(message.prefix) {
            return None;
        }
        let transaction = transaction.filter(|_| info.tx_id.is_some());
        let place = transaction.map(|transaction| transaction.place(&self.message_collection, info.lsn));
        let mut value = Packer::with_capacity(PACKED_BYTES + message.content.len());
        value.begin_struct(5);
        value.string("m");
        value.int64(Clock::at(info.now_ns).millis());
        info.pack(&self.context, "", "", &mut value);
        value.data(&place.map_or(Data::Null, |place| place.block()));
        value.begin_struct(2);
        value.string(message.prefix);
        match self.modes.binary() {
            BinaryMode::Bytes => value.leaf(Leaf::Bytes(message.content)),
            mode => value.string(&text::encode_binary(message.content, mode)),
        }
        let mut record = Record::new(self.message_topic.clone(), value.finish(self.message_value.clone()));
        let mut key = Packer::default();
        key.begin_struct(1);
        key.string(message.prefix);
        record.key = key.finish(self.message_key.clone());
        Some(record)
    }

    /// A heartbeat for those who want to see one.
    pub(crate) fn heartbeat(&self, now_ms: i64) -> Record {
        let value = Payload::data(Some(self.heartbeat_value.clone()), Data::Struct(vec![Data::Int64(now_ms)]));
        let mut record = Record::new(self.heartbeat_topic.clone(), value);
        record.partition = Some(0);
        record.key =
            Payload::data(Some(self.heartbeat_key.clone()), Data::Struct(vec![Data::String(self.context.name().to_owned())]));
        record
    }
}

impl Context {
    fn name(&self) -> &str {
        &self.name
    }
}

/// For the schema block's own users.
pub(super) fn schemas_of(names: crate::source::options::modes::NameAdjustment, binary: BinaryMode) -> [Arc<Schema>; 6] {
    let source = Arc::new(schemas::source());
    let transaction = Arc::new(schemas::transaction_block());
    let message_value = Arc::new(schemas::message_value(names, binary, &source, &transaction));
    [
        source,
        transaction,
        message_value,
        Arc::new(schemas::message_key(names)),
        Arc::new(schemas::heartbeat_key(names)),
        Arc::new(schemas::heartbeat_value(names)),
    ]
}
