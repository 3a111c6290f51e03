//! Several tasks share the files by the path that they were rotated from. A file may move to another folder, and a compressed copy may be made
//! there, so each task keeps inodes and heads of the others' files too: all tasks come to the same answer by themselves.

use super::copies::is_compressed_name;
use super::identity::{FileId, HEAD_BYTES, Stat, fnv};
use super::reader::Reader;
use super::tailer::Tailer;
use super::tracked::age;
use std::path::Path;

/// Files of other tasks, and compressed files that are theirs (invariant 6): beyond, a copy goes by its own inode.
const FOREIGN_MAX: usize = 100_000;

/// Scans without it.
const FOREIGN_SCANS: u64 = 100;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Foreign {
    pub(crate) head: u64,
    pub(crate) head_len: u64,
    /// The last one that found it.
    scan: u64,
}

impl Tailer {
    /// Whether a file that is new to this task is its own.
    pub(crate) fn is_mine(&mut self, path: &Path, stat: &Stat) -> bool {
        let (_, tasks) = self.settings.share;
        if tasks == 1 {
            return true;
        }
        // One that was met or stored under another path stays with its task. Without a time of birth it may be another file by now.
        if stat.id.born.is_some()
            && let Some(file) = self.foreign.get_mut(&stat.id)
        {
            file.scan = self.scans;
            self.note(path, stat);
            return false;
        }
        let mine = self.settings.has(path);
        if !(self.settings.decompress && is_compressed_name(path)) {
            if !mine {
                self.note(path, stat);
            }
            return mine;
        }
        if self.skipped.get(&stat.id) == Some(&(stat.size, stat.modified)) {
            return false;
        }
        let Ok(mut reader) = Reader::open(path, true) else { return mine };
        let young = age(stat.modified.max(stat.touched)) < self.settings.quiet;
        match self.search(path, &mut reader, !young) {
            Ok(Some(_)) => return true,
            Ok(None) if stat.size > 0 => {}
            Err(_) if !young => {}
            // Not whole yet.
            _ => return false,
        }
        let mine = self.best(&mut reader).unwrap_or(mine);
        if !mine && self.skipped.len() < FOREIGN_MAX {
            self.skipped.insert(stat.id, (stat.size, stat.modified));
        }
        mine
    }

    /// The longest head that the content begins with: is it one of ours?
    fn best(&self, reader: &mut Reader) -> Option<bool> {
        let ours = self.files.values().map(|file| {
            let (head, len) = file.probed.filter(|_| file.at.offset == 0).unwrap_or((file.at.head, file.at.head_len));
            (file.id, head, len, true)
        });
        let gone = self.ghosts.iter().map(|(id, ghost)| (*id, ghost.file.at.head, ghost.file.at.head_len, true));
        let theirs = self.foreign.iter().map(|(id, file)| (*id, file.head, file.head_len, false));
        let mut all: Vec<_> = ours.chain(gone).chain(theirs).filter(|(_, _, len, _)| *len > 0).collect();
        all.sort_unstable_by_key(|(id, _, len, _)| (std::cmp::Reverse(*len), *id));
        let found = all.into_iter().find(|(_, head, len, _)| reader.has_head(*head, *len).unwrap_or(false));
        found.map(|(_, _, _, ours)| ours)
    }

    fn note(&mut self, path: &Path, stat: &Stat) {
        let known = self.foreign.get(&stat.id).copied();
        if known.is_none() && self.foreign.len() >= FOREIGN_MAX {
            return;
        }
        let mut file = known.unwrap_or_default();
        let mut head = [0; HEAD_BYTES];
        if self.settings.decompress
            && file.head_len < stat.size.min(HEAD_BYTES as u64)
            && let Ok(len) = Reader::open(path, false).and_then(|mut reader| reader.read(&mut head, 0))
        {
            (file.head, file.head_len) = (fnv(&head[..len]), len as u64);
        }
        self.foreign.insert(stat.id, Foreign { scan: self.scans, ..file });
    }

    /// What the offsets say of a file of another task.
    pub(crate) fn note_stored(&mut self, id: FileId, head: u64, head_len: u64) {
        if self.foreign.len() < FOREIGN_MAX {
            self.foreign.insert(id, Foreign { head, head_len, scan: self.scans });
        }
    }

    /// Makes room: what no scan has found for long is gone. Its compressed copy, if it has one, was found long ago.
    pub(crate) fn forget_foreign(&mut self) {
        let scans = self.scans;
        if self.foreign.len() > FOREIGN_MAX / 2 {
            self.foreign.retain(|_, file| file.scan + FOREIGN_SCANS > scans);
        }
        if self.skipped.len() > FOREIGN_MAX / 2 {
            self.skipped.clear();
        }
    }
}
