//! The options of `sql-source`: Confluent's of its JDBC source, by name and default.

mod check;
mod mapping;

pub(crate) use check::Settings;
pub(crate) use mapping::Columns;

use aqueduct_config::{List, Millis, Regex, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Bulk,
    Incrementing,
    Timestamp,
    #[serde(rename = "timestamp+incrementing")]
    TimestampIncrementing,
}

impl Mode {
    pub(crate) fn by_id(self) -> bool {
        matches!(self, Mode::Incrementing | Mode::TimestampIncrementing)
    }

    pub(crate) fn by_time(self) -> bool {
        matches!(self, Mode::Timestamp | Mode::TimestampIncrementing)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Granularity {
    #[default]
    ConnectLogical,
    MicrosLong,
    MicrosString,
    MicrosIsoDatetimeString,
    NanosLong,
    NanosString,
    NanosIsoDatetimeString,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NumericMapping {
    #[default]
    None,
    PrecisionOnly,
    BestFit,
    BestFitEagerDouble,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Quote {
    #[default]
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Isolation {
    #[default]
    Default,
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
    SqlServerSnapshot,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The database: `jdbc:postgresql://host:5432/db`, `jdbc:mysql://host:3306/db`, `jdbc:mariadb://…`, `jdbc:sqlite:/path/file.db`; without `jdbc:`
    /// too. A password belongs into `connection.password`.
    #[serde(rename = "connection.url")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Database", "x-example" = "jdbc:postgresql://localhost:5432/shop"))]
    url: String,
    /// Who logs in.
    #[serde(rename = "connection.user", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Database"))]
    user: Option<String>,
    /// The password.
    #[serde(rename = "connection.password", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Database"))]
    password: Option<Secret>,
    /// How often a start tries to connect. After that the worker starts the task again, with pauses that grow.
    #[serde(rename = "connection.attempts", default = "three")]
    #[schemars(range(min = 1, max = 100), extend("x-importance" = "low", "x-group" = "Database"))]
    attempts: u32,
    /// The pause between two of these attempts.
    #[serde(rename = "connection.backoff.ms", default = "ten_seconds")]
    #[schemars(range(max = 600_000), extend("x-importance" = "low", "x-group" = "Database"))]
    backoff: Millis,
    /// A pattern (`%`, `_`) of catalogs (MySQL: databases) whose tables are looked at; the one of `connection.url` if not given.
    #[serde(rename = "catalog.pattern", default)]
    #[schemars(extend("x-group" = "Tables"))]
    catalog_pattern: Option<String>,
    /// A pattern (`%`, `_`) of schemas whose tables are looked at; all but the system's if not given.
    #[serde(rename = "schema.pattern", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Tables"))]
    schema_pattern: Option<String>,
    /// The tables to read, as `table`, `schema.table` or `database.schema.table`; all if not given.
    #[serde(rename = "table.whitelist", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Tables", "x-example" = "orders,items"))]
    whitelist: List<String>,
    /// The tables not to read.
    #[serde(rename = "table.blacklist", default)]
    #[schemars(extend("x-group" = "Tables"))]
    blacklist: List<String>,
    /// Regular expressions over whole names `database.schema.table` (or `schema.table`) of tables to read.
    #[serde(rename = "table.include.list", default)]
    #[schemars(extend("x-group" = "Tables"))]
    include: List<Regex>,
    /// Regular expressions over whole names of tables not to read.
    #[serde(rename = "table.exclude.list", default)]
    #[schemars(extend("x-group" = "Tables"))]
    exclude: List<Regex>,
    /// The kinds of tables: `TABLE`, `VIEW`, `MATERIALIZED VIEW`, `PARTITIONED TABLE`, `FOREIGN TABLE`.
    #[serde(rename = "table.types", default = "table")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Tables"))]
    types: List<String>,
    /// How often to look for new tables and tables that are gone.
    #[serde(rename = "table.poll.interval.ms", default = "one_minute")]
    #[schemars(range(min = 100, max = 86_400_000), extend("x-importance" = "low", "x-group" = "Tables"))]
    table_interval: Millis,
    /// How new rows are found. `bulk`: all rows each time. `incrementing`: by a column that grows with each row. `timestamp`: by the time of a
    /// row's last change. `timestamp+incrementing`: by both, which is exact.
    mode: Mode,
    /// The column that grows. If empty, the table's column that the database counts up by itself.
    #[serde(rename = "incrementing.column.name", default)]
    #[schemars(extend("x-group" = "Mode"))]
    incrementing: Option<String>,
    /// The columns of the time of the last change: the first that is not null counts.
    #[serde(rename = "timestamp.column.name", default)]
    #[schemars(extend("x-group" = "Mode"))]
    timestamps: List<String>,
    /// In place of `incrementing.column.name`, for each table: `regex:column,…`.
    #[serde(rename = "incrementing.column.mapping", default)]
    #[schemars(extend("x-group" = "Mode", "x-example" = "shop.public.orders:id"))]
    incrementing_mapping: List<String>,
    /// In place of `timestamp.column.name`, for each table: `regex:[column|column],…`.
    #[serde(rename = "timestamp.columns.mapping", default)]
    #[schemars(extend("x-group" = "Mode", "x-example" = "shop.public.orders:[updated_at|created_at]"))]
    timestamp_mapping: List<String>,
    /// Where the first read begins by time, in milliseconds since 1970; -1 is the moment of the first start. If not given, with all there is.
    #[serde(rename = "timestamp.initial", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mode"))]
    initial: Option<i64>,
    /// Refuses tables whose incrementing column, or whose timestamp columns all, may be null: such rows are never read.
    #[serde(rename = "validate.non.null", default = "yes")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mode"))]
    validate_non_null: bool,
    /// A query in place of tables. It may have any form; in the modes other than `bulk` its result must have the columns of the mode.
    #[serde(default)]
    #[schemars(extend("x-group" = "Mode", "x-example" = "SELECT o.id, o.amount, c.name FROM orders o JOIN customers c ON c.id = o.customer"))]
    query: Option<String>,
    /// As `query`, and not shown by the REST API.
    #[serde(rename = "query.masked", default)]
    #[schemars(extend("x-group" = "Mode"))]
    query_masked: Option<Secret>,
    /// Put behind each statement, after its ORDER BY.
    #[serde(rename = "query.suffix", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mode", "x-example" = "LIMIT 10000"))]
    suffix: Option<String>,
    /// Whether names of tables and columns are quoted: `never` lets the database fold their case.
    #[serde(rename = "quote.sql.identifiers", default)]
    #[schemars(extend("x-group" = "Mode"))]
    quote: Quote,
    /// The pause between two reads of a table.
    #[serde(rename = "poll.interval.ms", default = "five_seconds")]
    #[schemars(range(max = 86_400_000), extend("x-importance" = "high", "x-group" = "Polling"))]
    interval: Millis,
    /// The most rows in one batch; the worker's limits if not given. Memory is bounded in bytes, whatever it is.
    #[serde(rename = "batch.max.rows", default)]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Polling"))]
    batch_rows: Option<u32>,
    /// How long rows are left alone after their time, so that transactions that began earlier can commit.
    #[serde(rename = "timestamp.delay.interval.ms", default)]
    #[schemars(range(max = 86_400_000), extend("x-importance" = "high", "x-group" = "Polling"))]
    delay: Millis,
    /// The time zone of times without one.
    #[serde(rename = "db.timezone", default = "utc")]
    #[schemars(extend("x-group" = "Polling"))]
    zone: String,
    /// The topic is this and the table's name; with `query`, this alone.
    #[serde(rename = "topic.prefix")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Records", "x-example" = "shop."))]
    prefix: String,
    /// What a timestamp becomes: `connect_logical` has milliseconds, the others microseconds or nanoseconds as a number, as text, or as a date.
    #[serde(rename = "timestamp.granularity", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Records"))]
    granularity: Granularity,
    /// What NUMERIC becomes: `none` keeps Decimals; `best_fit` makes integers and doubles of those with at most 18 digits; `best_fit_eager_double`
    /// makes doubles of all with a fraction; `precision_only` makes integers of those without a fraction.
    #[serde(rename = "numeric.mapping", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Records"))]
    numeric: Option<NumericMapping>,
    /// The older form of `numeric.mapping: precision_only`.
    #[serde(rename = "numeric.precision.mapping", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Records"))]
    numeric_precision: bool,
    /// Must fit `connection.url`: `PostgreSqlDatabaseDialect`, `MySqlDatabaseDialect` or `SqliteDatabaseDialect`.
    #[serde(rename = "dialect.name", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Database"))]
    dialect: Option<String>,
    /// The isolation of the transaction that each read is; the database's default if not given.
    #[serde(rename = "transaction.isolation.mode", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Database"))]
    isolation: Isolation,
    /// Means nothing here: the worker starts a task again whose query failed.
    #[serde(rename = "query.retry.attempts", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Database"))]
    retries: Option<i64>,
    /// Means nothing here: rows are streamed.
    #[serde(rename = "db.fetch.size", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Database"))]
    fetch_size: Option<i64>,
}

fn three() -> u32 {
    3
}
fn yes() -> bool {
    true
}
fn ten_seconds() -> Millis {
    Millis::from_secs(10)
}
fn five_seconds() -> Millis {
    Millis::from_secs(5)
}
fn one_minute() -> Millis {
    Millis::from_secs(60)
}
fn table() -> List<String> {
    List(vec!["TABLE".to_owned()])
}
fn utc() -> String {
    "UTC".to_owned()
}
