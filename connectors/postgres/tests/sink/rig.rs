//! Stands in for the worker: a log in memory, positions and metadata committed as the worker does, tasks dropped where a crash would.

use aqueduct_core::schema::Kind;
use aqueduct_core::{
    Ack, Batch, Data, Error, LogPosition, Options, Origin, Payload, Plugin, Record, Reject, Rejects, Schema, SinkTask,
    TaskContext, TaskId, TaskSpec, TopicPartition,
};
use postgres_services::{Server, USER};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub struct Rig {
    pub options: Options,
    pub connector: String,
    pub log: BTreeMap<TopicPartition, Vec<Record>>,
    pub committed: BTreeMap<TopicPartition, LogPosition>,
}

/// A task and where its worker reads.
pub struct Live {
    pub task: Box<dyn SinkTask>,
    pub next: BTreeMap<TopicPartition, i64>,
}

impl Rig {
    /// Options as lines of `key: value`.
    pub fn new(server: &Server, database: &str, options: &str) -> Self {
        Self::at(server.port(), database, options)
    }

    pub fn at(port: u16, database: &str, options: &str) -> Self {
        let url = format!("connection.url: jdbc:postgresql://127.0.0.1:{port}/{database}\n");
        let user = if options.contains("connection.user") { String::new() } else { format!("connection.user: {USER}\n") };
        let text = format!("{url}{user}{options}");
        let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
        Self {
            options: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            connector: "copy".to_owned(),
            log: BTreeMap::new(),
            committed: BTreeMap::new(),
        }
    }

    /// Appends to partition 0 of a topic.
    pub fn log(&mut self, topic: &str, records: impl IntoIterator<Item = (Payload, Payload)>) -> &mut Self {
        self.log_in(&TopicPartition::new(topic, 0), records)
    }

    pub fn log_in(&mut self, partition: &TopicPartition, records: impl IntoIterator<Item = (Payload, Payload)>) -> &mut Self {
        let log = self.log.entry(partition.clone()).or_default();
        let origin = Arc::new(partition.clone());
        for (key, value) in records {
            let offset = log.len() as i64;
            log.push(Record {
                partition: Some(partition.partition),
                key,
                timestamp: Some(0),
                origin: Some(Origin { partition: origin.clone(), offset }),
                ..Record::new(partition.topic.clone(), value)
            });
        }
        self.committed.entry(partition.clone()).or_insert_with(|| LogPosition {
            topic: partition.topic.clone(),
            topic_id: Uuid::from_u128(7),
            partition: partition.partition,
            offset: 0,
            metadata: None,
        });
        self
    }

    pub async fn open(&self) -> Result<Live, Error> {
        let Plugin::Sink(plugin) = plugin() else { panic!("no sink") };
        let mut task = plugin.open(&self.options, TaskSpec::new()).await?;
        let positions: Vec<LogPosition> = self.committed.values().cloned().collect();
        let mut next: BTreeMap<TopicPartition, i64> = positions.iter().map(|at| (at.topic_partition(), at.offset)).collect();
        for start in task.assigned(&positions).await? {
            next.insert(start.topic_partition(), start.offset);
        }
        Ok(Live { task, next })
    }

    /// Puts at most `max` records of each partition. What was refused comes back.
    pub async fn put(&self, live: &mut Live, max: usize) -> Result<(Ack, Vec<Reject>), Error> {
        let mut batch = Batch::new();
        for (partition, log) in &self.log {
            let from = live.next[partition] as usize;
            let to = (from + max).min(log.len());
            batch.append(log[from..to].iter().cloned().collect());
            live.next.insert(partition.clone(), to as i64);
        }
        let mut rejects = Rejects::default();
        let cx = TaskContext {
            task: TaskId::new(self.connector.as_str(), 0),
            wait_max: Duration::from_secs(1),
            max_bytes: 1 << 20,
            max_records: batch.len(),
            interrupt: CancellationToken::new(),
        };
        let ack = live.task.put(&batch, &mut rejects, &cx).await?;
        Ok((ack, rejects.take()))
    }

