//! Where Kafka lies, and free ports.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

/// `AQUEDUCT_KAFKA_HOME`, or the cache that `cargo xtask services install` fills. Completed here when it is not.
///
/// # Panics
/// When Kafka cannot be fetched, or there is no Java.
pub fn kafka_home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let home = var("AQUEDUCT_KAFKA_HOME")
            .or_else(|| var("AQUEDUCT_CI_CACHE").map(|cache| cache.join("kafka")))
            .or_else(|| var("HOME").map(|home| home.join(".cache/aqueduct/kafka")))
            .expect("HOME or AQUEDUCT_KAFKA_HOME");
        must_run("java", &["-version"], "default-jre-headless");
        let output = run(Command::new(script("get-kafka.sh")).arg(&home));
        assert!(output.status.success(), "Apache Kafka could not be fetched with mvn: {}", text(&output));
        home
    })
}

/// A folder for Connect's `plugin.path`, below Kafka's: Debezium's connector for `postgres`, or its `jdbc` sink. Completed here when it is not there.
///
/// # Panics
/// When Debezium cannot be fetched.
pub fn debezium_home(connector: &str) -> PathBuf {
    let home = kafka_home().join("debezium");
    let output = run(Command::new(script("get-debezium.sh")).arg(&home).arg(connector));
    assert!(output.status.success(), "Debezium could not be fetched with mvn: {}", text(&output));
    home.join(connector)
}

/// # Panics
/// When the program is missing: `cargo xtask services install` installs it, and no test is skipped for want of it.
pub(crate) fn must_run(program: &str, args: &[&str], package: &str) {
    let there = Command::new(program).args(args).stdin(Stdio::null()).output();
    assert!(there.is_ok(), "{program} is missing: run `cargo xtask services install`, or apt-get install {package}");
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// With this on its stdin.
pub(crate) fn run_with(command: &mut Command, stdin: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = child.stdin.take().expect("piped");
    // From a thread of its own: it may answer before it has read all.
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(stdin));
        child.wait_with_output().expect("our own child can be waited for")
    })
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
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
