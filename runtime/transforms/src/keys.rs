//! Keys that nothing reads: misspelt options of converters, transforms and predicates.

use crate::chain::{PredicateStepConfig, StepConfig, below, names};
use crate::parts::{PartKind, find, find_version};
use aqueduct_config::{nearest, specs};
use aqueduct_core::{Issue, OptionSpec, Options};

const CONVERTERS: [(&str, PartKind); 3] = [
    ("key.converter", PartKind::Converter),
    ("value.converter", PartKind::Converter),
    ("header.converter", PartKind::HeaderConverter),
];

/// The lists of names: what each name has beside the options of its class, and its heading.
fn lists() -> [(&'static str, PartKind, Vec<OptionSpec>, &'static str); 2] {
    [
        ("transforms", PartKind::Transformation, specs::<StepConfig>(), "Transforms"),
        ("predicates", PartKind::Predicate, specs::<PredicateStepConfig>(), "Predicates"),
    ]
}

/// The options of the converters, transforms and predicates that a config names, under their whole keys: `transforms.h.field`. A transform whose
/// class is not known has those that every transform has.
pub fn part_options(options: &Options) -> Vec<OptionSpec> {
    let find = |kind, class: Option<&String>| class.and_then(|class| find(kind, class.trim(), "").ok());
    let mut all = Vec::new();
    for (key, kind) in CONVERTERS {
        let own = find(kind, options.get(key)).into_iter().flat_map(|part| part.options.clone());
        all.extend(own.map(|spec| OptionSpec { name: format!("{key}.{}", spec.name), ..spec }));
    }
    for (list, kind, common, heading) in lists() {
        for name in names(options, list, &mut Vec::new()) {
            let value = |key: &str| options.get(&format!("{list}.{name}.{key}")).map(|text| text.trim());
            let part = value("type").and_then(|class| find_version(kind, class, value("plugin.version"), "").ok());
            let own = part.into_iter().flat_map(|part| part.options.clone());
            let whole = |spec: OptionSpec| OptionSpec {
                name: format!("{list}.{name}.{}", spec.name),
                group: format!("{heading}: {name}"),
                ..spec
            };
            all.extend(common.iter().cloned().chain(own).map(whole));
        }
    }
    all
}

/// The keys below `key.converter.`, `value.converter.`, `header.converter.`, `transforms.` and `predicates.` that no part knows, each with the
/// nearest one. Kafka Connect ignores such keys; `aqueduct validate` must not.
pub fn unknown_keys(options: &Options) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (key, kind) in CONVERTERS {
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
    for (list, kind, common, _) in lists() {
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
    let version = own.get("plugin.version").map(String::as_str);
    let Ok(part) = find_version(kind, class.trim(), version, path) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_config_names_has_all_its_options() {
        let config = [
            ("value.converter", "json"),
            ("transforms", "h, x"),
            ("transforms.h.type", "HoistField$Value"),
            ("transforms.x.type", "org.example.No"),
            ("transforms.other.type", "Filter"),
            ("predicates", "p"),
            ("predicates.p.type", "TopicNameMatches"),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let options = part_options(&config);
        let of =
            |beginning: &str| -> Vec<&str> { options.iter().filter_map(|option| option.name.strip_prefix(beginning)).collect() };
        assert_eq!(of("transforms.h."), ["type", "predicate", "negate", "field"]);
        assert_eq!(of("transforms.x."), ["type", "predicate", "negate"]);
        assert_eq!(of("predicates.p."), ["type", "pattern"]);
        assert!(of("value.converter.").contains(&"schemas.enable") && of("transforms.other.").is_empty());
        let field = options.iter().find(|option| option.name == "transforms.h.field").unwrap();
        assert_eq!((field.required, &*field.group), (true, "Transforms: h"));
    }
}
