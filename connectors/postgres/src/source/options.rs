//! The options of `postgres-source`: Debezium's names, meanings and defaults, but where the documentation of an option says otherwise.

pub(crate) mod check;
pub(crate) mod modes;

use aqueduct_config::{ByteSize, Family, List, Millis, Regex, Secret};
use modes::*;
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Options {
    /// The first part of every topic's name, unique among all connectors. Do not change it later: topics and offsets are named by it.
    #[serde(rename = "topic.prefix")]
    #[schemars(length(min = 1, max = 200), extend("x-importance" = "high", "x-group" = "Topics", "x-example" = "shop"))]
    pub(crate) topic_prefix: String,

    /// The database server.
    #[serde(rename = "database.hostname")]
    #[schemars(length(min = 1), extend("x-importance" = "high", "x-group" = "Connection", "x-example" = "localhost"))]
    pub(crate) hostname: String,
    /// Its port.
    #[serde(rename = "database.port", default = "port")]
    #[schemars(range(min = 1), extend("x-importance" = "high", "x-group" = "Connection"))]
    pub(crate) port: u16,
    /// The role to connect as. It needs LOGIN and REPLICATION, and SELECT on the captured tables.
    #[serde(rename = "database.user")]
    #[schemars(length(min = 1), extend("x-importance" = "high", "x-group" = "Connection", "x-example" = "aqueduct"))]
    pub(crate) user: String,
    /// Its password; from a provider: `${env:PGPASSWORD}`.
    #[serde(rename = "database.password", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Connection"))]
    pub(crate) password: Option<Secret>,
    /// The database.
    #[serde(rename = "database.dbname")]
    #[schemars(length(min = 1), extend("x-importance" = "high", "x-group" = "Connection", "x-example" = "shop"))]
    pub(crate) dbname: String,
    /// Whether the connection is encrypted, and what is checked of the server's certificate.
    #[serde(rename = "database.sslmode", default)]
    #[schemars(extend("x-group" = "Connection"))]
    pub(crate) sslmode: SslMode,
    /// A PEM file with this client's certificate.
    #[serde(rename = "database.sslcert", default)]
    #[schemars(extend("x-group" = "Connection"))]
    pub(crate) sslcert: Option<String>,
    /// A file with its private key: PEM, or PKCS #8 as DER (what pgjdbc reads).
    #[serde(rename = "database.sslkey", default)]
    #[schemars(extend("x-group" = "Connection"))]
    pub(crate) sslkey: Option<String>,
    /// The password of that key, where it is encrypted (PKCS #8).
    #[serde(rename = "database.sslpassword", default)]
    #[schemars(extend("x-group" = "Connection"))]
    pub(crate) sslpassword: Option<Secret>,
    /// A PEM file with the authorities that sign the server's certificate; the system's if not given.
    #[serde(rename = "database.sslrootcert", default)]
    #[schemars(extend("x-group" = "Connection"))]
    pub(crate) sslrootcert: Option<String>,
    /// TCP keep-alive probes on the connections.
    #[serde(rename = "database.tcpKeepAlive", default = "yes")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Connection"))]
    pub(crate) tcp_keepalive: bool,
    /// SQL statements that each ordinary session begins with (not the stream's), apart by `;`. A semicolon within one is written `;;`.
    #[serde(rename = "database.initial.statements", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Connection"))]
    pub(crate) initial_statements: Option<String>,
    /// How long a query may take; 0: as long as it likes. Not for the reading of a snapshot.
    #[serde(rename = "database.query.timeout.ms", default = "ten_minutes")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Connection"))]
    pub(crate) query_timeout: Millis,
    /// How long connecting may take.
    #[serde(rename = "connection.validation.timeout.ms", default = "one_minute")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Connection"))]
    pub(crate) connect_timeout: Millis,

    /// The logical decoding plugin: `pgoutput`, which every server since 10 has. (Debezium's default is `decoderbufs`, which must be installed.)
    #[serde(rename = "plugin.name", default = "pgoutput")]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) plugin: String,
    /// The replication slot; made if it is not there. One for each connector.
    #[serde(rename = "slot.name", default = "debezium")]
    #[schemars(length(min = 1, max = 63), extend("x-importance" = "high", "x-group" = "Replication"))]
    pub(crate) slot: String,
    /// Drops the slot when the connector is stopped or deleted in order. Changes that happen until it starts again are lost. For tests.
    #[serde(rename = "slot.drop.on.stop", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) slot_drop_on_stop: bool,
    /// Makes the slot a failover slot, which standbys keep too. PostgreSQL 17 and later.
    #[serde(rename = "slot.failover", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) slot_failover: bool,
    /// More options for `START_REPLICATION`, as `name=value;…`.
    #[serde(rename = "slot.stream.params", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) slot_stream_params: Option<String>,
    /// Without effect: a slot that another client holds is tried for again by the worker's restarts.
    #[serde(rename = "slot.max.retries", default = "six")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) slot_retries: u32,
    /// Without effect: the worker's restarts back off by themselves.
    #[serde(rename = "slot.retry.delay.ms", default = "ten_seconds")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) slot_retry_delay: Millis,
    /// Not Debezium's. How much WAL the slot may hold back on the server's disk before `slot.wal.policy` applies; 0: no limit.
    #[serde(rename = "slot.wal.max.bytes", default)]
    #[schemars(extend("x-group" = "Replication", "x-example" = "50 GiB"))]
    pub(crate) wal_max: ByteSize,
    /// Not Debezium's. What happens above `slot.wal.max.bytes`.
    #[serde(rename = "slot.wal.policy", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) wal_policy: WalPolicy,
    /// The publication.
    #[serde(rename = "publication.name", default = "dbz_publication")]
    #[schemars(length(min = 1, max = 63), extend("x-importance" = "high", "x-group" = "Replication"))]
    pub(crate) publication: String,
    /// Who makes the publication, and for which tables. Debezium's default is `all_tables`; here it is `filtered`, which needs no superuser and keeps
    /// the changes of other tables from being sent.
    #[serde(rename = "publication.autocreate.mode", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) publication_mode: PublicationMode,
    /// Changes of partitions come as changes of the partitioned table.
    #[serde(rename = "publish.via.partition.root", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) via_root: bool,
    /// `ALTER TABLE … REPLICA IDENTITY …` for captured tables at the start, where it is another: `schema.table:FULL` with an expression over the name, and
    /// DEFAULT, FULL, NOTHING or `INDEX name`. Needs ownership of the tables.
    #[serde(rename = "replica.identity.autoset.values", default)]
    #[schemars(extend("x-group" = "Replication", "x-example" = "public\\..*:FULL"))]
    pub(crate) autoset_identity: Option<List<String>>,
    /// How often to tell the server how far we are.
    #[serde(rename = "status.update.interval.ms", default = "ten_seconds")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) status_interval: Millis,
    /// How often `source.xmin`, the slot's `catalog_xmin`, is looked up; 0: it stays null.
    #[serde(rename = "xmin.fetch.interval.ms", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) xmin_interval: Millis,
    /// `false` is `lsn.flush.mode: manual`.
    #[serde(rename = "flush.lsn.source", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) flush_lsn_source: Option<bool>,
    /// Who confirms LSNs to the server.
    #[serde(rename = "lsn.flush.mode", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) flush_mode: Option<FlushMode>,
    /// Without effect: LSNs are confirmed by the connection's own task, which waits for nobody.
    #[serde(rename = "lsn.flush.timeout.ms", default = "thirty_seconds")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) flush_timeout: Millis,
    /// Without effect: there is no such wait.
    #[serde(rename = "lsn.flush.timeout.action", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Replication"))]
    pub(crate) flush_timeout_action: TimeoutAction,
    /// Which counts when the stored offset and the slot are not at the same place.
    #[serde(rename = "offset.mismatch.strategy", default)]
    #[schemars(extend("x-group" = "Replication"))]
    pub(crate) mismatch: MismatchStrategy,

    /// When there is a snapshot of the tables.
    #[serde(rename = "snapshot.mode", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Snapshot"))]
    pub(crate) snapshot_mode: SnapshotMode,
    /// The isolation of the snapshot's transactions. `serializable` and `repeatable_read` are the same here: every chunk of it reads one exported
    /// snapshot, read-only.
    #[serde(rename = "snapshot.isolation.mode", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) snapshot_isolation: SnapshotIsolation,
    /// Locks that keep DDL out meanwhile.
    #[serde(rename = "snapshot.locking.mode", default)]
    #[schemars(extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_locking: SnapshotLocking,
    /// How long to wait for such a lock.
    #[serde(rename = "snapshot.lock.timeout.ms", default = "ten_seconds")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) snapshot_lock_timeout: Millis,
    /// Without effect: rows come by COPY. See `snapshot.chunk.rows`.
    #[serde(rename = "snapshot.fetch.size", default = "fetch_size")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) snapshot_fetch: u32,
    /// Not Debezium's. Rows of one chunk: what a crash repeats at most of each table.
    #[serde(rename = "snapshot.chunk.rows", default = "chunk_rows")]
    #[schemars(range(min = 1, max = 10_000_000), extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_chunk: u32,
    /// Tables that are read at the same time.
    #[serde(rename = "snapshot.max.threads", default = "one")]
    #[schemars(range(min = 1, max = 64), extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_threads: u32,
    /// Expressions over `schema.table`: the captured tables that a snapshot reads; all if not given.
    #[serde(rename = "snapshot.include.collection.list", default)]
    #[schemars(extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_include: Option<List<Regex>>,
    /// Tables (`schema.table`) whose rows a snapshot selects by a statement of its own: `snapshot.select.statement.overrides.<schema.table>`.
    #[serde(rename = "snapshot.select.statement.overrides", default)]
    #[schemars(extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_overrides: List<String>,
    /// The statement of a table in `snapshot.select.statement.overrides`.
    #[serde(rename = "snapshot.select.statement.overrides.*", default)]
    #[schemars(extend("x-group" = "Snapshot"))]
    pub(crate) snapshot_statements: Family<String>,
    /// Which tables come first, by their number of rows.
    #[serde(rename = "snapshot.tables.order.by.row.count", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) snapshot_order: TableOrder,
    /// Without effect: a snapshot begins at once.
    #[serde(rename = "snapshot.delay.ms", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) snapshot_delay: Millis,
    /// Without effect: the stream follows at once.
    #[serde(rename = "streaming.delay.ms", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) streaming_delay: Millis,
    /// Rows of one chunk of an incremental snapshot.
    #[serde(rename = "incremental.snapshot.chunk.size", default = "incremental_chunk")]
    #[schemars(range(min = 1), extend("x-group" = "Snapshot"))]
    pub(crate) incremental_chunk: u32,
    /// Without effect: the windows of an incremental snapshot are marked by logical messages.
    #[serde(rename = "incremental.snapshot.watermarking.strategy", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Snapshot"))]
    pub(crate) watermark: Watermark,
    /// The signal table, as `schema.table`: rows of `(id, type, data)`.
    #[serde(rename = "signal.data.collection", default)]
    #[schemars(extend("x-group" = "Signals", "x-example" = "public.debezium_signal"))]
    pub(crate) signal_table: Option<String>,
    /// Where signals come from: `source`, the signal table; `file`, see `signal.file`. The REST API always works.
    #[serde(rename = "signal.enabled.channels", default = "source_channel")]
    #[schemars(extend("x-group" = "Signals"))]
    pub(crate) signal_channels: List<String>,
    /// How often the file of signals is looked at. Others are seen as they come.
    #[serde(rename = "signal.poll.interval.ms", default = "five_seconds")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Signals"))]
    pub(crate) signal_interval: Millis,
    /// With the channel `file`: a file of signals, one a line, as JSON: `{"id":"1","type":"execute-snapshot","data":{…}}`. It is taken away when it is read.
    #[serde(rename = "signal.file", default = "signal_file")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Signals"))]
    pub(crate) signal_file: String,
    /// Nothing is written to the database: signals come from elsewhere, and the windows of an incremental snapshot are told from transaction ids.
    #[serde(rename = "read.only", default)]
    #[schemars(extend("x-group" = "Signals"))]
    pub(crate) read_only: bool,

    /// Expressions over whole names of schemas, case ignored: those that are captured.
    #[serde(rename = "schema.include.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) schema_include: Option<List<Regex>>,
    /// Those that are not.
    #[serde(rename = "schema.exclude.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) schema_exclude: Option<List<Regex>>,
    /// Expressions over whole names `schema.table`, case ignored: those that are captured; all if nothing is given.
    #[serde(rename = "table.include.list", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Filters", "x-example" = "public.orders,public.items"))]
    pub(crate) table_include: Option<List<Regex>>,
    /// Those that are not.
    #[serde(rename = "table.exclude.list", default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "Filters"))]
    pub(crate) table_exclude: Option<List<Regex>>,
    /// System tables are not captured.
    #[serde(rename = "table.ignore.builtin", default = "yes")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Filters"))]
    pub(crate) ignore_builtin: bool,
    /// Expressions over whole names `schema.table.column`, case ignored: the columns of a value. Those of the key always are.
    #[serde(rename = "column.include.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) column_include: Option<List<Regex>>,
    /// Those that are not.
    #[serde(rename = "column.exclude.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) column_exclude: Option<List<Regex>>,
    /// Expressions over whole prefixes of logical messages (`pg_logical_emit_message`): those that are captured.
    #[serde(rename = "message.prefix.include.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) message_include: Option<List<Regex>>,
    /// Those that are not.
    #[serde(rename = "message.prefix.exclude.list", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) message_exclude: Option<List<Regex>>,
    /// What is not captured: `c` inserts, `u` updates, `d` deletes, `t` truncates, or `none`.
    #[serde(rename = "skipped.operations", default = "truncates")]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) skipped: List<Operation>,
    /// Updates that change no captured column are not sent. Needs replica identity FULL.
    #[serde(rename = "skip.messages.without.change", default)]
    #[schemars(extend("x-group" = "Filters"))]
    pub(crate) skip_unchanged: bool,
    /// Without effect: any number of tables is captured.
    #[serde(rename = "guardrail.collections.max", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Filters"))]
    pub(crate) tables_max: u32,
    /// Without effect: any number of tables is captured.
    #[serde(rename = "guardrail.collections.limit.action", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Filters"))]
    pub(crate) tables_max_action: LimitAction,

    /// `column.mask.with.<n>.chars`: columns (expressions over `schema.table.column`) whose text becomes so many `*`.
    #[serde(rename = "column.mask.with.*", default)]
    #[schemars(extend("x-group" = "Columns"))]
    pub(crate) mask: Family<List<Regex>>,
    /// `column.mask.hash.<algorithm>.with.salt.<salt>` or `column.mask.hash.v2.…`: columns whose text becomes a salted hash, cut to the column's length.
    /// `SHA-256`, `SHA-384`, `SHA-512`, `SHA-224`, `SHA-1`, `MD5`.
    #[serde(rename = "column.mask.hash.*", default)]
    #[schemars(extend("x-group" = "Columns"))]
    pub(crate) hash: Family<List<Regex>>,
    /// `column.truncate.to.<n>.chars`: columns whose text is cut.
    #[serde(rename = "column.truncate.to.*", default)]
    #[schemars(extend("x-group" = "Columns"))]
    pub(crate) truncate: Family<List<Regex>>,
    /// Columns whose schema tells the type in the database (`__debezium.source.column.type` and so on).
    #[serde(rename = "column.propagate.source.type", default)]
    #[schemars(extend("x-group" = "Columns"))]
    pub(crate) propagate_columns: Option<List<Regex>>,
    /// The same by type: expressions over `schema.table.type`.
    #[serde(rename = "datatype.propagate.source.type", default)]
    #[schemars(extend("x-group" = "Columns"))]
    pub(crate) propagate_types: Option<List<Regex>>,
    /// Keys other than the primary key: `schema.table:column,column;…`, with expressions over the table's name.
    #[serde(rename = "message.key.columns", default)]
    #[schemars(extend("x-group" = "Columns", "x-example" = "public.orders:customer_id;public.(.*)log:id"))]
    pub(crate) key_columns: Option<String>,

    /// `numeric`, `decimal` and `money`: exact, as text, or as a floating-point number.
    #[serde(rename = "decimal.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) decimal: DecimalMode,
    /// Dates and times.
    #[serde(rename = "time.precision.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) time: TimeMode,
    /// `bytea`.
    #[serde(rename = "binary.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) binary: BinaryMode,
    /// `hstore`: a JSON text or a map.
    #[serde(rename = "hstore.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) hstore: HstoreMode,
    /// `interval`.
    #[serde(rename = "interval.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) interval: IntervalMode,
    /// Digits after the point of `money`, with `decimal.handling.mode: precise`.
    #[serde(rename = "money.fraction.digits", default = "two")]
    #[schemars(range(min = 0, max = 18), extend("x-group" = "Values"))]
    pub(crate) money_digits: u32,
    /// Stands for a large value that did not change and that the server did not send. Octets with `hex:…`.
    #[serde(rename = "unavailable.value.placeholder", default = "unavailable")]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) unavailable: String,
    /// Columns of types that are not known come as bytes in place of being left out.
    #[serde(rename = "include.unknown.datatypes", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) unknown_types: bool,
    /// What happens with a value that does not fit its column's schema.
    #[serde(rename = "event.converting.failure.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) convert_failure: ConvertFailureMode,
    /// Only `fail`: what the stream cannot read fails the task.
    #[serde(rename = "event.processing.failure.handling.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) failure: FailureMode,
    /// Without effect: the stream itself tells when a table has changed.
    #[serde(rename = "schema.refresh.mode", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Values"))]
    pub(crate) refresh: RefreshMode,
    /// What is done to names of schemas that a converter cannot have.
    #[serde(rename = "schema.name.adjustment.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) schema_names: NameAdjustment,
    /// The same for fields.
    #[serde(rename = "field.name.adjustment.mode", default)]
    #[schemars(extend("x-group" = "Values"))]
    pub(crate) field_names: NameAdjustment,

    /// A delete is followed by a record with its key and no value, for compacted topics.
    #[serde(rename = "tombstones.on.delete", default = "yes")]
    #[schemars(extend("x-group" = "Events"))]
    pub(crate) tombstones: bool,
    /// Records tell their transaction, and a topic tells when transactions begin and end and how many events they have.
    #[serde(rename = "provide.transaction.metadata", default)]
    #[schemars(extend("x-group" = "Events"))]
    pub(crate) transactions: bool,
    /// Headers `__debezium.context.*` with the names of connector and task.
    #[serde(rename = "extended.headers.enabled", default = "yes")]
    #[schemars(extend("x-group" = "Events"))]
    pub(crate) context_headers: bool,
    /// The topic of `provide.transaction.metadata`, after the prefix.
    #[serde(rename = "topic.transaction", default = "transaction")]
    #[schemars(extend("x-group" = "Topics"))]
    pub(crate) topic_transaction: String,
    /// Between the parts of a topic's name.
    #[serde(rename = "topic.delimiter", default = "dot")]
    #[schemars(length(min = 1), extend("x-group" = "Topics"))]
    pub(crate) topic_delimiter: String,
    /// The topic of heartbeats is this, the delimiter, and the prefix.
    #[serde(rename = "topic.heartbeat.prefix", default = "heartbeat_prefix")]
    #[schemars(extend("x-group" = "Topics", "x-aliases" = ["heartbeat.topics.prefix"]))]
    pub(crate) topic_heartbeat: String,
    /// How often to write a heartbeat into the WAL when nothing came, so that the slot moves on while only other tables change. Debezium's default is
    /// 0, never; here it is on, since without it an idle table lets the server's disk fill. Heartbeat *records* are only sent where this option is given.
    #[serde(rename = "heartbeat.interval.ms", default)]
    #[schemars(extend("x-group" = "Events", "x-example" = "10s"))]
    pub(crate) heartbeat_interval: Option<Millis>,
    /// SQL to run with each heartbeat.
    #[serde(rename = "heartbeat.action.query", default)]
    #[schemars(extend("x-group" = "Events"))]
    pub(crate) heartbeat_query: Option<String>,

    /// Without effect: batches are bounded by the worker.
    #[serde(rename = "max.batch.size", default = "batch_size")]
    #[schemars(range(min = 1, max = 1_000_000), extend("x-importance" = "low", "x-group" = "Limits"))]
    pub(crate) batch_size: u32,
    /// Without effect: what is read ahead is bounded in bytes, by `max.queue.size.in.bytes`.
    #[serde(rename = "max.queue.size", default = "queue_size")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Limits"))]
    pub(crate) queue_size: u32,
    /// The most bytes that are read ahead; 0: what the worker allows a task.
    #[serde(rename = "max.queue.size.in.bytes", default)]
    #[schemars(extend("x-importance" = "low", "x-group" = "Limits"))]
    pub(crate) queue_bytes: ByteSize,
    /// Without effect: what is there is sent at once.
    #[serde(rename = "poll.interval.ms", default = "half_second")]
    #[schemars(range(min = 1), extend("x-importance" = "low", "x-group" = "Limits"))]
    pub(crate) poll_interval: Millis,
    /// Without effect: the worker restarts tasks, see `restart.*`.
    #[serde(rename = "retriable.restart.connector.wait.ms", default = "ten_seconds")]
    #[schemars(extend("x-importance" = "low", "x-group" = "Limits"))]
    pub(crate) retriable_wait: Millis,

    #[serde(flatten)]
    pub(crate) foreign: check::Foreign,
}

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => {$(fn $name() -> $type { $value })*};
}

