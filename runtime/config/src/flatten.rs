//! The one function between a tree and Kafka Connect's flat map, and back.

use crate::document::{Document, Entry, KEY_CHARS_MAX, Node, Place, Value};
use crate::list::join_list;
use aqueduct_core::issue::Location;
use aqueduct_core::{Issue, Options};
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};

/// A flat config and where its keys and values stand.
#[derive(Clone, Debug, Default)]
pub struct Flat {
    /// As written, in order; references (`${env:X}`) unresolved.
    pub entries: IndexMap<String, String>,
    /// Empty for a config that came over REST.
    pub file: String,
    /// Of the whole document.
    pub place: Place,
    /// Key and value; also of keys without a value.
    pub places: HashMap<String, (Place, Place)>,
    /// Keys whose values could not be read: what else is said about them is void.
    pub broken: HashSet<String>,
}

impl Flat {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(String::as_str)
    }

    pub fn to_options(&self) -> Options {
        self.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Where an issue about `path` belongs: the key, else the nearest key that starts like it, else the document.
    pub fn location(&self, path: &str) -> Option<Location> {
        if self.file.is_empty() {
            return None;
        }
        let mut prefix = path;
        loop {
            if let Some((key, _)) = self.places.get(prefix) {
                return Some(key.in_file(&self.file));
            }
            // A key of the same family, such as `transforms.a.*` for a missing `transforms.a.type`.
            let within = format!("{prefix}.");
            let mut family: Vec<_> =
                self.places.iter().filter(|(key, _)| !prefix.is_empty() && key.starts_with(&within)).collect();
            family.sort_by_key(|(_, (place, _))| (place.line, place.column));
            if let Some((_, (place, _))) = family.first() {
                return Some(place.in_file(&self.file));
            }
            match prefix.rfind('.') {
                Some(dot) => prefix = &prefix[..dot],
                None => return Some(self.place.in_file(&self.file)),
            }
        }
    }

    /// Gives every issue without a place the place of its path.
    pub fn locate(&self, issues: &mut [Issue]) {
        for issue in issues.iter_mut().filter(|issue| issue.location.is_none()) {
            issue.location = self.location(&issue.path);
        }
    }
}

impl From<IndexMap<String, String>> for Flat {
    fn from(entries: IndexMap<String, String>) -> Self {
        Self { entries, ..Self::default() }
    }
}

impl From<&Options> for Flat {
    fn from(options: &Options) -> Self {
        Self { entries: options.iter().map(|(key, value)| (key.clone(), value.clone())).collect(), ..Self::default() }
    }
}

/// Nested maps become dotted keys, lists comma lists; text stays as it is.
///
/// `transforms:` and `predicates:` may be maps from a name to its options; their order is the order of the list. `{"name": …, "config": {…}}`
/// (what one posts to Kafka Connect) is taken as the config.
pub fn flatten(document: &Document) -> (Flat, Vec<Issue>) {
    let flat = Flat { file: document.file.clone(), place: document.root.place, ..Flat::default() };
    let mut walk = Walk { flat, issues: Vec::new() };
    match &document.root.value {
        Value::Map(entries) => match posted(entries) {
            Some((name, config)) => {
                if let Some(name) = name {
                    walk.entry("", name);
                }
                walk.posted_config(config);
            }
            None => entries.iter().for_each(|entry| walk.entry("", entry)),
        },
        _ => {
            let issue = Issue::error("", "config.shape", "a connector's config is a map of keys and values");
            walk.push(issue.fix("begin with `name: …` and `connector.class: …`"), document.root.place);
        }
    }
    (walk.flat, walk.issues)
}

/// The name and the config of a body as `POST /connectors` takes it.
fn posted(entries: &[Entry]) -> Option<(Option<&Entry>, &Entry)> {
    let known = |entry: &Entry| ["name", "config", "initial_state"].contains(&entry.key.as_str());
    let config = entries.iter().find(|entry| entry.key == "config" && matches!(entry.value.value, Value::Map(_)))?;
    entries.iter().all(known).then(|| (entries.iter().find(|entry| entry.key == "name"), config))
}

struct Walk {
    flat: Flat,
    issues: Vec<Issue>,
}

impl Walk {
    fn push(&mut self, mut issue: Issue, place: Place) {
        if !self.flat.file.is_empty() {
            issue.location = Some(place.in_file(&self.flat.file));
        }
        self.issues.push(issue);
    }

