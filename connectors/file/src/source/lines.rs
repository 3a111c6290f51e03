//! From a block of bytes to records: spans over the same block. Pure.

use super::settings::{Multiline, Overlong, Settings};
use aqueduct_core::{Bytes, Chunk, ChunkBuilder, Payload, Span};
use memchr::memmem::Finder;
use std::sync::Arc;

pub(crate) enum Delimiter {
    /// `\n`, and a `\r` before it is dropped.
    Line,
    Byte(u8),
    Text(Box<Finder<'static>>),
    /// In UTF-16: it counts at even places only. With `\n`, a `\r` before it is dropped.
    Wide {
        finder: Box<Finder<'static>>,
        carriage_return: Option<[u8; 2]>,
    },
}

impl Delimiter {
    pub(crate) fn text(bytes: &[u8]) -> Self {
        match bytes {
            [byte] => Delimiter::Byte(*byte),
            bytes => Delimiter::Text(Box::new(Finder::new(bytes).into_owned())),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Delimiter::Line | Delimiter::Byte(_) => 1,
            Delimiter::Text(finder) | Delimiter::Wide { finder, .. } => finder.needle().len(),
        }
    }

    /// Where the line that starts at `at` ends, without and with its delimiter.
    #[inline]
    fn find(&self, block: &[u8], at: usize) -> Option<(usize, usize)> {
        match self {
            Delimiter::Line => {
                let end = at + memchr::memchr(b'\n', &block[at..])?;
                Some((if end > at && block[end - 1] == b'\r' { end - 1 } else { end }, end + 1))
            }
            Delimiter::Byte(byte) => memchr::memchr(*byte, &block[at..]).map(|len| (at + len, at + len + 1)),
            Delimiter::Text(finder) => finder.find(&block[at..]).map(|len| (at + len, at + len + finder.needle().len())),
            Delimiter::Wide { finder, carriage_return } => {
                let mut from = at;
                loop {
                    let end = from + finder.find(&block[from..])?;
                    if (end - at).is_multiple_of(2) {
                        let strip = carriage_return.is_some_and(|cr| end - at >= 2 && block[end - 2..end] == cr);
                        return Some((if strip { end - 2 } else { end }, end + finder.needle().len()));
                    }
                    from = end + 1;
                }
            }
        }
    }

    /// Whether the bytes end a line.
    pub(crate) fn ends(&self, bytes: &[u8]) -> bool {
        match self {
            Delimiter::Line => bytes.ends_with(b"\n"),
            Delimiter::Byte(byte) => bytes.ends_with(&[*byte]),
            Delimiter::Text(finder) | Delimiter::Wide { finder, .. } => bytes.ends_with(finder.needle()),
        }
    }

    /// The start of a rest of which `len` bytes hold no delimiter: a piece of one may be at the end.
    fn keep(&self, len: usize) -> usize {
        match self {
            Delimiter::Wide { .. } => len.saturating_sub(self.len()) & !1,
            other => len.saturating_sub(other.len() - 1),
        }
    }

    fn strip_partial(&self, block: &[u8], from: usize, to: usize) -> usize {
        if matches!(self, Delimiter::Line) && to > from && block[to - 1] == b'\r' { to - 1 } else { to }
    }
}

/// What to do with what has no end yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    Nothing,
    /// A multiline record whose lines are whole.
    Groups,
    /// Also a line without its delimiter.
    All,
}

/// Where a block lies in its file, and how it may be used.
pub(crate) struct Block<'a> {
    pub(crate) path: &'a str,
    /// The content starts at `bytes[from]`, which is the file's byte `offset` and line `line`.
    pub(crate) bytes: &'a [u8],
    pub(crate) from: usize,
    pub(crate) offset: u64,
    pub(crate) line: u64,
    pub(crate) skip: bool,
    pub(crate) flush: Flush,
    pub(crate) max_records: usize,
    /// Of buffers and tables.
    pub(crate) max_bytes: usize,
    /// The batch is empty: its first record may be larger than it should be.
    pub(crate) alone: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// An index into the block: everything before it is emitted or thrown away.
    pub(crate) end: usize,
    pub(crate) lines: u64,
    pub(crate) skip: bool,
    /// Lines that were too long.
    pub(crate) dropped: u64,
    /// Where a line starts that is too long, where the policy is `fail`: `end` stops before it.
    pub(crate) too_long: Option<u64>,
    /// It stopped since the batch is full, not since the block is.
    pub(crate) full: bool,
}

