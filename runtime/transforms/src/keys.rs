//! Keys that nothing reads: misspelt options of converters, transforms and predicates.

use crate::chain::{PredicateStepConfig, StepConfig, below, names};
use crate::parts::{PartKind, find};
use aqueduct_config::{nearest, specs};
use aqueduct_core::{Issue, OptionSpec, Options};

/// The keys below `key.converter.`, `value.converter.`, `header.converter.`, `transforms.` and `predicates.` that no part knows, each with the
/// nearest one. Kafka Connect ignores such keys; `aqueduct validate` must not.
pub fn unknown_keys(options: &Options) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (key, kind) in [
        ("key.converter", PartKind::Converter),
        ("value.converter", PartKind::Converter),
        ("header.converter", PartKind::HeaderConverter),
    ] {
        let own = below(options, key);
        match options.get(key) {
            None if own.is_empty() => {}
            None => issues.extend(own.keys().map(|name| {
                let issue = Issue::error(
                    format!("{key}.{name}"),
                    "config.unknown_key",
                    format!("is an option of `{key}`, which is not here"),
                );
                issue.fix(format!(
                    "add `{key}: …`: a connector that names no converter takes the worker's, with the worker's options"
                ))
            })),
            Some(class) => check(key, kind, class, &own, &[], &mut issues),
        }
    }
    for (list, kind, common) in [
        ("transforms", PartKind::Transformation, specs::<StepConfig>()),
        ("predicates", PartKind::Predicate, specs::<PredicateStepConfig>()),
    ] {
        let names = names(options, list, &mut Vec::new());
        let own = below(options, list);
        for key in
            own.keys().filter(|key| !names.iter().any(|name| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))))
        {
            let given = key.split('.').next().unwrap_or(key);
            let issue = Issue::error(format!("{list}.{key}"), "config.unknown_key", format!("{given} is not in `{list}`"));
            issues.push(match nearest(given, names.iter().copied()) {
                Some(near) => issue.fix(format!("did you mean {near}?")),
                None => issue.fix(format!("add {given} to `{list}`, or remove this line")),
            });
        }
        for name in names {
            let path = format!("{list}.{name}");
            let own = below(options, &path);
            if let Some(class) = own.get("type") {
                check(&path, kind, class, &own, &common, &mut issues);
            }
        }
    }
    issues
}

fn check(path: &str, kind: PartKind, class: &str, own: &Options, common: &[OptionSpec], issues: &mut Vec<Issue>) {
    // A class that is not there is reported where it is built.
    let Ok(part) = find(kind, class.trim(), path) else { return };
    let known = || common.iter().chain(&part.options).map(|option| option.name.as_str()).chain(["plugin.version"]);
    for key in own.keys().filter(|key| !known().any(|name| name == *key)) {
        let issue =
            Issue::error(format!("{path}.{key}"), "config.unknown_key", format!("{} has no option {key}", part.simple_name()));
        issues.push(match nearest(key, known()) {
            Some(near) => issue.fix(format!("did you mean {path}.{near}?")),
            None => issue.fix("remove it"),
        });
    }
}
