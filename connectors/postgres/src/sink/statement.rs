//! Groups of rows as SQL and its parameters: one array for each column.

use super::catalog::Table;
use super::config::InsertMode;
use super::rows::{Group, Rows};
use super::value::{Form, Native};
use crate::connection::identifier;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, Postgres, Type};
use std::fmt::Write;

/// Writes rows in the manner of `mode`.
pub(super) fn write_sql(table: &Table, group: &Group, mode: InsertMode) -> String {
    let columns: Vec<usize> = present(group).collect();
    let source = source(table, group, &columns);
    let names = list(&columns, |column| identifier(&table.columns[column].name));
    let values = list(&columns, |column| format!("c{column}"));
    let overriding =
        if columns.iter().any(|column| table.columns[*column].always_identity) { " OVERRIDING SYSTEM VALUE" } else { "" };
    let insert = format!("INSERT INTO {} AS t ({names}){overriding}", table.sql);
    let changed: Vec<usize> =
        columns.iter().copied().filter(|column| !group.key.contains(column) && !table.columns[*column].always_identity).collect();
    match mode {
        InsertMode::Insert => format!("{insert} SELECT {values} FROM {source}"),
        InsertMode::Update if changed.is_empty() => {
            // Nothing but a key: there is nothing to change.
            format!("SELECT 1 FROM {source} WHERE false")
        }
        InsertMode::Update => {
            format!(
                "UPDATE {} AS t SET {} FROM {source} WHERE {}",
                table.sql,
                assign(table, &changed, "k.c"),
                same_key(table, group, "t")
            )
        }
        InsertMode::Upsert => {
            let conflict = list(&group.key, |column| identifier(&table.columns[column].name));
            let required =
                (0..table.columns.len()).any(|column| table.columns[column].required && group.forms[column] == Form::Absent);
            if !required || changed.is_empty() {
                let update = match changed.as_slice() {
                    [] => "NOTHING".to_owned(),
                    changed => format!(
                        "UPDATE SET {}",
                        list(changed, |column| {
                            let name = identifier(&table.columns[column].name);
                            format!("{name} = excluded.{name}")
                        })
                    ),
                };
                return format!("{insert} SELECT {values} FROM {source} ON CONFLICT ({conflict}) DO {update}");
            }
            // A row that lacks a required column can only be changed: INSERT refuses it before it looks for a conflict.
            let returning = list(&group.key, |column| format!("k.c{column}"));
            let found = group.key.iter().map(|column| format!("u.c{column} = k.c{column}")).collect::<Vec<_>>().join(" AND ");
            let values = list(&columns, |column| format!("k.c{column}"));
            format!(
                "WITH k AS MATERIALIZED (SELECT * FROM {source}), u AS (UPDATE {} AS t SET {} FROM k WHERE {} RETURNING {returning}) \
                 {insert} SELECT {values} FROM k WHERE NOT EXISTS (SELECT 1 FROM u WHERE {found})",
                table.sql,
                assign(table, &changed, "k.c"),
                same_key(table, group, "t"),
            )
        }
    }
}

pub(super) fn delete_sql(table: &Table, group: &Group) -> String {
    let columns: Vec<usize> = present(group).collect();
    format!("DELETE FROM {} AS t USING {} WHERE {}", table.sql, source(table, group, &columns), same_key(table, group, "t"))
}

fn present(group: &Group) -> impl Iterator<Item = usize> {
    group.forms.iter().enumerate().filter(|(_, form)| **form != Form::Absent).map(|(column, _)| column)
}

fn list(columns: &[usize], each: impl Fn(usize) -> String) -> String {
    columns.iter().map(|column| each(*column)).collect::<Vec<_>>().join(", ")
}

fn assign(table: &Table, columns: &[usize], prefix: &str) -> String {
    list(columns, |column| format!("{} = {prefix}{column}", identifier(&table.columns[column].name)))
}

fn same_key(table: &Table, group: &Group, alias: &str) -> String {
    let same = |column: &usize| format!("{alias}.{} = k.c{column}", identifier(&table.columns[*column].name));
    group.key.iter().map(same).collect::<Vec<_>>().join(" AND ")
}

/// `(SELECT u.c0, u.c1::"pg_catalog"."numeric" AS c1 FROM (SELECT unnest($1::int8[]) AS c0, unnest($2::text[]) AS c1) AS u) AS k`
///
/// The arrays are of one length, so that they are taken apart in step; `FROM unnest($1, $2)` would store each of them as rows first.
fn source(table: &Table, group: &Group, columns: &[usize]) -> String {
    let mut arrays = String::new();
    for (index, column) in columns.iter().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        let _ = write!(arrays, "{separator}unnest(${}::{}) AS c{column}", index + 1, sent_as(table, group, *column).wire().2);
    }
    let values = list(columns, |column| {
        let cast = &table.columns[column].cast;
        // Of its own type already; `bpchar` and `varchar` are not quite `text`.
        match (group.forms[column], table.columns[column].target.native) {
            (Form::Native, Some(native)) if native != Native::Text => format!("u.c{column}"),
            _ => format!("u.c{column}::{cast} AS c{column}"),
        }
    });
    format!("(SELECT {values} FROM (SELECT {arrays}) AS u) AS k")
}

fn sent_as(table: &Table, group: &Group, column: usize) -> Native {
    match group.forms[column] {
        Form::Native => table.columns[column].target.native.unwrap_or(Native::Text),
        _ => Native::Text,
    }
}

/// The parameters of a statement for some of its rows.
///
/// # Errors
/// More than 1 GiB in one array.
pub(super) fn arguments(table: &Table, rows: &Rows, group: &Group, part: &[u32]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for column in present(group) {
        arguments.add(Array { rows, part, column, native: sent_as(table, group, column) }).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// A column of some rows, as an array in Postgres' binary form.
struct Array<'a> {
    rows: &'a Rows,
    part: &'a [u32],
    column: usize,
    native: Native,
}

impl Type<Postgres> for Array<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Native::Text.wire().1))
    }
}

impl Encode<'_, Postgres> for Array<'_> {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (element, ..) = self.native.wire();
        let cells = || self.part.iter().map(|row| self.rows.cell(*row, self.column));
        out.reserve(20 + cells().map(|cell| cell.len as usize + 4).sum::<usize>());
        // One dimension; whether there are nulls; the element's type; length; the first index.
        for word in [1, u32::from(cells().any(|cell| cell.form == Form::Null)), element, self.part.len() as u32, 1] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for cell in cells() {
            if cell.form == Form::Null {
                out.extend_from_slice(&(-1i32).to_be_bytes());
            } else {
                out.extend_from_slice(&cell.len.to_be_bytes());
                out.extend_from_slice(self.rows.bytes(cell));
            }
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.native.wire().1)))
    }
}
