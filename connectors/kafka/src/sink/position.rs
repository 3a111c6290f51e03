//! Where the target stands in one partition of the log, and what that means when the partition is assigned.
//!
//! The target keeps a position for each connector and partition of the log, written in the transaction of the records before it. The log keeps, with
//! its own position, which *run* of the target that position belongs to. A run begins where records are written that the target is not known to have:
//! at the first start, and after an operator's reset, which takes the run out of the log.

use aqueduct_core::{Error, LogPosition, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// As the target keeps it, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The next offset of the log to write.
    pub(super) offset: i64,
    /// Where the run began.
    pub(super) start: i64,
    pub(super) run: Uuid,
    /// The log is known to have stored the run: if it has none now, an operator took it out.
    pub(super) confirmed: bool,
}

/// `["mirror",{"topic":"orders","partition":0,"topicId":"…"}]`: a topic that is re-created has another id, so that nothing of it is skipped.
pub(super) fn key(connector: &str, position: &LogPosition) -> Bytes {
    let topic = serde_json::json!({
        "topic": &*position.topic, "partition": position.partition, "topicId": position.topic_id.to_string(),
    });
    serde_json::json!([connector, topic]).to_string().into()
}

/// What goes with the position in the log.
pub(super) fn metadata(run: Uuid) -> String {
    serde_json::json!({ "run": run.to_string() }).to_string()
}

fn run_of(metadata: &str) -> Option<Uuid> {
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    Uuid::parse_str(value.get("run")?.as_str()?).ok()
}

/// Where to write from; what lies before is in the target already.
///
/// # Errors
/// `kafka_sink.run` (fatal): the target was written by another run than the log knows of.
pub(super) fn resolve(assigned: &LogPosition, target: Option<&Position>, new_run: Uuid) -> Result<Position> {
    let begin = |run: Uuid, confirmed: bool| Position { offset: assigned.offset, start: assigned.offset, run, confirmed };
    let known = assigned.metadata.as_deref().and_then(run_of);
    match (known, target) {
        (Some(run), Some(target)) if target.run == run => {
            // The log may be further on: records that a transform dropped were never put.
            Ok(Position { offset: target.offset.max(assigned.offset), confirmed: true, ..target.clone() })
        }
        (Some(_), Some(target)) => {
            let message = format!(
                "{}-{}: the target stands at {} in a run that the log does not know of: was the log restored from a copy?",
                assigned.topic, assigned.partition, target.offset
            );
            let fix = "stop the connector and set its offset to where it shall go on: what lies behind it is written again";
            Err(Error::fatal("kafka_sink.run", message).fix(fix))
        }
        (Some(run), None) => Ok(begin(run, true)),
        // Written, but the log's first commit did not follow: the same run goes on.
        (None, Some(target)) if !target.confirmed && target.start == assigned.offset => Ok(target.clone()),
        (None, _) => Ok(begin(new_run, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(offset: i64, run: Option<Uuid>) -> LogPosition {
        let metadata = run.map(|run| metadata(run).into());
        LogPosition { topic: "t".into(), topic_id: Uuid::from_u128(7), partition: 3, offset, metadata }
    }

    fn target(offset: i64, start: i64, run: u128, confirmed: bool) -> Position {
        Position { offset, start, run: Uuid::from_u128(run), confirmed }
    }

    #[test]
    fn what_the_target_has_is_not_written_again_unless_someone_set_the_log_back() {
        let (one, new) = (Uuid::from_u128(1), Uuid::from_u128(9));
        let at = |assigned: &LogPosition, target: Option<Position>| resolve(assigned, target.as_ref(), new);
        // The first start; and a crash before and after its first commit in the log.
        assert_eq!(at(&assigned(5, None), None).unwrap(), target(5, 5, 9, false));
        assert_eq!(at(&assigned(5, None), Some(target(8, 5, 1, false))).unwrap(), target(8, 5, 1, false));
        assert_eq!(at(&assigned(8, Some(one)), Some(target(12, 5, 1, false))).unwrap(), target(12, 5, 1, true));
        // The log passed records that were never put.
        assert_eq!(at(&assigned(20, Some(one)), Some(target(12, 5, 1, true))).unwrap().offset, 20);
        // An operator set the log back, or forward.
        assert_eq!(at(&assigned(5, None), Some(target(12, 5, 1, true))).unwrap(), target(5, 5, 9, false));
        assert_eq!(at(&assigned(2, None), Some(target(12, 5, 1, false))).unwrap(), target(2, 2, 9, false));
        // Another target.
        assert_eq!(at(&assigned(8, Some(one)), None).unwrap(), target(8, 8, 1, true));
        let error = at(&assigned(8, Some(new)), Some(target(12, 5, 1, true))).unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("kafka_sink.run", false));
    }

    #[test]
    fn a_topic_that_was_made_again_is_another_key() {
        let old = assigned(0, None);
        let new = LogPosition { topic_id: Uuid::from_u128(8), ..old.clone() };
        assert_ne!(key("c", &old), key("c", &new));
        assert_eq!(
            key("c", &old),
            r#"["c",{"topic":"t","partition":3,"topicId":"00000000-0000-0000-0000-000000000007"}]"#.as_bytes()
        );
    }
}
