//! The JavaScript programs of `tests/javascript`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of `tests/javascript/package-lock.json`. Lies below `AQUEDUCT_JAVASCRIPT_HOME`, or in the cache that `cargo xtask services install` fills.
/// Completed here when it is not there.
///
/// # Panics
/// When it cannot be installed: no test is skipped for want of it.
pub fn program(name: &str) -> PathBuf {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = var("AQUEDUCT_JAVASCRIPT_HOME")
        .or_else(|| var("AQUEDUCT_CI_CACHE").map(|cache| cache.join("javascript")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/aqueduct/javascript")))
        .expect("HOME or AQUEDUCT_JAVASCRIPT_HOME");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("javascript/get-javascript.sh");
    let output = Command::new(&script).arg(&home).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        output.status.success(),
        "tests/javascript cannot be installed (cargo xtask services install; apt-get install nodejs npm; is npm's registry reachable?): {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let program = home.join("node_modules/.bin").join(name);
    assert!(program.is_file(), "tests/javascript brings no program {name}: {}", program.display());
    program
}
