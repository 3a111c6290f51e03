//! `connection.url`: the server's, as every connector reads it, and SQLite's.

pub(crate) use aqueduct_config::TlsMode;

use aqueduct_config::{DatabaseUrl, Secret, database_url};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    MySql,
    Sqlite,
}

/// Where the database is. `Debug` shows no password.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) dialect: Dialect,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Empty: of a server, none; of SQLite, in memory. Else a name, or SQLite's file.
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: TlsMode,
    pub(crate) root: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) search_path: Option<String>,
    pub(crate) application: String,
    /// For TCP, TLS and login together.
    pub(crate) timeout: Duration,
    /// Parameters that mean nothing here.
    pub(crate) ignored: Vec<String>,
}

/// Confluent's limit is 40 s; nobody waits that long for a database that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// # Errors
/// What is wrong, as a sentence's end. Never shows the URL, which may hold a password (invariant 9).
pub(crate) fn parse(text: &str) -> Result<Target, String> {
    let Some((scheme, rest)) = database_url::scheme(text) else { return Err(unknown(None)) };
    match scheme {
        "postgresql" | "postgres" => server(Dialect::Postgres, DatabaseUrl::parse(text)?),
        "mysql" | "mariadb" => server(Dialect::MySql, DatabaseUrl::parse(text)?),
        "sqlite" => file(rest),
        other => Err(unknown(other.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(other))),
    }
}

fn unknown(scheme: Option<&str>) -> String {
    let what = scheme.map_or_else(|| "has no scheme".to_owned(), |scheme| format!("is for {scheme}, which is not supported"));
    format!("{what}; there are jdbc:postgresql://, jdbc:mysql://, jdbc:mariadb:// and jdbc:sqlite:")
}

fn server(dialect: Dialect, url: DatabaseUrl) -> Result<Target, String> {
    if dialect == Dialect::Postgres && url.database.is_empty() {
        return Err("names no database: jdbc:postgresql://host:5432/database".to_owned());
    }
    Ok(Target {
        dialect,
        host: url.host,
        port: url.port.unwrap_or(if dialect == Dialect::MySql { 3306 } else { 5432 }),
        database: url.database,
        user: url.user,
        password: url.password,
        tls: url.tls.unwrap_or_default(),
        root: url.root,
        cert: url.cert,
        key: url.key,
        search_path: url.search_path,
        application: url.application.unwrap_or_else(|| "aqueduct-sql-source".to_owned()),
        timeout: url.timeout.unwrap_or(CONNECT_TIMEOUT),
        ignored: url.ignored,
    })
}

/// `jdbc:sqlite:/path`, `jdbc:sqlite:relative.db`, `sqlite:///path`.
fn file(rest: &str) -> Result<Target, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        return Err("names no file: jdbc:sqlite:/path/to/file.db".to_owned());
    }
    let key_of = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    Ok(Target {
        dialect: Dialect::Sqlite,
        host: String::new(),
        port: 0,
        database: path.to_owned(),
        user: String::new(),
        password: None,
        tls: TlsMode::default(),
        root: None,
        cert: None,
        key: None,
        search_path: None,
        application: String::new(),
        timeout: CONNECT_TIMEOUT,
        ignored: query.split('&').filter(|pair| !pair.is_empty()).map(key_of).collect(),
    })
}

impl Target {
    /// For people; without user, password and parameters (invariant 9).
    pub(crate) fn show(&self) -> String {
        match self.dialect {
            Dialect::Postgres => format!("Postgres at {}:{}, database {}", self.host, self.port, self.database),
            Dialect::MySql => format!("MySQL at {}:{}", self.host, self.port),
            Dialect::Sqlite => format!("SQLite file {}", self.database),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_url() {
        let pg = parse("jdbc:postgresql://db.example:5433/shop?user=app&password=p%26w&sslmode=require&currentSchema=a&reWriteBatchedInserts=true").unwrap();
        assert_eq!(
            (pg.dialect, pg.host.as_str(), pg.port, pg.database.as_str()),
            (Dialect::Postgres, "db.example", 5433, "shop")
        );
        assert_eq!((pg.user.as_str(), pg.password.as_ref().unwrap().expose(), pg.tls), ("app", "p&w", TlsMode::Require));
        assert_eq!(
            (pg.search_path.as_deref(), pg.ignored.as_slice()),
            (Some("a"), ["reWriteBatchedInserts".to_owned()].as_slice())
        );
        let plain = parse("postgres://me:s%40crt@[::1]/x").unwrap();
        assert_eq!((plain.host.as_str(), plain.user.as_str(), plain.port), ("::1", "me", 5432));
        assert_eq!(plain.password.unwrap().expose(), "s@crt");
        let mysql =
            parse("jdbc:mysql://h/db?verifyServerCertificate=false&useSSL=true&requireSSL=true&connectTimeout=2500").unwrap();
        assert_eq!(
            (mysql.dialect, mysql.port, mysql.tls, mysql.timeout.as_millis()),
            (Dialect::MySql, 3306, TlsMode::Require, 2500)
        );
        assert_eq!(parse("jdbc:mariadb://h:3307/db?sslMode=verify-full").unwrap().tls, TlsMode::VerifyFull);
        for (text, path) in
            [("jdbc:sqlite:/a/b.db", "/a/b.db"), ("jdbc:sqlite:b.db", "b.db"), ("sqlite:///a/b.db?cache=shared", "/a/b.db")]
        {
            let file = parse(text).unwrap();
            assert_eq!((file.dialect, file.database.as_str()), (Dialect::Sqlite, path));
        }
    }

    #[test]
    fn what_is_refused_shows_no_password() {
        for wrong in [
            "",
            "hunter2",
            "jdbc:oracle:thin:u/hunter2@h:1521:orcl",
            "jdbc:postgresql://u:hunter2@h:x/db",
            "jdbc:postgresql://u:hunter2@h",
            "jdbc:postgresql://u:hunter2@a,b/db",
            "postgresql://h/db?password=hunter2&sslmode=yes",
            "jdbc:sqlite::memory:",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", parse("mysql://u:hunter2@h/db").unwrap()).contains("hunter2"));
    }
}
