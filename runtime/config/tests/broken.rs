//! A table of broken configs and what is said about each: `tests/broken/*.txt`. `UPDATE_GOLDEN=1 cargo test -p aqueduct-config` writes it anew.
//!
//! A case is `=== what is wrong`, the file, `---`, and the messages. A title that begins with `[json]`, `[rest]` or `[worker]` says that it is
//! JSON, comes over REST (unknown keys are warnings), or is worker.yaml.

mod fakes;

use aqueduct_config::render::{Style, render};
use aqueduct_config::settings::ConnectorDefaults;
use aqueduct_config::{Check, Providers, UnknownKeys, WorkerConfig, read_connectors};
use aqueduct_core::Issue;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken")
}

struct Case {
    title: String,
    text: String,
    expected: String,
}

fn cases(file: &str) -> Vec<Case> {
    let case = |part: &str| {
        let (title, rest) = part.split_once('\n').expect("a title and a newline");
        let (text, expected) = rest.split_once("\n~~~\n").unwrap_or((rest.trim_end_matches('\n'), ""));
        Case { title: title.to_owned(), text: format!("{text}\n"), expected: expected.trim().to_owned() }
    };
    format!("\n{file}").split("\n=== ").skip(1).map(case).collect()
}

/// The allow-list that the cases are checked against.
fn providers() -> Providers {
    let text =
        "config.providers.env.param.allowlist.pattern: (CARGO|AQ)_.*\nconfig.providers.dir.param.allowed.paths: /nowhere\n";
    WorkerConfig::load(Some(("worker.yaml", text)), &[], []).expect("a good worker.yaml").providers
}

fn issues(case: &Case) -> (String, Vec<Issue>) {
    let kind = case.title.split(']').next().unwrap_or_default().trim_start_matches('[');
    if kind == "worker" {
        let issues = match WorkerConfig::load(Some(("worker.yaml", &case.text)), &[], []) {
            Ok(config) => config.warnings,
            Err(issues) => issues,
        };
        return ("worker.yaml".to_owned(), issues);
    }
    let file = if kind == "json" { "c.json" } else { "c.yaml" };
    let (documents, mut issues) = read_connectors(file, &case.text);
    let (defaults, providers) = (ConnectorDefaults::default(), providers());
    let unknown_keys = if kind == "rest" { UnknownKeys::Warn } else { UnknownKeys::Error };
    let check = Check {
        find: &fakes::find,
        names: fakes::names(),
        parts: &fakes::parts,
        defaults: &defaults,
        providers: &providers,
        unknown_keys,
    };
    for document in documents {
        for issue in check.run(&document.flat).issues {
            if !issues.iter().any(|seen| (&seen.path, &seen.code) == (&issue.path, &issue.code)) {
                issues.push(issue);
            }
        }
    }
    issues.sort_by_key(|issue| issue.location.as_ref().map(|at| (at.line, at.column)));
    (file.to_owned(), issues)
}

fn messages(case: &Case) -> String {
    let line = |issue: &Issue| if issue.is_error() { issue.to_string() } else { format!("warning: {issue}") };
    issues(case).1.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_broken_config_says_what_is_wrong() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "txt"));
    files.sort();
    let (mut count, mut stale) = (0, Vec::new());
    for path in files {
        let mut written = String::new();
        for case in cases(&fs::read_to_string(&path).unwrap()) {
            let found = messages(&case);
            assert!(!found.is_empty(), "{}: nothing is said about it", case.title);
            if found != case.expected {
                stale.push(format!("{}\n--- expected\n{}\n--- found\n{found}\n", case.title, case.expected));
            }
            written.push_str(&format!("=== {}\n{}~~~\n{found}\n\n", case.title, case.text));
            count += 1;
        }
        if update {
            fs::write(&path, written.trim_end().to_owned() + "\n").unwrap();
        }
    }
    assert!(
        update || stale.is_empty(),
        "{} of {count} differ; UPDATE_GOLDEN=1 writes them anew\n\n{}",
        stale.len(),
        stale.join("\n")
    );
    assert!(count >= 60, "{count} cases");
}

/// Every message has a code, a place where it came from a file, and says what to do.
#[test]
fn every_message_is_complete() {
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        for case in cases(&fs::read_to_string(&path).unwrap()) {
            for issue in issues(&case).1 {
                assert!(issue.code.contains('.') && issue.location.is_some(), "{}: {issue:?}", case.title);
                assert!(issue.fix.is_some(), "{}: no fix in {issue:?}", case.title);
                assert!(!issue.to_string().contains("hunter2"), "{}: shows a secret: {issue}", case.title);
            }
        }
    }
}

#[test]
fn they_are_shown_in_their_place() {
    let path = folder().join("rendered.golden");
    let case = Case {
        title: "rendered".into(),
        text: "name: orders\nconnector.class: file-sorce\ntasks.mx: 2\nfile: /var/log/*.log\ntopic:\npoll.interval: 10 parsecs\n"
            .into(),
        expected: String::new(),
    };
    let (_, all) = issues(&case);
    let text = case.text;
    let shown = render(&all, &|_| Some(text.clone()), Style::Plain);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &shown).unwrap();
    }
    assert_eq!(shown, fs::read_to_string(&path).unwrap_or_default(), "UPDATE_GOLDEN=1 writes it anew");
}
