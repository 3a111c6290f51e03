//! `plugins inspect` and `plugins install`: what a file has, and how it comes into `plugin.path`.

use super::Worker;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, bytes};
use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::Error;
use aqueduct_plugin_host::{Inspected, inspect as look};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Show what a plugin's file says of itself, what it imports and exports, and its hash; without running it.
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// A component, or a core module with a component's type in it.
    file: PathBuf,
}

/// Copy a plugin, or every *.wasm of a folder, into the first folder of `plugin.path`: a running worker sees it within seconds.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    worker: Worker,
    /// A *.wasm file, or a folder with some.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

pub(crate) fn read(file: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {}", file.display())),
        _ => Failure::failed(format!("cannot read {}: {error}", file.display())),
    })
}

/// Everything that would keep the worker from loading it.
pub(crate) fn inspected(file: &Path) -> Outcome<Inspected> {
    look(read(file)?).map_err(|error| refused(file, &error))
}

pub(crate) fn refused(file: &Path, error: &Error) -> Failure {
    let failure = Failure::failed(format!("{}: {error}", file.display()));
    match error.hint() {
        Some(hint) => failure.fix(hint),
        None => failure,
    }
}

pub(crate) fn inspect(args: &InspectArgs, screen: &Screen) -> Outcome {
    let found = inspected(&args.file)?;
    let size = std::fs::metadata(&args.file).map_or(0, |file| file.len());
    let described = json!({
        "file": args.file, "bytes": size, "sha256": found.sha256, "plugins": found.metadata.plugins,
        "imports": found.imports, "exports": found.exports,
    });
    screen.show(&described, || {
        let mut text = String::new();
        for plugin in &found.metadata.plugins {
            let kind = format!("{:?}", plugin.kind).to_lowercase();
            text.push_str(&format!(
                "{}  {kind}, version {}\n{}\n",
                screen.bold(&plugin.name),
                plugin.version,
                plugin.description
            ));
            for (kind, name, reason) in plugin.capabilities.wanted() {
                text.push_str(&format!("needs {kind}{}: {reason}\n", name.map(|name| format!(" {name}")).unwrap_or_default()));
            }
        }
        text.push_str(&format!("\nsize     {}\nsha256   {}\n", bytes(size), found.sha256));
        for (what, names) in [("imports", &found.imports), ("exports", &found.exports)] {
            for (index, name) in names.iter().enumerate() {
                text.push_str(&format!("{:8} {name}\n", if index == 0 { what } else { "" }));
            }
        }
        text
    })
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Outcome {
    let worker = args.worker.read()?;
    let Some(folder) = worker.plugin_path.iter().find(|path| !path.is_file()) else {
        return Err(Failure::failed("worker.yaml has no plugin.path").fix("add `plugin.path: plugins` to it"));
    };
    let files = files(&args.path)?;
    // All are judged before the first is copied.
    let (mut missing, none) = (Vec::new(), PluginGrant::default());
    for file in &files {
        for plugin in inspected(file)?.metadata.plugins {
            missing.extend(plugin.missing(worker.plugins.get(&plugin.name).unwrap_or(&none)));
        }
    }
    let failed = |what: &Path, error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", what.display()));
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut installed = Vec::new();
    for file in &files {
        let Some(name) = file.file_name() else { continue };
        let (target, part) = (folder.join(name), folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id())));
        // Renamed into place: a worker that looks meanwhile sees the old one or the new one.
        let copied = std::fs::copy(file, &part).and_then(|_| std::fs::rename(&part, &target));
        copied.map_err(|error| failed(&target, error))?;
        installed.push(target);
    }
    screen.show(&json!({ "installed": installed, "not_granted": missing }), || {
        let installed = installed.iter().map(|file| format!("installed {}\n", file.display()));
        installed.chain(missing.iter().map(|issue| format!("{issue}\n"))).collect()
    })
}

fn files(path: &Path) -> Outcome<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read the folder {}: {error}", path.display()));
    let entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let wasm = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm") && file.is_file();
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(wasm).collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::not_found(format!("{} has no *.wasm", path.display())).fix("build it: aqueduct plugin build"));
    }
    Ok(files)
}