    /// As the worker after a flush.
    pub fn commit(&mut self, live: &Live) {
        for (partition, position) in &mut self.committed {
            position.offset = live.next[partition];
            position.metadata = live.task.metadata(partition).map(Into::into);
        }
    }

    /// All that is in the log, committed; what was refused.
    pub async fn run(&mut self) -> Vec<Reject> {
        let mut live = self.open().await.unwrap();
        let (ack, rejects) = self.put(&mut live, usize::MAX / 2).await.unwrap();
        if ack == Ack::Buffered {
            live.task.flush().await.unwrap();
        }
        self.commit(&live);
        live.task.close().await.unwrap();
        rejects
    }

    /// As [`Rig::run`], and nothing may be refused.
    pub async fn run_clean(&mut self) {
        let rejects = self.run().await;
        assert!(rejects.is_empty(), "{rejects:#?}");
    }
}

pub fn plugin() -> Plugin {
    let plugins = aqueduct_connector_postgres::plugins();
    plugins.into_iter().find(|plugin| plugin.descriptor().name == "postgres-sink").unwrap()
}

/// JSON without a schema, as the JSON converter hands it over.
pub fn json(text: &str) -> Payload {
    if text == "null" {
        return Payload::Null;
    }
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    Payload::data(None, data(&value))
}

fn data(value: &serde_json::Value) -> Data {
    match value {
        serde_json::Value::Null => Data::Null,
        serde_json::Value::Bool(flag) => Data::Boolean(*flag),
        serde_json::Value::Number(number) => number.as_i64().map_or_else(|| Data::Float64(number.as_f64().unwrap()), Data::Int64),
        serde_json::Value::String(text) => Data::String(text.clone()),
        serde_json::Value::Array(items) => Data::Array(items.iter().map(data).collect()),
        serde_json::Value::Object(fields) => Data::object(fields.iter().map(|(name, value)| (name.clone(), data(value)))),
    }
}

/// `(key, value)` in JSON.
pub fn pair(key: &str, value: &str) -> (Payload, Payload) {
    (json(key), json(value))
}

pub type Fields = Vec<(&'static str, Schema, Data)>;

/// A struct with its schema.
pub fn row(name: &str, fields: Fields) -> (Arc<Schema>, Data) {
    let mut schema = Schema::new(Kind::Struct).named(name).optional();
    let mut values = Vec::new();
    for (name, field, value) in fields {
        schema = schema.field(name, field);
        values.push(value);
    }
    (Arc::new(schema), Data::Struct(values))
}

pub fn structured((schema, data): (Arc<Schema>, Data)) -> Payload {
    Payload::data(Some(schema), data)
}

/// A Debezium event with its schema.
pub fn envelope(op: &str, before: Option<(Arc<Schema>, Data)>, after: Option<(Arc<Schema>, Data)>) -> Payload {
    let row = before.as_ref().or(after.as_ref()).map(|(schema, _)| schema.clone());
    let row = row.unwrap_or_else(|| Arc::new(Schema::new(Kind::Struct).optional()));
    let source = Arc::new(Schema::new(Kind::Struct).field("table", Schema::new(Kind::String)));
    let schema = Schema::new(Kind::Struct)
        .named("shop.public.t.Envelope")
        .field("before", row.clone())
        .field("after", row)
        .field("source", source)
        .field("op", Schema::new(Kind::String));
    let half = |half: Option<(Arc<Schema>, Data)>| half.map_or(Data::Null, |(_, data)| data);
    let data = Data::Struct(vec![half(before), half(after), Data::Struct(vec![Data::from("t")]), Data::from(op)]);
    Payload::data(Some(Arc::new(schema)), data)
}

pub fn int32() -> Schema {
    Schema::new(Kind::Int32)
}

pub fn string() -> Schema {
    Schema::new(Kind::String).optional()
}
