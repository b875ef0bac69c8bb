//! How a topic of dead letters is kept: settings by which it refuses, cuts or deletes some of them. Asked by `keyfold check` and the doctor only:
//! a user may not be allowed to, and a setting can change.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::failure::Check;
use crate::symptom::Symptom;

/// How long the brokers may take to tell the settings.
const PATIENCE: Duration = Duration::from_secs(2);
/// Kafka's own limit of a batch of records, bytes.
const USUAL_BYTES: i64 = 1_048_588;
/// How far apart clocks may be, and how long an outage may keep a letter back, before it is refused, ms: an hour, as Kafka's own limit of times ahead.
const LEAST_MS: i64 = 3_600_000;

/// Returns a check of the topic's settings if some of them are a risk to dead letters; none also if the brokers do not tell.
pub(super) fn examine(client: &ClientConfig, topic: &str) -> Option<Check> {
    let admin: AdminClient<DefaultClientContext> = client.create().ok()?;
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let described =
        futures::executor::block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options)).ok()?;
    let entries = described.into_iter().next()?.ok()?;
    let settings = entries.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
    judge(topic, &settings)
}

fn judge(topic: &str, settings: &HashMap<String, String>) -> Option<Check> {
    let text = |name: &str| settings.get(name).map_or("", String::as_str);
    let number = |name: &str| text(name).parse::<i64>().ok();
    let mut risks = Vec::new();
    if text("cleanup.policy").contains("compact") {
        risks.push(format!(
            "cleanup.policy={}: of dead letters with one key all but the last are deleted, and those without a key are given one",
            text("cleanup.policy")
        ));
    }
    if let Some(bytes) = number("max.message.bytes").filter(|bytes| *bytes < USUAL_BYTES) {
        risks.push(format!("max.message.bytes={bytes}: larger dead letters are cut, and cannot be redriven"));
    }
    let limits =
        ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.difference.max.ms"];
    for name in limits.into_iter().filter(|_| text("message.timestamp.type") != "LogAppendTime") {
        if let Some(ms) = number(name).filter(|ms| *ms < LEAST_MS) {
            risks.push(format!(
                "{name}={ms}: dead letters are refused, and the lane halts, if the clocks of this machine and the brokers differ by more"
            ));
        }
    }
    if risks.is_empty() {
        return None;
    }
    Some(Check::warning(format!("settings of topic {topic}"), risks.join("; ")).of(Symptom::DeadLettersAtRisk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn risks(settings: &[(&str, &str)]) -> String {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        judge("letters", &settings).map(|check| check.detail).unwrap_or_default()
    }

    #[test]
    fn settings_that_refuse_cut_or_delete_letters_are_named() {
        let defaults = [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "CreateTime"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("message.timestamp.after.max.ms", "3600000"),
        ];
        assert_eq!(risks(&defaults), "");
        assert_eq!(risks(&[]), "");
        assert!(risks(&[("cleanup.policy", "compact,delete")]).starts_with("cleanup.policy=compact,delete: "));
        assert!(risks(&[("max.message.bytes", "10000")]).starts_with("max.message.bytes=10000: "));
        let near = ("message.timestamp.before.max.ms", "60000");
        assert!(risks(&[near]).starts_with("message.timestamp.before.max.ms=60000: "));
        assert_eq!(risks(&[near, ("message.timestamp.type", "LogAppendTime")]), "");
    }
}
