//! `config.providers` and `config.providers.<name>.…`, as Kafka names them.

use crate::list::split_list;
use crate::nearest::nearest;
use crate::providers::{Allowed, Provider, Providers};
use crate::settings::{below, full};
use crate::types::Regex;
use aqueduct_core::{Issue, Options};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Short name, Kafka's class, the one parameter.
const KINDS: [(&str, &str, &str); 3] = [
    ("env", "org.apache.kafka.common.config.provider.EnvVarConfigProvider", "allowlist.pattern"),
    ("file", "org.apache.kafka.common.config.provider.FileConfigProvider", "allowed.paths"),
    ("dir", "org.apache.kafka.common.config.provider.DirectoryConfigProvider", "allowed.paths"),
];

/// The providers and every issue; nothing is allowed that is not listed.
pub(super) fn read(options: &Options) -> (Providers, Vec<Issue>) {
    let (mut providers, mut issues) = (BTreeMap::new(), Vec::new());
    let own = below(options, "config.providers.");
    let listed: Vec<&str> = options.get("config.providers").map(|text| split_list(text)).unwrap_or_default();
    let named: Vec<&str> = own.keys().filter_map(|key| key.split('.').next()).collect();
    let mut names: Vec<&str> = if listed.is_empty() { named.clone() } else { listed.clone() };
    names.dedup();
    for name in names {
        let prefix = format!("config.providers.{name}.");
        let given = below(options, &prefix);
        let class = given.get("class").map(|class| class.trim());
        let kind = KINDS.iter().find(|(short, long, _)| match class {
            Some(class) => class == *short || class == *long || long.ends_with(&format!(".{class}")),
            None => name == *short,
        });
        let Some((short, _, param)) = kind else {
            issues.push(unknown_class(&prefix, name, class));
            continue;
        };
        let param = format!("param.{param}");
        for key in given.keys().filter(|key| *key != "class" && **key != param) {
            let issue =
                Issue::error(format!("{prefix}{key}"), "config.unknown_key", format!("is no option of the provider {name}"));
            issues.push(issue.fix(format!("did you mean {prefix}{param}?")));
        }
        let text = given.get(&param).map(|text| text.trim()).filter(|text| !text.is_empty());
        if text.is_none() {
            let issue = Issue::warning(
                format!("{prefix}{param}"),
                "config.no_effect",
                format!("is not set: ${{{name}:…}} may read nothing"),
            );
            issues.push(issue.fix("list what it may read"));
        }
        match provider(short, text) {
            Ok(provider) => {
                providers.insert(name.to_owned(), provider);
            }
            Err(issue) => issues.push(Issue { path: format!("{prefix}{param}"), ..*issue }),
        }
    }
    for name in named.iter().filter(|name| !listed.is_empty() && !listed.contains(name)) {
        let issue =
            Issue::error(format!("config.providers.{name}"), "config.unknown_key", format!("{name} is not in config.providers"));
        if !issues.contains(&issue) {
            issues.push(issue);
        }
    }
    (Providers::new(providers), issues)
}

fn unknown_class(prefix: &str, name: &str, class: Option<&str>) -> Issue {
    let known = KINDS.iter().flat_map(|(short, long, _)| [*short, long.rsplit('.').next().unwrap_or(long)]);
    match class {
        Some(class) => {
            let issue =
                Issue::error(format!("{prefix}class"), "config.unknown_class", format!("no config provider is called {class:?}"));
            let simple = class.rsplit('.').next().unwrap_or(class);
            issue.fix(
                nearest(simple, known).map_or("there are env, file and dir".to_owned(), |near| format!("did you mean {near}?")),
            )
        }
        None => {
            let issue =
                Issue::error(format!("{prefix}class"), "config.missing", format!("is required: {name} is not env, file or dir"));
            issue.fix(format!("add `{prefix}class: env`, file or dir"))
        }
    }
}

fn provider(kind: &str, text: Option<&str>) -> Result<Provider, Box<Issue>> {
    let Some(text) = text else {
        return Ok(match kind {
            "env" => Provider::Env { allow: None },
            "file" => Provider::File { allow: Allowed::Below(Vec::new()) },
            _ => Provider::Dir { allow: Allowed::Below(Vec::new()) },
        });
    };
    if kind == "env" {
        let regex = full(text).ok_or_else(|| {
            let reason = Regex::parse(text).err().unwrap_or_else(|| format!("{text:?} is too large"));
            Box::new(Issue::error("", "config.regex", reason).fix("correct the pattern"))
        })?;
        return Ok(Provider::Env { allow: Some((*regex).clone()) });
    }
    let paths: Vec<PathBuf> = split_list(text).into_iter().map(PathBuf::from).collect();
    if let Some(path) = paths.iter().find(|path| !path.is_absolute()) {
        let issue = Issue::error("", "config.path", format!("{path:?} is not an absolute path"));
        return Err(Box::new(issue.fix("write the whole path")));
    }
    let allow = Allowed::Below(paths);
    Ok(if kind == "file" { Provider::File { allow } } else { Provider::Dir { allow } })
}
