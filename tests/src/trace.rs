//! What a process asked of the kernel, from `strace`, and what of it would outlive a power cut.
//!
//! Pessimistic: only fdatasync and fsync make bytes durable, and only those that were written before the call began; only the fsync of a
//! folder makes names in it durable. Real file systems keep more, some of the time.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// The system calls that change files; `?` for those that not every architecture has.
const CALLS: &str = "trace=?open,openat,?creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,sendfile,\
                     fsync,fdatasync,?rename,renameat,renameat2,?unlink,unlinkat,?mkdir,mkdirat";

/// To put before a command. The command stays our own child; strace runs beside it, and writes `out` to its end when the command ends.
pub fn strace(out: &Path) -> Vec<String> {
    let out = out.display().to_string();
    ["strace", "-D", "-f", "--seccomp-bpf", "-q", "-y", "-s", "4000000", "-e", CALLS, "-o", &out].map(str::to_owned).into()
}

/// A system call, or half of one: others may run between its begin and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub call: String,
    pub args: String,
    /// None where the call begins; where it ends, what it returned.
    pub returned: Option<i64>,
}

/// Each call twice: where it begins and where it ends, in the order of the trace.
///
/// # Errors
/// When the text is not strace's.
pub fn events(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut open: HashMap<&str, (&str, String)> = HashMap::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').with_context(|| format!("not of strace: {line:?}"))?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        let (call, begun, rest) = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (call, rest) = resumed.split_once(" resumed>").with_context(|| line.to_owned())?;
                let (_, begun) = open.remove(pid).with_context(|| format!("{call} did not begin"))?;
                (call, Some(begun), rest)
            }
            None => {
                let (call, rest) = rest.split_once('(').with_context(|| line.to_owned())?;
                (call, None, rest)
            }
        };
        let event = |args: String, returned| Event { call: call.to_owned(), args, returned };
        // Detached: it was killed in the middle, and what the call did is not known.
        if let Some(args) = rest.strip_suffix("<unfinished ...>").or_else(|| rest.strip_suffix("<detached ...>")) {
            events.push(event(args.trim_end().to_owned(), None));
            open.insert(pid, (call, args.trim_end().to_owned()));
            continue;
        }
        // Killed in the middle: `= ?`.
        let (args, returned) = rest.rsplit_once(" = ").with_context(|| line.to_owned())?;
        let args = args.trim_end().strip_suffix(')').unwrap_or(args);
        let args = match &begun {
            Some(begun) => format!("{begun}{args}"),
            None => args.to_owned(),
        };
        if begun.is_none() {
            events.push(event(args.clone(), None));
        }
        let number: String = returned.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
        if let Ok(returned) = number.parse() {
            events.push(event(args, Some(returned)));
        }
    }
    Ok(events)
}

impl Event {
    /// The path of the descriptor that comes first: `7</a/b>, …`.
    fn file(&self) -> Option<PathBuf> {
        let (number, rest) = self.args.split_once('<')?;
        let path = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| rest.split_once('>'))??.0;
        Some(PathBuf::from(String::from_utf8_lossy(&unescape(path)).into_owned()))
    }

    /// What stands in quotes, without the escapes.
    fn texts(&self) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        let mut rest = self.args.as_str();
        while let Some((_, begin)) = rest.split_once('"') {
            let mut end = 0;
            let bytes = begin.as_bytes();
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            texts.push(unescape(&begin[..end.min(begin.len())]));
            rest = begin.get(end + 1..).unwrap_or_default();
        }
        texts
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.texts().iter().map(|text| PathBuf::from(String::from_utf8_lossy(text).into_owned())).collect()
    }

    /// The last argument.
    fn number(&self) -> Option<usize> {
        self.args.rsplit(", ").next()?.parse().ok()
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        at += 1;
        let octal = bytes[at..].iter().take(3).take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
        if octal > 0 {
            let value = bytes[at..at + octal].iter().fold(0_u32, |value, byte| value * 8 + u32::from(byte - b'0'));
            out.push((value & 0xff) as u8);
            at += octal;
            continue;
        }
        out.push(match bytes.get(at) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'v') => 0x0b,
            Some(b'f') => 0x0c,
            Some(other) => *other,
            None => b'\\',
        });
        at += 1;
    }
    out
}

/// A file as the page cache has it, and up to where it is durable.
#[derive(Clone, Debug, Default)]
struct Pages {
    bytes: Vec<u8>,
    durable: usize,
}

