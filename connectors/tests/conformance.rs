//! Every built-in passes the conformance kit. A new one without a case here fails.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_connectors::builtins;
use aqueduct_connectors::conformance::{self, SinkCase, SourceCase};
use aqueduct_core::{Options, Payload, Plugin, Record};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn options(text: &str, world: &Path) -> Options {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    pairs.map(|(key, value)| (key.to_owned(), value.replace("WORLD", &world.display().to_string()))).collect()
}

/// Configs by plugin: what the kit opens.
fn sources(plugin: &str) -> Vec<(&'static str, usize)> {
    match plugin {
        "datagen-source" => vec![
            ("template: orders\ntopic: t\nrate: 0\ncount: 60", 60),
            ("template: sensors\ntopic: t\nrate: 0\ncount: 60\nseed: 9", 60),
            ("template: access_log\ntopic: t\nrate: 0\ncount: 60\nstart.time: 2026-02-03T04:05:06Z", 60),
            ("template: salary_updates\ntopic: t\nmax.interval: 1\ncount: 60", 60),
        ],
        "file-source" => vec![("file: WORLD/in/a.log\ntopic: t", 40), ("file: WORLD/in/*.log\ntopic: t\nbatch.size: 5", 120)],
        "FileStreamSource" => vec![("file: WORLD/in/a.log\ntopic: t\nbatch.size: 5", 40)],
        // With an API: tests/http.rs.
        "http-source" => vec![],
        // With a broker: tests/kafka.rs.
        "kafka-source" => vec![],
        // With a broker: tests/mqtt.rs, connectors/mqtt/tests/source.rs.
        "mqtt-source" => vec![],
        // With a server: tests/postgres.rs.
        "postgres-source" => vec![],
        // With a database: tests/sql.rs.
        "sql-source" => vec![],
        // With a client: tests/webhook.rs.
        "webhook-source" => vec![],
        other => panic!("no conformance case for the source {other}"),
    }
}

type Read = fn(&Path) -> Vec<String>;

fn sinks(plugin: &str) -> Vec<(&'static str, Option<Read>)> {
    match plugin {
        "file-sink" | "FileStreamSink" => vec![
            ("file: WORLD/out.log", Some(|world| lines(&[world.join("out.log")]))),
            (
                "directory: WORLD/out\nroll.records: 10",
                Some(|world| {
                    let mut files = walk(&world.join("out"));
                    files.retain(|file| file.extension().is_some_and(|end| end != "tmp"));
                    files.sort();
                    lines(&files)
                }),
            ),
        ],
        "blackhole-sink" => vec![("log.interval.ms: 0", None)],
        // With an API: tests/http_sink.rs.
        "http-sink" => vec![],
        // With a broker: tests/kafka.rs.
        "kafka-sink" => vec![],
        // With a broker: tests/mqtt.rs.
        "mqtt-sink" => vec![],
        // With a server: tests/postgres_sink.rs.
        "postgres-sink" => vec![],
        other => panic!("no conformance case for the sink {other}"),
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn lines(files: &[PathBuf]) -> Vec<String> {
    files.iter().flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Three files of 40 lines that say where they are from.
fn world() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    for file in ["a", "b", "c"] {
        let text: String = (0..40).map(|n| format!("{file} line {n}\n")).collect();
        fs::write(folder.path().join(format!("in/{file}.log")), text).unwrap();
    }
    folder
}

/// Datagen has one stream; a file's lines name the file.
fn stream(record: &Record) -> String {
    match &record.value {
        Payload::Bytes(line) if line.get(1..6) == Some(b" line") => String::from_utf8_lossy(&line[..1]).into_owned(),
        _ => String::new(),
    }
}

#[test]
fn every_option_is_documented() {
    for plugin in builtins() {
        conformance::descriptor(&plugin);
    }
}

#[tokio::test]
async fn plans_touch_nothing() {
    for plugin in builtins() {
        let name = plugin.descriptor().name.clone();
        let configs: Vec<&str> = match &plugin {
            // Nobody listens there.
            _ if name.starts_with("kafka-") => vec!["bootstrap.servers: 127.0.0.1:1\ntopics: t"],
            _ if name == "sql-source" => vec!["connection.url: jdbc:sqlite:WORLD/a.db\nmode: incrementing\ntopic.prefix: t."],
            Plugin::Source(_) => sources(&name).into_iter().map(|(config, _)| config).collect(),
            Plugin::Sink(_) => sinks(&name).into_iter().map(|(config, _)| config).collect(),
        };
        for config in configs {
            let world = world();
            conformance::plans_without_touching(&plugin, &options(config, world.path()), world.path()).await;
        }
    }
}

#[tokio::test]
async fn sources_resume_exactly() {
    for plugin in builtins().into_iter().filter(|plugin| matches!(plugin, Plugin::Source(_))) {
        for (config, records) in sources(&plugin.descriptor().name) {
            let world = world();
            conformance::source(&SourceCase {
                plugin: plugin.clone(),
                options: options(config, world.path()),
                records,
                stream,
                strip: conformance::all_of_it,
            })
            .await;
        }
    }
}

#[tokio::test]
async fn sinks_lose_nothing() {
    for plugin in builtins().into_iter().filter(|plugin| matches!(plugin, Plugin::Sink(_))) {
        for (config, read) in sinks(&plugin.descriptor().name) {
            let world = world();
            let path = world.path().to_owned();
            // A blackhole has nothing to read: all of it is taken as told.
            let told = || (0..2).flat_map(|partition| (0..200).map(move |offset| format!("{partition}-{offset:06}"))).collect();
            let read = Box::new(move || read.map_or_else(told, |read| read(&path)));
            conformance::sink(&SinkCase {
                plugin: plugin.clone(),
                options: options(config, world.path()),
                read,
                exactly_once: true,
            })
            .await;
        }
    }
}

/// What a README shows as a config is one.
#[test]
fn configs_in_readmes_validate() {
    let mut seen = 0;
    for folder in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let readme = folder.unwrap().path().join("README.md");
        let Ok(text) = fs::read_to_string(&readme) else { continue };
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let (documents, issues) = aqueduct_config::read("README.yaml", block);
            assert!(issues.is_empty(), "{}: {issues:?}", readme.display());
            for document in documents {
                let (flat, issues) = aqueduct_config::flatten(&document);
                assert!(issues.is_empty(), "{}: {issues:?}", readme.display());
                let Some(class) = flat.get("connector.class") else { continue };
                let plugin = builtins().into_iter().find(|plugin| plugin.descriptor().is_called(class));
                let plugin = plugin.unwrap_or_else(|| panic!("{}: no connector is called {class}", readme.display()));
                let options = flat.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                let issues = plugin.validate(&options);
                assert!(!issues.iter().any(|issue| issue.is_error()), "{}: {issues:?}", readme.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 3, "{seen} configs");
}
