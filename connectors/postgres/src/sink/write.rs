//! One batch, one transaction.

use super::config::Settings;
use super::lanes::Moves;
use super::place::Reason;
use super::rows::Step;
use super::writer::Writer;
use super::{ATTEMPTS, Bad, PostgresSink, State, statement};
use aqueduct_core::{Error, RecordRef, Result};
use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, Executor};
use std::ops::Range;

/// How a transaction ended.
enum Ended {
    Committed,
    /// Left open: records were refused.
    Held(Moves),
    /// Another task has this partition now.
    Fenced,
}

/// Statements as wholes; or, after the server refused data, in halves of halves within savepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Whole,
    Halves,
}

impl PostgresSink {
    /// Writes what is new of a batch. True: it is held until the worker goes on.
    pub(super) async fn write(
        &mut self,
        records: &[RecordRef<'_>],
        new: &[(u32, RecordRef<'_>)],
        moves: Moves,
        bad: &mut Bad,
    ) -> Result<bool> {
        let before = bad.clone();
        let mut order = self.gather(new, bad).await?;
        let (mut care, mut failures, mut reloaded) = (Care::Whole, 0, false);
        loop {
            let gathered = bad.clone();
            self.state = State::Open;
            let failed = match self.transaction(records, &order, moves.clone(), bad, care).await {
                Ok(ended) => return self.ended(ended, moves),
                Err(failed) => failed,
            };
            *bad = gathered;
            let _ = self.connection.execute("ROLLBACK").await;
            self.state = State::None;
            match sqlstate(&failed.error).as_str() {
                code if is_data(code) && care == Care::Whole => {
                    if !std::mem::replace(&mut reloaded, true) && self.forget_changed().await? {
                        bad.clone_from(&before);
                        order = self.gather(new, bad).await?;
                    } else {
                        care = Care::Halves;
                    }
                }
                "40001" | "40P01" if failures + 1 < ATTEMPTS => failures += 1,
                // Someone changed a table.
                "42703" | "42P01" | "42804" | "0A000" if !reloaded => {
                    reloaded = true;
                    self.forget_tables();
                    bad.clone_from(&before);
                    order = self.gather(new, bad).await?;
                }
                _ => return Err(self.failed(failed)),
            }
        }
    }

    fn ended(&mut self, ended: Ended, moves: Moves) -> Result<bool> {
        match ended {
            Ended::Committed => {
                self.state = State::None;
                self.lanes.moved(moves);
                Ok(false)
            }
            Ended::Held(moves) => {
                self.state = State::Held(moves);
                Ok(true)
            }
            Ended::Fenced => {
                let message = "another task has taken over a partition of this one, and its epoch in the table of positions: nothing was written";
                Err(Error::fatal("postgres_sink.fenced", message)
                    .fix("Two connectors of one name write to this database: rename one, or give it its own offsets.table."))
            }
        }
    }

    async fn transaction(
        &mut self,
        records: &[RecordRef<'_>],
        order: &[usize],
        mut moves: Moves,
        bad: &mut Bad,
        care: Care,
    ) -> Result<Ended, Failed> {
        // Deferred constraints are to speak at the statement, not at the commit.
        let immediate = if care == Care::Halves { "; SET CONSTRAINTS ALL IMMEDIATE" } else { "" };
        let begin = format!("BEGIN; SET LOCAL synchronous_commit = on{immediate}");
        self.connection.execute(AssertSqlSafe(begin)).await.map_err(Failed::plain)?;
        // First: a task that was replaced does no work, and its successor waits for the row.
        note(&mut moves, records, bad);
        if !moves.is_empty() && !self.lanes.advance(&mut self.connection, &moves, false).await.map_err(Failed::plain)? {
            self.connection.execute("ROLLBACK").await.map_err(Failed::plain)?;
            return Ok(Ended::Fenced);
        }
        let known = bad.len();
        for writer in order {
            let writer = &mut self.writers[*writer];
            let done = match care {
                Care::Whole => apply(&mut self.connection, writer, 0..writer.rows.ops.len(), &self.settings).await,
                Care::Halves => halves(&mut self.connection, writer, &self.settings, bad).await,
            };
            done.map_err(|error| Failed { error, writer: Some((writer.table.name.clone(), writer.table.sql.clone())) })?;
        }
        if bad.len() > known && !moves.is_empty() {
            note(&mut moves, records, bad);
            self.lanes.advance(&mut self.connection, &moves, true).await.map_err(Failed::plain)?;
        }
        if !bad.is_empty() {
            return Ok(Ended::Held(moves));
        }
        // Where the answer is lost, the worker reopens the task, which reads the position again.
        self.connection.execute("COMMIT").await.map_err(Failed::plain)?;
        Ok(Ended::Committed)
    }

    fn failed(&self, failed: Failed) -> Error {
        let connect = &self.settings.connect;
        let Some((table, sql)) = failed.writer else { return connect.error("write", failed.error) };
        let code = sqlstate(&failed.error);
        let error = connect.error(&format!("write to {table}"), failed.error);
        match (code.as_str(), error.code()) {
            ("42P10", _) => {
                let fix =
                    format!("Give the table the key that pk.mode and pk.fields say: ALTER TABLE {sql} ADD PRIMARY KEY (…);");
                Error::fatal("postgres_sink.no_key", error.message().to_owned()).fix(fix)
            }
            (_, "postgres.permission") => {
                let fix = format!(
                    "As its owner run: GRANT SELECT, INSERT, UPDATE, DELETE ON {sql} TO {};",
                    crate::connection::identifier(&connect.user)
                );
                error.fix(fix)
            }
            _ => error,
        }
    }
}

struct Failed {
    error: sqlx::Error,
    /// The table's name, for people and for SQL.
    writer: Option<(String, String)>,
}

impl Failed {
    fn plain(error: sqlx::Error) -> Self {
        Self { error, writer: None }
    }
}

/// Puts what was refused to the positions of its partitions: it is refused again if it comes again.
fn note(moves: &mut Moves, records: &[RecordRef<'_>], bad: &Bad) {
    for (index, reason) in bad {
        if let Some((partition, offset)) = records[*index as usize].origin()
            && let Some(to) = moves.get_mut(&**partition)
        {
            to.refused.insert(offset, reason.clone());
        }
    }
}

async fn apply(
    connection: &mut PgConnection,
    writer: &mut Writer,
    range: Range<usize>,
    settings: &Settings,
) -> Result<(), sqlx::Error> {
    let steps = writer.rows.steps(range, settings.insert_mode);
    let (table, rows) = (&writer.table, &writer.rows);
    for step in steps {
        let (sql, group) = match &step {
            Step::Truncate => {
                connection.execute(AssertSqlSafe(format!("TRUNCATE TABLE {}", table.sql))).await?;
                continue;
            }
            Step::Write(group) => (statement::write_sql(table, group, settings.insert_mode), group),
            Step::Delete(group) => (statement::delete_sql(table, group), group),
        };
        for part in group.rows().chunks(settings.batch_size) {
            let arguments = statement::arguments(table, rows, group, part)?;
            sqlx::query_with(AssertSqlSafe(sql.clone()), arguments).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Halves of halves, in order, until only what the server refuses is left out: order by key holds (invariant 3).
async fn halves(
    connection: &mut PgConnection,
    writer: &mut Writer,
    settings: &Settings,
    bad: &mut Bad,
) -> Result<(), sqlx::Error> {
    let whole = 0..writer.rows.ops.len();
    let mut todo = Vec::from([whole]);
    while let Some(range) = todo.pop() {
        if range.is_empty() {
            continue;
        }
        connection.execute("SAVEPOINT half").await?;
        let Err(error) = apply(connection, writer, range.clone(), settings).await else {
            connection.execute("RELEASE SAVEPOINT half").await?;
            continue;
        };
        if !is_data(&sqlstate(&error)) {
            return Err(error);
        }
        connection.execute("ROLLBACK TO SAVEPOINT half; RELEASE SAVEPOINT half").await?;
        if range.len() == 1 {
            bad.insert(writer.rows.ops[range.start].record, reason(&error, &writer.table.name));
        } else {
            let middle = range.start + range.len() / 2;
            todo.push(middle..range.end);
            todo.push(range.start..middle);
        }
    }
    Ok(())
}

fn sqlstate(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|refusal| refusal.code()).map(|code| code.into_owned()).unwrap_or_default()
}

/// The fault is a record's: bad values, constraints, what a trigger says, rows that are too large, and a key that two records write differently.
fn is_data(code: &str) -> bool {
    matches!(code.get(..2), Some("22" | "23" | "44" | "54")) || matches!(code, "21000" | "P0001")
}

fn reason(error: &sqlx::Error, table: &str) -> Reason {
    let Some(refusal) = error.as_database_error() else {
        return Reason { code: "postgres_sink.record".to_owned(), message: error.to_string() };
    };
    let more = refusal.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail).unwrap_or_default();
    let class = refusal.code().is_some_and(|code| code.starts_with("23"));
    let mut message = format!("{table} refuses the record: {} {more}", refusal.message());
    message.truncate(message.floor_char_boundary(REASON_MAX));
    let message = format!("{} [SQLSTATE {}]", message.trim_end().replace('\0', ""), refusal.code().unwrap_or_default());
    Reason { code: if class { "postgres.constraint" } else { "postgres.data" }.to_owned(), message }
}

/// A reason is kept in the table of positions until the log has it.
const REASON_MAX: usize = 500;
