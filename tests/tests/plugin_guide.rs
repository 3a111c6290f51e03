//! The stranger's path: the lines of plugins/README.md, typed in an empty folder.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::{aqueduct, free_port};
use aqueduct_tests::wait::poll_for;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// From nothing: a Rust standard library for WebAssembly, or componentize-py from PyPI and the compilation of Python.
const DEADLINE: Duration = Duration::from_secs(540);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every line in a block "```sh LANGUAGE".
fn listing(language: &str) -> Vec<String> {
    let text = fs::read_to_string(checkout().join("plugins/README.md")).unwrap();
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        match line {
            "```" => inside = false,
            _ if line == format!("```sh {language}") => inside = true,
            _ if inside => lines.push(line.to_owned()),
            _ => {}
        }
    }
    assert!(lines.len() > 8, "plugins/README.md has the lines for {language}: {lines:?}");
    lines
}

fn cache() -> PathBuf {
    let ci = std::env::var_os("AQUEDUCT_CI_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/aqueduct");
    ci.unwrap_or_else(home).join("plugins")
}

/// Types the lines into one shell; what it printed.
fn typed(folder: &Path, lines: &[String]) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(aqueduct(), bin.join("aqueduct")).unwrap();
    let log = folder.join("typed.log");
    let out = File::create(&log).unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-e", "-x", "-c", &lines.join("\n")]).current_dir(folder).env("PATH", path);
    command.env("AQUEDUCT_LISTENERS", &url).env("AQUEDUCT_URL", &url).env("XDG_CACHE_HOME", cache());
    command.env("CARGO_TARGET_DIR", cache().join("target"));
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
    let mut child = command.spawn().unwrap();
    let ended = poll_for(DEADLINE, || child.try_wait().unwrap());
    // With it what it left running.
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let said = fs::read_to_string(&log).unwrap();
    let status = ended.unwrap_or_else(|| panic!("it did not end within {DEADLINE:?}:\n{said}"));
    assert!(status.success(), "{status}:\n{said}");
    said
}

fn judged(said: &str, first: &str) {
    assert!(said.contains(first), "the first record is printed:\n{said}");
    assert!(said.contains(" 0 failed, 0 skipped"), "the kit passes:\n{said}");
}

#[test]
fn a_stranger_comes_to_a_running_source_in_rust() {
    let folder = tempfile::TempDir::new().unwrap();
    let said = typed(folder.path(), &listing("rust"));
    judged(&said, r#"{"topic":"counts","key":"0","value":"{\"#);
}

/// The tool is fetched and Python compiled once for each change of what the component is made of.
#[test]
fn a_stranger_comes_to_a_running_source_in_python() {
    let folder = tempfile::TempDir::new().unwrap();
    let lines = listing("python");
    let kept = cache().join(format!("python-{}.wasm", plugin_services::python_hash(&lines.join("\n"))));
    let build = lines.iter().position(|line| line.starts_with("aqueduct plugin build")).unwrap();
    let lines = match kept.is_file() {
        true => lines
            .into_iter()
            .filter(|line| !line.contains("venv"))
            .flat_map(|line| match line.starts_with("aqueduct plugin new") {
                true => vec![line, format!("cp {} ticker/ticker.wasm", kept.display())],
                false => vec![line],
            })
            .collect(),
        false => {
            let mut all = lines.clone();
            // Renamed into place: another process may look.
            let keep = format!("cp ticker/ticker.wasm {0}.$$ && mv {0}.$$ {0}", kept.display());
            all.splice(build + 1..build + 1, [format!("mkdir -p {}", cache().display()), keep]);
            all
        }
    };
    let said = typed(folder.path(), &lines);
    judged(&said, r#"{"topic":"ticks","key":"0","value":"{\"n\": 0, \"greeting\": \"hello\"}""#);
}
