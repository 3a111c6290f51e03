//! The task: which table is read next, and batches of what its read finds.

use crate::config::{Config, Mode, Settings};
use crate::database::{Asked, Connection};
use crate::error;
use crate::place::{self, Partition, Place};
use crate::reader::{Found, Job, Learned, Looking, Reading, look, probe};
use crate::tables::Table;
use crate::window::{Cut, Limits, Row, cut};
use aqueduct_config::SourceConnector;
use aqueduct_config::options::invalid;
use aqueduct_core::{
    BatchBuilder, Error, Issue, Payload, Polled, Record, Report, Result, SourceOffset, SourceTask, TaskContext, TaskSpec, Topic,
};
use async_trait::async_trait;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub struct SqlSource;

const TASK_INDEX: &str = "task.index";
const TASK_COUNT: &str = "task.count";

#[async_trait]
impl SourceConnector for SqlSource {
    type Config = Config;
    type Task = SqlSourceTask;
    const NAME: &'static str = "sql-source";
    const ALIASES: &'static [&'static str] = &["io.confluent.connect.jdbc.JdbcSourceConnector", "JdbcSourceConnector"];
    const SUMMARY: &'static str =
        "Polls tables or a query of Postgres, MySQL, MariaDB or SQLite for new rows, by columns that only grow.";

    fn validate(config: &Config) -> Vec<Issue> {
        config.settings((0, 1)).map_or_else(|issues| issues, |(_, warnings)| warnings)
    }

    fn check_offset(offset: &SourceOffset) -> Result<()> {
        place::check(offset)
    }

    /// Tasks share the tables by name, so that new ones need no new plan. A query is one task's.
    async fn plan(config: &Config, tasks_max: u32) -> Result<Vec<TaskSpec>> {
        let (settings, _) = config.settings((0, 1)).map_err(|issues| invalid(&issues))?;
        let tasks = if settings.query.is_some() { 1 } else { tasks_max.max(1) };
        let spec = |index: u32| [(TASK_INDEX.to_owned(), index.to_string()), (TASK_COUNT.to_owned(), tasks.to_string())].into();
        Ok((0..tasks).map(spec).collect())
    }

    async fn open(config: Config, task: TaskSpec, resume: Vec<SourceOffset>) -> Result<SqlSourceTask> {
        let number = |name: &str, default: u64| task.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let share = (number(TASK_INDEX, 0), number(TASK_COUNT, 1).max(1));
        let (settings, _) = config.settings(share).map_err(|issues| invalid(&issues))?;
        SqlSourceTask::open(settings, resume).await
    }
}

/// A table, or the query.
struct Target {
    asked: Asked,
    partition: Partition,
    topic: Topic,
    /// Behind what was handed over.
    place: Place,
    learned: Learned,
    /// When it is read next.
    due: Instant,
}

pub struct SqlSourceTask {
    settings: Arc<Settings>,
    /// Between two reads; `None` also when it is lost.
    connection: Option<Connection>,
    targets: Vec<Target>,
    /// The target of the read under way.
    current: usize,
    reading: Option<Reading>,
    /// Of the read: found, and not handed over yet.
    pending: VecDeque<Row>,
    /// As they were when the task was opened, or when a table went: tables that come later may have been read before.
    stored: Vec<SourceOffset>,
    look: Instant,
    looking: Option<Looking>,
    missing: Vec<String>,
}

/// How long a batch that is not full waits for the next rows of its read.
const LINGER: Duration = Duration::from_millis(20);

impl SqlSourceTask {
    async fn open(settings: Settings, stored: Vec<SourceOffset>) -> Result<Self> {
        let now = Instant::now();
        let mut task = Self {
            connection: None,
            targets: Vec::new(),
            current: 0,
            reading: None,
            pending: VecDeque::new(),
            stored,
            look: now + settings.table_interval,
            looking: None,
            missing: Vec::new(),
            settings: Arc::new(settings),
        };
        let mut connection = task.connect().await?;
        let tables = if task.settings.query.is_some() { Vec::new() } else { connection.tables(&task.settings).await? };
        task.take_up(tables)?;
        // What cannot be read is told at the start, not after the first wait.
        for target in &task.targets {
            probe(&mut connection, &task.settings, &target.asked).await?;
        }
        task.connection = Some(connection);
        Ok(task)
    }

