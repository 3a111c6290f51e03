//! `plugins build`: the component of a plugin's folder, by the tools of its language.

use super::c;
use super::install::inspected;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, bytes};
use aqueduct_plugin_host::{Kind, Metadata, embed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Build a plugin: FOLDER/NAME.wasm, ready to install.
///
/// A folder with Cargo.toml is Rust: cargo with rustup's target wasm32-unknown-unknown, or Debian's (rustc-web, cargo-web, rust-web-src). One with app.py
/// is Python: componentize-py. One with app.js is JavaScript: componentize-js, of the folder's node_modules if it is there. One with plugin.c is C: clang
/// with lld and wasi-libc, of all its *.c files, and of bindings made from wit/connector.wit in the folder bindings.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plugin's folder.
    #[arg(default_value = ".", value_name = "FOLDER")]
    pub(super) folder: PathBuf,
    /// The program that builds it, where it is not in PATH: cargo, componentize-py, componentize-js or clang.
    #[arg(long, value_name = "PROGRAM")]
    tool: Option<PathBuf>,
}

const TARGET: &str = "wasm32-unknown-unknown";
/// What componentize-py and componentize-js write, in the plugin's folder.
const COMPONENT: &str = ".component.wasm";
/// Debian's Rust for the web: its standard library comes as source.
const DEBIAN: [&str; 3] = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/Cargo.lock"];

pub(crate) fn run(args: &Args, screen: &Screen) -> Outcome {
    let text = std::fs::read_to_string(args.folder.join("plugin.json")).map_err(|error| {
        let failure = Failure::not_found(format!("cannot read {}: {error}", args.folder.join("plugin.json").display()));
        failure.fix("name the folder of a plugin, or begin one: aqueduct plugin new --lang rust|python|js|c NAME")
    })?;
    let metadata = Metadata::parse(text.as_bytes())?;
    let Some(first) = metadata.plugins.first() else { return Err(Failure::failed("plugin.json names no plugin")) };
    let out = args.folder.join(format!("{}.wasm", first.name));
    let world = || world(&metadata);
    let write =
        |component: Vec<u8>| std::fs::write(&out, embed(component, text.as_bytes())).map_err(|error| unwritable(&out, &error));
    if args.folder.join("Cargo.toml").is_file() {
        let built = rust(args)?;
        std::fs::copy(&built, &out).map_err(|error| unwritable(&out, &error))?;
    } else if args.folder.join(c::MAIN).is_file() {
        write(c::module(args, world()?)?)?;
    } else if let Some(language) =
        [Componentize::Python, Componentize::Js].into_iter().find(|one| args.folder.join(one.app()).is_file())
    {
        write(language.component(args, world()?)?)?;
    } else {
        let failure =
            Failure::failed(format!("{} has none of Cargo.toml, app.py, app.js and {}", args.folder.display(), c::MAIN));
        return Err(failure.fix("name the folder of a plugin in Rust, Python, JavaScript or C"));
    }
    let found = inspected(&out)?;
    let size = std::fs::metadata(&out).map_or(0, |file| file.len());
    screen.show(&json!({ "file": out, "bytes": size, "sha256": found.sha256 }), || {
        format!("built {} ({}, sha256 {})", out.display(), bytes(size), found.sha256)
    })
}

/// The one of its component, where the tools of its language know only one.
fn world(metadata: &Metadata) -> Outcome<&'static str> {
    let [plugin] = &metadata.plugins[..] else {
        let failure =
            Failure::failed("a component in Python, JavaScript or C has one world, and plugin.json names more than one plugin");
        return Err(failure.fix("make a folder of each"));
    };
    Ok(match plugin.kind {
        Kind::Source => "source-plugin",
        Kind::Sink => "sink-plugin",
        Kind::Transform => "transform-plugin",
    })
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}

