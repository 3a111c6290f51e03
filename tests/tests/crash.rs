//! `kill -9` under load: half at random moments, half at named points; every line exactly once, in order.
//!
//! `KILLS=300 SEED=… cargo test --test crash -- --nocapture` hits every point; the short run of CI hits each in one of the two modes at least.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Chaos, Mode, acked, env_number};

fn survive(mode: Mode) {
    let kills = env_number("KILLS", 24);
    let seed = env_number("SEED", fastrand::u64(..1 << 40));
    println!("{mode:?}: KILLS={kills} SEED={seed}");
    let outcome = Chaos::new(mode, kills, seed, env!("CARGO_BIN_EXE_ledger")).run();
    println!("{mode:?}: {outcome}");
    assert!(outcome.is_clean(), "{mode:?}: {outcome}");
    assert!(outcome.log.expected > kills * 20, "too little was written to mean anything: {outcome}");
    let aimed = kills / 2;
    assert!(outcome.hits.values().sum::<u64>() >= aimed, "less than half of the kills hit their point: {outcome}");
    // Each point in turn: a short run has fewer kills than there are points.
    let hit = outcome.hits.values().filter(|hits| **hits > 0).count();
    assert_eq!(hit, outcome.hits.len().min(aimed as usize), "points with 0 hits: {outcome}");
}

#[test]
fn an_append_file_has_every_line_exactly_once() {
    survive(Mode::Append);
}

#[test]
fn rolled_files_have_every_line_exactly_once() {
    survive(Mode::Rolling);
}

#[test]
fn what_rest_acknowledged_is_in_the_log() {
    let seed = env_number("SEED", fastrand::u64(..1 << 40));
    let report = acked::kill_after_acknowledgements(env_number("KILLS", 24), seed, None);
    println!("acknowledged: SEED={seed}: {report}");
    assert!(report.is_clean() && report.expected > 20, "{report}");
}
