//! A connection, whatever the database: what the source asks of it, one file a dialect.

mod mysql;
mod postgres;
mod sqlite;

use crate::column::{Column, Shape};
use crate::config::{Isolation, Settings};
use crate::error;
use crate::reader::Gather;
use crate::statement::{Statement, quoted};
use crate::tables::Table;
use crate::url::{Dialect, Target};
use aqueduct_core::{Error, Result};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection, SqliteConnection};

/// Binds the arguments of a [`Statement`]. Not kept prepared: a table may change between two reads.
macro_rules! bound {
    ($statement:expr) => {{
        let mut query = sqlx::query(sqlx::AssertSqlSafe($statement.sql.clone())).persistent(false);
        for arg in &$statement.args {
            query = match arg {
                crate::statement::Arg::Int(number) => query.bind(*number),
                crate::statement::Arg::Text(text) => query.bind(text.clone()),
            };
        }
        query
    }};
}
use bound;

// Boxed by size: one lives in a task, and it moves between the task and its reads.
pub(crate) enum Connection {
    Postgres(Box<PgConnection>),
    MySql(Box<MySqlConnection>),
    Sqlite(Box<SqliteConnection>),
}

/// What is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Table(Table),
    Query(String),
}

impl Asked {
    /// For messages.
    pub(crate) fn show(&self) -> String {
        match self {
            Asked::Table(table) => table.full(),
            Asked::Query(_) => "the query".to_owned(),
        }
    }

