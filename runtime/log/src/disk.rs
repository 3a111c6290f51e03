//! What the embedded log asks of a disk. [`RealDisk`] is the file system; a simulated one that loses power can stand in its place.
//!
//! Paths are relative to the data directory, with `/`. The contract is POSIX's: bytes are durable after [`DiskFile::sync_data`], names (created,
//! renamed, unlinked) after [`Disk::sync_dir`] of their directory; before that any part of them may be lost, in any order. A file that was
//! unlinked or replaced stays readable and writable through what was opened before.
//!
//! The seam for simulation: `EmbeddedLog::stepped(disk, options)` gives a log without threads and a `Stepper`, which commits when it is told to:
//! `round` applies all that is queued, `seal` and `maintain` are what the commit thread does when idle, `drive` polls a future and runs rounds
//! until it is ready. Every call of this trait then comes from the caller's thread, in an order that only the requests determine (given
//! `EmbeddedOptions::{now_ms, new_id}`). A power cut is dropping log and stepper and opening the disk anew.

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

pub trait Disk: Send + Sync + 'static {
    /// # Errors
    /// `NotFound` for [`Open::Read`] and [`Open::Write`] of a file that does not exist.
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces what is at `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Names in a directory; empty when there is none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Fine when it exists already. Not recursive.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Fine when there is none.
    fn remove_dir_all(&self, dir: &str) -> io::Result<()>;
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Syncs all of them, at the same time where the disk can. The first error, after all have returned.
    fn sync_all(&self, targets: &[SyncTarget]) -> io::Result<()>;
}

#[allow(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait DiskFile: Send + Sync {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Appends up to `len` bytes to `out`; fewer only at the end of the file.
    fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    Read,
    Write,
    /// A new, empty file (a new inode); what was there under this name is unlinked.
    Create,
}

/// What to make durable, and the failpoint that stands before it.
#[derive(Clone)]
pub enum SyncTarget {
    File(Arc<dyn DiskFile>, &'static str),
    Dir(String),
}

impl SyncTarget {
    fn run(&self, disk: &(impl Disk + ?Sized)) -> io::Result<()> {
        match self {
            SyncTarget::File(file, point) => {
                aqueduct_core::failpoint::hit_io(point)?;
                file.sync_data()
            }
            SyncTarget::Dir(dir) => disk.sync_dir(dir),
        }
    }

    pub(crate) fn run_in_order(disk: &(impl Disk + ?Sized), targets: &[SyncTarget]) -> io::Result<()> {
        let mut first = Ok(());
        for target in targets {
            let result = target.run(disk);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

/// Files below one directory.
pub struct RealDisk {
    root: PathBuf,
    /// Those that helped with a commit before.
    syncers: Mutex<Vec<Syncer>>,
}

/// fdatasyncs at the same time: enough to keep a disk's queue busy, few enough for a small machine.
const SYNC_THREADS: usize = 8;

impl RealDisk {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), syncers: Mutex::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        let file = match how {
            Open::Read => File::open(path)?,
            Open::Write => OpenOptions::new().read(true).write(true).open(path)?,
            Open::Create => {
                not_found_is_fine(std::fs::remove_file(&path))?;
                OpenOptions::new().read(true).write(true).create_new(true).open(path)?
            }
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.at(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match std::fs::create_dir(self.at(dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn remove_dir_all(&self, dir: &str) -> io::Result<()> {
        not_found_is_fine(std::fs::remove_dir_all(self.at(dir)))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.at(dir))?.sync_all()
    }

    fn sync_all(&self, targets: &[SyncTarget]) -> io::Result<()> {
        let Some((own, others)) = targets.split_last() else { return Ok(()) };
        if others.is_empty() {
            return own.run(self);
        }
        let each = others.len().div_ceil(SYNC_THREADS - 1);
        // Put back only when all have answered: the late answer of one that was left behind is never taken for that of a later sync.
        let mut syncers = std::mem::take(&mut *self.syncers.lock());
        let (mut at_work, mut left) = (0, Vec::new());
        for share in others.chunks(each) {
            if Syncer::hand(&mut syncers, at_work, &self.root, share) {
                at_work += 1;
            } else {
                // No thread to be had (EAGAIN): slower, not wrong.
                left.extend_from_slice(share);
            }
        }
        let mut outcome = own.run(self).and(SyncTarget::run_in_order(self, &left));
        for syncer in &syncers[..at_work] {
            let done = syncer.done.recv().unwrap_or_else(|_| Err(io::Error::other("a sync thread panicked")));
            outcome = outcome.and(done);
        }
        *self.syncers.lock() = syncers;
        outcome
    }
}

/// A thread that syncs for the one that commits, and stays for the next commit: to start one takes half as long as a sync. It ends with the disk.
struct Syncer {
    /// One share at a time.
    work: mpsc::SyncSender<Vec<SyncTarget>>,
    done: mpsc::Receiver<io::Result<()>>,
}

impl Syncer {
    /// Gives the share to the syncer at this place, or to a new one where there is none, or a dead one.
    fn hand(syncers: &mut Vec<Self>, at: usize, root: &Path, share: &[SyncTarget]) -> bool {
        let takes = |syncer: &Syncer| syncer.work.send(share.to_vec()).is_ok();
        if syncers.get(at).is_some_and(takes) {
            return true;
        }
        syncers.truncate(at);
        syncers.extend(Syncer::start(root).filter(takes));
        syncers.len() > at
    }

    fn start(root: &Path) -> Option<Self> {
        let ((work, targets), (reply, done)) = (mpsc::sync_channel::<Vec<SyncTarget>>(1), mpsc::sync_channel(1));
        let disk = RealDisk::new(root);
        let run = move || {
            while let Ok(share) = targets.recv() {
                if reply.send(SyncTarget::run_in_order(&disk, &share)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("log-sync".into()).spawn(run).ok().map(|_| Self { work, done })
    }
}

pub(crate) fn not_found_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, position)
    }

    fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let end = out.len() + len;
        let start = out.len();
        out.reserve_exact(len);
        while out.len() < end {
            let done = (out.len() - start) as u64;
            match rustix::io::pread(&self.0, spare_capacity(out), position + done) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        out.truncate(end);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