    fn posted_config(&mut self, config: &Entry) {
        let Value::Map(inner) = &config.value.value else { return };
        let name = self.flat.entries.get("name").cloned();
        for entry in inner {
            // The name may stand in both places, if it is the same.
            let same = entry.key == "name" && matches!((&entry.value.value, &name), (Value::Text(a), Some(b)) if a == b);
            if !same {
                self.entry("", entry);
            }
        }
    }

    fn entry(&mut self, prefix: &str, entry: &Entry) {
        let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
        if path.chars().count() > KEY_CHARS_MAX {
            let message = format!("a key has more than {KEY_CHARS_MAX} characters");
            self.push(Issue::error("", "config.yaml_key", message).fix("write the name of an option"), entry.place);
            return;
        }
        match &entry.value.value {
            Value::Null => {
                self.flat.places.entry(path.clone()).or_insert((entry.place, entry.value.place));
                let issue = Issue::warning(&path, "config.null", "has no value and is left out");
                self.push(issue.fix("write \"\" for an empty text, or remove the line"), entry.place);
            }
            Value::Text(text) => self.insert(path, text.clone(), entry),
            Value::List(items) => self.list(path, items, entry),
            Value::Map(inner) => {
                if prefix.is_empty() && matches!(path.as_str(), "transforms" | "predicates") {
                    let mut names = Vec::new();
                    for one in inner {
                        let name = one.key.split('.').next().unwrap_or_default();
                        if !names.contains(&name) {
                            names.push(name);
                        }
                    }
                    match join_list(&names) {
                        Ok(list) => self.insert(path.clone(), list, entry),
                        Err(name) => {
                            let issue = Issue::error(&path, "config.list", format!("{name:?} cannot be a name in a list"));
                            self.push(issue.fix("use letters, digits, - and _"), entry.place);
                        }
                    }
                }
                inner.iter().for_each(|one| self.entry(&path, one));
            }
        }
    }

    fn list(&mut self, path: String, items: &[Node], entry: &Entry) {
        self.flat.places.entry(path.clone()).or_insert((entry.place, entry.value.place));
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            if !matches!(item.value, Value::Text(_)) {
                self.flat.broken.insert(path.clone());
            }
            match &item.value {
                Value::Text(text) => texts.push(text.as_str()),
                Value::Null => {
                    self.push(Issue::error(&path, "config.list", "an element of the list is empty").fix("remove it"), item.place);
                    return;
                }
                Value::List(_) | Value::Map(_) => {
                    let issue = Issue::error(&path, "config.list", "an element of the list is itself a list or map");
                    let fix = match path.as_str() {
                        "transforms" | "predicates" => "write a map: each name with its options below it",
                        _ => "a list has plain values only",
                    };
                    self.push(issue.fix(fix), item.place);
                    return;
                }
            }
        }
        match join_list(&texts) {
            Ok(list) => self.insert(path, list, entry),
            Err(element) => {
                self.flat.broken.insert(path.clone());
                let why = if element.is_empty() { "is empty" } else { "has a comma, or white space at an end" };
                let place = items
                    .iter()
                    .find(|item| matches!(&item.value, Value::Text(text) if text == element))
                    .map_or(entry.place, |i| i.place);
                let issue =
                    Issue::error(&path, "config.list", format!("an element of the list {why}, which a comma list cannot hold"));
                self.push(issue.fix("write each element by itself, without commas and without white space around it"), place);
            }
        }
    }

    fn insert(&mut self, path: String, text: String, entry: &Entry) {
        if let Some((earlier, _)) = self.flat.places.get(&path).filter(|_| self.flat.entries.contains_key(&path)) {
            let line = earlier.line;
            let issue = Issue::error(
                &path,
                "config.duplicate_key",
                format!("is given twice: also on line {line} (nested and dotted keys are the same)"),
            );
            self.push(issue.fix("remove one of them"), entry.place);
            return;
        }
        self.flat.places.insert(path.clone(), (entry.place, entry.value.place));
        self.flat.entries.insert(path, text);
    }
}

