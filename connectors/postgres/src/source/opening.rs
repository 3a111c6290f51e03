//! What is checked and made before anything is read: the publication, the slot, and whether the stored offset fits them.

use super::catalog;
use super::guard::{self, Rules, Seen, Verdict};
use super::options::Options;
use super::options::modes::{MismatchStrategy, SnapshotMode, SslMode as Mode};
use super::position::{self, Origin, Position, Stored};
use super::publication::{self, Name, Wanted};
use super::shape::Shape;
use super::slot::{self, Make};
use super::stream::{Start, Stream};
use super::wire::Wire;
use crate::connection::{self, Connect, Ssl, SslMode, qualified};
use crate::snapshot::{Before, Given, Snapshots};
use crate::table::Table;
use aqueduct_config::Millis;
use aqueduct_core::{Error, Result, SourceOffset};
use sqlx::postgres::PgConnection;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Ready to stream.
pub struct Opened {
    connect: Connect,
    position: Position,
    confirmed: u64,
    stored: Option<Stored>,
    origin: Origin,
    prefix: String,
    tables: BTreeSet<u32>,
}

impl Opened {
    /// Connects, brings the publication up to date, compares the stored offset with the slot and the server, makes the slot, and begins the snapshot where one
    /// is wanted.
    ///
    /// # Errors
    /// `postgres.*`: whatever is missing, with the SQL that mends it.
    pub async fn open(
        options: &Arc<Options>,
        connect: &Connect,
        shape: &Shape,
        resume: Vec<SourceOffset>,
    ) -> Result<(Self, Snapshots)> {
        let mut session = connect.open().await?;
        let mut wire = Wire::connect(connect).await?;
        let streams = options.snapshot_mode != SnapshotMode::InitialOnly;
        if streams {
            check_wal_level(connect, &mut wire).await?;
        }
        let system = wire.identify().await?;
        let mut slot = slot::read(connect, &mut session, &options.slot).await?;
        let stored = Stored::find(&resume, &options.topic_prefix);
        let history = match stored.as_ref().and_then(|stored| stored.timeline) {
            Some(timeline) if timeline != system.timeline => history(&mut wire, system.timeline).await?,
            _ => Vec::new(),
        };
        let seen = Seen { system: &system, slot: slot.as_ref(), history: &history, database: &options.dbname };
        let rules = Rules { slot: &options.slot, mismatch: options.mismatch, snapshot: options.snapshot_mode };
        let verdict = if streams { guard::decide(stored.as_ref(), &seen, &rules) } else { unguarded(stored.as_ref()) };
        let mut position = Position::default();
        let before = match verdict {
            Verdict::Refuse(error) => return Err(error),
            Verdict::Fresh => Before::Nothing,
            Verdict::Resnapshot { why } => {
                tracing::warn!("{why}; snapshot.mode is when_needed: everything is read again");
                // What the old slot would still send is older than what is read now.
                slot::drop(connect, &mut session, &options.slot).await?;
                slot = None;
                Before::Nothing
            }
            Verdict::Resume { position: from, warning } => {
                if let Some(warning) = warning {
                    tracing::warn!("{warning}");
                }
                position = from;
                if options.mismatch == MismatchStrategy::TrustOffset && slot.is_some() && options.confirms() {
                    slot::advance(connect, &mut session, &options.slot, position.commit).await?;
                }
                if stored.as_ref().is_some_and(Stored::in_snapshot) { Before::Unfinished } else { Before::Streaming }
            }
        };
        // Before the slot: a slot begins with the catalog of its time, and a publication that is not in it does not exist.
        let captured = captured(connect, &mut session, options, shape).await?;
        if streams {
            ensure_publication(connect, &mut session, options, &captured).await?;
            set_identities(connect, &mut session, options, &captured).await?;
        }
        let confirmed = if before == Before::Nothing || !options.confirms() { 0 } else { position.commit };
        let stored = stored.filter(|_| before != Before::Nothing);
        let standby = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut session).await;
        let mut snapshots = Snapshots::new(Given {
            options: options.clone(),
            connect: connect.clone(),
            version: wire.version,
            standby: standby.map_err(|error| connect.error("ask whether the server is a standby", error))?,
            before,
            offset: stored.as_ref().map(|stored| stored.raw.clone()),
            resume,
            captured: tables(connect, &mut session, &captured, options).await?,
        })?;
        let begins = if streams {
            begins(&mut wire, options, slot.map(|slot| slot.confirmed), snapshots.wants_export()).await?
        } else {
            Begins::default()
        };
        snapshots.begin(begins.exported).await?;
        if before == Before::Nothing {
            position =
                Position { commit: snapshots.lsn().filter(|_| begins.behind_snapshot).unwrap_or(begins.lsn), inside: None };
        }
        if let Some(exporter) = begins.exporter {
            exporter.close().await;
        }
        wire.close().await;
        connection::close(session).await;
        let origin = Origin { system: system.id, timeline: system.timeline };
        let opened = Self {
            connect: connect.clone(),
            position,
            confirmed,
            stored,
            origin,
            prefix: options.topic_prefix.clone(),
            tables: captured.iter().filter(|(_, name)| shape.captures(&name.0, &name.1)).map(|(oid, _)| *oid).collect(),
        };
        Ok((opened, snapshots))
    }

    /// The oids of the captured tables.
    pub fn tables(&self) -> &BTreeSet<u32> {
        &self.tables
    }

    /// What may be told to the server when the stream begins.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Only so much is durable yet.
    pub fn confirm(&mut self, durable: u64) {
        self.confirmed = self.confirmed.min(durable);
    }

    /// While tables are read: where the stream will begin.
    pub fn offset(&self, snapshots: &Snapshots) -> SourceOffset {
        let mut offset = position::offset(&self.position, None, None, &self.origin);
        snapshots.decorate(&mut offset);
        SourceOffset { partition: position::partition(&self.prefix), offset: Some(offset) }
    }

    /// # Errors
    /// As [`Stream::start`].
    pub async fn stream(self, options: &Arc<Options>) -> Result<Stream> {
        let mut wire = Wire::connect(&self.connect).await?;
        let timeout = wire.show("wal_sender_timeout").await?;
        // A text that cannot be read: the server's default.
        let sender_timeout = Millis::parse(&timeout).map_or(Duration::from_secs(60), Millis::duration);
        let start = Start {
            position: self.position,
            confirmed: self.confirmed,
            stored: self.stored,
            origin: self.origin,
            sender_timeout,
        };
        Stream::start(wire, options.clone(), start).await
    }
}

