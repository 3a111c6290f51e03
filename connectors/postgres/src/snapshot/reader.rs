//! Sessions that read tables side by side in one view of the database, and hand over the rows in blocks.

use super::copy::{self, Places};
use super::query::{self, BEGIN, Bounds, Chunk, Cut, UNHURRIED};
use super::visibility::Visible;
use crate::connection::{Connect, close, literal, qualified};
use crate::source::catalog;
use crate::source::position::parse_lsn;
use crate::table::Table;
use aqueduct_core::{Error, Result, blocking};
use futures_util::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row, SqlSafeStr};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Rows are handed over in blocks of about this size: large against the cost of a hand-over, small against a batch.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that wait for the connector, for each session (invariant 6): about 1 MiB.
const BLOCKS_AHEAD: usize = 4;
/// Of a heap, read at once where a table has no key: 8 MiB with the usual block of 8 KiB.
const RANGE_BLOCKS: u64 = 1024;

/// So many sessions have a thread each. As a task, a session shares the connector's: whoever takes a block wakes the session there, and is not done
/// before it is. More sessions keep all threads busy anyway. Half of what a connector may have (invariant 10).
const THREADS_MAX: usize = 8;

/// What all sessions see.
#[derive(Clone, Debug)]
pub struct View {
    /// Of the transaction, in microseconds since 1970.
    pub time_micros: i64,
    pub seen: Visible,
    /// Every transaction that is seen committed before this.
    pub lsn: u64,
}

/// One table to read.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its place in the list.
    pub index: usize,
    pub table: Arc<Table>,
    pub statement: Option<String>,
    pub condition: Option<String>,
    /// In place of the condition, where it proves something: see [`since`].
    pub since: Option<String>,
    /// Where an earlier reading stopped.
    pub after: Option<Vec<String>>,
    /// Of the last row sent, and the heap that it lies in.
    pub ctid: Option<(String, u32)>,
}

#[derive(Debug)]
pub enum Message {
    /// The reading begins.
    Begin {
        index: usize,
        /// As the view has it.
        table: Arc<Table>,
        facts: Facts,
        cut: Cut,
    },
    /// Whole rows, as `COPY` sent them.
    Rows {
        index: usize,
        bytes: Vec<u8>,
    },
    End {
        index: usize,
    },
    /// The table's heap is another one than at the time of the view: what it held then cannot be read any more.
    Rewritten {
        index: usize,
    },
}

/// A table as the view has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub partitioned: bool,
    /// An estimate, by `ANALYZE` or autovacuum; 0: none.
    pub rows: u64,
    pub blocks: u64,
    pub file: u32,
    pub rewritten: bool,
    /// Columns of the replica identity's index, where there is one.
    pub identity: Vec<String>,
}

/// The sessions of one snapshot. Dropping it ends them.
pub struct Readers {
    messages: mpsc::Receiver<Result<Message>>,
    sessions: JoinSet<()>,
    pub view: View,
    /// Ends the sessions.
    _stop: DropGuard,
}

pub struct Options {
    pub connect: Connect,
    /// Of an exporting session; none: a view of its own.
    pub snapshot: Option<String>,
    pub sessions: usize,
    pub chunk_rows: u32,
    /// `ACCESS SHARE` on all tables before the first row is read.
    pub lock_all: bool,
    pub lock_timeout: Duration,
    /// As 150018.
    pub version: u32,
}

