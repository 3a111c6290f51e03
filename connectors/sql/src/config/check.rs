//! What types alone cannot say, and what the task needs.

use super::mapping::whole;
use super::{Columns, Config, Granularity, Isolation, Mode, NumericMapping, Quote};
use crate::tables::Wanted;
use crate::temporal::Zone;
use crate::url::{self, Dialect, Target};
use aqueduct_config::Regex;
use aqueduct_core::Issue;
use std::time::Duration;

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) attempts: u32,
    pub(crate) backoff: Duration,
    pub(crate) wanted: Wanted,
    pub(crate) table_interval: Duration,
    pub(crate) mode: Mode,
    pub(crate) incrementing: Columns,
    pub(crate) timestamps: Columns,
    /// Milliseconds; -1 is now.
    pub(crate) initial: Option<i64>,
    pub(crate) validate_non_null: bool,
    pub(crate) query: Option<String>,
    pub(crate) suffix: String,
    pub(crate) quote: bool,
    pub(crate) interval: Duration,
    pub(crate) batch_rows: usize,
    pub(crate) delay: Duration,
    pub(crate) zone: Zone,
    pub(crate) prefix: String,
    pub(crate) granularity: Granularity,
    pub(crate) numeric: NumericMapping,
    pub(crate) isolation: Isolation,
    /// This task's number and how many there are.
    pub(crate) share: (u64, u64),
}

/// Confluent's kinds that these databases have.
const TYPES: &[&str] = &["TABLE", "VIEW", "MATERIALIZED VIEW", "PARTITIONED TABLE", "FOREIGN TABLE"];

impl Config {
    /// # Errors
    /// Every issue; without an error, the warnings come beside the settings.
    pub(crate) fn settings(&self, share: (u64, u64)) -> Result<(Settings, Vec<Issue>), Vec<Issue>> {
        let mut issues = Vec::new();
        let target = self.target(&mut issues);
        let query = self.query(&mut issues);
        let wanted = self.wanted(query.is_some(), &mut issues);
        let (incrementing, timestamps) = self.columns(&mut issues);
        let zone = Zone::parse(&self.zone).map_err(|reason| {
            issues
                .push(Issue::error("db.timezone", "sql.timezone", reason).fix("use a name such as UTC, Europe/Berlin or +02:00"));
        });
        self.warnings(&mut issues);
        if self.isolation == Isolation::SqlServerSnapshot {
            let issue = Issue::error("transaction.isolation.mode", "sql.isolation", "SQL_SERVER_SNAPSHOT is of SQL Server alone");
            issues.push(issue.fix("use REPEATABLE_READ"));
        }
        if let Some(initial) = self.initial.filter(|initial| *initial < -1) {
            let issue = Issue::error("timestamp.initial", "sql.initial", format!("{initial} is before 1970"));
            issues.push(issue.fix("use milliseconds since 1970, or -1 for the moment of the first start"));
        }
        match (target, zone) {
            (Some(target), Ok(zone)) if !issues.iter().any(Issue::is_error) => {
                let settings = Settings {
                    target,
                    attempts: self.attempts,
                    backoff: self.backoff.duration(),
                    wanted,
                    table_interval: self.table_interval.duration(),
                    mode: self.mode,
                    incrementing,
                    timestamps,
                    initial: self.initial,
                    validate_non_null: self.validate_non_null,
                    query,
                    suffix: self.suffix.as_deref().unwrap_or_default().trim().to_owned(),
                    quote: self.quote == Quote::Always,
                    interval: self.interval.duration(),
                    batch_rows: self.batch_rows.map_or(usize::MAX, |rows| rows as usize),
                    delay: self.delay.duration(),
                    zone,
                    prefix: self.prefix.clone(),
                    granularity: self.granularity,
                    numeric: self.numeric_mapping(),
                    isolation: self.isolation,
                    share,
                };
                Ok((settings, issues))
            }
            _ => Err(issues),
        }
    }

    fn numeric_mapping(&self) -> NumericMapping {
        let older = if self.numeric_precision { NumericMapping::PrecisionOnly } else { NumericMapping::None };
        self.numeric.unwrap_or(older)
    }

