//! One read of a table, in a task of its own that goes on while the worker appends: rows are decoded as they stream, and wait in a short queue.

use crate::column::{self, Cast, Column, Field, Shape};
use crate::config::Settings;
use crate::database::{Asked, Connection};
use crate::place::Place;
use crate::statement::Plan;
use crate::tables::Table;
use crate::url::Dialect;
use crate::value::{Cell, convert};
use crate::window::Row;
use aqueduct_config::nearest;
use aqueduct_core::{Data, Error, Payload, Result, Schema};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Types that only values could tell, by column.
pub(crate) type Learned = HashMap<String, Field>;

pub(crate) enum Found {
    /// Where the first read begins, if that is a moment: to be stored before anything else.
    Begin(Place),
    Rows(Vec<Row>),
}

/// A search for tables under way.
pub(crate) type Looking = AbortOnDropHandle<Result<(Connection, Vec<Table>)>>;

/// Lists the tables; connects first where the connection was lost.
pub(crate) fn look(connection: Option<Connection>, settings: Arc<Settings>) -> Looking {
    #[allow(
        clippy::disallowed_methods,
        reason = "the task that looks owns it: dropping the handle ends it, and the connection with it"
    )]
    let work = tokio::spawn(async move {
        let mut connection = connected(connection, &settings).await?;
        let tables = connection.tables(&settings).await?;
        Ok((connection, tables))
    });
    AbortOnDropHandle::new(work)
}

async fn connected(connection: Option<Connection>, settings: &Settings) -> Result<Connection> {
    match connection {
        Some(connection) => Ok(connection),
        None => Connection::open(&settings.target).await,
    }
}

/// A read under way.
pub(crate) struct Reading {
    pub(crate) found: mpsc::Receiver<Found>,
    pub(crate) work: AbortOnDropHandle<(Result<Connection>, Learned)>,
}

/// Bounds of what is read ahead (invariant 6): a queue of this many parts, each closed with the row that reaches the bytes or the rows.
const QUEUE_PARTS: usize = 2;
const PART_BYTES: usize = 256 << 10;
const PART_ROWS: usize = 500;

/// What is read, and from where.
pub(crate) struct Job {
    pub(crate) settings: Arc<Settings>,
    pub(crate) asked: Asked,
    pub(crate) place: Place,
    pub(crate) learned: Learned,
}

impl Reading {
    pub(crate) fn start(connection: Option<Connection>, job: Job) -> Self {
        let (give, found) = mpsc::channel(QUEUE_PARTS);
        #[allow(
            clippy::disallowed_methods,
            reason = "the task that reads owns it: dropping the handle ends it, and the connection with it"
        )]
        let work = tokio::spawn(read(connection, job, give));
        Self { found, work: AbortOnDropHandle::new(work) }
    }
}

async fn read(connection: Option<Connection>, job: Job, give: mpsc::Sender<Found>) -> (Result<Connection>, Learned) {
    let mut learned = job.learned.clone();
    let mut connection = match connected(connection, &job.settings).await {
        Ok(connection) => connection,
        Err(failed) => return (Err(failed), learned),
    };
    // A connection whose transaction failed is not used again.
    let done = transaction(&mut connection, &job, &mut learned, give).await;
    (done.map(|()| connection), learned)
}

async fn transaction(connection: &mut Connection, job: &Job, learned: &mut Learned, give: mpsc::Sender<Found>) -> Result<()> {
    let settings = &job.settings;
    let shape = settings.shape();
    connection.begin(&job.asked, settings.isolation).await?;
    let columns = connection.columns(&job.asked, settings.quote, &shape).await?;
    let plan = plan(settings, &job.asked, columns)?;
    let now =
        if plan.times.is_empty() { 0 } else { connection.now().await? - i64::try_from(settings.delay.as_micros()).unwrap_or(0) };
    let mut place = job.place;
    if let (None, Some(initial), false) = (place.time, settings.initial, plan.times.is_empty()) {
        place.time = Some(if initial < 0 { now } else { initial.saturating_mul(1000) });
        // Else a crash before the first row would begin at a later moment.
        if initial < 0 && give.send(Found::Begin(place)).await.is_err() {
            return Ok(());
        }
    }
    let statement = plan.statement(place, now, &settings.zone);
    let mut gather = Gather::new(settings, job, plan, shape, learned.clone(), give);
    connection.read(&job.asked, &statement, &mut gather).await?;
    gather.flush().await?;
    learned.clone_from(&gather.learned);
    connection.commit().await
}

/// Looks whether the table can be read this way, without reading it.
///
/// # Errors
/// As a read of it would.
pub(crate) async fn probe(connection: &mut Connection, settings: &Settings, asked: &Asked) -> Result<()> {
    connection.begin(asked, settings.isolation).await?;
    let columns = connection.columns(asked, settings.quote, &settings.shape()).await?;
    plan(settings, asked, columns)?;
    connection.commit().await
}

