//! Dead letters that brokers refuse for what they are: in which other form a topic may take them, and which of its settings is why. Pure.

use rdkafka::error::RDKafkaErrorCode;

/// Why brokers refuse a single record, though they take others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is too large, or the batch that it was sent in: a smaller one may fit.
    TooLarge,
    /// It does not fit the topic: a compacted one takes no record without a key.
    Unfit,
    /// The broker's clock differs too much from its timestamp, which is the time of sending.
    Untimely,
    /// Another record of its batch was refused.
    Company,
}

impl Refusal {
    /// Returns the refusal that an error is; none if it has nothing to do with the record.
    pub(super) fn of(code: RDKafkaErrorCode) -> Option<Refusal> {
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => Some(Refusal::TooLarge),
            RDKafkaErrorCode::InvalidRecord => Some(Refusal::Unfit),
            RDKafkaErrorCode::InvalidTimestamp => Some(Refusal::Untimely),
            RDKafkaErrorCode::InvalidDifferentRecord => Some(Refusal::Company),
            _ => None,
        }
    }
}

/// Returns what to do about an error that stays.
pub(super) fn remedy(code: Option<RDKafkaErrorCode>) -> &'static str {
    match code.and_then(Refusal::of) {
        Some(Refusal::TooLarge) => {
            return "raise max.message.bytes of the topic and restart (segment.bytes too, if it is smaller)";
        }
        Some(Refusal::Unfit) => {
            return "set cleanup.policy=delete on the topic, or whatever validates its records on the brokers, and restart";
        }
        Some(Refusal::Untimely) => {
            return "its timestamp is the time of sending: correct the clocks of this machine and of the brokers, raise \
                    message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic (before Kafka 3.6: \
                    message.timestamp.difference.max.ms), or set message.timestamp.type=LogAppendTime on it, and restart";
        }
        Some(Refusal::Company) | None => {}
    }
    match code {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => "allow this user to write to the topic and restart",
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            "create the topic and restart"
        }
        Some(RDKafkaErrorCode::UnsupportedForMessageFormat) => {
            "raise message.format.version of the topic to 0.11 or later, for the headers, and restart"
        }
        Some(RDKafkaErrorCode::UnsupportedCompressionType) => {
            "name a compression.type in dead_letters.properties that the topic takes, and restart"
        }
        _ => "fix the cause and restart",
    }
}