/// What a commit of the log names: `group` or `connector` of the trace's journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// A sink's position: the next offset, and what the sink keeps with it.
    Position {
        group: String,
        partition: i64,
        offset: u64,
        kept: Value,
    },
    Source {
        connector: String,
        offset: Value,
    },
}

/// What would be left after a power cut, of the files under one folder.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// The log's own files, which have a simulated disk for their tests.
    except: PathBuf,
    files: BTreeMap<PathBuf, Pages>,
    /// Names that were made since the last fsync of their folder: they may be gone.
    created: BTreeSet<PathBuf>,
    /// Names that were given since then to what had a durable one: it has either of both.
    renamed: BTreeSet<PathBuf>,
    /// By the call's arguments: what its end makes durable.
    syncing: HashMap<String, Syncing>,
    /// Renames of a file that was not durable to its end.
    pub torn_renames: Vec<String>,
    pub renames: usize,
}

#[derive(Clone, Debug)]
enum Syncing {
    File(PathBuf, usize),
    Folder(Vec<PathBuf>),
}

impl Disk {
    /// Nothing is there yet.
    pub fn new(root: &Path, except: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            except: except.to_path_buf(),
            files: BTreeMap::new(),
            created: BTreeSet::new(),
            renamed: BTreeSet::new(),
            syncing: HashMap::new(),
            torn_renames: Vec::new(),
            renames: 0,
        }
    }

    fn watches(&self, path: &Path) -> bool {
        path.starts_with(&self.root) && !path.starts_with(&self.except)
    }

    /// Goes through a trace; `commit` is called where a journal frame begins to be written, so before it can be durable.
    ///
    /// # Errors
    /// When the trace has a call on these files that is not understood.
    pub fn replay(&mut self, trace: &str, mut commit: impl FnMut(&Self, &Committed)) -> Result<()> {
        for event in events(trace)? {
            let begins = event.returned.is_none();
            let journal = event.file().is_some_and(|file| file.extension().is_some_and(|extension| extension == "journal"));
            if begins && journal && event.call.contains("write") {
                for committed in committed(&event)? {
                    commit(self, &committed);
                }
            } else if event.returned.is_none_or(|returned| returned >= 0) {
                self.apply(&event).with_context(|| format!("{event:?}"))?;
            }
        }
        Ok(())
    }

    /// After `kill -9`: what the process was writing may be there or not. The page cache survives; what was durable stays so.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn look_again(&mut self) -> Result<()> {
        self.syncing.clear();
        self.files.retain(|path, _| path.is_file());
        for (path, pages) in &mut self.files {
            pages.bytes = fs::read(path)?;
            pages.durable = pages.durable.min(pages.bytes.len());
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event) -> Result<()> {
        match (event.call.as_str(), event.returned) {
            ("fsync" | "fdatasync", None) => {
                let Some(path) = event.file() else { return Ok(()) };
                let syncing = match self.files.get(&path) {
                    Some(pages) => Syncing::File(path, pages.bytes.len()),
                    None => {
                        let names = self.created.iter().chain(&self.renamed);
                        Syncing::Folder(names.filter(|name| name.parent() == Some(&path)).cloned().collect())
                    }
                };
                self.syncing.insert(event.args.clone(), syncing);
            }
            ("fsync" | "fdatasync", Some(_)) => match self.syncing.remove(&event.args) {
                Some(Syncing::File(path, length)) => {
                    if let Some(pages) = self.files.get_mut(&path) {
                        pages.durable = pages.durable.max(length.min(pages.bytes.len()));
                    }
                }
                Some(Syncing::Folder(names)) => {
                    self.created.retain(|name| !names.contains(name));
                    self.renamed.retain(|name| !names.contains(name));
                }
                None => {}
            },
            (_, None) => self.begins(event),
            ("open" | "openat" | "creat" | "mkdir" | "mkdirat", Some(_)) => self.opened(event),
            ("rename" | "renameat" | "renameat2", Some(_)) => self.renamed(event),
            ("unlink" | "unlinkat", Some(_)) => {
                for path in event.paths() {
                    self.files.remove(&path);
                    self.created.remove(&path);
                    self.renamed.remove(&path);
                }
            }
            (call, Some(returned)) => {
                let Some(pages) = event.file().and_then(|path| self.files.get_mut(&path)) else { return Ok(()) };
                let text = event.texts().into_iter().next().unwrap_or_default();
                match call {
                    "write" => pages.bytes.extend_from_slice(&text[..text.len().min(usize::try_from(returned)?)]),
                    "ftruncate" => {
                        pages.bytes.resize(event.number().context("a length")?, 0);
                        pages.durable = pages.durable.min(pages.bytes.len());
                    }
                    other => bail!("{other} on a file that is watched: teach trace.rs what it does"),
                }
            }
        }
        Ok(())
    }

    fn begins(&mut self, event: &Event) {
        if !event.call.starts_with("rename") {
            return;
        }
        let paths = event.paths();
        let Some(from) = paths.first() else { return };
        if let Some(pages) = self.files.get(from) {
            self.renames += 1;
            if pages.durable < pages.bytes.len() {
                let (durable, all) = (pages.durable, pages.bytes.len());
                self.torn_renames.push(format!("{} has {durable} durable bytes of {all} and is renamed", from.display()));
            }
        }
    }

    fn opened(&mut self, event: &Event) {
        let Some(path) = event.paths().into_iter().next().filter(|path| self.watches(path)) else { return };
        if event.call.starts_with("mkdir") {
            self.created.insert(path);
            return;
        }
        let flag = |name: &str| event.args.contains(name);
        if flag("O_CREAT") && !self.files.contains_key(&path) {
            self.created.insert(path.clone());
            self.files.insert(path, Pages::default());
        } else if flag("O_TRUNC")
            && let Some(pages) = self.files.get_mut(&path)
        {
            *pages = Pages::default();
        }
    }

    fn renamed(&mut self, event: &Event) {
        let [from, to] = &event.paths()[..] else { return };
        if let Some(pages) = self.files.remove(from) {
            self.files.insert(to.clone(), pages);
            self.renamed.remove(from);
            let new = self.created.remove(from);
            if new { &mut self.created } else { &mut self.renamed }.insert(to.clone());
        }
    }

    /// Why this file would not be there with its first `length` bytes after a power cut, under this name or the one before.
    pub fn missing(&self, path: &Path, length: u64) -> Option<String> {
        let Some(pages) = self.files.get(path) else { return Some(format!("{} is not there", path.display())) };
        if (pages.durable as u64) < length {
            return Some(format!("{}: {} bytes are durable, {length} were committed", path.display(), pages.durable));
        }
        let unnamed = path.ancestors().take_while(|path| **path != *self.root).find(|path| self.created.contains(*path));
        unnamed.map(|name| format!("{}: the name is not durable", name.display()))
    }

    /// As [`Disk::missing`], under this name.
    pub fn misnamed(&self, path: &Path, length: u64) -> Option<String> {
        let renamed = || self.renamed.contains(path).then(|| format!("{}: the new name is not durable", path.display()));
        self.missing(path, length).or_else(renamed)
    }

    /// The files with their lengths.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|(path, pages)| (path.as_path(), pages.bytes.len() as u64))
    }

    /// Whole lines that would be left in files whose name passes.
    pub fn durable_lines(&self, mut is_of: impl FnMut(&Path) -> bool) -> u64 {
        let of = self.files.iter().filter(|(path, _)| is_of(path) && self.missing(path, 0).is_none());
        of.map(|(_, pages)| pages.bytes[..pages.durable].iter().filter(|byte| **byte == b'\n').count() as u64).sum()
    }
}

