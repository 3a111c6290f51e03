//! The list of what differs on purpose: `request :: difference :: reason` on each line, `*` stands for any text in the first two.

use std::fs;
use std::path::Path;

pub struct Expected(Vec<Entry>);

struct Entry {
    request: String,
    difference: String,
    line: String,
    used: bool,
}

pub fn load(file: &Path) -> Expected {
    let text = fs::read_to_string(file).expect("the list is beside the battery");
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let entry = |line: &str| match line.splitn(3, " :: ").collect::<Vec<_>>()[..] {
        [request, difference, reason] if reason.trim().len() > 10 => {
            Entry { request: request.to_owned(), difference: difference.to_owned(), line: line.to_owned(), used: false }
        }
        _ => panic!("`{line}` is not `request :: difference :: reason`"),
    };
    Expected(lines.map(entry).collect())
}

impl Expected {
    /// True when a line of the list gives a reason.
    pub fn explains(&self, request: &str, difference: &str) -> bool {
        self.0.iter().any(|entry| entry.is_about(request, difference))
    }

    /// Every line that gives a reason counts as used.
    pub fn use_for(&mut self, request: &str, differences: &[String]) {
        for entry in &mut self.0 {
            entry.used |= differences.iter().any(|difference| entry.is_about(request, difference));
        }
    }

    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|entry| !entry.used).map(|entry| entry.line.as_str())
    }
}

impl Entry {
    fn is_about(&self, request: &str, difference: &str) -> bool {
        is_like(request, &self.request) && is_like(difference, &self.difference)
    }
}

/// `*` in the pattern is any text, also none.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((piece, more)) = rest.split_once('*') {
        let Some(at) = text.find(piece) else { return false };
        (text, rest) = (&text[at + piece.len()..], more);
    }
    text.ends_with(rest)
}

#[test]
fn stars_are_any_text() {
    for (text, pattern) in [("abc", "abc"), ("abc", "a*"), ("abc", "*c"), ("abc", "*"), ("abcabc", "a*b*c"), ("a*", "a*")] {
        assert!(is_like(text, pattern), "{text} {pattern}");
    }
    for (text, pattern) in [("abc", "ab"), ("abc", "b*"), ("abc", "*b"), ("abc", "a*x*c"), ("ab", "ab*b")] {
        assert!(!is_like(text, pattern), "{text} {pattern}");
    }
}
