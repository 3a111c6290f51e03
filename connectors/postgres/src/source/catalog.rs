//! Tables and types as the catalog has them now. A Relation message says which columns an event has; the catalog adds what it does not carry:
//! NOT NULL, defaults, the primary key.

use super::pgoutput::Relation;
use crate::connection::{Connect, identifier};
use crate::table::{Column, ReplicaIdentity, Table, Type, TypeKind};
use aqueduct_core::Result;
use rustc_hash::FxHashMap;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

/// Types by oid, with everything they are made of.
pub type Types = FxHashMap<u32, Type>;

/// Reads one table; `None` if it is gone.
///
/// # Errors
/// As [`Connect::error`].
pub async fn table(connect: &Connect, connection: &mut PgConnection, oid: u32) -> Result<Option<Table>> {
    let failed = |error| connect.error(&format!("read the table {oid} from the catalog"), error);
    let head = sqlx::query(
        "SELECT n.nspname::text, c.relname::text, c.relreplident::text FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::int8::oid",
    )
    .bind(i64::from(oid))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some(head) = head else {
        return Ok(None);
    };
    let columns = sqlx::query(
        "SELECT a.attname::text, a.atttypid::int8, a.atttypmod, a.attnotnull, \
         CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END, a.attnum FROM pg_catalog.pg_attribute a \
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(i64::from(oid))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    // The primary key; else the replica identity's index; else the first unique index, as Debezium does. Expressions and partial indexes identify
    // no row by columns.
    let key = sqlx::query_scalar::<_, i16>(
        "SELECT k.attnum FROM (SELECT i.indkey::int2[] AS indkey, i.indnkeyatts FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid \
         AND i.indexprs IS NULL AND i.indpred IS NULL \
         ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indisclustered DESC, c.relname LIMIT 1) i, \
         unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) WHERE k.place <= i.indnkeyatts ORDER BY k.place",
    )
    .bind(i64::from(oid))
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let numbers: Vec<i16> = columns.iter().map(|row| row.try_get(5)).collect::<Result<_, _>>().map_err(failed)?;
    Ok(Some(Table {
        oid,
        schema: head.try_get(0).map_err(failed)?,
        name: head.try_get(1).map_err(failed)?,
        columns: columns.iter().map(column).collect::<Result<_, _>>().map_err(failed)?,
        key: key.iter().filter_map(|number| numbers.iter().position(|known| known == number)).collect(),
        identity: identity(head.try_get::<String, _>(2).map_err(failed)?.bytes().next().unwrap_or(b'd')),
    }))
}

fn column(row: &PgRow) -> Result<Column, sqlx::Error> {
    Ok(Column {
        name: row.try_get::<String, _>(0)?.into(),
        type_oid: row.try_get::<i64, _>(1)? as u32,
        modifier: row.try_get(2)?,
        not_null: row.try_get(3)?,
        default: row.try_get(4)?,
    })
}

pub fn identity(letter: u8) -> ReplicaIdentity {
    match letter {
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => ReplicaIdentity::Default,
    }
}

/// What follows `REPLICA IDENTITY` for what a table has now: `FULL`, `USING INDEX "name"`; `None` if it is gone.
///
/// # Errors
/// As [`Connect::error`].
pub async fn identity_now(connect: &Connect, connection: &mut PgConnection, oid: u32) -> Result<Option<String>> {
    let row: Option<(String, Option<String>)> = sqlx::query_as(
        "SELECT c.relreplident::text, (SELECT x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
         WHERE i.indrelid = c.oid AND i.indisreplident) FROM pg_catalog.pg_class c WHERE c.oid = $1::int8::oid",
    )
    .bind(i64::from(oid))
    .fetch_optional(connection)
    .await
    .map_err(|error| connect.error(&format!("read the replica identity of the table {oid}"), error))?;
    Ok(row.map(|(letter, index)| match (identity(letter.bytes().next().unwrap_or(b'd')), index) {
        (ReplicaIdentity::Full, _) => "FULL".to_owned(),
        (ReplicaIdentity::Nothing, _) => "NOTHING".to_owned(),
        (ReplicaIdentity::Index, Some(index)) => format!("USING INDEX {}", identifier(&index)),
        // An index that was dropped identifies nothing: it is set anew.
        (ReplicaIdentity::Index, None) => String::new(),
        (ReplicaIdentity::Default, _) => "DEFAULT".to_owned(),
    }))
}

/// The oids of all ordinary and partitioned tables outside of the system's schemas, with their names, in the order of their names.
///
/// # Errors
/// As [`Connect::error`].
pub async fn tables(connect: &Connect, connection: &mut PgConnection) -> Result<Vec<(u32, String, String)>> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT c.oid::int8, n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         AND n.nspname NOT LIKE 'pg\\_t%' ORDER BY n.nspname, c.relname",
    )
    .fetch_all(connection)
    .await
    .map_err(|error| connect.error("list the tables", error))?;
    Ok(rows.into_iter().map(|(oid, schema, name)| (oid as u32, schema, name)).collect())
}