    fn target(&self, issues: &mut Vec<Issue>) -> Option<Target> {
        let mut target = match url::parse(&self.url) {
            Ok(target) => target,
            Err(reason) => {
                let issue = Issue::error("connection.url", "sql.url", reason);
                issues.push(issue.fix(
                    "use jdbc:postgresql://host:5432/database, jdbc:mysql://host:3306/database or jdbc:sqlite:/path/file.db",
                ));
                return None;
            }
        };
        if let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) {
            user.clone_into(&mut target.user);
        }
        if let Some(password) = &self.password {
            target.password = Some(password.clone());
        }
        if target.user.is_empty() && target.dialect != Dialect::Sqlite {
            issues.push(
                Issue::error("connection.user", "config.missing", "nobody is named to log in").fix("add `connection.user: …`"),
            );
        }
        if !target.ignored.is_empty() {
            let names = target.ignored.join(", ");
            issues.push(Issue::warning(
                "connection.url",
                "sql.url_parameter",
                format!("parameters that mean nothing here: {names}"),
            ));
        }
        self.dialect(&target, issues);
        Some(target)
    }

    fn dialect(&self, target: &Target, issues: &mut Vec<Issue>) {
        let Some(name) = self.dialect.as_deref().map(str::trim).filter(|name| !name.is_empty()) else { return };
        let expected = match target.dialect {
            Dialect::Postgres => "PostgreSqlDatabaseDialect",
            Dialect::MySql => "MySqlDatabaseDialect",
            Dialect::Sqlite => "SqliteDatabaseDialect",
        };
        if !name.eq_ignore_ascii_case(expected) && !name.eq_ignore_ascii_case("GenericDatabaseDialect") {
            let issue = Issue::error("dialect.name", "sql.dialect", format!("{name:?} is not the dialect of connection.url"));
            issues.push(issue.fix(format!("remove it, or use {expected}")));
        }
    }

    fn query(&self, issues: &mut Vec<Issue>) -> Option<String> {
        let plain = self.query.as_deref().map(str::trim).filter(|query| !query.is_empty());
        let masked = self.query_masked.as_ref().map(|query| query.expose().trim()).filter(|query| !query.is_empty());
        if plain.is_some() && masked.is_some() {
            issues.push(Issue::error("query.masked", "sql.query_twice", "stands beside query").fix("remove one of them"));
        }
        plain.or(masked).map(|query| query.trim_end_matches([';', ' ', '\n', '\t', '\r']).to_owned())
    }

    fn wanted(&self, query: bool, issues: &mut Vec<Issue>) -> Wanted {
        let lists = [
            ("table.whitelist", !self.whitelist.is_empty()),
            ("table.include.list", !self.include.is_empty()),
            ("table.blacklist", !self.blacklist.is_empty()),
            ("table.exclude.list", !self.exclude.is_empty()),
        ];
        let given: Vec<&str> = lists.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        let both = |a: &str, b: &str| given.contains(&a) && given.contains(&b);
        for (a, b) in [
            ("table.whitelist", "table.blacklist"),
            ("table.whitelist", "table.include.list"),
            ("table.whitelist", "table.exclude.list"),
            ("table.blacklist", "table.include.list"),
            ("table.blacklist", "table.exclude.list"),
        ] {
            if both(a, b) {
                issues.push(Issue::error(b, "sql.lists", format!("stands beside {a}")).fix("remove one of them"));
            }
        }
        if query {
            for name in &given {
                issues.push(Issue::error(*name, "sql.query_and_tables", "stands beside query").fix("remove one of them"));
            }
        }
        for kind in self.types.iter().filter(|kind| !TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known))) {
            let issue = Issue::error("table.types", "sql.table_type", format!("{kind:?} is no kind of table here"));
            issues.push(issue.fix(format!("use {}", TYPES.join(", "))));
        }
        let patterns = |list: &[Regex]| list.iter().filter_map(|pattern| whole(pattern.as_str()).ok()).collect();
        Wanted {
            whitelist: self.whitelist.0.clone(),
            blacklist: self.blacklist.0.clone(),
            include: patterns(&self.include),
            exclude: patterns(&self.exclude),
            types: self.types.iter().map(|kind| kind.to_ascii_uppercase()).collect(),
            catalog: self.catalog_pattern.clone(),
            schema: self.schema_pattern.clone(),
        }
    }

    fn columns(&self, issues: &mut Vec<Issue>) -> (Columns, Columns) {
        let mut pick = |name: &'static str, fixed: Columns, mapping: &'static str, entries: &[String], counts: bool| {
            if !fixed.is_empty() && !entries.is_empty() {
                issues.push(Issue::error(mapping, "sql.columns", format!("stands beside {name}")).fix("remove one of them"));
            }
            let columns = if entries.is_empty() {
                fixed
            } else {
                Columns::by_table(entries).unwrap_or_else(|reason| {
                    let issue = Issue::error(mapping, "sql.columns", reason);
                    issues.push(issue.fix("use regex:column, or regex:[column|column] for timestamps"));
                    fixed
                })
            };
            if !columns.is_empty() && !counts {
                let used = if entries.is_empty() { name } else { mapping };
                let mode = format!("{:?}", self.mode).to_lowercase();
                issues.push(Issue::warning(used, "sql.columns", format!("means nothing in mode {mode}")));
            }
            columns
        };
        let incrementing = Columns::fixed(self.incrementing.clone());
        let incrementing = pick(
            "incrementing.column.name",
            incrementing,
            "incrementing.column.mapping",
            &self.incrementing_mapping,
            self.mode.by_id(),
        );
        let timestamps = Columns::fixed(self.timestamps.0.clone());
        let timestamps =
            pick("timestamp.column.name", timestamps, "timestamp.columns.mapping", &self.timestamp_mapping, self.mode.by_time());
        if self.mode.by_time() && timestamps.is_empty() {
            let issue = Issue::error("timestamp.column.name", "config.missing", "the mode needs it");
            issues.push(issue.fix("add `timestamp.column.name: updated_at`"));
        }
        let query = self.query.is_some() || self.query_masked.is_some();
        if self.mode.by_id() && incrementing.is_empty() && query {
            let issue = Issue::error(
                "incrementing.column.name",
                "config.missing",
                "the mode needs it, since a query's columns do not tell",
            );
            issues.push(issue.fix("add `incrementing.column.name: id`"));
        }
        (incrementing, timestamps)
    }

    fn warnings(&self, issues: &mut Vec<Issue>) {
        for (name, given) in [
            ("query.retry.attempts", self.retries.is_some_and(|n| n != -1)),
            ("db.fetch.size", self.fetch_size.is_some_and(|n| n != 0)),
        ] {
            if given {
                issues.push(Issue::warning(name, "sql.no_effect", "means nothing here").fix("remove it"));
            }
        }
        let suffix = self.suffix.as_deref().unwrap_or_default().to_ascii_lowercase();
        if self.mode == Mode::Timestamp && (suffix.contains("limit") || suffix.contains("fetch")) {
            let issue = Issue::warning(
                "query.suffix",
                "sql.suffix_loses",
                "a limit may cut through rows of equal time; those behind it are never read",
            );
            issues.push(issue.fix("use mode timestamp+incrementing, and batch.max.rows for smaller batches"));
        }
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_core::Options;

    fn judged(more: &[(&str, &str)]) -> Vec<(bool, String, String)> {
        let plugin = crate::plugins().remove(0);
        let mut options: Options = [("connection.url", "jdbc:sqlite:/x.db"), ("mode", "bulk"), ("topic.prefix", "t.")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        options.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        options.retain(|_, value| value != "-");
        plugin.validate(&options).into_iter().map(|issue| (issue.is_error(), issue.path, issue.code)).collect()
    }

    #[test]
    fn issues() {
        assert!(judged(&[]).is_empty());
        let one = |more: &[(&str, &str)]| {
            let found = judged(more);
            assert_eq!(found.len(), 1, "{more:?}: {found:?}");
            found.into_iter().next().unwrap()
        };
        for (more, error, path, code) in [
            (&[("mode", "-")] as &[_], true, "mode", "config.missing"),
            (&[("mode", "sometimes")], true, "mode", "config.enum"),
            (&[("connection.url", "jdbc:oracle:x")], true, "connection.url", "sql.url"),
            (&[("connection.url", "jdbc:mysql://h/db")], true, "connection.user", "config.missing"),
            (&[("mode", "timestamp")], true, "timestamp.column.name", "config.missing"),
            (&[("mode", "incrementing"), ("query", "select 1")], true, "incrementing.column.name", "config.missing"),
            (&[("table.whitelist", "a"), ("table.blacklist", "b")], true, "table.blacklist", "sql.lists"),
            (&[("table.whitelist", "a"), ("query", "select 1")], true, "table.whitelist", "sql.query_and_tables"),
            (&[("table.types", "SYNONYM")], true, "table.types", "sql.table_type"),
            (&[("db.timezone", "Mars/Olympus")], true, "db.timezone", "sql.timezone"),
            (&[("dialect.name", "OracleDatabaseDialect")], true, "dialect.name", "sql.dialect"),
            (&[("transaction.isolation.mode", "SQL_SERVER_SNAPSHOT")], true, "transaction.isolation.mode", "sql.isolation"),
            (&[("timestamp.initial", "-5")], true, "timestamp.initial", "sql.initial"),
            (&[("incrementing.column.name", "id")], false, "incrementing.column.name", "sql.columns"),
            (&[("db.fetch.size", "100")], false, "db.fetch.size", "sql.no_effect"),
            (&[("connection.url", "jdbc:sqlite:/x?foo=1")], false, "connection.url", "sql.url_parameter"),
        ] {
            assert_eq!(one(more), (error, path.to_owned(), code.to_owned()), "{more:?}");
        }
    }
}
