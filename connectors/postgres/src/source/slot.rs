//! The replication slot: the server's memory of what we have not confirmed.

use super::position;
use super::wire::Wire;
use crate::connection::{Connect, identifier};
use aqueduct_core::{Error, Result};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use std::time::Duration;

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub plugin: String,
    pub database: String,
    /// Of the walsender that reads it now.
    pub active_pid: Option<i64>,
    pub confirmed: u64,
    pub restart: Option<u64>,
    pub catalog_xmin: Option<i64>,
    /// `reserved`, `extended`, `unreserved`, `lost`; empty before 13.
    pub wal_status: String,
    /// 17 and later: why it is of no use any more.
    pub invalidation: Option<String>,
    /// WAL that the server keeps for it, in bytes.
    pub retained: u64,
    /// WAL that was written since what is confirmed, in bytes.
    pub behind: u64,
}

/// Reads the slot; `None` if there is none of this name.
///
/// # Errors
/// As [`Connect::error`].
pub async fn read(connect: &Connect, connection: &mut PgConnection, name: &str) -> Result<Option<Slot>> {
    // As JSON, since each version has other columns.
    let sql = "SELECT (to_jsonb(s) || jsonb_build_object('retained', greatest(0, pg_wal_lsn_diff(now.lsn, s.restart_lsn)), \
               'behind', greatest(0, pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn))))::text FROM pg_catalog.pg_replication_slots s, \
               (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) AS now(lsn) \
               WHERE s.slot_name = $1";
    let row: Option<String> = sqlx::query_scalar(sql)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(|error| connect.error(&format!("read the replication slot {name}"), error))?;
    Ok(row.and_then(|text| serde_json::from_str(&text).ok()).map(|value| parse(&value)))
}

fn parse(row: &Value) -> Slot {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let bytes = |key: &str| row.get(key).and_then(Value::as_f64).map_or(0, |bytes| bytes as u64);
    let lsn = |key: &str| row.get(key).and_then(Value::as_str).and_then(position::parse_lsn);
    Slot {
        plugin: text("plugin").unwrap_or_default(),
        database: text("database").unwrap_or_default(),
        active_pid: row.get("active_pid").and_then(Value::as_i64),
        confirmed: lsn("confirmed_flush_lsn").unwrap_or(0),
        restart: lsn("restart_lsn"),
        catalog_xmin: text("catalog_xmin").and_then(|text| text.parse().ok()),
        wal_status: text("wal_status").unwrap_or_default(),
        invalidation: text("invalidation_reason"),
        retained: bytes("retained"),
        behind: bytes("behind"),
    }
}

/// How a slot is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Make<'a> {
    pub name: &'a str,
    /// Gone with the connection that made it.
    pub temporary: bool,
    /// Synchronised to standbys: 17 and later.
    pub failover: bool,
    /// Exports a snapshot of exactly the point where the slot begins, valid while the connection lives and runs no other command.
    pub export: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where the slot begins: every transaction that commits later is streamed, every earlier one is in the snapshot.
    pub lsn: u64,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub snapshot: Option<String>,
}

/// Makes the slot. Waits for the transactions that run at the time, for up to `patience`.
///
/// # Errors
/// As [`Connect::refused`]: `postgres.permission` without REPLICATION, `postgres.slots_exhausted`, `postgres.wal_level`.
pub async fn make(wire: &mut Wire, make: Make<'_>, patience: Duration) -> Result<Made> {
    let sql = statement(make, wire.version);
    let doing = format!("make the replication slot {}", make.name);
    let rows = wire.query(&doing, &sql, patience).await.map_err(explain)?;
    let row = rows.first();
    let field = |index: usize| row.and_then(|row| row.get(index)).and_then(Clone::clone);
    let lsn = field(1).as_deref().and_then(position::parse_lsn);
    let lsn =
        lsn.ok_or_else(|| Error::retriable("postgres.protocol", format!("cannot {doing}: no consistent point in the answer")))?;
    Ok(Made { lsn, snapshot: field(2).filter(|name| !name.is_empty()) })
}

fn statement(make: Make<'_>, version: u32) -> String {
    let temporary = if make.temporary { " TEMPORARY" } else { "" };
    let head = format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput", identifier(make.name));
    if version >= 150_000 {
        let snapshot = if make.export { "export" } else { "nothing" };
        // A standby has no slots to synchronise further.
        let failover = if make.failover && version >= 170_000 { ", FAILOVER" } else { "" };
        format!("{head} (SNAPSHOT '{snapshot}'{failover})")
    } else {
        format!("{head} {}", if make.export { "EXPORT_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" })
    }
}

