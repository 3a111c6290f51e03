//! What must hold of the sources: seconds to a few minutes, no test is run.

use crate::sh::Sh;
use crate::{arrows, invariants, links, reference};
use anyhow::{Result, bail};

pub(crate) fn run(sh: &Sh) -> Result<()> {
    arrows::check(sh)?;
    invariants::check(sh)?;
    links::check(sh)?;
    format(sh)?;
    lints(sh)?;
    reference::run(sh, true)?;
    deny(sh)
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

/// Needs the network and a tool of its own, so it is not part of the tests.
fn deny(sh: &Sh) -> Result<()> {
    if !sh.has_cargo("deny") {
        eprintln!("cargo-deny is not installed: licences and advisories were NOT checked (cargo install cargo-deny)");
        return Ok(());
    }
    sh.cargo(&["deny", "check"])
}
