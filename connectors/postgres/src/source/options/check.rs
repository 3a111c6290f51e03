//! What types alone cannot say of the options; and Debezium's options that mean nothing here.

use super::modes::{FailureMode, FlushMode, LimitAction, RefreshMode, SnapshotIsolation, TimeoutAction, Watermark};
use super::{List, Millis, Options, Regex};
use crate::debezium::columns::Hash;
use aqueduct_core::Issue;
use aqueduct_core::offset::is_valid_topic_name;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Written into the WAL this often when nothing comes, unless `heartbeat.interval.ms` says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(10);

macro_rules! foreign {
    ($($field:ident $name:literal [$($accepted:literal),*] $why:literal;)*) => {
        /// Options of Debezium that name Java classes, JMX and the like: taken with their defaults, refused with anything else.
        /// Texts only: they are read through `#[serde(flatten)]`, which knows no numbers in text.
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        pub(crate) struct Foreign {
            $(
                #[doc = concat!("Of Debezium; not for Aqueduct: ", $why, ".")]
                #[serde(rename = $name, default)]
                #[schemars(extend("x-importance" = "low", "x-group" = "Without effect"))]
                $field: Option<String>,
            )*
        }

        impl Foreign {
            fn each(&self) -> impl Iterator<Item = (&'static str, &Option<String>, &'static [&'static str], &'static str)> {
                [$(($name, &self.$field, &[$($accepted),*] as &[&str], $why)),*].into_iter()
            }
        }
    };
}

/// In a list of accepted values: any.
const ANY: &str = "*";

foreign! {
    naming "topic.naming.strategy" ["io.debezium.schema.SchemaTopicNamingStrategy"] "the names of topics are those of SchemaTopicNamingStrategy; use the transform RegexRouter for others";
    metadata "transaction.metadata.factory" ["io.debezium.pipeline.txmetadata.DefaultTransactionMetadataFactory"] "Java classes cannot be loaded";
    struct_maker "sourceinfo.struct.maker" ["io.debezium.connector.postgresql.PostgresSourceInfoStructMaker"] "Java classes cannot be loaded";
    converters "converters" [""] "custom converters are Java classes; use a transform";
    processors "post.processors" [""] "post processors are Java classes; use a transform";
    ssl_factory "database.sslfactory" [""] "socket factories are Java classes; see database.sslmode";
    connection_factory "database.connection.factory.class" [""] "connection factories are Java classes";
    snapshot_custom "snapshot.mode.custom.name" [""] "custom snapshotters are Java classes";
    locking_custom "snapshot.locking.mode.custom.name" [""] "custom locks are Java classes";
    query_custom "snapshot.query.mode.custom.name" [""] "custom queries are Java classes; see snapshot.select.statement.overrides";
    query_mode "snapshot.query.mode" ["select_all"] "custom queries are Java classes; see snapshot.select.statement.overrides";
    based_data "snapshot.mode.configuration.based.snapshot.data" ["false"] "the mode configuration_based is not there; choose one of the others";
    based_schema "snapshot.mode.configuration.based.snapshot.schema" ["false"] "the mode configuration_based is not there; choose one of the others";
    based_stream "snapshot.mode.configuration.based.start.stream" ["false"] "the mode configuration_based is not there; choose one of the others";
    based_schema_error "snapshot.mode.configuration.based.snapshot.on.schema.error" ["false"] "the mode configuration_based is not there; choose one of the others";
    based_data_error "snapshot.mode.configuration.based.snapshot.on.data.error" ["false"] "the mode configuration_based is not there; choose when_needed";
    notifications "notification.enabled.channels" ["", "log", "jmx", "log,jmx", "jmx,log"] "notifications go to the log and the status; there is no topic of them";
    lineage "openlineage.integration.enabled" ["false"] "OpenLineage is not there";
    retries "errors.max.retries" ["*"] "the worker restarts tasks: see restart.*";
    metric_tags "custom.metric.tags" ["*"] "there is no JMX; metrics have labels of connector and task";
    sanitize "custom.sanitize.pattern" ["*"] "secrets are known by their options";
    topic_cache "topic.cache.size" ["*"] "names of topics are made once for each table";
    fetch "query.fetch.size" ["*"] "the stream has no cursor";
    shutdown "executor.shutdown.timeout.ms" ["*"] "the worker's shutdown.timeout counts";
    allow_changes "incremental.snapshot.allow.schema.changes" ["*"] "DDL is always allowed meanwhile";
    retriable "custom.retriable.exception" ["*"] "errors are classified by SQLSTATE";
    statistics "statistics.metrics.enabled" ["*"] "there is no JMX; latencies are metrics anyway";
    advanced_metrics "advanced.metrics.enable" ["*"] "there is no JMX; see the worker's metrics";
    create_timeout "create.slot.command.timeout" ["*"] "database.query.timeout.ms counts";
    seek "slot.seek.to.known.offset.on.start" ["false"] "use offset.mismatch.strategy";
    multiplier "snapshot.max.threads.multiplier" ["*"] "a table's chunks are read one after the other";
    scan "snapshot.scan.all.columns.force" ["*"] "the captured columns alone are read";
    activity "offset.activity.monitor.interval.ms" ["*"] "the worker's clocks tell whether a task moves";
    dispatch "poll.dispatch.interval.ms" ["*"] "what is there is always sent at once";
    queue "queue.provider.type" ["*"] "the queue is in memory, within max.queue.size.in.bytes";
    position_check "log.position.check.enable" ["*"] "the offset is always checked against the slot";
    comments "include.schema.comments" ["*"] "comments are not read";
    lineage_file "openlineage.integration.config.file.path" ["*"] "OpenLineage is not there";
    lineage_namespace "openlineage.integration.job.namespace" ["*"] "OpenLineage is not there";
    lineage_description "openlineage.integration.job.description" ["*"] "OpenLineage is not there";
    lineage_tags "openlineage.integration.job.tags" ["*"] "OpenLineage is not there";
    lineage_owners "openlineage.integration.job.owners" ["*"] "OpenLineage is not there";
    schema_changes "include.schema.changes" ["*"] "PostgreSQL does not send DDL; schemas come with the records";
}

impl Options {
    /// Every issue. Pure.
    pub(crate) fn issues(&self) -> Vec<Issue> {
        let mut issues = Vec::new();
        self.check_names(&mut issues);
        self.check_pairs(&mut issues);
        self.check_columns(&mut issues);
        self.check_idle(&mut issues);
        for (name, value, accepted, why) in self.foreign.each() {
            let Some(value) = value.as_deref().map(str::trim) else { continue };
            if accepted.contains(&ANY) {
                issues.push(Issue::warning(name, "postgres.no_effect", format!("has no effect: {why}")));
            } else if !accepted.iter().any(|one| one.eq_ignore_ascii_case(value)) {
                issues.push(
                    Issue::error(name, "postgres.unsupported", format!("{value:?} is not possible: {why}")).fix("remove it"),
                );
            }
        }
        issues
    }

    fn check_names(&self, issues: &mut Vec<Issue>) {
        for (option, text) in [
            ("topic.prefix", &self.topic_prefix),
            ("topic.delimiter", &self.topic_delimiter),
            ("topic.transaction", &self.topic_transaction),
            ("topic.heartbeat.prefix", &self.topic_heartbeat),
        ] {
            if !is_valid_topic_name(&format!("a{text}")) || text.is_empty() {
                let issue = Issue::error(option, "config.topic", format!("{text:?} cannot be part of a topic's name"));
                issues.push(issue.fix("use letters, digits, `.`, `_` and `-`"));
            }
        }
        let slot = self.slot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !slot {
            let issue =
                Issue::error("slot.name", "postgres.slot_name", format!("{:?} is not a name that PostgreSQL allows", self.slot));
            issues.push(issue.fix("use lower-case letters, digits and `_`"));
        }
        if self.plugin != "pgoutput" {
            let why = "reads only what pgoutput sends, which every server since PostgreSQL 10 has built in";
            let fix = if self.plugin == "decoderbufs" || self.plugin == "wal2json" {
                "set `plugin.name: pgoutput`, drop the old slot or give another slot.name: a slot is bound to its plugin"
            } else {
                "set `plugin.name: pgoutput`"
            };
            issues.push(Issue::error("plugin.name", "postgres.plugin", why).fix(fix));
        }
        for entry in self.autoset_identity.iter().flat_map(|list| list.iter()) {
            if let Err(why) = autoset(entry) {
                let fix = "write `schema.table:FULL`, with DEFAULT, FULL, NOTHING or INDEX name";
                issues.push(Issue::error("replica.identity.autoset.values", "postgres.replica_identity", why).fix(fix));
            }
        }
        for channel in self.signal_channels.iter().filter(|name| !["source", "file"].contains(&name.as_str())) {
            let issue =
                Issue::error("signal.enabled.channels", "postgres.unsupported", format!("there is no channel {channel:?}"));
            issues.push(issue.fix("use source or file; signals can always be sent by the REST API"));
        }
        if let Some(table) = self.signal_table.as_deref().filter(|table| table.split('.').count() < 2) {
            let issue = Issue::error("signal.data.collection", "postgres.signal_table", format!("{table:?} has no schema"));
            issues.push(issue.fix("write schema.table"));
        }
        for table in self.snapshot_overrides.iter().filter(|table| !self.snapshot_statements.contains_key(*table)) {
            let key = format!("snapshot.select.statement.overrides.{table}");
            issues.push(
                Issue::error(key, "config.missing", "is required, since the table is listed").fix("add the statement: SELECT …"),
            );
        }
    }

    fn check_pairs(&self, issues: &mut Vec<Issue>) {
        let given = |list: &Option<List<Regex>>| list.as_ref().is_some_and(|list| !list.is_empty());
        for (include, exclude, what) in [
            (&self.schema_include, &self.schema_exclude, "schema"),
            (&self.table_include, &self.table_exclude, "table"),
            (&self.column_include, &self.column_exclude, "column"),
            (&self.message_include, &self.message_exclude, "message.prefix"),
        ] {
            if given(include) && given(exclude) {
                let issue = Issue::error(
                    format!("{what}.exclude.list"),
                    "postgres.filters",
                    format!("stands beside {what}.include.list"),
                );
                issues.push(issue.fix("remove one of them"));
            }
        }
        if let (Some(flush), Some(mode)) = (self.flush_lsn_source, self.flush_mode)
            && flush == (mode == FlushMode::Manual)
        {
            issues.push(Issue::error("flush.lsn.source", "postgres.flush", "contradicts lsn.flush.mode").fix("remove it"));
        }
        if self.read_only && self.autoset_identity.is_some() {
            let issue = Issue::error(
                "replica.identity.autoset.values",
                "postgres.read_only",
                "writes to the database, and read.only is set",
            );
            issues.push(issue.fix("run ALTER TABLE … REPLICA IDENTITY … by hand, and remove it"));
        }
        if let Some(hex) = self.unavailable.strip_prefix("hex:")
            && crate::debezium::text::hex(hex.as_bytes()).is_none()
        {
            issues.push(Issue::error("unavailable.value.placeholder", "postgres.hex", "is not hexadecimal after `hex:`"));
        }
    }

    /// Options that mean something to Debezium and nothing here: told when they are set to anything but their default, never in silence.
    fn check_idle(&self, issues: &mut Vec<Issue>) {
        let consistent =
            !matches!(self.snapshot_isolation, SnapshotIsolation::ReadCommitted | SnapshotIsolation::ReadUncommitted);
        let millis = |millis: Millis| millis.as_millis();
        for (idle, option, why) in [
            (consistent, "snapshot.isolation.mode", "a snapshot is always one consistent state of the database"),
            (
                self.slot_retries == 6,
                "slot.max.retries",
                "a slot that another client holds is tried for again by the worker's restarts",
            ),
            (millis(self.slot_retry_delay) == 10_000, "slot.retry.delay.ms", "the worker's restarts back off by themselves"),
            (
                millis(self.flush_timeout) == 30_000,
                "lsn.flush.timeout.ms",
                "LSNs are confirmed by the connection's own task, which waits for nobody",
            ),
            (self.flush_timeout_action == TimeoutAction::Fail, "lsn.flush.timeout.action", "there is no such wait"),
            (self.snapshot_fetch == 10_240, "snapshot.fetch.size", "rows come by COPY; see snapshot.chunk.rows"),
            (
                self.watermark == Watermark::InsertInsert,
                "incremental.snapshot.watermarking.strategy",
                "windows are marked by logical messages",
            ),
            (self.queue_size == 8192, "max.queue.size", "what is read ahead is bounded in bytes: max.queue.size.in.bytes"),
            (millis(self.poll_interval) == 500, "poll.interval.ms", "what is there is sent at once"),
            (
                millis(self.retriable_wait) == 10_000,
                "retriable.restart.connector.wait.ms",
                "the worker restarts tasks: restart.*",
            ),
            (millis(self.snapshot_delay) == 0, "snapshot.delay.ms", "a snapshot begins at once"),
            (millis(self.streaming_delay) == 0, "streaming.delay.ms", "the stream follows at once"),
            (self.batch_size == 2048, "max.batch.size", "batches are bounded by the worker"),
            (self.refresh == RefreshMode::ColumnsDiff, "schema.refresh.mode", "the stream itself tells when a table has changed"),
            (
                millis(self.signal_interval) == 5000 || self.signals_by_file(),
                "signal.poll.interval.ms",
                "signals are seen as they come, but for those of a file",
            ),
            (
                self.signal_file == "file-signals.txt" || self.signals_by_file(),
                "signal.file",
                "signal.enabled.channels does not have `file`",
            ),
            (
                self.tables_max_action == LimitAction::Warn,
                "guardrail.collections.limit.action",
                "any number of tables is captured",
            ),
            (self.tables_max == 0, "guardrail.collections.max", "any number of tables is captured"),
            (
                self.failure == FailureMode::Fail,
                "event.processing.failure.handling.mode",
                "what the stream cannot read fails the task",
            ),
        ] {
            if !idle {
                issues.push(Issue::warning(option, "postgres.no_effect", format!("has no effect: {why}")));
            }
        }
    }

    fn check_columns(&self, issues: &mut Vec<Issue>) {
        let mut refuse =
            |key: String, fix: &str| issues.push(Issue::error(key, "config.unknown_key", "is not an option").fix(fix));
        for suffix in self.mask.keys().filter(|suffix| chars(suffix).is_none()) {
            refuse(format!("column.mask.with.{suffix}"), "write column.mask.with.<n>.chars");
        }
        for suffix in self.truncate.keys().filter(|suffix| chars(suffix).is_none()) {
            refuse(format!("column.truncate.to.{suffix}"), "write column.truncate.to.<n>.chars");
        }
        for suffix in self.hash.keys() {
            if let Err(why) = Hash::parse(suffix) {
                refuse(format!("column.mask.hash.{suffix}"), why);
            }
        }
        if let Some(text) = &self.key_columns
            && let Err(why) = crate::debezium::columns::KeyColumns::parse(text)
        {
            let issue = Issue::error("message.key.columns", "postgres.key_columns", why);
            issues.push(issue.fix("write schema.table:column,column;schema.table:column"));
        }
    }

    /// How often something is written into the WAL when nothing comes; `None`: never.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        match self.heartbeat_interval.map(Millis::duration) {
            None => (!self.read_only).then_some(HEARTBEAT),
            Some(interval) => (!interval.is_zero()).then_some(interval),
        }
    }

    /// Whether heartbeats are sent as records too.
    pub(crate) fn heartbeat_records(&self) -> bool {
        self.heartbeat_interval.is_some_and(|interval| !interval.duration().is_zero())
    }

    pub(crate) fn confirms(&self) -> bool {
        self.flush_mode.map_or(self.flush_lsn_source != Some(false), |mode| mode != FlushMode::Manual)
    }

    pub(crate) fn signals_by_file(&self) -> bool {
        self.signal_channels.iter().any(|channel| channel == "file")
    }

    /// `database.initial.statements`, one by one. As Debezium's: `;;` is a semicolon within one.
    pub(crate) fn initial_statements(&self) -> Vec<String> {
        const SEMICOLON: &str = "\0";
        let text = self.initial_statements.as_deref().unwrap_or_default().replace(";;", SEMICOLON);
        let statements = text.split(';').map(|one| one.trim().replace(SEMICOLON, ";"));
        statements.filter(|statement| !statement.is_empty()).collect()
    }

    /// `(expression over the table, what follows REPLICA IDENTITY)`, in order.
    pub(crate) fn identities(&self) -> Vec<(Regex, String)> {
        self.autoset_identity.iter().flat_map(|list| list.iter()).filter_map(|entry| autoset(entry).ok()).collect()
    }
}

/// `n` of `n.chars`.
pub(crate) fn chars(suffix: &str) -> Option<usize> {
    suffix.strip_suffix(".chars")?.parse().ok()
}

fn autoset(entry: &str) -> Result<(Regex, String), String> {
    let (table, identity) = entry.rsplit_once(':').ok_or_else(|| format!("{entry:?} has no `:`"))?;
    let upper = identity.trim().to_ascii_uppercase();
    let identity = match upper.split_once(char::is_whitespace) {
        None if ["DEFAULT", "FULL", "NOTHING"].contains(&upper.as_str()) => upper,
        Some(("INDEX", _)) => {
            let name = identity.trim()["INDEX".len()..].trim().trim_matches('"');
            format!("USING INDEX \"{}\"", name.replace('"', "\"\""))
        }
        _ => return Err(format!("{:?} is not a replica identity", identity.trim())),
    };
    Regex::parse(&format!("(?i)^(?:{})$", table.trim())).map(|regex| (regex, identity))
}
