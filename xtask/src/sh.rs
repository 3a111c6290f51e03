//! Commands, run at the top of the checkout and shown before they run.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a log that was cut short must still tell of a failed step.
pub(crate) const TAIL_LINES: usize = 40;
/// A process that was left behind may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What commands print that pass through here.
#[derive(Clone, Default)]
struct Printed {
    /// The last lines.
    tail: Arc<Mutex<VecDeque<String>>>,
    /// All of it, where it is shown in one piece ([`Sh::beside`]) and not as it comes.
    block: Option<Arc<Mutex<Vec<u8>>>>,
}

pub(crate) struct Sh {
    pub(crate) root: PathBuf,
    target: PathBuf,
    /// Of what ran, once [`Sh::keep_tail`] was called.
    printed: Option<Printed>,
}

impl Sh {
    pub(crate) fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the checkout")?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target, printed: None })
    }

    /// From now on what commands print passes through here, so that its end can be told again.
    pub(crate) fn keep_tail(&mut self) {
        self.printed = Some(Printed::default());
    }

    /// For what runs beside others: what is printed is kept until [`Sh::show`], or one would not know who says what.
    pub(crate) fn beside(&self) -> Self {
        let printed = Printed { block: Some(Arc::default()), ..Printed::default() };
        Self { root: self.root.clone(), target: self.target.clone(), printed: Some(printed) }
    }

    /// Shows in one piece, under this line, what was printed since this was called before.
    pub(crate) fn show(&self, line: &str) {
        let Some(block) = self.printed.as_ref().and_then(|printed| printed.block.as_ref()) else { return };
        let mut text = std::mem::take(&mut *block.lock().unwrap_or_else(PoisonError::into_inner));
        text.splice(..0, format!("\n── {line}\n").into_bytes());
        let _ = std::io::stderr().lock().write_all(&text);
    }

    /// The last lines that were printed since this was called before.
    pub(crate) fn take_tail(&self) -> Vec<String> {
        let Some(printed) = &self.printed else { return Vec::new() };
        printed.tail.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Starts a command. Its stderr, and its stdout if `all`, pass through here when tails are kept.
    fn spawn(&self, command: &mut Command, all: bool) -> Result<(Child, Option<Receiver<()>>)> {
        let text = text_of(command);
        let mut passed = None;
        if let Some(printed) = &self.printed {
            let (reader, writer) = std::io::pipe()?;
            if all {
                command.stdout(writer.try_clone()?);
            }
            command.stderr(writer);
            let (done, receiver) = channel();
            let printed = printed.clone();
            #[allow(clippy::disallowed_methods, reason = "ends with the pipe, and says so on its channel")]
            std::thread::spawn(move || {
                pass(reader, &printed);
                let _ = done.send(());
            });
            passed = Some(receiver);
        }
        let child = command.spawn().with_context(|| format!("cannot start {text}"))?;
        // Our ends of the pipe, which would keep it open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((child, passed))
    }

    /// Runs a command for at most this long; `None` when it had to be killed.
    pub(crate) fn run_within(&self, command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
        let (mut child, passed) = self.spawn(command, true)?;
        let status = wait(&mut child, limit)?;
        if let Some(passed) = passed {
            let _ = passed.recv_timeout(LAST_WORDS);
        }
        Ok(status)
    }

    /// Where cargo puts the binaries of a profile.
    pub(crate) fn bin_dir(&self, profile: &str) -> PathBuf {
        self.target.join(if profile == "dev" { "debug" } else { profile })
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        // Set by `cargo run` for xtask itself; they would make cargo believe that other crates had changed: ring's build asks for several.
        let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "LD_LIBRARY_PATH";
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let text = text_of(command);
        self.say(&format!("$ {text}"));
        let status = self.run_within(command, Duration::MAX)?;
        match status {
            Some(status) if status.success() => Ok(()),
            status => bail!("{text} ended with {}", status.unwrap_or_default()),
        }
    }

    /// A line among what commands print.
    fn say(&self, line: &str) {
        match self.printed.as_ref().and_then(|printed| printed.block.as_ref()) {
            Some(block) => block.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(format!("{line}\n").as_bytes()),
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn cargo(&self, args: &[&str]) -> Result<()> {
        self.run(self.command(cargo()).args(args))
    }

    /// Its stdout; stderr passes through.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        let text = text_of(command);
        let (child, passed) = self.spawn(command.stdout(Stdio::piped()), false)?;
        let output = child.wait_with_output().with_context(|| text.clone())?;
        if let Some(passed) = passed {
            let _ = passed.recv_timeout(LAST_WORDS);
        }
        if !output.status.success() {
            bail!("{text} ended with {}", output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// True when `cargo NAME` exists: not every Rust installation has rustfmt, clippy and deny.
    pub(crate) fn has_cargo(&self, name: &str) -> bool {
        let mut command = self.command(cargo());
        command
            .args([name, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

fn text_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    words.collect::<Vec<_>>().join(" ")
}

/// Shows every line as it comes or keeps it for later, and keeps the last.
fn pass(reader: PipeReader, printed: &Printed) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        match &printed.block {
            Some(block) => block.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&line),
            None => {
                let _ = std::io::stderr().write_all(&line);
            }
        }
        let mut tail = printed.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the standard library cannot wait for a child with a deadline; this is the poll's interval"
)]
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Looks a program up in `PATH`, and where the system's tools are.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_printed_is_kept() {
        let mut sh = Sh::new().unwrap();
        sh.keep_tail();
        let error = sh.run(sh.command("sh").args(["-c", "seq 1 100; echo on stderr >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let tail = sh.take_tail();
        assert_eq!((tail.len(), tail.first().unwrap().as_str(), tail.last().unwrap().as_str()), (TAIL_LINES, "62", "on stderr"));
        assert!(sh.take_tail().is_empty());
        assert_eq!(sh.output(sh.command("sh").args(["-c", "echo out; echo err >&2"])).unwrap(), "out\n");
        assert_eq!(sh.take_tail(), ["err"]);
        assert!(sh.run_within(sh.command("sleep").arg("60"), Duration::from_millis(50)).unwrap().is_none());
    }
}
