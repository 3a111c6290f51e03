//! `log verify|dump`: the files of a data directory, without a worker.

use crate::failure::{Failure, Outcome};
use crate::output::{Format, Screen, bytes, grouped, print};
use crate::wiring;
use aqueduct_core::{PayloadRef, RecordRef};
use aqueduct_log::embedded::verify::{DumpedBatch, Report, dump, verify};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Look at the log's files: check them, print what is in them.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Read everything that is committed and check it: checksums, offsets, indexes, journal. Changes nothing. Exits with 1 on damage.
    Verify {
        /// The data directory; its worker must be stopped. That of config/worker.yaml if not given.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Print the batches of segment files, one a line.
    ///
    /// The files are Kafka's: kafka-dump-log.sh reads them too.
    Dump {
        /// Segment files (*.log), or folders of a partition: data/topics/orders-0.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print the records too.
        #[arg(long)]
        records: bool,
    },
}

pub(crate) fn run(command: Command, screen: &Screen) -> Outcome {
    match command {
        Command::Verify { data_dir } => verify_log(data_dir, screen),
        Command::Dump { paths, records } => {
            let mut damaged = false;
            for path in paths {
                for file in segments(&path)? {
                    damaged |= !dump_file(&file, records, screen)?;
                }
            }
            if damaged { Err(Failure::said()) } else { Ok(()) }
        }
    }
}

/// The file itself, or the segments of a partition in the order of their offsets.
fn segments(path: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {}", path.display())),
        _ => Failure::failed(format!("cannot read {}: {error}", path.display())),
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    if files.is_empty() {
        let failure = Failure::not_found(format!("{} has no segment files", path.display()));
        return Err(failure.fix("name a partition's folder, such as data/topics/orders-0"));
    }
    Ok(files)
}

/// Prints the batches up to the first damage; false when there is one.
fn dump_file(path: &Path, records: bool, screen: &Screen) -> Outcome<bool> {
    if screen.format == Format::Table {
        print(&screen.bold(&path.display().to_string()))?;
    }
    let (mut sound, mut printed) = (true, Ok(()));
    dump(path, |batch, of| {
        sound &= batch.damage.is_none();
        let mut text = batch_line(path, batch, screen);
        if records {
            of.iter().for_each(|record| text.push_str(&record_line(record, screen)));
        }
        printed = print(&text);
        printed.is_ok()
    })?;
    printed.map(|()| sound)
}

fn batch_line(path: &Path, batch: &DumpedBatch, screen: &Screen) -> String {
    if screen.format != Format::Table {
        let mut line = json!(batch);
        line["file"] = json!(path);
        return format!("{line}\n");
    }
    let compression =
        batch.compression.map_or_else(|| "unknown compression".to_owned(), |kind| format!("{kind:?}").to_lowercase());
    let time = jiff::Timestamp::from_millisecond(batch.max_timestamp).map_or_else(|_| "-".to_owned(), |time| time.to_string());
    let mut line = format!(
        "offsets {} to {}, {} records, {} bytes at {}, {compression}, to {time}, crc {:08x}\n",
        batch.base_offset, batch.last_offset, batch.records, batch.bytes, batch.position, batch.crc
    );
    if let Some(damage) = &batch.damage {
        line.push_str(&format!("  {} {damage}\n", screen.red("damage:")));
    }
    line
}

fn record_line(record: RecordRef<'_>, screen: &Screen) -> String {
    let offset = record.origin().map_or(-1, |(_, offset)| offset);
    if screen.format == Format::Table {
        return format!("  {offset}\t{}\t{}\n", lossy(record.key()), lossy(record.value()));
    }
    let line = json!({ "offset": offset, "timestamp": record.timestamp(), "key": json_of(record.key()), "value": json_of(record.value()) });
    format!("{line}\n")
}

fn lossy(payload: PayloadRef<'_>) -> String {
    match payload {
        PayloadRef::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        PayloadRef::Null | PayloadRef::Data(_) => "-".to_owned(),
    }
}

fn json_of(payload: PayloadRef<'_>) -> Value {
    match payload {
        PayloadRef::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        PayloadRef::Null | PayloadRef::Data(_) => Value::Null,
    }
}

fn verify_log(data_dir: Option<PathBuf>, screen: &Screen) -> Outcome {
    let dir = match data_dir {
        Some(dir) => dir,
        None => {
            let config = wiring::read_config(Path::new(wiring::CONFIG), &[])?;
            if config.kafka.is_some() {
                let message = format!(
                    "{} says that the log is {}: there is nothing of it here",
                    wiring::CONFIG,
                    wiring::data_place(&config)
                );
                return Err(Failure::failed(message).fix(
                    "Kafka checks its own files, and kafka-dump-log.sh prints them; name an embedded log with --data-dir DIR",
                ));
            }
            config.data_dir
        }
    };
    if !dir.is_dir() {
        return Err(Failure::not_found(format!("there is no data directory {}", dir.display())));
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The template is ours: a test of indicatif's own would find it wrong.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go") {
        bar.set_style(style);
    }
    let report = verify(&dir, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    screen.show(&report, || verified(&dir, &report, screen))?;
    if report.damage.is_empty() { Ok(()) } else { Err(Failure::said()) }
}

fn verified(dir: &Path, report: &Report, screen: &Screen) -> String {
    let mut text = format!(
        "{}: {} topics, {} partitions, {} segments, {} batches, {} records, {}\n",
        dir.display(),
        report.topics,
        report.partitions,
        report.segments,
        grouped(report.batches),
        grouped(report.records),
        bytes(report.bytes)
    );
    if report.uncommitted_bytes > 0 {
        text.push_str(&format!("{} behind the last commit, which the next start cuts off\n", bytes(report.uncommitted_bytes)));
    }
    for damaged in &report.damage {
        let place = match (&damaged.topic, damaged.partition) {
            (Some(topic), Some(partition)) => format!("{topic}-{partition}"),
            _ => "journal".to_owned(),
        };
        let from = damaged.offset.map(|offset| format!(" from offset {offset}")).unwrap_or_default();
        let until = damaged.until.map(|until| format!(" until {until}")).unwrap_or_default();
        let label = screen.red("damage:");
        text.push_str(&format!(
            "{label} {place}{from}{until}: {} ({} at byte {})\n",
            damaged.what, damaged.file, damaged.position
        ));
    }
    text + if report.damage.is_empty() { "all is well" } else { "what is damaged is not served; the rest is" }
}
