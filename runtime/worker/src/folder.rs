//! `connectors.dir`: a file for each connector. New and changed files are applied, broken ones are reported and touch nothing that runs.
//!
//! A file wins over REST only when *it* changed: the mark stored with the connector says what of it was applied last.

use crate::store::FolderMark;
use crate::worker::Worker;
use crate::{AdminError, ConfigMap};
use aqueduct_config::{document, flatten};
use aqueduct_core::issue::Location;
use aqueduct_core::{Issue, Result};
use notify::Watcher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use uuid::Uuid;

/// Watches one folder (not its subfolders) for `*.yaml`, `*.yml`, `*.json` and `*.properties`; names that begin with a dot or end in `~` are left alone.
pub struct Folder {
    worker: Worker,
    dir: PathBuf,
    /// `connectors.dir.prune`: remove the connector of a removed file.
    prune: bool,
    seen: HashMap<PathBuf, Read>,
    reported: Vec<Issue>,
}

/// What a file had when it was read last.
struct Read {
    stamp: Stamp,
    connectors: Vec<Declared>,
    issues: Vec<Issue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// One connector of a file.
#[derive(Clone)]
struct Declared {
    name: String,
    config: ConfigMap,
    mark: FolderMark,
    /// Positions of its keys, for issues that come up later.
    flat: Arc<flatten::Flat>,
}

/// What to do about the folder: a pure decision, see [`decide`].
#[derive(Default)]
struct Decision {
    put: Vec<Declared>,
    delete: Vec<String>,
    /// Deleted over REST, and now the file is gone as well.
    forget: Vec<String>,
    issues: Vec<Issue>,
}

/// Without notifications (the folder comes later, the system gives no watch). A look is one `stat` for each file.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// With notifications: catches what they miss, on network file systems for instance.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(30);
/// Editors write in steps; wait until they are through.
const SETTLE: Duration = Duration::from_millis(50);

impl Folder {
    pub fn new(worker: Worker, dir: impl Into<PathBuf>, prune: bool) -> Self {
        Self { worker, dir: dir.into(), prune, seen: HashMap::new(), reported: Vec::new() }
    }

