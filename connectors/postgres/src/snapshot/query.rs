//! The statements that read a table in chunks. Pure.

use crate::connection::{identifier, literal, qualified};
use crate::table::Table;
use std::fmt::Write;

/// How a table is cut into chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// By these columns, none of which is ever NULL (a row comparison leaves rows with a NULL out). Indexes into the table's columns.
    Key(Vec<usize>),
    /// By ranges of blocks of the heap.
    Blocks,
    /// Not at all.
    Whole,
}

/// One chunk of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk<'a> {
    pub table: &'a Table,
    /// Rows of an inheritance parent's children are the children's own.
    pub only: bool,
    /// In place of the table: a user's statement.
    pub statement: Option<&'a str>,
    pub condition: Option<&'a str>,
    pub bounds: Bounds<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bounds<'a> {
    All,
    /// Rows behind `after` (none: from the first on), at most to `until`, the first `limit` of them.
    Key {
        columns: &'a [usize],
        after: Option<&'a [String]>,
        until: Option<&'a [String]>,
        limit: u32,
    },
    /// `to` excluded; `None`: to the end.
    /// With each row's place in the heap behind its cells. `after`: rows up to this place are left out.
    Blocks {
        from: u64,
        to: Option<u64>,
        after: Option<&'a str>,
    },
}

impl Chunk<'_> {
    /// Text cells of the table's columns, in their order.
    pub fn copy(&self) -> String {
        format!("COPY ({}) TO STDOUT", self.select())
    }

    pub fn select(&self) -> String {
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        let place = if matches!(self.bounds, Bounds::Blocks { .. }) { ", ctid" } else { "" };
        let mut sql = format!("SELECT {}{place} FROM {}", self.columns(&all), self.from());
        let mut conditions = Vec::new();
        match &self.bounds {
            Bounds::All => {}
            Bounds::Key { columns, after, until, .. } => {
                conditions.extend(after.map(|key| format!("{} > {}", self.tuple(columns), values(key))));
                conditions.extend(until.map(|key| format!("{} <= {}", self.tuple(columns), values(key))));
            }
            Bounds::Blocks { from, to, after } => {
                conditions.push(match after {
                    Some(after) => format!("ctid > {}::pg_catalog.tid", literal(after)),
                    None => format!("ctid >= '({from},0)'::pg_catalog.tid"),
                });
                conditions.extend(to.map(|to| format!("ctid < '({to},0)'::pg_catalog.tid")));
            }
        }
        // A line end, so that a comment at its end ends there.
        conditions.extend(self.condition.map(|condition| format!("({condition}\n)")));
        if !conditions.is_empty() {
            let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
        }
        if let Bounds::Key { columns, limit, .. } = &self.bounds {
            let _ = write!(sql, " ORDER BY {} LIMIT {limit}", self.columns(columns));
        }
        sql
    }

    /// The last key of the table as it is now, as text.
    pub fn last_key(&self, columns: &[usize]) -> String {
        let texts: Vec<String> =
            columns.iter().map(|index| format!("{}::text", identifier(&self.table.columns[*index].name))).collect();
        let order: Vec<String> =
            columns.iter().map(|index| format!("{} DESC", identifier(&self.table.columns[*index].name))).collect();
        let condition = self.condition.map_or(String::new(), |condition| format!(" WHERE ({condition}\n)"));
        format!("SELECT ARRAY[{}] FROM {}{condition} ORDER BY {} LIMIT 1", texts.join(", "), self.from(), order.join(", "))
    }

    fn from(&self) -> String {
        match self.statement {
            Some(statement) => format!("({}) AS \"aqueduct\"", statement.trim().trim_end_matches(';')),
            None if self.only => format!("ONLY {}", qualified(&self.table.schema, &self.table.name)),
            None => qualified(&self.table.schema, &self.table.name),
        }
    }

    fn columns(&self, indexes: &[usize]) -> String {
        let names: Vec<String> = indexes.iter().map(|index| identifier(&self.table.columns[*index].name)).collect();
        names.join(", ")
    }

    fn tuple(&self, indexes: &[usize]) -> String {
        format!("({})", self.columns(indexes))
    }
}