/// The core module that cargo made, with the component's type and the metadata in it.
fn rust(args: &Args) -> Outcome<PathBuf> {
    let by_rustup = args.tool.is_some() || libdir(&["--target", TARGET]).is_some_and(|folder| folder.is_dir());
    if !by_rustup && !DEBIAN.iter().all(|path| Path::new(path).is_file()) {
        let failure = Failure::failed(format!("no Rust here builds for {TARGET}"));
        return Err(failure.fix(format!(
            "rustup target add {TARGET}; or on Debian apt-get install --no-install-recommends rustc-web cargo-web rust-web-src"
        )));
    }
    let tool = named(args).unwrap_or_else(|| if by_rustup { "cargo" } else { DEBIAN[1] }.into());
    let mut command = Command::new(&tool);
    command.args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    if !by_rustup {
        command.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]);
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", DEBIAN[0]);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker()?);
    }
    let said = finished(command.current_dir(&args.folder).stdout(Stdio::piped()))?;
    let artifacts = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = |artifact: Value| -> Option<String> {
        let files = artifact.get("filenames")?.as_array()?.iter().filter_map(Value::as_str);
        files.rev().find(|file| file.ends_with(".wasm")).map(str::to_owned)
    };
    artifacts
        .rev()
        .find_map(of)
        .map(PathBuf::from)
        .ok_or_else(|| Failure::failed("cargo made no *.wasm").fix("Cargo.toml needs [lib] with crate-type = [\"cdylib\"]"))
}

/// Any lld that knows WebAssembly: Debian's Rust comes without one.
fn linker() -> Outcome<PathBuf> {
    let own = libdir(&[]).map(|folder| folder.with_file_name("bin").join("rust-lld"));
    let numbered = (14..40).rev().map(|version| PathBuf::from(format!("/usr/bin/wasm-ld-{version}")));
    let mut places = own.into_iter().chain(numbered).chain([PathBuf::from("/usr/bin/wasm-ld")]);
    let missing = || Failure::failed("there is no linker for WebAssembly").fix("apt-get install lld");
    places.find(|place| place.is_file()).ok_or_else(missing)
}

/// Of the compiler in PATH.
fn libdir(of: &[&str]) -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).args(of).stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The tool of the command line: a path is meant from here, and not from the plugin's folder, where it is started.
pub(super) fn named(args: &Args) -> Option<PathBuf> {
    let tool = args.tool.as_ref()?;
    let is_path = tool.components().nth(1).is_some();
    Some(if is_path { std::path::absolute(tool).unwrap_or_else(|_| tool.clone()) } else { tool.clone() })
}

/// A language whose tool puts its interpreter and the code into one component, of one world.
#[derive(Clone, Copy)]
enum Componentize {
    Python,
    Js,
}

impl Componentize {
    fn app(self) -> &'static str {
        match self {
            Self::Python => "app.py",
            Self::Js => "app.js",
        }
    }

    fn tool(self, args: &Args) -> PathBuf {
        let own = || match self {
            Self::Python => None,
            // As npm installs it; absolute, for the tool is started in the folder.
            Self::Js => {
                std::path::absolute(args.folder.join("node_modules/.bin/componentize-js")).ok().filter(|path| path.is_file())
            }
        };
        let name = match self {
            Self::Python => "componentize-py",
            Self::Js => "componentize-js",
        };
        named(args).or_else(own).unwrap_or_else(|| name.into())
    }

    fn component(self, args: &Args, world: &str) -> Outcome<Vec<u8>> {
        let mut command = Command::new(self.tool(args));
        match self {
            Self::Python => command.args(["-q", "-d", "wit", "-w", world, "componentize", "app", "-o", COMPONENT]),
            // A plugin calls by `fetch`; it is never called by HTTP.
            Self::Js => command.args(["app.js", "-w", "wit", "-n", world, "-d", "fetch-event", "-o", COMPONENT]),
        };
        finished(command.current_dir(&args.folder).stdout(Stdio::piped()))?;
        let out = args.folder.join(COMPONENT);
        let component = super::install::read(&out)?;
        // It is in the other file, with its metadata.
        let _ = std::fs::remove_file(&out);
        Ok(component)
    }
}

/// What it wrote to its standard output.
pub(super) fn finished(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|error| {
        let failure = Failure::failed(format!("cannot run {program}: {error}"));
        let fix = if program.ends_with("cargo") {
            "install Rust (https://rustup.rs), or name cargo by --tool"
        } else if program.ends_with("componentize-js") {
            "npm install in the plugin's folder (Node.js 20 or newer), or name it by --tool"
        } else if program.ends_with("componentize-py") {
            "pip install componentize-py==0.25.0 (in a virtual environment), or name it by --tool"
        } else {
            c::FIX
        };
        failure.fix(fix)
    })?;
    if !output.status.success() {
        return Err(Failure::failed(format!("{program} failed: {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
