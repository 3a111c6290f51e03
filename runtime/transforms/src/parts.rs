//! What this crate has: for validation, `GET /connector-plugins` and the reference.

use crate::converters::{self, NoOptions, TextConfig};
use crate::json::JsonConfig;
use crate::{predicates, transforms};
use aqueduct_config::version::{Wanted, compare};
use aqueduct_config::{nearest, specs};
use aqueduct_core::{Descriptor, Issue, OptionSpec, TransformPlugin};
use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::{Arc, LazyLock};

/// As `type` in `GET /connector-plugins`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    Converter,
    HeaderConverter,
    Transformation,
    Predicate,
}

impl PartKind {
    /// As it stands in messages.
    pub fn name(self) -> &'static str {
        match self {
            PartKind::Converter => "converter",
            PartKind::HeaderConverter => "header converter",
            PartKind::Transformation => "transform",
            PartKind::Predicate => "predicate",
        }
    }
}

/// What a converter, a transform or a predicate says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct PartDescriptor {
    /// The full Java name.
    pub class: &'static str,
    /// Short names of ours: `json`.
    pub aliases: &'static [&'static str],
    pub kind: PartKind,
    pub version: &'static str,
    /// One sentence.
    pub summary: &'static str,
    pub options: Vec<OptionSpec>,
}

impl PartDescriptor {
    fn new<C: JsonSchema>(kind: PartKind, class: &'static str, aliases: &'static [&'static str], summary: &'static str) -> Self {
        Self { class, aliases, kind, version: env!("CARGO_PKG_VERSION"), summary, options: specs::<C>() }
    }

    /// `InsertField$Value`
    pub fn simple_name(&self) -> &'static str {
        self.class.rsplit('.').next().unwrap_or(self.class)
    }

    /// By full name, simple name or alias.
    pub fn is_called(&self, class: &str) -> bool {
        class == self.class || class == self.simple_name() || self.aliases.contains(&class)
    }
}

/// Every converter, header converter, transform and predicate. One class may be of two kinds.
pub fn descriptors() -> Vec<PartDescriptor> {
    all().into_iter().cloned().collect()
}

type Installed = (&'static PartDescriptor, Arc<dyn TransformPlugin>);

/// Transforms of plugins: given by the binary.
static PLUGINS: RwLock<Vec<Installed>> = RwLock::new(Vec::new());

fn installed() -> Vec<Installed> {
    PLUGINS.read().clone()
}

/// The transforms of plugins, beside those that are built in and in place of those given before, several versions of one among them; a built-in name
/// stays the built-in's. A chain that was built keeps what it has. Returns those that were not taken, by name.
pub fn install(plugins: Vec<Arc<dyn TransformPlugin>>) -> Vec<String> {
    let before = installed();
    let (mut taken, mut left): (Vec<Installed>, _) = (Vec::new(), Vec::new());
    for plugin in plugins {
        let Descriptor { name, version, .. } = plugin.descriptor();
        let built_in = PARTS.iter().any(|part| part.kind == PartKind::Transformation && part.is_called(name));
        if built_in || taken.iter().any(|(part, _)| part.class == name && compare(part.version, version).is_eq()) {
            left.push(name.clone());
            continue;
        }
        let same = before.iter().find(|(_, other)| Arc::ptr_eq(other, &plugin)).map(|(part, _)| *part);
        taken.push((same.unwrap_or_else(|| part(plugin.descriptor())), plugin));
    }
    // The newest first: it is the one that is found.
    taken.sort_by(|(a, _), (b, _)| a.class.cmp(b.class).then_with(|| compare(b.version, a.version)));
    *PLUGINS.write() = taken;
    left
}

/// For ever, as the built-in ones are: a few KB for each version of a plugin that the process sees. Its code is not among them.
fn part(descriptor: &Descriptor) -> &'static PartDescriptor {
    let keep = |text: &str| -> &'static str { Box::leak(text.into()) };
    Box::leak(Box::new(PartDescriptor {
        class: keep(&descriptor.name),
        aliases: &[],
        kind: PartKind::Transformation,
        version: keep(&descriptor.version),
        summary: keep(&descriptor.summary),
        options: descriptor.options.clone(),
    }))
}

