//! What rows and changes become: where the stream and the snapshots meet the catalog and the model.

use super::catalog::{self, Types};
use super::options::Options;
use super::pgoutput::Relation;
use super::position::Kind;
use crate::connection::{Connect, qualified};
use crate::debezium::{Change, Message, Model, Origin, Snapshot, SourceInfo, TableModel, Transaction};
use crate::snapshot::{BATCH_BYTES, ENCODED_BATCH_BYTES, Encode, Mark, ReadRow};
use crate::table::{Cell, Table};
use aqueduct_core::{BatchBuilder, Data, Encoder, JsonMap, Record, Result};
use async_trait::async_trait;
use rustc_hash::FxHashMap;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Where an event is.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub lsn: u64,
    pub last_commit: Option<u64>,
    pub xid: Option<u32>,
    /// Of the commit; since 1970.
    pub time_micros: Option<i64>,
}

/// A relation of the stream.
pub struct Known {
    pub table: Arc<Table>,
    /// `None`: not captured.
    model: Option<Arc<TableModel>>,
    /// Its rows are signals.
    pub signals: bool,
    /// Labels of its enums that the catalog was asked for and does not have: renamed since, or gone with the type.
    strange: Vec<Vec<u8>>,
}

/// Of one relation: beyond that, its schema keeps the labels that it has (invariant 6).
const STRANGE_LABELS_MAX: usize = 64;

impl Known {
    /// Whether a row has a label that its enum did not have when the relation was described.
    pub fn has_new_label(&self, row: &[Cell<'_>]) -> bool {
        let strange = |label: &[u8]| self.strange.len() >= STRANGE_LABELS_MAX || self.strange.iter().any(|known| known == label);
        self.model.as_ref().is_some_and(|model| model.new_labels(row).any(|(_, label)| !strange(label)))
    }

    pub fn is_captured(&self) -> bool {
        self.model.is_some()
    }
}

/// A table whose rows are read.
struct Reading {
    table: Arc<Table>,
    model: Arc<TableModel>,
    /// What the last row was, and what was made of it: it is that of nearly all rows of a chunk.
    last: Option<(ReadRow, SourceInfo)>,
}

/// A change of a row, or none: `TRUNCATE`.
pub struct Row<'a> {
    pub kind: Kind,
    pub old: Option<&'a [Cell<'a>]>,
    pub new: Option<&'a [Cell<'a>]>,
}

pub struct Shape {
    connect: Connect,
    /// For the catalog; opened when it is needed.
    session: Option<PgConnection>,
    types: Types,
    signal_table: Option<String>,
    model: Model,
    read: FxHashMap<u32, Reading>,
    /// Of the open transaction.
    origin: Option<Arc<Origin>>,
    /// The slot's `catalog_xmin`, where it is asked for.
    pub xmin: Option<i64>,
    /// The open transaction, with `provide.transaction.metadata`.
    transaction: Option<Transaction>,
    /// How often a heartbeat record is sent, and when the last one was.
    heartbeat: Option<(Duration, Instant)>,
    /// What rows that are read beside the stream have as the last commit.
    pub last_commit: Option<u64>,
    now_ns: i64,
    /// Where records need not be objects.
    encoder: Option<Box<dyn Encoder>>,
    /// Of one event.
    scratch: Vec<Record>,
}

impl Shape {
    /// # Errors
    /// As [`Model::new`].
    pub fn new(connect: Connect, options: &Options) -> Result<Self> {
        let heartbeat = options.heartbeat().filter(|_| options.heartbeat_records()).map(|every| (every, Instant::now()));
        Ok(Self {
            model: Model::new(options)?,
            connect,
            session: None,
            types: Types::default(),
            signal_table: options.signal_table.clone(),
            read: FxHashMap::default(),
            origin: None,
            xmin: None,
            transaction: None,
            heartbeat,
            last_commit: None,
            now_ns: now_ns(),
            encoder: None,
            scratch: Vec::new(),
        })
    }

    /// As `SourceTask::encode_with`.
    pub fn encode_with(&mut self, encoder: Box<dyn Encoder>) {
        self.encoder = Some(encoder);
    }

    /// Looks at the clock: once for each block, not for each event.
    pub fn tick(&mut self) {
        self.now_ns = now_ns();
    }

    pub fn now_micros(&self) -> i64 {
        self.now_ns / 1000
    }

    pub fn captures(&self, schema: &str, table: &str) -> bool {
        self.model.captures(schema, table)
    }

