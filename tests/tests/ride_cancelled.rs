//! The scenario `ride-cancelled` runs from the words of its README, with the kill that it proposes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::site::{aqueduct, free_port};
use aqueduct_tests::{poll_for, wait_until};
use postgres_services::{Options, PASSWORD, Server, USER};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Fenced blocks: what stands behind the fence, and the commands.
fn blocks(readme: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(kind)) => open = Some((kind.to_owned(), String::new())),
            (Some((_, commands)), None) => commands.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    blocks.retain(|(kind, _)| kind.starts_with("sh"));
    blocks
}

struct Scenario {
    root: tempfile::TempDir,
    server: Server,
    port: u16,
    api_port: u16,
    worker: Option<Child>,
    api: Option<Child>,
}

impl Scenario {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("aqueduct-scenario-").tempdir().unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").canonicalize().unwrap();
        symlink(config, root.path().join("config")).unwrap();
        Self { root, server: Server::start(Options::scram()), port: free_port(), api_port: free_port(), worker: None, api: None }
    }

    /// In bash, as a person has it: the repository's root, and where the database is.
    fn shell(&self, commands: &str) -> Command {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", aqueduct().parent().unwrap().display(), std::env::var("PATH").unwrap());
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(self.root.path()).stdin(Stdio::null());
        command.envs([
            ("PATH", path.as_str()),
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &self.server.port().to_string()),
            ("PGUSER", USER),
            ("PGPASSWORD", PASSWORD),
            ("PGHTTPPORT", &self.api_port.to_string()),
            ("NO_COLOR", "1"),
        ]);
        command
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("worker.log")
    }

    fn start(&mut self, commands: &str) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let command = format!("exec {} --set listeners=http://127.0.0.1:{}", commands.trim(), self.port);
        self.worker = Some(self.shell(&command).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// With what it starts itself, as one group.
    fn start_api(&mut self, commands: &str) {
        self.api = Some(self.shell(commands).stdout(Stdio::null()).process_group(0).spawn().unwrap());
        let at = format!("127.0.0.1:{}", self.api_port);
        wait_until(SOON, "the API listens", || std::net::TcpStream::connect(&at).ok());
    }

    fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
    }

    fn why(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(2000).collect::<String>();
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let worker: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN ")).take(10).collect();
        format!("{}{}\n{}", text(&output.stdout), text(&output.stderr), worker.join("\n"))
    }

    /// Until it succeeds: what it prints then.
    #[track_caller]
    fn in_time(&self, commands: &str) -> String {
        let mut last = None;
        let done = poll_for(SOON, || {
            let output = self.shell(commands).output().unwrap();
            let done = output.status.success().then_some(());
            last = Some(output);
            done
        });
        let output = last.unwrap();
        assert!(done.is_some(), "{commands}{}", self.why(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut api) = self.api.take() {
            if let Some(group) = rustix::process::Pid::from_raw(api.id().cast_signed()) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = api.wait();
        }
    }
}

#[test]
fn a_cancelled_ride_is_a_call() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/scenarios/ride-cancelled");
    let mut scenario = Scenario::new();
    let (mut worker, mut answer) = (String::new(), None);
    for (kind, commands) in blocks(&fs::read_to_string(folder.join("README.md")).unwrap()) {
        match kind.as_str() {
            "sh worker" => {
                worker = commands;
                scenario.start(&worker);
            }
            "sh api" => scenario.start_api(&commands),
            // By its own id, not by its name.
            "sh kill" => {
                scenario.kill();
                scenario.start(&worker);
            }
            "sh ready" => drop(scenario.in_time(&commands)),
            "sh check" => answer = Some(scenario.in_time(&commands)),
            kind => {
                if kind == "sh end" {
                    refused(&scenario);
                    scenario.kill();
                    // A connection that was killed ends when the server sees it.
                    let active = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
                    wait_until(SOON, "the slot is free", || (scenario.server.psql(active) == "0").then_some(()));
                }
                let output = scenario.shell(&commands).output().unwrap();
                assert!(output.status.success(), "{commands}{}", scenario.why(&output));
            }
        }
    }
    let answer = answer.expect("the README has a check");
    println!("{answer}");
    let calls: u32 = answer.split(' ').next().unwrap().parse().unwrap();
    assert!(calls >= 99, "{answer}");
}

/// What the README says of ride 9.
fn refused(scenario: &Scenario) {
    let command = "aqueduct topics read ride.cancellations.refused";
    let command = format!("AQUEDUCT_URL=http://127.0.0.1:{} {command}", scenario.port);
    wait_until(SOON, "the refused ride is in the dead letter queue", || {
        let output = scenario.shell(&command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("\"id\":9").then_some(())
    });
}
