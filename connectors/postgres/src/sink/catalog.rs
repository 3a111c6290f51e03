//! Tables as the target's catalog has them, and the DDL that makes and widens them.

use super::names::{NAME_MAX_BYTES, TableName};
use super::value::{Native, Shape, Target};
use crate::connection::{Connect, identifier, literal, qualified};
use aqueduct_core::{Error, Result};
use rustc_hash::FxHashMap;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use std::fmt::Write;

use super::meaning::Extensions;

#[derive(Debug, PartialEq)]
pub(super) struct Table {
    /// `public.orders`, for people.
    pub(super) name: String,
    /// `"public"."orders"`
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
    by_name: FxHashMap<String, usize>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) target: Target,
    /// The type (of a domain: its base type) as SQL: `"pg_catalog"."numeric"`.
    pub(super) cast: String,
    /// A row cannot be added without it.
    pub(super) required: bool,
    /// The server computes it.
    pub(super) generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`
    pub(super) always_identity: bool,
}

/// A column that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NewColumn {
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) required: bool,
    /// As text.
    pub(super) default: Option<String>,
    pub(super) key: bool,
}

const COLUMNS: &str = "SELECT a.attname::text AS name, a.attnotnull AS not_null, \
    a.atthasdef OR a.attidentity <> '' AS has_default, a.attgenerated <> '' AS generated, a.attidentity = 'a' AS always_identity, \
    format_type(a.atttypid, a.atttypmod) AS type_name, b.oid::int8 AS type_oid, b.typname::text AS base, n.nspname::text AS base_schema, \
    b.typcategory::text AS category \
    FROM pg_attribute a \
    CROSS JOIN LATERAL (WITH RECURSIVE d AS (SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid \
        UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM d JOIN pg_type t ON t.oid = d.typbasetype WHERE d.typtype = 'd') \
        SELECT d.oid FROM d WHERE d.typtype <> 'd') AS base_type \
    JOIN pg_type b ON b.oid = base_type.oid JOIN pg_namespace n ON n.oid = b.typnamespace \
    WHERE a.attrelid = $1::text::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// `None`: there is none of this name.
///
/// # Errors
/// As [`Connect::error`].
pub(super) async fn find(connection: &mut PgConnection, connect: &Connect, name: &TableName) -> Result<Option<Table>> {
    let sql = match &name.schema {
        Some(schema) => qualified(schema, &name.table),
        None => identifier(&name.table),
    };
    let failed = |error| connect.error(&format!("read the columns of {name}"), error);
    let found = sqlx::query(
        "SELECT c.oid::text AS oid, n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'v', 'f')",
    )
    .bind(&sql)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some(found) = found else { return Ok(None) };
    let (oid, schema, table): (String, String, String) =
        (found.try_get(0).map_err(failed)?, found.try_get(1).map_err(failed)?, found.try_get(2).map_err(failed)?);
    let rows = sqlx::query(COLUMNS).bind(oid).fetch_all(connection).await.map_err(failed)?;
    let columns = rows.iter().map(column).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let by_name = columns.iter().enumerate().map(|(index, column)| (column.name.clone(), index)).collect();
    Ok(Some(Table { name: format!("{schema}.{table}"), sql: qualified(&schema, &table), columns, by_name }))
}

fn column(row: &sqlx::postgres::PgRow) -> Result<Column, sqlx::Error> {
    let (base, schema, category): (String, String, String) =
        (row.try_get("base")?, row.try_get("base_schema")?, row.try_get("category")?);
    let oid = u32::try_from(row.try_get::<i64, _>("type_oid")?).unwrap_or_default();
    let generated: bool = row.try_get("generated")?;
    let has_default: bool = row.try_get("has_default")?;
    Ok(Column {
        name: row.try_get("name")?,
        target: Target { native: Native::of(oid), shape: shape(oid, &base, &category), type_name: row.try_get("type_name")? },
        cast: qualified(&schema, &base),
        required: row.try_get("not_null")? && !has_default && !generated,
        generated,
        always_identity: row.try_get("always_identity")?,
    })
}

fn shape(oid: u32, base: &str, category: &str) -> Shape {
    match (oid, base, category) {
        (114 | 3802, ..) => Shape::Json,
        (600, ..) => Shape::Point,
        (_, "hstore", _) => Shape::Hstore,
        (_, "geometry" | "geography", _) => Shape::Geometry,
        (.., "A") => Shape::Array,
        (.., "S") => Shape::Text,
        (.., "V") => Shape::Bits,
        (.., "N") => Shape::Number,
        _ => Shape::Scalar,
    }
}

impl Table {
    /// A table that is not there: every field of a record is a column that it lacks.
    pub(super) fn nothing() -> Self {
        Self { name: String::new(), sql: String::new(), columns: Vec::new(), by_name: FxHashMap::default() }
    }

    /// By its exact name; with `fold` in lower case; else by the only name that differs in case alone.
    pub(super) fn column(&self, field: &str, fold: bool) -> Option<usize> {
        if let Some(index) = self.by_name.get(field) {
            return Some(*index);
        }
        if fold {
            return self.by_name.get(&field.to_lowercase()).copied();
        }
        let mut alike = self.columns.iter().enumerate().filter(|(_, column)| column.name.eq_ignore_ascii_case(field));
        match (alike.next(), alike.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }
}

/// What the target has beside the built-in types.
pub(super) async fn extensions(connection: &mut PgConnection, connect: &Connect) -> Result<Extensions> {
    let sql = "SELECT to_regtype('hstore') IS NOT NULL, to_regtype('geometry') IS NOT NULL, to_regtype('ltree') IS NOT NULL, to_regtype('citext') IS NOT NULL";
    let failed = |error| connect.error("ask for extensions", error);
    let row = sqlx::query(sql).fetch_one(connection).await.map_err(failed)?;
    let has = |index: usize| row.try_get::<bool, _>(index).map_err(failed);
    Ok(Extensions { hstore: has(0)?, postgis: has(1)?, ltree: has(2)?, citext: has(3)? })
}

/// A table with these columns, whose key are those marked.
pub(super) fn create_sql(name: &TableName, columns: &[NewColumn]) -> String {
    let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (", name_sql(name));
    for (index, column) in columns.iter().enumerate() {
        let required = if column.required || column.key { " NOT NULL" } else { "" };
        let separator = if index > 0 { ", " } else { "" };
        let _ = write!(sql, "{separator}{}{required}", definition(column));
    }
    let key: Vec<String> = columns.iter().filter(|column| column.key).map(|column| identifier(&column.name)).collect();
    if !key.is_empty() {
        let _ = write!(sql, ", PRIMARY KEY ({})", key.join(", "));
    }
    sql.push(')');
    sql
}

/// New columns allow null: rows are there that have no value for them.
pub(super) fn alter_sql(name: &TableName, columns: &[NewColumn]) -> String {
    let added: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN IF NOT EXISTS {}", definition(column))).collect();
    format!("ALTER TABLE {} {}", name_sql(name), added.join(", "))
}

fn definition(column: &NewColumn) -> String {
    let mut text = format!("{} {}", identifier(&column.name), column.type_name);
    if let Some(default) = &column.default {
        let _ = write!(text, " DEFAULT {}", literal(default));
    }
    text
}

fn name_sql(name: &TableName) -> String {
    match &name.schema {
        Some(schema) => qualified(schema, &name.table),
        None => identifier(&name.table),
    }
}

/// DDL does not wait behind a long transaction for ever: everyone who wants the table then waits behind it.
const LOCK_TIMEOUT: &str = "10s";

/// # Errors
/// As [`Connect::error`]; a missing right shows the statement.
pub(super) async fn run_ddl(connection: &mut PgConnection, connect: &Connect, doing: &str, sql: &str) -> Result<()> {
    tracing::info!(target = %connect.place(), "{sql}");
    let outcome =
        connection.execute(AssertSqlSafe(format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {sql}; COMMIT"))).await;
    let Err(failed) = outcome else { return Ok(()) };
    let raced = failed.as_database_error().and_then(|refusal| refusal.code()).is_some_and(|code| {
        // Another task made the same table or column in the same moment.
        matches!(&*code, "42P07" | "42701" | "23505" | "42710")
    });
    let _ = connection.execute("ROLLBACK").await;
    if raced {
        return Ok(());
    }
    let error = connect.error(doing, failed);
    let fix = match error.code() {
        "postgres.permission" => Some(format!("As the owner of the schema or table run: {sql};")),
        "postgres.object_missing" => {
            Some(format!("Install the extension that has the type, or make the table by hand. The statement was: {sql};"))
        }
        _ => None,
    };
    Err(match fix {
        Some(fix) => error.fix(fix),
        None => error,
    })
}

/// Too long a name would be cut silently, and two might then be one.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains('\0') {
        return Err("is no name".to_owned());
    }
    if name.len() > NAME_MAX_BYTES {
        Err(format!("has a name of {} bytes, and {NAME_MAX_BYTES} are allowed", name.len()))
    } else {
        Ok(())
    }
}

/// # Errors
/// `postgres_sink.table_name` (fatal).
pub(super) fn check_table_name(name: &TableName) -> Result<()> {
    let refused = |reason| {
        Error::fatal("postgres_sink.table_name", format!("the table {name} cannot be: it {reason}"))
            .fix("change table.name.format")
    };
    check_name(&name.table).map_err(refused)?;
    name.schema.as_deref().map_or(Ok(()), check_name).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddl_is_quoted() {
        let name = TableName { schema: Some("a\"b".into()), table: "T; DROP".into() };
        let column = |name: &str, key, default: Option<&str>| NewColumn {
            name: name.into(),
            type_name: "text".into(),
            required: false,
            default: default.map(str::to_owned),
            key,
        };
        let columns = [column("id\"", true, None), column("x", false, Some("it's"))];
        assert_eq!(
            create_sql(&name, &columns),
            r#"CREATE TABLE IF NOT EXISTS "a""b"."T; DROP" ("id""" text NOT NULL, "x" text DEFAULT 'it''s', PRIMARY KEY ("id"""))"#
        );
        assert_eq!(
            alter_sql(&name, &columns[1..]),
            r#"ALTER TABLE "a""b"."T; DROP" ADD COLUMN IF NOT EXISTS "x" text DEFAULT 'it''s'"#
        );
        assert!(check_name(&"é".repeat(32)).is_err() && check_name(&"é".repeat(31)).is_ok());
    }
}