/// Nested maps where that is possible: a key that is also the beginning of another stays dotted.
pub fn unflatten(entries: &IndexMap<String, String>) -> Node {
    let mut root = Vec::new();
    for (key, text) in entries {
        // `a` and `a.b`, or an empty segment: no tree has both.
        let nests = |parent: &str| !entries.contains_key(parent) && !matches!(parent, "transforms" | "predicates");
        let (mut parents, mut done) = (Vec::new(), 0);
        while let Some(dot) = key[done..].find('.') {
            let end = done + dot;
            let segment = &key[done..end];
            let odd = segment.trim().is_empty() || segment == "<<" || end + 1 == key.len();
            if odd || !nests(&key[..end]) || parents.len() == crate::document::DEPTH_MAX / 2 {
                break;
            }
            parents.push(segment);
            done = end + 1;
        }
        if key[done..].trim().is_empty() {
            (parents, done) = (Vec::new(), 0);
        }
        hang(&mut root, &parents, &key[done..], text);
    }
    Node { value: Value::Map(root), place: Place::default() }
}

fn hang(children: &mut Vec<Entry>, parents: &[&str], key: &str, text: &str) {
    let Some((first, rest)) = parents.split_first() else {
        children.push(Entry { key: key.to_owned(), place: Place::default(), value: Node::text(text) });
        return;
    };
    let at = children.iter().position(|child| child.key == *first && matches!(child.value.value, Value::Map(_)));
    let at = at.unwrap_or_else(|| {
        let value = Node { value: Value::Map(Vec::new()), place: Place::default() };
        children.push(Entry { key: (*first).to_owned(), place: Place::default(), value });
        children.len() - 1
    });
    if let Value::Map(inner) = &mut children[at].value.value {
        hang(inner, rest, key, text);
    }
}

/// YAML text of a tree; reading it gives the same tree.
pub fn to_yaml(node: &Node) -> String {
    let mut out = String::new();
    write_yaml(node, 0, &mut out);
    out
}

fn write_yaml(node: &Node, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match &node.value {
        Value::Map(entries) if entries.is_empty() => out.push_str(&format!("{pad}{{}}\n")),
        Value::Map(entries) => {
            for entry in entries {
                out.push_str(&format!("{pad}{}:", yaml_text(&entry.key)));
                match &entry.value.value {
                    Value::Text(text) => out.push_str(&format!(" {}\n", yaml_text(text))),
                    Value::Null => out.push_str(" null\n"),
                    Value::Map(inner) if inner.is_empty() => out.push_str(" {}\n"),
                    Value::List(inner) if inner.is_empty() => out.push_str(" []\n"),
                    _ => {
                        out.push('\n');
                        write_yaml(&entry.value, indent + 1, out);
                    }
                }
            }
        }
        Value::List(items) => {
            for item in items {
                match &item.value {
                    Value::Text(text) => out.push_str(&format!("{pad}- {}\n", yaml_text(text))),
                    _ => {
                        out.push_str(&format!("{pad}-\n"));
                        write_yaml(item, indent + 1, out);
                    }
                }
            }
        }
        Value::Text(text) => out.push_str(&format!("{pad}{}\n", yaml_text(text))),
        Value::Null => out.push_str(&format!("{pad}null\n")),
    }
}

