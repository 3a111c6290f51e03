//! A chunk that was read beside the stream, and what the stream says about its rows until they are sent. Pure but for [`read`].

use super::copy::{self, Places};
use super::query::{BEGIN, Bounds, Chunk, UNHURRIED};
use super::reader::{self, View, cut_columns, key_of};
use super::state::Read;
use crate::connection::{Connect, identifier};
use crate::source::catalog;
use crate::source::monitor::HEARTBEAT;
use crate::table::{Cell, ReplicaIdentity, Table};
use aqueduct_core::{Error, Result};
use futures_util::TryStreamExt;
use rustc_hash::FxHashMap;
use sqlx::postgres::PgConnection;
use std::ops::Range;
use std::sync::Arc;

/// A value of this size is never put out of line: the pointer to it would be no smaller (`toast_tuple_find_biggest_attribute`).
const INLINE_BYTES: usize = 20;

/// As [`Places`], kept.
type RowPlaces = Box<[Option<Range<usize>>]>;

/// Rows that wait for the stream to pass their view.
#[derive(Debug)]
pub struct Window {
    pub table: Arc<Table>,
    pub view: View,
    /// How the table is cut.
    columns: Vec<usize>,
    /// What the stream names a row by; empty: it cannot.
    identity: Vec<usize>,
    bytes: Vec<u8>,
    /// In the table's order; `None`: a newer version was sent already.
    rows: Vec<Option<RowPlaces>>,
    by_identity: FxHashMap<Vec<u8>, usize>,
    /// Rows with what an update has told of them since.
    updated: FxHashMap<usize, Vec<Option<Vec<u8>>>>,
    next: usize,
    /// The end of the reading.
    pub last: bool,
    /// The key that the reading ends with.
    pub until: Option<Vec<String>>,
    /// The key of the chunk's last row.
    end: Option<Vec<String>>,
    /// Rows that the table has, about.
    pub estimate: u64,
    /// In bytes, of one row.
    pub row_bytes: usize,
}

/// What a chunk is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub oid: u32,
    pub name: super::state::Name,
    pub read: Read,
    /// Rows that have not changed since an earlier view: the stream has the others, but for what an update leaves out.
    pub since: Option<String>,
    pub limit: u32,
    pub version: u32,
    /// Transactions below this must have ended: they may have changed the table before it was published.
    pub barrier: u64,
    /// Whether a logical message may be written, which moves the stream past the view at once.
    pub emit: bool,
}

#[derive(Debug)]
pub enum Outcome {
    Chunk(Box<Window>),
    /// The table is gone, or is another one under the same name.
    Gone,
    /// There is no column by which it could be cut.
    Keyless,
    /// Transactions below the barrier still run.
    Early,
}

/// Reads one chunk in a transaction of its own.
///
/// # Errors
/// `postgres.*`
pub async fn read(connect: &Connect, session: &mut PgConnection, wanted: &Wanted) -> Result<Outcome> {
    let begun = reader::run(session, format!("{BEGIN}; {UNHURRIED}")).await;
    begun.map_err(|error| connect.error("begin a chunk", error))?;
    let outcome = chunk(connect, session, wanted).await?;
    let emit = format!("SELECT pg_catalog.pg_logical_emit_message(true, '{HEARTBEAT}', 'chunk')");
    // A standby, or a role that may not: then the stream passes the view by itself, with the next change or keep-alive.
    let end = if wanted.emit && matches!(outcome, Outcome::Chunk(_)) { format!("COMMIT; {emit}") } else { "COMMIT".to_owned() };
    if let Err(error) = reader::run(session, end).await {
        if !matches!(error, sqlx::Error::Database(_)) {
            return Err(connect.error("end a chunk", error));
        }
        tracing::debug!(%error, "no message to mark the end of a chunk");
    }
    Ok(outcome)
}

