//! How fast `postgres-sink` upserts, beside the same rows by hand on the same server: `cargo run -p aqueduct-connector-postgres --example upsert`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for a person")]

use aqueduct_core::schema::Kind;
use aqueduct_core::{
    Ack, Batch, Data, LogPosition, Options, Origin, Payload, Plugin, Record, Rejects, Schema, TaskContext, TaskId, TaskSpec,
    TopicPartition,
};
use postgres_services::{Server, USER};
use sqlx::{Connection, Executor, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const ROWS: i64 = 1_000_000;
const BATCH: i64 = 10_000;
const TABLE: &str =
    "(id bigint primary key, customer integer not null, name text, amount numeric(12,2), at timestamp, paid boolean)";

struct Row {
    id: i64,
    customer: i32,
    name: String,
    cents: i64,
    at: i64,
    paid: bool,
}

/// The same rows for everyone: ids in a scattered order.
fn row(n: i64, pass: i64) -> Row {
    let id = n.wrapping_mul(7_368_787) % ROWS;
    Row {
        id,
        customer: (id % 50_000) as i32,
        name: format!("customer number {id} of pass {pass}"),
        cents: id * 7 + pass,
        at: 1_700_000_000_000_000 + id,
        paid: id % 3 == 0,
    }
}

/// All write a batch in turn, so that what else the machine does hits them alike.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = Server::start(postgres_services::Options::default().with("shared_buffers = 256MB").with("max_wal_size = 4GB"));
    let mut hand = Hand::new(&server).await;
    let mut psql = Psql::new(&server);
    let mut sinks = Vec::new();
    for table in ["flat", "events", "schemaless"] {
        sinks.push(Sink::new(&server, table).await);
    }
    for pass in 0..2 {
        println!("{}", if pass == 0 { "-- new rows" } else { "-- the same rows again" });
        let mut spent = [Spent::default(); 5];
        for from in (0..ROWS).step_by(BATCH as usize) {
            spent[0] += hand.batch(from, pass).await;
            spent[1] += psql.batch(from, pass);
            for (sink, spent) in sinks.iter_mut().zip(&mut spent[2..]) {
                *spent += sink.batch(from, pass).await;
            }
        }
        let what = [
            "by hand, bound arrays",
            "by hand, psql",
            "postgres-sink, flat",
            "postgres-sink, Debezium's events",
            "postgres-sink, JSON without a schema",
        ];
        let best = spent[0].wall.min(spent[1].wall).as_secs_f64();
        for (what, spent) in what.iter().zip(spent) {
            let wall = spent.wall.as_secs_f64();
            let (rate, ratio) = (ROWS as f64 / wall, best / wall);
            println!(
                "{what:<40} {rate:>8.0} rows/s  {wall:>6.2} s  x {ratio:.2}  own CPU {:>5.2} s  its session's {:>6.2} s",
                spent.own, spent.session
            );
        }
    }
    let sums: Vec<String> = ["hand", "psql", "flat", "events", "schemaless"]
        .iter()
        .map(|table| {
            server.psql(&format!("select count(*), sum(amount), sum(customer), max(at), min(name), sum(paid::int) from {table}"))
        })
        .collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:#?}");
}

#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    /// Of this process, and of the session's process of the server.
    own: f64,
    session: f64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.own += other.own;
        self.session += other.session;
    }
}

struct Watch(Instant, f64, f64, String);

impl Watch {
    fn start(session: &str) -> Self {
        Self(Instant::now(), cpu(), times(session, 0..2), session.to_owned())
    }

    fn stop(self) -> Spent {
        Spent { wall: self.0.elapsed(), own: cpu() - self.1, session: times(&self.3, 0..2) - self.2 }
    }
}

/// utime, stime, cutime, cstime of `/proc/<pid>/stat`.
fn times(pid: &str, which: std::ops::Range<usize>) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let fields: Vec<f64> = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    fields.get(which).map_or(0.0, |fields| fields.iter().sum::<f64>() / 100.0)
}

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    times("self", 0..2)
}

struct Hand(PgConnection, String);

impl Hand {
    async fn new(server: &Server) -> Self {
        server.psql(&format!("create table hand {TABLE}"));
        let url = format!("postgres://{USER}@127.0.0.1:{}/postgres?sslmode=disable", server.port());
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let (pid,): (String,) = sqlx::query_as("select pg_backend_pid()::text").fetch_one(&mut connection).await.unwrap();
        Self(connection, pid)
    }

    async fn batch(&mut self, from: i64, pass: i64) -> Spent {
        let sql = "INSERT INTO hand SELECT id, customer, name, amount::numeric, '1970-01-01'::timestamp + at * '1 microsecond'::interval, paid \
            FROM unnest($1::int8[], $2::int4[], $3::text[], $4::text[], $5::int8[], $6::bool[]) AS u(id, customer, name, amount, at, paid) \
            ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, name = excluded.name, amount = excluded.amount, at = excluded.at, paid = excluded.paid";
        let rows: Vec<Row> = (from..from + BATCH).map(|n| row(n, pass)).collect();
        let watch = Watch::start(&self.1);
        self.0.execute("BEGIN").await.unwrap();
        sqlx::query(sql)
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.customer).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| format!("{}.{:02}", row.cents / 100, row.cents % 100)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.paid).collect::<Vec<_>>())
            .execute(&mut self.0)
            .await
            .unwrap();
        self.0.execute("COMMIT").await.unwrap();
        watch.stop()
    }
}

struct Psql(postgres_services::Session, String);

