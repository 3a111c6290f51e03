//! What surrounds a row in an event: where it came from and when; and the events that have no row.

use super::transaction::Transaction;
use super::{Model, schemas, text};
use crate::source::options::modes::BinaryMode;
use aqueduct_core::record::Header;
use aqueduct_core::{Data, Fields, Payload, Record, Result, Schema, Values};
use arrayvec::ArrayString;
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
    /// What was made of the rest before, for this table: shared.
    pub(crate) block: Option<Data>,
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

/// The block `source`, made as it is asked for.
pub(super) struct Source<'a> {
    pub(super) info: &'a SourceInfo,
    pub(super) context: &'a Context,
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
}

impl Fields for Source<'_> {
    fn tell(&self, to: &mut dyn Values) -> Result<()> {
        let SourceInfo { commit_us, snapshot, origin, .. } = self.info;
        let number = |to: &mut dyn Values, number: Option<i64>| match number {
            Some(number) => to.int64(number),
            None => to.null(),
        };
        let text = |to: &mut dyn Values, text: Option<&str>| match text {
            Some(text) => to.string(text),
            None => to.null(),
        };
        // Debezium knows of no transaction where rows are read in between.
        let streamed = *snapshot != Snapshot::Incremental;
        to.string(env!("CARGO_PKG_VERSION"))?;
        to.string("postgresql")?;
        to.string(&self.context.name)?;
        to.int64(commit_us.div_euclid(1000))?;
        text(to, snapshot.name())?;
        to.string(&self.context.database)?;
        to.string(&self.info.sequence())?;
        to.int64(*commit_us)?;
        to.int64(commit_us.saturating_mul(1000))?;
        to.string(self.schema)?;
        to.string(self.table)?;
        number(to, self.info.tx_id.filter(|_| streamed).map(i64::from))?;
        number(to, self.info.lsn.filter(|_| streamed).map(|lsn| lsn as i64))?;
        number(to, self.info.xmin.filter(|_| streamed))?;
        text(to, origin.as_ref().map(|origin| &*origin.name))?;
        number(to, origin.as_ref().map(|origin| origin.lsn as i64))
    }
}

impl SourceInfo {
    /// The block `source`.
    pub(super) fn block(&self, context: &Context, schema: &str, table: &str) -> Data {
        // An object takes everything.
        Data::of(&Source { info: self, context, schema, table }).unwrap_or(Data::Null)
    }

    /// `["24023128","24023136"]`
    fn sequence(&self) -> ArrayString<49> {
        let mut out = ArrayString::new();
        out.push('[');
        sequence_part(&mut out, self.last_commit_lsn);
        out.push(',');
        sequence_part(&mut out, self.lsn);
        out.push(']');
        out
    }
}

/// 20 digits are the most that 64 bits have, and two quotes.
fn sequence_part(out: &mut ArrayString<49>, lsn: Option<u64>) {
    let Some(lsn) = lsn else { return out.push_str("null") };
    out.push('"');
    out.push_str(itoa::Buffer::new().format(lsn));
    out.push('"');
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
        let prefix = || Data::String(message.prefix.to_owned());
        let content = match self.modes.binary() {
            BinaryMode::Bytes => Data::Bytes(Bytes::copy_from_slice(message.content)),
            mode => Data::String(text::encode_binary(message.content, mode)),
        };
        let transaction = transaction.filter(|_| info.tx_id.is_some());
        let place = transaction.map(|transaction| transaction.place(&self.message_collection, info.lsn));
        let value = Data::Struct(vec![
            Data::String("m".to_owned()),
            Data::Int64(Clock::at(info.now_ns).millis()),
            info.block(&self.context, "", ""),
            place.map_or(Data::Null, |place| place.block()),
            Data::Struct(vec![prefix(), content]),
        ]);
        let mut record = Record::new(self.message_topic.clone(), Payload::data(Some(self.message_value.clone()), value));
        record.key = Payload::data(Some(self.message_key.clone()), Data::Struct(vec![prefix()]));
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
