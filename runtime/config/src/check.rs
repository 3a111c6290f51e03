//! Every issue of a connector's config at once: unknown connector, unknown keys, types, ranges, references that give nothing.

use crate::flatten::Flat;
use crate::nearest::{nearest, nearest_class};
use crate::providers::{Providers, Resolved, references};
use crate::settings::{self, ConnectorDefaults, ConnectorSettings, is_topic_config};
use crate::shape::ALIAS;
use crate::worker_config;
use aqueduct_core::issue::Severity;
use aqueduct_core::{Descriptor, Issue, OptionKind, Options, Plugin, PluginKind};
use std::collections::BTreeSet;

/// What a config is checked against.
pub struct Check<'a> {
    /// A plugin by any of its names.
    pub find: &'a dyn Fn(&str) -> Option<Plugin>,
    /// Every name and alias, for "did you mean".
    pub names: Vec<String>,
    /// Every issue below `transforms`, `predicates` and the converters, unknown keys among them (`config.unknown_key`).
    pub parts: &'a dyn Fn(&Options) -> Vec<Issue>,
    pub defaults: &'a ConnectorDefaults,
    pub providers: &'a Providers,
    pub unknown_keys: UnknownKeys,
}

/// What a key means that nothing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKeys {
    /// In files and for `aqueduct validate`: a misspelt option never goes unnoticed.
    Error,
    /// Over REST, where Kafka Connect takes any key.
    Warn,
}

/// The outcome of a check.
#[derive(Default)]
pub struct Checked {
    /// In the order of the file; with places; without secrets.
    pub issues: Vec<Issue>,
    pub plugin: Option<Plugin>,
    /// Of the resolved config: it may hold secrets, so it is not for keeping.
    pub settings: Option<ConnectorSettings>,
}

impl Checked {
    pub fn is_good(&self) -> bool {
        !self.issues.iter().any(Issue::is_error)
    }
}

