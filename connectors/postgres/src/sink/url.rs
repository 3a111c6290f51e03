//! `connection.url`: JDBC's form and libpq's.

use crate::connection::{Connect, Ssl, SslMode};
use aqueduct_config::{DatabaseUrl, TlsMode};
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
    let url = DatabaseUrl::parse(text)?;
    if !matches!(url.scheme.as_str(), "postgresql" | "postgres") {
        return Err("does not begin with jdbc:postgresql:// or postgresql://".to_owned());
    }
    if url.database.is_empty() {
        return Err("names no database: jdbc:postgresql://host:5432/database".to_owned());
    }
    let mode = match url.tls.unwrap_or_default() {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Allow => SslMode::Allow,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require => SslMode::Require,
        TlsMode::VerifyCa => SslMode::VerifyCa,
        TlsMode::VerifyFull => SslMode::VerifyFull,
    };
    Ok(Url {
        connect: Connect {
            host: url.host,
            port: url.port.unwrap_or(5432),
            database: url.database,
            user: url.user,
            password: url.password,
            ssl: Ssl { mode, root: url.root, cert: url.cert, key: url.key, ..Ssl::default() },
            timeout: url.timeout.unwrap_or(CONNECT_TIMEOUT),
            application: url.application.unwrap_or_else(|| "aqueduct-postgres-sink".to_owned()),
            tcp_keep_alive: true,
            initial: Vec::new(),
        },
        search_path: url.search_path,
        ignored: url.ignored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_of_postgres_and_names_a_database() {
        let url =
            parse("jdbc:postgresql://db.example/shop?user=app&sslmode=allow&currentSchema=a,b&stringtype=unspecified").unwrap();
        let connect = &url.connect;
        assert_eq!((connect.host.as_str(), connect.port, connect.database.as_str()), ("db.example", 5432, "shop"));
        assert_eq!((connect.ssl.mode, url.search_path.as_deref()), (SslMode::Allow, Some("a,b")));
        assert_eq!((url.ignored.as_slice(), connect.timeout), (["stringtype".to_owned()].as_slice(), CONNECT_TIMEOUT));
        for wrong in ["", "jdbc:mysql://h/db", "jdbc:postgresql://h", "postgresql://h/db?sslmode=yes"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(!parse("jdbc:postgresql://u:hunter2@h:x/db").unwrap_err().contains("hunter2"));
    }
}