/// A record in a chunk's table costs about this.
pub(crate) const ENTRY_BYTES: usize = 48;

/// Collects the records of one block.
pub(crate) struct Emit<'a> {
    settings: &'a Settings,
    builder: ChunkBuilder,
    /// Lines that are too long, as they stand in the block.
    dead: Option<ChunkBuilder>,
    key: Option<Span>,
    /// The decoded text, where the charset is not UTF-8. Starts with the key.
    decoded: Option<Vec<u8>>,
    headers: Option<Bytes>,
    names: Option<[Arc<str>; 3]>,
    /// Bytes of headers and of what else is not in the buffer.
    extra: usize,
}

impl<'a> Emit<'a> {
    /// `key` is a place in the block.
    pub(crate) fn new(settings: &'a Settings, block: &[u8], key: Option<Span>, path: &str) -> Self {
        let decoded = (settings.charset != encoding_rs::UTF_8)
            .then(|| key.map(|key| block[key.start as usize..][..key.len as usize].to_vec()).unwrap_or_default());
        let key = if decoded.is_some() { key.map(|key| Span { start: 0, ..key }) } else { key };
        let headers = settings.headers.then(|| Bytes::copy_from_slice(path.as_bytes()));
        let names = settings.headers.then(|| ["aqueduct.file".into(), "aqueduct.offset".into(), "aqueduct.line".into()]);
        Self { settings, builder: ChunkBuilder::new(settings.topic.clone()), dead: None, key, decoded, headers, names, extra: 0 }
    }

    pub(crate) fn reserve(&mut self, records: usize) {
        self.builder.reserve(records);
    }

    pub(crate) fn len(&self) -> usize {
        self.builder.len()
    }

    #[inline]
    fn push(&mut self, block: &Block<'_>, start: usize, end: usize, line: u64, truncated: bool) {
        let span = match &mut self.decoded {
            None => Span { start: start as u32, len: (end - start) as u32 },
            Some(decoded) => {
                let text = &block.bytes[start..end];
                // Only the file's first bytes can be a byte order mark.
                let first = block.offset == 0 && start == block.from;
                let text =
                    if first && (text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff])) { &text[2..] } else { text };
                let from = decoded.len();
                decoded.extend_from_slice(self.settings.charset.decode_without_bom_handling(text).0.as_bytes());
                Span { start: from as u32, len: (decoded.len() - from) as u32 }
            }
        };
        self.builder.push_span(self.key, Some(span), None, -1);
        if let (Some(path), Some([file, offset, number])) = (&self.headers, &self.names) {
            self.builder.header(file.clone(), Payload::Bytes(path.clone()));
            self.builder.header(offset.clone(), Payload::from((block.offset + (start - block.from) as u64).to_string()));
            self.builder.header(number.clone(), Payload::from(line.to_string()));
            self.extra += header_bytes(path);
        }
        if truncated {
            self.builder.header("aqueduct.truncated".into(), Payload::from("true"));
        }
    }

    /// Whether a record of the block's bytes `at..next` finds room in the batch.
    #[inline]
    fn admits(&self, block: &Block<'_>, at: usize, next: usize) -> bool {
        let records = self.builder.len() + self.dead.as_ref().map_or(0, ChunkBuilder::len);
        if records == 0 && block.alone {
            return true;
        }
        let content = self.decoded.as_ref().map_or(next, |decoded| decoded.len() + 3 * (next - at));
        let headers = self.headers.as_ref().map_or(0, |path| header_bytes(path));
        records < block.max_records && content + (records + 1) * ENTRY_BYTES + self.extra + headers <= block.max_bytes
    }

    /// `start..cut` is what is kept of a line of the block that is too long.
    fn bury(&mut self, block: &Block<'_>, start: usize, cut: usize, line: u64) {
        let Overlong::DeadLetter(topic) = &self.settings.overlong else { return };
        let offset = block.offset + (start - block.from) as u64;
        let why = format!("file.line_too_long: longer than max.line.bytes ({})", self.settings.max_line);
        let dead = self.dead.get_or_insert_with(|| ChunkBuilder::new(topic.clone()));
        dead.push_span(None, Some(Span { start: start as u32, len: (cut - start) as u32 }), None, -1);
        let headers = [
            ("__connect.errors.topic", self.settings.topic.to_string()),
            ("__connect.errors.stage", "TASK_POLL".to_owned()),
            ("__connect.errors.exception.message", why),
            ("aqueduct.file", block.path.to_owned()),
            ("aqueduct.offset", offset.to_string()),
            ("aqueduct.line", line.to_string()),
        ];
        for (name, value) in headers {
            dead.header(name.into(), Payload::from(value));
        }
        self.extra += 1000 + if dead.len() == 1 { block.bytes.len() } else { 0 };
    }

    /// The chunks over the block, which is not copied (or over the decoded text): records, and lines for the dead letter topic.
    pub(crate) fn finish(self, block: &Bytes) -> (Chunk, Option<Chunk>) {
        let dead = self.dead.map(|dead| dead.finish(block.clone()));
        match self.decoded {
            Some(decoded) => (self.builder.finish(decoded.into()), dead),
            None => (self.builder.finish(block.clone()), dead),
        }
    }
}

