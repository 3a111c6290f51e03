//! What a component says of itself, in the custom section [`SECTION`]: JSON, read without running code.

use aqueduct_core::{Error, PluginKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the custom section.
pub const SECTION: &str = "aqueduct:plugin";
/// Larger is a mistake or an attack: a schema of a thousand options has 200 KiB.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// A component exports each of the three interfaces at most once.
const PLUGINS_MAX: usize = 3;

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
            Error::fatal("plugin.metadata", format!("the section {SECTION}: {what}"))
                .fix("write it as plugins/README.md shows: {\"plugins\": [{name, kind, version, description, config}]}")
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
