//! MySQL and MariaDB: catalog, values of the binary protocol.

use super::{Asked, bound};
use crate::column::{Cast, Column, Field};
use crate::error;
use crate::reader::Gather;
use crate::statement::Statement;
use crate::tables::{Table, Wanted, like};
use crate::temporal::DAY;
use crate::url::{Dialect, Target, TlsMode};
use crate::value::Cell;
use aqueduct_core::Result;
use futures_util::TryStreamExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow, MySqlSslMode};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions, Executor as _, MySqlConnection, Row as _, SqlSafeStr, Statement as _,
    TypeInfo as _, ValueRef as _,
};

pub(super) async fn connect(target: &Target) -> Result<MySqlConnection, sqlx::Error> {
    // The session's time zone is UTC by sqlx's default.
    let mut options =
        MySqlConnectOptions::new().host(&target.host).port(target.port).username(&target.user).ssl_mode(match target.tls {
            TlsMode::Disable => MySqlSslMode::Disabled,
            TlsMode::Allow | TlsMode::Prefer => MySqlSslMode::Preferred,
            TlsMode::Require => MySqlSslMode::Required,
            TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
            TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
        });
    if !target.database.is_empty() {
        options = options.database(&target.database);
    }
    if let Some(password) = &target.password {
        options = options.password(password.expose());
    }
    if target.host.starts_with('/') {
        options = options.socket(&target.host);
    }
    if let Some(root) = &target.root {
        options = options.ssl_ca(root);
    }
    if let (Some(cert), Some(key)) = (&target.cert, &target.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    options.disable_statement_logging().connect().await
}

pub(super) async fn tables(connection: &mut MySqlConnection, wanted: &Wanted) -> Result<Vec<Table>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT CAST(table_schema AS CHAR), CAST(table_name AS CHAR), CAST(table_type AS CHAR), CAST(DATABASE() AS CHAR) FROM information_schema.tables \
         WHERE table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys') ORDER BY 1, 2",
    );
    let rows = rows.fetch_all(connection).await?;
    let mut tables = Vec::new();
    for row in rows {
        let text = |index: usize| row.try_get_unchecked::<Option<String>, _>(index);
        let (catalog, name, kind, current) = (text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default(), text(2)?, text(3)?);
        let kind = if kind.is_some_and(|kind| kind.ends_with("VIEW")) { "VIEW" } else { "TABLE" };
        let here = match &wanted.catalog {
            Some(pattern) => like(pattern, &catalog),
            None => current.is_none_or(|current| current == catalog),
        };
        let table = Table { catalog: Some(catalog), schema: None, name };
        // There are no schemas: a pattern fits if it fits nothing.
        let schema = wanted.schema.as_deref().is_none_or(|pattern| like(pattern, ""));
        if here && schema && wanted.has_type(kind) && wanted.wants(&table) {
            tables.push(table);
        }
    }
    Ok(tables)
}

pub(super) async fn columns(connection: &mut MySqlConnection, asked: &Asked, from: &str) -> Result<Vec<Column>, sqlx::Error> {
    match asked {
        Asked::Table(table) => {
            // The lock that holds ALTER TABLE off until the read is over.
            connection.execute(AssertSqlSafe(format!("SELECT 1 FROM {from} LIMIT 0"))).await?;
            let rows = sqlx::query(
                "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR), CAST(column_type AS CHAR), CAST(numeric_scale AS SIGNED), \
                 CAST(datetime_precision AS SIGNED), is_nullable = 'YES', extra LIKE '%auto_increment%' \
                 FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
            );
            let rows = rows.bind(table.catalog.clone()).bind(table.name.clone()).fetch_all(connection).await?;
            rows.iter().map(of_table).collect()
        }
        Asked::Query(_) => {
            let described = connection.prepare(AssertSqlSafe(format!("SELECT * FROM {from} LIMIT 0")).into_sql_str()).await?;
            Ok(described.columns().iter().map(|column| of_query(column.name(), column.type_info().name())).collect())
        }
    }
}