fn all() -> Vec<&'static PartDescriptor> {
    PARTS.iter().chain(installed().into_iter().map(|(part, _)| part)).collect()
}

/// The transform of a plugin, if the part is one.
pub(crate) fn plugin(part: &'static PartDescriptor) -> Option<Arc<dyn TransformPlugin>> {
    installed().into_iter().find(|(known, _)| std::ptr::eq(*known, part)).map(|(_, plugin)| plugin)
}

static PARTS: LazyLock<Vec<PartDescriptor>> = LazyLock::new(|| {
    use PartKind::{Converter, HeaderConverter};
    let mut parts = Vec::new();
    for kind in [Converter, HeaderConverter] {
        parts.push(PartDescriptor::new::<JsonConfig>(
            kind,
            converters::JSON,
            &["json"],
            "JSON, with or without its schema around it.",
        ));
        parts.push(PartDescriptor::new::<TextConfig>(
            kind,
            converters::STRING,
            &["string"],
            "Text as it is; other values as their text.",
        ));
    }
    for kind in [Converter, HeaderConverter] {
        parts.push(PartDescriptor::new::<NoOptions>(kind, converters::BYTES, &["bytes"], "Bytes as they are."));
        for number in &converters::NUMBERS {
            parts.push(PartDescriptor::new::<NoOptions>(kind, number.class, number.aliases, number.summary));
        }
    }
    for kind in [Converter, HeaderConverter] {
        let summary = "The default: bytes as they are, structured values as JSON without a schema.";
        parts.push(PartDescriptor::new::<NoOptions>(kind, converters::PLAIN, &["plain"], summary));
    }
    parts.push(PartDescriptor::new::<NoOptions>(
        HeaderConverter,
        converters::SIMPLE,
        &["simple"],
        "Header values as readable text.",
    ));
    parts.extend(transforms::parts());
    parts.extend(predicates::parts());
    parts
});

pub(crate) fn transform<C: JsonSchema>(class: &'static str, summary: &'static str) -> PartDescriptor {
    PartDescriptor::new::<C>(PartKind::Transformation, class, &[], summary)
}

pub(crate) fn predicate<C: JsonSchema>(class: &'static str, summary: &'static str) -> PartDescriptor {
    PartDescriptor::new::<C>(PartKind::Predicate, class, &[], summary)
}

/// As [`find`]; of a plugin's transform, the newest version that `plugin.version` takes. What is built in has one version.
///
/// # Errors
/// As [`find`], and `config.version` at `path.plugin.version`.
pub(crate) fn find_version(
    kind: PartKind,
    class: &str,
    wanted: Option<&str>,
    path: &str,
) -> Result<&'static PartDescriptor, Vec<Issue>> {
    let newest = find(kind, class, &format!("{path}.type"))?;
    let versions: Vec<&'static PartDescriptor> =
        installed().into_iter().map(|(part, _)| part).filter(|part| kind == part.kind && part.class == newest.class).collect();
    let Some(wanted) = wanted.filter(|_| !versions.is_empty()) else { return Ok(newest) };
    let there: Vec<&str> = versions.iter().map(|part| part.version).collect();
    let issue = |what: String| {
        let issue = Issue::error(format!("{path}.plugin.version"), "config.version", what);
        vec![issue.fix(format!("{class} is there as {}", there.join(", ")))]
    };
    let judged = Wanted::parse(wanted).map_err(&issue)?;
    let found = versions.iter().find(|part| judged.takes(part.version));
    found.copied().ok_or_else(|| issue(format!("no version of {class} in plugin.path is {}", wanted.trim())))
}

