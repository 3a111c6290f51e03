//! The embedded log on a disk that loses power: no committed record is lost, none uncommitted is shown, whatever the moment.
//!
//! `AQUEDUCT_SEEDS` says how many seeds, `AQUEDUCT_SEED` runs one again and prints what it does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod disk;
mod workload;

use aqueduct_core::failpoint::bug;
use disk::Lie;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use workload::{Planted, Tally, run};

const SEEDS: u64 = 20_000;
/// Within so many a planted bug must show.
const SEEDS_FOR_A_BUG: u64 = 4_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs the seeds on all cores, until one fails.
fn search(seeds: u64, planted: Planted) -> Result<Tally, (u64, String)> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut sum = Tally::default();
        while !stop.load(Relaxed) {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                break;
            }
            let failure = match std::panic::catch_unwind(|| run(seed, planted, false)) {
                Ok(Ok(tally)) => {
                    sum += tally;
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => "a panic".to_owned(),
            };
            stop.store(true, Relaxed);
            return Err((seed, failure));
        }
        Ok(sum)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = Tally::default();
        let mut failures = Vec::new();
        for thread in threads {
            match thread.join().unwrap() {
                Ok(tally) => sum += tally,
                Err(failure) => failures.push(failure),
            }
        }
        failures.into_iter().min().map_or(Ok(sum), Err)
    })
}

#[test]
fn whatever_is_lost_was_never_committed() {
    if let Some(seed) = number("AQUEDUCT_SEED") {
        let tally = run(seed, Planted::default(), true).unwrap_or_else(|failure| panic!("AQUEDUCT_SEED={seed}: {failure}"));
        return println!("{tally:?}");
    }
    let began = std::time::Instant::now();
    let seeds = number("AQUEDUCT_SEEDS").unwrap_or(SEEDS);
    let tally = search(seeds, Planted::default()).unwrap_or_else(|(seed, failure)| panic!("AQUEDUCT_SEED={seed}: {failure}"));
    println!("{seeds} seeds in {:.1?}: {tally:?}", began.elapsed());
    let Tally {
        power_cuts,
        kills,
        stops_in_recovery,
        commits,
        doubtful_kept,
        doubtful_lost,
        syncs_failed,
        cleaned,
        letters,
        merged,
    } = tally;
    for met in
        [power_cuts, kills, stops_in_recovery, commits, doubtful_kept, doubtful_lost, syncs_failed, cleaned, letters, merged]
    {
        assert!(met > seeds / 100, "the workload hardly meets what it should: {tally:?}");
    }
}

#[track_caller]
fn caught(planted: Planted) {
    match search(SEEDS_FOR_A_BUG, planted) {
        Ok(tally) => panic!("{planted:?} was not caught in {SEEDS_FOR_A_BUG} seeds: {tally:?}"),
        Err((seed, failure)) => println!("{planted:?} was caught by seed {seed}: {}", failure.lines().next().unwrap_or_default()),
    }
}

#[test]
fn lies_of_the_disk_are_caught() {
    for lie in [
        Lie::SkipDataSync,
        Lie::SkipJournalSync,
        Lie::SkipCheckpointSync,
        Lie::SkipDirSync,
        Lie::SkipPartitionDirSync,
        Lie::HideSyncErrors,
    ] {
        caught(Planted { lie: Some(lie), bug: None });
    }
}

#[test]
fn planted_bugs_are_caught() {
    for bug in [
        bug::ACK_BEFORE_WRITE,
        bug::ACK_BEFORE_SYNC,
        bug::OFFSET_BEFORE_RECORD,
        bug::POSITION_BEFORE_LETTER,
        bug::SKIP_DIR_SYNC,
        bug::TAIL_NOT_CUT,
        bug::NOT_WRITTEN_BACK,
        bug::TAIL_LOST,
    ] {
        caught(Planted { lie: None, bug: Some(bug) });
    }
}