    /// Applies what is there now, then follows changes until the worker shuts down.
    pub async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        loop {
            if watcher.is_none() {
                watcher = watch(&self.dir, changed.clone());
            }
            self.sync().await;
            // A file that was young when it was read is read again: two writes may have one time stamp.
            let young = self.seen.values().any(|read| !read.stamp.modified.is_some_and(settled));
            let wait = if watcher.is_some() && self.reported.is_empty() && !young { LOOK_AGAIN_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look: reads what changed, applies it, publishes what is wrong.
    pub async fn sync(&mut self) {
        let (dir, seen) = (self.dir.clone(), std::mem::take(&mut self.seen));
        let looked = tokio::task::spawn_blocking(move || look(&dir, seen)).await;
        let Ok((seen, mut issues)) = looked else { return };
        self.seen = seen;
        let (marks, deleted) = self.worker.folder_marks();
        let decision = decide(&self.seen, &marks, &deleted, self.prune && issues.is_empty());
        issues.extend(decision.issues);
        for declared in decision.put {
            issues.extend(self.put(declared).await);
        }
        for name in decision.delete {
            match self.worker.delete_from_folder(&name).await {
                Ok(()) => tracing::info!(connector = name, "its file is gone: connector removed (connectors.dir.prune)"),
                Err(error) => {
                    issues.push(Issue::error("", "folder.delete", format!("connector {name} cannot be removed: {error}")))
                }
            }
        }
        for name in decision.forget {
            if let Err(error) = self.worker.forget_mark(&name).await {
                tracing::warn!(connector = name, "{error}");
            }
        }
        self.report(issues);
    }

    async fn put(&self, declared: Declared) -> Vec<Issue> {
        let Declared { name, config, mark, flat } = declared;
        let mut issues = match self.worker.put_from_folder(&name, config, mark).await {
            Ok(_) => {
                tracing::info!(connector = name, file = flat.file, "connector applied from its file");
                return Vec::new();
            }
            Err(AdminError::InvalidConfig(issues)) => issues,
            Err(error) => vec![Issue::error("connector.class", "folder.apply", error.to_string())],
        };
        flat.locate(&mut issues);
        issues
    }

    fn report(&mut self, issues: Vec<Issue>) {
        if issues != self.reported {
            for issue in issues.iter().filter(|issue| !self.reported.contains(issue)) {
                match issue.is_error() {
                    true => tracing::error!("connectors.dir: {issue}"),
                    false => tracing::warn!("connectors.dir: {issue}"),
                }
            }
            self.worker.set_folder_issues(issues.clone());
            self.reported = issues;
        }
    }
}

fn watch(dir: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    // Our own looking opens the folder and its files: that is no change.
    let notify = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(notify).ok()?;
    watcher.watch(dir, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Reads the files that changed since `seen`.
fn look(dir: &Path, mut seen: HashMap<PathBuf, Read>) -> (HashMap<PathBuf, Read>, Vec<Issue>) {
    let paths = match paths(dir) {
        Ok(paths) => paths,
        Err(error) => {
            let issue = Issue::error("", "folder.read", format!("connectors.dir {} cannot be read: {error}", dir.display()));
            // Not being able to look is not the same as nothing being there: keep what is known.
            return (seen, vec![issue.fix("create the folder, or set connectors.dir in worker.yaml to one that exists")]);
        }
    };
    let mut now = HashMap::new();
    for path in paths {
        let stamp = std::fs::metadata(&path)
            .map_or(Stamp { modified: None, bytes: 0 }, |meta| Stamp { modified: meta.modified().ok(), bytes: meta.len() });
        let read = match seen.remove(&path) {
            Some(read) if read.stamp == stamp && stamp.modified.is_some_and(settled) => read,
            _ => read_file(&path, stamp),
        };
        now.insert(path, read);
    }
    (now, Vec::new())
}

/// Two writes within the clock's grain have one time stamp: a file that is younger than this is read again.
fn settled(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > Duration::from_secs(3))
}

fn paths(dir: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let known = [".yaml", ".yml", ".json", ".properties"].iter().any(|extension| name.ends_with(extension));
        // A link that leads nowhere is told as a file that cannot be read; a pipe would hold up whoever opens it.
        if known && !name.starts_with('.') && path.metadata().map_or(true, |meta| meta.is_file()) {
            paths.insert(path);
        }
    }
    Ok(paths)
}

fn read_file(path: &Path, stamp: Stamp) -> Read {
    let file = path.display().to_string();
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            let location = Location { file, line: 1, column: 1 };
            let issue = Issue::error("", "folder.read", format!("the file cannot be read: {error}")).at(location);
            return Read { stamp, connectors: Vec::new(), issues: vec![issue] };
        }
    };
    let (documents, mut issues) = document::read(&file, &text);
    let mut connectors = Vec::new();
    for document in &documents {
        let (flat, found) = flatten::flatten(document);
        let broken = found.iter().any(Issue::is_error);
        issues.extend(found);
        match flat.get("name").map(str::to_owned) {
            Some(name) if !broken => {
                let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{:?}", flat.entries).as_bytes()).to_string();
                let mark = FolderMark { file: file.clone(), hash };
                connectors.push(Declared { name, config: flat.entries.clone(), mark, flat: Arc::new(flat) });
            }
            Some(_) => {}
            None => {
                let issue = Issue::error("name", "config.missing", "is required and has no default").fix("add `name: …`");
                issues.extend(flat.location("name").map(|location| issue.at(location)));
            }
        }
    }
    Read { stamp, connectors, issues }
}

/// At most [`document::FILE_BYTES_MAX`] and one byte more, which the reader then refuses.
fn read_text(path: &Path) -> Result<String, std::io::Error> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(document::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| std::io::Error::other("it is not UTF-8"))
}