impl Readers {
    /// Opens the sessions and takes the view: when it returns, the exporting session may go.
    ///
    /// # Errors
    /// `postgres.*`; `postgres.snapshot_gone` when the exporting session has ended.
    pub async fn start(options: Options, jobs: Vec<Job>) -> Result<Self> {
        let Options { connect, sessions, version, .. } = &options;
        let mut first = open(connect, options.snapshot.as_deref(), options.lock_timeout).await?;
        let view = view(connect, &mut first, *version).await?;
        if options.lock_all {
            for job in &jobs {
                lock(connect, &mut first, &job.table).await?;
            }
        }
        let mut all = vec![first];
        if all.len() < (*sessions).min(jobs.len()) {
            // The view may have come from no one: then the first session is the one that the others share.
            let sql = "SELECT pg_catalog.pg_export_snapshot()";
            let name: String = sqlx::query_scalar(sql)
                .fetch_one(&mut all[0])
                .await
                .map_err(|error| connect.error("share the snapshot", error))?;
            while all.len() < (*sessions).min(jobs.len()) {
                all.push(open(connect, Some(&name), options.lock_timeout).await?);
            }
        }
        let (sender, messages) = mpsc::channel(BLOCKS_AHEAD * all.len());
        let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
        let (mut sessions, stop) = (JoinSet::new(), CancellationToken::new());
        let own_threads = all.len() <= THREADS_MAX;
        for session in all {
            let reader = Reader {
                connect: connect.clone(),
                session,
                sender: sender.clone(),
                chunk_rows: options.chunk_rows,
                version: *version,
                lock: !options.lock_all,
            };
            let (runtime, stopped, queue) = (Handle::current(), stop.clone(), queue.clone());
            let reading = async move { stopped.run_until_cancelled(reader.run(queue)).await.unwrap_or_default() };
            if own_threads {
                let permit = blocking::permit().await;
                sessions.spawn_blocking(move || {
                    let _held = permit;
                    runtime.block_on(reading);
                });
            } else {
                #[allow(clippy::disallowed_methods, reason = "the set owns it, and ends it when it is dropped")]
                sessions.spawn(reading);
            }
        }
        Ok(Self { messages, sessions, view, _stop: stop.drop_guard() })
    }

    /// The next message; `None` when all tables were read. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        self.messages.recv().await
    }

    pub fn ready(&mut self) -> Option<Result<Message>> {
        self.messages.try_recv().ok()
    }

    /// Waits for sessions that have read everything to end in order.
    pub async fn close(mut self) {
        self.messages.close();
        // A moment is enough for a farewell; a server that hangs is not waited for.
        let ended = async { while self.sessions.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
    }
}

/// A session in a transaction that sees what the exporting one does.
async fn open(connect: &Connect, snapshot: Option<&str>, lock_timeout: Duration) -> Result<PgConnection> {
    let mut session = connect.open().await?;
    let import = snapshot.map_or(String::new(), |name| format!("; SET TRANSACTION SNAPSHOT {}", literal(name)));
    let sql = format!("{BEGIN}{import}; {UNHURRIED}; SET LOCAL lock_timeout = {}", lock_timeout.as_millis());
    run(&mut session, sql).await.map_err(|error| match &error {
        sqlx::Error::Database(refused) if refused.message().contains("snapshot") => {
            Error::retriable("postgres.snapshot_gone", format!("the exported snapshot cannot be used: {refused}"))
        }
        _ => connect.error("begin the snapshot", error),
    })?;
    Ok(session)
}

/// Statements that take no parameters and have no answer.
pub async fn run(session: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    session.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.map(drop)
}

/// What the transaction of the session sees.
///
/// # Errors
/// As [`Connect::error`].
pub async fn view(connect: &Connect, session: &mut PgConnection, version: u32) -> Result<View> {
    let failed = |error| connect.error("tell what the snapshot sees", error);
    let row = sqlx::query(sqlx::AssertSqlSafe(query::view(version))).fetch_one(session).await.map_err(failed)?;
    let lsn: String = row.try_get(2).map_err(failed)?;
    Ok(View {
        time_micros: row.try_get(0).map_err(failed)?,
        seen: Visible::parse(row.try_get(1).map_err(failed)?)?,
        lsn: parse_lsn(&lsn).ok_or_else(|| Error::retriable("postgres.protocol", format!("{lsn:?} is no LSN")))?,
    })
}

/// Keeps DDL that would change or move the rows out until the transaction ends.
async fn lock(connect: &Connect, session: &mut PgConnection, table: &Table) -> Result<()> {
    let name = qualified(&table.schema, &table.name);
    let locked = run(session, format!("LOCK TABLE {name} IN ACCESS SHARE MODE")).await;
    locked.map_err(|error| again(connect.error(&format!("lock {name}"), error)))
}

