//! SQLite: declared types, values of any type.

use super::{Asked, bound};
use crate::column::{Cast, Column, Field, Shape, numeric};
use crate::error;
use crate::reader::Gather;
use crate::statement::Statement;
use crate::tables::{Table, Wanted, like};
use crate::url::{Dialect, Target};
use crate::value::Cell;
use aqueduct_core::Result;
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _};
use std::time::Duration;

/// A query's name in the connection's own temporary schema: so its columns have declared types.
pub(super) const VIEW: &str = "aqueduct_query";

/// A writer that holds the file this long is told of.
const BUSY: Duration = Duration::from_secs(5);

pub(super) async fn connect(target: &Target) -> Result<SqliteConnection, sqlx::Error> {
    let options =
        SqliteConnectOptions::new().filename(&target.database).read_only(true).create_if_missing(false).busy_timeout(BUSY);
    options.disable_statement_logging().connect().await
}

pub(super) async fn tables(connection: &mut SqliteConnection, wanted: &Wanted) -> Result<Vec<Table>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT name, upper(type) FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1",
    );
    let rows = rows.fetch_all(connection).await?;
    let nowhere = |pattern: &Option<String>| pattern.as_deref().is_none_or(|pattern| like(pattern, ""));
    let mut tables = Vec::new();
    for row in rows {
        let table = Table { catalog: None, schema: None, name: row.try_get(0)? };
        let kind: String = row.try_get(1)?;
        if wanted.has_type(&kind) && nowhere(&wanted.catalog) && nowhere(&wanted.schema) && wanted.wants(&table) {
            tables.push(table);
        }
    }
    Ok(tables)
}

pub(super) async fn columns(connection: &mut SqliteConnection, asked: &Asked, shape: &Shape) -> Result<Vec<Column>, sqlx::Error> {
    let (schema, name) = match asked {
        Asked::Table(table) => ("main", table.name.as_str()),
        Asked::Query(query) => {
            connection.execute(AssertSqlSafe(format!("CREATE TEMP VIEW IF NOT EXISTS {VIEW} AS\n{query}\n"))).await?;
            ("temp", VIEW)
        }
    };
    let rows = sqlx::query("SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1 ORDER BY cid");
    let rows = rows.bind(name.to_owned()).bind(schema).fetch_all(connection).await?;
    let keys = rows.iter().filter(|row| row.try_get::<i64, _>(3).is_ok_and(|key| key > 0)).count();
    rows.iter().map(|row| column(row, keys == 1, shape)).collect()
}

fn column(row: &SqliteRow, one_key: bool, shape: &Shape) -> Result<Column, sqlx::Error> {
    let (name, declared): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let (not_null, key): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    // The row's number by another name: never null, and counted.
    let rowid = one_key && key == 1 && declared.eq_ignore_ascii_case("integer");
    let field = field(&declared, shape);
    Ok(Column { name, field, optional: not_null == 0 && !rowid, counted: rowid, fraction: 3, cast: Cast::Plain })
}

/// By the declared type, in the spirit of sqlite-jdbc; but an INTEGER has 64 bits, a REAL is a double, and a DATETIME has a time.
fn field(declared: &str, shape: &Shape) -> Option<Field> {
    let upper = declared.to_ascii_uppercase();
    let (name, digits) = upper.split_once('(').unwrap_or((&upper, ""));
    let mut digits = digits.trim_end_matches(')').split(',').map(|number| number.trim().parse::<u32>().ok());
    let digits = match (digits.next().flatten(), digits.next()) {
        (Some(precision), Some(Some(scale))) => Some((precision, scale as i32)),
        (Some(precision), None) => Some((precision, 0)),
        _ => None,
    };
    let has = |part: &str| name.contains(part);
    Some(match name.trim() {
        "" => return None,
        "BOOL" | "BOOLEAN" => Field::Boolean,
        "DATE" => Field::Date,
        "DATETIME" | "TIMESTAMP" => Field::Timestamp { zoned: false },
        "TIME" => Field::Time,
        "NUMERIC" => digits.map_or(Field::Float64, |digits| numeric(shape.numeric, Some(digits))),
        "DECIMAL" => digits.map_or(Field::Float64, |(_, scale)| Field::Decimal { scale: scale.unsigned_abs() }),
        _ if has("INT") => Field::Int64,
        _ if has("CHAR") || has("CLOB") || has("TEXT") => Field::String,
        _ if has("BLOB") => Field::Bytes,
        _ if has("REAL") || has("FLOA") || has("DOUB") => Field::Float64,
        _ => return None,
    })
}

pub(super) async fn read(
    connection: &mut SqliteConnection,
    what: &str,
    statement: &Statement,
    gather: &mut Gather,
) -> Result<()> {
    let failed = |failed| error::from(what, Dialect::Sqlite, failed);
    let mut rows = bound!(statement).fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        for index in 0..row.len() {
            let (field, _) = gather.expected(index);
            gather.cell(cell(&row, index, field).map_err(failed)?)?;
        }
        if gather.end_row()? {
            gather.flush().await?;
        }
    }
    Ok(())
}

fn cell(row: &SqliteRow, index: usize, field: Option<Field>) -> Result<Cell<'_>, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let time = matches!(field, Some(Field::Date | Field::Timestamp { .. }));
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" if time => Cell::Moment(row.try_get_unchecked::<i64, _>(index)?.saturating_mul(1000)),
        "INTEGER" if field == Some(Field::Time) => Cell::Micros(row.try_get_unchecked::<i64, _>(index)?.saturating_mul(1000)),
        "INTEGER" => Cell::Int(row.try_get_unchecked(index)?),
        // A Julian day.
        "REAL" if time => {
            Cell::Micros(((row.try_get_unchecked::<f64, _>(index)? - 2_440_587.5) * 86_400_000.0).round() as i64 * 1000)
        }
        "REAL" => Cell::Float(row.try_get_unchecked(index)?),
        "BLOB" => Cell::Bytes(row.try_get_unchecked(index)?),
        _ => Cell::Text(row.try_get_unchecked(index)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Granularity, NumericMapping};
    use crate::temporal::Zone;

    #[test]
    fn declared_types() {
        let shape = Shape {
            granularity: Granularity::ConnectLogical,
            numeric: NumericMapping::BestFit,
            zone: Zone::parse("UTC").unwrap(),
        };
        for (declared, expected) in [
            ("INTEGER", Some(Field::Int64)),
            ("unsigned big int", Some(Field::Int64)),
            ("VARCHAR(20)", Some(Field::String)),
            ("DECIMAL(10, 2)", Some(Field::Decimal { scale: 2 })),
            ("NUMERIC(10,2)", Some(Field::Float64)),
            ("NUMERIC", Some(Field::Float64)),
            ("datetime", Some(Field::Timestamp { zoned: false })),
            ("DOUBLE PRECISION", Some(Field::Float64)),
            ("", None),
            ("JSON", None),
        ] {
            assert_eq!(field(declared, &shape), expected, "{declared}");
        }
    }
}