    /// What stands behind FROM.
    pub(crate) fn from(&self, dialect: Dialect, quote: bool) -> String {
        match self {
            Asked::Table(table) => {
                let outer = if dialect == Dialect::MySql { &table.catalog } else { &table.schema };
                let name = quoted(dialect, quote, &table.name);
                match outer {
                    Some(outer) if dialect != Dialect::Sqlite => format!("{}.{name}", quoted(dialect, quote, outer)),
                    _ => name,
                }
            }
            Asked::Query(_) if dialect == Dialect::Sqlite => format!("temp.{}", sqlite::VIEW),
            // The line ends a comment that may end the query.
            Asked::Query(query) => format!("(\n{query}\n) AS aqueduct_query"),
        }
    }
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let opened = async {
            Ok(match target.dialect {
                Dialect::Postgres => Self::Postgres(Box::new(postgres::connect(target).await?)),
                Dialect::MySql => Self::MySql(Box::new(mysql::connect(target).await?)),
                Dialect::Sqlite => Self::Sqlite(Box::new(sqlite::connect(target).await?)),
            })
        };
        match tokio::time::timeout(target.timeout, opened).await {
            Ok(opened) => opened.map_err(|failed| error::from(&format!("connect to {}", target.show()), target.dialect, failed)),
            Err(_) => {
                let what = format!("cannot connect to {}: no answer within {:?}", target.show(), target.timeout);
                Err(Error::retriable("sql.unreachable", what).fix("see whether the database runs and connection.url leads to it"))
            }
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
            Self::Sqlite(_) => Dialect::Sqlite,
        }
    }

    fn failed(&self, what: &str) -> impl FnOnce(sqlx::Error) -> Error + use<> {
        let (what, dialect) = (what.to_owned(), self.dialect());
        move |failed| error::from(&what, dialect, failed)
    }

    /// All tables that the options want, in order.
    pub(crate) async fn tables(&mut self, settings: &Settings) -> Result<Vec<Table>> {
        let failed = self.failed("list the tables");
        let wanted = &settings.wanted;
        let found = match self {
            Self::Postgres(connection) => postgres::tables(connection, wanted).await,
            Self::MySql(connection) => mysql::tables(connection, wanted).await,
            Self::Sqlite(connection) => sqlite::tables(connection, wanted).await,
        };
        found.map_err(failed)
    }

    /// One transaction for what a read sees: the columns cannot change under it.
    pub(crate) async fn begin(&mut self, asked: &Asked, isolation: Isolation) -> Result<()> {
        let level = match isolation {
            Isolation::Default | Isolation::SqlServerSnapshot => None,
            Isolation::ReadUncommitted => Some("READ UNCOMMITTED"),
            Isolation::ReadCommitted => Some("READ COMMITTED"),
            Isolation::RepeatableRead => Some("REPEATABLE READ"),
            Isolation::Serializable => Some("SERIALIZABLE"),
        };
        // A query may call functions that write.
        let access = if matches!(asked, Asked::Table(_)) { " READ ONLY" } else { "" };
        let failed = self.failed("begin a transaction");
        let statements = match (self.dialect(), level) {
            (Dialect::Postgres, Some(level)) => vec![format!("BEGIN ISOLATION LEVEL {level}{access}")],
            (Dialect::Postgres, None) => vec![format!("BEGIN{access}")],
            (Dialect::MySql, Some(level)) => {
                vec![format!("SET TRANSACTION ISOLATION LEVEL {level}"), format!("START TRANSACTION{access}")]
            }
            (Dialect::MySql, None) => vec![format!("START TRANSACTION{access}")],
            (Dialect::Sqlite, _) => vec!["BEGIN".to_owned()],
        };
        for statement in statements {
            if let Err(refused) = self.execute(statement).await {
                return Err(failed(refused));
            }
        }
        Ok(())
    }

    pub(crate) async fn commit(&mut self) -> Result<()> {
        let failed = self.failed("end a transaction");
        self.execute("COMMIT".to_owned()).await.map_err(failed)
    }

    async fn execute(&mut self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(connection) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
            Self::MySql(connection) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
            Self::Sqlite(connection) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
        }
    }

    pub(crate) async fn columns(&mut self, asked: &Asked, quote: bool, shape: &Shape) -> Result<Vec<Column>> {
        let what = asked.show();
        let failed = self.failed(&format!("read the columns of {what}"));
        let from = asked.from(self.dialect(), quote);
        let columns = match self {
            Self::Postgres(connection) => postgres::columns(connection, asked, &from, shape).await,
            Self::MySql(connection) => mysql::columns(connection, asked, &from).await,
            Self::Sqlite(connection) => sqlite::columns(connection, asked, shape).await,
        };
        let columns = columns.map_err(failed)?;
        if columns.is_empty() {
            return Err(Error::fatal("sql.missing_table", format!("{what} is not there, or has no columns"))
                .fix("correct the table's name"));
        }
        Ok(columns)
    }

    /// The database's clock, no later than what the transaction sees: microseconds since 1970.
    pub(crate) async fn now(&mut self) -> Result<i64> {
        let failed = self.failed("ask for the time");
        let now = match self {
            Self::Postgres(connection) => {
                sqlx::query_scalar("SELECT CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS int8)")
                    .fetch_one(connection.as_mut())
                    .await
            }
            Self::MySql(connection) => {
                sqlx::query_scalar("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))")
                    .fetch_one(connection.as_mut())
                    .await
            }
            Self::Sqlite(connection) => {
                sqlx::query_scalar("SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000")
                    .fetch_one(connection.as_mut())
                    .await
            }
        };
        now.map_err(failed)
    }

    /// Hands all rows to `gather`, as fast as it takes them.
    pub(crate) async fn read(&mut self, asked: &Asked, statement: &Statement, gather: &mut Gather) -> Result<()> {
        let what = format!("read {}", asked.show());
        match self {
            Self::Postgres(connection) => postgres::read(connection, &what, statement, gather).await,
            Self::MySql(connection) => mysql::read(connection, &what, statement, gather).await,
            Self::Sqlite(connection) => sqlite::read(connection, &what, statement, gather).await,
        }
    }

    pub(crate) async fn close(self) {
        // It is given up in any case.
        let _ = match self {
            Self::Postgres(connection) => connection.close().await,
            Self::MySql(connection) => connection.close().await,
            Self::Sqlite(connection) => connection.close().await,
        };
    }
}