impl Check<'_> {
    /// Touches nothing but what references name.
    pub fn run(&self, config: &Flat) -> Checked {
        let (mut resolved, references) = self.providers.resolve_all(&config.entries);
        let broken: BTreeSet<String> = references.iter().map(|issue| issue.path.clone()).collect();
        let mut checked = Checked::default();
        let mut issues = Vec::new();
        // Names that settings cannot be made with: over REST too.
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let (plugin, issue) = self.plugin(config);
        if let Some(plugin) = &plugin {
            let descriptor = plugin.descriptor();
            let passwords = descriptor.options.iter().filter(|option| option.kind == OptionKind::Password);
            resolved.also_hide(passwords.filter_map(|option| resolved.options.get(&option.name).cloned()).collect::<Vec<_>>());
            let (settings, found) = ConnectorSettings::read(descriptor.kind, &resolved.options, self.defaults);
            needed.extend(found.iter().filter(|_| settings.is_none()).map(|issue| issue.path.clone()));
            issues.extend(found);
            issues.extend(plugin.validate(&resolved.options));
            issues.extend(self.unknown(config, descriptor));
            checked.settings = settings;
        } else {
            let sink = config.get("topics").or(config.get("topics.regex")).is_some();
            let kind = if sink { PluginKind::Sink } else { PluginKind::Source };
            issues.extend(ConnectorSettings::read(kind, &resolved.options, self.defaults).1);
        }
        match issue {
            None => checked.plugin = plugin,
            Some(issue) => {
                issues.retain(|other| other.path != issue.path);
                issues.push(issue);
                checked.settings = None;
            }
        }
        issues.extend((self.parts)(&resolved.options));
        // A value that is not known yet cannot be wrong.
        issues.retain(|issue| !broken.contains(&issue.path) && !config.broken.contains(&issue.path));
        issues.iter_mut().for_each(|issue| hide(issue, config, &resolved));
        issues.extend(references);
        if self.unknown_keys == UnknownKeys::Error {
            // A misspelt required option is one mistake, not two.
            let misspelt: Vec<String> =
                issues.iter().filter(|issue| issue.code == "config.unknown_key").filter_map(|issue| issue.fix.clone()).collect();
            issues.retain(|issue| issue.code != "config.missing" || !misspelt.contains(&format!("did you mean {}?", issue.path)));
        } else {
            let lenient = ["config.unknown_key", "config.unknown_provider"];
            issues
                .iter_mut()
                .filter(|issue| lenient.contains(&issue.code.as_str()) && !needed.contains(&issue.path))
                .for_each(|issue| issue.severity = Severity::Warning);
        }
        checked.issues = in_order(issues, config);
        checked
    }

    /// The plugin; or an issue, and the plugin that was meant, so that the other keys are checked too.
    fn plugin(&self, config: &Flat) -> (Option<Plugin>, Option<Issue>) {
        let path = "connector.class";
        let Some(class) = config.get(path).map(str::trim).filter(|class| !class.is_empty()) else {
            let issue = Issue::error(path, "config.missing", "is required and has no default");
            let meant = config.entries.iter().find(|(key, _)| nearest(key, [path]).is_some() && *key != path);
            let fix = match meant {
                Some((key, _)) => format!("did you mean {path} where you wrote {key}?"),
                None => format!("add `{path}: …`; `aqueduct plugins list` shows what there is"),
            };
            return (meant.and_then(|(_, class)| (self.find)(class)), Some(issue.fix(fix)));
        };
        if let Some(plugin) = (self.find)(class) {
            return (Some(plugin), None);
        }
        let issue = Issue::error(path, "config.unknown_class", format!("no connector is called {class:?}"));
        match nearest_class(class, self.names.iter().map(String::as_str)) {
            Some(near) => ((self.find)(near), Some(issue.fix(format!("did you mean {near}?")))),
            None => (None, Some(issue.fix("`aqueduct plugins list` shows what there is"))),
        }
    }

    fn unknown(&self, config: &Flat, descriptor: &Descriptor) -> Vec<Issue> {
        let known = Known::new(descriptor);
        config.entries.keys().filter(|key| !known.has(key, config)).map(|key| known.issue(key, config)).collect()
    }
}

/// The keys that a connector reads.
struct Known<'a> {
    descriptor: &'a Descriptor,
    /// Whole names, the plugin's first.
    names: Vec<String>,
    /// With the dot at the end.
    families: Vec<String>,
}

/// Judged elsewhere: by `Check::parts` and by `topic.creation`.
const PARTS: [&str; 5] = ["transforms.", "predicates.", "key.converter.", "value.converter.", "header.converter."];

impl<'a> Known<'a> {
    fn new(descriptor: &'a Descriptor) -> Self {
        let all = descriptor.options.iter().map(|option| option.name.clone());
        let all: Vec<String> = all.chain(settings::options(descriptor.kind).into_iter().map(|option| option.name)).collect();
        let families = all.iter().filter_map(|name| name.strip_suffix('*').map(str::to_owned)).collect();
        Self { descriptor, names: all.into_iter().filter(|name| !name.ends_with('*')).collect(), families }
    }

