//! The plugins of `plugins/examples`, built once and kept in the user's cache by the hash of their sources.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use wait_services::poll_for;

const PACKAGES: [&str; 6] = ["counter-source", "jsonl-sink", "lines-source", "mask-transform", "paged-api-source", "zoo"];
const TARGET: &str = "wasm32-unknown-unknown";
const FIX: &str = "apt-get install rustc-web cargo-web rust-web-src (as `cargo xtask services install` does), or rustup target add wasm32-unknown-unknown";
/// Ten times what two cores need; less than what a test program may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A plugin of `plugins/examples` by its package: a core module with the component's type embedded. The first call builds all of them.
///
/// # Panics
/// When they cannot be built: with what is missing.
pub fn guest(package: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(built).join(file(package))
}

fn file(package: &str) -> String {
    format!("{}.wasm", package.replace('-', "_"))
}

fn built() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plugins = here.ancestors().nth(2).expect("it lies in tests/plugins").join("plugins");
    let cache = std::env::var_os("AQUEDUCT_CI_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/aqueduct");
    // Not `plugins`: there wasmtime keeps compiled code, and removes what it does not know.
    let cache = cache.unwrap_or_else(home).join("guests");
    let folder = cache.join(hash(&plugins));
    if PACKAGES.iter().any(|package| !folder.join(file(package)).is_file()) {
        build(&plugins, &cache.join("target"), &folder);
    }
    folder
}

/// Cargo's own lock keeps other processes out of `target`; there the standard library is built once, which takes a minute or two.
fn build(plugins: &Path, target: &Path, folder: &Path) {
    std::fs::create_dir_all(folder).expect("the cache is writable");
    let log = folder.join(format!("build.{}.log", std::process::id()));
    let mut command = cargo(plugins, target);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("the cache is writable"));
    let started = command.spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{:?}: {error}: {FIX}", command.get_program()));
    let ended = poll_for(LIMIT, || child.try_wait().expect("our own child can be waited for"));
    if ended.is_none() {
        let _ = child.kill();
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let status = ended.unwrap_or_else(|| panic!("{command:?} did not end within {LIMIT:?}: is crates.io reachable?\n{said}"));
    assert!(status.success(), "{command:?}: {status}: {FIX}\n{said}");
    for file in PACKAGES.map(file) {
        // Renamed into place: another process may look.
        let part = folder.join(format!("{file}.{}", std::process::id()));
        std::fs::copy(target.join(TARGET).join("release").join(&file), &part).expect("cargo made it");
        std::fs::rename(part, folder.join(file)).expect("the cache is writable");
    }
    let _ = std::fs::remove_file(log);
}

fn cargo(plugins: &Path, target: &Path) -> Command {
    let by_rustup = libdir(&["--target", TARGET]).is_dir();
    let mut command = Command::new(if by_rustup { "cargo" } else { "/usr/bin/cargo" });
    command.args(["build", "--release", "--locked", "--target", TARGET]);
    command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_kept)));
    command.current_dir(plugins.join("examples")).env("CARGO_TARGET_DIR", target);
    if !by_rustup {
        // Debian's compiler comes with the sources of its standard library, and without a linker: that of the checkout's toolchain has one.
        // Without the features of the standard library: they are for backtraces, which there are none of.
        command.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]);
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker());
    }
    command
}

/// What says where things are and how the registry is reached; nothing else of the cargo that runs the tests: not its flags, its compiler or
/// its target folder.
fn is_kept(name: &str) -> bool {
    let places = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "SSL_CERT_FILE", "SSL_CERT_DIR"];
    let network = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    places.contains(&name) || network.iter().any(|front| name.starts_with(front)) || name.to_ascii_lowercase().ends_with("_proxy")
}

/// Any lld that knows WebAssembly.
fn linker() -> PathBuf {
    let own = libdir(&[]).with_file_name("bin").join("rust-lld");
    let places = [own, "/usr/bin/wasm-ld-22".into(), "/usr/bin/wasm-ld".into()];
    let found = places.iter().find(|place| place.is_file());
    found.unwrap_or_else(|| panic!("no linker for WebAssembly is in {places:?}: apt-get install lld-22")).clone()
}

/// Of the compiler that built this; it need not be there.
fn libdir(of: &[&str]) -> PathBuf {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).args(of).output().expect("rustc is in PATH");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Of all that the guests are built from.
fn hash(plugins: &Path) -> String {
    let (mut files, mut folders) = (Vec::new(), vec![plugins.join("wit"), plugins.join("frame/src")]);
    folders.extend([plugins.join("sdk"), plugins.join("examples")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the checkout is readable") {
            let path = entry.expect("the checkout is readable").path();
            match path.is_dir() {
                true if path.ends_with("target") => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.strip_prefix(plugins).expect("it lies there").to_string_lossy().as_bytes());
        hash.update(std::fs::read(&file).expect("the checkout is readable"));
    }
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
