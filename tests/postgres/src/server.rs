//! One server: a process that is killed, frozen, copied, promoted and started again on the same data and port.

use crate::disk::Disk;
use crate::home::{bin_dir, free_port, hand_over, must, script, server_program};
use crate::options::{Options, PASSWORD, USER};
use crate::psql::{Psql, Session};
use crate::template;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use wait_services::{poll_for, wait_until};

/// On a loaded machine; recovery after `kill9` included.
const START: Duration = Duration::from_secs(180);

/// Killed on drop, its data removed. The tail of its log is printed when the test fails.
#[derive(Debug)]
pub struct Server {
    port: u16,
    options: Options,
    process: Option<Child>,
    watcher: Option<Child>,
    // Unmounted before the folder goes.
    disk: Option<Disk>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server (0.5 s) and returns when it serves.
    ///
    /// # Panics
    /// When it does not start, with the tail of its log.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut server = Self::stopped(options);
        server.restart();
        server
    }

    /// A cluster whose address is known; nothing listens there until [`Server::restart`].
    #[track_caller]
    pub fn stopped(options: Options) -> Self {
        let mut server = Self::folder(options);
        if let Some(size) = &server.options.disk {
            server.disk = Some(Disk::mount(&server.dir().join("disk"), size));
        }
        template::copy_to(&server.data());
        server.configure();
        server
    }

    fn folder(options: Options) -> Self {
        bin_dir();
        // Not /tmp, which may be memory.
        let dir = tempfile::Builder::new().prefix("aqueduct-postgres-").tempdir_in("/var/tmp").expect("/var/tmp is writable");
        hand_over(dir.path());
        let server = Self { port: free_port(), options, process: None, watcher: None, disk: None, dir };
        if server.options.tls {
            must(Command::new(script("make-certs.sh")).arg(server.certs()));
            for entry in fs::read_dir(server.certs()).expect("just made") {
                hand_over(&entry.expect("just made").path());
            }
            hand_over(&server.certs());
        }
        server
    }

    fn configure(&self) {
        let write = |name: &str, text: String| {
            let path = self.data().join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            hand_over(&path);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("just written");
        };
        write("postgresql.conf", self.options.configuration(self.port, self.dir()));
        write("pg_hba.conf", self.options.access());
    }

    /// Changes options: what needs it holds after the next [`Server::restart`].
    pub fn set(&mut self, setting: &str) {
        self.options.settings.push(setting.to_owned());
        self.configure();
    }

    /// Whether [`Server::wrap_transaction_ids`] can be had: builds for embedding have no `pg_resetwal`.
    pub fn can_wrap_transaction_ids() -> bool {
        bin_dir().join("pg_resetwal").exists()
    }

    /// The next transaction is beyond the first four billion. The server must have been stopped in order, or not have run yet.
    ///
    /// # Panics
    /// Without `pg_resetwal`.
    #[track_caller]
    pub fn wrap_transaction_ids(&self) {
        assert!(self.process.is_none(), "the server runs");
        must(server_program("pg_resetwal").args(["-e", "1", "-D"]).arg(self.data()));
    }

    /// The folder of the server: `data/` (or `disk/data`), `postgres.log`, `certs/`, the socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        if self.options.disk.is_some() { self.dir().join("disk/data") } else { self.dir().join("data") }
    }

    /// The small disk of `Options::disk`.
    ///
    /// # Panics
    /// Without it.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("started with Options::disk")
    }

    /// `ca.pem`; `client.pem` and `client.key` of `CN=alice`.
    pub fn certs(&self) -> PathBuf {
        self.dir().join("certs")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://postgres:…@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// `database.hostname`, `database.port`, `database.user`, `database.password` and `database.dbname`, as Debezium names them, in lines of YAML.
    pub fn yaml(&self, database: &str) -> String {
        yaml(self.port, database)
    }

    /// The postmaster.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Starts it again, on the same data and port, and returns when it serves (a standby: reads).
    ///
    /// # Panics
    /// When it already runs, or does not start within three minutes.
    #[track_caller]
    pub fn restart(&mut self) {
        let before = fs::metadata(self.log_file()).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        self.spawn();
        let ready = poll_for(START, || {
            if let Some(status) = self.process.as_mut()?.try_wait().expect("our own child can be waited for") {
                return Some(Err(format!("ended with {status}")));
            }
            let log = fs::read(self.log_file()).unwrap_or_default();
            let new = String::from_utf8_lossy(log.get(before..)?).into_owned();
            new.contains("ready to accept").then_some(Ok(()))
        });
        match ready {
            Some(Ok(())) => {}
            other => panic!("PostgreSQL does not start: {other:?}\n{}", self.log_tail(30)),
        }
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the server already runs");
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).expect("our own folder");
        let error = log.try_clone().expect("a file handle can be cloned");
        let mut command = server_program("postgres");
        let child = command.arg("-D").arg(self.data()).stdout(log).stderr(error).spawn();
        self.process = Some(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")));
        if self.watcher.is_none() {
            self.watcher = Some(watch(self.dir(), &self.data()));
        }
    }

    /// `kill -9` of the postmaster and all its children, and they are gone on return.
    pub fn kill9(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        // Stopped first: else it forks one more behind our back. Every child is a process group of its own.
        signal(child.id(), Signal::STOP);
        let children = children(child.id());
        children.iter().for_each(|pid| signal(*pid, Signal::KILL));
        signal(child.id(), Signal::KILL);
        let _ = child.wait();
        wait_until(START, "the server's processes are gone", || {
            children.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists() || zombie(*pid)).then_some(())
        });
        // What kill -9 of a machine leaves too; a new postmaster looks whether the process is still there, and its number may be taken again.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Fast shutdown (SIGINT); immediate when receivers of WAL do not let go of it within ten seconds.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, first: Signal) {
        let Some(mut child) = self.process.take() else { return };
        signal(child.id(), first);
        let mut gone = || child.try_wait().ok().flatten();
        if poll_for(Duration::from_secs(10), &mut gone).is_none() {
            signal(child.id(), Signal::QUIT);
            wait_until(START, "the server ends", || child.try_wait().ok().flatten());
        }
    }

    /// SIGSTOP of all its processes: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, what: Signal) {
        if let Some(pid) = self.pid() {
            signal(pid, what);
            children(pid).into_iter().for_each(|child| signal(child, what));
        }
    }

    pub fn client(&self) -> Psql {
        Psql { dir: self.dir().to_path_buf(), port: self.port }
    }

    /// Rows of the answers, columns apart by `|`. Each statement is a transaction of its own unless the text says BEGIN.
    ///
    /// # Panics
    /// With the server's words, at the first error.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// As [`Server::psql`], in another database.
    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        match self.client().run(database, sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{error}\nin {sql:.300}\n{}", self.log_tail(5)),
        }
    }

    /// # Errors
    /// With the server's words.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        self.client().run(database, sql)
    }

    /// A psql that stays.
    pub fn session(&self, database: &str) -> Session {
        self.client().session(database)
    }

    /// A new database, of its own for a test; its name.
    #[track_caller]
    pub fn database(&self) -> String {
        let name = format!("t_{:08x}", fastrand::u32(..));
        self.psql(&format!("create database {name}"));
        name
    }

    /// A physical standby that follows this server, with these options of its own.
    #[track_caller]
    pub fn standby(&self, options: Options) -> Self {
        let mut standby = Self::folder(options);
        if !bin_dir().join("pg_basebackup").exists() {
            self.back_up(&standby.data());
            standby.set(&format!("primary_conninfo = 'host=127.0.0.1 port={} user={USER} dbname=postgres'", self.port));
            standby.restart();
            return standby;
        }
        let mut backup = server_program("pg_basebackup");
        backup.args(["-R", "-X", "stream", "-c", "fast", "-U", USER, "-p", &self.port.to_string(), "-h"]).arg(self.dir());
        must(backup.arg("-D").arg(standby.data()));
        standby.configure();
        standby.restart();
        standby
    }

    /// What `pg_basebackup` does, by hand.
    #[track_caller]
    fn back_up(&self, to: &Path) {
        let mut session = self.session("postgres");
        session.run("select pg_backup_start('standby', true)");
        must(Command::new("cp").args(["-a", "--no-target-directory"]).arg(self.data()).arg(to));
        let label = session.run("select labelfile from pg_backup_stop()");
        let write = |name: &str, text: &str| {
            fs::write(to.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
            hand_over(&to.join(name));
        };
        write("backup_label", &format!("{label}\n"));
        write("standby.signal", "");
        fs::remove_file(to.join("postmaster.pid")).expect("it was copied from a server that runs");
        // Slots are not copied, as `pg_basebackup` does not.
        for slot in fs::read_dir(to.join("pg_replslot")).expect("just copied") {
            fs::remove_dir_all(slot.expect("just copied").path()).expect("just copied");
        }
    }

    /// Makes a standby a primary: a new timeline, without the slots.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.psql("select pg_promote(true, 60)"), "t", "the standby is promoted");
    }

    /// Waits until a standby has replayed what this server has written so far.
    #[track_caller]
    pub fn wait_replayed(&self, standby: &Self) {
        let lsn = self.psql("select pg_current_wal_lsn()");
        wait_until(START, "the standby has replayed everything", || {
            (standby.psql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'")) == "t").then_some(())
        });
    }

    /// A tablespace on a disk of this size, which needs root.
    #[track_caller]
    pub fn small_tablespace(&self, name: &str, size: &str) -> Disk {
        let disk = Disk::mount(&self.dir().join(name), size);
        let space = disk.path().join("space");
        fs::create_dir(&space).expect("just mounted");
        hand_over(&space);
        self.psql(&format!("create tablespace {name} location '{}'", space.display()));
        disk
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("postgres.log")
    }

    /// All that it said, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    #[allow(clippy::print_stderr, reason = "why a test failed")]
    fn print_tail(&self) {
        eprintln!("--- end of the log of PostgreSQL on {}\n{}", self.port, self.log_tail(25));
    }
}