impl Psql {
    fn new(server: &Server) -> Self {
        server.psql(&format!("create table psql {TABLE}"));
        let mut session = server.session("postgres");
        let pid = session.run("select pg_backend_pid()");
        Self(session, pid)
    }

    fn batch(&mut self, from: i64, pass: i64) -> Spent {
        let mut columns: [Vec<String>; 6] = Default::default();
        for n in from..from + BATCH {
            let row = row(n, pass);
            let at = jiff::Timestamp::from_microsecond(row.at).unwrap().to_string();
            let amount = format!("{}.{:02}", row.cents / 100, row.cents % 100);
            let values =
                [row.id.to_string(), row.customer.to_string(), format!("\"{}\"", row.name), amount, at, row.paid.to_string()];
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        let types = ["int8", "int4", "text", "numeric", "timestamp", "bool"];
        let arrays: Vec<String> =
            columns.iter().zip(types).map(|(column, of)| format!("'{{{}}}'::{of}[]", column.join(","))).collect();
        let sql = format!(
            "INSERT INTO psql SELECT * FROM unnest({}) ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, name = excluded.name, \
             amount = excluded.amount, at = excluded.at, paid = excluded.paid",
            arrays.join(", ")
        );
        let watch = Watch::start(&self.1);
        self.0.run(&sql);
        watch.stop()
    }
}

struct Sink {
    table: &'static str,
    task: Box<dyn aqueduct_core::SinkTask>,
    session: String,
    partition: Arc<TopicPartition>,
    key: Arc<Schema>,
    row: Arc<Schema>,
    event: Arc<Schema>,
}

impl Sink {
    async fn new(server: &Server, table: &'static str) -> Self {
        server.psql(&format!("create table {table} {TABLE}"));
        let plugin =
            aqueduct_connector_postgres::plugins().into_iter().find(|plugin| plugin.descriptor().name == "postgres-sink");
        let Some(Plugin::Sink(plugin)) = plugin else { panic!("no sink") };
        let url = format!("postgresql://127.0.0.1:{}/postgres?sslmode=disable&ApplicationName={table}", server.port());
        let options: Options =
            [("connection.url", url.as_str()), ("connection.user", USER), ("insert.mode", "upsert"), ("pk.mode", "record_key")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let mut task = plugin.open(&options, TaskSpec::new()).await.unwrap();
        let session = server.psql(&format!("select pid from pg_stat_activity where application_name = '{table}'"));
        let position = LogPosition { topic: table.into(), topic_id: Uuid::new_v4(), partition: 0, offset: 0, metadata: None };
        task.assigned(&[position]).await.unwrap();
        let row = Arc::new(schema());
        let event = Schema::new(Kind::Struct)
            .named("t.Envelope")
            .field("before", row.clone())
            .field("after", row.clone())
            .field("op", Schema::new(Kind::String));
        let key = Arc::new(Schema::new(Kind::Struct).field("id", Schema::new(Kind::Int64)));
        Self { table, task, session, partition: Arc::new(TopicPartition::new(table, 0)), key, row, event: Arc::new(event) }
    }

    async fn batch(&mut self, from: i64, pass: i64) -> Spent {
        let records = (from..from + BATCH).map(|n| {
            let row = row(n, pass);
            let key = Payload::data(Some(self.key.clone()), Data::Struct(vec![Data::Int64(row.id)]));
            let value = match self.table {
                "flat" => Payload::data(Some(self.row.clone()), values(row)),
                "events" => Payload::data(Some(self.event.clone()), Data::Struct(vec![Data::Null, values(row), Data::from("u")])),
                _ => Payload::data(None, object(row)),
            };
            let origin = Some(Origin { partition: self.partition.clone(), offset: pass * ROWS + n });
            Record { key, origin, partition: Some(0), ..Record::new(self.table, value) }
        });
        let batch: Batch = records.collect();
        let cx = TaskContext {
            task: TaskId::new("bench", 0),
            wait_max: Duration::from_secs(1),
            max_bytes: 1 << 20,
            max_records: BATCH as usize,
            interrupt: CancellationToken::new(),
        };
        let mut rejects = Rejects::default();
        let watch = Watch::start(&self.session);
        assert_eq!(self.task.put(&batch, &mut rejects, &cx).await.unwrap(), Ack::Durable);
        assert!(rejects.is_empty());
        watch.stop()
    }
}

fn schema() -> Schema {
    let mut decimal = Schema::new(Kind::Bytes).named("org.apache.kafka.connect.data.Decimal");
    decimal.parameters.insert("scale".into(), "2".into());
    Schema::new(Kind::Struct)
        .field("id", Schema::new(Kind::Int64))
        .field("customer", Schema::new(Kind::Int32))
        .field("name", Schema::new(Kind::String))
        .field("amount", decimal)
        .field("at", Schema::new(Kind::Int64).named("io.debezium.time.MicroTimestamp"))
        .field("paid", Schema::new(Kind::Boolean))
}

fn values(row: Row) -> Data {
    Data::Struct(vec![
        Data::Int64(row.id),
        Data::Int32(row.customer),
        Data::String(row.name),
        Data::Bytes(row.cents.to_be_bytes().to_vec().into()),
        Data::Int64(row.at),
        Data::Boolean(row.paid),
    ])
}

fn object(row: Row) -> Data {
    let at = jiff::Timestamp::from_microsecond(row.at).unwrap().to_string();
    Data::object([
        ("id", Data::Int64(row.id)),
        ("customer", Data::Int64(row.customer.into())),
        ("name", Data::String(row.name)),
        ("amount", Data::Float64(row.cents as f64 / 100.0)),
        ("at", Data::String(at)),
        ("paid", Data::Boolean(row.paid)),
    ])
}
