//! Judges a finished run by hand: `checker --ledger ledger.txt --file out.log`, `--rolled out/`, `--log data/ --topic lines`.

use anyhow::{Result, bail, ensure};
use aqueduct_tests::{Ledger, check, outputs, segment};
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    ledger: PathBuf,
    /// The file that a sink appended to.
    #[arg(long)]
    file: Option<PathBuf>,
    /// The folder of a rolling sink.
    #[arg(long)]
    rolled: Option<PathBuf>,
    /// The data directory of a stopped worker, read by a segment reader of its own.
    #[arg(long, requires = "topic")]
    log: Option<PathBuf>,
    #[arg(long)]
    topic: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ledger = Ledger::load(&args.ledger)?;
    let streams = match (&args.file, &args.rolled, &args.log) {
        (Some(file), None, None) => outputs::append_file(file, args.topic.as_deref())?,
        (None, Some(folder), None) => outputs::rolled(folder)?,
        (None, None, Some(data)) => segment::streams(data, args.topic.as_deref().unwrap_or_default())?,
        _ => bail!("exactly one of --file, --rolled and --log"),
    };
    let report = check(&ledger, &streams);
    writeln!(std::io::stdout(), "{report}")?;
    ensure!(report.is_clean(), "violations");
    Ok(())
}