/// Three headers, with their names and what a header costs in memory.
fn header_bytes(path: &[u8]) -> usize {
    3 * 48 + 42 + path.len() + 40
}

pub(crate) fn split(block: &Block<'_>, emit: &mut Emit<'_>) -> Split {
    let settings = emit.settings;
    let mut walk =
        Walk { settings, block, at: block.from, line: block.line, skip: block.skip, dropped: 0, too_long: None, full: false };
    if walk.skip && !walk.skip_rest() {
        return walk.done(walk.at);
    }
    match &settings.multiline {
        None => walk.lines(emit),
        Some(multiline) => walk.groups(multiline, emit),
    }
}

struct Walk<'a> {
    settings: &'a Settings,
    block: &'a Block<'a>,
    at: usize,
    line: u64,
    skip: bool,
    dropped: u64,
    too_long: Option<u64>,
    full: bool,
}

impl Walk<'_> {
    fn done(&self, end: usize) -> Split {
        let Self { skip, dropped, too_long, full, .. } = *self;
        Split { end, lines: self.line - self.block.line, skip, dropped, too_long, full }
    }

    /// As [`Emit::admits`], and remembers that it did not.
    #[inline]
    fn admits(&mut self, emit: &Emit<'_>, at: usize, next: usize) -> bool {
        self.full = !emit.admits(self.block, at, next);
        !self.full
    }

    /// False when the block ends before the line that is thrown away.
    fn skip_rest(&mut self) -> bool {
        let bytes = self.block.bytes;
        match self.settings.delimiter.find(bytes, self.at) {
            Some((_, next)) => self.at = next,
            None if self.block.flush == Flush::All => self.at = bytes.len(),
            None => {
                self.at += self.settings.delimiter.keep(bytes.len() - self.at);
                return false;
            }
        }
        self.skip = false;
        true
    }

    fn lines(&mut self, emit: &mut Emit<'_>) -> Split {
        let (bytes, max) = (self.block.bytes, self.settings.max_line);
        while let Some((end, next)) = self.settings.delimiter.find(bytes, self.at) {
            if !self.admits(emit, self.at, next) {
                return self.done(self.at);
            }
            if end - self.at > max {
                if !self.overlong(end, emit) {
                    return self.done(self.at);
                }
            } else {
                emit.push(self.block, self.at, end, self.line, false);
            }
            self.at = next;
            self.line += 1;
        }
        self.rest(emit);
        self.done(self.at)
    }

    /// What is left has no delimiter.
    fn rest(&mut self, emit: &mut Emit<'_>) {
        let bytes = self.block.bytes;
        let rest = bytes.len() - self.at;
        // `\r` and a piece of a delimiter do not count.
        let too_long = rest > self.settings.max_line + self.settings.delimiter.len() + 1;
        if (too_long || self.block.flush == Flush::All) && rest > 0 && !self.admits(emit, self.at, bytes.len()) {
            return;
        }
        if too_long {
            if !self.overlong(bytes.len(), emit) {
                return;
            }
            self.line += 1;
            self.skip = self.block.flush != Flush::All;
            self.at = if self.skip { self.at + self.settings.delimiter.keep(rest) } else { bytes.len() };
        } else if self.block.flush == Flush::All && rest > 0 {
            emit.push(self.block, self.at, self.settings.delimiter.strip_partial(bytes, self.at, bytes.len()), self.line, false);
            self.line += 1;
            self.at = bytes.len();
        }
    }

    /// A line is too long, as far as it is known; false: stop before it.
    fn overlong(&mut self, end: usize, emit: &mut Emit<'_>) -> bool {
        let max = self.settings.max_line;
        let offset = self.block.offset + (self.at - self.block.from) as u64;
        let mut cut = self.at + max.min(end - self.at);
        match self.settings.delimiter {
            Delimiter::Wide { .. } => cut -= (cut - self.at) % 2,
            // Not through a character of UTF-8.
            _ if cut < end => {
                let whole = (cut.saturating_sub(3).max(self.at)..=cut).rev().find(|at| (self.block.bytes[*at] as i8) >= -0x40);
                cut = whole.filter(|at| *at > self.at).unwrap_or(cut);
            }
            _ => {}
        }
        match self.settings.overlong {
            Overlong::Fail => {
                self.too_long = Some(offset);
                return false;
            }
            Overlong::Cut => emit.push(self.block, self.at, cut, self.line, true),
            Overlong::DeadLetter(_) => emit.bury(self.block, self.at, cut, self.line),
            Overlong::Drop => {}
        }
        self.dropped += 1;
        true
    }

    /// Lines are gathered while they belong together; a record is one span, its inner delimiters included.
    fn groups(&mut self, multiline: &Multiline, emit: &mut Emit<'_>) -> Split {
        let bytes = self.block.bytes;
        let mut group: Option<Group> = None;
        while let Some((end, next)) = self.settings.delimiter.find(bytes, self.at) {
            let continues = end - self.at <= self.settings.max_line && self.continues(multiline, end);
            let ended = group.filter(|group| {
                !continues || group.lines as usize >= multiline.max_lines || end - group.start > multiline.max_bytes
            });
            if let Some(ended) = ended {
                if !self.emit(ended, emit) {
                    return self.done(ended.start);
                }
                group = None;
            }
            if end - self.at > self.settings.max_line {
                if !self.admits(emit, self.at, next) || !self.overlong(end, emit) {
                    return self.done(self.at);
                }
                self.line += 1;
            } else {
                let (start, lines) = group.map_or((self.at, 0), |group| (group.start, group.lines));
                group = Some(Group { start, end, next, lines: lines + 1 });
            }
            self.at = next;
        }
        let rest = bytes.len() - self.at;
        let too_long = rest > self.settings.max_line + self.settings.delimiter.len() + 1;
        if self.block.flush == Flush::All && rest > 0 && !too_long {
            let end = self.settings.delimiter.strip_partial(bytes, self.at, bytes.len());
            if let Some(ended) = group.filter(|_| !self.continues(multiline, end)) {
                if !self.emit(ended, emit) {
                    return self.done(ended.start);
                }
                group = None;
            }
            let (start, lines) = group.map_or((self.at, 0), |group| (group.start, group.lines));
            group = Some(Group { start, end, next: bytes.len(), lines: lines + 1 });
        }
        if let Some(group) = group {
            let ended = self.block.flush != Flush::Nothing || too_long;
            if !ended || !self.emit(group, emit) {
                return self.done(group.start);
            }
        }
        if too_long {
            self.rest(emit);
        }
        self.done(self.at)
    }

    /// False when it finds no room.
    fn emit(&mut self, group: Group, emit: &mut Emit<'_>) -> bool {
        if !self.admits(emit, group.start, group.next) {
            return false;
        }
        emit.push(self.block, group.start, group.end, self.line, false);
        self.line += group.lines;
        self.at = self.at.max(group.next);
        true
    }

    fn continues(&self, multiline: &Multiline, end: usize) -> bool {
        let line = &self.block.bytes[self.at..end];
        let matches = if self.settings.charset == encoding_rs::UTF_8 {
            multiline.pattern.is_match(line)
        } else {
            multiline.pattern.is_match(self.settings.charset.decode_without_bom_handling(line).0.as_bytes())
        };
        matches != multiline.starts
    }
}

