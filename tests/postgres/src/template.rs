//! An empty cluster that `initdb` has made once on this machine, and copies of it.

use crate::home::{bin_dir, hand_over, must, owner, server_program};
use crate::options::{PASSWORD, USER};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, io};
use tempfile::TempDir;

/// Makes `data` a cluster with an identifier of its own, as one that `initdb` made (1.5 s of CPU) would have.
pub(crate) fn copy_to(data: &Path) {
    if !bin_dir().join("pg_resetwal").exists() {
        // Builds for embedding have `initdb`, `pg_ctl` and `postgres` alone.
        let dir = initdb();
        must(Command::new("cp").args(["-a", "--no-target-directory"]).arg(dir.path().join("data")).arg(data));
        return;
    }
    must(Command::new("cp").args(["-a", "--reflink=auto", "--no-target-directory"]).arg(template()).arg(data));
    hand_over(data);
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).expect("just copied");
    // The first eight bytes of pg_control are the system identifier; pg_resetwal writes a new checksum, and a WAL that has it.
    let control = OpenOptions::new().write(true).open(data.join("global/pg_control")).expect("a cluster has it");
    control.write_all_at(&fastrand::u64(1 << 62..1 << 63).to_le_bytes(), 0).expect("just copied");
    drop(control);
    must(server_program("pg_resetwal").args(["-f", "-D"]).arg(data));
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let version = String::from_utf8_lossy(&must(Command::new(bin_dir().join("postgres")).arg("-V")).stdout).into_owned();
        let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        let cache = cache().join("postgres");
        let path =
            cache.join(format!("template-1-{version}-{}", owner().map_or_else(|| "own".into(), |owner| owner.uid.to_string())));
        if !path.is_dir() {
            fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("{}: {error}", cache.display()));
            keep(&initdb(), &cache, &path);
        }
        path
    })
}

fn cache() -> PathBuf {
    let var = |name: &str| env::var_os(name).map(PathBuf::from);
    let user = || var("HOME").map(|home| home.join(".cache/aqueduct"));
    var("AQUEDUCT_CI_CACHE").or_else(user).expect("HOME or AQUEDUCT_CI_CACHE")
}

/// A new cluster, in the folder `data` of this one: beside the cache, which its owner may not be able to reach.
fn initdb() -> TempDir {
    let dir = tempfile::Builder::new().prefix("aqueduct-initdb-").tempdir_in("/var/tmp").expect("/var/tmp is writable");
    hand_over(dir.path());
    let password = dir.path().join("password");
    fs::write(&password, PASSWORD).expect("just created");
    hand_over(&password);
    let mut initdb = server_program("initdb");
    initdb.args(["-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "--no-instructions"]);
    must(initdb.arg("--pwfile").arg(&password).arg("-D").arg(dir.path().join("data")));
    dir
}

/// The last rename is atomic, and whoever comes second has lost nothing.
fn keep(dir: &TempDir, cache: &Path, path: &Path) {
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(cache).expect("the cache is writable");
    let copied = partial.path().join("data");
    must(Command::new("cp").arg("-a").arg(dir.path().join("data")).arg(&copied));
    match fs::rename(&copied, path) {
        Err(error) if !path.is_dir() => panic!("{}: {error}", path.display()),
        Ok(()) | Err(io::Error { .. }) => {}
    }
}
