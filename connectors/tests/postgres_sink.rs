//! `postgres-sink` passes the conformance kit on a real server.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase};
use aqueduct_core::Options;
use postgres_services::{USER, shared};

#[tokio::test]
async fn the_sink_loses_nothing() {
    let server = shared();
    for (mode, exactly_once) in [("insert", true), ("upsert", true), ("insert", false)] {
        let database = server.database();
        server.psql_in(&database, "create table t (line text, topic text, partition int, at bigint)");
        let key = if mode == "upsert" { "kafka" } else { "none" };
        if mode == "upsert" {
            server.psql_in(&database, "alter table t add primary key (topic, partition, at)");
        }
        let url = format!("jdbc:postgresql://127.0.0.1:{}/{database}", server.port());
        let exactly = exactly_once.to_string();
        let options: Options = [
            ("connection.url", url.as_str()),
            ("connection.user", USER),
            ("insert.mode", mode),
            ("pk.mode", key),
            ("pk.fields", if mode == "upsert" { "topic,partition,at" } else { "" }),
            ("table.name.format", "t"),
            ("value.column", "line"),
            ("exactly.once", exactly.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let plugin = builtins().into_iter().find(|plugin| plugin.descriptor().name == "postgres-sink").unwrap();
        conformance::descriptor(&plugin);
        let world = tempfile::tempdir().unwrap();
        conformance::plans_without_touching(&plugin, &options, world.path()).await;
        let reader = shared();
        // In the order of writing: no row was ever updated where each has a place of its own.
        let read = move || reader.psql_in(&database, "select line from t order by ctid").lines().map(str::to_owned).collect();
        conformance::sink(&SinkCase { plugin, options, read: Box::new(read), exactly_once }).await;
    }
}
