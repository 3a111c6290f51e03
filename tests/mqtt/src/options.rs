//! How a broker is configured.

use std::fmt::Write;
use std::path::Path;

/// Of [`Options::password`].
pub const USER: &str = "alice";
pub const PASSWORD: &str = "s3cret,with;signs";

/// The default loses nothing that it has acknowledged when it is killed, and has no limits: mosquitto's own defaults do, and have.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) settings: Vec<String>,
    pub(crate) tls: bool,
    pub(crate) client_certificate: bool,
    pub(crate) password: bool,
}

impl Default for Options {
    fn default() -> Self {
        let settings = ["persistence true", "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0"];
        Self { settings: settings.map(str::to_owned).to_vec(), tls: false, client_certificate: false, password: false }
    }
}

impl Options {
    /// Nothing outlives the process: for speed.
    pub fn in_memory() -> Self {
        Self { settings: vec!["persistence false".into(), "max_queued_messages 0".into()], ..Self::default() }
    }

    /// One more line of `mosquitto.conf`.
    #[must_use]
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// TLS, with certificates made for it.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// TLS, and clients show a certificate too.
    #[must_use]
    pub fn mutual_tls(mut self) -> Self {
        (self.tls, self.client_certificate) = (true, true);
        self
    }

    /// Only [`USER`] with [`PASSWORD`].
    #[must_use]
    pub fn password(mut self) -> Self {
        self.password = true;
        self
    }

    pub(crate) fn configuration(&self, port: u16, dir: &Path) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to memory");
        let at = |name: &str| dir.join(name).display().to_string();
        line(format!("listener {port} 127.0.0.1"));
        if self.tls {
            line(format!("cafile {}", at("certs/ca.pem")));
            line(format!("certfile {}", at("certs/server.pem")));
            line(format!("keyfile {}", at("certs/server.key")));
            line(format!("require_certificate {}", self.client_certificate));
        }
        line(format!("allow_anonymous {}", !self.password));
        if self.password {
            line(format!("password_file {}", at("passwords")));
        }
        // Where the test runs as root, mosquitto would turn to its own user, who cannot read the folder.
        line("user root".into());
        line(format!("persistence_location {}/", dir.display()));
        line(format!("log_dest file {}", at("mosquitto.log")));
        for setting in &self.settings {
            line(setting.clone());
        }
        text
    }
}