/// A scalar: plain where that is safe to every YAML reader, else in double quotes.
pub fn yaml_text(text: &str) -> String {
    let safe = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '.' | '_' | '-' | '/' | '+' | '$' | '(' | ')' | ';' | '=' | '^' | '<' | '~' | ' ')
    };
    let starts = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '^' | '$');
    let word = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"].iter().any(|w| text.eq_ignore_ascii_case(w));
    let plain = text.starts_with(starts) && text.chars().all(safe) && !text.starts_with("...") && !text.ends_with(' ');
    // Other readers would take these for booleans; in our own configs they are text either way.
    if plain && (!word || matches!(text, "true" | "false")) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::read;
    use proptest::prelude::*;
    use std::time::Instant;

    fn flat_of(text: &str) -> (IndexMap<String, String>, Vec<String>) {
        let (documents, mut issues) = read("t.yaml", text);
        let mut entries = IndexMap::new();
        for document in &documents {
            let (flat, more) = flatten(document);
            entries.extend(flat.entries);
            issues.extend(more);
        }
        (entries, issues.iter().map(ToString::to_string).collect())
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        let (entries, issues) = flat_of(text);
        assert_eq!(issues, Vec::<String>::new());
        entries.into_iter().collect()
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_example_of_the_design() {
        let text = "name: orders-cdc\nconnector.class: postgres-source  # a comment\ntasks.max: 1\n\
            database: {hostname: localhost, password: \"${env:PGPASSWORD}\"}\ntable.include.list: [public.orders, public.items]\n\
            transforms:\n  unwrap: {type: ExtractNewRecordState}\n  a.type: X\n  a:\n    b: c\n";
        assert_eq!(
            pairs(text),
            owned(&[
                ("name", "orders-cdc"),
                ("connector.class", "postgres-source"),
                ("tasks.max", "1"),
                ("database.hostname", "localhost"),
                ("database.password", "${env:PGPASSWORD}"),
                ("table.include.list", "public.orders,public.items"),
                ("transforms", "unwrap,a"),
                ("transforms.unwrap.type", "ExtractNewRecordState"),
                ("transforms.a.type", "X"),
                ("transforms.a.b", "c"),
            ])
        );
    }

    #[test]
    fn scalars_stay_as_written() {
        let text = "a: no\nb: 1e3\nc: 0x1F\nd: 1.10\ne: 2024-01-01\nf: '007'\ng: True\nh: 1_000\ni: \"\"\nj: ${env:X}\nk: |\n  x\n  y\nl: .inf\nm: 'null'\nn: !!str 5\no: 'it''s'\n";
        assert_eq!(
            pairs(text),
            owned(&[
                ("a", "no"),
                ("b", "1e3"),
                ("c", "0x1F"),
                ("d", "1.10"),
                ("e", "2024-01-01"),
                ("f", "007"),
                ("g", "True"),
                ("h", "1_000"),
                ("i", ""),
                ("j", "${env:X}"),
                ("k", "x\ny\n"),
                ("l", ".inf"),
                ("m", "null"),
                ("n", "5"),
                ("o", "it's"),
            ])
        );
    }

    #[test]
    fn json_properties_and_posted_bodies_are_the_same() {
        let expected = owned(&[("name", "a"), ("connector.class", "X"), ("tasks.max", "2"), ("x", "😀\té")]);
        let body = "{\n\t\"name\": \"a\",\n\t\"config\": {\"name\": \"a\", \"connector.class\": \"X\", \"tasks.max\": 2, \"x\": \"\\ud83d\\ude00\\t\\u00e9\"}}";
        let properties = "# c\nname=a\nconnector.class : X\n! c\ntasks.max 2\nx=\\ud83d\\ude00\\\n   \\t\\u00e9\n";
        for (file, text) in [("t.json", body), ("t.properties", properties)] {
            let (documents, issues) = read(file, text);
            assert_eq!(issues, Vec::new());
            let (flat, issues) = flatten(&documents[0]);
            assert_eq!(issues, Vec::new());
            assert_eq!(flat.entries.into_iter().collect::<Vec<_>>(), expected, "{file}");
        }
    }

    #[test]
    fn each_document_is_a_connector() {
        let (documents, issues) = read("t.yaml", "---\nname: a\n---\n# nothing\n---\nname: b\n...\n");
        assert_eq!((documents.len(), issues), (2, Vec::new()));
        assert_eq!(documents[1].root.place, Place { line: 6, column: 1 });
    }

    #[test]
    fn issues_have_a_place() {
        for (text, expected) in [
            ("a: 1\na: 2", "t.yaml:2:1: a: is given twice: also on line 1; remove one of them [config.duplicate_key]"),
            (
                "a:\n  b: 1\na.b: 2",
                "t.yaml:3:1: a.b: is given twice: also on line 2 (nested and dotted keys are the same); remove one of them [config.duplicate_key]",
            ),
            (
                "a:\nb: 1",
                "t.yaml:1:1: a: has no value and is left out; write \"\" for an empty text, or remove the line [config.null]",
            ),
            ("a: !!python/object:os.system x", "t.yaml:1:"),
            ("a: [x, 'b,c']", "t.yaml:1:8: a: an element of the list has a comma"),
            ("a: [{b: c}]", "t.yaml:1:5: a: an element of the list is itself a list or map"),
            ("- a\n- b", "t.yaml:1:1: a connector's config is a map"),
            ("a: &x [*x]", "t.yaml:1:8: an anchor contains itself"),
            ("a: *nope", "t.yaml:1:4: not valid YAML"),
            ("a: b: c", "t.yaml:1:5: not valid YAML"),
            ("a:\n\tb: c", "t.yaml:2:"),
            ("a: {{ x }}", "t.yaml:1:5: a list, map or alias cannot be a key"),
            ("<<: 5", "t.yaml:1:1: << can only merge maps"),
            ("# nothing", "t.yaml:1:1: the file has no connector in it"),
        ] {
            let (_, issues) = flat_of(text);
            assert!(issues.first().is_some_and(|issue| issue.starts_with(expected)), "{text:?}: {issues:?}");
        }
    }

    #[test]
    fn merges_and_aliases() {
        let text = "base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\nlist: [*s, b]\n".replace("*s", "a");
        assert_eq!(pairs(&text), owned(&[("base.x", "1"), ("base.y", "2"), ("other.y", "3"), ("other.x", "1"), ("list", "a,b")]));
    }

    #[test]
    fn bombs_are_refused_at_once() {
        let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..20 {
            let last = n - 1;
            laughs.push_str(&format!(
                "a{n}: &a{n} [*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last}]\n"
            ));
        }
        let long = "x".repeat(500_000);
        let texts = [
            ("config.yaml_bomb", laughs),
            ("config.yaml_bomb", format!("a: &a {long}\nb: [{}]", "*a,".repeat(90))),
            ("config.yaml_bomb", format!("a: &a x\nb: [{}]", "*a,".repeat(200))),
            ("config.yaml_bomb", "a: [".to_owned() + &"x,".repeat(150_000) + "]"),
            ("config.too_deep", "[".repeat(200) + &"]".repeat(200)),
            ("config.too_deep", "{a: ".repeat(200) + &"}".repeat(200)),
            ("config.too_deep", (0..200).map(|n| " ".repeat(n) + "a:\n").collect::<String>()),
            ("config.syntax", "[".repeat(500_000)),
            ("config.syntax", "{a: ".repeat(200_000)),
            ("config.too_large", "a: ".to_owned() + &"x".repeat(2 << 20)),
            ("config.syntax", "a: \"".to_owned() + &"\\".repeat(900_001)),
            ("config.yaml_key", format!("? {}\n: {{a: 1}}", "k".repeat(100_000))),
            ("config.syntax", "a: &".repeat(100_000)),
            ("config.syntax", "%TAG ! x\n".repeat(100_000)),
        ];
        for (code, text) in texts {
            let start = Instant::now();
            let (_, issues) = flat_of(&text);
            let took = start.elapsed();
            let begin: String = text.chars().take(30).collect();
            assert!(
                issues.iter().any(|issue| issue.ends_with(&format!("[{code}]")) || code == "config.syntax"),
                "{begin}: {issues:?}"
            );
            assert!(!issues.is_empty(), "{begin}");
            println!("{took:?} {begin}");
            // Milliseconds alone, and less than a second on a machine that is busy: what is not bounded takes minutes.
            assert!(took.as_secs() < 10, "{begin} took {took:?}");
        }
    }

    fn flat_map() -> impl Strategy<Value = IndexMap<String, String>> {
        let key = prop_oneof![
            prop::collection::vec("[a-z]{1,3}", 1..5).prop_map(|parts| parts.join(".")),
            "[a-zA-Z0-9 :#.<*&!%@{},\\[\\]'\"-]{1,12}".prop_filter("blank", |key| !key.trim().is_empty()),
        ];
        let value = prop_oneof![
            "[a-z0-9.]{0,8}",
            any::<String>(),
            Just("no".to_owned()),
            Just("null".to_owned()),
            Just("${env:X}".to_owned())
        ];
        prop::collection::vec((key, value), 0..12).prop_map(|pairs| {
            pairs
                .into_iter()
                .filter(|(key, _)| !["config", "transforms", "predicates"].iter().any(|k| key.starts_with(k)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn unflatten_then_yaml_then_flatten_is_identity(entries in flat_map()) {
            let text = to_yaml(&unflatten(&entries));
            let (again, issues) = flat_of(&text);
            prop_assert_eq!(&issues, &Vec::<String>::new(), "{}", &text);
            prop_assert_eq!(&again, &entries, "{}", &text);
            // A flat config is its own flattening.
            let document = |entries: &IndexMap<String, String>| Document {
                file: String::new(),
                root: Node { value: Value::Map(entries.iter().map(|(k, v)| Entry { key: k.clone(), place: Place::default(), value: Node::text(v) }).collect()), place: Place::default() },
            };
            prop_assert_eq!(&flatten(&document(&entries)).0.entries, &entries);
        }

        #[test]
        fn no_text_makes_it_panic(text in r"([a-c\[\]{}&*!:,#\-?|>%@'\x22\\ \t\n<~]|\PC){0,60}") {
            for file in ["t.yaml", "t.json", "t.properties"] {
                for document in read(file, &text).0 {
                    flatten(&document);
                }
            }
        }
    }
}
