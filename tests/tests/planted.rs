//! The checker is tested first: with a bug planted in the real binary it must report a violation within two minutes, mostly in seconds.
//!
//! Here are the bugs that show under `kill -9`. Those of missing fsyncs need a lost page cache; the log's simulated disk has them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: its panic is its answer, its output is read by people")]

use aqueduct_tests::{Chaos, Kind, Mode, Run, Site, acked, chaos, env_number, segment};
use std::fs;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// `bug` may go on with failpoints.
fn is_caught(bug: &str, mode: Mode, aim: &'static str) {
    assert!(chaos::bugs().iter().any(|known| Some(known.as_str()) == bug.split(';').next()), "the binary knows no bug {bug}");
    let begin = Instant::now();
    let mut seed = env_number("SEED", fastrand::u64(..1 << 40));
    let mut last = None;
    while begin.elapsed() < LIMIT {
        let kills = 4;
        let drain = Duration::from_secs(6);
        let chaos = Chaos {
            bug: Some(bug.to_owned()),
            aim,
            drain,
            rate: 8_000,
            ..Chaos::new(mode, kills, seed, env!("CARGO_BIN_EXE_ledger"))
        };
        let outcome = chaos.run();
        // Only what the checker says counts: a worker that hangs or dies would not prove the checker.
        if !outcome.sink.is_clean() || !outcome.log.is_clean() {
            println!("{bug}: caught after {:?}, {outcome}", begin.elapsed());
            return;
        }
        seed += 1;
        last = Some(outcome);
    }
    panic!(
        "{bug} was not caught within {LIMIT:?}; the last round: {}",
        last.map_or_else(String::new, |outcome| outcome.to_string())
    );
}

#[test]
fn acknowledging_before_the_write_is_caught() {
    // A kill would have to come within microseconds of the answer; a write that fails after it comes in every life.
    is_caught("ack_before_write;log.data.write=eio@20", Mode::Append, "sink.");
}

#[test]
fn an_offset_before_its_record_is_caught() {
    is_caught("offset_before_record", Mode::Append, "log.");
}

#[test]
fn an_uncommitted_tail_that_is_kept_is_caught() {
    is_caught("tail_not_cut", Mode::Append, "log.data.");
}

/// A whole commit that is lost, with its source offset, heals itself where the source can be read again: only one that was told shows.
#[test]
fn a_lost_tail_is_caught() {
    let report = acked::kill_after_acknowledgements(3, env_number("SEED", fastrand::u64(..1 << 40)), Some("tail_lost"));
    println!("tail_lost: {report}");
    assert!(report.count(Kind::Lost) > 0, "{report}");
}

#[test]
fn a_sink_position_before_its_put_is_caught() {
    is_caught("sink_commit_before_put", Mode::Append, "");
}

#[test]
fn an_append_file_that_is_not_cut_back_is_caught() {
    is_caught("sink_no_truncate", Mode::Append, "");
}

#[test]
fn batches_in_the_wrong_order_are_caught() {
    is_caught("reorder", Mode::Rolling, "");
}

/// Without the check of CRCs damage is served: the test of a damaged log (cli.rs) would see it, and our own reader of segments does.
#[test]
fn damage_that_is_served_is_caught() {
    let mut site = Site::new();
    site.start();
    site.ok(&["topics", "create", "t"]);
    site.ok(&["topics", "write", "t", "--value", "what was written"]);
    site.stop();
    let (_, dir) = segment::partitions(&site.data_dir(), "t").unwrap().remove(0);
    let file = segment::segments(&dir).unwrap().remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(7).position(|window| window == b"written").unwrap();
    bytes[at] = b'W';
    fs::write(&file, bytes).unwrap();
    assert!(format!("{:#}", segment::read_partition(&dir).unwrap_err()).contains("CRC"));
    site.start_with(&Run::failpoints("bug=crc_unchecked"));
    assert_eq!(site.ok(&["topics", "read", "t"]), "what was Written\n", "the bug serves damage");
    site.stop();
    site.start();
    assert!(!site.cli(&["topics", "read", "t"]).status.success(), "the check does not");
}
