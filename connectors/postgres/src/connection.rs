//! How the source, the snapshot and the sink reach a server, and what its refusals mean.

mod key;

pub use key::read as client_key;

use aqueduct_config::types::Secret;
use aqueduct_core::{Class, Error, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Where a server is and who we are there. One for each task; cheap enough to clone.
#[derive(Clone, Debug)]
pub struct Connect {
    /// A name, an address, or (with a leading `/`) the folder of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub ssl: Ssl,
    /// For TCP, TLS and login together.
    pub timeout: Duration,
    /// Shown in `pg_stat_activity`.
    pub application: String,
    pub tcp_keep_alive: bool,
    /// What every ordinary session begins with.
    pub initial: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Ssl {
    pub mode: SslMode,
    /// PEM. Beside the system's roots.
    pub root: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    /// PEM or DER.
    pub key: Option<PathBuf>,
    /// Of the key, where it is encrypted.
    pub key_password: Option<Secret>,
}

/// libpq's `sslmode`. `Require` with a root certificate verifies as `VerifyCa` does, as in libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What the text form of values depends on. The snapshot's sessions and the stream's set the same, so that a value looks the same in both.
/// `lc_monetary` makes money parse as `$1,234.56` whatever the server's locale is.
pub const SESSION: [(&str, &str); 7] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("client_encoding", "UTF8"),
];

impl Connect {
    /// An ordinary connection with [`SESSION`] set.
    ///
    /// # Errors
    /// As [`Connect::error`].
    pub async fn open(&self) -> Result<PgConnection> {
        let first = self.attempt(self.sqlx_mode()).await;
        match (first, self.ssl.mode) {
            // `allow`: in the clear first, then with TLS if that is what the server wants (sqlx only does the first half).
            (Err(refused), SslMode::Allow) if matches!(refused.code(), "postgres.login" | "postgres.tls") => {
                self.attempt(PgSslMode::Require).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn attempt(&self, mode: PgSslMode) -> Result<PgConnection> {
        let key = key::read(self).await?;
        let options = self.options(mode, key);
        let mut connection = match tokio::time::timeout(self.timeout, options.connect()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failed)) => return Err(self.error("connect", failed)),
            Err(_) => return Err(self.unreachable(format!("no answer within {} ms", self.timeout.as_millis()))),
        };
        self.begin(&mut connection).await?;
        Ok(connection)
    }

    /// The user's own statements, and then ours again: how values look is not for others to say.
    async fn begin(&self, connection: &mut PgConnection) -> Result<()> {
        if self.initial.is_empty() {
            return Ok(());
        }
        let ours = SESSION.iter().map(|(name, value)| format!("SET {name} = {}", literal(value)));
        for sql in self.initial.iter().cloned().chain(ours) {
            let run = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await;
            run.map_err(|error| self.error("run the statements that a session begins with", error))?;
        }
        Ok(())
    }

    fn options(&self, mode: PgSslMode, key: Option<key::Pem>) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .password(self.password.as_ref().map_or("", Secret::expose))
            .ssl_mode(mode)
            .application_name(&self.application)
            .extra_float_digits(None)
            .options(SESSION);
        options = if self.host.starts_with('/') { options.socket(&self.host) } else { options.host(&self.host) };
        if let Some(root) = &self.ssl.root {
            options = options.ssl_root_cert(root);
        }
        if let Some(cert) = &self.ssl.cert {
            options = options.ssl_client_cert(cert);
        }
        if let Some(key) = key {
            options = options.ssl_client_key_from_pem(key.as_bytes());
        }
        options.disable_statement_logging()
    }

    fn sqlx_mode(&self) -> PgSslMode {
        match self.ssl.mode {
            SslMode::Disable => PgSslMode::Disable,
            SslMode::Allow => PgSslMode::Disable,
            SslMode::Prefer => PgSslMode::Prefer,
            SslMode::Require if self.ssl.root.is_some() => PgSslMode::VerifyCa,
            SslMode::Require => PgSslMode::Require,
            SslMode::VerifyCa => PgSslMode::VerifyCa,
            SslMode::VerifyFull => PgSslMode::VerifyFull,
        }
    }

    /// `localhost:5432/shop`
    pub fn place(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }

    /// What a failed call means. `doing` completes "cannot …": `read the columns of public.orders`.
    pub fn error(&self, doing: &str, failed: sqlx::Error) -> Error {
        match failed {
            sqlx::Error::Database(failed) => match failed.try_downcast_ref::<PgDatabaseError>() {
                Some(refusal) => self.refused(doing, &Refusal::from(refusal)),
                None => Error::fatal("postgres.refused", format!("cannot {doing}: {failed}")),
            },
            // rustls speaks of a certificate through an I/O error.
            sqlx::Error::Io(failed) if failed.kind() == std::io::ErrorKind::InvalidData => self.tls(doing, &failed),
            sqlx::Error::Io(failed) => self.unreachable(format!("cannot {doing}: {failed}")),
            sqlx::Error::Tls(failed) => self.tls(doing, failed.as_ref()),
            sqlx::Error::Configuration(failed) => Error::fatal("postgres.config", format!("cannot {doing}: {failed}")),
            sqlx::Error::RowNotFound => {
                Error::retriable("postgres.protocol", format!("cannot {doing}: no row where one was expected"))
            }
            failed @ (sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_)) => {
                Error::fatal("postgres.data", format!("cannot {doing}: {failed}"))
            }
            failed => Error::retriable("postgres.protocol", format!("cannot {doing}: {failed}")),
        }
    }

    /// The server is not there, or the connection broke.
    pub fn unreachable(&self, why: impl std::fmt::Display) -> Error {
        Error::retriable("postgres.connection", format!("{}: {why}", self.place()))
            .fix("Check that the server runs and that database.hostname and database.port reach it.")
    }

    pub fn tls(&self, doing: &str, why: &dyn std::error::Error) -> Error {
        Error::fatal("postgres.tls", format!("cannot {doing} at {}: {why}", self.place())).fix(
            "Check database.sslmode, database.sslrootcert, database.sslcert and database.sslkey against the server's certificate.",
        )
    }

    /// A refusal by SQLSTATE, with what to run.
    pub fn refused(&self, doing: &str, refusal: &Refusal) -> Error {
        let (class, code) = refusal.meaning();
        let mut message = format!("cannot {doing} at {}: {}", self.place(), refusal.message);
        for more in [&refusal.detail, &refusal.hint].into_iter().flatten() {
            let _ = write!(message, " {more}");
        }
        let _ = write!(message, " [SQLSTATE {}]", refusal.code);
        match self.advice(code, refusal) {
            Some(fix) => Error::new(class, code, message).fix(fix),
            None => Error::new(class, code, message),
        }
    }

    fn advice(&self, code: &str, refusal: &Refusal) -> Option<String> {
        let user = identifier(&self.user);
        Some(match code {
            "postgres.login" if refusal.message.contains("pg_hba.conf") => {
                format!("Add a line for the database {}, the user {} and this host to the server's pg_hba.conf, and reload it.", self.database, self.user)
            }
            "postgres.login" => format!("Check database.user and database.password, or run: ALTER ROLE {user} WITH LOGIN PASSWORD '…';"),
            "postgres.permission" => format!("As a superuser run: {}", self.grant(&refusal.message)),
            "postgres.database_missing" => format!("Check database.dbname, or run: CREATE DATABASE {};", identifier(&self.database)),
            "postgres.too_many_connections" => "Raise max_connections (or the role's CONNECTION LIMIT), or end sessions that are not needed.".into(),
            "postgres.slots_exhausted" => {
                "Drop slots that nobody reads (SELECT slot_name, active FROM pg_replication_slots; SELECT pg_drop_replication_slot('…');), or run: \
                 ALTER SYSTEM SET max_replication_slots = 20; and restart the server."
                    .into()
            }
            "postgres.disk_full" => "Free space on the server's disk.".into(),
            "postgres.read_only" => "The server is a standby or read-only: point database.hostname at the primary.".into(),
            _ => return None,
        })
    }

    /// The statement that gives the right that is missing, as far as the server's words tell it.
    fn grant(&self, message: &str) -> String {
        let user = identifier(&self.user);
        let last = message.rsplit(' ').next().unwrap_or_default();
        let after = |prefix: &str| message.strip_prefix(prefix).map(str::to_owned);
        // PostgreSQL 16 and later say what is denied, and only in the detail by whom it may be done.
        let words = ["replication", "REPLICATION", "start WAL sender"];
        if words.iter().any(|word| message.contains(word)) {
            format!("ALTER ROLE {user} REPLICATION;")
        } else if let Some(table) = after("permission denied for table ").or_else(|| after("permission denied for relation ")) {
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {table} TO {user}; (a source needs SELECT only)")
        } else if let Some(schema) = after("permission denied for schema ") {
            format!("GRANT USAGE ON SCHEMA {schema} TO {user}; (with CREATE for tables that are to be made)")
        } else if let Some(function) = after("permission denied for function ") {
            format!("GRANT EXECUTE ON FUNCTION {function} TO {user};")
        } else if let Some(database) = after("permission denied for database ") {
            format!("GRANT CONNECT, CREATE ON DATABASE {database} TO {user};")
        } else if message.starts_with("must be owner of table ") {
            format!("ALTER TABLE {last} OWNER TO {user}; (or make the publication as the owner)")
        } else if message.starts_with("must be owner of publication ") {
            format!("ALTER PUBLICATION {last} OWNER TO {user};")
        } else if message.contains("superuser") && message.contains("publication") {
            format!(
                "CREATE PUBLICATION … FOR ALL TABLES; (only a superuser may; or set publication.autocreate.mode to filtered) and ALTER PUBLICATION … OWNER TO {user};"
            )
        } else {
            format!("GRANT … TO {user}; ({message})")
        }
    }
}