/// The table changed since the catalog was read: a restart reads it anew.
fn again(error: Error) -> Error {
    match error.code() {
        "postgres.table_missing" | "postgres.column_missing" => {
            Error::retriable(error.code().to_owned(), format!("{} (the table was changed meanwhile)", error.message()))
        }
        _ => error,
    }
}

fn renamed(table: &Table) -> Error {
    Error::fatal("postgres.table_missing", format!("the table {}.{} is not what it was", table.schema, table.name))
}

/// `None` for a table that the session does not see: it was made later.
///
/// # Errors
/// As [`Connect::error`].
pub async fn facts(connect: &Connect, session: &mut PgConnection, table: &Table) -> Result<Option<Facts>> {
    // `pg_class` is read in the transaction's view, `pg_relation_filenode` tells the heap of now: where they differ, TRUNCATE or a rewriting ALTER TABLE
    // came between, and the rows of the view are gone, silently, for anybody who reads the table.
    let sql = "WITH RECURSIVE tree(oid) AS (SELECT $1::int8::oid UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
               JOIN tree t ON i.inhparent = t.oid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p') \
               SELECT bool_or(c.relkind = 'p') AS partitioned, coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.relkind <> 'p'), 0)::int8 AS rows, \
               coalesce(sum(pg_catalog.pg_relation_size(c.oid)), 0)::int8 / current_setting('block_size')::int8 AS blocks, \
               coalesce(max(c.relfilenode::int8) FILTER (WHERE c.oid = $1::int8::oid), 0) AS file, \
               coalesce(bool_or(c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)), false) AS rewritten, \
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index x JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid \
               AND a.attnum = ANY (x.indkey::int2[]) WHERE x.indrelid = $1::int8::oid AND x.indisreplident) AS identity \
               FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid HAVING count(*) > 0";
    let failed = |error| connect.error(&format!("measure {}.{}", table.schema, table.name), error);
    let row = sqlx::query(sql).bind(i64::from(table.oid)).fetch_optional(session).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Facts {
        partitioned: row.try_get("partitioned").map_err(failed)?,
        rows: row.try_get::<i64, _>("rows").map_err(failed)?.max(0).cast_unsigned(),
        blocks: row.try_get::<i64, _>("blocks").map_err(failed)?.max(0).cast_unsigned(),
        file: row.try_get::<i64, _>("file").map_err(failed)? as u32,
        rewritten: row.try_get("rewritten").map_err(failed)?,
        identity: row.try_get("identity").map_err(failed)?,
    }))
}

/// Whether rows tell by `xmin` who wrote them since an earlier view (`condition`, see `plan::unchanged_since`): `None` where the table's entries in the
/// catalog are newer. A rewriting `ALTER TABLE` gives all rows its own `xmin`, and is in no stream: then every row is read, and some come twice.
/// Else whether any value lies out of line: only such are left out of an update's event.
///
/// # Errors
/// As [`Connect::error`].
pub async fn since(connect: &Connect, session: &mut PgConnection, table: &Table, condition: &str) -> Result<Option<bool>> {
    let sql = format!(
        "WITH RECURSIVE tree(relation) AS (SELECT $1::int8::oid UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
         JOIN tree t ON i.inhparent = t.relation JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'), \
         entries AS (SELECT reltoastrelid, ({condition}) AS settled FROM pg_catalog.pg_class WHERE oid IN (SELECT relation FROM tree)) \
         SELECT coalesce(bool_and(settled), false) AS settled, \
         coalesce(bool_or(pg_catalog.pg_relation_size(nullif(reltoastrelid, 0)) > 0), false) AS large FROM entries"
    );
    let doing = format!("tell what changed in {}.{}", table.schema, table.name);
    let failed = |error| connect.error(&doing, error);
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(table.oid)).fetch_one(session).await.map_err(failed)?;
    let settled: bool = row.try_get("settled").map_err(failed)?;
    if !settled {
        tracing::warn!(
            table = format!("{}.{}", table.schema, table.name),
            "its definition changed since the snapshot's first view: rows that were written since may come twice"
        );
        return Ok(None);
    }
    row.try_get("large").map(Some).map_err(failed)
}