/// Adds the types that are missing, with their element and base types.
///
/// # Errors
/// As [`Connect::error`].
pub async fn types(
    connect: &Connect,
    connection: &mut PgConnection,
    wanted: impl IntoIterator<Item = u32>,
    known: &mut Types,
) -> Result<()> {
    let missing: Vec<i64> = wanted.into_iter().filter(|oid| !known.contains_key(oid)).map(i64::from).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "WITH RECURSIVE wanted(oid) AS (SELECT unnest($1::int8[])::oid UNION SELECT next.oid FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid, \
         LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END)) AS next(oid) WHERE next.oid <> 0) \
         SELECT t.oid::int8, t.typname::text, n.nspname::text, t.typtype::text, t.typcategory::text, t.typbasetype::int8, t.typtypmod, t.typelem::int8, \
         ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) \
         FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace",
    )
    .bind(missing)
    .fetch_all(connection)
    .await;
    let failed = |error| connect.error("read types from the catalog", error);
    for row in rows.map_err(failed)? {
        let one = read_type(&row).map_err(failed)?;
        known.insert(one.oid, one);
    }
    Ok(())
}

fn read_type(row: &PgRow) -> Result<Type, sqlx::Error> {
    let (kind, category): (String, String) = (row.try_get(3)?, row.try_get(4)?);
    let kind = match (kind.as_str(), category.as_str()) {
        ("e", _) => TypeKind::Enum(row.try_get(8)?),
        ("d", _) => TypeKind::Domain(row.try_get::<i64, _>(5)? as u32, row.try_get(6)?),
        ("c", _) => TypeKind::Composite,
        ("r" | "m", _) => TypeKind::Range,
        (_, "A") => TypeKind::Array(row.try_get::<i64, _>(7)? as u32),
        _ => TypeKind::Base,
    };
    Ok(Type { oid: row.try_get::<i64, _>(0)? as u32, name: row.try_get(1)?, schema: row.try_get(2)?, kind })
}

/// The table of an event: the columns are those of the Relation message; the rest is the catalog's where it still knows a column of that name and type.
pub fn of_relation(relation: &Relation<'_>, now: Option<&Table>) -> Table {
    let known = |name: &str, type_oid: u32| {
        now.and_then(|table| table.columns.iter().find(|column| &*column.name == name && column.type_oid == type_oid))
    };
    let columns: Vec<Column> = relation
        .columns
        .iter()
        .map(|column| match known(column.name, column.type_oid) {
            Some(same) => Column { modifier: column.modifier, ..same.clone() },
            None => Column {
                name: column.name.into(),
                type_oid: column.type_oid,
                modifier: column.modifier,
                not_null: false,
                default: None,
            },
        })
        .collect();
    let place = |name: &str| columns.iter().position(|column| &*column.name == name);
    let mut key: Vec<usize> =
        now.map_or_else(Vec::new, |table| table.key.iter().filter_map(|index| place(&table.columns[*index].name)).collect());
    // A table that is gone still had a key: what identified its rows. With FULL every column is marked, which is no key.
    if now.is_none() && relation.identity != b'f' {
        key = relation.columns.iter().enumerate().filter(|(_, column)| column.key).map(|(index, _)| index).collect();
    }
    Table {
        oid: relation.oid,
        schema: if relation.schema.is_empty() { "pg_catalog".into() } else { relation.schema.to_owned() },
        name: relation.name.to_owned(),
        columns,
        key,
        identity: identity(relation.identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::pgoutput::RelationColumn;

    fn column(name: &str, type_oid: u32, not_null: bool) -> Column {
        Column { name: name.into(), type_oid, modifier: -1, not_null, default: not_null.then(|| "1".to_owned()) }
    }

    #[test]
    fn old_events_keep_their_columns() {
        let now = Table {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            columns: vec![column("added", 23, false), column("id", 23, true), column("retyped", 25, true)],
            key: vec![1],
            identity: ReplicaIdentity::Default,
        };
        let field = |name, type_oid, key| RelationColumn { key, name, type_oid, modifier: 7 };
        let columns = vec![field("dropped", 25, false), field("retyped", 23, false), field("id", 23, true)];
        let relation = Relation { oid: 1, schema: "s", name: "t", identity: b'd', columns };
        let table = of_relation(&relation, Some(&now));
        let seen: Vec<_> = table.columns.iter().map(|column| (&*column.name, column.not_null, column.modifier)).collect();
        assert_eq!(seen, [("dropped", false, 7), ("retyped", false, 7), ("id", true, 7)]);
        assert_eq!(table.key, [2]);
        // The table is gone: what identified its rows is the key.
        assert_eq!(of_relation(&relation, None).key, [2]);
    }
}
