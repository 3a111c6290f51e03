//! `plugin.path`: every `*.wasm` in it, and what is wrong with those that are left out.

use crate::component::{FILE_BYTES_MAX, parse};
use crate::metadata::Kind;
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

/// What the folders had.
#[derive(Default)]
pub struct Loaded {
    /// Sources and sinks, as `connectors::builtins()` gives them.
    pub plugins: Vec<Plugin>,
    pub transforms: Vec<Arc<dyn TransformPlugin>>,
    /// Files that were refused, each with the reason: the others work.
    pub issues: Vec<Issue>,
}

/// Reads `paths`, folders (their own files, not those below) or files, in order of name. Nothing is compiled or run.
/// `grants` are those of worker.yaml, by the plugin's name. Blocking.
pub fn load(paths: &[PathBuf], grants: &BTreeMap<String, PluginGrant>) -> Loaded {
    let mut loaded = Loaded::default();
    for path in paths {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                let issue = Issue::warning("plugin.path", "plugin.path", format!("cannot read {}: {error}", path.display()));
                loaded.issues.push(issue.fix("name a folder that is there, or remove it from plugin.path"));
                continue;
            }
        };
        for file in files {
            match read(&file).and_then(|bytes| load_bytes(bytes, grants)) {
                Ok(found) => {
                    loaded.plugins.extend(found.plugins);
                    loaded.transforms.extend(found.transforms);
                }
                Err(error) => {
                    let issue = Issue::error("plugin.path", error.code(), format!("{}: {}", file.display(), error.message()));
                    loaded.issues.push(issue.fix(error.hint().unwrap_or("remove the file")));
                }
            }
        }
    }
    loaded
}

/// The plugins of one component.
///
/// # Errors
/// `plugin.malformed`, `plugin.metadata`, `plugin.interface`, `plugin.sha256`.
pub fn load_bytes(bytes: Vec<u8>, grants: &BTreeMap<String, PluginGrant>) -> Result<Loaded> {
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let parsed = parse(bytes)?;
    let code = Arc::new(Code::new(parsed.component));
    let mut loaded = Loaded::default();
    for metadata in &parsed.metadata.plugins {
        let grant = grants.get(&metadata.name).cloned().unwrap_or_default();
        if let Some(wanted) = grant.sha256.as_ref().filter(|wanted| !wanted.eq_ignore_ascii_case(&hash)) {
            let what = format!("{} has the hash {hash}, and worker.yaml pins {wanted}", metadata.name);
            return Err(Error::fatal("plugin.sha256", what)
                .fix(format!("install the file that was pinned, or change plugins.{}.sha256", metadata.name)));
        }
        let common = Common::new(metadata, Arc::new(grant), code.clone());
        match metadata.kind {
            Kind::Source => loaded.plugins.push(Plugin::Source(Arc::new(Source(common)))),
            Kind::Sink => loaded.plugins.push(Plugin::Sink(Arc::new(Sink(common)))),
            Kind::Transform => loaded.transforms.push(Arc::new(Transforming(Arc::new(common)))),
        }
    }
    Ok(loaded)
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
