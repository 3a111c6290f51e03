//! The worker's part, by hand: options, polls, stored offsets.

use aqueduct_core::{
    CancellationToken, Data, Error, JsonMap, Options, PayloadRef, Plugin, Polled, Schema, SourceOffset, SourcePlugin, SourceTask,
    TaskContext, TaskId, TaskSpec,
};
use postgres_services::{PASSWORD, Server, USER};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(90);

pub fn plugin() -> Arc<dyn SourcePlugin> {
    aqueduct_connector_postgres::plugins()
        .into_iter()
        .find_map(|plugin| match plugin {
            Plugin::Source(source) if source.descriptor().name == "postgres-source" => Some(source),
            _ => None,
        })
        .expect("it is in the list")
}

/// Options for a database of the server: everything in `public`, from now on.
pub fn options(server: &Server, database: &str) -> Options {
    options_at(server.port(), database)
}

pub fn options_at(port: u16, database: &str) -> Options {
    let port = port.to_string();
    [
        ("topic.prefix", "shop"),
        ("database.hostname", "127.0.0.1"),
        ("database.port", &port),
        ("database.user", USER),
        ("database.password", PASSWORD),
        ("database.dbname", database),
        ("slot.name", database),
        ("publication.name", database),
        ("snapshot.mode", "no_data"),
        ("schema.include.list", "public"),
        ("status.update.interval.ms", "500"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

pub fn with(mut options: Options, more: &[(&str, &str)]) -> Options {
    options.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    options
}

/// A task and what a worker stores for it.
pub struct Running {
    pub task: Box<dyn SourceTask>,
    pub stored: Vec<SourceOffset>,
}

pub async fn open(options: &Options, stored: Vec<SourceOffset>) -> Result<Running, Error> {
    let task = plugin().open(options, TaskSpec::new(), stored.clone()).await?;
    Ok(Running { task, stored })
}

/// Opens it; what passes (a session that the server has not let go yet) is waited for.
pub async fn open_in_the_end(options: &Options, stored: Vec<SourceOffset>) -> Running {
    let until = Instant::now() + DEADLINE;
    loop {
        match open(options, stored.clone()).await {
            Ok(running) => return running,
            Err(error) => assert!(error.is_retriable() && Instant::now() < until, "{error:?}"),
        }
    }
}

pub fn context(max_records: usize) -> TaskContext {
    TaskContext {
        task: TaskId::new("pg", 0),
        wait_max: Duration::from_millis(100),
        max_bytes: 1 << 20,
        max_records,
        interrupt: CancellationToken::new(),
    }
}

/// One record; of a structured value what JSON would show, without the envelope's times.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub topic: String,
    pub key: Value,
    pub value: Value,
}

impl Running {
    /// One poll; what it says to store is stored and confirmed at once.
    pub async fn poll(&mut self, max_records: usize) -> Result<Vec<Got>, Error> {
        let polled = self.poll_only(max_records).await?;
        self.keep(&polled).await?;
        Ok(got(&polled))
    }

    pub async fn poll_only(&mut self, max_records: usize) -> Result<Polled, Error> {
        let polled = tokio::time::timeout(DEADLINE, self.task.poll(&context(max_records))).await.expect("poll returns")?;
        assert!(polled.batch.len() <= max_records.max(3), "{} records of at most {max_records}", polled.batch.len());
        Ok(polled)
    }

    pub async fn keep(&mut self, polled: &Polled) -> Result<(), Error> {
        for offset in &polled.resume {
            self.stored.retain(|known| known.partition != offset.partition);
            self.stored.push(offset.clone());
        }
        if polled.resume.is_empty() { Ok(()) } else { self.task.commit(&polled.resume).await }
    }

    /// Polls until there are this many records.
    pub async fn records(&mut self, count: usize) -> Vec<Got> {
        let (mut all, until) = (Vec::new(), Instant::now() + DEADLINE);
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count} records in time: {all:#?}", all.len());
            all.extend(self.poll(1000).await.expect("poll"));
        }
        all
    }

    /// Polls until `done` says so of the stored offset.
    pub async fn until_stored(&mut self, what: &str, done: impl Fn(&JsonMap) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done(&streams(&self.stored)) {
            assert!(Instant::now() < until, "not in time: {what}; {:?}", self.stored);
            self.poll(1000).await.expect("poll");
        }
    }

    pub async fn close(mut self) -> Vec<SourceOffset> {
        self.task.close().await.expect("close");
        self.stored
    }
}

pub fn got(polled: &Polled) -> Vec<Got> {
    polled
        .batch
        .iter()
        .map(|record| Got { topic: record.topic().to_string(), key: payload(record.key()), value: payload(record.value()) })
        .collect()
}

fn payload(payload: PayloadRef<'_>) -> Value {
    match payload {
        PayloadRef::Null => Value::Null,
        PayloadRef::Bytes(bytes) => serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into()),
        PayloadRef::Data(data) => {
            let mut value = json(&data.data, data.schema.as_deref());
            // When it was read, and what was read before it, is no property of the change.
            if let Value::Object(envelope) = &mut value {
                envelope.retain(|key, _| !key.starts_with("ts_"));
                if let Some(Value::Object(source)) = envelope.get_mut("source") {
                    source.remove("sequence");
                    if source["txId"].is_null() {
                        source.retain(|key, _| !key.starts_with("ts_"));
                    }
                }
            }
            value
        }
    }
}

