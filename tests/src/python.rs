//! Python programs that call the worker from outside, each list of `tests/python` in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the environment that `tests/python/<list>.txt` describes: `python` for a script. Lies below `AQUEDUCT_PYTHON_HOME`, or in the cache
/// that `cargo xtask services install` fills. Completed here when it is not there.
///
/// # Panics
/// When it cannot be installed: no test is skipped for want of it.
pub fn program(list: &str, name: &str) -> PathBuf {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = var("AQUEDUCT_PYTHON_HOME")
        .or_else(|| var("AQUEDUCT_CI_CACHE").map(|cache| cache.join("python")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/aqueduct/python")))
        .expect("HOME or AQUEDUCT_PYTHON_HOME");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/get-python.sh");
    let output =
        Command::new(&script).arg(&home).arg(list).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        output.status.success(),
        "tests/python/{list}.txt cannot be installed (cargo xtask services install; apt-get install python3-venv; is PyPI reachable?): {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let program = home.join(list).join("bin").join(name);
    assert!(program.is_file(), "tests/python/{list}.txt brings no program {name}: {}", program.display());
    program
}