/// The server says `wal_level` in an error of a general class.
fn explain(error: Error) -> Error {
    if error.message().contains("wal_level") {
        return Error::fatal("postgres.wal_level", error.message().to_owned())
            .fix("As a superuser run: ALTER SYSTEM SET wal_level = logical; and restart the server (on RDS: rds.logical_replication = 1).");
    }
    error
}

/// # Errors
/// `postgres.in_use` while something reads it.
pub async fn drop(connect: &Connect, connection: &mut PgConnection, name: &str) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let dropped = sqlx::query(sql).bind(name).execute(connection).await;
    dropped.map(|_| ()).map_err(|error| connect.error(&format!("drop the replication slot {name}"), error))
}

/// Moves the slot up, never back.
///
/// # Errors
/// As [`Connect::error`].
pub async fn advance(connect: &Connect, connection: &mut PgConnection, name: &str, lsn: u64) -> Result<()> {
    let advanced = sqlx::query("SELECT pg_replication_slot_advance($1, $2::pg_lsn)")
        .bind(name)
        .bind(position::lsn(lsn))
        .execute(connection)
        .await;
    advanced.map(|_| ()).map_err(|error| connect.error(&format!("advance the replication slot {name}"), error))
}

/// `START_REPLICATION …`. Names of publications go in as they are: pgoutput parses them as SQL identifiers.
pub fn start(slot: &str, from: u64, publications: &[String], params: &[(String, String)], version: u32) -> String {
    use crate::connection::literal;
    let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
    // Version 1: the server keeps large transactions on its own disk and sends whole ones, so nothing that aborts is ever seen (ADR 0006).
    let mut options = vec![("proto_version".to_owned(), "1".to_owned()), ("publication_names".to_owned(), names.join(","))];
    if version >= 140_000 {
        options.push(("messages".to_owned(), "true".to_owned()));
    }
    for (name, value) in params {
        options.retain(|(known, _)| known != name);
        options.push((name.clone(), value.clone()));
    }
    let options: Vec<String> = options.iter().map(|(name, value)| format!("{} {}", identifier(name), literal(value))).collect();
    format!("START_REPLICATION SLOT {} LOGICAL {} ({})", identifier(slot), position::lsn(from), options.join(", "))
}

/// `slot.stream.params`: `a=1;b=2`, but what would change what we read.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn stream_params(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let mut params = Vec::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not name=value"))?;
        let (name, value) = (name.trim(), value.trim());
        let off = matches!(value, "false" | "off" | "0");
        match name {
            "streaming" | "two_phase" | "binary" if !off => return Err(format!("{name} must stay off")),
            "publication_names" => return Err("publication_names comes from publication.name".into()),
            _ => params.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_each_version() {
        let make = Make { name: "it's \"a\"", temporary: true, failover: true, export: true };
        let head = r#"CREATE_REPLICATION_SLOT "it's ""a""" TEMPORARY LOGICAL pgoutput"#;
        assert_eq!(statement(make, 140_000), format!("{head} EXPORT_SNAPSHOT"));
        assert_eq!(statement(make, 150_018), format!("{head} (SNAPSHOT 'export')"));
        assert_eq!(statement(make, 170_000), format!("{head} (SNAPSHOT 'export', FAILOVER)"));
        let sql = start("s", 0x1_0000_0002, &["a".into(), "B".into()], &[("messages".into(), "false".into())], 150_000);
        let expected =
            r#"START_REPLICATION SLOT "s" LOGICAL 1/2 ("proto_version" '1', "publication_names" '"a","B"', "messages" 'false')"#;
        assert_eq!(sql, expected);
    }

    #[test]
    fn stream_params_cannot_change_what_is_read() {
        assert_eq!(
            stream_params("origin=none; streaming=off"),
            Ok(vec![("origin".into(), "none".into()), ("streaming".into(), "off".into())])
        );
        assert!(
            stream_params("streaming=on").is_err()
                && stream_params("x").is_err()
                && stream_params("publication_names=p").is_err()
        );
    }

    #[test]
    fn rows_of_any_version() {
        let row = serde_json::json!({"plugin": "pgoutput", "database": "shop", "active_pid": 7, "confirmed_flush_lsn": "0/20",
            "restart_lsn": "0/10", "wal_status": "reserved", "retained": 42.0});
        let slot = parse(&row);
        assert_eq!((slot.confirmed, slot.restart, slot.retained, slot.active_pid), (0x20, Some(0x10), 42, Some(7)));
        assert_eq!(parse(&serde_json::json!({"restart_lsn": null})), Slot::default());
    }
}
