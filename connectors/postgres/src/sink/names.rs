//! Names: of tables from topics, of columns from fields.

use std::borrow::Cow;

/// `table.name.format`, cut up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Format {
    parts: Vec<Part>,
    /// Debezium's rule: dots of the topic become underscores.
    underscores: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Fixed(String),
    Topic,
    /// A field of the envelope's `source`.
    Source(String),
}

impl Format {
    /// # Errors
    /// What is wrong, as a sentence.
    pub(super) fn parse(text: &str, underscores: bool) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text.trim());
        while let Some(start) = rest.find("${") {
            let end = rest[start..].find('}').ok_or_else(|| format!("{text:?} has a ${{ without its }}"))? + start;
            if start > 0 {
                parts.push(Part::Fixed(rest[..start].to_owned()));
            }
            parts.push(match &rest[start + 2..end] {
                "topic" => Part::Topic,
                name => match name.strip_prefix("source.") {
                    Some(field) if !field.is_empty() => Part::Source(field.to_owned()),
                    _ => return Err(format!("{text:?} has ${{{name}}}, which means nothing here")),
                },
            });
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Fixed(rest.to_owned()));
        }
        if parts.is_empty() { Err("is empty".to_owned()) } else { Ok(Self { parts, underscores }) }
    }

    /// One topic is one table: the name does not depend on the record.
    pub(super) fn by_topic(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Source(_)))
    }

    /// The fields of `source` that are in it.
    pub(super) fn source_fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Source(field) => Some(&**field),
            _ => None,
        })
    }

    /// `None`: the record has no such field in its `source`.
    pub(super) fn name<'a>(&self, topic: &str, source: impl Fn(&str) -> Option<Cow<'a, str>>) -> Option<String> {
        let mut name = String::with_capacity(topic.len() + 16);
        for part in &self.parts {
            match part {
                Part::Fixed(text) => name.push_str(text),
                Part::Topic if self.underscores => name.push_str(&topic.replace('.', "_")),
                Part::Topic => name.push_str(topic),
                Part::Source(field) => name.push_str(&source(field)?),
            }
        }
        Some(name)
    }
}

/// A table as it is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TableName {
    /// `None`: by the session's search path.
    pub(super) schema: Option<String>,
    pub(super) table: String,
}

impl TableName {
    /// The last two parts of a dotted name, as both families take it; what is before (a database, a prefix) is left out. Parts may be quoted.
    pub(super) fn parse(text: &str, fold: bool) -> Self {
        let mut parts: Vec<String> = Vec::new();
        let (mut part, mut quoted) = (String::new(), false);
        let done = |part: &mut String, was_quoted: bool| {
            let part = std::mem::take(part);
            if fold && !was_quoted { part.to_lowercase() } else { part }
        };
        let (mut chars, mut was_quoted) = (text.chars().peekable(), false);
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    part.push('"');
                }
                '"' => {
                    quoted = !quoted;
                    was_quoted = true;
                }
                '.' if !quoted => {
                    parts.push(done(&mut part, was_quoted));
                    was_quoted = false;
                }
                c => part.push(c),
            }
        }
        parts.push(done(&mut part, was_quoted));
        let table = parts.pop().unwrap_or_default();
        Self { schema: parts.pop().filter(|schema| !schema.is_empty()), table }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

/// Which fields become columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    include: Vec<Entry>,
    exclude: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    topic: Option<String>,
    field: String,
}

impl Filter {
    pub(super) fn new(whitelist: &[String], include: &[String], exclude: &[String]) -> Self {
        let entry = |text: &String| match text.split_once(':') {
            Some((topic, field)) => Entry { topic: Some(topic.trim().to_owned()), field: field.trim().to_owned() },
            None => Entry { topic: None, field: text.trim().to_owned() },
        };
        let plain = |field: &String| Entry { topic: None, field: field.clone() };
        Self {
            include: whitelist.iter().map(plain).chain(include.iter().map(entry)).collect(),
            exclude: exclude.iter().map(entry).collect(),
        }
    }

    pub(super) fn keeps(&self, topic: &str, field: &str) -> bool {
        let matches = |entry: &Entry| entry.field == field && entry.topic.as_deref().is_none_or(|of| of == topic);
        if !self.exclude.is_empty() {
            !self.exclude.iter().any(matches)
        } else {
            self.include.is_empty() || self.include.iter().any(matches)
        }
    }
}

/// The server cuts longer names, silently: two could become one.
pub(super) const NAME_MAX_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_its_table() {
        let none = |_: &str| None;
        let name =
            |format: &str, underscores, topic: &str| Format::parse(format, underscores).unwrap().name(topic, none).unwrap();
        assert_eq!(name("${topic}", false, "shop.public.orders"), "shop.public.orders");
        assert_eq!(name("copy.${topic}_x", true, "shop.public.orders"), "copy.shop_public_orders_x");
        let source = |field: &str| (field == "table").then_some(Cow::Borrowed("t"));
        let format = Format::parse("${source.table}_${topic}", false).unwrap();
        assert_eq!(format.name("a", source).as_deref(), Some("t_a"));
        assert!(!format.by_topic());
        assert_eq!(Format::parse("${source.schema}", false).unwrap().name("a", source), None);
        for wrong in ["", "${topic", "${table}", "${source.}"] {
            assert!(Format::parse(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dotted_names() {
        let parse = |text: &str, fold| {
            let name = TableName::parse(text, fold);
            (name.schema, name.table)
        };
        let two = |schema: &str, table: &str| (Some(schema.to_owned()), table.to_owned());
        assert_eq!(parse("shop.public.Orders", false), two("public", "Orders"));
        assert_eq!(parse("Public.Orders", true), two("public", "orders"));
        assert_eq!(parse("\"A.b\".\"c\"\"D\"", true), two("A.b", "c\"D"));
        assert_eq!(parse("orders", false), (None, "orders".to_owned()));
    }

    #[test]
    fn filters() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let include = Filter::new(&list(&["a"]), &list(&["t:b"]), &[]);
        assert!(include.keeps("x", "a") && include.keeps("t", "b") && !include.keeps("x", "b") && !include.keeps("t", "c"));
        let exclude = Filter::new(&[], &[], &list(&["t:b"]));
        assert!(exclude.keeps("x", "b") && !exclude.keeps("t", "b"));
        assert!(Filter::default().keeps("x", "y"));
    }
}
