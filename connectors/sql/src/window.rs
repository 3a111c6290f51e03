//! Where a batch ends: at a place from which the table can be read on.

use crate::config::Mode;
use crate::place::Place;
use aqueduct_core::{Payload, TaskContext};
use std::collections::VecDeque;

/// Read, and not handed over yet.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) value: Payload,
    pub(crate) place: Place,
    /// In memory, about.
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl Limits {
    pub(crate) fn of(cx: &TaskContext, batch_rows: usize) -> Self {
        Self { rows: cx.max_records.min(batch_rows).max(1), bytes: cx.max_bytes }
    }
}

/// How many rows go into the next batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cut {
    /// More rows may still fit.
    Wait,
    /// So many, and the place behind them.
    At(usize, Place),
}

/// `ended`: no row comes after `rows`. `patient`: the batch may wait for more rows.
pub(crate) fn cut(mode: Mode, rows: &VecDeque<Row>, limits: Limits, ended: bool, patient: bool) -> Cut {
    let (mut fit, mut bytes) = (0, 0);
    for row in rows.iter().take(limits.rows) {
        bytes += row.bytes;
        // A row that is too large stands alone.
        if fit > 0 && bytes > limits.bytes {
            break;
        }
        fit += 1;
    }
    let full = fit == limits.rows || fit < rows.len();
    if fit == 0 || (patient && !full && !ended) {
        return Cut::Wait;
    }
    if mode != Mode::Timestamp {
        return Cut::At(fit, rows[fit - 1].place);
    }
    // By time alone, rows of one time have no order: the place is behind all of them, or before.
    let over = |n: usize| rows.get(n).map_or(ended, |next| next.place.time > rows[n - 1].place.time);
    match (1..=fit).rev().find(|n| over(*n)) {
        Some(n) => Cut::At(n, rows[n - 1].place),
        None if full && (rows.len() > fit || ended) => {
            // More rows of one time than a batch holds: after a restart they come again, none is lost.
            let time = rows[0].place.time.map(|time| time - 1);
            Cut::At(fit, Place { time, ..rows[0].place })
        }
        None => Cut::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(times: &[i64]) -> VecDeque<Row> {
        times.iter().map(|time| Row { value: Payload::Null, place: Place { time: Some(*time), id: None }, bytes: 10 }).collect()
    }

    fn at(n: usize, time: i64) -> Cut {
        Cut::At(n, Place { time: Some(time), id: None })
    }

    #[test]
    fn ends_behind_a_time_or_before_it() {
        let limits = Limits { rows: 3, bytes: 1000 };
        let by_time = |times: &[i64], ended| cut(Mode::Timestamp, &rows(times), limits, ended, true);
        assert_eq!(by_time(&[1, 2], false), Cut::Wait);
        assert_eq!(by_time(&[1, 2], true), at(2, 2));
        assert_eq!(by_time(&[1, 2, 2], false), at(1, 1));
        assert_eq!(by_time(&[1, 2, 2, 3], false), at(3, 2));
        assert_eq!(by_time(&[2, 2, 2], false), Cut::Wait, "the next row tells");
        assert_eq!(by_time(&[2, 2, 2, 2], false), at(3, 1));
        assert_eq!(by_time(&[2, 2, 2], true), at(3, 2));
        assert_eq!(cut(Mode::Timestamp, &rows(&[2, 2]), limits, false, false), Cut::Wait);
        assert_eq!(cut(Mode::Incrementing, &rows(&[2, 2]), limits, false, false), at(2, 2));
        let small = Limits { rows: 10, bytes: 15 };
        assert_eq!(cut(Mode::Bulk, &rows(&[1, 2]), small, false, true), at(1, 1));
        assert_eq!(cut(Mode::Bulk, &rows(&[1]), Limits { rows: 10, bytes: 5 }, true, true), at(1, 1), "too large, alone");
    }

    proptest! {
        /// From each place that a cut gives, `time > place` finds every row that was not handed over.
        #[test]
        fn no_row_is_lost(mut times in proptest::collection::vec(0i64..6, 0..30), limit in 1usize..6, arrived in 1usize..5) {
            times.sort_unstable();
            let (mut pending, mut given, mut next) = (rows(&[]), 0, 0);
            while given < times.len() {
                let ended = next == times.len();
                match cut(Mode::Timestamp, &pending, Limits { rows: limit, bytes: 1000 }, ended, true) {
                    Cut::At(n, place) => {
                        pending.drain(..n);
                        given += n;
                        prop_assert!(times[given..].iter().all(|time| Some(*time) > place.time));
                    }
                    Cut::Wait => {
                        prop_assert!(!ended, "waits for nothing");
                        let more = arrived.min(times.len() - next);
                        pending.extend(rows(&times[next..next + more]));
                        next += more;
                    }
                }
            }
        }
    }
}