/// As [`Server::yaml`], at another port: that of a proxy.
pub fn yaml(port: u16, database: &str) -> String {
    format!(
        "database.hostname: 127.0.0.1\ndatabase.port: {port}\ndatabase.user: {USER}\ndatabase.password: {PASSWORD}\ndatabase.dbname: {database}\n"
    )
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_tail();
        }
        self.kill9();
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// Ends the server and removes its folder when this program is gone without having dropped it: killed, or with a shared server, which nobody drops.
fn watch(dir: &Path, data: &Path) -> Child {
    const SCRIPT: &str = r#"
        while kill -0 "$1" 2>/dev/null; do sleep 1; done
        pid=$(head -1 "$3/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 1; done
        kill -KILL "$pid" 2>/dev/null
        case "$3" in */disk/data) umount -l "$2/disk";; esac
        rm -rf "$2""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "watch", &std::process::id().to_string()]).args([dir, data]);
    // Its output is closed: whoever reads a test's output to its end does not wait for it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command.spawn().expect("sh is there")
}

fn signal(pid: u32, what: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, what);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))
}

/// The server that all tests of a program share: plain options, so use a [`Server::database`] and slots of your own, and do not kill it.
/// Ended, and its data removed, when the program ends.
///
/// # Panics
/// When it does not start.
#[track_caller]
pub fn shared() -> Shared {
    static SERVER: OnceLock<Server> = OnceLock::new();
    Shared(SERVER.get_or_init(|| Server::start(Options::default())))
}

/// The shared server; prints the tail of its log when the test fails.
#[derive(Debug)]
pub struct Shared(&'static Server);

impl Deref for Shared {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.print_tail();
        }
    }
}
