//! The table of positions: a row for each partition of the log, an epoch that a predecessor does not know, and `next_offset`, which moves in the
//! transaction of the rows.

use super::catalog;
use super::names::TableName;
use super::place::{self, Known, Place, Reason, Refused};
use crate::connection::{Connect, identifier, qualified};
use aqueduct_core::{Error, LogPosition, Result, TopicPartition};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use uuid::Uuid;

/// One partition that this task writes.
#[derive(Debug)]
pub(super) struct Lane {
    assigned: LogPosition,
    epoch: i64,
    pub(super) place: Place,
    /// The worker asked for what it keeps in the log. If the task is called again after that, it was stored.
    told: AtomicBool,
}

impl Lane {
    pub(super) fn metadata(&self) -> String {
        self.told.store(true, Relaxed);
        Known { run: self.place.run, next: self.place.next }.text()
    }

    /// To be called when a call of the worker shows that its commit succeeded.
    pub(super) fn settle(&mut self) {
        if std::mem::take(self.told.get_mut()) {
            self.place.confirmed = true;
            self.place.refused.clear();
        }
    }
}

/// A move within one transaction.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) to: i64,
    pub(super) refused: Refused,
}

pub(super) type Moves = BTreeMap<TopicPartition, Move>;

/// A predecessor's transaction gets this long to end before its session is ended.
const FENCE_PATIENCE: &str = "2s";
/// And the server this long to end the session.
const FENCE_LIMIT: &str = "15s";

#[derive(Debug)]
pub(super) struct Lanes {
    table: String,
    name: TableName,
    /// Assigned, and not written yet: the name of the connector is told with the first batch.
    waiting: BTreeMap<TopicPartition, LogPosition>,
    lanes: BTreeMap<TopicPartition, Lane>,
    made: bool,
}