    /// The stream describes a relation: what the catalog adds is looked up.
    ///
    /// # Errors
    /// As [`Connect::error`] and [`Model::table`].
    pub async fn describe(&mut self, relation: &Relation<'_>) -> Result<Known> {
        let captured = self.model.captures(relation.schema, relation.name);
        let signals = self.signal_table.as_ref().is_some_and(|name| *name == format!("{}.{}", relation.schema, relation.name));
        if !captured {
            return Ok(Known {
                table: Arc::new(catalog::of_relation(relation, None)),
                model: None,
                signals,
                strange: Vec::new(),
            });
        }
        let mut session = self.take_session().await?;
        // An error drops the session: the next look opens another.
        let now = catalog::table(&self.connect, &mut session, relation.oid).await?;
        self.session = Some(session);
        let table = Arc::new(catalog::of_relation(relation, now.as_ref()));
        let model = self.make(&table).await?;
        let identifies = |index: usize| relation.columns.get(index).is_some_and(|column| column.key);
        let unknown: Vec<&str> = model.key_beyond(identifies).collect();
        if !unknown.is_empty() && relation.columns.iter().any(|column| column.key) {
            tracing::warn!(
                table = &*model.name,
                columns = unknown.join(","),
                "columns of the key are not in the replica identity: deletes do not tell them, and come without a key. \
                 As the table's owner run: ALTER TABLE {} REPLICA IDENTITY FULL; or set message.key.columns to columns of the replica identity",
                qualified(relation.schema, relation.name),
            );
        }
        Ok(Known { table, model: Some(model), signals, strange: Vec::new() })
    }

    /// It is read again for the next description of a table.
    pub fn forget_type(&mut self, oid: u32) {
        self.types.remove(&oid);
        self.read.clear();
    }

    /// `ALTER TYPE … ADD VALUE` describes no relation anew: the first row with the label tells of it, as with Debezium.
    ///
    /// # Errors
    /// As [`Shape::describe`].
    pub async fn relabel(&mut self, known: &mut Known, row: &[Cell<'_>]) -> Result<()> {
        let Some(model) = &known.model else { return Ok(()) };
        let columns: Vec<usize> = model.new_labels(row).map(|(column, _)| column).collect();
        for column in columns {
            self.forget_type(known.table.columns[column].type_oid);
        }
        let model = self.make(&known.table).await?;
        known.strange.extend(model.new_labels(row).map(|(_, label)| label.to_vec()));
        known.model = Some(model);
        Ok(())
    }

    async fn make(&mut self, table: &Table) -> Result<Arc<TableModel>> {
        let oids: Vec<u32> = table.columns.iter().map(|column| column.type_oid).collect();
        if oids.iter().any(|oid| !self.types.contains_key(oid)) {
            let mut session = self.take_session().await?;
            catalog::types(&self.connect, &mut session, oids, &mut self.types).await?;
            self.session = Some(session);
        }
        self.model.table(table, &self.types)
    }

    async fn take_session(&mut self) -> Result<PgConnection> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => self.connect.open().await,
        }
    }

    /// The records of one change; without `out` they are only counted in their transaction.
    ///
    /// # Errors
    /// As [`TableModel::change`]: then none of them is appended.
    pub fn change(&mut self, known: &Known, row: &Row<'_>, at: &At, out: Option<&mut BatchBuilder>) -> Result<()> {
        let Some(model) = &known.model else { return Ok(()) };
        let change = match (row.kind, row.old, row.new) {
            (Kind::Insert, _, Some(new)) => Change::Insert(new),
            (Kind::Update, old, Some(new)) => Change::Update(old, new),
            (Kind::Delete, Some(old), _) => Change::Delete(old),
            _ => Change::Truncate,
        };
        let info = self.info(at);
        let to = Writing { encoder: &mut self.encoder, scratch: &mut self.scratch, transaction: self.transaction.as_mut() };
        to.push(model, change, &info, out)
    }

    pub fn message(&mut self, prefix: &str, content: &[u8], at: &At, out: Option<&mut BatchBuilder>) {
        let info = self.info(at);
        let made = self.model.message(Message { prefix, content }, &info, self.transaction.as_mut());
        made.into_iter().zip(out).for_each(|(record, out)| out.push(record));
    }

    /// The open transaction came from another server.
    pub fn came_from(&mut self, name: &str, lsn: u64) {
        self.origin = Some(Arc::new(Origin { name: name.to_owned(), lsn }));
    }

    pub fn no_origin(&mut self) {
        self.origin = None;
    }

    pub fn begin(&mut self, xid: u32, at: &At, out: Option<&mut BatchBuilder>) {
        if self.model.tells_transactions() {
            let transaction = Transaction::new(xid);
            if let Some(out) = out {
                out.push(self.model.begin(&transaction, Some(at.lsn), self.info(at).commit_us.div_euclid(1000)));
            }
            self.transaction = Some(transaction);
        }
    }

    pub fn commit(&mut self, at: &At, out: Option<&mut BatchBuilder>) {
        if let (Some(transaction), Some(out)) = (self.transaction.take(), out) {
            out.push(self.model.end(&transaction, Some(at.lsn), self.info(at).commit_us.div_euclid(1000)));
        }
    }

    /// What Debezium's offset has of the open transaction.
    pub fn transaction_offset(&self) -> JsonMap {
        self.transaction.as_ref().map_or_else(JsonMap::new, Transaction::offset)
    }

    /// A heartbeat record, where they are asked for and it is time.
    pub fn heartbeat(&mut self) -> Option<Record> {
        let (every, last) = self.heartbeat.as_mut()?;
        if last.elapsed() < *every {
            return None;
        }
        *last = Instant::now();
        Some(self.model.heartbeat(now_ns() / 1_000_000))
    }

    /// Events that are passed over count in their transaction all the same.
    pub fn counts(&self) -> bool {
        self.transaction.is_some()
    }

    fn info(&self, at: &At) -> SourceInfo {
        SourceInfo {
            // As Debezium: what has no commit (a message outside of transactions) has the time at which it is read.
            commit_us: at.time_micros.unwrap_or(self.now_ns / 1000),
            snapshot: Snapshot::False,
            last_commit_lsn: at.last_commit,
            lsn: Some(at.lsn),
            tx_id: at.xid,
            xmin: self.xmin,
            origin: self.origin.clone(),
            now_ns: self.now_ns,
            block: None,
        }
    }

    pub async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            crate::connection::close(session).await;
        }
    }
}

