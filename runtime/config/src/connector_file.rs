//! A file to its connectors: one for each YAML document, or one in JSON or properties.

use crate::document;
use crate::flatten::{Flat, flatten};
use crate::providers::references;
use crate::settings::bad_name;
use aqueduct_core::Issue;
use std::collections::HashMap;

/// One connector as a file has it.
#[derive(Clone, Debug)]
pub struct ConnectorDocument {
    pub name: String,
    /// Unresolved; with the place of every key.
    pub flat: Flat,
    /// Of this document.
    pub warnings: Vec<Issue>,
}

/// All connectors of a file, or none: a file that is half read could remove a connector that runs.
///
/// # Errors
/// Every issue of the file.
pub fn connector_documents(file: &str, text: &str) -> Result<Vec<ConnectorDocument>, Vec<Issue>> {
    let (documents, issues) = read_connectors(file, text);
    if issues.iter().any(Issue::is_error) { Err(issues) } else { Ok(documents) }
}

/// The connectors that could be read, and every issue, the documents' warnings among them.
pub fn read_connectors(file: &str, text: &str) -> (Vec<ConnectorDocument>, Vec<Issue>) {
    let (documents, mut issues) = document::read(file, text);
    let mut connectors = Vec::<ConnectorDocument>::new();
    let mut lines = HashMap::<String, usize>::new();
    for document in &documents {
        let (flat, mut found) = flatten(document);
        // What is no map is no connector: one issue is enough.
        if found.iter().any(|issue| issue.code == "config.shape") {
            issues.extend(found);
            continue;
        }
        let name = flat.get("name").unwrap_or_default().to_owned();
        found.extend(name_issue(file, &flat));
        if let Some(line) = lines.insert(name.clone(), flat.place.line).filter(|_| !name.is_empty()) {
            let message = format!("{name:?} is also the name of the connector that begins on line {line}");
            found.push(Issue::error("name", "config.duplicate_name", message).fix("give each its own name"));
        }
        flat.locate(&mut found);
        issues.extend(found.iter().cloned());
        let warnings = found.into_iter().filter(|issue| !issue.is_error()).collect();
        connectors.push(ConnectorDocument { name, flat, warnings });
    }
    issues.sort_by_key(|issue| issue.location.as_ref().map(|at| (at.line, at.column)));
    (connectors, issues)
}

fn name_issue(file: &str, flat: &Flat) -> Option<Issue> {
    let Some(name) = flat.get("name") else {
        let stem = file.rsplit('/').next().unwrap_or(file).split('.').next().unwrap_or_default();
        let stem = if stem.is_empty() { "my-connector" } else { stem };
        let fix = match crate::nearest(
            "name",
            flat.entries.keys().map(String::as_str).filter(|key| !key.contains('.') && key.len() <= 6),
        ) {
            Some(near) => format!("did you mean name where you wrote {near}?"),
            None => format!("add `name: {stem}`"),
        };
        return Some(Issue::error("name", "config.missing", "is required and has no default").fix(fix));
    };
    if !references(name).is_empty() {
        let issue = Issue::error("name", "config.name", "a connector's name cannot come from a reference");
        return Some(issue.fix("write the name itself: REST, topics and metrics show it"));
    }
    bad_name(name).map(|why| Issue::error("name", "config.name", why).fix("use letters, digits, - and _"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connector_for_each_document() {
        let text = "name: a\nconnector.class: x\n---\nname: b\nbad:\nconnector: {class: y}\n";
        let documents = connector_documents("t.yaml", text).unwrap();
        let found: Vec<_> =
            documents.iter().map(|d| (d.name.as_str(), d.flat.get("connector.class"), d.warnings.len())).collect();
        assert_eq!(found, [("a", Some("x"), 0), ("b", Some("y"), 1)]);
        assert_eq!(documents[1].flat.location("connector.class").unwrap().to_string(), "t.yaml:6:13");
        assert!(connector_documents("t.yaml", "# later\n").unwrap().is_empty());
        let posted =
            connector_documents("t.json", r#"{"name": "p", "config": {"connector.class": "x", "tasks.max": 1}}"#).unwrap();
        assert_eq!((posted[0].name.as_str(), posted[0].flat.get("tasks.max")), ("p", Some("1")));
    }

    #[test]
    fn names_are_needed_and_differ() {
        for (text, expected) in [
            ("connector.class: x\n", "d/t.yaml:1:1: name: is required and has no default; add `name: t` [config.missing]"),
            (
                "nam: y\n",
                "d/t.yaml:1:1: name: is required and has no default; did you mean name where you wrote nam? [config.missing]",
            ),
            (
                "name: a\n---\nname: a\n",
                "d/t.yaml:3:1: name: \"a\" is also the name of the connector that begins on line 1; give each its own name [config.duplicate_name]",
            ),
            (
                "name: ${env:X}\n",
                "d/t.yaml:1:1: name: a connector's name cannot come from a reference; write the name itself: REST, topics and metrics show it [config.name]",
            ),
            (
                "- a\n",
                "d/t.yaml:1:1: a connector's config is a map of keys and values; begin with `name: …` and `connector.class: …` [config.shape]",
            ),
        ] {
            let issues: Vec<String> =
                connector_documents("d/t.yaml", text).unwrap_err().iter().map(ToString::to_string).collect();
            assert_eq!(issues, [expected]);
        }
    }
}
