//! A worker's home in a temporary folder, and the process that runs there.

use crate::client::Client;
use crate::wait::{poll_for, wait_until};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// On a loaded machine of two cores a debug binary needs its time; a test that waits this long has failed.
pub const START_DEADLINE: Duration = Duration::from_secs(90);

/// `worker.yaml`, `data/`, `connectors/`, and what else a test puts there. Kept when the test fails.
#[derive(Debug)]
pub struct Site {
    dir: Option<tempfile::TempDir>,
    pub root: PathBuf,
    pub port: u16,
    child: Option<Child>,
}

/// How to start the worker.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub failpoints: String,
    /// A command that the worker runs under: `["prlimit", "--nofile=64"]`.
    pub under: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Run {
    pub fn failpoints(plan: impl Into<String>) -> Self {
        Self { failpoints: plan.into(), ..Self::default() }
    }
}

/// The binary under test.
///
/// # Panics
/// When it was not built.
pub fn aqueduct() -> PathBuf {
    if let Some(path) = std::env::var_os("AQUEDUCT_BIN") {
        return path.into();
    }
    let me = std::env::current_exe().expect("a running process has an executable");
    let found = me.ancestors().skip(1).take(2).map(|dir| dir.join("aqueduct")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no aqueduct beside {}: run `cargo build -p aqueduct`, or set AQUEDUCT_BIN", me.display()))
}

/// A port below the ephemeral range, so that no outgoing connection takes it while the worker is down.
pub fn free_port() -> u16 {
    let port = (0..1000).map(|_| fastrand::u16(20_000..32_000)).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    port.expect("one of a thousand ports is free")
}

impl Site {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With more lines for `worker.yaml`.
    pub fn with(settings: &str) -> Self {
        Self::in_folder(&std::env::temp_dir(), settings)
    }

    /// Under this folder, for what must lie on a certain disk.
    pub fn in_folder(parent: &Path, settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("aqueduct-test-").tempdir_in(parent).expect("the folder is writable");
        let root = dir.path().to_path_buf();
        let site = Self { dir: Some(dir), root, port: free_port(), child: None };
        fs::create_dir_all(site.connectors_dir()).expect("just created");
        site.configure(settings);
        site
    }

    /// Writes `worker.yaml`.
    pub fn configure(&self, settings: &str) {
        let has = |key: &str| settings.lines().any(|line| line.starts_with(key));
        let mut text =
            format!("listeners: http://127.0.0.1:{}\nconnectors.dir: {}\n", self.port, self.connectors_dir().display());
        if !has("data.dir:") {
            text.push_str(&format!("data.dir: {}\n", self.data_dir().display()));
        }
        text.push_str(settings);
        fs::write(self.path("worker.yaml"), text).expect("the site is writable");
    }

    /// Leaves the folder behind for people to look at; where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.kill();
        self.dir.take().map_or_else(|| self.root.clone(), tempfile::TempDir::keep)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    pub fn connectors_dir(&self) -> PathBuf {
        self.path("connectors")
    }

    pub fn stderr_file(&self) -> PathBuf {
        self.path("worker.log")
    }

    /// Puts a connector into the folder, atomically as an editor does.
    pub fn connector(&self, name: &str, yaml: &str) {
        let (partial, path) = (self.path(&format!(".{name}.partial")), self.connectors_dir().join(format!("{name}.yaml")));
        fs::write(&partial, yaml).expect("the site is writable");
        fs::rename(partial, path).expect("the site is writable");
    }

    pub fn client(&self) -> Client {
        Client::new(format!("http://127.0.0.1:{}", self.port))
    }

    /// Starts the worker and waits until `/health` says healthy; the time that took.
    #[track_caller]
    pub fn start(&mut self) -> Duration {
        self.start_with(&Run::default())
    }

    #[track_caller]
    pub fn start_with(&mut self, run: &Run) -> Duration {
        let begin = Instant::now();
        self.spawn(run);
        self.wait_healthy(START_DEADLINE).unwrap_or_else(|error| panic!("{error:#}\n{}", self.log_tail(40)));
        begin.elapsed()
    }

    /// Starts the worker and does not wait.
    pub fn spawn(&mut self, run: &Run) {
        self.spawn_binary(run, &aqueduct());
    }

    /// As [`Site::spawn`], with a copy of the binary (one that another user can reach).
    pub fn spawn_binary(&mut self, run: &Run, binary: &Path) {
        assert!(self.child.is_none(), "the worker already runs");
        let log = OpenOptions::new().create(true).append(true).open(self.stderr_file()).expect("the site is writable");
        let mut words = run.under.iter().map(PathBuf::from).chain([binary.to_path_buf()]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command
            .args(words)
            .arg("worker")
            .arg("--config")
            .arg(self.path("worker.yaml"))
            .current_dir(&self.root)
            .env("NO_COLOR", "1");
        without_our_variables(&mut command);
        if !run.failpoints.is_empty() {
            command.env("AQUEDUCT_FAILPOINTS", &run.failpoints);
        }
        command.envs(run.env.iter().map(|(k, v)| (k, v)));
        let out = log.try_clone().expect("a file handle can be cloned");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")));
    }

    /// # Errors
    /// When it exits, or is not healthy by the deadline.
    pub fn wait_healthy(&mut self, deadline: Duration) -> Result<()> {
        let client = self.client();
        let outcome = poll_for(deadline, || {
            if let Some(status) = self.exited() {
                return Some(Err(anyhow::anyhow!("the worker ended before it was healthy: {status}")));
            }
            matches!(client.call(reqwest::Method::GET, "/health", None), Ok(answer) if answer.status == 200).then_some(Ok(()))
        });
        outcome.unwrap_or_else(|| bail!("not healthy within {deadline:?}"))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The exit status, once it has one; then the worker counts as down.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("our own child can be waited for")?;
        self.child = None;
        Some(status)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, and the process is gone on return.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        wait_until(deadline, "the worker ends", || self.exited())
    }

    /// SIGTERM; it must drain and end with code 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = match poll_for(Duration::from_secs(90), || self.exited()) {
            Some(status) => status,
            None => panic!("the worker does not end on SIGTERM\n{}", self.log_tail(40)),
        };
        assert!(status.success(), "the worker ended with {status}\n{}", self.log_tail(40));
    }

    /// All that the worker said so far, over every run.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.stderr_file()).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The last failpoint that acted (`failpoint NAME hit N: abort`) after this many bytes of the log.
    pub fn failpoint_after(&self, offset: usize) -> Option<String> {
        let text = self.log();
        let line = text.get(offset..)?.lines().rev().find_map(|line| line.strip_prefix("failpoint "))?;
        line.split(' ').next().map(str::to_owned)
    }

    pub fn log_len(&self) -> usize {
        fs::metadata(self.stderr_file()).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX))
    }

    /// Runs the command line against this site: `--url` of the worker is given by `AQUEDUCT_URL`.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.cli_with(args, None)
    }

    pub fn cli_with(&self, args: &[&str], stdin: Option<&Path>) -> Output {
        let stdin = stdin.map_or_else(Stdio::null, |path| File::open(path).expect("the test wrote it").into());
        let mut command = Command::new(aqueduct());
        without_our_variables(&mut command);
        command
            .args(args)
            .current_dir(&self.root)
            .env("NO_COLOR", "1")
            .env("AQUEDUCT_URL", format!("http://127.0.0.1:{}", self.port))
            .stdin(stdin);
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// As [`Site::cli`]; must end with 0. Its stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "aqueduct {}: {}\n{out}\n{err}", args.join(" "), output.status);
        out.into_owned()
    }
}

