//! Renames topics, chunk by chunk: nothing is done for each record unless a predicate looks at records.

use super::{Apply, each};
use crate::converters::options as typed;
use crate::parts::{PartDescriptor, transform};
use crate::predicates::{When, whole};
use aqueduct_config::Regex;
use aqueduct_core::{Batch, Issue, Options, Rejects, Result, Topic};
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) const CLASS: &str = "org.apache.kafka.connect.transforms.RegexRouter";

/// Topics that are remembered; a source that makes more names than this pays the regex again.
const ROUTES_MAX: usize = 1000;

#[derive(Debug, Deserialize, JsonSchema)]
struct Config {
    /// A regular expression over the topic's whole name; topics that it does not match keep their name.
    #[schemars(extend("x-importance" = "high", "x-group" = "Transform", "x-example" = "(.*)-raw"))]
    regex: Regex,
    /// The new name; `$1` or `${name}` stands for what a group matched.
    #[schemars(extend("x-importance" = "high", "x-group" = "Transform", "x-example" = "$1-clean"))]
    replacement: String,
}

pub(super) fn part() -> PartDescriptor {
    transform::<Config>(CLASS, "Renames topics by a regular expression.")
}

pub(super) struct RegexRouter {
    whole: regex::Regex,
    find: regex::Regex,
    replacement: Vec<Piece>,
    routes: FxHashMap<Topic, Option<Topic>>,
}

/// A part of a replacement.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl RegexRouter {
    pub(super) fn new(path: &str, own: &Options) -> Result<Self, Vec<Issue>> {
        let config: Config = typed(path, own)?;
        let find = (*config.regex).clone();
        let whole = whole(&config.regex).map_err(|why| vec![Issue::error(format!("{path}.regex"), "config.regex", why)])?;
        let replacement = pieces(&config.replacement, &find).map_err(|why| {
            let issue = Issue::error(format!("{path}.replacement"), "config.replacement", why);
            vec![issue.fix("$1 or ${name} names a group of the regex; write \\$ for a dollar sign")]
        })?;
        Ok(Self { whole, find, replacement, routes: FxHashMap::default() })
    }

    /// `None`: the topic keeps its name.
    fn route(&mut self, topic: &Topic) -> Option<Topic> {
        if let Some(route) = self.routes.get(topic) {
            return route.clone();
        }
        let route = self.renamed(topic).map(Topic::from);
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(topic.clone(), route.clone());
        route
    }

    /// As `Matcher.matches` and then `replaceFirst`, which starts over and may find less than the whole.
    fn renamed(&self, topic: &str) -> Option<String> {
        if !self.whole.is_match(topic) {
            return None;
        }
        let found = self.find.captures(topic)?;
        let range = found.get(0)?.range();
        let mut name = topic[..range.start].to_owned();
        for piece in &self.replacement {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Group(group) => name.push_str(found.get(*group).map_or("", |group| group.as_str())),
            }
        }
        name.push_str(&topic[range.end..]);
        Some(name)
    }
}

impl Apply for RegexRouter {
    fn apply(&mut self, mut batch: Batch, when: &mut When, rejects: &mut Rejects) -> Batch {
        if batch.chunks().iter().all(|chunk| when.selects_topic(&chunk.topic).is_some()) {
            // Cheap clones of the name: an `Arc` for each chunk.
            batch.rename_topics(|topic| {
                let topic = self.routes.get_key_value(topic).map_or_else(|| Topic::from(topic), |(known, _)| known.clone());
                if when.selects_topic(&topic) == Some(true) { self.route(&topic) } else { None }
            });
            return batch;
        }
        each(batch, when, rejects, CLASS, |record| {
            if let Some(topic) = self.route(&record.topic) {
                record.topic = topic;
            }
            Ok(())
        })
    }
}

/// A replacement in Java's syntax (`Matcher.appendReplacement`): `$12` is group 12 if there is one, else group 1 and a 2.
fn pieces(text: &str, regex: &regex::Regex) -> Result<Vec<Piece>, String> {
    let (mut out, mut plain) = (Vec::new(), String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let group = match c {
            '\\' => {
                plain.push(rest.next().ok_or("ends in a backslash with nothing to escape")?);
                continue;
            }
            '$' if rest.peek() == Some(&'{') => {
                rest.next();
                let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                let found = regex.capture_names().position(|group| group == Some(&name));
                found.ok_or_else(|| format!("the regex has no group called {name:?}"))?
            }
            '$' => {
                let digit = |c: &char| c.to_digit(10).map(|digit| digit as usize);
                let mut group = rest.peek().and_then(digit).ok_or("has a $ that names no group")?;
                rest.next();
                while let Some(wider) =
                    rest.peek().and_then(digit).map(|digit| group * 10 + digit).filter(|wider| *wider < regex.captures_len())
                {
                    group = wider;
                    rest.next();
                }
                if group >= regex.captures_len() {
                    return Err(format!("the regex has no group {group}"));
                }
                group
            }
            other => {
                plain.push(other);
                continue;
            }
        };
        if !plain.is_empty() {
            out.push(Piece::Text(std::mem::take(&mut plain)));
        }
        out.push(Piece::Group(group));
    }
    if !plain.is_empty() {
        out.push(Piece::Text(plain));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(regex: &str, replacement: &str) -> Result<RegexRouter, Vec<Issue>> {
        let own = [("regex", regex), ("replacement", replacement)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        RegexRouter::new("transforms.r", &own.into())
    }

    #[test]
    fn names_are_those_of_kafka_connect() {
        for (regex, replacement, topic, renamed) in [
            // From RegexRouterTest of Apache Kafka.
            ("(.*)", "$1", "orig", Some("orig")),
            ("(.*)", "prefix-$1", "orig", Some("prefix-orig")),
            ("(.*)", "$1-suffix", "orig", Some("orig-suffix")),
            ("(.*)-(\\d\\d\\d\\d\\d\\d\\d\\d)", "$1", "index-20160117", Some("index")),
            ("foo(.*)", "$1", "orig", None),
            // Java's ways.
            ("(o)rig", "$12", "orig", Some("o2")),
            ("(?<a>o)(r)?(x)?ig", "${a}_$3_$2_\\$1\\\\", "orig", Some("o__r_$1\\")),
            ("rig", "x", "orig", None),
            ("o|orig", "x", "orig", Some("xrig")),
        ] {
            assert_eq!(router(regex, replacement).unwrap().renamed(topic).as_deref(), renamed, "{regex} {replacement}");
        }
    }

    #[test]
    fn a_wrong_replacement_is_an_issue() {
        for replacement in ["$2", "$", "${x}", "a\\", "$x"] {
            let issues = router("(a)", replacement).err().unwrap();
            assert_eq!(
                (issues[0].path.as_str(), issues[0].code.as_str()),
                ("transforms.r.replacement", "config.replacement"),
                "{replacement}"
            );
        }
    }
}