/// Where a first start begins.
#[derive(Default)]
struct Begins {
    lsn: u64,
    exported: Option<(String, u64)>,
    /// Holds a temporary slot, whose snapshot is of a later point than the real slot's.
    exporter: Option<Wire>,
    behind_snapshot: bool,
}

async fn begins(wire: &mut Wire, options: &Options, slot: Option<u64>, export: bool) -> Result<Begins> {
    let patience = options.query_timeout.duration();
    let make = Make { name: &options.slot, temporary: false, failover: options.slot_failover, export };
    match slot {
        None => {
            let made = slot::make(wire, make, patience).await?;
            tracing::info!(slot = options.slot, lsn = position::lsn(made.lsn), "made the replication slot");
            Ok(Begins { lsn: made.lsn, exported: made.snapshot.map(|name| (name, made.lsn)), ..Begins::default() })
        }
        // The slot was there before: a temporary one says exactly what a snapshot of now has, and the real one is read from there.
        Some(_) if export => {
            let mut exporter = Wire::connect(&wire.connect).await?;
            let name = format!("aqueduct_{}", uuid::Uuid::new_v4().simple());
            let made =
                slot::make(&mut exporter, Make { name: &name, temporary: true, failover: false, export }, patience).await?;
            let exported = made.snapshot.map(|name| (name, made.lsn));
            Ok(Begins { lsn: made.lsn, exported, exporter: Some(exporter), behind_snapshot: true })
        }
        Some(confirmed) => Ok(Begins { lsn: confirmed, ..Begins::default() }),
    }
}

/// `initial_only` needs neither slot nor WAL.
fn unguarded(stored: Option<&Stored>) -> Verdict {
    match stored {
        Some(stored) => Verdict::Resume { position: stored.position.clone(), warning: None },
        None => Verdict::Fresh,
    }
}

async fn check_wal_level(connect: &Connect, wire: &mut Wire) -> Result<()> {
    let wal_level = wire.show("wal_level").await?;
    if wal_level == "logical" {
        return Ok(());
    }
    let what = format!("{}: wal_level is {wal_level}; logical is needed", connect.place());
    Err(Error::fatal("postgres.wal_level", what).fix(
        "As a superuser run: ALTER SYSTEM SET wal_level = logical; and restart the server (on RDS: rds.logical_replication = 1).",
    ))
}

