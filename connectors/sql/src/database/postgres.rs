//! Postgres: catalog, binary values.

use super::{Asked, bound};
use crate::column::{Cast, Column, Field, Shape, numeric};
use crate::error;
use crate::reader::Gather;
use crate::statement::Statement;
use crate::tables::{Table, Wanted, like};
use crate::temporal::{DAY, INFINITY, MINUS_INFINITY};
use crate::url::{Dialect, Target, TlsMode};
use crate::value::Cell;
use aqueduct_core::Result;
use futures_util::TryStreamExt;
use sqlx::postgres::{PgColumn, PgConnectOptions, PgRow, PgSslMode};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions, Executor as _, PgConnection, Row as _, SqlSafeStr, Statement as _, ValueRef as _,
};

pub(super) async fn connect(target: &Target) -> Result<PgConnection, sqlx::Error> {
    // Everything is said, so that nothing is taken from the worker's environment (invariant 8).
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&target.host)
        .port(target.port)
        .database(&target.database)
        .username(&target.user)
        .password(target.password.as_ref().map_or("", |password| password.expose()))
        .application_name(&target.application)
        .ssl_mode(match target.tls {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Allow => PgSslMode::Allow,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    if target.host.starts_with('/') {
        options = options.socket(&target.host);
    }
    if let Some(root) = &target.root {
        options = options.ssl_root_cert(root);
    }
    if let (Some(cert), Some(key)) = (&target.cert, &target.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    if let Some(path) = &target.search_path {
        options = options.options([("search_path", path)]);
    }
    options.disable_statement_logging().connect().await
}

pub(super) async fn tables(connection: &mut PgConnection, wanted: &Wanted) -> Result<Vec<Table>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT current_database()::text, n.nspname::text, c.relname::text, c.relkind::text \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         AND n.nspname !~ '^pg_(toast|temp)' ORDER BY 2, 3",
    );
    let rows = rows.fetch_all(connection).await?;
    let mut tables = Vec::new();
    for row in rows {
        let (catalog, schema, kind): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(3)?);
        let kind = match kind.as_str() {
            "v" => "VIEW",
            "m" => "MATERIALIZED VIEW",
            "p" => "PARTITIONED TABLE",
            "f" => "FOREIGN TABLE",
            _ => "TABLE",
        };
        let fits = |pattern: &Option<String>, name: &str| pattern.as_deref().is_none_or(|pattern| like(pattern, name));
        let table = Table { name: row.try_get(2)?, catalog: Some(catalog.clone()), schema: Some(schema.clone()) };
        if wanted.has_type(kind) && fits(&wanted.catalog, &catalog) && fits(&wanted.schema, &schema) && wanted.wants(&table) {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// Name, type of a domain's base, kind of type, type modifier, not null, counted.
const OF_TABLE: &str = "SELECT a.attname::text, coalesce(b.typname, t.typname)::text, coalesce(b.typtype, t.typtype)::text, \
     CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, a.attnotnull OR t.typnotnull, \
     coalesce(a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false) \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
     JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// The same of a result's columns, which know their table if they are a table's.
const OF_QUERY: &str = "SELECT q.name, coalesce(b.typname, t.typname)::text, coalesce(b.typtype, t.typtype)::text, \
     CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE coalesce(a.atttypmod, -1) END, false, \
     coalesce(a.attidentity <> '', false) \
     FROM unnest($1::text[], $2::oid[], $3::oid[], $4::int2[]) WITH ORDINALITY AS q(name, type, relation, attribute, place) \
     JOIN pg_catalog.pg_type t ON t.oid = q.type \
     LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
     LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = q.relation AND a.attnum = q.attribute AND a.atttypid = q.type ORDER BY q.place";

pub(super) async fn columns(
    connection: &mut PgConnection,
    asked: &Asked,
    from: &str,
    shape: &Shape,
) -> Result<Vec<Column>, sqlx::Error> {
    let rows = match asked {
        Asked::Table(table) => {
            // The lock that holds ALTER TABLE off until the read is over.
            connection.execute(AssertSqlSafe(format!("SELECT 1 FROM {from} LIMIT 0"))).await?;
            sqlx::query(OF_TABLE).bind(table.schema.clone()).bind(table.name.clone()).fetch_all(connection).await?
        }
        Asked::Query(_) => {
            let described = connection.prepare(AssertSqlSafe(format!("SELECT * FROM {from} LIMIT 0")).into_sql_str()).await?;
            let all = described.columns();
            let each = |pick: fn(&PgColumn) -> Option<sqlx::postgres::types::Oid>| all.iter().map(pick).collect::<Vec<_>>();
            sqlx::query(OF_QUERY)
                .bind(all.iter().map(|column| column.name().to_owned()).collect::<Vec<_>>())
                .bind(each(|column| column.type_info().oid()))
                .bind(each(PgColumn::relation_id))
                .bind(all.iter().map(PgColumn::relation_attribute_no).collect::<Vec<_>>())
                .fetch_all(connection)
                .await?
        }
    };
    rows.iter().map(|row| column(row, shape)).collect()
}

fn column(row: &PgRow, shape: &Shape) -> Result<Column, sqlx::Error> {
    let (name, kind, of): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (modifier, not_null, counted): (i32, bool, bool) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let kind = if of == "b" { kind.as_str() } else { "" };
    let (field, cast) = match kind {
        "bool" => (Field::Boolean, Cast::Plain),
        "int2" => (Field::Int16, Cast::Plain),
        "int4" => (Field::Int32, Cast::Plain),
        "int8" => (Field::Int64, Cast::Plain),
        "oid" => (Field::Int64, Cast::Text),
        "float4" => (Field::Float32, Cast::Plain),
        "float8" => (Field::Float64, Cast::Plain),
        "money" => (Field::Float64, Cast::Through("numeric")),
        "numeric" => (numeric(shape.numeric, digits(modifier)), Cast::Text),
        "text" | "varchar" | "bpchar" | "name" => (Field::String, Cast::Plain),
        "bytea" => (Field::Bytes, Cast::Plain),
        "date" => (Field::Date, Cast::Plain),
        "time" => (Field::Time, Cast::Plain),
        "timetz" => (Field::Time, Cast::Through("time")),
        "timestamp" => (Field::Timestamp { zoned: false }, Cast::Plain),
        "timestamptz" => (Field::Timestamp { zoned: true }, Cast::Plain),
        // pgjdbc: one bit is a truth value.
        "bit" if modifier == 1 => (Field::Boolean, Cast::Text),
        // json, uuid, xml, enums, arrays, ranges, addresses, …: as Postgres writes them.
        _ => (Field::String, Cast::Text),
    };
    let fraction = u32::try_from(modifier).unwrap_or(6).min(6);
    Ok(Column { name, field: Some(field), optional: !not_null, counted, fraction, cast })
}

/// NUMERIC's precision and scale.
fn digits(modifier: i32) -> Option<(u32, i32)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    // Eleven bits with a sign.
    Some(((packed >> 16) as u32 & 0xffff, ((packed & 0x7ff) ^ 0x400) - 0x400))
}

pub(super) async fn read(connection: &mut PgConnection, what: &str, statement: &Statement, gather: &mut Gather) -> Result<()> {
    let failed = |failed| error::from(what, Dialect::Postgres, failed);
    let mut rows = bound!(statement).fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        for index in 0..row.len() {
            let (field, cast) = gather.expected(index);
            gather.cell(cell(&row, index, field, cast).map_err(failed)?)?;
        }
        if gather.end_row()? {
            gather.flush().await?;
        }
    }
    Ok(())
}

