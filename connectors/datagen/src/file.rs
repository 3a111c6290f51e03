//! A log file that grows and rotates, and that is its own checkpoint.
//!
//! What a tail has read must never change or shrink, so after a crash nothing is cut back to a stored offset: the last line in the file says
//! where to go on, and a line that was torn is completed, since line `n` can be made again byte by byte.

use crate::access_log::number;
use aqueduct_core::failpoint::{self, bug};
use aqueduct_core::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A line is far shorter; a file whose last line is longer is not ours.
const LINE_MAX_BYTES: u64 = 64 * 1024;
/// One write: a batch of lines is never held as a whole.
const WRITE_BYTES: usize = 256 * 1024;

type Line = dyn FnMut(u64, &mut Vec<u8>) + Send;

pub(crate) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    bytes: u64,
    /// Lines were written since the last fdatasync.
    dirty: bool,
    /// Names were created or renamed since the folder's last fsync.
    renamed: bool,
    /// Appends line `n` without its end.
    line: Box<Line>,
}

impl LogFile {
    /// Opens or creates the file, and its folders. Returns it and the number of the next line: the one after the last line in the file; where
    /// there is none, after the last of the file that was renamed last; where there is none either, `stored`.
    ///
    /// # Errors
    /// `datagen.file` (retriable) when the file system says no; `datagen.foreign_file` when the file has lines of someone else.
    pub(crate) fn open(
        path: PathBuf,
        max_bytes: u64,
        keep: u32,
        stored: u64,
        mut line: impl FnMut(u64, &mut Vec<u8>) + Send + 'static,
    ) -> Result<(Self, u64)> {
        let because = |what: &str| {
            let message = format!("cannot {what} {}", path.display());
            move |why: io::Error| {
                Error::retriable("datagen.file", message).because(why).fix("check the path, its permissions and the free space")
            }
        };
        create_dirs(parent(&path)).map_err(because("create the folder of"))?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(because("open"))?;
        let (last, torn) = tail(&mut file, &path)?;
        let next = match last {
            Some(last) => last + 1,
            None => match File::open(renamed(&path, 1)) {
                Ok(mut before) => tail(&mut before, &renamed(&path, 1))?.0.map_or(stored, |last| last + 1),
                Err(_) => stored,
            },
        };
        let mut next = next;
        if !torn.is_empty() {
            let mut whole = Vec::new();
            line(next, &mut whole);
            whole.push(b'\n');
            if let Some(rest) = whole.strip_prefix(torn.as_slice()) {
                file.write_all(rest).map_err(because("write to"))?;
                next += 1;
            } else {
                // The config changed in between: the torn line can no longer be made.
                let bytes = file.metadata().map_err(because("read"))?.len();
                file.set_len(bytes - torn.len() as u64).map_err(because("cut"))?;
            }
        }
        let bytes = file.metadata().map_err(because("read"))?.len();
        // What a killed worker left to the page cache counts as well.
        let mut file = Self { path, max_bytes, keep, file, bytes, dirty: true, renamed: true, line: Box::new(line) };
        file.sync()?;
        Ok((file, next))
    }

    /// Makes all lines durable that were written so far, and the names of their files: an offset behind them may be stored then (invariant 1).
    pub(crate) fn sync(&mut self) -> Result<()> {
        if std::mem::take(&mut self.dirty) && !failpoint::planted(bug::SKIP_FILE_SYNC) {
            self.file.sync_data().map_err(|why| self.error("make durable", why))?;
        }
        if std::mem::take(&mut self.renamed) {
            sync_dir(parent(&self.path)).map_err(|why| self.error("make durable the folder of", why))?;
        }
        Ok(())
    }

    /// Appends up to `count` lines from `first` on, about `max_bytes` at most; returns how many. A call that fails may have written some of them.
    pub(crate) fn append(&mut self, first: u64, count: u64, max_bytes: usize) -> Result<u64> {
        let (mut buffer, mut written) = (Vec::with_capacity(WRITE_BYTES + 1024), 0);
        let mut n = first;
        while n - first < count && (written + buffer.len() < max_bytes || n == first) {
            let start = buffer.len();
            (self.line)(n, &mut buffer);
            buffer.push(b'\n');
            let full = self.bytes + buffer.len() as u64 > self.max_bytes && self.bytes + start as u64 > 0;
            if full || buffer.len() >= WRITE_BYTES {
                // The line that does not fit is the first of the next file.
                let end = if full { start } else { buffer.len() };
                self.write(&buffer[..end])?;
                written += end;
                buffer.drain(..end);
            }
            if full {
                self.rotate()?;
            }
            n += 1;
        }
        self.write(&buffer)?;
        Ok(n - first)
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        self.file.write_all(lines).map_err(|why| self.error("write to", why))?;
        self.bytes += lines.len() as u64;
        self.dirty = true;
        Ok(())
    }

