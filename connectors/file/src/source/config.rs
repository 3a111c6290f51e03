//! The options of `file-source`.

use super::lines::Delimiter;
use super::settings::{Multiline, Overlong, Pattern, Settings, exclusion, unescape};
use aqueduct_config::{ByteSize, Charset, GlobList, Millis, Regex};
use aqueduct_core::Issue;
use aqueduct_core::offset::is_valid_topic_name;
use memchr::memmem::Finder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReadFrom {
    #[default]
    Beginning,
    /// Only what is written after the first start.
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MaxLinePolicy {
    #[default]
    Fail,
    Cut,
    Drop,
    DeadLetter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RecordKey {
    #[default]
    None,
    File,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    #[default]
    Auto,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LostPolicy {
    #[default]
    Warn,
    Fail,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The file to tail; also a pattern, or a list of both. `*` and `?` stay within one folder, `**` crosses folders. Files and folders may
    /// come later. This or `paths` is required.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "File", "x-example" = "/var/log/app/*.log"))]
    file: Option<GlobList>,
    /// More files to tail, as in `file`.
    #[serde(default)]
    #[schemars(extend("x-importance" = "high", "x-group" = "File"))]
    paths: Option<GlobList>,
    /// Files that are not read although they match. A pattern without a slash is for the file's name, in any folder.
    #[serde(default)]
    #[schemars(extend("x-group" = "File", "x-example" = "*.tmp"))]
    exclude: Option<GlobList>,
    /// The topic that the lines go to. Required.
    #[serde(default)]
    #[schemars(length(min = 1, max = 249), extend("x-importance" = "high", "x-group" = "File", "x-example" = "access-log"))]
    topic: Option<String>,
    /// Where to start in files that are there at the first start; files that come later are read from their beginning.
    #[serde(rename = "read.from", default)]
    #[schemars(extend("x-group" = "File"))]
    read_from: ReadFrom,
    /// The most records in one batch; the worker's limit if not given.
    #[serde(rename = "batch.size", default)]
    #[schemars(range(min = 1), extend("x-group" = "File", "x-importance" = "low"))]
    batch_size: Option<u32>,
    /// What ends a line, with the escapes `\n \r \t \0 \\ \xHH`. With `\n`, a `\r` before it is dropped too.
    #[serde(default = "newline")]
    #[schemars(extend("x-group" = "Lines"))]
    delimiter: String,
    /// The character set of the files; records are UTF-8. With `utf-8` bytes pass unchanged, also those that are not UTF-8.
    #[serde(default)]
    #[schemars(extend("x-group" = "Lines"))]
    charset: Charset,
    /// The longest line, without its delimiter.
    #[serde(rename = "max.line.bytes", default = "one_mib")]
    #[schemars(range(min = 1, max = 67_000_000), extend("x-group" = "Lines"))]
    max_line_bytes: ByteSize,
    /// What to do with a longer line: fail the task, cut it to the maximum, drop it, or send it, cut, to the topic `max.line.topic`.
    #[serde(rename = "max.line.policy", default)]
    #[schemars(extend("x-group" = "Lines"))]
    max_line_policy: MaxLinePolicy,
    /// The dead letter topic for lines that are too long; required with the policy `dead-letter`.
    #[serde(rename = "max.line.topic", default)]
    #[schemars(extend("x-group" = "Lines"))]
    max_line_topic: Option<String>,
    /// A last line without a delimiter is emitted when nothing came for this long; if not given, only once its file was rotated or deleted.
    #[serde(rename = "partial.line.timeout", default)]
    #[schemars(extend("x-group" = "Lines", "x-importance" = "low"))]
    partial_line_timeout: Option<Millis>,
    /// Lines that match start a record; the others belong to the record before them.
    #[serde(rename = "multiline.start.pattern", default)]
    #[schemars(extend("x-group" = "Multiline", "x-example" = "^\\d{4}-\\d\\d-\\d\\d "))]
    multiline_start: Option<Regex>,
    /// Lines that match belong to the record before them.
    #[serde(rename = "multiline.continuation.pattern", default)]
    #[schemars(extend("x-group" = "Multiline", "x-example" = "^\\s"))]
    multiline_continuation: Option<Regex>,
    /// A record is complete when no line came for this long.
    #[serde(rename = "multiline.timeout", default = "one_second")]
    #[schemars(range(min = 1), extend("x-group" = "Multiline"))]
    multiline_timeout: Millis,
    /// The most lines of one record.
    #[serde(rename = "multiline.max.lines", default = "thousand")]
    #[schemars(range(min = 1), extend("x-group" = "Multiline", "x-importance" = "low"))]
    multiline_max_lines: u32,
    /// A record that would be larger than this with the next line ends before it.
    #[serde(rename = "multiline.max.bytes", default = "one_mib")]
    #[schemars(range(min = 1, max = 67_000_000), extend("x-group" = "Multiline", "x-importance" = "low"))]
    multiline_max_bytes: ByteSize,
    /// The record's key: nothing, or the path of the file, which keeps the lines of a file in one partition.
    #[serde(rename = "record.key", default)]
    #[schemars(extend("x-group" = "Record"))]
    record_key: RecordKey,
    /// Adds the headers `aqueduct.file`, `aqueduct.offset` (in bytes) and `aqueduct.line` (from 0).
    #[serde(rename = "record.headers", default)]
    #[schemars(extend("x-group" = "Record"))]
    record_headers: bool,
    /// `auto`: gzip and zstd files are known by their first bytes and read decompressed.
    #[serde(default)]
    #[schemars(extend("x-group" = "File"))]
    compression: Compression,
    /// A file that was renamed or deleted counts as finished when nothing came for this long: its writer may still have it open.
    #[serde(rename = "rotate.wait", default = "five_seconds")]
    #[schemars(extend("x-group" = "Rotation"))]
    rotate_wait: Millis,
    /// What to do when a file vanished before it was read to its end.
    #[serde(rename = "lost.policy", default)]
    #[schemars(extend("x-group" = "Rotation"))]
    lost_policy: LostPolicy,
    /// How long the offset of a vanished file is kept, to know a copy of it that was compressed later.
    #[serde(rename = "forget.after", default = "one_day")]
    #[schemars(extend("x-group" = "Rotation", "x-importance" = "low"))]
    forget_after: Millis,
    /// How often to look for changes that the system did not announce (on network file systems, all of them).
    #[serde(rename = "poll.interval", default = "five_seconds")]
    #[schemars(range(min = 10, max = 3_600_000), extend("x-group" = "File", "x-importance" = "low"))]
    poll_interval: Millis,
    /// The most files that a task keeps open; with more, the least recently read are closed.
    #[serde(rename = "max.open.files", default = "thousand")]
    #[schemars(range(min = 2, max = 1_000_000), extend("x-group" = "File", "x-importance" = "low"))]
    max_open_files: u32,
}

fn newline() -> String {
    "\\n".to_owned()
}
fn one_mib() -> ByteSize {
    ByteSize::mib(1)
}
fn one_second() -> Millis {
    Millis::from_secs(1)
}
fn five_seconds() -> Millis {
    Millis::from_secs(5)
}
fn one_day() -> Millis {
    Millis::from_secs(86_400)
}
fn thousand() -> u32 {
    1000
}

impl Config {
    /// What the tailer needs; or every issue.
    pub(crate) fn settings(&self, share: (u64, u64)) -> Result<Settings, Vec<Issue>> {
        let mut issues = Vec::new();
        let patterns = self.patterns(&mut issues);
        let exclude = exclusion(self.exclude.iter().flat_map(GlobList::iter).map(|glob| glob.as_str()));
        let exclude =
            exclude.map_err(|error| issues.push(Issue::error("exclude", "config.glob", error.to_string()))).unwrap_or_default();
        let topic = |option: &str, name: &str, issues: &mut Vec<Issue>| {
            if !is_valid_topic_name(name) {
                let issue = Issue::error(option, "config.topic", format!("{name:?} is not a topic name"));
                issues.push(issue.fix("use 1 to 249 letters, digits, `.`, `_` and `-`"));
            }
        };
        // Judged here, beside `file`: what is required by type hides every other issue.
        match &self.topic {
            Some(name) => topic("topic", name, &mut issues),
            None => {
                let issue = Issue::error("topic", "config.missing", "is required and has no default");
                issues.push(issue.fix("add `topic: access-log` (The topic that the lines go to)"));
            }
        }
        let overlong = match (self.max_line_policy, &self.max_line_topic) {
            (MaxLinePolicy::DeadLetter, Some(name)) => {
                topic("max.line.topic", name, &mut issues);
                Overlong::DeadLetter(name.as_str().into())
            }
            (MaxLinePolicy::DeadLetter, None) => {
                let issue = Issue::error("max.line.topic", "config.missing", "is required with `max.line.policy: dead-letter`");
                issues.push(issue.fix("name the topic that lines which are too long go to"));
                Overlong::Fail
            }
            (MaxLinePolicy::Fail, _) => Overlong::Fail,
            (MaxLinePolicy::Cut, _) => Overlong::Cut,
            (MaxLinePolicy::Drop, _) => Overlong::Drop,
        };
        let delimiter = self.delimiter(&mut issues);
        let multiline = self.multiline(&mut issues);
        let (Some(delimiter), true) = (delimiter, issues.is_empty()) else { return Err(issues) };
        Ok(Settings {
            topic: self.topic.as_deref().unwrap_or_default().into(),
            patterns,
            exclude,
            from_end: self.read_from == ReadFrom::End,
            delimiter,
            charset: self.charset.encoding(),
            max_line: self.max_line_bytes.as_usize(),
            overlong,
            multiline,
            partial_after: self.partial_line_timeout.map(Millis::duration),
            key_file: self.record_key == RecordKey::File,
            headers: self.record_headers,
            decompress: self.compression == Compression::Auto,
            quiet: self.rotate_wait.duration(),
            fail_on_lost: self.lost_policy == LostPolicy::Fail,
            poll_interval: self.poll_interval.duration(),
            forget_after: self.forget_after.duration(),
            max_open: self.max_open_files as usize,
            batch_records: self.batch_size.map_or(usize::MAX, |size| size as usize),
            share,
        })
    }

    fn patterns(&self, issues: &mut Vec<Issue>) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (option, list) in [("file", &self.file), ("paths", &self.paths)] {
            for glob in list.iter().flat_map(GlobList::iter) {
                match Pattern::parse(glob.as_str()) {
                    Ok(pattern) => patterns.push(pattern),
                    Err(error) => issues.push(Issue::error(option, "config.glob", error.to_string())),
                }
            }
        }
        if patterns.is_empty() && issues.is_empty() {
            let issue = Issue::error("file", "config.missing", "is required and has no default");
            issues.push(issue.fix("add `file: /var/log/app/*.log` (the files to tail)"));
        }
        patterns
    }

    fn delimiter(&self, issues: &mut Vec<Issue>) -> Option<Delimiter> {
        let mut refuse = |why: String| issues.push(Issue::error("delimiter", "file.delimiter", why));
        let bytes = unescape(&self.delimiter).map_err(&mut refuse).ok()?;
        let charset = self.charset.encoding();
        let wide = [encoding_rs::UTF_16LE, encoding_rs::UTF_16BE].contains(&charset);
        if !wide && bytes == b"\n" {
            return Some(Delimiter::Line);
        }
        if !wide && (charset == encoding_rs::UTF_8 || bytes.is_ascii()) {
            return Some(Delimiter::text(&bytes));
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            refuse(format!("is not text, so it cannot be written in {}", charset.name()));
            return None;
        };
        if !wide {
            return Some(Delimiter::text(&charset.encode(text).0));
        }
        let units = |unit: u16| if charset == encoding_rs::UTF_16LE { unit.to_le_bytes() } else { unit.to_be_bytes() };
        let needle: Vec<u8> = text.encode_utf16().flat_map(units).collect();
        let carriage_return = (text == "\n").then(|| units(u16::from(b'\r')));
        Some(Delimiter::Wide { finder: Box::new(Finder::new(&needle).into_owned()), carriage_return })
    }

    fn multiline(&self, issues: &mut Vec<Issue>) -> Option<Multiline> {
        let (pattern, starts) = match (&self.multiline_start, &self.multiline_continuation) {
            (Some(_), Some(_)) => {
                let why = "cannot be used together with multiline.start.pattern";
                issues.push(Issue::error("multiline.continuation.pattern", "file.multiline", why).fix("keep one of the two"));
                return None;
            }
            (Some(start), None) => (start.bytes(), true),
            (None, Some(continuation)) => (continuation.bytes(), false),
            (None, None) => return None,
        };
        Some(Multiline {
            pattern,
            starts,
            timeout: self.multiline_timeout.duration(),
            max_lines: self.multiline_max_lines as usize,
            max_bytes: self.multiline_max_bytes.as_usize(),
        })
    }
}
