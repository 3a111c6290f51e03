//! One broker: a process that is killed, frozen and started again on the same data and ports.

use crate::home::{free_port, kafka_home, run, script, text};
use crate::options::{Options, Ports, properties};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::wire::Admin;
use rustix::process::Signal;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Killed on drop, its data removed. The tail of its log is printed when the test fails.
#[derive(Debug)]
pub struct Broker {
    pub node: u16,
    process: Process,
    options: Options,
    ports: Ports,
    proxy: Option<Proxy>,
}

impl Broker {
    /// Starts one broker (2 s, 1.5 CPU-seconds) and returns when it serves.
    ///
    /// # Panics
    /// When it does not start, with the tail of its log.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut broker = Self::prepare(options);
        broker.restart();
        broker
    }

    /// Its addresses are known, nothing listens there until [`Broker::restart`].
    pub fn prepare(options: Options) -> Self {
        Self::new(1, options)
    }

    /// Ports, certificates and the proxy; not started.
    pub(crate) fn new(node: u16, options: Options) -> Self {
        let mut ports =
            Ports { plain: free_port(), controller: free_port(), tls: free_port(), sasl: free_port(), ..Ports::default() };
        ports.sasl_tls = free_port();
        let proxy = options.proxied.then(|| Proxy::start(free_port()));
        ports.proxied = proxy.as_ref().map(|proxy| (proxy.upstream(), proxy.port()));
        let process = Process::new("kafka", format!("broker {node} on {}", address(ports.plain)));
        let broker = Self { node, process, options, ports, proxy };
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
        self.process.dir().join("certs")
    }

    /// The folder of the broker: `server.properties`, `kafka.out`, `log/`.
    pub fn dir(&self) -> &Path {
        self.process.dir()
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
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
        assert!(self.pid().is_none(), "the broker already runs");
        let mut command = Command::new(script("start-kafka.sh"));
        command
            .arg(self.process.dir())
            .arg(self.ports.plain.to_string())
            .env("CPORT", self.ports.controller.to_string())
            .env("NODE", self.node.to_string())
            .env("KAFKA_HOME", kafka_home())
            .env("HEAP", &self.options.heap)
            .env("JVM", &self.options.jvm)
            .env("EXTRA", properties(&self.options, &self.ports, &self.certs()))
            // A test program that is killed, or a shared broker, which nobody drops.
            .env("OWNER", std::process::id().to_string())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub(crate) fn started(&mut self, output: &Output) {
        self.process.started(output);
    }

    /// `kill -9`, and the process is gone on return.
    pub fn kill9(&mut self) {
        self.process.end(Signal::KILL);
    }

    /// SIGTERM: a controlled shutdown, leaders and coordinators move away first.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM);
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The end of what it said, over all its starts.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
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
            self.0.process.print_tail();
        }
    }
}
