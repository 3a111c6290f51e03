//! A process that one of our scripts started in a folder: known by its id, and by the log it leaves there.

use crate::home::text;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use wait_services::wait_until;

/// Killed on drop, its folder removed. The tail of its log is printed when the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    dir: tempfile::TempDir,
    /// `kafka` for `kafka.pid` and `kafka.out`.
    stem: &'static str,
    pid: Option<u32>,
}

impl Process {
    /// Not started: the folder alone.
    pub(crate) fn new(stem: &'static str, name: String) -> Self {
        // Not /tmp, which may be memory.
        let dir = tempfile::Builder::new().prefix("aqueduct-kafka-").tempdir_in("/var/tmp").expect("/var/tmp is writable");
        Self { name, dir, stem, pid: None }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Takes over what the script has started.
    #[track_caller]
    pub(crate) fn started(&mut self, output: &Output) {
        let file = self.dir().join(format!("{}.pid", self.stem));
        self.pid = fs::read_to_string(file).ok().and_then(|pid| pid.trim().parse().ok());
        assert!(output.status.success(), "{} does not start: {}", self.name, text(output));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The process is gone on return.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(pid) = self.pid.take() {
            wait_until(Duration::from_secs(60), "a process ends on a signal", || gone(pid).then_some(()));
        }
    }

    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let bytes = fs::read(self.dir().join(format!("{}.out", self.stem))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    #[allow(clippy::print_stderr, reason = "why a test failed")]
    pub(crate) fn print_tail(&self) {
        eprintln!("--- end of the log of {}\n{}", self.name, self.log_tail(25));
    }
}

/// Also when nobody has waited for it yet (the script that started it is gone), but not before its last thread has let go of the sockets.
fn gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"));
    zombie && fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1)
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_tail();
        }
        self.end(Signal::KILL);
    }
}
