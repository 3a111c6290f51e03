//! `plugins.<name>.*`: what worker.yaml grants to each plugin. A connector's config cannot widen it.

use crate::nearest::nearest;
use crate::options::parse;
use crate::types::{ByteSize, List, Millis};
use aqueduct_core::{Issue, OptionSpec, Options};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

pub(super) const PREFIX: &str = "plugins.";

/// Nothing by default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct PluginGrant {
    /// The SHA-256 of the plugin's file, in hexadecimal: another file is refused. Any file if not set.
    #[serde(default)]
    #[schemars(length(min = 64, max = 64))]
    pub sha256: Option<String>,
    /// The hosts that it may call by HTTP: `api.example.com`, `api.example.com:8443`, `*.example.com`, or `*` for all public ones.
    #[serde(rename = "allow.http", default)]
    pub http: List<String>,
    /// It may call private and loopback addresses too, of the hosts above. Link-local ones and the metadata servers of clouds are never called.
    #[serde(rename = "allow.private.networks", default)]
    pub private_networks: bool,
    /// The environment variables that it may read.
    #[serde(rename = "allow.env", default)]
    pub env: List<String>,
    /// How much memory each of its tasks may have.
    #[serde(rename = "limits.memory", default = "memory")]
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub memory: ByteSize,
    /// How long a call may run, without what it waits for: then it is interrupted, and the task starts again.
    #[serde(rename = "limits.call.timeout", default = "call_timeout")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub call_timeout: Millis,
}

fn memory() -> ByteSize {
    ByteSize::mib(64)
}

fn call_timeout() -> Millis {
    Millis::from_secs(1)
}

impl Default for PluginGrant {
    fn default() -> Self {
        parse(&Options::new()).expect("every option has a default: a test reads them")
    }
}

/// Every grant, by the plugin's name, and what is wrong with them.
pub(super) fn read(options: &Options) -> (BTreeMap<String, PluginGrant>, Vec<Issue>) {
    let known: Vec<OptionSpec> = crate::shape::specs::<PluginGrant>();
    let (mut own, mut issues) = (BTreeMap::<&str, Options>::new(), Vec::new());
    for (key, value) in options.range(PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(PREFIX)) {
        let (name, option) = key[PREFIX.len()..].split_once('.').unwrap_or((&key[PREFIX.len()..], ""));
        if known.iter().any(|known| known.name == option) {
            own.entry(name).or_default().insert(option.to_owned(), value.clone());
            continue;
        }
        let issue = Issue::error(key, "config.unknown_key", format!("{option:?} is nothing that a plugin is granted"));
        let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
        issues.push(match nearest(option, names.iter().copied()) {
            Some(near) => issue.fix(format!("did you mean {PREFIX}{name}.{near}?")),
            None => issue.fix(format!("there are: {}", names.join(", "))),
        });
    }
    let mut grants = BTreeMap::new();
    for (name, options) in own {
        match parse::<PluginGrant>(&options) {
            Ok(grant) => drop(grants.insert(name.to_owned(), grant)),
            Err(found) => {
                issues.extend(found.into_iter().map(|issue| Issue { path: format!("{PREFIX}{name}.{}", issue.path), ..issue }));
            }
        }
    }
    (grants, issues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_by_name() {
        let options: Options = [
            ("plugins.a-source.allow.http", "api.example.com, *.example.org"),
            ("plugins.a-source.limits.memory", "128 MiB"),
            ("plugins.b.limits.call.timeout", "5s"),
            ("group.id", "x"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let (grants, issues) = read(&options);
        assert!(issues.is_empty(), "{issues:?}");
        assert_eq!(grants["a-source"].http.0, ["api.example.com", "*.example.org"]);
        assert_eq!(grants["a-source"].memory, ByteSize::mib(128));
        assert_eq!((grants["b"].call_timeout, grants["b"].http.len()), (Millis::from_secs(5), 0));
        assert_eq!(PluginGrant::default().memory, ByteSize::mib(64));
    }

    #[test]
    fn a_wrong_grant_is_named() {
        let options: Options =
            [("plugins.a.alow.http", "x"), ("plugins.a.sha256", "12"), ("plugins.a", "x"), ("plugins.b.limits.memory", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let (grants, issues) = read(&options);
        let found: Vec<(&str, &str)> = issues.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
        let unknown = "config.unknown_key";
        let expected = [
            ("plugins.a", unknown),
            ("plugins.a.alow.http", unknown),
            ("plugins.a.sha256", "config.range"),
            ("plugins.b.limits.memory", "config.range"),
        ];
        assert_eq!(found, expected);
        assert!(issues[1].fix.as_deref().unwrap().contains("allow.http") && grants.is_empty());
    }
}
