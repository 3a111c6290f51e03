//! What the tailer needs to know; made from the options once.

use super::family::share;
use super::lines::Delimiter;
use aqueduct_core::{Error, Result, Topic};
use encoding_rs::Encoding;
use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use regex::bytes::Regex;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) struct Settings {
    pub(crate) topic: Topic,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) exclude: GlobSet,
    /// Skip what is there at the first start.
    pub(crate) from_end: bool,
    pub(crate) delimiter: Delimiter,
    pub(crate) charset: &'static Encoding,
    pub(crate) max_line: usize,
    pub(crate) overlong: Overlong,
    pub(crate) multiline: Option<Multiline>,
    pub(crate) partial_after: Option<Duration>,
    pub(crate) key_file: bool,
    pub(crate) headers: bool,
    pub(crate) decompress: bool,
    /// A file that was renamed or deleted is done when nothing came for this long: its writer may still hold it.
    pub(crate) quiet: Duration,
    pub(crate) fail_on_lost: bool,
    pub(crate) poll_interval: Duration,
    pub(crate) forget_after: Duration,
    pub(crate) max_open: usize,
    /// FileStreamSource's `batch.size`, in records.
    pub(crate) batch_records: usize,
    /// This task's share: index and count.
    pub(crate) share: (u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overlong {
    Fail,
    Cut,
    Drop,
    /// To this topic, cut to the maximum.
    DeadLetter(Topic),
}

pub(crate) struct Multiline {
    pub(crate) pattern: Regex,
    /// The pattern says which lines start a record; otherwise, which lines continue one.
    pub(crate) starts: bool,
    pub(crate) timeout: Duration,
    pub(crate) max_lines: usize,
    pub(crate) max_bytes: usize,
}

pub(crate) enum Pattern {
    Literal(PathBuf),
    /// The folder that the walk starts in, how deep it goes, and what a path must look like.
    Glob {
        base: PathBuf,
        depth: usize,
        matcher: GlobMatcher,
    },
}

impl Pattern {
    /// A text with one of `*?[{` is a glob.
    pub(crate) fn parse(text: &str) -> Result<Self, globset::Error> {
        if !text.contains(['*', '?', '[', '{']) {
            return Ok(Pattern::Literal(PathBuf::from(text)));
        }
        let matcher = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()?.compile_matcher();
        let parts: Vec<&str> = text.split('/').collect();
        let fixed = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{'])).count();
        let base = match parts[..fixed].join("/") {
            base if base.is_empty() && text.starts_with('/') => PathBuf::from("/"),
            base if base.is_empty() => PathBuf::from("."),
            base => PathBuf::from(base),
        };
        // A brace may hold slashes: then the depth is not known either.
        let deep = text.contains("**") || parts.iter().any(|part| part.matches('{').count() != part.matches('}').count());
        // 32: a walk that follows links must end.
        let depth = if deep { 32 } else { parts.len() - fixed };
        Ok(Pattern::Glob { base, depth, matcher })
    }
}

/// A pattern without a slash is for the file's name alone, wherever it is.
pub(crate) fn exclusion<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
        set.add(GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build()?);
    }
    set.build()
}

/// `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH` in an option's text.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' ')];
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                digits.ok_or("expected two hexadecimal digits after \\x")?
            }
            _ => return Err("unknown escape; known: \\n \\r \\t \\0 \\\\ \\xHH".to_owned()),
        });
    }
    if out.is_empty() { Err("a delimiter must not be empty".to_owned()) } else { Ok(out) }
}

impl Settings {
    /// One path without wildcards: its offsets have FileStreamSource's form.
    pub(crate) fn single(&self) -> Option<&Path> {
        match self.patterns.as_slice() {
            [Pattern::Literal(path)] => Some(path),
            _ => None,
        }
    }

    /// Whether files that were first found at this path are this task's.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let (index, tasks) = self.share;
        tasks <= 1 || share(path, tasks) == index
    }

    /// Bytes that one record may need at once: when this much holds no record's end, it is too long.
    pub(crate) fn max_block(&self) -> usize {
        let group = self.multiline.as_ref().map_or(0, |multiline| multiline.max_bytes);
        group + self.max_line + 4096
    }
}

pub(crate) fn line_too_long(path: &str, offset: u64, max: usize) -> Error {
    Error::fatal("file.line_too_long", format!("a line of {path} at byte {offset} is longer than max.line.bytes ({max})"))
        .fix("raise max.line.bytes, or set max.line.policy to cut, drop or dead-letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_start_at_their_fixed_part() {
        let base = |text: &str| match Pattern::parse(text).unwrap() {
            Pattern::Glob { base, depth, .. } => (base.to_str().unwrap().to_owned(), depth),
            Pattern::Literal(path) => (path.to_str().unwrap().to_owned(), 0),
        };
        assert_eq!(base("/var/log/*.log"), ("/var/log".to_owned(), 1));
        assert_eq!(base("/*/x.log"), ("/".to_owned(), 2));
        assert_eq!(base("/var/**/x.log"), ("/var".to_owned(), 32));
        assert_eq!(base("/v/{a/b,c}.log"), ("/v".to_owned(), 32));
        assert_eq!(base("*.log"), (".".to_owned(), 1));
        assert_eq!(base("/var/log/a.log"), ("/var/log/a.log".to_owned(), 0));
        assert!(Pattern::parse("/a/[").is_err());
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"\r\n").unwrap(), b"\r\n");
        assert_eq!(unescape(r"\x1e\0").unwrap(), [0x1e, 0]);
        assert!(unescape(r"\q").is_err());
        assert!(unescape("").is_err());
        assert!(unescape(r"\xg1").is_err());
    }

    #[test]
    fn a_bare_exclusion_is_for_names() {
        let set = exclusion(["*.tmp", "/var/log/old/**"]).unwrap();
        assert!(set.is_match("/x/y/a.tmp") && set.is_match("/var/log/old/z/a.log") && !set.is_match("/var/log/a.log"));
    }
}
