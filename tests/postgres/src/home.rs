//! Where PostgreSQL lies, as whom it runs, and free ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::{env, fs};

/// `AQUEDUCT_POSTGRES_BIN`, or the newest below `/usr/lib/postgresql`.
///
/// # Panics
/// When there is none: `cargo xtask services install` installs it, and no test is skipped for want of it.
pub fn bin_dir() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let has_server =
            |dir: &PathBuf| ["initdb", "postgres", "pg_recvlogical"].iter().all(|program| dir.join(program).exists());
        let given = env::var_os("AQUEDUCT_POSTGRES_BIN").map(PathBuf::from);
        let installed = || {
            let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
            let mut found: Vec<(u32, PathBuf)> = versions.filter_map(|path| Some((version(&path)?, path.join("bin")))).collect();
            found.retain(|(_, bin)| has_server(bin));
            found.into_iter().max().map(|(_, bin)| bin)
        };
        given.or_else(installed).filter(has_server).expect(
            "no PostgreSQL server (initdb, postgres) in AQUEDUCT_POSTGRES_BIN or /usr/lib/postgresql: \
             run `cargo xtask services install`, or apt-get install postgresql",
        )
    })
}

/// The user that owns every cluster: `postgres` when we are root, as whom no server starts; else ourselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// `None` when we are an ordinary user.
pub(crate) fn owner() -> Option<Owner> {
    static OWNER: OnceLock<Option<Owner>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let fields: Option<Vec<&str>> =
            users.lines().map(|line| line.split(':').collect()).find(|user: &Vec<&str>| user[0] == "postgres");
        let id = |at: usize| fields.as_ref().and_then(|fields| fields.get(at)?.parse().ok());
        let (Some(uid), Some(gid)) = (id(2), id(3)) else { panic!("no user postgres: apt-get install postgresql") };
        Some(Owner { uid, gid })
    })
}

/// A program of the server's, as the user that owns the clusters.
pub(crate) fn server_program(name: &str) -> Command {
    let path = bin_dir().join(name);
    let mut command = match owner() {
        None => Command::new(path),
        Some(Owner { uid, gid }) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]).arg(path);
            command
        }
    };
    // Settings of the caller's environment are not the test's.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/var/tmp").stdin(Stdio::null());
    command
}

/// Gives a path to the user that owns the clusters.
pub(crate) fn hand_over(path: &Path) {
    if let Some(Owner { uid, gid }) = owner() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// # Panics
/// When it fails.
#[track_caller]
pub(crate) fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    output
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A port below the ephemeral range, so that no outgoing connection takes it while the server is down; never the same twice in a process.
///
/// # Panics
/// When none of a thousand is free.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no panic while it is held");
    let free = |port: &u16| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (0..1000).map(|_| fastrand::u16(20_000..32_000)).find(free).expect("one of a thousand ports is free");
    given.push(port);
    port
}
