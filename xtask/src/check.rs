//! What must hold of the sources: seconds to a few minutes, no test is run.

use crate::sh::{Sh, cargo};
use crate::{arrows, invariants, links, reference, services};
use anyhow::{Result, bail};
use std::time::Duration;

pub(crate) fn run(sh: &Sh) -> Result<()> {
    arrows::check(sh)?;
    invariants::check(sh)?;
    links::check(sh)?;
    format(sh)?;
    lints(sh)?;
    reference::run(sh, true)?;
    deny(sh, false)
}

pub(crate) fn format(sh: &Sh) -> Result<()> {
    if !sh.has_cargo("fmt") {
        bail!("rustfmt is missing: rustup component add rustfmt");
    }
    sh.cargo(&["fmt", "--all", "--check"])
}

pub(crate) fn lints(sh: &Sh) -> Result<()> {
    if !sh.has_cargo("clippy") {
        bail!("clippy is missing: rustup component add clippy");
    }
    sh.cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// A network that drops packets instead of refusing them must not hold CI up.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Licences, banned crates and sources; advisories where their database can be fetched. Says so when cargo-deny is missing and may not be installed.
pub(crate) fn deny(sh: &Sh, install: bool) -> Result<()> {
    // Kept outside of the checkout, as what else is installed.
    let tools = services::cache()?.join("tools");
    let mut path = vec![tools.join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path)?;
    let deny = |args: &[&str]| {
        let mut command = sh.command(cargo());
        command.arg("deny").args(args).env("PATH", &path);
        command
    };
    if !tools.join("bin/cargo-deny").is_file() && !sh.has_cargo("deny") {
        if !install {
            eprintln!("cargo-deny is not installed: licences, bans and advisories were NOT checked (cargo install cargo-deny)");
            return Ok(());
        }
        let mut command = sh.command(cargo());
        // Not optimised: it runs for seconds, and takes minutes to build.
        command.args(["install", "--debug", "--quiet", "--locked", "cargo-deny", "--version", "^0.20", "--root"]).arg(&tools);
        // A folder of its own, which is removed: nothing of it is needed again.
        sh.run(command.env_remove("CARGO_TARGET_DIR"))?;
    }
    sh.run(&mut deny(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    let fetched = sh.run_within(&mut deny(&["fetch", "db"]), FETCH_LIMIT)?;
    if !fetched.is_some_and(|status| status.success()) {
        eprintln!(
            "note: the database of advisories cannot be fetched (github.com/RustSec/advisory-db): advisories were NOT checked"
        );
        return Ok(());
    }
    sh.run(&mut deny(&["check", "--disable-fetch", "advisories"]))
}