    /// Tries as often as the options say.
    async fn connect(&self) -> Result<Connection> {
        let mut attempt = 1;
        loop {
            match Connection::open(&self.settings.target).await {
                Err(failed) if failed.is_retriable() && attempt < self.settings.attempts => {
                    tracing::warn!(attempt, "{failed}");
                    tokio::time::sleep(self.settings.backoff).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    /// Takes up this task's share of the tables that are there, and lets go of those that are not.
    fn take_up(&mut self, tables: Vec<Table>) -> Result<()> {
        let settings = self.settings.clone();
        self.look = Instant::now() + settings.table_interval;
        if let Some(query) = &settings.query {
            if self.targets.is_empty() {
                let (partition, place) = Partition::find_query(&self.stored);
                self.targets.push(self.target(Asked::Query(query.clone()), partition, place, settings.prefix.as_str().into()));
            }
            return Ok(());
        }
        let missing = settings.wanted.missing(&tables);
        if missing != self.missing && !missing.is_empty() {
            tracing::warn!("tables of the list that are not there: {}", missing.join(", "));
        }
        self.missing = missing;
        if tables.is_empty() && !self.missing.is_empty() {
            let text = format!("none of the tables is there: {}", self.missing.join(", "));
            return Err(Error::retriable("sql.missing_table", text)
                .fix("create one, or correct table.whitelist, schema.pattern and table.types"));
        }
        if settings.wanted.whitelist.is_empty() && tables.is_empty() {
            tracing::warn!("no table is there that the options want");
        }
        unique(&tables)?;
        let (index, count) = settings.share;
        let mine: Vec<Table> = tables.into_iter().filter(|table| table.share(count) == index).collect();
        let (kept, gone): (Vec<Target>, Vec<Target>) =
            self.targets.drain(..).partition(|target| matches!(&target.asked, Asked::Table(table) if mine.contains(table)));
        self.targets = kept;
        // A table that comes back is read on from where it was.
        for target in gone {
            self.stored.retain(|offset| offset.partition != target.partition.0);
            self.stored.push(target.offset());
        }
        for table in mine {
            let asked = Asked::Table(table.clone());
            if !self.targets.iter().any(|target| target.asked == asked) {
                let (partition, place) = Partition::find(&table, &self.stored);
                let topic = format!("{}{}", settings.prefix, table.name);
                self.targets.push(self.target(asked, partition, place, topic.into()));
            }
        }
        Ok(())
    }

    fn target(&self, asked: Asked, partition: Partition, place: Place, topic: Topic) -> Target {
        // In mode bulk each start reads all, as Confluent's does.
        let place = if self.settings.mode == Mode::Bulk { Place::default() } else { place };
        Target { asked, partition, topic, place, learned: Learned::new(), due: Instant::now() }
    }

    /// Begins the next read that is due.
    fn next(&mut self) -> bool {
        let due = self.targets.iter().enumerate().min_by_key(|(_, target)| target.due);
        let Some((index, _)) = due.filter(|(_, target)| target.due <= Instant::now()) else { return false };
        let target = &self.targets[index];
        let job = Job {
            settings: self.settings.clone(),
            asked: target.asked.clone(),
            place: target.place,
            learned: target.learned.clone(),
        };
        self.current = index;
        self.reading = Some(Reading::start(self.connection.take(), job));
        true
    }

    /// The read is over: its result, and its connection for the next.
    async fn end(&mut self) -> Result<()> {
        let Some(reading) = self.reading.take() else { return Ok(()) };
        let (done, learned) = reading.work.await.map_err(|_| Error::retriable("sql.closed", "a read was ended"))?;
        let target = &mut self.targets[self.current];
        target.learned = learned;
        target.due = Instant::now() + self.settings.interval;
        let failed = match done {
            Ok(connection) => {
                self.connection = Some(connection);
                return Ok(());
            }
            Err(failed) => failed,
        };
        // What came before the failure is not all of its time.
        self.pending.clear();
        if error::is_missing_table(&failed) && matches!(target.asked, Asked::Table(_)) {
            tracing::warn!("{failed}");
            self.look = Instant::now();
            return Ok(());
        }
        Err(failed)
    }

    /// The next batch of the read under way; `None` when nothing is left of it, or the time is over.
    async fn gather(&mut self, cx: &TaskContext, deadline: Instant) -> Result<Option<Polled>> {
        let limits = Limits::of(cx, self.settings.batch_rows);
        let mut patient = true;
        loop {
            match cut(self.settings.mode, &self.pending, limits, self.reading.is_none(), patient) {
                Cut::At(rows, place) => return Ok(Some(self.batch(rows, place))),
                Cut::Wait if !patient => return Ok(None),
                Cut::Wait => {}
            }
            let Some(reading) = &mut self.reading else { return Ok(None) };
            // With rows in hand the next ones are waited for only briefly.
            let linger =
                if self.pending.is_empty() || self.settings.mode == Mode::Timestamp { deadline } else { Instant::now() + LINGER };
            tokio::select! {
                biased;
                found = reading.found.recv() => match found {
                    Some(Found::Rows(rows)) => self.pending.extend(rows),
                    Some(Found::Begin(place)) => return Ok(Some(self.begin(place))),
                    None => self.end().await?,
                },
                () = cx.interrupt.cancelled() => patient = false,
                () = sleep_until(linger.min(deadline)) => patient = false,
            }
        }
    }

    fn begin(&mut self, place: Place) -> Polled {
        let target = &mut self.targets[self.current];
        target.place = place;
        Polled { resume: vec![target.offset()], ..Polled::default() }
    }

    fn batch(&mut self, rows: usize, place: Place) -> Polled {
        let target = &mut self.targets[self.current];
        let mut batch = BatchBuilder::new();
        for row in self.pending.drain(..rows) {
            batch.push(Record { value: row.value, ..Record::new(target.topic.clone(), Payload::Null) });
        }
        // Nothing can be read on from in mode bulk.
        let resume = if self.settings.mode == Mode::Bulk {
            Vec::new()
        } else {
            target.place = place;
            vec![target.offset()]
        };
        Polled { batch: batch.finish(), resume }
    }
}

impl Target {
    fn offset(&self) -> SourceOffset {
        SourceOffset { partition: self.partition.0.clone(), offset: Some(self.place.to_json()) }
    }
}

/// Two tables of one name would share a topic.
fn unique(tables: &[Table]) -> Result<()> {
    let mut names = HashSet::new();
    match tables.iter().find(|table| !names.insert(table.name.as_str())) {
        None => Ok(()),
        Some(table) => {
            let all: Vec<String> = tables.iter().filter(|other| other.name == table.name).map(Table::full).collect();
            let text = format!("{} would share a topic, which has the bare name", all.join(" and "));
            Err(Error::fatal("sql.duplicate_table", text)
                .fix("narrow schema.pattern or table.whitelist, one connector for each schema"))
        }
    }
}

#[async_trait]
impl SourceTask for SqlSourceTask {
    async fn poll(&mut self, cx: &TaskContext) -> Result<Polled> {
        let deadline = Instant::now() + cx.wait_max;
        loop {
            if self.reading.is_some() || !self.pending.is_empty() {
                if let Some(polled) = self.gather(cx, deadline).await? {
                    return Ok(polled);
                }
            } else if let Some(looking) = &mut self.looking {
                tokio::select! {
                    done = looking => {
                        self.looking = None;
                        let (connection, tables) = done.map_err(|_| Error::retriable("sql.closed", "a search for tables was ended"))??;
                        self.connection = Some(connection);
                        self.take_up(tables)?;
                    }
                    () = cx.interrupt.cancelled() => {}
                    () = sleep_until(deadline) => {}
                }
            } else if self.look <= Instant::now() && self.settings.query.is_none() {
                self.looking = Some(look(self.connection.take(), self.settings.clone()));
            } else if !self.next() {
                let look = self.settings.query.is_none().then_some(self.look);
                let due =
                    self.targets.iter().map(|target| target.due).chain(look).min().map_or(deadline, |due| due.min(deadline));
                tokio::select! {
                    () = cx.interrupt.cancelled() => {}
                    () = sleep_until(due) => {}
                }
            }
            if Instant::now() >= deadline || cx.interrupt.is_cancelled() {
                return Ok(Polled::default());
            }
        }
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        if self.settings.query.is_none() {
            report.summary = match self.targets.len() {
                1 => "1 table".to_owned(),
                n => format!("{n} tables"),
            };
            if !self.missing.is_empty() {
                report.summary.push_str(&format!("; not there: {}", self.missing.join(", ")));
            }
        }
        report
    }

    async fn close(&mut self) -> Result<()> {
        // A read under way is given up, and its connection with it.
        (self.reading, self.looking) = (None, None);
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
        Ok(())
    }
}