impl Lanes {
    pub(super) fn new((schema, table): (Option<String>, String)) -> Self {
        let sql = schema.as_ref().map_or_else(|| identifier(&table), |schema| qualified(schema, &table));
        Self { table: sql, name: TableName { schema, table }, waiting: BTreeMap::new(), lanes: BTreeMap::new(), made: false }
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Lane> {
        self.lanes.get(partition)
    }

    pub(super) fn settle(&mut self) {
        self.lanes.values_mut().for_each(Lane::settle);
    }

    pub(super) fn metadata(&self, partition: &TopicPartition) -> Option<String> {
        match self.lanes.get(partition) {
            Some(lane) => Some(lane.metadata()),
            None => self.waiting.get(partition)?.metadata.as_deref().map(str::to_owned),
        }
    }

    pub(super) fn revoke(&mut self, partition: &TopicPartition) {
        self.waiting.remove(partition);
        self.lanes.remove(partition);
    }

    /// Takes over partitions. Those whose run the log knows are fenced at once; returns where to read them from, where that is not the log's position.
    ///
    /// # Errors
    /// As [`Connect::error`], and as [`place::resolve`].
    pub(super) async fn assign(
        &mut self,
        connection: &mut PgConnection,
        connect: &Connect,
        positions: &[LogPosition],
    ) -> Result<Vec<LogPosition>> {
        let mut starts = Vec::new();
        for position in positions {
            self.revoke(&position.topic_partition());
        }
        let (known, new): (Vec<_>, Vec<_>) = positions.iter().cloned().partition(|position| Known::of(position).is_some());
        self.fence(connection, connect, None, known).await?;
        for position in positions {
            if let Some(lane) = self.lanes.get(&position.topic_partition())
                && let Some(offset) = place::read_from(position, &lane.place)
            {
                tracing::warn!(partition = %position.topic_partition(), log = position.offset, target = offset,
                    "the target was set back (a failover, a restored backup): the log is read again from there");
                starts.push(LogPosition { offset, ..position.clone() });
            }
        }
        self.waiting.extend(new.into_iter().map(|position| (position.topic_partition(), position)));
        Ok(starts)
    }

    /// Makes lanes of those partitions that have none yet.
    ///
    /// # Errors
    /// As [`Lanes::assign`]; `postgres_sink.not_assigned` (retriable).
    pub(super) async fn make<'a>(
        &mut self,
        connection: &mut PgConnection,
        connect: &Connect,
        connector: &str,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Result<()> {
        let mut new = Vec::new();
        for partition in partitions {
            if let Some(position) = self.waiting.remove(partition) {
                new.push(position);
            } else if !self.lanes.contains_key(partition) && !new.iter().any(|position| position.topic_partition() == *partition)
            {
                return Err(Error::retriable("postgres_sink.not_assigned", format!("{partition} is not assigned")));
            }
        }
        self.fence(connection, connect, Some(connector), new).await
    }

    async fn fence(
        &mut self,
        connection: &mut PgConnection,
        connect: &Connect,
        connector: Option<&str>,
        positions: Vec<LogPosition>,
    ) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        self.create(connection, connect).await?;
        let failed = |error| connect.error("take over the positions of the log", error);
        let mut taken = Vec::new();
        begin(connection, FENCE_PATIENCE).await.map_err(failed)?;
        for position in &positions {
            match self.take(connection, connector, position).await {
                Ok(lane) => taken.push(lane),
                Err(error) => {
                    rollback(connection).await;
                    let timed_out =
                        error.as_database_error().and_then(|refusal| refusal.code()).is_some_and(|code| code == "55P03");
                    if !timed_out {
                        return Err(failed(error));
                    }
                    self.end_predecessor(connection, connector, position).await.map_err(failed)?;
                    begin(connection, FENCE_LIMIT).await.map_err(failed)?;
                    // What was taken before it was rolled back with it: all of them again.
                    taken.clear();
                    for position in &positions {
                        match self.take(connection, connector, position).await {
                            Ok(lane) => taken.push(lane),
                            Err(error) => {
                                rollback(connection).await;
                                return Err(failed(error).fix(
                                    "A session holds the row of this partition in the table of positions: end it with pg_terminate_backend.",
                                ));
                            }
                        }
                    }
                    break;
                }
            }
        }
        let mut lanes = Vec::new();
        for ((epoch, found), position) in taken.into_iter().zip(positions) {
            let resolved = place::resolve(&position, found.clone(), Uuid::new_v4());
            let place = match resolved {
                Ok(place) => place,
                Err(error) => {
                    rollback(connection).await;
                    return Err(error);
                }
            };
            if let Some(connector) = connector
                && found.as_ref() != Some(&place)
            {
                self.store(connection, connector, &position, &place).await.map_err(failed)?;
            }
            tracing::info!(partition = %position.topic_partition(), log = position.offset, target = place.next, epoch, "where the target stands");
            lanes.push((position.topic_partition(), Lane { assigned: position, epoch, place, told: AtomicBool::new(false) }));
        }
        connection.execute("COMMIT").await.map_err(failed)?;
        self.lanes.extend(lanes);
        Ok(())
    }