/// What a write to the journal commits: frames of magic, length, CRC32C and JSON, which small commits put their records behind. Zeros are room that is
/// written ahead.
fn committed(event: &Event) -> Result<Vec<Committed>> {
    let bytes = event.texts().into_iter().next().context("a write has bytes")?;
    let mut found = Vec::new();
    let mut rest = if bytes.iter().all(|byte| *byte == 0) { &[][..] } else { &bytes[..] };
    let number =
        |bytes: &[u8]| -> Result<usize> { Ok(u32::from_be_bytes(bytes.get(..4).context("a length")?.try_into()?) as usize) };
    while let Some((header, after)) = rest.split_at_checked(12) {
        let length = number(&header[4..])?;
        let payload = after.get(..length).context("a frame is written whole")?;
        let json = match &header[..4] {
            b"AQjf" => payload,
            b"AQjw" => payload[4..].get(..number(payload)?).context("a frame is as long as it says")?,
            other => bail!("a frame begins with its magic: {other:?}"),
        };
        let frame: Value = serde_json::from_slice(json)?;
        for change in frame["c"].as_array().into_iter().flatten() {
            if let Some(position) = change.get("g").filter(|position| !position["at"].is_null()) {
                let kept =
                    position["at"]["m"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_default());
                found.push(Committed::Position {
                    group: position["g"].as_str().context("a group")?.to_owned(),
                    partition: position["p"].as_i64().context("a partition")?,
                    offset: position["at"]["o"].as_u64().context("an offset")?,
                    kept,
                });
            }
            if let Some(offset) = change.get("o") {
                let connector = offset["c"].as_str().context("a connector")?.to_owned();
                found.push(Committed::Source { connector, offset: offset["o"]["offset"].clone() });
            }
        }
        rest = &after[length..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"1 openat(AT_FDCWD</>, "/s/a", O_RDWR|O_CREAT, 0666) = 3</s/a>
"#;

    fn disk(trace: &str) -> Disk {
        let mut disk = Disk::new(Path::new("/s"), Path::new("/s/data"));
        disk.replay(&format!("{HEAD}{trace}"), |_, _| {}).unwrap();
        disk
    }

    #[test]
    fn bytes_are_durable_that_were_written_before_the_sync_began() {
        let trace = r#"1 write(3</s/a>, "ab\n\"\303\251", 6) = 6
1 fdatasync(3</s/a> <unfinished ...>
2 write(3</s/a>, "more", 4) = 4
1 <... fdatasync resumed>) = 0
"#;
        let disk = disk(trace);
        assert_eq!(disk.files[Path::new("/s/a")].bytes, "ab\n\"émore".as_bytes());
        assert!(disk.missing(Path::new("/s/a"), 7).unwrap().contains("6 bytes are durable, 7 were committed"));
        assert!(disk.missing(Path::new("/s/a"), 6).unwrap().contains("the name is not durable"));
        assert_eq!(disk.durable_lines(|_| true), 0);
    }

    #[test]
    fn a_name_is_durable_when_its_folder_is_synced() {
        let disk = disk("1 write(3</s/a>, \"x\\n\", 2) = 2\n1 fsync(3</s/a>) = 0\n1 fsync(4</s>) = 0\n");
        assert_eq!(disk.missing(Path::new("/s/a"), 2), None);
        assert_eq!(disk.durable_lines(|_| true), 1);
    }

    #[test]
    fn a_rename_of_what_is_not_durable_is_told() {
        let disk = disk(
            "1 write(3</s/a>, \"x\", 1) = 1\n1 fsync(4</s>) = 0\n1 rename(\"/s/a\", \"/s/b\") = 0\n1 fdatasync(3</s/b>) = 0\n",
        );
        assert_eq!(disk.torn_renames.len(), 1);
        assert_eq!(disk.missing(Path::new("/s/b"), 1), None);
        assert!(disk.misnamed(Path::new("/s/b"), 1).unwrap().contains("new name"));
        assert!(disk.missing(Path::new("/s/a"), 0).is_some());
    }

    #[test]
    fn a_frame_may_carry_records() {
        let json = r#"{"n":1,"d":0,"s":0,"c":[{"o":{"c":"web","o":{"partition":{},"offset":{"next":7}}}}]}"#;
        let quoted = json.replace('"', "\\\"");
        let carrying = format!("\\0\\0\\0\\{:o}{quoted}rec", json.len());
        for (magic, payload, length) in [("AQjf", quoted, json.len()), ("AQjw", carrying, json.len() + 7)] {
            let text = format!("{magic}\\0\\0\\0\\{length:o}\\1\\2\\3\\4{payload}");
            let args = format!("4</s/data/journal/1.journal>, \"{text}\", 99, 0");
            let found = committed(&Event { call: "pwrite64".to_owned(), args, returned: None }).unwrap();
            assert_eq!(found.len(), 1, "{magic}");
        }
        let zeros =
            Event { call: "pwrite64".to_owned(), args: "4</s/1.journal>, \"\\0\\0\\0\", 3, 0".to_owned(), returned: None };
        assert_eq!(committed(&zeros).unwrap(), []);
    }

    #[test]
    fn what_failed_did_nothing() {
        let disk = disk("1 write(3</s/a>, \"x\", 1) = 1\n1 fdatasync(3</s/a>) = -1 EIO (Input/output error)\n");
        assert!(disk.missing(Path::new("/s/a"), 1).is_some());
    }
}
