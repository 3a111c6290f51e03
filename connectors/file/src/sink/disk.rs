//! What both modes do with the file system: errors with a class, locks, durable folders, small durable notes.

use aqueduct_core::blocking::permit;
use aqueduct_core::failpoint::{self, bug};
use aqueduct_core::{Class, Error, Result};
use rustix::fs::{FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long a lock is waited for: a task that was dropped midway still ends its last write, which may take as long as the disk is slow.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// `action` is a verb: "cannot write /x".
pub(super) fn error(action: &str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let message = format!("cannot {action} {}", path.display());
    let full = matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT));
    match error.kind() {
        _ if full => Error::retriable("file_sink.disk_full", message).fix("free some space; writing goes on by itself"),
        PermissionDenied | ReadOnlyFilesystem => {
            Error::fatal("file_sink.permission", message).fix("let the worker's user write there, or choose another path")
        }
        AlreadyExists => Error::fatal("file_sink.exists", message).fix("another writer made a file of this name: move it away"),
        IsADirectory | NotADirectory => {
            Error::fatal("file_sink.not_a_file", message).fix("file must name a file and directory a folder")
        }
        _ => Error::new(Class::Retriable, "file_sink.io", message),
    }
    .because(error)
}

/// Runs file system calls where they may block.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn(call).await.await.map_err(lost_thread)?
}

/// On a thread of the pool, within the connector's share of them: waits while that is used up.
#[allow(clippy::disallowed_methods, reason = "the caller keeps the handle")]
pub(super) async fn spawn<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let permit = permit().await;
    tokio::task::spawn_blocking(move || {
        let _held = permit;
        call()
    })
}

pub(super) fn lost_thread(error: tokio::task::JoinError) -> Error {
    Error::retriable("file_sink.io", "the thread that wrote the file ended early").because(error)
}

/// Takes the lock of a file or folder for as long as it stays open, so that two writers never share it (invariant 5).
pub(super) async fn lock(file: &File, path: &Path) -> Result<()> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => tokio::time::sleep(LOCK_RETRY).await,
            Err(Errno::WOULDBLOCK) => {
                let message = format!("{} is being written by another task or process", path.display());
                return Err(Error::retriable("file_sink.locked", message)
                    .fix("stop the other writer, or choose another path for one of them"));
            }
            Err(errno) => return Err(error("lock", path, errno.into())),
        }
    }
}

/// Makes the entries of a folder durable: names created, renamed and removed.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    if failpoint::planted(bug::SKIP_DIR_SYNC) {
        return Ok(());
    }
    File::open(dir).and_then(|file| file.sync_all()).map_err(|e| error("make durable", dir, e))
}

/// The folder that a path stands in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// As `create_dir_all`, durably.
pub(super) fn create_dirs(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    create_dirs(parent(dir))?;
    match std::fs::create_dir(dir) {
        Ok(()) => sync_dir(parent(dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(error("create", dir, e)),
    }
}

/// Renames, never over something that is there.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    let renamed = match renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot do it in one step. We hold the folder's lock, so two are as good.
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => std::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
        other => other.map_err(io::Error::from),
    };
    renamed.map_err(|e| error(&format!("rename to {}", to.display()), from, e))
}

/// Writes a small file that is there whole or not at all.
pub(super) fn write_note(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = |temporary: &Path| {
        let mut file = File::create(temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(temporary, path)
    };
    write(&temporary).map_err(|e| error("write", path, e))?;
    sync_dir(parent(path))
}

pub(super) fn read_note<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error("read", path, e)),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error("remove", path, e)),
        _ => Ok(()),
    }
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
