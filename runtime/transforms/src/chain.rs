//! `transforms` and `predicates` of a connector: built once, applied to each batch in order.

use crate::converters::options as typed;
use crate::parts::{self, PartKind, find, find_version};
use crate::predicates::{Predicate, When};
use crate::transforms::{self, Apply};
use aqueduct_config::{list::split_list, nearest};
use aqueduct_core::{Batch, Issue, Measure, Options, Rejects, Result, Transform, TransformPlugin};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The transforms of one task. Where a transform has a predicate, records that the predicate does not select pass it unchanged, in their place.
#[derive(Default)]
pub struct Chain(Vec<Step>);

struct Step {
    /// As in `transforms`.
    name: String,
    transform: Applied,
    when: When,
}

enum Applied {
    BuiltIn(Box<dyn Apply>),
    /// Of a plugin.
    Plugin(Box<dyn Transform>),
}

/// The options that every transform has beside its own.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct StepConfig {
    /// The class, or its short name such as `RegexRouter` or `InsertField$Value`.
    #[serde(rename = "type")]
    #[schemars(extend("x-format" = "class", "x-importance" = "high"))]
    class: String,
    /// The name of a predicate: only records that it selects are transformed.
    #[serde(default)]
    predicate: Option<String>,
    /// Transform the records that the predicate does not select.
    #[serde(default)]
    negate: bool,
}

/// The option that every predicate has beside its own.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct PredicateStepConfig {
    /// The class, or its short name such as `TopicNameMatches`.
    #[serde(rename = "type")]
    #[schemars(extend("x-format" = "class", "x-importance" = "high"))]
    class: String,
}

/// More would be a mistake in a generated config; each costs a pass over every batch.
const STEPS_MAX: usize = 100;

