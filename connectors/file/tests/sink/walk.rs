//! Random lives: puts, flushes, commits, and tasks that are dropped in the middle of a call.

use crate::fake::{FakeLog, Life, check_lines, finished, options, rolled};
use aqueduct_connector_file::sink::{Compression, read_text};
use aqueduct_core::{Options, TopicPartition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTITIONS: &[(&str, i32)] = &[("a", 0), ("a", 1), ("b", 0)];
const RECORDS: i64 = 1500;

/// One life until it is dropped (true: it wrote everything).
async fn live(options: &Options, log: &mut FakeLog, random: &mut fastrand::Rng) -> bool {
    let mut life = Life::begin(options, log).await.unwrap_or_else(|error| panic!("{error:?}"));
    for _ in 0..random.usize(1..60) {
        let open: Vec<TopicPartition> = life.next.iter().filter(|(_, next)| **next < RECORDS).map(|(p, _)| p.clone()).collect();
        if open.is_empty() {
            life.flush(log).await.unwrap();
            life.task.close().await.unwrap();
            return true;
        }
        match random.u8(..12) {
            0..8 => {
                let partition = &open[random.usize(..open.len())];
                let count = random.i64(1..60).min(RECORDS - life.next[partition]);
                life.put(partition, count).await.unwrap();
            }
            8 => {
                // Killed between flush and commit.
                life.task.flush().await.unwrap();
                return false;
            }
            9 | 10 => life.flush(log).await.unwrap(),
            _ => {
                // Killed in the middle of a call, which goes on in its thread.
                let micros = Duration::from_micros(random.u64(..300));
                if random.bool() {
                    let _ = tokio::time::timeout(micros, life.put(&open[0], 50.min(RECORDS - life.next[&open[0]]))).await;
                } else {
                    let _ = tokio::time::timeout(micros, life.task.flush()).await;
                }
                return false;
            }
        }
    }
    if random.bool() {
        life.task.close().await.unwrap();
    }
    false
}

fn counts() -> BTreeMap<TopicPartition, i64> {
    PARTITIONS.iter().map(|(topic, partition)| (TopicPartition::new(*topic, *partition), RECORDS)).collect()
}

fn each_finished(root: &Path) -> Vec<PathBuf> {
    counts()
        .keys()
        .flat_map(|partition| {
            let dir = root.join(&*partition.topic).join(partition.partition.to_string());
            finished(&dir).into_iter().map(move |name| dir.join(name))
        })
        .collect()
}

async fn walk(compression: &str, rolling: bool) {
    let kind: Compression = serde_json::from_value(compression.into()).unwrap();
    for round in 0..6 {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let mut options =
            options(&[("compression.type", compression), (if rolling { "directory" } else { "file" }, target.to_str().unwrap())]);
        if rolling {
            options.extend([
                ("roll.bytes".to_owned(), "4000".to_owned()),
                ("roll.interval".to_owned(), if round % 2 == 0 { "10" } else { "60000" }.to_owned()),
            ]);
        }
        let mut log = FakeLog::new(PARTITIONS);
        let mut known: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let mut lives = 0;
        while !live(&options, &mut log, &mut random).await {
            lives += 1;
            assert!(lives < 10_000, "seed {seed}: no end");
            // A finished file is there to be taken away: it may never change.
            for path in if rolling { each_finished(&target) } else { Vec::new() } {
                let bytes = std::fs::read(&path).unwrap();
                let before = known.entry(path.clone()).or_insert_with(|| bytes.clone());
                assert!(*before == bytes, "seed {seed}: {} changed", path.display());
            }
        }
        let result = if rolling {
            counts().into_iter().try_for_each(|(partition, count)| {
                check_lines(&rolled(&target, &partition, kind)?, &BTreeMap::from([(partition, count)]))
            })
        } else {
            check_lines(&String::from_utf8(read_text(&target, kind).unwrap()).unwrap(), &counts())
        };
        assert_eq!(result, Ok(()), "seed {seed}, {lives} lives");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn append_survives_any_death() {
    walk("none", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn append_survives_any_death_compressed() {
    walk("gzip", false).await;
    walk("zstd", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_survives_any_death() {
    walk("none", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_survives_any_death_compressed() {
    walk("gzip", true).await;
    walk("zstd", true).await;
}
