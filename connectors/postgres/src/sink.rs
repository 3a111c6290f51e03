//! `postgres-sink`: rows from records, exactly once.
//!
//! A batch is one transaction: its rows, and the log's positions behind them (`lanes.rs`). Rows travel as arrays, one for each column, and are taken
//! apart by `unnest` (`statement.rs`). Where the server refuses data, the transaction is done again in halves of halves within savepoints, so that only
//! the bad records are refused; such a transaction is held open until the worker goes on, which is its consent to pass them.

mod boundary;
mod catalog;
mod change;
mod config;
mod lanes;
mod meaning;
mod names;
mod place;
mod rows;
mod statement;
mod text;
mod url;
mod value;
mod write;
mod writer;

pub use config::Config;

use aqueduct_config::SinkConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    Ack, Batch, Delivery, Error, Issue, LogPosition, Projection, RecordRef, Rejects, Result, SinkTask, Stage, TaskContext,
    TaskSpec, Topic, TopicPartition, Unfinished,
};
use async_trait::async_trait;
use boundary::Boundaries;
use catalog::{NewColumn, Table};
use change::{Change, Key};
use config::Settings;
use lanes::{Lanes, Move, Moves};
use meaning::Extensions;
use names::TableName;
use place::Reason;
use rustc_hash::{FxHashMap, FxHashSet};
use sqlx::Executor;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use writer::{Context, Outcome, Writer};

pub struct PostgresSinkConnector;

#[async_trait]
impl SinkConnector for PostgresSinkConnector {
    type Config = Config;
    type Task = PostgresSink;
    const NAME: &'static str = "postgres-sink";
    const ALIASES: &'static [&'static str] =
        &["io.confluent.connect.jdbc.JdbcSinkConnector", "io.debezium.connector.jdbc.JdbcSinkConnector", "JdbcSinkConnector"];
    const SUMMARY: &'static str = "Writes records to tables of PostgreSQL, exactly once: inserts, upserts, updates and deletes.";

    fn validate(config: &Config) -> Vec<Issue> {
        let mut issues = config.settings().err().unwrap_or_default();
        issues.extend(config.warnings());
        issues
    }

    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        config.settings().map_err(|issues| invalid(&issues))?;
        Ok(vec![TaskSpec::new(); tasks_max.max(1) as usize])
    }

    async fn open(config: Config, _: TaskSpec) -> Result<PostgresSink> {
        let settings = config.settings().map_err(|issues| invalid(&issues))?;
        PostgresSink::open(settings).await.map_err(in_our_words)
    }
}

pub struct PostgresSink {
    settings: Arc<Settings>,
    connection: PgConnection,
    extensions: Extensions,
    lanes: Lanes,
    boundaries: Boundaries,
    writers: Vec<Writer>,
    by_table: FxHashMap<TableName, usize>,
    /// Where the table depends on the topic alone.
    by_topic: FxHashMap<Topic, usize>,
    state: State,
}

/// Of the session's transaction.
enum State {
    None,
    /// A call was dropped within it.
    Open,
    /// It waits for the worker's consent to pass what was refused.
    Held(Moves),
}

/// Records of a batch that are refused, by their place in it.
type Bad = std::collections::BTreeMap<u32, Reason>;

/// A batch whose records bring new columns is gathered again for each; no table has more columns than this.
const GATHERINGS_MAX: usize = 1600;
/// Deadlocks and serialisation failures: this often at once, then the worker backs off.
const ATTEMPTS: usize = 3;

impl PostgresSink {
    async fn open(settings: Settings) -> Result<Self> {
        let mut connection = settings.connect.open().await?;
        if let Some(path) = &settings.search_path {
            let set = sqlx::query("SELECT set_config('search_path', $1, false)").bind(path).execute(&mut connection).await;
            set.map_err(|error| settings.connect.error("set currentSchema", error))?;
        }
        let extensions = catalog::extensions(&mut connection, &settings.connect).await?;
        Ok(Self {
            lanes: Lanes::new(settings.offsets_table.clone()),
            boundaries: Boundaries::new(settings.transaction_wait),
            settings: Arc::new(settings),
            connection,
            extensions,
            writers: Vec::new(),
            by_table: FxHashMap::default(),
            by_topic: FxHashMap::default(),
            state: State::None,
        })
    }