fn decide(
    seen: &HashMap<PathBuf, Read>,
    marks: &BTreeMap<String, FolderMark>,
    deleted: &BTreeMap<String, FolderMark>,
    prune: bool,
) -> Decision {
    let mut decision = Decision::default();
    let mut by_name: BTreeMap<&str, Vec<&Declared>> = BTreeMap::new();
    let mut files: Vec<_> = seen.iter().collect();
    files.sort_by_key(|(path, _)| *path);
    for (_, read) in &files {
        decision.issues.extend(read.issues.iter().cloned());
        for declared in &read.connectors {
            by_name.entry(&declared.name).or_default().push(declared);
        }
    }
    for (name, declared) in &by_name {
        match declared[..] {
            [one] if deleted.get(*name).is_some_and(|mark| mark.hash == one.mark.hash) => {
                let issue =
                    Issue::warning("name", "folder.deleted", format!("connector {name} was deleted over REST and stays so"));
                let issue = issue.fix("remove the file, or create the connector again; a change of the file brings it back");
                decision.issues.extend(one.flat.location("name").map(|location| issue.at(location)));
            }
            [one] if marks.get(*name).is_none_or(|mark| mark.hash != one.mark.hash) => decision.put.push(one.clone()),
            [_] => {}
            [first, ref others @ ..] => decision.issues.extend(others.iter().map(|other| {
                let issue = Issue::error(
                    "name",
                    "folder.duplicate",
                    format!("connector {name} is also in {}; neither is applied", first.flat.file),
                );
                let issue = issue.fix("give one of them another name, or remove one of the files");
                match other.flat.location("name") {
                    Some(location) => issue.at(location),
                    None => issue,
                }
            })),
            [] => {}
        }
    }
    // While a file is broken nobody knows which connectors are in it, also when it was renamed: nothing is gone.
    if files.iter().any(|(_, read)| read.issues.iter().any(Issue::is_error)) {
        return decision;
    }
    let absent = |name: &&String| !by_name.contains_key(name.as_str());
    decision.forget = deleted.keys().filter(absent).cloned().collect();
    if prune {
        decision.delete = marks.keys().filter(absent).cloned().collect();
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &str)]) -> HashMap<PathBuf, Read> {
        let dir = tempfile::tempdir().unwrap();
        let read = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            (PathBuf::from(name), read_file(&path, Stamp { modified: None, bytes: 0 }))
        };
        files.iter().map(read).collect()
    }

    fn mark(of: &HashMap<PathBuf, Read>, file: &str) -> FolderMark {
        FolderMark { file: file.into(), ..of[Path::new(file)].connectors[0].mark.clone() }
    }

    fn none() -> BTreeMap<String, FolderMark> {
        BTreeMap::new()
    }

    const A: &str = "name: a\nconnector.class: x\n";

    #[test]
    fn only_what_changed_in_the_file_is_applied() {
        let files = seen(&[("a.yaml", A), ("b.yaml", "name: b\nconnector.class: x\ntopic: [\n")]);
        let fresh = decide(&files, &none(), &none(), true);
        assert_eq!(fresh.put.iter().map(|declared| declared.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(fresh.issues.iter().all(|issue| issue.location.as_ref().unwrap().file.ends_with("b.yaml")));
        assert!(!fresh.issues.is_empty());
        let marks = BTreeMap::from([("a".to_owned(), mark(&files, "a.yaml"))]);
        assert!(decide(&files, &marks, &none(), true).put.is_empty());
        let edited = seen(&[("a.yaml", "name: a\nconnector.class: y\n")]);
        assert_eq!(decide(&edited, &marks, &none(), true).put.len(), 1);
        let comment = seen(&[("a.yaml", "# why\nname: a\nconnector.class: x\n")]);
        assert!(decide(&comment, &marks, &none(), true).put.is_empty());
    }

    #[test]
    fn removal_needs_prune_and_a_broken_file_removes_nothing() {
        let files = seen(&[("a.yaml", A)]);
        let marks = BTreeMap::from([("a".to_owned(), mark(&files, "a.yaml"))]);
        assert!(decide(&seen(&[]), &marks, &none(), false).delete.is_empty());
        assert_eq!(decide(&seen(&[]), &marks, &none(), true).delete, ["a"]);
        assert!(decide(&seen(&[("a.yaml", "name: [a\n")]), &marks, &none(), true).delete.is_empty());
    }

    #[test]
    fn what_was_deleted_over_rest_stays_so_until_its_file_changes() {
        let files = seen(&[("a.yaml", A)]);
        let deleted = BTreeMap::from([("a".to_owned(), mark(&files, "a.yaml"))]);
        let same = decide(&files, &none(), &deleted, true);
        assert!(same.put.is_empty() && same.forget.is_empty() && !same.issues[0].is_error());
        assert_eq!(decide(&seen(&[("a.yaml", "name: a\nconnector.class: y\n")]), &none(), &deleted, true).put.len(), 1);
        assert_eq!(decide(&seen(&[]), &none(), &deleted, false).forget, ["a"]);
    }

    #[test]
    fn one_name_in_two_files_is_an_error_and_neither_is_applied() {
        let decision = decide(&seen(&[("a.yaml", A), ("b.yaml", A)]), &none(), &none(), true);
        assert!(decision.put.is_empty() && decision.delete.is_empty());
        assert_eq!(decision.issues.iter().map(|issue| issue.code.as_str()).collect::<Vec<_>>(), ["folder.duplicate"]);
    }
}