fn of_table(row: &MySqlRow) -> Result<Column, sqlx::Error> {
    let text = |index: usize| row.try_get_unchecked::<String, _>(index).map(|text| text.to_ascii_lowercase());
    let number = |index: usize| row.try_get_unchecked::<Option<i64>, _>(index);
    let (kind, full) = (text(1)?, text(2)?);
    let scale = number(3)?.and_then(|scale| u32::try_from(scale).ok()).unwrap_or(0);
    let (field, cast) = field(&kind, full.contains("unsigned"), full == "bit(1)", Some(scale));
    Ok(Column {
        name: row.try_get_unchecked(0)?,
        field,
        optional: number(5)? == Some(1),
        counted: number(6)? == Some(1),
        fraction: number(4)?.and_then(|digits| u32::try_from(digits).ok()).unwrap_or(0),
        cast,
    })
}

/// sqlx's names of types. No catalog tells the scale, the digits of seconds and whether it may be null here.
fn of_query(name: &str, kind: &str) -> Column {
    let kind = kind.to_ascii_lowercase();
    let (plain, unsigned) = kind.strip_suffix(" unsigned").map_or((kind.as_str(), false), |plain| (plain, true));
    let plain = if plain == "boolean" { "tinyint" } else { plain };
    let (field, cast) = field(plain, unsigned, false, None);
    Column { name: name.to_owned(), field, optional: true, counted: false, fraction: 0, cast }
}

/// As Connector/J and Confluent's source have them, which never apply `numeric.mapping` to DECIMAL.
fn field(kind: &str, unsigned: bool, one_bit: bool, scale: Option<u32>) -> (Option<Field>, Cast) {
    let pick = |signed: Field, wider: Field| (Some(if unsigned { wider } else { signed }), Cast::Plain);
    match kind {
        "tinyint" => pick(Field::Int8, Field::Int16),
        "smallint" => pick(Field::Int16, Field::Int32),
        "mediumint" | "int" | "integer" => pick(Field::Int32, Field::Int64),
        "bigint" => pick(Field::Int64, Field::Int64),
        "float" => pick(Field::Float32, Field::Float32),
        "double" | "real" => pick(Field::Float64, Field::Float64),
        "decimal" | "numeric" => match scale {
            Some(scale) => (Some(Field::Decimal { scale }), Cast::Text),
            None => (None, Cast::Decimal),
        },
        "bit" if one_bit => (Some(Field::Int8), Cast::Plain),
        "date" => (Some(Field::Date), Cast::Days),
        "year" => (Some(Field::Date), Cast::Year),
        "datetime" => (Some(Field::Timestamp { zoned: false }), Cast::Micros),
        "timestamp" => (Some(Field::Timestamp { zoned: true }), Cast::Micros),
        "time" => (Some(Field::Time), Cast::Text),
        "bit" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry" | "point"
        | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" | "geometrycollection"
        | "geomcollection" => (Some(Field::Bytes), Cast::Plain),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "json" => {
            (Some(Field::String), Cast::Plain)
        }
        _ => (Some(Field::String), Cast::Text),
    }
}

pub(super) async fn read(connection: &mut MySqlConnection, what: &str, statement: &Statement, gather: &mut Gather) -> Result<()> {
    let failed = |failed| error::from(what, Dialect::MySql, failed);
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

fn cell(row: &MySqlRow, index: usize, field: Option<Field>, cast: Cast) -> Result<Cell<'_>, sqlx::Error> {
    if row.try_get_raw(index)?.is_null() {
        return Ok(Cell::Null);
    }
    let number = || row.try_get_unchecked::<i64, _>(index);
    let text = || row.try_get_unchecked::<&str, _>(index).map(Cell::Text);
    Ok(match (cast, field) {
        (Cast::Micros, _) => Cell::Micros(number()?),
        (Cast::Days | Cast::Year, _) => Cell::Micros(number()? * DAY),
        (Cast::Plain, Some(Field::Int8 | Field::Int16 | Field::Int32 | Field::Int64)) => {
            let kind = row.column(index).type_info().name();
            if kind.ends_with("UNSIGNED") || kind == "BIT" {
                Cell::Unsigned(row.try_get_unchecked(index)?)
            } else {
                Cell::Int(number()?)
            }
        }
        (Cast::Plain, Some(Field::Float32)) => Cell::Float32(row.try_get_unchecked(index)?),
        (Cast::Plain, Some(Field::Float64)) => Cell::Float(row.try_get_unchecked(index)?),
        (Cast::Plain, Some(Field::Bytes)) => Cell::Bytes(row.try_get_unchecked(index)?),
        _ => text()?,
    })
}
