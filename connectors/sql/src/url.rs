//! `connection.url`: JDBC's forms, and plain ones.

use aqueduct_config::Secret;
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    MySql,
    Sqlite,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
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
    let text = text.trim();
    let rest = text.strip_prefix("jdbc:").unwrap_or(text);
    let Some((scheme, rest)) = rest.split_once(':') else { return Err(unknown(None)) };
    match scheme {
        "postgresql" | "postgres" => server(Dialect::Postgres, rest),
        "mysql" | "mariadb" => server(Dialect::MySql, rest),
        "sqlite" => file(rest),
        other => Err(unknown(other.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(other))),
    }
}

fn unknown(scheme: Option<&str>) -> String {
    let what = scheme.map_or_else(|| "has no scheme".to_owned(), |scheme| format!("is for {scheme}, which is not supported"));
    format!("{what}; there are jdbc:postgresql://, jdbc:mysql://, jdbc:mariadb:// and jdbc:sqlite:")
}

fn blank(dialect: Dialect) -> Target {
    Target {
        dialect,
        host: "localhost".to_owned(),
        port: if dialect == Dialect::MySql { 3306 } else { 5432 },
        database: String::new(),
        user: String::new(),
        password: None,
        tls: TlsMode::default(),
        root: None,
        cert: None,
        key: None,
        search_path: None,
        application: "aqueduct-sql-source".to_owned(),
        timeout: CONNECT_TIMEOUT,
        ignored: Vec::new(),
    }
}

fn server(dialect: Dialect, rest: &str) -> Result<Target, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = match place.strip_prefix("//") {
        Some(place) => place.split_once('/').unwrap_or((place, "")),
        // `jdbc:postgresql:database`
        None => ("", place.trim_start_matches('/')),
    };
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if hosts.contains(',') {
        return Err("names more than one host; give one, or an address that follows the primary".to_owned());
    }
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let mut target = blank(dialect);
    (target.host, target.port) = host_and_port(hosts, target.port)?;
    target.database = decode(database)?;
    target.user = decode(user)?;
    target.password = password.map(decode).transpose()?.map(Secret::new);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        target.parameter(&decode(name)?, decode(value)?)?;
    }
    if dialect == Dialect::Postgres && target.database.is_empty() {
        return Err("names no database: jdbc:postgresql://host:5432/database".to_owned());
    }
    Ok(target)
}

/// `jdbc:sqlite:/path`, `jdbc:sqlite:relative.db`, `sqlite:///path`.
fn file(rest: &str) -> Result<Target, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        return Err("names no file: jdbc:sqlite:/path/to/file.db".to_owned());
    }
    let mut target = blank(Dialect::Sqlite);
    target.host.clear();
    target.database = path.to_owned();
    target.ignored = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| key_of(pair).to_owned()).collect();
    Ok(target)
}

fn key_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

impl Target {
    fn parameter(&mut self, name: &str, value: String) -> Result<(), String> {
        let yes = value.is_empty() || value.eq_ignore_ascii_case("true");
        match name {
            "user" => self.user = value,
            "password" => self.password = Some(Secret::new(value)),
            // A Unix socket's folder, as libpq has it.
            "host" => self.host = value,
            "sslmode" | "sslMode" | "ssl-mode" => self.tls = tls_mode(&value)?,
            "ssl" if yes => self.tls = TlsMode::VerifyFull,
            "useSSL" if yes => self.tls = self.tls.at_least(TlsMode::Prefer),
            "ssl" | "useSSL" => self.tls = TlsMode::Disable,
            "requireSSL" if yes => self.tls = self.tls.at_least(TlsMode::Require),
            "verifyServerCertificate" if yes => self.tls = TlsMode::VerifyCa,
            "requireSSL" | "verifyServerCertificate" => {}
            "sslrootcert" | "serverSslCert" | "ssl-ca" => self.root = Some(PathBuf::from(value)),
            "sslcert" | "ssl-cert" => self.cert = Some(PathBuf::from(value)),
            "sslkey" | "ssl-key" => self.key = Some(PathBuf::from(value)),
            "ApplicationName" | "application_name" => self.application = value,
            "currentSchema" => self.search_path = Some(value),
            "connectTimeout" | "connect_timeout" | "loginTimeout" => self.timeout = self.time(name, &value)?,
            other => self.ignored.push(other.to_owned()),
        }
        Ok(())
    }

    /// Seconds for Postgres, milliseconds for MySQL; 0 is the default.
    fn time(&self, name: &str, value: &str) -> Result<Duration, String> {
        let number: u64 = value.parse().map_err(|_| format!("has a {name} that is no number"))?;
        let given = if self.dialect == Dialect::MySql { Duration::from_millis(number) } else { Duration::from_secs(number) };
        Ok(if given.is_zero() { CONNECT_TIMEOUT } else { given.min(Duration::from_secs(600)) })
    }

    /// For people; without user, password and parameters (invariant 9).
    pub(crate) fn show(&self) -> String {
        match self.dialect {
            Dialect::Postgres => format!("Postgres at {}:{}, database {}", self.host, self.port, self.database),
            Dialect::MySql => format!("MySQL at {}:{}", self.host, self.port),
            Dialect::Sqlite => format!("SQLite file {}", self.database),
        }
    }
}

impl TlsMode {
    fn at_least(self, other: Self) -> Self {
        if self as u8 >= other as u8 { self } else { other }
    }
}

fn host_and_port(text: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host.to_owned(), rest.strip_prefix(':').unwrap_or("")),
        None => {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            (decode(host)?, port)
        }
    };
    let port = if port.is_empty() { default } else { port.parse().map_err(|_| "has a port that is no number".to_owned())? };
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

fn tls_mode(text: &str) -> Result<TlsMode, String> {
    Ok(match text.to_ascii_lowercase().replace('_', "-").as_str() {
        "disable" | "disabled" => TlsMode::Disable,
        "allow" | "prefer" | "preferred" => TlsMode::Prefer,
        "require" | "required" | "trust" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" | "verify-identity" => TlsMode::VerifyFull,
        _ => return Err("has an sslmode that is none of disable, prefer, require, verify-ca and verify-full".to_owned()),
    })
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "is not UTF-8 behind its %".to_owned())?;
    Ok(decoded.into_owned())
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
