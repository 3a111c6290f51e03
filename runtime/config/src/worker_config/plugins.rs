//! `plugins.<name>.*`: what worker.yaml grants to each plugin. A connector's config cannot widen it.

use crate::nearest::nearest;
use crate::options::parse;
use crate::providers::{Providers, Resolved};
use crate::types::{ByteSize, List, Millis};
use aqueduct_core::{Issue, OptionSpec, Options, Result};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

pub(super) const PREFIX: &str = "plugins.";
/// What follows is the name that the plugin asks for.
const SECRET: &str = "allow.secrets.";

/// Nothing by default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct PluginGrant {
    /// The SHA-256 of the plugin's file, in hexadecimal, of each of its versions: another file is refused. Any file if not set.
    #[serde(default)]
    pub sha256: List<String>,
    /// It is compiled without what interrupts it, and so computes faster: a call that never returns then holds a thread until the worker ends. For
    /// plugins of your own.
    #[serde(default)]
    pub trusted: bool,
    /// The hosts that it may call by HTTP: `api.example.com`, `api.example.com:8443`, `*.example.com`, or `*` for all public ones.
    #[serde(rename = "allow.http", default)]
    pub http: List<String>,
    /// The hosts to which it may open TCP connections and send UDP datagrams, if it was built for WASI; as above. It can never listen.
    #[serde(rename = "allow.sockets", default)]
    pub sockets: List<String>,
    /// It may call private and loopback addresses too, of the hosts above. Link-local ones and the metadata servers of clouds are never called.
    #[serde(rename = "allow.private.networks", default)]
    pub private_networks: bool,
    /// The environment variables that it may read.
    #[serde(rename = "allow.env", default)]
    pub env: List<String>,
    /// The folders whose files it may read, if it was built for WASI: `/data/in`, or `/data/out:write` to write there too.
    #[serde(rename = "allow.files", default)]
    pub files: List<String>,
    /// `allow.secrets.<name>`, which is a family of options.
    #[serde(skip)]
    pub secrets: SecretTexts,
    /// How much memory each of its tasks may have.
    #[serde(rename = "limits.memory", default = "memory")]
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub memory: ByteSize,
    /// How much of one core each of its tasks may use: 0.25 is a quarter. Not for what is `trusted`.
    #[serde(rename = "limits.cpu", default = "cpu")]
    #[schemars(range(min = 0.01, max = 1))]
    pub cpu: f64,
    /// How long a call may run, without what it waits for: then it is interrupted, and the task starts again.
    #[serde(rename = "limits.call.timeout", default = "call_timeout")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub call_timeout: Millis,
}

fn memory() -> ByteSize {
    ByteSize::mib(64)
}

/// All of it.
fn cpu() -> f64 {
    1.0
}

/// A call that does not return is told within a second.
fn call_timeout() -> Millis {
    Millis::from_millis(800)
}

impl Default for PluginGrant {
    fn default() -> Self {
        parse(&Options::new()).expect("every option has a default: a test reads them")
    }
}

/// What a plugin may ask for by name, as it is written in worker.yaml: with references, which are resolved when a task starts. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretTexts(IndexMap<String, String>);

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, String)> for SecretTexts {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(texts: I) -> Self {
        Self(texts.into_iter().collect())
    }
}

impl SecretTexts {
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts by their names. Blocking. As in all of worker.yaml, a reference may read what the worker may.
    ///
    /// # Errors
    /// `config.secret`, fatal, with every reference that gives nothing.
    pub fn read(&self) -> Result<Resolved> {
        let mut resolved = Providers::open().resolve(&self.0)?;
        let all: Vec<String> = resolved.options.values().cloned().collect();
        resolved.also_hide(all);
        Ok(resolved)
    }
}

