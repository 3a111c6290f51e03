//! How a server is set up.

use std::path::Path;

/// The superuser of every server; his password is [`PASSWORD`] (SCRAM).
pub const USER: &str = "postgres";
pub const PASSWORD: &str = "postgres-secret";

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More lines of `postgresql.conf`; they win over ours.
    pub settings: Vec<String>,
    /// Passwords are asked for, SCRAM-SHA-256. Otherwise everyone on TCP is trusted.
    pub scram: bool,
    /// TLS alone: plain connections are refused. `Server::certs` has the authority; `alice` (made by the test) comes in by her certificate.
    pub tls: bool,
    /// All of the server's files on a disk of this size (`"128m"`; an empty cluster takes 60 MB): needs root.
    pub disk: Option<String>,
}

impl Options {
    pub fn scram() -> Self {
        Self { scram: true, ..Self::default() }
    }

    pub fn tls() -> Self {
        Self { tls: true, scram: true, ..Self::default() }
    }

    /// `name = value`, as in `postgresql.conf`.
    #[must_use]
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    #[must_use]
    pub fn on_disk(mut self, size: &str) -> Self {
        self.disk = Some(size.to_owned());
        self
    }

    /// `postgresql.conf`.
    pub(crate) fn configuration(&self, port: u16, dir: &Path) -> String {
        let dir = dir.display();
        let mut lines = vec![
            format!("port = {port}\nunix_socket_directories = '{dir}'\nlisten_addresses = '127.0.0.1'"),
            // Enough for the tests that share a server.
            "wal_level = logical\nmax_wal_senders = 40\nmax_replication_slots = 60\nmax_connections = 150".into(),
            "shared_buffers = 32MB\nmin_wal_size = 32MB\nmax_wal_size = 256MB\nmax_prepared_transactions = 20".into(),
            "fsync = on\nautovacuum = on\nhot_standby = on\nwal_keep_size = 64MB".into(),
            "timezone = 'UTC'\nlc_messages = 'C'\nlog_line_prefix = '%m [%p] %u@%d %a '\nlog_timezone = 'UTC'".into(),
        ];
        if self.tls {
            lines.push(format!("ssl = on\nssl_cert_file = '{dir}/certs/server.pem'\nssl_key_file = '{dir}/certs/server.key'"));
            lines.push(format!("ssl_ca_file = '{dir}/certs/ca.pem'"));
        }
        lines.extend(self.settings.iter().cloned());
        lines.push(String::new());
        lines.join("\n")
    }

    /// `pg_hba.conf`. The socket, which is psql's way in, is open.
    pub(crate) fn access(&self) -> String {
        let method = if self.scram { "scram-sha-256" } else { "trust" };
        let host = if self.tls { "hostssl" } else { "host" };
        let mut lines = vec!["local all all trust\nlocal replication all trust".to_owned()];
        if self.tls {
            lines.push("hostssl all alice 127.0.0.1/32 cert\nhostssl replication alice 127.0.0.1/32 cert".into());
        }
        lines.push(format!("{host} all all 127.0.0.1/32 {method}\n{host} replication all 127.0.0.1/32 {method}\n"));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_the_test_comes_last() {
        let text = Options::default().with("wal_level = replica").configuration(20_000, Path::new("/x"));
        assert!(text.find("wal_level = logical").unwrap() < text.find("wal_level = replica").unwrap(), "{text}");
        assert!(!Options::tls().access().contains("\nhost all"));
    }
}