/// 2000-01-01, where Postgres' times begin.
const EPOCH: i64 = 10_957 * DAY;

fn cell(row: &PgRow, index: usize, field: Option<Field>, cast: Cast) -> Result<Cell<'_>, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let bytes = raw.as_bytes().map_err(sqlx::Error::Decode)?;
    let text = || std::str::from_utf8(bytes).map_err(sqlx::Error::decode);
    if cast != Cast::Plain {
        return text().map(Cell::Text);
    }
    let number = || int(bytes).ok_or_else(|| sqlx::Error::decode("a number of unknown width"));
    Ok(match field {
        Some(Field::Boolean) => Cell::Int(bytes.first().copied().unwrap_or(0).into()),
        Some(Field::Int8 | Field::Int16 | Field::Int32 | Field::Int64) => Cell::Int(number()?),
        Some(Field::Float32) => Cell::Float32(f32::from_bits(number()? as u32)),
        Some(Field::Float64) => Cell::Float(f64::from_bits(number()? as u64)),
        Some(Field::Bytes) => Cell::Bytes(bytes),
        Some(Field::Date) => match number()? {
            days if days == i64::from(i32::MAX) || days == i64::from(i32::MIN) => Cell::Text("infinity"),
            days => Cell::Micros(days * DAY + EPOCH),
        },
        Some(Field::Time) => Cell::Micros(number()?),
        Some(Field::Timestamp { .. }) => match number()? {
            forever @ (INFINITY | MINUS_INFINITY) => Cell::Micros(forever),
            micros => Cell::Micros(micros.saturating_add(EPOCH)),
        },
        _ => Cell::Text(text()?),
    })
}

fn int(bytes: &[u8]) -> Option<i64> {
    Some(match bytes.len() {
        2 => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        4 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        8 => i64::from_be_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_modifier_is_precision_and_scale() {
        let modifier = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(digits(modifier(10, 2)), Some((10, 2)));
        assert_eq!(digits(modifier(5, -2)), Some((5, -2)));
        assert_eq!(digits(-1), None);
    }
}
