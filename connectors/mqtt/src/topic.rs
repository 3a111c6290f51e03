//! Topics of MQTT: names, filters and what their wildcards capture, and the names that the log gets.

use aqueduct_core::offset::is_valid_topic_name;
use mqtt_proto::{TopicFilter, TopicName};
use uuid::Uuid;

/// Whether it can be published to.
///
/// # Errors
/// What is wrong, as a sentence's end.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is empty")
    } else if name.len() > usize::from(u16::MAX) {
        Err("has more than 65,535 bytes")
    } else if name.contains(['+', '#']) {
        Err("has a wildcard (+ or #)")
    } else if name.contains('\0') {
        Err("has a NUL")
    } else if name.starts_with('$') {
        Err("begins with $, which is the broker's own")
    } else if TopicName::is_invalid(name) {
        Err("is none")
    } else {
        Ok(())
    }
}

/// What a source subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// As it was given, `$share/group/…` with it.
    text: String,
    /// Without the group.
    levels: Vec<String>,
    pub shared: bool,
}

impl Filter {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let filter = TopicFilter::try_from(text).map_err(|_| format!("{text:?} is not a topic filter"))?;
        let plain = filter.shared_filter().unwrap_or(text);
        Ok(Self { text: text.to_owned(), levels: plain.split('/').map(str::to_owned).collect(), shared: filter.is_shared() })
    }

    /// As a subscription: of a group, when several tasks share the work.
    pub(crate) fn subscription(&self, group: Option<&str>) -> String {
        match group.filter(|_| !self.shared) {
            Some(group) => format!("$share/{group}/{}", self.text),
            None => self.text.clone(),
        }
    }

    /// How many wildcards it has.
    pub(crate) fn wildcards(&self) -> usize {
        self.levels.iter().filter(|level| *level == "+" || *level == "#").count()
    }

    /// What the wildcards stand for, in their order; `None` when the topic does not match.
    pub(crate) fn captures<'a>(&self, topic: &'a str) -> Option<Vec<&'a str>> {
        let mut captures = Vec::new();
        let mut rest = Some(topic);
        for level in &self.levels {
            if level == "#" {
                // `a/#` matches `a` too.
                captures.push(rest.unwrap_or(""));
                return Some(captures);
            }
            let (head, tail) = match rest?.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (rest?, None),
            };
            match level.as_str() {
                "+" => captures.push(head),
                name if name == head => {}
                _ => return None,
            }
            rest = tail;
        }
        rest.is_none().then_some(captures)
    }
}

/// A text with `${topic}` and `${1}`, `${2}`, …: what the wildcards of the filter stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    /// From 0.
    Capture(usize),
}

impl Template {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find("${") {
            let Some(end) = rest[at..].find('}') else { return Err(format!("{text:?} has a ${{ that is not closed")) };
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let name = &rest[at + 2..at + end];
            parts.push(match name.parse::<usize>() {
                _ if name == "topic" => Part::Topic,
                Ok(number @ 1..) => Part::Capture(number - 1),
                _ => {
                    return Err(format!(
                        "{text:?} names ${{{name}}}; there are ${{topic}}, and ${{1}}, ${{2}}, … for the wildcards of the filter"
                    ));
                }
            });
            rest = &rest[at + end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The highest capture it names, from 1; 0 for none.
    pub(crate) fn captures(&self) -> usize {
        self.0.iter().map(|part| if let Part::Capture(number) = part { number + 1 } else { 0 }).max().unwrap_or(0)
    }

    pub(crate) fn apply(&self, topic: &str, captures: &[&str]) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Topic => topic.to_owned(),
            Part::Capture(number) => captures.get(*number).copied().unwrap_or_default().to_owned(),
        };
        self.0.iter().map(part).collect()
    }
}

/// Kafka's limit.
const LOG_TOPIC_MAX: usize = 249;

/// A topic's name in the log: levels are parted by dots, and what Kafka does not allow is `_`. Always valid, whatever a device publishes to.
pub(crate) fn log_topic(name: &str) -> String {
    let fit = |c: char| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
        _ => '_',
    };
    let mut fitting: String = name.chars().map(fit).collect();
    if fitting.len() > LOG_TOPIC_MAX {
        fitting.truncate(LOG_TOPIC_MAX - 33);
        fitting.push_str(&format!("-{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple()));
    }
    if is_valid_topic_name(&fitting) { fitting } else { "_".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn captures_of_wildcards() {
        let captures = |filter: &str, topic: &'static str| Filter::parse(filter).unwrap().captures(topic);
        assert_eq!(captures("fleet/+/pos", "fleet/7/pos"), Some(vec!["7"]));
        assert_eq!(captures("fleet/+/pos", "fleet/7/speed"), None);
        assert_eq!(captures("fleet/+/pos", "fleet/7/pos/x"), None);
        assert_eq!(captures("fleet/+", "fleet/"), Some(vec![""]));
        assert_eq!(captures("a/#", "a/b/c"), Some(vec!["b/c"]));
        assert_eq!(captures("a/#", "a"), Some(vec![""]));
        assert_eq!(captures("+/b/#", "a/b/c/d"), Some(vec!["a", "c/d"]));
        assert_eq!(captures("$share/g/a/+", "a/b"), Some(vec!["b"]));
        assert_eq!(captures("a", "a"), Some(vec![]));
        for wrong in ["", "a/#/b", "a+/b", "a\0", "$share/g", "$share//a"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Filter::parse("a/+").unwrap().subscription(Some("g")), "$share/g/a/+");
        assert_eq!(Filter::parse("$share/x/a").unwrap().subscription(Some("g")), "$share/x/a");
    }

    #[test]
    fn templates() {
        let apply = |text: &str| Template::parse(text).map(|template| template.apply("fleet/7/pos", &["7"]));
        assert_eq!(apply("pos-${1}"), Ok("pos-7".into()));
        assert_eq!(apply("${topic}"), Ok("fleet/7/pos".into()));
        assert_eq!(apply("x${2}y"), Ok("xy".into()));
        assert_eq!(apply(""), Ok(String::new()));
        assert!(apply("${0}").is_err() && apply("${x}").is_err() && apply("a${1").is_err());
        assert_eq!(Template::parse("${3}-${1}").unwrap().captures(), 3);
    }

    #[test]
    fn names_in_the_log() {
        assert_eq!(log_topic("fleet/7/pos"), "fleet.7.pos");
        assert_eq!((log_topic(".."), log_topic(""), log_topic("a b/é")), ("_".into(), "_".into(), "a_b._".into()));
        let (long, other) = ("x".repeat(300), format!("{}y", "x".repeat(299)));
        assert!(log_topic(&long).len() == 249 && log_topic(&long) != log_topic(&other));
    }

    proptest! {
        #[test]
        fn every_topic_has_a_name_in_the_log(name in "\\PC{0,300}") {
            prop_assert!(is_valid_topic_name(&log_topic(&name)));
        }

        #[test]
        fn templates_never_panic(text in "[a-z0-9${}]{0,20}") {
            let _ = Template::parse(&text).map(|template| template.apply("t", &["1"]));
        }
    }
}
