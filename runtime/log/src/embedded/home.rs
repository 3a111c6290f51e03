//! The data directory: one process at a time, one format, one identity.

use super::journal::io_error;
use aqueduct_core::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use uuid::Uuid;

const FORMAT: &str = "aqueduct-log 2";
/// Its journals have no frames that carry records; all else is the same, so this version goes on with it.
const FORMAT_BEFORE: &str = "aqueduct-log 1";

/// Holds the lock until it is dropped.
pub(crate) struct Home {
    pub(crate) cluster_id: String,
    _lock: File,
}

impl Home {
    /// # Errors
    /// `log.locked`, `log.format`, `log.world_writable`, `log.io`
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let failed = |error: io::Error| io_error(&dir.display().to_string(), "open", &error);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        refuse_world_writable(dir)?;
        let lock = lock(dir)?;
        let format = once(dir, "format", || FORMAT.to_owned()).map_err(failed)?;
        if format == FORMAT_BEFORE {
            write_once(dir, "format", FORMAT.to_owned()).map_err(failed)?;
        } else if format != FORMAT {
            let message = format!("{} was written in the format {format:?}; this version knows {FORMAT:?}", dir.display());
            return Err(Error::fatal("log.format", message).fix("use the version that wrote it, or another data.dir"));
        }
        let cluster_id = once(dir, "cluster_id", || Uuid::new_v4().to_string()).map_err(failed)?;
        Ok(Self { cluster_id, _lock: lock })
    }
}

fn refuse_world_writable(dir: &Path) -> Result<()> {
    let mode = dir.metadata().map_err(|error| io_error(&dir.display().to_string(), "open", &error))?.permissions().mode();
    if mode & 0o002 == 0 {
        return Ok(());
    }
    Err(Error::fatal("log.world_writable", format!("anybody may write to {}", dir.display()))
        .fix("chmod o-w it, or name another data.dir"))
}

/// # Errors
/// `log.locked` names the process that holds it.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let failed = |error: io::Error| io_error(&path.display().to_string(), "lock", &error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let holder =
                file.read_to_string(&mut pid).ok().map_or("another process".to_owned(), |_| format!("process {}", pid.trim()));
            let message = format!("{} is used by {holder}", dir.display());
            return Err(Error::fatal("log.locked", message).fix("stop that process, or give this one another data.dir"));
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // Only for the message above: a full disk is no reason to refuse.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// The one line of a file that is written once.
fn once(dir: &Path, name: &str, make: impl FnOnce() -> String) -> io::Result<String> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_once(dir, name, make())
}

fn write_once(dir: &Path, name: &str, text: String) -> io::Result<String> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let mut file = File::create(&temporary)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(text)
}