/// Every grant, by the plugin's name, and what is wrong with them. `options` are resolved, `written` is as it stands in the file.
pub(super) fn read(options: &Options, written: &IndexMap<String, String>) -> (BTreeMap<String, PluginGrant>, Vec<Issue>) {
    let known: Vec<OptionSpec> = crate::shape::specs::<PluginGrant>();
    let (mut own, mut issues) = (BTreeMap::<&str, Options>::new(), Vec::new());
    let mut secrets = BTreeMap::<&str, SecretTexts>::new();
    for (key, value) in options.range(PREFIX.to_owned()..).take_while(|(key, _)| key.starts_with(PREFIX)) {
        let (name, option) = key[PREFIX.len()..].split_once('.').unwrap_or((&key[PREFIX.len()..], ""));
        if known.iter().any(|known| known.name == option) {
            own.entry(name).or_default().insert(option.to_owned(), value.clone());
            continue;
        }
        if let Some(secret) = option.strip_prefix(SECRET).filter(|secret| !secret.is_empty()) {
            own.entry(name).or_default();
            let text = written.get(key).unwrap_or(value);
            secrets.entry(name).or_default().0.insert(secret.to_owned(), text.clone());
            continue;
        }
        let issue = Issue::error(key, "config.unknown_key", format!("{option:?} is nothing that a plugin is granted"));
        let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).chain(["allow.secrets.<name>"]).collect();
        issues.push(match nearest(option, names.iter().copied()) {
            Some(near) => issue.fix(format!("did you mean {PREFIX}{name}.{near}?")),
            None => issue.fix(format!("there are: {}", names.join(", "))),
        });
    }
    let mut grants = BTreeMap::new();
    for (name, options) in own {
        match parse::<PluginGrant>(&options) {
            Ok(grant) if options.contains_key("sha256") && !are_hashes(&grant.sha256) => {
                let issue =
                    Issue::error(format!("{PREFIX}{name}.sha256"), "config.range", "is no SHA-256: 64 hexadecimal digits");
                issues.push(issue.fix("`sha256sum FILE` prints that of a file; write several with commas between"));
            }
            Ok(grant) if grant.trusted && grant.cpu < 1.0 => {
                let what = "stands beside `trusted`, which leaves out what would hold the plugin back";
                let issue = Issue::error(format!("{PREFIX}{name}.limits.cpu"), "config.conflict", what);
                issues.push(issue.fix("remove one of the two"));
            }
            Ok(grant) => {
                let secrets = secrets.remove(name).unwrap_or_default();
                grants.insert(name.to_owned(), PluginGrant { secrets, ..grant });
            }
            Err(found) => {
                issues.extend(found.into_iter().map(|issue| Issue { path: format!("{PREFIX}{name}.{}", issue.path), ..issue }));
            }
        }
    }
    (grants, issues)
}

/// One at least: an empty pin would let any file in.
fn are_hashes(texts: &[String]) -> bool {
    let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    !texts.is_empty() && texts.iter().all(is_hash)
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
        let (grants, issues) = read(&options, &IndexMap::new());
        assert!(issues.is_empty(), "{issues:?}");
        assert_eq!(grants["a-source"].http.0, ["api.example.com", "*.example.org"]);
        assert_eq!(grants["a-source"].memory, ByteSize::mib(128));
        assert_eq!((grants["b"].call_timeout, grants["b"].http.len()), (Millis::from_secs(5), 0));
        let nothing = PluginGrant::default();
        assert_eq!((nothing.memory, nothing.trusted, nothing.sha256.len()), (ByteSize::mib(64), false, 0));
    }

    #[test]
    fn secrets_are_kept_as_they_are_written_and_never_shown() {
        let key = "plugins.a.allow.secrets.api-token";
        let options: Options = [(key.to_owned(), "resolved".to_owned())].into();
        let written: IndexMap<String, String> = [(key.to_owned(), "${env:PATH}/x".to_owned())].into_iter().collect();
        let (grants, issues) = read(&options, &written);
        assert!(issues.is_empty(), "{issues:?}");
        let secrets = &grants["a"].secrets;
        assert!(secrets.has("api-token") && !secrets.has("other"));
        assert_eq!(format!("{secrets:?}"), "{\"api-token\"}");
        let read = secrets.read().unwrap();
        let path = std::env::var("PATH").unwrap();
        assert_eq!(read.options["api-token"], format!("{path}/x"));
        assert_eq!(read.redact(format!("it is {path}/x")), "it is [hidden]");
    }

    #[test]
    fn a_wrong_grant_is_named() {
        let options: Options = [
            ("plugins.a.alow.http", "x"),
            ("plugins.a.sha256", "12"),
            ("plugins.a", "x"),
            ("plugins.b.limits.memory", "1"),
            ("plugins.c.sha256", ""),
            ("plugins.d.limits.cpu", "1.5"),
            ("plugins.e.limits.cpu", "0.5"),
            ("plugins.e.trusted", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let (grants, issues) = read(&options, &IndexMap::new());
        let found: Vec<(&str, &str)> = issues.iter().map(|issue| (issue.path.as_str(), issue.code.as_str())).collect();
        let unknown = "config.unknown_key";
        let expected = [
            ("plugins.a", unknown),
            ("plugins.a.alow.http", unknown),
            ("plugins.a.sha256", "config.range"),
            ("plugins.b.limits.memory", "config.range"),
            ("plugins.c.sha256", "config.range"),
            ("plugins.d.limits.cpu", "config.range"),
            ("plugins.e.limits.cpu", "config.conflict"),
        ];
        assert_eq!(found, expected);
        assert!(issues[1].fix.as_deref().unwrap().contains("allow.http") && grants.is_empty());
    }
}
