//! Everything that must hold, in the dev profile, with a time for each step.

use crate::aside::Aside;
use crate::sh::{Sh, cargo};
use crate::steps::{Step, Steps};
use crate::{arrows, check, invariants, lanes, links, reference, services};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the test programs whose name contains this (`crash`, `aqueduct_log`); no lints.
    only: Option<String>,
    /// Do not install anything.
    #[arg(long)]
    no_install: bool,
    /// Minutes that one test program may take.
    #[arg(long, default_value_t = 12)]
    minutes: u64,
    /// For the test programs: a test's name, `--nocapture`.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// A test program as cargo built it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    /// Black-box tests last: they are the longest, and say less when a unit is broken.
    black_box: bool,
    name: String,
    executable: PathBuf,
    package: PathBuf,
    package_name: String,
    /// `AQUEDUCT_POSTGRES_BIN`: on another server than Debian's.
    postgres: Option<PathBuf>,
}

/// What speaks to a server of whatever version: run on Debian's PostgreSQL, and on a newer one.
const ALSO_ON_NEWER: [&str; 3] = ["connectors postgres: source", "connectors postgres: snapshot", "connectors postgres: sink"];

pub(crate) fn run(sh: &mut Sh, args: &Args) -> Result<()> {
    sh.keep_tail();
    let sh = &*sh;
    let mut steps = Steps::new(sh);
    let programs = install_and_build(sh, &mut steps, !args.no_install)?;
    if args.only.is_none() {
        steps.note("dependency arrows", || arrows::check(sh));
        steps.note("cited invariants", || invariants::check(sh));
        steps.note("links", || links::check(sh));
        steps.note("formatting", || check::format(sh));
        steps.note("reference", || reference::check_built(sh));
    }
    let lints = args.only.is_none().then(|| Aside::lints(sh, args.no_install));
    let only = |program: &&Program| args.only.as_ref().is_none_or(|only| program.name.contains(only.as_str()));
    let chosen: Vec<&Program> = programs.iter().filter(only).collect();
    if chosen.is_empty() {
        bail!(
            "no test program is called {:?}; there are: {}",
            args.only,
            programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    let run = |sh: &Sh, program: &&Program| Step::take(sh, &program.name, || run_program(sh, program, args));
    // One alone is somebody who looks at it: what it prints shall be seen as it comes.
    steps.add(if chosen.len() == 1 { vec![run(sh, &chosen[0])] } else { lanes::run(sh, &chosen, run) });
    // What is left of it: the rest ran beside the tests.
    if let Some(lints) = lints {
        steps.note("lints, licences and bans", || lints?.end());
    }
    if args.only.is_none() {
        steps.note("documentation tests", || sh.cargo(&["test", "--quiet", "--workspace", "--doc"]));
    }
    steps.report()
}

/// Beside each other: the one waits for mirrors, the other for the compiler.
fn install_and_build(sh: &Sh, steps: &mut Steps<'_>, install: bool) -> Result<Vec<Program>> {
    std::thread::scope(|scope| {
        let installing = install.then(|| {
            let sh = sh.beside();
            scope.spawn(move || {
                // What cannot be installed here fails its own tests by name, in the end.
                let step = Step::take(&sh, "what the tests need", || services::install(&sh));
                sh.show(&step.name);
                step
            })
        });
        let mut programs = Vec::new();
        let built = Step::take(sh, "build", || {
            programs = build(sh)?;
            Ok(())
        });
        let installed = installing.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        steps.add(installed);
        steps.must(built)?;
        Ok(programs)
    })
}

/// One selection of packages for everything, so that features are unified once and nothing is built twice. The binary lies beside the tests.
fn build(sh: &Sh) -> Result<Vec<Program>> {
    let mut command = sh.command(cargo());
    command.args(["build", "--workspace", "--bins", "--tests", "--message-format", "json-render-diagnostics"]);
    let text = sh.output(&mut command)?;
    let mut programs = Vec::new();
    for message in cargo_metadata::Message::parse_stream(text.as_bytes()) {
        let cargo_metadata::Message::CompilerArtifact(artifact) = message? else { continue };
        let (true, Some(executable)) = (artifact.profile.test, artifact.executable) else { continue };
        let package = artifact.manifest_path.parent().context("a manifest lies in a folder")?.to_path_buf();
        let black_box = package.ends_with("tests");
        let crate_name = package.strip_prefix(&sh.root).unwrap_or(&package).as_str().replace('/', " ");
        let name = format!("{crate_name}: {}", artifact.target.name);
        // `path+file:///…/runtime/config#aqueduct-config@0.1.0`, or `…/xtask#0.1.0` where the folder has the package's name.
        let id = artifact.package_id.repr.rsplit_once('#').and_then(|(_, id)| id.split_once('@'));
        let package_name = id.map_or_else(|| package.file_name().unwrap_or_default().to_owned(), |(name, _)| name.to_owned());
        let executable = PathBuf::from(executable);
        let program = Program { black_box, name, executable, package: package.into(), package_name, postgres: None };
        if ALSO_ON_NEWER.contains(&&*program.name) {
            let name = format!("{} (a newer PostgreSQL)", program.name);
            programs.push(Program { name, postgres: Some(services::newer_postgres().join("native/bin")), ..program.clone() });
        }
        programs.push(program);
    }
    programs.sort();
    Ok(programs)
}

/// As `cargo test` runs it, with a limit on its time: a test that hangs must not take CI with it.
fn run_program(sh: &Sh, program: &Program, args: &Args) -> Result<()> {
    let mut command = sh.command(&program.executable);
    command.args(&args.rest).current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
    command.env("CARGO_PKG_NAME", &program.package_name);
    if let Some(bin) = &program.postgres {
        command.env("AQUEDUCT_POSTGRES_BIN", bin);
    }
    if program.black_box {
        command.env("AQUEDUCT_KAFKA_HOME", services::kafka_home()?).env("AQUEDUCT_PYTHON_HOME", services::python_home()?);
        command.env("AQUEDUCT_JAVASCRIPT_HOME", services::javascript_home()?);
        command.env("AQUEDUCT_BIN", sh.bin_dir("dev").join("aqueduct"));
    }
    match sh.run_within(&mut command, Duration::from_secs(args.minutes * 60))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{status}"),
        None => bail!("not done within {} minutes", args.minutes),
    }
}
