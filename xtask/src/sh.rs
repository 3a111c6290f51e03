//! Commands, run at the top of the checkout and shown before they run.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Sh {
    pub(crate) root: PathBuf,
    target: PathBuf,
}

impl Sh {
    pub(crate) fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the checkout")?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// Where cargo puts the binaries of a profile.
    pub(crate) fn bin_dir(&self, profile: &str) -> PathBuf {
        self.target.join(if profile == "dev" { "debug" } else { profile })
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        // Set by `cargo run` for xtask itself; they would make cargo believe that other crates had changed.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
        let text = words.collect::<Vec<_>>().join(" ");
        eprintln!("$ {text}");
        let status = command.status().with_context(|| format!("cannot start {text}"))?;
        if !status.success() {
            bail!("{text} ended with {status}");
        }
        Ok(())
    }

    pub(crate) fn cargo(&self, args: &[&str]) -> Result<()> {
        self.run(self.command(cargo()).args(args))
    }

    /// Its stdout; stderr passes through.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?} ended with {}", output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// True when `cargo NAME` exists: not every Rust installation has rustfmt, clippy and deny.
    pub(crate) fn has_cargo(&self, name: &str) -> bool {
        let mut command = self.command(cargo());
        command
            .args([name, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Looks a program up in `PATH`, and where the system's tools are.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|path| path.is_file())
}