/// Finds a part by any of its names.
///
/// # Errors
/// One issue at `path`: unknown, with the nearest name, or ambiguous between `$Key` and `$Value`.
pub(crate) fn find(kind: PartKind, class: &str, path: &str) -> Result<&'static PartDescriptor, Vec<Issue>> {
    let all = all();
    let of_kind = || all.iter().copied().filter(|part| part.kind == kind);
    if let Some(part) = of_kind().find(|part| part.is_called(class)) {
        return Ok(part);
    }
    let what = kind.name();
    let sides: Vec<&str> = of_kind()
        .filter(|part| {
            [part.class, part.simple_name()].iter().any(|name| name.split_once('$').is_some_and(|(outer, _)| outer == class))
        })
        .map(PartDescriptor::simple_name)
        .collect();
    if !sides.is_empty() {
        let issue = Issue::error(path, "config.ambiguous_class", format!("{class:?} can change the key or the value"));
        return Err(vec![issue.fix(format!("write {}", sides.join(" or ")))]);
    }
    let issue = Issue::error(path, "config.unknown_class", format!("no {what} is called {class:?}"));
    let given = class.rsplit('.').next().unwrap_or(class);
    let names: Vec<&str> = of_kind().flat_map(|part| part.aliases.iter().copied().chain([part.simple_name()])).collect();
    Err(vec![match nearest(given, names.iter().copied()) {
        Some(near) => issue.fix(format!("did you mean {near}?")),
        None => issue.fix(format!("there are: {}", names.join(", "))),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chain, plugins_of, unknown_keys};
    use aqueduct_core::plugin::{Importance, PluginKind};
    use aqueduct_core::{Batch, OptionKind, Options, Rejects, Transform};
    use async_trait::async_trait;

    struct Versioned(Descriptor);

    #[async_trait]
    impl Transform for Versioned {
        async fn apply(&mut self, batch: Batch, _: &mut Rejects) -> aqueduct_core::Result<Batch> {
            Ok(batch)
        }
    }

    impl TransformPlugin for Versioned {
        fn descriptor(&self) -> &Descriptor {
            &self.0
        }
        fn build(&self, _: &Options) -> Result<Box<dyn Transform>, Vec<Issue>> {
            Ok(Box::new(Versioned(self.0.clone())))
        }
    }

    /// Its option has the version in its name.
    fn versioned(version: &str) -> Arc<dyn TransformPlugin> {
        let option = OptionSpec {
            name: format!("option-{version}"),
            kind: OptionKind::String,
            required: false,
            default: None,
            importance: Importance::Low,
            documentation: "Tells versions apart.".into(),
            group: "Test".into(),
            format: None,
            allowed: Vec::new(),
            example: None,
        };
        Arc::new(Versioned(Descriptor {
            name: "versioned-transform".into(),
            aliases: Vec::new(),
            kind: PluginKind::Source,
            version: version.into(),
            summary: "Tells versions apart.".into(),
            options: vec![option],
        }))
    }

    #[test]
    fn a_transform_is_the_newest_that_its_pin_takes() {
        let [old, new] = ["1.9", "1.10"].map(versioned);
        assert_eq!(install(vec![old.clone(), new.clone(), versioned("1.10.0")]), ["versioned-transform"]);
        let config = |more: &[(&str, &str)]| -> Options {
            let own = [("transforms", "t"), ("transforms.t.type", "versioned-transform")];
            own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let pin = |version| config(&[("transforms.t.plugin.version", version), ("transforms.t.option-1.9", "x")]);
        let taken = |config: &Options| plugins_of(config)[0].clone();
        assert!(Arc::ptr_eq(&taken(&config(&[])), &new) && Arc::ptr_eq(&taken(&pin("[1,1.10)")), &old));
        assert!(unknown_keys(&pin("1.9")).is_empty() && Chain::new(&pin("1.9")).is_ok());
        assert_eq!(unknown_keys(&pin("1.10"))[0].path, "transforms.t.option-1.9");
        let missing = Chain::new(&pin("2")).err().unwrap();
        assert_eq!((missing[0].path.as_str(), missing[0].code.as_str()), ("transforms.t.plugin.version", "config.version"));
        assert!(plugins_of(&pin("2")).is_empty());
    }
}