defaults! {
    yes: bool = true;
    port: u16 = 5432;
    one: u32 = 1;
    two: u32 = 2;
    six: u32 = 6;
    fetch_size: u32 = 10_240;
    chunk_rows: u32 = 50_000;
    incremental_chunk: u32 = 1024;
    batch_size: u32 = 2048;
    queue_size: u32 = 8192;
    half_second: Millis = Millis::from_millis(500);
    five_seconds: Millis = Millis::from_secs(5);
    ten_seconds: Millis = Millis::from_secs(10);
    thirty_seconds: Millis = Millis::from_secs(30);
    one_minute: Millis = Millis::from_secs(60);
    ten_minutes: Millis = Millis::from_secs(600);
    pgoutput: String = "pgoutput".to_owned();
    debezium: String = "debezium".to_owned();
    dbz_publication: String = "dbz_publication".to_owned();
    signal_file: String = "file-signals.txt".to_owned();
    unavailable: String = "__debezium_unavailable_value".to_owned();
    transaction: String = "transaction".to_owned();
    dot: String = ".".to_owned();
    heartbeat_prefix: String = "__debezium-heartbeat".to_owned();
    source_channel: List<String> = List(vec!["source".to_owned()]);
    truncates: List<Operation> = List(vec![Operation::T]);
}