    async fn put_batch(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        self.settle().await?;
        let records: Vec<RecordRef<'_>> = batch.iter().collect();
        let (mut bad, mut moves) = (Bad::new(), Moves::new());
        if self.settings.exactly_once {
            self.lanes.settle();
            let settings = self.settings.clone();
            let partitions = batch.chunks().iter().filter_map(|chunk| chunk.origin.as_deref());
            self.lanes.make(&mut self.connection, &settings.connect, &cx.task.connector, partitions).await?;
            moves = self.moves(&records)?;
        }
        let new = self.unwritten(&records, &mut bad);
        let held = if new.is_empty() { false } else { self.write(&records, &new, moves, &mut bad).await? };
        self.boundaries.put(batch);
        for (index, reason) in bad {
            let error = Error::fatal(reason.code, reason.message);
            rejects.push(records[index as usize].to_record(), Stage::TaskPut, PostgresSinkConnector::NAME, error);
        }
        Ok(if held { Ack::Buffered } else { Ack::Durable })
    }

    /// Ends what an earlier call left: commits what the worker has agreed to by going on.
    async fn settle(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Open) {
            State::None => {}
            State::Open => {
                let _ = self.connection.execute("ROLLBACK").await;
            }
            State::Held(moves) => {
                let committed = self.connection.execute("COMMIT").await;
                committed.map_err(|error| self.settings.connect.error("commit", error))?;
                self.lanes.moved(moves);
            }
        }
        self.state = State::None;
        Ok(())
    }

    /// Where each partition will stand behind this batch; what the target has already, `next` says.
    fn moves(&self, records: &[RecordRef<'_>]) -> Result<Moves> {
        let mut moves = Moves::new();
        for record in records {
            let Some((partition, offset)) = record.origin() else {
                return Err(Error::fatal(
                    "postgres_sink.origin",
                    "a record says not where it was read: a transform took it away",
                ));
            };
            match moves.get_mut(&**partition) {
                Some(to) => to.to = to.to.max(offset + 1),
                None => {
                    drop(moves.insert(TopicPartition::clone(partition), Move { to: offset + 1, refused: Default::default() }))
                }
            }
        }
        moves.retain(|partition, to| match self.lanes.get(partition) {
            Some(lane) => {
                to.refused.clone_from(&lane.place.refused);
                to.to > lane.place.next
            }
            None => false,
        });
        Ok(moves)
    }

    /// Records that the target does not have yet, with their places in the batch. Those that it refused before are refused again.
    fn unwritten<'a>(&self, records: &[RecordRef<'a>], bad: &mut Bad) -> Vec<(u32, RecordRef<'a>)> {
        let mut new = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            let index = index as u32;
            let lane = record.origin().and_then(|(partition, offset)| Some((self.lanes.get(partition)?, offset)));
            match lane {
                Some((lane, offset)) if offset < lane.place.next => {
                    if let Some(reason) = lane.place.refused.get(&offset) {
                        bad.insert(index, reason.clone());
                    }
                }
                _ => new.push((index, *record)),
            }
        }
        new
    }

    /// Fills the writers; returns those that have something to do, in the order of their first record.
    async fn gather(&mut self, records: &[(u32, RecordRef<'_>)], bad: &mut Bad) -> Result<Vec<usize>> {
        let (mut reloaded, mut checked) = (FxHashSet::default(), false);
        for _ in 0..GATHERINGS_MAX {
            self.writers.iter_mut().for_each(Writer::clear);
            let mut refused = Bad::new();
            let Some(order) = self.gather_once(records, &mut refused, &mut reloaded).await? else { continue };
            if !refused.is_empty() && !std::mem::replace(&mut checked, true) && self.forget_changed().await? {
                continue;
            }
            bad.extend(refused);
            return Ok(order);
        }
        Err(Error::retriable("postgres_sink.columns", "the tables change faster than they can be read"))
    }

    /// Before a record is refused: someone may have changed its table. True: a table is not what it was, and all are forgotten.
    async fn forget_changed(&mut self) -> Result<bool> {
        for index in 0..self.writers.len() {
            let found = catalog::find(&mut self.connection, &self.settings.connect, &self.writers[index].name).await?;
            if found.as_ref() != Some(&self.writers[index].table) {
                self.forget_tables();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `None`: a table changed, and what was gathered does not fit it.
    async fn gather_once(
        &mut self,
        records: &[(u32, RecordRef<'_>)],
        bad: &mut Bad,
        reloaded: &mut FxHashSet<usize>,
    ) -> Result<Option<Vec<usize>>> {
        let settings = self.settings.clone();
        let cx = Context { settings: &settings, extensions: self.extensions };
        let mut order: Vec<usize> = Vec::new();
        for (index, record) in records {
            let decoded = change::change(*record, settings.delete, settings.truncate).and_then(|change| {
                let key = match change {
                    Change::Skip | Change::Truncate => Key::None,
                    _ => change::key(*record, settings.key_mode, &settings.key_fields)?,
                };
                Ok((change, key))
            });
            let (change, key) = match decoded {
                Ok((Change::Skip, _)) => continue,
                // A tombstone has no `source` to name its table; the delete before it has done the work.
                Ok((Change::Delete(None), _)) if record.value().is_null() && !settings.format.by_topic() => continue,
                Ok(decoded) => decoded,
                Err(reason) => {
                    bad.insert(*index, refusal(&reason));
                    continue;
                }
            };
            let writer = match self.writer(*record, &change, &key, &cx).await? {
                Ok(Some(writer)) => writer,
                Ok(None) => continue,
                Err(reason) => {
                    bad.insert(*index, refusal(&reason));
                    continue;
                }
            };
            match self.writers[writer].push(*index, &change, &key, record.topic(), &cx) {
                Ok(()) => {
                    if !order.contains(&writer) {
                        order.push(writer);
                    }
                }
                Err(Outcome::Refused(reason)) => drop(bad.insert(*index, refusal(&reason))),
                Err(Outcome::Missing(columns)) => {
                    if reloaded.insert(writer) {
                        // Someone may have added them.
                        self.reload(writer).await?;
                        return Ok(None);
                    }
                    match self.evolve(writer, &columns).await? {
                        Ok(()) => return Ok(None),
                        Err(reason) => drop(bad.insert(*index, refusal(&reason))),
                    }
                }
            }
        }
        Ok(Some(order))
    }

    /// The writer of a record's table, which is made if need be. `None`: it would be made for a delete. The inner error refuses the record.
    async fn writer(
        &mut self,
        record: RecordRef<'_>,
        change: &Change<'_>,
        key: &Key<'_>,
        cx: &Context<'_>,
    ) -> Result<Result<Option<usize>, String>> {
        let settings = cx.settings;
        if let Some(writer) = self.by_topic.get(record.topic()) {
            return Ok(Ok(Some(*writer)));
        }
        let Some(name) = settings.format.name(record.topic(), |field| change::source_field(record, field)) else {
            return Ok(Err("has no such field in its source as table.name.format names".to_owned()));
        };
        let name = TableName::parse(&name, settings.fold);
        let writer = match self.by_table.get(&name) {
            Some(writer) => *writer,
            None => {
                catalog::check_table_name(&name)?;
                let table = match catalog::find(&mut self.connection, &settings.connect, &name).await? {
                    Some(table) => table,
                    None if settings.auto_create && matches!(change, Change::Delete(_) | Change::Truncate) => {
                        return Ok(Ok(None));
                    }
                    None => match self.create(&name, record, change, key, cx).await? {
                        Ok(table) => table,
                        Err(reason) => return Ok(Err(reason)),
                    },
                };
                self.writers.push(Writer::new(name.clone(), table));
                self.by_table.insert(name, self.writers.len() - 1);
                self.writers.len() - 1
            }
        };
        if settings.format.by_topic() {
            self.by_topic.insert(record.topic().clone(), writer);
        }
        Ok(Ok(Some(writer)))
    }

    async fn create(
        &mut self,
        name: &TableName,
        record: RecordRef<'_>,
        change: &Change<'_>,
        key: &Key<'_>,
        cx: &Context<'_>,
    ) -> Result<Result<Table, String>> {
        let missing = || {
            Error::fatal("postgres_sink.table_missing", format!("there is no table {name} at {}", cx.settings.connect.place()))
                .fix("Make it, or set auto.create (or schema.evolution: basic), or change table.name.format.")
        };
        if !cx.settings.auto_create {
            return Err(missing());
        }
        let columns = match Writer::new(name.clone(), Table::nothing()).push(0, change, key, record.topic(), cx) {
            Err(Outcome::Missing(columns)) => columns,
            Err(Outcome::Refused(reason)) => return Ok(Err(reason)),
            Ok(()) => return Ok(Err(format!("names no column, so that {name} cannot be made of it"))),
        };
        if let Err(reason) = writer::check_columns(&columns) {
            return Ok(Err(reason));
        }
        let sql = catalog::create_sql(name, &columns);
        catalog::run_ddl(&mut self.connection, &cx.settings.connect, &format!("make the table {name}"), &sql).await?;
        catalog::find(&mut self.connection, &cx.settings.connect, name).await?.map(Ok).ok_or_else(missing)
    }

    async fn reload(&mut self, writer: usize) -> Result<()> {
        let name = self.writers[writer].name.clone();
        match catalog::find(&mut self.connection, &self.settings.connect, &name).await? {
            Some(table) => self.writers[writer].replace(table),
            // It was dropped: the next record looks for it anew.
            None => self.forget_tables(),
        }
        Ok(())
    }

    fn forget_tables(&mut self) {
        self.writers.clear();
        self.by_table.clear();
        self.by_topic.clear();
    }

    /// The inner error refuses the record.
    async fn evolve(&mut self, writer: usize, columns: &[NewColumn]) -> Result<Result<(), String>> {
        let (name, table) = (self.writers[writer].name.clone(), self.writers[writer].table.name.clone());
        let names = || columns.iter().map(|column| format!("{:?}", column.name)).collect::<Vec<_>>().join(", ");
        if !self.settings.auto_evolve || columns.iter().any(|column| column.key) {
            let fix = if self.settings.auto_evolve {
                ""
            } else {
                ": add it, or set auto.evolve (or schema.evolution: basic), or leave the field out"
            };
            return Ok(Err(format!("has fields for which {table} has no column: {}{fix}", names())));
        }
        if let Err(reason) = writer::check_columns(columns) {
            return Ok(Err(reason));
        }
        let sql = catalog::alter_sql(&name, columns);
        catalog::run_ddl(&mut self.connection, &self.settings.connect, &format!("add columns to {table}"), &sql).await?;
        self.reload(writer).await?;
        Ok(Ok(()))
    }
}

/// Advice that names the source's options names the sink's.
fn in_our_words(error: Error) -> Error {
    let Some(hint) = error.hint().filter(|hint| hint.contains("database.")) else { return error };
    let hint = hint
        .replace("database.hostname and database.port reach", "connection.url reaches")
        .replace("database.hostname", "connection.url")
        .replace("database.dbname", "connection.url")
        .replace("database.user", "connection.user")
        .replace("database.password", "connection.password")
        .replace("database.ssl", "connection.url's ssl");
    error.fix(hint)
}

fn refusal(reason: &str) -> Reason {
    Reason { code: "postgres_sink.record".to_owned(), message: format!("the record {reason}") }
}

#[async_trait]
impl SinkTask for PostgresSink {
    async fn assigned(&mut self, partitions: &[LogPosition]) -> Result<Vec<LogPosition>> {
        self.settle().await?;
        if !self.settings.exactly_once {
            return Ok(Vec::new());
        }
        let settings = self.settings.clone();
        self.lanes.assign(&mut self.connection, &settings.connect, partitions).await.map_err(in_our_words)
    }

    async fn revoked(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.settle().await?;
        if self.settings.exactly_once {
            let confirmed = self.lanes.confirm(&mut self.connection).await;
            confirmed.map_err(|error| self.settings.connect.error("confirm positions", error))?;
        }
        for partition in partitions {
            self.lanes.revoke(partition);
            self.boundaries.revoked(partition);
        }
        Ok(())
    }

    fn unfinished(&self, batch: &Batch) -> Vec<Unfinished> {
        self.boundaries.unfinished(batch)
    }

    fn projection(&self) -> Option<Projection> {
        let named = self.settings.format.source_fields().map(str::to_owned);
        Some(change::projection(boundary::looked_at().map(str::to_owned).chain(named).collect()))
    }

    /// One statement is worth that many.
    fn put_records(&self) -> usize {
        self.settings.batch_size
    }

    async fn put(&mut self, batch: &Batch, rejects: &mut Rejects, cx: &TaskContext) -> Result<Ack> {
        self.put_batch(batch, rejects, cx).await.map_err(in_our_words)
    }

    async fn flush(&mut self) -> Result<()> {
        self.settle().await
    }

    fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        if self.settings.exactly_once { self.lanes.metadata(partition) } else { None }
    }

    fn delivery(&self) -> Delivery {
        if self.settings.exactly_once { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce("exactly.once is false".to_owned()) }
    }

    async fn close(&mut self) -> Result<()> {
        // What is held was not agreed to.
        if !matches!(self.state, State::None) {
            let _ = self.connection.execute("ROLLBACK").await;
        }
        if self.settings.exactly_once {
            let _ = self.lanes.confirm(&mut self.connection).await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresSink({})", self.settings.connect.place())
    }
}
