//! One broker: a process that is killed, frozen and started again on the same data and ports.

use crate::home::{free_port, kafka_home, run, script, text};
use crate::options::{Options, Ports, properties};
use crate::proxy::Proxy;
use crate::wait::wait_until;
use crate::wire::Admin;
use rustix::process::{Pid, Signal, kill_process};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Killed on drop, its data removed. The tail of its log is printed when the test fails.
#[derive(Debug)]
pub struct Broker {
    pub node: u16,
    dir: tempfile::TempDir,
    options: Options,
    ports: Ports,
    pid: Option<u32>,
    proxy: Option<Proxy>,
}

impl Broker {
    /// Starts one broker (2 s, 1.5 CPU-seconds) and returns when it serves.
    ///
    /// # Panics
    /// When it does not start, with the tail of its log.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut broker = Self::new(1, options);
        broker.restart();
        broker
    }

    /// Ports, certificates and the proxy; not started.
    pub(crate) fn new(node: u16, options: Options) -> Self {
        // Not /tmp, which may be memory.
        let dir = tempfile::Builder::new().prefix("aqueduct-kafka-").tempdir_in("/var/tmp").expect("/var/tmp is writable");
        let mut ports =
            Ports { plain: free_port(), controller: free_port(), tls: free_port(), sasl: free_port(), ..Ports::default() };
        ports.sasl_tls = free_port();
        let proxy = options.proxied.then(|| Proxy::start(free_port()));
        ports.proxied = proxy.as_ref().map(|proxy| (proxy.upstream(), proxy.port()));
        let broker = Self { node, dir, options, ports, pid: None, proxy };
        if broker.options.security {
            let output = run(Command::new(script("make-certs.sh")).arg(broker.certs()));
            assert!(output.status.success(), "make-certs.sh needs openssl: {}", text(&output));
        }
        broker
    }

    /// The plain listener, for clients and witnesses: `127.0.0.1:PORT`.
    pub fn bootstrap(&self) -> String {
        address(self.ports.plain)
    }

    /// The listener behind the [`Proxy`]. Only with `Options::proxied`.
    pub fn proxied(&self) -> String {
        address(self.proxy().port())
    }

    /// # Panics
    /// Without `Options::proxied`.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("started with Options::proxied")
    }

    /// The listener with TLS; its authority is `certs()/ca.pem`. Only with `Options::security`, as the next two.
    pub fn tls(&self) -> String {
        address(self.ports.tls)
    }

    pub fn sasl(&self) -> String {
        address(self.ports.sasl)
    }

    pub fn sasl_tls(&self) -> String {
        address(self.ports.sasl_tls)
    }

    /// `ca.pem`; `client.pem` and `client.key` of `CN=alice`.
    pub fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// The folder of the broker: `server.properties`, `kafka.out`, `log/`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Topics and ACLs, over the protocol itself.
    pub fn admin(&self) -> Admin {
        Admin::connect(&self.bootstrap())
    }

    pub(crate) fn controller(&self) -> String {
        format!("{}@{}", self.node, address(self.ports.controller))
    }

    pub(crate) fn add_properties(&mut self, lines: &[String]) {
        self.options.properties.extend_from_slice(lines);
    }

    /// Starts it again, on the same data and ports.
    ///
    /// # Panics
    /// When it already runs, or does not start within a minute.
    #[track_caller]
    pub fn restart(&mut self) {
        let output = self.command().output().expect("bash is there");
        self.started(&output);
    }

    pub(crate) fn command(&self) -> Command {
        assert!(self.pid.is_none(), "the broker already runs");
        let mut command = Command::new(script("start-kafka.sh"));
        command
            .arg(self.dir.path())
            .arg(self.ports.plain.to_string())
            .env("CPORT", self.ports.controller.to_string())
            .env("NODE", self.node.to_string())
            .env("KAFKA_HOME", kafka_home())
            .env("HEAP", &self.options.heap)
            .env("JVM", &self.options.jvm)
            .env("EXTRA", properties(&self.options, &self.ports, &self.certs()))
            // A test program that is killed, or a shared broker, which nobody drops.
            .env("OWNER", std::process::id().to_string())
            .stdin(std::process::Stdio::null());
        command
    }

    #[track_caller]
    pub(crate) fn started(&mut self, output: &std::process::Output) {
        self.pid = std::fs::read_to_string(self.dir.path().join("kafka.pid")).ok().and_then(|pid| pid.trim().parse().ok());
        assert!(output.status.success(), "the broker does not start: {}", text(output));
    }

    /// `kill -9`, and the process is gone on return.
    pub fn kill9(&mut self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM: a controlled shutdown, leaders and coordinators move away first.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(pid) = self.pid.take() {
            wait_until(Duration::from_secs(60), "the broker ends", || gone(pid).then_some(()));
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The end of what it said, over all its starts.
    pub fn log_tail(&self, lines: usize) -> String {
        let bytes = std::fs::read(self.dir.path().join("kafka.out")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    #[allow(clippy::print_stderr, reason = "why a test failed")]
    fn print_tail(&self) {
        eprintln!("--- end of the log of broker {} on {}\n{}", self.node, self.bootstrap(), self.log_tail(25));
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Also when nobody has waited for it yet (the script that started it is gone), but not before its last thread has let go of the sockets.
fn gone(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"));
    zombie && std::fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1)
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_tail();
        }
        self.kill9();
    }
}

/// The broker that all tests of a program share: plain options, so use topics and groups of your own names, and do not kill it.
/// Killed, and its data removed, when the program ends.
///
/// # Panics
/// When it does not start.
#[track_caller]
pub fn shared() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    Shared(BROKER.get_or_init(|| Broker::start(Options::default())))
}

/// The shared broker; prints the tail of its log when the test fails.
#[derive(Debug)]
pub struct Shared(&'static Broker);

impl Deref for Shared {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.print_tail();
        }
    }
}
