//! One broker: a process that is killed, frozen and started again on the same data and port.

use crate::clients::{Publisher, Subscriber};
use crate::options::{Options, PASSWORD, USER};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use wait_services::{poll_for, wait_until};

/// On a loaded machine.
const START: Duration = Duration::from_secs(60);

/// Killed on drop, its data removed. The tail of its log is printed when the test fails.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    pub(crate) options: Options,
    process: Option<Child>,
    watchers: Vec<Child>,
    dir: tempfile::TempDir,
}

impl Broker {
    /// Starts a broker and returns when it listens.
    ///
    /// # Panics
    /// When it does not start, with the tail of its log.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut broker = Self::stopped(options);
        broker.restart();
        broker
    }

    /// A broker whose address is known; nothing listens there until [`Broker::restart`].
    #[track_caller]
    pub fn stopped(options: Options) -> Self {
        // Not /tmp, which may be memory.
        let dir = tempfile::Builder::new().prefix("aqueduct-mqtt-").tempdir_in("/var/tmp").expect("/var/tmp is writable");
        let broker = Self { port: free_port(), options, process: None, watchers: Vec::new(), dir };
        if broker.options.tls {
            must(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("make-certs.sh")).arg(broker.certs()));
        }
        if broker.options.password {
            must(Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(broker.dir().join("passwords")).args([USER, PASSWORD]));
        }
        let text = broker.options.configuration(broker.port, broker.dir());
        fs::write(broker.dir().join("mosquitto.conf"), text).expect("our own folder");
        broker
    }

    /// The folder of the broker: `mosquitto.conf`, `mosquitto.db`, `mosquitto.log`, `certs/`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `ca.pem` and `other-ca.pem`; `client.pem` of `CN=alice`.
    pub fn certs(&self) -> PathBuf {
        self.dir().join("certs")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `tcp://127.0.0.1:PORT`, or `ssl://…`.
    pub fn uri(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.options.tls { "ssl" } else { "tcp" }, self.port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Starts it again, on the same data and port, and returns when it listens.
    ///
    /// # Panics
    /// When it already runs, or does not start within a minute.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker already runs");
        let said = OpenOptions::new().create(true).append(true).open(self.dir().join("stderr.log")).expect("our own folder");
        let mut command = Command::new(server_program());
        command.arg("-c").arg(self.dir().join("mosquitto.conf")).current_dir(self.dir()).stdin(Stdio::null());
        let child = command.stdout(said.try_clone().expect("a file handle can be cloned")).stderr(said).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}; run `cargo xtask services install`, or apt-get install mosquitto mosquitto-clients"));
        self.watchers.push(watch(child.id(), self.dir()));
        let process = self.process.insert(child);
        let ready = poll_for(START, || match process.try_wait().expect("our own child can be waited for") {
            Some(status) => Some(Err(format!("ended with {status}"))),
            None => answers(self.port, self.options.tls).then_some(Ok(())),
        });
        assert!(matches!(ready, Some(Ok(()))), "mosquitto does not start: {ready:?}\n{}", self.log_tail(30));
    }

    /// `kill -9`, and it is gone on return.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM: it writes down what it has.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.process.take() {
            wait_until(Duration::from_secs(60), "mosquitto ends", || child.try_wait().ok().flatten());
        }
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, what: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, what);
        }
    }

    /// Removes what it keeps of sessions and messages, as a broker that is set up anew. It must be down.
    pub fn forget(&self) {
        assert!(self.process.is_none(), "the broker runs");
        let _ = fs::remove_file(self.dir().join("mosquitto.db"));
    }

    /// The lines, each as a message; returns when the broker has acknowledged all (QoS 1 and 2).
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn publish<S: AsRef<str>>(&self, topic: &str, qos: u8, lines: &[S], more: &[&str]) {
        let mut publisher = self.publisher(topic, qos, more);
        for line in lines {
            publisher.line(line.as_ref());
        }
        publisher.finish();
    }

    /// `mosquitto_pub` that takes lines.
    pub fn publisher(&self, topic: &str, qos: u8, more: &[&str]) -> Publisher {
        let mut command = self.client("mosquitto_pub");
        command.args(["-t", topic, "-q", &qos.to_string()]).args(more);
        Publisher::start(command.arg("-l"))
    }

    /// `mosquitto_sub`, in a clean session unless `-c` is among `more`. Returns when it has subscribed.
    #[track_caller]
    pub fn subscribe(&self, filter: &str, qos: u8, more: &[&str]) -> Subscriber {
        let mut command = self.client("mosquitto_sub");
        command.args(["-t", filter, "-q", &qos.to_string()]).args(more);
        Subscriber::start(command)
    }

    /// A client of mosquitto's with this broker's address and login.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.options.tls {
            command.arg("--cafile").arg(self.certs().join("ca.pem"));
        }
        if self.options.client_certificate {
            command.arg("--cert").arg(self.certs().join("client.pem")).arg("--key").arg(self.certs().join("client.key"));
        }
        if self.options.password {
            command.args(["-u", USER, "-P", PASSWORD]);
        }
        command
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let read = |name: &str| String::from_utf8_lossy(&fs::read(self.dir().join(name)).unwrap_or_default()).into_owned();
        let text = read("stderr.log") + &read("mosquitto.log");
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    #[allow(clippy::print_stderr, reason = "why a test failed")]
    fn print_tail(&self) {
        eprintln!("--- end of the log of mosquitto on {}\n{}", self.port, self.log_tail(25));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_tail();
        }
        self.kill9();
        for mut watcher in self.watchers.drain(..) {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// Debian's lies outside of an ordinary user's PATH.
fn server_program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.exists() { debian } else { "mosquitto".into() }
}

/// Ends the broker and removes its folder when this program is gone without having dropped it: killed, or with a shared broker, which nobody drops.
fn watch(pid: u32, dir: &Path) -> Child {
    const SCRIPT: &str = r#"
        while kill -0 "$1" 2>/dev/null; do kill -0 "$2" 2>/dev/null || exit; sleep 1; done
        kill -KILL "$2" 2>/dev/null
        rm -rf "$3""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "watch", &std::process::id().to_string(), &pid.to_string()]).arg(dir);
    // Its output is closed: whoever reads a test's output to its end does not wait for it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command.spawn().expect("sh is there")
}

/// # Panics
/// When it fails.
#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Whether the broker speaks MQTT there: under load it was seen to listen and to reset its first connection.
fn answers(port: u16, tls: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    if tls {
        return true;
    }
    // CONNECT of MQTT 3.1.1: a clean session, 10 s, the client `ready`. Any CONNACK will do, a refusal too.
    let connect = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05ready";
    let mut answer = [0; 4];
    let asked = stream.set_read_timeout(Some(Duration::from_secs(5))).and_then(|()| stream.write_all(connect));
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer[0] == 0x20
}

/// A port below the ephemeral range, so that no outgoing connection takes it while the broker is down; never the same twice in a process.
///
/// # Panics
/// When none of a thousand is free.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no panic while it is held");
    let free = |port: &u16| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (0..1000).map(|_| fastrand::u16(20_000..32_000)).find(free).expect("one of a thousand ports is free");
    given.push(port);
    port
}

/// The broker that all tests of a program share: plain options, so use topics and client ids of your own, and do not kill it.
/// Ended, and its data removed, when the program ends.
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