fn json(data: &Data, schema: Option<&Schema>) -> Value {
    match data {
        Data::Null => Value::Null,
        Data::Boolean(value) => (*value).into(),
        Data::Int8(value) => (*value).into(),
        Data::Int16(value) => (*value).into(),
        Data::Int32(value) => (*value).into(),
        Data::Int64(value) => (*value).into(),
        Data::Float32(value) => (*value).into(),
        Data::Float64(value) => (*value).into(),
        Data::String(value) => value.as_str().into(),
        Data::Bytes(value) => format!("{value:?}").into(),
        Data::Array(items) => items.iter().map(|item| json(item, schema.and_then(|schema| schema.values.as_deref()))).collect(),
        Data::Map(entries) => {
            entries.iter().map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), json(value, None))).collect()
        }
        Data::Struct(values) => {
            let fields = &schema.expect("a struct has a schema").fields;
            fields.iter().zip(values).map(|(field, value)| (field.name.to_string(), json(value, Some(&field.schema)))).collect()
        }
        Data::Unavailable => "(unavailable)".into(),
        Data::Shared(shared) => json(shared, schema),
    }
}

impl Got {
    pub fn after(&self, field: &str) -> &Value {
        &self.value["after"][field]
    }

    /// `c`, `u`, `d`, `t`, `m`; empty for a tombstone.
    pub fn op(&self) -> &str {
        self.value["op"].as_str().unwrap_or_default()
    }
}

/// The stream's own among what is stored: tables have theirs beside it.
pub fn streams(stored: &[SourceOffset]) -> JsonMap {
    stored.iter().find(|one| one.partition.len() == 1).and_then(|one| one.offset.clone()).unwrap_or_default()
}

#[track_caller]
pub fn assert_same(got: &[Got], expected: &[Got], what: &str) {
    let at = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
    assert!(
        at == got.len() && at == expected.len(),
        "{what}: at {at} of {} and {}:\n{:?}\n{:?}",
        got.len(),
        expected.len(),
        got.get(at),
        expected.get(at)
    );
}

/// A number in a stored offset.
pub fn number(offset: &JsonMap, key: &str) -> u64 {
    offset.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// An LSN as the server prints it.
pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').expect("an LSN");
    u64::from_str_radix(high, 16).expect("hex") << 32 | u64::from_str_radix(low, 16).expect("hex")
}
