//! `aqueduct validate` on configs that are wrong, each with what it must say: goldens/validate.txt.
//!
//! `UPDATE=1 cargo test -p aqueduct-tests --test validate` writes the answers into the file; read them before you commit them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::Site;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;

const ALLOWING: &str =
    "config.providers.env.param.allowlist.pattern: 'AQT_.*'\nconfig.providers.file.param.allowed.paths: /tmp\n";

#[derive(Debug)]
struct Case {
    /// A file name: its extension says the format.
    name: String,
    config: String,
    expected: String,
}

fn table() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens/validate.txt")
}

/// `=== name`, the config, `---`, the answer.
fn parse(text: &str) -> (String, Vec<Case>) {
    let mut parts = text.split("\n=== ");
    let head = parts.next().unwrap_or_default().to_owned();
    let case = |part: &str| {
        let (name, rest) = part.split_once('\n').unwrap();
        let (config, expected) = rest.split_once("---8<---\n").unwrap_or_else(|| panic!("{name} has no ---8<---"));
        Case { name: name.trim().to_owned(), config: config.to_owned(), expected: expected.trim_end().to_owned() }
    };
    (head, parts.map(case).collect())
}

/// `line:column path [code] message` and the fix, a line each. Places outside of the file stand as `?`.
fn shown(issue: &Value) -> String {
    let text = |key: &str| issue[key].as_str().unwrap_or_default().to_owned();
    let at = &issue["location"];
    let place = if at.is_object() { format!("{}:{}", at["line"], at["column"]) } else { "?".to_owned() };
    let severity = if issue["severity"] == "warning" { "warning " } else { "" };
    let mut out = format!("{place} {severity}{} [{}] {}", text("path"), text("code"), text("message"));
    if issue["fix"].is_string() {
        write!(out, "\n    fix: {}", text("fix")).unwrap();
    }
    out
}

/// With a worker.yaml that allows some references, as a worker's own would.
fn validate(site: &Site, case: &Case) -> (i32, String, Vec<Value>) {
    std::fs::write(site.path(&case.name), &case.config).unwrap();
    std::fs::write(site.path("allowing.yaml"), ALLOWING).unwrap();
    let output = site.cli(&["validate", "--config", "allowing.yaml", "--output", "json", &case.name]);
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{}: {error}: {}", case.name, String::from_utf8_lossy(&output.stderr)));
    let issues = answer["issues"].as_array().unwrap().clone();
    let text = issues.iter().map(shown).collect::<Vec<_>>().join("\n").replace(&site.root.display().to_string(), "<dir>");
    (output.status.code().unwrap_or(-1), text, issues)
}

#[test]
fn every_broken_config_is_told_what_is_wrong_where_and_how_to_mend_it() {
    let site = Site::new();
    let (head, mut cases) = parse(&std::fs::read_to_string(table()).unwrap());
    let mut wrong = String::new();
    for case in &mut cases {
        let (code, text, issues) = validate(&site, case);
        let errors = issues.iter().filter(|issue| issue["severity"] == "error");
        if code != 1 || errors.clone().count() == 0 {
            writeln!(wrong, "{}: exit code {code}, {text}", case.name).unwrap();
        }
        for issue in errors {
            let place = issue["location"]["line"].as_u64().unwrap_or(0) > 0;
            if !place
                || issue["code"].as_str().is_none_or(|code| !code.contains('.'))
                || issue["fix"].as_str().is_none_or(str::is_empty)
            {
                writeln!(wrong, "{}: an error without a place, a code or a fix: {issue}", case.name).unwrap();
            }
        }
        if text != case.expected {
            writeln!(wrong, "{}: expected\n{}\nfound\n{text}\n", case.name, case.expected).unwrap();
        }
        case.expected = text;
    }
    if std::env::var_os("UPDATE").is_some() {
        let mut out = head;
        for Case { name, config, expected } in &cases {
            write!(out, "\n=== {name}\n{config}---8<---\n{expected}\n").unwrap();
        }
        std::fs::write(table(), out).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases.len() >= 60, "{} cases", cases.len());
}

#[test]
fn sound_configs_have_no_issues() {
    let site = Site::new();
    for (name, text) in [
        ("nested.yaml", "name: a\nconnector.class: file-source\nfile: [/var/log/*.log, /srv/*.log]\ntopic: t\n".to_owned()),
        (
            "flat.properties",
            "name=a\nconnector.class=org.apache.kafka.connect.file.FileStreamSinkConnector\nfile=/tmp/x\ntopics=a,b\n".to_owned(),
        ),
        ("posted.json", r#"{"name": "a", "config": {"connector.class": "FileStreamSource", "file": "/tmp/x", "topic": "t"}}"#.to_owned()),
        (
            "chain.yaml",
            "name: a\nconnector.class: file-sink\nfile: /tmp/x\ntopics: [a, b]\ntransforms:\n  route: {type: RegexRouter, regex: \"a.*\", replacement: b}\n".to_owned(),
        ),
    ] {
        let case = Case { name: name.to_owned(), config: text, expected: String::new() };
        let (code, text, _) = validate(&site, &case);
        assert_eq!((code, text.as_str()), (0, ""), "{name}");
    }
}
