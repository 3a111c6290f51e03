//! A process that dies at every point, gets errors at every point, or has a bug.

use crate::fake::{FakeLog, Life, check_lines, options, rolled};
use aqueduct_connector_file::sink::{Compression, read_text};
use aqueduct_core::{Options, Result, TopicPartition, failpoint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const RECORDS: i64 = 900;
const PARTITIONS: &[(&str, i32)] = &[("t", 0), ("t", 1)];

struct Site {
    root: tempfile::TempDir,
    mode: &'static str,
    compression: &'static str,
}

fn load(root: &Path) -> FakeLog {
    let mut log = FakeLog::new(PARTITIONS);
    if let Ok(bytes) = std::fs::read(root.join("committed")) {
        let stored: Vec<(i64, Option<String>)> = serde_json::from_slice(&bytes).unwrap();
        for (position, (offset, metadata)) in log.0.values_mut().zip(stored) {
            (position.offset, position.metadata) = (offset, metadata.map(Into::into));
        }
    }
    log
}

fn store(root: &Path, log: &FakeLog) {
    let text = serde_json::to_vec(&log.0.values().map(|p| (p.offset, p.metadata.as_deref())).collect::<Vec<_>>()).unwrap();
    std::fs::write(root.join("committed.tmp"), text).unwrap();
    std::fs::rename(root.join("committed.tmp"), root.join("committed")).unwrap();
}

/// The process under test. Runs only when another test starts it.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(root) = std::env::var_os("SINK_TEST_ROOT").map(PathBuf::from) else { return };
    failpoint::arm(&std::env::var("SINK_TEST_FAILPOINTS").unwrap()).unwrap();
    let options: Options = serde_json::from_slice(&std::fs::read(root.join("options")).unwrap()).unwrap();
    let bug = std::env::var("SINK_TEST_FAILPOINTS").unwrap().contains("bug=");
    // As the worker: after an error that may pass, from the committed positions again.
    for _ in 0..20 {
        match live(&root, &options).await {
            Ok(()) => return,
            Err(error) if error.is_retriable() => {}
            // A planted bug may well be noticed by the sink itself; the checker shall find it.
            Err(_) if bug => return,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("errors without end");
}

async fn live(root: &Path, options: &Options) -> Result<()> {
    let mut log = load(root);
    let mut life = Life::begin(options, &log).await?;
    for step in 0.. {
        let open: Vec<TopicPartition> = life.next.iter().filter(|(_, next)| **next < RECORDS).map(|(p, _)| p.clone()).collect();
        for partition in &open {
            life.put(partition, 23.min(RECORDS - life.next[partition])).await?;
        }
        if step % 5 == 4 || open.is_empty() {
            life.flush(&mut log).await?;
            store(root, &log);
        }
        if open.is_empty() {
            break;
        }
    }
    life.task.close().await
}

impl Site {
    fn new(mode: &'static str, compression: &'static str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let options = options(&[(mode, target.to_str().unwrap()), ("compression.type", compression), ("roll.bytes", "3000")]);
        std::fs::write(root.path().join("options"), serde_json::to_vec(&options).unwrap()).unwrap();
        Self { root, mode, compression }
    }

    /// True when it came to its end.
    fn run(&self, failpoints: &str, kill_after: Option<Duration>) -> bool {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--test-threads=1", "--nocapture"])
            .env("SINK_TEST_ROOT", self.root.path())
            .env("SINK_TEST_FAILPOINTS", failpoints)
            .stdout(Stdio::null())
            .stderr(std::fs::OpenOptions::new().create(true).append(true).open(self.root.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        if let Some(moment) = kill_after {
            // The moment is the test: there is no condition to wait for.
            #[allow(clippy::disallowed_methods, reason = "a kill at a random moment")]
            std::thread::sleep(moment);
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert!(status.success() || status.signal().is_some(), "{failpoints}: {}", self.stderr());
        status.success()
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.root.path().join("stderr")).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        let kind: Compression = serde_json::from_value(self.compression.into()).unwrap();
        let counts: BTreeMap<TopicPartition, i64> =
            PARTITIONS.iter().map(|(topic, partition)| (TopicPartition::new(*topic, *partition), RECORDS)).collect();
        let target = self.root.path().join("out");
        if self.mode == "file" {
            let bytes = read_text(&target, kind).map_err(|error| error.to_string())?;
            return check_lines(std::str::from_utf8(&bytes).map_err(|error| error.to_string())?, &counts);
        }
        counts.into_iter().try_for_each(|(partition, count)| {
            check_lines(&rolled(&target, &partition, kind)?, &BTreeMap::from([(partition, count)]))
        })
    }
}

fn modes() -> impl Iterator<Item = (&'static str, &'static str)> {
    [("file", "none"), ("file", "zstd"), ("directory", "none"), ("directory", "gzip")].into_iter()
}

fn points(mode: &str) -> &'static [&'static str] {
    let points = &["file_sink.write", "file_sink.sync", "file_sink.rolled", "file_sink.renamed"];
    if mode == "file" { &points[..2] } else { points }
}

/// Dies at the point again and again, at the first hit and later ones, until there is nothing more to do.
#[test]
fn every_record_once_when_it_aborts_at_each_point() {
    for (mode, compression) in modes() {
        for point in points(mode) {
            let (site, mut died) = (Site::new(mode, compression), 0);
            for hit in [1, 2, 1, 3, 5, 8] {
                died += u32::from(!site.run(&format!("{point}=abort@{hit}"), None));
            }
            assert!(died >= 3, "{point}: only {died} deaths");
            assert!(site.run("", None), "{}", site.stderr());
            assert_eq!(site.check(), Ok(()), "{mode} {compression} {point}");
        }
    }
}

#[test]
fn every_record_once_when_each_point_fails() {
    for (mode, compression) in modes() {
        for point in points(mode) {
            for errno in ["eio", "enospc"] {
                let site = Site::new(mode, compression);
                assert!(site.run(&format!("{point}={errno}@2x3"), None));
                assert!(site.stderr().contains("errno"), "{point} was not reached");
                assert_eq!(site.check(), Ok(()), "{mode} {compression} {point} {errno}");
            }
        }
    }
}

#[test]
fn every_record_once_when_it_is_killed_at_random() {
    let mut random = fastrand::Rng::new();
    for (mode, compression) in modes() {
        let site = Site::new(mode, compression);
        for _ in 0..12 {
            site.run("", Some(Duration::from_micros(random.u64(3_000..60_000))));
        }
        assert!(site.run("", None), "{}", site.stderr());
        assert_eq!(site.check(), Ok(()), "{mode} {compression}");
    }
}

/// The checker is tested first: it must see a file that is not cut back.
#[test]
fn a_skipped_cut_is_caught() {
    let caught = |compression| {
        let site = Site::new("file", compression);
        for hit in 1..8 {
            site.run(&format!("bug=sink_no_truncate;file_sink.sync=abort@{hit}"), None);
        }
        site.run("bug=sink_no_truncate", None);
        site.check().is_err()
    };
    assert!(caught("none"));
    assert!(caught("gzip"));
}
