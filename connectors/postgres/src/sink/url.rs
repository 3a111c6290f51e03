//! `connection.url`: JDBC's form and libpq's.

use crate::connection::{Connect, Ssl, SslMode};
use aqueduct_config::types::Secret;
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

/// What a URL says.
#[derive(Debug)]
pub(super) struct Url {
    pub(super) connect: Connect,
    /// `currentSchema`: the search path of the session.
    pub(super) search_path: Option<String>,
    /// Parameters that mean nothing here.
    pub(super) ignored: Vec<String>,
}

/// For TCP, TLS and login together, where `connectTimeout` says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// # Errors
/// What is wrong, as a sentence's end. Never shows the URL, which may hold a password (invariant 9).
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let rest = text.strip_prefix("jdbc:").unwrap_or(text);
    let rest = rest
        .strip_prefix("postgresql:")
        .or_else(|| rest.strip_prefix("postgres:"))
        .ok_or("does not begin with jdbc:postgresql:// or postgresql://")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = match place.strip_prefix("//") {
        Some(place) => place.split_once('/').unwrap_or((place, "")),
        // `jdbc:postgresql:database`
        None => ("", place.trim_start_matches('/')),
    };
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    if hosts.contains(',') {
        return Err("names more than one host; give the primary's, or an address that follows it".to_owned());
    }
    let (host, port) = host_and_port(hosts)?;
    let mut url = Url {
        connect: Connect {
            host,
            port,
            database: decode(database)?,
            user: decode(user)?,
            password: password.map(decode).transpose()?.map(Secret::new),
            ssl: Ssl::default(),
            timeout: CONNECT_TIMEOUT,
            application: "aqueduct-postgres-sink".to_owned(),
            tcp_keep_alive: true,
            initial: Vec::new(),
        },
        search_path: None,
        ignored: Vec::new(),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        url.parameter(&decode(name)?, decode(value)?)?;
    }
    if url.connect.database.is_empty() {
        return Err("names no database: jdbc:postgresql://host:5432/database".to_owned());
    }
    Ok(url)
}

impl Url {
    fn parameter(&mut self, name: &str, value: String) -> Result<(), String> {
        let connect = &mut self.connect;
        match name {
            "user" => connect.user = value,
            "password" => connect.password = Some(Secret::new(value)),
            // A Unix socket's folder, as libpq has it.
            "host" => connect.host = value,
            "sslmode" => connect.ssl.mode = ssl_mode(&value)?,
            "ssl" if value.is_empty() || value == "true" => connect.ssl.mode = SslMode::VerifyFull,
            "ssl" => {}
            "sslrootcert" => connect.ssl.root = Some(PathBuf::from(value)),
            "sslcert" => connect.ssl.cert = Some(PathBuf::from(value)),
            "sslkey" => connect.ssl.key = Some(PathBuf::from(value)),
            "ApplicationName" | "application_name" => connect.application = value,
            "currentSchema" => self.search_path = Some(value),
            "connectTimeout" | "connect_timeout" | "loginTimeout" => {
                let seconds: u64 = value.parse().map_err(|_| format!("has {name}={value}, which is no number of seconds"))?;
                connect.timeout = if seconds == 0 { CONNECT_TIMEOUT } else { Duration::from_secs(seconds.min(600)) };
            }
            other => self.ignored.push(other.to_owned()),
        }
        Ok(())
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host.to_owned(), rest.strip_prefix(':').unwrap_or("")),
        None => {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            (decode(host)?, port)
        }
    };
    let port = if port.is_empty() { 5432 } else { port.parse().map_err(|_| format!("has the port {port:?}"))? };
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

fn ssl_mode(text: &str) -> Result<SslMode, String> {
    Ok(match text {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        other => {
            return Err(format!("has sslmode={other}; there are disable, allow, prefer, require, verify-ca and verify-full"));
        }
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
        let url = parse("jdbc:postgresql://db.example:5433/shop?user=app&password=p%26w&sslmode=require&currentSchema=a,b&stringtype=unspecified").unwrap();
        let connect = &url.connect;
        assert_eq!((connect.host.as_str(), connect.port, connect.database.as_str()), ("db.example", 5433, "shop"));
        assert_eq!((connect.user.as_str(), connect.password.as_ref().unwrap().expose()), ("app", "p&w"));
        assert_eq!((connect.ssl.mode, url.search_path.as_deref()), (SslMode::Require, Some("a,b")));
        assert_eq!(url.ignored, ["stringtype"]);
        let url = parse("postgres://me:s%40crt@[::1]/x").unwrap();
        assert_eq!((url.connect.host.as_str(), url.connect.port, url.connect.user.as_str()), ("::1", 5432, "me"));
        assert_eq!(url.connect.password.unwrap().expose(), "s@crt");
        assert_eq!(parse("jdbc:postgresql:shop").unwrap().connect.host, "localhost");
        assert_eq!(parse("postgresql:///shop?host=/run/pg").unwrap().connect.host, "/run/pg");
        for wrong in [
            "",
            "jdbc:mysql://h/db",
            "jdbc:postgresql://h:x/db",
            "jdbc:postgresql://h",
            "jdbc:postgresql://a,b/db",
            "postgresql://h/db?sslmode=yes",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(!parse("jdbc:postgresql://u:hunter2@h:x/db").unwrap_err().contains("hunter2"));
    }
}