#[derive(Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
    next: usize,
    lines: u64,
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use proptest::prelude::*;

    fn settings(more: &[(&str, &str)]) -> Settings {
        let base = [("file", "a"), ("topic", "t")];
        let options = base.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        aqueduct_config::parse::<Config>(&options).unwrap().settings((0, 1)).unwrap()
    }

    /// As the tailer reads: blocks of at most `most` bytes, larger ones where nothing ends in them; at most `records` in a batch.
    fn records(settings: &Settings, content: &[u8], most: usize, records: usize) -> (Vec<Vec<u8>>, u64) {
        let (mut out, mut offset, mut line, mut skip, mut want) = (Vec::new(), 0, 0, false, most);
        loop {
            let bytes = &content[offset..content.len().min(offset + want)];
            let at_end = offset + bytes.len() == content.len();
            let flush = if at_end { Flush::All } else { Flush::Nothing };
            let block = Block {
                path: "a",
                bytes,
                from: 0,
                offset: offset as u64,
                line,
                skip,
                flush,
                max_records: records,
                max_bytes: 300,
                alone: true,
            };
            let mut emit = Emit::new(settings, bytes, None, "a");
            let split = split(&block, &mut emit);
            let (chunk, _) = emit.finish(&Bytes::copy_from_slice(bytes));
            out.extend(chunk.iter().map(|record| match record.value() {
                aqueduct_core::PayloadRef::Bytes(bytes) => bytes.to_vec(),
                other => panic!("{other:?}"),
            }));
            assert!(chunk.len() <= records && split.end <= bytes.len());
            let decoded = settings.charset != encoding_rs::UTF_8;
            let held = if decoded { 0 } else { split.end } + chunk.len() * ENTRY_BYTES;
            assert!(chunk.len() <= 1 || held <= 300, "{} records, {held} bytes", chunk.len());
            assert!(split.end > 0 || !(at_end || split.full) || bytes.is_empty(), "stuck at {offset}");
            want = if split.end == 0 && !at_end { want * 2 } else { most };
            (offset, line, skip) = (offset + split.end, line + split.lines, split.skip);
            if offset == content.len() {
                return (out, line);
            }
        }
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"|".to_vec()),
            Just("ä€".into()),
            prop::collection::vec(any::<u8>(), 0..12)
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text_however_it_is_cut(content in content(), most in 1usize..40, max in 1usize..9) {
            let mut wanted: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
            let last = wanted.pop().filter(|last| !last.is_empty());
            let stripped = wanted.into_iter().chain(last).map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
            let wanted: Vec<_> = stripped.collect();
            let (got, lines) = records(&settings(&[]), &content, most, max);
            prop_assert_eq!(lines as usize, wanted.len());
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn how_a_text_is_cut_into_blocks_changes_nothing(content in content(), most in 1usize..40, max in 1usize..9) {
            for options in [
                &[("delimiter", "||")][..],
                &[("max.line.bytes", "5"), ("max.line.policy", "cut")],
                &[("max.line.bytes", "5"), ("max.line.policy", "drop"), ("delimiter", "||")],
                &[("multiline.start.pattern", "^[a-m]")],
                &[("multiline.continuation.pattern", "[0-9|]"), ("multiline.max.lines", "3")],
                &[("charset", "utf-16be"), ("max.line.bytes", "5"), ("max.line.policy", "cut")],
            ] {
                let settings = settings(options);
                let whole = records(&settings, &content, content.len().max(1), usize::MAX);
                prop_assert_eq!(records(&settings, &content, most, max), whole, "{:?}", options);
            }
        }
    }
}