#[async_trait]
impl Encode for Shape {
    async fn table(&mut self, table: &Arc<Table>) -> Result<()> {
        self.tick();
        if self.read.get(&table.oid).is_none_or(|reading| reading.table != *table) {
            let model = self.make(table).await?;
            self.read.insert(table.oid, Reading { table: table.clone(), model, last: None });
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        if self.encoder.is_some() { ENCODED_BATCH_BYTES } else { BATCH_BYTES }
    }

    fn read(&mut self, table: &Arc<Table>, cells: &[Cell<'_>], row: &ReadRow, out: &mut BatchBuilder) -> Result<()> {
        let Some(reading) = self.read.get_mut(&table.oid) else { return Ok(()) };
        let snapshot = match row.mark {
            Mark::First => Snapshot::First,
            Mark::FirstInTable => Snapshot::FirstInDataCollection,
            Mark::True => Snapshot::True,
            Mark::LastInTable => Snapshot::LastInDataCollection,
            Mark::Last => Snapshot::Last,
            Mark::Incremental => Snapshot::Incremental,
        };
        let same = |(last, info): &(ReadRow, SourceInfo)| last == row && info.last_commit_lsn == self.last_commit;
        if !reading.last.as_ref().is_some_and(same) {
            let mut info = SourceInfo {
                commit_us: row.time_micros,
                snapshot,
                last_commit_lsn: self.last_commit,
                lsn: Some(row.lsn),
                tx_id: row.xid.map(|xid| xid as u32),
                ..SourceInfo::default()
            };
            info.block = Some(Data::Shared(Arc::new(reading.model.source_block(&info))));
            reading.last = Some((*row, info));
        }
        let Some((_, info)) = &mut reading.last else { return Ok(()) };
        info.now_ns = self.now_ns;
        // What is read is in no transaction, though one may be open beside it.
        let to = Writing { encoder: &mut self.encoder, scratch: &mut self.scratch, transaction: None };
        to.push(&reading.model, Change::Read(cells), info, Some(out))
    }
}

/// Where the events of one change go.
struct Writing<'a> {
    encoder: &'a mut Option<Box<dyn Encoder>>,
    /// Emptied.
    scratch: &'a mut Vec<Record>,
    transaction: Option<&'a mut Transaction>,
}

impl Writing<'_> {
    /// As [`Shape::change`].
    fn push(self, model: &TableModel, change: Change<'_>, info: &SourceInfo, mut out: Option<&mut BatchBuilder>) -> Result<()> {
        if let (Some(encoder), Some(out), None) = (self.encoder, &mut out, &self.transaction)
            && model.write(change, info, &mut **encoder, out)
        {
            return Ok(());
        }
        self.scratch.clear();
        model.change(change, info, self.transaction, self.scratch)?;
        let made = self.scratch.drain(..);
        if let Some(out) = out {
            made.for_each(|record| out.push(record));
        }
        Ok(())
    }
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}
