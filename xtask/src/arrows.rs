//! Who may depend on whom (DESIGN.md §1), read from `cargo metadata`.

use crate::sh::Sh;
use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};

const CORE: &str = "aqueduct-core";
const CONFIG: &str = "aqueduct-config";
const PLUGIN_FRAME: &str = "aqueduct-plugin-frame";
const PLUGIN_HOST: &str = "aqueduct-plugin-host";
/// Real services for tests: below everything, so that any crate's tests may name them (as a dev-dependency).
const SERVICES: [&str; 6] = ["kafka-services", "postgres-services", "http-services", "mqtt-services", "plugin-services", WAIT];
/// What all of them wait with.
const WAIT: &str = "wait-services";

/// The workspace crates that each may name. A connector crate may name core and config; the binary every one but tests and xtask.
const ARROWS: &[(&str, &[&str])] = &[
    (CORE, &[]),
    (CONFIG, &[CORE]),
    ("aqueduct-log", &[CORE]),
    // Config: the options of Kafka's clients, and what a misspelt one may have meant.
    ("aqueduct-log-kafka", &[CORE, CONFIG, "aqueduct-log"]),
    ("aqueduct-transforms", &[CORE, CONFIG]),
    ("aqueduct-worker", &[CORE, CONFIG, "aqueduct-log", "aqueduct-transforms"]),
    // The log: docs/adr/0002-rest-reads-the-log.md
    ("aqueduct-rest", &["aqueduct-worker", CORE, CONFIG, "aqueduct-log"]),
    (PLUGIN_FRAME, &[]),
    (PLUGIN_HOST, &[CORE, CONFIG, PLUGIN_FRAME]),
    ("aqueduct-sdk", &[PLUGIN_FRAME]),
    ("aqueduct-tests", &SERVICES),
    (SERVICES[0], &[WAIT]),
    (SERVICES[1], &[WAIT]),
    (SERVICES[2], &[WAIT]),
    (SERVICES[3], &[WAIT]),
    (SERVICES[4], &[WAIT]),
    (WAIT, &[]),
    ("xtask", &[]),
];

/// Crates that only some may name: axum is REST's and the binary's (it serves the router), the runtime does not know a Kafka client or wasmtime, core does no I/O.
const FOREIGN: &[(&str, &[&str])] = &[
    ("axum", &["aqueduct-rest", "aqueduct", "aqueduct-tests"]),
    ("wasmtime", &["aqueduct-plugin-host"]),
    ("rdkafka", &["aqueduct-log-kafka", "aqueduct-connector-kafka"]),
    ("krafka", &["aqueduct-log-kafka", "aqueduct-connector-kafka"]),
    ("clap", &["aqueduct", "aqueduct-tests", "xtask"]),
];

/// Nothing that spawns, sleeps, reads files or opens sockets.
const NOT_IN_CORE: &[&str] = &["notify", "reqwest", "rustix", "hyper", "parking_lot", "jiff"];

/// All that core may name of tokio: a semaphore and a task's local, which need no runtime.
const TOKIO_IN_CORE: &[&str] = &["tokio::sync::", "tokio::task_local!"];

