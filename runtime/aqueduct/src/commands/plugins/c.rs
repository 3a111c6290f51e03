//! A plugin in C: bindings from the contract, and what clang makes of them and of the plugin's own files.

use super::build::{Args, finished, named, unwritable};
use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

/// A folder with this file is a plugin in C.
pub(super) const MAIN: &str = "plugin.c";
pub(super) const FIX: &str = "apt-get install --no-install-recommends clang lld wasi-libc libclang-rt-dev-wasm32, or name the clang of a wasi-sdk by --tool";
const WIT: &str = "wit/connector.wit";
/// In the plugin's folder; made anew by each build.
const BINDINGS: &str = "bindings";
const MODULE: &str = ".module.wasm";

/// The core module, with the component's type in it.
pub(super) fn module(args: &Args, world: &str) -> Outcome<Vec<u8>> {
    let mut sources = with_extension(&args.folder, "c")?;
    sources.extend(bind(&args.folder, world)?);
    let mut command = Command::new(named(args).unwrap_or_else(|| "clang".into()));
    // A reactor: it has no `main`, its exports are called.
    command
        .args(["--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-Wall", "-I.", "-I", BINDINGS, "-o", MODULE])
        .args(sources);
    finished(command.current_dir(&args.folder).stdout(Stdio::piped()))?;
    let out = args.folder.join(MODULE);
    let module = super::install::read(&out)?;
    // It is in the other file, with its metadata.
    let _ = std::fs::remove_file(&out);
    Ok(module)
}

/// Writes the bindings of a world; what of them is to be compiled and linked, from the plugin's folder.
fn bind(folder: &Path, world: &str) -> Outcome<Vec<PathBuf>> {
    let wit = folder.join(WIT);
    let text = std::fs::read_to_string(&wit).map_err(|error| {
        let failure = Failure::not_found(format!("cannot read {}: {error}", wit.display()));
        failure.fix("aqueduct plugin new --lang c NAME writes it")
    })?;
    let wrong = |error: String| Failure::failed(format!("{}: {error}", wit.display()));
    let mut resolve = Resolve::default();
    let package = resolve.push_source(&wit.display().to_string(), &text).map_err(|error| wrong(format!("{error:#}")))?;
    let id = resolve.select_world(&[package], Some(world)).map_err(|error| wrong(format!("{error:#}")))?;
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, id, &mut files).map_err(|error| wrong(format!("{error:#}")))?;
    let bindings = folder.join(BINDINGS);
    std::fs::create_dir_all(&bindings).map_err(|error| unwritable(&bindings, &error))?;
    let mut linked = Vec::new();
    for (name, bytes) in files.iter() {
        let path = bindings.join(name);
        std::fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
        if !name.ends_with(".h") {
            linked.push(Path::new(BINDINGS).join(name));
        }
    }
    Ok(linked)
}

/// The names of such files of a folder, in order.
fn with_extension(folder: &Path, extension: &str) -> Outcome<Vec<PathBuf>> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = PathBuf::from(entry.map_err(failed)?.file_name());
        if name.extension().is_some_and(|of| of == extension) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}
