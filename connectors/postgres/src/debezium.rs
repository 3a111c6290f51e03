//! Debezium's shapes (3.7.0.Final): keys, envelopes, schemas, topics.
//!
//! ```text
//! Model::new(&Options)? ─► table(&Table, &Types)? ─► TableModel ─change(Change, &SourceInfo, transaction, &mut out)─► records
//!                       └─ captures(schema, table) · message(…) · heartbeat(…) · begin(…) · end(…)
//! ```
//!
//! A [`TableModel`] is one version of a table: all its schemas are made once and shared by `Arc`, since converters know a schema's text by its
//! address, and each column's decoder is chosen once.
//!
//! # Where this is not Debezium
//! Debezium is followed to the letter, its zeros for columns that are not sent and the order of its hash maps included. What follows is the whole
//! list of where it is not; the differential test masks these and nothing else.
//!
//! | What | Debezium | Here | Why |
//! |---|---|---|---|
//! | an update of a table whose replica identity is an index that does not have the key | a delete of the key 0, and a create | an update | no key changed |
//! | a delete there | the key 0, and a tombstone for it | the key null, no tombstone, and a warning with the statement that mends it | a sink would delete row 0 |
//! | arrays of more than one dimension | `[null,null]` | all elements, row by row | the values were lost; the schema has one dimension |
//! | `NaN`, `Infinity` in a Decimal; what else its schema cannot say | null, with a line in its log | null, and the header `__aqueduct.unconverted` tells column and value; in a column that cannot be null, an error | not in silence |
//! | `infinity` in a `date` | in a snapshot numbers of no meaning, in the stream the years 5877611 and -5877611 | the latter always: beyond every date that Postgres has, and in order; `infinity` with `isostring` | one value, one number |
//! | `infinity` in a `timestamp` with `isostring` or `nanoseconds` | `+292278994-08-16T…`, or a number that wrapped around | `infinity`, or the greatest and least number | |
//! | dates from 1582-10-05 to 1582-10-14 in a snapshot | moved by ten days | as they are | the calendar of `java.sql.Date` |
//! | NULL in an array of an enumeration | the whole array is null | an optional element | |
//! | a label that was added to an enumeration | in the schema of the first table that has a row with it | in that of each | |
//! | `time[]`, `timetz[]` | milliseconds; `timetz[]` moved by the zone of the JVM | as exact as the column, at UTC | |
//! | `timestamp` beyond the year 2262 in nanoseconds | wraps around | as NaN | |
//! | `name` in the stream | null | the text, as in a snapshot | |
//! | `bit[]` | null, with the schema of one bit | an array | |
//! | unchanged large values of `citext[]`, `inet[]` and other arrays of text | null | an array with the placeholder | null says that the value is gone |
//! | unchanged `bytea` with `binary.handling.mode` base64 | null | the placeholder, as with hex | the same |
//! | truncated or hashed columns | the placeholder is truncated or hashed | it stays | nobody could tell it from a value |
//! | masks on `json`, `xml`, `uuid`, `citext`, … | not masked | masked | who masks a column wants it masked |
//! | `numeric(p,-s)` (PostgreSQL 15) | a scale of 2046 and an error | a negative scale | |
//! | the collection of logical messages in transaction metadata | the address of a Java object | `LOGICAL_DECODING_MESSAGE` | |
//! | the length of a `numeric` without precision, where `column.propagate.source.type` tells it | 0 in a snapshot, 131089 in the stream | 131089 | |
//! | defaults with quotes or line breaks in them | cut off, or none | as they are | |
//! | amounts of `money` in locales other than en_US | an error | the amount | |
//!
//! A NULL in a column that has a default is null here and in Debezium; that it is the default in the JSON is the converter's
//! `replace.null.with.default`, which is honoured.

pub(crate) mod columns;
mod composite;
mod default;
mod direct;
mod event;
mod kind;
mod number;
mod schemas;
mod table;
pub(crate) mod text;
mod time;
mod transaction;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use event::{Message, Origin, Snapshot, SourceInfo};
pub(crate) use table::{Change, TableModel};
pub(crate) use transaction::Transaction;

