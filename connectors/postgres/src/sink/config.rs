//! The options of `postgres-sink`: Confluent's names, Debezium's, and ours where neither has one.

use super::names::{Filter, Format};
use super::url;
use crate::connection::Connect;
use aqueduct_config::types::{Millis, Secret};
use aqueduct_config::{Family, List};
use aqueduct_core::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InsertMode {
    #[default]
    Insert,
    Upsert,
    Update,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyMode {
    #[default]
    None,
    Kafka,
    RecordKey,
    RecordValue,
    RecordHeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Evolution {
    None,
    Basic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Quote {
    Always,
    Never,
}

/// Options of `postgres-sink`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The target: `jdbc:postgresql://host:5432/database` or `postgresql://host:5432/database`, with `sslmode`, `sslrootcert`, `sslcert`, `sslkey`,
    /// `currentSchema` and `connectTimeout` as parameters.
    #[serde(rename = "connection.url")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Connection", "x-example" = "jdbc:postgresql://localhost:5432/shop"))]
    url: String,
    /// The role to log in as. May stand in the URL.
    #[serde(rename = "connection.user", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Connection"))]
    user: Option<String>,
    /// Debezium's name for `connection.user`. Its presence also means Debezium's rules for names: dots of a topic become underscores, and names are
    /// in lower case unless `quote.identifiers` is true.
    #[serde(rename = "connection.username", default)]
    #[schemars(extend("x-group" = "Connection"))]
    username: Option<String>,
    /// The role's password.
    #[serde(rename = "connection.password", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Connection"))]
    password: Option<Secret>,

    /// `insert` adds rows, and refuses a record whose key is there already. `upsert` adds or changes. `update` changes rows that are there.
    #[serde(rename = "insert.mode", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Writes"))]
    insert_mode: InsertMode,
    /// Where a row's key comes from: `record_key`, `record_value`, `record_header`, `kafka` (topic, partition and offset), or `none`.
    #[serde(rename = "pk.mode", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Writes", "x-aliases" = ["primary.key.mode"]))]
    key_mode: KeyMode,
    /// Names of the key's fields, and so of its columns. Empty: all fields of the key. For `kafka`: three names, for topic, partition and offset.
    /// For a key that is no struct: one name.
    #[serde(rename = "pk.fields", default)]
    #[schemars(extend("x-group" = "Writes", "x-aliases" = ["primary.key.fields"]))]
    key_fields: List<String>,
    /// A tombstone, and Debezium's delete event, delete the row. `false`: they are passed over. Needs `pk.mode: record_key` (or `record_value`, for
    /// Debezium's events, which carry the old row).
    #[serde(rename = "delete.enabled", default)]
    #[schemars(extend("x-group" = "Writes"))]
    delete: bool,
    /// Debezium's truncate event empties the table. `false`: it is passed over.
    #[serde(rename = "truncate.enabled", default)]
    #[schemars(extend("x-group" = "Writes"))]
    truncate: bool,
    /// The most rows of one statement. Not what Confluent (3000) and Debezium (500) have: rows travel as arrays.
    #[serde(rename = "batch.size", default = "batch_size")]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-importance" = "low", "x-group" = "Writes"))]
    batch_size: u32,

    /// The name of a topic's table, which may be `schema.table`: `${topic}`, and for Debezium's events `${source.db}`, `${source.schema}`,
    /// `${source.table}`. The last two parts of a dotted name count.
    #[serde(rename = "table.name.format", default = "topic")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Mapping", "x-aliases" = ["collection.name.format"]))]
    table_format: String,
    /// Only these fields of the value become columns. Empty: all.
    #[serde(rename = "fields.whitelist", default)]
    #[schemars(extend("x-group" = "Mapping"))]
    whitelist: List<String>,
    /// Only these fields become columns: `field` or `topic:field`.
    #[serde(rename = "field.include.list", default)]
    #[schemars(extend("x-group" = "Mapping"))]
    include: List<String>,
    /// These fields do not: `field` or `topic:field`.
    #[serde(rename = "field.exclude.list", default)]
    #[schemars(extend("x-group" = "Mapping"))]
    exclude: List<String>,
    /// A value that is no struct (text, bytes, a number) goes to this column. Empty: such records are refused.
    #[serde(rename = "value.column", default)]
    #[schemars(extend("x-group" = "Mapping"))]
    value_column: String,
    /// What stands for a value that the source has but did not send (Debezium's option of the same name): the column keeps what it has.
    #[serde(rename = "unavailable.value.placeholder", default = "placeholder")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mapping"))]
    placeholder: String,
    /// `never`: names are in lower case, as Postgres takes unquoted ones. Either way they are quoted in SQL. The default is `always`, but with
    /// `connection.username` it is `never`.
    #[serde(rename = "quote.sql.identifiers", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mapping"))]
    quote: Option<Quote>,
    /// Debezium's form of `quote.sql.identifiers`.
    #[serde(rename = "quote.identifiers", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mapping"))]
    quote_identifiers: Option<bool>,
    /// The zone in which a `Timestamp` of Connect (an instant) becomes a `timestamp` without zone.
    #[serde(rename = "db.timezone", default = "utc")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Mapping", "x-aliases" = ["use.time.zone", "database.time_zone"]))]
    timezone: String,

    /// Creates tables that the target does not have.
    #[serde(rename = "auto.create", default)]
    #[schemars(extend("x-group" = "Tables"))]
    auto_create: bool,
    /// Adds columns that a table does not have. Never drops or changes one.
    #[serde(rename = "auto.evolve", default)]
    #[schemars(extend("x-group" = "Tables"))]
    auto_evolve: bool,
    /// Debezium's form: `basic` is `auto.create` and `auto.evolve` together.
    #[serde(rename = "schema.evolution", default)]
    #[schemars(extend("x-group" = "Tables"))]
    evolution: Option<Evolution>,

    /// Keeps the log's positions in the target, in the transaction of the rows: each record arrives once, and a task that was replaced cannot write.
    /// `false`: rows may be written again after a crash (harmless with `upsert`), and no table is needed.
    #[serde(rename = "exactly.once", default = "yes")]
    #[schemars(extend("x-importance" = "high", "x-group" = "Guarantee"))]
    exactly_once: bool,
    /// No event tells that it is the last of its transaction. So the end of what a partition has waits for the first event of another transaction, for
    /// so long: then the target shows transactions of the source whole, as far as they are in one partition. In the beginning of a task ten times as
    /// long, counted from its start, since who writes them may have been killed with it. At most `aqueduct.buffer.bytes` wait: a larger transaction is
    /// written in parts. `0`: nothing waits. Only Debezium's events wait.
    #[serde(rename = "source.transaction.wait.ms", default = "transaction_wait")]
    #[schemars(range(min = 0, max = 600_000), extend("x-group" = "Guarantee"))]
    transaction_wait: Millis,
    /// The table of the positions, which may be `schema.table`. Created if it is not there; many connectors may share it.
    #[serde(rename = "offsets.table", default = "offsets_table")]
    #[schemars(extend("x-group" = "Guarantee"))]
    offsets_table: String,

    /// Accepted: a task has one connection.
    #[serde(rename = "connection.pool.*")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    #[allow(dead_code, reason = "accepted")]
    pool: Family<String>,
    /// Accepted: there is no Hibernate.
    #[serde(rename = "hibernate.*")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    #[allow(dead_code, reason = "accepted")]
    hibernate: Family<String>,
    #[serde(flatten)]
    accepted: Accepted,
}

/// Options of the two families that mean nothing here, or whose only value is their default. Texts: a flattened struct is told no types.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(dead_code, reason = "taken so that a config of theirs needs no change")]
struct Accepted {
    /// Accepted: the worker's `errors.retry.timeout` decides.
    #[serde(rename = "max.retries", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted", "x-aliases" = ["connection.attempts", "flush.max.retries"]))]
    retries: Option<String>,
    /// Accepted: the worker's `errors.retry.delay.max.ms` decides.
    #[serde(rename = "retry.backoff.ms", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted", "x-aliases" = ["connection.backoff.ms", "flush.retry.delay.ms"]))]
    backoff: Option<String>,
    /// Accepted: it is Postgres.
    #[serde(rename = "dialect.name", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted", "x-aliases" = ["connection.provider", "connection.oracle.schema", "trim.sensitive.log", "mssql.use.merge.holdlock"]))]
    dialect: Option<String>,
    /// Accepted: tables, partitioned tables, foreign tables and views are found alike.
    #[serde(rename = "table.types", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    table_types: Option<String>,
    /// Accepted: changes of one key are always folded within a batch.
    #[serde(rename = "use.reduction.buffer", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    reduction: Option<String>,
    /// Accepted: a broken connection is always made again.
    #[serde(rename = "connection.restart.on.errors", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    restart: Option<String>,
    /// Accepted: PostGIS is found by the column's type.
    #[serde(rename = "dialect.postgres.postgis.schema", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    postgis: Option<String>,
    /// Accepted.
    #[serde(rename = "dialect.sqlserver.identity.insert", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    identity: Option<String>,
    /// Only the default strategy exists: dots of the topic become underscores.
    #[serde(rename = "collection.naming.strategy", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted", "x-aliases" = ["table.naming.strategy"]))]
    collection_naming: Option<String>,
    /// Only the default strategy exists: a field's name is the column's.
    #[serde(rename = "column.naming.strategy", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Accepted"))]
    column_naming: Option<String>,
}

fn batch_size() -> u32 {
    10_000
}
fn topic() -> String {
    "${topic}".to_owned()
}
fn placeholder() -> String {
    "__debezium_unavailable_value".to_owned()
}
fn utc() -> String {
    "UTC".to_owned()
}
fn yes() -> bool {
    true
}
/// As long as Debezium's own `poll.interval.ms`: two halves of a transaction come one poll apart.
fn transaction_wait() -> Millis {
    Millis::from_millis(500)
}
fn offsets_table() -> String {
    "aqueduct_offsets".to_owned()
}

/// What the task needs; checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) connect: Connect,
    pub(super) search_path: Option<String>,
    pub(super) insert_mode: InsertMode,
    pub(super) key_mode: KeyMode,
    pub(super) key_fields: Vec<Arc<str>>,
    pub(super) delete: bool,
    pub(super) truncate: bool,
    pub(super) batch_size: usize,
    pub(super) format: Format,
    pub(super) filter: Filter,
    pub(super) value_column: Option<Arc<str>>,
    pub(super) placeholder: String,
    /// Names are taken in lower case.
    pub(super) fold: bool,
    pub(super) timezone: Option<jiff::tz::TimeZone>,
    pub(super) auto_create: bool,
    pub(super) auto_evolve: bool,
    pub(super) exactly_once: bool,
    pub(super) transaction_wait: Duration,
    /// Schema, if any, and table.
    pub(super) offsets_table: (Option<String>, String),
}

/// The names of the columns for `pk.mode: kafka`, in both families.
const KAFKA_COLUMNS: [&str; 3] = ["__connect_topic", "__connect_partition", "__connect_offset"];

impl Config {
    /// # Errors
    /// Every issue.
    pub(super) fn settings(&self) -> Result<Settings, Vec<Issue>> {
        let mut issues = Vec::new();
        let connect = self.connect(&mut issues);
        let debezium = self.username.is_some();
        let format = Format::parse(&self.table_format, debezium).map_err(|reason| {
            let fix = "use ${topic}, ${source.<field>} and fixed text";
            issues.push(Issue::error("table.name.format", "postgres_sink.table_format", reason).fix(fix));
        });
        let timezone = self.timezone(&mut issues);
        self.judge_keys(&mut issues);
        for (option, given) in [
            ("collection.naming.strategy", &self.accepted.collection_naming),
            ("column.naming.strategy", &self.accepted.column_naming),
        ] {
            if given.as_deref().is_some_and(|class| !class.contains(".Default")) {
                issues.push(
                    Issue::error(option, "postgres_sink.strategy", "Java classes cannot be loaded")
                        .fix("remove it; table.name.format and the RegexRouter and ReplaceField transforms rename"),
                );
            }
        }
        let evolve = self.evolution == Some(Evolution::Basic);
        let (Some((connect, search_path)), Ok(format), true) = (connect, format, issues.is_empty()) else { return Err(issues) };
        Ok(Settings {
            connect,
            search_path,
            insert_mode: self.insert_mode,
            key_mode: self.key_mode,
            key_fields: self.key_columns(),
            delete: self.delete,
            truncate: self.truncate,
            batch_size: self.batch_size as usize,
            format,
            filter: Filter::new(&self.whitelist, &self.include, &self.exclude),
            value_column: (!self.value_column.is_empty()).then(|| self.value_column.as_str().into()),
            placeholder: self.placeholder.clone(),
            fold: self.folds(),
            timezone,
            auto_create: self.auto_create || evolve,
            auto_evolve: self.auto_evolve || evolve,
            exactly_once: self.exactly_once,
            transaction_wait: self.transaction_wait.duration(),
            offsets_table: match self.offsets_table.split_once('.') {
                Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
                None => (None, self.offsets_table.clone()),
            },
        })
    }

    fn folds(&self) -> bool {
        match (self.quote_identifiers, self.quote) {
            (Some(quote), _) => !quote,
            (None, Some(quote)) => quote == Quote::Never,
            (None, None) => self.username.is_some(),
        }
    }

    fn key_columns(&self) -> Vec<Arc<str>> {
        if self.key_mode == KeyMode::Kafka && self.key_fields.is_empty() {
            return KAFKA_COLUMNS.map(Into::into).to_vec();
        }
        self.key_fields.iter().map(|name| name.as_str().into()).collect()
    }

    fn connect(&self, issues: &mut Vec<Issue>) -> Option<(Connect, Option<String>)> {
        let mut url = match url::parse(&self.url) {
            Ok(url) => url,
            Err(reason) => {
                issues.push(
                    Issue::error("connection.url", "postgres_sink.url", reason)
                        .fix("write it as jdbc:postgresql://host:5432/database"),
                );
                return None;
            }
        };
        if let Some(user) = self.username.as_ref().or(self.user.as_ref()) {
            url.connect.user.clone_from(user);
        }
        if let Some(password) = &self.password {
            url.connect.password = Some(password.clone());
        }
        if url.connect.user.is_empty() {
            issues.push(Issue::error("connection.user", "config.missing", "no role is given").fix("add `connection.user: …`"));
        }
        Some((url.connect, url.search_path))
    }

    fn timezone(&self, issues: &mut Vec<Issue>) -> Option<jiff::tz::TimeZone> {
        if self.timezone.eq_ignore_ascii_case("utc") {
            return None;
        }
        match jiff::tz::TimeZone::get(&self.timezone) {
            Ok(zone) => Some(zone),
            Err(_) => {
                issues.push(
                    Issue::error("db.timezone", "postgres_sink.timezone", format!("{:?} is not a time zone", self.timezone))
                        .fix("use a name such as UTC or Europe/Berlin"),
                );
                None
            }
        }
    }

    fn judge_keys(&self, issues: &mut Vec<Issue>) {
        let mut refuse = |path: &str, message: &str, fix: &str| {
            issues.push(Issue::error(path, "postgres_sink.key", message).fix(fix));
        };
        if self.insert_mode != InsertMode::Insert && self.key_mode == KeyMode::None {
            refuse(
                "pk.mode",
                "upsert and update need a key, and pk.mode is none",
                "set pk.mode to record_key (or record_value, kafka)",
            );
        }
        if self.delete && !matches!(self.key_mode, KeyMode::RecordKey | KeyMode::RecordValue) {
            refuse("delete.enabled", "a delete names its row by the record's key", "set pk.mode to record_key");
        }
        if self.key_mode == KeyMode::Kafka && !matches!(self.key_fields.len(), 0 | 3) {
            refuse("pk.fields", "pk.mode kafka has three columns: topic, partition, offset", "name three columns, or none");
        }
        if self.key_mode == KeyMode::RecordHeader && self.key_fields.is_empty() {
            refuse("pk.fields", "pk.mode record_header needs the names of the headers", "add `pk.fields: …`");
        }
        if self.include.len() + self.whitelist.len() > 0 && !self.exclude.is_empty() {
            refuse("field.exclude.list", "fields are either included or excluded", "remove one of the two lists");
        }
    }

    /// Warnings, which `settings` leaves out.
    pub(super) fn warnings(&self) -> Vec<Issue> {
        let ignored = url::parse(&self.url).map(|url| url.ignored).unwrap_or_default();
        let known =
            ["stringtype", "reWriteBatchedInserts", "prepareThreshold", "tcpKeepAlive", "socketTimeout", "targetServerType"];
        ignored
            .iter()
            .filter(|name| !known.contains(&name.as_str()))
            .map(|name| Issue::warning("connection.url", "postgres_sink.url", format!("the parameter {name} is not looked at")))
            .collect()
    }
}