async fn chunk(connect: &Connect, session: &mut PgConnection, wanted: &Wanted) -> Result<Outcome> {
    let view = reader::view(connect, session, wanted.version).await?;
    if view.seen.xmin < wanted.barrier {
        return Ok(Outcome::Early);
    }
    let Some(table) = catalog::table(connect, session, wanted.oid).await? else { return Ok(Outcome::Gone) };
    let Some(facts) = reader::facts(connect, session, &table).await?.filter(|facts| !facts.rewritten) else {
        // Made, truncated or rewritten in the very moment: seen as it is by the next transaction.
        return Ok(Outcome::Early);
    };
    if (&table.schema, &table.name) != (&wanted.name.0, &wanted.name.1) {
        return Ok(Outcome::Gone);
    }
    let named = |names: &[String]| -> Option<Vec<usize>> {
        names.iter().map(|name| table.columns.iter().position(|column| *column.name == **name)).collect()
    };
    let columns = match &wanted.read.surrogate {
        Some(surrogate) => named(&surrogate.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()),
        None => cut_columns(&table),
    };
    let Some(columns) = columns else { return Ok(Outcome::Keyless) };
    let identity = match table.identity {
        ReplicaIdentity::Index => named(&facts.identity).unwrap_or_default(),
        _ => cut_columns(&table).unwrap_or_default(),
    };
    let since = match &wanted.since {
        Some(since) => {
            let told = reader::since(connect, session, &table, since).await?;
            told.map(|large| if large { or_large(since, &table, &columns, wanted.version) } else { since.clone() })
        }
        None => None,
    };
    let all = Chunk {
        table: &table,
        only: !facts.partitioned,
        statement: None,
        condition: since.as_deref().or(wanted.read.condition.as_deref()),
        bounds: Bounds::All,
    };
    reader::check(connect, session, &all).await?;
    let until = match &wanted.read.until {
        Some(until) => Some(until.clone()),
        None => last_key(connect, session, &all, &columns).await?,
    };
    let bounds =
        Bounds::Key { columns: &columns, after: wanted.read.key.as_deref(), until: until.as_deref(), limit: wanted.limit };
    let sql = Chunk { bounds, ..all.clone() }.copy();
    let mut bytes = Vec::new();
    if until.is_some() {
        let failed = |error| connect.error(&format!("read {}.{}", table.schema, table.name), error);
        let mut stream = session.copy_out_raw(&sql).await.map_err(failed)?;
        while let Some(row) = stream.try_next().await.map_err(failed)? {
            bytes.extend_from_slice(&row);
        }
    }
    let estimate = facts.rows;
    let mut window = Window::new(Arc::new(table), view, columns, identity, bytes)?;
    window.last = window.rows.len() < wanted.limit as usize;
    (window.until, window.estimate) = (until, estimate);
    Ok(Outcome::Chunk(Box::new(window)))
}

/// Rows that changed since are read too where one of their values may lie out of line: an update's event leaves it out unless it changed.
fn or_large(since: &str, table: &Table, key: &[usize], version: u32) -> String {
    let mut condition = since.to_owned();
    if table.identity == ReplicaIdentity::Full {
        return condition;
    }
    for (_, column) in table.columns.iter().enumerate().filter(|(index, _)| !key.contains(index)) {
        let name = identifier(&column.name);
        condition += &if version >= 170_000 {
            format!(" OR pg_catalog.pg_column_toast_chunk_id({name}) IS NOT NULL")
        } else {
            format!(" OR pg_catalog.pg_column_size({name}) > {INLINE_BYTES}")
        };
    }
    condition
}

async fn last_key(
    connect: &Connect,
    session: &mut PgConnection,
    all: &Chunk<'_>,
    columns: &[usize],
) -> Result<Option<Vec<String>>> {
    let sql = sqlx::AssertSqlSafe(all.last_key(columns));
    let key: Option<Vec<Option<String>>> = sqlx::query_scalar(sql)
        .fetch_optional(session)
        .await
        .map_err(|error| connect.error(&format!("find the end of {}.{}", all.table.schema, all.table.name), error))?;
    Ok(key.and_then(|key| key.into_iter().collect()))
}

