//! How fast `postgres-sink` upserts, beside the same rows by hand on the same server: `cargo run -p aqueduct-connector-postgres --example upsert`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for a person")]

use aqueduct_core::schema::Kind;
use aqueduct_core::{
    Ack, Batch, Data, LogPosition, Options, Origin, Payload, Plugin, Record, Rejects, Schema, TaskContext, TaskId, TaskSpec,
    TopicPartition,
};
use postgres_services::{Server, USER};
use sqlx::{Connection, Executor, PgConnection};
use std::fmt::Write;
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

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = Server::start(postgres_services::Options::default().with("shared_buffers = 256MB").with("max_wal_size = 4GB"));
    for pass in 0..2 {
        println!("{}", if pass == 0 { "-- new rows" } else { "-- the same rows again" });
        report("by hand, bound arrays", by_hand(&server, pass).await);
        report("by hand, psql", by_psql(&server, pass));
        report("postgres-sink, flat", by_sink(&server, pass, "flat").await);
        report("postgres-sink, Debezium's events", by_sink(&server, pass, "events").await);
        report("postgres-sink, JSON without a schema", by_sink(&server, pass, "schemaless").await);
    }
    let sums: Vec<String> = ["hand", "psql", "flat", "events", "schemaless"]
        .iter()
        .map(|table| {
            server.psql(&format!("select count(*), sum(amount), sum(customer), max(at), min(name), sum(paid::int) from {table}"))
        })
        .collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:#?}");
}

fn report(what: &str, (wall, own): (Duration, f64)) {
    println!(
        "{what:<40} {:>9.0} rows/s   {:>6.2} s   own CPU {own:>5.2} s",
        ROWS as f64 / wall.as_secs_f64(),
        wall.as_secs_f64()
    );
}

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn by_hand(server: &Server, pass: i64) -> (Duration, f64) {
    server.psql(&format!("create table if not exists hand {TABLE}; checkpoint"));
    let url = format!("postgres://{USER}@127.0.0.1:{}/postgres?sslmode=disable", server.port());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = "INSERT INTO hand SELECT id, customer, name, cents::numeric / 100, '1970-01-01'::timestamp + at * '1 microsecond'::interval, paid \
        FROM unnest($1::int8[], $2::int4[], $3::text[], $4::int8[], $5::int8[], $6::bool[]) AS u(id, customer, name, cents, at, paid) \
        ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, name = excluded.name, amount = excluded.amount, at = excluded.at, paid = excluded.paid";
    let (began, own) = (Instant::now(), cpu());
    for from in (0..ROWS).step_by(BATCH as usize) {
        let rows: Vec<Row> = (from..from + BATCH).map(|n| row(n, pass)).collect();
        connection.execute("BEGIN").await.unwrap();
        sqlx::query(sql)
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.customer).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.cents).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.paid).collect::<Vec<_>>())
            .execute(&mut connection)
            .await
            .unwrap();
        connection.execute("COMMIT").await.unwrap();
    }
    (began.elapsed(), cpu() - own)
}

fn by_psql(server: &Server, pass: i64) -> (Duration, f64) {
    server.psql(&format!("create table if not exists psql {TABLE}; checkpoint"));
    let mut script = String::new();
    for from in (0..ROWS).step_by(BATCH as usize) {
        let mut columns: [Vec<String>; 6] = Default::default();
        for n in from..from + BATCH {
            let row = row(n, pass);
            let at = jiff::Timestamp::from_microsecond(row.at).unwrap().to_string();
            let values = [
                row.id.to_string(),
                row.customer.to_string(),
                format!("\"{}\"", row.name),
                format!("{}.{:02}", row.cents / 100, row.cents % 100),
                at,
                row.paid.to_string(),
            ];
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        let arrays: Vec<String> = columns.iter().map(|column| format!("'{{{}}}'", column.join(","))).collect();
        let types = ["int8", "int4", "text", "numeric", "timestamp", "bool"];
        let arrays: Vec<String> = arrays.iter().zip(types).map(|(array, of)| format!("{array}::{of}[]")).collect();
        writeln!(
            script,
            "INSERT INTO psql SELECT * FROM unnest({}) ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, name = excluded.name, \
             amount = excluded.amount, at = excluded.at, paid = excluded.paid;",
            arrays.join(", ")
        )
        .unwrap();
    }
    let began = Instant::now();
    server.psql(&script);
    (began.elapsed(), 0.0)
}

async fn by_sink(server: &Server, pass: i64, table: &str) -> (Duration, f64) {
    server.psql(&format!("create table if not exists {table} {TABLE}; checkpoint"));
    let Some(Plugin::Sink(plugin)) =
        aqueduct_connector_postgres::plugins().into_iter().find(|plugin| plugin.descriptor().name == "postgres-sink")
    else {
        panic!("no sink");
    };
    let url = format!("postgresql://127.0.0.1:{}/postgres?sslmode=disable", server.port());
    let options: Options =
        [("connection.url", url.as_str()), ("connection.user", USER), ("insert.mode", "upsert"), ("pk.mode", "record_key")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let mut task = plugin.open(&options, TaskSpec::new()).await.unwrap();
    let partition = Arc::new(TopicPartition::new(table, 0));
    let position = LogPosition { topic: table.into(), topic_id: Uuid::new_v4(), partition: 0, offset: 0, metadata: None };
    task.assigned(&[position]).await.unwrap();
    let cx = TaskContext {
        task: TaskId::new("bench", 0),
        wait_max: Duration::from_secs(1),
        max_bytes: 1 << 20,
        max_records: BATCH as usize,
        interrupt: CancellationToken::new(),
    };
    let key_schema = Arc::new(Schema::new(Kind::Struct).field("id", Schema::new(Kind::Int64)));
    let schema = Arc::new(schema());
    let event = Arc::new(
        Schema::new(Kind::Struct)
            .named("t.Envelope")
            .field("before", schema.clone())
            .field("after", schema.clone())
            .field("op", Schema::new(Kind::String)),
    );
    let (mut wall, mut own) = (Duration::ZERO, 0.0);
    for from in (0..ROWS).step_by(BATCH as usize) {
        let records = (from..from + BATCH).map(|n| {
            let row = row(n, pass);
            let key = Payload::data(Some(key_schema.clone()), Data::Struct(vec![Data::Int64(row.id)]));
            let value = match table {
                "flat" => Payload::data(Some(schema.clone()), values(row)),
                "events" => Payload::data(Some(event.clone()), Data::Struct(vec![Data::Null, values(row), Data::from("u")])),
                _ => Payload::data(None, object(row)),
            };
            let origin = Some(Origin { partition: partition.clone(), offset: n });
            Record { key, origin, partition: Some(0), ..Record::new(table, value) }
        });
        let batch: Batch = records.collect();
        let (began, cpu_before) = (Instant::now(), cpu());
        let mut rejects = Rejects::default();
        assert_eq!(task.put(&batch, &mut rejects, &cx).await.unwrap(), Ack::Durable);
        assert!(rejects.is_empty());
        wall += began.elapsed();
        own += cpu() - cpu_before;
    }
    task.close().await.unwrap();
    (wall, own)
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