/// The earlier timelines of the server and where they ended.
async fn history(wire: &mut Wire, timeline: u32) -> Result<Vec<(u32, u64)>> {
    if timeline < 2 {
        return Ok(Vec::new());
    }
    let patience = wire.connect.timeout;
    let rows = wire.query("read the server's timelines", &format!("TIMELINE_HISTORY {timeline}"), patience).await?;
    let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten().unwrap_or_default();
    Ok(guard::parse_history(&content))
}

/// The captured tables, and the signal table.
type Captured = Vec<(u32, Name)>;

async fn captured(connect: &Connect, session: &mut PgConnection, options: &Options, shape: &Shape) -> Result<Captured> {
    let all = catalog::tables(connect, session).await?.into_iter();
    let all = all.map(|(oid, schema, table)| (oid, (schema, table)));
    Ok(all.filter(|(_, name)| shape.captures(&name.0, &name.1) || is_signal(options, name)).collect())
}

fn is_signal(options: &Options, name: &Name) -> bool {
    options.signal_table.as_ref().is_some_and(|signal| *signal == format!("{}.{}", name.0, name.1))
}

async fn ensure_publication(connect: &Connect, session: &mut PgConnection, options: &Options, captured: &Captured) -> Result<()> {
    let tables: BTreeSet<Name> = captured.iter().map(|(_, name)| name.clone()).collect();
    let wanted =
        Wanted { name: &options.publication, mode: options.publication_mode, via_root: options.via_root, tables: &tables };
    publication::ensure(connect, session, &wanted).await.map(|_| ())
}

/// `replica.identity.autoset.values`: what a table has already is left alone.
async fn set_identities(connect: &Connect, session: &mut PgConnection, options: &Options, captured: &Captured) -> Result<()> {
    let wanted = options.identities();
    for (oid, (schema, table)) in captured {
        let name = format!("{schema}.{table}");
        let Some((_, identity)) = wanted.iter().find(|(pattern, _)| pattern.is_match(&name)) else { continue };
        let Some(now) = catalog::identity_now(connect, session, *oid).await? else { continue };
        if now == *identity {
            continue;
        }
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY {identity}", qualified(schema, table));
        // Nobody waits behind us while we wait behind a long transaction.
        let limited = format!("BEGIN; SET LOCAL lock_timeout = {IDENTITY_PATIENCE_MS}; {sql}; COMMIT");
        if let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(limited)).execute(&mut *session).await {
            let error = connect.error(&format!("set the replica identity of {name}"), error);
            return Err(error.fix(format!("As the owner of the table run: {sql};")));
        }
        tracing::info!(table = name, identity, "replica identity set");
    }
    Ok(())
}

const IDENTITY_PATIENCE_MS: u32 = 10_000;

async fn tables(
    connect: &Connect,
    session: &mut PgConnection,
    captured: &Captured,
    options: &Options,
) -> Result<Vec<Arc<Table>>> {
    let mut tables = Vec::with_capacity(captured.len());
    for (oid, _) in captured.iter().filter(|(_, name)| !is_signal(options, name)) {
        // One that is dropped meanwhile is not captured any more.
        tables.extend(catalog::table(connect, session, *oid).await?.map(Arc::new));
    }
    Ok(tables)
}

/// The connection that the options describe.
pub fn connect(options: &Options) -> Connect {
    let path = |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).map(PathBuf::from);
    let mode = match options.sslmode {
        Mode::Disable => SslMode::Disable,
        Mode::Allow => SslMode::Allow,
        Mode::Prefer => SslMode::Prefer,
        Mode::Require => SslMode::Require,
        Mode::VerifyCa => SslMode::VerifyCa,
        Mode::VerifyFull => SslMode::VerifyFull,
    };
    Connect {
        host: options.hostname.clone(),
        port: options.port,
        database: options.dbname.clone(),
        user: options.user.clone(),
        password: options.password.clone(),
        ssl: Ssl {
            mode,
            root: path(&options.sslrootcert),
            cert: path(&options.sslcert),
            key: path(&options.sslkey),
            key_password: options.sslpassword.clone(),
        },
        timeout: options.connect_timeout.duration(),
        application: format!("aqueduct {}", options.topic_prefix),
        tcp_keep_alive: options.tcp_keepalive,
        initial: options.initial_statements(),
    }
}
