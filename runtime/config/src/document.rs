//! YAML, JSON and properties text to a tree with the place of every key and value, within limits.

use aqueduct_core::Issue;
use aqueduct_core::issue::Location;
use serde_yaml::granit_parser::{Event, Marker, Options as ParserOptions, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// A config is small; these stop bombs long before they cost anything (a refused bomb takes milliseconds).
pub const FILE_BYTES_MAX: usize = 1 << 20;
pub const DEPTH_MAX: usize = 64;
pub const NODES_MAX: usize = 50_000;
pub const ALIASES_MAX: usize = 100;
/// Text that aliases repeat, beyond what the file itself holds.
pub const ALIAS_BYTES_MAX: usize = 4 << 20;
pub const KEY_CHARS_MAX: usize = 1000;

/// 1-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    pub fn in_file(self, file: &str) -> Location {
        Location { file: file.to_owned(), line: self.line, column: self.column }
    }
}

impl From<&Marker> for Place {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub place: Place,
}

/// Scalars are text exactly as written: `no`, `1e3`, `0x1F`, `1.10` and dates stay what they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// One document of a file: one connector.
#[derive(Clone, Debug)]
pub struct Document {
    pub file: String,
    pub root: Node,
}

impl Node {
    pub fn text(text: impl Into<String>) -> Self {
        Self { value: Value::Text(text.into()), place: Place::default() }
    }

    /// Numbers and booleans become the text that JSON has for them.
    pub fn from_json(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry { key: key.clone(), place: Place::default(), value: Node::from_json(value) })
                    .collect(),
            ),
            other => Value::Text(other.to_string()),
        };
        Self { value, place: Place::default() }
    }
}

/// The documents of a file, by its ending: `.json`, `.properties`, else YAML. Documents that could be read are returned also when there are
/// issues with others.
pub fn read(file: &str, text: &str) -> (Vec<Document>, Vec<Issue>) {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has more than {FILE_BYTES_MAX} bytes, the most that a config may have");
        return (Vec::new(), vec![Issue::error("", "config.too_large", message).fix("is this the right file?").at(first(file))]);
    }
    if file.ends_with(".properties") {
        let (root, issues) = properties(file, text);
        return (vec![Document { file: file.to_owned(), root }], issues);
    }
    if file.ends_with(".json") {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            let at = Location { file: file.to_owned(), line: error.line().max(1), column: error.column().max(1) };
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            return (
                Vec::new(),
                vec![
                    Issue::error("", "config.syntax", format!("not valid JSON: {message}"))
                        .fix("check the commas, quotes and brackets before this place")
                        .at(at),
                ],
            );
        }
        // JSON allows tabs where YAML does not; in JSON's strings they cannot occur.
        return yaml(file, &text.replace('\t', " "));
    }
    yaml(file, text)
}

fn first(file: &str) -> Location {
    Place { line: 1, column: 1 }.in_file(file)
}

fn yaml(file: &str, text: &str) -> (Vec<Document>, Vec<Issue>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = ParserOptions::default();
    options.emit_comments = false;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { file, parser, issues: Vec::new(), anchors: HashMap::new(), nodes: 0, aliases: 0, alias_bytes: 0 };
    let mut documents = Vec::new();
    match reader.documents(&mut documents) {
        Ok(()) if documents.is_empty() => {
            reader.issues.push(
                Issue::warning("", "config.empty", "the file has no connector in it")
                    .fix("begin with `name: …` and `connector.class: …`")
                    .at(first(file)),
            );
        }
        Ok(()) => {}
        Err(Stop::Scan(error)) => {
            let issue = syntax_issue(file, text, &error);
            reader.issues.push(issue);
        }
        Err(Stop::Refused(issue)) => reader.issues.push(*issue),
    }
    (documents, reader.issues)
}

enum Stop {
    Scan(ScanError),
    Refused(Box<Issue>),
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Stop::Scan(error)
    }
}

struct Anchor {
    node: Node,
    nodes: usize,
    bytes: usize,
}

struct Reader<'a> {
    file: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    issues: Vec<Issue>,
    /// `None` while the anchor's own node is being read.
    anchors: HashMap<usize, Option<Anchor>>,
    nodes: usize,
    aliases: usize,
    alias_bytes: usize,
}