    /// Raises the epoch: waits for a predecessor's transaction. The first time the row is made; without the connector's name it is found by its run.
    async fn take(
        &self,
        connection: &mut PgConnection,
        connector: Option<&str>,
        position: &LogPosition,
    ) -> Result<(i64, Option<Place>), sqlx::Error> {
        let table = &self.table;
        let by = if connector.is_some() { "connector = $4" } else { "run = $4::uuid" };
        let run = Known::of(position).map(|known| known.run.to_string()).unwrap_or_default();
        let update = format!(
            "UPDATE {table} SET epoch = epoch + 1, backend = pg_backend_pid(), fenced_at = clock_timestamp() \
             WHERE topic = $1 AND topic_id = $2::uuid AND partition = $3 AND {by} \
             RETURNING epoch, next_offset, start_offset, run::text, confirmed, refused::text"
        );
        let update = || {
            sqlx::query(AssertSqlSafe(update.clone()))
                .bind(&*position.topic)
                .bind(position.topic_id.to_string())
                .bind(position.partition)
                .bind(connector.map_or_else(|| run.clone(), str::to_owned))
        };
        if let Some(row) = update().fetch_optional(&mut *connection).await? {
            return found(&row).map(|(epoch, place)| (epoch, Some(place)));
        }
        let Some(connector) = connector else { return Ok((0, None)) };
        let insert = format!(
            "INSERT INTO {table} (connector, topic, topic_id, partition, epoch, next_offset, start_offset, run, backend) \
             VALUES ($1, $2, $3::uuid, $4, 1, $5, $5, $6::uuid, pg_backend_pid()) ON CONFLICT DO NOTHING"
        );
        let inserted = sqlx::query(AssertSqlSafe(insert))
            .bind(connector)
            .bind(&*position.topic)
            .bind(position.topic_id.to_string())
            .bind(position.partition)
            .bind(position.offset)
            .bind(Uuid::new_v4().to_string())
            .execute(&mut *connection)
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok((1, None));
        }
        // Another made it in this moment.
        let row = update().fetch_one(connection).await?;
        found(&row).map(|(epoch, place)| (epoch, Some(place)))
    }

    /// A new run, or the same one confirmed.
    async fn store(
        &self,
        connection: &mut PgConnection,
        connector: &str,
        position: &LogPosition,
        place: &Place,
    ) -> Result<(), sqlx::Error> {
        let sql = format!(
            "UPDATE {} SET next_offset = $5, start_offset = $6, run = $7::uuid, confirmed = $8, refused = $9::jsonb \
             WHERE connector = $1 AND topic = $2 AND topic_id = $3::uuid AND partition = $4",
            self.table
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(connector)
            .bind(&*position.topic)
            .bind(position.topic_id.to_string())
            .bind(position.partition)
            .bind(place.next)
            .bind(place.start)
            .bind(place.run.to_string())
            .bind(place.confirmed)
            .bind(refused_text(&place.refused))
            .execute(connection)
            .await
            .map(drop)
    }

    /// Ends the session that took this partition before, if it is still there: its process has the number that it wrote, and is older than that.
    async fn end_predecessor(
        &self,
        connection: &mut PgConnection,
        connector: Option<&str>,
        position: &LogPosition,
    ) -> Result<(), sqlx::Error> {
        let by = if connector.is_some() { "o.connector = $4" } else { "o.run = $4::uuid" };
        let sql = format!(
            "SELECT pg_terminate_backend(a.pid) FROM {} o JOIN pg_stat_activity a ON a.pid = o.backend AND a.backend_start <= o.fenced_at \
             WHERE o.topic = $1 AND o.topic_id = $2::uuid AND o.partition = $3 AND {by} AND a.pid <> pg_backend_pid() \
             AND a.usename = current_user AND a.datname = current_database()",
            self.table
        );
        let run = Known::of(position).map(|known| known.run.to_string()).unwrap_or_default();
        let ended = sqlx::query(AssertSqlSafe(sql))
            .bind(&*position.topic)
            .bind(position.topic_id.to_string())
            .bind(position.partition)
            .bind(connector.map_or(run, str::to_owned))
            .fetch_all(connection)
            .await?;
        tracing::warn!(partition = %position.topic_partition(), sessions = ended.len(), "a predecessor's transaction did not end; its session is ended");
        Ok(())
    }

    /// In the transaction of the rows: moves all of a batch's partitions at once. False: this task was replaced.
    pub(super) async fn advance(
        &self,
        connection: &mut PgConnection,
        moves: &Moves,
        from_moved: bool,
    ) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "UPDATE {} AS o SET next_offset = m.hi, confirmed = o.confirmed OR m.confirmed, refused = m.refused::jsonb, updated_at = now() \
             FROM unnest($1::text[], $2::text[], $3::int4[], $4::int8[], $5::int8[], $6::int8[], $7::text[], $8::bool[], $9::text[]) \
             AS m(topic, topic_id, partition, epoch, lo, hi, run, confirmed, refused) \
             WHERE o.topic = m.topic AND o.topic_id = m.topic_id::uuid AND o.partition = m.partition AND o.run = m.run::uuid \
             AND o.epoch = m.epoch AND o.next_offset = m.lo",
            self.table
        );
        let lanes: Vec<(&Lane, &Move)> =
            moves.iter().filter_map(|(partition, to)| Some((self.lanes.get(partition)?, to))).collect();
        let texts =
            |each: &dyn Fn(&Lane, &Move) -> String| lanes.iter().map(|(lane, to)| each(lane, to)).collect::<Vec<String>>();
        let numbers = |each: &dyn Fn(&Lane, &Move) -> i64| lanes.iter().map(|(lane, to)| each(lane, to)).collect::<Vec<i64>>();
        let moved = sqlx::query(AssertSqlSafe(sql))
            .bind(texts(&|lane, _| lane.assigned.topic.to_string()))
            .bind(texts(&|lane, _| lane.assigned.topic_id.to_string()))
            .bind(lanes.iter().map(|(lane, _)| lane.assigned.partition).collect::<Vec<i32>>())
            .bind(numbers(&|lane, _| lane.epoch))
            .bind(numbers(&|lane, to| if from_moved { to.to } else { lane.place.next }))
            .bind(numbers(&|_, to| to.to))
            .bind(texts(&|lane, _| lane.place.run.to_string()))
            .bind(lanes.iter().map(|(lane, _)| lane.place.confirmed).collect::<Vec<bool>>())
            .bind(texts(&|_, to| refused_text(&to.refused)))
            .execute(connection)
            .await?;
        Ok(moved.rows_affected() == moves.len() as u64)
    }

    /// The transaction is committed.
    pub(super) fn moved(&mut self, moves: Moves) {
        for (partition, to) in moves {
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.place.next = to.to;
                lane.place.refused = to.refused;
            }
        }
    }

    /// What the log is known to have is noted before the task ends, so that a reset of the log is told from a crash before its first commit.
    pub(super) async fn confirm(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let told: Vec<&Lane> = self.lanes.values().filter(|lane| lane.told.load(Relaxed) && !lane.place.confirmed).collect();
        if told.is_empty() {
            return Ok(());
        }
        let sql = format!("UPDATE {} SET confirmed = true WHERE run::text = ANY($1)", self.table);
        let runs: Vec<String> = told.iter().map(|lane| lane.place.run.to_string()).collect();
        sqlx::query(AssertSqlSafe(sql)).bind(runs).execute(connection).await.map(drop)
    }

    fn create_sql(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (connector text NOT NULL, topic text NOT NULL, topic_id uuid NOT NULL, partition integer NOT NULL, \
             epoch bigint NOT NULL, next_offset bigint NOT NULL, start_offset bigint NOT NULL, run uuid NOT NULL, \
             confirmed boolean NOT NULL DEFAULT false, refused jsonb NOT NULL DEFAULT '{{}}', backend integer, \
             fenced_at timestamptz NOT NULL DEFAULT clock_timestamp(), updated_at timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY (connector, topic, topic_id, partition)) WITH (fillfactor = 20)",
            self.table
        )
    }

    async fn create(&mut self, connection: &mut PgConnection, connect: &Connect) -> Result<()> {
        if self.made {
            return Ok(());
        }
        if catalog::find(connection, connect, &self.name).await?.is_none() {
            catalog::run_ddl(
                connection,
                connect,
                "make the table of positions (or set exactly.once to false)",
                &self.create_sql(),
            )
            .await?;
        }
        self.made = true;
        Ok(())
    }
}

