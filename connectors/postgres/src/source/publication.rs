//! The publication: what the server sends at all.

use super::options::modes::PublicationMode;
use crate::connection::{Connect, identifier, qualified};
use aqueduct_core::{Error, Result};
use sqlx::postgres::PgConnection;
use std::collections::BTreeSet;

/// A table by schema and name.
pub type Name = (String, String);

pub struct Wanted<'a> {
    pub name: &'a str,
    pub mode: PublicationMode,
    pub via_root: bool,
    /// The captured tables.
    pub tables: &'a BTreeSet<Name>,
}

/// What the catalog says of the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    pub all_tables: bool,
    pub via_root: bool,
    pub tables: BTreeSet<Name>,
    /// It also has schemas (`FOR TABLES IN SCHEMA`), which may bring tables in.
    pub schemas: bool,
}

/// Makes the publication, or brings it up to the captured tables, as the mode says. True where something was changed.
///
/// # Errors
/// `postgres.publication_missing`, `postgres.no_tables`, and `postgres.permission` with the statement that someone else has to run.
pub async fn ensure(connect: &Connect, connection: &mut PgConnection, wanted: &Wanted<'_>) -> Result<bool> {
    let present = read(connect, connection, wanted.name).await?;
    let statements = plan(wanted, present.as_ref())?;
    if statements.is_empty() {
        return Ok(false);
    }
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| connect.error("ask whether the server is a standby", error))?;
    if standby {
        let what = format!("the publication {} is not up to date, and a standby cannot change it", wanted.name);
        return Err(
            Error::fatal("postgres.publication_missing", what).fix(format!("On the primary run: {}", statements.join(" ")))
        );
    }
    for sql in &statements {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *connection).await;
        if let Err(failed) = run {
            let error = connect.error(&format!("bring the publication {} up to date", wanted.name), failed);
            let by_others = matches!(error.code(), "postgres.permission" | "postgres.read_only" | "postgres.unsupported");
            return Err(if by_others {
                error.fix(format!("As a superuser or the tables' owner run: {}", statements.join(" ")))
            } else {
                error
            });
        }
        tracing::info!(publication = wanted.name, statement = sql, "changed the publication");
    }
    Ok(true)
}

/// Reads the publication; `None` if there is none of this name.
///
/// # Errors
/// As [`Connect::error`].
pub async fn read(connect: &Connect, connection: &mut PgConnection, name: &str) -> Result<Option<Present>> {
    let failed = |error| connect.error(&format!("read the publication {name}"), error);
    let head: Option<String> = sqlx::query_scalar("SELECT to_jsonb(p)::text FROM pg_catalog.pg_publication p WHERE pubname = $1")
        .bind(name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(head) = head.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()) else {
        return Ok(None);
    };
    let flag = |key: &str| head.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
    let tables: Vec<Name> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
         JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let schemas: bool = sqlx::query_scalar("SELECT to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let schemas = schemas
        && sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid WHERE p.pubname = $1)",
        )
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    Ok(Some(Present {
        all_tables: flag("puballtables"),
        via_root: flag("pubviaroot"),
        tables: tables.into_iter().collect(),
        schemas,
    }))
}

/// The statements that lead from what is there to what is wanted. Tables are added and dropped one by one, so that the row filters and column lists that
/// someone gave to others stay.
fn plan(wanted: &Wanted<'_>, present: Option<&Present>) -> Result<Vec<String>> {
    let name = identifier(wanted.name);
    let root = if wanted.via_root { " WITH (publish_via_partition_root = true)" } else { "" };
    let list =
        |tables: &BTreeSet<Name>| tables.iter().map(|(schema, table)| qualified(schema, table)).collect::<Vec<_>>().join(", ");
    let filtered = wanted.mode == PublicationMode::Filtered;
    if filtered && wanted.tables.is_empty() {
        let what = "no table matches table.include.list and schema.include.list";
        return Err(Error::fatal("postgres.no_tables", what)
            .fix("Correct the lists (they are regular expressions over schema.table), or make the table."));
    }
    let Some(present) = present else {
        return match wanted.mode {
            PublicationMode::Disabled => {
                Err(Error::fatal("postgres.publication_missing", format!("there is no publication {}", wanted.name)).fix(
                    format!("Run: CREATE PUBLICATION {name} FOR TABLE …{root}; or set publication.autocreate.mode to filtered."),
                ))
            }
            PublicationMode::AllTables => Ok(vec![format!("CREATE PUBLICATION {name} FOR ALL TABLES{root};")]),
            PublicationMode::NoTables => Ok(vec![format!("CREATE PUBLICATION {name}{root};")]),
            PublicationMode::Filtered => Ok(vec![format!("CREATE PUBLICATION {name} FOR TABLE {}{root};", list(wanted.tables))]),
        };
    };
    let mut statements = Vec::new();
    if filtered && !present.all_tables {
        let added: BTreeSet<Name> = wanted.tables.difference(&present.tables).cloned().collect();
        let gone: BTreeSet<Name> = present.tables.difference(wanted.tables).cloned().collect();
        if !added.is_empty() && !present.schemas {
            statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {};", list(&added)));
        }
        if !gone.is_empty() {
            statements.push(format!("ALTER PUBLICATION {name} DROP TABLE {};", list(&gone)));
        }
    }
    if wanted.via_root && !present.via_root && wanted.mode != PublicationMode::Disabled {
        statements.push(format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);"));
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<Name> {
        list.iter().map(|name| ("public".to_owned(), (*name).to_owned())).collect()
    }

    fn sql(mode: PublicationMode, via_root: bool, tables: &[&str], present: Option<Present>) -> Result<String> {
        let tables = names(tables);
        plan(&Wanted { name: "p\"", mode, via_root, tables: &tables }, present.as_ref()).map(|statements| statements.join(" "))
    }

    #[test]
    fn what_is_missing_is_made() {
        use PublicationMode::*;
        assert_eq!(
            sql(Filtered, false, &["a", "b"], None).unwrap(),
            r#"CREATE PUBLICATION "p""" FOR TABLE "public"."a", "public"."b";"#
        );
        let expected = r#"CREATE PUBLICATION "p""" FOR ALL TABLES WITH (publish_via_partition_root = true);"#;
        assert_eq!(sql(AllTables, true, &[], None).unwrap(), expected);
        assert_eq!(sql(NoTables, false, &[], None).unwrap(), r#"CREATE PUBLICATION "p""";"#);
        assert_eq!(sql(Disabled, false, &["a"], None).unwrap_err().code(), "postgres.publication_missing");
        assert_eq!(sql(Filtered, false, &[], None).unwrap_err().code(), "postgres.no_tables");
    }

    #[test]
    fn only_what_differs_is_changed() {
        use PublicationMode::*;
        let present = Present { tables: names(&["a", "old"]), ..Present::default() };
        assert_eq!(sql(Filtered, false, &["a", "old"], Some(present.clone())).unwrap(), "");
        let expected = r#"ALTER PUBLICATION "p""" ADD TABLE "public"."new"; ALTER PUBLICATION "p""" DROP TABLE "public"."old";"#;
        assert_eq!(sql(Filtered, false, &["a", "new"], Some(present.clone())).unwrap(), expected);
        for mode in [AllTables, NoTables, Disabled] {
            assert_eq!(sql(mode, false, &["a", "new"], Some(present.clone())).unwrap(), "");
        }
        let all = Present { all_tables: true, ..Present::default() };
        assert_eq!(sql(Filtered, false, &["a"], Some(all)).unwrap(), "");
    }
}
