//! `plugins test`: the promises of every plugin, checked in this process.

use super::lines::record;
use super::run::{Found, found, options};
use crate::client::block_on;
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Screen, print};
use aqueduct_plugin_host::kit::{self, Case, Check, Verdict};
use serde_json::json;
use std::path::PathBuf;

/// Check that a plugin keeps the promises of its kind: metadata, validation, resuming, redelivery, kills, odd and large records, limits, delays.
///
/// The plugin is really run, with what worker.yaml grants it: a sink writes to its target. Exits with 1 when a promise is broken.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plugin.
    file: PathBuf,
    /// Its options: a connector's file, or for a transform its own options alone. A source needs one that has a few records to give, the same each time.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The worker's settings, whose grants hold; config/worker.yaml if there is one.
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Records for a sink or a transform, one a line: values, or JSON as `plugin run` prints it.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Outcome {
    let mut case = Case { options: options(args.config.as_deref())?, records: Vec::new() };
    if let Some(path) = &args.records {
        let text = String::from_utf8(super::install::read(path)?);
        let text =
            text.map_err(|_| Failure::failed(format!("{} is not UTF-8: write such values as value_base64", path.display())))?;
        case.records = text.lines().map(|line| record(line, "plugin-test")).collect::<Outcome<_>>()?;
    }
    let mut reports: Vec<(String, Vec<Check>)> = Vec::new();
    for plugin in found(&args.file, args.worker.clone())? {
        let checks = &mut Vec::new();
        block_on(async {
            *checks = match &plugin {
                Found::Connector(plugin) => kit::connector(plugin, &case).await,
                Found::Transform(transform) => kit::transform(transform, &case).await,
            };
            Ok(())
        })?;
        reports.push((plugin.name().to_owned(), std::mem::take(checks)));
    }
    let all = || reports.iter().flat_map(|(_, checks)| checks);
    let failed = all().filter(|check| matches!(check.verdict, Verdict::Failed(_))).count();
    if screen.format == Format::Table {
        for (name, checks) in &reports {
            print(&report(name, checks, screen))?;
        }
        let skipped = all().filter(|check| matches!(check.verdict, Verdict::Skipped(_))).count();
        let passed = all().count() - failed - skipped;
        print(&format!("{passed} passed, {failed} failed, {skipped} skipped"))?;
    } else {
        let check = |check: &Check| match &check.verdict {
            Verdict::Passed => json!({ "check": check.name, "passed": true }),
            Verdict::Failed(why) => json!({ "check": check.name, "passed": false, "why": why }),
            Verdict::Skipped(why) => json!({ "check": check.name, "passed": null, "why": why }),
        };
        let plugin = |(name, checks): &(String, Vec<Check>)| json!({ "plugin": name, "checks": checks.iter().map(check).collect::<Vec<_>>() });
        screen.show(&reports.iter().map(plugin).collect::<Vec<_>>(), String::new)?;
    }
    if failed > 0 { Err(Failure::said()) } else { Ok(()) }
}

fn report(name: &str, checks: &[Check], screen: &Screen) -> String {
    let mut text = format!("{}\n", screen.bold(name));
    for check in checks {
        let (word, why) = match &check.verdict {
            Verdict::Passed => (screen.paint("ok    ", "32"), None),
            Verdict::Failed(why) => (screen.red("FAILED"), Some(why)),
            Verdict::Skipped(why) => (screen.paint("--    ", "33"), Some(why)),
        };
        text.push_str(&format!("  {word}  {}\n", check.name));
        if let Some(why) = why {
            text.push_str(&format!("          {why}\n"));
        }
    }
    text
}
