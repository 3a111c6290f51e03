//! The one statement of a read: what is new since a place, in the order of places. Names are quoted, values bound.

use crate::column::{Cast, Column, Field};
use crate::place::Place;
use crate::temporal::{self, DAY, SECOND, Zone};
use crate::url::Dialect;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Int(i64),
    Text(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) args: Vec<Arg>,
}

/// What a table is read by. With `times`, each row has one column more than `columns`: its time.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dialect: Dialect,
    /// What stands behind FROM.
    pub(crate) from: String,
    pub(crate) columns: Vec<Column>,
    /// Indexes of columns.
    pub(crate) times: Vec<usize>,
    pub(crate) id: Option<usize>,
    pub(crate) quote: bool,
    pub(crate) suffix: String,
}

pub(crate) fn quoted(dialect: Dialect, quote: bool, name: &str) -> String {
    match (quote, dialect) {
        (false, _) => name.to_owned(),
        (true, Dialect::MySql) => format!("`{}`", name.replace('`', "``")),
        (true, _) => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

impl Plan {
    fn name(&self, index: usize) -> String {
        quoted(self.dialect, self.quote, &self.columns[index].name)
    }

    /// Whether times are moments (else a wall clock's).
    pub(crate) fn zoned(&self) -> bool {
        self.times.iter().any(|index| self.columns[*index].field == Some(Field::Timestamp { zoned: true }))
    }

    /// What two changes may share: a row that is new in it may still come, so nothing of it is read before it is over.
    pub(crate) fn tick(&self) -> i64 {
        let tick = |index: &usize| match self.columns[*index].field {
            Some(Field::Date) => DAY,
            _ => 10i64.pow(6 - self.columns[*index].fraction.min(6)),
        };
        self.times.iter().map(tick).max().unwrap_or(1)
    }

    /// All that is new after `place` and, by time, before `now` (both moments; of SQLite: as the column has it).
    pub(crate) fn statement(&self, place: Place, now: i64, zone: &Zone) -> Statement {
        let mut list: Vec<String> = (0..self.columns.len()).map(|index| self.selected(index)).collect();
        let mut out = Statement::default();
        let mut order = Vec::new();
        let mut conditions = Vec::new();
        if !self.times.is_empty() {
            let time = self.time();
            list.push(self.selected_time(&time));
            conditions.push(self.before(&time, now, zone, &mut out.args));
            conditions.extend(self.after(&time, place, zone, &mut out.args));
            order.push(time);
        } else if let Some(id) = self.id {
            let name = self.name(id);
            conditions.push(match place.id {
                Some(last) => format!("{name} > {}", self.int(last, &mut out.args)),
                None => format!("{name} IS NOT NULL"),
            });
        }
        order.extend(self.id.map(|id| self.name(id)));
        out.sql = format!("SELECT {} FROM {}", list.join(", "), self.from);
        if !conditions.is_empty() {
            out.sql.push_str(&format!(" WHERE {} ORDER BY {}", conditions.join(" AND "), order.join(", ")));
        }
        if !self.suffix.is_empty() {
            out.sql.push(' ');
            out.sql.push_str(&self.suffix);
        }
        out
    }

    /// The time is after the place's, or the same with a greater id.
    fn after(&self, time: &str, place: Place, zone: &Zone, args: &mut Vec<Arg>) -> Option<String> {
        let Some(last) = place.time else {
            // Postgres' own beginning of time is no time that can be kept.
            return (self.dialect == Dialect::Postgres).then(|| format!("{time} > '-infinity'"));
        };
        match (self.id, place.id) {
            (None, _) => Some(format!("{time} > {}", self.moment(last, zone, args))),
            (Some(_), None) => Some(format!("{time} >= {}", self.moment(last, zone, args))),
            (Some(id), Some(last_id)) => {
                let from = self.moment(last, zone, args);
                let beyond = self.moment(last, zone, args);
                Some(format!("{time} >= {from} AND ({time} > {beyond} OR {} > {})", self.name(id), self.int(last_id, args)))
            }
        }
    }

    fn before(&self, time: &str, now: i64, zone: &Zone, args: &mut Vec<Arg>) -> String {
        let floor = |micros: i64, tick: i64| micros.div_euclid(tick) * tick;
        if self.dialect == Dialect::Sqlite {
            // Texts rarely tell more than seconds, CURRENT_TIMESTAMP never does; numbers are milliseconds of a moment, one less where an expression of
            // floating-point numbers made them.
            let text = floor(zone.wall(now), self.tick().max(SECOND)) / 1000;
            let (text, number) = (self.int(text, args), self.int(now.div_euclid(1000) - 1, args));
            return format!("{time} < CASE typeof({}) WHEN 'text' THEN {text} ELSE {number} END", self.coalesced());
        }
        let end = if self.zoned() { floor(now, self.tick()) } else { zone.moment(floor(zone.wall(now), self.tick())) };
        format!("{time} < {}", self.moment(end, zone, args))
    }

    fn coalesced(&self) -> String {
        let names: Vec<String> = self.times.iter().map(|index| self.name(*index)).collect();
        if let [one] = names.as_slice() { one.clone() } else { format!("COALESCE({})", names.join(", ")) }
    }

    /// What is compared and ordered by.
    fn time(&self) -> String {
        let value = self.coalesced();
        if self.dialect != Dialect::Sqlite {
            return value;
        }
        format!(
            "CASE typeof({value}) WHEN 'text' THEN CAST(ROUND((julianday({value}) - 2440587.5) * 86400000.0) AS INTEGER) \
             WHEN 'real' THEN CAST(ROUND(({value} - 2440587.5) * 86400000.0) AS INTEGER) ELSE {value} END"
        )
    }

    fn selected_time(&self, time: &str) -> String {
        match self.dialect {
            Dialect::Postgres => format!("CAST({time} AS {})", self.postgres_type()),
            Dialect::MySql => micros(time),
            Dialect::Sqlite => time.to_owned(),
        }
    }

    fn postgres_type(&self) -> &'static str {
        if self.zoned() { "timestamptz" } else { "timestamp" }
    }

    fn selected(&self, index: usize) -> String {
        let name = self.name(index);
        match self.columns[index].cast {
            Cast::Plain => name,
            Cast::Text if self.dialect == Dialect::Postgres => format!("CAST({name} AS text)"),
            Cast::Text | Cast::Decimal => format!("CAST({name} AS CHAR)"),
            Cast::Through(kind) => format!("CAST(CAST({name} AS {kind}) AS text)"),
            Cast::Micros => micros(&name),
            Cast::Days => format!("DATEDIFF({name}, '1970-01-01')"),
            Cast::Year => format!("DATEDIFF(MAKEDATE({name}, 1), '1970-01-01')"),
        }
    }

    fn int(&self, value: i64, args: &mut Vec<Arg>) -> String {
        args.push(Arg::Int(value));
        self.mark(args.len())
    }

    fn mark(&self, number: usize) -> String {
        if self.dialect == Dialect::Postgres { format!("${number}") } else { "?".to_owned() }
    }

    fn moment(&self, moment: i64, zone: &Zone, args: &mut Vec<Arg>) -> String {
        if self.dialect == Dialect::Sqlite {
            return self.int(moment.div_euclid(1000), args);
        }
        let wall = if self.zoned() { moment } else { zone.wall(moment) };
        // Databases know no year 0, and nothing lies before it.
        let mut text = temporal::text(wall).unwrap_or_else(|| "0001-01-01 00:00:00".to_owned());
        if self.dialect == Dialect::Postgres && self.zoned() {
            text.push_str("+00");
        }
        args.push(Arg::Text(text));
        let mark = self.mark(args.len());
        match self.dialect {
            Dialect::Postgres => format!("CAST({mark} AS {})", self.postgres_type()),
            _ => format!("CAST({mark} AS DATETIME(6))"),
        }
    }
}

/// MySQL. The session's time zone is UTC, so that this is right for TIMESTAMP as for DATETIME.
fn micros(time: &str) -> String {
    format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', {time})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn column(name: &str, field: Field, cast: Cast) -> Column {
        Column { name: name.to_owned(), field: Some(field), optional: false, counted: false, fraction: 0, cast }
    }

    fn plan(dialect: Dialect, mode: Mode) -> Plan {
        let stamp = if dialect == Dialect::MySql { Cast::Micros } else { Cast::Plain };
        let columns = vec![column("id", Field::Int64, Cast::Plain), column("at", Field::Timestamp { zoned: false }, stamp)];
        let (times, id) = (if mode.by_time() { vec![1] } else { vec![] }, mode.by_id().then_some(0));
        Plan { dialect, from: "t".into(), columns, times, id, quote: true, suffix: String::new() }
    }

    const NOW: i64 = 1_767_323_045_600_000;

    #[test]
    fn statements() {
        let utc = Zone::parse("UTC").unwrap();
        let place = Place { time: Some(1_000_000), id: Some(7) };
        let text = |text: &str| Arg::Text(text.to_owned());
        let bulk = plan(Dialect::Postgres, Mode::Bulk).statement(place, NOW, &utc);
        assert_eq!((bulk.sql.as_str(), bulk.args.len()), (r#"SELECT "id", "at" FROM t"#, 0));
        let by_id = Plan { suffix: "LIMIT 5".into(), ..plan(Dialect::MySql, Mode::Incrementing) };
        let sql = by_id.statement(Place::default(), NOW, &utc).sql;
        assert!(sql.ends_with("FROM t WHERE `id` IS NOT NULL ORDER BY `id` LIMIT 5"), "{sql}");
        let next = by_id.statement(place, NOW, &utc);
        assert!(next.sql.contains("WHERE `id` > ? ORDER BY `id`") && next.args == [Arg::Int(7)], "{next:?}");
        let both = plan(Dialect::Postgres, Mode::TimestampIncrementing).statement(place, NOW, &utc);
        assert_eq!(
            both.sql,
            r#"SELECT "id", "at", CAST("at" AS timestamp) FROM t WHERE "at" < CAST($1 AS timestamp) AND "at" >= CAST($2 AS timestamp) AND ("at" > CAST($3 AS timestamp) OR "id" > $4) ORDER BY "at", "id""#
        );
        let last = text("1970-01-01 00:00:01.000000");
        // The second that is not over yet is left for later.
        assert_eq!(both.args, [text("2026-01-02 03:04:05.000000"), last.clone(), last, Arg::Int(7)]);
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let mysql = plan(Dialect::MySql, Mode::Timestamp).statement(place, NOW, &berlin);
        assert_eq!(mysql.args, [text("2026-01-02 04:04:05.000000"), text("1970-01-01 01:00:01.000000")]);
        let sqlite = plan(Dialect::Sqlite, Mode::Timestamp).statement(place, NOW, &utc);
        assert_eq!(sqlite.args, [Arg::Int(1_767_323_045_000), Arg::Int(1_767_323_045_599), Arg::Int(1000)]);
    }

    #[test]
    fn names_cannot_break_out() {
        assert_eq!(quoted(Dialect::MySql, true, "a`b"), "`a``b`");
        assert_eq!(quoted(Dialect::Postgres, true, "a\"; DROP"), "\"a\"\"; DROP\"");
    }
}