impl<'a> Reader<'a> {
    fn documents(&mut self, documents: &mut Vec<Document>) -> Result<(), Stop> {
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next?;
            match event {
                Event::DocumentStart(..) | Event::StreamStart | Event::Comment(..) => {}
                Event::DocumentEnd => self.anchors.clear(),
                Event::StreamEnd => break,
                event => {
                    let root = self.node(event, span, 0)?;
                    if root.value != Value::Null {
                        documents.push(Document { file: self.file.to_owned(), root });
                    }
                }
            }
        }
        Ok(())
    }

    fn refuse(&self, span: &Span, code: &str, message: String, fix: &str) -> Stop {
        Stop::Refused(Box::new(Issue::error("", code, message).fix(fix).at(Place::from(&span.start).in_file(self.file))))
    }

    fn note(&mut self, place: Place, code: &str, message: String, fix: &str) {
        self.issues.push(Issue::error("", code, message).fix(fix).at(place.in_file(self.file)));
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.parser.next_event() {
            Some(next) => Ok(next?),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        let place = Place::from(&span.start);
        if depth > DEPTH_MAX {
            return Err(self.refuse(
                &span,
                "config.too_deep",
                format!("nested deeper than {DEPTH_MAX} levels"),
                "write dotted keys instead",
            ));
        }
        self.count(1, &span)?;
        let before = self.nodes;
        let (value, anchor, bytes) = match event {
            Event::Alias(id) => return self.alias(id, &span),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.check_tag(tag.as_deref(), place);
                let null = tag.as_deref().is_some_and(|tag| tag.is_yaml_core_schema_tag("null"));
                let bytes = text.len();
                let value = if null || plain && is_null(&text) { Value::Null } else { Value::Text(text.into_owned()) };
                (value, anchor, bytes)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                self.open_anchor(anchor);
                let start = self.parser_bytes(&span);
                let (items, end) = self.list(depth)?;
                (Value::List(items), anchor, end.saturating_sub(start))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                self.open_anchor(anchor);
                let start = self.parser_bytes(&span);
                let (entries, end) = self.map(depth)?;
                (Value::Map(entries), anchor, end.saturating_sub(start))
            }
            other => return Err(self.refuse(&span, "config.syntax", format!("unexpected {other:?}"), "check the indentation")),
        };
        let node = Node { value, place };
        if anchor != 0 {
            // What a subtree holds is at most what its source text and its aliases hold.
            let bytes = bytes + self.alias_bytes;
            self.anchors.insert(anchor, Some(Anchor { node: node.clone(), nodes: self.nodes - before + 1, bytes }));
        }
        Ok(node)
    }

    fn parser_bytes(&self, span: &Span) -> usize {
        span.start.byte_offset().unwrap_or(span.start.index())
    }

    fn open_anchor(&mut self, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        let fix = "a connector's config has a few dozen keys; is this the right file?";
        Err(self.refuse(span, "config.yaml_bomb", format!("more than {NODES_MAX} values once aliases are expanded"), fix))
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Node, Stop> {
        self.aliases += 1;
        let (nodes, bytes) = match self.anchors.get(&id) {
            Some(Some(anchor)) => (anchor.nodes, anchor.bytes),
            _ => {
                return Err(self.refuse(
                    span,
                    "config.yaml_cycle",
                    "an anchor contains itself".into(),
                    "remove the alias (*) inside its own anchor (&)",
                ));
            }
        };
        self.alias_bytes += bytes;
        if self.aliases > ALIASES_MAX || self.alias_bytes > ALIAS_BYTES_MAX {
            let message = format!("more than {ALIASES_MAX} aliases or {ALIAS_BYTES_MAX} bytes of aliased text");
            return Err(self.refuse(span, "config.yaml_bomb", message, "write the values out"));
        }
        self.count(nodes, span)?;
        let mut node = match self.anchors.get(&id) {
            Some(Some(anchor)) => anchor.node.clone(),
            _ => Node { value: Value::Null, place: Place::default() },
        };
        node.place = Place::from(&span.start);
        Ok(node)
    }

    fn check_tag(&mut self, tag: Option<&Tag>, place: Place) {
        let known = |tag: &Tag| {
            ["str", "int", "float", "bool", "null", "map", "seq"].iter().any(|suffix| tag.is_yaml_core_schema_tag(suffix))
        };
        if let Some(tag) = tag.filter(|tag| !known(tag) && tag.original() != "!") {
            let message = format!("the YAML tag {} is not allowed", tag.original().chars().take(60).collect::<String>());
            self.note(place, "config.yaml_tag", message, "remove the tag: values are plain text");
        }
    }

    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, usize), Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, span) => return Ok((items, span.end.byte_offset().unwrap_or(span.end.index()))),
                (Event::Comment(..), _) => {}
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<(Vec<Entry>, usize), Stop> {
        let (mut entries, mut merges) = (Vec::<Entry>::new(), Vec::new());
        let mut seen = HashMap::<String, Place>::new();
        loop {
            let (event, span) = self.next()?;
            let place = Place::from(&span.start);
            let key = match event {
                Event::MappingEnd => {
                    self.merge(&mut entries, seen, merges);
                    return Ok((entries, span.end.byte_offset().unwrap_or(span.end.index())));
                }
                Event::Comment(..) => continue,
                Event::Scalar(text, style, 0, None) => Some((text, style)),
                Event::Scalar(text, style, ..) => {
                    self.note(
                        place,
                        "config.yaml_key",
                        "an anchor or a tag on a key is not allowed".into(),
                        "write the key as plain text",
                    );
                    Some((text, style))
                }
                event => {
                    let fix = "quote the value if it begins with { or [; keys are plain text";
                    self.note(place, "config.yaml_key", "a list, map or alias cannot be a key".into(), fix);
                    self.node(event, span, depth + 1)?;
                    None
                }
            };
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            let Some((key, style)) = key else { continue };
            if &*key == "<<" && style == ScalarStyle::Plain {
                merges.push((place, value));
                continue;
            }
            if let Some(key) = self.check_key(key, place)
                && self.is_first(&mut seen, &key, place)
            {
                entries.push(Entry { key, place, value });
            }
        }
    }

    fn check_key(&mut self, key: Cow<'_, str>, place: Place) -> Option<String> {
        let bad = match key.as_ref() {
            key if key.trim().is_empty() => Some("a key is empty".to_owned()),
            key if key.chars().count() > KEY_CHARS_MAX => Some(format!("a key has more than {KEY_CHARS_MAX} characters")),
            key if key.chars().any(char::is_control) => Some("a key has a control character in it".to_owned()),
            _ => None,
        };
        match bad {
            Some(message) => self.note(place, "config.yaml_key", message, "write the name of an option before the colon"),
            None => return Some(key.into_owned()),
        }
        None
    }

    fn is_first(&mut self, seen: &mut HashMap<String, Place>, key: &str, place: Place) -> bool {
        match seen.get(key) {
            None => {
                seen.insert(key.to_owned(), place);
                true
            }
            Some(earlier) => {
                let message = format!("is given twice: also on line {}", earlier.line);
                let issue =
                    Issue::error(key, "config.duplicate_key", message).fix("remove one of them").at(place.in_file(self.file));
                self.issues.push(issue);
                false
            }
        }
    }

    /// `<<: *defaults`: what is written out wins, then the earlier merge.
    fn merge(&mut self, entries: &mut Vec<Entry>, seen: HashMap<String, Place>, merges: Vec<(Place, Node)>) {
        let mut seen: std::collections::HashSet<String> = seen.into_keys().collect();
        for (place, node) in merges {
            let sources = match node.value {
                Value::List(items) => items,
                _ => vec![node],
            };
            for source in sources {
                let Value::Map(merged) = source.value else {
                    self.note(
                        place,
                        "config.yaml_merge",
                        "<< can only merge maps".into(),
                        "give it an alias of a map: <<: *defaults",
                    );
                    continue;
                };
                for entry in merged {
                    if seen.insert(entry.key.clone()) {
                        entries.push(entry);
                    }
                }
            }
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn syntax_issue(file: &str, text: &str, error: &ScanError) -> Issue {
    let place = Place::from(error.marker());
    let line = text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
    let reason = error.info();
    let fix = if line.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces, not with tabs"
    } else if reason.contains("mapping values are not allowed") {
        "check the indentation, and quote values that contain `: `"
    } else if line.contains(": %") || line.contains(": @") || line.contains(": `") {
        "quote the value"
    } else if reason.contains("unknown anchor") {
        "quote the value if it begins with * and is no alias"
    } else {
        "check the indentation, quotes and brackets on this line and the one before"
    };
    Issue::error("", "config.syntax", format!("not valid YAML: {reason}")).fix(fix).at(place.in_file(file))
}

/// Java properties, as Kafka Connect's own files are: `key=value`, `key: value`, comments, continued lines, `\u00e9`.
fn properties(file: &str, text: &str) -> (Node, Vec<Issue>) {
    let (mut entries, mut seen, mut issues) = (Vec::new(), HashMap::new(), Vec::new());
    for (line, key, value) in properties_lines(text) {
        let place = Place { line, column: 1 };
        if let Some(earlier) = seen.insert(key.clone(), line) {
            let message = format!("is given twice: also on line {earlier}");
            issues.push(Issue::error(&key, "config.duplicate_key", message).fix("remove one of them").at(place.in_file(file)));
            continue;
        }
        entries.push(Entry { key, place, value: Node { value: Value::Text(value), place } });
    }
    (Node { value: Value::Map(entries), place: Place { line: 1, column: 1 } }, issues)
}

/// `(line, key, value)` of each property, in order.
pub(crate) fn properties_lines(text: &str) -> Vec<(usize, String, String)> {
    let (mut out, mut lines) = (Vec::new(), text.lines().enumerate());
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while (logical.len() - logical.trim_end_matches('\\').len()) & 1 == 1 {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        let mut escaped = false;
        let end = logical.char_indices().find(|(_, c)| {
            let is_end = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
            escaped = !escaped && *c == '\\';
            is_end
        });
        let (key, rest) = logical.split_at(end.map_or(logical.len(), |(at, _)| at));
        let rest = rest.trim_start();
        let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
        out.push((index + 1, unescape(key), unescape(rest)));
    }
    out
}

fn unescape(text: &str) -> String {
    let mut units = Vec::<u16>::with_capacity(text.len());
    let mut chars = text.chars();
    let mut buffer = [0; 2];
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                    continue;
                }
                Some(other) => other,
                None => continue,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut buffer));
    }
    String::from_utf16_lossy(&units)
}