    /// A crash between two of these steps leaves a gap in the numbers of the old files, or no current file: both are in order.
    fn rotate(&mut self) -> Result<()> {
        self.sync()?;
        self.renamed = true;
        for old in (1..self.keep).rev() {
            match fs::rename(renamed(&self.path, old), renamed(&self.path, old + 1)) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(self.error("rename an old file of", why)),
                _ => {}
            }
        }
        fs::rename(&self.path, renamed(&self.path, 1)).map_err(|why| self.error("rename", why))?;
        let created = OpenOptions::new().read(true).append(true).create(true).open(&self.path);
        self.file = created.map_err(|why| self.error("create", why))?;
        self.bytes = self.file.metadata().map_err(|why| self.error("read", why))?.len();
        Ok(())
    }

    fn error(&self, what: &str, why: io::Error) -> Error {
        let message = format!("cannot {what} {}", self.path.display());
        Error::retriable("datagen.file", message).because(why).fix("check the path, its permissions and the free space")
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_dir(folder: &Path) -> io::Result<()> {
    if failpoint::planted(bug::SKIP_DIR_SYNC) { Ok(()) } else { File::open(folder)?.sync_all() }
}

/// As `create_dir_all`, durably.
fn create_dirs(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    create_dirs(parent(folder))?;
    match fs::create_dir(folder) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(why),
        _ => sync_dir(parent(folder)),
    }
}

/// `access.log.1`
fn renamed(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The number of the last whole line, and what stands after it.
fn tail(file: &mut File, path: &Path) -> Result<(Option<u64>, Vec<u8>)> {
    let read = |file: &mut File| -> io::Result<Vec<u8>> {
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(LINE_MAX_BYTES)))?;
        let mut end = Vec::new();
        file.take(LINE_MAX_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    let message = || format!("cannot read {}", path.display());
    let end = read(file)
        .map_err(|why| Error::retriable("datagen.file", message()).because(why).fix("check the path and its permissions"))?;
    let Some(newline) = end.iter().rposition(|b| *b == b'\n') else { return Ok((None, end)) };
    let line = &end[..newline];
    let line = &line[line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)..];
    let last = number(line).ok_or_else(|| {
        let message = format!("{} ends in a line that this connector did not write", path.display());
        Error::fatal("datagen.foreign_file", message).fix("give `file` a path of its own, or move the file away")
    })?;
    Ok((Some(last), end[newline + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    fn line(n: u64, out: &mut Vec<u8>) {
        let filler = "x".repeat((n * 7 % 50) as usize);
        out.extend_from_slice(format!("{filler} req-{n:010}").as_bytes());
    }

    fn numbers(folder: &Path) -> Vec<u64> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|path| std::cmp::Reverse(path.extension().and_then(|e| e.to_str()?.parse::<u32>().ok()).unwrap_or(0)));
        let mut numbers = Vec::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'));
            numbers.extend(text.lines().map(|line| number(line.as_bytes()).unwrap()));
        }
        numbers
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// Killed anywhere, with the end of the file torn at any byte, and whatever offset was stored: every line once, in order.
        #[test]
        fn every_line_once_whatever_was_torn(runs in prop::collection::vec((1u64..60, 0usize..100, any::<bool>()), 1..8)) {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("a.log");
            let mut expected = 0;
            for (count, torn, lost_file) in runs {
                let (mut file, next) = LogFile::open(path.clone(), 1024, 1000, 0, line).unwrap();
                prop_assert!(next == expected || next + 1 == expected, "{} {}", next, expected);
                file.append(next, count, 1 << 20).unwrap();
                expected = next + count;
                drop(file);
                // A torn write: some of the last line is missing.
                let bytes = fs::metadata(&path).unwrap().len();
                if bytes > 0 {
                    let last_line = bytes - fs::read(&path).unwrap()[..bytes as usize - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
                    let cut = (torn as u64).min(last_line);
                    OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes - cut).unwrap();
                    if cut == bytes && lost_file {
                        // Killed after the rename, before the new file.
                        fs::remove_file(&path).unwrap();
                    }
                    if cut > 0 {
                        let (_, next) = LogFile::open(path.clone(), 1024, 1000, 0, line).unwrap();
                        prop_assert_eq!(next, if cut == last_line { expected - 1 } else { expected });
                        expected = next;
                    }
                }
            }
            prop_assert_eq!(numbers(folder.path()), (0..expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn old_files_are_renamed_and_few_are_kept() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("deep/er/a.log");
        let (mut file, next) = LogFile::open(path.clone(), 1024, 3, 500, line).unwrap();
        assert_eq!((next, file.append(500, 300, 1 << 20).unwrap()), (500, 300));
        let mut names: Vec<String> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["a.log", "a.log.1", "a.log.2", "a.log.3"]);
        assert!(fs::metadata(renamed(&path, 2)).unwrap().len() <= 1024);
        let kept = numbers(path.parent().unwrap());
        assert_eq!(kept, (800 - kept.len() as u64..800).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_has_a_limit_in_bytes() {
        let folder = TempDir::new().unwrap();
        let (mut file, _) = LogFile::open(folder.path().join("a.log"), 1 << 20, 3, 0, line).unwrap();
        let written = file.append(0, 1000, 500).unwrap();
        assert!((5..30).contains(&written), "{written}");
        assert_eq!(file.append(written, 1000, 0).unwrap(), 1, "at least one");
    }

    #[test]
    fn a_file_of_someone_else_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "someone else's\n").unwrap();
        let error = LogFile::open(path.clone(), 1024, 3, 0, line).err().unwrap();
        assert_eq!(error.code(), "datagen.foreign_file");
        assert_eq!(fs::read_to_string(path).unwrap(), "someone else's\n");
        let error = LogFile::open(folder.path().to_owned(), 1024, 3, 0, line).err().unwrap();
        assert_eq!((error.code(), error.is_retriable()), ("datagen.file", true));
    }
}