/// `AQUEDUCT_…` of this process is for the tests; the worker would take it for settings.
fn without_our_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AQUEDUCT_")) {
        command.env_remove(name);
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Site {
    #[allow(clippy::print_stderr, reason = "where to look after a failed test")]
    fn drop(&mut self) {
        self.kill();
        let keep = std::thread::panicking() || std::env::var_os("AQUEDUCT_TEST_KEEP").is_some();
        if let (true, Some(dir)) = (keep, self.dir.take()) {
            eprintln!("kept: {}\n--- end of worker.log\n{}", dir.keep().display(), self.log_tail(25));
        }
    }
}

/// A figure of `/proc/<pid>/status` in KiB: `VmHWM`, `VmRSS`, `RssAnon`.
///
/// # Errors
/// When the process is gone.
pub fn memory_kib(pid: u32, figure: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).with_context(|| figure.to_owned())?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// User and system CPU time of a process so far.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let (user, kernel) = times(pid)?;
    Ok(user + kernel)
}

/// The kernel's part of [`cpu_time`].
///
/// # Errors
/// When the process is gone.
pub fn kernel_time(pid: u32) -> Result<Duration> {
    Ok(times(pid)?.1)
}

fn times(pid: u32) -> Result<(Duration, Duration)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    // USER_HZ is 100 on Linux.
    let ticks = |field: &str| field.parse().map(|ticks: u64| Duration::from_millis(ticks * 10));
    Ok((ticks(fields[11])?, ticks(fields[12])?))
}