/// Literals without a type take that of the column that they are compared with, in its collation and order: whatever the type is.
fn values(key: &[String]) -> String {
    let values: Vec<String> = key.iter().map(|value| literal(value)).collect();
    format!("({})", values.join(", "))
}

/// `READ ONLY`, so that nothing that a user's statement does can write.
pub const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// No timeout of a role or database ends a long read, nor a pause of the log in its middle; a heap is read from its first block to its last.
pub const UNHURRIED: &str = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0";

/// The transaction's view: time in microseconds since 1970, transactions seen, end of the WAL.
pub fn view(version: u32) -> String {
    let snapshot = if version >= 130_000 { "pg_catalog.pg_current_snapshot()" } else { "pg_catalog.txid_current_snapshot()" };
    // Where WAL is inserted, not where it is flushed: with synchronous_commit=off a transaction is visible before its WAL is flushed.
    format!(
        "SELECT (extract(epoch FROM pg_catalog.transaction_timestamp()) * 1000000)::int8, {snapshot}::text, \
         (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Column, ReplicaIdentity};

    fn table() -> Table {
        let column = |name: &str| Column { name: name.into(), type_oid: 25, modifier: -1, not_null: true, default: None };
        Table {
            oid: 1,
            schema: "public".into(),
            name: "Or\"ders".into(),
            columns: ["a", "b", "c"].map(column).into(),
            key: vec![1, 0],
            identity: ReplicaIdentity::Default,
        }
    }

    fn copy(only: bool, statement: Option<&str>, condition: Option<&str>, bounds: Bounds<'_>) -> String {
        Chunk { table: &table(), only, statement, condition, bounds }.copy()
    }

    #[test]
    fn chunks_go_on_behind_the_last_key_in_the_servers_order() {
        let first = Bounds::Key { columns: &[1, 0], after: None, until: None, limit: 10 };
        assert_eq!(
            copy(true, None, None, first),
            r#"COPY (SELECT "a", "b", "c" FROM ONLY "public"."Or""ders" ORDER BY "b", "a" LIMIT 10) TO STDOUT"#
        );
        let (after, until) = (["o'1".to_owned(), "x\\".to_owned()], ["z".to_owned(), "9".to_owned()]);
        let next = Bounds::Key { columns: &[1, 0], after: Some(&after), until: Some(&until), limit: 10 };
        assert_eq!(
            copy(false, None, Some("c > 5 OR true"), next),
            r#"COPY (SELECT "a", "b", "c" FROM "public"."Or""ders" WHERE ("b", "a") > ('o''1', E'x\\') AND ("b", "a") <= ('z', '9') AND (c > 5 OR true
) ORDER BY "b", "a" LIMIT 10) TO STDOUT"#
        );
    }

    #[test]
    fn tables_without_a_key_are_cut_by_blocks() {
        let blocks = copy(true, None, None, Bounds::Blocks { from: 8, to: Some(16), after: None });
        assert!(
            blocks.ends_with(r#"WHERE ctid >= '(8,0)'::pg_catalog.tid AND ctid < '(16,0)'::pg_catalog.tid) TO STDOUT"#),
            "{blocks}"
        );
        let rest = copy(true, None, None, Bounds::Blocks { from: 8, to: None, after: Some("(8,3)") });
        assert!(rest.ends_with(r#"WHERE ctid > '(8,3)'::pg_catalog.tid) TO STDOUT"#), "{rest}");
        let own = copy(true, Some("SELECT * FROM x WHERE y;"), None, Bounds::All);
        assert_eq!(own, r#"COPY (SELECT "a", "b", "c" FROM (SELECT * FROM x WHERE y) AS "aqueduct") TO STDOUT"#);
    }
}
