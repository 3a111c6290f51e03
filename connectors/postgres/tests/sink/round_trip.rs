//! What `postgres-source` says of a row, `postgres-sink` writes as that row.

use crate::rig::Rig;
use aqueduct_core::{CancellationToken, Options, Payload, Plugin, TaskContext, TaskId, TaskSpec};
use postgres_services::{PASSWORD, Server, USER, shared};
use std::time::{Duration, Instant};

/// The table's rows as the snapshot has them.
async fn snapshot(server: &Server, database: &str, precision: &str, rows: usize) -> Vec<(Payload, Payload)> {
    let port = server.port().to_string();
    let options: Options = [
        ("topic.prefix", "from"),
        ("database.hostname", "127.0.0.1"),
        ("database.port", &port),
        ("database.user", USER),
        ("database.password", PASSWORD),
        ("database.dbname", database),
        ("slot.name", database),
        ("publication.name", database),
        ("snapshot.mode", "initial_only"),
        ("time.precision.mode", precision),
        ("decimal.handling.mode", "string"),
        ("table.include.list", "public.ends"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let plugins = aqueduct_connector_postgres::plugins();
    let source = plugins.into_iter().find_map(|plugin| match plugin {
        Plugin::Source(source) if source.descriptor().name == "postgres-source" => Some(source),
        _ => None,
    });
    let mut task = source.unwrap().open(&options, TaskSpec::new(), Vec::new()).await.unwrap();
    let cx = TaskContext {
        task: TaskId::new("from", 0),
        wait_max: Duration::from_millis(100),
        max_bytes: 1 << 20,
        max_records: 1000,
        interrupt: CancellationToken::new(),
    };
    let (mut found, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(90));
    while found.len() < rows {
        assert!(Instant::now() < deadline, "{} of {rows} rows in time", found.len());
        let polled = task.poll(&cx).await.unwrap();
        task.commit(&polled.resume).await.unwrap();
        found.extend(polled.batch.into_records().map(|record| (record.key, record.value)));
    }
    task.close().await.unwrap();
    found
}

#[tokio::test]
async fn the_ends_of_time_and_of_numbers() {
    let server = shared();
    let table = "create table ends (id int primary key, d date, ts timestamp, ms timestamp(3), tz timestamptz, n numeric)";
    for precision in ["adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"] {
        let (from, to) = (server.database(), server.database());
        server.psql_in(&from, table);
        server.psql_in(
            &from,
            "insert into ends values (1, 'infinity', 'infinity', 'infinity', 'infinity', 'NaN'), (2, '-infinity', '-infinity', '-infinity', '-infinity', '-Infinity'),
             (3, '1999-12-31', '2020-02-02 20:20:20.5', '1970-01-01 00:00:00.001', '2100-01-01 00:00:00+02', 'Infinity')",
        );
        server.psql_in(&to, table);
        let records = snapshot(&server, &from, precision, 3).await;
        let mut rig = Rig::new(&server, &to, "insert.mode: upsert\npk.mode: record_key\ntable.name.format: ends");
        rig.log("from.public.ends", records.clone());
        rig.run_clean().await;
        let rows = "select * from ends order by id";
        assert_eq!(server.psql_in(&to, rows), server.psql_in(&from, rows), "time.precision.mode: {precision}");
        // A date goes into a timestamp, and a timestamp into a date; both into text.
        server.psql_in(&to, "create table other (id int primary key, d timestamp, ts date, ms date, tz text, n text)");
        let mut rig = Rig::new(&server, &to, "insert.mode: upsert\npk.mode: record_key\ntable.name.format: other");
        rig.log("from.public.ends", records);
        rig.run_clean().await;
        let other = "select id, d, ts, ms from other where id < 3 order by id";
        assert_eq!(server.psql_in(&to, other), "1|infinity|infinity|infinity\n2|-infinity|-infinity|-infinity", "{precision}");
    }
}
