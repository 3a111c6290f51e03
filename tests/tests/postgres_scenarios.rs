//! The scenarios of config/scenarios run from the words of their READMEs, and survive the kill that one of them proposes.

#![allow(clippy::unwrap_used, reason = "a test: its panic is its answer")]

use aqueduct_tests::site::{aqueduct, free_port};
use aqueduct_tests::{poll_for, wait_until};
use postgres_services::{Options, PASSWORD, Server, USER};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// A fenced block: what stands behind `sh`, and the commands.
struct Block {
    kind: String,
    commands: String,
}

fn blocks(readme: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(info)) => open = Some(Block { kind: info.to_owned(), commands: String::new() }),
            (Some(block), None) => block.commands.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    blocks.retain(|block| block.kind.starts_with("sh"));
    blocks
}

struct Scenario {
    root: tempfile::TempDir,
    server: Server,
    port: u16,
    worker: Option<Child>,
}

impl Scenario {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("aqueduct-scenario-").tempdir().unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").canonicalize().unwrap(), root.path().join("config"))
            .unwrap();
        Self { root, server: Server::start(Options::scram()), port: free_port(), worker: None }
    }

    /// In bash, as a person has it: the repository's root, and where the database is.
    fn shell(&self, commands: &str) -> Command {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", aqueduct().parent().unwrap().display(), std::env::var("PATH").unwrap());
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(self.root.path()).env("PATH", path);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD);
        command.env("NO_COLOR", "1").stdin(Stdio::null());
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

    fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
    }

    fn run(&self, commands: &str) -> Output {
        self.shell(commands).output().unwrap()
    }

    fn why(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(2000).collect::<String>();
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let worker: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN ")).take(10).collect();
        format!("{}{}\n{}", text(&output.stdout), text(&output.stderr), worker.join("\n"))
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the check prints in the end.
#[track_caller]
fn play(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/scenarios").join(name);
    let mut scenario = Scenario::new();
    let (mut worker, mut answer) = (String::new(), None);
    for Block { kind, commands } in blocks(&fs::read_to_string(folder.join("README.md")).unwrap()) {
        match kind.as_str() {
            "sh worker" => {
                worker = commands;
                scenario.start(&worker);
            }
            // By its own id, not by its name.
            "sh kill" => {
                scenario.kill();
                scenario.start(&worker);
            }
            "sh check" => {
                let mut last = None;
                let same = poll_for(SOON, || {
                    let output = scenario.run(&commands);
                    let same = output.status.success().then_some(());
                    last = Some(output);
                    same
                });
                let output = last.unwrap();
                assert!(same.is_some(), "{name}: {commands}{}", scenario.why(&output));
                answer = Some(String::from_utf8(output.stdout).unwrap());
            }
            kind => {
                if kind == "sh end" {
                    scenario.kill();
                    // A connection that was killed ends when the server sees it.
                    let active = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
                    wait_until(SOON, "the slot is free", || (scenario.server.psql(active) == "0").then_some(()));
                }
                let output = scenario.run(&commands);
                assert!(output.status.success(), "{name}: {commands}{}", scenario.why(&output));
            }
        }
    }
    answer.expect("the README has a check")
}

#[test]
fn payments() {
    assert_eq!(play("payments").trim(), "100000.00 in all accounts");
}

#[test]
fn payroll() {
    let answer = play("payroll");
    let departments: Vec<&str> = answer.lines().map(|line| line.split('|').next().unwrap()).collect();
    assert_eq!(departments, ["engineering", "sales", "support"]);
    // 300, one of whom has left, and one who came.
    let heads: u32 = answer.lines().map(|line| line.split('|').nth(1).unwrap().parse::<u32>().unwrap()).sum();
    assert_eq!(heads, 300);
}
