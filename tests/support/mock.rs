//! A Kafka in the test's process (librdkafka's mock cluster), and visits to fill it with.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::json;

use crate::support::generate::{START_MS, TestRecord};

/// Forty visits a second apart, dealt out to the partitions.
pub(crate) fn visits(partitions: u32, user: impl Fn(u64) -> u64) -> Vec<TestRecord> {
    visits_from(0, partitions, user)
}

/// The forty from visit `first` on; offsets are those of a log that begins with visit 0.
pub(crate) fn visits_from(first: u64, partitions: u32, user: impl Fn(u64) -> u64) -> Vec<TestRecord> {
    let visit = |i: u64| {
        let time = START_MS + i.cast_signed() * 1000;
        let at = jiff::Timestamp::from_millisecond(time).expect("a time of this century");
        let at = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let value = json!({"user_id": user(i), "page": format!("{i}.html"), "event_time": at});
        let partition = u32::try_from(i % u64::from(partitions)).expect("few");
        let value = Some(value.to_string().into_bytes());
        TestRecord { partition, offset: i / u64::from(partitions), timestamp: time, key: None, value }
    };
    (first..first + 40).map(visit).collect()
}

/// Puts records into a topic, with their partitions and timestamps.
pub(crate) fn produce(brokers: &str, topic: &str, records: &[TestRecord]) {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration");
    for record in records {
        let partition = i32::try_from(record.partition).expect("few");
        let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(record.timestamp);
        (message.key, message.payload) = (record.key.as_deref(), record.value.as_deref());
        producer.send(message).map_err(|(error, _)| error).expect("there is room");
    }
    producer.flush(Duration::from_secs(60)).expect("the brokers take it");
}
