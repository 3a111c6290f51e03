//! `sql-source` passes the conformance kit on an SQLite file of three tables.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SourceCase};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

#[tokio::test]
async fn the_source_resumes_exactly() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    let mut db = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    for table in ["orders", "items", "customers"] {
        // Three rows of each time.
        let rows: Vec<String> = (0..20).map(|n| format!("({n}, {}, '{table} {n}')", 1000 + n / 3)).collect();
        let sql = format!(
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, text TEXT); INSERT INTO {table} VALUES {}",
            rows.join(",")
        );
        db.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    for mode in ["incrementing", "timestamp+incrementing", "timestamp"] {
        let url = format!("jdbc:sqlite:{}", path.display());
        let mut options =
            vec![("connection.url", url.as_str()), ("topic.prefix", "t."), ("mode", mode), ("poll.interval.ms", "5")];
        if mode.starts_with("timestamp") {
            options.push(("timestamp.column.name", "at"));
        }
        conformance::source(&SourceCase {
            plugin: builtins().into_iter().find(|plugin| plugin.descriptor().name == "sql-source").unwrap(),
            options: options.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            records: 60,
            stream: |record| record.topic.to_string(),
            strip: conformance::all_of_it,
        })
        .await;
    }
}
