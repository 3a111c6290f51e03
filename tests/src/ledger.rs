//! The oracle: deterministic lines, the ledger of what was written, and the process that writes both.
//!
//! A line is `<source> <seq> <payload>`; the payload follows from source and number, so that corruption and invention show without keeping bodies.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a source issued and wrote. Numbers run from 0 without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Lines below this number may be in the file.
    pub issued: u64,
    /// Lines below this number are in the file.
    pub written: u64,
    /// Where its records must be, when the test says so.
    pub topic: Option<String>,
}

/// The ledger, read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub sources: BTreeMap<String, Source>,
}

impl Ledger {
    /// # Errors
    /// When it cannot be read or is not a ledger.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&fs::read_to_string(path).with_context(|| path.display().to_string())?)
    }

    /// # Errors
    /// When a line is not of a ledger.
    pub fn parse(text: &str) -> Result<Self> {
        let mut ledger = Self::default();
        // It may be read while it is written: a line counts when it is whole.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["topic", source, topic] => ledger.sources.entry(source.to_owned()).or_default().topic = Some(topic.to_owned()),
                ["issued", source, next] => ledger.sources.entry(source.to_owned()).or_default().issued = next.parse()?,
                ["written", source, next] => ledger.sources.entry(source.to_owned()).or_default().written = next.parse()?,
                _ => bail!("not a ledger line: {line:?}"),
            }
        }
        Ok(ledger)
    }

    pub fn written(&self) -> u64 {
        self.sources.values().map(|source| source.written).sum()
    }
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

/// Appends the line without its line end. Lengths: mostly 20 to 150 bytes, some empty, some of several KiB, some not ASCII.
pub fn line(source: &str, seq: u64, out: &mut Vec<u8>) {
    let name =
        source.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut state = mix(name ^ mix(seq));
    let length = match state % 200 {
        0 => 0,
        1 => 2_000 + (state >> 20) % 7_000,
        _ => 10 + (state >> 20) % 120,
    };
    write!(out, "{source} {seq} ").expect("writing to memory");
    let end = out.len() + usize::try_from(length).unwrap_or(0);
    while out.len() < end {
        state = mix(state);
        for shift in 0..10.min(end - out.len()) {
            out.push(LETTERS[(state >> (shift * 6) & 63) as usize]);
        }
    }
    if state.is_multiple_of(89) {
        out.extend_from_slice("·é✓".as_bytes());
    }
}

/// The process that owns files and ledger, driven by lines on its stdin; it survives everything the test does to the worker.
#[derive(Debug)]
pub struct LedgerProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub ledger: PathBuf,
}

/// What to write.
#[derive(Clone, Debug)]
pub struct LedgerPlan {
    pub ledger: PathBuf,
    /// One source each, named by the file's stem.
    pub files: Vec<PathBuf>,
    /// Lines per second over all files; the real rate may be lower.
    pub rate: u64,
    /// Rename rotation every so many milliseconds, 0 for never.
    pub rotate_ms: u64,
    /// Rotated files kept (`app.log.1` is the youngest).
    pub keep: u32,
    pub topic: Option<String>,
    pub seed: u64,
}

impl LedgerProcess {
    /// `program` is the `ledger` binary: `env!("CARGO_BIN_EXE_ledger")` in a test.
    pub fn start(program: &str, plan: &LedgerPlan) -> Self {
        let mut command = Command::new(program);
        command.arg("--ledger").arg(&plan.ledger).arg("--rate").arg(plan.rate.to_string());
        command
            .arg("--rotate-ms")
            .arg(plan.rotate_ms.to_string())
            .arg("--keep")
            .arg(plan.keep.to_string())
            .arg("--seed")
            .arg(plan.seed.to_string());
        if let Some(topic) = &plan.topic {
            command.arg("--topic").arg(topic);
        }
        command.args(&plan.files);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout, ledger: plan.ledger.clone() }
    }

    /// Sends a command (`pause`, `resume`, `reopen`) and waits until it is done.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("the ledger runs");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the ledger runs");
        assert_eq!(answer.trim(), command, "the ledger answers");
    }

    /// Stops writing and returns what was written: the last line of each source is the fresh marker to wait for.
    #[track_caller]
    pub fn pause(&mut self) -> Ledger {
        self.tell("pause");
        Ledger::load(&self.ledger).expect("the ledger is readable")
    }

    #[track_caller]
    pub fn finish(mut self) -> Ledger {
        let ledger = self.pause();
        self.tell("stop");
        let status = self.child.wait().expect("our own child");
        assert!(status.success(), "the ledger ended with {status}");
        ledger
    }
}

impl Drop for LedgerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_from_their_ids_alone() {
        let make = |source: &str, seq| {
            let mut out = Vec::new();
            line(source, seq, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(make("a", 7), make("a", 7));
        assert_ne!(make("a", 7)[4..], make("b", 7)[4..]);
        let lengths: Vec<usize> = (0..2000).map(|seq| make("app-0", seq).len()).collect();
        assert!(lengths.iter().any(|l| *l > 2_000) && lengths.iter().any(|l| *l < 12));
        assert!((0..2000).any(|seq| make("a", seq).ends_with('✓')));
        assert!((0..2000).all(|seq| !make("a", seq).contains('\n')));
    }
}
