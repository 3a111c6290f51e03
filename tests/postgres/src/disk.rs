//! A small disk.

use crate::home::{Owner, must, owner};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs that belongs to the server's user; unmounted on drop.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// # Panics
    /// When it cannot be mounted, which needs root.
    #[track_caller]
    pub fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let Some(Owner { uid, gid }) = owner() else { panic!("a small disk needs root and mount") };
        let options = format!("size={size},mode=0700,uid={uid},gid={gid}");
        must(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path));
        Self(path.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves this much room; remove the file to free it again.
    ///
    /// # Panics
    /// When there is less already.
    #[track_caller]
    pub fn fill_but(&self, room: u64) -> PathBuf {
        let stat = rustix::fs::statvfs(&self.0).expect("mounted");
        let free = stat.f_bavail * stat.f_frsize;
        let size = free.checked_sub(room).unwrap_or_else(|| panic!("only {free} bytes are free"));
        let ballast = self.0.join("ballast");
        fs::write(&ballast, vec![1u8; usize::try_from(size).expect("a small disk")]).expect("there is room");
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