/// The fields of an ErrorResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<&PgDatabaseError> for Refusal {
    fn from(error: &PgDatabaseError) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl Refusal {
    /// Whether it may pass by itself, and our code for it.
    pub fn meaning(&self) -> (Class, &'static str) {
        use Class::{Fatal, Retriable};
        match self.code.as_str() {
            "57014" | "55P03" | "25P03" | "57P05" => (Retriable, "postgres.timeout"),
            "53300" => (Retriable, "postgres.too_many_connections"),
            "53400" => (Fatal, "postgres.slots_exhausted"),
            "53100" => (Retriable, "postgres.disk_full"),
            "40001" => (Retriable, "postgres.serialization"),
            "40P01" => (Retriable, "postgres.deadlock"),
            "55006" => (Retriable, "postgres.in_use"),
            "25006" => (Retriable, "postgres.read_only"),
            "28000" | "28P01" => (Fatal, "postgres.login"),
            "42501" => (Fatal, "postgres.permission"),
            "3D000" => (Fatal, "postgres.database_missing"),
            "42P01" => (Fatal, "postgres.table_missing"),
            "42703" => (Fatal, "postgres.column_missing"),
            "42704" => (Fatal, "postgres.object_missing"),
            "42710" | "42P07" | "42701" | "42P06" => (Fatal, "postgres.exists"),
            "0A000" => (Fatal, "postgres.unsupported"),
            code => match code.get(..2).unwrap_or_default() {
                "08" => (Retriable, "postgres.connection"),
                "57" => (Retriable, "postgres.unavailable"),
                "53" | "58" | "XX" => (Retriable, "postgres.trouble"),
                "22" => (Fatal, "postgres.data"),
                "23" => (Fatal, "postgres.constraint"),
                "42" => (Fatal, "postgres.statement"),
                _ => (Fatal, "postgres.refused"),
            },
        }
    }
}

