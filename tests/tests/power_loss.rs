//! What must be durable before the log says so, seen from outside: `strace` is the witness, so a file system that keeps more than it promises
//! cannot hide a missing fsync.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::chaos::{TOPIC, sink_yaml, source_yaml};
use aqueduct_tests::site::START_DEADLINE;
use aqueduct_tests::trace::{Committed, Disk, strace};
use aqueduct_tests::{Mode, Run, Site, outputs, wait_until};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Under strace, on a loaded machine.
const SOON: Duration = Duration::from_secs(40);

/// What the trace of two lives shows, the first of which ends in `kill -9`.
#[derive(Debug, Default)]
struct Verdict {
    commits: usize,
    rolls: usize,
    bytes: Vec<String>,
    renames: Vec<String>,
}

fn run_of(site: &Site, bug: Option<&str>, life: u32) -> (Run, PathBuf) {
    let trace = site.path(&format!("trace.{life}"));
    let plan = bug.map(|bug| format!("bug={bug}")).unwrap_or_default();
    (Run { under: strace(&trace), ..Run::failpoints(plan) }, trace)
}

fn healthy(site: &mut Site, run: &Run) {
    site.spawn(run);
    site.wait_healthy(START_DEADLINE).unwrap_or_else(|error| {
        panic!(
            "{error:#} (strace must be installed, and ptrace allowed: in a container, --cap-add SYS_PTRACE)\n{}",
            site.log_tail(20)
        )
    });
}

/// strace writes on a little after the worker is gone.
fn whole(trace: &Path, pid: u32) -> String {
    let pid = pid.to_string();
    // Short pids are padded.
    let gone = |line: &str| line.split_once(' ').is_some_and(|(who, what)| who == pid && what.trim_start().starts_with("+++"));
    wait_until(SOON, "strace ends", || {
        let text = fs::read_to_string(trace).ok()?;
        text.lines().rev().take(64).any(gone).then_some(text)
    })
}

fn append(site: &Site, lines: std::ops::Range<u32>) {
    let mut file = OpenOptions::new().create(true).append(true).open(site.path("in/app.log")).unwrap();
    let text: String = lines.map(|n| format!("app {n}\n")).collect();
    file.write_all(text.as_bytes()).unwrap();
}

/// Lines in all files of the sink, finished or not.
fn arrived(site: &Site, mode: Mode) -> usize {
    let files = match mode {
        Mode::Append => vec![site.path("out.log")],
        Mode::Rolling => {
            let found = fs::read_dir(site.path("out").join(TOPIC).join("0")).ok();
            let paths = found.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            paths.filter(|path| is_of_sink(path)).collect()
        }
    };
    let lines = |path: &PathBuf| fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
    files.iter().map(lines).sum()
}

/// `00000000000000000700.log`, and `.00000000000000000700.log.part` until it is finished: where it starts.
fn start_of(path: &Path) -> Option<(u64, bool)> {
    let name = path.file_name()?.to_str()?;
    let part = name.strip_prefix('.').and_then(|name| name.strip_suffix(".part"));
    Some((part.unwrap_or(name).strip_suffix(".log")?.parse().ok()?, part.is_none()))
}

fn is_of_sink(path: &Path) -> bool {
    path.ends_with("out.log") || start_of(path).is_some()
}

