//! What a component says of itself, in the custom section [`SECTION`]: JSON, read without running code.

use aqueduct_config::worker_config::PluginGrant;
use aqueduct_core::{Error, Issue, PluginKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The name of the custom section.
pub const SECTION: &str = "aqueduct:plugin";
/// Larger is a mistake or an attack: a schema of a thousand options has 200 KiB.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// A component exports each of the three interfaces at most once.
const PLUGINS_MAX: usize = 3;

const CAPABILITIES_MAX: usize = 50;

/// The whole section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub plugins: Vec<PluginMetadata>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PluginMetadata {
    /// `[a-z0-9-]`, 64 at most: `counter-source`.
    pub name: String,
    pub kind: Kind,
    pub version: String,
    /// One sentence.
    pub description: String,
    /// JSON Schema 2020-12 of its options: an object with `properties`.
    #[serde(default)]
    pub config: Value,
    #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
    pub capabilities: Capabilities,
}

impl PluginMetadata {
    /// What it needs and is not granted: errors of every config that uses it.
    pub fn missing(&self, grant: &PluginGrant) -> Vec<Issue> {
        self.capabilities.missing(&self.name, grant)
    }
}

/// What it cannot work without, each with a text for the one who is to grant it: what for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// By the variable's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// By the name that it asks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
}

impl Capabilities {
    pub fn is_empty(&self) -> bool {
        self.wanted().next().is_none()
    }

    /// Each as `(http, the name or none, what for)`, in the order of worker.yaml's documentation.
    pub fn wanted(&self) -> impl Iterator<Item = (&'static str, Option<&str>, &str)> {
        let whole = [("http", &self.http), ("sockets", &self.sockets), ("files", &self.files)];
        let whole = whole.into_iter().filter_map(|(kind, reason)| Some((kind, None, reason.as_deref()?)));
        let named = [("env", &self.env), ("secrets", &self.secrets)];
        let named = named
            .into_iter()
            .flat_map(|(kind, names)| names.iter().map(move |(name, reason)| (kind, Some(name.as_str()), reason.as_str())));
        whole.chain(named)
    }

    /// Errors: without these the plugin would only fail later.
    pub(crate) fn missing(&self, plugin: &str, grant: &PluginGrant) -> Vec<Issue> {
        let lacks = |(kind, name, _): &(&str, Option<&str>, &str)| match (*kind, *name) {
            ("http", _) => grant.http.is_empty(),
            ("sockets", _) => grant.sockets.is_empty(),
            ("files", _) => grant.files.is_empty(),
            ("env", Some(name)) => !grant.env.iter().any(|granted| granted == name),
            (_, Some(name)) => !grant.secrets.has(name),
            _ => false,
        };
        let issue = |(kind, name, reason): (&str, Option<&str>, &str)| {
            let what = name.map_or_else(|| kind.to_owned(), |name| format!("{kind} {name}"));
            let line = match (kind, name) {
                ("env", Some(name)) => format!("plugins.{plugin}.allow.env: [{name}]"),
                (_, Some(name)) => format!("plugins.{plugin}.allow.secrets.{name}"),
                ("files", _) => format!("plugins.{plugin}.allow.files: [/a/folder]"),
                _ => format!("plugins.{plugin}.allow.{kind}: [its.host]"),
            };
            let message = format!("{plugin} needs {what}, which worker.yaml does not grant it: {reason}");
            Issue::error("", "plugin.capability", message).fix(format!("add {line} to worker.yaml, and start the worker again"))
        };
        self.wanted().filter(lacks).map(issue).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Source,
    Sink,
    Transform,
}

impl Kind {
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Kind::Source => "aqueduct:connector/source@0.1.0",
            Kind::Sink => "aqueduct:connector/sink@0.1.0",
            Kind::Transform => "aqueduct:connector/transform@0.1.0",
        }
    }

    pub(crate) fn connector(self) -> PluginKind {
        if self == Kind::Sink { PluginKind::Sink } else { PluginKind::Source }
    }
}

impl Metadata {
    /// # Errors
    /// `plugin.metadata`.
    pub fn parse(section: &[u8]) -> Result<Self> {
        let wrong = |what: String| {
            Error::fatal("plugin.metadata", format!("the section {SECTION}: {what}")).fix(
                "write it as plugins/README.md shows: {\"plugins\": [{name, kind, version, description, config, capabilities}]}",
            )
        };
        if section.len() > BYTES_MAX {
            return Err(wrong(format!("has {} bytes, more than {BYTES_MAX}", section.len())));
        }
        let metadata: Metadata = serde_json::from_slice(section).map_err(|error| wrong(error.to_string()))?;
        if metadata.plugins.is_empty() || metadata.plugins.len() > PLUGINS_MAX {
            return Err(wrong(format!("names {} plugins, not one to {PLUGINS_MAX}", metadata.plugins.len())));
        }
        for (index, plugin) in metadata.plugins.iter().enumerate() {
            let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if plugin.name.is_empty() || plugin.name.len() > 64 || !plugin.name.bytes().all(letters) {
                return Err(wrong(format!("the name {:?} is not 1 to 64 of a-z, 0-9 and -", shown(&plugin.name))));
            }
            if plugin.version.is_empty() || plugin.version.len() > 64 || plugin.description.len() > 1000 {
                return Err(wrong(format!("{} needs a version, and a description of at most 1,000 bytes", plugin.name)));
            }
            if [&plugin.version, &plugin.description].iter().any(|text| !is_plain(text) || text.contains('\n'))
                || !is_plain_json(&plugin.config)
            {
                return Err(wrong(format!("{} has control characters", plugin.name)));
            }
            let wanted: Vec<_> = plugin.capabilities.wanted().collect();
            let names = wanted.iter().filter_map(|(_, name, _)| *name);
            if wanted.len() > CAPABILITIES_MAX || !names.clone().all(is_option) {
                return Err(wrong(format!(
                    "{} names more than {CAPABILITIES_MAX} capabilities, or one that is none",
                    plugin.name
                )));
            }
            if wanted.iter().any(|(_, _, reason)| reason.is_empty() || reason.len() > 300 || !is_plain(reason)) {
                return Err(wrong(format!("{} must say of each capability what for, in at most 300 bytes", plugin.name)));
            }
            let options = plugin.config.get("properties").and_then(Value::as_object);
            if let Some(name) = options.into_iter().flat_map(|options| options.keys()).find(|name| !is_option(name)) {
                return Err(wrong(format!("the option {:?} is not 1 to 100 of A-Z, a-z, 0-9, dot, _ and -", shown(name))));
            }
            if metadata.plugins[..index].iter().any(|other| other.kind == plugin.kind) {
                return Err(wrong(format!("two plugins are a {:?}: a component exports each interface once", plugin.kind)));
            }
        }
        Ok(metadata)
    }
}

