//! `plugin.path`: every `*.wasm` in it, and what is wrong with those that are left out.

use crate::component::{FILE_BYTES_MAX, Parsed, parse};
use crate::metadata::{Kind, Metadata};
use crate::plugin::{Code, Common};
use crate::sink::Sink;
use crate::source::Source;
use crate::transform::Transforming;
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{Error, Issue, Plugin, Result, TransformPlugin};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

/// What the folders had.
#[derive(Clone, Default)]
pub struct Loaded {
    /// Sources and sinks, as `connectors::builtins()` gives them.
    pub plugins: Vec<Plugin>,
    pub transforms: Vec<Arc<dyn TransformPlugin>>,
    /// Files that were refused, each with the reason: the others work.
    pub issues: Vec<Issue>,
    /// The names of plugins in files that were refused, where they can be read.
    pub refused: Vec<String>,
}

/// Reads `paths`, folders (their own files, not those below) or files, in order of name. Nothing is compiled or run.
/// `grants` are those of worker.yaml, by the plugin's name. Blocking.
pub fn load(paths: &[PathBuf], grants: &BTreeMap<String, PluginGrant>) -> Loaded {
    let mut folders = Folders::new(paths.to_vec(), grants.clone());
    folders.look();
    folders.loaded()
}

/// `plugin.path`, which is looked at again and again.
pub struct Folders {
    paths: Vec<PathBuf>,
    grants: BTreeMap<String, PluginGrant>,
    /// In order.
    files: Vec<Known>,
    /// Of folders.
    issues: Vec<Issue>,
    looked: bool,
}

/// How a file is known to have changed: its size, and when it was written.
type Stamp = (u64, Option<SystemTime>);

struct Known {
    path: PathBuf,
    seen: Stamp,
    /// As of when it was read.
    read: Option<Stamp>,
    /// Of what was read: a file that is only touched, or copied again, is no other plugin.
    hash: Option<String>,
    loaded: Loaded,
}

impl Folders {
    pub fn new(paths: Vec<PathBuf>, grants: BTreeMap<String, PluginGrant>) -> Self {
        Self { paths, grants, files: Vec::new(), issues: Vec::new(), looked: false }
    }

    /// Reads what is new or has changed. After the first look a file is only read when the look before saw the same: it may be half copied.
    /// True when [`Folders::loaded`] has changed. Blocking.
    pub fn look(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let mut before = std::mem::take(&mut self.files);
        let (mut issues, mut due) = (Vec::new(), Vec::new());
        for path in &self.paths {
            let files = match files(path) {
                Ok(files) => files,
                Err(error) => {
                    let what = format!("cannot read {}: {error}", path.display());
                    let issue = Issue::warning("plugin.path", "plugin.path", what);
                    issues.push(issue.fix("name a folder that is there, or remove it from plugin.path"));
                    continue;
                }
            };
            for path in files {
                let seen = std::fs::metadata(&path).map_or((0, None), |found| (found.len(), found.modified().ok()));
                let found = before.iter().position(|known| known.path == path).map(|at| before.swap_remove(at));
                let settled = first || found.as_ref().is_some_and(|known| known.seen == seen);
                if settled && found.as_ref().is_none_or(|known| known.read != Some(seen)) {
                    due.push(self.files.len());
                }
                let new = || Known { path, seen, read: None, hash: None, loaded: Loaded::default() };
                self.files.push(found.map_or_else(new, |known| Known { seen, ..known }));
            }
        }
        let changed = self.read(&due);
        let changed = changed || first || !before.is_empty() || issues != self.issues;
        self.issues = issues;
        changed
    }

    /// Reads files, on as many threads as there are cores: 200 of them should not hold up the start. True when one of them is another plugin than
    /// before.
    fn read(&mut self, due: &[usize]) -> bool {
        let (files, grants, next) = (&self.files, &self.grants, AtomicUsize::new(0));
        let work = || {
            let mine = std::iter::from_fn(|| due.get(next.fetch_add(1, Relaxed)));
            mine.map(|at| (*at, load_file(&files[*at], grants))).collect::<Vec<_>>()
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(due.len());
        let done: Vec<_> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            readers.into_iter().flat_map(|reader| reader.join().expect("a panic of the parsers is caught")).collect()
        });
        let mut changed = false;
        for (at, (hash, loaded)) in done {
            let known = &mut self.files[at];
            (known.read, known.hash) = (Some(known.seen), hash);
            if let Some(loaded) = loaded {
                (known.loaded, changed) = (loaded, true);
            }
        }
        changed
    }

    /// What the last looks found.
    pub fn loaded(&self) -> Loaded {
        let mut all = Loaded::default();
        for Loaded { plugins, transforms, issues, refused } in self.files.iter().map(|known| known.loaded.clone()) {
            all.plugins.extend(plugins);
            all.transforms.extend(transforms);
            all.issues.extend(issues);
            all.refused.extend(refused);
        }
        all.issues.extend(self.issues.clone());
        all
    }
}