impl Window {
    pub fn new(table: Arc<Table>, view: View, columns: Vec<usize>, identity: Vec<usize>, mut bytes: Vec<u8>) -> Result<Self> {
        let (mut rows, mut by_identity, mut places, mut at) = (Vec::new(), FxHashMap::default(), Places::new(), 0);
        let mut end = None;
        let size = bytes.len();
        while at < size {
            at = copy::row(&mut bytes, at, table.columns.len(), &mut places)?;
            if !identity.is_empty() {
                let cells = copy::cells(&bytes, &places);
                let name = name(identity.iter().map(|index| cells[*index])).ok_or_else(|| {
                    Error::retriable("postgres.protocol", "a row without its replica identity in the answer to COPY")
                })?;
                by_identity.insert(name, rows.len());
            }
            if at == size {
                end = Some(key_of(&bytes, &places, &columns)?);
            }
            rows.push(Some(places.as_slice().into()));
        }
        let row_bytes = size / rows.len().max(1);
        Ok(Self {
            table,
            view,
            columns,
            identity,
            bytes,
            rows,
            by_identity,
            updated: FxHashMap::default(),
            next: 0,
            last: false,
            until: None,
            end,
            estimate: 0,
            row_bytes,
        })
    }

    /// The columns that name a row; none where nothing does.
    pub fn identity(&self) -> Vec<Arc<str>> {
        self.identity.iter().map(|index| self.table.columns[*index].name.clone()).collect()
    }

    /// Whether rows as they were read fit the table as the stream has it now. The stream may leave columns out: generated ones, those of a column list.
    pub fn fits(&self, table: &Table) -> bool {
        table
            .columns
            .iter()
            .all(|column| self.table.columns.iter().any(|known| known.name == column.name && known.type_oid == column.type_oid))
    }

    /// A change that the view has not seen was sent: the row that it replaces is older, and must not follow it.
    pub fn replaced(&mut self, name: &[u8]) {
        if let Some(index) = self.by_identity.get(name)
            && let Some(row) = self.rows.get_mut(*index)
        {
            *row = None;
        }
    }

    /// An update that the view has not seen was sent, without the large values that it left alone: the row follows it, with these.
    pub fn updated(&mut self, name: &[u8], told: Told) {
        let Some(index) = self.by_identity.get(name).copied() else { return };
        let Some(Some(row)) = self.rows.get(index) else { return };
        let bytes = &self.bytes;
        let as_read = || row.iter().map(|place| place.clone().map(|place| bytes[place].to_vec())).collect();
        let cells = self.updated.entry(index).or_insert_with(as_read);
        for (column, value) in told {
            let at = self.table.columns.iter().position(|known| known.name == column);
            if let Some(cell) = at.and_then(|at| cells.get_mut(at)) {
                *cell = value;
            }
        }
    }

    pub fn truncated(&mut self) {
        self.rows.fill(None);
    }

    /// The next row that is to be sent. Its cells, in the table's order.
    pub fn next_row(&mut self) -> Option<smallvec::SmallVec<[Cell<'_>; 16]>> {
        while self.rows.get(self.next).is_some_and(Option::is_none) {
            self.next += 1;
        }
        let row = self.rows.get(self.next)?.as_ref()?;
        self.next += 1;
        Some(match self.updated.get(&(self.next - 1)) {
            Some(cells) => cells.iter().map(|cell| cell.as_deref().map_or(Cell::Null, Cell::Text)).collect(),
            None => copy::cells(&self.bytes, row),
        })
    }

    pub fn is_sent(&self) -> bool {
        self.rows[self.next.min(self.rows.len())..].iter().all(Option::is_none)
    }

    /// The key behind which the reading goes on: of the last row that was sent or passed over. `None`: of none yet.
    pub fn position(&self) -> Result<Option<Vec<String>>> {
        if self.is_sent() {
            return Ok(self.end.clone());
        }
        // The last row before `next` whose places are kept is at or before the true position: repeating is safe, leaving out is not.
        let row = self.rows[..self.next].iter().rev().find_map(Option::as_ref);
        row.map(|row| key_of(&self.bytes, &row.to_vec(), &self.columns)).transpose()
    }
}

/// Columns and their values, as an event has them.
pub type Told = Vec<(Arc<str>, Option<Vec<u8>>)>;