/// It is shown in terminals and pages.
fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n')
}

fn is_plain_json(value: &Value) -> bool {
    match value {
        Value::String(text) => is_plain(text),
        Value::Array(items) => items.iter().all(is_plain_json),
        Value::Object(members) => members.iter().all(|(name, value)| is_plain(name) && is_plain_json(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// `headers.*` stands for all that begin with `headers.`.
fn is_option(name: &str) -> bool {
    let name = name.strip_suffix(".*").unwrap_or(name);
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 100 && name.bytes().all(letter)
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_and_not_granted_is_named() {
        let texts = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "why".to_owned())).collect();
        let why = || Some("why".to_owned());
        let (env, secrets) = (texts(&["A", "B"]), texts(&["token"]));
        let needs = Capabilities { http: why(), sockets: why(), files: why(), env, secrets };
        let found = needs.missing("p", &PluginGrant::default());
        let fixes: Vec<&str> = found.iter().filter_map(|issue| issue.fix.as_deref()).collect();
        let named = ["allow.http", "allow.sockets", "allow.files", "allow.env: [A]", "allow.env: [B]", "allow.secrets.token"];
        assert!(fixes.len() == named.len() && fixes.iter().zip(named).all(|(fix, name)| fix.contains(name)), "{fixes:?}");
        let list = |text: &str| [text.to_owned()].into_iter().collect();
        let secrets = [("token".to_owned(), "x".to_owned())].into_iter().collect();
        let (http, sockets, files, env) = (list("h"), list("h"), list("/f"), list("A"));
        let grant = PluginGrant { http, sockets, files, env, secrets, ..PluginGrant::default() };
        assert_eq!(needs.missing("p", &grant).len(), 1);
        assert!(Capabilities::default().is_empty() && !needs.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let plugin = |name: &str, kind: &str| format!(r#"{{"name":"{name}","kind":"{kind}","version":"1","description":"A."}}"#);
        let read = |plugins: &[String]| Metadata::parse(format!(r#"{{"plugins":[{}]}}"#, plugins.join(",")).as_bytes());
        assert_eq!(read(&[plugin("a-source", "source"), plugin("a", "transform")]).unwrap().plugins.len(), 2);
        for (plugins, what) in [
            (vec![], "0 plugins"),
            (vec![plugin("A", "source")], "is not 1 to 64"),
            (vec![plugin("a", "sauce")], "unknown variant"),
            (vec![plugin("a", "sink"), plugin("b", "sink")], "exports each interface once"),
        ] {
            let error = read(&plugins).unwrap_err();
            assert!(error.code() == "plugin.metadata" && error.message().contains(what), "{error}");
        }
        assert!(Metadata::parse(b"{").is_err());
        let needs = |needs: &str| {
            let text = format!(
                r#"{{"plugins":[{{"name":"a","kind":"sink","version":"1","description":"A.","capabilities":{needs}}}]}}"#
            );
            Metadata::parse(text.as_bytes()).map_err(|error| error.message().to_owned())
        };
        assert!(needs(r#"{"http": "calls it", "env": {"A_B": "reads it"}}"#).is_ok());
        assert!(needs(r#"{"http": ""}"#).unwrap_err().contains("what for"));
        assert!(needs(r#"{"gpu": "fast"}"#).unwrap_err().contains("unknown field"));
        assert!(needs(r#"{"env": {"A B": "x"}}"#).unwrap_err().contains("one that is none"));
        let config = |config: &str| {
            let text =
                format!(r#"{{"plugins":[{{"name":"a","kind":"sink","version":"1","description":"A.","config":{config}}}]}}"#);
            Metadata::parse(text.as_bytes()).map_err(|error| error.message().to_owned())
        };
        assert!(config(r#"{"properties": {"a.b": {"description": "One.\nTwo."}, "headers.*": {}}}"#).is_ok());
        assert!(config(r#"{"properties": {"a": {"description": "\u001b[2J"}}}"#).unwrap_err().contains("control characters"));
        assert!(config(r#"{"properties": {"a b": {}}}"#).unwrap_err().contains("the option \"a b\" is not"));
    }
}
