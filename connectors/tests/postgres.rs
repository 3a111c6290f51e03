//! `postgres-source` passes the conformance kit on a real server: the first copy of its tables, from every place in it.
//!
//! The stream is not for this kit, since a slot does not go back: `connectors/postgres/tests/source` restarts it everywhere.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SourceCase};
use aqueduct_core::{Data, Options, Payload, Record};
use postgres_services::{USER, shared};

/// `before, after, source, transaction, op, ts_…`: the source block and the times say when it was read.
fn row_and_operation(record: &mut Record) {
    if let Payload::Data(value) = &mut record.value
        && let Data::Struct(fields) = &mut value.data
    {
        fields[2] = Data::Null;
        fields.truncate(5);
    }
    record.headers.clear();
}

#[tokio::test]
async fn the_snapshot_resumes_exactly() {
    let server = shared();
    let database = server.database();
    // All with a key: of a table without one a chunk may come twice.
    for (table, key) in [("orders", "int"), ("items", "text"), ("customers", "numeric")] {
        let rows = "select n, 'row ' || n from generate_series(1, 20) n";
        server.psql_in(&database, &format!("create table {table} (id {key} primary key, text text); insert into {table} {rows}"));
    }
    let port = server.port().to_string();
    let options: Options = [
        ("database.hostname", "127.0.0.1"),
        ("database.port", &port),
        ("database.user", USER),
        ("database.password", "unused"),
        ("database.dbname", &database),
        ("topic.prefix", "kit"),
        ("slot.name", "conformance_kit"),
        ("publication.name", "conformance_kit"),
        ("snapshot.mode", "initial_only"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let plugin = builtins().into_iter().find(|plugin| plugin.descriptor().name == "postgres-source").unwrap();
    conformance::descriptor(&plugin);
    let world = tempfile::tempdir().unwrap();
    conformance::plans_without_touching(&plugin, &options, world.path()).await;
    conformance::source(&SourceCase {
        plugin,
        options,
        records: 60,
        stream: |record| record.topic.to_string(),
        strip: row_and_operation,
    })
    .await;
}
