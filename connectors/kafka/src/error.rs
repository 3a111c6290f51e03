//! What krafka and the brokers answer, as the one error of the runtime.

use aqueduct_core::{Class, Error};
use krafka::KrafkaError;
use krafka::error::ErrorCode;

/// What failed while `doing` (`read topics of a:9092`).
pub(crate) fn from(doing: &str, error: &KrafkaError) -> Error {
    let (class, code) = classify(error);
    let mapped = Error::new(class, code, format!("{doing}: {error}"));
    match code {
        "kafka.unreachable" => mapped
            .fix("look whether the brokers run and can be reached at bootstrap.servers, and whether security.protocol is theirs"),
        "kafka.authentication" => mapped.fix("correct security.protocol, ssl.… and sasl.…"),
        "kafka.not_authorized" => mapped.fix("allow it with kafka-acls.sh: the README names the ACLs that this connector needs"),
        "kafka.unknown_topic" => mapped.fix("create the topic first, or correct its name"),
        "kafka.record_too_large" => mapped.fix("raise max.message.bytes of the topic"),
        "kafka.fenced" => {
            mapped.fix("another task writes for this partition: give each connector its own name or transactional.id.prefix")
        }
        "kafka.unsupported" => mapped.fix("use Apache Kafka 2.5 or later"),
        _ => mapped,
    }
}

pub(crate) fn code_of(error: &KrafkaError) -> Option<ErrorCode> {
    match error {
        KrafkaError::Broker { code, .. } => Some(*code),
        _ => None,
    }
}

/// Stable codes; what is not named may pass, so the task is opened again.
fn classify(error: &KrafkaError) -> (Class, &'static str) {
    let fatal = |code| (Class::Fatal, code);
    match error {
        KrafkaError::Network(_) | KrafkaError::Timeout { .. } | KrafkaError::DeliveryTimeout { .. } => {
            (Class::Retriable, "kafka.unreachable")
        }
        KrafkaError::Auth { .. } => fatal("kafka.authentication"),
        KrafkaError::Config { .. } => fatal("kafka.config"),
        KrafkaError::UnknownTopic { .. } => fatal("kafka.unknown_topic"),
        // The successor has this id now. Opened again this task would fence it in turn; but it is opened only while it has the partition.
        KrafkaError::Fenced { .. } => (Class::Retriable, "kafka.fenced"),
        KrafkaError::Protocol { kind: krafka::ProtocolErrorKind::CrcMismatch, .. } => fatal("kafka.corrupt"),
        KrafkaError::Protocol { kind: krafka::ProtocolErrorKind::UnknownApiVersion, .. } => fatal("kafka.unsupported"),
        KrafkaError::Protocol { .. } => (Class::Retriable, "kafka.protocol"),
        KrafkaError::Broker { code, .. } => by_code(*code),
        KrafkaError::TransactionAbortable { message } => by_code(cause(message)),
        _ => (Class::Retriable, "kafka.broker"),
    }
}

/// A transaction fails with the text of the send that failed; krafka is pinned, and its text has the code's name.
fn cause(message: &str) -> ErrorCode {
    use ErrorCode as E;
    let named = [
        E::InvalidProducerEpoch,
        E::ProducerFenced,
        E::MessageTooLarge,
        E::RecordListTooLarge,
        E::TopicAuthorizationFailed,
        E::TransactionalIdAuthorizationFailed,
        E::UnknownTopicOrPartition,
    ];
    named.into_iter().find(|code| message.contains(&format!("{code:?}"))).unwrap_or(E::TransactionAbortable)
}

fn by_code(code: ErrorCode) -> (Class, &'static str) {
    use ErrorCode as E;
    let fatal = |code| (Class::Fatal, code);
    match code {
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed => fatal("kafka.not_authorized"),
        E::SaslAuthenticationFailed | E::UnsupportedSaslMechanism | E::IllegalSaslState => fatal("kafka.authentication"),
        E::UnknownTopicOrPartition | E::UnknownTopicId => fatal("kafka.unknown_topic"),
        E::MessageTooLarge | E::RecordListTooLarge => fatal("kafka.record_too_large"),
        E::InvalidProducerEpoch | E::ProducerFenced => (Class::Retriable, "kafka.fenced"),
        E::UnsupportedVersion | E::UnsupportedForMessageFormat => fatal("kafka.unsupported"),
        E::InvalidConfig
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::PolicyViolation
        | E::InvalidTransactionTimeout => fatal("kafka.refused"),
        _ => (Class::Retriable, "kafka.broker"),
    }
}
