//! The embedded log on a disk that loses power: no committed record is lost, none uncommitted is shown, whatever the moment.
//!
//! `AQUEDUCT_SEEDS` says how many seeds, `AQUEDUCT_SEED` runs one again and prints what it does.

mod disk;
mod workload;

use disk::Lie;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use workload::{Planted, run};

const SEEDS: u64 = 20_000;
/// Within so many a planted bug must show.
const SEEDS_FOR_A_BUG: u64 = 4_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The first failure among these seeds, by what any core meets first.
fn search(seeds: u64, planted: Planted) -> Option<(u64, String)> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !stop.load(Relaxed) {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                break;
            }
            let outcome = std::panic::catch_unwind(|| run(seed, planted, false));
            let failure = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => "a panic".to_owned(),
            };
            stop.store(true, Relaxed);
            return Some((seed, failure));
        }
        None
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).min()
    })
}

#[test]
fn whatever_is_lost_was_never_committed() {
    if let Some(seed) = number("AQUEDUCT_SEED") {
        return run(seed, Planted::default(), true).unwrap_or_else(|failure| panic!("AQUEDUCT_SEED={seed}: {failure}"));
    }
    let began = std::time::Instant::now();
    let seeds = number("AQUEDUCT_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, failure)) = search(seeds, Planted::default()) {
        panic!("AQUEDUCT_SEED={seed}: {failure}");
    }
    println!("{seeds} seeds in {:.1?}", began.elapsed());
}

#[track_caller]
fn caught(planted: Planted) {
    let (seed, _) =
        search(SEEDS_FOR_A_BUG, planted).unwrap_or_else(|| panic!("{planted:?} was not caught in {SEEDS_FOR_A_BUG} seeds"));
    println!("{planted:?} was caught by seed {seed}");
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
    use aqueduct_core::failpoint::bug;
    for bug in [
        bug::ACK_BEFORE_WRITE,
        bug::ACK_BEFORE_SYNC,
        bug::OFFSET_BEFORE_RECORD,
        bug::SKIP_DIR_SYNC,
        bug::TAIL_NOT_CUT,
        bug::TAIL_LOST,
    ] {
        caught(Planted { lie: None, bug: Some(bug) });
    }
}