/// Finds the columns of the mode.
///
/// # Errors
/// `sql.missing_column`, `sql.no_incrementing_column`, `sql.incrementing_type`, `sql.timestamp_type`, `sql.mixed_times`, `sql.nullable_column`.
fn plan(settings: &Settings, asked: &Asked, columns: Vec<Column>) -> Result<Plan> {
    let dialect = settings.target.dialect;
    let names = match asked {
        Asked::Table(table) => table.names(),
        Asked::Query(_) => vec!["query".to_owned()],
    };
    let mut found = Plan {
        dialect,
        from: asked.from(dialect, settings.quote),
        columns,
        times: Vec::new(),
        id: None,
        quote: settings.quote,
        suffix: settings.suffix.clone(),
    };
    if settings.mode.by_id() {
        found.id = Some(match settings.incrementing.of(&names).first() {
            Some(name) => named(&found.columns, name, asked)?,
            None => counted(&found.columns, asked)?,
        });
    }
    if settings.mode.by_time() {
        let names = settings.timestamps.of(&names);
        if names.is_empty() {
            return Err(Error::fatal("sql.no_timestamp_column", format!("no timestamp column is given for {}", asked.show()))
                .fix("name it in timestamp.columns.mapping, or leave the table out"));
        }
        found.times = names.iter().map(|name| named(&found.columns, name, asked)).collect::<Result<_>>()?;
    }
    fits(&found, settings, asked)?;
    Ok(found)
}

fn fits(plan: &Plan, settings: &Settings, asked: &Asked) -> Result<()> {
    let of = |index: usize| &plan.columns[index];
    let what = |index: usize| format!("column {} of {}", of(index).name, asked.show());
    if let Some(id) = plan.id.filter(|id| !of(*id).is_integer()) {
        let text = format!("{} does not count: it is no integer", what(id));
        return Err(Error::fatal("sql.incrementing_type", text).fix("use an integer column, or mode timestamp"));
    }
    let is_time = |index: usize| {
        // SQLite has no type for times.
        of(index).is_time()
            || (plan.dialect == Dialect::Sqlite && matches!(of(index).field, None | Some(Field::String | Field::Int64)))
    };
    if let Some(index) = plan.times.iter().find(|index| !is_time(**index)) {
        let text = format!("{} is no timestamp", what(*index));
        return Err(Error::fatal("sql.timestamp_type", text).fix("use a timestamp column, or cast it in a query"));
    }
    let wall = plan.times.iter().any(|index| of(*index).field == Some(Field::Timestamp { zoned: false }));
    if wall && plan.zoned() && !settings.zone.is_utc() {
        let text =
            format!("timestamp columns of {} with and without a time zone cannot be compared in db.timezone", asked.show());
        return Err(Error::fatal("sql.mixed_times", text).fix("use columns of one kind, or db.timezone: UTC"));
    }
    // A query's columns cannot tell.
    if settings.validate_non_null && matches!(asked, Asked::Table(_)) {
        let nullable = "rows where it is NULL are never read";
        let fix = "set it NOT NULL, or set validate.non.null: false and lose such rows";
        if let Some(id) = plan.id.filter(|id| of(*id).optional) {
            return Err(Error::fatal("sql.nullable_column", format!("{} may be NULL: {nullable}", what(id))).fix(fix));
        }
        if !plan.times.is_empty() && plan.times.iter().all(|index| of(*index).optional) {
            return Err(Error::fatal("sql.nullable_column", format!("{} may be NULL: {nullable}", what(plan.times[0]))).fix(fix));
        }
    }
    Ok(())
}

fn named(columns: &[Column], name: &str, asked: &Asked) -> Result<usize> {
    let exact = columns.iter().position(|column| column.name == name);
    if let Some(index) = exact.or_else(|| columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))) {
        return Ok(index);
    }
    let fix = match nearest(name, columns.iter().map(|column| column.name.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None => "correct the option, or leave the table out".to_owned(),
    };
    Err(Error::fatal("sql.missing_column", format!("{} has no column {name:?}", asked.show())).fix(fix))
}

fn counted(columns: &[Column], asked: &Asked) -> Result<usize> {
    columns.iter().position(|column| column.counted).ok_or_else(|| {
        Error::fatal("sql.no_incrementing_column", format!("{} has no column that the database counts up", asked.show()))
            .fix("name one in incrementing.column.name, or leave the table out")
    })
}

