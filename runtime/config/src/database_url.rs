//! Where a database server is: JDBC's form of URL and libpq's, read here for every connector that takes one.

use crate::types::Secret;
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

/// `[jdbc:]scheme://user:password@host:port/database?parameter=value`. `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    /// Without `jdbc:`.
    pub scheme: String,
    /// `localhost` where it names none.
    pub host: String,
    pub port: Option<u16>,
    /// May be empty.
    pub database: String,
    /// May be empty.
    pub user: String,
    pub password: Option<Secret>,
    /// `sslmode`, and what MySQL's drivers have in its place.
    pub tls: Option<TlsMode>,
    pub root: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// `currentSchema`
    pub search_path: Option<String>,
    pub application: Option<String>,
    /// `connectTimeout`, at most 10 minutes. `None` also for 0.
    pub timeout: Option<Duration>,
    /// Parameters that mean nothing here, as they are written.
    pub ignored: Vec<String>,
}

/// libpq's `sslmode`, from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Of a URL, without `jdbc:`; and what follows its colon.
pub fn scheme(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    text.strip_prefix("jdbc:").unwrap_or(text).split_once(':')
}

impl DatabaseUrl {
    /// The scheme is not judged.
    ///
    /// # Errors
    /// What is wrong, as a sentence's end. Never shows the URL, which may hold a password (invariant 9).
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = scheme(text).ok_or("has no scheme")?;
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
        let (host, port) = host_and_port(hosts)?;
        let mut url = Self {
            scheme: scheme.to_owned(),
            host,
            port,
            database: decode(database)?,
            user: decode(user)?,
            password: password.map(decode).transpose()?.map(Secret::new),
            tls: None,
            root: None,
            cert: None,
            key: None,
            search_path: None,
            application: None,
            timeout: None,
            ignored: Vec::new(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            url.parameter(&decode(name)?, decode(value)?)?;
        }
        Ok(url)
    }

    fn parameter(&mut self, name: &str, value: String) -> Result<(), String> {
        let yes = value.is_empty() || value.eq_ignore_ascii_case("true");
        match name {
            "user" => self.user = value,
            "password" => self.password = Some(Secret::new(value)),
            // A Unix socket's folder, as libpq has it.
            "host" => self.host = value,
            "sslmode" | "sslMode" | "ssl-mode" => self.tls = Some(tls_mode(&value)?),
            "ssl" if yes => self.tls = Some(TlsMode::VerifyFull),
            "useSSL" if yes => self.tls = self.tls.max(Some(TlsMode::Prefer)),
            "useSSL" => self.tls = Some(TlsMode::Disable),
            "requireSSL" if yes => self.tls = self.tls.max(Some(TlsMode::Require)),
            "verifyServerCertificate" if yes => self.tls = Some(TlsMode::VerifyCa),
            // As pgjdbc: `ssl=false` is what it is without.
            "ssl" | "requireSSL" | "verifyServerCertificate" => {}
            "sslrootcert" | "serverSslCert" | "ssl-ca" => self.root = Some(PathBuf::from(value)),
            "sslcert" | "ssl-cert" => self.cert = Some(PathBuf::from(value)),
            "sslkey" | "ssl-key" => self.key = Some(PathBuf::from(value)),
            "ApplicationName" | "application_name" => self.application = Some(value),
            "currentSchema" => self.search_path = Some(value),
            "connectTimeout" | "connect_timeout" | "loginTimeout" => self.timeout = self.time(name, &value)?,
            other => self.ignored.push(other.to_owned()),
        }
        Ok(())
    }

    /// Seconds for Postgres, milliseconds for MySQL.
    fn time(&self, name: &str, value: &str) -> Result<Option<Duration>, String> {
        let number: u64 = value.parse().map_err(|_| format!("has a {name} that is no number"))?;
        let millis = matches!(self.scheme.as_str(), "mysql" | "mariadb");
        let given = if millis { Duration::from_millis(number) } else { Duration::from_secs(number) };
        Ok((!given.is_zero()).then(|| given.min(TIMEOUT_MAX)))
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host.to_owned(), rest.strip_prefix(':').unwrap_or("")),
        None => {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            (decode(host)?, port)
        }
    };
    let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| "has a port that is no number".to_owned())?) };
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

fn tls_mode(text: &str) -> Result<TlsMode, String> {
    Ok(match text.to_ascii_lowercase().replace('_', "-").as_str() {
        "disable" | "disabled" => TlsMode::Disable,
        "allow" => TlsMode::Allow,
        "prefer" | "preferred" => TlsMode::Prefer,
        "require" | "required" | "trust" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" | "verify-identity" => TlsMode::VerifyFull,
        _ => return Err("has an sslmode that is none of disable, allow, prefer, require, verify-ca and verify-full".to_owned()),
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
    fn both_forms_of_url() {
        let parse = |text| DatabaseUrl::parse(text).unwrap();
        let url = parse(
            "jdbc:postgresql://db.example:5433/shop?user=app&password=p%26w&sslmode=require&currentSchema=a,b&stringtype=unspecified",
        );
        assert_eq!(
            (url.scheme.as_str(), url.host.as_str(), url.port, url.database.as_str()),
            ("postgresql", "db.example", Some(5433), "shop")
        );
        assert_eq!((url.user.as_str(), url.password.as_ref().unwrap().expose()), ("app", "p&w"));
        assert_eq!((url.tls, url.search_path.as_deref()), (Some(TlsMode::Require), Some("a,b")));
        assert_eq!(url.ignored, ["stringtype"]);
        let url = parse("postgres://me:s%40crt@[::1]/x?connectTimeout=3&ssl=false");
        assert_eq!((url.host.as_str(), url.port, url.user.as_str(), url.tls), ("::1", None, "me", None));
        assert_eq!((url.password.unwrap().expose(), url.timeout), ("s@crt", Some(Duration::from_secs(3))));
        assert_eq!(parse("jdbc:postgresql:shop").host, "localhost");
        assert_eq!(parse("postgresql:///shop?host=/run/pg&connectTimeout=0").host, "/run/pg");
        let url = parse("jdbc:mysql://h/db?verifyServerCertificate=false&useSSL=true&requireSSL=true&connectTimeout=2500");
        assert_eq!((url.tls, url.timeout), (Some(TlsMode::Require), Some(Duration::from_millis(2500))));
        assert_eq!(parse("jdbc:mariadb://h:3307/db?sslMode=VERIFY_IDENTITY").tls, Some(TlsMode::VerifyFull));
    }

    #[test]
    fn what_is_refused_shows_no_password() {
        for wrong in [
            "",
            "hunter2",
            "jdbc:postgresql://u:hunter2@h:x/db",
            "jdbc:postgresql://u:hunter2@a,b/db",
            "postgresql://h/db?password=hunter2&sslmode=yes",
            "postgresql://h/db?password=hunter2&connectTimeout=soon",
            "postgresql://u:hunter2%ff@h/db",
        ] {
            let error = DatabaseUrl::parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", DatabaseUrl::parse("mysql://u:hunter2@h/db").unwrap()).contains("hunter2"));
    }
}