impl Chain {
    /// Reads `transforms`, `transforms.<name>.*`, `predicates` and `predicates.<name>.*`; other keys are not looked at, and unknown keys below
    /// these are not judged: see [`crate::unknown_keys`].
    ///
    /// # Errors
    /// Every issue.
    pub fn new(options: &Options) -> Result<Self, Vec<Issue>> {
        let mut issues = Vec::new();
        let mut predicates = BTreeMap::new();
        for name in names(options, "predicates", &mut issues) {
            let path = format!("predicates.{name}");
            match predicate(&path, &below(options, &path)) {
                Ok(predicate) => drop(predicates.insert(name, Some(predicate))),
                Err(found) => {
                    predicates.insert(name, None);
                    issues.extend(found);
                }
            }
        }
        let mut steps = Vec::new();
        for name in names(options, "transforms", &mut issues) {
            let path = format!("transforms.{name}");
            match step(&path, &below(options, &path), &predicates) {
                Ok(step) => steps.extend(step.map(|(transform, when)| Step { name: name.to_owned(), transform, when })),
                Err(found) => issues.extend(found),
            }
        }
        if issues.is_empty() { Ok(Self(steps)) } else { Err(issues) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In transforms.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[async_trait]
impl Transform for Chain {
    async fn apply(&mut self, mut batch: Batch, rejects: &mut Rejects) -> Result<Batch> {
        for step in &mut self.0 {
            batch = match &mut step.transform {
                Applied::BuiltIn(transform) => transform.apply(batch, &mut step.when, rejects),
                Applied::Plugin(transform) => apply_plugin(transform.as_mut(), batch, &mut step.when, rejects).await?,
            };
        }
        Ok(batch)
    }

    /// Each with the name of its transform.
    fn measures(&self) -> Vec<Measure> {
        let of_step = |step: &Step| match &step.transform {
            Applied::BuiltIn(_) => Vec::new(),
            Applied::Plugin(plugin) => {
                plugin.measures().into_iter().map(|measure| measure.label("transform", &step.name)).collect()
            }
        };
        self.0.iter().flat_map(of_step).collect()
    }
}

/// Runs of records that the predicate selects go to the plugin, the others pass in their place.
async fn apply_plugin(plugin: &mut dyn Transform, batch: Batch, when: &mut When, rejects: &mut Rejects) -> Result<Batch> {
    let selected: Vec<bool> = batch.iter().map(|record| when.selects(record)).collect();
    if selected.iter().all(|selected| *selected) {
        return plugin.apply(batch, rejects).await;
    }
    let (mut out, mut from) = (Batch::new(), 0);
    for run in selected.chunk_by(|a, b| a == b) {
        let part = batch.slice(from..from + run.len());
        from += run.len();
        out.append(if run[0] { plugin.apply(part, rejects).await? } else { part });
    }
    Ok(out)
}

/// The plugins among the transforms of a config, in its order, as they would be taken now. What is wrong with it is left out.
pub fn plugins_of(options: &Options) -> Vec<Arc<dyn TransformPlugin>> {
    let plugin = |name: &str| {
        let own = below(options, &format!("transforms.{name}"));
        let version = own.get("plugin.version").map(String::as_str);
        parts::plugin(find_version(PartKind::Transformation, own.get("type")?.trim(), version, name).ok()?)
    };
    names(options, "transforms", &mut Vec::new()).into_iter().filter_map(plugin).collect()
}

/// The names in a list such as `transforms`, each once.
pub(crate) fn names<'a>(options: &'a Options, key: &str, issues: &mut Vec<Issue>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in options.get(key).map(|text| split_list(text)).unwrap_or_default() {
        if names.contains(&name) {
            issues.push(
                Issue::error(key, "config.duplicate", format!("{name} is in the list twice"))
                    .fix("name each once; two of a class need two names"),
            );
        } else {
            names.push(name);
        }
    }
    if names.len() > STEPS_MAX {
        issues.push(Issue::error(key, "config.range", format!("has {} names, more than {STEPS_MAX}", names.len())));
        names.truncate(STEPS_MAX);
    }
    names
}

/// What is below `path.`, without it.
pub(crate) fn below(options: &Options, path: &str) -> Options {
    let prefix = format!("{path}.");
    let members = options.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    members.map(|(key, value)| (key[prefix.len()..].to_owned(), value.clone())).collect()
}

fn predicate(path: &str, own: &Options) -> Result<Predicate, Vec<Issue>> {
    let config: PredicateStepConfig = typed(path, own)?;
    let part = find(PartKind::Predicate, config.class.trim(), &format!("{path}.type"))?;
    Predicate::new(part.class, path, own)
}

/// `None` when its predicate has issues of its own, already reported.
fn step(
    path: &str,
    own: &Options,
    predicates: &BTreeMap<&str, Option<Predicate>>,
) -> Result<Option<(Applied, When)>, Vec<Issue>> {
    let config: StepConfig = typed(path, own)?;
    let mut issues = Vec::new();
    let mut take = |result: Result<Applied, Vec<Issue>>| result.map_err(|found| issues.extend(found)).ok();
    let version = own.get("plugin.version").map(String::as_str);
    let transform = match find_version(PartKind::Transformation, config.class.trim(), version, path) {
        Ok(part) => take(match parts::plugin(part) {
            Some(plugin) => plugin
                .build(own)
                .map(Applied::Plugin)
                .map_err(|found| found.into_iter().map(|issue| below_path(path, issue)).collect()),
            None => transforms::build(part.class, path, own).map(Applied::BuiltIn),
        }),
        Err(found) => take(Err(found)),
    };
    let at = format!("{path}.predicate");
    let predicate = match config.predicate.as_deref().map(str::trim) {
        None if config.negate => {
            let issue = Issue::error(format!("{path}.negate"), "config.missing", "negates a predicate, but none is named");
            issues.push(issue.fix(format!("add `{at}: …`, or remove negate")));
            None
        }
        None => None,
        Some(name) => match predicates.get(name) {
            Some(Some(predicate)) => Some(predicate.clone()),
            Some(None) => return if issues.is_empty() { Ok(None) } else { Err(issues) },
            None => {
                let issue = Issue::error(&at, "config.unknown_predicate", format!("no predicate is called {name:?}"));
                issues.push(match nearest(name, predicates.keys().copied()) {
                    Some(near) => issue.fix(format!("did you mean {near}?")),
                    None => issue.fix(format!("add {name} to `predicates`, and `predicates.{name}.type`")),
                });
                None
            }
        },
    };
    match transform {
        Some(transform) if issues.is_empty() => Ok(Some((transform, When::new(predicate, config.negate)))),
        _ => Err(issues),
    }
}

fn below_path(path: &str, issue: Issue) -> Issue {
    let path = if issue.path.is_empty() { path.to_owned() } else { format!("{path}.{}", issue.path) };
    Issue { path, ..issue }
}

#[cfg(test)]
mod tests;
