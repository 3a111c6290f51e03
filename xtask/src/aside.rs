//! What needs a processor runs beside the tests, which mostly wait: at the lowest priority, its output kept for the end.

use crate::sh::{Sh, TAIL_LINES};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

/// `cargo xtask lints` as a process of its own. Killed when it is dropped before its end.
pub(crate) struct Aside {
    child: Child,
    output: PathBuf,
    began: Instant,
}

impl Aside {
    pub(crate) fn lints(sh: &Sh, no_install: bool) -> Result<Self> {
        let output = sh.bin_dir("dev").join("lints.log");
        let file = File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
        // The build may have put another in the place of the one that runs.
        let xtask = sh.bin_dir("dev").join("xtask");
        let mut command = sh.command("nice");
        command.args(["-n", "19"]).arg(xtask).arg("lints").args(no_install.then_some("--no-install"));
        let child = command.stdout(file.try_clone()?).stderr(file).spawn().context("cannot start nice")?;
        Ok(Self { child, output, began: Instant::now() })
    }

    /// Waits for it, and prints what it printed.
    pub(crate) fn end(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let printed = std::fs::read_to_string(&self.output)?;
        eprint!("{printed}");
        eprintln!("{:.0} s until it was asked for, beside the tests", self.began.elapsed().as_secs_f64());
        if !status.success() {
            let lines: Vec<_> = printed.lines().collect();
            bail!("{status}\n{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Ended already, or nobody will wait for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
