//! Issues for people: file, line, the place in the text, what to do.

use aqueduct_core::{Issue, issue::Severity};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use regex::{Captures, Regex};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For files and pipes: no escape codes.
    Plain,
    Coloured,
}

/// Lines are wrapped here: wider than most messages, narrower than most terminals.
const WIDTH: usize = 120;

/// Nobody reads more at once; and each scans its file.
const ISSUES_MAX: usize = 200;
/// Longer lines, of generated files, are not shown.
const LINE_BYTES_MAX: usize = 500;

/// `source` gives the text of a file that an issue is about; without it there is no snippet.
pub fn render(issues: &[Issue], source: &dyn Fn(&str) -> Option<String>, style: Style) -> String {
    let theme = match style {
        Style::Plain => GraphicalTheme::unicode_nocolor(),
        Style::Coloured => GraphicalTheme::unicode(),
    };
    let report = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(WIDTH).with_context_lines(1);
    let mut texts = HashMap::<&str, Option<Arc<str>>>::new();
    let mut out = String::new();
    for issue in &issues[..issues.len().min(ISSUES_MAX)] {
        let file = issue.location.as_ref().map_or("", |at| at.file.as_str());
        let text = texts
            .entry(file)
            .or_insert_with(|| (!file.is_empty()).then(|| source(file))?.map(|text| without_secrets(&text).into()))
            .clone();
        let shown = Shown::new(issue, text);
        if report.render_report(&mut out, &shown).is_err() {
            out.push_str(&format!("{issue}\n"));
        }
        // A report ends with a blank line only when it has a snippet.
        let end = out.trim_end().len();
        out.truncate(end);
        out.push_str("\n\n");
    }
    if let Some(more @ 1..) = issues.len().checked_sub(ISSUES_MAX) {
        out.push_str(&format!("… and {more} more\n\n"));
    }
    out
}

/// The text with stars for the values of keys that sound like a secret: a snippet shows the lines around an issue as well, and what a terminal or a
/// build shows is read by others. References stay. Places stay where they are: each character becomes one star.
fn without_secrets(text: &str) -> String {
    static SECRET: LazyLock<Regex> = LazyLock::new(|| {
        let key = r"(?:pass?word|passwd|masked|secret|token|credential|authorization|api\.?key|jaas\.config|private\.?key|keystore\.key)";
        // A value without quotes ends with its line: where in a flow map it ends by itself is not worth guessing.
        let value = r#""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s"'][^\n]*"#;
        Regex::new(&format!(r#"(?i)({key}[\w.-]*["']?[ \t]*[:=][ \t]*)({value})"#)).expect("a pattern in the source compiles")
    });
    let hide = |found: &Captures<'_>| {
        let (key, value) = (&found[1], found[2].trim_end());
        let bare = value.trim_matches(['"', '\'', ',', '}', ' ']);
        let reference = bare.starts_with("${") && !bare.contains('}');
        let rest = &found[2][value.len()..];
        if reference { found[0].to_owned() } else { format!("{key}{}{rest}", "*".repeat(value.chars().count())) }
    };
    SECRET.replace_all(text, hide).into_owned()
}

#[derive(Debug)]
struct Shown<'a> {
    issue: &'a Issue,
    source: Option<NamedSource<Arc<str>>>,
    /// In bytes.
    span: Option<(usize, usize)>,
}

impl<'a> Shown<'a> {
    fn new(issue: &'a Issue, text: Option<Arc<str>>) -> Self {
        let at = issue.location.as_ref();
        let span = at.zip(text.as_ref()).and_then(|(at, text)| span_of(text, at.line, at.column));
        let source = at.zip(text).map(|(at, text)| NamedSource::new(&at.file, text)).filter(|_| span.is_some());
        Self { issue, source, span }
    }
}