/// # Errors
/// With every arrow that is not allowed.
pub(crate) fn check(sh: &Sh) -> Result<()> {
    let metadata = MetadataCommand::new().manifest_path(sh.root.join("Cargo.toml")).no_deps().exec()?;
    let mut wrong = violations(&edges(&metadata));
    wrong.extend(tokio_in_core(sh)?);
    if !wrong.is_empty() {
        bail!("dependencies that DESIGN.md §1 does not allow:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// Normal and build dependencies; of a black-box crate also those of its tests.
fn edges(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata.workspace_packages() {
        let black_box = package.name == "aqueduct-tests" || SERVICES.contains(&package.name.as_str());
        let named = package.dependencies.iter().filter(|d| black_box || d.kind != DependencyKind::Development);
        edges.entry(package.name.to_string()).or_default().extend(named.map(|d| d.name.clone()));
    }
    edges
}

fn violations(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, targets) in edges {
        for to in targets {
            let inside = edges.contains_key(to) && !may_name(from, to);
            let foreign = FOREIGN.iter().any(|(name, users)| name == to && !users.contains(&from.as_str()));
            let core = from == CORE && NOT_IN_CORE.contains(&to.as_str());
            if inside || foreign || core {
                wrong.push(format!("{from} → {to}"));
            }
        }
        if !ARROWS.iter().any(|(name, _)| name == from)
            && !is_connector(from)
            && !["aqueduct", "aqueduct-connectors"].contains(&from.as_str())
        {
            wrong.push(format!("{from}: a crate that xtask/src/arrows.rs does not know"));
        }
    }
    wrong
}

/// Uses of tokio in core's sources beyond [`TOKIO_IN_CORE`].
fn tokio_in_core(sh: &Sh) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(sh.root.join("runtime/core/src"))? {
        let path = entry?.path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        wrong.extend(foreign_tokio(&text).map(|line| format!("{CORE} → {line} ({})", path.display())));
    }
    Ok(wrong)
}

fn foreign_tokio(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| {
        let mut uses = line.match_indices("tokio::").map(|(at, _)| &line[at..]);
        uses.any(|named| !TOKIO_IN_CORE.iter().any(|allowed| named.starts_with(allowed)))
    })
}

fn is_connector(name: &str) -> bool {
    name.starts_with("aqueduct-connector-")
}

fn may_name(from: &str, to: &str) -> bool {
    if let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == from) {
        return allowed.contains(&to);
    }
    match from {
        "aqueduct" => !["aqueduct-tests", "xtask"].contains(&to) && !SERVICES.contains(&to) && !is_connector(to),
        "aqueduct-connectors" => to == CORE || to == CONFIG || is_connector(to),
        _ => to == CORE || to == CONFIG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_arrows() {
        check(&Sh::new().unwrap()).unwrap();
    }

    #[test]
    fn core_names_only_what_of_tokio_needs_no_runtime() {
        let text = "use tokio::sync::Semaphore;\ntokio::task_local! {\nlet x = tokio::time::sleep(y);\nuse tokio::{fs, sync};";
        assert_eq!(foreign_tokio(text).collect::<Vec<_>>(), ["let x = tokio::time::sleep(y);", "use tokio::{fs, sync};"]);
    }

    fn found(from: &str, to: &str) -> Vec<String> {
        let names = ["aqueduct", "aqueduct-connectors", "aqueduct-connector-file", "aqueduct-connector-http"];
        let known = ARROWS.iter().map(|(name, _)| *name).chain(names);
        let mut edges: BTreeMap<String, BTreeSet<String>> = known.map(|name| (name.to_owned(), BTreeSet::new())).collect();
        edges.entry(from.to_owned()).or_default().insert(to.to_owned());
        violations(&edges)
    }

    #[test]
    fn a_wrong_arrow_is_named() {
        for (from, to) in [
            ("aqueduct-connector-file", "aqueduct-log"),
            ("aqueduct-connector-file", "aqueduct-connector-http"),
            ("aqueduct-worker", "aqueduct-connectors"),
            ("aqueduct-worker", "axum"),
            ("aqueduct-log", "aqueduct-config"),
            ("aqueduct-core", "notify"),
            ("aqueduct-tests", "aqueduct-core"),
            ("kafka-services", "aqueduct-core"),
            ("aqueduct-worker", "kafka-services"),
        ] {
            assert_eq!(found(from, to), [format!("{from} → {to}")]);
        }
        assert_eq!(found("aqueduct-new", "serde").len(), 1, "a crate that nobody drew");
    }

    #[test]
    fn the_drawn_arrows_are_allowed() {
        for (from, to) in [
            ("aqueduct-connector-file", "aqueduct-config"),
            ("aqueduct-connectors", "aqueduct-connector-file"),
            ("aqueduct-rest", "aqueduct-log"),
            ("aqueduct-rest", "axum"),
            ("aqueduct", "aqueduct-worker"),
            ("aqueduct-tests", "kafka-services"),
        ] {
            assert_eq!(found(from, to), [""; 0]);
        }
    }
}
