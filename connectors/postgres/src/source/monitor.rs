//! Watches the slot from a connection of its own: how much WAL the server keeps for it, and heartbeats that let it move when nothing captured changes.

use super::catalog;
use super::options::Options;
use super::options::modes::{PublicationMode, WalPolicy};
use super::slot::{self, Slot};
use crate::connection::Connect;
use crate::debezium::columns::Filters;
use aqueduct_core::{Error, Result};
use sqlx::postgres::PgConnection;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;

/// The prefix of our own logical messages: the stream passes over them.
pub const HEARTBEAT: &str = "aqueduct.heartbeat";

/// One query of the watch takes this long at most; a hanging server must not pile them up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Without heartbeats the slot is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A slot that is closer than this needs no heartbeat.
const LAG_BYTES: i64 = 1 << 20;

struct Watched {
    slot: String,
    interval: Duration,
    /// Write a logical message each time: needs a primary.
    emit: bool,
    /// `heartbeat.action.query`
    query: Option<String>,
    /// With a filtered publication: what is captured, and the tables that were when it was made.
    filters: Option<Filters>,
    tables: BTreeSet<u32>,
}

/// What the last look saw.
#[derive(Default)]
struct Seen {
    slot: Option<Slot>,
    /// Tables that are captured now and were not when the publication was made, or the other way round.
    tables_changed: bool,
}

/// The last look at the slot. Dropping it ends the watch.
pub struct Monitor {
    seen: watch::Receiver<Seen>,
    warned: bool,
    _task: AbortOnDropHandle<()>,
}

impl Monitor {
    /// `tables`: the oids of those that are captured now.
    pub fn of(connect: &Connect, options: &Options, tables: BTreeSet<u32>) -> Self {
        let watched = Watched {
            slot: options.slot.clone(),
            interval: looks_every(options),
            emit: options.heartbeat().is_some() && !options.read_only,
            filters: (options.publication_mode == PublicationMode::Filtered).then(|| Filters::new(options)),
            tables,
            query: options.heartbeat_query.clone().filter(|_| options.heartbeat().is_some()),
        };
        let (sender, seen) = watch::channel(Seen::default());
        #[allow(clippy::disallowed_methods, reason = "the monitor owns the handle and aborts it when dropped")]
        let task = tokio::spawn(run(connect.clone(), watched, sender));
        Self { seen, warned: false, _task: AbortOnDropHandle::new(task) }
    }

    /// What the server keeps for us may fill its disk: `slot.wal.max.bytes`.
    ///
    /// # Errors
    /// `postgres.wal_limit`, `postgres.slot_dropped`, as `slot.wal.policy` says.
    pub async fn judge(&mut self, connect: &Connect, options: &Options) -> Result<()> {
        let max = options.wal_max.get();
        let Some(retained) =
            self.seen.borrow().slot.as_ref().map(|slot| slot.retained).filter(|retained| max > 0 && *retained > max)
        else {
            self.warned = false;
            return Ok(());
        };
        let what = format!(
            "the server keeps {} MiB of WAL for the replication slot {}; slot.wal.max.bytes is {}",
            retained >> 20,
            options.slot,
            options.wal_max
        );
        match options.wal_policy {
            WalPolicy::Warn if self.warned => Ok(()),
            WalPolicy::Warn => {
                tracing::warn!("{what}");
                self.warned = true;
                Ok(())
            }
            WalPolicy::Fail => Err(Error::fatal("postgres.wal_limit", what).fix(
                "Find out why the connector is slow or the log takes nothing; raise slot.wal.max.bytes, or drop the slot before the server's disk is full.",
            )),
            WalPolicy::Drop => match drop_slot(connect, &options.slot).await {
                Ok(()) => Err(Error::fatal("postgres.slot_dropped", format!("{what}: dropped it, as slot.wal.policy says"))
                    .fix("Reset the connector's offsets (a new snapshot), or set snapshot.mode to when_needed.")),
                Err(error) => Err(Error::retriable("postgres.wal_limit", format!("{what}, and it could not be dropped: {error}"))
                    .fix(format!("Run: SELECT pg_drop_replication_slot('{}');", options.slot))),
            },
        }
    }