use crate::source::options::Options;
use crate::source::options::modes::{ConvertFailureMode, NameAdjustment, Operation};
use crate::table::{Table, Type};
use aqueduct_core::{Error, Result, Schema, Topic};
use columns::{Filters, KeyColumns, Mappers};
use event::Context;
use kind::Modes;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The types of a database by oid, with everything that they are made of.
pub(crate) type Types = FxHashMap<u32, Type>;

/// What the options make of the database's changes. Cheap to ask, made once for each task.
#[derive(Debug)]
pub(crate) struct Model {
    prefix: String,
    delimiter: String,
    filters: Filters,
    mappers: Mappers,
    key_columns: KeyColumns,
    modes: Modes,
    schema_names: NameAdjustment,
    field_names: NameAdjustment,
    operations: Operations,
    failure: ConvertFailureMode,
    transactions: bool,
    context: Arc<Context>,
    source_schema: Arc<Schema>,
    transaction_schema: Arc<Schema>,
    message_topic: Topic,
    message_key: Arc<Schema>,
    message_value: Arc<Schema>,
    message_collection: Arc<str>,
    heartbeat_topic: Topic,
    heartbeat_key: Arc<Schema>,
    heartbeat_value: Arc<Schema>,
    transaction_topic: Topic,
    transaction_key: Arc<Schema>,
    transaction_value: Arc<Schema>,
}

/// Which events there are.
#[derive(Clone, Copy, Debug)]
struct Operations {
    create: bool,
    update: bool,
    delete: bool,
    truncate: bool,
    tombstones: bool,
    skip_unchanged: bool,
}

impl Operations {
    fn skipped(self, operation: Operation) -> bool {
        match operation {
            Operation::C => !self.create,
            Operation::U => !self.update,
            Operation::D => !self.delete,
            Operation::T => !self.truncate,
            Operation::None => false,
        }
    }
}

impl Model {
    /// # Errors
    /// `postgres.key_columns`: `message.key.columns` cannot be read; what [`Options::issues`] says beforehand.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let names = options.schema_names;
        let [source_schema, transaction_schema, message_value, message_key, heartbeat_key, heartbeat_value] =
            event::schemas_of(names, options.binary);
        let key_columns = options.key_columns.as_deref().map_or_else(|| Ok(KeyColumns::default()), KeyColumns::parse);
        let filters = Filters::new(options);
        let wanted = |operation| !filters.skips(operation);
        let operations = Operations {
            create: wanted(Operation::C),
            update: wanted(Operation::U),
            delete: wanted(Operation::D),
            truncate: wanted(Operation::T),
            tombstones: options.tombstones,
            skip_unchanged: options.skip_unchanged,
        };
        let (prefix, delimiter) = (options.topic_prefix.as_str(), options.topic_delimiter.as_str());
        Ok(Self {
            mappers: Mappers::new(options),
            key_columns: key_columns.map_err(|why| Error::fatal("postgres.key_columns", format!("message.key.columns {why}")))?,
            modes: Modes::new(options),
            schema_names: names,
            field_names: options.field_names,
            operations,
            failure: options.convert_failure,
            transactions: options.transactions,
            context: Arc::new(Context::new(prefix, &options.dbname, options.context_headers)),
            source_schema,
            transaction_schema,
            message_topic: format!("{prefix}.message").into(),
            message_key,
            message_value,
            message_collection: "LOGICAL_DECODING_MESSAGE".into(),
            heartbeat_topic: format!("{}{delimiter}{prefix}", options.topic_heartbeat).into(),
            heartbeat_key,
            heartbeat_value,
            transaction_topic: format!("{prefix}{delimiter}{}", options.topic_transaction).into(),
            transaction_key: Arc::new(schemas::transaction_key(names)),
            transaction_value: Arc::new(schemas::transaction_value(names)),
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            filters,
        })
    }

    pub(crate) fn captures(&self, schema: &str, table: &str) -> bool {
        self.filters.table(schema, table)
    }

    /// Of the table's rows.
    pub(crate) fn topic(&self, schema: &str, table: &str) -> String {
        schemas::topic_name(&[&self.prefix, schema, table].join(&self.delimiter))
    }

    /// Made once for each version of a table: it compiles nothing but makes all schemas.
    ///
    /// # Errors
    /// `postgres.catalog`, retriable: the key names columns that the table does not have.
    pub(crate) fn table(&self, table: &Table, types: &Types) -> Result<Arc<TableModel>> {
        TableModel::new(self, table, types).map(Arc::new)
    }
}
