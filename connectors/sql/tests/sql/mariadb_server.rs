//! A real MariaDB in a temporary folder, on a port of its own, ended with the test. MySQL, where `AQUEDUCT_MYSQL_BIN` names a folder with its `mysqld` and `mysql`.

use postgres_services::{free_port, wait_until};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const USER: &str = "app";
pub const PASSWORD: &str = "maria-secret";

const START: Duration = Duration::from_secs(60);

pub struct MariaDb {
    port: u16,
    process: Option<Child>,
    folder: tempfile::TempDir,
}

impl MariaDb {
    /// # Panics
    /// When it is not installed (`cargo xtask services install`) or does not start, with its log.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("aqueduct-mariadb-").tempdir_in("/var/tmp").unwrap();
        if let Some((uid, gid)) = owner() {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = folder.path().join("data");
        let mut make = match mysql() {
            Some(_) => as_owner(&program("mysqld")),
            None => as_owner(&program("mariadb-install-db")),
        };
        make.args(match mysql() {
            Some(_) => &["--no-defaults", "--initialize-insecure"][..],
            None => &["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"],
        });
        let made = make
            .arg(format!("--datadir={}", data.display()))
            // It runs as another user, who need not be able to write to ours.
            .env("TMPDIR", folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        let mut server = Self { port: free_port(), process: None, folder };
        server.restart();
        server.sql(&format!(
            "CREATE DATABASE shop; CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO {USER}@'%'"
        ));
        server
    }

    pub fn restart(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = as_owner(&program(if mysql().is_some() { "mysqld" } else { "mariadbd" }))
            .args([
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--innodb-flush-log-at-trx-commit=2",
                "--innodb-buffer-pool-size=32M",
            ])
            .args([
                format!("--port={}", self.port),
                format!("--datadir={}", at("data")),
                format!("--socket={}", at("s")),
                format!("--tmpdir={}", self.folder.path().display()),
                format!("--pid-file={}", at("pid")),
            ])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        wait_until(START, "MariaDB answers", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(self.folder.path().join("log")).unwrap());
            self.client("SELECT 1").ok()
        });
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("jdbc:mariadb://127.0.0.1:{}/shop", self.port)
    }

    fn client(&self, sql: &str) -> Result<String, String> {
        let mut client = Command::new(program(if mysql().is_some() { "mysql" } else { "mariadb" }));
        client.args(["--no-defaults", "-uroot", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]);
        let output =
            client.arg(format!("--socket={}", self.folder.path().join("s").display())).args(["-e", sql]).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// As root, in the database `shop` if it is there.
    pub fn sql(&self, sql: &str) -> String {
        let there = self.client("USE shop").is_ok();
        self.client(&format!("{}{sql}", if there { "USE shop; " } else { "" })).unwrap_or_else(|error| panic!("{error} in {sql}"))
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn mysql() -> Option<PathBuf> {
    std::env::var_os("AQUEDUCT_MYSQL_BIN").map(PathBuf::from)
}

fn program(name: &str) -> PathBuf {
    if let Some(folder) = mysql() {
        return folder.join(name);
    }
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: run `cargo xtask services install`, or apt-get install mariadb-server"))
}

/// Of the user mysql, when we are root, as whom no server starts.
fn owner() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("mysql:")).expect("no user mysql: apt-get install mariadb-server");
    let mut fields = user.split(':').skip(2).map(|number| number.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

/// Ended with the thread that starts it: no test leaves a server behind.
fn as_owner(path: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((uid, gid)) = owner() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(path).env("TZ", "UTC").current_dir("/var/tmp").stdin(Stdio::null());
    command
}