    fn has(&self, key: &str, config: &Flat) -> bool {
        let topic_creation = || {
            let groups = config.get("topic.creation.groups").map(crate::list::split_list).unwrap_or_default();
            let group = |name: &str| {
                key.strip_prefix("topic.creation.")
                    .and_then(|rest| rest.strip_prefix(name))
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            self.descriptor.kind == PluginKind::Source && groups.into_iter().chain(["default"]).any(group)
        };
        self.names.iter().any(|name| name == key)
            || self
                .families
                .iter()
                .chain(&PARTS.map(str::to_owned))
                .any(|family| key.len() > family.len() && key.starts_with(family.as_str()))
            || topic_creation()
    }

    fn issue(&self, key: &str, config: &Flat) -> Issue {
        let name = &self.descriptor.name;
        let issue = Issue::error(key, "config.unknown_key", format!("is no option of {name}"));
        if let Some(rest) = key.strip_prefix("topic.creation.").filter(|rest| rest.contains('.')) {
            let group = rest.split('.').next().unwrap_or_default();
            let plain = is_topic_config(rest) || ["replication.factor"].contains(&rest);
            let fix = if plain {
                format!("did you mean topic.creation.default.{rest}?")
            } else {
                format!("add {group} to topic.creation.groups")
            };
            return if self.descriptor.kind == PluginKind::Source {
                issue.fix(fix)
            } else {
                issue.fix("sinks create no topics: remove the line")
            };
        }
        if let Some(meant) = self.nearest(key, config) {
            return issue.fix(format!("did you mean {meant}?"));
        }
        let (other, kind) = match self.descriptor.kind {
            PluginKind::Source => (PluginKind::Sink, "sinks"),
            PluginKind::Sink => (PluginKind::Source, "sources"),
        };
        if settings::options(other).iter().any(|option| option.name == key) {
            return issue.fix(format!("it is for {kind} only: remove the line"));
        }
        if worker_config::options().iter().any(|option| option.name == key) {
            return issue.fix("it is an option of the worker: move it to worker.yaml");
        }
        issue.fix(format!("remove it; `aqueduct plugins describe {name}` shows every option"))
    }

    /// Among the names that the config does not give already.
    fn nearest(&self, key: &str, config: &Flat) -> Option<String> {
        let is_free = |name: &&str| config.get(name).is_none();
        if let Some(name) = nearest(key, self.names.iter().map(String::as_str).filter(is_free)) {
            return Some(name.to_owned());
        }
        // A family whose beginning is misspelt: `transform.a.type`, `heders.x`.
        let families = self.families.iter().map(String::as_str).chain(PARTS);
        families.into_iter().find_map(|family| {
            let dots = family.matches('.').count();
            let (at, _) = key.match_indices('.').nth(dots - 1)?;
            nearest(&key[..at], [family.trim_end_matches('.')]).filter(|_| at + 1 < key.len())?;
            Some(format!("{family}{}", &key[at + 1..]))
        })
    }
}

/// An issue with a value that came from a reference says so instead of showing it (invariant 9).
pub(crate) fn hide(issue: &mut Issue, config: &Flat, resolved: &Resolved) {
    let references: Vec<&str> =
        config.get(&issue.path).map(references).unwrap_or_default().iter().map(|reference| reference.text).collect();
    if !references.is_empty() && !matches!(issue.code.as_str(), "config.unknown_key" | "config.missing" | "config.no_effect") {
        issue.message = format!("what {} stands for is not allowed here", references.join(" and "));
        // "did you mean" would tell about the value.
        issue.fix = issue.fix.take().map(|fix| match fix.split_once("? Or ") {
            Some((_, choice)) => choice.to_owned(),
            None => fix,
        });
    }
    issue.message = resolved.redact(std::mem::take(&mut issue.message));
    issue.fix = issue.fix.take().map(|fix| resolved.redact(fix));
}

/// By place, each once.
fn in_order(mut issues: Vec<Issue>, config: &Flat) -> Vec<Issue> {
    config.locate(&mut issues);
    let mut seen = BTreeSet::new();
    issues.retain(|issue| seen.insert((issue.path.clone(), issue.code.clone(), issue.message.clone())));
    let order = |issue: &Issue| config.entries.get_index_of(&issue.path).unwrap_or(usize::MAX);
    issues.sort_by_key(|issue| (issue.location.as_ref().map(|at| (at.line, at.column)), order(issue)));
    issues
}

/// True for an option that is only another name of one.
pub fn is_alias(option: &aqueduct_core::OptionSpec) -> bool {
    option.format.as_deref() == Some(ALIAS)
}