/// The word at a line and a column in characters, both from 1.
fn span_of(text: &str, line: usize, column: usize) -> Option<(usize, usize)> {
    let begin: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let around = text.lines().skip(line.saturating_sub(2)).take(3);
    if around.into_iter().any(|line| line.len() > LINE_BYTES_MAX) {
        return None;
    }
    let rest = text.get(begin..)?.lines().next().unwrap_or_default();
    // A place behind the end of its line, or of the file, is shown at the end.
    let at = rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at);
    let word = &rest[at..];
    let len = match word.chars().next() {
        Some(quote @ ('"' | '\'')) => word[1..].find(quote).map_or(1, |end| end + 2),
        Some(_) => word.find(|c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']')).unwrap_or(word.len()),
        None => 0,
    };
    let len = if word[..len].ends_with(':') { len - 1 } else { len };
    Some((begin + at, len))
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (None, Some(at)) = (self.span, &self.issue.location) {
            write!(f, "{at}: ")?;
        }
        match self.issue.path.as_str() {
            "" => f.write_str(&self.issue.message),
            path => write!(f, "{path}: {}", self.issue.message),
        }
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.issue.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.issue.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.issue.fix.as_ref().map(|fix| Box::new(fix) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (start, len) = self.span?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, start, len))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::issue::Location;

    #[test]
    fn an_issue_is_shown_in_its_place() {
        let text = "name: é\ntasks.mx: 1\ntopic: t\n";
        let at = |line, column| Location { file: "c/é.yaml".into(), line, column };
        let issues = [
            Issue::error("tasks.mx", "config.unknown_key", "is no option of file-source")
                .fix("did you mean tasks.max?")
                .at(at(2, 1)),
            Issue::warning("", "config.empty", "nothing here").at(at(9, 9)),
            Issue::error("x", "config.missing", "is required"),
        ];
        let source = |file: &str| (file == "c/é.yaml").then(|| text.to_owned());
        let plain = render(&issues, &source, Style::Plain);
        let expected = "\
config.unknown_key

  × tasks.mx: is no option of file-source
   ╭─[c/é.yaml:2:1]
 1 │ name: é
 2 │ tasks.mx: 1
   · ────────
 3 │ topic: t
   ╰────
  help: did you mean tasks.max?
";
        assert!(plain.starts_with(expected), "{plain}");
        assert!(plain.contains("⚠ nothing here") && plain.ends_with("× x: is required\n\n"), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        assert!(render(&issues, &source, Style::Coloured).contains('\u{1b}'));
    }

    #[test]
    fn a_snippet_shows_no_secret() {
        for (line, shown) in [
            ("connection.password: h\u{fc}nter2", "connection.password: *******"),
            (r#"  "http.auth.token": "ab\"c", "x": 1"#, r#"  "http.auth.token": *******, "x": 1"#),
            ("database: {user: u, password: 'a, b', port: 1}", "database: {user: u, password: ******, port: 1}"),
            ("database: {password: a, b}", "database: {password: *****"),
            ("sasl.jaas.config=x y=\"z\"", "sasl.jaas.config=*******"),
            ("auth.password: ${env:PW}", "auth.password: ${env:PW}"),
            ("database: {password: \"${file:/a:b}\"}", "database: {password: \"${file:/a:b}\"}"),
            // Misspelt it is no less secret.
            ("auth.pasword: 'a'", "auth.pasword: ***"),
            ("query.masked: SELECT 1", "query.masked: ********"),
            ("topic: tokens", "topic: tokens"),
            ("auth.password:", "auth.password:"),
        ] {
            assert_eq!(without_secrets(&format!("{line}\nnext: 1\n")), format!("{shown}\nnext: 1\n"));
        }
    }

    #[test]
    fn what_is_shown_has_bounds() {
        let at = |line| Location { file: "f".into(), line, column: 1 };
        let issues: Vec<Issue> = (0..300).map(|n| Issue::error("k", "c.d", "bad").at(at(n % 3 + 1))).collect();
        let text = format!("a\nb\n{}\n", "x".repeat(1000));
        let shown = render(&issues, &|_| Some(text.clone()), Style::Plain);
        assert!(shown.ends_with("… and 100 more\n\n") && !shown.contains("xxx"), "{shown}");
        assert!(shown.contains("× f:3:1: k: bad"), "a place is said also where it is not shown: {shown}");
    }

    #[test]
    fn every_place_has_a_span() {
        for text in ["", "a", "é: \"x y\", b\n\n", "a:\r\n b: [c, d]"] {
            for line in 0..5 {
                for column in 0..12 {
                    if let Some((start, len)) = span_of(text, line, column) {
                        assert!(text.get(start..start + len).is_some(), "{text:?} {line} {column}");
                    }
                }
            }
        }
    }
}
