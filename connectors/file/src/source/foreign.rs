//! Several tasks share the files by inode. A compressed copy has another inode than its original, so each task keeps the heads of the others'
//! files too: the copy belongs to the task that had the original, and all tasks come to the same answer by themselves.

use super::copies::is_compressed_name;
use super::identity::{FileId, HEAD_BYTES, Stat, fnv};
use super::reader::Reader;
use super::tailer::Tailer;
use std::path::Path;

/// Files of other tasks, and compressed files that are theirs (invariant 6): beyond, a copy goes by its own inode.
const FOREIGN_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    pub(crate) head: u64,
    pub(crate) head_len: u64,
}

impl Tailer {
    /// Whether a file that is new to this task is its own.
    pub(crate) fn is_mine(&mut self, path: &Path, stat: &Stat) -> bool {
        let (index, tasks) = self.settings.share;
        let mine = stat.id.share(tasks) == index;
        if tasks == 1 {
            return true;
        }
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
        match self.search(path, &mut reader) {
            Ok(Some(_)) => return true,
            Ok(None) if stat.size > 0 => {}
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
        let known = self.foreign.get(&stat.id).map(|file| file.head_len);
        let grows = known.is_none_or(|len| len < stat.size.min(HEAD_BYTES as u64));
        if !self.settings.decompress || !grows || (known.is_none() && self.foreign.len() >= FOREIGN_MAX) {
            return;
        }
        let mut head = [0; HEAD_BYTES];
        if let Ok(len) = Reader::open(path, false).and_then(|mut reader| reader.read(&mut head, 0)) {
            self.foreign.insert(stat.id, Foreign { head: fnv(&head[..len]), head_len: len as u64 });
        }
    }

    /// What the offsets say of a file of another task.
    pub(crate) fn note_stored(&mut self, id: FileId, head: u64, head_len: u64) {
        if self.foreign.len() < FOREIGN_MAX {
            self.foreign.insert(id, Foreign { head, head_len });
        }
    }
}