/// `"Weird ""name"""`: safe in SQL whatever it holds (a NUL cannot stand in any name).
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// `"public"."orders"`
pub fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

/// `'it''s'`, for the few statements that take no parameters. Backslashes are safe under any `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\0', "").replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// Ends a session; the server notices by itself where that fails.
pub async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a session did not end in order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect() -> Connect {
        Connect {
            host: "db".into(),
            port: 5432,
            database: "shop".into(),
            user: "app".into(),
            password: Some(Secret::new("hunter2")),
            ssl: Ssl::default(),
            timeout: Duration::from_secs(1),
            application: "aqueduct".into(),
            tcp_keep_alive: true,
            initial: Vec::new(),
        }
    }

    fn refusal(code: &str, message: &str) -> Refusal {
        Refusal { code: code.into(), message: message.into(), ..Refusal::default() }
    }

    #[test]
    fn a_missing_right_comes_with_the_statement_that_gives_it() {
        for (message, expected) in [
            ("must be superuser or replication role to use replication slots", "ALTER ROLE \"app\" REPLICATION;"),
            ("permission denied to start WAL sender", "ALTER ROLE \"app\" REPLICATION;"),
            ("permission denied to use replication slots", "ALTER ROLE \"app\" REPLICATION;"),
            ("permission denied for table orders", "ON TABLE orders TO \"app\""),
            ("permission denied for schema sales", "GRANT USAGE ON SCHEMA sales TO \"app\""),
            ("permission denied for database shop", "GRANT CONNECT, CREATE ON DATABASE shop TO \"app\""),
            ("must be owner of table orders", "ALTER TABLE orders OWNER TO \"app\""),
        ] {
            let error = connect().refused("work", &refusal("42501", message));
            assert_eq!((error.class(), error.code()), (Class::Fatal, "postgres.permission"));
            assert!(error.hint().unwrap().contains(expected), "{:?}", error.hint());
        }
    }

    #[test]
    fn what_may_pass_is_retried_and_what_cannot_is_not() {
        for (code, class, ours) in [
            ("57P01", Class::Retriable, "postgres.unavailable"),
            ("08006", Class::Retriable, "postgres.connection"),
            ("40001", Class::Retriable, "postgres.serialization"),
            ("55006", Class::Retriable, "postgres.in_use"),
            ("28P01", Class::Fatal, "postgres.login"),
            ("23505", Class::Fatal, "postgres.constraint"),
            ("42601", Class::Fatal, "postgres.statement"),
            ("", Class::Fatal, "postgres.refused"),
        ] {
            let error = connect().refused("work", &refusal(code, "no"));
            assert_eq!((error.class(), error.code()), (class, ours), "{code}");
            assert!(!error.trace().contains("hunter2"));
        }
        assert!(!format!("{:?}", connect()).contains("hunter2"));
    }

    #[test]
    fn names_and_texts_cannot_break_out() {
        assert_eq!(qualified("a\"b", "c;--"), r#""a""b"."c;--""#);
        assert_eq!((literal("it's").as_str(), literal(r"a\'b").as_str()), ("'it''s'", r"E'a\\''b'"));
    }
}