fn watch_sink(mode: Mode, bug: Option<&str>) -> Verdict {
    let mut site = Site::new();
    fs::create_dir_all(site.path("in")).unwrap();
    site.connector("source", &source_yaml(&site, "app.log"));
    site.connector("sink", &sink_yaml(&site, mode).replace("roll.bytes: 20000", "roll.records: 300"));
    let mut disk = Disk::new(&site.root, &site.data_dir());
    let mut verdict = Verdict::default();
    let mut next = 0;
    for life in 0..2 {
        let (run, trace) = run_of(&site, bug, life);
        healthy(&mut site, &run);
        for _ in 0..4 {
            append(&site, next..next + 250);
            next += 250;
            wait_until(SOON, "what is appended arrives", || (arrived(&site, mode) >= next as usize).then_some(()));
        }
        let pid = site.pid().unwrap();
        if life == 0 {
            site.kill()
        } else {
            site.stop()
        }
        let text = whole(&trace, pid);
        disk.replay(&text, |disk, committed| judge(disk, committed, &mut verdict)).unwrap();
        disk.look_again().unwrap();
    }
    verdict.rolls = disk.renames;
    verdict.renames = std::mem::take(&mut disk.torn_renames);
    if bug.is_none() {
        let streams = match mode {
            Mode::Append => outputs::append_file(&site.path("out.log"), None).unwrap(),
            Mode::Rolling => outputs::rolled(&site.path("out")).unwrap(),
        };
        let text: Vec<u8> = streams.into_iter().flat_map(|stream| stream.bytes).collect();
        let expected: String = (0..next).map(|n| format!("app {n}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
    println!(
        "{mode:?} {bug:?}: {} commits, {} renames, {:?} {:?}",
        verdict.commits,
        verdict.rolls,
        verdict.bytes.first(),
        verdict.renames.first()
    );
    verdict
}

/// A commit of the sink's position: everything before it must outlive a power cut, before the commit can.
fn judge(disk: &Disk, committed: &Committed, verdict: &mut Verdict) {
    let Committed::Position { group, offset, kept, .. } = committed else { return };
    assert_eq!(group, "connect-sink");
    verdict.commits += 1;
    let number = |name: &str| kept.get(name).and_then(Value::as_u64);
    let target = PathBuf::from(kept["file"].as_str().expect("the sink keeps its file with each position"));
    let (start, length) = (number("start"), number("length").unwrap_or(0));
    if start.is_none() && length > 0 {
        // One file for all.
        verdict.bytes.extend(disk.missing(&target, length));
        return;
    }
    // The one that is open, and all before it, finished.
    let mut found = *offset == 0;
    for (path, all) in disk.files() {
        let Some((at, finished)) = start_of(path).filter(|(at, _)| at < offset) else { continue };
        found = true;
        verdict.bytes.extend(match finished {
            // It may be finished while its commit is written.
            _ if Some(at) == start => disk.missing(path, length),
            true => disk.misnamed(path, all),
            false => Some(format!("{} is before {offset}, but not finished", path.display())),
        });
    }
    if !found {
        verdict.bytes.push(format!("{offset} is committed, but nothing is there"));
    }
}

#[test]
fn an_append_file_is_durable_before_its_position() {
    let verdict = watch_sink(Mode::Append, None);
    assert!(verdict.bytes.is_empty(), "{verdict:#?}");
    assert!(verdict.commits >= 5, "too few commits to mean anything: {verdict:?}");
}

#[test]
fn a_rolled_file_is_durable_before_its_name_and_its_position() {
    let verdict = watch_sink(Mode::Rolling, None);
    assert!(verdict.bytes.is_empty() && verdict.renames.is_empty(), "{verdict:#?}");
    assert!(verdict.commits >= 5 && verdict.rolls >= 6, "too few to mean anything: {verdict:?}");
}

#[test]
fn a_skipped_fsync_of_the_file_is_caught() {
    for mode in [Mode::Append, Mode::Rolling] {
        let verdict = watch_sink(mode, Some("skip_file_sync"));
        assert!(verdict.bytes.iter().any(|text| text.contains("bytes are durable")), "{mode:?}: {verdict:?}");
    }
}

#[test]
fn a_skipped_fsync_of_the_folder_is_caught() {
    for mode in [Mode::Append, Mode::Rolling] {
        let verdict = watch_sink(mode, Some("skip_dir_sync"));
        assert!(verdict.bytes.iter().any(|text| text.contains("name is not durable")), "{mode:?}: {verdict:?}");
    }
}

#[test]
fn a_rename_before_the_fsync_is_caught() {
    assert!(!watch_sink(Mode::Rolling, Some("rename_before_sync")).renames.is_empty());
}

/// Every line below the generator's stored offset would be there after a power cut. The first commit of each life and one a second are judged.
fn watch_datagen(bug: Option<&str>) -> (usize, Vec<String>) {
    let mut site = Site::new();
    let file = site.path("gen/deep/access.log");
    let yaml =
        "name: web\nconnector.class: datagen-source\ntemplate: access_log\nrate: 2000\nfile.max.bytes: 60000\nfile.keep: 1000\n";
    site.connector("web", &format!("{yaml}start.time: now\nfile: {}\n", file.display()));
    let mut disk = Disk::new(&site.root, &site.data_dir());
    let (mut commits, mut wrong) = (0, Vec::new());
    for life in 0..2 {
        let (run, trace) = run_of(&site, bug, life);
        healthy(&mut site, &run);
        let rotated = file.with_extension(format!("log.{}", 8 * (life + 1)));
        wait_until(SOON, "the file rotates", || rotated.exists().then_some(()));
        let pid = site.pid().unwrap();
        if life == 0 {
            site.kill()
        } else {
            site.stop()
        }
        let judge = |disk: &Disk, committed: &Committed| {
            let Committed::Source { offset, .. } = committed else { return };
            let (next, lines) = (offset["next"].as_u64().unwrap(), disk.durable_lines(|path| path.starts_with(site.path("gen"))));
            commits += usize::from(next > 0);
            if lines < next {
                wrong.push(format!("{lines} lines are durable, the offset is {next}"));
            }
        };
        disk.replay(&whole(&trace, pid), judge).unwrap();
        disk.look_again().unwrap();
    }
    wrong.extend(std::mem::take(&mut disk.torn_renames));
    println!("datagen {bug:?}: {commits} commits, {:?}", wrong.first());
    (commits, wrong)
}

#[test]
fn generated_lines_are_durable_before_their_offset() {
    let (commits, wrong) = watch_datagen(None);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(commits >= 3, "too few commits to mean anything: {commits}");
}

#[test]
fn a_generator_that_skips_fsyncs_is_caught() {
    for bug in ["skip_file_sync", "skip_dir_sync"] {
        assert!(!watch_datagen(Some(bug)).1.is_empty(), "{bug}");
    }
}
