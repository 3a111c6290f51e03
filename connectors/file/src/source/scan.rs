//! What the patterns find now.

use super::identity::{Kind, Stat};
use super::settings::{Pattern, Settings};
use rustc_hash::FxHashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) stat: Stat,
}

#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// By path; one path for each file.
    pub(crate) files: Vec<Found>,
    /// Folders where a change matters, with device and inode.
    pub(crate) dirs: Vec<(PathBuf, (u64, u64))>,
    /// What was named or found and cannot be looked at.
    pub(crate) problems: Vec<(PathBuf, Problem)>,
}

#[derive(Debug)]
pub(crate) enum Problem {
    NotAFile(Kind),
    Io(io::Error),
}

pub(crate) fn scan(settings: &Settings) -> Scan {
    let mut scan = Scan::default();
    for pattern in &settings.patterns {
        match pattern {
            Pattern::Literal(path) => literal(path, &mut scan),
            Pattern::Glob { base, depth, matcher } => walk(base, *depth, |path| matcher.is_match(path), settings, &mut scan),
        }
    }
    scan.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut inodes = FxHashSet::default();
    // Links, and patterns that overlap.
    scan.files.retain(|found| inodes.insert(found.stat.id.inode()));
    scan
}

fn literal(path: &Path, scan: &mut Scan) {
    watch_nearest(path.parent().unwrap_or(Path::new("")), scan);
    match fs::metadata(path).map(|meta| Stat::from(&meta)) {
        Ok(stat) if stat.kind == Kind::File => scan.files.push(Found { path: path.to_owned(), stat }),
        Ok(stat) => scan.problems.push((path.to_owned(), Problem::NotAFile(stat.kind))),
        Err(error) if is_absent(&error) => {}
        Err(error) => scan.problems.push((path.to_owned(), Problem::Io(error))),
    }
}

fn walk(base: &Path, depth: usize, matches: impl Fn(&Path) -> bool, settings: &Settings, scan: &mut Scan) {
    watch_nearest(base, scan);
    let relative = base == Path::new(".");
    let plain = |path: &Path| if relative { path.strip_prefix(".").unwrap_or(path).to_owned() } else { path.to_owned() };
    let walk = WalkDir::new(base).follow_links(true).min_depth(1).max_depth(depth).into_iter();
    for entry in walk.filter_entry(|entry| !entry.file_type().is_dir() || !settings.exclude.is_match(entry.path())) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(base).to_owned();
                // A loop of links is no file, and what is gone is gone.
                let problem = error.into_io_error().filter(|error| !is_absent(error));
                scan.problems.extend(problem.map(|error| (path, Problem::Io(error))));
                continue;
            }
        };
        let path = plain(entry.path());
        let dir = entry.file_type().is_dir();
        if (dir && entry.depth() >= depth) || (!dir && (!matches(&path) || settings.exclude.is_match(&path))) {
            continue;
        }
        match entry.metadata() {
            Ok(meta) if dir => scan.dirs.push((path, (meta.dev(), meta.ino()))),
            Ok(meta) => {
                let stat = Stat::from(&meta);
                // A pattern may match sockets and pipes: they are not meant.
                if stat.kind == Kind::File {
                    scan.files.push(Found { path, stat });
                }
            }
            Err(error) => {
                let problem = error.into_io_error().filter(|error| !is_absent(error));
                scan.problems.extend(problem.map(|error| (path, Problem::Io(error))));
            }
        }
    }
}

/// The folder, or the nearest one above it that exists: the others come later.
fn watch_nearest(dir: &Path, scan: &mut Scan) {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let found = dir.ancestors().find_map(|dir| {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        fs::metadata(dir).ok().filter(fs::Metadata::is_dir).map(|meta| (dir.to_owned(), (meta.dev(), meta.ino())))
    });
    scan.dirs.extend(found);
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Where a file is now that was in `dir`: it may have been renamed while nobody looked.
pub(crate) fn find_inode(dir: &Path, (dev, ino): (u64, u64)) -> Option<PathBuf> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut paths = entries.filter(|entry| entry.ino() == ino).map(|entry| entry.path());
    paths.find(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.dev() == dev && meta.ino() == ino && meta.is_file()))
}