/// The columns of a key by which a table can be cut; none where one of them may be NULL.
pub fn cut_columns(table: &Table) -> Option<Vec<usize>> {
    let usable =
        !table.key.is_empty() && table.key.iter().all(|index| table.columns.get(*index).is_some_and(|column| column.not_null));
    usable.then(|| table.key.clone())
}

pub fn cut(job: &Job, facts: &Facts, version: u32) -> Cut {
    match cut_columns(&job.table) {
        // A user's statement may have an order and a limit of its own: it is run once, as it stands.
        _ if job.statement.is_some() => Cut::Whole,
        Some(columns) => Cut::Key(columns),
        // Before 14 a range of blocks is found by reading them all.
        None if !facts.partitioned && version >= 140_000 => Cut::Blocks,
        None => Cut::Whole,
    }
}

/// A foreign condition or statement must be one statement in the place where it stands: only then is it part of a `COPY`, which is sent in the clear.
///
/// # Errors
/// `postgres.statement` and the like.
pub async fn check(connect: &Connect, session: &mut PgConnection, chunk: &Chunk<'_>) -> Result<()> {
    if chunk.condition.is_none() && chunk.statement.is_none() {
        return Ok(());
    }
    let sql = chunk.select();
    let doing = format!("read {}.{}", chunk.table.schema, chunk.table.name);
    session.prepare(sqlx::AssertSqlSafe(sql).into_sql_str()).await.map(drop).map_err(|error| connect.error(&doing, error))
}

type Queue = Arc<Mutex<VecDeque<Job>>>;

struct Reader {
    connect: Connect,
    session: PgConnection,
    sender: mpsc::Sender<Result<Message>>,
    chunk_rows: u32,
    version: u32,
    lock: bool,
}

/// The connector does not listen any more.
struct Gone;