/// What an update tells of a row, where it leaves large values out that did not change; `None` where its event has all of the row.
pub fn told(table: &Table, new: &[Cell<'_>]) -> Option<Told> {
    if table.identity == ReplicaIdentity::Full || !new.contains(&Cell::Unchanged) {
        return None;
    }
    let cell = |(index, cell): (usize, &Cell<'_>)| {
        let name = table.columns.get(index)?.name.clone();
        match cell {
            Cell::Unchanged => None,
            Cell::Null => Some((name, None)),
            Cell::Text(text) => Some((name, Some(text.to_vec()))),
        }
    };
    Some(new.iter().enumerate().filter_map(cell).collect())
}

/// Where columns of these names are.
pub fn places(table: &Table, names: &[Arc<str>]) -> Option<Vec<usize>> {
    names.iter().map(|name| table.columns.iter().position(|column| column.name == *name)).collect()
}

/// What a row is called: equal for equal texts of its cells. `None` when one of them is not there.
pub fn name<'a>(cells: impl Iterator<Item = Cell<'a>>) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    for cell in cells {
        let Cell::Text(text) = cell else { return None };
        name.extend_from_slice(&(text.len() as u32).to_le_bytes());
        name.extend_from_slice(text);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::super::visibility::Visible;
    use super::*;
    use crate::table::Column;

    fn window(rows: &str) -> Window {
        let column = |name: &str| Column { name: name.into(), type_oid: 25, modifier: -1, not_null: true, default: None };
        let table = Table {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            columns: ["v", "k"].map(column).into(),
            key: vec![1],
            identity: ReplicaIdentity::Default,
        };
        let view = View { time_micros: 0, seen: Visible::parse("5:9:7").unwrap(), lsn: 100 };
        Window::new(Arc::new(table), view, vec![1], vec![1], rows.as_bytes().to_vec()).unwrap()
    }

    fn sent(window: &mut Window) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(cells) = window.next_row() {
            let Cell::Text(text) = cells[0] else { panic!("{cells:?}") };
            sent.push(String::from_utf8(text.to_vec()).unwrap());
        }
        sent
    }

    fn called(key: &str) -> Vec<u8> {
        name([Cell::Text(key.as_bytes())].into_iter()).unwrap()
    }

    #[test]
    fn rows_that_the_stream_has_replaced_do_not_follow_it() {
        let mut window = window("a\t1\nb\t2\nc\\td\t3\n");
        window.replaced(&called("2"));
        window.replaced(&called("9"));
        assert_eq!(window.position().unwrap(), None);
        assert_eq!(window.next_row().map(|cells| cells.len()), Some(2));
        assert_eq!(window.position().unwrap(), Some(vec!["1".to_owned()]));
        assert_eq!(sent(&mut window), ["c\td"]);
        assert!(window.is_sent());
        assert_eq!(window.position().unwrap(), Some(vec!["3".to_owned()]));
    }

    #[test]
    fn a_row_whose_large_value_an_update_left_out_follows_with_it() {
        let mut window = window("large\t1\nb\t2\nc\t3\n");
        let told = |key: &str| vec![(Arc::from("k"), Some(key.as_bytes().to_vec()))];
        window.updated(&called("1"), told("7"));
        window.updated(&called("1"), told("8"));
        window.updated(&called("2"), told("9"));
        window.replaced(&called("2"));
        window.updated(&called("2"), told("9"));
        let row: Vec<_> = window.next_row().unwrap().into_iter().collect();
        assert_eq!(row, [Cell::Text(b"large"), Cell::Text(b"8")]);
        assert_eq!(window.position().unwrap(), Some(vec!["1".to_owned()]), "where it was read");
        assert_eq!(sent(&mut window), ["c"]);
        let table = (*window.table).clone();
        assert_eq!(super::told(&table, &[Cell::Unchanged, Cell::Text(b"8")]), Some(told("8")));
        assert_eq!(super::told(&table, &[Cell::Null, Cell::Text(b"8")]), None, "nothing was left out");
        let full = Table { identity: ReplicaIdentity::Full, ..table };
        assert_eq!(super::told(&full, &[Cell::Unchanged, Cell::Text(b"8")]), None, "the old row has it");
    }

    #[test]
    fn a_truncation_leaves_nothing_to_send() {
        let mut window = window("a\t1\nb\t2\n");
        window.truncated();
        assert!(window.is_sent() && sent(&mut window).is_empty());
        assert_eq!(window.position().unwrap(), Some(vec!["2".to_owned()]));
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        let two = |a: &str, b: &str| name([Cell::Text(a.as_bytes()), Cell::Text(b.as_bytes())].into_iter());
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_eq!(name([Cell::Null].into_iter()), None);
    }
}
