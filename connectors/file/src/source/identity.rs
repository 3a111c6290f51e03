//! Which file is it? Device, inode and birth time say so cheaply; the hash of its head tells a reused inode and a compressed copy.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::UNIX_EPOCH;

/// The head is the first 1 KiB, of a compressed file the first 1 KiB of its content.
pub(crate) const HEAD_BYTES: usize = 1024;
/// The anchor is what lies before the position: enough to tell that the content up to there is what was read.
pub(crate) const ANCHOR_BYTES: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// Nanoseconds since the epoch, where the file system knows it.
    pub(crate) born: Option<i64>,
}

impl FileId {
    /// An unknown birth time fits every other: the head then decides.
    pub(crate) fn is(self, other: FileId) -> bool {
        self.inode() == other.inode() && (self.born.is_none() || other.born.is_none() || self.born == other.born)
    }

    pub(crate) fn inode(self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// In the name of the file's partition.
    pub(crate) fn text(self) -> String {
        format!("{}:{}:{}", self.dev, self.ino, self.born.unwrap_or_default())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (dev, ino, born) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { dev, ino, born: (born != 0).then_some(born) })
    }
}

/// What `stat` says, as far as we need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) id: FileId,
    pub(crate) size: u64,
    /// Nanoseconds since the epoch.
    pub(crate) modified: i64,
    /// When the inode changed.
    pub(crate) touched: i64,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// A pipe, a socket or a device.
    Other,
}

impl From<&Metadata> for Stat {
    fn from(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_nanos() as i64);
        let kind = meta.file_type();
        Self {
            id: FileId { dev: meta.dev(), ino: meta.ino(), born },
            size: meta.size(),
            modified: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            touched: meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec()),
            kind: match () {
                () if kind.is_dir() => Kind::Directory,
                () if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() => Kind::Other,
                () => Kind::File,
            },
        }
    }
}

/// FNV-1a, 64 bits: stored in offsets, so it must never change. At most 1 KiB is hashed at a time.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_birth_time_tells_a_reused_inode() {
        let old = FileId { dev: 1, ino: 2, born: Some(3) };
        assert!(!old.is(FileId { born: Some(4), ..old }));
        assert!(old.is(FileId { born: None, ..old }));
        assert!(!old.is(FileId { ino: 3, ..old }));
        assert_eq!(FileId::parse(&old.text()), Some(old));
    }
}