async fn begin(connection: &mut PgConnection, lock_timeout: &str) -> Result<(), sqlx::Error> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{lock_timeout}'; SET LOCAL synchronous_commit = on");
    connection.execute(AssertSqlSafe(sql)).await.map(drop)
}

async fn rollback(connection: &mut PgConnection) {
    // Where this fails the connection is gone, and the transaction with it.
    let _ = connection.execute("ROLLBACK").await;
}

fn found(row: &sqlx::postgres::PgRow) -> Result<(i64, Place), sqlx::Error> {
    let run: String = row.try_get(3)?;
    let refused: String = row.try_get(5)?;
    let place = Place {
        next: row.try_get(1)?,
        start: row.try_get(2)?,
        run: Uuid::parse_str(&run).map_err(|error| sqlx::Error::Decode(error.into()))?,
        confirmed: row.try_get(4)?,
        refused: serde_json::from_str::<BTreeMap<String, Reason>>(&refused)
            .map_err(|error| sqlx::Error::Decode(error.into()))?
            .into_iter()
            .filter_map(|(offset, reason)| Some((offset.parse().ok()?, reason)))
            .collect(),
    };
    Ok((row.try_get(0)?, place))
}

fn refused_text(refused: &Refused) -> String {
    serde_json::to_string(refused).unwrap_or_else(|_| "{}".to_owned())
}
