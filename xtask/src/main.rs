//! `cargo xtask`: what a developer and CI run. No aqueduct crate is linked here: the binary is asked.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod arrows;
mod aside;
mod check;
mod invariants;
mod lanes;
mod links;
mod reference;
mod services;
mod sh;
mod steps;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use sh::Sh;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and measure Aqueduct")]
enum Xtask {
    /// Install what the tests need, build, and run all tests with a time for each step.
    Test(test::Args),
    /// Formatting, lints, dependency arrows, generated pages, licences and advisories.
    Check,
    /// Clippy and cargo-deny, as `test` runs them beside the tests.
    #[command(hide = true)]
    Lints {
        /// Do not install anything.
        #[arg(long)]
        no_install: bool,
    },
    /// Generate the option tables in connectors/*/README.md, docs/cli.md and docs/openapi.json from the binary.
    Reference {
        /// Change nothing; fail when a page is stale.
        #[arg(long)]
        check: bool,
    },
    /// Measure the release binary beside its near limits and print a Markdown table.
    Bench {
        /// Build profile: `release`, or `dev` to try the benchmark itself.
        #[arg(long, default_value = "release")]
        profile: String,
        /// See `cargo xtask bench -- --help`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// What the tests need beyond Rust.
    #[command(subcommand)]
    Services(Services),
}

#[derive(Subcommand)]
enum Services {
    /// Say what is there and what is missing.
    Status,
    /// Install packages with apt-get; fetch Apache Kafka (broker, tools, Connect) and Python programs into a cache.
    Install,
}

fn main() -> Result<()> {
    let mut sh = Sh::new()?;
    match Xtask::parse() {
        Xtask::Test(args) => test::run(&mut sh, &args),
        Xtask::Check => check::run(&sh),
        Xtask::Lints { no_install } => check::lints(&sh).and(check::deny(&sh, !no_install)),
        Xtask::Reference { check } => reference::run(&sh, check),
        Xtask::Bench { profile, args } => bench(&sh, &profile, &args),
        Xtask::Services(Services::Status) => services::status(&sh),
        Xtask::Services(Services::Install) => services::install(&sh),
    }
}

fn bench(sh: &Sh, profile: &str, args: &[String]) -> Result<()> {
    // The example measures transforms, in a process of its own.
    let packages = ["-p", "aqueduct", "-p", "aqueduct-tests", "-p", "aqueduct-plugin-host"];
    let targets = ["--bin", "aqueduct", "--bin", "bench", "--example", "transforms"];
    sh.cargo(&[&["build", "--profile", profile][..], &packages, &targets].concat())?;
    let bin = sh.bin_dir(profile);
    let mut command = sh.command(bin.join("bench"));
    sh.run(command.args(args).env("AQUEDUCT_BIN", bin.join("aqueduct")))
}