    /// Tables came or went that the publication has to be told of.
    pub fn tables_changed(&self) -> bool {
        self.seen.borrow().tables_changed
    }

    /// `catalog_xmin` of the slot, where it is asked for.
    pub fn xmin(&self, options: &Options) -> Option<i64> {
        let seen = self.seen.borrow();
        seen.slot.as_ref()?.catalog_xmin.filter(|_| !options.xmin_interval.duration().is_zero())
    }

    pub fn slot(&self) -> Option<Slot> {
        self.seen.borrow().slot.clone()
    }
}

/// As often as a heartbeat, or `source.xmin`, wants it.
fn looks_every(options: &Options) -> Duration {
    let heartbeat = options.heartbeat().unwrap_or(LOOK_EVERY);
    match options.xmin_interval.duration() {
        Duration::ZERO => heartbeat,
        xmin => heartbeat.min(xmin),
    }
}

async fn drop_slot(connect: &Connect, name: &str) -> Result<()> {
    let mut session = connect.open().await?;
    // Our own walsender is the one that holds it.
    let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND active";
    let ended = sqlx::query(sql).bind(name).execute(&mut session).await;
    ended.map_err(|error| connect.error("end the stream", error))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match slot::drop(connect, &mut session, name).await {
            Err(error) if error.code() == "postgres.in_use" && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            outcome => return outcome,
        }
    }
}

async fn run(connect: Connect, mut watched: Watched, seen: watch::Sender<Seen>) {
    let mut connection: Option<PgConnection> = None;
    let mut ticks = interval_at(Instant::now() + watched.interval.min(Duration::from_secs(1)), watched.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looking = look(&connect, &mut watched, &mut connection);
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(Ok(now)) => {
                let _ = seen.send(now);
            }
            Ok(Err(error)) => {
                // The stream itself notices when the server is gone; this is only the watch.
                tracing::debug!(%error, "could not look at the replication slot");
                connection = None;
            }
            Err(_) => connection = None,
        }
    }
}

async fn look(connect: &Connect, watched: &mut Watched, connection: &mut Option<PgConnection>) -> Result<Seen> {
    let session = match connection {
        Some(session) => session,
        None => connection.insert(connect.open().await?),
    };
    if watched.emit {
        // Only where the slot lags behind: an idle database stays idle.
        let sql = "SELECT pg_catalog.pg_logical_emit_message(false, $1, '') FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $2 AND pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) > $3";
        let emitted = sqlx::query(sql).bind(HEARTBEAT).bind(&watched.slot).bind(LAG_BYTES).execute(&mut *session).await;
        if let Err(error) = emitted.map_err(|error| connect.error("write a heartbeat", error)) {
            if error.is_retriable() && error.code() != "postgres.read_only" {
                return Err(error);
            }
            // Without the right, or on a standby, keep-alives alone have to do.
            tracing::warn!(%error, "heartbeats are off");
            watched.emit = false;
        }
    }
    if let Some(query) = &watched.query {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(query.clone())).execute(&mut *session).await;
        if let Err(error) = run.map_err(|error| connect.error("run heartbeat.action.query", error)) {
            tracing::warn!(%error, "heartbeat.action.query failed");
        }
    }
    let slot = slot::read(connect, session, &watched.slot).await?;
    let mut tables_changed = false;
    if let Some(filters) = &watched.filters {
        let all = catalog::tables(connect, session).await?.into_iter();
        let captured: BTreeSet<u32> =
            all.filter(|(_, schema, table)| filters.table(schema, table)).map(|(oid, ..)| oid).collect();
        tables_changed = watched.tables != captured;
    }
    Ok(Seen { slot, tables_changed })
}
