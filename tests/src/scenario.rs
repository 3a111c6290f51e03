//! A scenario of config/scenarios, played from the words of its README: `sh` blocks are run in bash, `sh worker` and `sh api` are started, `sh kill` kills the worker and starts it
//! again, `sh ready` and `sh check` are run until they succeed, `sh end` is run when the worker is down.

use crate::poll_for;
use crate::site::{aqueduct, free_port};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// On a loaded machine.
const SOON: Duration = Duration::from_secs(120);

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

/// As [`play_then`], with nothing to do in between.
///
/// # Panics
/// As [`play_then`].
#[track_caller]
pub fn play(name: &str, env: &[(&str, &str)]) -> String {
    play_then(name, env, || ())
}

/// Plays `config/scenarios/<name>/README.md` in a folder of its own, where `config` is the repository's; what the last check printed. `env`: where the services are. `down` is
/// called when the worker is down, before the end.
///
/// # Panics
/// At the first block that fails, with what it and the worker said.
#[track_caller]
pub fn play_then(name: &str, env: &[(&str, &str)], down: impl Fn()) -> String {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").canonicalize().expect("the repository has it");
    let readme = fs::read_to_string(config.join("scenarios").join(name).join("README.md")).expect("a scenario has a README");
    let root = tempfile::Builder::new().prefix("aqueduct-scenario-").tempdir().expect("a temporary folder");
    symlink(config, root.path().join("config")).expect("a new folder");
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut stage = Stage { root, env, port: free_port(), worker: None, api: None };
    let (mut worker, mut answer) = (String::new(), None);
    for Block { kind, commands } in blocks(&readme) {
        match kind.as_str() {
            "sh worker" => {
                worker = commands;
                stage.start(&worker);
            }
            "sh api" => {
                stage.api = Some(stage.shell(&commands).stdout(Stdio::null()).process_group(0).spawn().expect("bash is there"))
            }
            // By its own id, not by its name.
            "sh kill" => {
                stage.kill();
                stage.start(&worker);
            }
            "sh ready" => drop(stage.in_time(name, &commands)),
            "sh check" => answer = Some(stage.in_time(name, &commands)),
            kind => {
                if kind == "sh end" {
                    stage.kill();
                    down();
                }
                let output = stage.run(&commands);
                assert!(output.status.success(), "{name}: {commands}{}", stage.why(&output));
            }
        }
    }
    answer.expect("the README has a check")
}

struct Stage {
    root: tempfile::TempDir,
    env: Vec<(String, String)>,
    port: u16,
    worker: Option<Child>,
    /// With what it started itself, as one group.
    api: Option<Child>,
}

impl Stage {
    /// In bash, as a person has it: at the repository's root, with the binary in PATH.
    fn shell(&self, commands: &str) -> Command {
        let mut command = Command::new("bash");
        let binaries = aqueduct().parent().map(Path::to_path_buf).unwrap_or_default();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-euo", "pipefail", "-c", commands]).current_dir(self.root.path()).env("PATH", path);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.env("AQUEDUCT_URL", format!("http://127.0.0.1:{}", self.port)).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("worker.log")
    }

    fn start(&mut self, commands: &str) {
        let log = File::options().create(true).append(true).open(self.log()).expect("our own folder");
        let command = format!("exec {} --set listeners=http://127.0.0.1:{}", commands.trim(), self.port);
        let out = log.try_clone().expect("a file handle can be cloned");
        self.worker =
            Some(self.shell(&command).env_remove("AQUEDUCT_URL").stdout(out).stderr(log).spawn().expect("bash is there"));
    }

    fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }

    fn run(&self, commands: &str) -> Output {
        self.shell(commands).output().expect("bash is there")
    }

    /// Until it succeeds: what it prints then.
    #[track_caller]
    fn in_time(&self, name: &str, commands: &str) -> String {
        let mut last = None;
        let done = poll_for(SOON, || {
            let output = self.run(commands);
            let done = output.status.success().then_some(());
            last = Some(output);
            done
        });
        let output = last.expect("it ran at least once");
        assert!(done.is_some(), "{name}: {commands}{}", self.why(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn why(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(2000).collect::<String>();
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let worker: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN ")).take(10).collect();
        format!("{}{}\n{}", text(&output.stdout), text(&output.stderr), worker.join("\n"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut api) = self.api.take() {
            if let Some(group) = Pid::from_raw(api.id().cast_signed()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = api.wait();
        }
    }
}
