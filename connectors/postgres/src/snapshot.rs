//! Copies of whole tables: before the stream, beside it, and on request.
//!
//! # The hand-over, and why nothing is missing and nothing goes back
//!
//! **The first session** reads every table in the snapshot that the slot exported when it was made: it has exactly the transactions that the stream
//! will not send. So a row that was read is older than every event of the stream. Progress is stored with each batch, for each table in an
//! offset of its own ([`state`]): the key of the last row sent.
//!
//! **After a crash** the exported snapshot is gone, and a later view has seen transactions that the stream sends again from the slot's beginning: their
//! events would be *older* than the rows. To drop them one would have to compare keys in the server's order, which only the server knows (collations),
//! and LSNs with views, which do not agree (a transaction becomes visible some time after its commit record). Instead what is left is read with a condition:
//! rows whose version (`xmin`) the exported snapshot had ([`plan::unchanged_since`]; what it had seen is stored). These are as they were then; whatever was
//! inserted, changed or deleted since comes by the stream, and by it alone. `xmin` proves nothing where ids of transactions have wrapped, or where the table's
//! definition changed ([`reader::since`]): then the condition is left out, and rows may come twice, but none is left out.
//!
//! The stream begins at once, and what is left of each table **with a key** is read beside it in chunks, exactly as an incremental snapshot is: a chunk knows
//! the transactions that it has seen, its rows are sent when the stream has passed all of these, and a row that the stream has changed since is left out
//! ([`incremental`]). Events are never out of order for a key, whatever its type; a key needs to be equal only, not to be compared. An update has the server's
//! placeholder for large values that did not change: in a table with such values, changed rows are read all the same, and their `r` follows the change.
//!
//! Rows **without a key** cannot be told apart so. They are read by blocks of the heap; after a crash the stream waits for the rest of it. A row that moved in
//! the heap is one that changed. A heap that was rewritten (`CLUSTER`) is read again from its first block.
//!
//! **What a table loses meanwhile**: `TRUNCATE` and a rewriting `ALTER TABLE` remove rows even from older views. They are told by the table's file, which
//! then differs between the view's catalog and now, and a lock that every reading takes keeps them out from then on; such a table is read beside the stream.
//!
//! **Tables that join** a running connector are read beside the stream too, once every transaction that was open when they joined has ended: what such a
//! transaction did before the table was published is in no stream.
//!
//! **A blocking snapshot** is read in one view while the stream waits; what the stream then still has from before the view comes after the rows and leads
//! to the same state: it cannot be dropped, since deletions are among it.
//!
//! # For the task
//!
//! [`Snapshots::new`], then [`Snapshots::begin`]; while [`Snapshots::is_reading`], `poll` is [`Snapshots::poll`], else the stream's, which tells of every
//! change ([`Snapshots::change`], [`Snapshots::truncate`]: also of those that it skips after a restart), and calls [`Snapshots::advance`] with its
//! position. Every batch carries [`Snapshots::take_offsets`], and the stream's offset is completed by [`Snapshots::decorate`].

mod chunk;
mod copy;
mod incremental;
mod initial;
mod plan;
mod query;
mod reader;
mod signals;
mod state;
mod visibility;

pub use incremental::Room;
pub use initial::{BATCH_BYTES, ENCODED_BATCH_BYTES};
pub use plan::Before;
pub use state::{States, is_table_state};

use crate::connection::Connect;
use crate::source::options::Options;
use crate::source::options::modes::{SnapshotLocking, SnapshotMode, TableOrder};
use crate::table::{Cell, Table};
use aqueduct_core::{BatchBuilder, Error, JsonMap, Report, Result, Signal, SourceOffset, TaskContext};
use async_trait::async_trait;
use chunk::Wanted;
use incremental::{CHUNK_BYTES, Chunks, Event};
use initial::{Progress, Snapshot};
use plan::{Situation, plan};
use reader::Job;
use regex::Regex;
use serde_json::json;
use signals::Request;
use state::{Kind, Name, Read};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use visibility::Visible;

mod progress;

/// Debezium's `source.snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    First,
    FirstInTable,
    True,
    LastInTable,
    Last,
    Incremental,
}

