//! Where the target stands in one partition of the log, and what that means when the partition is assigned.
//!
//! The target keeps a position for each connector and partition of the log, written in the transaction of the rows before it. The log keeps, with
//! its own position, which *run* of the target that position belongs to and how far the target was then. A run begins where rows are written that the
//! target is not known to have: at the first start, and after an operator's reset, which takes the run out of the log.

use aqueduct_core::{Error, LogPosition, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// As the target has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The next offset of the log to write.
    pub(super) next: i64,
    /// Where the run began.
    pub(super) start: i64,
    pub(super) run: Uuid,
    /// The log is known to have stored the run: if it has none now, an operator took it out.
    pub(super) confirmed: bool,
    /// Records before `next` that were refused, by offset: their dead letters may not have reached the log yet, so they are refused again if they
    /// come again.
    pub(super) refused: Refused,
}

pub(super) type Refused = BTreeMap<i64, Reason>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) message: String,
}

/// What goes with the position in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) run: Uuid,
    /// Where the target stood: if it stands before that now, it was set back (a failover, a restored backup).
    pub(super) next: i64,
}

impl Known {
    pub(super) fn of(assigned: &LogPosition) -> Option<Self> {
        serde_json::from_str(assigned.metadata.as_deref()?).ok()
    }

    pub(super) fn text(&self) -> String {
        serde_json::json!({"run": self.run.to_string(), "next": self.next}).to_string()
    }
}

/// Where to write from; what lies before is in the target already.
///
/// # Errors
/// `postgres_sink.run` and `postgres_sink.position_missing` (fatal): the target and the log do not belong together.
pub(super) fn resolve(assigned: &LogPosition, target: Option<Place>, new_run: Uuid) -> Result<Place> {
    let begin =
        || Place { next: assigned.offset, start: assigned.offset, run: new_run, confirmed: false, refused: Refused::new() };
    let fix = "stop the connector and set its offset to where it shall go on: what lies behind it is written again";
    match (Known::of(assigned), target) {
        (Some(known), Some(target)) if known.run == target.run => Ok(Place { confirmed: true, ..target }),
        (Some(_), Some(target)) => {
            let message = format!(
                "{}-{}: the target stands at {} in a run that the log does not know of: was the log restored from a copy, or does another worker write there?",
                assigned.topic, assigned.partition, target.next
            );
            Err(Error::fatal("postgres_sink.run", message).fix(fix))
        }
        (Some(known), None) => {
            let message = format!(
                "{}-{}: the target stood at {} and has no position now: is it another database, or an older copy of it?",
                assigned.topic, assigned.partition, known.next
            );
            Err(Error::fatal("postgres_sink.position_missing", message).fix(fix))
        }
        // Written, but the log's first commit did not follow: the same run goes on.
        (None, Some(target)) if !target.confirmed && target.start == assigned.offset => Ok(target),
        (None, _) => Ok(begin()),
    }
}

/// Where the worker is to read from, if not from the log's position: only where the target was set back. What the target has beyond the log's position
/// is read again, for the sake of dead letters, and not written.
pub(super) fn read_from(assigned: &LogPosition, place: &Place) -> Option<i64> {
    let known = Known::of(assigned)?;
    (place.next < known.next).then_some(place.next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(offset: i64, known: Option<(u128, i64)>) -> LogPosition {
        let metadata = known.map(|(run, next)| Known { run: Uuid::from_u128(run), next }.text().into());
        LogPosition { topic: "t".into(), topic_id: Uuid::from_u128(7), partition: 3, offset, metadata }
    }

    fn target(next: i64, start: i64, run: u128, confirmed: bool) -> Place {
        Place { next, start, run: Uuid::from_u128(run), confirmed, refused: Refused::new() }
    }

    #[test]
    fn what_the_target_has_is_not_written_again_unless_someone_set_the_log_back() {
        let at = |assigned: &LogPosition, target: Option<Place>| resolve(assigned, target, Uuid::from_u128(9));
        // The first start; and a crash before and after its first commit in the log.
        assert_eq!(at(&assigned(5, None), None).unwrap(), target(5, 5, 9, false));
        assert_eq!(at(&assigned(5, None), Some(target(8, 5, 1, false))).unwrap(), target(8, 5, 1, false));
        assert_eq!(at(&assigned(8, Some((1, 8))), Some(target(12, 5, 1, false))).unwrap(), target(12, 5, 1, true));
        // An operator set the log back, or forward.
        assert_eq!(at(&assigned(5, None), Some(target(12, 5, 1, true))).unwrap(), target(5, 5, 9, false));
        assert_eq!(at(&assigned(2, None), Some(target(12, 5, 1, false))).unwrap(), target(2, 2, 9, false));
        // Another target, and another log.
        assert_eq!(at(&assigned(8, Some((1, 8))), None).unwrap_err().code(), "postgres_sink.position_missing");
        assert_eq!(at(&assigned(8, Some((2, 8))), Some(target(12, 5, 1, true))).unwrap_err().code(), "postgres_sink.run");
    }

    #[test]
    fn only_a_target_that_was_set_back_is_read_for_again() {
        let from = |log, known, next| read_from(&assigned(log, Some((1, known))), &target(next, 0, 1, true));
        // The target is ahead; they agree; the log passed records that a transform dropped.
        assert_eq!((from(8, 8, 12), from(8, 8, 8), from(20, 8, 8)), (None, None, None));
        assert_eq!(from(20, 12, 8), Some(8));
        assert_eq!(read_from(&assigned(8, None), &target(2, 0, 1, true)), None);
    }
}
