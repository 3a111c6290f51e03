//! Files that were found good, by their hash, so that a start with hundreds of plugins does not validate and encode each of them again. A core module's
//! component is kept with it. It lies beside the compiled code and is trusted less: wasmtime validates what it compiles.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A core module has 50 to 200 KiB, and a component is kept as an empty file: more versions of plugins than anyone has at a time.
const FILES_MAX: usize = 1_000;

/// `$XDG_CACHE_HOME/aqueduct`, or `~/.cache/aqueduct`. None: there is neither variable.
pub(crate) fn user_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("aqueduct"))
}

pub(crate) struct Kept(pub(crate) Option<PathBuf>);

impl Kept {
    /// Of this user and this version of Aqueduct.
    pub(crate) fn of_user() -> Self {
        Self(user_folder().map(|folder| folder.join(concat!("components-", env!("CARGO_PKG_VERSION")))))
    }

    /// What was put for a file.
    pub(crate) fn get(&self, hash: &str) -> Option<Vec<u8>> {
        std::fs::read(self.0.as_ref()?.join(hash)).ok()
    }

    /// What cannot be kept is made again at the next start.
    pub(crate) fn put(&self, hash: &str, component: &[u8]) {
        let Some(folder) = &self.0 else { return };
        if let Err(error) = write(folder, hash, component) {
            tracing::debug!("{} is not kept: {error}", folder.join(hash).display());
        }
    }
}

fn write(folder: &Path, hash: &str, component: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    make_room(folder)?;
    // Renamed into place: another process may look, and this one may be killed.
    let part = folder.join(format!("{hash}.{}", std::process::id()));
    std::fs::write(&part, component)?;
    std::fs::rename(part, folder.join(hash))
}

/// The oldest quarter goes when there is no room for one more.
fn make_room(folder: &Path) -> std::io::Result<()> {
    let entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    if entries.len() < FILES_MAX {
        return Ok(());
    }
    let written = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.sort_by_cached_key(written);
    for file in &files[..files.len() - FILES_MAX * 3 / 4] {
        // Another process may have been here first.
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_comes_back() {
        let folder = tempfile::TempDir::new().unwrap();
        let kept = Kept(Some(folder.path().join("new")));
        assert_eq!(kept.get("a"), None);
        kept.put("a", b"one");
        kept.put("b", b"");
        assert_eq!((kept.get("a"), kept.get("b")), (Some(b"one".to_vec()), Some(Vec::new())));
        for n in 0..FILES_MAX {
            kept.put(&n.to_string(), b"");
        }
        let there = std::fs::read_dir(folder.path().join("new")).unwrap().count();
        assert!(there <= FILES_MAX && kept.get(&(FILES_MAX - 1).to_string()).is_some(), "{there}");
        let nowhere = Kept(None);
        nowhere.put("a", b"one");
        assert_eq!(nowhere.get("a"), None);
    }
}