/// Where a row that was read stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRow {
    pub mark: Mark,
    pub lsn: u64,
    pub xid: Option<u64>,
    /// Microseconds since 1970.
    pub time_micros: i64,
}

/// Makes records (operation `r`) of rows.
#[async_trait]
pub trait Encode: Send {
    /// Rows of this table follow; called again for each batch, and for each version of a table.
    async fn table(&mut self, table: &Arc<Table>) -> Result<()>;

    /// At which a batch of rows is full.
    fn batch_bytes(&self) -> usize;

    /// `cells` are those of `table.columns`, in their order.
    fn read(&mut self, table: &Arc<Table>, cells: &[Cell<'_>], row: &ReadRow, out: &mut BatchBuilder) -> Result<()>;
}

/// In the stream's offset while an initial snapshot is under way: what its view has seen.
const SEEN: &str = "aqueduct.snapshot_seen";
/// In the stream's offset while `pause-snapshot` holds.
const PAUSED: &str = "aqueduct.snapshot_paused";
/// Rows of the first chunk, when nothing is known of their size.
const FIRST_CHUNK_ROWS: u32 = 1024;
/// Signals that ask for a blocking snapshot wait in a queue of the stored states; this bounds what one signal may ask for.
const TABLES_MAX: usize = 100_000;

/// What the connector is and has.
pub struct Given {
    pub options: Arc<Options>,
    pub connect: Connect,
    /// As 150018.
    pub version: u32,
    /// A standby takes no messages.
    pub standby: bool,
    pub before: Before,
    /// The stream's stored offset.
    pub offset: Option<JsonMap>,
    /// All that is stored for the connector.
    pub resume: Vec<SourceOffset>,
    /// The captured tables, without the signal table.
    pub captured: Vec<Arc<Table>>,
}

/// Every reading of tables of one task.
pub struct Snapshots {
    options: Arc<Options>,
    connect: Connect,
    version: u32,
    emit: bool,
    captured: BTreeMap<Name, Arc<Table>>,
    order: Vec<Name>,
    states: States,
    moved: BTreeSet<Name>,
    /// To read before the stream begins.
    first: Vec<Name>,
    export: bool,
    running: Option<Running>,
    chunks: Chunks,
    /// Rows of the next chunk of each table.
    limits: BTreeMap<Name, u32>,
    joined: BTreeSet<Name>,
    /// See [`Wanted::barrier`]; of tables that joined.
    barrier: u64,
    paused: bool,
    /// Since the stream's offset was made last.
    paused_changed: bool,
    /// What the initial snapshot's view has seen, for the offset.
    seen: Option<String>,
    begun: Option<Instant>,
    /// Sent since then, beside the stream.
    rows: u64,
    estimate: BTreeMap<Name, u64>,
}

struct Running {
    snapshot: Snapshot,
    kind: Kind,
}

/// A user's own, read in place of the table.
fn statement(options: &Options, name: &Name) -> Option<String> {
    let whole = format!("{}.{}", name.0, name.1);
    let key = options.snapshot_overrides.iter().find(|table| **table == whole || table.ends_with(&format!(".{whole}")))?;
    options.snapshot_statements.get(key).cloned()
}

/// How soon transactions that keep a table without a key from joining must have ended.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

impl Snapshots {
    /// # Errors
    /// When an expression of the options is none.
    pub fn new(given: Given) -> Result<Self> {
        let Given { options, connect, version, standby, before, offset, resume, captured } = given;
        let whole = |text: &str| Regex::new(&format!("(?i)^(?:{text})$"));
        let patterns = |list: Option<Vec<&str>>| -> Result<Vec<Regex>> {
            let compiled: Result<Vec<Regex>, _> = list.into_iter().flatten().map(whole).collect();
            compiled.map_err(|error| Error::fatal("config.value", error.to_string()))
        };
        let included = patterns(options.table_include.as_ref().map(|list| list.iter().map(|one| one.as_str()).collect()))?;
        let chosen = patterns(options.snapshot_include.as_ref().map(|list| list.iter().map(|one| one.as_str()).collect()))?;
        let captured = plan::order(captured, &included);
        let include = |table: &Table| {
            let name = format!("{}.{}", table.schema, table.name);
            chosen.is_empty() || chosen.iter().any(|pattern| pattern.is_match(&name))
        };
        let own = |table: &Table| statement(&options, &(table.schema.clone(), table.name.clone())).is_some();
        let stored = States::read(&resume, &options.topic_prefix);
        let seen = offset
            .as_ref()
            .and_then(|offset| Some(offset.get(SEEN)?.as_str()?.to_owned()))
            .filter(|_| before == Before::Unfinished);
        let plan = plan(Situation {
            mode: options.snapshot_mode,
            before,
            stored,
            captured: &captured,
            include: &include,
            own: &own,
            seen: seen.as_deref(),
        });
        let name = |table: &Arc<Table>| (table.schema.clone(), table.name.clone());
        Ok(Self {
            emit: !options.read_only && !standby,
            chunks: Chunks::new(connect.clone()),
            order: captured.iter().map(name).collect(),
            captured: captured.iter().map(|table| (name(table), table.clone())).collect(),
            states: plan.states,
            moved: plan.moved,
            first: plan.first,
            export: plan.export,
            joined: plan.joined,
            running: None,
            limits: BTreeMap::new(),
            barrier: 0,
            paused: offset.as_ref().is_some_and(|offset| offset.get(PAUSED) == Some(&json!(true))),
            paused_changed: false,
            seen,
            begun: None,
            rows: 0,
            estimate: BTreeMap::new(),
            options,
            connect,
            version,
        })
    }

    /// Whether [`Snapshots::begin`] wants a snapshot that a slot exports: of the slot itself where it is made now, else of a temporary one, behind whose
    /// LSN the stream then begins. Not where there is no stream (`initial_only`): a view of its own will do.
    pub fn wants_export(&self) -> bool {
        self.export && !self.first.is_empty() && self.options.snapshot_mode != SnapshotMode::InitialOnly
    }

    /// Begins what there is to read first. `exported`: its name and the slot's LSN; the session that exported it may go when this returns.
    ///
    /// # Errors
    /// `postgres.*`
    pub async fn begin(&mut self, exported: Option<(String, u64)>) -> Result<()> {
        if !self.joined.is_empty() {
            let mut session = self.connect.open().await?;
            self.barrier = reader::view(&self.connect, &mut session, self.version).await?.seen.xmax;
            self.wait_for_joined(&mut session).await?;
            crate::connection::close(session).await;
        }
        let first = std::mem::take(&mut self.first);
        if first.is_empty() {
            self.seen = None;
            return Ok(());
        }
        for name in first.iter().filter(|name| self.joined.contains(*name)) {
            // Everything below has ended: it is read. Everything else is the stream's.
            let read = self.states.0.entry(name.clone()).or_default().read.get_or_insert_with(Read::default);
            read.seen = Some(format!("{0}:{0}:", self.barrier));
            self.moved.insert(name.clone());
        }
        let tables = first.iter().filter_map(|name| self.captured.get(name).cloned()).collect();
        self.start(tables, Kind::Initial, exported).await
    }

    /// Rows of tables without a key cannot be told from the stream's if they were written by a transaction that began before the table was published.
    async fn wait_for_joined(&mut self, session: &mut sqlx::postgres::PgConnection) -> Result<()> {
        let keyless = self.first.iter().any(|name| self.joined.contains(name));
        let deadline = Instant::now() + JOIN_PATIENCE;
        while keyless && reader::view(&self.connect, session, self.version).await?.seen.xmin < self.barrier {
            if Instant::now() >= deadline {
                let what = "transactions that began before a table was captured are still open, and what they did to it would be missing";
                return Err(Error::retriable("postgres.open_transactions", what).fix(
                    "End them: SELECT pid, xact_start, query FROM pg_stat_activity WHERE state <> 'idle' ORDER BY xact_start;",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn start(&mut self, tables: Vec<Arc<Table>>, kind: Kind, exported: Option<(String, u64)>) -> Result<()> {
        let options = &self.options;
        let follows = kind == Kind::Initial && options.snapshot_mode != SnapshotMode::InitialOnly;
        let job = |(index, table): (usize, Arc<Table>)| {
            let name = (table.schema.clone(), table.name.clone());
            let read = self.states.0.get(&name).and_then(|state| state.read.clone()).unwrap_or_default();
            let statement = statement(options, &name);
            // Rows of a user's statement do not tell who wrote them.
            let seen = read.seen.filter(|_| follows && statement.is_none());
            Ok(Job {
                index,
                statement,
                since: seen.map(|seen| Visible::parse(&seen)).transpose()?.and_then(|seen| plan::unchanged_since(&seen)),
                condition: read.condition,
                after: read.key,
                ctid: read.ctid.zip(read.file),
                table,
            })
        };
        let mut jobs = tables.into_iter().enumerate().map(job).collect::<Result<Vec<Job>>>()?;
        if options.snapshot_order != TableOrder::Disabled {
            self.by_rows(&mut jobs).await?;
        }
        let settings = reader::Options {
            connect: self.connect.clone(),
            snapshot: exported.as_ref().map(|(name, _)| name.clone()),
            sessions: options.snapshot_threads as usize,
            chunk_rows: options.snapshot_chunk,
            lock_all: options.snapshot_locking == SnapshotLocking::Shared,
            lock_timeout: options.snapshot_lock_timeout.duration(),
            version: self.version,
        };
        let tables = jobs.len();
        let snapshot = Snapshot::start(settings, jobs, exported.as_ref().map(|(_, lsn)| *lsn)).await?;
        tracing::info!(tables, lsn = crate::source::position::lsn(snapshot.lsn), ?kind, "snapshot begins");
        if kind == Kind::Initial && self.export {
            self.seen = Some(snapshot.view.seen.to_string());
        }
        self.running = Some(Running { snapshot, kind });
        Ok(())
    }

    async fn by_rows(&self, jobs: &mut [Job]) -> Result<()> {
        let mut session = self.connect.open().await?;
        let mut rows = BTreeMap::new();
        for job in jobs.iter() {
            rows.insert(
                job.table.oid,
                reader::facts(&self.connect, &mut session, &job.table).await?.map_or(0, |facts| facts.rows),
            );
        }
        crate::connection::close(session).await;
        let descending = self.options.snapshot_order == TableOrder::Descending;
        jobs.sort_by_key(|job| {
            let rows = rows.get(&job.table.oid).copied().unwrap_or(0);
            if descending { u64::MAX - rows } else { rows }
        });
        jobs.iter_mut().enumerate().for_each(|(index, job)| job.index = index);
        Ok(())
    }

    /// True while tables are read and the stream waits.
    pub fn is_reading(&self) -> bool {
        self.running.is_some()
    }

    /// The LSN behind which the stream begins, of the snapshot that is running.
    pub fn lsn(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.snapshot.lsn)
    }

    /// Rows of the snapshot that is running, into `out`; waits for the first. False once it is done.
    ///
    /// # Errors
    /// `postgres.*`
    pub async fn poll(&mut self, cx: &TaskContext, encode: &mut dyn Encode, out: &mut BatchBuilder) -> Result<bool> {
        // Taken for the time of the call: an error ends it.
        let Some(mut running) = self.running.take() else { return Ok(false) };
        let done = match running.snapshot.poll(cx, encode, out).await {
            Err(error) if running.kind == Kind::Blocking && self.give_up(Kind::Blocking, &error) => return Ok(false),
            done => done?,
        };
        let Running { snapshot, kind } = self.running.insert(running);
        let mut beside = Vec::new();
        for reading in snapshot.take_moved() {
            let Some(state) = self.states.0.get_mut(&reading.name) else { continue };
            self.moved.insert(reading.name.clone());
            match &reading.progress {
                Progress::Waiting => {}
                Progress::Reading { key, ctid } => {
                    let read = state.read.get_or_insert_with(Read::default);
                    (read.key, read.ctid, read.rows) = (key.clone(), ctid.clone(), reading.rows);
                    read.file = ctid.as_ref().map(|_| reading.facts.file);
                }
                Progress::Done => (state.done, state.read) = (true, None),
                Progress::Rewritten => beside.push(reading.name.clone()),
            }
        }
        for name in beside {
            tracing::warn!(
                table = format!("{}.{}", name.0, name.1),
                "truncated, rewritten or made since the snapshot's view: it is read beside the stream"
            );
            if let Some(read) = self.states.0.get_mut(&name).and_then(|state| state.read.as_mut()) {
                (read.snapshot, read.ctid) = (Kind::Incremental, None);
            }
        }
        if done {
            tracing::info!(?kind, seconds = snapshot.begun().elapsed().as_secs(), "snapshot done");
            self.running = None;
            self.seen = None;
        }
        Ok(!done)
    }

    /// What moved since this was asked last: goes into the same batch as the rows.
    pub fn take_offsets(&mut self) -> Vec<SourceOffset> {
        let prefix = &self.options.topic_prefix;
        std::mem::take(&mut self.moved).iter().map(|name| self.states.offset(prefix, name)).collect()
    }

    /// Whether something is still to be stored.
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty() || self.paused_changed
    }

    /// Whether the stream's offset has to be stored for what [`Snapshots::decorate`] adds.
    pub fn take_paused_changed(&mut self) -> bool {
        std::mem::take(&mut self.paused_changed)
    }

    /// Adds what Debezium's offset has while an initial snapshot is under way, and that snapshots are paused.
    pub fn decorate(&self, offset: &mut JsonMap) {
        if self.paused {
            offset.insert(PAUSED.into(), json!(true));
        }
        let Some(seen) = &self.seen else { return };
        offset.insert("snapshot".into(), json!("INITIAL"));
        offset.insert("last_snapshot_record".into(), json!(false));
        offset.insert("snapshot_completed".into(), json!(false));
        offset.insert(SEEN.into(), json!(seen));
    }

    /// The stream comes by a change; `old` and `new` have the cells of `table.columns`. Also of changes that were sent before a restart.
    pub fn change(&mut self, table: &Table, xid: u32, old: Option<&[Cell<'_>]>, new: Option<&[Cell<'_>]>) {
        self.chunks.change(table, xid, old, new);
    }

    pub fn truncate(&mut self, table: &Table, xid: u32) {
        self.chunks.truncate(table.oid, xid);
    }

    /// A table that appeared while the stream went on: signals find it.
    pub fn learn(&mut self, table: &Arc<Table>) {
        let name = (table.schema.clone(), table.name.clone());
        if !self.captured.contains_key(&name) {
            self.order.push(name.clone());
            let state = self.states.0.entry(name.clone()).or_default();
            (state.oid, state.done) = (table.oid, true);
            self.moved.insert(name.clone());
        }
        self.captured.insert(name, table.clone());
    }

    /// Resolves when [`Snapshots::advance`] has something to do though the stream stands still. Safe to cancel.
    pub async fn changed(&mut self) {
        self.chunks.changed().await;
    }

    /// A blocking snapshot is wanted: between two transactions the task calls [`Snapshots::begin_blocking`].
    pub fn wants_to_block(&self) -> bool {
        !self.paused && self.running.is_none() && !self.states.queue(Kind::Blocking).is_empty()
    }

    /// # Errors
    /// `postgres.*`
    pub async fn begin_blocking(&mut self) -> Result<()> {
        self.chunks.drop_chunk();
        let queue = self.states.queue(Kind::Blocking);
        let tables: Vec<_> = queue.iter().filter_map(|name| self.captured.get(name).cloned()).collect();
        for name in &queue {
            if !self.captured.contains_key(name) {
                self.forget(name);
            }
        }
        // A view of another session than the one that was interrupted: the rest of it is read in this one.
        if tables.is_empty() { Ok(()) } else { self.start(tables, Kind::Blocking, None).await }
    }

    /// The stream has sent everything that committed before `position`: sends what may follow, and reads on. `at`: what the rows' source tells.
    ///
    /// # Errors
    /// `postgres.*`
    pub async fn advance(
        &mut self,
        position: u64,
        at: ReadRow,
        encode: &mut dyn Encode,
        room: Room,
        out: &mut BatchBuilder,
    ) -> Result<()> {
        if self.paused {
            return Ok(());
        }
        loop {
            let event = match self.chunks.advance(position, &at, encode, room, out).await {
                Err(error) if self.give_up(Kind::Incremental, &error) => continue,
                event => event?,
            };
            match event {
                Event::Waiting | Event::Early => return Ok(()),
                Event::Idle => {
                    if !self.want() {
                        return Ok(());
                    }
                }
                Event::Gone(name) => self.forget(&name),
                Event::Keyless(name) => {
                    tracing::warn!(
                        table = format!("{}.{}", name.0, name.1),
                        "has no key any more to be read by beside the stream: it is read while the stream waits"
                    );
                    if let Some(read) = self.states.0.get_mut(&name).and_then(|state| state.read.as_mut()) {
                        *read = Read { snapshot: Kind::Blocking, key: None, ..read.clone() };
                    }
                    self.moved.insert(name);
                }
                Event::Sent { name, key, until, rows, last, estimate, row_bytes } => {
                    self.sent(name, key, until, rows, last, estimate, row_bytes);
                    if room.is_full(out) {
                        return Ok(());
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    fn sent(
        &mut self,
        name: Name,
        key: Option<Vec<String>>,
        until: Option<Vec<String>>,
        rows: u64,
        last: bool,
        estimate: u64,
        row_bytes: usize,
    ) {
        let Some(state) = self.states.0.get_mut(&name) else { return };
        if let Some(read) = &mut state.read {
            read.rows += rows;
            read.until = until;
            read.key = key.or(read.key.take());
            if read.id.is_none() {
                let fits = (CHUNK_BYTES / row_bytes.max(1)).clamp(1, self.options.snapshot_chunk as usize) as u32;
                self.limits.insert(name.clone(), fits);
            }
        }
        if last {
            tracing::info!(
                table = format!("{}.{}", name.0, name.1),
                rows = state.read.as_ref().map_or(0, |read| read.rows),
                "table read beside the stream"
            );
            (state.done, state.read) = (true, None);
            self.limits.remove(&name);
            self.joined.remove(&name);
        }
        self.rows += rows;
        self.estimate.insert(name.clone(), estimate);
        self.moved.insert(name);
    }

    /// Begins to read the next chunk; false when there is none.
    fn want(&mut self) -> bool {
        let Some(name) = self.states.queue(Kind::Incremental).into_iter().next() else {
            self.begun = None;
            return false;
        };
        let Some(state) = self.states.0.get(&name) else { return false };
        let Some(read) = state.read.clone() else { return false };
        let oid = self.captured.get(&name).map_or(state.oid, |table| table.oid);
        // What an operator asks for has Debezium's size; what the connector does by itself is read as fast as it can.
        let limit = match &read.id {
            Some(_) => self.options.incremental_chunk,
            None => self.limits.get(&name).copied().unwrap_or(FIRST_CHUNK_ROWS).min(self.options.snapshot_chunk),
        };
        let barrier = if self.joined.contains(&name) { self.barrier } else { 0 };
        let seen = read.seen.as_deref().filter(|_| read.id.is_none()).and_then(|seen| Visible::parse(seen).ok());
        let since = seen.and_then(|seen| plan::unchanged_since(&seen));
        let wanted = Wanted { oid, name, read, since, limit, version: self.version, barrier, emit: self.emit };
        self.begun.get_or_insert_with(Instant::now);
        self.chunks.want(|| Some(wanted));
        true
    }

    /// What an operator asked for and cannot be (a wrong condition, say) must not stop the stream, nor be tried for ever.
    fn give_up(&mut self, kind: Kind, error: &Error) -> bool {
        if error.is_retriable() {
            return false;
        }
        let queue = self.states.queue(kind);
        // Chunks are read of the first table only; a blocking snapshot has them all.
        let failed = if kind == Kind::Incremental { &queue[..queue.len().min(1)] } else { &queue[..] };
        let asked = |name: &&Name| self.states.0[*name].read.as_ref().is_some_and(|read| read.id.is_some());
        let asked: Vec<Name> = failed.iter().filter(asked).cloned().collect();
        for name in &asked {
            tracing::error!(
                table = format!("{}.{}", name.0, name.1),
                "the snapshot that was asked for is given up: {}",
                error.trace()
            );
            self.forget(name);
        }
        !asked.is_empty()
    }

    /// The table is gone.
    fn forget(&mut self, name: &Name) {
        if let Some(state) = self.states.0.get_mut(name) {
            state.read = None;
        }
        self.moved.insert(name.clone());
    }

    /// A row was inserted into the signal table: its texts.
    pub fn signal_row(&mut self, id: &str, kind: &str, data: &str) {
        let signal = Signal { id: id.to_owned(), kind: kind.to_owned(), data: json!(data) };
        // A wrong row must not stop the stream: it would be read again for ever.
        if let Err(error) = self.signal(&signal) {
            tracing::warn!(id, kind, "a row of the signal table: {error}");
        }
    }

    /// # Errors
    /// `postgres.signal`: why it is refused.
    pub fn signal(&mut self, signal: &Signal) -> Result<()> {
        match signals::parse(signal)? {
            Request::Execute(execute) => self.execute(&execute),
            Request::Stop(patterns) => {
                self.stop(&patterns);
                Ok(())
            }
            Request::Pause => {
                (self.paused, self.paused_changed) = (true, true);
                self.chunks.drop_chunk();
                Ok(())
            }
            Request::Resume => {
                (self.paused, self.paused_changed) = (false, true);
                Ok(())
            }
            Request::Log(message) => {
                tracing::info!(id = signal.id, "{message}");
                Ok(())
            }
            Request::Window => Ok(()),
        }
    }

    fn execute(&mut self, execute: &signals::Execute) -> Result<()> {
        let refuse = |why: String| Error::fatal("postgres.signal", format!("the signal cannot be carried out: {why}"));
        let database = &self.options.dbname;
        let names: Vec<Name> = self
            .order
            .iter()
            .filter(|name| execute.tables.iter().any(|pattern| pattern.matches(&name.0, &name.1, database)))
            .cloned()
            .collect();
        if names.is_empty() {
            return Err(refuse("no captured table matches `data-collections`".to_owned()));
        }
        if names.len() > TABLES_MAX {
            return Err(refuse(format!("more than {TABLES_MAX} tables match")));
        }
        for name in &names {
            let table = &self.captured[name];
            if !execute.blocking && execute.surrogate.is_none() && reader::cut_columns(table).is_none() {
                let what = format!("{}.{} has no primary key: give `surrogate-key`, or `type` blocking", name.0, name.1);
                return Err(refuse(what));
            }
        }
        let mut order = self.states.next_order();
        for name in names {
            let condition = execute.conditions.iter().find(|(pattern, _)| pattern.matches(&name.0, &name.1, database));
            let oid = self.captured[&name].oid;
            let state = self.states.0.entry(name.clone()).or_default();
            state.oid = oid;
            // A reading that is under way for the same reason goes on.
            let initial = state.read.as_ref().is_some_and(|read| read.id.is_none() && read.condition.is_none());
            if !initial {
                state.read = Some(Read {
                    snapshot: if execute.blocking { Kind::Blocking } else { Kind::Incremental },
                    order,
                    id: Some(execute.id.clone()),
                    condition: condition.map(|(_, filter)| filter.clone()),
                    surrogate: execute.surrogate.clone(),
                    ..Read::default()
                });
                if self.chunks.table() == Some(oid) {
                    self.chunks.drop_chunk();
                }
                order += 1;
            }
            self.moved.insert(name);
        }
        Ok(())
    }

    /// Readings that an operator asked for; those that the connector owes go on.
    fn stop(&mut self, patterns: &[signals::Pattern]) {
        let database = self.options.dbname.clone();
        let asked: Vec<Name> = self
            .states
            .0
            .iter()
            .filter(|(_, state)| state.read.as_ref().is_some_and(|read| read.id.is_some() && read.snapshot == Kind::Incremental))
            .map(|(name, _)| name.clone())
            .filter(|name| patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&name.0, &name.1, &database)))
            .collect();
        for name in asked {
            if self.chunks.table() == self.states.0.get(&name).map(|state| state.oid) {
                self.chunks.drop_chunk();
            }
            self.forget(&name);
        }
    }

    /// How far it is.
    pub fn report(&self, report: &mut Report) {
        progress::report(self, report);
    }

    /// Ends the sessions.
    pub async fn close(self) {
        self.chunks.close().await;
    }
}
