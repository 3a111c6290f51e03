//! `validate PATH…`: every issue of every file, with its place; needs no running worker.

use crate::failure::{Failure, Outcome};
use crate::output::{Format, Screen, print};
use crate::wiring;
use aqueduct_config::render::{Style, render};
use aqueduct_config::{UnknownKeys, flatten, read_connectors};
use aqueduct_core::Issue;
use aqueduct_core::issue::Location;
use aqueduct_worker::spec::{Defaults, check_flat};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Check configs of connectors and of the worker, without running anything.
///
/// Finds unknown connectors, unknown and misspelt keys, missing and wrong values, and says how to mend them. Exits with 1 when there are errors.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files, or folders with *.yaml, *.yml, *.json and *.properties in them, at any depth.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The worker's settings, whose defaults and allowed references count; config/worker.yaml if there is one.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
}

/// Folders below a folder: deep enough for any layout, and an end for links in circles.
const DEPTH_MAX: usize = 16;

pub(crate) fn run(args: &Args, screen: &Screen) -> Outcome {
    let config = args.config.as_deref().unwrap_or(Path::new(wiring::CONFIG));
    let worker = wiring::read_config(config, &[])?;
    let defaults = wiring::defaults(&worker);
    let mut files = Vec::new();
    for path in &args.paths {
        collect(path, 0, &mut files)?;
    }
    let mut issues = wiring::load_plugins(&worker);
    let mut connectors = Vec::new();
    for file in &files {
        match read(file) {
            Ok(text) => issues.extend(check(&file.display().to_string(), &text, &defaults, &mut connectors)),
            Err(error) => issues.push(
                Issue::error("", "config.read", format!("cannot be read: {error}"))
                    .fix("check its permissions, and that it is a text in UTF-8")
                    .at(whole(file)),
            ),
        }
    }
    issues.extend(twice(&connectors));
    let errors = issues.iter().filter(|issue| issue.is_error()).count();
    let answer = json!({ "files": files, "connectors": connectors.len(), "errors": errors, "issues": issues });
    if screen.format == Format::Table {
        let style = if screen.colour { Style::Coloured } else { Style::Plain };
        if !issues.is_empty() {
            print(&render(&issues, &source, style))?;
        }
        let found = match (errors, issues.len() - errors) {
            (0, 0) => "no issues".to_owned(),
            (errors, warnings) => format!("{errors} error(s), {warnings} warning(s)"),
        };
        print(&format!("{} file(s), {} connector(s): {found}", files.len(), connectors.len()))?;
    } else {
        screen.show(&answer, String::new)?;
    }
    let bad = errors > 0 || (args.strict && !issues.is_empty());
    if bad { Err(Failure::said()) } else { Ok(()) }
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Outcome {
    if !path.is_dir() {
        if !path.exists() {
            return Err(Failure::not_found(format!("there is no file {}", path.display())));
        }
        files.push(path.to_path_buf());
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read the folder {}: {error}", path.display()));
    let mut entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let config = [".yaml", ".yml", ".json", ".properties"].iter().any(|ending| name.ends_with(ending));
        if !name.starts_with('.') && (config || (path.is_dir() && depth < DEPTH_MAX)) {
            collect(&path, depth + 1, files)?;
        }
    }
    Ok(())
}

/// At most what the reader takes and one byte more, which it then refuses.
fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(aqueduct_config::document::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| std::io::Error::other("it is not UTF-8"))
}

fn whole(file: &Path) -> Location {
    Location { file: file.display().to_string(), line: 1, column: 1 }
}

/// All issues of one text.
pub(crate) fn check_text(file: &str, text: &str) -> Vec<Issue> {
    check(file, text, &Defaults::default(), &mut Vec::new())
}

/// All issues of a file; adds its connectors.
fn check(file: &str, text: &str, defaults: &Defaults, connectors: &mut Vec<(String, Location)>) -> Vec<Issue> {
    let (documents, _) = aqueduct_config::read(file, text);
    if documents.first().is_some_and(|document| wiring::is_worker_config(&flatten(document).0)) {
        return wiring::worker_config_issues(file, text);
    }
    let (documents, mut issues) = read_connectors(file, text);
    let registry = wiring::registry();
    for document in &documents {
        let found = check_flat(&document.flat, &registry, defaults, UnknownKeys::Error).issues;
        let known = |issue: &Issue| {
            issues
                .iter()
                .any(|known| (&known.path, &known.code) == (&issue.path, &issue.code) && known.location == issue.location)
        };
        let found: Vec<Issue> = found.into_iter().filter(|issue| !known(issue)).collect();
        issues.extend(found);
        if let (false, Some(location)) = (document.name.is_empty(), document.flat.location("name")) {
            connectors.push((document.name.clone(), location));
        }
    }
    issues.sort_by_key(|issue| issue.location.as_ref().map(|at| (at.line, at.column)));
    issues
}

/// Two files with one name overwrite each other in `connectors.dir`.
fn twice(connectors: &[(String, Location)]) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (index, (name, location)) in connectors.iter().enumerate() {
        // Within one file the reader says so.
        if let Some((_, first)) = connectors[..index].iter().find(|(other, at)| other == name && at.file != location.file) {
            let message = format!("connector {name} is also in {}:{}", first.file, first.line);
            issues.push(
                Issue::error("name", "config.duplicate_name", message).fix("give one of them another name").at(location.clone()),
            );
        }
    }
    issues
}

fn source(file: &str) -> Option<String> {
    read(Path::new(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_issue_has_its_place() {
        let issues = check_text("a.yaml", "name: a\nconnector.class: file-sorce\ntopc: x\n");
        let issue = issues.iter().find(|issue| issue.path == "connector.class").unwrap();
        assert_eq!(issue.location.as_ref().map(|location| location.line), Some(2), "{issues:?}");
        assert!(issue.to_string().contains("file-source"), "{issue}");
        let issues = check_text("worker.yaml", "listeners: http://127.0.0.1:1\ndata.dri: x\n");
        assert_eq!(issues.iter().map(|issue| issue.path.as_str()).collect::<Vec<_>>(), ["data.dri"]);
    }

    #[test]
    fn folders_are_walked_and_names_may_not_be_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        for name in ["deep/a.yaml", "b.json", ".hidden.yaml", "notes.txt"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let mut files = Vec::new();
        collect(dir.path(), 0, &mut files).unwrap();
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(collect(&dir.path().join("nope"), 0, &mut files).unwrap_err().is_not_found());
        let at = |name| whole(Path::new(name));
        assert_eq!(twice(&[("x".into(), at("a")), ("y".into(), at("b")), ("x".into(), at("c"))]).len(), 1);
    }
}
