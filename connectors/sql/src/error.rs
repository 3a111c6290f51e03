//! What a database's refusal means: its code, whether to try again, and what to do.

use crate::url::Dialect;
use aqueduct_core::{Class, Error};

/// Of one call. Database messages may show names and values of the user's own query, never the login (invariant 9).
pub(crate) fn from(what: &str, dialect: Dialect, failed: sqlx::Error) -> Error {
    let (class, code, fix) = judge(dialect, &failed);
    let text = match &failed {
        sqlx::Error::Database(refused) => match refused.code() {
            Some(code) => format!("{} [{code}]", refused.message()),
            None => refused.message().to_owned(),
        },
        other => other.to_string(),
    };
    Error::new(class, code, format!("cannot {what}: {text}")).fix(fix)
}

/// The table that was asked for is gone.
pub(crate) fn is_missing_table(error: &Error) -> bool {
    error.code() == "sql.missing_table"
}

type Verdict = (Class, &'static str, &'static str);

const UNREACHABLE: Verdict =
    (Class::Retriable, "sql.unreachable", "see whether the database runs and connection.url leads to it; it is tried again");
const BUSY: Verdict =
    (Class::Retriable, "sql.busy", "it is tried again; see what holds the locks or the connections of the database");
const LOGIN: Verdict = (Class::Fatal, "sql.authentication", "correct connection.user and connection.password");
const RIGHTS: Verdict = (Class::Fatal, "sql.permission", "grant the user SELECT on the tables");
const NO_TABLE: Verdict = (Class::Fatal, "sql.missing_table", "correct the table's name in the options or in the query");
const NO_COLUMN: Verdict = (Class::Fatal, "sql.missing_column", "correct the column's name in the options or in the query");
const NO_DATABASE: Verdict = (Class::Fatal, "sql.missing_database", "correct the database in connection.url");
const QUERY: Verdict = (Class::Fatal, "sql.query", "correct query, query.suffix or the columns' names");

fn judge(dialect: Dialect, failed: &sqlx::Error) -> Verdict {
    match failed {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            match dialect {
                Dialect::Postgres => postgres(&code),
                Dialect::MySql => {
                    let number = refused.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map_or(0, |error| error.number());
                    mysql(number, &code)
                }
                Dialect::Sqlite => sqlite(&code, refused.message()),
            }
        }
        sqlx::Error::Tls(_) => (Class::Fatal, "sql.tls", "see sslmode and the certificates in connection.url"),
        // MySQL's caching_sha2_password without TLS; the library for it leaks the key by its timing (RUSTSEC-2023-0071).
        sqlx::Error::Configuration(why) if why.to_string().starts_with("RSA auth backend") => (
            Class::Fatal,
            "sql.authentication",
            "the server takes this user's password only over TLS: sslMode=REQUIRED in connection.url",
        ),
        sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) => {
            (Class::Fatal, "sql.connection", "correct the parameters of connection.url")
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (Class::Fatal, "sql.value", "leave the column out, or cast it in a query")
        }
        sqlx::Error::TypeNotFound { .. } => QUERY,
        _ => UNREACHABLE,
    }
}

/// SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn postgres(state: &str) -> Verdict {
    match state {
        "3D000" => NO_DATABASE,
        "42P01" | "3F000" => NO_TABLE,
        "42703" => NO_COLUMN,
        "42501" => RIGHTS,
        // A statement timeout, a conflict with recovery, an administrator's command, a server that starts or stops.
        "57014" | "40001" | "40P01" | "55P03" => BUSY,
        _ => match state.get(..2) {
            Some("28") => LOGIN,
            Some("53" | "40" | "55") => BUSY,
            Some("08" | "57" | "58" | "XX") => UNREACHABLE,
            _ => QUERY,
        },
    }
}

fn mysql(number: u16, state: &str) -> Verdict {
    match number {
        1045 | 1698 | 1251 | 2059 => LOGIN,
        1044 | 1142 | 1143 | 1227 => RIGHTS,
        1049 => NO_DATABASE,
        1146 => NO_TABLE,
        1054 => NO_COLUMN,
        1040 | 1203 | 1205 | 1213 | 1226 | 1317 | 1412 | 3024 | 1969 => BUSY,
        1053 | 1077..=1080 | 1152..=1161 | 1184 => UNREACHABLE,
        _ if state.starts_with("08") => UNREACHABLE,
        _ if state.starts_with("40") => BUSY,
        _ => QUERY,
    }
}

/// Extended result codes: the low byte is the primary one.
fn sqlite(code: &str, message: &str) -> Verdict {
    match code.parse::<u32>().unwrap_or(0) & 0xff {
        5 | 6 | 17 => BUSY,
        7 | 10 | 13 | 14 => UNREACHABLE,
        3 | 8 | 23 => (Class::Fatal, "sql.permission", "let the worker's user read the file and write into its folder"),
        11 | 26 => (Class::Fatal, "sql.not_a_database", "correct the path in connection.url, or restore the file"),
        _ if message.contains("no such table") => NO_TABLE,
        _ if message.contains("no such column") => NO_COLUMN,
        _ => QUERY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (verdict, class, code) in [
            (postgres("57P03"), Class::Retriable, "sql.unreachable"),
            (postgres("53300"), Class::Retriable, "sql.busy"),
            (postgres("40001"), Class::Retriable, "sql.busy"),
            (postgres("28P01"), Class::Fatal, "sql.authentication"),
            (postgres("42601"), Class::Fatal, "sql.query"),
            (postgres("22012"), Class::Fatal, "sql.query"),
            (postgres("42P01"), Class::Fatal, "sql.missing_table"),
            (mysql(1213, "40001"), Class::Retriable, "sql.busy"),
            (mysql(1064, "42000"), Class::Fatal, "sql.query"),
            (mysql(1045, "28000"), Class::Fatal, "sql.authentication"),
            (sqlite("5", "database is locked"), Class::Retriable, "sql.busy"),
            (sqlite("261", "busy recovery"), Class::Retriable, "sql.busy"),
            (sqlite("14", "unable to open"), Class::Retriable, "sql.unreachable"),
            (sqlite("1", "no such table: x"), Class::Fatal, "sql.missing_table"),
        ] {
            assert_eq!((verdict.0, verdict.1), (class, code));
        }
    }
}
