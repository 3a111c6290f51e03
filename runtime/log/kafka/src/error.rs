//! What Kafka and the network answer, as the one error of the runtime.

use aqueduct_core::{Class, Error};
use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use krafka::KrafkaError;

/// What was done to what, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    /// `fetch from topic`
    pub(crate) doing: &'a str,
    pub(crate) name: &'a str,
    /// What `kafka-acls.sh` must allow: `--operation Read --topic`.
    pub(crate) acl: &'a str,
}

impl<'a> At<'a> {
    pub(crate) const fn new(doing: &'a str, name: &'a str, acl: &'a str) -> Self {
        Self { doing, name, acl }
    }

    /// # Errors
    /// What `code` says, with the broker's own words.
    pub(crate) fn check(&self, code: i16, message: Option<&str>) -> Result<(), Error> {
        match code.err() {
            None => Ok(()),
            Some(error) => Err(self.error(error, message)),
        }
    }

    pub(crate) fn error(&self, error: ResponseError, message: Option<&str>) -> Error {
        let said = message.filter(|text| !text.is_empty()).map_or_else(|| describe(error), str::to_owned);
        let (class, code) = classify(error);
        let what = format!("{} {}: {} ({error:?})", self.doing, self.name, said.trim_end_matches('.'));
        let mapped = Error::new(class, code, what);
        match code {
            "kafka.not_authorized" => {
                mapped.fix(format!("allow it: kafka-acls.sh --add --allow-principal User:<principal> {} {}", self.acl, self.name))
            }
            "log.unknown_topic" => mapped.fix("create the topic first, or correct its name"),
            "kafka.authentication" => mapped.fix("correct sasl.mechanism and sasl.jaas.config"),
            "kafka.unsupported" => mapped.fix("use Apache Kafka 3.9 or later"),
            "kafka.record_refused" => {
                mapped.fix("a compacted topic takes no record without a key; otherwise see message.timestamp.* of the topic")
            }
            "log.record_too_large" => mapped.fix("raise max.message.bytes of the topic, or make the record smaller"),
            _ => mapped,
        }
    }
}

fn describe(error: ResponseError) -> String {
    error.to_string()
}

/// Stable codes; what is not named is the broker's matter and may pass.
fn classify(error: ResponseError) -> (Class, &'static str) {
    use ResponseError as E;
    let fatal = |code| (Class::Fatal, code);
    match error {
        E::UnknownTopicOrPartition | E::UnknownTopicId | E::InconsistentTopicId => fatal("log.unknown_topic"),
        E::MessageTooLarge | E::RecordListTooLarge => fatal("log.record_too_large"),
        E::InvalidProducerEpoch | E::ProducerFenced | E::FencedInstanceId | E::FencedMemberEpoch | E::UnreleasedInstanceId => {
            fatal("log.fenced")
        }
        E::InvalidRecord | E::InvalidTimestamp => fatal("kafka.record_refused"),
        E::TopicAlreadyExists => fatal("log.topic_exists"),
        E::InvalidTopicException => fatal("log.topic_name"),
        E::InvalidConfig
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::InvalidReplicaAssignment
        | E::PolicyViolation => fatal("log.topic_config"),
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed => fatal("kafka.not_authorized"),
        E::SaslAuthenticationFailed | E::UnsupportedSaslMechanism | E::IllegalSaslState => fatal("kafka.authentication"),
        E::UnsupportedVersion => fatal("kafka.unsupported"),
        E::NonEmptyGroup | E::GroupSubscribedToTopic => fatal("log.group_active"),
        E::InvalidRequest | E::InvalidGroupId | E::InvalidTransactionTimeout | E::OffsetMetadataTooLarge => {
            fatal("kafka.refused")
        }
        _ => (Class::Retriable, "kafka.broker"),
    }
}

/// The leader is another one, or the view of the cluster is old: look again, then try again.
pub(crate) fn is_stale(error: ResponseError) -> bool {
    use ResponseError as E;
    matches!(
        error,
        E::NotLeaderOrFollower
            | E::LeaderNotAvailable
            | E::FencedLeaderEpoch
            | E::UnknownLeaderEpoch
            | E::UnknownTopicOrPartition
            | E::UnknownTopicId
            | E::InconsistentTopicId
            | E::ReplicaNotAvailable
            | E::KafkaStorageError
            | E::ListenerNotFound
            | E::BrokerNotAvailable
            | E::OffsetNotAvailable
    )
}

/// The coordinator is another one, or not ready.
pub(crate) fn is_coordinator_lost(error: ResponseError) -> bool {
    use ResponseError as E;
    matches!(error, E::NotCoordinator | E::CoordinatorNotAvailable | E::CoordinatorLoadInProgress)
}

/// What a connection to `address` answered instead of a response.
pub(crate) fn connection(address: &str, error: &KrafkaError) -> Error {
    match error {
        KrafkaError::Auth { message, .. } => Error::fatal("kafka.authentication", format!("{address}: {message}"))
            .fix("correct security.protocol, ssl.… and sasl.… in worker.yaml"),
        KrafkaError::Config { message } => Error::fatal("kafka.config", message.clone()),
        KrafkaError::Timeout { operation } => Error::retriable("kafka.unreachable", format!("{address}: timed out: {operation}"))
            .fix("look whether the broker runs, and whether it can be reached at this address"),
        KrafkaError::Protocol { message, .. } => Error::retriable("kafka.protocol", format!("{address}: {message}")),
        other => Error::retriable("kafka.unreachable", format!("{address}: {other}"))
            .fix("look whether the broker runs, and whether it can be reached at this address"),
    }
}

pub(crate) fn closed() -> Error {
    Error::fatal("log.closed", "the log is closed")
}

pub(crate) fn unknown_topic(name: &str) -> Error {
    Error::fatal("log.unknown_topic", format!("topic {name} does not exist")).fix("create the topic first, or correct its name")
}

pub(crate) fn unknown_partition(topic: &str, partition: i32) -> Error {
    Error::fatal("log.unknown_partition", format!("topic {topic} has no partition {partition}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_acl() {
        let at = At::new("fetch from topic", "orders", "--operation Read --topic");
        let error = at.check(29, None).unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("kafka.not_authorized", false));
        assert!(error.hint().unwrap().ends_with("--operation Read --topic orders"), "{error:?}");
        assert!(error.message().starts_with("fetch from topic orders: "), "{error}");
    }

    #[test]
    fn the_brokers_words_are_kept_and_what_passes_is_retriable() {
        let at = At::new("create topic", "t", "--operation Create --topic");
        let error = at.check(40, Some("Unknown topic config name: x")).unwrap_err();
        assert_eq!((error.code(), error.is_retriable()), ("log.topic_config", false));
        assert!(error.message().contains("Unknown topic config name: x"), "{error}");
        assert!(at.check(7, None).unwrap_err().is_retriable());
        assert!(at.check(0, None).is_ok());
    }
}