enum Stop {
    Gone,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

impl Reader {
    async fn run(mut self, queue: Queue) {
        // Locked for the length of a pop.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(job) = next() {
            match self.table(job).await {
                Ok(()) => {}
                Err(Stop::Gone) => return,
                Err(Stop::Failed(error)) => {
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
        }
        drop(self.sender);
        let _ = run(&mut self.session, "COMMIT".to_owned()).await;
        close(self.session).await;
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        self.sender.send(Ok(message)).await.map_err(|_| Gone)
    }

    async fn table(&mut self, mut job: Job) -> Result<(), Stop> {
        let index = job.index;
        if self.lock {
            lock(&self.connect, &mut self.session, &job.table).await?;
        }
        let facts = facts(&self.connect, &mut self.session, &job.table).await?;
        let Some(facts) = facts.filter(|facts| !facts.rewritten) else {
            return Ok(self.send(Message::Rewritten { index }).await?);
        };
        // The job's table was looked up before the view was taken: a column that was added in between is in no event of the stream for the rows that are
        // there already.
        match catalog::table(&self.connect, &mut self.session, job.table.oid).await? {
            Some(seen) if (&seen.schema, &seen.name) == (&job.table.schema, &job.table.name) => job.table = Arc::new(seen),
            _ => return Err(again(renamed(&job.table)).into()),
        }
        let cut = cut(&job, &facts, self.version);
        let only = !facts.partitioned;
        let (blocks, file) = (facts.blocks, facts.file);
        self.send(Message::Begin { index, table: job.table.clone(), facts, cut: cut.clone() }).await?;
        if let Some(condition) = job.since.take() {
            let told = since(&self.connect, &mut self.session, &job.table, &condition).await?;
            job.condition = told.map(|_| condition);
        }
        let chunk = Chunk {
            table: &job.table,
            only,
            statement: job.statement.as_deref(),
            condition: job.condition.as_deref(),
            bounds: Bounds::All,
        };
        check(&self.connect, &mut self.session, &chunk).await?;
        match cut {
            Cut::Key(columns) => self.by_key(&job, chunk, &columns).await?,
            Cut::Blocks => {
                // Another heap: its blocks are others.
                let after = job.ctid.as_ref().filter(|(_, of)| *of == file).map(|(ctid, _)| ctid.as_str());
                self.by_blocks(index, chunk, after, blocks).await?;
            }
            Cut::Whole => drop(self.copy(index, &chunk, None).await?),
        }
        Ok(self.send(Message::End { index }).await?)
    }

    async fn by_key(&mut self, job: &Job, chunk: Chunk<'_>, columns: &[usize]) -> Result<(), Stop> {
        // Of another key, it says nothing.
        let mut after = job.after.clone().filter(|key| key.len() == columns.len());
        loop {
            let bounds = Bounds::Key { columns, after: after.as_deref(), until: None, limit: self.chunk_rows };
            let (rows, last) = self.copy(job.index, &Chunk { bounds, ..chunk.clone() }, Some(columns)).await?;
            if rows < u64::from(self.chunk_rows) {
                return Ok(());
            }
            after = last;
        }
    }

    async fn by_blocks(&mut self, index: usize, chunk: Chunk<'_>, after: Option<&str>, blocks: u64) -> Result<(), Stop> {
        let mut after = after;
        let block = |ctid: &str| ctid.trim_start_matches('(').split(',').next()?.parse().ok();
        let mut from: u64 = after.and_then(block).unwrap_or(0);
        // Rows beyond the heap's size of now were written later than the view.
        while from < blocks {
            let to = from + RANGE_BLOCKS;
            let bounds = Bounds::Blocks { from, to: (to < blocks).then_some(to), after: after.take() };
            self.copy(index, &Chunk { bounds, ..chunk.clone() }, None).await?;
            from = to;
        }
        Ok(())
    }

    /// One chunk; its number of rows and the key of the last one.
    async fn copy(&mut self, index: usize, chunk: &Chunk<'_>, key: Option<&[usize]>) -> Result<(u64, Option<Vec<String>>), Stop> {
        let doing = format!("read {}.{}", chunk.table.schema, chunk.table.name);
        let failed = |error| again(self.connect.error(&doing, error));
        let mut stream = self.session.copy_out_raw(&chunk.copy()).await.map_err(failed)?;
        let (mut rows, mut block, mut last) = (0, Vec::with_capacity(BLOCK_BYTES + 4096), 0);
        let mut key_of_last = None;
        while let Some(row) = stream.try_next().await.map_err(failed)? {
            last = block.len();
            block.extend_from_slice(&row);
            rows += 1;
            if block.len() >= BLOCK_BYTES {
                // At each block, since the last row of the chunk is only known behind it.
                key_of_last = key.map(|key| key_at(&block, last, chunk.table, key)).transpose()?;
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK_BYTES + 4096));
                self.sender.send(Ok(Message::Rows { index, bytes: full })).await.map_err(|_| Gone)?;
            }
        }
        if !block.is_empty() {
            key_of_last = key.map(|key| key_at(&block, last, chunk.table, key)).transpose()?;
            self.sender.send(Ok(Message::Rows { index, bytes: block })).await.map_err(|_| Gone)?;
        }
        Ok((rows, key_of_last))
    }
}

/// The key of the row that begins at `start`.
///
/// # Errors
/// When the row is malformed.
pub fn key_at(rows: &[u8], start: usize, table: &Table, key: &[usize]) -> Result<Vec<String>> {
    let mut row = rows[start..].to_vec();
    let mut places = Places::new();
    copy::row(&mut row, 0, table.columns.len(), &mut places)?;
    key_of(&row, &places, key)
}

/// The key of a row that was taken apart.
///
/// # Errors
/// When a cell of it is NULL or not UTF-8.
pub fn key_of(bytes: &[u8], places: &Places, key: &[usize]) -> Result<Vec<String>> {
    let cell = |index: &usize| {
        let text = places.get(*index)?.clone()?;
        std::str::from_utf8(&bytes[text]).ok().map(str::to_owned)
    };
    let malformed = || Error::retriable("postgres.protocol", "a cell of a key is NULL or not UTF-8 in the answer to COPY");
    key.iter().map(|index| cell(index).ok_or_else(malformed)).collect()
}
