//! Is a new file one that was read already? A rotated file that was compressed, or what logrotate copied before it truncated, has another
//! inode and the same content up to where we were: reading goes on there, in the copy.

use super::identity::{FileId, Stat};
use super::lines::Flush;
use super::position::{Position, file_partition};
use super::reader::{Codec, Reader};
use super::tailer::Tailer;
use super::tracked::{Key, Tracked, age};
use aqueduct_core::JsonMap;
use std::io;
use std::path::Path;
use std::time::Instant;

pub(crate) enum Origin {
    New,
    /// It cannot be told yet.
    Wait,
    Copy {
        partition: JsonMap,
        at: Position,
    },
}

/// A file that is a copy of one that is still there, or may become one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    size: u64,
    modified: i64,
    /// When it was first seen with this size and time of modification.
    since: Instant,
    pub(crate) original: Option<Key>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Ghost(FileId),
    /// The content that a file had before it was truncated.
    Former(Key),
    Live(Key),
}

impl Tailer {
    pub(crate) fn origin(&mut self, path: &Path, stat: &Stat) -> Origin {
        let suspect = self.may_be_copied(path, stat);
        let formers = self.files.values().any(|file| file.former.is_some());
        let compressed = self.settings.decompress && is_compressed_name(path);
        if self.ghosts.is_empty() && !formers && !suspect && !compressed {
            return Origin::New;
        }
        let known =
            self.waiting.get(&stat.id.inode()).filter(|one| (one.size, one.modified) == (stat.size, stat.modified)).copied();
        if let Some(waiting) = known
            && waiting.original.is_some_and(|key| self.files.contains_key(&key))
        {
            return Origin::Wait;
        }
        let since = known.map_or_else(Instant::now, |waiting| waiting.since);
        let quiet = self.settings.quiet;
        let young = age(stat.modified.max(stat.touched)) < quiet && since.elapsed() < quiet;
        let found = Reader::open(path, self.settings.decompress).and_then(|mut reader| self.search(path, &mut reader, !young));
        let original = match found {
            Ok(Some((Source::Live(key), _))) => Some(key),
            Ok(Some((source, at))) => return self.continued(source, at, path, stat),
            Ok(None) if stat.size == 0 && compressed => None,
            // It is being written, perhaps, and begins like one that was read as soon as there is enough of it. Whatever the decoder
            // says of it now: it may have read beyond what was there.
            _ if young && (suspect || compressed) => None,
            // One that cannot be read is looked at again when it is opened to be read.
            _ => {
                self.waiting.remove(&stat.id.inode());
                return Origin::New;
            }
        };
        self.waiting.insert(stat.id.inode(), Waiting { size: stat.size, modified: stat.modified, since, original });
        Origin::Wait
    }

    /// `app.log.1` is younger than `app.log`: not renamed, but copied from it by someone who will truncate, or has truncated.
    fn may_be_copied(&mut self, path: &Path, stat: &Stat) -> bool {
        let Some(key) = self.base(path).and_then(|base| self.by_path.get(&base).copied()) else { return false };
        let Some(file) = self.files.get_mut(&key) else { return false };
        let younger = stat.id.born.zip(file.id.born).is_some_and(|(new, old)| new > old);
        if !younger || (file.at.offset == 0 && file.at.generation == 0) {
            return false;
        }
        // It may have been truncated while nobody looked. An error comes again when it is read.
        file.trusted = false;
        let _ = self.ready(key, Flush::Nothing);
        true
    }

    /// The file with the same content up to its position; of several, the one that was read furthest.
    /// A `settled` one is damaged if it cannot be decoded up to there, and has nothing else that is new: reading on there says so.
    pub(crate) fn search(&mut self, path: &Path, reader: &mut Reader, settled: bool) -> io::Result<Option<(Source, Position)>> {
        if reader.codec() != Codec::Plain {
            let unread = self.files.values_mut().filter(|file| file.at.offset == 0 && file.missing.is_none());
            unread.for_each(Tracked::probe);
            for (key, file) in self.files.iter().filter(|(_, file)| file.at.offset == 0 && file.missing.is_none()) {
                if let Some((head, len)) = file.probed.filter(|(_, len)| *len > 0)
                    && reader.has_head(head, len)?
                {
                    return Ok(Some((Source::Live(*key), file.at.clone())));
                }
            }
        }
        let formers = self.files.iter().filter_map(|(key, file)| Some((Source::Former(*key), file.former.as_ref()?)));
        let mut candidates: Vec<_> = if reader.codec() == Codec::Plain {
            // Equal content alone means nothing: equal files are two files.
            let base = self.base(path).and_then(|base| self.by_path.get(&base).copied());
            formers.filter(|(source, _)| base.is_some_and(|base| matches!(source, Source::Former(key) if *key == base))).collect()
        } else {
            let ghosts = self.ghosts.iter().map(|(id, ghost)| (Source::Ghost(*id), &ghost.file.at));
            let live = self.files.iter().filter(|(_, file)| file.is_plain()).map(|(key, file)| (Source::Live(*key), &file.at));
            ghosts.chain(formers).chain(live).collect()
        };
        candidates.retain(|(_, at)| at.offset > 0 && at.anchor.is_some());
        candidates.sort_by_key(|(_, at)| std::cmp::Reverse(at.offset));
        // Heads first: they cost nothing once the first block is there.
        let mut alike = Vec::new();
        for (source, at) in candidates {
            if reader.has_head(at.head, at.head_len)? {
                alike.push((source, at));
            }
        }
        for (source, at) in alike {
            let damaged = |error: &io::Error| settled && error.raw_os_error().is_none();
            if reader.has_anchor(at.offset, at.anchor).or_else(|error| if damaged(&error) { Ok(true) } else { Err(error) })? {
                return Ok(Some((source, at.clone())));
            }
        }
        Ok(None)
    }

    fn continued(&mut self, source: Source, at: Position, path: &Path, stat: &Stat) -> Origin {
        self.waiting.remove(&stat.id.inode());
        let at = Position { done: false, ..at };
        tracing::info!(file = %path.display(), position = at.offset, "file.copy: was read already up to this position");
        let partition = match source {
            Source::Ghost(id) => self.ghosts.remove(&id).map(|ghost| ghost.partition),
            Source::Former(key) => {
                if let Some(file) = self.files.get_mut(&key) {
                    file.former = None;
                    file.unread = None;
                    self.touched.insert(key);
                }
                None
            }
            Source::Live(_) => None,
        };
        Origin::Copy { partition: partition.unwrap_or_else(|| file_partition(path, stat.id)), at }
    }

    /// When a file that waits for nothing but time is to be looked at again.
    pub(crate) fn waiting_due(&self) -> Option<Instant> {
        let young = self.waiting.values().filter(|waiting| waiting.original.is_none() && waiting.size > 0);
        young.map(|waiting| waiting.since + self.settings.quiet).min()
    }
}

pub(crate) fn is_compressed_name(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["gz", "gzip", "zst", "zstd"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}