/// The hash of a file, and what is in it. None: the same as before.
fn load_file(known: &Known, grants: &BTreeMap<String, PluginGrant>) -> (Option<String>, Option<Loaded>) {
    let bytes = read(&known.path);
    let hash = bytes.as_deref().map(hash).ok();
    if hash.is_some() && known.hash == hash {
        return (hash, None);
    }
    let mut refused = Vec::new();
    let loaded = bytes.and_then(|bytes| {
        refused = crate::component::names(&bytes);
        load_bytes(bytes, grants)
    });
    let loaded = loaded.unwrap_or_else(|error| {
        let issue = Issue::error("plugin.path", error.code(), format!("{}: {}", known.path.display(), error.message()));
        Loaded { issues: vec![issue.fix(error.hint().unwrap_or("remove the file"))], refused, ..Loaded::default() }
    });
    (hash, Some(loaded))
}

/// The plugins of one component.
///
/// # Errors
/// `plugin.malformed`, `plugin.metadata`, `plugin.interface`, `plugin.sha256`.
pub fn load_bytes(bytes: Vec<u8>, grants: &BTreeMap<String, PluginGrant>) -> Result<Loaded> {
    let hash = hash(&bytes);
    let parsed = parse(bytes, &hash)?;
    let mut code: [Option<Arc<Code>>; 2] = [None, None];
    let mut loaded = Loaded::default();
    for metadata in &parsed.metadata.plugins {
        let grant = grants.get(&metadata.name).cloned().unwrap_or_default();
        if !grant.sha256.is_empty() && !grant.sha256.iter().any(|pinned| pinned.eq_ignore_ascii_case(&hash)) {
            let what = format!("{} has the hash {hash}, and worker.yaml pins {}", metadata.name, grant.sha256.join(", "));
            return Err(Error::fatal("plugin.sha256", what)
                .fix(format!("install the file that was pinned, or change plugins.{}.sha256", metadata.name)));
        }
        let mut code = |trusted: bool| {
            let code = &mut code[usize::from(trusted)];
            code.get_or_insert_with(|| Arc::new(Code::new(parsed.component.clone(), trusted))).clone()
        };
        let (runs, judging) = (code(grant.trusted), code(false));
        let common = Common::new(metadata, Arc::new(grant), runs, judging);
        match metadata.kind {
            Kind::Source => loaded.plugins.push(Plugin::Source(Arc::new(Source(Arc::new(common))))),
            Kind::Sink => loaded.plugins.push(Plugin::Sink(Arc::new(Sink(Arc::new(common))))),
            Kind::Transform => loaded.transforms.push(Arc::new(Transforming(Arc::new(common)))),
        }
    }
    Ok(loaded)
}

/// What a file is, without compiling or running it.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub metadata: Metadata,
    /// Interfaces, as the component names them.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Of the file, in hexadecimal: what `plugins.<name>.sha256` pins.
    pub sha256: String,
}

/// # Errors
/// `plugin.malformed`, `plugin.metadata`, `plugin.interface`: what would keep a worker from loading it.
pub fn inspect(bytes: Vec<u8>) -> Result<Inspected> {
    let sha256 = hash(&bytes);
    let Parsed { metadata, imports, exports, .. } = parse(bytes, &sha256)?;
    Ok(Inspected { metadata, imports, exports, sha256 })
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "wasm") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::fatal("plugin.read", format!("it cannot be read: {error}"));
    let size = std::fs::metadata(file).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(Error::fatal("plugin.malformed", format!("it has {size} bytes, more than {FILE_BYTES_MAX}")));
    }
    std::fs::read(file).map_err(failed)
}
