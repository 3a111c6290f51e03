//! A connector as the worker drives it: records and offsets are stored together, a crash forgets what was not.

use aqueduct_core::offset::SourceOffset;
use aqueduct_core::{
    CancellationToken, Data, Options, Payload, Plugin, Polled, Record, Result, SourceTask, Structured, TaskContext, TaskId,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, SqliteConnection};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// On a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub struct Rig {
    pub options: Options,
    pub offsets: BTreeMap<String, SourceOffset>,
    pub records: Vec<Record>,
    pub max_records: usize,
    task: Option<Box<dyn SourceTask>>,
}

impl Rig {
    /// With `poll.interval.ms: 10` and the prefix `t.`, unless `more` says otherwise.
    pub fn new(url: &str, mode: &str, more: &[(&str, &str)]) -> Self {
        let first = [
            ("connection.url", url),
            ("mode", mode),
            ("topic.prefix", "t."),
            ("poll.interval.ms", "10"),
            ("connection.attempts", "1"),
        ];
        let options = first.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { options, offsets: BTreeMap::new(), records: Vec::new(), max_records: 1000, task: None }
    }

    pub async fn open(&mut self) -> Result<()> {
        let Plugin::Source(plugin) = aqueduct_connector_sql::plugins().remove(0) else { panic!("a source") };
        let plan = plugin.plan(&self.options, 1).await?;
        let resume = self.offsets.values().cloned().collect();
        self.task = Some(plugin.open(&self.options, plan[0].clone(), resume).await?);
        Ok(())
    }

    /// As `kill -9`.
    pub fn crash(&mut self) {
        self.task = None;
    }

    pub async fn close(&mut self) {
        if let Some(mut task) = self.task.take() {
            task.close().await.unwrap();
        }
    }

    /// One call, not stored.
    pub async fn poll(&mut self) -> Result<Polled> {
        if self.task.is_none() {
            self.open().await?;
        }
        let cx = TaskContext {
            task: TaskId::new("test", 0),
            wait_max: Duration::from_millis(100),
            max_bytes: 1 << 20,
            max_records: self.max_records,
            interrupt: CancellationToken::new(),
        };
        let polled = self.task.as_mut().unwrap().poll(&cx).await?;
        assert!(polled.batch.len() <= self.max_records);
        Ok(polled)
    }

    pub fn store(&mut self, polled: Polled) {
        for offset in polled.resume {
            self.offsets.insert(offset.partition_key(), offset);
        }
        self.records.extend(polled.batch.into_records());
    }

    pub async fn step(&mut self) -> Result<()> {
        let polled = self.poll().await?;
        self.store(polled);
        Ok(())
    }

    /// Polls until it holds.
    pub async fn until(&mut self, what: &str, done: impl Fn(&[Record]) -> bool) {
        let start = Instant::now();
        while !done(&self.records) {
            self.step().await.unwrap();
            assert!(start.elapsed() < DEADLINE, "{what}: {} records", self.records.len());
        }
    }

    /// Exactly so many: and no more within a few polls.
    pub async fn exactly(&mut self, records: usize) -> Vec<Record> {
        self.until(&format!("{records} records"), |all| all.len() >= records).await;
        for _ in 0..3 {
            self.step().await.unwrap();
        }
        assert_eq!(self.records.len(), records, "{:#?}", self.records);
        std::mem::take(&mut self.records)
    }

    /// The error of the first call that fails.
    pub async fn error(&mut self) -> aqueduct_core::Error {
        let start = Instant::now();
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
            assert!(start.elapsed() < DEADLINE, "no error");
        }
    }
}

pub fn structured(record: &Record) -> &Structured {
    let Payload::Data(data) = &record.value else { panic!("{record:?}") };
    data
}

pub fn field(record: &Record, name: &str) -> Data {
    let Structured { schema: Some(schema), data: Data::Struct(values) } = structured(record) else { panic!("{record:?}") };
    values[schema.field_index(name).unwrap_or_else(|| panic!("no field {name}"))].clone()
}

pub fn int(record: &Record, name: &str) -> i64 {
    match field(record, name) {
        Data::Int64(n) => n,
        Data::Int32(n) => n.into(),
        other => panic!("{other:?}"),
    }
}

pub fn ids(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| int(record, "id")).collect()
}

/// `name:kind[:logical name][?]`
pub fn shape(record: &Record) -> Vec<String> {
    let schema = structured(record).schema.as_ref().unwrap();
    let fields = schema.fields.iter().map(|field| {
        let logical =
            field.schema.name.as_deref().map(|name| format!(":{}", name.rsplit('.').next().unwrap())).unwrap_or_default();
        let scale = field.schema.parameters.get("scale").map(|scale| format!("({scale})")).unwrap_or_default();
        format!("{}:{}{logical}{scale}{}", field.name, field.schema.kind.name(), if field.schema.optional { "?" } else { "" })
    });
    fields.collect()
}

/// A file in a folder of its own, in WAL mode, so that who writes does not wait for who reads.
pub struct Sqlite {
    _folder: tempfile::TempDir,
    path: PathBuf,
    connection: SqliteConnection,
}

impl Sqlite {
    pub async fn new(sql: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let options =
            options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal).synchronous(sqlx::sqlite::SqliteSynchronous::Off);
        let connection = options.connect().await.unwrap();
        let mut sqlite = Self { _folder: folder, path, connection };
        sqlite.run(sql).await;
        sqlite
    }

    pub fn url(&self) -> String {
        format!("jdbc:sqlite:{}", self.path.display())
    }

    pub async fn run(&mut self, sql: &str) {
        self.connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    pub async fn pairs(&mut self, sql: &str) -> Vec<(i64, i64)> {
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.connection).await.unwrap()
    }
}

pub fn bytes(text: &'static str) -> Data {
    Data::Bytes(bytes::Bytes::from_static(text.as_bytes()))
}

pub fn text(text: &str) -> Data {
    Data::String(text.to_owned())
}
