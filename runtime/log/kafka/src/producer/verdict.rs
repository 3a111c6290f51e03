//! What an answer of the broker means for a transaction. Pure.

use crate::error::{self, At};
use aqueduct_core::Error;
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Init,
    Register,
    Produce,
    Positions,
    End,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    Done,
    /// Refused, nothing has happened: the same again, after a while.
    Again(Why),
    /// Refused for good, the transaction can still be aborted.
    Abort(Error),
    /// Nothing more may be sent with this epoch: it is another's, or nobody knows what happened.
    Lost(Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Another broker leads the partition, or knows the topic.
    Moved,
    /// Another broker coordinates.
    Coordinator,
    /// The markers of the last transaction are still being written: a matter of milliseconds.
    Concurrent,
    Busy,
    /// An earlier batch of the partition is missing.
    OutOfOrder,
}

pub(crate) fn verdict(step: Step, code: i16, message: Option<&str>, name: &str) -> Verdict {
    use ResponseError as E;
    let Some(error) = code.err() else { return Verdict::Done };
    let at = match step {
        Step::Produce | Step::Register => At::new("write to topic", name, "--operation Write --topic"),
        Step::Positions => At::new("commit positions of group", name, "--operation Read --group"),
        Step::Init | Step::End => At::new("transaction of", name, "--operation Write --transactional-id"),
    };
    let told = || at.error(error, message);
    match error {
        E::ConcurrentTransactions => Verdict::Again(Why::Concurrent),
        error if error::is_coordinator_lost(error) => Verdict::Again(Why::Coordinator),
        E::InvalidProducerEpoch | E::ProducerFenced | E::TransactionCoordinatorFenced => Verdict::Lost(fenced(name)),
        // Written, but not known how far: no answer is left for it.
        E::RequestTimedOut | E::NetworkException => Verdict::Lost(retriable(at, error)),
        E::InvalidProducerIdMapping | E::UnknownProducerId | E::DuplicateSequenceNumber => Verdict::Lost(retriable(at, error)),
        E::OutOfOrderSequenceNumber => Verdict::Again(Why::OutOfOrder),
        // To our first request: somebody else ended the transaction, a successor or the coordinator after `transaction.timeout.ms`.
        E::InvalidTxnState if step == Step::End => Verdict::Lost(fenced(name)),
        E::TransactionAbortable if step == Step::End => Verdict::Lost(retriable(at, error)),
        E::InvalidTxnState | E::TransactionAbortable => Verdict::Abort(retriable(at, error)),
        E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend | E::ThrottlingQuotaExceeded | E::UnstableOffsetCommit => {
            Verdict::Again(Why::Busy)
        }
        error if step == Step::Produce && error::is_stale(error) => Verdict::Again(Why::Moved),
        // The metadata says that it exists: the coordinator will hear of it.
        E::UnknownTopicOrPartition if step == Step::Register => Verdict::Again(Why::Busy),
        // Still a member, but the group went on: the same with the epoch of the next heartbeat.
        E::IllegalGeneration | E::StaleMemberEpoch | E::RebalanceInProgress => {
            Verdict::Abort(Error::retriable("kafka.moved", format!("group {name}: its epoch is another by now ({error:?})")))
        }
        E::UnknownMemberId | E::FencedInstanceId | E::FencedMemberEpoch => Verdict::Abort(Error::fatal(
            "log.fenced",
            format!("group {name}: this member does not own its partitions any more ({error:?})"),
        )),
        E::TransactionalIdAuthorizationFailed => {
            let at = At::new("write with transactional id", name, "--operation Write --transactional-id");
            Verdict::Lost(at.error(error, message))
        }
        _ if step == Step::End || step == Step::Init => Verdict::Lost(told()),
        _ => Verdict::Abort(told()),
    }
}

pub(crate) fn fenced(name: &str) -> Error {
    Error::fatal(
        "log.fenced",
        format!("{name}: another writer with the same transactional id took over, or the transaction timed out"),
    )
    .fix("if the task does not run elsewhere, restart it")
}

fn retriable(at: At<'_>, error: ResponseError) -> Error {
    let told = at.error(error, None);
    Error::retriable("kafka.transaction_lost", told.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_meaning_and_none_is_taken_for_success() {
        for step in [Step::Init, Step::Register, Step::Produce, Step::Positions, Step::End] {
            for code in (-1..140).filter(|&code| code != 0) {
                assert!(!matches!(verdict(step, code, None, "x"), Verdict::Done), "{step:?} {code}");
            }
            assert!(matches!(verdict(step, 0, None, "x"), Verdict::Done));
        }
    }

    #[test]
    fn what_is_not_known_to_have_failed_ends_the_producer() {
        // REQUEST_TIMED_OUT, NETWORK_EXCEPTION
        for step in [Step::Produce, Step::Positions, Step::End] {
            for code in [7, 13] {
                assert!(
                    matches!(verdict(step, code, None, "x"), Verdict::Lost(error) if error.is_retriable()),
                    "{step:?} {code}"
                );
            }
            // INVALID_PRODUCER_EPOCH, PRODUCER_FENCED
            for code in [47, 90] {
                assert!(
                    matches!(verdict(step, code, None, "x"), Verdict::Lost(error) if error.code() == "log.fenced" && !error.is_retriable())
                );
            }
            // NOT_COORDINATOR, CONCURRENT_TRANSACTIONS
            for code in [16, 51] {
                assert!(matches!(verdict(step, code, None, "x"), Verdict::Again(_)), "{step:?} {code}");
            }
        }
        // ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH
        for code in [22, 27, 113] {
            assert!(
                matches!(verdict(Step::Positions, code, None, "x"), Verdict::Abort(error) if error.code() == "kafka.moved" && error.is_retriable()),
                "{code}"
            );
        }
        // UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH
        for code in [25, 82, 110] {
            assert!(
                matches!(verdict(Step::Positions, code, None, "x"), Verdict::Abort(error) if error.code() == "log.fenced" && !error.is_retriable()),
                "{code}"
            );
        }
        // NOT_LEADER_OR_FOLLOWER, MESSAGE_TOO_LARGE, TOPIC_AUTHORIZATION_FAILED
        assert!(matches!(verdict(Step::Produce, 6, None, "x"), Verdict::Again(Why::Moved)));
        assert!(matches!(verdict(Step::Produce, 10, None, "x"), Verdict::Abort(error) if error.code() == "log.record_too_large"));
        assert!(matches!(verdict(Step::Produce, 29, None, "x"), Verdict::Abort(error) if error.code() == "kafka.not_authorized"));
    }
}
