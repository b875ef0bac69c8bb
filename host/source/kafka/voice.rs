//! What librdkafka says: warnings on their way into the logs, and the reason that a failed start names.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};

use crate::clock;
use crate::source::kafka::broker::locked;

/// How often one client repeats a complaint.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// What librdkafka says, on its way into the logs: warnings at most once in ten seconds for each client, the rest for debugging.
#[derive(Default)]
pub(super) struct Voice {
    last_warning: Mutex<Option<Instant>>,
    trouble: Mutex<Option<String>>,
    /// Whether the trouble is TLS.
    tls: AtomicBool,
    refusal: Mutex<Option<String>>,
}

impl Voice {
    /// Warns, unless this client has done so a moment ago.
    pub(super) fn complain(&self, message: &str) {
        let mut last = locked(&self.last_warning);
        if last.is_some_and(|at| clock::since(at) < COMPLAINT_INTERVAL) {
            tracing::debug!(target: "librdkafka", "{message}");
        } else {
            *last = Some(clock::instant());
            tracing::warn!(event = "kafka-unavailable", "kafka: {message}; retrying");
        }
    }

    /// Takes an error that librdkafka retries by itself.
    pub(super) fn trouble(&self, code: i32, reason: &str) {
        use rdkafka::types::RDKafkaRespErr::{
            RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as ALL_DOWN, RD_KAFKA_RESP_ERR__AUTHENTICATION as REFUSED,
            RD_KAFKA_RESP_ERR__SSL as TLS, RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED as SASL_REFUSED,
        };
        if code == REFUSED as i32 || code == SASL_REFUSED as i32 {
            *locked(&self.refusal) = Some(reason.to_owned());
        }
        // That all brokers are down follows from what happened to each, which says more.
        if code != ALL_DOWN as i32 || locked(&self.trouble).is_none() {
            *locked(&self.trouble) = Some(reason.to_owned());
            self.tls.store(code == TLS as i32, Ordering::Relaxed);
        }
        self.complain(reason);
    }

    /// Takes a log line of the syslog level `level`.
    pub(super) fn line(&self, level: i32, facility: &str, message: &str) {
        // CONFWARN: that a property is for another kind of client, which says nothing when one set serves several kinds.
        if level <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN" {
            self.complain(&format!("{facility}: {message}"));
        } else {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }

    pub(super) fn refusal(&self) -> Option<String> {
        locked(&self.refusal).clone()
    }

    /// Whether TLS is why no broker answers.
    pub(super) fn has_failed_by_tls(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }

    pub(super) fn last_trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.line(level as i32, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble(error.rdkafka_error_code().map_or(0, |code| code as i32), reason);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Voice {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.complain(&format!("offsets for lag tools were not committed: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::types::RDKafkaRespErr;

    #[test]
    fn what_happened_to_a_broker_is_told_rather_than_that_all_are_down() {
        let voice = Voice::default();
        let (down, tls) = (RDKafkaRespErr::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, RDKafkaRespErr::RD_KAFKA_RESP_ERR__SSL);
        voice.trouble(down as i32, "1/1 brokers are down");
        assert_eq!((voice.last_trouble().as_deref(), voice.has_failed_by_tls()), (Some("1/1 brokers are down"), false));
        voice.trouble(tls as i32, "certificate verify failed");
        voice.trouble(down as i32, "1/1 brokers are down");
        assert_eq!(
            (voice.last_trouble().as_deref(), voice.has_failed_by_tls()),
            (Some("certificate verify failed"), true)
        );
        voice.trouble(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT as i32, "connection refused");
        assert_eq!((voice.last_trouble().as_deref(), voice.has_failed_by_tls()), (Some("connection refused"), false));
    }
}