/// Turns rows into records, and hands them over in parts.
pub(crate) struct Gather {
    plan: Plan,
    shape: Shape,
    learned: Learned,
    /// The name of the records' schema.
    name: Option<String>,
    what: String,
    schema: Arc<Schema>,
    row: Vec<Data>,
    place: Place,
    rows: Vec<Row>,
    bytes: usize,
    give: mpsc::Sender<Found>,
}

impl Gather {
    fn new(settings: &Settings, job: &Job, mut plan: Plan, shape: Shape, learned: Learned, give: mpsc::Sender<Found>) -> Self {
        let name = match &job.asked {
            Asked::Table(table) => Some(table.name.clone()),
            Asked::Query(_) => None,
        };
        for column in plan.columns.iter_mut().filter(|column| column.field.is_none()) {
            column.field = learned.get(&column.name).copied();
            column.optional = true;
        }
        let schema = column::schema(name.as_deref(), &plan.columns, settings.granularity);
        let row = Vec::with_capacity(plan.columns.len());
        Self {
            plan,
            shape,
            learned,
            name,
            what: job.asked.show(),
            schema,
            row,
            place: Place::default(),
            rows: Vec::new(),
            bytes: 0,
            give,
        }
    }

    /// What the database's file must know to read a value.
    pub(crate) fn expected(&self, index: usize) -> (Option<Field>, Cast) {
        match (self.plan.columns.get(index), self.plan.dialect) {
            (Some(column), _) => (column.field, column.cast),
            (None, Dialect::Postgres) => (Some(Field::Timestamp { zoned: self.plan.zoned() }), Cast::Plain),
            (None, Dialect::MySql) => (None, Cast::Micros),
            (None, Dialect::Sqlite) => (None, Cast::Plain),
        }
    }

    /// The next value of a row, from the left.
    pub(crate) fn cell(&mut self, cell: Cell<'_>) -> Result<()> {
        let index = self.row.len();
        let Some(column) = self.plan.columns.get(index) else {
            self.place.time = match cell {
                Cell::Micros(micros) if self.plan.zoned() => Some(micros),
                Cell::Micros(micros) => Some(self.shape.zone.moment(micros)),
                cell => cell.int().map(|millis| millis.saturating_mul(1000)),
            };
            return Ok(());
        };
        if self.plan.id == Some(index) {
            self.place.id = Some(cell.int().ok_or_else(|| self.no_id(&column.name, cell))?);
        }
        let field = match column.field {
            Some(field) => field,
            None => match learn(cell, column.cast) {
                Some(field) => self.learn(index, field),
                None => Field::String,
            },
        };
        let data = convert(cell, field, &self.shape).map_err(|reason| {
            let name = &self.plan.columns[index].name;
            Error::fatal("sql.value", format!("column {name} of {}: {reason}", self.what))
                .fix("correct the row, or cast or leave out the column in a query")
        })?;
        self.row.push(data);
        Ok(())
    }

    fn no_id(&self, name: &str, cell: Cell<'_>) -> Error {
        let reason = if cell == Cell::Null { "is NULL" } else { "is no integer of 64 bits" };
        Error::fatal("sql.incrementing_value", format!("the incrementing column {name} of {} {reason} in a row", self.what))
            .fix("correct the row, or leave it out with a query")
    }

    fn learn(&mut self, index: usize, field: Field) -> Field {
        self.plan.columns[index].field = Some(field);
        self.learned.insert(self.plan.columns[index].name.clone(), field);
        self.schema = column::schema(self.name.as_deref(), &self.plan.columns, self.shape.granularity);
        field
    }

    /// Whether a part is complete.
    pub(crate) fn end_row(&mut self) -> Result<bool> {
        let columns = self.plan.columns.len();
        let row = std::mem::replace(&mut self.row, Vec::with_capacity(columns));
        let value = Payload::data(Some(self.schema.clone()), Data::Struct(row));
        // Beside the values: a record's place in a batch, and the boxes around them.
        let bytes = value.size() + 96;
        self.bytes += bytes;
        self.rows.push(Row { value, place: self.place, bytes });
        Ok(self.bytes >= PART_BYTES || self.rows.len() >= PART_ROWS)
    }

    /// Waits for room in the queue.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        // Nobody listens: the task is being closed.
        self.give.send(Found::Rows(rows)).await.map_err(|_| Error::retriable("sql.closed", "the task was closed"))
    }
}

fn learn(cell: Cell<'_>, cast: Cast) -> Option<Field> {
    match (cell, cast) {
        (Cell::Text(text), Cast::Decimal) => {
            let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            Some(Field::Decimal { scale: u32::try_from(scale).unwrap_or(0) })
        }
        (cell, _) => cell.field(),
    }
}

impl Settings {
    pub(crate) fn shape(&self) -> Shape {
        Shape { granularity: self.granularity, numeric: self.numeric, zone: self.zone.clone() }
    }
}
